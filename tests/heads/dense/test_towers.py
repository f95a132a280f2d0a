import pytest
import torch
from torch import nn

from vision_mtl.heads.dense.towers import (
    BatchNormTower,
    GroupNorm,
    SharedTower,
    block_tower,
    per_point,
    tower,
)


def pyramid() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 32, side, side, generator=generator) * scale for side, scale in ((8, 1.0), (4, 30.0))
    ]


def test_levels_share_convolutions_and_not_statistics() -> None:
    network = tower(32, 32, 2, "batch", levels=2)
    assert isinstance(network, BatchNormTower)
    assert len(network.convolutions) == 2
    for _ in range(200):
        network(pyramid())
    first, second = (norms[0].running_var.mean() for norms in network.norms)
    assert second > 100 * first  # the second level is 30 times larger
    trained = network(pyramid())
    network.eval()
    for train, test in zip(trained, network(pyramid()), strict=True):
        torch.testing.assert_close(train, test, rtol=0.1, atol=0.1)


def test_group_norm_has_torchvisions_layout() -> None:
    network = tower(64, 32, 2, "group", levels=5)
    assert isinstance(network, SharedTower)
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Conv2d, GroupNorm, nn.ReLU] * 2
    assert [tuple(level.shape) for level in network([torch.zeros(1, 64, 4, 6)])] == [(1, 32, 4, 6)]


def test_no_depth_passes_the_pyramid_on() -> None:
    levels = pyramid()
    towers = [*(tower(32, 32, 0, norm, levels=2) for norm in ("group", "batch")), block_tower(32, 0, "group")]  # type: ignore[arg-type]
    for network in towers:
        for given, returned in zip(levels, network(levels), strict=True):
            assert torch.equal(given, returned)


@pytest.mark.parametrize(
    ("norm", "names"),
    [("none", {"0.0.weight", "0.0.bias"}), ("group", {"0.0.weight", "0.1.weight", "0.1.bias"})],
)
def test_blocks_have_a_bias_or_a_norm(norm: str, names: set[str]) -> None:
    network = block_tower(32, 2, norm)  # type: ignore[arg-type]
    assert {name for name, _ in network.named_parameters() if name[0] == "0"} == names
    maps = network(pyramid())
    assert [level.shape for level in maps] == [level.shape for level in pyramid()]
    assert all((level >= 0).all() for level in maps)


def test_points_are_in_row_order_level_after_level() -> None:
    maps = [torch.arange(6.0).view(1, 1, 2, 3), torch.tensor([[[[10.0]]]])]
    assert per_point(maps).flatten().tolist() == [0, 1, 2, 3, 4, 5, 10]


def test_channels_of_a_point_stay_together_whatever_the_memory_order() -> None:
    maps = [torch.arange(12.0).view(1, 2, 2, 3), torch.arange(2.0).view(1, 2, 1, 1).half()]
    joined = per_point(maps)
    assert joined.dtype == torch.float32
    assert joined[0].tolist() == [[i, i + 6] for i in range(6)] + [[0, 1]]
    assert torch.equal(per_point([level.to(memory_format=torch.channels_last) for level in maps]), joined)


@pytest.mark.parametrize("network", [tower(32, 32, 1, "group", levels=1), block_tower(32, 1, "group")])
def test_one_image_with_a_map_of_one_value_is_answered_as_in_a_batch(network: nn.Module) -> None:
    maps = torch.randn(2, 32, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network([maps[:1]])[0], network([maps])[0][:1], rtol=0, atol=1e-5)
