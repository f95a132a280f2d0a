"""What travels between loader processes and the main one: handles and small arrays, never the images."""

from __future__ import annotations

import pickle
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.dataset import Dataset, collate
from vision_mtl.data.labels import HeadLabels
from vision_mtl.data.loader import EvaluationBatches, Loader, pack
from vision_mtl.errors import DataError
from vision_mtl.structures import Batch

from .helpers import index_of, source_of

RESIZE = ResizeConfig(shorter=256, longer=320)
SIZES = [(240, 320), (320, 240), (200, 200), (250, 330)]
BOXES = {0: [(1, [10, 10, 40, 50])] * 20, 3: [(2, [5, 5, 80, 60])]}
LABELS = {
    "kind": HeadLabels(("a", "b"), np.array([0, 1, -1, 1]), None),
    "parts": HeadLabels(("a", "b"), np.array([[0, 1], [1, np.nan], [0, 0], [1, 1]], np.float32), None),
}


@pytest.fixture
def samples(tmp_path):
    dataset = Dataset([source_of(index_of(tmp_path, SIZES, BOXES), LABELS, bad={1})], RESIZE)
    return [dataset[i, 0, i] for i in range(4)]


@pytest.fixture
def in_worker(monkeypatch):
    monkeypatch.setattr(torch.utils.data, "get_worker_info", object)


def assert_same(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        expected, found = getattr(one, field.name), getattr(other, field.name)
        if isinstance(expected, dict):
            assert expected.keys() == found.keys()
        if isinstance(expected, torch.Tensor):
            expected, found = {"": expected}, {"": found}
        if isinstance(expected, dict):
            for name, tensor in expected.items():
                assert tensor.dtype == found[name].dtype
                np.testing.assert_array_equal(tensor.numpy(), found[name].numpy())
        else:
            assert expected == found


def test_the_main_process_collates_in_its_own_memory(samples):
    batch, _ = collate(samples)
    assert not batch.images.is_shared()


def test_a_loader_process_collates_in_shared_memory(samples, in_worker):
    batch, _ = collate(samples)
    assert batch.images.is_shared()
    assert batch.images.untyped_storage().nbytes() == batch.images.numel()


def test_a_parcel_arrives_as_the_pair_with_the_images_where_they_were(samples, in_worker):
    expected, bad = collate(samples)
    sent = pack(samples)
    arrived, errors = pickle.loads(bytes(ForkingPickler.dumps(sent)))
    assert_same(expected, arrived)
    assert arrived.images.stride() == expected.images.stride()
    assert [(error.path, error.reason) for error in errors] == [(e.path, e.reason) for e in bad]
    assert len(errors) == 1
    sent.batch.images[0, 0, 0, 0] = 201
    assert arrived.images[0, 0, 0, 0] == 201  # the same memory, not a copy
    for tensor in (arrived.boxes, arrived.classes, arrived.ignore, arrived.sizes, arrived.labels["kind"]):
        assert not tensor.is_shared()
        tensor[0] = 0  # of its own, and may be written


def test_a_batch_of_damaged_images_arrives(samples):
    arrived, errors = pickle.loads(bytes(ForkingPickler.dumps(pack(samples[1:2]))))
    assert arrived is None
    assert len(errors) == 1


def test_the_pipe_carries_little(samples, in_worker):
    parcel = pack(samples)
    sent = len(ForkingPickler.dumps(parcel))
    slots = parcel.batch.classes.numel()
    assert parcel.batch.images.numel() > 500_000
    assert sent < 3000 + 25 * slots + 300 * len(samples)


def test_padding_is_black_whatever_the_memory_held(samples, monkeypatch):
    def full(shape, dtype):
        return torch.full(shape, 77, dtype=dtype)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", full)
        batch, _ = collate(samples)
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        assert image[:, :height, :width].any()


class Cramped(Dataset):
    """As where shared memory is full."""

    def __getitem__(self, key):
        def refuse(size):
            raise RuntimeError(f"unable to allocate shared memory(shm) for file </torch_1>: {size}")

        torch.UntypedStorage._new_shared = refuse
        return super().__getitem__(key)


def test_full_shared_memory_is_one_error_with_a_cure(tmp_path):
    dataset = Cramped([source_of(index_of(tmp_path, SIZES, BOXES))], RESIZE)
    loader = Loader(dataset, EvaluationBatches(dataset.sizes(), RESIZE, 2), workers=1)
    with pytest.raises(DataError, match=r"unable to allocate shared memory\(shm\).*--shm-size"):
        list(loader)
