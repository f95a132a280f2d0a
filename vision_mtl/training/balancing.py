"""How the gradients of several tasks become one step, given only the tasks that are labelled in it.

The methods are TorchJD's (https://torchjd.org), of three kinds:

- each loss by itself (`fixed`, `uw`, `imtl_l`): a factor on it, given or learned;
- all losses to one (`dwa`, `famo`, `geometric`, `random`, `stch`): a function of the losses of a step;
- all gradients to one (`mgda`, `pcgrad`, ...): the tasks' gradients on the weights that they share, rows of a
  Jacobian, are aggregated, at the cost of a backward pass of the trunk per task. What belongs to one head
  alone gets the gradient of that head's loss as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torchjd import aggregation, scalarization

from vision_mtl.errors import ConfigError
from vision_mtl.training.balancing_state import load_method_state, method_state
from vision_mtl.training.config import BalancingConfig

Tasks = Mapping[str, Tensor]  # head -> loss ()
Shares = Mapping[str, float]  # head -> which share of the step's labelled images a part holds
LEARNED = {"uw": scalarization.UW, "imtl_l": scalarization.IMTLL}
LEAST = 1e-8  # of a loss: some methods take logarithms, which have no gradient at 0


def label_shares(counts: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    """Return each part's share of a step's labelled images, by task; all 0 for a task without any.

    Args:
        counts: of each part, task -> labelled images.
    """
    totals = {name: max(1, sum(part[name] for part in counts)) for name in counts[0]}
    return [{name: count / totals[name] for name, count in part.items()} for part in counts]


def build_method(config: BalancingConfig, tasks: int) -> Any:
    """Return TorchJD's method for this number of tasks; None where each loss is taken by itself.

    Raises:
        ConfigError: it needs packages that are not installed.
    """
    makers: dict[str, Callable[[], Any]] = {
        "dwa": lambda: scalarization.DWA(config.dwa_temperature),
        "famo": lambda: scalarization.FAMO(tasks, lr=config.famo_lr),
        "geometric": scalarization.GeometricMean,
        "random": scalarization.Random,
        "stch": lambda: scalarization.STCH(config.stch_mu),
        "mgda": aggregation.MGDA,
        "pcgrad": aggregation.PCGrad,
        "cagrad": lambda: aggregation.CAGrad(config.cagrad_c),
        "imtl_g": aggregation.IMTLG,
        "aligned_mtl": aggregation.AlignedMTL,
        "nash_mtl": lambda: aggregation.NashMTL(tasks),
        "upgrad": aggregation.UPGrad,
        "gradvac": lambda: aggregation.GradVac(config.gradvac_beta),
        "graddrop": aggregation.GradDrop,
    }
    try:
        return makers.get(config.method, lambda: None)()
    except ImportError as error:
        raise ConfigError(
            f"balancing.method: '{config.method}' needs packages that are not installed ({error}); "
            "run python -m pip install -e '.[balancing]' in the project's folder, or choose another method"
        ) from error


class Balancer(nn.Module):
    """Turns task losses into gradients. Its parameters, if any, are trained with the network's.

    A method that remembers has one memory for each set of tasks that are labelled together: a step without
    a task's labels leaves what was learned about that task as it was.

    Args:
        config: the method.
        weights: task -> factor on its loss, the heads' `weight`.
        device: of the losses.

    Raises:
        ConfigError: the method needs packages that are not installed.
    """

    def __init__(
        self, config: BalancingConfig, weights: Mapping[str, float], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        build_method(config, len(weights))  # now, and not in the first step, to find what is missing
        self.config, self.weights, self.device = config, dict(weights), device
        learned = weights if config.method in LEARNED else ()
        self.learned = nn.ModuleDict({name: LEARNED[config.method](1) for name in learned}).to(device)
        self.methods: dict[tuple[str, ...], Any] = {}

    def backward(
        self,
        parts: Iterable[Tasks],
        shares: Sequence[Shares],
        shared: Sequence[nn.Parameter],
        own: Mapping[str, Sequence[nn.Parameter]],
    ) -> None:
        """Add the gradients of one optimiser step to the parameters' `grad`.

        A task's loss of the step is the mean over its labelled images, so the parts' losses are weighed by
        their shares of those. A task that has none in the whole step has no say, and its own parameters get
        a gradient of zero.

        Args:
            parts: the losses of each accumulated batch in turn. A part's graph is freed before the next part
                is computed, but for the methods that need all losses at once.
            shares: of each part, from `label_shares`.
            shared: parameters on which several tasks' losses depend.
            own: task -> parameters on which no other task's loss depends.
        """
        labelled = self.labelled(shares)
        method = self.method_of(labelled)
        if isinstance(method, scalarization.Scalarizer):
            self._scalarize(method, parts, shares, labelled)
        elif isinstance(method, aggregation.Aggregator) and len(labelled) > 1 and shared:
            self._aggregate(method, parts, shares, labelled, shared, own)
        else:
            self._add_up(parts, shares)

    def labelled(self, shares: Sequence[Shares]) -> tuple[str, ...]:
        """Return the tasks that have a labelled image in any part of a step."""
        return tuple(name for name in self.weights if any(share[name] for share in shares))

    def method_of(self, labelled: tuple[str, ...]) -> Any:
        """Return what balances these tasks, made when they first occur together; None for plain sums."""
        if labelled and labelled not in self.methods:
            method = build_method(self.config, len(labelled))
            self.methods[labelled] = None if method is None else method.to(self.device)
        return self.methods.get(labelled)

    def _add_up(self, parts: Iterable[Tasks], shares: Sequence[Shares]) -> None:
        """Balance each loss by itself: affine in the loss, so the parts' terms add up to the step's."""
        for tasks, share in zip(parts, shares, strict=True):
            total = _zero(tasks)
            for name, weight in self.weights.items():
                if share[name]:
                    loss = weight * tasks[name]
                    total = total + share[name] * (
                        self.learned[name](loss[None]) if name in self.learned else loss
                    )
            total.backward()

    def _scalarize(
        self, method: Any, parts: Iterable[Tasks], shares: Sequence[Shares], labelled: Sequence[str]
    ) -> None:
        """Balance all losses of the step by one function, which holds the graphs of all parts."""
        held = list(parts)
        values = [
            torch.stack(
                [
                    self.weights[name] * share[name] * tasks[name]
                    for tasks, share in zip(held, shares, strict=True)
                ]
            ).sum()
            for name in labelled
        ]
        total = method(torch.stack(values).clamp(min=LEAST))
        (total + torch.stack([_zero(tasks) for tasks in held]).sum()).backward()

    def _aggregate(
        self,
        method: Any,
        parts: Iterable[Tasks],
        shares: Sequence[Shares],
        labelled: Sequence[str],
        shared: Sequence[nn.Parameter],
        own: Mapping[str, Sequence[nn.Parameter]],
    ) -> None:
        """Balance the gradients on the shared parameters; the sum of the parts' Jacobians is the step's.

        TorchJD's `mtl_backward` would do this from the features on, and count the gradient twice wherever
        one feature map is computed from another, as c5 is from c4.
        """
        jacobian = torch.zeros(len(labelled), sum(p.numel() for p in shared), device=self.device)
        for tasks, share in zip(parts, shares, strict=True):
            for row, name in enumerate(labelled):
                if share[name]:
                    loss = self.weights[name] * share[name] * tasks[name]
                    gradients = gradient(loss, [*shared, *own[name]])
                    jacobian[row] += torch.cat([part.flatten() for part in gradients[: len(shared)]])
                    _add(own[name], gradients[len(shared) :])
        for name in own.keys() - set(labelled):
            _add(own[name], [torch.zeros_like(parameter) for parameter in own[name]])
        # Solvers fail on numbers that are not finite, and some on zeros: they get tasks that have nothing
        # in common instead. The step is left out by the gradient that is not finite.
        finite = jacobian.isfinite().all()
        aggregated = method(torch.where(finite, jacobian, torch.eye(*jacobian.shape, device=self.device)))
        flat = torch.where(finite, aggregated, torch.nan).split([p.numel() for p in shared])
        _add(shared, [part.view(p.shape) for part, p in zip(flat, shared, strict=True)])

    def after_step(self, shares: Sequence[Shares], losses_again: Callable[[], Tasks]) -> None:
        """Learn from what the optimiser's step did to the losses, if the method does.

        Args:
            shares: of the step's parts.
            losses_again: returns the step's losses, the mean over its parts, with the new weights on the same
                images; called only by the methods that need it.
        """
        labelled = self.labelled(shares)
        method = self.methods.get(labelled)
        if isinstance(method, scalarization.FAMO):
            tasks = losses_again()
            values = torch.stack([self.weights[name] * tasks[name] for name in labelled])
            if values.isfinite().all():  # if not, the next step will be left out, and say so
                method.update(values.clamp(min=LEAST))

    def memory(self) -> dict[str, Any]:
        """Return a copy of what the methods remember, for `restore`."""
        return deepcopy(self.get_extra_state())

    def restore(self, memory: dict[str, Any], keep: Tensor) -> None:
        """Forget what was learned since `memory`, unless `keep` () bool holds.

        Only methods that remember look at it, and those wait for the device anyway.
        """
        if any(self.get_extra_state().values()) and not keep:
            self.set_extra_state(memory)

    def end_epoch(self) -> None:
        """Note that an epoch is over, if the method compares epochs."""
        for method in self.methods.values():
            if isinstance(method, scalarization.DWA):
                method.step()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the methods remember, as plain types and tensors, by the tasks' names."""
        return {",".join(tasks): method_state(method) for tasks, method in self.methods.items()}

    def set_extra_state(self, state: Any) -> None:
        """Take up what `get_extra_state` returned."""
        self.methods = {}
        for names, remembered in state.items():
            method = self.method_of(tuple(names.split(",")))
            load_method_state(method, remembered, self.device)


def gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of a loss () on each parameter, zero where it does not depend on it.

    The graph is kept.
    """
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(parameter) if part is None else part
        for part, parameter in zip(found, parameters, strict=True)
    ]


def _add(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Add to the parameters' `grad`, which has their memory layout: fused optimisers ask for it."""
    for parameter, part in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad += part


def _zero(tasks: Tasks) -> Tensor:
    """Return zero (), as a function of all losses: it gives all parameters a gradient."""
    return torch.stack([loss * 0.0 for loss in tasks.values()]).sum()
