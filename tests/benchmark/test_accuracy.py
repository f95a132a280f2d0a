"""The comparison of AP against seconds: the same means for all, nothing run twice, nothing hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from torch import Tensor, nn

from vision_mtl.benchmark import accuracy
from vision_mtl.benchmark.accuracy import (
    Ledger,
    Outcome,
    Point,
    Results,
    Trial,
    open_arena,
    rank_settings,
    train_contender,
)
from vision_mtl.benchmark.accuracy_report import accuracy_plot, accuracy_table, group_runs
from vision_mtl.benchmark.command import compare_accuracy
from vision_mtl.benchmark.contenders import build_peer
from vision_mtl.config import load_config
from vision_mtl.errors import ConfigError
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.reporting.tables import text
from vision_mtl.structures import Batch, ImageMeta

KINDS = ("fcos", "retinanet", "faster_rcnn")


@pytest.fixture
def recipe(tiny_coco_root: Path, tmp_path: Path) -> Path:
    source = "[{images: images, annotations: annotations.json}]"
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
data: {{root: {tiny_coco_root}, train: {source}, val: {source}, workers: 0, batch_size: 2,
  resize: {{shorter: 64, longer: 96}}}}
trunk: {{name: resnet18, channels: 64}}
heads: {{boxes: {{type: fcos, depth: 1}}, kind: {{type: classification, source: attribute, field: kind}}}}
training: {{precision: fp32, lr: 0.001}}
""",
        encoding="utf-8",
    )
    return path


def batch_of(images: Tensor, boxes: list[list[tuple[int, list[float]]]], crowd: bool = False) -> Batch:
    count, slots = len(images), max(len(row) for row in boxes)
    padded, classes = torch.zeros(count, slots, 4), torch.full((count, slots), -1)
    for i, row in enumerate(boxes):
        for j, (label, box) in enumerate(row):
            padded[i, j], classes[i, j] = torch.tensor(box), label
    ignore = torch.zeros(count, slots, dtype=torch.bool)
    if crowd:
        ignore[:, -1] = True
    height, width = images.shape[2:]
    return Batch(
        images=images,
        sizes=torch.tensor([[height, width]] * count),
        boxes=padded,
        classes=classes,
        ignore=ignore,
        has_boxes=torch.ones(count, dtype=torch.bool),
        labels={},
        metas=[ImageMeta(i, "", (2 * height, 2 * width), (2.0, 2.0)) for i in range(count)],
    )


def peer(kind: str, threshold: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    trunk = TrunkConfig(name="resnet18", channels=64)
    return build_peer(kind, trunk, 3, FcosConfig(score_threshold=threshold))


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_answers_in_our_classes_and_original_pixels(kind: str) -> None:
    model = peer(kind).eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        (ours,) = model.detect(batch_of(images, [[]]), torch.float32)
        (theirs,) = model.network([images[0] / 255])
    assert len(ours.scores) > 0
    torch.testing.assert_close(ours.boxes, theirs["boxes"] * 2)
    torch.testing.assert_close(ours.scores, theirs["scores"])
    assert torch.equal(ours.classes + (kind == "faster_rcnn"), theirs["labels"])
    assert int(ours.classes.min()) >= 0
    assert int(ours.classes.max()) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_does_not_see_crowds(kind: str) -> None:
    model = peer(kind).train()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    plain = [[(0, [4.0, 4, 40, 50])], [(2, [20.0, 10, 90, 60])]]
    crowded = [[*row, (1, [0.0, 0, 60, 60])] for row in plain]
    losses = []
    for batch in (batch_of(images, plain), batch_of(images, crowded, crowd=True)):
        torch.manual_seed(1)
        losses.append(model.loss(batch, torch.float32).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", ["ours fcos atss", "ours retinanet", "torchvision fcos"])
def test_a_trial_trains_for_its_budget_and_is_judged_on_the_way(recipe: Path, name: str) -> None:
    arena = open_arena(load_config(recipe))
    outcome = accuracy.run_trial(arena, Trial(name, "fp32", 1e-3, 0, 1.0), 2, lambda *_: None)
    first, last = outcome.curve
    assert 0.5 <= first.seconds < last.seconds
    assert last.seconds >= 1.0
    assert 0 < first.steps < last.steps
    assert last.metrics["mAP"] is not None
    assert 0 <= outcome.score() <= 1
    assert outcome.images_per_second == pytest.approx(last.steps * 2 / last.seconds, rel=0.2)


def test_the_learning_rate_follows_the_share_of_time(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    real = accuracy.set_learning_rate

    def note(optimizer: torch.optim.Optimizer, lr: float) -> None:
        rates.append(lr)
        real(optimizer, lr)

    monkeypatch.setattr(accuracy, "set_learning_rate", note)
    arena = open_arena(load_config(recipe))
    accuracy.run_trial(arena, Trial("ours fcos atss", "fp32", 2e-3, 0, 1.0), 1, lambda *_: None)
    assert rates[0] < 2e-3 / 5  # warming up
    assert max(rates) <= 2e-3
    assert rates[-1] < max(rates) / 2


def test_a_loss_that_is_not_finite_ends_the_trial(recipe: Path) -> None:
    arena = open_arena(load_config(recipe))
    outcome = accuracy.run_trial(arena, Trial("ours fcos atss", "fp32", 1e30, 0, 30.0), 1, lambda *_: None)
    assert outcome.curve == []
    assert outcome.score() == -1.0


def outcome(name: str, ap: float | None, seed: int = 0, budget: float = 9.0, lr: float = 1e-3) -> Outcome:
    curve = [] if ap is None else [Point(budget, 7, {"mAP": ap, "AP50": ap + 0.2})]
    return Outcome(Trial(name, "bf16", lr, seed, budget), curve, 5.0)


class FakeLedger:
    """Outcomes by (precision, learning rate, budget)."""

    def __init__(self, scores: Callable[[str, float, float], float | None]) -> None:
        self.arena = SimpleNamespace(config=SimpleNamespace(training=SimpleNamespace(lr=1.0)))
        self.scores, self.asked = scores, []

    def run(self, trial: Trial, evaluations: int) -> Outcome:
        self.asked.append((trial.precision, trial.lr, trial.budget))
        return outcome(trial.contender, self.scores(trial.precision, trial.lr, trial.budget))


def test_settings_are_ranked_by_short_runs() -> None:
    ledger = FakeLedger(
        lambda precision, lr, _: {0.5: 0.1, 1.0: 0.2, 2.0: 0.3}[lr] - (precision == "fp32") / 4
    )
    ranked = rank_settings(ledger, "x", 1.0, 8.0)
    assert [(setting.precision, setting.lr) for setting in ranked] == [
        ("bf16", 2.0),
        ("bf16", 1.0),
        ("bf16", 0.5),
        ("fp32", 2.0),
    ]
    assert ledger.asked == [
        (precision, lr, 1.0) for precision, lr in (("bf16", 0.5), ("bf16", 1.0), ("bf16", 2.0), ("fp32", 2.0))
    ]
    ledger = FakeLedger(lambda precision, lr, _: 0.2 + (precision == "fp32") / 10)
    assert rank_settings(ledger, "x", 1.0, 8.0)[0][:2] == ("fp32", 0.5)


def test_what_diverges_in_bf16_tries_every_rate_in_fp32() -> None:
    ledger = FakeLedger(lambda precision, lr, _: None if precision == "bf16" else 1 - lr / 4)
    assert rank_settings(ledger, "x", 1.0, 8.0)[0][:2] == ("fp32", 0.5)
    assert len(ledger.asked) == 6


def test_short_runs_that_tell_nothing_are_doubled_up_to_the_longest() -> None:
    ledger = FakeLedger(lambda precision, lr, budget: 0.01 if budget < 4 else 0.1 * lr)
    assert rank_settings(ledger, "x", 1.0, 8.0)[0].lr == 2.0
    assert sorted({budget for _, _, budget in ledger.asked}) == [1.0, 2.0, 4.0]
    ledger = FakeLedger(lambda *_: 0.01)
    rank_settings(ledger, "x", 1.0, 3.0)
    assert sorted({budget for _, _, budget in ledger.asked}) == [1.0, 2.0]


def test_a_collapsed_run_gives_the_next_setting_its_chance() -> None:
    def scores(precision: str, lr: float, budget: float) -> float:
        if budget < 90:
            return 0.1 * lr - (precision == "fp32")
        return {2.0: 0.0, 1.0: 0.4, 0.5: 0.9}[lr]

    ledger = FakeLedger(scores)
    assert train_contender(ledger, "x", 1.0, 90.0, 1)[:2] == ("bf16", 1.0)
    assert [lr for _, lr, budget in ledger.asked if budget == 90.0] == [2.0, 1.0]


def test_our_heads_share_the_short_runs_of_one_of_them() -> None:
    trials: list[tuple[str, float]] = []

    class Recording(FakeLedger):
        def run(self, trial: Trial, evaluations: int) -> Outcome:
            trials.append((trial.contender, trial.budget))
            return super().run(trial, evaluations)

    train_contender(Recording(lambda *_: 0.3), "ours retinanet", 1.0, 90.0, 1)
    assert trials == [("ours fcos task-aligned", 1.0)] * 4 + [("ours retinanet", 90.0)]
    trials.clear()
    train_contender(Recording(lambda *_: 0.3), "torchvision fcos", 1.0, 90.0, 1)
    assert {name for name, _ in trials} == {"torchvision fcos"}


def test_of_several_settings_only_the_best_ones_runs_count() -> None:
    runs = [outcome("x", 0.1, lr=2e-3), outcome("x", 0.5), outcome("x", 0.3, seed=1), outcome("y", 0.45)]
    groups = group_runs(runs, 9.0)
    assert list(groups) == ["y", "x"]
    assert [run.score() for run in groups["x"]] == [0.5, 0.3]


def test_finished_runs_are_kept_and_not_repeated(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results" / "accuracy.json"
    arena, header = open_arena(load_config(recipe)), Results(["first"], "machine", {}, "tiny.yaml")
    done = outcome("ours fcos", 0.5)
    monkeypatch.setattr(accuracy, "run_trial", lambda *_: done)
    Ledger(path, arena, header).run(done.trial, 1)
    monkeypatch.setattr(accuracy, "run_trial", lambda *_: pytest.fail("was run again"))
    later = Ledger(path, arena, Results(["second"], "machine", {}, "tiny.yaml"))
    assert later.run(done.trial, 1) == done
    other = msgspec.structs.replace(done.trial, seed=1)
    assert later.find(other) is None
    assert later.results.commands == ["first", "second"]
    path.write_text('{"commands": 3}')
    with pytest.raises(ConfigError, match=r"accuracy\.json' is not a file of this command"):
        Ledger(path, arena, header)


def test_table_and_plot_show_means_spread_and_divergence(tmp_path: Path) -> None:
    runs = [outcome("ours fcos", 0.5), outcome("ours fcos", 0.6, seed=1), outcome("torchvision fcos", 0.4)]
    runs += [outcome("torchvision retinanet", None), outcome("ours fcos", 0.9, budget=2.0)]
    groups = group_runs(runs, 9.0)
    assert list(groups) == ["ours fcos", "torchvision fcos", "torchvision retinanet"]
    shown = text(accuracy_table(groups, "title"), width=140)
    assert "0.550 ± 0.071" in shown
    assert "0.400" in shown
    assert "diverged" in shown
    accuracy_plot(groups, "title", tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes()[:4] == b"\x89PNG"


def compare(recipe: Path, folder: Path, names: list[str], **changes: float) -> None:
    settings = {"budget": 0.2, "search": 0.1, "seeds": 2, "evaluations": 1, **changes}
    compare_accuracy(
        config_path=str(recipe),
        overrides=[],
        results=folder / "accuracy.json",
        plot=folder / "accuracy.png",
        names=names,
        command="command",
        **settings,
    )


def test_the_best_of_each_side_gets_every_seed(recipe: Path, tmp_path: Path) -> None:
    names = ["ours fcos task-aligned", "torchvision fcos"]
    compare(recipe, tmp_path, names)
    runs = json.loads((tmp_path / "accuracy.json").read_text())["runs"]
    full = [run["trial"] for run in runs if run["trial"]["budget"] == 0.2]
    assert {(trial["contender"], trial["seed"]) for trial in full} == {
        (name, seed) for name in names for seed in (0, 1)
    }
    assert len(runs) >= 4 + 4 + 4
    assert (tmp_path / "accuracy.png").exists()


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["ours fcos ats"], {}, r"--contenders: found 'ours fcos ats'; did you mean 'ours fcos atss'"),
        (["ours fcos atss"], {"seeds": 0}, r"--seeds 0.*above 0"),
    ],
)
def test_wrong_arguments_are_named(
    recipe: Path, tmp_path: Path, names: list[str], changes: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(recipe, tmp_path, names, **changes)
    assert not (tmp_path / "accuracy.json").exists()


def test_a_recipe_without_our_detector_cannot_be_compared(recipe: Path) -> None:
    overrides = ["heads={kind: {type: classification, source: attribute, field: kind}}"]
    with pytest.raises(ConfigError, match=r"heads: found kind, expected a head of type fcos"):
        open_arena(load_config(recipe, overrides))
