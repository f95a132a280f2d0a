"""Dense scores and boxes to detections."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vision_mtl.heads.dense.decoding import Candidates, best_candidates, to_detections
from vision_mtl.structures import Detections, ImageMeta

META = ImageMeta(0, "0.png", (100, 100), (1.0, 1.0))


def candidates(boxes: list, scores: list[float], classes: list[int]) -> Candidates:
    parts = torch.tensor(boxes).float(), torch.tensor(scores), torch.tensor(classes)
    return Candidates(*(part[None] for part in parts))


def detect(
    found: Candidates, meta: ImageMeta = META, threshold: float = 0.1, nms: float = 0.5, limit: int = 10
) -> Detections:
    (detections,) = to_detections(found, [meta], threshold, nms, limit)
    return detections


def test_best_candidates_are_point_and_class_pairs_best_first() -> None:
    scores = torch.tensor([[[0.1, 0.9], [0.8, 0.7], [0.2, 0.3]]])
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0.0, 0, 2, 2], [0.0, 0, 3, 3]]])
    found = best_candidates(scores, boxes, torch.tensor([[50, 50]]), 3)
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.8, 0.7]]))
    assert found.classes.tolist() == [[1, 0, 1]]
    assert found.boxes[0, :, 2].tolist() == [1, 2, 2]


def test_best_candidates_clips_each_image_to_its_valid_size() -> None:
    boxes = torch.tensor([[[-5.0, -6, 70, 80]], [[-5.0, 3, 70, 80]]])
    found = best_candidates(torch.ones(2, 1, 1), boxes, torch.tensor([[40, 60], [64, 32]]), 5)
    assert found.boxes.tolist() == [[[0, 0, 60, 40]], [[0, 3, 32, 64]]]


def test_best_candidates_gives_what_there_is_if_more_is_asked_for() -> None:
    found = best_candidates(torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.tensor([[9, 9]] * 2), 1000)
    assert [part.shape for part in found] == [(2, 12, 4), (2, 12), (2, 12)]


def test_best_candidates_of_each_level() -> None:
    """Levels of 3, 1 and 2 points with 2 classes; two pairs of each, and best first over all levels."""
    scores = torch.tensor([[[0.9, 0.8], [0.7, 0.1], [0.6, 0.2], [0.05, 0.3], [0.0, 0.4], [0.5, 0.85]]])
    boxes = torch.arange(6.0).view(1, 6, 1) + torch.tensor([0.0, 0, 1, 1])
    found = best_candidates(scores, boxes, torch.tensor([[50, 50]]), 2, [3, 1, 2])
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.85, 0.8, 0.5, 0.3, 0.05]]))
    assert found.classes.tolist() == [[0, 1, 1, 0, 1, 0]]
    assert found.boxes[0, :, 0].tolist() == [0, 5, 0, 5, 3, 3]
    assert best_candidates(scores, boxes, torch.tensor([[50, 50]]), 3, [3, 1, 2]).scores.shape == (1, 8)


def test_candidates_of_one_level_are_those_of_the_image() -> None:
    scores, boxes = torch.rand(2, 30, 4), torch.rand(2, 30, 4) * 40
    sizes = torch.tensor([[30, 40], [40, 20]])
    whole = best_candidates(scores, boxes, sizes, 25)
    for ours, reference in zip(best_candidates(scores, boxes, sizes, 25, [30]), whole, strict=True):
        assert torch.equal(ours, reference)


def random_candidates(seed: int, count: int = 200) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(1, count, 2, generator=generator) * 30], -1)
    scores = torch.rand(1, count, generator=generator).sort(descending=True).values
    return Candidates(boxes, scores, torch.randint(0, 3, (1, count), generator=generator))


@pytest.mark.parametrize("seed", range(3))
def test_nms_is_class_wise_as_torchvisions(seed: int) -> None:
    found = random_candidates(seed)
    boxes, scores, classes = (part[0] for part in found)
    kept = batched_nms(boxes, scores, classes, 0.4)
    detections = detect(found, threshold=0.0, nms=0.4, limit=1000)
    assert 3 < len(kept) < 200
    torch.testing.assert_close(detections.boxes, boxes[kept])
    assert detections.scores.tolist() == scores[kept].tolist()
    assert detections.classes.tolist() == classes[kept].tolist()


def test_same_boxes_of_different_classes_both_stay() -> None:
    same = [[10, 10, 30, 30], [10, 10, 30, 30], [11, 10, 30, 30]]
    detections = detect(candidates(same, [0.9, 0.8, 0.7], [0, 79, 0]))
    assert detections.classes.tolist() == [0, 79]
    assert detections.boxes.tolist() == [[10, 10, 30, 30]] * 2


def test_score_threshold_includes_its_own_value() -> None:
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]]
    detections = detect(candidates(boxes, [0.75, 0.5, 0.25], [0, 0, 0]), threshold=0.5)
    assert detections.scores.tolist() == [0.75, 0.5]


def test_max_detections_keeps_the_best() -> None:
    found = random_candidates(0)
    everything = detect(found, limit=1000)
    assert torch.equal(detect(found, limit=5).boxes, everything.boxes[:5])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["score", "left", "right"])
def test_a_candidate_that_is_not_finite_is_dropped_and_suppresses_nothing(bad: float, where: str) -> None:
    scores = torch.tensor([[[0.9], [0.8]]])
    boxes = torch.tensor([[[10.0, 10, 30, 30], [10.0, 10, 30, 30]]])
    if where == "score":
        scores[0, 0, 0] = bad
    else:
        boxes[0, 0, {"left": 0, "right": 2}[where]] = bad
    detections = detect(best_candidates(scores, boxes, torch.tensor([[100, 100]]), 10))
    assert detections.boxes.tolist() == [[10, 10, 30, 30]]
    assert detections.scores.tolist() == [pytest.approx(0.8)]


def test_boxes_that_clipping_leaves_without_area_are_dropped() -> None:
    boxes = torch.tensor([[[70.0, 10, 90, 30], [75.0, 10, 90, 30], [10.0, 10, 30, 30]]])
    found = best_candidates(torch.tensor([[[0.9], [0.8], [0.7]]]), boxes, torch.tensor([[64, 64]]), 10)
    assert detect(found).boxes.tolist() == [[10, 10, 30, 30]]


@pytest.mark.parametrize(
    "found",
    [
        candidates([[0, 0, 10, 10]], [0.01], [0]),
        candidates([[0, 0, 10, 10]], [float("nan")], [0]),
        Candidates(torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.int64)),
    ],
    ids=["below the threshold", "not finite", "none"],
)
def test_nothing_found_has_the_shape_of_boxes(found: Candidates) -> None:
    detections = detect(found)
    assert detections.boxes.shape == (0, 4)
    assert detections.scores.shape == detections.classes.shape == (0,)


def test_boxes_return_to_the_original_frame_and_stay_in_it() -> None:
    meta = ImageMeta(7, "7.png", (200, 150), (1.5, 2.5))  # 100 x 80 as the network saw it
    detections = detect(candidates([[10, 20, 40, 60], [50, 60, 100, 80]], [0.9, 0.8], [1, 2]), meta)
    assert detections.boxes.tolist() == [[15, 50, 60, 150], [75, 150, 150, 200]]


def test_images_of_a_batch_do_not_mix() -> None:
    first, second = random_candidates(5), random_candidates(6)
    joined = Candidates(*(torch.cat(parts) for parts in zip(first, second, strict=True)))
    together = to_detections(joined, [META, META], 0.2, 0.5, 50)
    apart = [detect(found, META, 0.2, 0.5, 50) for found in (first, second)]
    for detections, alone in zip(together, apart, strict=True):
        same: list[tuple[Tensor, Tensor]] = [
            (detections.boxes, alone.boxes),
            (detections.scores, alone.scores),
            (detections.classes, alone.classes),
        ]
        assert all(torch.equal(a, b) for a, b in same)
