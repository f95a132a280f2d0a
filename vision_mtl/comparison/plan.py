"""What is compared, by what means, and in which order it is run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vision_mtl.comparison.ledger import Ledger
from vision_mtl.comparison.results import ALONE, COMBINED, Outcome, Trial
from vision_mtl.metrics.relative_change import relative_change

FINE_TUNING_STEPS = 0.25  # share of the full steps in which combined single-task models are fine-tuned,
FINE_TUNING_LR = 0.2  # at this share of the joint model's learning rate: what they have learned shall stay

Combine = Callable[[Sequence[Outcome], int], Path]  # single-task runs of a seed, to a checkpoint of all heads


class Headline(NamedTuple):
    """The metric that a head is compared by."""

    metric: str
    lower_is_better: bool


@dataclass(frozen=True)
class Plan:
    """What is compared, by what means.

    Attributes:
        headlines: head -> what it is compared by.
        detector: the detection head; None without one.
        methods: ways of balancing the joint model.
        lr: the config's peak learning rate,
        factors: and the factors on it that are tried.
        steps: optimiser steps of every full run,
        short_steps: and of every run that a learning rate is chosen by.
        seeds: of each full run: 0, 1, ...
        combine: also put the single-task models of each seed together and fine-tune them.
    """

    headlines: Mapping[str, Headline]
    detector: str | None
    methods: tuple[str, ...]
    lr: float
    factors: tuple[float, ...]
    steps: int
    short_steps: int
    seeds: int
    combine: bool

    def score(self, outcome: Outcome, task: str) -> float | None:
        """Return a head's metric after a run; None where it diverged or the data cannot tell."""
        return outcome.heads.get(task, {}).get(self.headlines[task].metric)


@dataclass(frozen=True)
class Chosen:
    """Peak learning rates.

    Attributes:
        alone: head -> that of its single-task model.
        together: method, or `combined`, -> that of the model of all heads.
    """

    alone: dict[str, float]
    together: dict[str, float]


@dataclass(frozen=True)
class Finished:
    """All full runs, by seed.

    Attributes:
        alone: head -> its single-task runs.
        together: method, or `combined`, -> the runs of all heads; None where a single-task run of the seed
            diverged, so that there was nothing to combine.
    """

    alone: dict[str, list[Outcome]]
    together: dict[str, list[Outcome | None]]


def run_all(plan: Plan, ledger: Ledger, combine: Combine) -> tuple[Chosen, Finished]:
    """Run what the ledger does not hold: the short runs, then seed by seed all full ones.

    Args:
        plan: what is compared.
        ledger: runs what has not been run.
        combine: returns a checkpoint made from single-task runs, which are given in the heads' order.
    """
    chosen = choose_rates(plan, ledger)
    finished = Finished({task: [] for task in chosen.alone}, {name: [] for name in chosen.together})
    for seed in range(plan.seeds):
        for task, lr in chosen.alone.items():
            finished.alone[task].append(ledger.run(alone(plan, task, lr, seed, "full")))
        for method in plan.methods:
            trial = together(plan, method, chosen.together[method], seed, "full")
            finished.together[method].append(ledger.run(trial))
        if plan.combine:
            parts = [runs[seed] for runs in finished.alone.values()]
            finished.together[COMBINED].append(run_combined(plan, ledger, chosen, parts, seed, combine))
    return chosen, finished


def run_combined(
    plan: Plan, ledger: Ledger, chosen: Chosen, parts: Sequence[Outcome], seed: int, combine: Combine
) -> Outcome | None:
    """Return the fine-tuning of a seed's single-task models put together; None if one of them diverged."""
    if any(part.diverged is not None for part in parts):
        return None
    steps = max(1, round(plan.steps * FINE_TUNING_STEPS))
    trial = Trial(tuple(plan.headlines), plan.methods[0], chosen.together[COMBINED], seed, steps, "combined")
    return ledger.run(trial, lambda: combine(parts, seed))


def choose_rates(plan: Plan, ledger: Ledger) -> Chosen:
    """Return the best of the learning rates for each head alone and each method, by a short run of each.

    Every model has the same number of tries. With a single factor there is nothing to choose, nor to run.
    """
    rates = [plan.lr * factor for factor in plan.factors]
    if len(rates) == 1:
        chosen = Chosen(dict.fromkeys(plan.headlines, rates[0]), dict.fromkeys(plan.methods, rates[0]))
    else:
        chosen = _by_short_runs(plan, ledger, rates)
    if plan.combine:
        chosen.together[COMBINED] = chosen.together[plan.methods[0]] * FINE_TUNING_LR
    return chosen


def _by_short_runs(plan: Plan, ledger: Ledger, rates: Sequence[float]) -> Chosen:
    best: dict[str, float] = {}
    baselines: dict[str, float | None] = {}
    for task, headline in plan.headlines.items():
        found = {lr: plan.score(ledger.run(alone(plan, task, lr, 0, "short")), task) for lr in rates}
        sign = -1 if headline.lower_is_better else 1
        scores = {lr: -math.inf if value is None else sign * value for lr, value in found.items()}
        best[task] = best_rate(scores, plan.lr)
        baselines[task] = found[best[task]]
    joint: dict[str, float] = {}
    for method in plan.methods:
        outcomes = {lr: ledger.run(together(plan, method, lr, 0, "short")) for lr in rates}
        scores = {lr: joint_score(plan, outcome, baselines) for lr, outcome in outcomes.items()}
        joint[method] = best_rate(scores, plan.lr)
    return Chosen(best, joint)


def best_rate(scores: Mapping[float, float], lr: float) -> float:
    """Return the learning rate with the highest score; of equal ones the closest to the config's `lr`."""
    return max(scores, key=lambda rate: (scores[rate], -abs(math.log(rate / lr))))


def joint_score(plan: Plan, outcome: Outcome, baselines: Mapping[str, float | None]) -> float:
    """Return how good a short run of all heads was, so that no metric's scale decides.

    That is Δm against the heads' best short runs alone, over the heads of which a relative change can be
    told: early on, a detector's mAP may still be 0. Minus infinity if the run diverged.
    """
    if outcome.diverged is not None:
        return -math.inf
    changes = [
        relative_change(plan.score(outcome, task), baselines[task], headline.lower_is_better)
        for task, headline in plan.headlines.items()
    ]
    known = [change for change in changes if change is not None]
    return statistics.fmean(known) if known else 0.0


def alone(plan: Plan, task: str, lr: float, seed: int, kind: Literal["short", "full"]) -> Trial:
    """Return the training of one head by itself."""
    steps = plan.short_steps if kind == "short" else plan.steps
    return Trial((task,), ALONE, lr, seed, steps, kind)


def together(plan: Plan, method: str, lr: float, seed: int, kind: Literal["short", "full"]) -> Trial:
    """Return the training of all heads."""
    steps = plan.short_steps if kind == "short" else plan.steps
    return Trial(tuple(plan.headlines), method, lr, seed, steps, kind)
