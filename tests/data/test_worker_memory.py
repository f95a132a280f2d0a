"""What a data set of any size costs a loader process, and its first reading: counted, not timed."""

from __future__ import annotations

import gc
import tracemalloc
import types
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.categories import map_classes
from vision_mtl.data.coco_checks import _positions
from vision_mtl.data.coco_keys import CHUNK
from vision_mtl.data.config import DataConfig
from vision_mtl.data.dataset import Dataset, Source, training_dataset
from vision_mtl.data.images import FolderImages
from vision_mtl.data.labels import LabelledFile, LabelSource, read_shared_labels
from vision_mtl.data.loader import start_worker

from .helpers import write_coco

FEW, MANY = 100, 1500
HEADS = {
    "parts": LabelSource(kind="several", source="boxes"),
    "kind": LabelSource(kind="single", source="attribute", field="kind"),
    "size": LabelSource(kind="single", source="csv", file="labels.csv", column="size"),
}


def data_set(folder: Path, count: int) -> Dataset:
    """Return the training samples of `count` images with a box, an attribute and a row of a csv file."""
    names = [f"{i:012}.jpg" for i in range(count)]
    images = [
        {"id": i, "file_name": name, "height": 480, "width": 640, "attributes": {"kind": "ab"[i % 2]}}
        for i, name in enumerate(names)
    ]
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [1, 1, 9, 9]} for i in range(count)]
    file = write_coco(folder / str(count) / "set.json", images, boxes)
    rows = [f"{name},{'sml'[i % 3]}\n" for i, name in enumerate(names)]
    (file.parent / "labels.csv").write_text("file_name,size\n" + "".join(rows))
    index = read_annotations(file, folder / "cache")
    classes = map_classes(index.categories, index.categories)
    labels = {
        name: read_shared_labels(name, source, [LabelledFile(index, classes)], file.parent, None)[0]
        for name, source in HEADS.items()
    }
    pixels = FolderImages(file.parent, index.file_name, reduced=True)
    source = Source(index, pixels, labels, True, np.arange(count), classes)
    return training_dataset(DataConfig(), [source], seed=0, epochs=5)


def python_objects(root: object) -> int:
    """Return how many objects can be reached from one, code left out."""
    code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)
    seen, waiting = {}, [root]
    while waiting:
        item = waiting.pop()
        if id(item) not in seen and not isinstance(item, code):
            seen[id(item)] = item
            waiting += gc.get_referents(item)
    return len(seen)


def test_no_python_object_per_image(tmp_path: Path) -> None:
    few, many = (python_objects(data_set(tmp_path, count)) for count in (FEW, MANY))
    assert few > 100
    assert abs(many - few) < 50
    held = [str(i) for i in range(FEW)]
    assert python_objects(held) == FEW + 1  # the count sees what it is to forbid


def test_a_spawned_worker_is_sent_two_numbers_an_image(tmp_path: Path) -> None:
    """The position and each label of the whole image, 8 bytes each; everything else is mapped or made."""
    few, many = (len(ForkingPickler.dumps(data_set(tmp_path, count))) for count in (FEW, MANY))
    assert many - few < (MANY - FEW) * 3 * 8 + 200


def test_labels_made_from_boxes_stay_those_of_the_boxes(tmp_path: Path) -> None:
    dataset = data_set(tmp_path, FEW)
    labels = dataset.sources[0].labels
    assert labels["parts"].targets.shape == (0, 2)
    assert labels["parts"].unknown_target.shape == (2,)
    assert labels["kind"].targets.shape == labels["size"].targets.shape == (FEW,)


def test_workers_leave_inherited_objects_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that visited them would write to all their pages, which then are no longer shared."""
    for name in ("os.dup2", "signal.signal", "signal.pthread_sigmask", "threading.Thread"):
        monkeypatch.setattr(name, lambda *_, **__: types.SimpleNamespace(start=lambda: None))
    try:
        start_worker(0)
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()


def test_the_first_reading_holds_the_text_or_the_arrays_but_not_both(tmp_path: Path) -> None:
    """pycocotools holds ten times the text of a real file; a third of that is the aim."""
    count = 3000
    outline = [[round(i * 1.37, 2) for i in range(90)]]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(count // 7)]
    boxes = [
        {"image_id": i // 7 % len(images), "category_id": 1, "bbox": [1.5, 2.5, 30.25, 40.75], "area": 99.5}
        | {"segmentation": outline}
        for i in range(count)
    ]
    file = write_coco(tmp_path / "set.json", images, boxes)
    size = file.stat().st_size
    del images, boxes
    tracemalloc.start()
    try:
        read_annotations(file, tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size < peak < 1.6 * size + 100_000 + 2 * CHUNK  # of the text, looked at together


@pytest.mark.parametrize("spread", [1, 5, 10**6, 2**55])
def test_ids_are_found_dense_or_sparse(spread: int) -> None:
    rng = np.random.default_rng(0)
    known = np.unique(rng.integers(-60, 60, 90)) * spread
    rng.shuffle(known)
    wanted = np.concatenate([rng.choice(known, 50), rng.integers(-80, 80, 50) * spread, [2**62, -(2**62)]])
    places = {number: place for place, number in enumerate(known.tolist())}
    expected = [places.get(number, -1) for number in wanted.tolist()]
    assert _positions(known, wanted).tolist() == expected
    assert _positions(known, wanted[:0]).tolist() == []
    assert _positions(known[:0], wanted).tolist() == [-1] * len(wanted)
