"""What several commands need: the device, the evaluation loader, a model from a checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from vision_mtl.commands.operating_points import StoredPoints, stored_points
from vision_mtl.config import Config, apply_override, config_from_tree
from vision_mtl.data.dataset import Dataset, Source
from vision_mtl.data.loader import EvaluationBatches, Loader
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.models.weights import load_weights
from vision_mtl.reporting.weights_report import weights_text
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.numerics import weights_not_finite
from vision_mtl.training.run import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A model that answers, from a checkpoint or from published weights.

    Attributes:
        model: in evaluation mode, on the CPU; of a run the averaged weights.
        config: the run's, or that of the weights.
        labels: head -> what it answers with.
        progress: where the run stood.
        points: thresholds that an evaluation has stored with the checkpoint; None if none has.
    """

    model: MultiTaskModel
    config: Config
    labels: dict[str, LabelInfo]
    progress: Progress
    points: StoredPoints | None = None


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device: found cuda, but torch sees no GPU; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def require_one_process() -> None:
    """Raise ConfigError where a launcher such as torchrun has started several processes to train together."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise ConfigError(
            f"WORLD_SIZE: found {count}, expected 1 or nothing: training runs in one process; start it as "
            "python tools/train.py, without torchrun"
        )


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
        CheckpointError: damaged, without the parts of a run's checkpoint, weights that are not finite, or
            overrides that change the network.
    """
    state = load_checkpoint(path)
    try:
        tree, average = dict(state["config"]), dict(state["average"])
        labels = {name: msgspec.convert(info, LabelInfo) for name, info in state["labels"].items()}
        progress = msgspec.convert(state["progress"], Progress)
        points = stored_points(state)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"'{path}' is no checkpoint of this version: {error!r}") from error
    for override in overrides:
        apply_override(tree, override)
    config = config_from_tree(tree, str(path))
    if config.heads.keys() - labels.keys():
        raise CheckpointError(
            f"'{path}' has no head {sorted(config.heads.keys() - labels.keys())}, only {list(labels)}"
        )
    model = build_model(config.model(), labels)
    try:
        model.load_state_dict(average)
        if bad := weights_not_finite(model):
            raise CheckpointError(
                f"'{path}' has weights that are not finite ({len(bad)}, first {bad[0]}): its answers would "
                "mean nothing. Use another checkpoint of the run"
            )
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"'{path}' does not fit the network of the overrides: {error}") from error
    return Trained(model.eval(), config, labels, progress, points)


def is_config(path: str | Path) -> bool:
    """Return whether `path` names a config, which stands for its `weights`, and not a checkpoint."""
    return Path(path).suffix in (".yaml", ".yml")


def open_weights(path: str, config: Config, labels: Mapping[str, LabelInfo]) -> Trained:
    """Return the network of a config with its `weights`, untrained.

    Only heads that the weights fill to the last tensor and class are kept: the others would guess.

    Args:
        path: the config's, for errors.
        config: as loaded.
        labels: head name -> what it is to answer with.

    Raises:
        ConfigError: the config has no `weights`, or they fill no head.
        CheckpointError: weights that cannot be loaded.
    """
    if config.weights is None:
        raise ConfigError(
            f"{path}: weights: found null, and an untrained network has no answers; set e.g. "
            "weights=torchvision:fcos_resnet50_fpn/COCO_V1, or give a run's checkpoint instead of a config"
        )
    model = build_model(config.model(), dict(labels))
    report = load_weights(model, config.model(), labels)
    logger.info("%s", weights_text(report))
    whole = report.whole_heads()
    if not whole:
        raise ConfigError(
            f"{path}: weights={config.weights} fill none of the heads {', '.join(config.heads)} to the last "
            "tensor and class; train first, and give the run's checkpoint"
        )
    if left_out := [name for name in config.heads if name not in whole]:
        logger.warning("left out, since the weights do not fill them: %s", ", ".join(left_out))
    heads = model.named_heads()
    config.heads = {name: config.heads[name] for name in whole}
    return Trained(
        MultiTaskModel(model.trunk, {name: heads[name] for name in whole}).eval(),
        config,
        {name: labels[name] for name in whole},
        Progress(),
    )
