"""What each place adds to an answer: sums, places and frames that are known."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vision_mtl.config import config_from_tree
from vision_mtl.heads.base import LabelInfo
from vision_mtl.inference.explain import (
    CellMap,
    Explanation,
    detection_scores,
    explain,
    explainable_features,
    image_scores,
)
from vision_mtl.inference.heat import lay_over, scaled
from vision_mtl.models.folding import for_inference
from vision_mtl.models.multitask import MultiTaskModel, build_model
from vision_mtl.structures import Detections, Features, ImageMeta

FP32 = torch.float32
SIZES = torch.tensor([[64, 96]])
LABELS = {
    "objects": LabelInfo(("bolt", "nut"), (3, 7)),
    "kind": LabelInfo(("clean", "dirty")),
    "count": LabelInfo(mean=2.0, std=1.5),
}
KIND = {"type": "classification", "source": "attribute", "field": "kind"}
COUNT = {"type": "regression", "source": "count"}
FCOS = {"type": "fcos", "depth": 1, "score_threshold": 0.0}
DETECTORS: dict[str, dict[str, Any]] = {
    "fcos": FCOS,
    "fcos-per-level": {**FCOS, "norm": "group", "points": "corner", "candidates_per_level": True},
    "retinanet": {"type": "retinanet", "depth": 1, "score_threshold": 0.0},
    "faster_rcnn": {"type": "faster_rcnn", "proposals": 50, "score_threshold": 0.0},
}


def network(heads: dict[str, Any], **trunk: Any) -> MultiTaskModel:
    """Return a small untrained network whose logits differ from place to place."""
    two_stage = any(head["type"] == "faster_rcnn" for head in heads.values())
    if two_stage:
        trunk = {"finest": 2, "extra": "p6", **trunk}
    tree = {
        "data": {"embedded": True},
        "trunk": {"name": "resnet18", "channels": 32, **trunk},
        "heads": heads,
    }
    torch.manual_seed(0)
    model = build_model(config_from_tree(tree, "test").model(), {name: LABELS[name] for name in heads}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logits.weight" in name or "cls_score.weight" in name:
                parameter.mul_(10)
    return model


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)


def scores_of(model: MultiTaskModel, head: str, features: Features) -> Tensor:
    return image_scores(model, head, features, FP32)


@pytest.mark.parametrize("features", ["c4", "c5", "pyramid"])
@pytest.mark.parametrize("pool", ["avg", "gem", "attention"])
def test_the_places_add_up_to_the_logit_without_its_bias(features: str, pool: str) -> None:
    model = network({"kind": {**KIND, "features": features, "pool": pool}})
    layer = model.get_submodule("heads.kind.pooled.logits")
    torch.nn.init.constant_(layer.bias, 0.7)
    sizes = torch.tensor([[50, 81]])
    seen = explainable_features(model, picture(), sizes, FP32)
    with torch.no_grad():
        logits = model(picture(), sizes)[1]["kind"][0]
    bias = 0.7 * (1.3 if pool == "attention" else 1)  # the strongest cell's share has it once more
    for score, expected in zip(scores_of(model, "kind", seen), logits, strict=True):
        found = explain(score, seen)
        assert found.score == pytest.approx(float(expected), abs=1e-5)
        assert found.total == pytest.approx(found.score - bias, abs=1e-4)
        assert len(found.maps) == (5 if features == "pyramid" else 1)


def test_mean_pooling_and_a_linear_layer_give_cam() -> None:
    model = network({"kind": KIND})
    seen = explainable_features(model, picture(), SIZES, FP32)
    (found,) = explain(scores_of(model, "kind", seen)[1], seen).maps
    weight = model.get_parameter("heads.kind.pooled.logits.weight")[1]
    expected = torch.einsum("chw,c->hw", seen.stages["c5"][0], weight) / 6  # (2, 3) cells
    np.testing.assert_allclose(found.values, expected.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_number_is_explained_in_its_own_unit() -> None:
    model = network({"count": COUNT})
    seen = explainable_features(model, picture(), SIZES, FP32)
    found = explain(scores_of(model, "count", seen)[0], seen)
    with torch.no_grad():
        answer = model(picture(), SIZES)[1]["count"].item()
    assert found.score == pytest.approx(answer * 1.5 + 2, abs=1e-5)
    assert found.total == pytest.approx(answer * 1.5, abs=1e-4)  # the mean is of no place, nor is a bias of 0


def in_quarter(heat: np.ndarray, quarter: tuple[int, int]) -> float:
    """Return the share of a map's mass that lies in one of its four quarters."""
    height, width = (side // 2 for side in heat.shape)
    down, across = quarter
    part = heat[down * height : (down + 1) * height, across * width : (across + 1) * width]
    return float(np.abs(part).sum() / np.abs(heat).sum())


@pytest.mark.parametrize("quarter", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("pool", ["avg", "gem", "attention"])
def test_what_lies_in_one_quarter_is_found_there(pool: str, quarter: tuple[int, int]) -> None:
    model = network({"kind": {**KIND, "pool": pool}})
    seen = explainable_features(model, picture(128, 256), torch.tensor([[128, 256]]), FP32)
    only = torch.zeros_like(seen.stages["c5"])  # (1, 512, 4, 8)
    down, across = quarter
    only[..., down * 2 : down * 2 + 2, across * 4 : across * 4 + 4] = 1.0
    seen = replace(seen, stages={**seen.stages, "c5": only.requires_grad_()})
    heat = explain(scores_of(model, "kind", seen)[0], seen).heat((300, 600))
    assert heat.shape == (300, 600)
    assert in_quarter(heat, quarter) > 0.8  # the rest is smoothing across the border
    assert in_quarter(heat, (1 - down, 1 - across)) < 0.02


def test_evidence_of_a_detector_is_traced_to_its_places() -> None:
    model = network({"objects": FCOS, "kind": {**KIND, "detections": "objects"}})
    seen = explainable_features(model, picture(), SIZES, FP32)
    alone = explain(scores_of(model, "kind", seen)[0], seen)
    assert [cells.stride for cells in alone.maps if cells.values.any()] == [32]
    layer = model.get_submodule("heads.kind.from_detections.linear")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    both = explain(scores_of(model, "kind", seen)[0], seen)
    added = both.maps[1:]  # after c5
    assert both.maps[0].values == pytest.approx(alone.maps[0].values)
    assert sum(cells.values.any() for cells in added) == 1  # the level of the highest logit
    with torch.no_grad():
        assert both.score == pytest.approx(model(picture(), SIZES)[1]["kind"][0, 0].item(), abs=1e-5)


def found_in(model: MultiTaskModel, images: Tensor, sizes: Tensor) -> tuple[Detections, Tensor]:
    """Return the detections of one image in network-input pixels, and the raw class logits."""
    height, width = sizes[0].tolist()
    with torch.no_grad():
        features, outputs = model(images, sizes)
        meta = ImageMeta(0, "a.png", (height, width), (1.0, 1.0))
        (detections,) = model.predict(model.decode(features, outputs), [meta])["objects"]
    assert isinstance(detections, Detections)
    return detections, getattr(outputs["objects"], "logits", torch.zeros(0))


@pytest.mark.parametrize("head", DETECTORS)
@pytest.mark.parametrize("size", [(64, 96), (50, 81)])
def test_a_box_is_traced_to_the_logit_that_it_came_from(head: str, size: tuple[int, int]) -> None:
    config = {**DETECTORS[head], **({"quality": "none"} if "fcos" in head else {})}
    model, sizes = network({"objects": config}), torch.tensor([size])
    found, _ = found_in(model, picture(), sizes)
    seen = explainable_features(model, picture(), sizes, FP32)
    logits = detection_scores(model, "objects", seen, found.boxes, found.classes, FP32)
    assert len(logits) == len(found.scores) > 10
    if head == "faster_rcnn":
        given = model.named_heads()["objects"]
        with torch.no_grad():
            (proposals,) = given.propose(given(seen), sizes, (64, 96)).boxes
            every, _ = given.classify([proposals], seen)
        rows = [int((every[:, c + 1] - x).abs().argmin()) for c, x in zip(found.classes, logits, strict=True)]
        torch.testing.assert_close(every[rows, found.classes + 1], logits.detach(), rtol=0, atol=1e-5)
        scores = every.softmax(1)[rows, found.classes + 1]
        torch.testing.assert_close(scores, found.scores, rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(logits.detach().sigmoid(), found.scores, rtol=0, atol=1e-5)


def test_no_box_has_no_logit() -> None:
    for config in DETECTORS.values():
        model = network({"objects": config})
        seen = explainable_features(model, picture(), SIZES, FP32)
        none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        assert detection_scores(model, "objects", seen, *none, FP32).shape == (0,)


@pytest.mark.parametrize("head", ["fcos", "retinanet", "faster_rcnn"])
def test_what_supports_a_box_lies_around_it(head: str) -> None:
    config = {**DETECTORS[head], **({"norm": "none"} if head == "retinanet" else {})}  # group norm sees all
    model = network({"objects": config})
    images, sizes = picture(256, 256), torch.tensor([[256, 256]])
    found, _ = found_in(model, images, sizes)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    small = ((sides < 60) & (sides > 4)).all(1).nonzero()[:5, 0]
    assert len(small)
    seen = explainable_features(model, images, sizes, FP32)
    logits = detection_scores(model, "objects", seen, found.boxes[small], found.classes[small], FP32)
    for box, logit in zip(found.boxes[small], logits, strict=True):
        heat = np.abs(explain(logit, seen).heat((256, 256)))
        left, top, right, bottom = box.tolist()
        y, x = np.mgrid[:256, :256]
        centre = (heat * x).sum() / heat.sum(), (heat * y).sum() / heat.sum()
        assert np.hypot(centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2) < 48
        assert (heat > 0).mean() < 0.7


def test_padding_changes_nothing() -> None:
    heads = {"kind": {**KIND, "features": "pyramid"}, "objects": FCOS}
    model, sizes = network(heads), torch.tensor([[64, 96]])
    wider = torch.full((1, 3, 128, 160), 200, dtype=torch.uint8)
    wider[..., :64, :96] = picture()
    maps = []
    for images in (picture(), wider):
        # What a 3x3 convolution finds beyond the image differs: zeros, or features of zeros. The head sees
        # the same cells, so that its map has to depend on these alone.
        features = explainable_features(model, images, sizes, FP32)
        first = maps[0][0] if maps else features
        levels = [level.detach().clone() for level in features.pyramid]
        for level, own in zip(levels, first.pyramid, strict=True):
            level[..., : own.shape[2], : own.shape[3]] = own.detach()
        features = replace(features, pyramid=[level.requires_grad_() for level in levels])
        maps.append((features, explain(scores_of(model, "kind", features)[0], features)))
    (_, plain), (_, padded) = maps
    assert padded.size == plain.size == (64, 96)
    for a, b in zip(plain.maps, padded.maps, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(plain.heat((128, 192)), padded.heat((128, 192)), rtol=1e-4, atol=1e-8)


def test_a_flip_of_the_features_flips_the_map() -> None:
    model = network({"kind": {**KIND, "pool": "gem"}})
    seen = explainable_features(model, picture(), SIZES, FP32)
    flipped = seen.stages["c5"].detach().flip(3).requires_grad_()
    other = replace(seen, stages={**seen.stages, "c5": flipped})
    maps = [explain(scores_of(model, "kind", given)[1], given).heat((128, 192)) for given in (seen, other)]
    np.testing.assert_allclose(maps[1], maps[0][:, ::-1], rtol=1e-3, atol=1e-7)


def test_heat_is_spread_over_the_pixels_of_a_cell() -> None:
    cells = [CellMap(np.array([[3.0, 3.0, 3.0]], np.float32), 8), CellMap(np.array([[16.0]], np.float32), 32)]
    heat = Explanation(0.0, cells, (8, 20)).heat((16, 40))
    assert heat.shape == (16, 40)
    np.testing.assert_allclose(heat, 3 / 64 + 16 / 1024, rtol=1e-6)
    assert Explanation(0.0, cells, (8, 20)).total == 25.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_explaining_leaves_the_network_as_it_was(dtype: torch.dtype) -> None:
    given = network({"objects": FCOS, "kind": {**KIND, "detections": "objects"}})
    model = for_inference(given, dtype)
    before = deepcopy(model.state_dict())
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != FP32):
        answer = model(picture(), SIZES)[1]["kind"]
    seen = explainable_features(model, picture(), SIZES, dtype)
    score = image_scores(model, "kind", seen, dtype)[0]
    found = explain(score, seen)
    assert found.total != 0
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != FP32):
        assert torch.equal(model(picture(), SIZES)[1]["kind"], answer)
    assert found.score == pytest.approx(answer[0, 0].item(), abs=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_overlay_colours() -> None:
    grey = np.full((1, 3, 3), 100, np.uint8)
    drawn = lay_over(grey, np.array([[-1.0, 0.0, 1.0]], np.float32))
    assert drawn[0, 1].tolist() == [100, 100, 100]  # nothing there: the picture
    assert drawn[0, 0, 2] > 200 > drawn[0, 0, 0]  # lowers: blue
    assert drawn[0, 2, 0] > 200 > drawn[0, 2, 2]  # raises: red to yellow
    assert scaled(np.array([-4.0, 2.0])).tolist() == [-1.0, 0.5]
    assert scaled(np.zeros(2)).tolist() == [0.0, 0.0]
