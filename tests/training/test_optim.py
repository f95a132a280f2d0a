import math

import pytest
import torch
from torch import nn

from vision_mtl.training.config import TrainingConfig
from vision_mtl.training.optim import (
    AveragedModel,
    build_optimizer,
    learning_rate_factor,
    load_optimizer,
    parameter_groups,
    set_learning_rate,
)


class TwoParts(nn.Module):
    """Looks like a model: a trunk of body and pyramid, and one head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Module()
        self.trunk.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.trunk.fpn = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def named_heads(self) -> dict[str, nn.Module]:
        return {"head": self.head}


def groups_of(model: nn.Module, balancer: nn.Module, **settings: object) -> list[dict]:
    config = TrainingConfig(lr=0.1, weight_decay=0.05, trunk_lr_factor=0.5, **settings)
    return parameter_groups(model, balancer, config, {"head": 2.0})


def test_each_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    model, balancer = TwoParts(), nn.ParameterList([nn.Parameter(torch.zeros(1))])
    groups = groups_of(model, balancer)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in [*model.parameters(), *balancer.parameters()])
    for group in groups:
        assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0.0)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model.trunk.body[0].weight)] == pytest.approx(0.05)
    assert rates[id(model.trunk.fpn.weight)] == pytest.approx(0.05)
    assert rates[id(model.head.bias)] == pytest.approx(0.2)


def test_the_pyramid_may_learn_at_another_rate_than_the_resnet() -> None:
    model = TwoParts()
    groups = groups_of(model, nn.Identity(), pyramid_lr_factor=1.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model.trunk.body[0].weight)] == pytest.approx(0.05)
    assert rates[id(model.trunk.fpn.bias)] == pytest.approx(0.15)


def test_frozen_parameters_are_left_out() -> None:
    model = TwoParts()
    model.trunk.requires_grad_(False)
    assert sum(len(group["params"]) for group in groups_of(model, nn.Identity())) == 2


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_factor_scales_the_first_step(name: str) -> None:
    parameter = nn.Parameter(torch.ones(1))
    groups = [{"params": [parameter], "lr_factor": 0.5, "weight_decay": 0.0, "lr": 0.05}]
    optimizer = build_optimizer(
        groups, TrainingConfig(optimizer=name, momentum=0.0 if name == "adamw" else 0.9)
    )
    set_learning_rate(optimizer, 0.1)
    parameter.grad = torch.ones(1)
    optimizer.step()
    # AdamW's first step has length lr; Nesterov's is lr * (1 + momentum) * gradient.
    expected = 1 - 0.05 * (1.0 if name == "adamw" else 1.9)
    assert parameter.item() == pytest.approx(expected, abs=1e-6)


def test_warm_up_then_cosine() -> None:
    config = TrainingConfig(warmup_steps=10)
    assert learning_rate_factor(0, 1000, config) == pytest.approx(0.1)
    assert learning_rate_factor(9, 1000, config) == pytest.approx(1.0)
    assert learning_rate_factor(10, 1000, config) == pytest.approx(1.0)
    assert learning_rate_factor(505, 1000, config) == pytest.approx(0.01 + 0.99 / 2)
    assert learning_rate_factor(1000, 1000, config) == pytest.approx(0.01)
    factors = [learning_rate_factor(step, 1000, config) for step in range(10, 1001)]
    assert factors == sorted(factors, reverse=True)


def test_a_short_run_warms_up_for_a_tenth_of_it() -> None:
    config = TrainingConfig(warmup_steps=500)
    assert learning_rate_factor(4, 50, config) == pytest.approx(1.0)


def test_steps_drop_by_ten_at_the_milestones() -> None:
    config = TrainingConfig(warmup_steps=0, schedule="steps", milestones=(0.5, 0.75))
    factors = [learning_rate_factor(step, 100, config) for step in (0, 49, 50, 74, 75, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_average_follows_the_formula_and_copies_counters() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = AveragedModel(model, decay=0.5)
    start = model[0].weight.item()
    with torch.no_grad():
        model[0].weight += 1
        model[1].num_batches_tracked += 7
    average.update(model)  # decay is (1 + 1) / (10 + 1) at first
    assert average.model[0].weight.item() == pytest.approx(start + 1 - 2 / 11, abs=1e-6)
    assert average.model[1].num_batches_tracked == 7
    for _ in range(200):
        average.update(model)
    assert average.model[0].weight.item() == pytest.approx(model[0].weight.item(), abs=1e-6)
    assert not any(p.requires_grad for p in average.model.parameters())
    assert math.isclose(average.updates, 201)


def test_decay_zero_evaluates_the_raw_weights() -> None:
    model = nn.Linear(2, 2)
    average = AveragedModel(model, decay=0.0)
    with torch.no_grad():
        model.weight += 1
    average.update(model)
    assert torch.equal(average.model.weight, model.weight)


def test_an_optimizer_goes_on_at_its_learning_rate_with_its_own_settings() -> None:
    def build(name: str, decay: float, steps: int) -> torch.optim.Optimizer:
        parameter = nn.Parameter(torch.ones(2, 2))
        settings = TrainingConfig(optimizer=name)  # type: ignore[arg-type]
        group = {"params": [parameter], "lr_factor": 0.5, "weight_decay": decay, "lr": 0.1}
        optimizer = build_optimizer([group], settings)
        for _ in range(steps):
            parameter.grad = torch.ones(2, 2)
            optimizer.step()
        return optimizer

    before = build("adamw", 0.05, steps=3)
    set_learning_rate(before, 0.02)
    after = build("adamw", 0.3, steps=0)
    load_optimizer(after, before.state_dict())
    (group,) = after.param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.01), 0.3)
    state = after.state[group["params"][0]]
    assert state["step"] == 3
    assert torch.equal(state["exp_avg"], before.state[before.param_groups[0]["params"][0]]["exp_avg"])
    with pytest.raises(ValueError, match="of another optimiser"):
        load_optimizer(build("sgd", 0.05, steps=0), before.state_dict())
