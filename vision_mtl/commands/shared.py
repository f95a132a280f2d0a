"""What several commands need: the device, the evaluation loader, a model from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from vision_mtl.config import Config, apply_override, config_from_tree
from vision_mtl.data.dataset import Dataset, Source
from vision_mtl.data.loader import EvaluationBatches, Loader
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.engine import Progress


@dataclass(frozen=True)
class Trained:
    """A model from a checkpoint.

    Attributes:
        model: the averaged weights, in evaluation mode, on the CPU.
        config: the run's config.
        labels: head -> what it answers with.
        progress: where the run stood.
    """

    model: MultiTaskModel
    config: Config
    labels: dict[str, LabelInfo]
    progress: Progress


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: found cuda, but torch sees no GPU; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def evaluation_loader(config: Config, source: Source) -> Loader:
    """Return all images of an evaluation source, in batches of equal padded size."""
    data = config.data
    dataset = Dataset([source], data.resize)
    batches = EvaluationBatches(dataset.sizes(), data.resize, data.eval_batch_size)
    return Loader(dataset, batches, data.workers, data.prefetch, skip_bad=data.bad_images == "skip")


def open_checkpoint(path: str | Path, overrides: Sequence[str] = ()) -> Trained:
    """Load a model with its averaged weights, its config and its labels.

    Args:
        path: `best.pt` or `last.pt` of a run.
        overrides: `key=value` changes to the run's config, e.g. `data.root=...`.

    Raises:
        CheckpointError: damaged, or overrides that change the network.
    """
    state = load_checkpoint(path)
    tree = state["config"]
    for override in overrides:
        apply_override(tree, override)
    config = config_from_tree(tree, str(path))
    labels = {name: msgspec.convert(info, LabelInfo) for name, info in state["labels"].items()}
    if config.heads.keys() - labels.keys():
        raise CheckpointError(
            f"'{path}' has no head {sorted(config.heads.keys() - labels.keys())}, only {list(labels)}"
        )
    model = build_model(config.model(), labels)
    try:
        model.load_state_dict(state["average"])
    except RuntimeError as error:
        raise CheckpointError(f"'{path}' does not fit the network of the overrides: {error}") from error
    return Trained(model.eval(), config, labels, Progress(**state["progress"]))
