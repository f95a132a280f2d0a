"""The one rule by which scores become answers: which boxes are kept, and which labels are called present."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vision_mtl.structures import Detections, Prediction

DEFAULT_THRESHOLD = 0.3  # of detections
DECIMALS = 6  # of scores, as they are written


@dataclass(frozen=True)
class Thresholds:
    """Lowest scores.

    Attributes:
        default: of a detection whose class has none of its own.
        classes: head -> class or label -> its own; a label without one keeps its head's `threshold`.
    """

    default: float = DEFAULT_THRESHOLD
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def keep(
    predictions: Mapping[str, Prediction], thresholds: Thresholds, names: Mapping[str, Sequence[str]]
) -> dict[str, Prediction]:
    """Return one image's predictions, of detections those whose score, as it is written, is high enough.

    Args:
        predictions: head -> prediction.
        thresholds: the lowest scores.
        names: head -> class names, in class order.
    """
    kept = dict(predictions)
    for head, found in predictions.items():
        if isinstance(found, Detections):
            own = thresholds.classes.get(head, {})
            lowest = torch.tensor(
                [own.get(name, thresholds.default) for name in names[head]], dtype=torch.double
            )
            enough = found.scores.double().round(decimals=DECIMALS) >= lowest[found.classes]
            kept[head] = Detections(found.boxes[enough], found.scores[enough], found.classes[enough])
    return kept


def call_present(answers: Mapping[str, Any], thresholds: Thresholds) -> dict[str, Any]:
    """Return one image's described answers, heads with several labels naming those that are high enough.

    Args:
        answers: head -> what `Head.describe` returns.
        thresholds: the lowest scores.
    """
    called = dict(answers)
    for head, own in thresholds.classes.items():
        answer = answers.get(head)
        if isinstance(answer, Mapping) and isinstance(answer.get("label"), list):
            scores = answer["scores"]
            present = [
                name
                for name in sorted(scores, key=lambda name: -scores[name])
                if (scores[name] >= own[name] if name in own else name in answer["label"])
            ]
            called[head] = {**answer, "label": present, "score": [scores[name] for name in present]}
    return called
