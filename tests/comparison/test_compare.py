"""A whole comparison on a tiny data set, and every way to ask for one wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.comparison.arena import Request
from vision_mtl.comparison.command import compare
from vision_mtl.comparison.costs import measure_costs
from vision_mtl.errors import ConfigError, VisionMTLError
from vision_mtl.heads.classification import ClassificationHead

TOOL = Path(__file__).resolve().parents[2] / "tools" / "compare.py"
DETECTOR = "{type: fcos, depth: 1}"
KIND = "{type: classification, source: attribute, field: kind}"


@pytest.fixture
def config(tiny_coco_root: Path, tmp_path: Path) -> Path:
    source = "[{images: images, annotations: annotations.json}]"
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
data: {{root: {tiny_coco_root}, train: {source}, val: {source}, workers: 0, batch_size: 4,
  eval_batch_size: 2, resize: {{shorter: 32, longer: 48}}}}
trunk: {{name: resnet18, channels: 32}}
heads: {{objects: {DETECTOR}, kind: {KIND}}}
training: {{epochs: 1, precision: fp32, ema: 0.0}}
""",
        encoding="utf-8",
    )
    return path


def request(config: Path, *overrides: str, **changes: Any) -> Request:
    settings: dict[str, Any] = {
        "seeds": 1,
        "methods": (),
        "combine": False,
        "short_share": 0.25,
        "factors": (1.0,),
        "output": config.parent / "out",
        "results": None,
        "command": "python tools/compare.py tiny.yaml",
    }
    return Request(config=str(config), overrides=overrides, **{**settings, **changes})


def refuse(*arguments: object) -> Any:
    pytest.fail("was run again")


quickly = partial(measure_costs, warm_up=1, rounds=2)


def test_from_a_config_to_a_page_and_never_twice(config: Path) -> None:
    asked = request(config, combine=True)
    results = compare(asked, measure=quickly)
    names = ["objects", "kind", "joint-fixed"]
    assert [run.folder for run in results.runs] == [
        *(f"full-{name}-lr0.001-seed0-steps2" for name in names),
        "combined-joint-fixed-lr0.0002-seed0-steps1",
    ]
    assert all(run.diverged is None for run in results.runs)
    assert results.summary is not None
    assert [(t.task, t.metric) for t in results.summary.alone] == [("objects", "mAP"), ("kind", "accuracy")]
    assert [way.name for way in results.summary.together] == ["fixed", "combined"]
    assert results.costs is not None
    parameters = {name: cost.parameters for name, cost in results.costs.alone.items()}
    # One trunk less, and of the classifier's only the ResNet: it reads no pyramid.
    assert parameters["objects"] < results.costs.together["fixed"].parameters < sum(parameters.values())
    for cost in [*results.costs.alone.values(), *results.costs.together.values()]:
        assert 0 < cost.single.lower <= cost.single.median <= cost.single.upper
        assert cost.single.lower < cost.step.upper
    saved = json.loads((asked.output / "comparison.json").read_text(encoding="utf-8"))
    assert saved["summary"]["conclusion"] == results.summary.conclusion
    for name in ("comparison.png", "comparison.svg", "comparison.html"):
        assert (asked.output / name).stat().st_size > 1000
    (asked.output / "comparison.html").unlink()
    again = compare(asked, train=refuse, measure=refuse)
    assert again.summary == results.summary
    assert (asked.output / "comparison.html").exists()


def test_another_seed_is_added_and_only_the_end_is_judged(config: Path) -> None:
    compare(request(config, "training.epochs=2"), measure=quickly)
    done = compare(request(config, "training.epochs=2", seeds=2), measure=refuse)
    assert [run.trial.seed for run in done.runs] == [0, 0, 0, 1, 1, 1]
    folder = config.parent / "out" / done.runs[-1].folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "val"] == [4]
    assert list(open_checkpoint(folder / "checkpoints" / "best.pt").config.heads) == ["objects", "kind"]


def test_a_model_that_diverges_is_shown_and_the_rest_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = ClassificationHead.loss

    def poisoned(self: ClassificationHead, *arguments: Any) -> Any:
        return {name: term * float("nan") for name, term in loss(self, *arguments).items()}

    monkeypatch.setattr(ClassificationHead, "loss", poisoned)
    results = compare(request(config, combine=True), measure=quickly)
    assert [run.diverged is None for run in results.runs] == [True, False, False]
    assert results.summary is not None
    assert "Nothing can be concluded" in results.summary.conclusion
    assert results.costs is not None
    assert list(results.costs.alone) == ["objects"]
    page = (config.parent / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "diverged: the loss of kind is not finite" in page


def test_another_config_needs_another_folder(config: Path) -> None:
    ledger = config.parent / "out" / "comparison.json"
    compare(request(config), measure=quickly)
    before = ledger.read_bytes()
    with pytest.raises(ConfigError, match=r"another config: trunk\.channels: 32 -> 64"):
        compare(request(config, "trunk.channels=64"), train=refuse, measure=refuse)
    assert ledger.read_bytes() == before
    # What a trial decides, or changes no result, may change.
    compare(request(config, "training.seed=5", "data.prefetch=2"), train=refuse, measure=refuse)


WRONG: list[tuple[list[str], dict[str, Any], str]] = [
    ([f"heads={{kind: {KIND}}}"], {}, r"heads: found only kind, expected two or more"),
    ([], {"methods": ("fixd",)}, r"--methods: found 'fixd'; did you mean 'fixed'\? Known: fixed, uw"),
    ([], {"methods": ("uw", "uw")}, r"--methods: found 'uw,uw', expected each of them once"),
    ([], {"seeds": 0}, r"--seeds: found 0, expected at least 1"),
    ([], {"short_share": 0.0}, r"--short-share: found 0, expected above 0"),
    ([], {"short_share": 1.5}, r"--short-share: found 1\.5"),
    ([], {"factors": ()}, r"--lr-factors: found ''"),
    ([], {"factors": (1.0, 1.0)}, r"--lr-factors: found '1,1', expected different numbers"),
    ([], {"factors": (1.0, -2.0)}, r"--lr-factors: found '1,-2'"),
    ([], {"factors": (float("nan"),)}, r"--lr-factors: found 'nan'"),
    (["training.lrr=1"], {}, r"unknown key 'lrr'"),
    (["data.val.0.heads=[objects]"], {}, r"data\.val: no source supervises heads\.kind"),
]


@pytest.mark.parametrize(("overrides", "changes", "message"), WRONG)
def test_what_is_wrong_is_said_before_anything_is_run(
    config: Path, overrides: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(VisionMTLError, match=message):
        compare(request(config, *overrides, **changes), train=refuse, measure=refuse)
    assert not (config.parent / "out").exists()


def test_the_tool_ends_with_code_2_and_one_line(config: Path) -> None:
    command = [sys.executable, str(TOOL), str(config), "--methods", "fixed,pc"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.parent, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --methods: found 'pc'")
    assert done.stderr.count("\n") == 1
    assert not (config.parent / "runs").exists()


def test_numbers_that_are_none_are_refused_at_once(config: Path) -> None:
    command = [sys.executable, str(TOOL), str(config), "--lr-factors", "1,two"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=config.parent, timeout=100)
    assert done.returncode == 2
    assert "found '1,two', expected numbers such as 0.5,1,2" in done.stderr
