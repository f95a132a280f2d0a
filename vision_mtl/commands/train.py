"""`tools/train.py`: a config to a trained run."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torchvision
import yaml

import vision_mtl
from vision_mtl.allocator import keep_freed_memory
from vision_mtl.commands.shared import choose_device, evaluation_loader
from vision_mtl.config import Config, load_config, to_tree
from vision_mtl.data.dataset import Source, training_dataset
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.data.sampling import repeat_factors
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import ConfigError
from vision_mtl.models.multitask import build_model
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories
from vision_mtl.models.weights import load_weights
from vision_mtl.reporting.tables import heads_table, text
from vision_mtl.reporting.weights_report import weights_text
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.engine import Run, train
from vision_mtl.training.evaluation import check_best
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)


def choose_folder(config_path: str, output: Path | None, resume: bool) -> Path:
    """Return the run folder, not yet made; without `output` the next free runs/<config>-<number>.

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
    return output


def make_folder(folder: Path) -> None:
    """Make the run folder; raise ConfigError where that cannot be."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output '{folder}': cannot make the folder: {error}") from error


def seed_everything(seed: int) -> None:
    """Seed all generators: weights and dropout. Order and augmentation have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def training_loader(config: Config, sources: Sequence[Source]) -> tuple[Loader, TrainingBatches]:
    """Return the augmented batches of the training sources and their order."""
    data, training = config.data, config.training
    dataset = training_dataset(data, sources, training.seed, training.epochs)
    factors = None
    if data.repeat_threshold:
        factors = repeat_factors(*dataset.object_classes(), data.repeat_threshold)
    batches = TrainingBatches(dataset.sizes(), data.batch_size, training.seed, factors)
    loader = Loader(dataset, batches, data.workers, data.prefetch, skip_bad=data.bad_images == "skip")
    return loader, batches


def train_from_config(
    config_path: str, overrides: Sequence[str], output: Path | None = None, resume: bool = False
) -> dict[str, Any]:
    """Train as `tools/train.py` does; return the best metrics.

    Raises:
        VisionMTLError: wrong config, data or run folder; before anything is written where possible.
    """
    config = load_config(config_path, overrides)
    folder = choose_folder(config_path, output, resume)
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
    if device.type == "cpu":
        keep_freed_memory()
    seed_everything(config.training.seed)
    model = build_model(config.model(), labels)
    started_from = None if resume else load_weights(model, config.model(), labels)
    model.to(device)
    check_best(model, val, config.evaluation.best, config.evaluation.backend)
    make_folder(folder)  # only now: nothing is written before all of the input has proved good
    start_logging(folder / "log.txt")
    if started_from is not None:
        logger.info("%s", weights_text(started_from))
    tree = to_tree(config)
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
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
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
