"""Samples and batches: shapes, padding, labels after augmentation, images that cannot be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vision_mtl.data.annotations import Category
from vision_mtl.data.augment import Augmentation
from vision_mtl.data.categories import map_classes
from vision_mtl.data.config import ResizeConfig, default_augment
from vision_mtl.data.dataset import Dataset, Source, collate, describes_whole_image, padded
from vision_mtl.data.images import BadImageError, Decoded
from vision_mtl.data.labels import HeadLabels, LabelledFile, LabelSource, read_labels, read_shared_labels

from .helpers import index_of, source_of

RESIZE = ResizeConfig(shorter=64, longer=96)
SIZES = [(120, 160), (200, 100), (64, 64), (90, 180)]  # height, width
BOXES = {
    0: [(1, [10, 10, 100, 60]), (2, [0, 0, 30, 30]), (2, [100, 80, 60, 40])],
    1: [(1, [20, 20, 50, 150])],
    3: [(2, [100, 10, 60, 60])],
}
BOX_LABELS = {
    "presence": LabelSource(kind="several", source="boxes"),
    "dominant": LabelSource(kind="single", source="dominant"),
    "count": LabelSource(kind="scalar", source="count"),
}


@pytest.fixture
def index(tmp_path):
    return index_of(tmp_path, SIZES, BOXES)


@pytest.fixture
def labels(index, tmp_path):
    return {name: read_labels(name, source, index, tmp_path, None) for name, source in BOX_LABELS.items()}


def whole_image_label() -> HeadLabels:
    return HeadLabels(("a", "b"), np.array([0, 1, -1, 1]), None)


def test_collate_pads_images_and_objects(index, labels):
    dataset = Dataset([source_of(index, labels)], RESIZE)
    samples = [dataset[i, 0, i] for i in range(4)]
    batch, bad = collate(samples)
    assert bad == []
    assert batch.images.shape == (4, 3, 96, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[64, 85], [96, 48], [64, 64], [48, 96]]
    assert batch.sizes.dtype == torch.int64
    assert batch.boxes.shape == (4, 3, 4)
    assert batch.boxes.dtype == torch.float32
    assert batch.classes.tolist() == [[0, 1, 1], [0, -1, -1], [-1, -1, -1], [1, -1, -1]]
    assert not batch.ignore.any()
    assert batch.has_boxes.tolist() == [True] * 4
    for row, sample in enumerate(samples):
        height, width = batch.sizes[row]
        assert (batch.images[row, :, :height, :width].permute(1, 2, 0).numpy() == sample.image).all()
        assert not batch.images[row, :, height:].any()
        assert not batch.images[row, :, :, width:].any()
        assert not batch.boxes[row, len(sample.objects.boxes) :].any()
    assert batch.labels["presence"].dtype == batch.labels["count"].dtype == torch.float32
    assert batch.labels["dominant"].dtype == torch.int64


def test_collate_without_any_box(index):
    batch, _ = collate([Dataset([source_of(index)], RESIZE)[2, 0, 0]])
    assert batch.boxes.shape == (1, 0, 4)
    assert batch.classes.shape == batch.ignore.shape == (1, 0)
    assert batch.labels == {}


def test_padded():
    assert [padded(side) for side in (1, 31, 32, 33, 800, 1333)] == [32, 32, 32, 64, 800, 1344]


def test_unaugmented_labels_are_the_truth(index, labels):
    dataset = Dataset([source_of(index, labels)], RESIZE)
    batch, _ = collate([dataset[i, 0, i] for i in range(4)])
    for name, head in labels.items():
        np.testing.assert_array_equal(batch.labels[name].numpy(), head.targets)
    assert batch.labels["presence"].tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]
    assert batch.labels["dominant"].tolist() == [0, 0, -1, 1]
    assert batch.labels["count"].tolist() == [3, 1, 0, 1]


def test_labels_are_those_of_the_boxes_that_survive(index, labels):
    augmentation = Augmentation([{"name": "ScaleJitter", "scale": [2.5, 3.0]}], RESIZE)
    dataset = Dataset([source_of(index, labels)], RESIZE, augmentation)
    fewer = 0
    for epoch in range(20):
        sample = dataset[0, epoch, 0]
        classes = sample.objects.classes
        fewer += len(classes) < 3
        assert sample.labels["presence"].tolist() == [float(c in classes) for c in (0, 1)]
        assert sample.labels["count"] == len(classes)
        areas = np.prod(sample.objects.boxes[:, 2:] - sample.objects.boxes[:, :2], axis=1)
        sums = [areas[classes == c].sum() for c in (0, 1)]
        assert sample.labels["dominant"] == (int(np.argmax(sums)) if len(classes) else -1)
    assert fewer > 5


def test_labels_of_the_whole_image_stay(index, labels):
    head = whole_image_label()
    augmentation = Augmentation(default_augment(), RESIZE, keep_boxes=True)
    dataset = Dataset([source_of(index, {"kind": head})], RESIZE, augmentation)
    batch, _ = collate([dataset[i, 1, i] for i in range(4)])
    assert batch.labels["kind"].tolist() == [0, 1, -1, 1]
    assert describes_whole_image({"kind": head, **labels})
    assert not describes_whole_image(labels)


def test_source_without_boxes(index):
    dataset = Dataset([source_of(index), source_of(index, has_boxes=False)], RESIZE)
    assert len(dataset) == 8
    batch, _ = collate([dataset[i, 0, i] for i in (3, 4)])
    assert batch.has_boxes.tolist() == [True, False]
    assert dataset.sizes().tolist() == [list(size) for size in SIZES * 2]


def test_only_the_positions_of_a_source_are_used(index):
    dataset = Dataset([replace(source_of(index), positions=np.array([1, 3]))], RESIZE)
    assert [dataset[i, 0, i].meta.image_id for i in range(len(dataset))] == [1, 3]


def test_damaged_image_is_returned_not_raised(index):
    dataset = Dataset([source_of(index, bad={1, 2})], RESIZE)
    samples = [dataset[i, 0, i] for i in range(4)]
    assert [isinstance(sample, BadImageError) for sample in samples] == [False, True, True, False]
    batch, bad = collate(samples)
    assert len(batch.metas) == 2
    assert [error.path for error in bad] == ["1.png", "2.png"]
    nothing, bad = collate(samples[1:3])
    assert nothing is None
    assert len(bad) == 2


def test_size_that_differs_from_the_annotations(index, monkeypatch):
    source = source_of(index)
    other = Decoded.whole(np.zeros((160, 120, 3), np.uint8))
    monkeypatch.setattr(type(source.images), "read", lambda self, position, needs: other)
    error = Dataset([source], RESIZE)[0, 0, 0]
    assert isinstance(error, BadImageError)
    assert "120x160" in str(error)
    assert "160x120" in str(error)
    assert index.path in str(error)


def test_scale_leads_back_to_the_original(index):
    dataset = Dataset([source_of(index)], RESIZE)
    for i, size in enumerate(SIZES):
        sample = dataset[i, 0, i]
        assert sample.meta.size == size
        back = sample.objects.boxes * np.array(sample.meta.scale * 2, np.float32)
        np.testing.assert_allclose(back, index.objects(i).boxes, atol=1e-3)


def test_sample_is_a_function_of_seed_epoch_and_position(index):
    augmentation = Augmentation(default_augment(), RESIZE)
    dataset = Dataset([source_of(index)], RESIZE, augmentation, seed=1)
    other = Dataset([source_of(index)], RESIZE, augmentation, seed=2)
    first = dataset[0, 3, 7].image
    assert (dataset[0, 3, 7].image == first).all()
    for image in (dataset[0, 4, 7].image, dataset[0, 3, 8].image, other[0, 3, 7].image):
        assert image.shape != first.shape or (image != first).any()


# Sources that annotate some of the trained classes; their own are ant and bee.


def among(index, *names: str, **changes) -> Source:
    """Return a source whose categories are to be found among trained ones of these names."""
    trained = [Category(id=number, name=name) for number, name in enumerate(names)]
    return replace(source_of(index), classes=map_classes(index.categories, trained), **changes)


def batch_of(*sources: Source):
    dataset = Dataset(sources, RESIZE)
    return collate([dataset[i, 0, i] for i in range(len(dataset))])[0]


def test_classes_are_the_trained_ones(index):
    batch = batch_of(among(index, "bee", "cat", "ant"))
    assert batch.classes.tolist() == [[2, 0, 0], [2, -1, -1], [-1, -1, -1], [0, -1, -1]]
    assert batch.annotated.tolist() == [[True, False, True]] * 4
    assert batch.to("cpu").annotated.tolist() == batch.annotated.tolist()


def test_nothing_is_annotated_where_the_source_has_no_boxes(index):
    names = ("ant", "bee", "cat")
    batch = batch_of(among(index, *names), among(index, *names, has_boxes=False))
    assert batch.annotated.tolist() == [[True, True, False]] * 4 + [[False] * 3] * 4


def test_annotated_is_none_where_every_source_annotates_all(index):
    assert batch_of(source_of(index), source_of(index, has_boxes=False)).annotated is None
    assert batch_of(source_of(index)).to("cpu").annotated is None


def test_objects_of_categories_that_are_not_trained_are_left_out(index):
    source = among(index, "bee", has_boxes=False)
    sample = Dataset([source], RESIZE)[0, 0, 0]
    assert sample.objects.classes.tolist() == [-1, 0, 0]
    batch = batch_of(source)
    assert batch.classes.tolist() == [[0, 0], [-1, -1], [-1, -1], [0, -1]]
    np.testing.assert_array_equal(batch.boxes[0].numpy(), sample.objects.boxes[1:])
    assert not batch.boxes[1].any()


def test_labels_of_classes_that_are_not_annotated_stay_unknown(index, tmp_path):
    names = ("cat", "ant", "bee")
    source = among(index, *names)
    file = LabelledFile(index, source.classes)
    (presence,) = read_shared_labels("presence", BOX_LABELS["presence"], [file], tmp_path, names)
    source = replace(source, labels={"presence": presence})
    dataset = Dataset([source], RESIZE, Augmentation(default_augment(), RESIZE))
    for epoch in range(5):
        sample = dataset[0, epoch, 0]
        seen = [float(c in sample.objects.classes) for c in (1, 2)]
        np.testing.assert_array_equal(sample.labels["presence"], [np.nan, *seen])


def test_the_truth_of_a_source_without_boxes_has_no_objects(index):
    source = source_of(index)
    assert source.truth is index
    truth = replace(source, has_boxes=False).truth
    assert truth.image_ids.tolist() == index.image_ids.tolist()
    assert truth.categories == index.categories
    assert len(truth.xywh) == len(truth.classes) == truth.offsets[-1] == 0
