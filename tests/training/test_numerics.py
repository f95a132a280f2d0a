"""Steps whose numbers are not finite: they change nothing, and are named when the log is written."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.test_step import batch, make_run
from tests.training.toy import parametrized
from vision_mtl.errors import NumericsError
from vision_mtl.heads.regression import RegressionHead
from vision_mtl.structures import Batch
from vision_mtl.training import step as step_module
from vision_mtl.training.numerics import check_finite, check_weights, mean_losses
from vision_mtl.training.step import clip_gradient, optimizer_step


def state_of(run: Any) -> dict[str, Any]:
    return deepcopy(
        {
            "model": run.model.state_dict(),
            "average": run.average.model.state_dict(),
            "optimizer": run.optimizer.state_dict()["state"],
            "balancer": run.balancer.state_dict(),
        }
    )


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def poison_loss(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    loss = RegressionHead.loss

    def poisoned(self: RegressionHead, *arguments: Any) -> dict[str, Tensor]:
        return {name: term * value for name, term in loss(self, *arguments).items()}

    monkeypatch.setattr(RegressionHead, "loss", poisoned)


def poison_gradient(run: Any, name: str, value: float) -> Any:
    """Let a parameter's gradient be `value` until the returned handle is removed."""
    return run.model.get_parameter(name).register_hook(lambda gradient: torch.full_like(gradient, value))


@pytest.mark.parametrize("method", parametrized())
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_nothing(
    method: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(method, norm="batch")
    optimizer_step(run, [batch()])
    before = state_of(run)
    with monkeypatch.context() as patch:
        poison_loss(patch, value)
        step = optimizer_step(run, [batch(), batch((2, 3))])
    assert not step.taken
    assert step.finite.tolist() == [[True, True, False], [True, True, False]]
    assert equal(state_of(run), before)
    optimizer_step(run, [batch()])
    after = state_of(run)
    assert not equal(after["model"], before["model"]), "the next step is taken again"
    assert all(torch.isfinite(value).all() for value in after["model"].values())


@pytest.mark.parametrize("name", ["trunk.body.conv1.weight", "trunk.fpn.layer_blocks.0.0.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("method", ["fixed", "uw", "geometric"])
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, value: float, method: str) -> None:
    run = make_run(method, norm="batch")
    before = state_of(run)
    hook = poison_gradient(run, name, value)
    step = optimizer_step(run, [batch()])
    hook.remove()
    assert not step.taken
    assert step.finite.all()
    assert step.gradients.all(), "of what the heads have for themselves"
    after = state_of(run)
    assert equal(after["model"], before["model"])
    assert equal(after["average"], before["average"])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_first_step_may_be_left_out(optimizer: Any) -> None:
    """What the optimiser makes in its first step is whole: the second equals a first one."""
    late, fresh = make_run(optimizer=optimizer, momentum=0.9), make_run(optimizer=optimizer, momentum=0.9)
    hook = poison_gradient(late, "trunk.body.conv1.weight", float("nan"))
    optimizer_step(late, [batch()])
    hook.remove()
    for run in (late, fresh):
        optimizer_step(run, [batch()])
    assert equal(late.model.state_dict(), fresh.model.state_dict())


def take(run: Any, *batches: Batch) -> None:
    """Take a step as the engine does."""
    run.recent.append(optimizer_step(run, batches or [batch()]))
    run.progress.step += 1


def test_the_log_stops_and_names_head_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    take(run)
    with monkeypatch.context() as patch:
        poison_loss(patch, float("nan"))
        take(run, batch(), batch((2, 3)))
    take(run)
    run.progress.step, run.progress.checked = 30, 27
    with pytest.raises(NumericsError, match=r"loss of size is not finite, on images \[0, 1\], at step 28\."):
        check_finite(run)


def test_skipping_counts_and_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(nonfinite="skip", nonfinite_limit=2)
    hook = poison_gradient(run, "heads.size.pooled.logits.weight", float("nan"))
    take(run)
    check_finite(run)
    take(run)
    hook.remove()
    check_finite(run)
    check_finite(run)
    assert run.progress.left_out == 2, "each is counted once"
    poison_gradient(run, "heads.size.pooled.logits.weight", float("nan"))
    take(run)
    with pytest.raises(
        NumericsError, match=r"gradient of the head size is not finite.*; 3 steps were left out by now"
    ):
        check_finite(run)


def test_the_head_whose_gradient_is_not_finite_is_named() -> None:
    run = make_run()
    hook = poison_gradient(run, "heads.kind.pooled.logits.weight", float("inf"))
    take(run)
    hook.remove()
    assert run.recent[-1].gradients.tolist() == [True, False, True]
    with pytest.raises(NumericsError, match=r"gradient of the head kind is not finite, .* images \[0, 1\]"):
        check_finite(run)


def test_clipping_is_that_of_torch() -> None:
    run, other = make_run(clip=0.01), make_run(clip=0.01)
    for one in (run, other):
        torch.manual_seed(1)
        for parameter in one.model.parameters():
            parameter.grad = torch.randn_like(parameter)
    heads = {name: list(head.parameters()) for name, head in run.model.named_heads().items()}
    norm, finite = clip_gradient(run, {**heads, "without weights": []})
    expected = torch.nn.utils.clip_grad_norm_(other.model.parameters(), 0.01)
    torch.testing.assert_close(norm, expected)
    assert finite.tolist() == [True] * 4
    for one, two in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_weights_that_are_not_finite_are_named() -> None:
    run = make_run()
    check_weights(run.model)
    with torch.no_grad():
        run.model.get_parameter("heads.size.pooled.logits.weight").fill_(float("inf"))
    with pytest.raises(NumericsError, match=r"not finite \(1\): heads\.size\.pooled\.logits\.weight;"):
        check_weights(run.model)


def test_famo_learns_nothing_from_losses_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("famo")
    optimizer_step(run, [batch()])
    before = state_of(run)["balancer"]
    with monkeypatch.context() as patch:
        nothing = dict.fromkeys(run.balancer.weights, torch.tensor(float("nan")))
        patch.setattr(step_module, "losses_again", lambda *_: nothing)
        optimizer_step(run, [batch()])
    assert equal(state_of(run)["balancer"], before)
    optimizer_step(run, [batch()])
    assert not equal(state_of(run)["balancer"], before)


def test_means_leave_out_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    first = optimizer_step(run, [batch()])
    with monkeypatch.context() as patch:
        poison_loss(patch, float("nan"))
        poisoned = optimizer_step(run, [batch()])
    last = optimizer_step(run, [batch()])
    means = mean_losses([first, poisoned, last])
    for name, terms in means.items():
        for term, mean in terms.items():
            expected = (float(first.losses[name][term]) + float(last.losses[name][term])) / 2
            assert mean == pytest.approx(expected, rel=1e-6)


class Waits(TorchDispatchMode):
    """Records the operators that make the host wait for a GPU: their results decide what comes next."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = [a for a in args[1:2] if isinstance(a, (list, tuple)) for a in a if isinstance(a, Tensor)]
        by_mask = name in ("index", "index_put_", "index_put") and any(m.dtype == torch.bool for m in masks)
        if by_mask or any(name.startswith(waiting) for waiting in self.NAMES):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("method", ["fixed", "uw", "imtl_l", "stch"])  # others look at values themselves
def test_a_step_never_waits_for_the_device(norm: str, method: str) -> None:
    run = make_run(method, torch.bfloat16, norm=norm)
    optimizer_step(run, [batch()])
    for head in run.model.named_heads().values():
        head.count_labels = lambda batch: 2  # labels are counted on the host, before the batch is moved
    with Waits() as waits:
        optimizer_step(run, [batch(), batch((2, 3))])
    assert waits.found == []


def test_the_guard_sees_a_wait() -> None:
    with Waits() as waits:
        x = torch.arange(4.0)
        float(x.sum())
        x[x > 1]
    assert waits.found == ["_local_scalar_dense", "index"]
