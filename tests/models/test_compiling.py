"""torch.compile of trunk and heads: taken in whole, and the same answers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch._dynamo

from tests.models.small import BATCH
from tests.models.test_folding import DETECTORS, answers, network
from vision_mtl.errors import ConfigError
from vision_mtl.models import compiling
from vision_mtl.models.compiling import compile_network
from vision_mtl.models.folding import for_inference


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_compiled_answers_are_the_same(kind: str) -> None:
    """By a backend that runs the graph as it is: what is tested is that all of it is in the graph."""
    model = for_inference(network(*DETECTORS[kind]), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = answers(model)
        compile_network(model, frozen=True, backend="eager")
        found = answers(model)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)


def test_the_trunk_is_one_graph() -> None:
    model = network(*DETECTORS["fcos"])
    found = torch._dynamo.explain(model.trunk)(BATCH.images, BATCH.sizes)
    assert found.graph_break_count == 0, found.break_reasons


def test_training_goes_through_it_and_copies_are_plain() -> None:
    model = network(*DETECTORS["fcos"]).train()
    compile_network(model, frozen=False, backend="eager")
    assert model.trunk._compiled_call_impl is not None
    assert deepcopy(model).trunk._compiled_call_impl is None
    features, outputs = model(BATCH.images, BATCH.sizes)
    losses = model.losses(features, outputs, BATCH)
    torch.stack([loss for terms in losses.values() for loss in terms.values()]).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any("_orig_mod" in name for name in model.state_dict())


def test_the_time_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(compiling.logger, "info", lambda text, *values: lines.append(text % values))
    model = network(*DETECTORS["fcos"])
    compile_network(model, frozen=True, backend="eager")
    assert not lines
    answers(model)
    answers(model)
    assert [line.split(" ")[0] for line in lines] == ["compiling", "compiled"]


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler"):
        compile_network(network(*DETECTORS["fcos"]), frozen=True)
