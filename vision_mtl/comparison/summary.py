"""Finished runs to what they say: means, spreads and Δm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from vision_mtl.comparison.conclusion import conclude
from vision_mtl.comparison.plan import Chosen, Finished, Plan
from vision_mtl.comparison.results import (
    COMBINED,
    Costs,
    Outcome,
    Sample,
    Summary,
    TaskAlone,
    TaskTogether,
    Together,
    Verdict,
)
from vision_mtl.metrics.relative_change import delta_m, relative_change


def summarize(plan: Plan, chosen: Chosen, finished: Finished, costs: Costs | None) -> Summary:
    """Return all numbers of a comparison. Changes and Δm pair the runs of one seed.

    Args:
        plan: what was compared.
        chosen: the learning rates.
        finished: all full runs.
        costs: of the networks, for the conclusion.
    """
    singles = [
        TaskAlone(
            task=task,
            metric=headline.metric,
            lower_is_better=headline.lower_is_better,
            lr=chosen.alone[task],
            score=sample([plan.score(run, task) for run in finished.alone[task]]),
            training_seconds=sample([run.training_seconds for run in finished.alone[task]]),
        )
        for task, headline in plan.headlines.items()
    ]
    ways = [
        _together(plan, name, chosen.together[name], runs, singles)
        for name, runs in finished.together.items()
    ]
    return Summary(singles, ways, conclude(ways, costs, plan.detector))


def _together(
    plan: Plan, name: str, lr: float, runs: Sequence[Outcome | None], singles: Sequence[TaskAlone]
) -> Together:
    tasks = [
        _task_together(single, [None if run is None else plan.score(run, single.task) for run in runs])
        for single in singles
    ]
    by_seed = zip(*(task.change.values for task in tasks), strict=True)
    seconds = [None if run is None else run.training_seconds for run in runs]
    if name == COMBINED:
        parts = zip(seconds, *(single.training_seconds.values for single in singles), strict=True)
        seconds = [_total(part) for part in parts]
    return Together(
        name=name,
        lr=lr,
        tasks=tasks,
        delta_m=sample([delta_m(changes) for changes in by_seed]),
        training_seconds=sample(seconds),
        conflicts=[run.conflict for run in runs if run is not None and run.conflict],
    )


def _task_together(single: TaskAlone, scores: Sequence[float | None]) -> TaskTogether:
    pairs = zip(scores, single.score.values, strict=True)
    changes = [relative_change(joint, own, single.lower_is_better) for joint, own in pairs]
    joint = sample(scores)
    verdict = judge_difference(single.score, joint, single.lower_is_better)
    return TaskTogether(single.task, joint, sample(changes), verdict)


def _total(parts: Sequence[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def sample(values: Sequence[float | None]) -> Sample:
    """Return one quantity's values with their mean, standard deviation (n - 1) and its standard error."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    error = None if deviation is None else deviation / math.sqrt(len(known))
    return Sample(tuple(values), mean, deviation, error)


def judge_difference(single: Sample, joint: Sample, lower_is_better: bool) -> Verdict | None:
    """Return whether the means differ by more than two standard errors of the difference.

    That error is sqrt(s1² / n1 + s2² / n2), of two independent samples. None where either has fewer than two
    values.
    """
    if single.error is None or joint.error is None:
        return None
    assert single.mean is not None
    assert joint.mean is not None
    gain = single.mean - joint.mean if lower_is_better else joint.mean - single.mean
    if abs(gain) <= 2 * math.hypot(single.error, joint.error):
        return "alike"
    return "better" if gain > 0 else "worse"
