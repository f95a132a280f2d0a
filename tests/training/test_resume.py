"""A run that dies at any moment and is resumed ends as if nothing had been, to the last bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import helpers
from tests.conftest import TinyCoco
from tests.training.outcomes import outcome
from vision_mtl.commands.train import train_from_config
from vision_mtl.data.loader import Loader
from vision_mtl.errors import CheckpointError, ConfigError, Interrupted
from vision_mtl.structures import Batch
from vision_mtl.training import checkpoint, engine
from vision_mtl.training.checkpoint import kept_checkpoints, load_checkpoint
from vision_mtl.training.run import Run, changes

pytestmark = pytest.mark.usefixtures("narrow")

# Dropout draws from the generator, FAMO remembers, batch norm counts; the log's window spans checkpoints.
HEADS = """
  objects:  {type: fcos, depth: 1}
  kind:     {type: classification, source: attribute, field: kind, dropout: 0.3}
"""
TRAINING = (
    "{epochs: 3, warmup_steps: 2, log_every: 3, conflict_every: 2, accumulate: 2, precision: fp32, "
    "save_steps: 1, clip: 1.0}"
)


class Death(BaseException):
    """Stands for SIGKILL: nothing on the way may catch it."""


def config_of(folder: Path, root: Path) -> str:
    folder.mkdir(exist_ok=True)
    return helpers.write_config(folder, root, HEADS, "balancing: {method: famo}", training=TRAINING)


@pytest.fixture(scope="module")
def expected(narrow: None, tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    train_from_config(config_of(folder, tiny_coco_root), [], folder / "run")
    return outcome(folder / "run")


def at_call(function: Callable[..., Any], call: int, after: bool = False) -> Callable[..., Any]:
    """Return a function that dies at its `call`-th call, before or after doing its work."""
    calls = 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Death
        result = function(*arguments, **named)
        if calls == call:
            raise Death
        return result

    return dying


def in_the_middle_of_accumulating(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Loader.__iter__

    def dying(self: Loader) -> Iterator[Batch]:
        for i, batch in enumerate(batches(self)):
            if i == 3:
                raise Death
            yield batch

    monkeypatch.setattr(Loader, "__iter__", dying)


DEATHS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "before the first step": lambda m: m.setattr(engine, "optimizer_step", at_call(engine.optimizer_step, 1)),
    "after the first step": lambda m: m.setattr(
        engine, "optimizer_step", at_call(engine.optimizer_step, 1, after=True)
    ),
    "within the second epoch": lambda m: m.setattr(
        engine, "optimizer_step", at_call(engine.optimizer_step, 4)
    ),
    "between two batches of a step": in_the_middle_of_accumulating,
    "in the first evaluation": lambda m: m.setattr(engine, "evaluate", at_call(engine.evaluate, 1)),
    "after the second evaluation": lambda m: m.setattr(
        engine, "evaluate", at_call(engine.evaluate, 2, after=True)
    ),
    "after the last evaluation, from which on no step is taken": lambda m: m.setattr(
        engine, "evaluate", at_call(engine.evaluate, 3, after=True)
    ),
    "after the best is written": lambda m: m.setattr(Run, "save_best", at_call(Run.save_best, 1, after=True)),
    "before a checkpoint is written": lambda m: m.setattr(Run, "save", at_call(Run.save, 3)),
    "after a checkpoint was written": lambda m: m.setattr(Run, "save", at_call(Run.save, 3, after=True)),
    "while a checkpoint is written": lambda m: m.setattr(torch, "save", at_call(torch.save, 4)),
    "while old ones make room": lambda m: m.setattr(Path, "replace", at_call(Path.replace, 9)),
    "at the very end": lambda m: m.setattr(engine, "report_conflict", at_call(engine.report_conflict, 1)),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_run_that_died_ends_as_if_nothing_had_been(
    death: str,
    expected: dict[str, Any],
    tiny_coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    with monkeypatch.context() as patch:
        DEATHS[death](patch)
        with pytest.raises(Death):
            train_from_config(config, [], tmp_path / "run")
    torch.manual_seed(99)  # a new process knows nothing of the old one's generators
    train_from_config(config, [], tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected


def test_workers_may_change_on_the_way(
    expected: dict[str, Any], tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "optimizer_step", at_call(engine.optimizer_step, 4))
        with pytest.raises(Death):
            train_from_config(config, ["data.workers=1"], tmp_path / "run")
    train_from_config(config, ["data.workers=2"], tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected


def send(number: int, to: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Return a function that sends this process a signal in its `call`-th call."""
    calls = 0

    def sending(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
        return to(*arguments, **named)

    return sending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("place", "name", "call", "steps"),
    [
        (engine, "optimizer_step", 3, 3),
        (engine, "evaluate", 1, 2),
        (checkpoint, "whole", 2, 2),
        (Run, "save_best", 2, 4),
    ],
)
def test_a_signal_ends_the_run_at_the_next_seam(
    number: int,
    place: Any,
    name: str,
    call: int,
    steps: int,
    expected: dict[str, Any],
    tiny_coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, send(number, getattr(place, name), call))
        with pytest.raises(Interrupted) as ended:
            train_from_config(config, [], tmp_path / "run")
    assert ended.value.args == (number,)
    assert signal.getsignal(number) == handler
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["progress"]["step"] == steps
    train_from_config(config, [], tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected


def test_of_the_last_checkpoints_as_many_are_kept_as_are_asked_for(
    tiny_coco_root: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    train_from_config(config, ["training.keep=3"], tmp_path / "run")
    files = kept_checkpoints(tmp_path / "run/checkpoints/last.pt")
    assert [file.name for file in files] == ["last.pt", "last.1.pt", "last.2.pt"]
    assert [load_checkpoint(file)["progress"]["step"] for file in files] == [6, 6, 5]
    assert sorted(p.name for p in files[0].parent.iterdir()) == ["best.pt", *sorted(f.name for f in files)]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_taken(
    expected: dict[str, Any], tiny_coco_root: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    train_from_config(config, ["training.keep=3"], tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    train_from_config(config, ["training.keep=3"], tmp_path / "run", resume=True)
    log = (tmp_path / "run/log.txt").read_text()
    assert "last.pt': it does not end with the SHA-256" in log
    found = outcome(tmp_path / "run")
    assert found["last"]["model"] == expected["last"]["model"]


def test_another_config_is_refused_unless_it_is_accepted(tiny_coco_root: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    train_from_config(config, ["training.max_steps=2"], tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training\.lr: 0\.001 -> 0\.5.*--accept-changes"):
        train_from_config(config, ["training.lr=0.5", "training.max_steps=2"], tmp_path / "run", resume=True)
    overrides = ["training.lr=0.5", "training.max_steps=3"]
    for unfit in ("trunk.channels=64", "training.optimizer=sgd", "balancing.method=uw"):
        with pytest.raises(CheckpointError, match=rf"does not fit .*{unfit.split('=')[0]}: .*weights="):
            train_from_config(config, [*overrides, unfit], tmp_path / "run", resume=True, changed=True)
    overrides.append("training.weight_decay=0.3")
    train_from_config(config, overrides, tmp_path / "run", resume=True, changed=True)
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert state["progress"]["step"] == 3
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.3}


def test_files_that_say_something_else_are_refused_unless_they_are_accepted(
    tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    config = config_of(tmp_path, tiny_coco.root)
    train_from_config(config, ["training.max_steps=1"], tmp_path / "run")
    document = json.loads(tiny_coco.annotations.read_text())
    document["annotations"][0]["bbox"][0] += 1
    tiny_coco.annotations.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"of .*annotations\.json has changed.*--accept-changes"):
        train_from_config(config, ["training.max_steps=1"], tmp_path / "run", resume=True)
    train_from_config(config, ["training.max_steps=1"], tmp_path / "run", resume=True, changed=True)


def test_the_names_of_classes_may_not_change() -> None:
    state: dict[str, Any] = {"config": {}, "labels": {"kind": {"names": ["a", "b"]}}, "fingerprints": {}}
    other = {**state, "labels": {"kind": {"names": ["a", "c"]}}, "fingerprints": {"new.json": "1"}}
    assert changes(state, state) == []
    assert changes(state, other) == ["labels.kind.names: ['a', 'b'] -> ['a', 'c']"]


@pytest.mark.parametrize(("minutes", "expected"), [(1e-9, [1, 2, 2, 2, 3, 3]), (60, [2, 2, 3, 3])])
def test_checkpoints_are_written_on_time(
    minutes: float,
    expected: list[int],
    tiny_coco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And at the end of every epoch of two steps, before it is judged and after."""
    save, steps = Run.save, []

    def noting(self: Run) -> None:
        steps.append(self.progress.step)
        save(self)

    monkeypatch.setattr(Run, "save", noting)
    settings = ["training.save_steps=0", f"training.save_minutes={minutes:.10f}", "training.max_steps=3"]
    train_from_config(config_of(tmp_path, tiny_coco_root), settings, tmp_path / "run")
    assert steps == expected


def test_a_folder_in_use_is_refused(tiny_coco_root: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, tiny_coco_root)
    (tmp_path / "run").mkdir()
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "run/.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="in use by another process"):
            train_from_config(config, [], tmp_path / "run")
        holder.kill()
    assert {p.name for p in (tmp_path / "run").rglob("*")} == {".lock", "checkpoints"}
