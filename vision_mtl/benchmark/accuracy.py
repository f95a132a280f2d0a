"""AP against seconds of training: every detector gets the same trunk, data, means and time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import nn

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.benchmark.contenders import HEAD, PILOT, Contender, contenders
from vision_mtl.commands.shared import choose_device, evaluation_loader
from vision_mtl.commands.train import seed_everything, training_loader
from vision_mtl.config import Config
from vision_mtl.data.config import SourceConfig
from vision_mtl.data.dataset import Source
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import ConfigError
from vision_mtl.files import whole
from vision_mtl.heads.evaluation import DetectionMetric
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories
from vision_mtl.progress import progress_bar
from vision_mtl.training.config import TrainingConfig
from vision_mtl.training.optim import (
    AveragedModel,
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
)

logger = logging.getLogger(__name__)

LR_FACTORS = (0.5, 1.0, 2.0)  # of the recipe's learning rate, tried for every contender
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TELLING = 0.05  # mAP of a short run that has learned enough to choose by
FINE = 10_000  # the schedule is a function of the share of time spent, in this many parts


class Point(msgspec.Struct, frozen=True):
    """One evaluation of the averaged weights: after how many seconds of training, and its metrics."""

    seconds: float
    steps: int
    metrics: dict[str, float | None]


class Trial(msgspec.Struct, frozen=True):
    """What identifies a run.

    Attributes:
        contender: its name.
        precision: `bf16` or `fp32`.
        lr: peak learning rate.
        seed: of weights, order and augmentation.
        budget: seconds of training.
    """

    contender: str
    precision: str
    lr: float
    seed: int
    budget: float


class Outcome(msgspec.Struct, frozen=True):
    """A finished run.

    Attributes:
        trial: what was run.
        curve: evaluations, the last one at the end of the budget; empty if the loss was not finite.
        images_per_second: in training.
    """

    trial: Trial
    curve: list[Point]
    images_per_second: float

    def score(self) -> float:
        """Return the final mAP; below any other where the run diverged."""
        return (self.curve[-1].metrics["mAP"] or 0.0) if self.curve else -1.0


class Results(msgspec.Struct):
    """What the results file holds: where and how it was measured, and every finished run."""

    commands: list[str]
    machine: str
    versions: dict[str, str]
    config: str
    runs: list[Outcome] = []


@dataclass(frozen=True)
class Arena:
    """The data and means that all contenders share."""

    config: Config
    train: list[Source]
    val: Source
    build: dict[str, Callable[[], Contender]]


def open_arena(config: Config) -> Arena:
    """Open a recipe's data for detection alone.

    Raises:
        ConfigError: the recipe has no `fcos` head to compare.
    """
    heads = {name: head for name, head in config.heads.items() if isinstance(head, FcosConfig)}
    if len(heads) != 1:
        raise ConfigError(f"heads: found {', '.join(config.heads)}, expected a head of type fcos to compare")
    ((name, head),) = heads.items()
    config = msgspec.structs.replace(
        config,
        data=msgspec.structs.replace(
            config.data, train=for_head(config.data.train, name), val=for_head(config.data.val, name)
        ),
        heads={HEAD: head},
        trunk=msgspec.structs.replace(config.trunk, weights=None),
        weights=None,
    )
    sources = label_sources(config.heads)
    train = open_sources(config.data, "train", sources)
    labels = label_infos(config.heads, train)
    val = open_evaluation(config.data, "val", sources, {}, trained_categories(config.heads, labels))
    return Arena(config, train, val, contenders(config.trunk, head, labels[HEAD]))


def for_head(sources: Sequence[SourceConfig], head: str) -> list[SourceConfig]:
    """Return the sources that supervise the head, for whatever heads there are."""
    return [
        msgspec.structs.replace(source, heads=None)
        for source in sources
        if source.heads is None or head in source.heads
    ]


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict]:
    """Return optimiser groups, alike for every contender: no decay for norms and biases."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "lr_factor": 1.0, "weight_decay": config.weight_decay},
        {"params": vectors, "lr_factor": 1.0, "weight_decay": 0.0},
    ]


def run_trial(arena: Arena, trial: Trial, evaluations: int, show: Callable[[float, str], None]) -> Outcome:
    """Train one contender for its budget and evaluate the averaged weights on the way.

    Only training counts as time, with its share of waiting for data; evaluation does not. The learning
    rate follows the recipe's schedule over the budget, whatever the number of steps that fit into it.

    Args:
        arena: shared data and means.
        trial: what to run.
        evaluations: how many, evenly spaced, the last one at the end.
        show: called with the seconds spent and a note.
    """
    config = arena.config.training
    device = choose_device(config.device)
    dtype = DTYPES[trial.precision]
    seed_everything(trial.seed)
    model = arena.build[trial.contender]().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = msgspec.structs.replace(config, lr=trial.lr, seed=trial.seed)
    loader, batches = training_loader(msgspec.structs.replace(arena.config, training=settings), arena.train)
    optimizer = build_optimizer(parameter_groups(model, settings), settings)
    average = AveragedModel(model, settings.ema)
    curve: list[Point] = []
    steps, images, spent, epoch = 0, 0, 0.0, 0
    model.train()
    while spent < trial.budget:
        batches.epoch = epoch
        since = time.perf_counter()
        for batch in loader:
            factor = learning_rate_factor(int(spent / trial.budget * FINE), FINE, settings)
            set_learning_rate(optimizer, trial.lr * factor)
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(batch.to(device), dtype)
            if not torch.isfinite(loss):
                logger.warning("%s: the loss is not finite after %d steps", trial.contender, steps)
                return Outcome(trial, [], 0.0)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip or float("inf"), foreach=True)
            optimizer.step()
            average.update(model)
            steps, images = steps + 1, images + len(batch.metas)
            now = time.perf_counter()
            spent, since = spent + now - since, now
            show(spent, f"{trial.contender} {images / spent:.1f} images/s")
            if spent >= trial.budget * (len(curve) + 1) / evaluations:
                metrics = evaluate(average.model, arena, dtype, device)
                curve.append(Point(round(spent, 1), steps, metrics))
                since = time.perf_counter()
            if spent >= trial.budget:
                break
        epoch += 1
    return Outcome(trial, curve, round(images / spent, 2))


@torch.no_grad()
def evaluate(
    model: nn.Module, arena: Arena, dtype: torch.dtype, device: torch.device
) -> dict[str, float | None]:
    """Return the detection metrics of a model in evaluation mode on the validation images."""
    assert isinstance(model, Contender)
    names = [category.name for category in arena.val.classes.categories]
    metric = DetectionMetric(arena.val.index, names, arena.config.evaluation.backend)
    for batch in evaluation_loader(arena.config, arena.val):
        metric.update(model.detect(batch.to(device), dtype), batch.metas)
    return {name: value if value is None else round(value, 5) for name, value in metric.compute().items()}


class Ledger:
    """The results file: runs that it holds are not run again.

    Args:
        path: JSON file, made with the first run.
        arena: shared data and means.
        header: what the file says of command, machine and config.
    """

    def __init__(self, path: Path, arena: Arena, header: Results) -> None:
        self.path, self.arena, self.results = path, arena, header
        if path.exists():
            try:
                self.results = msgspec.json.decode(path.read_bytes(), type=Results)
            except msgspec.MsgspecError as error:
                raise ConfigError(f"--results '{path}' is not a file of this command: {error}") from error
            new = [command for command in header.commands if command not in self.results.commands]
            self.results.commands += new

    def find(self, trial: Trial) -> Outcome | None:
        """Return the trial's outcome if it was run before."""
        return next((run for run in self.results.runs if run.trial == trial), None)

    def run(self, trial: Trial, evaluations: int) -> Outcome:
        """Return the trial's outcome, from the file or by running it and writing the file."""
        if (known := self.find(trial)) is not None:
            return known
        keep_freed_memory(choose_device(self.arena.config.training.device))
        with progress_bar() as bars:
            bar = bars.add_task("training", total=trial.budget, note="")
            outcome = run_trial(
                self.arena,
                trial,
                evaluations,
                lambda spent, note: bars.update(bar, completed=spent, note=note),
            )
        logger.info(
            "%s, %s, lr %g, seed %d, %.0f s: AP %.3f, %.1f images/s",
            trial.contender,
            trial.precision,
            trial.lr,
            trial.seed,
            trial.budget,
            outcome.score(),
            outcome.images_per_second,
        )
        self.results.runs.append(outcome)
        with whole(self.path) as file:
            file.write_bytes(msgspec.json.format(msgspec.json.encode(self.results), indent=1) + b"\n")
        return outcome


class Setting(NamedTuple):
    """How a contender is trained, and its mAP after a short run."""

    precision: str
    lr: float
    score: float


def rank_settings(ledger: Ledger, contender: str, seconds: float, longest: float) -> list[Setting]:
    """Return precisions and learning rates of a contender by what short runs reach with them, best first.

    The learning rates are tried in bf16, and the best of them again in fp32; where bf16 diverges at all
    three, fp32 tries all three. While none has learned enough to tell, all have twice the time.

    Args:
        ledger: runs what has not been run.
        contender: its name.
        seconds: length of the short runs.
        longest: length from which on they are not doubled.
    """
    base = ledger.arena.config.training.lr

    def scores(precision: str, rates: Sequence[float]) -> list[Setting]:
        trials = [Trial(contender, precision, lr, 0, seconds) for lr in rates]
        found = [Setting(precision, trial.lr, ledger.run(trial, 1).score()) for trial in trials]
        return sorted(found, key=lambda setting: -setting.score)

    rates = [base * factor for factor in LR_FACTORS]
    halved = scores("bf16", rates)
    full = scores("fp32", rates if halved[0].score < 0 else [halved[0].lr])
    ranked = sorted(halved + full, key=lambda setting: -setting.score)
    if ranked[0].score < TELLING and 2 * seconds <= longest:
        return rank_settings(ledger, contender, 2 * seconds, longest)
    return ranked


def train_contender(
    ledger: Ledger, contender: str, search: float, budget: float, evaluations: int
) -> Setting:
    """Train a contender for its whole budget with the best setting; return the setting.

    A run that ends below the short one it was chosen by has collapsed: the next setting is tried, and the
    best of all counts. Every peer has short runs of its own; our heads share those of one of them.
    """
    tuned = PILOT if contender.startswith("ours") else contender
    tried: list[tuple[float, Setting]] = []
    for setting in rank_settings(ledger, tuned, search, budget / 2):
        trial = Trial(contender, setting.precision, setting.lr, 0, budget)
        score = ledger.run(trial, evaluations).score()
        tried.append((score, setting))
        if score >= setting.score:
            break
    return max(tried, key=lambda pair: pair[0])[1]
