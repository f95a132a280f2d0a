"""The loader: the same batches whatever the number of workers, each image once, exact continuation."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import chain

import cv2
import numpy as np
import pytest
import torch

from vision_mtl.data.augment import Augmentation
from vision_mtl.data.config import ResizeConfig, default_augment
from vision_mtl.data.dataset import Dataset, padded
from vision_mtl.data.images import BadImageError
from vision_mtl.data.loader import EvaluationBatches, Loader, TrainingBatches, default_workers
from vision_mtl.data.window import target_size
from vision_mtl.errors import DataError

from .helpers import index_of, source_of

RESIZE = ResizeConfig(shorter=64, longer=96)
SIZES = [(80, 120) if i % 3 else (120, 80) for i in range(14)]
BOXES = {i: [(1, [10, 10, 40, 50])] for i in range(0, 14, 2)}


@pytest.fixture
def index(tmp_path):
    return index_of(tmp_path, SIZES, BOXES)


def training(index, workers=0, size=4, bad=(), skip=False):
    dataset = Dataset(
        [source_of(index, bad=set(bad))], RESIZE, Augmentation(default_augment(), RESIZE), seed=5
    )
    batches = TrainingBatches(dataset.sizes(), size, seed=5)
    return Loader(dataset, batches, workers, prefetch=2, skip_bad=skip), batches


def evaluation(index, workers=0, size=4, bad=(), skip=False):
    dataset = Dataset([source_of(index, bad=set(bad))], RESIZE)
    batches = EvaluationBatches(dataset.sizes(), RESIZE, size)
    return Loader(dataset, batches, workers, prefetch=2, skip_bad=skip)


def ids(batches):
    return [[meta.image_id for meta in batch.metas] for batch in batches]


def assert_same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.metas == other.metas
        for name in ("images", "sizes", "boxes", "classes", "ignore", "has_boxes"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_batches_do_not_depend_on_the_workers(index):
    runs = []
    for workers in (0, 1, 2):
        loader, order = training(index, workers)
        epochs = []
        for epoch in range(2):
            order.epoch = epoch
            epochs += list(loader)
        runs.append(epochs)
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


def test_order_is_a_function_of_seed_and_epoch():
    sizes = np.array(SIZES)
    order = TrainingBatches(sizes, 4, seed=1)
    first = list(order)
    assert first == list(order) == list(TrainingBatches(sizes, 4, seed=1))
    order.epoch = 1
    second = list(order)
    assert [[i for i, _, _ in batch] for batch in first] != [[i for i, _, _ in batch] for batch in second]
    assert {epoch for batch in second for _, epoch, _ in batch} == {1}
    assert first != list(TrainingBatches(sizes, 4, seed=2))


def test_an_image_is_augmented_differently_in_every_epoch(index):
    loader, order = training(index)
    pictures = []
    for epoch in range(3):
        order.epoch = epoch
        pictures.append(
            {meta.image_id: batch.images[k] for batch in loader for k, meta in enumerate(batch.metas)}
        )
    common = set.intersection(*(set(p) for p in pictures))
    assert common
    for i in common:
        one, two, three = (p[i] for p in pictures)
        assert not (one.shape == two.shape == three.shape and one.equal(two) and two.equal(three))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 13, 64])
@pytest.mark.parametrize("size", [1, 4, 8])
def test_training_batches(count, size):
    rng = np.random.default_rng(count)
    sizes = rng.integers(50, 100, (count, 2))
    order = TrainingBatches(sizes, size, seed=0)
    batches = list(order)
    assert len(batches) == len(order)
    assert Counter(map(len, batches)) == ({size: count // size} if count >= size else {count: 1})
    images = [i for batch in batches for i, _, _ in batch]
    assert len(images) == len(set(images))
    positions = [position for batch in batches for _, _, position in batch]
    assert len(positions) == len(set(positions))
    portrait = sizes[:, 0] > sizes[:, 1]
    mixed = [batch for batch in batches if len({bool(portrait[i]) for i, _, _ in batch}) > 1]
    assert len(mixed) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_start_continues_within_an_epoch(index, workers):
    loader, order = training(index, workers, size=2)
    order.epoch = 3
    whole = list(loader)
    order.start = 3
    assert_same(list(loader), whole[3:])
    order.start = 0
    assert_same(list(loader), whole)


def test_evaluation_reads_every_image_once(index):
    loader = evaluation(index, workers=1)
    seen = ids(loader)
    assert len(seen) == len(loader)
    assert sorted(chain.from_iterable(seen)) == list(range(14))
    for batch in seen:
        shapes = {tuple(padded(s) for s in target_size(*SIZES[i], RESIZE)) for i in batch}
        assert len(shapes) == 1
    assert ids(loader) == seen
    assert ids(evaluation(index, workers=0)) == seen


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_stops_with_its_own_error(index, workers):
    with pytest.raises(BadImageError, match=r"3\.png"):
        list(evaluation(index, workers, bad={3}))


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_skipped_and_counted(index, workers):
    loader = evaluation(index, workers, bad={3, 4}, skip=True)
    assert sorted(chain.from_iterable(ids(loader))) == [i for i in range(14) if i not in (3, 4)]
    assert loader.skipped == {"3.png": "is damaged", "4.png": "is damaged"}
    list(loader)
    assert len(loader.skipped) == 2


def test_a_batch_of_damaged_images_alone_is_skipped(index):
    loader = evaluation(index, size=1, bad={0}, skip=True)
    assert len(ids(loader)) == 13


def test_nothing_but_damaged_images(index):
    with pytest.raises(DataError, match="no image"):
        list(evaluation(index, bad=range(14), skip=True))


def test_fewer_images_than_a_batch(index):
    loader, _ = training(index, size=100)
    assert [len(batch) for batch in ids(loader)] == [14]


class Probe(torch.utils.data.Dataset):
    """Tells of the process that reads it, in place of a sample."""

    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(f"{cv2.getNumThreads()} {torch.get_num_threads()} threads, and alive")


def test_workers_have_one_thread_and_leave_signals_to_the_main_process():
    loader = Loader(Probe(), EvaluationBatches(np.array([[64, 64]]), RESIZE, 1), workers=1)
    with pytest.raises(RuntimeError, match="1 1 threads, and alive"):
        list(loader)


class Dying(torch.utils.data.Dataset):
    """Ends the process that reads it, as the system does when memory runs out."""

    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_one_error_with_a_cure():
    loader = Loader(Dying(), EvaluationBatches(np.array([[64, 64]]), RESIZE, 1), workers=1)
    with pytest.raises(DataError, match=r"loader process died.*data\.workers=0"):
        list(loader)


def test_workers_end_when_the_main_process_says_so(index):
    loader, _ = training(index, workers=1)
    batches = iter(loader)
    next(batches)
    (worker,) = loader.loader._iterator._workers
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_default_workers():
    assert 1 <= default_workers() <= 8
