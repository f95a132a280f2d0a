"""Which of a file's classes is which of ours."""

from __future__ import annotations

import pytest
import torch

from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.class_slots import Layout, layout_of, match_classes, with_rows


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (LabelInfo(("a", "b")), LabelInfo(("b", "a")), [1, 0]),
        (LabelInfo(("A", "b")), LabelInfo(("a", "B")), [0, 1]),  # case does not matter,
        (LabelInfo(("A", "a")), LabelInfo(("a", "A")), [1, 0]),  # unless there are both
        (LabelInfo(("a",)), LabelInfo(("x", "a", "a")), [None]),  # two have the name: which one?
        (LabelInfo(("a",), (7,)), LabelInfo(("a", "a"), (3, 7)), [1]),  # the id tells
        (LabelInfo(("a",), (3,)), LabelInfo(("b", "a"), (3, 7)), [1]),  # id and name disagree: the name wins
        (LabelInfo(("c",), (3,)), LabelInfo(("b", "a"), (3, 7)), [None]),
        (LabelInfo(("a",)), LabelInfo(("b", "a"), (3, 7)), [1]),
        (LabelInfo(("a", "b"), (1, 2)), LabelInfo(("a", "b")), [0, 1]),
        (LabelInfo(mean=2, std=1), LabelInfo(mean=2, std=1), [0]),  # the same unit
        (LabelInfo(mean=2, std=1), LabelInfo(mean=2, std=3), [None]),
    ],
)
def test_matches(ours: LabelInfo, theirs: LabelInfo, expected: list[int | None]) -> None:
    assert match_classes(ours, theirs) == expected


def test_rows_of_groups_background_and_numbers() -> None:
    # 2 groups of (background + 3 classes) with 2 numbers each, into (background + 2 classes).
    theirs = torch.arange(16.0)[:, None]
    ours = -torch.arange(1.0, 13.0)[:, None]
    found = with_rows(ours, theirs, Layout(1, 2), [2, None], 3)
    assert found is not None
    assert found[:, 0].tolist() == [0, 1, 6, 7, -5, -6, 8, 9, 14, 15, -11, -12]
    assert ours[0] == -1  # as it was


def test_rows_of_other_shapes_are_not_taken() -> None:
    dense = Layout(0, 1)
    assert with_rows(torch.zeros(4, 3), torch.zeros(2, 3), dense, [0, 1], 2) is None  # 2 groups, and 1
    assert with_rows(torch.zeros(2, 3), torch.zeros(2, 5), dense, [0, 1], 2) is None
    assert with_rows(torch.zeros(2, 3), torch.zeros(3, 3), dense, [0, 1], 2) is None
    assert with_rows(torch.zeros(2, 3), torch.ones(2, 3), dense, [None, None], 2) is None
    kept = with_rows(torch.zeros(3, 3), torch.ones(2, 3), Layout(1, 1), [None, None], 1)
    assert kept is not None
    assert kept[:, 0].tolist() == [1, 0, 0]  # the background


def test_a_proposal_networks_logits_are_no_classes() -> None:
    assert layout_of("heads.objects.rpn.head.cls_logits.weight") is None
    assert layout_of("heads.objects.classification_head.cls_logits.bias") == Layout(0, 1)
    assert layout_of("heads.objects.roi_heads.box_predictor.bbox_pred.weight") == Layout(1, 4)
