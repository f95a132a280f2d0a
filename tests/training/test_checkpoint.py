import hashlib
import pickle
import random
from pathlib import Path

import pytest
import torch

from tests.stress.checkpoints import damage
from vision_mtl.errors import CheckpointError
from vision_mtl.training.checkpoint import (
    SEAL,
    kept_checkpoints,
    load_checkpoint,
    newest_intact,
    save_checkpoint,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {
        "weights": torch.arange(6).view(2, 3),
        "config": {"a": [1, 2.5, None, "x"]},
        "progress": {"step": 3},
    }
    save_checkpoint(state, tmp_path / "deeper" / "last.pt")
    loaded = load_checkpoint(tmp_path / "deeper" / "last.pt")
    assert torch.equal(loaded["weights"], state["weights"])
    assert loaded["config"] == state["config"]
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"value": 1}, path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=r"last\.pt.*No space left"):
        save_checkpoint({"value": 2}, path)
    monkeypatch.undo()
    assert load_checkpoint(path)["value"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint '.*none\.pt'"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt.*damaged"):
        load_checkpoint(tmp_path / "last.pt")


def seal(path: Path) -> None:
    """End a file as checkpoints end, so that its content comes to be looked at."""
    content = path.read_bytes()
    path.write_bytes(content + SEAL + hashlib.sha256(content).digest())


def test_every_cut_and_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"weights": torch.arange(20.0), "progress": {"step": 3}}, path)
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(200):
        path.write_bytes(damage(content, draw)[1])
        with pytest.raises(CheckpointError, match=r"last\.pt.*damaged"):
            load_checkpoint(path)


def test_what_was_before_is_kept_and_taken_where_the_newest_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for value in range(4):
        save_checkpoint({"value": value}, path, keep=3)
    files = kept_checkpoints(path)
    assert [file.name for file in files] == ["last.pt", "last.1.pt", "last.2.pt"]
    assert [load_checkpoint(file)["value"] for file in files] == [3, 2, 1]
    assert newest_intact(path) == ({"format": 2, "value": 3}, path, [])
    path.write_bytes(b"torn")
    state, found, wrong = newest_intact(path)
    assert (state["value"], found.name) == (2, "last.1.pt")
    assert len(wrong) == 1
    assert "last.pt" in wrong[0]
    path.unlink()  # as in the middle of making room
    assert newest_intact(path)[0]["value"] == 2
    for file in files[1:]:
        file.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"last\.1\.pt.*last\.2\.pt"):
        newest_intact(path)


class Malicious:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_is_executed_on_loading(tmp_path: Path) -> None:
    torch.save({"format": 2, "model": Malicious(tmp_path / "executed")}, tmp_path / "evil.pt")
    seal(tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "executed"), protocol=2))
    seal(tmp_path / "raw.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "raw.pt")
    assert not (tmp_path / "executed").exists()


def test_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "new.pt")
    seal(tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="format 99, expected 2"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    seal(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="format list"):
        load_checkpoint(tmp_path / "list.pt")
