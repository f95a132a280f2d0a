"""Disks that are full or read-only, shared memory that is too small, loader processes that die: one clear
error, and what was there before stays."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import helpers
from tests.stress.workplace import ROOT
from tests.training.outcomes import outcome
from tests.training.test_resume import config_of
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.data.loader import Loader
from vision_mtl.errors import CheckpointError, ConfigError, DataError
from vision_mtl.structures import Batch
from vision_mtl.training.checkpoint import kept_checkpoints, load_checkpoint
from vision_mtl.training.log import start_logging

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def finished(
    narrow: None, tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The config and folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("finished")
    config = config_of(folder, tiny_coco_root)
    train_from_config(config, [], folder / "run")
    return config, folder / "run"


def failing(
    function: Callable[..., Any], number: int, concerns: Callable[[Path], bool]
) -> Callable[..., Any]:
    """Return a function of a path that fails with an error number where the path is a certain one's."""

    def fails(path: Any, *arguments: Any, **named: Any) -> Any:
        if concerns(Path(path)):
            raise OSError(number, os.strerror(number), str(path))
        return function(path, *arguments, **named)

    return fails


def no_leftovers(folder: Path) -> bool:
    return not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize(
    ("function", "file"),
    [
        ("open", ".lock"),
        ("write_text", "config.yaml"),
        ("open", "metrics.jsonl"),
        ("replace", "metrics.json"),
        ("open", "last.pt"),
        ("replace", "best.pt"),
    ],
)
def test_a_run_folder_that_cannot_be_written_is_one_error(
    function: str,
    file: str,
    number: int,
    tiny_coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    with monkeypatch.context() as patch:
        original = getattr(Path, function)
        patch.setattr(Path, function, failing(original, number, lambda path: file in path.name))
        with pytest.raises((ConfigError, CheckpointError)) as refused:
            train_from_config(config, ["training.max_steps=2"], tmp_path / "run")
    for words in (os.strerror(number), str(tmp_path / "run"), "choose another --output"):
        assert words in str(refused.value)
    assert no_leftovers(tmp_path / "run")


def test_a_disk_that_fills_up_costs_nothing_that_was_there(
    finished: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third checkpoint reaches the end of the disk while it is synchronised: the second is what is left,
    and with more space the run ends as it would have."""
    config, whole = finished
    last, calls = tmp_path / "run/checkpoints/last.pt", 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:  # three calls for each: for the file before and after others make room, for its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"last\.pt.*No space left.*free some space"):
            train_from_config(config, [], tmp_path / "run")
    assert no_leftovers(tmp_path / "run")
    steps = [load_checkpoint(path)["progress"]["step"] for path in kept_checkpoints(last)]
    assert steps == [2, 1]
    train_from_config(config, [], tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_log_that_cannot_be_written_is_one_error(
    tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(self: logging.FileHandler) -> None:
        if isinstance(self, logging.FileHandler):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config = config_of(tmp_path, tiny_coco_root)
    start_logging()  # closes what a run before has opened
    with monkeypatch.context() as patch:
        patch.setattr(logging.StreamHandler, "flush", full)
        with pytest.raises(ConfigError, match=r"cannot write: .*No space left"):
            train_from_config(config, ["training.max_steps=1"], tmp_path / "run")
        for handler in list(logging.getLogger("vision_mtl").handlers):
            logging.getLogger("vision_mtl").removeHandler(handler)
    assert "Logging error" not in capfd.readouterr().err


@pytest.mark.parametrize("file", ["metrics.json", "detections.json"])
def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(
    file: str, finished: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = str(finished[1] / "checkpoints/best.pt")
    evaluate_checkpoint(best, [], "val", tmp_path / "out")
    before = (tmp_path / "out" / file).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "write_text", failing(Path.write_text, errno.ENOSPC, lambda path: file in path.name)
        )
        with pytest.raises(DataError, match=r"--output.*No space left"):
            evaluate_checkpoint(best, ["data.eval_batch_size=1"], "val", tmp_path / "out")
    assert (tmp_path / "out" / file).read_bytes() == before
    assert no_leftovers(tmp_path / "out")


@pytest.mark.parametrize("file", ["predictions.json", "predictions.csv", "000.png"])
def test_predictions_that_cannot_be_written_are_one_error(
    file: str,
    finished: tuple[str, Path],
    tiny_coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = str(finished[1] / "checkpoints/best.pt")
    images = [str(tiny_coco_root / "images/000.png")]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing(Path.replace, errno.ENOSPC, lambda path: file in path.name))
        with pytest.raises(DataError, match=rf"--output: cannot write '.*{file}': No space left"):
            infer_with_checkpoint(images, best, tmp_path / "out", 0.3, True, False)
    assert not list((tmp_path / "out").rglob(file))
    assert no_leftovers(tmp_path / "out")
    infer_with_checkpoint(images, best, tmp_path / "out", 0.3, True, False, resume=True)
    assert len(list((tmp_path / "out").rglob(file))) == 1


def test_locks_that_do_not_fit_into_shared_memory_are_one_error(
    finished: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.queues.Queue.__init__", full)
    with pytest.raises(DataError, match=r"No space left.*--shm-size.*data\.workers=0"):
        train_from_config(finished[0], ["data.workers=2"], tmp_path / "run")


def test_a_loader_process_that_is_killed_costs_nothing_that_was_there(
    finished: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = finished
    batches, seen = Loader.__iter__, 0

    def killing(self: Loader) -> Iterator[Batch]:
        nonlocal seen
        for batch in batches(self):
            yield batch
            seen += 1
            if seen == 3:
                for process in multiprocessing.active_children():
                    if process.pid is not None and process.daemon:
                        os.kill(process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "__iter__", killing)
        with pytest.raises(DataError, match=r"process died \(DataLoader worker \(pid.*data\.workers=0"):
            train_from_config(config, ["data.workers=1", "data.prefetch=1"], tmp_path / "run")
    assert not multiprocessing.active_children()
    assert kept_checkpoints(tmp_path / "run/checkpoints/last.pt")
    train_from_config(config, ["data.workers=0"], tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(whole)


def mounting(target: Path, options: str, command: list[str]) -> list[str]:
    """Return a command that sees a memory file system of its own at `target`."""
    script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", options, str(target), *command]


def may_mount(folder: Path) -> bool:
    """Return whether this user may mount."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(mounting(folder, "size=1m", ["true"]), capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("place", "options", "says"),
    [
        ("run", "size=300k", "No space left"),
        ("run", "ro", "Read-only file system"),
        ("/dev/shm", "size=16k", "--shm-size"),
    ],
)
def test_a_file_system_that_is_too_small_or_read_only(
    place: str, options: str, says: str, tiny_coco_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    if not may_mount(tmp_path / "run"):
        pytest.skip("this user may not mount file systems")
    config = helpers.write_config(tmp_path, tiny_coco_root, training="{max_steps: 2, precision: fp32}")
    tool = [sys.executable, str(ROOT / "tools/train.py"), config, "--output", str(tmp_path / "run")]
    tool += ["data.workers=1"] if place.startswith("/") else []
    command = mounting(tmp_path / place, options, tool)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
