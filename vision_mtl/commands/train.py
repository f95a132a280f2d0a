"""`tools/train.py`: a config to a trained run."""

from __future__ import annotations

import errno
import importlib.util
import logging
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
import torch
import torchvision
import yaml

import vision_mtl
from vision_mtl.allocator import keep_freed_memory
from vision_mtl.commands.report import report_evaluation
from vision_mtl.commands.shared import choose_device, evaluation_loader, require_one_process
from vision_mtl.config import Config, load_config, to_tree
from vision_mtl.data.dataset import Source, training_dataset
from vision_mtl.data.loader import Loader, TrainingBatches, shown_per_epoch
from vision_mtl.data.sources import fingerprints, open_evaluation, open_sources
from vision_mtl.errors import ConfigError
from vision_mtl.files import whole
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.compiling import compile_network
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories
from vision_mtl.models.weights import WeightsReport, load_weights
from vision_mtl.reporting.tables import heads_table, text
from vision_mtl.reporting.weights_report import weights_text
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import kept_checkpoints, load_checkpoint, save_checkpoint
from vision_mtl.training.context import evenly_spaced, fit_context
from vision_mtl.training.engine import train, write_json
from vision_mtl.training.evaluation import check_best, evaluate
from vision_mtl.training.log import start_logging
from vision_mtl.training.run import BEST, LAST, Run

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)

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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise ConfigError where the run folder cannot be written to: full, read-only, a quota, a limit."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise ConfigError(
            f"--output '{folder}': cannot write: {error}; free some space or make it writable and add "
            "--resume, or choose another --output"
        ) from error


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Hold a run folder against other processes, as long as this one lives at most.

    Raises:
        ConfigError: another process holds it.
    """
    with (folder / ".lock").open("a") as file:
        try:
            lock(file)
        except (BlockingIOError, PermissionError) as error:  # as lockf says it, depending on the system
            raise ConfigError(
                f"--output '{folder}' is in use by another process; wait for it, or choose another folder"
            ) from error
        yield


def lock(file: IO[str]) -> None:
    """Lock an open file for this process alone; raise OSError where another holds it.

    Unlike `flock`'s, the lock is not shared with loader processes, which may outlive a killed run by seconds.
    Nothing is done where the system has no such locks.
    """
    if importlib.util.find_spec("fcntl") is not None:  # not on Windows
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def seed_everything(seed: int) -> None:
    """Seed all generators: weights and dropout. Order and augmentation have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def training_loader(config: Config, sources: Sequence[Source]) -> tuple[Loader, TrainingBatches]:
    """Return the augmented batches of the training sources and their order."""
    data, training = config.data, config.training
    dataset = training_dataset(data, sources, training.seed, training.epochs)
    factors = shown_per_epoch(data, dataset)
    batches = TrainingBatches(dataset.sizes(), data.batch_size, training.seed, factors)
    loader = Loader(dataset, batches, data.workers, data.prefetch, skip_bad=data.bad_images == "skip")
    return loader, batches


class TrainingData(NamedTuple):
    """What a config's training and validation files hold.

    Attributes:
        train: training sources.
        val: validation source.
        labels: head -> what it answers with.
    """

    train: list[Source]
    val: Source
    labels: dict[str, LabelInfo]


def open_data(config: Config) -> TrainingData:
    """Open and check all that training reads.

    Raises:
        ConfigError: a file that does not exist, or sources that do not fit the heads.
        DataError: annotations, labels or images that cannot be used.
    """
    heads = label_sources(config.heads)
    train = open_sources(config.data, "train", heads)
    labels = label_infos(config.heads, train)
    vocabularies = {name: info.names for name, info in labels.items()}
    categories = trained_categories(config.heads, labels)
    return TrainingData(train, open_evaluation(config.data, "val", heads, vocabularies, categories), labels)


def build_run(
    config: Config, data: TrainingData, model: MultiTaskModel, device: torch.device, folder: Path
) -> Run:
    """Return a run at its start; nothing is written.

    Raises:
        ConfigError: a balancing method whose packages are not installed.
    """
    loader, batches = training_loader(config, data.train)
    weights = {name: head.weight for name, head in config.heads.items() if not head.frozen}
    return Run(
        folder=folder,
        model=model.to(device),
        balancer=Balancer(config.balancing, weights, device),
        train=loader,
        batches=batches,
        val=evaluation_loader(config, data.val),
        val_source=data.val,
        training=config.training,
        evaluation=config.evaluation,
        device=device,
        dtype=resolve_precision(config.training.precision, device),
        identity={
            "config": to_tree(config),
            "labels": {name: msgspec.to_builtins(info) for name, info in data.labels.items()},
            "versions": {
                "vision_mtl": vision_mtl.__version__,
                "torch": str(torch.__version__),
                "torchvision": str(torchvision.__version__),
            },
            "fingerprints": fingerprints([*data.train, data.val]),
        },
        lr_factors={name: head.lr_factor for name, head in config.heads.items()},
    )


def learn_context(run: Run, config: Config, train: Sequence[Source], best: dict[str, Any]) -> dict[str, Any]:
    """Learn how much the detection head listens to its context, and judge the best weights again with it.

    Args:
        run: finished; its averaged model becomes the best one.
        config: as it was trained by.
        train: training sources: the first that annotates boxes is learned from.
        best: metrics of the best weights.

    Returns:
        their metrics from now on, which `best.pt` and `metrics.json` hold too; `best` where no head that was
        trained has a context.
    """
    model = run.average.model
    learning = [name for name in model.contexts if name in run.balancer.weights]
    if not learning:
        return best
    source = evenly_spaced(next(source for source in train if source.has_boxes))
    path = run.folder / BEST
    state = load_checkpoint(path)
    model.load_state_dict(state["average"])
    loader = evaluation_loader(config, source)
    found = fit_context(model, loader, source, run.device, run.dtype, run.evaluation.backend)
    logger.info(
        "%s listens to its context with temperature %g: mAP on training images %s, %s without",
        *learning,
        found["temperature"],
        found["mAP_on"],
        found["mAP_off"],
    )
    result = evaluate(model, run.val, run.val_source, run.device, run.dtype, run.evaluation.backend)
    run.judged = result
    metrics = {**best, "heads": result.heads, "losses": result.losses, "context": found}
    save_checkpoint({**state, "average": model.state_dict(), "metrics": metrics}, path)
    write_json(run.folder / "metrics.json", metrics)
    return metrics


def train_from_config(
    config_path: str,
    overrides: Sequence[str],
    output: Path | None = None,
    resume: bool = False,
    changed: bool = False,
) -> dict[str, Any]:
    """Train as `tools/train.py` does; return the best metrics.

    Args:
        config_path: YAML file.
        overrides: `key=value` changes to it.
        output: run folder; None for the next free one in `runs/`.
        resume: go on with the run in it.
        changed: go on although the config has changed.

    Raises:
        VisionMTLError: wrong config, data or run folder; before anything is written where possible.
        Interrupted: SIGTERM or SIGINT came; the run can be resumed.
    """
    require_one_process()
    config = load_config(config_path, overrides)
    folder = choose_folder(config_path, output, resume)
    start_logging()
    data = open_data(config)
    if resume and not kept_checkpoints(folder / LAST):
        logger.info("'%s' has no checkpoint yet: starting from the beginning", folder)
        resume = False
    device = choose_device(config.training.device)
    keep_freed_memory(device)
    seed_everything(config.training.seed)
    model = build_model(config.model(), data.labels)
    started_from = None if resume else load_weights(model, config.model(), data.labels)
    check_best(model, data.val, config.evaluation.best, config.evaluation.backend)
    run = build_run(config, data, model, device, folder)
    if config.training.compile:
        compile_network(run.model, frozen=False)
    make_folder(folder)  # only now: nothing is written before all of the input has proved good
    with writing(folder), sole_user(folder):
        return finish(run, config, data, started_from, resume, changed)


def finish(
    run: Run,
    config: Config,
    data: TrainingData,
    started_from: WeightsReport | None,
    resume: bool,
    changed: bool,
) -> dict[str, Any]:
    """Train a run from where it stands to its end, in its folder; return the best metrics."""
    folder = run.folder
    start_logging(folder / "log.txt")
    if started_from is not None:
        logger.info("%s", weights_text(started_from))
    if resume:
        for note in run.resume(changed):
            logger.warning("%s", note)
        logger.info("going on from step %d of %d", run.progress.step, run.total_steps)
    with whole(folder / "config.yaml") as file:
        file.write_text(yaml.safe_dump(run.identity["config"], sort_keys=False), encoding="utf-8")
    logger.info(
        "%d training and %d validation images, heads %s, %.1f M parameters, %d steps on %s in %s",
        sum(len(source.positions) for source in data.train),
        len(data.val.positions),
        ", ".join(config.heads),
        sum(p.numel() for p in run.model.parameters()) / 1e6,
        run.total_steps,
        run.device,
        str(run.dtype).removeprefix("torch."),
    )
    best = learn_context(run, config, data.train, train(run))
    logger.info("%s", text(heads_table(best["heads"], title=f"best of {folder}")))
    logger.info("results and weights are in %s", folder)
    report_run(run, config, data, int(best["step"]))
    return best


def report_run(run: Run, config: Config, data: TrainingData, step: int) -> None:
    """Write the report of the best weights, which are judged again where an earlier process found them."""
    if not config.evaluation.report:
        return
    if run.judged is None:
        model = run.average.model
        model.load_state_dict(load_checkpoint(run.folder / BEST)["average"])
        run.judged = evaluate(model, run.val, run.val_source, run.device, run.dtype, run.evaluation.backend)
    report_evaluation(
        run.judged,
        config,
        data.val,
        run.folder,
        "val",
        step=step,
        checkpoint=run.folder / BEST,
        run=run.folder,
        trained_on=data.train,
    )
