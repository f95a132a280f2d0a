"""How much a detection head listens to its context: one number, learned when training ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vision_mtl.data.annotations import AnnotationIndex, Category
from vision_mtl.data.dataset import Source
from vision_mtl.heads.context import rescore_images
from vision_mtl.heads.evaluation import DetectionMetric
from vision_mtl.metrics.detection import Backend
from vision_mtl.models.folding import for_inference
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Batch, ImageMeta, Prediction

TEMPERATURES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # ascending: the first of equals is the smallest


@dataclass(frozen=True)
class Truth:
    """The annotations of some images of an index; a `metrics.detection.GroundTruth`."""

    path: str
    categories: Sequence[Category]
    image_ids: np.ndarray
    offsets: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


def truth_of(index: AnnotationIndex, image_ids: Sequence[int]) -> Truth:
    """Return the annotations of the images with the given ids."""
    kept = np.isin(index.image_ids, image_ids)
    counts = np.diff(index.offsets)
    objects = np.repeat(kept, counts)
    return Truth(
        path=index.path,
        categories=index.categories,
        image_ids=index.image_ids[kept],
        offsets=np.concatenate([[0], np.cumsum(counts[kept])]),
        xywh=index.xywh[objects],
        areas=index.areas[objects],
        classes=index.classes[objects],
        crowd=index.crowd[objects],
    )


def evenly_spaced(source: Source, limit: int = 2000) -> Source:
    """Return the source with at most `limit` of its images: every n-th in the file's order, always the same.

    With n = images / limit, the i-th that is kept is number floor(i * n).
    """
    images = len(source.positions)
    if images <= limit:
        return source
    return replace(source, positions=source.positions[np.arange(limit) * images // limit])


@torch.no_grad()
def fit_context(
    model: MultiTaskModel,
    loader: Iterable[Batch],
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    backend: Backend,
) -> dict[str, float | None]:
    """Set the temperature of the detection head's context to the one of `TEMPERATURES` with the highest mAP.

    Of equals it is the smallest, and 0 is one of them: on these images the context never does harm.

    Args:
        model: put into evaluation mode; its heads are as trained, and only the temperature changes.
        loader: training images as at evaluation, e.g. of `evenly_spaced`: mAP is computed once for each
            temperature, on the images that it gives.
        source: where they come from; annotates boxes.
        device: where the model is.
        dtype: what its forward pass runs in.
        backend: what computes mAP.

    Returns:
        `temperature`, and `mAP_off` without context and `mAP_on` with it, None where there is nothing to
        find; empty if no head has a context.
    """
    if not model.contexts:
        return {}
    ((name, context),) = model.contexts.items()  # a model has one detection head
    temperature = model.named_heads()[name].get_buffer("context_temperature")
    temperature.zero_()
    answering = for_inference(model.eval(), dtype)
    found: list[Prediction] = []
    presence: list[Prediction] = []
    metas: list[ImageMeta] = []
    for batch in loader:
        moved = batch.to(device)
        with mixed_precision(device, dtype):
            features, outputs = answering(moved.images, moved.sizes)
        predictions = answering.predict(answering.decode(features, outputs), batch.metas)
        found += predictions[name]
        presence += predictions[context.head]
        metas += batch.metas
    truth = truth_of(source.index, [meta.image_id for meta in metas])
    names = [category.name for category in source.classes.categories]
    scores = {}
    for value in TEMPERATURES:
        temperature.fill_(value)  # `predict` reads it back, rounded to float32: judge it by the same number
        metric = DetectionMetric(truth, names, backend)
        metric.update(rescore_images(found, presence, context.slots, float(temperature)), metas)
        scores[value] = metric.compute()["mAP"]
    best = max(TEMPERATURES, key=lambda value: scores[value] or 0.0)
    temperature.fill_(best)
    return {"temperature": best, "mAP_off": scores[0.0], "mAP_on": scores[best]}
