"""How seconds are measured: in turn, without the warm-up."""

from __future__ import annotations

import pytest
import torch

from vision_mtl.commands import timing
from vision_mtl.commands.timing import Timing, measure_in_turn, timing_of


class Clock:
    """Time that passes only where a call says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_median_and_quartiles_of_the_rounds_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    called: list[tuple[str, int]] = []
    seconds = {"slow": [900.0, 800.0, 5.0, 1.0, 4.0, 2.0, 3.0], "fast": [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]}

    def spend(name: str, i: int) -> None:
        called.append((name, i))
        clock.now += seconds[name][i]

    calls = {"slow": lambda i: spend("slow", i), "fast": lambda i: spend("fast", i)}
    found = measure_in_turn(calls, torch.device("cpu"), warm_up=2, rounds=5)
    assert found == {"slow": Timing(3.0, 2.0, 4.0), "fast": Timing(1.0, 1.0, 1.0)}
    assert called == [(name, i) for i in range(7) for name in ("slow", "fast")]


def test_one_value_is_its_own_median_and_quartiles() -> None:
    assert timing_of([2.5]) == Timing(2.5, 2.5, 2.5)
