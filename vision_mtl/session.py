"""What the tools do: configs and checkpoints to runs and evaluations. The only wiring in the package."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torchvision
import yaml

import vision_mtl
from vision_mtl.config import Config, apply_override, config_from_tree, load_config, to_tree
from vision_mtl.data.augment import Augmentation
from vision_mtl.data.dataset import Dataset, Source, describes_whole_image
from vision_mtl.data.loader import EvaluationBatches, Loader, TrainingBatches
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import CheckpointError, ConfigError, DataError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric, SingleLabelMetric
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.pretrained import load_trunk_weights
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories
from vision_mtl.reporting.tables import heads_table, per_class_table, text
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.engine import Progress, Run, describe_evaluation, train, write_json
from vision_mtl.training.evaluation import Evaluation, evaluate
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)


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


def choose_folder(config_path: str, output: Path | None, resume: bool) -> Path:
    """Return the run folder, made if need be; without `output` the next free runs/<config>-<number>.

    Raises:
        ConfigError: the folder holds a run and `resume` is off, or holds none and it is on.
    """
    if output is None:
        stem = Path(config_path).stem
        pattern = re.compile(rf"{re.escape(stem)}-(\d+)")
        taken = [int(m.group(1)) for p in Path("runs").glob(f"{stem}-*") if (m := pattern.fullmatch(p.name))]
        output = Path("runs") / f"{stem}-{max(taken, default=0) + 1}"
    holds_run = (output / "config.yaml").exists()
    if holds_run and not resume:
        raise ConfigError(
            f"--output '{output}' already holds a run; add --resume to go on with it, or choose another"
        )
    if resume and not holds_run:
        raise ConfigError(f"--output '{output}' holds no run to resume: it has no config.yaml")
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output '{output}': cannot make the folder: {error}") from error
    return output


def seed_everything(seed: int) -> None:
    """Seed all generators: weights and dropout. Order and augmentation have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def training_loader(config: Config, sources: Sequence[Source]) -> tuple[Loader, TrainingBatches]:
    """Return the augmented batches of the training sources and their order."""
    whole = any(describes_whole_image(source.labels) for source in sources)
    data = config.data
    augmentation = Augmentation(
        data.augment, data.resize, keep_boxes=whole, min_visibility=data.min_visibility
    )
    dataset = Dataset(sources, data.resize, augmentation, config.training.seed)
    batches = TrainingBatches(dataset.sizes(), data.batch_size, config.training.seed)
    loader = Loader(dataset, batches, data.workers, data.prefetch, skip_bad=data.bad_images == "skip")
    return loader, batches


def evaluation_loader(config: Config, source: Source) -> Loader:
    """Return all images of an evaluation source, in batches of equal padded size."""
    data = config.data
    dataset = Dataset([source], data.resize)
    batches = EvaluationBatches(dataset.sizes(), data.resize, data.eval_batch_size)
    return Loader(dataset, batches, data.workers, data.prefetch, skip_bad=data.bad_images == "skip")


def train_from_config(
    config_path: str, overrides: Sequence[str], output: Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train as `tools/train.py` does; return the best metrics.

    Raises:
        VisionMTLError: wrong config, data or run folder; before anything is written where possible.
    """
    config = load_config(config_path, overrides)
    if resume and output is not None:
        config = (
            load_config(output / "config.yaml", overrides) if (output / "config.yaml").exists() else config
        )
    heads = label_sources(config.heads)
    start_logging()
    sources = open_sources(config.data, "train", heads)
    labels = label_infos(config.heads, sources)
    val = open_evaluation(
        config.data,
        "val",
        heads,
        {name: info.names for name, info in labels.items()},
        trained_categories(config.heads, labels),
    )
    device = choose_device(config.training.device)
    dtype = resolve_precision(config.training.precision, device)
    folder = choose_folder(config_path, output, resume)
    start_logging(folder / "log.txt")
    tree = to_tree(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    seed_everything(config.training.seed)
    model = build_model(config.model(), labels)
    load_trunk_weights(model.trunk, config.trunk)
    model.to(device)
    balancer = Balancer(config.balancing, {name: head.weight for name, head in config.heads.items()}).to(
        device
    )
    loader, batches = training_loader(config, sources)
    run = Run(
        folder=folder,
        model=model,
        balancer=balancer,
        train=loader,
        batches=batches,
        val=evaluation_loader(config, val),
        val_source=val,
        training=config.training,
        evaluation=config.evaluation,
        device=device,
        dtype=dtype,
        identity={
            "config": tree,
            "labels": {name: msgspec.to_builtins(info) for name, info in labels.items()},
            "versions": {
                "vision_mtl": vision_mtl.__version__,
                "torch": str(torch.__version__),
                "torchvision": str(torchvision.__version__),
            },
            "fingerprints": {source.index.path: source.index.fingerprint for source in [*sources, val]},
        },
        lr_factors={name: head.lr_factor for name, head in config.heads.items()},
    )
    if resume:
        run.resume()
        logger.info("going on from step %d of %d", run.progress.step, run.total_steps)
    images = sum(len(source.positions) for source in sources)
    parameters = sum(p.numel() for p in model.parameters())
    logger.info(
        "%d training and %d validation images, heads %s, %.1f M parameters, %d steps on %s in %s",
        images,
        len(val.positions),
        ", ".join(config.heads),
        parameters / 1e6,
        run.total_steps,
        device,
        str(dtype).removeprefix("torch."),
    )
    best = train(run)
    logger.info("%s", text(heads_table(best["heads"], title=f"best of {folder}")))
    logger.info("results and weights are in %s", folder)
    return best


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


def evaluate_checkpoint(
    path: str, overrides: Sequence[str], split: str, output: Path | None, per_class: bool = True
) -> dict[str, Any]:
    """Evaluate as `tools/evaluate.py` does: print the table, write metrics.json and detections.json.

    Raises:
        VisionMTLError: a wrong checkpoint, override, split or data set.
    """
    trained = open_checkpoint(path, overrides)
    config = trained.config
    start_logging()
    source = open_evaluation(
        config.data,
        split,
        label_sources(config.heads),
        {name: info.names for name, info in trained.labels.items()},
        trained_categories(config.heads, trained.labels),
    )
    device = choose_device(config.training.device)
    dtype = resolve_precision(config.training.precision, device)
    result = evaluate(
        trained.model.to(device),
        evaluation_loader(config, source),
        source,
        device,
        dtype,
        config.evaluation.backend,
    )
    metrics = {"checkpoint": str(path), "split": split, **describe_evaluation(result, trained.progress)}
    folder = output or Path(path).resolve().parent.parent / f"evaluation-{split}"
    write_evaluation(result, metrics, folder)
    logger.info("%s", text(heads_table(result.heads, title=f"{path} on {split}, {result.images} images")))
    if per_class:
        print_per_class(result)
    logger.info("metrics.json and predictions are in %s", folder)
    return metrics


def write_evaluation(result: Evaluation, metrics: dict[str, Any], folder: Path) -> None:
    """Write metrics.json, and detections.json in COCO's results format where there is a detection head."""
    per_class = {name: [row._asdict() for row in rows] for name, rows in class_rows(result).items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", {**metrics, "per_class": per_class})
        for metric in result.metrics.values():
            if isinstance(metric, DetectionMetric):
                (folder / "detections.json").write_text(json.dumps(metric.results_json()), encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output '{folder}': cannot write: {error}") from error


def class_rows(result: Evaluation) -> dict[str, list[Any]]:
    """Return head -> rows of per-class numbers, for the heads that have classes."""
    rows: dict[str, list[Any]] = {}
    for name, metric in result.metrics.items():
        if isinstance(metric, DetectionMetric):
            rows[name] = metric.per_class
        elif isinstance(metric, (SingleLabelMetric, MultilabelMetric)):
            rows[name] = metric.class_rows()
    return rows


def print_per_class(result: Evaluation) -> None:
    """Print a table per head that has classes."""
    for name, rows in class_rows(result).items():
        logger.info("%s", text(per_class_table(rows, title=name)))
