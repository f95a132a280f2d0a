"""The optimiser, its learning-rate schedule and the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.training.config import TrainingConfig

Network = TypeVar("Network", bound=nn.Module)


def parameter_groups(
    model: MultiTaskModel, balancer: nn.Module, config: TrainingConfig, head_factors: Mapping[str, float]
) -> list[dict]:
    """Return optimiser groups by learning-rate factor and decay; each parameter is in just one.

    Vectors and scalars (norms, biases, learned balancing weights) have no weight decay.
    """
    body = config.trunk_lr_factor
    pyramid = body if config.pyramid_lr_factor is None else config.pyramid_lr_factor
    parts: list[tuple[float, nn.Module]] = [(body, model.trunk.body)]
    if model.trunk.fpn is not None:
        parts.append((pyramid, model.trunk.fpn))
    parts.append((1.0, balancer))
    parts += [(head_factors[name], head) for name, head in model.named_heads().items()]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for factor, module in parts:
        for parameter in module.parameters():
            if parameter.requires_grad:
                decay = config.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_factor": factor, "weight_decay": decay, "lr": config.lr * factor}
        for (factor, decay), parameters in groups.items()
    ]


def build_optimizer(groups: list[dict], config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser, with fused kernels: only those can be told on the device to leave out a step."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True)
    nesterov = config.momentum > 0
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=True)
    if config.momentum:
        # Its first step would make them, and leave them unwritten where that step is left out.
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def learning_rate_factor(step: int, total: int, config: TrainingConfig) -> float:
    """Return the factor on the peak learning rate at optimiser step `step` of `total`; a pure function.

    Linear warm-up, then a cosine (Loshchilov and Hutter, arXiv 1608.03983, eq. 5) to 0.01, or steps.
    """
    warmup = min(config.warmup_steps, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if config.schedule == "steps":
        return 0.1 ** sum(step >= share * total for share in config.milestones)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up what an optimiser remembers of the parameters, and the learning rate that it had reached; its
    other settings stay those that it was built with.

    Raises:
        ValueError: the state is that of another optimiser, or of other parameters.
    """
    settings = [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if saved.keys() != group.keys():
            raise ValueError("the state is of another optimiser")
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


class AveragedModel(Generic[Network]):
    """Exponential moving average of a model's weights and statistics.

    The decay grows from 0 with the number of updates, so that the random start is soon forgotten.

    Attributes:
        model: the averaged copy, in evaluation mode.
        updates: how often it was updated.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Network, taken: Tensor | None = None) -> None:
        """Move the average towards `model`; whole numbers (batch counters) are copied.

        Args:
            model: after an optimiser step.
            taken: () bool, whether that was taken; if not, the average stays as it is. None for yes.
        """
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.decay else 0.0
        own, new = list(_tensors(self.model)), list(_tensors(model))
        pairs = list(zip(own, new, strict=True))
        floating = [(a, b) for a, b in pairs if a.is_floating_point()]
        weight = torch.full((), 1 - decay, device=floating[0][0].device)  # filled there, not sent
        if taken is not None:
            weight = weight * taken
        torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], [weight] * len(floating))
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from (parameter.detach() for parameter in model.parameters())
    yield from model.buffers()
