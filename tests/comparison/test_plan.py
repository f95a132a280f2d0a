"""What is run, in which order, and how a learning rate is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vision_mtl.comparison.ledger import Ledger
from vision_mtl.comparison.plan import best_rate, choose_rates, joint_score, run_all
from vision_mtl.comparison.results import Outcome, Trial

from .made import HEADS, header_of, outcome_of, plan_of, trial_of

Scores = dict[str, float] | None
GOOD = {"objects": 0.5, "count": 2.0}


class Trainer:
    """Stands in for training: scores by trial, and a record of what was asked for."""

    def __init__(self, scores: Callable[[Trial], Scores] = lambda _: GOOD) -> None:
        self.scores = scores
        self.trials: list[Trial] = []
        self.weights: list[Path | None] = []

    def __call__(self, trial: Trial, weights: Path | None) -> Outcome:
        self.trials.append(trial)
        self.weights.append(weights)
        return outcome_of(trial, self.scores(trial))


def ledger_of(folder: Path, trainer: Trainer) -> Ledger:
    return Ledger(folder / "comparison.json", header_of(), trainer)


def never(parts: Sequence[Outcome], seed: int) -> Path:
    pytest.fail("nothing is to be combined")


def test_every_model_has_the_same_tries_and_then_every_seed(tmp_path: Path) -> None:
    trainer = Trainer()
    run_all(plan_of(methods=("fixed", "uw")), ledger_of(tmp_path, trainer), never)
    short = [trial for trial in trainer.trials if trial.kind == "short"]
    full = [trial for trial in trainer.trials if trial.kind == "full"]
    assert trainer.trials == short + full
    models = [(("objects",), "fixed"), (("count",), "fixed"), (HEADS, "fixed"), (HEADS, "uw")]
    assert [(trial.heads, trial.method, trial.lr) for trial in short] == [
        (heads, method, lr) for heads, method in models for lr in (0.0005, 0.001, 0.002)
    ]
    assert {(trial.seed, trial.steps) for trial in short} == {(0, 25)}
    assert [(trial.heads, trial.method, trial.seed) for trial in full] == [
        (heads, method, seed) for seed in (0, 1) for heads, method in models
    ]
    assert {(trial.steps, trial.lr) for trial in full} == {(100, 0.001)}


def test_the_best_short_run_decides_by_the_headline_metric(tmp_path: Path) -> None:
    def scores(trial: Trial) -> Scores:
        return {"objects": trial.lr, "count": trial.lr}  # the error is least at the lowest rate

    chosen = choose_rates(plan_of(), ledger_of(tmp_path, Trainer(scores)))
    assert chosen.alone == {"objects": 0.002, "count": 0.0005}


def test_no_metrics_scale_decides_for_the_joint_model(tmp_path: Path) -> None:
    # Against 0.5 and 2.0 alone: Δm 0, 5 and -12.5. The plain sum mAP - MAE would take the last one.
    joint = {0.0005: (0.55, 2.2), 0.001: (0.5, 1.8), 0.002: (0.25, 1.5)}

    def scores(trial: Trial) -> Scores:
        return dict(zip(HEADS, joint[trial.lr], strict=True)) if len(trial.heads) > 1 else GOOD

    chosen = choose_rates(plan_of(), ledger_of(tmp_path, Trainer(scores)))
    assert chosen.together == {"fixed": 0.001}
    baselines: dict[str, float | None] = {"objects": 0.5, "count": 2.0}
    found = [
        joint_score(plan_of(), outcome_of(trial_of(lr=lr), dict(zip(HEADS, pair, strict=True))), baselines)
        for lr, pair in joint.items()
    ]
    assert found == pytest.approx([0.0, 5.0, -12.5])


def test_the_joint_model_is_held_against_the_best_short_run_of_each_head(tmp_path: Path) -> None:
    alone = {0.0005: 0.1, 0.001: 0.2, 0.002: 0.4}
    # Δm against 0.4 and 2: 0 + 0 against -50 + 20. Against 0.2, of the config's own rate, 100 + 0 and 0 + 20.
    joint = {0.0005: (0.1, 2.0), 0.001: (0.2, 1.6), 0.002: (0.4, 2.0)}

    def scores(trial: Trial) -> Scores:
        if len(trial.heads) > 1:
            return dict(zip(HEADS, joint[trial.lr], strict=True))
        return {"objects": alone[trial.lr], "count": 2.0}

    chosen = choose_rates(plan_of(), ledger_of(tmp_path, Trainer(scores)))
    assert chosen.alone["objects"] == 0.002
    assert chosen.together == {"fixed": 0.002}


def test_a_diverged_short_run_is_the_last_choice(tmp_path: Path) -> None:
    def scores(trial: Trial) -> Scores:
        return {"objects": 0.001, "count": 99.0} if trial.lr == 0.0005 else None

    chosen = choose_rates(plan_of(), ledger_of(tmp_path, Trainer(scores)))
    assert chosen.alone == {"objects": 0.0005, "count": 0.0005}
    assert chosen.together == {"fixed": 0.0005}


def test_of_equal_rates_the_one_closest_to_the_configs_is_taken() -> None:
    assert best_rate({0.0005: 1.0, 0.001: 1.0, 0.002: 1.0}, 0.001) == 0.001
    assert best_rate({0.0005: 1.0, 0.001: 0.9, 0.004: 1.0}, 0.001) == 0.0005
    assert best_rate({0.0005: 1.0, 0.001: 0.9, 0.004: 1.1}, 0.001) == 0.004


def test_a_head_whose_baseline_is_zero_has_no_say_in_the_joint_rate() -> None:
    outcome = outcome_of(trial_of(), {"objects": 0.3, "count": 1.5})
    assert joint_score(plan_of(), outcome, {"objects": 0.0, "count": 2.0}) == pytest.approx(25.0)
    assert joint_score(plan_of(), outcome, {"objects": None, "count": 0.0}) == 0.0


def test_a_single_factor_needs_no_short_runs(tmp_path: Path) -> None:
    trainer = Trainer()
    chosen, _ = run_all(plan_of(factors=(2.0,), seeds=1), ledger_of(tmp_path, trainer), never)
    assert chosen.alone == {"objects": 0.002, "count": 0.002}
    assert chosen.together == {"fixed": 0.002}
    assert [trial.kind for trial in trainer.trials] == ["full"] * 3


def test_combining_fine_tunes_what_the_single_task_runs_of_a_seed_left(tmp_path: Path) -> None:
    asked: list[tuple[list[tuple[str, ...]], int]] = []

    def combine(parts: Sequence[Outcome], seed: int) -> Path:
        asked.append(([part.trial.heads for part in parts], seed))
        return tmp_path / f"{seed}.pt"

    trainer = Trainer()
    plan = plan_of(factors=(1.0,), combine=True)
    chosen, finished = run_all(plan, ledger_of(tmp_path, trainer), combine)
    assert asked == [([("objects",), ("count",)], 0), ([("objects",), ("count",)], 1)]
    tuned = [
        (trial, weights)
        for trial, weights in zip(trainer.trials, trainer.weights, strict=True)
        if trial.kind == "combined"
    ]
    lr = 0.001 * 0.2
    assert tuned == [
        (trial_of(kind="combined", lr=lr, steps=25, seed=seed), tmp_path / f"{seed}.pt") for seed in (0, 1)
    ]
    assert chosen.together["combined"] == lr
    assert [weights for weights in trainer.weights if weights is None] == [None] * 6
    assert len(finished.together["combined"]) == 2
    run_all(plan, ledger_of(tmp_path, Trainer(lambda _: pytest.fail("was run again"))), never)


def test_nothing_is_combined_where_a_part_diverged(tmp_path: Path) -> None:
    trainer = Trainer(lambda trial: None if trial.heads == ("count",) and trial.seed == 0 else GOOD)
    plan = plan_of(factors=(1.0,), combine=True)
    _, finished = run_all(plan, ledger_of(tmp_path, trainer), lambda parts, seed: tmp_path / f"{seed}.pt")
    first, second = finished.together["combined"]
    assert first is None
    assert second is not None
    assert [trial.seed for trial in trainer.trials if trial.kind == "combined"] == [1]
