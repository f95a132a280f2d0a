"""All that a training run consists of, and how it is written down and taken up again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vision_mtl.data.dataset import Source
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.errors import CheckpointError
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint
from vision_mtl.training.config import EvaluationConfig, TrainingConfig
from vision_mtl.training.optim import AveragedModel, build_optimizer, parameter_groups

FREE_TO_CHANGE = ("data.workers:", "data.prefetch:")  # what does not change a result may change on resuming


@dataclass
class Progress:
    """Where a run stands; saved with it.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        best: highest headline so far; minus infinity before the first evaluation.
        best_step: the step it was reached at.
        since_best: evaluations since then.
        seconds: spent in training so far, evaluations and pauses left out.
        left_out: steps that changed nothing, since their numbers were not finite.
    """

    step: int = 0
    epoch: int = 0
    best: float = float("-inf")
    best_step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    left_out: int = 0


@dataclass
class Run:
    """All that a training run consists of.

    Attributes:
        folder: the run folder.
        model: the network, on `device`.
        balancer: task losses to one.
        train: training batches.
        batches: the order of those, to set the epoch on.
        val: evaluation batches.
        val_source: their truth.
        training: the config's part.
        evaluation: the config's part.
        device: where the network is.
        dtype: what its forward pass runs in.
        identity: what a checkpoint says beside weights: config, labels, versions; plain types.
        lr_factors: head -> learning-rate factor.
    """

    folder: Path
    model: MultiTaskModel
    balancer: Balancer
    train: Loader
    batches: TrainingBatches
    val: Loader
    val_source: Source
    training: TrainingConfig
    evaluation: EvaluationConfig
    device: torch.device
    dtype: torch.dtype
    identity: dict[str, Any]
    lr_factors: dict[str, float]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        groups = parameter_groups(self.model, self.balancer, self.training, self.lr_factors)
        self.optimizer = build_optimizer(groups, self.training)
        self.average: AveragedModel[MultiTaskModel] = AveragedModel(self.model, self.training.ema)
        steps = -(-len(self.batches) // self.training.accumulate)
        self.total_steps = min(steps * self.training.epochs, self.training.max_steps or 2**62)

    def save(self, name: str) -> None:
        """Write `checkpoints/<name>.pt`: all state, so that training can go on from it."""
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
            "generator": torch.get_rng_state(),
        }
        save_checkpoint(state, self.folder / "checkpoints" / f"{name}.pt")

    def save_best(self, metrics: dict[str, Any]) -> None:
        """Write `checkpoints/best.pt`: the averaged weights alone, and their metrics."""
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "average": self.average.model.state_dict(),
            "metrics": metrics,
        }
        save_checkpoint(state, self.folder / "checkpoints" / "best.pt")

    def resume(self) -> None:
        """Take up the state of `checkpoints/last.pt`.

        Raises:
            CheckpointError: it is missing, damaged, or of another config.
        """
        path = self.folder / "checkpoints" / "last.pt"
        state = load_checkpoint(path)
        changed = [
            line
            for line in sorted(differences(state["config"], self.identity["config"]))
            if not line.startswith(FREE_TO_CHANGE)
        ]
        if changed:
            raise CheckpointError(
                f"'{path}' was trained with another config: {'; '.join(changed[:10])}. Resume with the run's "
                "own config.yaml, or start a new run in another --output"
            )
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        torch.set_rng_state(state["generator"])


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return `key: old -> new` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in old.keys() | new.keys()
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
