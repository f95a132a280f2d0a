"""The training loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision_mtl.data.dataset import Source
from vision_mtl.data.loader import Loader, TrainingBatches
from vision_mtl.errors import CheckpointError, NumericsError
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.progress import duration, progress_bar
from vision_mtl.reporting.tables import heads_table, text
from vision_mtl.structures import Batch
from vision_mtl.training.balancing import Balancer
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint
from vision_mtl.training.config import EvaluationConfig, TrainingConfig
from vision_mtl.training.evaluation import Evaluation, evaluate, headline
from vision_mtl.training.log import MetricsLog
from vision_mtl.training.optim import (
    AveragedModel,
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)

logger = logging.getLogger(__name__)

FREE_TO_CHANGE = ("data.workers:", "data.prefetch:")  # what does not change a result may change on resuming


@dataclass
class Progress:
    """Where a run stands; saved with it.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        best: highest headline so far; minus infinity before the first evaluation.
        best_step: the step it was reached at.
        since_best: evaluations since then.
    """

    step: int = 0
    epoch: int = 0
    best: float = float("-inf")
    best_step: int = 0
    since_best: int = 0


@dataclass
class Run:
    """All that a training run consists of.

    Attributes:
        folder: the run folder.
        model: the network, on `device`.
        balancer: task losses to one.
        train: training batches.
        batches: the order of those, to set the epoch on.
        val: evaluation batches.
        val_source: their truth.
        training: the config's part.
        evaluation: the config's part.
        device: where the network is.
        dtype: what its forward pass runs in.
        identity: what a checkpoint says beside weights: config, labels, versions; plain types.
        lr_factors: head -> learning-rate factor.
    """

    folder: Path
    model: MultiTaskModel
    balancer: Balancer
    train: Loader
    batches: TrainingBatches
    val: Loader
    val_source: Source
    training: TrainingConfig
    evaluation: EvaluationConfig
    device: torch.device
    dtype: torch.dtype
    identity: dict[str, Any]
    lr_factors: dict[str, float]
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        groups = parameter_groups(self.model, self.balancer, self.training, self.lr_factors)
        self.optimizer = build_optimizer(groups, self.training)
        self.average: AveragedModel[MultiTaskModel] = AveragedModel(self.model, self.training.ema)
        steps = -(-len(self.batches) // self.training.accumulate)
        self.total_steps = min(steps * self.training.epochs, self.training.max_steps or 2**62)

    def save(self, name: str) -> None:
        """Write `checkpoints/<name>.pt`: all state, so that training can go on from it."""
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
            "generator": torch.get_rng_state(),
        }
        save_checkpoint(state, self.folder / "checkpoints" / f"{name}.pt")

    def save_best(self, metrics: dict[str, Any]) -> None:
        """Write `checkpoints/best.pt`: the averaged weights alone, and their metrics."""
        state = {
            **self.identity,
            "progress": vars(self.progress),
            "average": self.average.model.state_dict(),
            "metrics": metrics,
        }
        save_checkpoint(state, self.folder / "checkpoints" / "best.pt")

    def resume(self) -> None:
        """Take up the state of `checkpoints/last.pt`.

        Raises:
            CheckpointError: it is missing, damaged, or of another config.
        """
        path = self.folder / "checkpoints" / "last.pt"
        state = load_checkpoint(path)
        changed = [
            line
            for line in sorted(_differences(state["config"], self.identity["config"]))
            if not line.startswith(FREE_TO_CHANGE)
        ]
        if changed:
            raise CheckpointError(
                f"'{path}' was trained with another config: {'; '.join(changed[:10])}. Resume with the run's "
                "own config.yaml, or start a new run in another --output"
            )
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        torch.set_rng_state(state["generator"])


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return `key: old -> new` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in old.keys() | new.keys()
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def train(run: Run) -> dict[str, Any]:
    """Train to the end of the schedule, or until no evaluation improves for `patience` evaluations.

    Returns:
        the metrics of the best weights, as `metrics.json` holds them.

    Raises:
        NumericsError: a loss is not finite; the last checkpoint stays as it was.
        BadImageError: an image turned out to be damaged.
    """
    progress = run.progress
    log = MetricsLog(run.folder, keep_until=progress.step)
    started = time.perf_counter()
    with progress_bar() as bars:
        bar = bars.add_task("training", total=run.total_steps, completed=progress.step, note="")
        try:
            while progress.step < run.total_steps:
                run.batches.epoch = progress.epoch
                train_epoch(run, log, lambda note: bars.update(bar, completed=progress.step, note=note))
                progress.epoch += 1
                if run.train.skipped:
                    logger.warning("%d images left out, unreadable so far", len(run.train.skipped))
                finished = progress.step >= run.total_steps
                stop = False
                if finished or progress.epoch % run.evaluation.every == 0:
                    stop = judge(run, log, started)
                run.save("last")
                if stop:
                    logger.info("no better for %d evaluations: training stops early", progress.since_best)
                    break
        finally:
            log.close()
    best = load_checkpoint(run.folder / "checkpoints" / "best.pt")["metrics"]
    logger.info("best at step %d, training took %s", best["step"], duration(time.perf_counter() - started))
    return best


def train_epoch(run: Run, log: MetricsLog, show: Callable[[str], None]) -> None:
    """Take the optimiser steps of one epoch."""
    config, progress = run.training, run.progress
    run.model.trunk.hold(progress.epoch < config.heads_first_epochs)
    run.model.train()
    parts: list[Batch] = []
    recent: list[dict[str, dict[str, Tensor]]] = []
    since, images = time.perf_counter(), 0
    remaining = len(run.batches)
    for batch in run.train:
        parts.append(batch)
        images += len(batch.metas)
        remaining -= 1
        if len(parts) < config.accumulate and remaining:
            continue
        lr = config.lr * learning_rate_factor(progress.step, run.total_steps, config)
        set_learning_rate(run.optimizer, lr)
        recent.append(optimizer_step(run, parts))
        parts = []
        progress.step += 1
        finished = progress.step >= run.total_steps
        if progress.step % config.log_every == 0 or finished:
            losses = _means(recent)
            rate = images / (time.perf_counter() - since)
            log.write(
                progress.step,
                "train",
                {"epoch": progress.epoch, "lr": lr, "losses": losses, "images_per_second": round(rate, 2)},
            )
            totals = "  ".join(f"{name} {sum(terms.values()):.3f}" for name, terms in losses.items())
            show(f"{totals}  lr {lr:.1e}  {rate:.1f} images/s")
            since, images, recent = time.perf_counter(), 0, []
        if finished:
            break


def optimizer_step(run: Run, batches: list[Batch]) -> dict[str, dict[str, Tensor]]:
    """Take one optimiser step on the mean loss of `batches`; return the last batch's losses by head.

    Raises:
        NumericsError: the loss or gradient is not finite; no weight is touched.
    """
    run.optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        heads = run.model.named_heads()
        labelled = [name for name, head in heads.items() if head.count_labels(batch)]
        moved = batch.to(run.device)
        with mixed_precision(run.device, run.dtype):
            features, outputs = run.model(moved.images, moved.sizes)
        losses = run.model.losses(features, outputs, moved)
        tasks = {name: torch.stack(list(terms.values())).sum() for name, terms in losses.items()}
        total = run.balancer(tasks, labelled) / len(batches)
        if not torch.isfinite(total):
            bad = [name for name, task in tasks.items() if not torch.isfinite(task)]
            ids = [meta.image_id for meta in batch.metas]
            raise NumericsError(
                f"the loss of {', '.join(bad) or 'the balancer'} is not finite at step {run.progress.step}, "
                f"on images {ids}. No weight was changed; resume from the last checkpoint with a lower "
                "training.lr, or training.precision=fp32"
            )
        total.backward()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, run.training.clip or float("inf"), foreach=True)
    if not torch.isfinite(norm):
        raise NumericsError(
            f"the gradient is not finite at step {run.progress.step}. No weight was changed; resume from the "
            "last checkpoint with a lower training.lr, or training.precision=fp32"
        )
    run.optimizer.step()
    run.average.update(run.model)
    return {name: {term: loss.detach() for term, loss in terms.items()} for name, terms in losses.items()}


def judge(run: Run, log: MetricsLog, started: float) -> bool:
    """Evaluate the averaged weights, keep them if they are the best; return whether to stop early."""
    progress = run.progress
    result = evaluate(
        run.average.model, run.val, run.val_source, run.device, run.dtype, run.evaluation.backend
    )
    score = headline(run.model, result.heads, run.evaluation.best)
    metrics = describe_evaluation(result, progress)
    log.write(progress.step, "val", {"heads": result.heads, "losses": result.losses, "headline": score})
    elapsed = duration(time.perf_counter() - started)
    title = f"epoch {progress.epoch}, step {progress.step}/{run.total_steps}, {elapsed}"
    logger.info("%s", text(heads_table(result.heads, title=title)))
    # A data set that cannot judge any head (None) still gets a best.pt: the newest weights.
    if score is None or score > progress.best or not (run.folder / "checkpoints" / "best.pt").exists():
        progress.best = progress.best if score is None else score
        progress.best_step, progress.since_best = progress.step, 0
        run.save_best(metrics)
        write_json(run.folder / "metrics.json", metrics)
    else:
        progress.since_best += 1
    return run.training.patience is not None and progress.since_best >= run.training.patience


def describe_evaluation(result: Evaluation, progress: Progress) -> dict[str, Any]:
    """Return an evaluation as `metrics.json` holds it."""
    return {
        "heads": result.heads,
        "losses": result.losses,
        "images": result.images,
        "seconds": round(result.seconds, 2),
        "step": progress.step,
        "epoch": progress.epoch,
        "skipped": [{"file": path, "reason": reason} for path, reason in result.skipped.items()],
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _means(recent: list[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, float]]:
    """Return the mean of each term over the last steps; the only place where losses leave the device."""
    return {
        name: {term: float(torch.stack([losses[name][term] for losses in recent]).mean()) for term in terms}
        for name, terms in recent[-1].items()
    }
