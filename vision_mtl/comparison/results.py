"""What a comparison leaves behind: its JSON file holds these, from `Results` down."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vision_mtl.commands.timing import Timing

COMBINED = "combined"  # the way of training that starts from single-task models
ALONE = "fixed"  # the balancing of a single head, which has nothing to balance


class Trial(msgspec.Struct, frozen=True):
    """What identifies a training.

    Attributes:
        heads: the heads that are trained together; one for a single-task model.
        method: how their losses are balanced.
        lr: peak learning rate.
        seed: of weights, order and augmentation.
        steps: optimiser steps, over which the whole schedule runs.
        kind: `short` to choose a learning rate by, `full`, or `combined`: full single-task models put
            together and fine-tuned.
    """

    heads: tuple[str, ...]
    method: str
    lr: float
    seed: int
    steps: int
    kind: Literal["short", "full", "combined"]

    def name(self) -> str:
        """Return the name of its run folder. A head's name has no `-`, so that no two are alike."""
        what = self.heads[0] if len(self.heads) == 1 else f"joint-{self.method}"
        return f"{self.kind}-{what}-lr{self.lr:g}-seed{self.seed}-steps{self.steps}"


class Outcome(msgspec.Struct, frozen=True):
    """A finished training.

    Attributes:
        trial: what was run.
        folder: its run folder, below the comparison's.
        heads: head -> metric -> number at the end, of the averaged weights; empty if the run diverged.
        training_seconds: without evaluation; None if the run diverged.
        diverged: what was not finite; None of a run that reached its end.
        conflict: in words, whether the heads pulled the trunk the same way; None where that was not measured.
    """

    trial: Trial
    folder: str
    heads: dict[str, dict[str, float | None]]
    training_seconds: float | None
    diverged: str | None = None
    conflict: str | None = None


class ModelCost(msgspec.Struct, frozen=True):
    """What one network costs.

    Attributes:
        parameters: how many.
        step: one optimiser step.
        single: answers to one image.
        batch: answers to a batch of images.
    """

    parameters: int
    step: Timing
    single: Timing
    batch: Timing


class Costs(msgspec.Struct, frozen=True):
    """What the networks cost, measured in turn.

    Attributes:
        device: where.
        step_images: images of an optimiser step.
        batch_images: images of a batch at inference.
        alone: head -> the cost of its single-task model.
        together: method -> the cost of the model with all heads.
    """

    device: str
    step_images: int
    batch_images: int
    alone: dict[str, ModelCost]
    together: dict[str, ModelCost]


class Sample(msgspec.Struct, frozen=True):
    """One quantity, seed by seed.

    Attributes:
        values: one per seed; None where the run diverged or the data cannot tell.
        mean: of those that are known; None if none is.
        deviation: their standard deviation (n - 1); None of fewer than two.
        error: the standard error of the mean; None of fewer than two.
    """

    values: tuple[float | None, ...]
    mean: float | None
    deviation: float | None
    error: float | None


Verdict = Literal["better", "worse", "alike"]


class TaskAlone(msgspec.Struct, frozen=True):
    """A head by itself.

    Attributes:
        task: the head.
        metric: what it is judged by.
        lower_is_better: of that metric.
        lr: the chosen peak learning rate.
        score: the metric.
        training_seconds: of the full runs.
    """

    task: str
    metric: str
    lower_is_better: bool
    lr: float
    score: Sample
    training_seconds: Sample


class TaskTogether(msgspec.Struct, frozen=True):
    """A head among the others.

    Attributes:
        task: the head.
        score: its metric.
        change: percent by which the metric is better than alone, of the same seed.
        verdict: `better` or `worse` than alone by more than two standard errors of the difference, else
            `alike`; None of fewer than two seeds.
    """

    task: str
    score: Sample
    change: Sample
    verdict: Verdict | None


class Together(msgspec.Struct, frozen=True):
    """One way of training all heads together.

    Attributes:
        name: the balancing method, or `combined`.
        lr: the chosen peak learning rate.
        tasks: every head's result.
        delta_m: Δm in percent, of each seed's joint model against the single-task models of that seed.
        training_seconds: of the full runs; of `combined`, with the single-task models that it is made from.
        conflicts: what the runs say of the heads' gradients.
    """

    name: str
    lr: float
    tasks: list[TaskTogether]
    delta_m: Sample
    training_seconds: Sample
    conflicts: list[str]


class Summary(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        alone: each head by itself.
        together: each way of training all heads.
        conclusion: in one sentence.
    """

    alone: list[TaskAlone]
    together: list[Together]
    conclusion: str


class Results(msgspec.Struct):
    """The file.

    Attributes:
        commands: that have added to it.
        machine: processor, cores and GPU.
        versions: of what decides speed and accuracy.
        config: path of the YAML file.
        tree: the resolved config, without what a trial decides or what changes no result, and with the
            data's fingerprints in place of their folder.
        runs: every finished training.
        costs: None until they are measured.
        summary: of the latest command.
    """

    commands: list[str]
    machine: str
    versions: dict[str, str]
    config: str
    tree: dict[str, Any]
    runs: list[Outcome] = []
    costs: Costs | None = None
    summary: Summary | None = None
