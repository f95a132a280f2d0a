"""Dense detection of images whose source does not annotate every class: the others are no negatives there.

In two stages: `test_faster_rcnn_annotated.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.structures import Batch

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
OBJECTS = [[(0, (8.0, 8, 40, 36)), (0, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]
ANNOTATED = torch.tensor([[True, False, False], [True, True, False]])
DENSE: list[Any] = [
    FcosConfig(depth=1, norm="group", assigner=assigner, class_loss=class_loss)
    for assigner in ("task_aligned", "atss", "centre")
    for class_loss in ("bce", "focal")
] + [RetinanetConfig(depth=1, anchor_scale=2.0)]
every_dense = pytest.mark.parametrize("config", DENSE, ids=lambda c: f"{type(c).__name__}{DENSE.index(c)}")


def dense_terms(config: Any, trunk_info, features, batch: Batch, labels: LabelInfo = LABELS) -> tuple:
    """Return the terms and the class term's gradient by the logits (B, P, K), of a head of fixed weights."""
    torch.manual_seed(0)
    head = config.build(trunk_info, labels)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=0.05)
    outputs = head(features)
    terms = head.loss(outputs, features, batch)
    (gradient,) = torch.autograd.grad(terms["class"], outputs.logits, retain_graph=True)
    return terms, gradient


@every_dense
def test_masked_elements_have_no_gradient_and_the_others_keep_theirs(
    config: Any, trunk_info, make_batch, make_features
) -> None:
    features, batch = make_features(2), make_batch(OBJECTS)
    whole, everywhere = dense_terms(config, trunk_info, features, batch)
    masked, gradient = dense_terms(config, trunk_info, features, replace(batch, annotated=ANNOTATED))
    assert everywhere[~ANNOTATED[:, None].expand_as(everywhere)].any()
    for image in range(2):
        for label in range(3):
            own = gradient[image, :, label]
            expected = everywhere[image, :, label]
            if ANNOTATED[image, label]:
                assert expected.any()
                torch.testing.assert_close(own, expected, rtol=1e-5, atol=0)
            else:
                assert not own.any()
    assert masked["class"] < whole["class"]
    for name in whole.keys() - {"class"}:
        assert torch.equal(masked[name], whole[name]), name


@every_dense
def test_all_classes_annotated_is_the_same_bit_for_bit(
    config: Any, trunk_info, make_batch, make_features
) -> None:
    features, batch = make_features(2), make_batch(OBJECTS)
    every = replace(batch, annotated=torch.ones(2, 3, dtype=torch.bool))
    (plain, left), (same, right) = (dense_terms(config, trunk_info, features, b) for b in (batch, every))
    assert torch.equal(left, right)
    assert all(torch.equal(plain[name], same[name]) for name in plain)


@every_dense
@pytest.mark.parametrize("has_boxes", [[True, True], [False, False]])
def test_nothing_annotated_teaches_no_class(
    config: Any, trunk_info, make_batch, make_features, has_boxes: list[bool]
) -> None:
    batch = make_batch([[], []], has_boxes=has_boxes)
    nothing = replace(batch, annotated=torch.zeros(2, 3, dtype=torch.bool))
    terms, gradient = dense_terms(config, trunk_info, make_features(2), nothing)
    assert terms["class"] == 0
    assert not gradient.any()
