"""What each method makes of two known losses and gradients, and that absent tasks disturb none of them."""

import io
import math

import pytest
import torch
from torch import nn

from tests.training.toy import METHODS, Toy, linear, parametrized, quadratic
from vision_mtl.errors import ConfigError
from vision_mtl.training.balancing import Balancer, build_method, label_shares
from vision_mtl.training.config import BalancingConfig

APART = ((1.0, 0.0), (0.0, 2.0))  # orthogonal gradients
AGAINST = ((1.0, 0.0), (-1.0, 1.0))  # gradients in conflict


def close(found: torch.Tensor, expected: tuple[float, float], tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("method", "gradients", "values", "expected"),
    [
        ("fixed", AGAINST, (1.0, 1.0), (0.0, 1.0)),
        ("uw", AGAINST, (1.0, 1.0), (0.0, 0.5)),  # log-variances of 0: half of each
        ("imtl_l", AGAINST, (1.0, 1.0), (0.0, 1.0)),  # scales of 1
        ("dwa", AGAINST, (1.0, 1.0), (0.0, 1.0)),  # no two epochs yet: the sum
        # d sqrt(ab) = sqrt(ab) / 2 * (da / a + db / b), with a = 1, b = 4
        ("geometric", APART, (1.0, 4.0), (1.0, 0.5)),
        # weights 1 / loss, normalised: 4/5 and 1/5
        ("famo", APART, (1.0, 4.0), (0.8, 0.4)),
        # halves of the losses to a soft maximum: softmax(0.5, 1) / 2
        ("stch", APART, (1.0, 2.0), (0.5 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5)))),
        # the shortest vector of the convex hull: weights 4/5 and 1/5
        ("mgda", APART, (1.0, 1.0), (0.8, 0.4)),
        # each projected onto the normal plane of the other: (1/2, 1/2) + (0, 1)
        ("pcgrad", AGAINST, (1.0, 1.0), (0.5, 1.5)),
        ("pcgrad", APART, (1.0, 1.0), (1.0, 2.0)),
        # target cosines of 0 at first: the same as pcgrad
        ("gradvac", AGAINST, (1.0, 1.0), (0.5, 1.5)),
        # equal projections on both unit gradients, weights that sum to 1: 2/3 and 1/3
        ("imtl_g", APART, (1.0, 1.0), (2 / 3, 2 / 3)),
        # both as long as the shorter one, and then the mean
        ("aligned_mtl", APART, (1.0, 1.0), (0.5, 0.5)),
    ],
)
def test_the_gradient_of_two_known_tasks(
    method: str,
    gradients: tuple[tuple[float, float], tuple[float, float]],
    values: tuple[float, float],
    expected: tuple[float, float],
) -> None:
    close(Toy(method).gradient(linear(*gradients, values)), expected)


@pytest.mark.parametrize("method", parametrized(("upgrad",)))
def test_upgrad_takes_the_mean_of_projections_onto_the_dual_cone(method: str) -> None:
    close(Toy(method).gradient(linear(*AGAINST)), (0.25, 0.75), 1e-3)
    close(Toy(method).gradient(linear(*APART)), (0.5, 1.0), 1e-3)


@pytest.mark.parametrize("method", parametrized(("cagrad",)))
def test_cagrad_is_the_mean_at_c_0_and_helps_the_worst_off_above_it(method: str) -> None:
    close(Toy(method, cagrad_c=0.0).gradient(linear(*AGAINST)), (0.0, 0.5), 1e-3)
    mean, better = torch.tensor([0.0, 0.5]), Toy(method, cagrad_c=0.4).gradient(linear(*AGAINST))
    rows = torch.tensor(AGAINST)
    assert (rows @ better).min() > (rows @ mean).min()
    assert (better - mean).norm() == pytest.approx(0.4 * 0.5, abs=1e-3)


@pytest.mark.parametrize("method", parametrized(("nash_mtl",)))
def test_nash_mtl_moves_equally_along_orthogonal_gradients(method: str) -> None:
    # G a = 1 / a has the solution a = 1 / norm; the step is no longer than 1.
    found = Toy(method).gradient(linear(*APART))
    assert found[0] == pytest.approx(found[1].item(), rel=1e-2)
    assert found.norm() <= 1 + 1e-5


def test_random_draws_new_weights_that_sum_to_one() -> None:
    toy = Toy("random")
    drawn = [toy.gradient(linear(*APART)).tolist() for _ in range(20)]
    assert all(x + y / 2 == pytest.approx(1.0, abs=1e-6) for x, y in drawn)
    assert len({round(x, 6) for x, _ in drawn}) == 20


def test_graddrop_follows_one_sign_where_the_tasks_differ() -> None:
    toy = Toy("graddrop")
    drawn = [tuple(toy.gradient(linear(*AGAINST)).tolist()) for _ in range(40)]
    assert set(drawn) == {(1.0, 1.0), (-1.0, 1.0)}


def test_dwa_favours_the_task_that_falls_more_slowly() -> None:
    toy = Toy("dwa")
    for values in ((2.0, 1.0), (1.0, 1.0)):  # a halves, b stays
        toy.gradient(linear(*APART, values))
        toy.balancer.end_epoch()
    weights = 2 * torch.tensor([0.5 / 2, 1.0 / 2]).softmax(0)
    close(toy.gradient(linear(*APART)), (float(weights[0]), 2 * float(weights[1])))


def test_famo_gives_more_weight_to_the_task_that_its_step_helped_less() -> None:
    toy = Toy("famo")
    for _ in range(30):
        toy.gradient(linear(*APART))
        with torch.no_grad():
            toy.balancer.after_step(
                label_shares([{"a": 1, "b": 1}]), lambda: {"a": torch.tensor(0.5), "b": torch.tensor(1.0)}
            )
    found = toy.gradient(linear(*APART))
    assert found[1] / 2 > found[0] > 0
    assert float(found[0] + found[1] / 2) == pytest.approx(1.0, abs=1e-5)


def test_sums_and_gradient_methods_come_to_rest_where_they_should() -> None:
    summed, shortest = Toy("fixed"), Toy("mgda", (0.6, 0.4))
    for _ in range(200):
        summed.step(quadratic)
    close(summed.point.detach(), (0.1, 0.9))  # the mean of (1, 0) and (0, 1) by the weights 1 and 9
    # Between the two goals one task can only gain what the other loses: mgda stays there.
    close(shortest.gradient(quadratic), (0.0, 0.0), 2e-3)


def test_the_heads_weights_count_in_every_kind_of_method() -> None:
    for method, expected in (("fixed", (3.0, 2.0)), ("uw", (1.5, 1.0)), ("pcgrad", (3.0, 2.0))):
        toy = Toy(method)
        toy.balancer.weights["a"] = 3.0
        close(toy.gradient(linear(*APART)), expected)


@pytest.mark.parametrize("method", parametrized())
def test_one_task_alone_is_trained_and_none_at_all_gives_zero(method: str) -> None:
    found = Toy(method).gradient(linear(*APART), {"a": 4, "b": 0})
    assert found[0] > 0
    assert found[1] == 0
    assert Toy(method).gradient(linear(*APART), {"a": 0, "b": 0}).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", parametrized())
def test_a_task_without_labels_for_200_steps_disturbs_nothing(method: str) -> None:
    toy, fresh = Toy(method, (0.3, 0.2)), Toy(method, (0.3, 0.2))
    for _ in range(200):
        toy.step(
            lambda point: {"a": quadratic(point)["a"], "b": torch.zeros_like(point.sum())}, {"a": 1, "b": 0}
        )
    assert torch.isfinite(toy.point).all()
    for name, module in toy.balancer.learned.items():
        assert name == "a" or all(p.eq(0).all() for p in module.parameters())
    with torch.no_grad():
        toy.point.copy_(fresh.point)
        for module in toy.balancer.learned["a"].parameters() if "a" in toy.balancer.learned else ():
            module.zero_()
    torch.manual_seed(5)
    after = toy.gradient(quadratic).clone()
    torch.manual_seed(5)
    assert torch.equal(after, fresh.gradient(quadratic))


@pytest.mark.parametrize("method", parametrized())
def test_resuming_goes_on_bit_for_bit(method: str) -> None:
    def advance(toy: Toy, steps: range) -> None:
        for i in steps:
            toy.step(quadratic, {"a": 1, "b": int(i % 3 > 0)})
            if i % 4 == 3:
                toy.balancer.end_epoch()

    whole, first, second = (Toy(method, (0.4, 0.1)) for _ in range(3))
    torch.manual_seed(1)
    advance(whole, range(20))
    torch.manual_seed(1)
    advance(first, range(10))
    file = io.BytesIO()
    torch.save([first.balancer.state_dict(), first.point.detach(), torch.get_rng_state()], file)
    file.seek(0)
    state, point, generator = torch.load(file, weights_only=True)
    second.balancer.load_state_dict(state)
    second.point.data.copy_(point)
    torch.set_rng_state(generator)
    advance(second, range(10, 20))
    assert torch.equal(whole.point, second.point)


@pytest.mark.parametrize("method", parametrized())
def test_accumulated_parts_are_one_large_batch(method: str) -> None:
    # Three images with label a, one of them with label b: the mean over labelled images, however split.
    data = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])

    def tasks(point: nn.Parameter, rows: list[int]) -> dict[str, torch.Tensor]:
        a = (data[rows] @ point + 3).square().mean()
        b = (point - data[2]).square().sum() + 1 if 2 in rows else point.sum() * 0
        return {"a": a, "b": b}

    def gradient(split: list[list[int]]) -> torch.Tensor:
        toy = Toy(method, (0.7, -0.2))
        torch.manual_seed(3)
        shares = label_shares([{"a": len(rows), "b": int(2 in rows)} for rows in split])
        toy.balancer.backward((tasks(toy.point, r) for r in split), shares, [toy.point], {"a": [], "b": []})
        assert toy.point.grad is not None
        return toy.point.grad

    torch.testing.assert_close(gradient([[0, 1], [2]]), gradient([[0, 1, 2]]), rtol=1e-5, atol=1e-6)


def test_learned_weights_get_the_gradient_of_the_whole_step() -> None:
    def learned(split: list[float]) -> float:
        balancer = Balancer(BalancingConfig(method="uw"), {"a": 1.0})
        parts = [{"a": torch.tensor(value, requires_grad=True)} for value in split]
        balancer.backward(iter(parts), label_shares([{"a": 2}] * len(split)), [], {"a": []})
        return float(balancer.learned["a"].log_var.grad)

    assert learned([2.0, 4.0]) == pytest.approx(learned([3.0]))


def test_uncertainty_weighting_settles_at_the_log_of_the_loss() -> None:
    # d/ds of exp(-s) L / 2 + s / 2 vanishes at s = log L.
    balancer = Balancer(BalancingConfig(method="uw"), {"a": 1.0, "b": 1.0})
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        losses = {"a": torch.tensor(4.0, requires_grad=True), "b": torch.tensor(0.25, requires_grad=True)}
        balancer.backward(iter([losses]), label_shares([{"a": 1, "b": 1}]), [], {"a": [], "b": []})
        optimizer.step()
    assert balancer.learned["a"].log_var.item() == pytest.approx(math.log(4.0), abs=1e-3)
    assert balancer.learned["b"].log_var.item() == pytest.approx(math.log(0.25), abs=1e-3)


def test_own_parameters_get_the_gradient_of_their_loss_alone() -> None:
    shared, mine, other = (nn.Parameter(torch.tensor(value)) for value in (1.0, 2.0, 3.0))
    balancer = Balancer(BalancingConfig(method="mgda"), {"a": 2.0, "b": 1.0})
    losses = {"a": shared * mine, "b": -shared * other}
    own = {"a": [mine], "b": [other]}
    balancer.backward(iter([losses]), label_shares([{"a": 1, "b": 1}]), [shared], own)
    assert (mine.grad.item(), other.grad.item()) == (2.0, -1.0)
    assert shared.grad.item() == pytest.approx(0.0, abs=1e-6)  # 4 against -3: the shortest mixture is 0
    balancer.backward(
        iter([{"a": shared * mine, "b": shared * other * 0}]), label_shares([{"a": 1, "b": 0}]), [shared], own
    )
    assert other.grad.item() == -1.0


def test_shares_are_of_the_labelled_images() -> None:
    assert label_shares([{"a": 3, "b": 0}, {"a": 1, "b": 0}]) == [
        {"a": 0.75, "b": 0.0},
        {"a": 0.25, "b": 0.0},
    ]


def test_a_method_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchjd import aggregation

    def missing() -> None:
        raise ImportError("UPGrad requires ['quadprog'] to be installed.")

    monkeypatch.setattr(aggregation, "UPGrad", missing)
    with pytest.raises(ConfigError, match=r"'upgrad' needs packages .*\.\[balancing\]"):
        Balancer(BalancingConfig(method="upgrad"), {"a": 1.0})


def test_every_known_method_is_built() -> None:
    per_loss = {"fixed", "uw", "imtl_l"}
    for method in set(METHODS) - {"cagrad", "nash_mtl", "upgrad"}:
        assert (build_method(BalancingConfig(method=method), 2) is None) == (method in per_loss), method  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"stch_mu": 0.0}, {"dwa_temperature": -1.0}, {"cagrad_c": -0.1}, {"gradvac_beta": 1.5}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"balancing.{next(iter(options))}: found"):
        BalancingConfig(**options).check()
