"""The temperature of a detection head's context, learned from detections and probabilities made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.data.helpers import index_of, source_of
from vision_mtl.data.dataset import Source
from vision_mtl.models.links import Context
from vision_mtl.structures import Batch, ClassScores, Detections, ImageMeta
from vision_mtl.training.context import TEMPERATURES, evenly_spaced, fit_context, truth_of

ANT, BEE = [4.0, 4.0, 24.0, 24.0], [40.0, 10.0, 70.0, 50.0]  # xyxy
CPU = torch.device("cpu")


class Answers(nn.Module):
    """Looks like a network of a detection head and its context, and answers what it is told.

    Args:
        found: image id -> its detections, (score, class, box) from the best on.
        presence: image id -> probability of each label.
    """

    def __init__(
        self, found: dict[int, list[tuple[float, int, list[float]]]], presence: dict[int, Any]
    ) -> None:
        super().__init__()
        self.found, self.presence = found, presence
        self.contexts = {"objects": Context("presence", torch.tensor([0, 1]))}
        self.head = nn.Module()
        self.head.register_buffer("context_temperature", torch.tensor(0.7))

    def named_heads(self) -> dict[str, nn.Module]:
        return {"objects": self.head}

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[None, dict[str, Any]]:
        return None, {}

    def decode(self, features: None, outputs: dict[str, Any]) -> dict[str, Any]:
        return outputs

    def predict(self, decoded: dict[str, Any], metas: Sequence[ImageMeta]) -> dict[str, Any]:
        assert not self.training
        assert not self.head.context_temperature  # what is collected is not re-scored already
        detections, presence = [], []
        for meta in metas:
            scores, classes, boxes = (list(column) for column in zip(*self.found[meta.image_id], strict=True))
            detections.append(Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)))
            presence.append(ClassScores(torch.tensor(self.presence[meta.image_id])))
        return {"objects": detections, "presence": presence}


def batch_of(*image_ids: int) -> Batch:
    count = len(image_ids)
    return Batch(
        images=torch.zeros(count, 3, 64, 96, dtype=torch.uint8),
        sizes=torch.tensor([[64, 96]] * count),
        boxes=torch.zeros(count, 0, 4),
        classes=torch.zeros(count, 0, dtype=torch.int64),
        ignore=torch.zeros(count, 0, dtype=torch.bool),
        has_boxes=torch.ones(count, dtype=torch.bool),
        labels={},
        metas=[ImageMeta(i, f"{i}.png", (64, 96), (1.0, 1.0)) for i in image_ids],
    )


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """An ant in image 0, a bee in image 1, and an ant in image 2."""
    xywh = {"ant": [4.0, 4, 20, 20], "bee": [40.0, 10, 30, 40]}
    boxes = {0: [(1, xywh["ant"])], 1: [(2, xywh["bee"])], 2: [(1, xywh["ant"])]}
    return source_of(index_of(tmp_path, [(64, 96)] * 3, boxes))


FOUND = {0: [(0.9, 1, BEE), (0.5, 0, ANT)], 1: [(0.6, 1, BEE)]}  # the first bee is none


def fit(model: Answers, source: Source, *batches: Batch) -> dict[str, float | None]:
    return fit_context(model, batches, source, CPU, torch.float32, "pycocotools")  # type: ignore[arg-type]


def test_the_smallest_temperature_of_the_highest_map_is_taken(source: Source) -> None:
    """The wrong bee falls behind the right one where 0.9 * 0.1**t < 0.6 * 0.9**t: from t = 0.185 on."""
    model = Answers(FOUND, {0: [0.9, 0.1], 1: [0.1, 0.9]}).train()
    result = fit(model, source, batch_of(0), batch_of(1))
    assert result == pytest.approx({"temperature": 0.2, "mAP_off": 0.75, "mAP_on": 1.0})
    assert float(model.head.context_temperature) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "presence",
    [{0: [0.5, 0.5], 1: [0.5, 0.5]}, {0: [0.1, 0.9], 1: [0.9, 0.1]}, {0: [1.0, 0.0], 1: [0.0, 0.0]}],
    ids=["says nothing", "is wrong", "rules out the bees"],
)
def test_a_context_that_does_not_help_is_off(source: Source, presence: dict[int, list[float]]) -> None:
    model = Answers(FOUND, presence)
    result = fit(model, source, batch_of(0, 1))
    assert result == pytest.approx({"temperature": 0.0, "mAP_off": 0.75, "mAP_on": 0.75})
    assert float(model.head.context_temperature) == 0


def test_without_an_object_to_find_it_is_off(tmp_path: Path) -> None:
    model = Answers(FOUND, {0: [0.9, 0.1], 1: [0.1, 0.9]})
    result = fit(model, source_of(index_of(tmp_path, [(64, 96)] * 2, {})), batch_of(0, 1))
    assert result == {"temperature": 0.0, "mAP_off": None, "mAP_on": None}


def test_without_a_context_there_is_nothing_to_learn(source: Source) -> None:
    model = Answers(FOUND, {})
    model.contexts = {}
    assert fit(model, source, batch_of(0)) == {}


def test_0_is_among_the_temperatures_which_ascend() -> None:
    assert TEMPERATURES[0] == 0
    assert list(TEMPERATURES) == sorted(set(TEMPERATURES))


def test_the_truth_of_some_images_is_theirs_alone(source: Source) -> None:
    index = source.index
    truth = truth_of(index, [2, 1])
    assert truth.image_ids.tolist() == [1, 2]
    assert truth.offsets.tolist() == [0, 1, 2]
    assert truth.classes.tolist() == [1, 0]
    assert np.array_equal(truth.xywh, index.xywh[1:])
    whole = truth_of(index, index.image_ids.tolist())
    for field in ("image_ids", "offsets", "xywh", "areas", "classes", "crowd"):
        assert np.array_equal(getattr(whole, field), getattr(index, field)), field


def test_images_are_evenly_spaced_and_always_the_same(tmp_path: Path) -> None:
    source = source_of(index_of(tmp_path, [(64, 96)] * 10, {}))
    assert evenly_spaced(source, 4).positions.tolist() == [0, 2, 5, 7]
    assert evenly_spaced(source, 10) is source
    assert evenly_spaced(source, 9).positions.tolist() == list(range(9))
