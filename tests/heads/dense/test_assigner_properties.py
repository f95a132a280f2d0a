"""What holds for every assigner: no, one and many boxes, crowds, order and neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vision_mtl.heads.dense.assigners import assignable, inside_boxes, inside_crowd, task_aligned

from .assigner_cases import (
    POINT_STRIDES,
    POINTS,
    Assign,
    by_atss,
    by_centre,
    by_task,
    make,
    one,
    predicted,
    random_batch,
)

every_assigner = pytest.mark.parametrize("assign", [by_centre, by_atss, by_task])


@every_assigner
def test_one_box_is_answered_by_points_inside_it(assign: Assign) -> None:
    found = assign(one([50.0, 40, 110, 130]))
    inside = inside_boxes(POINTS, torch.tensor([[[50.0, 40, 110, 130]]]))[0, 0]
    assert found.positive.any()
    assert inside[found.positive[0]].all()
    assert (found.rows == 0).all()
    assert (found.score[~found.positive] == 0).all()
    assert ((found.score >= 0) & (found.score <= 1)).all()


@every_assigner
@pytest.mark.parametrize("slots", [0, 3])
def test_no_boxes_no_positives(assign: Assign, slots: int) -> None:
    found = assign(make(torch.zeros(2, slots, 4), torch.full((2, slots), -1)))
    assert found.positive.shape == found.rows.shape == found.score.shape == (2, len(POINTS))
    assert not found.positive.any()
    assert not found.rows.any()
    assert not found.score.any()


@every_assigner
def test_a_crowd_alone_has_no_positives(assign: Assign) -> None:
    batch = one([50.0, 40, 110, 130], ignore=True)
    assert not assign(batch).positive.any()
    expected = inside_boxes(POINTS, batch.boxes)[0, 0]
    assert torch.equal(inside_crowd(POINTS, batch)[0], expected)
    assert expected.any()


@every_assigner
@pytest.mark.parametrize("seed", range(5))
def test_only_valid_slots_are_assigned_and_scores_fit(assign: Assign, seed: int) -> None:
    batch = random_batch(seed)
    found = assign(batch)
    valid = assignable(batch).valid
    assert not valid.all()
    assert valid.gather(1, found.rows)[found.positive].all()
    assert (found.score[~found.positive] == 0).all()
    assert (found.rows[~found.positive] == 0).all()


@every_assigner
def test_a_batch_is_its_images(assign: Assign) -> None:
    batch = random_batch(7)
    together = assign(batch)
    for i in range(3):
        filled = batch.classes[i] >= 0  # without the empty slots, which may lie anywhere
        slots = filled.nonzero()[:, 0]
        single = make(*(getattr(batch, name)[i : i + 1, slots] for name in ("boxes", "classes", "ignore")))
        if assign is by_task:
            scores, boxes = predicted(3)
            alone = task_aligned(
                assignable(single), POINTS, POINT_STRIDES, scores[i : i + 1], boxes[i : i + 1]
            )
        else:
            alone = assign(single)
        assert torch.equal(alone.positive[0], together.positive[i])
        torch.testing.assert_close(alone.score[0], together.score[i])
        mapped = torch.where(alone.positive[0], slots[alone.rows[0]], 0)
        assert torch.equal(mapped, together.rows[i])


@every_assigner
def test_the_order_of_object_slots_does_not_matter(assign: Assign) -> None:
    batch = random_batch(8)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        batch, boxes=batch.boxes[:, order], classes=batch.classes[:, order], ignore=batch.ignore[:, order]
    )
    before, after = assign(batch), assign(shuffled)
    assert torch.equal(before.positive, after.positive)
    torch.testing.assert_close(before.score, after.score)
    assert torch.equal(order[after.rows][after.positive], before.rows[before.positive])
