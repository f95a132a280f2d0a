"""The training loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
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
from vision_mtl.training.interrupt import Stop, deferred_signals, leave_if
from vision_mtl.training.log import MetricsLog, peak_memory
from vision_mtl.training.numerics import check_finite, check_weights, mean_losses
from vision_mtl.training.optim import learning_rate_factor, set_learning_rate
from vision_mtl.training.run import BEST, Progress, Run
from vision_mtl.training.step import optimizer_step

logger = logging.getLogger(__name__)


def train(run: Run) -> dict[str, Any]:
    """Train to the end of the schedule, or until no evaluation improves for `patience` evaluations.

    Returns:
        the metrics of the best weights, as `metrics.json` holds them.

    Raises:
        NumericsError: a loss, gradient or weight was not finite; the last checkpoint stays as it was.
        BadImageError: an image turned out to be damaged.
        Interrupted: SIGTERM or SIGINT came; the last checkpoint is of the step that was taken last.
    """
    progress = run.progress
    log = MetricsLog(run.folder, progress.lines, progress.step)
    started = time.perf_counter()
    with deferred_signals() as stop, progress_bar() as bars:
        bar = bars.add_task("training", total=run.total_steps, completed=progress.step, note="")
        try:
            while True:
                if progress.evaluate:
                    judge(run, log, started, stop)
                    progress.evaluate, progress.lines = False, log.lines
                    save(run)
                if progress.step >= run.total_steps or run.out_of_patience():
                    break
                train_epoch(run, log, stop, lambda note: bars.update(bar, completed=progress.step, note=note))
        finally:
            log.close()
    if run.out_of_patience():
        logger.info("no better for %d evaluations: training stopped early", progress.since_best)
    best = load_checkpoint(run.folder / BEST)["metrics"]
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


class Pace:
    """Images per second between lines of the log."""

    def __init__(self) -> None:
        self.images, self.since = 0, time.perf_counter()

    def rate(self) -> float:
        """Return the rate since the last call, and begin again."""
        now = time.perf_counter()
        rate = self.images / (now - self.since)
        self.images, self.since = 0, now
        return rate


def train_epoch(run: Run, log: MetricsLog, stop: Stop, show: Callable[[str], None]) -> None:
    """Take the optimiser steps of the epoch that has begun, from its batch `progress.batch` on, and save.

    Raises:
        Interrupted: a signal came; what has been done is saved.
    """
    config, progress = run.training, run.progress
    run.model.trunk.hold(progress.epoch < config.heads_first_epochs)
    run.model.train()
    run.batches.epoch, run.batches.start = progress.epoch, progress.batch
    parts: list[Batch] = []
    pace = Pace()
    mark = saved = time.perf_counter()

    def step() -> None:
        nonlocal mark
        if note := take_step(run, log, parts, pace):
            show(note)
        parts.clear()
        progress.batch = run.batches.start + run.train.taken
        mark, before = time.perf_counter(), mark
        progress.seconds += mark - before

    for batch in run.train:
        parts.append(batch)
        pace.images += len(batch.metas)
        if len(parts) == config.accumulate:
            step()
            if progress.step >= run.total_steps:
                break
            long_ago = config.save_minutes and mark - saved > 60 * config.save_minutes
            if long_ago or (config.save_steps and progress.step % config.save_steps == 0):
                save(run)
                saved = time.perf_counter()
        leave_if(stop, lambda: save(run))
    if parts:
        step()
    check_finite(run)
    run.balancer.end_epoch()
    if run.train.skipped:
        logger.warning("%d images left out, unreadable so far", len(run.train.skipped))
    progress.epoch, progress.batch = progress.epoch + 1, 0
    progress.evaluate = progress.step >= run.total_steps or progress.epoch % run.evaluation.every == 0
    save(run)
    leave_if(stop)


def save(run: Run) -> None:
    """Write a checkpoint; raise NumericsError, and keep the one before, where numbers are not finite."""
    check_finite(run)
    check_weights(run.model)
    run.save()


def take_step(run: Run, log: MetricsLog, parts: Sequence[Batch], pace: Pace) -> str | None:
    """Take one optimiser step; return a note for the terminal where a line of the log was due."""
    config, progress = run.training, run.progress
    lr = config.lr * learning_rate_factor(progress.step, run.total_steps, config)
    set_learning_rate(run.optimizer, lr)
    compare = config.conflict_every > 0 and progress.step % config.conflict_every == 0
    run.recent.append(optimizer_step(run, parts, compare))
    progress.step += 1
    if (conflict := run.recent[-1].conflict) is not None:
        log.write(progress.step, KIND, conflict)
    note = None
    if progress.step % config.log_every == 0 or progress.step >= run.total_steps:
        check_finite(run)
        losses, rate = mean_losses(run.recent), pace.rate()
        values = {"epoch": progress.epoch, "lr": lr, "losses": losses, "images_per_second": round(rate, 2)}
        values["memory_mb"] = peak_memory(run.device)
        log.write(progress.step, "train", values)
        run.recent.clear()
        totals = "  ".join(f"{name} {sum(terms.values()):.3f}" for name, terms in losses.items())
        note = f"{totals}  lr {lr:.1e}  {rate:.1f} images/s"
    progress.lines = log.lines
    return note


def judge(run: Run, log: MetricsLog, started: float, stop: Stop) -> None:
    """Evaluate the averaged weights, and keep them if they are the best.

    Raises:
        Interrupted: a signal came; the evaluation will be made again.
    """
    progress = run.progress
    result = evaluate(
        run.average.model, run.val, run.val_source, run.device, run.dtype, run.evaluation.backend, stop
    )
    score = headline(run.model, result.heads, run.evaluation.best)
    metrics = describe_evaluation(result, progress)
    log.write(progress.step, "val", {"heads": result.heads, "losses": result.losses, "headline": score})
    elapsed = duration(time.perf_counter() - started)
    title = f"epoch {progress.epoch}, step {progress.step}/{run.total_steps}, {elapsed}"
    logger.info("%s", text(heads_table(result.heads, title=title)))
    # A data set that cannot judge any head (None) still gets a best.pt: the newest weights.
    if score is None or score > progress.best or not (run.folder / BEST).exists():
        progress.best = progress.best if score is None else score
        progress.best_step, progress.since_best = progress.step, 0
        run.judged = result
        run.save_best(metrics)
        write_json(run.folder / "metrics.json", metrics)
    else:
        progress.since_best += 1


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
