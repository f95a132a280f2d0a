"""The trunk: torchvision's ResNet inside, a pyramid around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from vision_mtl.errors import ConfigError
from vision_mtl.models.pretrained import load_trunk_weights
from vision_mtl.models.trunk import ExtraLevels, Trunk, TrunkConfig


def random_resnet(name: str) -> nn.Module:
    """Return torchvision's network with statistics that a test can tell from fresh ones."""
    torch.manual_seed(0)
    network = getattr(resnet, name)(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


def images(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return pixels, torch.tensor([[height, width]] * count)


@pytest.mark.parametrize(
    ("name", "norm"), [("resnet18", "batch"), ("resnet18", "frozen"), ("resnet50", "batch")]
)
def test_stages_equal_torchvisions(tmp_path: Path, name: str, norm: str) -> None:
    network = random_resnet(name)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    config = TrunkConfig(name=name, norm=norm, weights=str(tmp_path / "weights.pth"), channels=8)
    trunk = Trunk(config).eval()
    load_trunk_weights(trunk, config)
    pixels, sizes = images(2, 64, 96)
    sizes = torch.tensor([[64, 96], [50, 70]])
    with torch.no_grad():
        stages = trunk(pixels, sizes).stages
        x = network.relu(network.bn1(network.conv1(trunk.normalise(pixels, sizes))))
        x = network.maxpool(x)
        for i, stage in enumerate(("c2", "c3", "c4", "c5"), 1):
            x = getattr(network, f"layer{i}")(x)
            torch.testing.assert_close(stages[stage], x, rtol=1e-3, atol=1e-4 * float(x.max()))
            assert stages[stage].shape[1] == trunk.stage_channels[stage]


@pytest.mark.parametrize("finest", [2, 3])
@pytest.mark.parametrize(
    ("extra", "coarsest"), [("p6p7_from_p5", 7), ("p6p7_from_c5", 7), ("p6", 6), ("none", 5)]
)
@pytest.mark.parametrize("size", [(96, 160), (32, 32)])
def test_pyramid_levels_and_strides(finest: int, extra: str, coarsest: int, size: tuple[int, int]) -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=16, finest=finest, extra=extra)).eval()
    with torch.no_grad():
        features = trunk(*images(2, *size))
    assert features.strides == trunk.strides == [2**level for level in range(finest, coarsest + 1)]
    assert features.input_size == size
    for level, stride in zip(features.pyramid, features.strides, strict=True):
        assert level.shape == (2, 16, *(-(-side // stride) for side in size))


@pytest.mark.parametrize(("extra", "stage"), [("p6p7_from_p5", False), ("p6p7_from_c5", True)])
@pytest.mark.parametrize("channels", [64, 512])  # of resnet18's c5: 512
def test_p6_comes_from_where_the_config_says(extra: str, stage: bool, channels: int) -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=channels, extra=extra)).eval()
    with torch.no_grad():
        features = trunk(*images(1, 64, 64))
        p6 = trunk.fpn.extra_blocks.p6(features.stages["c5"] if stage else features.pyramid[2])
    torch.testing.assert_close(features.pyramid[3], p6)


def test_normalise_is_imagenets_inside_and_zero_in_the_padding() -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=8))
    pixels = torch.full((2, 3, 32, 64), 51, dtype=torch.uint8)
    pixels[1] = 0
    found = trunk.normalise(pixels, torch.tensor([[20, 30], [32, 64]]))
    inside = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(found[0, :, 19, 29], torch.tensor(inside))
    assert found[0, :, :20, :30].std((1, 2)).max() < 1e-6
    assert not found[0, :, 20:].any()
    assert not found[0, :, :, 30:].any()
    black = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(found[1, :, 31, 63], black)  # black pixels are not padding


def test_what_lies_in_the_padding_does_not_matter() -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=8)).eval()
    pixels, _ = images(1, 64, 64)
    other = pixels.clone()
    other[..., 40:, :] = 7
    sizes = torch.tensor([[40, 64]])
    with torch.no_grad():
        first, second = trunk(pixels, sizes), trunk(other, sizes)
    assert all(torch.equal(a, b) for a, b in zip(first.pyramid, second.pyramid, strict=True))


PARTS = [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]


@pytest.mark.parametrize("freeze", [0, 1, 2, 5])
def test_frozen_parts_keep_weights_and_statistics(freeze: int) -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=8, freeze=freeze)).train()
    frozen = set().union(*PARTS[:freeze])
    before = {name: value.clone() for name, value in trunk.body.state_dict().items()}
    features = trunk(*images(2, 64, 64))
    sum(level.square().mean() for level in features.pyramid).backward()
    for name, parameter in trunk.body.named_parameters():
        is_frozen = name.split(".")[0] in frozen
        assert (parameter.grad is None) == is_frozen, name
        assert parameter.requires_grad != is_frozen, name
    for name, value in trunk.body.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == (name.split(".")[0] in frozen), name
    assert all(parameter.grad is not None for parameter in trunk.fpn.parameters())


def test_freeze_6_keeps_the_pyramid_too() -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=8, freeze=6, pyramid_norm="batch"))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    for held in (False, True, False):
        trunk.hold(held)
        trunk.train()
        assert not any(level.requires_grad for level in trunk(*images(2, 64, 64)).pyramid)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_a_held_trunk_learns_nothing_until_it_is_let_go() -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", channels=8, freeze=1))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.hold(True)
    trunk.train()
    assert not any(level.requires_grad for level in trunk(*images(2, 64, 64)).pyramid)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    trunk.hold(False)
    trunk.train()
    learning = {name.split(".")[0] for name, p in trunk.body.named_parameters() if p.requires_grad}
    assert learning == {"layer1", "layer2", "layer3", "layer4"}
    trunk(*images(2, 64, 64))
    moved = {name for name, value in trunk.state_dict().items() if not torch.equal(value, before[name])}
    assert "body.layer1.0.bn1.running_mean" in moved
    assert not any(name.startswith("body.bn1") for name in moved)


def test_frozen_norm_keeps_statistics_and_lets_convolutions_learn(tmp_path: Path) -> None:
    torch.save(random_resnet("resnet18").state_dict(), tmp_path / "weights.pth")
    config = TrunkConfig(name="resnet18", norm="frozen", weights=str(tmp_path / "weights.pth"), channels=8)
    trunk = Trunk(config).train()
    load_trunk_weights(trunk, config)
    before = {name: value.clone() for name, value in trunk.body.state_dict().items()}
    sum(level.mean() for level in trunk(*images(1, 32, 32)).pyramid).backward()
    assert all(torch.equal(value, before[name]) for name, value in trunk.body.state_dict().items())
    assert {name.split(".")[-2][:4] for name, _ in trunk.body.named_parameters()} == {"conv", "0"}
    assert all(parameter.grad is not None for parameter in trunk.body.parameters())


def test_group_norm_does_not_mix_images() -> None:
    trunk = Trunk(TrunkConfig(name="resnet18", norm="group", channels=8)).train()
    pixels, sizes = images(2, 64, 64)
    with torch.no_grad():
        both, alone = trunk(pixels, sizes), trunk(pixels[:1], sizes[:1])
    torch.testing.assert_close(both.stages["c5"][:1], alone.stages["c5"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrunkConfig(norm_eps=-1e-5), r"trunk\.norm_eps: found -1e-05, expected 0 or more"),
        (lambda: TrunkConfig(freeze=7), r"trunk\.freeze: found 7, expected 0 to 6"),
        (lambda: TrunkConfig(freeze=-1), r"trunk\.freeze: found -1"),
        (lambda: TrunkConfig(channels=4), r"trunk\.channels: found 4"),
    ],
)
def test_impossible_settings_are_named(build: Callable[[], TrunkConfig], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trunk(build())


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 32), (32, 96), (256, 192)])
@pytest.mark.parametrize("from_p5", [True, False])
def test_the_extra_levels_are_torchvisions_also_where_they_are_one_cell_wide(
    size: tuple[int, int], from_p5: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = ExtraLevels(8, 8), LastLevelP6P7(8, 8)
    theirs.load_state_dict(ours.state_dict())
    ours.use_P5 = theirs.use_P5 = from_p5
    levels, stages = ([torch.randn(2, 8, size[0] // 32, size[1] // 32)] for _ in range(2))
    found, names = ours(list(levels), stages, ["p5"])
    expected, known = theirs(list(levels), stages, ["p5"])
    assert names == known
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_narrow_images_have_finite_gradients_in_bf16() -> None:
    levels = ExtraLevels(64, 64).to(memory_format=torch.channels_last)
    for _ in range(30):
        dirty = torch.full((1 << 18,), torch.nan)  # what is freed here may be read below, were it not mended
        del dirty
        x = torch.randn(2, 64, 2, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
        levels.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = levels([x], [x], ["p5"])
        torch.stack([level.float().sum() for level in found]).sum().backward()
        assert all(torch.isfinite(weight.grad).all() for weight in levels.parameters())
