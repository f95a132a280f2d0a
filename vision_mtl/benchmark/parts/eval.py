"""Evaluation: COCO's numbers of many detections, against the time inside pycocotools alone."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_mtl.benchmark.annotation_file import write_annotations
from vision_mtl.benchmark.results import Figure, Table, Target, figure
from vision_mtl.commands.timing import measure_in_turn
from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.errors import VisionMTLError
from vision_mtl.heads.evaluation import DetectionMetric
from vision_mtl.metrics.detection import METRIC_NAMES, Backend
from vision_mtl.structures import Detections, ImageMeta

PEER, OURS, OURS_FAST = "pycocotools", "ours, pycocotools inside", "ours, hotcoco inside"
Numbers = dict[str, float | None]  # by metric; None where nothing defines it
EQUAL = 1e-9  # largest difference of a number that counts as none


@dataclass(frozen=True)
class EvalSizes:
    """How much is evaluated, and how often.

    Attributes:
        images: how many.
        objects: in all of them together; val2017 has 36,781.
        per_image: detections in each.
        rounds: of each evaluator.
    """

    images: int = 5_000
    objects: int = 36_500
    per_image: int = 100
    rounds: int = 3


def measure_eval(sizes: EvalSizes, device: torch.device, folder: Path) -> list[Table]:
    """Time the evaluators in turn and compare their numbers.

    Args:
        sizes: how much and how often.
        device: not used: evaluation runs on the CPU.
        folder: an empty one, for the ground truth.

    Raises:
        VisionMTLError: ours gives other numbers than pycocotools.
    """
    path = folder / "annotations.json"
    write_annotations(path, sizes.images, sizes.objects)
    index = read_annotations(path, None)
    found = made_up_detections(index, sizes.per_image)
    truth, results = peer_input(path, index, found)
    evaluators: dict[str, Callable[[], Numbers]] = {
        PEER: partial(peer, truth, results),
        OURS: partial(ours, index, found, "pycocotools"),
    }
    if importlib.util.find_spec("hotcoco") is not None:
        evaluators[OURS_FAST] = partial(ours, index, found, "hotcoco")
    numbers: dict[str, Numbers] = {}

    def evaluate(name: str, _: int) -> None:
        numbers[name] = evaluators[name]()

    calls = {name: partial(evaluate, name) for name in evaluators}
    timings = measure_in_turn(calls, device, 0, sizes.rounds)
    figures: list[Figure] = [
        figure(name, "peer" if name == PEER else "ours", timing) for name, timing in timings.items()
    ]
    notes = [
        "pycocotools: createIndex, loadRes, evaluate, accumulate, summarize on dictionaries in memory; "
        "ours: from each image's tensors to the numbers",
        f"mAP {numbers[PEER]['mAP']:.3f}",
    ]
    notes += [difference_note(name, numbers[name], numbers[PEER]) for name in evaluators if name != PEER]
    if OURS_FAST not in evaluators:
        notes.append("hotcoco is not installed: python -m pip install -e '.[fast]'")
    targets = [Target(OURS, PEER, at_most=1.1)]
    if OURS_FAST in evaluators:
        targets.append(Target(OURS_FAST, PEER, at_least=50.0))
    title = (
        f"eval: {sizes.images:,} images, {sizes.objects:,} objects, "
        f"{sizes.images * sizes.per_image:,} detections, 80 classes"
    )
    return [Table("evaluation", title, "s", figures, targets, notes)]


def difference_note(name: str, numbers: Numbers, expected: Numbers) -> str:
    """Return a line that says that the numbers are equal.

    Raises:
        VisionMTLError: they are not.
    """
    for key, value in expected.items():
        other = numbers[key]
        if (value is None) != (other is None) or (value is not None and abs(value - (other or 0.0)) > EQUAL):
            raise VisionMTLError(
                f"eval: {name} gives {key} {other}, pycocotools {value}; expected the same to {EQUAL:g}. "
                "Timings of wrong numbers mean nothing"
            )
    return f"{name}: all {len(expected)} numbers equal to {EQUAL:g}"


def peer_input(
    path: Path, index: AnnotationIndex, found: list[tuple[ImageMeta, Detections]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what pycocotools is given: the file's content, and the detections in COCO's results format."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path)).dataset
    metric = filled_metric(index, found, "pycocotools")
    return truth, metric.results_json()


def peer(truth: dict[str, Any], results: list[dict[str, Any]]) -> Numbers:
    """Return COCO's numbers as pycocotools computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = [None if value < 0 else float(value) for value in evaluator.stats]
    return dict(zip(METRIC_NAMES, stats, strict=False))


def filled_metric(
    index: AnnotationIndex, found: list[tuple[ImageMeta, Detections]], backend: Backend
) -> DetectionMetric:
    """Return our metric with all detections in it."""
    metric = DetectionMetric(index, [category.name for category in index.categories], backend)
    for meta, detections in found:
        metric.update([detections], [meta])
    return metric


def ours(index: AnnotationIndex, found: list[tuple[ImageMeta, Detections]], backend: Backend) -> Numbers:
    """Return COCO's numbers as our metric computes them."""
    return filled_metric(index, found, backend).compute()


def made_up_detections(
    index: AnnotationIndex, per_image: int, seed: int = 0
) -> list[tuple[ImageMeta, Detections]]:
    """Return detections of every image, best first: each object once, a little off, and noise below them.

    A fifth of the objects gets a wrong class, so that AP is far from 0 and from 1.
    """
    rng = np.random.default_rng(seed)
    classes = len(index.categories)
    found = []
    for i, image_id in enumerate(index.image_ids.tolist()):
        objects = index.objects(i)
        height, width = index.sizes[i].tolist()
        corners = np.sort(rng.uniform(0, 1, (per_image, 2, 2)), axis=1) * [width, height]
        boxes = corners.reshape(per_image, 4)
        labels = rng.integers(0, classes, per_image)
        scores = rng.beta(1, 5, per_image)
        true = min(len(objects.boxes), per_image)
        near = objects.boxes[:true]
        sides = np.tile(near[:, 2:] - near[:, :2], 2)
        boxes[:true] = near + rng.normal(0, 0.07, (true, 4)) * sides
        right = rng.random(true) < 0.8
        labels[:true][right] = objects.classes[:true][right]
        scores[:true] = rng.beta(4, 2, true)
        order = np.argsort(-scores, kind="stable")
        meta = ImageMeta(image_id, "", (height, width), (1.0, 1.0))
        detections = Detections(
            torch.from_numpy(boxes[order].astype(np.float32)),
            torch.from_numpy(scores[order].astype(np.float32)),
            torch.from_numpy(labels[order]),
        )
        found.append((meta, detections))
    return found
