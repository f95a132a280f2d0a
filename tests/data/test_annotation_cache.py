"""The cache of annotations: hits, what makes it stale, damage, concurrent writers, pickling."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from vision_mtl.data import annotations as annotations_module
from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.cache import cache_folder
from vision_mtl.data.index_cache import DamagedCacheError, read_packed, write_packed
from vision_mtl.errors import DataError

from .coco_files import GOOD, assert_same, coco, image


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path]:
    """A file of annotations and an empty cache folder."""
    file = tmp_path / "set.json"
    file.write_text(json.dumps(coco([image(5, attributes={"a": "é"}), image(0)], [GOOD])), encoding="utf-8")
    return file, tmp_path / "cache"


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the JSON was parsed again")

    monkeypatch.setattr(annotations_module, "parse_coco", refuse)


def test_cache_hit_gives_the_same_index(stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = stored
    plain = read_annotations(file, None)
    assert not folder.exists()
    assert_same(plain, read_annotations(file, folder))
    forbid_parsing(monkeypatch)
    again = read_annotations(str(file), folder)
    assert_same(plain, again)
    assert not again.xywh.flags.writeable
    assert len(list(folder.iterdir())) == 1


def test_cache_hit_does_not_open_the_json(stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = stored
    fingerprint = read_annotations(file, folder).fingerprint
    opened: list[str] = []
    path_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: opened.append(self.name) or path_open(self, *a))
    assert read_annotations(file, folder).fingerprint == fingerprint
    assert opened == []
    read_annotations(file, None)
    assert opened == ["set.json"]


def test_touched_file_is_read_again(stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = stored
    before = read_annotations(file, folder)
    os.utime(file, ns=(1, 1))
    assert_same(before, read_annotations(file, folder))
    forbid_parsing(monkeypatch)
    read_annotations(file, folder)


def test_changed_file_is_read_again(stored: tuple[Path, Path]) -> None:
    file, folder = stored
    before = read_annotations(file, folder)
    time = file.stat().st_mtime_ns
    file.write_text(json.dumps(coco([image(8)])))
    os.utime(file, ns=(time, time))
    after = read_annotations(file, folder)
    assert after.image_ids.tolist() == [8]
    assert after.fingerprint != before.fingerprint
    assert len(list(folder.iterdir())) == 1


def test_replaced_file_of_same_size_and_time_is_read_again(stored: tuple[Path, Path]) -> None:
    file, folder = stored
    read_annotations(file, folder)
    stat = file.stat()
    other = file.with_name("other.json")
    other.write_text(file.read_text(encoding="utf-8").replace("5.jpg", "6.jpg"), encoding="utf-8")
    os.utime(other, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert file.stat().st_size == stat.st_size
    assert read_annotations(file, folder).file_name(0) == "6.jpg"


def test_format_version_is_part_of_the_key(
    stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = stored
    read_annotations(file, folder)
    monkeypatch.setattr(annotations_module, "FORMAT", annotations_module.FORMAT + 1)
    read_annotations(file, folder)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "short", "header", "payload"])
def test_damaged_cache_is_rebuilt(
    damage: str, stored: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file, folder = stored
    plain = read_annotations(file, None)
    read_annotations(file, folder)
    (kept,) = folder.iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "header":
        content[12] ^= 4
    if damage == "payload":
        content[-1] ^= 1
    # A new file, as the old one is still mapped.
    kept.unlink()
    kept.write_bytes(content[: {"empty": 0, "short": len(content) - 9}.get(damage, len(content))])
    with pytest.raises(DamagedCacheError):
        read_packed(kept)
    assert_same(plain, read_annotations(file, folder))
    assert "cache cannot be used" in caplog.text
    read_packed(kept)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_packed(file, {"x": np.arange(3), "y": np.zeros((0, 4))}, {"note": "é"})
    content = file.read_bytes()
    arrays, metadata = read_packed(file)
    assert arrays["x"].tolist() == [0, 1, 2]
    assert arrays["y"].shape == (0, 4)
    assert metadata == {"note": "é"}
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1
        damaged = tmp_path / "b.safetensors"
        damaged.write_bytes(flipped)
        try:
            again, note = read_packed(damaged)
        except DamagedCacheError:
            continue
        # Padding of the header, or a change that leaves the meaning as it is.
        assert note == metadata
        assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_unusable_folder_is_a_warning(stored: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    file, folder = stored
    folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        index = read_annotations(file, folder)
    assert_same(index, read_annotations(file, None))
    assert "are not cached" in caplog.text
    assert "VISION_MTL_CACHE" in caplog.text


def read_and_count(file: Path, folder: Path) -> int:
    for _ in range(20):
        os.utime(file)
        index = read_annotations(file, folder)
    return len(index)


def test_two_processes_write_at_once(stored: tuple[Path, Path]) -> None:
    file, folder = stored
    with multiprocessing.get_context("fork").Pool(2) as pool:
        counts = pool.starmap(read_and_count, [(file, folder)] * 2)
    assert counts == [2, 2]
    assert len(list(folder.iterdir())) == 1
    assert_same(read_annotations(file, folder), read_annotations(file, None))


def test_pickle(stored: tuple[Path, Path]) -> None:
    file, folder = stored
    for index in (read_annotations(file, None), read_annotations(file, folder)):
        assert_same(pickle.loads(pickle.dumps(index)), index)
    small = pickle.dumps(index)
    assert len(small) < 600
    file.write_text(json.dumps(coco([image(8)])))
    with pytest.raises(DataError, match=r"set\.json: the file changed while it was in use"):
        pickle.loads(small)


def test_default_folder(stored: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = stored
    monkeypatch.setenv("VISION_MTL_CACHE", str(folder))
    read_annotations(file)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.delenv("VISION_MTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/vision_mtl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert cache_folder() == Path("/h/.cache/vision_mtl")
