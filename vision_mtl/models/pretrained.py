"""torchvision checkpoints to our trunk."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models import resnet

from vision_mtl.errors import CheckpointError
from vision_mtl.models.trunk import Trunk, TrunkConfig

BUILDERS = {
    "resnet18": resnet.ResNet18_Weights,
    "resnet34": resnet.ResNet34_Weights,
    "resnet50": resnet.ResNet50_Weights,
    "resnet101": resnet.ResNet101_Weights,
}


def load_trunk_weights(trunk: Trunk, config: TrunkConfig) -> None:
    """Fill the trunk's ResNet with `config.weights`: `imagenet`, or a torchvision state dict's path.

    Nothing happens if it is None. The pyramid keeps its fresh weights.

    Raises:
        CheckpointError: no such file, no network, or weights of another architecture.
    """
    if config.weights is None:
        return
    if config.weights == "imagenet":
        try:
            state = BUILDERS[config.name].DEFAULT.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # no network, a wrong hash, or a damaged file in torch's cache
            raise CheckpointError(
                f"trunk.weights=imagenet: cannot load {config.name}: {error}. Without a network, set "
                "trunk.weights to the path of torchvision's .pth file, or train from random weights with "
                "trunk.weights=null trunk.norm=batch"
            ) from error
    else:
        path = Path(config.weights)
        if not path.is_file():
            raise CheckpointError(
                f"trunk.weights: no file '{path}'; expected 'imagenet', null, or the path of a torchvision "
                "ResNet state dict (.pth)"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for a file that is not its own
            raise CheckpointError(f"trunk.weights: cannot read '{path}': {error}") from error
        if not isinstance(state, dict) or not all(
            isinstance(value, torch.Tensor) for value in state.values()
        ):
            raise CheckpointError(
                f"trunk.weights: found no tensors by name at the top of '{path}'; expected a torchvision "
                "ResNet state dict (.pth)"
            )
    own = trunk.body.state_dict()
    # Group norm and frozen batch norm count no batches.
    skipped = ("fc.",) if any(key.endswith("num_batches_tracked") for key in own) else ("fc.", "num_batches")
    body = {key: value for key, value in state.items() if not any(part in key for part in skipped)}
    missing = sorted(own.keys() - body.keys())
    unknown = sorted(body.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & body.keys() if own[key].shape != body[key].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"trunk.weights={config.weights}: not a {config.name} with norm {config.norm}: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(wrong)} of another shape {wrong[:3]}"
        )
    trunk.body.load_state_dict(body)
