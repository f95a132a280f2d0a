"""Parts that keep what `weights` holds for them while the rest is trained: which settings make sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.base import HeadConfig
from vision_mtl.models.trunk import PARTS, TrunkConfig


def check_frozen(trunk: TrunkConfig, heads: Mapping[str, HeadConfig], weights: str | None) -> None:
    """Raise ConfigError where frozen parts would stay random, or nothing is left to be trained."""
    names = frozen_heads(heads)
    frozen = [f"heads.{name}.frozen: found true" for name in names]
    if trunk.freeze == len(PARTS):
        frozen.append(f"trunk.freeze: found {trunk.freeze}, which keeps the pyramid,")
    if weights is None and frozen:
        raise ConfigError(
            f"{frozen[0]} with weights null, so it would stay random; set weights to the checkpoint to keep, "
            "e.g. weights=runs/shapes-1/checkpoints/best.pt"
        )
    if names and len(names) == len(heads):
        raise ConfigError(
            "heads: found frozen=true for each, so nothing would be trained; leave it out for one"
        )


def check_filled(
    trunk: TrunkConfig,
    heads: Mapping[str, HeadConfig],
    weights: str,
    whole: Sequence[str],
    fresh: Sequence[str],
) -> None:
    """Raise CheckpointError where frozen parts would not be what `weights` hold.

    Args:
        trunk: its settings.
        heads: head name -> its settings.
        weights: the setting.
        whole: heads that were loaded to the last tensor and class.
        fresh: names of the network's tensors that were not loaded.
    """
    if trunk.freeze == len(PARTS) and any(key.startswith("trunk.fpn.") for key in fresh):
        raise CheckpointError(
            f"weights: '{weights}' has no pyramid, and trunk.freeze={trunk.freeze} would keep a random one; "
            f"set trunk.freeze={len(PARTS) - 1}"
        )
    if partly := [name for name in frozen_heads(heads) if name not in whole]:
        raise CheckpointError(
            f"weights: '{weights}' does not fill the frozen {'head' if len(partly) == 1 else 'heads'} "
            f"{', '.join(partly)} to the last tensor and class; they need the type, settings and labels "
            "that they were trained with: restore them, or leave out frozen"
        )


def frozen_heads(heads: Mapping[str, HeadConfig]) -> list[str]:
    """Return the names of the frozen heads."""
    return [name for name, head in heads.items() if head.frozen]
