"""The angle between tasks, measured and put into words."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from vision_mtl.reporting.conflict_plot import conflict_plot
from vision_mtl.training.conflict import measure_conflict, read_conflict, summarize_conflict


def measured(a: tuple[float, ...], b: tuple[float, ...]) -> dict | None:
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2, 1))]

    def loss(direction: tuple[float, ...]) -> torch.Tensor:
        return direction[0] * weights[0].sum() + (torch.tensor(direction[1:])[:, None] * weights[1]).sum()

    return measure_conflict({"objects": loss(a), "kind": loss(b)}, weights)


def test_norms_and_cosine_of_known_gradients() -> None:
    found = measured((3.0, 0.0, 4.0), (0.0, 0.0, -2.0))
    assert found["norms"] == pytest.approx({"objects": 5.0, "kind": 2.0})
    assert found["cosines"] == pytest.approx({"objects/kind": -0.8})


def test_a_task_without_a_gradient_has_no_angle() -> None:
    found = measured((3.0, 0.0, 4.0), (0.0, 0.0, 0.0))
    assert found["norms"]["kind"] == 0.0
    assert found["cosines"] == {}


def test_gradients_that_are_not_finite_say_nothing() -> None:
    assert measured((3.0, 0.0, 4.0), (0.0, float("nan"), 1.0)) is None
    assert measured((float("inf"), 0.0, 4.0), (0.0, 0.0, 1.0)) is None


def test_measuring_leaves_gradients_and_graph_as_they_were() -> None:
    weight = nn.Parameter(torch.ones(3))
    losses = {"a": weight.square().sum(), "b": weight.sum()}
    measure_conflict(losses, [weight])
    assert weight.grad is None
    (losses["a"] + losses["b"]).backward()
    assert torch.equal(weight.grad, torch.full((3,), 3.0))


def line(step: int, cosine: float | None, **norms: float) -> dict:
    cosines = {} if cosine is None else {"objects/kind": cosine}
    return {"step": step, "kind": "conflict", "norms": norms, "cosines": cosines}


def test_a_run_in_one_sentence() -> None:
    lines = [line(0, 0.5, objects=4.0, kind=1.0), line(100, -0.1, objects=6.0, kind=2.0)]
    lines += [line(200, 0.2, objects=8.0, kind=3.0), line(300, None, objects=8.0)]
    found = summarize_conflict(lines)
    assert found is not None
    (pair,) = found.pairs
    assert (pair.tasks, pair.cosine, pair.agree, pair.steps) == (("objects", "kind"), 0.2, 0.6667, 3)
    assert found.norms == {"objects": 7.0, "kind": 2.0}
    assert found.sentence == (
        "objects and kind agree on 67% of 3 measured steps (mean cosine +0.20). "
        "objects pulls the trunk 3.5 times as hard as kind."
    )


def test_nothing_measured_says_nothing() -> None:
    assert summarize_conflict([]) is None
    assert summarize_conflict([line(0, None, objects=1.0)]) is None


def test_only_its_own_lines_are_read(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "kind": "train"}, line(2, 0.5, objects=1.0, kind=1.0), {"step": 3, "kind": "val"}]
    log.write_text("".join(f"{json.dumps(item)}\n" for item in lines), encoding="utf-8")
    assert read_conflict(log) == [lines[1]]


def test_the_plot_is_drawn_with_gaps_and_without_any_line(tmp_path: Path) -> None:
    files = [tmp_path / "plots" / name for name in ("conflict.png", "conflict.svg")]
    conflict_plot([line(0, 0.5, objects=1.0, kind=2.0), line(100, None, objects=1.0)], files)
    assert files[0].read_bytes()[:4] == b"\x89PNG"
    text = files[1].read_text(encoding="utf-8")
    assert "<svg" in text
