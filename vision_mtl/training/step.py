"""One optimiser step: batches to losses, losses to gradients, gradients to weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vision_mtl.errors import NumericsError
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Batch
from vision_mtl.training.balancing import Shares, label_shares
from vision_mtl.training.conflict import measure_conflict
from vision_mtl.training.run import Run

Losses = dict[str, dict[str, Tensor]]  # head -> term -> loss ()


def optimizer_step(
    run: Run, batches: Sequence[Batch], compare: bool = False
) -> tuple[Losses, dict[str, Any] | None]:
    """Take one optimiser step on `batches`, each task's loss being the mean over its labelled images.

    Args:
        run: what is trained.
        batches: accumulated to one step.
        compare: measure whether the tasks of the first batch conflict.

    Returns:
        the last batch's losses, still on the device, and the tasks' gradients on the trunk compared, None
        where there is nothing to compare.

    Raises:
        NumericsError: a loss or gradient is not finite; no weight is touched.
    """
    run.optimizer.zero_grad(set_to_none=True)
    heads = {name: run.model.named_heads()[name] for name in run.balancer.weights}
    shares = label_shares(
        [{name: head.count_labels(batch) for name, head in heads.items()} for batch in batches]
    )
    shared = [p for p in run.model.trunk.parameters() if p.requires_grad]
    own = {name: [p for p in head.parameters() if p.requires_grad] for name, head in heads.items()}
    losses: Losses = {}
    conflict: dict[str, Any] | None = None

    def parts() -> Iterator[dict[str, Tensor]]:
        nonlocal losses, conflict
        for i, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            terms = batch_losses(run, batch)
            tasks = _sums(terms)
            _check_finite(run, tasks, batch)
            labelled = [name for name in tasks if share[name]]
            if compare and i == 0 and shared and len(labelled) > 1:
                weighted = {name: run.balancer.weights[name] * tasks[name] for name in labelled}
                conflict = measure_conflict(weighted, shared)
            losses = {
                name: {term: loss.detach() for term, loss in named.items()} for name, named in terms.items()
            }
            yield tasks

    run.balancer.backward(parts(), shares, shared, own)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, run.training.clip or float("inf"), foreach=True)
    if not torch.isfinite(norm):
        raise NumericsError(
            f"the gradient is not finite at step {run.progress.step}. No weight was changed; resume from the "
            "last checkpoint with a lower training.lr, or training.precision=fp32"
        )
    run.optimizer.step()
    run.balancer.after_step(shares, lambda: losses_again(run, batches, shares))
    run.average.update(run.model)
    return losses, conflict


def batch_losses(run: Run, batch: Batch) -> Losses:
    """Return the losses of one batch, of the heads that are trained."""
    moved = batch.to(run.device)
    with mixed_precision(run.device, run.dtype):
        features, outputs = run.model(moved.images, moved.sizes)
    losses = run.model.losses(features, outputs, moved)
    return {name: losses[name] for name in run.balancer.weights}


@torch.no_grad()
def losses_again(run: Run, batches: Sequence[Batch], shares: Sequence[Shares]) -> dict[str, Tensor]:
    """Return a step's task losses with the weights as they are now; statistics and generators are kept."""
    buffers = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        parts = [_sums(batch_losses(run, batch)) for batch in batches]
    for name, buffer in run.model.named_buffers():
        buffer.copy_(buffers[name])
    return {
        name: torch.stack(
            [tasks[name] * share[name] for tasks, share in zip(parts, shares, strict=True)]
        ).sum()
        for name in parts[0]
    }


def _sums(losses: Losses) -> dict[str, Tensor]:
    """Return each task's loss, the sum of its terms."""
    return {name: torch.stack(list(terms.values())).sum() for name, terms in losses.items()}


def _check_finite(run: Run, tasks: dict[str, Tensor], batch: Batch) -> None:
    if not torch.isfinite(torch.stack(list(tasks.values()))).all():
        bad = [name for name, task in tasks.items() if not torch.isfinite(task)]
        ids = [meta.image_id for meta in batch.metas]
        raise NumericsError(
            f"the loss of {', '.join(bad)} is not finite at step {run.progress.step}, "
            f"on images {ids}. No weight was changed; resume from the last checkpoint with a lower "
            "training.lr, or training.precision=fp32"
        )
