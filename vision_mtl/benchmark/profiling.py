"""Where a call spends its time, by kind of operator or of function."""

from __future__ import annotations

import cProfile
import pstats
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from vision_mtl.benchmark.results import Profile, Share

ASSIGNMENT, OPTIMISER, REST = "assignment of targets", "optimiser, clipping, average", "python and other"
# The first kind with a word in the operator's name is the operator's.
KINDS: dict[str, tuple[str, ...]] = {
    "convolutions": ("aten::conv", "aten::_conv", "aten::mkldnn_conv", "aten::cudnn_conv", "aten::slow_conv"),
    "norms": ("batch_norm", "group_norm"),
    "NMS": ("torchvision::nms",),
    OPTIMISER: ("aten::_foreach_", "aten::_fused_", "Optimizer."),
    "copies and joins": (
        "aten::copy_",
        "aten::to",
        "aten::_to_copy",
        "aten::clone",
        "aten::contiguous",
        "aten::cat",
        "aten::stack",
        "aten::fill_",
        "aten::zero_",
    ),
    "elementwise, reductions, sorting": ("aten::",),
}


def kind_of(names: list[str]) -> str:
    """Return the kind of an operator.

    Args:
        names: its own, and those of all that it was called from, from the inside out.
    """
    if ASSIGNMENT in names:
        return ASSIGNMENT
    if any(name.startswith("Optimizer.") for name in names):
        return OPTIMISER
    for kind, words in KINDS.items():
        if any(word in names[0] for word in words):
            return kind
    return REST


@contextmanager
def region(kind: str, owner: Any, method: str) -> Iterator[None]:
    """Let all that an object's method does count as `kind` in a profile."""
    inner = getattr(owner, method)

    def outer(*args: Any, **kwargs: Any) -> Any:
        with record_function(kind):
            return inner(*args, **kwargs)

    setattr(owner, method, outer)
    try:
        yield
    finally:
        delattr(owner, method)


def profile_call(name: str, call: Callable[[int], object], device: torch.device, trace: Path) -> Profile:
    """Profile the second call of a function and write its trace, for chrome://tracing or Perfetto.

    On a GPU the kinds share the time of its kernels, and the rest is the time without one.

    Args:
        name: of the profile.
        call: what to profile; gets the number of the call.
        device: where it runs.
        trace: file, `.json` or `.json.gz`; its folder is made if need be.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    call(0)
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        call(1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        milliseconds = 1000 * (time.perf_counter() - started)
    spent: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type.name == "CPU":  # kernels are counted with the operators that start them
            on_cpu, on_gpu = event.self_cpu_time_total, event.self_device_time_total
            spent[kind_of(_chain(event))] += (on_cpu if device.type == "cpu" else on_gpu) / 1000
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(trace))
    return Profile(name, round(milliseconds, 3), shares_of(spent, milliseconds), trace.name)


def profile_functions(
    name: str, call: Callable[[int], object], calls: int, kinds: Mapping[str, Sequence[str]], trace: Path
) -> Profile:
    """Profile calls of a function that is no network, and write what each function in it took.

    Args:
        name: of the profile.
        call: what to profile; gets the number of the call.
        calls: how often; the shares are those of one.
        kinds: kind -> names of the functions that are of it, with all that these call. None may call
            another that is named.
        trace: file for Python's `pstats`; its folder is made if need be.
    """
    call(0)
    with cProfile.Profile() as profiler:
        started = time.perf_counter()
        for i in range(1, calls + 1):
            call(i)
        milliseconds = 1000 * (time.perf_counter() - started) / calls
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.dump_stats(str(trace))
    spent: Counter[str] = Counter()
    for (_, _, function), (_, _, _, seconds, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        for kind, functions in kinds.items():
            # Of functions written in C the name has more around it.
            if any(re.search(rf"\b{named}\b", function) for named in functions):
                spent[kind] += 1000 * seconds / calls
    return Profile(name, round(milliseconds, 3), shares_of(spent, milliseconds), trace.name)


def shares_of(spent: Mapping[str, float], milliseconds: float) -> list[Share]:
    """Return the kinds' milliseconds, largest first; what no operator took is the rest."""
    known = {kind: value for kind, value in spent.items() if kind != REST}
    known[REST] = max(0.0, milliseconds - sum(known.values()))
    ordered = sorted(known.items(), key=lambda item: -item[1])
    return [Share(kind, round(value, 3)) for kind, value in ordered if value > 0]


def _chain(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names
