"""What crowd regions mean to the two-stage head: neither object nor background."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from tests.heads.two_stage import build_head, loss, make_features
from vision_mtl.heads.crowds import mostly_inside


def test_a_box_is_mostly_inside_by_its_own_area() -> None:
    crowds = torch.tensor([[0.0, 0, 40, 40], [100.0, 100, 110, 110]])
    boxes = torch.tensor(
        [[10.0, 10, 12, 12], [30.0, 0, 50, 40], [29.0, 0, 49, 40], [100.0, 100, 140, 140], [60.0, 60, 70, 70]]
    )
    assert mostly_inside(boxes, crowds).tolist() == [True, False, True, False, False]
    assert not mostly_inside(boxes, crowds[:0]).any()


def test_anchors_and_proposals_in_a_crowd_are_neither_positive_nor_negative() -> None:
    built = build_head()
    boxes = torch.tensor(
        [
            [10.0, 10, 30, 30],  # an object within the crowd
            [50.0, 10, 60, 20],  # background within the crowd
            [200.0, 10, 210, 20],  # background elsewhere
            [10.0, 10, 30, 27],  # near the object
        ]
    )
    target = {
        "boxes": boxes[:1],
        "labels": torch.tensor([3]),
        "crowds": torch.tensor([[0.0, 0.0, 80.0, 80.0]]),
    }
    labels, _ = built.rpn.assign_targets_to_anchors([boxes], [target])
    assert labels[0].tolist() == [1, -1, 0, 1]
    drawn, _, labels, _ = built.roi_heads.select_training_samples([boxes], [target])
    assert {
        (tuple(box), label) for box, label in zip(drawn[0].tolist(), labels[0].tolist(), strict=True)
    } == {
        ((10, 10, 30, 30), 3),
        ((200, 10, 210, 20), 0),
        ((10, 10, 30, 27), 3),
    }


@pytest.mark.parametrize("box_head", ["mlp", "conv"])
def test_what_the_first_stage_says_inside_a_crowd_changes_no_loss(make_batch, box_head: str) -> None:
    built = build_head(box_head=box_head, anchor_sizes=(4, 8, 16, 32, 64)).eval()
    batch = make_batch([[(0, (4.0, 4, 30, 36))]], [[(1, (40.0, -200, 400, 400))]])
    features = make_features(1)
    outputs = built(features)
    finest = outputs.objectness[0]
    finest.retain_grad()
    torch.manual_seed(0)
    built.loss(outputs, features, batch)["objectness"].backward()
    assert finest.grad is not None
    moved = finest.grad[0].any(0).any(0)  # by column, of 4 pixels each
    assert moved[:10].any()
    assert not moved[11:].any()


def test_only_what_is_no_crowd_is_learned_in_the_second_stage(make_batch) -> None:
    """The crowd covers the image but for the object, which alone is drawn: as positive, never background."""
    built = build_head().eval()
    box = (20.0, 16, 60, 56)
    batch = make_batch([[(0, box)]], [[(1, (-999.0, -999, 999, 999))]])
    seen: list[Tensor] = []
    built.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, args: seen.extend(args[1]))
    terms = loss(built, make_features(1), batch)
    assert (box_iou(seen[0], torch.tensor([box])) >= 0.5).all()
    assert any(torch.equal(row, torch.tensor(box)) for row in seen[0])
    assert terms["class"] > 0
