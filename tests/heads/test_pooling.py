"""Feature maps to one vector per image, with the padding out of it."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from vision_mtl.heads.pooling import PooledLogits, cell_weights, feature_channels, flat_cells
from vision_mtl.structures import Features

Pool = Literal["avg", "gem", "attention"]
every_pool = pytest.mark.parametrize("pool", ["avg", "gem", "attention"])


def test_cells_that_see_a_valid_pixel_weigh_the_same() -> None:
    weights = cell_weights(torch.tensor([[32, 64], [33, 1], [64, 96]]), 2, 3, 32)
    expected = [[1 / 2, 1 / 2, 0, 0, 0, 0], [1 / 2, 0, 0, 1 / 2, 0, 0], [1 / 6] * 6]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_levels_of_the_pyramid_weigh_the_same() -> None:
    features = Features(
        {}, [torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 2, 2)], [8, 16], (32, 32), torch.tensor([[32, 32]])
    )
    cells, weights = flat_cells(features, "pyramid")
    assert cells.shape == (1, 4, 20)
    torch.testing.assert_close((cells * weights[:, None]).sum(2), torch.full((1, 4), 0.5))


@every_pool
@pytest.mark.parametrize("name", ["c3", "c5", "pyramid"])
def test_more_padding_changes_nothing(pool: Pool, name: Literal["c3", "c5", "pyramid"]) -> None:
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
    module = PooledLogits(6, 5, pool, hidden=7).eval()
    logits = []
    for levels, input_size in ((small, (64, 96)), (large, (128, 192))):
        stages = {"c3": levels[0], "c5": levels[1]}
        features = Features(stages, levels[2:], [8, 16], input_size, sizes)
        logits.append(module(*flat_cells(features, name)))
    torch.testing.assert_close(logits[0], logits[1])


def with_identity(pool: Pool, channels: int) -> PooledLogits:
    module = PooledLogits(channels, channels, pool)
    with torch.no_grad():
        module.logits.weight.copy_(torch.eye(channels))
    return module


CELLS = torch.tensor([[[1.0, 2.0, 3.0, 99.0], [0.0, 0.0, 6.0, 99.0]]])
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


def test_attention_is_the_papers_attention_at_a_high_temperature() -> None:
    """Class-specific residual attention, arXiv 2108.02456, eq. 1 to 4, with a finite temperature."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(2, 6, 10, generator=generator)
    torch.manual_seed(0)
    module = PooledLogits(6, 4, "attention")
    torch.nn.init.normal_(module.logits.weight)
    scores = module.logits.weight @ cells  # x_k^T m_i
    specific = (scores * 2000).softmax(2)  # s_k
    feature = cells.mean(2)[:, None] + 0.3 * torch.einsum(
        "bik,bck->bic", specific, cells
    )  # f_i = g + lambda a_i
    expected = (feature * module.logits.weight).sum(2)
    torch.testing.assert_close(module(cells, torch.full((2, 10), 0.1)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("exponent", [1.0, 3.0, 9.0, 30.0])
def test_gem_of_dead_channels_has_a_finite_gradient(exponent: float) -> None:
    module = PooledLogits(3, 2, "gem")
    with torch.no_grad():
        module.exponent.fill_(exponent)
    cells = torch.tensor([[[0.0, 0.0], [0.0, 2.0], [1e-3, 0.0]]], requires_grad=True)
    module(cells, torch.full((1, 2), 0.5)).sum().backward()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()
    assert module.exponent.grad is not None
    assert module.exponent.grad.isfinite()


def test_channels_of_what_a_head_reads() -> None:
    stages = {"c3": 128, "c5": 512}
    assert feature_channels("c3", stages, 64) == 128
    assert feature_channels("pyramid", stages, 64) == 64
