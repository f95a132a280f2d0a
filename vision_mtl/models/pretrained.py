"""torchvision's ResNet weights to our trunk."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models import get_model_weights

from vision_mtl.errors import CheckpointError
from vision_mtl.models.trunk import Trunk, TrunkConfig
from vision_mtl.models.weight_files import download, is_counter, is_state_dict, read_torch_file

FORMS = "'imagenet', null, or the path of a torchvision ResNet state dict (.pth)"


def weights_are_here(name: str) -> bool:
    """Return whether torch's cache has the `imagenet` weights of a ResNet, which then need no network."""
    url = get_model_weights(name).DEFAULT.url
    return Path(torch.hub.get_dir(), "checkpoints", Path(url).name).is_file()


def load_trunk_weights(trunk: Trunk, config: TrunkConfig) -> list[str]:
    """Fill the trunk's ResNet with `config.weights`: `imagenet`, or a torchvision state dict's path.

    Nothing happens if it is None. The pyramid keeps its fresh weights.

    Returns:
        the names of the file's tensors that have no place in the trunk: its classifier's.

    Raises:
        CheckpointError: no such file, no network, or weights of another architecture.
    """
    if config.weights is None:
        return []
    if config.weights == "imagenet":
        state = download(get_model_weights(config.name).DEFAULT, "trunk.weights")
    else:
        state = read_torch_file(config.weights, "trunk.weights", FORMS)
        if not is_state_dict(state):
            raise CheckpointError(
                f"trunk.weights: found no tensors by name at the top of '{config.weights}'; expected {FORMS}"
            )
    own = trunk.body.state_dict()
    classifier = [key for key in state if key.startswith("fc.")]
    body = {k: v for k, v in state.items() if k not in classifier and (k in own or not is_counter(k))}
    missing = sorted(key for key in own.keys() - body.keys() if not is_counter(key))
    unknown = sorted(body.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & body.keys() if own[key].shape != body[key].shape)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"trunk.weights={config.weights}: not a {config.name} with norm {config.norm}: "
            f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(wrong)} of another shape {wrong[:3]}"
        )
    trunk.body.load_state_dict({**own, **body})
    return classifier
