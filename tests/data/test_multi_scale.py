"""Multi-scale training: one scale per batch, all of them in use, whatever the number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from vision_mtl.data.augment import Augmentation
from vision_mtl.data.config import DataConfig, MixConfig, ResizeConfig, default_augment
from vision_mtl.data.dataset import training_dataset
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.data.multi_scale import MultiScale
from vision_mtl.data.window import target_size

from .helpers import index_of, source_of

SIDES = [64, 96, 128]
BASE = ResizeConfig(shorter=80, longer=160)
SIZES = [(80, 120) if i % 3 else (120, 80) for i in range(14)]
BOXES = {i: [(1, [10, 10, 40, 50])] for i in range(14)}


@pytest.fixture
def sources(tmp_path):
    return [source_of(index_of(tmp_path, SIZES, BOXES))]


def loader(sources, entries, workers=0, mix=None, size=3):
    data = DataConfig(
        resize=BASE, multi_scale=SIDES, augment=entries, mix=mix or MixConfig(), batch_size=size
    )
    dataset = training_dataset(data, sources, seed=5, epochs=100)
    batches = TrainingBatches(dataset.sizes(), size, seed=5)
    return Loader(dataset, batches, workers), batches


@pytest.mark.parametrize("mix", [MixConfig(), MixConfig(mosaic=1.0)], ids=["plain", "mosaic"])
def test_every_batch_has_one_scale_and_every_scale_occurs(sources, mix):
    run, order = loader(sources, [], mix=mix)
    seen: Counter[int] = Counter()
    for order.epoch in range(12):
        for batch in run:
            (side,) = {int(height_width.min()) for height_width in batch.sizes}
            seen[side] += 1
            limit = ResizeConfig(shorter=side, longer=160)
            for size, meta in zip(batch.sizes.tolist(), batch.metas, strict=True):
                assert tuple(size) == target_size(*meta.size, limit)
    # 128 x 192 would exceed `longer`, so the third scale is 107 x 160.
    assert set(seen) == {64, 96, 107}
    assert min(seen.values()) >= 8  # of 48, 16 each on average


def test_boxes_are_scaled_with_the_image(sources):
    run, _ = loader(sources, [])
    for batch in run:
        for k, meta in enumerate(batch.metas):
            back = batch.boxes[k, 0].numpy() * np.array(meta.scale * 2)
            np.testing.assert_allclose(back, [10, 10, 50, 60], atol=1e-3)


def test_scale_jitter_works_in_the_window_of_the_batch(sources):
    run, order = loader(sources, [{"name": "ScaleJitter", "scale": [1.0, 2.0], "aspect": [1.0, 1.0]}])
    shorter: Counter[int] = Counter()
    for order.epoch in range(6):
        for batch in run:
            (side,) = {int(size.min()) for size in batch.sizes}  # enlarged: cropped to the window
            shorter[side] += 1
    assert set(shorter) == {64, 96, 107}


def test_batches_do_not_depend_on_the_workers(sources):
    runs = []
    for workers in (0, 2):
        run, order = loader(sources, default_augment(), workers, MixConfig(mosaic=0.5, mixup=0.5))
        order.epoch = 1
        runs.append(list(run))
        order.start = 2
        runs.append(list(run))
    whole, rest, again, again_rest = runs
    assert len(whole) == 4
    for ones, others in ((whole, again), (whole[2:], rest), (rest, again_rest)):
        assert len(ones) == len(others)
        for one, other in zip(ones, others, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.boxes, other.boxes)


def test_the_draw_is_a_function_of_seed_epoch_and_batch():
    augmentations = [Augmentation([], ResizeConfig(shorter=side, longer=160)) for side in SIDES]
    scales = MultiScale(augmentations, batch_size=4)

    def sides(seed: int, epoch: int) -> list[int]:
        return [scales.of_batch(seed, epoch, p).resize.shorter for p in range(80)]

    first = sides(0, 0)
    assert first == sides(0, 0)
    assert all(len(set(first[b : b + 4])) == 1 for b in range(0, 80, 4))
    assert first != sides(0, 1)
    assert first != sides(1, 0)
    long_run = Counter(scales.of_batch(0, epoch, 0).resize.shorter for epoch in range(1500))
    assert all(abs(long_run[side] - 500) < 80 for side in SIDES)
