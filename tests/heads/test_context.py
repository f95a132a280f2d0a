"""What detection heads and image-level heads tell one another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.context import EvidenceLogits, rescore, rescore_images
from vision_mtl.heads.dense.evidence import LIMIT, class_evidence
from vision_mtl.heads.dense.towers import PRIOR
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.structures import ClassScores, Detections, Features

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))


def detections(scores: list[float], classes: list[int]) -> Detections:
    """Return detections whose boxes tell where they stood."""
    boxes = torch.arange(len(scores)).float()[:, None].expand(-1, 4) + torch.tensor([0.0, 0, 5, 5])
    return Detections(boxes, torch.tensor(scores), torch.tensor(classes, dtype=torch.int64))


def test_rescoring_by_hand() -> None:
    found = detections([0.9, 0.8, 0.5], [0, 1, 2])
    slots = torch.tensor([1, 0, -1])  # the labels are (nut, bolt); washer is none
    new = rescore(found, torch.tensor([1.0, 0.25]), slots, 0.5)
    assert new.scores.tolist() == pytest.approx([0.8, 0.5, 0.45])  # 0.9 * sqrt(0.25) is now the last
    assert new.classes.tolist() == [1, 2, 0]
    assert new.boxes[:, 0].tolist() == [1, 2, 0]


def test_a_temperature_of_0_changes_nothing_even_where_a_class_is_impossible() -> None:
    found = detections([0.9, 0.4, 0.4, 0.4], [0, 1, 0, 2])
    new = rescore(found, torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0, 1, 2]), 0.0)
    assert torch.equal(new.scores, found.scores)
    assert torch.equal(new.classes, found.classes)
    assert torch.equal(new.boxes, found.boxes)


def test_equal_scores_keep_their_order() -> None:
    found = detections([0.8, 0.4, 0.4], [0, 1, 2])
    new = rescore(found, torch.tensor([0.5, 1.0, 1.0]), torch.tensor([0, 1, 2]), 1.0)
    assert new.scores.tolist() == pytest.approx([0.4, 0.4, 0.4])
    assert new.boxes[:, 0].tolist() == [0, 1, 2]


def test_boxes_of_one_class_keep_their_order_and_nothing_is_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, generator=generator).sort(descending=True).values
    classes = torch.randint(0, 3, (40,), generator=generator)
    found = detections(scores.tolist(), classes.tolist())
    new = rescore(found, torch.tensor([0.9, 0.05, 0.5]), torch.arange(3), 0.7)
    assert (new.scores.diff() <= 0).all()
    assert sorted(new.boxes[:, 0].tolist()) == list(range(40))
    for label in range(3):
        places = new.boxes[new.classes == label][:, 0]
        assert (places.diff() > 0).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_detections_stay_none(temperature: float) -> None:
    new = rescore(detections([], []), torch.tensor([0.5]), torch.tensor([0, -1]), temperature)
    assert new.boxes.shape == (0, 4)
    assert len(new.scores) == len(new.classes) == 0


def test_each_image_is_rescored_by_its_own_answer() -> None:
    found = [detections([0.8], [0]), detections([0.8], [0])]
    answers = [ClassScores(torch.tensor([1.0])), ClassScores(torch.tensor([0.5]))]
    new = rescore_images(found, answers, torch.tensor([0]), 1.0)
    assert [float(image.scores) for image in new] == pytest.approx([0.8, 0.4])


def features_of(sizes: list[tuple[int, int]], padded: tuple[int, int] = (64, 96)) -> Features:
    return Features({}, [], [8, 16, 32], padded, torch.tensor(sizes))


SHAPES = [(8, 12), (4, 6), (2, 3)]  # of 64 x 96 pixels: 96 + 24 + 6 points


@pytest.mark.parametrize("each", [1, 9])
def test_evidence_is_the_highest_logit_of_the_cells_that_see_the_image(each: int) -> None:
    """The same as a loop over levels, rows, columns, anchors and classes."""
    sizes = [(64, 96), (40, 50), (1, 96)]
    logits = torch.randn(3, 126 * each, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.full((3, 2), -torch.inf)
    for image, (height, width) in enumerate(sizes):
        point = 0
        for (rows, columns), stride in zip(SHAPES, (8, 16, 32), strict=True):
            for row in range(rows):
                for column in range(columns):
                    if row * stride < height and column * stride < width:
                        here = logits[image, point * each : (point + 1) * each].amax(0)
                        expected[image] = torch.maximum(expected[image], here)
                    point += 1
    assert torch.equal(class_evidence(logits, SHAPES, features_of(sizes)), expected)


def test_what_a_head_sees_in_the_padding_is_no_evidence() -> None:
    logits = torch.full((1, 126, 1), -3.0)
    logits[0, 11] = 5.0  # the last column of the finest level: pixels 88 to 95
    assert class_evidence(logits, SHAPES, features_of([(64, 89)])).item() == 5.0
    assert class_evidence(logits, SHAPES, features_of([(64, 88)])).item() == -3.0


def test_evidence_is_clamped() -> None:
    logits = torch.tensor([-100.0, 100.0]).expand(1, 126, 2)
    evidence = class_evidence(logits, SHAPES, features_of([(64, 96)]))
    assert evidence.tolist() == [[-LIMIT, LIMIT]]


@pytest.mark.parametrize("config", [FcosConfig(depth=1, norm="group"), RetinanetConfig(depth=1)])
def test_dense_heads_offer_their_own_logits(trunk_info: TrunkInfo, make_features, config: Any) -> None:
    torch.manual_seed(0)
    head = config.build(trunk_info, LABELS)
    features = replace(make_features(2), sizes=torch.tensor([[64, 96], [64, 96]]))
    outputs = head(features)
    evidence = head.evidence(outputs, features)
    assert evidence.shape == (2, 3)
    torch.testing.assert_close(evidence, outputs.logits.amax(1))


@pytest.mark.parametrize("config", [FcosConfig(context="presence"), RetinanetConfig(context="presence")])
def test_the_temperature_is_stored_only_with_a_context(trunk_info: TrunkInfo, config: Any) -> None:
    plain = type(config)().build(trunk_info, LABELS).state_dict()
    linked = config.build(trunk_info, LABELS).state_dict()
    assert linked.keys() - plain.keys() == {"context_temperature"}
    assert linked["context_temperature"].item() == 0  # off


def test_evidence_logits_start_as_0_and_learn() -> None:
    layer = EvidenceLogits(3, 2)
    evidence = torch.tensor([[1.0, -2.0, 3.0]])
    out = layer(evidence)
    assert out.tolist() == [[0, 0]]
    out.sum().backward()
    expected = ((evidence - PRIOR) / 4).expand(2, 3)
    torch.testing.assert_close(layer.linear.weight.grad, expected)
    assert [name for name, _ in layer.named_parameters()] == ["linear.weight"]


def test_what_looks_like_background_to_a_fresh_head_adds_nothing() -> None:
    layer = EvidenceLogits(3, 2)
    torch.nn.init.normal_(layer.linear.weight)
    assert layer(torch.full((1, 3), PRIOR)).tolist() == [[0, 0]]
