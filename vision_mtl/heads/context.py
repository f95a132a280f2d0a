"""What detection heads and image-level heads tell one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vision_mtl.heads.dense.towers import PRIOR
from vision_mtl.structures import ClassScores, Detections, Prediction


def rescore(detections: Detections, probabilities: Tensor, slots: Tensor, temperature: float) -> Detections:
    """Return one image's detections, weighed by how likely the image is to hold their class, best first.

    score' = score * p_class ** temperature. This is the context of Felzenszwalb et al. (PAMI 2010, section
    7.3), which they learn a classifier for, with one number to learn. Equal scores keep their order, and a
    temperature of 0 changes nothing.

    Args:
        detections: M detections of K classes.
        probabilities: (L,) in [0, 1], that the image has each of L labels.
        slots: (K,) int64, each class's place among the labels; -1 for a class that keeps its scores.
        temperature: at least 0.
    """
    places = slots[detections.classes]
    likely = torch.where(places >= 0, probabilities[places.clamp(min=0)], 1.0)
    scores, order = (detections.scores * likely**temperature).sort(descending=True, stable=True)
    return Detections(detections.boxes[order], scores, detections.classes[order])


def rescore_images(
    found: Sequence[Prediction], presence: Sequence[Prediction], slots: Tensor, temperature: float
) -> list[Detections]:
    """Return `rescore` of each image's detections by the answer of a multi-label head to the same image."""
    results = []
    for detections, answer in zip(found, presence, strict=True):
        assert isinstance(detections, Detections)
        assert isinstance(answer, ClassScores)
        results.append(rescore(detections, answer.scores, slots, temperature))
    return results


class EvidenceLogits(nn.Module):
    """What a dense detection head saw, as an addition to an image-level head's logits; 0 at first.

    It enters as logits, since these are what independent evidence adds up in. The shift makes 0 of a place
    that a fresh detection head takes for background, so that what nobody sees moves no answer; the scale
    makes about 1 of a box that is as likely as not. A probability would be flat where the head is sure.

    Args:
        classes: of the detection head.
        out: logits of the image-level head.
    """

    def __init__(self, classes: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(classes, out, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, evidence: Tensor) -> Tensor:
        """Return (B, out) for `Head.evidence` (B, classes)."""
        return self.linear((evidence - PRIOR) / 4).float()
