"""Every part of the benchmark, whole, with sizes that measure nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vision_mtl.benchmark.parts.eval import OURS, difference_note
from vision_mtl.benchmark.parts.input import PROFILED
from vision_mtl.benchmark.parts_command import Request, benchmark, changed_sizes, jobs, workspace
from vision_mtl.benchmark.process import Call
from vision_mtl.benchmark.results import read_results
from vision_mtl.errors import ConfigError, VisionMTLError

CPU = torch.device("cpu")
TABLES = {  # part -> table -> contenders that must be there, whatever the machine computes in
    "index": {
        "time": ["pycocotools.COCO", "ours, first read", "ours, from the cache"],
        "peak memory": ["pycocotools.COCO", "ours, first read", "ours, from the cache"],
        "worker": ["pycocotools.COCO", "ours"],
    },
    "input": {
        "flip": ["torchvision", "ours", "decoding alone, OpenCV"],
        "jitter": ["torchvision", "ours", "decoding alone, OpenCV"],
    },
    "train": {
        "batch 2": [
            "torchvision",
            "torchvision, memory kept",
            "ours",
            "ours, torchvision's towers",
            "convolutions of ours",
        ]
    },
    "infer": {
        "batch 2": ["torchvision, memory kept", "ours", "ours, torchvision's towers", "convolutions of ours"]
    },
    "joint": {
        "training": ["ours, detection alone", "ours, detection and two image heads"],
        "batch 2": [
            "two torchvision networks",
            "two torchvision networks, memory kept",
            "ours, detection alone",
            "ours, detection and two image heads",
        ],
    },
    "eval": {"evaluation": ["pycocotools", "ours, pycocotools inside", "ours, hotcoco inside"]},
    "memory": {"training": ["torchvision", "ours", "ours, torchvision's towers"]},
    "start": {"start": ["train.py --help", "infer.py, to its first prediction"]},
}
TARGETS = {"index": 4, "input": 2, "train": 2, "infer": 2, "joint": 3, "eval": 2, "memory": 2, "start": 2}


@contextmanager
def beside(make: Callable[..., Call], *arguments: Any) -> Iterator[Call]:
    """Make a call in this process, where the parts would make it in another."""
    yield make(*arguments)


def here(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call a function in this process, where the parts would start another."""
    return function(**arguments)


@pytest.mark.parametrize("name", list(TABLES))
def test_a_part_in_its_tiny_form(name: str) -> None:
    job = jobs(CPU)[name]
    options: dict[str, Any] = {"alone": here} if name in ("index", "memory") else {}
    if name in ("input", "train", "infer", "joint"):
        options["elsewhere"] = beside
    with workspace() as folder:
        tables = job.measure(job.quick, CPU, folder, **options)
    assert {table.name for table in tables} == set(TABLES[name])
    for table in tables:
        names = [figure.name for figure in table.figures]
        assert set(TABLES[name][table.name]) <= set(names)
        assert len(set(names)) == len(names)
        assert all(figure.lower <= figure.median <= figure.upper for figure in table.figures)
        assert all(figure.median > 0 for figure in table.figures if table.unit != "MB")
        for target in table.targets:
            table.judge(target)
        assert all(figure.limit in names for figure in table.figures if figure.limit is not None)
    targets = [target for table in tables for target in table.targets]
    assert len(targets) >= TARGETS[name]


def request(path: Path, **changes: Any) -> Request:
    values: dict[str, Any] = {"part": "train", "device": "cpu", "json": path, "profile": True, "plot": None}
    values |= {"quick": True, "folder": None, "command": "python tools/benchmark.py train"}
    return Request(**{**values, **changes})


@pytest.mark.parametrize("name", ["train", "infer"])
def test_a_profile(name: str, tmp_path: Path) -> None:
    job = jobs(CPU)[name]
    assert job.profile is not None
    with workspace() as folder:
        (found,) = job.profile(job.quick, CPU, folder, tmp_path / "trace.json.gz")
    kinds = {share.kind for share in found.shares}
    assert {"convolutions", "python and other"} <= kinds
    assert ("assignment of targets" in kinds) == (name == "train")
    assert "norms" in kinds or name == "infer"  # where they may be part of the convolutions
    assert (tmp_path / found.trace).is_file()


def test_a_profile_of_each_augmentation(tmp_path: Path) -> None:
    job = jobs(CPU)["input"]
    assert job.profile is not None
    with workspace() as folder:
        flip, jitter = job.profile(job.quick, CPU, folder, tmp_path / "traces" / "trace.json.gz")
    for found in (flip, jitter):
        assert {share.kind for share in found.shares} == {*PROFILED, "python and other"}
        assert (tmp_path / "traces" / found.trace).is_file()
    assert flip.trace != jitter.trace


def test_the_command_writes_its_file_and_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plot = tmp_path / "figures.json", tmp_path / "ratios.png"
    benchmark(request(path, part="eval", plot=plot))
    found = read_results(path).parts["eval"]
    assert found.quick
    assert found.device == "cpu"
    assert found.threads == torch.get_num_threads()
    assert {"torch", "pycocotools"} <= set(found.versions)
    assert plot.is_file()
    assert "eval (--quick" in capsys.readouterr().out


def test_a_wrong_results_file_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"figures\.json"):
        benchmark(request(path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--device: found cuda"):
        benchmark(request(tmp_path / "figures.json", device="cuda"))


def test_other_numbers_than_pycocotools_are_an_error() -> None:
    assert "all 2 numbers equal" in difference_note(
        OURS, {"mAP": 0.5, "APs": None}, {"mAP": 0.5, "APs": None}
    )
    with pytest.raises(VisionMTLError, match=r"mAP 0\.6, pycocotools 0\.5"):
        difference_note(OURS, {"mAP": 0.6}, {"mAP": 0.5})
    with pytest.raises(VisionMTLError, match="mAP None"):
        difference_note(OURS, {"mAP": None}, {"mAP": 0.5})


def test_sizes_are_changed_by_key() -> None:
    sizes = jobs(CPU)["infer"].full
    found = changed_sizes(sizes, ["batches=[1, 2]", "trunk=resnet18"])
    assert found.batches == (1, 2)
    assert found.trunk == "resnet18"
    assert found.height == sizes.height == 512
    with pytest.raises(ConfigError, match=r"--set batch=2: unknown key 'batch'; did you mean 'batches'\?"):
        changed_sizes(sizes, ["batch=2"])
    with pytest.raises(ConfigError, match="--set rounds=few"):
        changed_sizes(sizes, ["rounds=few"])


def test_a_gpu_gets_images_of_cocos_size() -> None:
    assert jobs(torch.device("cuda"))["train"].full.batch == 16
    assert jobs(torch.device("cuda"))["infer"].full.width == 1333
    assert jobs(CPU)["train"].full.batch == 4


def test_the_workspace_keeps_caches_to_itself() -> None:
    before = os.environ.get("VISION_MTL_CACHE")
    with workspace() as folder:
        assert os.environ["VISION_MTL_CACHE"] == str(folder / "cache")
    assert os.environ.get("VISION_MTL_CACHE") == before
    assert not folder.exists()
