"""The two-stage detection head: losses of every kind of batch, answers of one shape, settings.

Crowds: `test_faster_rcnn_crowds.py`. That its answers and losses are torchvision's:
`test_faster_rcnn_parity.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.heads.two_stage import (
    CHANNELS,
    LABELS,
    OBJECTS,
    TERMS,
    TRUNK,
    build_head,
    gradients,
    loss,
    make_features,
)
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import TrunkInfo
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.structures import Detections

every_box_head = pytest.mark.parametrize("box_head", ["mlp", "conv"])


@every_box_head
@pytest.mark.parametrize("training", [True, False])
def test_every_term_and_parameter_learns(make_batch, box_head: str, training: bool) -> None:
    built = build_head(box_head=box_head, rpn_depth=2).train(training)
    features, batch = make_features(2), make_batch(OBJECTS)
    assert all(term.isfinite() and term > 0 for term in loss(built, features, batch).values())
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    assert built.count_labels(batch) == 2


@every_box_head
@pytest.mark.parametrize(
    ("objects", "crowds", "slots"),
    [
        ([[]], [[]], 0),
        ([[]], [[]], 4),
        ([[(1, (10.0, 10, 30, 30))]], [[]], None),
        ([[(1, (10.0, 10, 12, 12))]], [[]], None),
        ([[]], [[(1, (10.0, 10, 30, 30))]], None),
        ([[(1, (10.0, 10, 30, 30))]], [[(0, (5.0, 5, 60, 60))]], 7),
        ([[]], [[(1, (-999.0, -999, 999, 999))]], None),
    ],
    ids=["no slots", "empty slots", "one box", "tiny box", "crowd only", "box in a crowd", "all crowd"],
)
@pytest.mark.parametrize("size", [(64, 96), (128, 32), (32, 32)])
def test_loss_is_finite_and_reaches_every_parameter(
    make_batch, box_head: str, objects, crowds, slots, size
) -> None:
    built = build_head(box_head=box_head)
    batch, features = make_batch(objects, crowds, size=size, slots=slots), make_features(1, size)
    terms = loss(built, features, batch)
    assert all(term.isfinite() for term in terms.values())
    everywhere = bool(crowds[0]) and crowds[0][0][1][0] < 0
    assert bool(terms["objectness"] > 0) is not everywhere  # background is learned even without a box
    assert bool(terms["class"] > 0) is not everywhere
    if objects[0]:
        assert terms["rpn_box"] > 0
        assert terms["box"] > 0
    else:
        assert terms["rpn_box"] == terms["box"] == 0
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert not (everywhere and gradient.any()), name
    assert all(buffer.isfinite().all() for buffer in built.buffers())


@every_box_head
@pytest.mark.parametrize("slots", [0, None])
def test_without_annotated_images_every_gradient_is_exactly_zero(
    make_batch, box_head: str, slots: int | None
) -> None:
    built = build_head(box_head=box_head)
    batch = make_batch([[], []] if slots == 0 else OBJECTS, slots=slots, has_boxes=[False, False])
    features = make_features(2)
    assert all(term == 0 for term in loss(built, features, batch).values())
    assert built.count_labels(batch) == 0
    for name, gradient in gradients(built, features, batch).items():
        assert gradient is not None, name
        assert not gradient.any(), name
    for level in features.pyramid:
        assert level.grad is not None
        assert not level.grad.any()


@every_box_head
@pytest.mark.parametrize("annotated", [[True, False], [False, True]])
def test_an_image_without_annotation_leaves_no_trace(
    make_batch, box_head: str, annotated: list[bool]
) -> None:
    built = build_head(box_head=box_head)
    one = annotated.index(True)
    both, batch = make_features(2), make_batch([OBJECTS[0]] * 2, has_boxes=annotated)
    first = replace(both, pyramid=[level[one : one + 1] for level in both.pyramid], sizes=both.sizes[:1])
    alone = gradients(built, first, make_batch(OBJECTS[:1]))
    for level in both.pyramid:
        level.grad = None
    for name, gradient in gradients(built, both, batch).items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-5)
    for level in both.pyramid:
        assert level.grad is not None
        assert level.grad[one].any()
        assert not level.grad[1 - one].any()


def test_class_weights_are_factors_on_the_loss_of_their_class(make_batch) -> None:
    features = make_features(1)
    plain, zero, double = (
        build_head(proposals=10, class_weights=weights).eval()
        for weights in ({}, {"bolt": 0.0}, {"bolt": 2.0})
    )
    bolt, nut = make_batch([[(0, (8.0, 8, 40, 36))]]), make_batch([[(1, (8.0, 8, 40, 36))]])
    once = loss(plain, features, bolt)
    without, twice = (loss(other, features, bolt) for other in (zero, double))
    positives = once["class"] - without["class"]
    assert positives > 0.01
    torch.testing.assert_close(twice["class"], without["class"] + 2 * positives)
    for name in TERMS - {"class"}:
        assert twice[name] == once[name], name
    assert loss(double, features, nut) == loss(plain, features, nut)


def test_the_same_image_twice_has_the_loss_of_once(make_batch) -> None:
    built = build_head(proposals=20).eval()
    once, features = make_features(1, (32, 32)), make_features(1, (32, 32))
    objects = [(0, (4.0, 4, 20, 24))]
    twice = replace(
        features, pyramid=[torch.cat([level] * 2) for level in once.pyramid], sizes=once.sizes.repeat(2, 1)
    )
    expected = loss(built, once, make_batch([objects], size=(32, 32)))
    got = loss(built, twice, make_batch([objects] * 2, size=(32, 32)))
    # Every proposal is drawn; anchors are drawn at random.
    for name in ("class", "box"):
        torch.testing.assert_close(got[name], expected[name])


def test_after_autocast_all_runs_in_float32(make_batch) -> None:
    built = build_head(box_head="conv").eval()
    features, batch = make_features(2), make_batch(OBJECTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = replace(features, pyramid=[level.bfloat16() for level in features.pyramid])
        outputs = built(half)
        assert outputs.objectness[0].dtype == torch.bfloat16
        torch.manual_seed(0)
        within = built.loss(outputs, half, batch)
        decoded = built.decode(outputs, half)
    torch.manual_seed(0)
    outside = built.loss(outputs, half, batch)
    assert {name: term.dtype for name, term in within.items()} == dict.fromkeys(TERMS, torch.float32)
    assert within == outside
    assert decoded.boxes.dtype == decoded.scores.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(decoded, built.decode(outputs, half), strict=True))


@pytest.mark.parametrize("count", [50, 5000])
def test_decode_has_one_shape_whatever_the_images_hold(count: int) -> None:
    built = build_head(candidates=count, proposals=1000).eval()
    features = make_features(2)
    features = replace(features, sizes=torch.tensor([[64, 96], [40, 50]]))
    outputs = built(features)
    expected = min(count, 1000 * 3)
    decoded = built.decode(outputs, features)
    assert decoded.boxes.shape == (2, expected, 4)
    assert decoded.scores.shape == decoded.classes.shape == (2, expected)
    assert (decoded.scores.diff(dim=1) <= 0).all()
    assert (decoded.boxes >= 0).all()
    for boxes, (height, width) in zip(decoded.boxes, [(64, 96), (40, 50)], strict=True):
        assert (boxes <= torch.tensor([width, height] * 2)).all()
    assert decoded.boxes[1].amax(0).tolist()[2:] == [50, 40]
    empty = decoded.scores == 0
    assert (decoded.boxes[empty] == 0).all()
    assert empty.any() == (count == 5000)  # NMS leaves fewer proposals than that of so small an image


def test_no_proposals_are_no_detections(make_batch) -> None:
    built = build_head().eval()
    features, batch = make_features(2), make_batch([[], []])
    outputs = built(features)
    for level in outputs.deltas:
        level.data.fill_(float("nan"))
    decoded = built.decode(outputs, features)
    assert not decoded.scores.any()
    assert not decoded.boxes.any()
    for found in built.predict(decoded, batch.metas):
        assert len(found.scores) == 0


def test_boxes_without_width_are_no_candidates() -> None:
    built = build_head().eval()
    built.roi_heads.box_predictor.bbox_pred.bias.data[2::4] = -100.0
    features = make_features(1)
    decoded = built.decode(built(features), features)
    assert not decoded.scores.any()
    assert not decoded.boxes.any()


def test_a_small_image_in_a_larger_batch_is_pooled_at_the_right_place() -> None:
    """Which strides the pooling uses does not depend on how much of the batch is padding."""
    features = make_features(1, (64, 64))
    boxes = [torch.tensor([[4.0, 4, 30, 30], [0.0, 0, 33, 33]])]
    whole, small = build_head().eval(), build_head().eval()
    expected = whole.classify(boxes, features)
    got = small.classify(boxes, replace(features, sizes=torch.tensor([[20, 20]])))
    assert torch.equal(got[0], expected[0])
    assert whole.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rpn_depth": 0}, r"heads\.objects\.rpn_depth: found 0"),
        ({"proposals": 0}, r"heads\.objects\.proposals: found 0"),
        ({"proposals_train": -1}, r"heads\.objects\.proposals_train: found -1"),
        ({"candidates": 0}, r"heads\.objects\.candidates: found 0"),
        ({"max_detections": 0}, r"heads\.objects\.max_detections: found 0"),
        ({"score_threshold": 1.5}, r"heads\.objects\.score_threshold: found 1\.5"),
        ({"nms_threshold": -0.1}, r"heads\.objects\.nms_threshold: found -0\.1"),
        ({"anchor_sizes": (8, 16, 32)}, r"heads\.objects\.anchor_sizes: found \[8, 16, 32\].* 5 sizes"),
        ({"anchor_sizes": (0, 8, 16, 32, 64)}, r"heads\.objects\.anchor_sizes: found \[0, 8"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FasterRcnnConfig(**values).check("objects")
    FasterRcnnConfig().check("objects")


def test_a_weight_of_no_class_is_named_with_the_classes() -> None:
    with pytest.raises(ConfigError, match=r"found 'bolts'.*bolt, nut, washer.*did you mean 'bolt'"):
        FasterRcnnConfig(class_weights={"bolts": 2.0}).build(TRUNK, LABELS)


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64, 128), (4, 8, 16, 32, 64, 128)])
def test_a_pyramid_that_does_not_fit_says_what_to_set(strides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"found pyramid strides \[.*trunk\.finest=2 trunk\.extra=p6"):
        FasterRcnnConfig().build(TrunkInfo({"c5": 24}, CHANNELS, strides), LABELS)


def test_describe_names_categories_and_gives_xywh() -> None:
    found = Detections(torch.tensor([[1.0, 2, 11, 22.5]]), torch.tensor([0.75]), torch.tensor([2]))
    assert build_head().describe(found) == [
        {"bbox": [1.0, 2.0, 10.0, 20.5], "category_id": 21, "category": "washer", "score": 0.75}
    ]
