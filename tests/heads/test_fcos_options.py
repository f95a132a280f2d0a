"""Options of the FCOS head that torchvision's weights or unequal classes ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.fcos import FcosConfig, FcosHead

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
OBJECTS = [[(0, (8.0, 8, 40, 36)), (2, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]


def build(trunk: TrunkInfo, **values: Any) -> FcosHead:
    torch.manual_seed(0)
    return FcosConfig(**{"depth": 1, "norm": "group", **values}).build(trunk, LABELS)


def class_bias_gradient(head: FcosHead, features: Any, batch: Any) -> Tensor:
    """Return (3,) the gradient of the classification loss by each class's bias."""
    loss = head.loss(head(features), features, batch)["class"]
    bias = head.classification_head["cls_logits"].bias
    assert isinstance(bias, Tensor)
    return torch.autograd.grad(loss, bias)[0]


@pytest.mark.parametrize(
    ("assigner", "class_loss"),
    [("task_aligned", "bce"), ("task_aligned", "focal"), ("atss", "focal"), ("centre", "focal")],
)
def test_class_weights_scale_the_loss_of_their_column_alone(
    trunk_info, make_batch, make_features, assigner: str, class_loss: str
) -> None:
    features, batch = make_features(2), make_batch(OBJECTS)
    plain = build(trunk_info, assigner=assigner, class_loss=class_loss)
    expected = class_bias_gradient(plain, features, batch)
    assert expected.all()
    weights = {"washer": 3.0, "bolt": 0.0}
    weighted = build(trunk_info, assigner=assigner, class_loss=class_loss, class_weights=weights)
    gradient = class_bias_gradient(weighted, features, batch)
    torch.testing.assert_close(gradient, expected * torch.tensor([0.0, 1.0, 3.0]))
    ours, theirs = (head.loss(head(features), features, batch)["box"] for head in (weighted, plain))
    assert torch.equal(ours, theirs)


def test_class_weights_of_1_change_nothing_and_are_no_weights_of_the_network(
    trunk_info, make_batch, make_features
) -> None:
    features, batch = make_features(2), make_batch(OBJECTS)
    plain, weighted = build(trunk_info), build(trunk_info, class_weights={"nut": 1.0})
    for ours, theirs in zip(
        weighted.loss(weighted(features), features, batch).values(),
        plain.loss(plain(features), features, batch).values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    assert weighted.state_dict().keys() == plain.state_dict().keys()


def test_a_weight_of_no_class_is_named_when_the_head_is_built(trunk_info) -> None:
    with pytest.raises(ConfigError, match=r"class_weights: found 'nuts'.*bolt, nut, washer.*'nut'"):
        build(trunk_info, class_weights={"nuts": 2.0})


def test_corner_points_move_the_boxes_by_half_a_cell(trunk_info, make_features) -> None:
    features = make_features(1)
    middle, corner = build(trunk_info), build(trunk_info, points="corner")
    outputs = middle(features)
    (points, strides), (corners, same) = (head.points(outputs, features) for head in (middle, corner))
    assert torch.equal(strides, same)
    assert torch.equal(corners, points - strides[:, None] / 2)  # 64 x 96 are whole cells of every level
    moved = middle.boxes(outputs, points, strides) - corner.boxes(outputs, corners, strides)
    torch.testing.assert_close(moved, (strides[:, None] / 2).expand_as(moved), rtol=0, atol=1e-4)
    for head, where in ((middle, points), (corner, corners)):
        decoded = head.decode(outputs, features).boxes[0]
        inside = head.boxes(outputs, where, strides)[0].clamp(min=0).minimum(torch.tensor([96.0, 64] * 2))
        assert (decoded[:, None] == inside).all(-1).any(1).all()


def test_candidates_of_the_image_or_of_each_level(trunk_info, make_features) -> None:
    features = make_features(2)  # 96, 24 and 6 points, 3 classes
    for per_level, count in ((False, 50), (True, 50 + 50 + 18)):
        head = build(trunk_info, candidates=50, candidates_per_level=per_level)
        assert head.decode(head(features), features).scores.shape == (2, count)
