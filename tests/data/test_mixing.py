"""Mosaic and mixup: boxes are where their pixels are, and labels stay true or become unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from vision_mtl.data.annotations import Objects
from vision_mtl.data.augment import Augmentation, target_size
from vision_mtl.data.config import DataConfig, MixConfig, ResizeConfig, SourceConfig, default_augment
from vision_mtl.data.dataset import Dataset, Source, training_dataset
from vision_mtl.data.images import BadImageError
from vision_mtl.data.labels import HeadLabels, LabelSource, read_labels
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.data.mixing import FILL, Mixing, mixup, mosaic, random_crop

from .helpers import index_of, objects, source_of

RESIZE = ResizeConfig(shorter=64, longer=96)
COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], np.uint8)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tile(number: int, height: int, width: int) -> tuple[np.ndarray, Objects]:
    """Return an image all of one colour, and one box of that class around all of it."""
    image = np.broadcast_to(COLOURS[number], (height, width, 3)).copy()
    return image, objects([0, 0, width, height], classes=[number])


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def inside(image: np.ndarray, box: np.ndarray, margin: int = 0) -> np.ndarray:
    """Return the (n, 3) pixels within a box, less a margin."""
    x1, y1, x2, y2 = box.round().astype(int) + margin * np.array([1, 1, -1, -1])
    return image[y1:y2, x1:x2].reshape(-1, 3)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (33, 200)])
def test_a_mosaic_of_large_tiles_is_all_tiles(size):
    centres = set()
    for seed in range(30):
        tiles = [tile(k, 200, 210) for k in range(4)]
        image, found = mosaic(tiles, size, 0.0, generator(seed))
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        assert found.classes.tolist() == [0, 1, 2, 3]
        assert area(found.boxes).sum() == size[0] * size[1]
        for k, box in enumerate(found.boxes):
            pixels = inside(image, box)
            assert len(pixels) == area(found.boxes)[k]
            assert (pixels == COLOURS[k]).all()
        x, y = found.boxes[0, 2:]
        assert found.boxes[3, :2].tolist() == [x, y]
        assert 0.19 * size[1] - 1 <= x <= 0.81 * size[1] + 1
        assert 0.19 * size[0] - 1 <= y <= 0.81 * size[0] + 1
        centres.add((x, y))
    assert len(centres) > 20


def test_small_tiles_touch_the_centre():
    image, found = mosaic([tile(k, 4 + k, 5 + k) for k in range(4)], (80, 100), 0.0, generator())
    x, y = found.boxes[0, 2:].tolist()
    assert found.boxes.tolist() == [
        [x - 5, y - 4, x, y],
        [x, y - 5, x + 6, y],
        [x - 7, y, x, y + 6],
        [x, y, x + 8, y + 7],
    ]
    for k, box in enumerate(found.boxes):
        assert (inside(image, box) == COLOURS[k]).all()
    assert (image == FILL).all(axis=2).sum() == 80 * 100 - 4 * 5 - 5 * 6 - 6 * 7 - 7 * 8


@pytest.mark.parametrize("least", [0.0, 0.31, 0.9])
def test_a_crop_keeps_what_is_visible(least):
    image = np.zeros((100, 120, 3), np.uint8)
    given = objects([0, 0, 20, 20], [50, 40, 90, 80], [100, 90, 120, 100], classes=[5, 6, 7])
    for value, (x1, y1, x2, y2) in enumerate(given.boxes.astype(int)):
        image[y1:y2, x1:x2] = value + 1
    shares = []
    for seed in range(40):
        cut, found = random_crop((image, given), (50, 200), least, generator(seed))
        assert cut.shape == (50, 120, 3)
        seen = [(cut[..., 0] == value + 1).sum() for value in range(3)]
        share = seen / area(given.boxes)
        shares += share.tolist()
        expected = [k for k in range(3) if seen[k] and share[k] >= least]
        assert found.classes.tolist() == [5 + k for k in expected]
        assert area(found.boxes).tolist() == [seen[k] for k in expected]
        for k, box in zip(expected, found.boxes, strict=True):
            assert (inside(cut, box) == k + 1).all()
    assert {0.0, 1.0} < set(shares)


def test_what_is_left_thinner_than_a_pixel_is_dropped():
    picture = np.zeros((10, 10, 3), np.uint8), objects([0, 0, 10, 0.9], [0, 0, 10, 1], classes=[1, 2])
    assert random_crop(picture, (10, 10), 0.0, generator())[1].classes.tolist() == [2]


def test_crowds_and_pictures_without_objects():
    tiles = [(np.zeros((80, 80, 3), np.uint8), objects()) for _ in range(4)]
    image, found = mosaic(tiles, (60, 60), 0.2, generator())
    assert not image.any()
    assert found.boxes.shape == (0, 4)
    tiles[2] = (tiles[2][0], objects([0, 0, 80, 80], [0, 0, 80, 80], classes=[3, 4], crowd=[True, False]))
    for seed in range(5):
        found = mosaic(tiles, (60, 60), 0.0, generator(seed))[1]
        assert found.classes.tolist() == [3, 4]
        assert found.crowd.tolist() == [True, False]
        dtypes = (found.boxes.dtype, found.classes.dtype, found.crowd.dtype)
        assert dtypes == (np.float32, np.int64, bool)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 96)])
def test_thin_pictures(size):
    for seed in range(20):
        tiles = [tile(0, *size), tile(1, 40, 1), tile(2, 1, 40), tile(3, 64, 64)]
        image, found = mosaic(tiles, size, 0.0, generator(seed))
        for box, number in zip(found.boxes, found.classes, strict=True):
            assert (inside(image, box) == COLOURS[number]).all()
        covered = area(found.boxes).sum() + (image == FILL).all(axis=2).sum()
        assert covered == size[0] * size[1]
        for other in tiles:
            blend, both = mixup((image, found), other, 0.5, 0.0, generator(seed))
            assert blend.shape == image.shape
            assert len(both.boxes) == len(found.boxes) + 1
            assert (both.boxes <= [size[1], size[0]] * 2).all()


def test_mixup_blends_pixels_and_keeps_both_boxes():
    first, second = tile(0, 50, 70), tile(2, 20, 30)
    places = set()
    for seed in range(20):
        image, found = mixup(first, second, 0.25, 0.2, generator(seed))
        assert image.dtype == np.uint8
        assert found.classes.tolist() == [0, 2]
        assert found.boxes[0].tolist() == [0, 0, 70, 50]
        assert area(found.boxes)[1] == 600
        blend = (0.25 * COLOURS[0] + 0.75 * COLOURS[2]).round()
        assert np.abs(inside(image, found.boxes[1]) - blend).max() <= 0.5
        assert (image == COLOURS[0]).all(axis=2).sum() == 50 * 70 - 600
        places.add(tuple(found.boxes[1]))
    assert len(places) > 10
    assert (first[0] == COLOURS[0]).all()  # the pictures given are left as they are
    assert (second[0] == COLOURS[2]).all()


def test_mixup_crops_a_larger_second_picture():
    image, found = mixup(tile(0, 50, 70), tile(2, 200, 300), 0.0, 0.0, generator())
    assert (image == COLOURS[2]).all()
    assert found.boxes.tolist() == [[0, 0, 70, 50]] * 2
    assert mixup(tile(0, 50, 70), tile(2, 200, 300), 0.0, 0.2, generator())[1].classes.tolist() == [0]


def drawn(config: MixConfig, epoch: int = 0, samples: int = 2000) -> list[tuple[int, bool]]:
    """Return for each sample how many partners were asked for, and whether the picture stayed as it was."""
    mixing, first, results = Mixing(config, 3, 0.0), tile(0, 20, 30), []
    for seed in range(samples):
        asked: list[int] = []

        def partner(number: int, asked: list[int] = asked) -> tuple[np.ndarray, Objects]:
            asked.append(number)
            return tile(number % 4, 20, 30)

        picture = mixing(first, partner, (20, 30), epoch, generator(seed))
        assert len(set(asked)) == len(asked)
        results.append((len(asked), picture is first))
    return results


def test_probabilities():
    assert set(drawn(MixConfig())) == {(0, True)}
    assert set(drawn(MixConfig(mosaic=1.0))) == {(3, False)}
    assert set(drawn(MixConfig(mixup=1.0))) == {(1, False)}
    results = drawn(MixConfig(mosaic=0.5, mixup=0.25))
    assert set(results) == {(0, True), (1, False), (3, False), (4, False)}
    shares = {partners: sum(r[0] == partners for r in results) / 2000 for partners in (0, 1, 3, 4)}
    for partners, expected in {0: 0.375, 1: 0.125, 3: 0.375, 4: 0.125}.items():
        assert abs(shares[partners] - expected) < 0.04


def test_the_last_epochs_are_without():
    both = MixConfig(mosaic=1.0, mixup=1.0)
    assert [drawn(both, epoch, 1) for epoch in range(5)] == [[(4, False)]] * 3 + [[(0, True)]] * 2


# In the data set


@dataclass(frozen=True)
class PaintedImages:
    """Black images whose boxes have the colour of their class; `bad` positions cannot be read."""

    index: object
    colours: np.ndarray
    bad: frozenset[int] = frozenset()

    def path(self, position: int) -> str:
        return f"{position}.png"

    def read(self, position: int) -> np.ndarray:
        if position in self.bad:
            raise BadImageError(self.path(position), "is damaged")
        image = np.zeros((*self.index.sizes[position], 3), np.uint8)
        found = self.index.objects(position)
        for (x1, y1, x2, y2), number in zip(found.boxes.astype(int), found.classes, strict=True):
            image[y1:y2, x1:x2] = self.colours[number]
        return image


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
    return Source(index, images, labels or {}, has_boxes, np.arange(len(index)))


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
    source = Source(index, PaintedImages(index, COLOURS), {}, True, np.array([2]))  # without objects
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
