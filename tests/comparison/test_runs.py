"""A trial's settings, and what becomes of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_mtl.comparison import runs
from vision_mtl.comparison.combining import combine
from vision_mtl.comparison.results import Outcome, Trial
from vision_mtl.comparison.runs import Recipe, as_overrides, head_settings, run_trial, trial_settings
from vision_mtl.config import Config, load_config, to_tree
from vision_mtl.errors import DataError, NumericsError
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint

CONFIG = """
data:
  train: [{images: a, annotations: a.json}, {images: b, annotations: b.json, heads: [kind]}]
  val: [{images: v, annotations: v.json, heads: [objects, kind]}]
  mix: {mosaic: 0.5, last_epochs_without: 2}
trunk: {name: resnet18}
heads:
  objects:  {type: fcos, context: presence}
  presence: {type: multilabel, source: boxes}
  kind:     {type: classification, source: attribute, field: kind}
training: {epochs: 8, heads_first_epochs: 4}
evaluation: {best: presence.mAP, every: 2}
"""
HEADS = ("objects", "presence", "kind")
EPOCHS = {HEADS: 50, ("objects",): 40, ("presence",): 40, ("kind",): 50}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "three.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return Recipe(str(path), (), load_config(path), 400, EPOCHS)


def trial(*heads: str, **changes: Any) -> Trial:
    settings: dict[str, Any] = {"method": "uw", "lr": 1e-5, "seed": 3, "steps": 400, "kind": "full"}
    return Trial(heads or HEADS, **{**settings, **changes})


def resolved(recipe: Recipe, one: Trial, weights: Path | None = None) -> Config:
    return load_config(recipe.path, as_overrides(trial_settings(recipe, one, weights)))


def test_all_heads_together_are_the_config_but_for_what_is_swept(recipe: Recipe) -> None:
    expected = to_tree(recipe.config)
    expected["balancing"]["method"] = "uw"
    expected["training"] |= {"lr": 1e-5, "seed": 3}
    expected["evaluation"] |= {"every": runs.NEVER, "best": None, "report": False}
    assert to_tree(resolved(recipe, trial())) == expected


def test_a_head_alone_reads_no_other_and_has_the_data_that_supervises_it(recipe: Recipe) -> None:
    alone = resolved(recipe, trial("objects", steps=320))
    assert list(alone.heads) == ["objects"]
    assert getattr(alone.heads["objects"], "context", "") is None
    assert [source.images for source in alone.data.train] == ["a"]
    assert [source.heads for source in alone.data.val] == [["objects"]]
    assert [source.images for source in resolved(recipe, trial("kind")).data.train] == ["a", "b"]
    assert "data.train" not in head_settings(recipe.config, HEADS)
    assert head_settings(recipe.config, ("presence",))["data.val"] == []


def test_steps_are_the_same_for_all_and_epochs_follow(recipe: Recipe) -> None:
    whole = resolved(recipe, trial()).training
    assert (whole.epochs, whole.max_steps) == (8, None)
    # 400 steps are 10 epochs of the 40 steps that the data of `objects` has, a quarter more than 8.
    longer = resolved(recipe, trial("objects"))
    assert (longer.training.epochs, longer.training.max_steps) == (10, 400)
    assert (longer.training.heads_first_epochs, longer.data.mix.last_epochs_without) == (5, 2)


def test_a_short_run_is_the_whole_schedule_in_little(recipe: Recipe) -> None:
    short = resolved(recipe, trial(steps=120, kind="short"))  # 2.4 of 8 epochs
    assert (short.training.epochs, short.training.max_steps) == (3, 120)
    assert (short.training.heads_first_epochs, short.data.mix.last_epochs_without) == (1, 1)


def test_fine_tuning_starts_from_the_given_weights(recipe: Recipe, tmp_path: Path) -> None:
    weights = tmp_path / "with space, comma.pt"
    tuned = resolved(recipe, trial(steps=100, kind="combined"), weights)
    assert tuned.weights == str(weights)
    assert tuned.trunk.weights is None
    assert tuned.training.heads_first_epochs == 0


@pytest.mark.parametrize(
    "value", [1e-05, 0.1 + 0.2, 7, None, "1e-5", "no", "a: [b, #c", "", {"a": [1.5, None, "x"]}, []]
)
def test_an_override_says_just_what_was_meant(value: Any) -> None:
    from vision_mtl.config import apply_override

    tree: dict[str, Any] = {}
    (text,) = as_overrides({"a.b": value})
    apply_override(tree, text)
    assert tree == {"a": {"b": value}}
    assert "\n" not in text


class Trainer:
    """Stands in for `train_from_config`."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[Path, bool]] = []

    def __call__(self, path: str, overrides: Sequence[str], output: Path, resume: bool) -> Any:
        self.calls.append((output, resume))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def run(recipe: Recipe, output: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(runs, "train_from_config", trainer)
    return run_trial(recipe, output, trial())


def test_a_finished_run_is_noted_with_its_time_and_conflict(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"heads": {"kind": {"accuracy": 0.5}}, "training_seconds": 7.5, "step": 400}
    trainer = Trainer(metrics)
    done = run(recipe, tmp_path, trainer, monkeypatch)
    assert done == Outcome(trial(), trial().name(), metrics["heads"], 7.5)
    assert trainer.calls == [(tmp_path / trial().name(), False)]
    pulled = Trainer({**metrics, "conflict": {"sentence": "they agree", "pairs": []}})
    assert run(recipe, tmp_path, pulled, monkeypatch).conflict == "they agree"


def test_numbers_that_are_not_finite_do_not_stop_the_comparison(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(recipe, tmp_path, Trainer(NumericsError("the loss of kind is not finite")), monkeypatch)
    assert done == Outcome(trial(), trial().name(), {}, None, "the loss of kind is not finite")
    with pytest.raises(DataError, match="a file is gone"):
        run(recipe, tmp_path, Trainer(DataError("a file is gone")), monkeypatch)


def test_an_interrupted_run_goes_on(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / trial().name()
    trainer = Trainer({"heads": {}, "training_seconds": 1.0})
    run(recipe, tmp_path, trainer, monkeypatch)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("heads: {}")
    run(recipe, tmp_path, trainer, monkeypatch)
    assert [resume for _, resume in trainer.calls] == [False, True]


def part(folder: Path, name: str, value: float, pyramid: bool) -> Path:
    """Write a single-task checkpoint whose tensors all hold `value`."""
    names = ["trunk.body.conv1.weight", f"heads.{name}.weight"]
    names += ["trunk.fpn.weight"] if pyramid else []
    state = {
        "config": {},
        "labels": {name: {"names": [name]}},
        "versions": {"torch": "2"},
        "fingerprints": {},
        "progress": {"step": 400},
        "average": {key: torch.full((2,), value) for key in names},
    }
    path = folder / f"{name}.pt"
    save_checkpoint(state, path)
    return path


def test_combining_takes_the_detectors_trunk_and_every_head_of_its_own_run(
    recipe: Recipe, tmp_path: Path
) -> None:
    parts = {name: part(tmp_path, name, value, name != "kind") for value, name in enumerate(HEADS[::-1])}
    found = load_checkpoint(combine(recipe.config, parts, tmp_path / "combined.pt"))
    assert {key: tensor.tolist() for key, tensor in found["average"].items()} == {
        "trunk.body.conv1.weight": [2.0, 2.0],
        "trunk.fpn.weight": [2.0, 2.0],
        "heads.objects.weight": [2.0, 2.0],
        "heads.presence.weight": [1.0, 1.0],
        "heads.kind.weight": [0.0, 0.0],
    }
    assert found["labels"] == {name: {"names": [name]} for name in HEADS[::-1]}
    assert found["config"] == to_tree(recipe.config)


def test_without_a_detector_the_first_whole_trunk_is_taken(recipe: Recipe, tmp_path: Path) -> None:
    config = load_config(recipe.path, ["heads.objects={type: regression, source: count}"])
    pyramids = {"kind": False, "presence": True, "objects": True}
    parts = {
        name: part(tmp_path, name, value, pyramid) for value, (name, pyramid) in enumerate(pyramids.items())
    }
    found = load_checkpoint(combine(config, parts, tmp_path / "combined.pt"))
    assert found["average"]["trunk.fpn.weight"].tolist() == [1.0, 1.0]
    assert found["average"]["trunk.body.conv1.weight"].tolist() == [1.0, 1.0]
