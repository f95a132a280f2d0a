"""Plans, trials and outcomes that were never run."""

from __future__ import annotations

from typing import Any

from vision_mtl.commands.timing import Timing
from vision_mtl.comparison.plan import Headline, Plan
from vision_mtl.comparison.results import Costs, ModelCost, Outcome, Results, Trial

HEADLINES = {"objects": Headline("mAP", False), "count": Headline("MAE", True)}
HEADS = tuple(HEADLINES)


def plan_of(**changes: Any) -> Plan:
    """Return a plan of a detector and a counter, one method, three factors on 0.001 and two seeds."""
    settings: dict[str, Any] = {
        "headlines": HEADLINES,
        "detector": "objects",
        "methods": ("fixed",),
        "lr": 0.001,
        "factors": (0.5, 1.0, 2.0),
        "steps": 100,
        "short_steps": 25,
        "seeds": 2,
        "combine": False,
    }
    return Plan(**{**settings, **changes})


def trial_of(*heads: str, **changes: Any) -> Trial:
    """Return a full trial of the heads, both by default."""
    settings: dict[str, Any] = {"method": "fixed", "lr": 0.001, "seed": 0, "steps": 100, "kind": "full"}
    return Trial(heads=heads or HEADS, **{**settings, **changes})


def outcome_of(trial: Trial, scores: dict[str, float] | None, seconds: float = 10.0) -> Outcome:
    """Return a run's outcome; without scores it diverged."""
    if scores is None:
        return Outcome(trial, trial.name(), {}, None, diverged="the loss of objects is not finite")
    heads: dict[str, dict[str, float | None]] = {
        head: {HEADLINES[head].metric: scores[head], "other": None} for head in trial.heads
    }
    return Outcome(trial, trial.name(), heads, seconds)


def header_of(command: str = "first", **tree: Any) -> Results:
    """Return an empty results file."""
    return Results([command], "a machine", {"torch": "2"}, "tiny.yaml", {"data": {"batch_size": 8}, **tree})


def timing(median: float) -> Timing:
    """Return a timing without much spread."""
    return Timing(median, 0.9 * median, 1.1 * median)


def cost_of(parameters: int, step: float, single: float, batch: float) -> ModelCost:
    """Return a network's cost in seconds."""
    return ModelCost(parameters, timing(step), timing(single), timing(batch))


def costs() -> Costs:
    """Return the costs of a detector, a counter and both together: 1.25 of the detector, 0.833 of both."""
    return Costs(
        device="cpu",
        step_images=8,
        batch_images=4,
        alone={
            "objects": cost_of(2_000_000, 0.4, 0.04, 0.1),
            "count": cost_of(1_000_000, 0.2, 0.02, 0.05),
        },
        together={"fixed": cost_of(2_100_000, 0.5, 0.05, 0.12)},
    )
