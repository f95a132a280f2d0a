"""Seconds of several calls, measured in turn, so that none has a better hour."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import msgspec
import torch

Key = TypeVar("Key", bound=Hashable)


class Timing(msgspec.Struct, frozen=True):
    """Seconds of one call, several times: the median and the quartiles."""

    median: float
    lower: float
    upper: float


def timing_of(seconds: Sequence[float]) -> Timing:
    """Return median and quartiles of one or more values; of one value it is all three."""
    if len(seconds) == 1:
        return Timing(seconds[0], seconds[0], seconds[0])
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper)


def measure_in_turn(
    calls: Mapping[Key, Callable[[int], object]], device: torch.device, warm_up: int, rounds: int
) -> dict[Key, Timing]:
    """Call each once a round and return what the rounds after the warm-up took.

    Args:
        calls: what to measure; each gets the number of the round.
        device: where they run.
        warm_up: rounds that are not counted.
        rounds: rounds that are, at least 1.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for i in range(warm_up + rounds):
        for key, call in calls.items():
            _wait(device)
            started = time.perf_counter()
            call(i)
            _wait(device)
            seconds[key].append(time.perf_counter() - started)
    return {key: timing_of(values[warm_up:]) for key, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
