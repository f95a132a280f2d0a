"""Two tasks on one shared point, whose losses and gradients are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from vision_mtl.training.balancing import Balancer, label_shares
from vision_mtl.training.config import BalancingConfig

METHODS: tuple[str, ...] = get_args(get_type_hints(BalancingConfig)["method"])
NEEDED = {"cagrad": ("cvxpy", "clarabel"), "nash_mtl": ("cvxpy", "ecos"), "upgrad": ("qpsolvers", "quadprog")}
BOTH = {"a": 1, "b": 1}


def parametrized(methods: tuple[str, ...] = METHODS) -> list[Any]:
    """Return the methods as pytest parameters, those that need packages marked to skip without them."""
    return [
        pytest.param(
            method,
            marks=pytest.mark.skipif(
                any(find_spec(name) is None for name in NEEDED.get(method, ())),
                reason=f"{method} needs the extra `balancing`",
            ),
        )
        for method in methods
    ]


class Toy:
    """A shared point (2,) and a balancer of the tasks `a` and `b`."""

    def __init__(self, method: str, start: tuple[float, float] = (0.0, 0.0), **options: Any) -> None:
        torch.manual_seed(0)
        self.point = nn.Parameter(torch.tensor(start))
        self.balancer = Balancer(BalancingConfig(method=method, **options), {"a": 1.0, "b": 1.0})  # type: ignore[arg-type]
        learned = list(self.balancer.parameters())
        self.optimizer = torch.optim.SGD([self.point, *learned], lr=0.1)

    def gradient(
        self, losses: Callable[[Tensor], Mapping[str, Tensor]], counts: Mapping[str, int] = BOTH
    ) -> Tensor:
        """Return the combined gradient (2,) on the point."""
        self.optimizer.zero_grad()
        own: dict[str, list[nn.Parameter]] = {"a": [], "b": []}
        self.balancer.backward(iter([losses(self.point)]), label_shares([counts]), [self.point], own)
        assert self.point.grad is not None
        return self.point.grad

    def step(
        self, losses: Callable[[Tensor], Mapping[str, Tensor]], counts: Mapping[str, int] = BOTH
    ) -> None:
        """Take one step of gradient descent, as the engine does."""
        self.gradient(losses, counts)
        self.optimizer.step()
        with torch.no_grad():
            self.balancer.after_step(label_shares([counts]), lambda: losses(self.point))


def linear(
    a: tuple[float, float], b: tuple[float, float], values: tuple[float, float] = (1.0, 1.0)
) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """Return losses with gradients `a` and `b` everywhere, and `values` at the origin."""
    return lambda point: {
        "a": torch.tensor(a) @ point + values[0],
        "b": torch.tensor(b) @ point + values[1],
    }


def quadratic(point: Tensor) -> Mapping[str, Tensor]:
    """Return half the squared distances from (1, 0), and nine times that from (0, 1); a little above 0."""
    return {
        "a": (point - torch.tensor([1.0, 0.0])).square().sum() / 2 + 0.1,
        "b": 9 * (point - torch.tensor([0.0, 1.0])).square().sum() / 2 + 0.1,
    }
