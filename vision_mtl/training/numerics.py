"""What the last steps found, read from the device: mean losses, and numbers that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain

import torch
from torch import nn

from vision_mtl.errors import NumericsError
from vision_mtl.training.run import Run, Step

logger = logging.getLogger(__name__)


def mean_losses(steps: Sequence[Step]) -> dict[str, dict[str, float]]:
    """Return head -> term -> its mean over the steps that were taken; NaN if none was.

    This and `check_finite` are the only places where a training step's numbers leave the device.
    """
    names = [(name, term) for name, terms in steps[-1].losses.items() for term in terms]
    table = torch.stack([torch.stack([step.losses[name][term] for name, term in names]) for step in steps])
    taken = torch.stack([step.taken for step in steps])
    means = (torch.where(taken[:, None], table, 0.0).sum(0) / taken.sum()).tolist()
    found: dict[str, dict[str, float]] = {}
    for (name, term), mean in zip(names, means, strict=True):
        found.setdefault(name, {})[term] = mean
    return found


def check_finite(run: Run) -> None:
    """Stop, or count and go on, where a step since the last look was left out.

    Raises:
        NumericsError: `training.nonfinite` is `stop`, or more steps were left out than it allows.
    """
    config, progress = run.training, run.progress
    steps = run.recent[len(run.recent) - (progress.step - progress.checked) :]
    first, progress.checked = progress.checked, progress.step
    taken = torch.stack([step.taken for step in steps]).tolist() if steps else []
    for number, step in enumerate(steps, first):
        if taken[number - first]:
            continue
        found = describe_fault(step, list(run.balancer.weights))
        progress.left_out += 1
        advice = "resume from the last checkpoint with a lower training.lr, or training.precision=fp32"
        if config.nonfinite == "stop":
            raise NumericsError(f"{found} at step {number}. That step changed nothing; {advice}")
        logger.warning("%s at step %d; it was left out", found, number)
        if progress.left_out > config.nonfinite_limit:
            raise NumericsError(
                f"{found} at step {number}; {progress.left_out} steps were left out by now, more than "
                f"training.nonfinite_limit={config.nonfinite_limit}. {advice.capitalize()}"
            )


def check_weights(model: nn.Module) -> None:
    """Raise NumericsError where a weight or statistic is not finite; saved, it would replace a good one."""
    if bad := weights_not_finite(model):
        listed = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise NumericsError(
            f"weights that are not finite ({len(bad)}): {listed}; they were not saved. Resume from the last "
            "checkpoint with a lower training.lr"
        )


def weights_not_finite(model: nn.Module) -> list[str]:
    """Return the names of the weights and statistics that hold NaN or infinity."""
    floating = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.isfinite().all() for tensor in floating.values()]).tolist()
    return [name for name, fine in zip(floating, finite, strict=True) if not fine]


def describe_fault(step: Step, tasks: Sequence[str]) -> str:
    """Return what was not finite in a step that was left out, and on which images."""
    for finite, images in zip(step.finite.tolist(), step.images, strict=True):
        bad = [task for task, fine in zip(tasks, finite, strict=True) if not fine]
        if bad:
            return f"the loss of {', '.join(bad)} is not finite, on images {images},"
    bad = [task for task, fine in zip(tasks, step.gradients.tolist(), strict=True) if not fine]
    whose = "trunk" if not bad else f"head{'s' * (len(bad) > 1)} {', '.join(bad)}"
    images = list(chain(*step.images))
    return (
        f"the gradient of the {whose} is not finite, though the losses of {', '.join(tasks)} are, "
        f"on images {images},"
    )
