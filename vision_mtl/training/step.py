"""One optimiser step: batches to losses, losses to gradients, gradients to weights.

Nothing here waits for a GPU: what a step finds stays on the device until the log reads it. A step whose
numbers are not finite is therefore undone there, by a flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Batch
from vision_mtl.training.balancing import Shares, label_shares
from vision_mtl.training.conflict import measure_conflict
from vision_mtl.training.run import Losses, Run, Step


def optimizer_step(run: Run, batches: Sequence[Batch], compare: bool = False) -> Step:
    """Take one optimiser step on `batches`, each task's loss being the mean over its labelled images.

    A step of which a loss or the gradient is not finite changes no parameter, buffer or average, and neither
    the optimiser's nor the balancer's state.

    Args:
        run: what is trained.
        batches: accumulated to one step.
        compare: measure whether the tasks of the first batch conflict.
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
    finite: list[Tensor] = []

    def parts() -> Iterator[dict[str, Tensor]]:
        """Yield each batch's losses by task, each (), one graph at a time."""
        nonlocal losses, conflict
        for i, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            terms = batch_losses(run, batch)
            tasks = _sums(terms)
            finite.append(torch.stack(list(tasks.values())).detach().isfinite())
            labelled = [name for name in tasks if share[name]]
            if compare and i == 0 and shared and len(labelled) > 1:
                weighted = {name: run.balancer.weights[name] * tasks[name] for name in labelled}
                conflict = measure_conflict(weighted, shared)
            losses = {
                name: {term: loss.detach() for term, loss in named.items()} for name, named in terms.items()
            }
            yield tasks

    memory = run.balancer.memory()
    buffers = pack(changing_buffers(run.model))
    run.balancer.backward(parts(), shares, shared, own)
    norm, gradients = clip_gradient(run, own)
    flags = torch.stack(finite)
    taken = flags.all() & norm.isfinite()
    unpack(changing_buffers(run.model), buffers, keep=taken)
    with skipping(run.optimizer, ~taken):
        run.optimizer.step()
    run.balancer.after_step(shares, lambda: losses_again(run, batches, shares))
    run.balancer.restore(memory, keep=taken)
    run.average.update(run.model, taken)
    images = [[meta.image_id for meta in batch.metas] for batch in batches]
    return Step(losses, flags, gradients, taken, images, conflict)


def clip_gradient(run: Run, own: Mapping[str, Sequence[nn.Parameter]]) -> tuple[Tensor, Tensor]:
    """Scale the gradient to a norm of at most `training.clip`.

    Args:
        run: what is trained.
        own: task -> its own parameters.

    Returns:
        the norm before (), and for each task whether the gradient on its own parameters is finite (T,) bool.
    """
    parameters = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    norms = torch._foreach_norm([p.grad for p in parameters])
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch.nn.utils.clip_grads_with_norm_(parameters, run.training.clip or float("inf"), norm, foreach=True)
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    zero = torch.zeros_like(norm)  # for a task without parameters
    of_tasks = [[norms[places[id(p)]] for p in mine if id(p) in places] for mine in own.values()]
    return norm, torch.stack([torch.stack([zero, *found]).isfinite().all() for found in of_tasks])


@contextmanager
def skipping(optimizer: torch.optim.Optimizer, skip: Tensor) -> Iterator[None]:
    """Let the fused optimiser's next step do nothing where `skip` () bool holds.

    It is the flag by which gradient scalers tell fused optimisers that a gradient overflowed.
    """
    optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]


def changing_buffers(model: nn.Module) -> list[Tensor]:
    """Return the statistics that a forward pass in training mode changes."""
    return [
        buffer
        for module in model.modules()
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]


def pack(tensors: Sequence[Tensor]) -> dict[torch.dtype, Tensor]:
    """Return a copy of the tensors' values, those of one type in one row."""
    types = dict.fromkeys(tensor.dtype for tensor in tensors)
    return {
        dtype: torch.cat([tensor.flatten() for tensor in tensors if tensor.dtype == dtype]) for dtype in types
    }


def unpack(tensors: Sequence[Tensor], old: dict[torch.dtype, Tensor], keep: Tensor) -> None:
    """Set the tensors back to what `pack` copied, unless `keep` () bool holds."""
    for dtype, new in pack(tensors).items():
        chosen = [tensor for tensor in tensors if tensor.dtype == dtype]
        values = torch.where(keep, new, old[dtype]).split([tensor.numel() for tensor in chosen])
        torch._foreach_copy_(chosen, [row.view_as(t) for row, t in zip(values, chosen, strict=True)])


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
