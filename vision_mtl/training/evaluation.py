"""One pass over an evaluation split: metrics and losses of every head."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vision_mtl.data.dataset import Source
from vision_mtl.data.loader import Loader
from vision_mtl.errors import ConfigError, NumericsError, nearest
from vision_mtl.heads.base import Metric
from vision_mtl.metrics.detection import Backend
from vision_mtl.models.folding import for_inference
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.progress import progress_bar
from vision_mtl.structures import Batch
from vision_mtl.training.interrupt import Stop, leave_if, never


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        heads: head -> metric -> number, None where the data cannot tell.
        losses: head -> mean loss over the images that have a label.
        metrics: head -> the filled metric, for per-class rows and detections.
        images: how many were evaluated.
        seconds: how long it took.
        skipped: path -> reason of images that could not be read (`data.bad_images=skip`).
    """

    heads: dict[str, dict[str, float | None]]
    losses: dict[str, float | None]
    metrics: dict[str, Metric]
    images: int
    seconds: float
    skipped: dict[str, str]


def check_best(model: MultiTaskModel, source: Source, best: str | None, backend: Backend) -> None:
    """Raise ConfigError, before any training, if `evaluation.best` names a metric that its head has not."""
    if best is None:
        return
    name, metric = best.split(".", 1)
    targets = source.labels[name].targets if name in source.labels else None
    known = model.named_heads()[name].metric(source.truth, targets, backend).compute()
    if metric not in known:
        raise ConfigError(
            f"evaluation.best: head '{name}' has no metric '{metric}'{nearest(metric, known) or '.'} "
            f"Known: {', '.join(known)}"
        )


def headline(model: MultiTaskModel, heads: Mapping[str, Mapping[str, Any]], best: str | None) -> float | None:
    """Return the one number that says how good a model is; higher is better.

    Args:
        model: whose heads name their headline metrics.
        heads: head -> metric -> number.
        best: `<head>.<metric>`, or None for the mean of the heads' headline metrics.
    """
    if best is not None:
        name, metric = best.split(".", 1)
        value = heads[name][metric]
        errors = ("MAE", "RMSE")  # the metrics of which less is better
        return None if value is None else float(-value if metric in errors else value)
    numbers = [heads[name][head.headline] for name, head in model.named_heads().items()]
    known = [float(number) for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


@torch.no_grad()
def evaluate(
    model: MultiTaskModel,
    loader: Loader,
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    backend: Backend,
    stop: Stop = never,
) -> Evaluation:
    """Evaluate `model` (put into evaluation mode) on all images of `source`.

    The truth comes from the source's annotations and labels, never from what the loader made of them.
    Random draws in the losses (of two-stage heads) are the same each time, and leave training's as they were.

    Raises:
        Interrupted: `stop` returned a signal.
        NumericsError: a loss or a prediction is not finite.
    """
    started = time.perf_counter()
    model = for_inference(model.eval(), dtype)
    metrics = {
        name: head.metric(
            source.truth, source.labels[name].targets if name in source.labels else None, backend
        )
        for name, head in model.named_heads().items()
    }
    sums: dict[str, float] = dict.fromkeys(metrics, 0.0)
    counts: dict[str, int] = dict.fromkeys(metrics, 0)
    images = 0
    devices = [device] if device.type == "cuda" else []
    with progress_bar() as progress, torch.random.fork_rng(devices):
        torch.manual_seed(0)
        bar = progress.add_task("evaluating", total=len(loader), note="")
        for batch in loader:
            labelled = {name: head.count_labels(batch) for name, head in model.named_heads().items()}
            images += len(batch.metas)
            batch = batch.to(device)
            with mixed_precision(device, dtype):
                features, outputs = model(batch.images, batch.sizes)
            losses = model.losses(features, outputs, batch)
            predictions = model.predict(model.decode(features, outputs), batch.metas)
            for name, metric in metrics.items():
                metric.update(predictions[name], batch.metas)
                loss = float(torch.stack(list(losses[name].values())).sum())
                require_finite_loss(name, loss, batch)
                sums[name] += loss * labelled[name]
                counts[name] += labelled[name]
            progress.advance(bar)
            leave_if(stop)
    heads = {name: metric.compute() for name, metric in metrics.items()}
    means = {name: sums[name] / counts[name] if counts[name] else None for name in sums}
    return Evaluation(heads, means, metrics, images, time.perf_counter() - started, dict(loader.skipped))


def require_finite_loss(head: str, loss: float, batch: Batch) -> None:
    """Raise NumericsError where a loss is not finite: answers of such numbers could pass for none at all."""
    if not math.isfinite(loss):
        images = [meta.image_id for meta in batch.metas]
        raise NumericsError(
            f"evaluation: the loss of {head} is not finite on images {images}: "
            "the network has diverged. Evaluate an earlier checkpoint, lower training.lr, or set "
            "training.precision=fp32"
        )
