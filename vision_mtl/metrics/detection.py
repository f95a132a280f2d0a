"""Boxes to average precision, as COCO defines it (https://cocodataset.org/#detection-eval).

pycocotools is the reference. What it evaluates is exactly what `results_json` writes, rounding
included, so that the numbers can be checked from the two files alone.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_mtl.errors import ConfigError, DataError
from vision_mtl.metrics.checks import require_finite

Backend = Literal["pycocotools", "hotcoco"]

STAT_NAMES = ("mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRIC_NAMES = STAT_NAMES[:9]


class Category(Protocol):
    """A category of the annotation file."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


class GroundTruth(Protocol):
    """The part of an `AnnotationIndex` that evaluation reads: I images, A annotations.

    Attributes:
        path: the annotation file, for messages.
        categories: in the order of the contiguous classes, with their original ids.
        image_ids: (I,) int64 original ids.
        offsets: (I + 1,) int64; image i holds the annotations offsets[i]:offsets[i + 1].
        xywh: (A, 4) float64 boxes in pixels, exactly as in the file, degenerate ones included.
        areas: (A,) float64 pixels; COCO's small / medium / large go by this, not by the box.
        classes: (A,) int64 contiguous classes.
        crowd: (A,) bool.
    """

    @property
    def path(self) -> str: ...
    @property
    def categories(self) -> Sequence[Category]: ...
    @property
    def image_ids(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def xywh(self) -> np.ndarray: ...
    @property
    def areas(self) -> np.ndarray: ...
    @property
    def classes(self) -> np.ndarray: ...
    @property
    def crowd(self) -> np.ndarray: ...


class ClassAP(NamedTuple):
    """One category's scores; `objects` counts its ground truth without crowds."""

    name: str
    category_id: int
    ap: float | None
    ap50: float | None
    objects: int


@dataclass(frozen=True)
class DetectionScores:
    """COCO's numbers, in [0, 1]; None where no ground truth defines them.

    Attributes:
        stats: the twelve numbers in COCO's order, named by `STAT_NAMES`.
        per_class: one row per category, in the order of the contiguous classes.
    """

    stats: tuple[float | None, ...]
    per_class: list[ClassAP]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The first nine numbers by name."""
        return dict(zip(METRIC_NAMES, self.stats, strict=False))


def results_array(
    image_ids: Sequence[int],
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
) -> np.ndarray:
    """Join per-image detections into rows (R, 7) float64 [image id, x, y, w, h, score, class].

    Args:
        image_ids: one per image, below 2**53, where float64 is still exact.
        boxes: (M, 4) xyxy in original pixels for each image.
        scores: (M,) for each image.
        classes: (M,) contiguous for each image.
    """
    ids = np.repeat(np.asarray(image_ids, np.float64), [len(image) for image in scores])
    xyxy = np.concatenate([np.zeros((0, 4)), *boxes])
    return np.column_stack(
        [
            ids,
            xyxy[:, :2],
            xyxy[:, 2:] - xyxy[:, :2],
            np.concatenate([np.zeros(0), *scores]),
            np.concatenate([np.zeros(0), *classes]),
        ]
    )


def prepare_results(truth: GroundTruth, results: np.ndarray) -> np.ndarray:
    """Check rows (R, 7) against the ground truth and round them as they are written and evaluated.

    Boxes keep 3 decimals (a thousandth of a pixel), scores 6. pycocotools would score a NaN box as a
    perfect match and pass over ids it does not know, so either is an error here.
    """
    require_finite(results, "detections")
    unknown = np.setdiff1d(results[:, 0], truth.image_ids)
    if len(unknown):
        listed = ", ".join(f"{image_id:.0f}" for image_id in unknown[:10])
        raise DataError(f"detections name {len(unknown)} image ids that {truth.path} does not hold: {listed}")
    unknown = np.setdiff1d(results[:, 6], np.arange(len(truth.categories)))
    if len(unknown):
        listed = ", ".join(f"{label:g}" for label in unknown[:10])
        raise DataError(
            f"detections name classes {listed}; {truth.path} has {len(truth.categories)} categories, "
            f"classes 0 to {len(truth.categories) - 1}"
        )
    rounded = results.copy()
    rounded[:, 1:5] = results[:, 1:5].round(3)
    rounded[:, 5] = results[:, 5].round(6)
    return rounded


def results_json(results: np.ndarray, truth: GroundTruth) -> list[dict[str, Any]]:
    """Return rows (R, 7) in COCO's results format, with original image and category ids."""
    return _to_dicts(prepare_results(truth, results), truth)


def evaluate_detections(
    truth: GroundTruth, results: np.ndarray, backend: Backend = "pycocotools"
) -> DetectionScores:
    """Score rows (R, 7) float64 [image id, x, y, w, h, score, contiguous class] on all images of `truth`.

    Without detections every defined number is 0; without ground truth it is None. Raises a
    `NumericsError` where a row is not finite and a `DataError` where it names an unknown image or class.
    """
    rows = prepare_results(truth, results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _hotcoco(truth, rows) if backend == "hotcoco" else _pycocotools(truth, rows)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()

    # (IoU thresholds, recalls, categories by id, areas, limits): all areas, 100 detections per image.
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    rank = np.argsort(np.argsort(_category_ids(truth)))
    objects = np.bincount(truth.classes[~truth.crowd], minlength=len(truth.categories))
    return DetectionScores(
        stats=tuple(_defined(stat) for stat in evaluator.stats),
        per_class=[
            ClassAP(
                category.name,
                category.id,
                _defined(precision[:, :, rank[label]].mean()),
                _defined(precision[0, :, rank[label]].mean()),
                int(objects[label]),
            )
            for label, category in enumerate(truth.categories)
        ],
    )


def _pycocotools(truth: GroundTruth, rows: np.ndarray) -> Any:
    """Return pycocotools' evaluator; the result side is built as `loadRes` would, which refuses no rows."""
    columns = (
        _annotation_images(truth).tolist(),
        _category_ids(truth)[truth.classes].tolist(),
        truth.xywh.tolist(),
        truth.areas.tolist(),
        truth.crowd.astype(int).tolist(),
    )
    fields = ("image_id", "category_id", "bbox", "area", "iscrowd")
    annotations = [
        {"id": number, **dict(zip(fields, values, strict=True))}
        for number, values in enumerate(zip(*columns, strict=True), start=1)  # id 0 would mean "no match"
    ]
    detections = _to_dicts(rows, truth)
    for number, detection in enumerate(detections, start=1):
        _, _, width, height = detection["bbox"]
        detection.update(id=number, area=width * height, iscrowd=0)
    return COCOeval(_coco(truth, annotations), _coco(truth, detections), "bbox")


def _coco(truth: GroundTruth, annotations: list[dict[str, Any]]) -> Any:
    """Return an indexed `COCO` with the images and categories of `truth`."""
    coco = COCO()
    coco.dataset = {"images": _images(truth), "categories": _categories(truth), "annotations": annotations}
    coco.createIndex()
    return coco


def _hotcoco(truth: GroundTruth, rows: np.ndarray) -> Any:
    """Return hotcoco's evaluator (https://github.com/derekallman/hotcoco): the same numbers, sooner."""
    try:
        import hotcoco
    except ImportError as error:
        raise ConfigError(
            "the detection backend 'hotcoco' is not installed: run python -m pip install -e '.[fast]' "
            "in the project's folder, or choose the backend 'pycocotools'"
        ) from error
    ids = _category_ids(truth)
    coco = hotcoco.COCO.from_arrays(
        _images(truth),
        _categories(truth),
        _annotation_images(truth),
        ids[truth.classes],
        truth.xywh,
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    detections = np.column_stack([rows[:, :6], ids[rows[:, 6].astype(np.int64)]])
    return hotcoco.COCOeval(coco, coco.load_res(detections), "bbox")


def _to_dicts(rows: np.ndarray, truth: GroundTruth) -> list[dict[str, Any]]:
    """Return prepared rows (R, 7) as dictionaries of COCO's results format."""
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(
            rows[:, 0].astype(np.int64).tolist(),
            _category_ids(truth)[rows[:, 6].astype(np.int64)].tolist(),
            rows[:, 1:5].tolist(),
            rows[:, 5].tolist(),
            strict=True,
        )
    ]


def _images(truth: GroundTruth) -> list[dict[str, Any]]:
    return [{"id": image_id} for image_id in truth.image_ids.tolist()]


def _categories(truth: GroundTruth) -> list[dict[str, Any]]:
    return [{"id": category.id, "name": category.name} for category in truth.categories]


def _category_ids(truth: GroundTruth) -> np.ndarray:
    """Return (K,) int64 original ids by contiguous class."""
    return np.array([category.id for category in truth.categories], dtype=np.int64)


def _annotation_images(truth: GroundTruth) -> np.ndarray:
    """Return (A,) int64 original image id of each annotation."""
    return np.repeat(truth.image_ids, np.diff(truth.offsets))


def _defined(value: float) -> float | None:
    """Return COCO's number, or None for the -1 by which it says that there is no ground truth."""
    return None if value < 0 else float(value)
