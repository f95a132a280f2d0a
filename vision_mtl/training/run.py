"""All that a training run consists of, and how it is written down and taken up again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vision_mtl.data.dataset import Source
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.errors import CheckpointError
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import newest_intact, save_checkpoint
from vision_mtl.training.config import EvaluationConfig, TrainingConfig
from vision_mtl.training.evaluation import Evaluation
from vision_mtl.training.optim import AveragedModel, build_optimizer, load_optimizer, parameter_groups

Losses = dict[str, dict[str, Tensor]]  # head -> term -> loss ()
LAST, BEST = Path("checkpoints/last.pt"), Path("checkpoints/best.pt")  # in the run folder
FREE_TO_CHANGE = tuple(  # what does not change a result may change on resuming
    f"{key}:"
    for key in (
        "data.workers",
        "data.prefetch",
        "training.keep",
        "training.save_minutes",
        "training.save_steps",
        "evaluation.report",
    )
)


class Step(NamedTuple):
    """What an optimiser step found, still on the device.

    Attributes:
        losses: of the last batch.
        finite: (parts, T) bool, whether each accumulated batch's loss of each of the T tasks is finite.
        gradients: (T,) bool, whether the gradient on the weights that a task has for itself is finite.
        taken: () bool, whether the losses and the whole gradient are; if not, the step has changed nothing.
        images: the image ids of each part.
        conflict: the tasks' gradients on the trunk compared, None where there is nothing to compare.
    """

    losses: Losses
    finite: Tensor
    gradients: Tensor
    taken: Tensor
    images: list[list[int]]
    conflict: dict[str, Any] | None

    def to(self, device: torch.device) -> Step:
        """Return the step with its tensors on `device`."""
        losses = {
            name: {term: loss.to(device) for term, loss in terms.items()}
            for name, terms in self.losses.items()
        }
        flags = {name: getattr(self, name).to(device) for name in ("finite", "gradients", "taken")}
        return self._replace(losses=losses, **flags)


@dataclass
class Progress:
    """Where a run stands; saved with it.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        batch: batches of the epoch that has begun that are done, those without a readable image included.
        evaluate: whether the epoch that is done has still to be judged.
        lines: of metrics.jsonl.
        best: highest headline so far; minus infinity before the first evaluation.
        best_step: the step it was reached at.
        since_best: evaluations since then.
        seconds: spent in training so far, evaluations and pauses left out.
        checked: steps of which it is known whether their numbers were finite.
        left_out: steps that changed nothing, since they were not.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluate: bool = False
    lines: int = 0
    best: float = float("-inf")
    best_step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    checked: int = 0
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
        progress: where it stands.
        recent: the steps since the last line of the log.
        judged: the evaluation of the best weights; None where none was made by this process.
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
    recent: list[Step] = field(default_factory=list)
    judged: Evaluation | None = None

    def __post_init__(self) -> None:
        groups = parameter_groups(self.model, self.balancer, self.training, self.lr_factors)
        self.optimizer = build_optimizer(groups, self.training)
        self.average: AveragedModel[MultiTaskModel] = AveragedModel(self.model, self.training.ema)
        steps = -(-len(self.batches) // self.training.accumulate)
        self.total_steps = min(steps * self.training.epochs, self.training.max_steps or 2**62)

    def save(self) -> None:
        """Write `checkpoints/last.pt`: all state, so that training can go on from it as if nothing had been.

        Of what it was before, `training.keep` files in all are kept.
        """
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "recent": [step._asdict() for step in self.recent],
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
            "generators": generators(),
        }
        save_checkpoint(state, self.folder / LAST, self.training.keep)

    def save_best(self, metrics: dict[str, Any]) -> None:
        """Write `checkpoints/best.pt`: the averaged weights alone, and their metrics."""
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "average": self.average.model.state_dict(),
            "metrics": metrics,
        }
        save_checkpoint(state, self.folder / BEST)

    def out_of_patience(self) -> bool:
        """Return whether so many evaluations brought nothing better that training is over."""
        patience = self.training.patience
        return patience is not None and self.progress.since_best >= patience

    def resume(self, changed: bool = False) -> list[str]:
        """Take up the state of the newest checkpoint that is intact.

        Args:
            changed: go on although the config is another one than the checkpoint's.

        Returns:
            what is wrong with each newer one, and what of the config has changed.

        Raises:
            CheckpointError: there is none, or it is of another config.
        """
        state, path, notes = newest_intact(self.folder / LAST)
        lines = changes(state, self.identity)
        if lines and not changed:
            raise CheckpointError(
                f"'{path}' was trained with another config: {'; '.join(lines[:10])}. Resume with the run's "
                "own config.yaml and data, add --accept-changes, or start a new run in another --output"
            )
        try:
            self.progress = Progress(**state["progress"])
            self.recent = [Step(**step).to(self.device) for step in state["recent"]]
            self.model.load_state_dict(state["model"])
            self.average.model.load_state_dict(state["average"])
            load_optimizer(self.optimizer, state["optimizer"])
            self.balancer.load_state_dict(state["balancer"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            found = "; ".join(lines[:10]) or str(error).splitlines()[0]
            raise CheckpointError(
                f"'{path}' does not fit the network, optimiser or balancer of this config: {found}. Start a "
                f"new run in another --output, with weights={path}"
            ) from error
        self.average.updates = state["updates"]
        set_generators(state["generators"])
        return [*notes, *lines]


def generators() -> dict[str, Any]:
    """Return the states of the random generators that training draws from, of this process."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": devices}


def set_generators(states: dict[str, Any]) -> None:
    """Set the generators to states that `generators` returned; those of GPUs as far as there are any."""
    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)


def changes(state: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what makes a run another one than the checkpoint's: settings, label names, what files say."""
    settings = sorted(differences(state["config"], identity["config"]))
    labels = sorted(differences(state["labels"], identity["labels"], "labels"))
    old, new = state["fingerprints"], identity["fingerprints"]
    files = [f"the content of {name} has changed" for name in new if old.get(name, new[name]) != new[name]]
    return [line for line in [*settings, *labels, *files] if not line.startswith(FREE_TO_CHANGE)]


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return `key: old -> new` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in old.keys() | new.keys()
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
