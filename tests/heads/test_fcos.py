"""The dense detection head: losses of every kind of batch, and boxes out as they went in."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOSHead

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.dense.assigners import assignable, inside_boxes, inside_crowd
from vision_mtl.heads.dense.points import boxes_to_distances, pyramid_points
from vision_mtl.heads.fcos import FcosConfig, FcosHead, FcosOutputs
from vision_mtl.structures import Batch, Detections, Features

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
ASSIGNERS, QUALITIES, BOX_LOSSES = (
    ("atss", "task_aligned", "centre"),
    ("none", "centreness", "iou"),
    ("giou", "diou", "ciou"),
)
OBJECTS = [[(0, (8.0, 8, 40, 36)), (2, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]
every_assigner = pytest.mark.parametrize("assigner", ASSIGNERS)
every_bins = pytest.mark.parametrize("bins", [0, 16])


@pytest.fixture
def head(trunk_info: TrunkInfo) -> Any:
    """A function from config values to a head of width 32 with fixed weights, not the nearly constant
    ones of a fresh head."""

    def build(**values: Any) -> FcosHead:
        torch.manual_seed(0)
        built = FcosConfig(**{"depth": 1, "norm": "group", **values}).build(trunk_info, LABELS)
        built.name = "objects"
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if name.endswith("weight") and parameter.ndim == 4:
                    parameter.normal_(std=0.05)
        return built

    return build


def total(head: FcosHead, features: Features, batch: Batch) -> Tensor:
    terms = head.loss(head(features), features, batch)
    assert all(term.shape == () for term in terms.values())
    return torch.stack(list(terms.values())).sum()


def gradients(head: FcosHead, features: Features, batch: Batch) -> dict[str, Tensor | None]:
    head.zero_grad()
    total(head, features, batch).backward()
    return {name: parameter.grad for name, parameter in head.named_parameters()}


def geometry(batch: Batch) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    height, width = batch.images.shape[2:]
    shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    return *pyramid_points(shapes, [8, 16, 32], torch.device("cpu")), shapes


def raw_outputs(batch: Batch, bins: int = 0, quality: bool = False) -> FcosOutputs:
    """Outputs of no head, made by hand: class logits of 0 and boxes of two strides around the points."""
    points, _, shapes = geometry(batch)
    shape = (len(batch.boxes), len(points))
    return FcosOutputs(
        logits=torch.zeros(*shape, 3, requires_grad=True),
        distances=torch.zeros(*shape, 4, bins) if bins else torch.ones(*shape, 4),
        quality=torch.zeros(*shape) if quality else None,
        shapes=shapes,
    )


@pytest.mark.parametrize(
    ("assigner", "quality", "bins", "box_loss"), list(product(ASSIGNERS, QUALITIES, (0, 16), BOX_LOSSES))
)
def test_every_combination_has_its_terms_and_trains(
    head, make_batch, make_features, assigner: str, quality: str, bins: int, box_loss: str
) -> None:
    built = head(assigner=assigner, quality=quality, bins=bins, box_loss=box_loss)
    features, batch = make_features(2), make_batch(OBJECTS)
    terms = built.loss(built(features), features, batch)
    expected = {"class", "box", *(["bins"] if bins else []), *([] if quality == "none" else ["quality"])}
    assert set(terms) == expected
    assert all(term.isfinite() and term > 0 for term in terms.values())
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    assert built.count_labels(batch) == 2
    decoded = built.decode(built(features), features)
    assert len(built.predict(decoded, batch.metas)) == 2


@every_assigner
@every_bins
@pytest.mark.parametrize(
    ("objects", "crowds", "slots"),
    [
        ([[]], [[]], 0),
        ([[]], [[]], 4),
        ([[(1, (10.0, 10, 50, 50))]], [[]], None),
        ([[(1, (10.0, 10, 12, 12))]], [[]], None),
        ([[]], [[(1, (10.0, 10, 50, 50))]], None),
        ([[(1, (10.0, 10, 50, 50))]], [[(0, (5.0, 5, 60, 60))]], 7),
    ],
    ids=["no slots", "empty slots", "one box", "tiny box", "crowd only", "box in a crowd"],
)
@pytest.mark.parametrize("size", [(64, 96), (128, 32), (64, 64)])
def test_loss_is_finite(
    head, make_batch, make_features, assigner: str, bins: int, objects, crowds, slots, size
) -> None:
    built = head(assigner=assigner, bins=bins, quality="iou")
    batch = make_batch(objects, crowds, size=size, slots=slots)
    features = make_features(1, size)
    terms = built.loss(built(features), features, batch)
    assert all(term.isfinite() for term in terms.values())
    assert terms["class"] > 0  # background is learned even without a box
    if not objects[0]:
        assert terms["box"] == 0
        assert terms["quality"] == 0
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name


@every_assigner
@pytest.mark.parametrize(("bins", "norm"), [(0, "group"), (16, "group"), (16, "batch")])
@pytest.mark.parametrize("slots", [0, None])
def test_without_annotated_images_every_gradient_is_exactly_zero(
    head, make_batch, make_features, assigner: str, bins: int, norm: str, slots: int | None
) -> None:
    built = head(assigner=assigner, bins=bins, norm=norm, quality="centreness")
    objects = [[], []] if slots == 0 else OBJECTS
    batch = make_batch(objects, slots=slots, has_boxes=[False, False])
    features = make_features(2)
    assert total(built, features, batch) == 0
    assert built.count_labels(batch) == 0
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert not gradient.any(), name


@every_assigner
@pytest.mark.parametrize("quality", QUALITIES)
def test_an_image_without_annotation_leaves_no_trace(
    head, make_batch, make_features, assigner: str, quality: str
) -> None:
    built = head(assigner=assigner, quality=quality)
    both, batch = make_features(2), make_batch(OBJECTS, has_boxes=[True, False])
    first = replace(both, pyramid=[level[:1] for level in both.pyramid], sizes=both.sizes[:1])
    alone = gradients(built, first, make_batch(OBJECTS[:1]))
    alone = {name: gradient.clone() for name, gradient in alone.items()}
    for level in both.pyramid:
        level.grad = None
    joined = gradients(built, both, batch)
    for name, gradient in joined.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-5)
    for level in both.pyramid:
        assert level.grad[0].any()
        assert not level.grad[1].any()


@every_assigner
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_what_the_slots_of_an_image_without_annotation_hold_does_not_matter(
    head, make_batch, make_features, assigner: str, norm: str
) -> None:
    built = head(assigner=assigner, quality="iou", norm=norm)
    features, masked = make_features(2), [True, False]
    filled = gradients(built, features, make_batch(OBJECTS, has_boxes=masked))
    filled = {name: gradient.clone() for name, gradient in filled.items()}
    empty = make_batch([OBJECTS[0], []], [[], [(0, (0.0, 0, 96, 64))]], has_boxes=masked)
    for name, gradient in gradients(built, features, empty).items():
        assert torch.equal(gradient, filled[name]), name


@every_assigner
def test_points_in_a_crowd_are_neither_positive_nor_negative(make_batch, head, assigner: str) -> None:
    built = head(assigner=assigner, bins=0)
    batch = make_batch([[(0, (4.0, 4, 36, 36))]], [[(1, (48.0, 8, 92, 60))]])
    features = Features({}, [], [8, 16, 32], (64, 96), batch.sizes)
    outputs = raw_outputs(batch)
    torch.stack(list(built.loss(outputs, features, batch).values())).sum().backward()
    points, _, _ = geometry(batch)
    crowd = inside_crowd(points, batch)[0]
    assert outputs.logits.grad is not None
    moved = outputs.logits.grad[0].any(1)
    assert crowd.any()
    assert not moved[crowd].any()
    assert moved[~crowd].all()


@every_assigner
def test_an_object_within_a_crowd_is_still_learned(make_batch, head, assigner: str) -> None:
    built = head(assigner=assigner, bins=0)
    batch = make_batch([[(0, (20.0, 16, 60, 56))]], [[(1, (0.0, 0, 96, 64))]])
    features = Features({}, [], [8, 16, 32], (64, 96), batch.sizes)
    outputs = raw_outputs(batch)
    built.loss(outputs, features, batch)["class"].backward()
    points, _, _ = geometry(batch)
    object_ = inside_boxes(points, batch.boxes[:, :1])[0, 0]
    assert outputs.logits.grad is not None
    moved = outputs.logits.grad[0].any(1)
    assert moved[object_].any()
    assert not moved[inside_crowd(points, batch)[0] & ~object_].any()


@every_assigner
@every_bins
@pytest.mark.parametrize("quality", QUALITIES)
def test_perfect_outputs_are_the_boxes(make_batch, head, assigner: str, bins: int, quality: str) -> None:
    """What the loss asks of each point is what `predict` makes the annotated boxes of."""
    built = head(assigner=assigner, bins=bins, quality=quality)
    batch = make_batch(OBJECTS)
    features = Features({}, [], [8, 16, 32], (64, 96), batch.sizes)
    points, strides, shapes = geometry(batch)
    outputs = raw_outputs(batch, bins, quality != "none")
    boxes = built.boxes(outputs, points, strides)
    found = built.assign(outputs, boxes, points, strides, assignable(batch))
    rows = found.rows[..., None].expand(-1, -1, 4)
    sides = boxes_to_distances(points, batch.boxes.gather(1, rows)) / strides[:, None]
    classes = batch.classes.gather(1, found.rows)
    logits = torch.full((*found.rows.shape, 3), -20.0)
    logits[found.positive, classes[found.positive]] = 20.0
    distances = sides.clamp(min=0)
    if bins:
        values = torch.arange(bins).float()
        distances = (1 - (distances.clamp(max=bins - 1.1)[..., None] - values).abs()).clamp(min=1e-9).log()
    good = torch.where(found.positive, 20.0, -20.0)
    perfect = FcosOutputs(logits, distances, None if quality == "none" else good, shapes)
    detections = built.predict(built.decode(perfect, features), batch.metas)
    for detected, objects in zip(detections, OBJECTS, strict=True):
        assert len(detected.scores) == len(objects)
        for label, box in objects:
            (index,) = (detected.classes == label).nonzero()
            torch.testing.assert_close(detected.boxes[index], torch.tensor([box]), rtol=0, atol=0.01)
            assert float(detected.scores[index]) > 0.99
    terms = built.loss(perfect, features, batch)
    assert float(terms["box"]) == pytest.approx(0, abs=1e-2)


def test_centreness_target_by_hand(make_batch, head) -> None:
    built = head(quality="centreness")
    sides = torch.tensor([[1.0, 2, 4, 2], [3.0, 3, 3, 3], [-1.0, -1, 5, 5], [-1.0, 2, 3, 2]])
    target = built.quality_target(sides, torch.zeros(4, 4), torch.zeros(4, 4))
    assert target.tolist() == [0.5, 1.0, 0.0, 0.0]


def test_iou_target_is_the_overlap_of_the_predicted_box(head) -> None:
    built = head(quality="iou")
    a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4]])
    assert built.quality_target(torch.zeros(1, 4), a, b).tolist() == [pytest.approx(1 / 3)]


@every_assigner
def test_losses_are_means_over_objects_not_over_points_of_background(make_batch, head, assigner: str) -> None:
    """The same image twice has the loss of once."""
    built = head(assigner=assigner, bins=0, quality="iou")
    once, twice = make_batch(OBJECTS[:1]), make_batch(OBJECTS[:1] * 2)
    features = Features({}, [], [8, 16, 32], (64, 96), twice.sizes)
    single, double = raw_outputs(once, quality=True), raw_outputs(twice, quality=True)
    expected = built.loss(single, features, once)
    for name, term in built.loss(double, features, twice).items():
        # The normaliser is at least 1, which the soft scores of one image may not reach.
        if assigner != "task_aligned" or name == "quality":
            torch.testing.assert_close(term, expected[name])


def test_weights_and_answers_are_torchvisions(trunk_info, make_features) -> None:
    theirs = FCOSHead(32, 1, 3, num_convs=4).eval()
    ours = FcosConfig(depth=4, norm="group", bins=0, quality="centreness").build(trunk_info, LABELS).eval()
    ours.load_state_dict(theirs.state_dict())
    features = make_features(2)
    outputs, reference = ours(features), theirs(features.pyramid)
    torch.testing.assert_close(outputs.logits, reference["cls_logits"])
    torch.testing.assert_close(outputs.distances, reference["bbox_regression"])
    torch.testing.assert_close(outputs.quality, reference["bbox_ctrness"][..., 0])


def test_a_fresh_head_expects_background_and_boxes_with_area(trunk_info, make_features) -> None:
    for bins in (0, 16):
        built = FcosConfig(bins=bins, norm="group").build(trunk_info, LABELS)
        features = make_features(1)
        outputs = built(features)
        assert float(outputs.logits.detach().sigmoid().mean()) == pytest.approx(0.01, rel=0.3)
        points, strides = pyramid_points(outputs.shapes, features.strides, torch.device("cpu"))
        boxes = built.boxes(outputs, points, strides)
        assert ((boxes[..., 2:] - boxes[..., :2]) > strides[:, None]).all()


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_head_without_towers_reads_the_pyramid(trunk_info, make_batch, make_features, quality: str) -> None:
    built = FcosConfig(depth=0, width=64, quality=quality).build(trunk_info, LABELS)
    built.name = "objects"
    assert total(built, make_features(2), make_batch(OBJECTS)).isfinite()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bins": 1}, r"heads\.objects\.bins: found 1"),
        ({"bins": -1}, r"heads\.objects\.bins: found -1"),
        ({"width": 48, "norm": "group"}, r"heads\.objects\.width: found 48.*multiple of 32"),
        ({"width": 0}, r"heads\.objects\.width: found 0"),
        ({"depth": -1}, r"heads\.objects\.depth: found -1"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FcosConfig(**values).check("objects")


def test_a_pyramid_that_the_groups_do_not_divide_is_named() -> None:
    trunk = TrunkInfo({"c5": 24}, 48, (8, 16, 32))
    with pytest.raises(ConfigError, match=r"trunk\.channels: found 48.*multiple of 32"):
        FcosConfig(norm="group").build(trunk, LABELS)
    assert FcosConfig(norm="batch").build(trunk, LABELS)
    assert FcosConfig(norm="group", width=64).build(trunk, LABELS)


def test_describe_names_categories_and_gives_xywh(head) -> None:
    found = Detections(torch.tensor([[1.0, 2, 11, 22.5]]), torch.tensor([0.75]), torch.tensor([2]))
    assert head().describe(found) == [
        {"bbox": [1.0, 2.0, 10.0, 20.5], "category_id": 21, "category": "washer", "score": 0.75}
    ]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert head().describe(nothing) == []
