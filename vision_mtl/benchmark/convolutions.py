"""The limit of a network: its convolutions alone, called again with tensors like those they were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # no public module has it

NAMES = ("aten::convolution", "aten::convolution_backward")


class TensorLike(NamedTuple):
    """What of a tensor decides how long a convolution takes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Convolution(NamedTuple):
    """A call of a convolution, its tensors replaced by what they are like."""

    operator: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Convolution] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name().partition(".")[0] in NAMES:
            self.calls.append(Convolution(func, tuple(_like(value) for value in args)))
        return func(*args, **(kwargs or {}))


def _like(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorLike(tuple(value.shape), tuple(value.stride()), value.dtype, value.device)
    return value


def record_convolutions(call: Callable[[], object]) -> list[Convolution]:
    """Call a function once and return its convolutions, those of backward passes included.

    In `torch.inference_mode` operators are not seen: the function has to do with `torch.no_grad`.
    """
    with _Record() as record:
        call()
    return record.calls


def replay(calls: list[Convolution]) -> Callable[[int], None]:
    """Return a function that does these convolutions and nothing else, on random numbers."""
    tensors: dict[TensorLike, Tensor] = {}

    def fresh(value: Any) -> Any:
        if not isinstance(value, TensorLike):
            return value
        if value not in tensors:
            empty = torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=value.device)
            tensors[value] = empty.normal_()
        return tensors[value]

    ready = [(operator, tuple(fresh(value) for value in arguments)) for operator, arguments in calls]

    @torch.no_grad()
    def convolve(_: int) -> None:
        for operator, arguments in ready:
            operator(*arguments)

    return convolve
