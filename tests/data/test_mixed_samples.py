"""Mosaic and mixup in the data set: boxes are where their pixels are, labels stay true or become unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vision_mtl.data.augment import Augmentation
from vision_mtl.data.config import DataConfig, MixConfig, ResizeConfig, SourceConfig, default_augment
from vision_mtl.data.dataset import Dataset, training_dataset
from vision_mtl.data.images import BadImageError
from vision_mtl.data.labels import HeadLabels, LabelSource, read_labels
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.data.mixing import FILL, Mixing
from vision_mtl.data.window import target_size

from .helpers import index_of, source_of
from .pictures import COLOURS, PaintedImages, area, inside

RESIZE = ResizeConfig(shorter=64, longer=96)
SIZES = [(120, 160), (200, 100), (64, 64), (90, 180), (1, 40), (100, 140)]  # height, width
BOXES = {
    0: [(1, [10, 10, 60, 60]), (2, [90, 10, 40, 100])],
    1: [(1, [20, 20, 50, 150])],
    3: [(2, [100, 10, 60, 60])],
    4: [(1, [4, 0, 20, 1])],
    5: [(1, [60, 40, 60, 50])],
}
BOX_LABELS = {
    "presence": LabelSource(kind="several", source="boxes"),
    "dominant": LabelSource(kind="single", source="dominant"),
    "count": LabelSource(kind="scalar", source="count"),
}
WHOLE_LABELS = {
    "kind": HeadLabels(("a", "b"), np.array([0, 1, 0, 1, 0, 1]), None),
    "tags": HeadLabels(("a", "b"), np.ones((6, 2), np.float32), None),
    "weight": HeadLabels((), np.arange(6, dtype=np.float32), None),
}
GEOMETRIC = [{"name": "ScaleJitter"}, {"name": "HorizontalFlip"}]
BOTH = MixConfig(mosaic=0.6, mixup=0.5)


@pytest.fixture
def index(tmp_path):
    return index_of(tmp_path, SIZES, BOXES)


@pytest.fixture
def labels(index, tmp_path):
    made = {name: read_labels(name, source, index, tmp_path, None) for name, source in BOX_LABELS.items()}
    return {**made, **WHOLE_LABELS}


def painted(index, labels=None, bad=(), has_boxes=True, colours=COLOURS):
    images = PaintedImages(index, colours, frozenset(bad))
    source = source_of(index, labels, has_boxes=has_boxes)
    return replace(source, images=images)


def dataset(source, mix, entries=GEOMETRIC, stop=100, least=0.2):
    augmentation = Augmentation(entries, RESIZE, min_visibility=least)
    return Dataset([source], RESIZE, augmentation, seed=3, mixing=Mixing(mix, stop, least))


def test_boxes_of_a_mosaic_have_the_colour_of_their_class(index):
    samples = dataset(painted(index), MixConfig(mosaic=1.0))
    checked = 0
    for i in range(6):
        for epoch in range(8):
            sample = samples[i, epoch, i]
            assert sample.image.shape[:2] == target_size(*SIZES[i], RESIZE)
            assert sample.meta.image_id == i
            height, width = sample.image.shape[:2]
            assert (sample.objects.boxes >= 0).all()
            assert (sample.objects.boxes <= [width, height] * 2).all()
            assert (sample.objects.boxes[:, 2:] - sample.objects.boxes[:, :2] >= 1).all()
            for box, number in zip(sample.objects.boxes, sample.objects.classes, strict=True):
                pixels = inside(sample.image, box, margin=2).astype(int)
                assert np.abs(pixels - COLOURS[number]).max(initial=0) <= 2, (i, epoch)
                checked += len(pixels) > 0
    assert checked > 60


def test_all_coloured_pixels_of_a_mosaic_are_boxed(index):
    samples = dataset(painted(index), MixConfig(mosaic=1.0), least=0.0)
    for epoch in range(20):
        sample = samples[0, epoch, 0]
        for number in (0, 1):
            seen = (np.abs(sample.image.astype(int) - COLOURS[number]).max(axis=2) < 100).sum()
            boxed = area(sample.objects.boxes)[sample.objects.classes == number]
            perimeter = sum((box[2:] - box[:2]).sum() * 2 for box in sample.objects.boxes)
            assert abs(seen - boxed.sum()) <= perimeter


def same(one, other) -> bool:
    return one.image.shape == other.image.shape and (one.image == other.image).all()


def test_a_sample_is_a_function_of_its_key_alone(index, labels):
    one, two = (dataset(painted(index, labels), BOTH, default_augment()) for _ in range(2))
    keys = [(i, epoch, i) for i in range(6) for epoch in range(3)]
    first = [one[key] for key in keys]
    for key, sample in reversed(list(zip(keys, first, strict=True))):
        again = two[key]
        assert same(again, sample)
        assert (again.objects.boxes == sample.objects.boxes).all()
    mosaics = dataset(painted(index), MixConfig(mosaic=1.0))
    assert not same(mosaics[0, 0, 0], mosaics[0, 1, 0])
    assert not same(mosaics[0, 0, 0], mosaics[0, 0, 1])


def test_batches_do_not_depend_on_the_workers(index, labels):
    runs = []
    for workers in (0, 2):
        samples = dataset(painted(index, labels), BOTH, default_augment())
        order = TrainingBatches(samples.sizes(), 2, seed=3)
        loader = Loader(samples, order, workers)
        runs.append([])
        for order.epoch in range(3):
            runs[-1] += list(loader)
    assert len(runs[0]) == len(runs[1]) == 9
    for one, other in zip(*runs, strict=True):
        assert one.metas == other.metas
        for name in ("images", "boxes", "classes", "ignore"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for name in labels:
            assert torch.equal(one.labels[name].nan_to_num(-7), other.labels[name].nan_to_num(-7)), name


@pytest.mark.parametrize("mix", [MixConfig(mosaic=1.0), MixConfig(mixup=1.0)], ids=["mosaic", "mixup"])
def test_labels_of_a_mixed_sample(index, labels, mix):
    samples = dataset(painted(index, labels), mix)
    counts = set()
    for i in range(6):
        for epoch in range(5):
            sample = samples[i, epoch, i]
            assert sample.labels["kind"] == -1
            assert np.isnan(sample.labels["tags"]).tolist() == [True, True]
            assert np.isnan(sample.labels["weight"])
            for name, head in labels.items():
                assert np.asarray(sample.labels[name]).dtype == head.targets.dtype, name
                assert np.shape(sample.labels[name]) == head.targets.shape[1:], name
            classes = sample.objects.classes
            sums = [area(sample.objects.boxes)[classes == c].sum() for c in (0, 1)]
            assert sample.labels["presence"].tolist() == [float(c in classes) for c in (0, 1)]
            assert sample.labels["count"] == len(classes)
            assert sample.labels["dominant"] == (int(np.argmax(sums)) if len(classes) else -1)
            counts.add(len(classes))
    assert len(counts) > 2


def test_labels_of_whole_images_are_kept_exactly_where_nothing_is_mixed(index, labels):
    samples = dataset(painted(index, labels), BOTH)
    plain = Dataset(samples.sources, RESIZE, samples.augmentation, samples.seed)
    kept = 0
    for i in range(6):
        for epoch in range(10):
            sample, alone = samples[i, epoch, i], plain[i, epoch, i]
            if sample.labels["kind"] == -1:
                continue
            kept += 1
            assert same(sample, alone)
            for name in labels:
                np.testing.assert_array_equal(sample.labels[name], alone.labels[name])
    assert 4 < kept < 25  # a fifth of 60 on average


def test_samples_of_the_last_epochs_are_not_mixed(index, labels):
    samples = dataset(painted(index, labels), MixConfig(mosaic=1.0, mixup=1.0), stop=2)
    plain = Dataset(samples.sources, RESIZE, samples.augmentation, samples.seed)
    for epoch in range(4):
        for i in (0, 1, 3):
            assert same(samples[i, epoch, i], plain[i, epoch, i]) == (epoch >= 2)
            assert (samples[i, epoch, i].labels["kind"] == -1) == (epoch < 2)


def test_partners_are_of_the_same_source(index):
    others = painted(index, has_boxes=False, colours=COLOURS[[2, 3]])
    samples = dataset(painted(index), MixConfig(mosaic=1.0))
    samples = Dataset([others, *samples.sources], RESIZE, samples.augmentation, 0, samples.mixing)
    blue = []
    for i in range(12):
        images = [samples[i, epoch, i].image.astype(int) for epoch in range(4)]
        blue.append(any((image[..., 2] - image[..., 0] > 150).any() for image in images))
        assert samples[i, 0, i].has_boxes == (i >= 6)
    assert all(blue[:6])
    assert not any(blue[6:])


def test_only_the_positions_of_a_source_are_partners(index):
    source = replace(painted(index), positions=np.array([2]))  # without objects
    sample = dataset(source, MixConfig(mosaic=1.0))[0, 0, 0]
    assert len(sample.objects.boxes) == 0
    assert ((sample.image == FILL).all(axis=2) | (sample.image == 0).all(axis=2)).all()


def test_every_tile_is_augmented_by_itself(tmp_path):
    whole = index_of(tmp_path, [(64, 96)], {0: [(1, [0, 0, 96, 64])]})
    darken = [{"name": "ColorJitter", "p": 1.0, "brightness": [0.2, 1.0]}]
    sample = dataset(painted(whole), MixConfig(mosaic=1.0), darken)[0, 0, 0]
    assert len(np.unique(sample.image[..., 0])) == 4


def test_a_damaged_partner_is_the_error_of_the_sample(index):
    samples = dataset(painted(index, bad={1}), MixConfig(mosaic=1.0))
    results = [samples[0, epoch, 0] for epoch in range(20)]
    errors = [result for result in results if isinstance(result, BadImageError)]
    assert 0 < len(errors) < 20
    assert {error.path for error in errors} == {"1.png"}


def test_training_dataset_counts_the_last_epochs_back(index, labels, caplog):
    data = DataConfig(train=[SourceConfig(images="", annotations="")], mix=MixConfig(mixup=0.5))
    made = training_dataset(data, [source_of(index, labels)], seed=4, epochs=12)
    assert made.mixing == Mixing(data.mix, 10, data.min_visibility)
    assert made.seed == 4
    assert not caplog.records
    training_dataset(data, [source_of(index)], seed=4, epochs=2)
    assert "last_epochs_without: found 2 of 2 epochs" in caplog.text
    assert training_dataset(DataConfig(), [source_of(index)], seed=4, epochs=2).mixing is None
