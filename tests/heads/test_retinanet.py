"""The anchor-based dense head: losses of every kind of batch, and boxes out as they went in.

That its weights, detections and losses are torchvision's: `test_fcos_retinanet_parity.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNetHead

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.dense.anchors import encode_boxes, pyramid_anchors
from vision_mtl.heads.dense.assigners import assignable, inside_crowd, max_iou
from vision_mtl.heads.retinanet import RetinanetConfig, RetinanetHead, RetinanetOutputs
from vision_mtl.structures import Batch, Detections, Features

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
OBJECTS = [[(0, (8.0, 8, 40, 36)), (2, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]
SHAPES = [(8, 12), (4, 6), (2, 3)]  # of 64 x 96 pixels
every_box_loss = pytest.mark.parametrize("box_loss", ["l1", "giou", "diou", "ciou"])


@pytest.fixture
def head(trunk_info: TrunkInfo) -> Any:
    """A function from config values to a head with fixed weights, not the nearly constant ones of a fresh
    head. Its anchors are half of torchvision's, since the images are small."""

    def build(**values: Any) -> RetinanetHead:
        torch.manual_seed(0)
        built = RetinanetConfig(**{"depth": 1, "anchor_scale": 2.0, **values}).build(trunk_info, LABELS)
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                if name.endswith("weight") and parameter.ndim == 4:
                    parameter.normal_(std=0.02)
        return built

    return build


def total(head: RetinanetHead, features: Features, batch: Batch) -> Tensor:
    terms = head.loss(head(features), features, batch)
    assert all(term.shape == () for term in terms.values())
    return terms["class"] + terms["box"]


def gradients(head: RetinanetHead, features: Features, batch: Batch) -> dict[str, Tensor]:
    head.zero_grad()
    total(head, features, batch).backward()
    found = {name: parameter.grad for name, parameter in head.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def raw_outputs(head: RetinanetHead, count: int) -> tuple[RetinanetOutputs, Tensor, Features]:
    """Outputs of no head, made by hand: class logits of 0 and boxes at the anchors; with the anchors."""
    anchors = pyramid_anchors(SHAPES, (64, 96), head.cells)
    logits = torch.zeros(count, len(anchors), 3, requires_grad=True)
    offsets = torch.zeros(count, len(anchors), 4, requires_grad=True)
    features = Features({}, [], [8, 16, 32], (64, 96), torch.tensor([[64, 96]] * count))
    return RetinanetOutputs(logits, offsets, SHAPES), anchors, features


@every_box_loss
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("depth", [0, 2])
def test_every_combination_has_its_terms_and_trains(
    head, make_batch, make_features, norm: str, box_loss: str, depth: int
) -> None:
    built = head(norm=norm, box_loss=box_loss, depth=depth)
    features, batch = make_features(2), make_batch(OBJECTS)
    terms = built.loss(built(features), features, batch)
    assert set(terms) == {"class", "box"}
    assert all(term.isfinite() and term > 0 for term in terms.values())
    found = gradients(built, features, batch)
    assert found.keys() == dict(built.named_parameters()).keys()
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    assert built.count_labels(batch) == 2
    decoded = built.decode(built(features), features)
    assert len(built.predict(decoded, batch.metas)) == 2


@every_box_loss
@pytest.mark.parametrize(
    ("objects", "crowds", "slots"),
    [
        ([[]], [[]], 0),
        ([[]], [[]], 4),
        ([[(1, (10.0, 10, 50, 50))]], [[]], None),
        ([[(1, (10.0, 10, 11, 11))]], [[]], None),
        ([[]], [[(1, (10.0, 10, 30, 30))]], None),
        ([[(1, (10.0, 10, 30, 30))]], [[(0, (5.0, 5, 31, 31))]], 7),
    ],
    ids=["no slots", "empty slots", "one box", "tiny box", "crowd only", "box in a crowd"],
)
@pytest.mark.parametrize("size", [(64, 96), (128, 32), (64, 64)])
def test_loss_is_finite(head, make_batch, make_features, box_loss: str, objects, crowds, slots, size) -> None:
    built = head(box_loss=box_loss)
    batch, features = make_batch(objects, crowds, size=size, slots=slots), make_features(1, size)
    terms = built.loss(built(features), features, batch)
    assert terms["class"].isfinite()
    assert terms["class"] > 0  # background is learned even without a box
    assert terms["box"].isfinite()
    assert bool(terms["box"] > 0) == bool(objects[0])
    found = gradients(built, features, batch)
    assert found.keys() == dict(built.named_parameters()).keys()
    assert all(gradient.isfinite().all() for gradient in found.values())


@every_box_loss
@pytest.mark.parametrize("slots", [0, None])
def test_without_annotated_images_every_gradient_is_exactly_zero(
    head, make_batch, make_features, box_loss: str, slots: int | None
) -> None:
    built, features = head(box_loss=box_loss), make_features(2)
    batch = make_batch([[], []] if slots == 0 else OBJECTS, slots=slots, has_boxes=[False, False])
    assert total(built, features, batch) == 0
    assert built.count_labels(batch) == 0
    found = gradients(built, features, batch)
    assert found.keys() == dict(built.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.values())


@every_box_loss
def test_an_image_without_annotation_leaves_no_trace(head, make_batch, make_features, box_loss: str) -> None:
    built, both = head(box_loss=box_loss), make_features(2)
    first = replace(both, pyramid=[level[:1] for level in both.pyramid], sizes=both.sizes[:1])
    alone = gradients(built, first, make_batch(OBJECTS[:1]))
    for level in both.pyramid:
        level.grad = None
    joined = gradients(built, both, make_batch(OBJECTS, has_boxes=[True, False]))
    for name, gradient in joined.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-5)
    for level in both.pyramid:
        assert level.grad[0].any()
        assert not level.grad[1].any()


@every_box_loss
def test_a_loss_is_the_mean_of_its_images_losses(head, make_batch, make_features, box_loss: str) -> None:
    """However many positive anchors each has, none included."""
    built, features = head(box_loss=box_loss), make_features(3)
    objects = [OBJECTS[0], OBJECTS[1], []]
    together = built.loss(built(features), features, make_batch(objects))
    alone = []
    for i in range(3):
        part = replace(features, pyramid=[level[i : i + 1] for level in features.pyramid])
        alone.append(built.loss(built(part), part, make_batch(objects[i : i + 1])))
    for name, term in together.items():
        torch.testing.assert_close(term, torch.stack([terms[name] for terms in alone]).mean())


def test_anchors_in_a_crowd_and_undecided_ones_are_no_negatives(head, make_batch) -> None:
    built = head()
    batch = make_batch([[(0, (4.0, 4, 36, 36))]], [[(1, (48.0, 8, 92, 60))]])
    outputs, anchors, features = raw_outputs(built, 1)
    built.loss(outputs, features, batch)["class"].backward()
    found, undecided = max_iou(assignable(batch), anchors)
    crowd = inside_crowd((anchors[:, :2] + anchors[:, 2:]) / 2, batch)
    for part in (found.positive, undecided, crowd & ~found.positive):
        assert part.any()
    assert outputs.logits.grad is not None
    moved = outputs.logits.grad.any(-1)
    assert torch.equal(moved, found.positive | ~(undecided | crowd))


def test_an_object_within_a_crowd_is_still_learned(head, make_batch) -> None:
    built = head()
    batch = make_batch([[(0, (20.0, 16, 60, 56))]], [[(1, (-64.0, -64, 160, 128))]])
    outputs, anchors, features = raw_outputs(built, 1)
    built.loss(outputs, features, batch)["class"].backward()
    found, _ = max_iou(assignable(batch), anchors)
    assert outputs.logits.grad is not None
    assert found.positive.any()
    assert torch.equal(outputs.logits.grad.any(-1), found.positive)


def test_l1_loss_by_hand(head, make_batch) -> None:
    """One object that is one anchor: that anchor alone is positive, and its offsets should be 0."""
    built = head(box_loss="l1", foreground=0.99, background=0.98, box_weight=2.0)
    outputs, anchors, features = raw_outputs(built, 1)
    index = 9 * (3 * 12 + 5) + 3  # P3, row 3, column 5, the smallest square
    assert anchors[index].tolist() == [32, 16, 48, 32]
    batch = make_batch([[(1, anchors[index].tolist())]])
    offsets = torch.full_like(outputs.offsets, 100.0)
    offsets[0, index] = torch.tensor([0.5, -0.25, 0.0, 1.0])
    terms = built.loss(outputs._replace(offsets=offsets), features, batch)
    assert float(terms["box"]) == pytest.approx(2 * 1.75)


@every_box_loss
def test_perfect_outputs_are_the_boxes(head, make_batch, box_loss: str) -> None:
    """What the loss asks of each anchor is what `predict` makes the annotated boxes of."""
    built, batch = head(box_loss=box_loss), make_batch(OBJECTS)
    outputs, anchors, features = raw_outputs(built, 2)
    found, _ = max_iou(assignable(batch), anchors)
    boxes = batch.boxes.gather(1, found.rows[..., None].expand(-1, -1, 4))
    classes = batch.classes.gather(1, found.rows)
    logits = torch.full_like(outputs.logits, -20.0)
    logits[found.positive, classes[found.positive]] = 20.0
    offsets = torch.where(found.positive[..., None], encode_boxes(boxes, anchors), 0.0)
    perfect = RetinanetOutputs(logits, offsets, SHAPES)
    detections = built.predict(built.decode(perfect, features), batch.metas)
    for detected, objects in zip(detections, OBJECTS, strict=True):
        assert len(detected.scores) == len(objects)
        for label, box in objects:
            (index,) = (detected.classes == label).nonzero()
            torch.testing.assert_close(detected.boxes[index], torch.tensor([box]), rtol=0, atol=0.01)
            assert float(detected.scores[index]) > 0.99
    terms = built.loss(perfect, features, batch)
    assert float(terms["box"]) == pytest.approx(0, abs=1e-4)
    assert float(terms["class"]) == pytest.approx(0, abs=1e-4)


def test_class_weights_scale_the_loss_of_their_column_alone(head, make_batch) -> None:
    batch, columns = make_batch(OBJECTS), []
    for weights in ({}, {"washer": 3.0, "bolt": 0.0}):
        built = head(class_weights=weights)
        outputs, _, features = raw_outputs(built, 2)
        built.loss(outputs, features, batch)["class"].backward()
        assert outputs.logits.grad is not None
        columns.append(outputs.logits.grad)
    assert columns[0].any(0).any(0).all()
    torch.testing.assert_close(columns[1], columns[0] * torch.tensor([0.0, 1.0, 3.0]))


@pytest.mark.parametrize("norm", ["none", "group"])
def test_weights_and_answers_are_torchvisions(trunk_info, make_features, norm: str) -> None:
    layer = {"none": None, "group": lambda width: torch.nn.GroupNorm(32, width)}[norm]
    theirs = RetinaNetHead(32, 9, 3, norm_layer=layer)
    ours = RetinanetConfig(norm=norm).build(trunk_info, LABELS)  # type: ignore[arg-type]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    features = make_features(2)
    outputs, reference = ours(features), theirs(features.pyramid)
    torch.testing.assert_close(outputs.logits, reference["cls_logits"])
    torch.testing.assert_close(outputs.offsets, reference["bbox_regression"])


def test_a_fresh_head_expects_background_and_the_anchors(trunk_info, make_features) -> None:
    outputs = RetinanetConfig().build(trunk_info, LABELS)(make_features(1))
    assert float(outputs.logits.detach().sigmoid().mean()) == pytest.approx(0.01, rel=0.3)
    assert float(outputs.offsets.detach().abs().mean()) < 0.2


def test_candidates_of_the_image_or_of_each_level(head, make_features) -> None:
    features = make_features(2)  # 96, 24 and 6 points of 9 anchors, 3 classes
    for per_level, count in ((False, 500), (True, 500 + 500 + 162)):
        built = head(candidates=500, candidates_per_level=per_level)
        decoded = built.decode(built(features), features)
        assert decoded.scores.shape == (2, count)
        assert (decoded.scores.diff() <= 0).all()
        assert ((decoded.scores > 0) & (decoded.scores < 1)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": -1}, r"heads\.objects\.depth: found -1"),
        ({"background": 0.6}, r"heads\.objects: found background 0\.6 and foreground 0\.5"),
        ({"foreground": 1.5}, r"heads\.objects: found background 0\.4 and foreground 1\.5"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetinanetConfig(**values).check("objects")


def test_what_the_trunk_or_the_data_rules_out_is_named(trunk_info) -> None:
    with pytest.raises(ConfigError, match=r"trunk\.channels: found 48.*multiple of 32"):
        RetinanetConfig().build(TrunkInfo({"c5": 24}, 48, (8, 16, 32)), LABELS)
    assert RetinanetConfig(norm="none").build(TrunkInfo({"c5": 24}, 48, (8, 16, 32)), LABELS)
    with pytest.raises(ConfigError, match=r"anchor_scale: found 0\.1.*stride of 8 pixels"):
        RetinanetConfig(anchor_scale=0.1).build(trunk_info, LABELS)
    with pytest.raises(ConfigError, match=r"class_weights: found 'screw'.*bolt, nut, washer"):
        RetinanetConfig(class_weights={"screw": 1.0}).build(trunk_info, LABELS)


def test_describe_names_categories_and_gives_xywh(head) -> None:
    found = Detections(torch.tensor([[1.0, 2, 11, 22.5]]), torch.tensor([0.75]), torch.tensor([2]))
    assert head().describe(found) == [
        {"bbox": [1.0, 2.0, 10.0, 20.5], "category_id": 21, "category": "washer", "score": 0.75}
    ]
