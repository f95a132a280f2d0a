"""The trunk: a torchvision ResNet and a feature pyramid (Lin et al., arXiv 1612.03144)."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from vision_mtl.errors import ConfigError
from vision_mtl.models.residual import normed, residual
from vision_mtl.structures import Features

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1, as torchvision's weights expect
STD = (0.229, 0.224, 0.225)
STAGES = ("c2", "c3", "c4", "c5")
PARTS = (  # in the order in which `freeze` counts them
    ("body.conv1", "body.bn1"),
    ("body.layer1",),
    ("body.layer2",),
    ("body.layer3",),
    ("body.layer4",),
    ("fpn",),
)


class TrunkConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The shared part of the network.

    Attributes:
        name: which ResNet.
        weights: null for random, `imagenet` for torchvision's (downloaded once), or the path of a
            torchvision ResNet state dict.
        norm: `batch` (train from random weights, or large batches), `frozen` (batch norm that keeps its
            pretrained statistics; needs weights), or `group` (32 groups; batch size does not matter).
        norm_eps: added to the variance by the ResNet's norms; 0 for torchvision's first COCO weights.
        freeze: how many parts keep weights and statistics: 0 none, 1 the stem, 2 the stem and c2, up to 5
            the whole ResNet, 6 the pyramid too.
        channels: width of every pyramid level.
        finest: the finest pyramid level, 2 (stride 4) or 3 (stride 8).
        extra: levels above P5: `p6p7_from_p5`, `p6p7_from_c5`, `p6` (max pooling of P5), `none`.
        pyramid_norm: of the pyramid's convolutions: `none` (they have biases) or `batch`.
    """

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50"
    weights: str | None = None
    norm: Literal["batch", "frozen", "group"] = "batch"
    norm_eps: float = 1e-5
    freeze: int = 0
    channels: int = 256
    finest: Literal[2, 3] = 3
    extra: Literal["p6p7_from_p5", "p6p7_from_c5", "p6", "none"] = "p6p7_from_p5"
    pyramid_norm: Literal["none", "batch"] = "none"

    def check(self) -> None:
        """Raise ConfigError for settings that cannot work together."""
        if self.norm_eps < 0:
            raise ConfigError(f"trunk.norm_eps: found {self.norm_eps}, expected 0 or more")
        if not 0 <= self.freeze <= 6:
            raise ConfigError(f"trunk.freeze: found {self.freeze}, expected 0 to 6")
        if self.channels < 8:
            raise ConfigError(f"trunk.channels: found {self.channels}, expected at least 8")


class ExtraLevels(LastLevelP6P7):
    """P6 and P7, also of maps that are one cell wide.

    torch 2.15 computes the gradient of a 3x3 convolution with stride 2 in bf16 on the CPU from memory that
    nobody has written, where its input is one cell wide. A column of zeros, which is what it is padded with
    anyway, changes no result.
    """

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Return the levels `p`, the finest first, with two more; `c` are the stages they come from."""
        p6 = self.p6(_two_wide(p[-1] if self.use_P5 else c[-1]))
        return [*p, p6, self.p7(_two_wide(F.relu(p6)))], [*names, "p6", "p7"]


def _two_wide(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1)) if x.shape[3] == 1 else x


def build_pyramid(config: TrunkConfig, stage_channels: dict[str, int]) -> FeaturePyramidNetwork:
    """Return the feature pyramid on stages of the given channels, with fresh weights."""
    channels = config.channels
    extra = {
        "p6p7_from_p5": lambda: ExtraLevels(channels, channels),
        "p6p7_from_c5": lambda: ExtraLevels(stage_channels["c5"], channels),
        "p6": LastLevelMaxPool,
        "none": lambda: None,
    }[config.extra]()
    pyramid = FeaturePyramidNetwork(
        [stage_channels[stage] for stage in STAGES[config.finest - 2 :]],
        channels,
        extra_blocks=extra,
        norm_layer=nn.BatchNorm2d if config.pyramid_norm == "batch" else None,
    )
    if isinstance(extra, ExtraLevels):
        extra.use_P5 = config.extra == "p6p7_from_p5"
    return pyramid


class Trunk(nn.Module):
    """uint8 images to features, one pass for all heads.

    Weights are random until `pretrained.load_trunk_weights` or a checkpoint fills them.
    `body` and `fpn` have the module names of torchvision's detectors, so that their weights load.

    Args:
        config: its settings.
        pyramid: whether a head reads the pyramid; without one, those of its settings have no meaning.

    Attributes:
        stage_channels: "c2".."c5" -> channels.
        channels: width of the pyramid.
        strides: of the pyramid levels; [] without a pyramid.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: TrunkConfig, pyramid: bool = True) -> None:
        super().__init__()
        config.check()
        norm = {
            "batch": partial(nn.BatchNorm2d, eps=config.norm_eps),
            "frozen": partial(FrozenBatchNorm2d, eps=config.norm_eps),
            "group": partial(nn.GroupNorm, 32, eps=config.norm_eps),
        }[config.norm]
        network = getattr(resnet, config.name)(weights=None, norm_layer=norm)
        width = network.layer1[-1].conv1.in_channels  # channels of c2, and each stage doubles them
        self.stage_channels = {stage: width * 2**i for i, stage in enumerate(STAGES)}
        self.body = nn.ModuleDict(
            OrderedDict(
                (name, child) for name, child in network.named_children() if name not in ("avgpool", "fc")
            )
        )
        self.fpn = build_pyramid(config, self.stage_channels) if pyramid else None
        self.channels = config.channels
        levels = 6 - config.finest + {"p6": 1, "none": 0}.get(config.extra, 2)
        self.strides = [2 ** (config.finest + i) for i in range(levels)] if pyramid else []
        self.finest = config.finest
        self.register_buffer("mean", torch.tensor(MEAN) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD) * 255, persistent=False)
        parts = [name for names in PARTS[: config.freeze] for name in names]
        self.frozen = [name for name in parts if name != "fpn" or pyramid]
        self.hold(False)

    def hold(self, held: bool) -> None:
        """Keep all weights and statistics from now on, or let all but the frozen parts learn again."""
        self.held = held
        self.requires_grad_(not held)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Trunk:
        """Set training mode; what is frozen or held stays in evaluation mode: its statistics stay too."""
        super().train(mode and not self.held)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Return (B, 3, H, W) uint8 as standardised float32 in channels-last memory, zero outside the valid
        `sizes`.

        The padding is zeroed after standardising: black padding moves a detector's scores.
        """
        height, width = images.shape[2:]
        # Row by row, as they lie in memory: three channels at a time make a loop too short to be fast.
        pixels = images.permute(0, 2, 3, 1).flatten(2).float()  # (B, H, W * 3)
        pixels.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device).repeat_interleave(3) < sizes[:, 1:]
        pixels.masked_fill_(~(rows[:, :, None] & columns[:, None]), 0.0)
        return pixels.unflatten(2, (width, 3)).permute(0, 3, 1, 2)

    def forward(self, images: Tensor, sizes: Tensor) -> Features:
        """Read (B, 3, H, W) uint8 images with valid (B, 2) `sizes`."""
        x = self.normalise(images, sizes)
        body = self.body
        x = F.relu(normed(body["conv1"], body["bn1"], x), inplace=True)  # type: ignore[arg-type]
        x = body["maxpool"](x)
        stages: dict[str, Tensor] = {}
        for i, stage in enumerate(STAGES):
            for block in body[f"layer{i + 1}"].children():
                x = residual(block, x)
            stages[stage] = x
        pyramid: list[Tensor] = []
        if self.fpn is not None:
            used = OrderedDict((stage, stages[stage]) for stage in STAGES[self.finest - 2 :])
            pyramid = list(self.fpn(used).values())
        size = (images.shape[2], images.shape[3])
        return Features(stages, pyramid, self.strides, size, sizes)
