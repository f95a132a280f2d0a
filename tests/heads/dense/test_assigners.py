"""Assigners: against torchvision, and against plain loops over the papers' definitions."""

from __future__ import annotations

from statistics import mean, stdev
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import box_iou

from vision_mtl.heads.dense.assigners import (
    assignable,
    pairwise_iou,
    task_aligned,
)
from vision_mtl.structures import Batch

from .assigner_cases import (
    LEVELS,
    POINT_STRIDES,
    POINTS,
    STRIDES,
    by_atss,
    by_centre,
    by_task,
    make,
    one,
    predicted,
    random_batch,
)


def torchvisions_matches(boxes: Tensor) -> Tensor:
    """Return (P,) the row of `boxes` that torchvision's FCOS matches to each of our points, -1 for none."""
    half = POINT_STRIDES[:, None] / 2
    anchors = torch.cat([POINTS - half, POINTS + half], 1)
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    model = SimpleNamespace(center_sampling_radius=1.5, head=head)
    (matched,) = FCOS.compute_loss(model, [{"boxes": boxes}], {}, [anchors], LEVELS)
    return matched


@pytest.mark.parametrize("seed", range(10))
def test_centre_sampling_equals_torchvisions_matching(seed: int) -> None:
    batch = random_batch(seed)
    found = by_centre(batch)
    valid = assignable(batch).valid
    for i in range(3):
        slots = valid[i].nonzero()[:, 0]
        boxes = batch.boxes[i, slots]
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sort().values
        matched = torchvisions_matches(boxes)
        expected = torch.where(matched >= 0, slots[matched.clamp(min=0)], -1)
        ours = torch.where(found.positive[i], found.rows[i], -1)
        # torchvision ranks by 1e8 - area in float32, in steps of 8 pixels: nearer areas are a draw there.
        if (area.diff() > 16).all():
            assert ours.tolist() == expected.tolist()
        else:
            assert ((ours >= 0) == (expected >= 0)).all()
            small = (batch.boxes[i, :, 2:] - batch.boxes[i, :, :2]).prod(-1)
            differs = ours != expected
            assert (small[ours[differs]] <= small[expected[differs]]).all()
            assert (small[expected[differs]] - small[ours[differs]] <= 16).all()
    assert found.positive.any()


def test_centre_sampling_gives_a_draw_to_the_first() -> None:
    same = torch.tensor([[[20.0, 20, 60, 60], [20.0, 20, 60, 60], [38.0, 38, 46, 46]]])
    found = by_centre(make(same, torch.tensor([[0, 1, 2]])))
    assert set(found.rows[found.positive].tolist()) == {0, 2}
    expected = torchvisions_matches(same[0])
    assert torch.where(found.positive, found.rows, -1)[0].tolist() == expected.tolist()


def test_centre_sampling_by_hand() -> None:
    # 40 x 40 around (36, 36): stride 8, points within 12 of the centre; stride 16 needs a side beyond 64.
    found = by_centre(one([16.0, 16, 56, 56]))
    assert sorted(POINTS[found.positive[0]].tolist()) == [[x, y] for x in (28, 36, 44) for y in (28, 36, 44)]
    assert (POINT_STRIDES[found.positive[0]] == 8).all()


def test_centre_sampling_sends_large_boxes_to_coarse_levels() -> None:
    assert set(POINT_STRIDES[by_centre(one([30.0, 30, 190, 170])).positive[0]].tolist()) == {16.0}
    assert set(POINT_STRIDES[by_centre(one([0.0, 0, 256, 192])).positive[0]].tolist()) == {32.0}


def loops_atss(batch: Batch, image: int) -> dict[int, int]:
    """Return point -> slot by algorithm 1 of the paper, one object and one level at a time."""
    valid = assignable(batch).valid[image].tolist()
    boxes = batch.boxes[image].tolist()
    positives: dict[int, list[tuple[float, int]]] = {}
    for slot, (x0, y0, x1, y1) in enumerate(boxes):
        if not valid[slot]:
            continue
        centre = ((x0 + x1) / 2, (y0 + y1) / 2)
        candidates, start = [], 0
        for size in LEVELS:  # lines 2 to 5
            level = range(start, start + size)
            near = sorted(
                level,
                key=lambda p: sum((a - b) ** 2 for a, b in zip(POINTS[p].tolist(), centre, strict=True)),
            )
            candidates += near[:9]
            start += size
        overlaps = []
        for p in candidates:  # line 6
            (x, y), half = POINTS[p].tolist(), 4 * float(POINT_STRIDES[p])
            width = max(0, min(x1, x + half) - max(x0, x - half))
            height = max(0, min(y1, y + half) - max(y0, y - half))
            area = (x1 - x0) * (y1 - y0) + 4 * half**2
            overlaps.append(width * height / (area - width * height))
        threshold = mean(overlaps) + stdev(overlaps)  # lines 7 to 9
        for p, overlap in zip(candidates, overlaps, strict=True):  # lines 10 to 14
            x, y = POINTS[p].tolist()
            if overlap >= threshold and x0 < x < x1 and y0 < y < y1:
                positives.setdefault(p, []).append((overlap, slot))
    return {p: max(claims)[1] for p, claims in positives.items()}


@pytest.mark.parametrize("seed", range(3))
def test_atss_equals_the_papers_algorithm(seed: int) -> None:
    batch = random_batch(seed)
    found = by_atss(batch)
    for i in range(3):
        expected = loops_atss(batch, i)
        ours = {p: int(found.rows[i, p]) for p in found.positive[i].nonzero()[:, 0].tolist()}
        assert ours == expected
        assert expected


def loops_task_aligned(
    batch: Batch, image: int, scores: Tensor, boxes: Tensor
) -> tuple[dict[int, int], dict[int, float]]:
    """Return point -> slot and point -> target score, from TOOD's definition, one object at a time."""
    targets = assignable(batch)
    valid, overlaps = targets.valid[image].tolist(), box_iou(batch.boxes[image], boxes[image]).tolist()
    alignment: list[list[float]] = []
    claims: dict[int, list[tuple[float, int]]] = {}
    for slot, box in enumerate(batch.boxes[image].tolist()):
        label = int(targets.classes[image, slot])
        likely = scores[image, :, label].tolist()
        alignment.append([s * u**6 for s, u in zip(likely, overlaps[slot], strict=True)])
        if not valid[slot]:
            continue
        reach = [max((box[i + 2] - box[i]) / 2, 0.501 * min(STRIDES)) for i in range(2)]
        inside = [
            p
            for p, point in enumerate(POINTS.tolist())
            if all(abs(point[i] - (box[i] + box[i + 2]) / 2) < reach[i] for i in range(2))
        ]
        for p in sorted(inside, key=lambda p: -alignment[slot][p])[:13]:
            claims.setdefault(p, []).append((overlaps[slot][p], slot))
    owner = {p: max(rivals)[1] for p, rivals in claims.items()}
    target = {}
    for p, slot in owner.items():
        mine = [q for q, other in owner.items() if other == slot]
        highest = max(alignment[slot][q] for q in mine)
        share = alignment[slot][p] / highest if highest else 0.0
        target[p] = share * max(overlaps[slot][q] for q in mine)
    return owner, target


@pytest.mark.parametrize("seed", range(3))
def test_task_aligned_equals_the_papers_definition(seed: int) -> None:
    batch = random_batch(seed)
    # Two points that overlap an object by exactly 0 may be picked in any order: their target is 0 either way.
    scores, boxes = predicted(3)
    found = by_task(batch)
    for i in range(3):
        owner, target = loops_task_aligned(batch, i, scores, boxes)
        points = found.positive[i].nonzero()[:, 0].tolist()
        telling = {p: slot for p, slot in owner.items() if target[p] > 0}
        ours = {p: int(found.rows[i, p]) for p in points if float(found.score[i, p]) > 0}
        assert ours == telling
        assert telling
        wanted = torch.tensor([target[p] for p in telling])
        torch.testing.assert_close(found.score[i, list(telling)], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("certainty", [1.0, 0.01, 1e-4])
def test_task_aligned_targets_reach_each_objects_largest_iou(certainty: float) -> None:
    """However unsure the network and however far off its boxes: as at the start of training."""
    batch = random_batch(4)
    scores, boxes = predicted(3)
    centre = POINTS.repeat(1, 2)
    boxes = centre + (boxes - centre) * 8  # IoU of 0.01 and less with small objects
    found = task_aligned(assignable(batch), POINTS, POINT_STRIDES, scores * certainty, boxes)
    overlaps = pairwise_iou(batch.boxes, boxes)
    judged = 0
    for i, slot in assignable(batch).valid.nonzero().tolist():
        mine = found.positive[i] & (found.rows[i] == slot)
        if mine.any():
            judged += 1
            largest = float(overlaps[i, slot][mine].max())
            assert largest > 0
            assert float(found.score[i][mine].max()) == pytest.approx(largest, rel=1e-3)
    assert judged > 10
    assert (overlaps.amax(-1)[assignable(batch).valid] < 0.02).any()


@pytest.mark.parametrize(
    "box",
    [[21.0, 21, 23, 23], [22.0, 14, 26, 18], [15.0, 3, 17, 5], [0.0, 0, 1, 1], [255.0, 191, 256, 192]],
    ids=["inside a cell", "corner of cells", "edge of cells", "corner of the image", "far corner"],
)
def test_task_aligned_gives_a_box_smaller_than_a_cell_its_points(box: list[float]) -> None:
    found = by_task(one(box))
    centre = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    assert found.positive.any()
    assert ((POINTS[found.positive[0]] - centre).abs() < 4.01).all()
