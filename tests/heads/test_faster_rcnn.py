"""The two-stage detection head: torchvision's answers and losses, and what crowds and missing labels mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import box_iou

from tests.heads.torchvision_weights import (
    as_batch,
    assert_same_detections,
    enliven_two_stage,
    random_images,
    skip_resize,
    trunk_state,
)
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig, FasterRcnnHead, mostly_inside
from vision_mtl.models.trunk import Trunk, TrunkConfig
from vision_mtl.structures import Batch, Detections, Features

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
STRIDES = (4, 8, 16, 32, 64)
CHANNELS = 16
TRUNK = TrunkInfo({"c5": 24}, CHANNELS, STRIDES)
OBJECTS = [[(0, (8.0, 8, 40, 36)), (2, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]
TERMS = {"objectness", "rpn_box", "class", "box"}
every_box_head = pytest.mark.parametrize("box_head", ["mlp", "conv"])


@pytest.fixture
def head() -> Any:
    """A function from config values to a head whose outputs are not the nearly constant ones of a fresh
    head, on small anchors."""

    def build(**values: Any) -> FasterRcnnHead:
        torch.manual_seed(0)
        small = {"anchor_sizes": (8, 16, 32, 64, 128), "proposals": 100, "proposals_train": 200}
        built = FasterRcnnConfig(**{**small, **values}).build(TRUNK, LABELS)
        with torch.no_grad():
            for parameter in built.rpn.parameters():
                if parameter.ndim == 4:
                    parameter.normal_(std=0.05)
        return built

    return build


def make_features(count: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> Features:
    """Random features of the pyramid that the head asks for, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    pyramid = [
        torch.randn(count, CHANNELS, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for stride in STRIDES
    ]
    sizes = torch.tensor([size] * count)
    return Features({}, [level.requires_grad_() for level in pyramid], list(STRIDES), size, sizes)


def loss(head: FasterRcnnHead, features: Features, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)  # which anchors and proposals are drawn
    terms = head.loss(head(features), features, batch)
    assert set(terms) == TERMS
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())
    return terms


def gradients(head: FasterRcnnHead, features: Features, batch: Batch) -> dict[str, Tensor | None]:
    head.zero_grad()
    torch.stack(list(loss(head, features, batch).values())).sum().backward()
    return {name: parameter.grad for name, parameter in head.named_parameters()}


@every_box_head
@pytest.mark.parametrize("training", [True, False])
def test_every_term_and_parameter_learns(head, make_batch, box_head: str, training: bool) -> None:
    built = head(box_head=box_head, rpn_depth=2).train(training)
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
    head, make_batch, box_head: str, objects, crowds, slots, size
) -> None:
    built = head(box_head=box_head)
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
    head, make_batch, box_head: str, slots: int | None
) -> None:
    built = head(box_head=box_head)
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
    head, make_batch, box_head: str, annotated: list[bool]
) -> None:
    built = head(box_head=box_head)
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


def test_a_box_is_mostly_inside_by_its_own_area() -> None:
    crowds = torch.tensor([[0.0, 0, 40, 40], [100.0, 100, 110, 110]])
    boxes = torch.tensor(
        [[10.0, 10, 12, 12], [30.0, 0, 50, 40], [29.0, 0, 49, 40], [100.0, 100, 140, 140], [60.0, 60, 70, 70]]
    )
    assert mostly_inside(boxes, crowds).tolist() == [True, False, True, False, False]
    assert not mostly_inside(boxes, crowds[:0]).any()


def test_anchors_and_proposals_in_a_crowd_are_neither_positive_nor_negative(head) -> None:
    built = head()
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


@every_box_head
def test_what_the_first_stage_says_inside_a_crowd_changes_no_loss(head, make_batch, box_head: str) -> None:
    built = head(box_head=box_head, anchor_sizes=(4, 8, 16, 32, 64)).eval()
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


def test_only_what_is_no_crowd_is_learned_in_the_second_stage(head, make_batch) -> None:
    """The crowd covers the image but for the object, which alone is drawn: as positive, never background."""
    built = head().eval()
    box = (20.0, 16, 60, 56)
    batch = make_batch([[(0, box)]], [[(1, (-999.0, -999, 999, 999))]])
    seen: list[Tensor] = []
    built.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, args: seen.extend(args[1]))
    terms = loss(built, make_features(1), batch)
    assert (box_iou(seen[0], torch.tensor([box])) >= 0.5).all()
    assert any(torch.equal(row, torch.tensor(box)) for row in seen[0])
    assert terms["class"] > 0


def test_class_weights_are_factors_on_the_loss_of_their_class(head, make_batch) -> None:
    features = make_features(1)
    plain, zero, double = (
        head(proposals=10, class_weights=weights).eval() for weights in ({}, {"bolt": 0.0}, {"bolt": 2.0})
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


def test_the_same_image_twice_has_the_loss_of_once(head, make_batch) -> None:
    built = head(proposals=20).eval()
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


def test_after_autocast_all_runs_in_float32(head, make_batch) -> None:
    built = head(box_head="conv").eval()
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
def test_decode_has_one_shape_whatever_the_images_hold(head, count: int) -> None:
    built = head(candidates=count, proposals=1000).eval()
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


def test_no_proposals_are_no_detections(head, make_batch) -> None:
    built = head().eval()
    features, batch = make_features(2), make_batch([[], []])
    outputs = built(features)
    for level in outputs.deltas:
        level.data.fill_(float("nan"))
    decoded = built.decode(outputs, features)
    assert not decoded.scores.any()
    assert not decoded.boxes.any()
    for found in built.predict(decoded, batch.metas):
        assert len(found.scores) == 0


def test_boxes_without_width_are_no_candidates(head) -> None:
    built = head().eval()
    built.roi_heads.box_predictor.bbox_pred.bias.data[2::4] = -100.0
    features = make_features(1)
    decoded = built.decode(built(features), features)
    assert not decoded.scores.any()
    assert not decoded.boxes.any()


def test_a_small_image_in_a_larger_batch_is_pooled_at_the_right_place(head) -> None:
    """Which strides the pooling uses does not depend on how much of the batch is padding."""
    features = make_features(1, (64, 64))
    boxes = [torch.tensor([[4.0, 4, 30, 30], [0.0, 0, 33, 33]])]
    whole, small = head().eval(), head().eval()
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


def test_describe_names_categories_and_gives_xywh(head) -> None:
    found = Detections(torch.tensor([[1.0, 2, 11, 22.5]]), torch.tensor([0.75]), torch.tensor([2]))
    assert head().describe(found) == [
        {"bbox": [1.0, 2.0, 10.0, 20.5], "category_id": 21, "category": "washer", "score": 0.75}
    ]


class Pair:
    """torchvision's detector and ours with the same weights, in evaluation mode."""

    def __init__(self, second: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        builder = fasterrcnn_resnet50_fpn_v2 if second else fasterrcnn_resnet50_fpn
        options: dict[str, int] = {}
        variant = FasterRcnnConfig()
        if second:  # its convolutions on a thousand proposals take their time
            options = {
                f"rpn_{place}_nms_top_n_{mode}": 150
                for place in ("pre", "post")
                for mode in ("test", "train")
            }
            variant = FasterRcnnConfig(rpn_depth=2, box_head="conv", proposals=150, proposals_train=150)
        self.theirs = builder(weights=None, weights_backbone=None, num_classes=91, **options).eval()
        skip_resize(self.theirs)
        enliven_two_stage(self.theirs, generator)
        norm = "batch" if second else "none"
        config = TrunkConfig(name="resnet50", norm="batch", finest=2, extra="p6", pyramid_norm=norm)
        self.trunk = Trunk(config).eval()
        self.trunk.load_state_dict(trunk_state(self.theirs))
        names = tuple(f"class {i}" for i in range(90))
        info = TrunkInfo(self.trunk.stage_channels, self.trunk.channels, tuple(self.trunk.strides))
        self.head = variant.build(info, LabelInfo(names, tuple(range(90)))).eval()
        own = {key: value for key, value in self.theirs.state_dict().items() if "backbone" not in key}
        self.head.load_state_dict(own)


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@pytest.mark.parametrize("sizes", [[(167, 130)], [(192, 256), (160, 224)]], ids=["one", "two of two sizes"])
@torch.no_grad()
def test_detections_are_torchvisions(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    images = random_images(sizes, torch.Generator().manual_seed(3))
    expected = pair.theirs([image / 255 for image in images])
    batch = as_batch(images)
    features = pair.trunk(batch.images, batch.sizes)
    found = pair.head.predict(pair.head.decode(pair.head(features), features), batch.metas)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"]) >= 50
        assert len(theirs["labels"].unique()) >= 10
        assert_same_detections(ours, theirs, label_offset=1)


def test_losses_are_torchvisions(pair: Pair) -> None:
    """Of the same draw, as both draw the same numbers; the second image has no boxes."""
    images = random_images([(128, 160), (96, 128)], torch.Generator().manual_seed(2))
    boxes = [
        torch.tensor([[20.0, 30, 120, 110], [90.0, 20, 150, 100], [5.0, 95, 40, 120]]),
        torch.zeros(0, 4),
    ]
    classes = [torch.tensor([0, 89, 17]), torch.zeros(0, dtype=torch.int64)]
    batch = as_batch(images, boxes, classes)
    for model in (pair.theirs, pair.head):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # both have the same statistics
    # Rounding swaps proposals that nearly tie, and then others are drawn: ours gets the very same pyramid.
    pyramids: list[dict[str, Tensor]] = []
    hook = pair.theirs.backbone.register_forward_hook(lambda _, args, pyramid: pyramids.append(pyramid))
    try:
        with torch.no_grad():
            torch.manual_seed(3)
            expected = pair.theirs(
                [image / 255 for image in images],
                [{"boxes": box, "labels": label + 1} for box, label in zip(boxes, classes, strict=True)],
            )
            features = Features({}, list(pyramids[0].values()), list(STRIDES), (128, 160), batch.sizes)
            torch.manual_seed(3)
            terms = pair.head.loss(pair.head(features), features, batch)
    finally:
        hook.remove()
        pair.theirs.eval()
        pair.head.eval()
    names = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    for name, term in terms.items():
        assert term > 0.01
        torch.testing.assert_close(term, expected[names[name]], rtol=1e-4, atol=0)
