"""One optimiser step of a real network: gradients of every method, accumulation, half precision."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchjd import aggregation

from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.models.multitask import ModelConfig, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ImageMeta
from vision_mtl.training import balancing, step
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.config import BalancingConfig, TrainingConfig
from vision_mtl.training.optim import AveragedModel, build_optimizer, parameter_groups
from vision_mtl.training.run import Progress
from vision_mtl.training.step import losses_again, optimizer_step

LABELS = {
    "objects": LabelInfo(names=("bolt", "nut"), ids=(1, 2)),
    "kind": LabelInfo(names=("clean", "dirty")),
    "size": LabelInfo(),
}


def heads() -> dict[str, Any]:
    return {
        "objects": FcosConfig(depth=1, norm="group"),
        "kind": ClassificationConfig(source="attribute", field="kind", features="pyramid"),
        "size": RegressionConfig(source="attribute", field="size", features="c4"),
    }


def make_run(
    method: str = "fixed", dtype: torch.dtype = torch.float32, norm: str = "group", **training: Any
) -> Any:
    torch.manual_seed(0)
    trunk = TrunkConfig(name="resnet18", norm=norm, channels=32)  # type: ignore[arg-type]
    model = build_model(ModelConfig(trunk=trunk, heads=heads()), LABELS)
    plain = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    settings = TrainingConfig(**{**plain, **training})
    balancer = Balancer(BalancingConfig(method=method), {"objects": 1.0, "kind": 0.5, "size": 2.0})  # type: ignore[arg-type]
    groups = parameter_groups(model, balancer, settings, dict.fromkeys(LABELS, 1.0))
    model.train()
    return SimpleNamespace(
        model=model,
        balancer=balancer,
        training=settings,
        optimizer=build_optimizer(groups, settings),
        average=AveragedModel(model, 0.9),
        progress=Progress(),
        recent=[],
        device=torch.device("cpu"),
        dtype=dtype,
    )


def batch(rows: tuple[int, ...] = (0, 1), unlabelled: str | None = None) -> Batch:
    images = torch.randint(
        0, 256, (4, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    count = len(rows)
    kinds = torch.tensor([0, 1, 1, 0])[list(rows)]
    sizes = torch.tensor([1.0, -2.0, 0.5, 3.0])[list(rows)]
    return Batch(
        images=images[list(rows)],
        sizes=torch.tensor([[64, 96]] * count),
        boxes=torch.tensor([[[8.0, 8.0, 40.0, 48.0]]]).repeat(count, 1, 1),
        classes=torch.tensor([[row % 2] for row in rows]),
        ignore=torch.zeros(count, 1, dtype=torch.bool),
        has_boxes=torch.full((count,), unlabelled != "objects"),
        labels={
            "kind": torch.full((count,), -1) if unlabelled == "kind" else kinds,
            "size": torch.full((count,), torch.nan) if unlabelled == "size" else sizes,
        },
        metas=[ImageMeta(row, "", (64, 96), (1.0, 1.0)) for row in rows],
    )


def gradients(run: Any, batches: list[Batch]) -> dict[str, torch.Tensor]:
    optimizer_step(run, batches)
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the relative distance of two sets of gradients, as one vector each."""
    assert found.keys() == expected.keys()
    a, b = (torch.cat([grads[name].flatten() for name in expected]) for grads in (found, expected))
    return float((a - b).norm() / b.norm())


@pytest.fixture
def summing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `mgda` be the aggregator that adds the rows of the Jacobian."""
    monkeypatch.setattr(aggregation, "MGDA", aggregation.Sum)


@pytest.mark.usefixtures("summing")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_sum_of_the_jacobians_rows_is_plain_backward(dtype: torch.dtype, tolerance: float) -> None:
    # Stages and pyramid levels depend on each other: from features on, gradients would be counted twice.
    plain = gradients(make_run("fixed", dtype, clip=0), [batch()])
    assert distance(gradients(make_run("mgda", dtype, clip=0), [batch()]), plain) < tolerance


@pytest.mark.usefixtures("summing")
@pytest.mark.parametrize("unlabelled", ["objects", "kind", "size"])
def test_sum_equals_backward_over_parts_of_which_one_lacks_a_task(unlabelled: str) -> None:
    parts = [batch((0, 1)), batch((2, 3), unlabelled)]
    plain = gradients(make_run("fixed", clip=0), parts)
    assert distance(gradients(make_run("mgda", clip=0), parts), plain) < 1e-5


@pytest.mark.parametrize("method", ["fixed", "uw", "geometric", "pcgrad"])
def test_accumulated_batches_give_the_gradients_of_one(method: str) -> None:
    # Group norms and equal label counts, so that images do not interact; the detector's normaliser would.
    parts, whole = make_run(method, clip=0), make_run(method, clip=0)
    absent = [batch(rows, "objects") for rows in ((0, 1), (2, 3), (0, 1, 2, 3))]
    found, expected = gradients(parts, absent[:2]), gradients(whole, absent[2:])
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("method", ["fixed", "uw", "dwa", "famo", "geometric", "mgda", "pcgrad", "graddrop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_method_takes_clipped_finite_steps(method: str, dtype: torch.dtype) -> None:
    run = make_run(method, dtype, clip=1.0)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for _ in range(2):
        optimizer_step(run, [batch(), batch((2, 3))])
    norm = torch.stack([p.grad.norm() for p in run.model.parameters() if p.grad is not None]).norm()
    assert norm <= 1.0 + 1e-3
    after = run.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith("trunk"))


@pytest.mark.parametrize("method", ["fixed", "famo", "mgda"])
def test_a_task_without_labels_moves_neither_trunk_nor_head(method: str) -> None:
    run = make_run(method, clip=0)
    found = gradients(run, [batch(unlabelled="size")])
    assert all(grad.eq(0).all() for name, grad in found.items() if name.startswith("heads.size"))
    assert any(name.startswith("heads.size") for name in found)
    alone = make_run(method, clip=0)
    del alone.balancer.weights["size"]
    trunk = {name: grad for name, grad in found.items() if name.startswith("trunk")}
    expected = gradients(alone, [batch(unlabelled="size")])
    assert distance(trunk, {name: expected[name] for name in trunk}) < 1e-5


def test_losses_are_computed_again_without_a_trace() -> None:
    run = make_run(norm="batch")
    buffers = {name: value.clone() for name, value in run.model.named_buffers()}
    shares = balancing.label_shares([{"objects": 2, "kind": 2, "size": 2}])
    generator = torch.get_rng_state()
    again = losses_again(run, [batch()], shares)
    assert all(torch.equal(value, buffers[name]) for name, value in run.model.named_buffers())
    assert torch.equal(torch.get_rng_state(), generator)
    now = step.batch_losses(run, batch())
    for name, value in again.items():
        expected = torch.stack(list(now[name].values())).sum().item()
        assert value.item() == pytest.approx(expected, rel=1e-5)


def test_comparing_the_tasks_changes_no_weight() -> None:
    watched, unwatched = make_run(), make_run()
    conflict = optimizer_step(watched, [batch()], compare=True).conflict
    found = optimizer_step(unwatched, [batch()])
    assert found.conflict is None
    assert conflict is not None
    assert conflict["norms"].keys() == {"objects", "kind", "size"}
    assert conflict["cosines"].keys() == {"objects/kind", "objects/size", "kind/size"}
    assert found.losses.keys() == {"objects", "kind", "size"}
    for a, b in zip(watched.model.parameters(), unwatched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_cosine_is_that_of_the_whole_trunk() -> None:
    run = make_run()
    conflict = optimizer_step(run, [batch()], compare=True).conflict
    fresh = make_run()
    rows = []
    for name in ("objects", "kind"):
        fresh.model.zero_grad()
        terms = step.batch_losses(fresh, batch())[name]
        torch.stack(list(terms.values())).sum().backward()
        trunk = fresh.model.trunk.parameters()
        rows.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trunk]))
    assert conflict is not None
    assert conflict["cosines"]["objects/kind"] == pytest.approx(
        float(torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)), abs=1e-4
    )
    assert conflict["norms"]["kind"] == pytest.approx(0.5 * float(rows[1].norm()), rel=1e-4)
