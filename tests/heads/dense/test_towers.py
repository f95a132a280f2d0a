import torch
from torch import nn

from vision_mtl.heads.dense.towers import BatchNormTower, GroupNormTower, per_point, tower


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
    assert isinstance(network, GroupNormTower)
    kinds = [type(layer) for layer in network]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 2
    assert [tuple(level.shape) for level in network([torch.zeros(1, 64, 4, 6)])] == [(1, 32, 4, 6)]


def test_no_depth_passes_the_pyramid_on() -> None:
    levels = pyramid()
    for norm in ("group", "batch"):
        for given, returned in zip(levels, tower(32, 32, 0, norm, levels=2)(levels), strict=True):  # type: ignore[arg-type]
            assert torch.equal(given, returned)


def test_points_are_in_row_order_level_after_level() -> None:
    maps = [torch.arange(6.0).view(1, 1, 2, 3), torch.tensor([[[[10.0]]]])]
    assert per_point(maps).flatten().tolist() == [0, 1, 2, 3, 4, 5, 10]
