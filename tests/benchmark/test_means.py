"""What the parts measure by: fresh processes, convolutions alone, profiles."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pstats
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vision_mtl.benchmark.convolutions import record_convolutions, replay
from vision_mtl.benchmark.process import Call, apart, dirtied_by_fork, in_fresh_process, measured
from vision_mtl.benchmark.profiling import (
    ASSIGNMENT,
    OPTIMISER,
    REST,
    kind_of,
    profile_call,
    profile_functions,
    region,
    shares_of,
)
from vision_mtl.benchmark.readers import read_ours
from vision_mtl.benchmark.results import Share
from vision_mtl.errors import VisionMTLError


def test_memory_that_is_freed_again_counts() -> None:
    def take() -> None:
        with mmap.mmap(-1, 64_000_000) as pages:  # not from the allocator, which may have kept as much
            np.frombuffer(pages, np.uint8)[:] = 1

    usage = measured(take)
    assert 60 < usage.megabytes < 80
    assert usage.seconds > 0
    assert measured(lambda: None).megabytes < 20


def test_a_workers_own_memory_is_what_it_writes() -> None:
    shared = np.ones(4_000_000)
    assert dirtied_by_fork(lambda: shared.sum()) < 8
    assert 28 < dirtied_by_fork(lambda: shared.fill(2.0)) < 45


def test_a_function_in_a_fresh_process(tiny_coco_root: Path, tmp_path: Path) -> None:
    path = str(tiny_coco_root / "annotations.json")
    usage = in_fresh_process(read_ours, path=path, cache=str(tmp_path))
    assert usage["seconds"] > 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_in_a_fresh_process_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(VisionMTLError, match="read_ours ended with code 1"):
        in_fresh_process(read_ours, path=str(tmp_path / "missing.json"), cache=str(tmp_path))


def writes_its_number(folder: Path, fails_at: int) -> Call:
    def call(i: int) -> None:
        assert i != fails_at
        (folder / str(i)).write_text(str(os.getpid()))

    return call


def test_calls_of_another_process_are_done_when_they_return(tmp_path: Path) -> None:
    with apart(writes_its_number, tmp_path, 5) as call:
        call(2)
        call(3)
        processes = {(tmp_path / name).read_text() for name in ("2", "3")}
        assert len(processes) == 1
        assert str(os.getpid()) not in processes
        with pytest.raises(VisionMTLError, match="writes_its_number ended in a process of its own"):
            call(5)
    assert multiprocessing.active_children() == []


def test_recorded_convolutions_are_those_of_both_directions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    images = torch.rand(2, 3, 16, 16)
    calls = record_convolutions(lambda: network(images).sum().backward())
    names = [call.operator.name() for call in calls]  # type: ignore[attr-defined]
    assert names == ["aten::convolution"] * 2 + ["aten::convolution_backward"] * 2
    assert [call.arguments[0].shape for call in calls[:2]] == [(2, 3, 16, 16), (2, 8, 16, 16)]


def test_a_replay_does_the_recorded_convolutions_and_nothing_else() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(
        memory_format=torch.channels_last  # type: ignore[call-overload]
    )
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        calls = record_convolutions(lambda: network(images))
    again = replay(calls)
    assert record_convolutions(lambda: again(0)) == calls


def test_kinds_of_operators() -> None:
    assert kind_of(["aten::mkldnn_convolution", "aten::_convolution"]) == "convolutions"
    assert kind_of(["aten::convolution_backward"]) == "convolutions"
    assert kind_of(["aten::native_batch_norm"]) == "norms"
    assert kind_of(["torchvision::nms"]) == "NMS"
    assert kind_of(["aten::copy_", "aten::_to_copy"]) == "copies and joins"
    assert kind_of(["aten::mul"]) == "elementwise, reductions, sorting"
    assert kind_of(["aten::topk", "aten::sort", ASSIGNMENT]) == ASSIGNMENT
    assert kind_of(["aten::mul", "Optimizer.step#SGD.step"]) == OPTIMISER
    assert kind_of(["ProfilerStep"]) == REST


def test_shares_add_up_to_the_whole() -> None:
    found = shares_of({"norms": 2.0, "convolutions": 5.0, REST: 0.5}, 10.0)
    assert found == [Share("convolutions", 5.0), Share(REST, 3.0), Share("norms", 2.0)]


class Owner:
    def assign(self, values: torch.Tensor) -> torch.Tensor:
        return values.sort().values


def test_a_profile_names_the_kinds_and_leaves_a_trace(tmp_path: Path) -> None:
    owner, layer, images = Owner(), nn.Conv2d(3, 8, 3), torch.rand(1, 3, 32, 32)
    trace = tmp_path / "traces" / "trace.json.gz"
    with region(ASSIGNMENT, owner, "assign"):
        found = profile_call("step", lambda _: owner.assign(layer(images)), torch.device("cpu"), trace)
    kinds = {share.kind: share.milliseconds for share in found.shares}
    assert kinds[ASSIGNMENT] > 0
    assert kinds["convolutions"] > 0
    assert sum(kinds.values()) == pytest.approx(found.milliseconds, abs=0.05)
    assert found.trace == trace.name
    assert trace.stat().st_size > 0
    assert "assign" not in vars(owner)


def halves(text: str) -> list[str]:
    return text.split(" ")


def wait(seconds: float) -> None:
    time.sleep(seconds)


def test_a_profile_of_functions_counts_what_they_call_and_those_written_in_c(tmp_path: Path) -> None:
    def call(_: int) -> None:
        wait(0.004)
        halves("a b")
        sorted(range(1000), key=lambda value: -value)

    trace = tmp_path / "traces" / "call.pstats"
    kinds = {"waiting": ("wait",), "sorting": ("sorted",), "splitting": ("halves",), "absent": ("decode",)}
    found = profile_functions("call", call, 3, kinds, trace)
    spent = {share.kind: share.milliseconds for share in found.shares}
    assert set(spent) == {"waiting", "sorting", "splitting", REST}
    assert spent["waiting"] >= 4 > spent["splitting"]
    assert sum(spent.values()) == pytest.approx(found.milliseconds, abs=0.01)
    assert pstats.Stats(str(trace)).total_calls >= 9  # type: ignore[attr-defined]
