"""RetinaNet's assignment: against torchvision's matcher, and what its rules mean, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from vision_mtl.heads.dense import assigners
from vision_mtl.heads.dense.assigners import Targets, max_iou, pairwise_iou

BACKGROUND, UNDECIDED = Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS


def grid(size: int = 256, stride: int = 8) -> Tensor:
    """Square anchors of three sizes around every cell's middle, (3072, 4)."""
    middle = torch.arange(stride / 2, size, stride)
    centres = torch.cartesian_prod(middle, middle)
    return torch.cat([torch.cat([centres - half, centres + half], 1) for half in (8, 16, 32)])


ANCHORS = grid()


def random_targets(seed: int, images: int = 3, slots: int = 20) -> Targets:
    """Boxes on whole pixels, so that many anchors draw; a fifth of the slots is not valid."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 250, (images, slots, 2), generator=generator).float()
    sides = torch.randint(1, 120, (images, slots, 2), generator=generator)
    valid = torch.rand(images, slots, generator=generator) > 0.2
    return Targets(torch.cat([corner, corner + sides], -1), torch.zeros(images, slots).long(), valid)


def objects(*boxes: list[float]) -> Targets:
    return Targets(
        torch.tensor([boxes]), torch.zeros(1, len(boxes)).long(), torch.ones(1, len(boxes), dtype=torch.bool)
    )


def answer(targets: Targets, anchors: Tensor = ANCHORS) -> Tensor:
    """Return (B, A): the slot of each anchor, or the matcher's word for background or undecided."""
    found, undecided = max_iou(targets, anchors)
    assert not (found.positive & undecided).any()
    assert torch.equal(found.score, found.positive.float())
    assert torch.equal(found.share, found.positive.float())
    assert (found.rows[~found.positive] == 0).all()
    return torch.where(found.positive, found.rows, torch.where(undecided, UNDECIDED, BACKGROUND))


def torchvisions(targets: Targets, anchors: Tensor = ANCHORS) -> Tensor:
    answers = []
    for boxes, valid in zip(targets.boxes, targets.valid, strict=True):
        slots = valid.nonzero()[:, 0]
        matches = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes[slots], anchors))
        answers.append(torch.where(matches >= 0, slots[matches.clamp(min=0)], matches))
    return torch.stack(answers)


@pytest.mark.parametrize("pairs", [1, 2**15, assigners.PAIRS])
@pytest.mark.parametrize("seed", range(8))
def test_equals_torchvisions_matcher(seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigners, "PAIRS", pairs)
    targets = random_targets(seed)
    found = answer(targets)
    assert torch.equal(found, torchvisions(targets))
    assert {BACKGROUND, UNDECIDED} < set(found.flatten().tolist())


def test_an_object_that_nothing_overlaps_draws_with_every_anchor_as_in_torchvision() -> None:
    targets = objects([30.0, 30, 70, 70], [400.0, 400, 410, 410], [40.0, 40, 40, 60])
    found = answer(targets)
    assert (found == 0).all()  # each anchor's highest IoU is with the first object, or 0 with the first slot
    assert torch.equal(found, torchvisions(targets))


def test_no_object_no_positives() -> None:
    targets = random_targets(0)
    empty = Targets(targets.boxes, targets.classes, torch.zeros_like(targets.valid))
    assert (answer(empty) == BACKGROUND).all()


def test_objects_that_are_not_valid_change_nothing() -> None:
    targets = random_targets(1)
    moved = torch.where(targets.valid[..., None], targets.boxes, torch.tensor([0.0, 0, 256, 256]))
    assert not torch.equal(moved, targets.boxes)
    assert torch.equal(answer(Targets(moved, targets.classes, targets.valid)), answer(targets))


def test_thresholds_by_hand() -> None:
    # One anchor of 10 x 10; objects inside it of area 50, 49, 40 and 39 have these IoUs in hundredths. A
    # second anchor is each object's best, so that none is restored.
    anchor = [0.0, 0, 10, 10]
    for width, expected in [(5.0, 0), (4.9, UNDECIDED), (4.0, UNDECIDED), (3.9, BACKGROUND)]:
        box = [0.0, 0, width, 10]
        assert answer(objects(box), torch.tensor([anchor, box])).tolist() == [[expected, 0]]


def test_an_objects_best_anchors_are_positive_however_low_and_all_that_draw() -> None:
    # A box of 4 x 4 in the middle of four cells: four anchors of 16 x 16 hold it whole, IoU 16 / 256.
    found = answer(objects([14.0, 14, 18, 18]))
    best = ANCHORS[found[0] == 0]
    assert sorted(best.tolist()) == [[x, y, x + 16, y + 16] for x in (4.0, 12.0) for y in (4.0, 12.0)]


def test_a_restored_anchor_keeps_the_object_of_its_own_highest_iou() -> None:
    # The small object's only anchor overlaps it by 0.04 and the large one by 0.36, whose best is elsewhere.
    small, large = [0.0, 0, 2, 2], [0.0, 0, 6, 6]
    anchors = torch.tensor([[0.0, 0, 10, 10], [1.9, 1.9, 6, 6]])
    assert answer(objects(large), anchors).tolist() == [[BACKGROUND, 0]]
    assert answer(objects(small, large), anchors).tolist() == [[1, 1]]


@pytest.mark.parametrize("pairs", [1, assigners.PAIRS])
def test_a_draw_goes_to_the_first_object(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigners, "PAIRS", pairs)
    box = [30.0, 30, 70, 70]
    found = answer(objects([200.0, 200, 240, 240], box, box))
    assert set(found.flatten().tolist()) == {0, 1, UNDECIDED, BACKGROUND}


def test_pairwise_iou_equals_torchvisions_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 40, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + torch.rand(2, 40, 2, generator=generator) * 100], -1)
    ours = pairwise_iou(boxes, ANCHORS.expand(2, -1, -1))
    assert torch.equal(ours, torch.stack([box_iou(each, ANCHORS) for each in boxes]))
    assert (ours > 0).any()


def test_pairwise_iou_of_empty_boxes_is_0() -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [0.0, 0, 10, 10]]])
    assert pairwise_iou(boxes, boxes).tolist() == [[[0.0, 0.0], [0.0, 1.0]]]
