import pytest
import torch

from vision_mtl.training.balancing import Balancer
from vision_mtl.training.config import BalancingConfig


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def test_fixed_adds_the_weighted_losses() -> None:
    balancer = Balancer(BalancingConfig(method="fixed"), {"a": 1.0, "b": 0.5})
    tasks = losses(a=2.0, b=3.0)
    total = balancer(tasks, ["a", "b"])
    total.backward()
    assert total.item() == pytest.approx(3.5)
    assert tasks["a"].grad == 1.0
    assert tasks["b"].grad == 0.5
    assert not list(balancer.parameters())


@pytest.mark.parametrize("method", ["fixed", "uw"])
def test_an_unlabelled_task_adds_nothing_but_stays_in_the_graph(method: str) -> None:
    balancer = Balancer(BalancingConfig(method=method), {"a": 1.0, "b": 1.0})
    tasks = losses(a=2.0, b=3.0)
    alone = Balancer(BalancingConfig(method=method), {"a": 1.0})(losses(a=2.0), ["a"])
    total = balancer(tasks, ["a"])
    total.backward()
    assert total.item() == pytest.approx(alone.item())
    assert tasks["b"].grad == 0.0
    assert method == "fixed" or balancer.uncertainty["b"].log_var.grad is None


def test_no_labelled_task_at_all_is_zero() -> None:
    total = Balancer(BalancingConfig(), {"a": 1.0})(losses(a=2.0), [])
    assert total.item() == 0.0
    assert total.requires_grad


def test_uncertainty_weighting_settles_at_the_log_of_the_loss() -> None:
    # d/ds of exp(-s) L / 2 + s / 2 vanishes at s = log L.
    balancer = Balancer(BalancingConfig(method="uw"), {"a": 1.0, "b": 1.0})
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        balancer(losses(a=4.0, b=0.25), ["a", "b"]).backward()
        optimizer.step()
    assert balancer.uncertainty["a"].log_var.item() == pytest.approx(torch.tensor(4.0).log().item(), abs=1e-3)
    assert balancer.uncertainty["b"].log_var.item() == pytest.approx(
        torch.tensor(0.25).log().item(), abs=1e-3
    )


def test_a_task_without_labels_for_200_steps_keeps_its_state() -> None:
    balancer = Balancer(BalancingConfig(method="uw"), {"a": 1.0, "b": 1.0})
    optimizer = torch.optim.AdamW(balancer.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(200):
        optimizer.zero_grad()
        balancer(losses(a=4.0, b=0.0), ["a"]).backward()
        optimizer.step()
    assert balancer.uncertainty["b"].log_var.item() == 0.0
    assert balancer.uncertainty["a"].log_var.item() == pytest.approx(torch.tensor(4.0).log().item(), abs=0.05)
