"""The training loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vision_mtl.files import whole
from vision_mtl.progress import duration, progress_bar
from vision_mtl.reporting.conflict_plot import conflict_plot
from vision_mtl.reporting.tables import heads_table, text
from vision_mtl.structures import Batch
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.conflict import KIND, read_conflict, summarize_conflict
from vision_mtl.training.evaluation import Evaluation, evaluate, headline
from vision_mtl.training.log import MetricsLog
from vision_mtl.training.numerics import check_finite, mean_losses
from vision_mtl.training.optim import learning_rate_factor, set_learning_rate
from vision_mtl.training.run import Progress, Run
from vision_mtl.training.step import Step, optimizer_step

logger = logging.getLogger(__name__)


def train(run: Run) -> dict[str, Any]:
    """Train to the end of the schedule, or until no evaluation improves for `patience` evaluations.

    Returns:
        the metrics of the best weights, as `metrics.json` holds them.

    Raises:
        NumericsError: a loss or gradient was not finite; the last checkpoint stays as it was.
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
    best |= {"training_seconds": round(progress.seconds, 2), **report_conflict(run, log)}
    write_json(run.folder / "metrics.json", best)
    logger.info("best at step %d, training took %s", best["step"], duration(time.perf_counter() - started))
    return best


def report_conflict(run: Run, log: MetricsLog) -> dict[str, Any]:
    """Return, plot and log whether the run's tasks agreed; empty where no two were compared."""
    lines = read_conflict(log.path)
    conflict = summarize_conflict(lines)
    if conflict is None:
        return {}
    conflict_plot(lines, [run.folder / "plots" / f"conflict.{suffix}" for suffix in ("png", "svg")])
    logger.info("%s", conflict.sentence)
    return {"conflict": msgspec.to_builtins(conflict)}


def train_epoch(run: Run, log: MetricsLog, show: Callable[[str], None]) -> None:
    """Take the optimiser steps of one epoch."""
    config, progress = run.training, run.progress
    run.model.trunk.hold(progress.epoch < config.heads_first_epochs)
    run.model.train()
    parts: list[Batch] = []
    recent: list[Step] = []
    started = since = time.perf_counter()
    images = 0
    remaining = len(run.batches)
    for batch in run.train:
        parts.append(batch)
        images += len(batch.metas)
        remaining -= 1
        if len(parts) < config.accumulate and remaining:
            continue
        lr = config.lr * learning_rate_factor(progress.step, run.total_steps, config)
        set_learning_rate(run.optimizer, lr)
        compare = config.conflict_every > 0 and progress.step % config.conflict_every == 0
        recent.append(optimizer_step(run, parts, compare))
        parts = []
        progress.step += 1
        if (conflict := recent[-1].conflict) is not None:
            log.write(progress.step, KIND, conflict)
        finished = progress.step >= run.total_steps
        if progress.step % config.log_every == 0 or finished:
            check_finite(run, recent)
            losses = mean_losses(recent)
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
    check_finite(run, recent)
    run.balancer.end_epoch()
    progress.seconds += time.perf_counter() - started


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
    with whole(path) as file:
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
