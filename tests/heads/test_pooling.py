"""Feature maps to one vector per image, with the padding out of it."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from vision_mtl.heads.pooling import PooledLogits, cell_weights, feature_channels, flat_cells
from vision_mtl.structures import Features

Pool = Literal["avg", "gem", "attention"]


def test_cells_that_see_a_valid_pixel_weigh_the_same() -> None:
    weights = cell_weights(torch.tensor([[32, 64], [33, 1], [64, 96]]), 2, 3, 32)
    expected = [[1 / 2, 1 / 2, 0, 0, 0, 0], [1 / 2, 0, 0, 1 / 2, 0, 0], [1 / 6] * 6]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_levels_of_the_pyramid_weigh_the_same() -> None:
    features = Features(
        {}, [torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 2, 2)], [8, 16], (32, 32), torch.tensor([[32, 32]])
    )
    cells, weights = flat_cells(features, "pyramid")
    assert cells.shape == (1, 20, 4)
    torch.testing.assert_close((cells * weights[:, :, None]).sum(1), torch.full((1, 4), 0.5))


@pytest.mark.parametrize(
    ("pool", "temperature"), [("avg", None), ("gem", None), ("attention", None), ("attention", 2.0)]
)
@pytest.mark.parametrize("name", ["c3", "c5", "pyramid"])
def test_more_padding_changes_nothing(
    pool: Pool, temperature: float | None, name: Literal["c3", "c5", "pyramid"]
) -> None:
    """The same features inside, whatever lies in the padding, give the same logits."""
    generator = torch.Generator().manual_seed(0)

    def maps(size: tuple[int, int], strides: list[int], inner: list[Tensor] | None) -> list[Tensor]:
        levels = []
        for i, stride in enumerate(strides):
            level = torch.randn(1, 6, size[0] // stride, size[1] // stride, generator=generator) * 50
            if inner is not None:
                height, width = inner[i].shape[2:]
                level[..., :height, :width] = inner[i]
            levels.append(level)
        return levels

    sizes = torch.tensor([[50, 90]])
    small = maps((64, 96), [8, 32, 8, 16], None)
    large = maps((128, 192), [8, 32, 8, 16], small)
    torch.manual_seed(0)
    module = PooledLogits(6, 5, pool, hidden=7, attention_temperature=temperature).eval()
    logits = []
    for levels, input_size in ((small, (64, 96)), (large, (128, 192))):
        stages = {"c3": levels[0], "c5": levels[1]}
        features = Features(stages, levels[2:], [8, 16], input_size, sizes)
        logits.append(module(*flat_cells(features, name)))
    torch.testing.assert_close(logits[0], logits[1])


def with_identity(pool: Pool, channels: int, temperature: float | None = None) -> PooledLogits:
    module = PooledLogits(channels, channels, pool, attention_temperature=temperature)
    with torch.no_grad():
        module.logits.weight.copy_(torch.eye(channels))
    return module


CELLS = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [3.0, 6.0], [99.0, 99.0]]])
WEIGHTS = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]])


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("avg", [2.0, 2.0]),
        ("gem", [(36 / 3) ** (1 / 3), (216 / 3) ** (1 / 3)]),
        ("attention", [2 + 0.3 * 3, 2 + 0.3 * 6]),
    ],
)
def test_pools_by_hand(pool: Pool, expected: list[float]) -> None:
    torch.testing.assert_close(with_identity(pool, 2)(CELLS, WEIGHTS), torch.tensor([expected]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, None])
def test_attention_is_the_papers(temperature: float | None) -> None:
    """Class-specific residual attention, arXiv 2108.02456, eq. 1 to 4; null is a very high temperature."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(2, 10, 6, generator=generator)
    torch.manual_seed(0)
    module = PooledLogits(6, 4, "attention", attention_temperature=temperature)
    torch.nn.init.normal_(module.logits.weight)
    scores = module.logits.weight @ cells.mT  # x_k^T m_i
    specific = (scores * (temperature or 2000)).softmax(2)  # s_k
    attended = torch.einsum("bik,bkc->bic", specific, cells)  # a_i
    feature = cells.mean(1)[:, None] + 0.3 * attended  # f_i = g + lambda a_i
    expected = (feature * module.logits.weight).sum(2)
    torch.testing.assert_close(module(cells, torch.full((2, 10), 0.1)), expected, rtol=1e-3, atol=1e-3)


def test_attention_by_hand_counts_cells_as_they_weigh() -> None:
    """Scores 1, 2 and 3 at a temperature of log 2 attend as 2, 4 and 8 times their weights."""
    module = with_identity("attention", 1, math.log(2))
    weights = torch.tensor([[1 / 2, 1 / 4, 1 / 4, 0.0]])
    attended = (2 / 2 * 1 + 4 / 4 * 2 + 8 / 4 * 3) / (2 / 2 + 4 / 4 + 8 / 4)
    expected = (1 / 2 + 2 / 4 + 3 / 4) + 0.3 * attended
    torch.testing.assert_close(module(CELLS[..., :1], weights), torch.tensor([[expected]]))


@pytest.mark.parametrize("temperature", [2.0, None])
def test_attention_gives_padding_no_gradient(temperature: float | None) -> None:
    cells = CELLS.clone().requires_grad_()
    with_identity("attention", 2, temperature)(cells, WEIGHTS).sum().backward()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()
    assert cells.grad[:, :3].any()
    assert not cells.grad[:, 3].any()


@pytest.mark.parametrize("exponent", [1.0, 3.0, 9.0, 30.0])
def test_gem_of_dead_channels_has_a_finite_gradient(exponent: float) -> None:
    module = PooledLogits(3, 2, "gem")
    with torch.no_grad():
        module.exponent.fill_(exponent)
    cells = torch.tensor([[[0.0, 0.0, 1e-3], [0.0, 2.0, 0.0]]], requires_grad=True)
    module(cells, torch.full((1, 2), 0.5)).sum().backward()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()
    assert module.exponent.grad is not None
    assert module.exponent.grad.isfinite()


def test_channels_of_what_a_head_reads() -> None:
    stages = {"c3": 128, "c5": 512}
    assert feature_channels("c3", stages, 64) == 128
    assert feature_channels("pyramid", stages, 64) == 64
