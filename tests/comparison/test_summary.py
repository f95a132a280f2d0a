"""Means, spreads, verdicts and Δm, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from vision_mtl.comparison.conclusion import conclude, cost_ratios
from vision_mtl.comparison.plan import Chosen, Finished
from vision_mtl.comparison.results import Outcome, Summary
from vision_mtl.comparison.summary import judge_difference, sample, summarize

from .made import costs, outcome_of, plan_of, trial_of

ALONE = {"objects": (0.50, 0.52, 0.48), "count": (2.0, 2.0, 2.0)}
TOGETHER = [(0.55, 2.2), (0.53, 2.0), (0.57, 2.1)]


def runs_alone(task: str, values: tuple[float, ...]) -> list[Outcome]:
    return [
        outcome_of(trial_of(task, seed=seed), {task: value}, seconds=60.0)
        for seed, value in enumerate(values)
    ]


def summary_of(together: dict[str, list[Outcome | None]], seeds: int = 3) -> Summary:
    alone = {task: runs_alone(task, values[:seeds]) for task, values in ALONE.items()}
    chosen = Chosen(dict.fromkeys(ALONE, 0.001), dict.fromkeys(together, 0.002))
    return summarize(plan_of(seeds=seeds), chosen, Finished(alone, together), None)


def joint(pairs: list[tuple[float, float] | None]) -> list[Outcome | None]:
    return [
        outcome_of(
            trial_of(seed=seed),
            None if pair is None else {"objects": pair[0], "count": pair[1]},
            seconds=80.0,
        )
        for seed, pair in enumerate(pairs)
    ]


def test_a_sample_of_known_values() -> None:
    found = sample([0.50, 0.52, None, 0.48])
    assert found.mean == pytest.approx(0.5)
    assert found.deviation == pytest.approx(0.02)
    assert found.error == pytest.approx(0.02 / math.sqrt(3))
    assert found.values == (0.50, 0.52, None, 0.48)
    one = sample([0.5, None])
    assert (one.mean, one.deviation, one.error) == (0.5, None, None)
    assert sample([None]).mean is None


def test_a_difference_counts_beyond_two_standard_errors() -> None:
    low, high = sample([0.48, 0.50, 0.52]), sample([0.53, 0.55, 0.57])  # 0.05 against 2 * 0.0163
    assert judge_difference(low, high, False) == "better"
    assert judge_difference(high, low, False) == "worse"
    assert judge_difference(low, high, True) == "worse"
    near = sample([0.51, 0.53, 0.55])  # 0.03 against 2 * 0.0163
    assert judge_difference(low, near, False) == "alike"
    assert judge_difference(sample([0.5]), high, False) is None
    assert judge_difference(sample([1.0, 1.0]), sample([1.0, 1.0]), False) == "alike"
    assert judge_difference(sample([1.0, 1.0]), sample([0.9, 0.9]), False) == "worse"


def test_changes_and_delta_m_are_paired_by_seed() -> None:
    (way,) = summary_of({"fixed": joint(list(TOGETHER))}).together
    objects, count = way.tasks
    assert objects.change.values == pytest.approx((10.0, 100 / 52, 18.75))
    assert count.change.values == pytest.approx((-10.0, 0.0, -5.0))
    deltas = (0.0, 50 / 52, 6.875)
    assert way.delta_m.values == pytest.approx(deltas)
    assert way.delta_m.mean == pytest.approx(sum(deltas) / 3)
    assert (objects.verdict, count.verdict) == ("better", "alike")
    assert way.training_seconds.mean == 80.0


def test_a_diverged_run_leaves_its_seed_out_and_is_seen() -> None:
    (way,) = summary_of({"fixed": joint([*TOGETHER[:2], None])}).together
    assert way.tasks[0].score.values == pytest.approx((0.55, 0.53, None))
    assert way.tasks[0].change.values[2] is None
    assert way.delta_m.values == pytest.approx((0.0, 50 / 52, None))


def test_the_combined_models_time_includes_what_it_is_made_from() -> None:
    runs = joint([*TOGETHER[:2]])
    (way,) = summary_of({"combined": [*runs, None]}).together
    assert way.training_seconds.values == (200.0, 200.0, None)


def test_cost_ratios() -> None:
    ratios = cost_ratios(costs(), "fixed", "objects", lambda model: model.single.median)
    assert ratios == pytest.approx((1.25, 0.05 / 0.06))
    assert cost_ratios(costs(), "fixed", None, lambda model: model.single.median).of_detector is None


def test_the_conclusion_says_what_is_clear_and_what_is_not() -> None:
    ways = summary_of({"fixed": joint(list(TOGETHER))}).together
    assert conclude(ways, costs(), "objects") == (
        "Trained together (fixed), the 2 heads are on average as good as each alone, within two standard "
        "errors (Δm +2.6 ± 2.1 %, standard error of 3 seeds); objects is better by more than two standard "
        "errors; an answer to one image takes 1.25 times as long as the detector alone and 0.83 times as "
        "long as all single-task models."
    )


def test_the_conclusion_names_the_best_way_and_what_got_worse() -> None:
    worse = joint([(0.30, 2.0), (0.32, 2.0), (0.28, 2.0)])
    worst = joint([(0.10, 4.0), (0.12, 4.0), (0.08, 4.0)])
    said = conclude(summary_of({"fixed": worst, "uw": worse}).together, None, None)
    assert said.startswith(
        "Trained together (uw, the best of 2 ways), the 2 heads are on average 20.0 % worse "
    )
    assert "objects is worse by more than two standard errors" in said
    said = conclude(summary_of({"fixed": worst}).together, None, None)
    assert "objects, count are worse by more than two standard errors" in said


def test_one_seed_has_no_spread_and_none_no_conclusion() -> None:
    said = conclude(summary_of({"fixed": joint([(0.55, 2.0)])}, seeds=1).together, None, "objects")
    assert said == (
        "Trained together (fixed), the 2 heads are on average 5.0 % better than each alone (Δm +5.0 %, of "
        "one seed)."
    )
    assert "Nothing can be concluded" in conclude(
        summary_of({"fixed": joint([None])}, seeds=1).together, costs(), "objects"
    )
