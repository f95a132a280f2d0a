"""Rows of classes from a file into the network: by id and name, in any order, or by their number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import detection

from tests.heads.torchvision_weights import (
    as_batch,
    assert_same_detections,
    random_images,
    randomise_norms,
    skip_resize,
)
from tests.models.torchvision_files import (
    CATEGORIES,
    COCO,
    builder_state,
    example,
    saved,
    small_config,
    small_fcos,
    started,
)
from vision_mtl.heads.base import LabelInfo
from vision_mtl.reporting.weights_report import weights_text


def numbered(state: dict[str, Tensor], anchors: int = 1) -> dict[str, Tensor]:
    """Return the state with class rows that hold the number of their slot."""
    state = dict(state)
    slots = torch.arange(91.0)
    rows = {
        "head.classification_head.cls_logits": slots.repeat(anchors),
        "roi_heads.box_predictor.cls_score": slots,
        "roi_heads.box_predictor.bbox_pred": slots.repeat_interleave(4),
    }
    for module, values in rows.items():
        if f"{module}.weight" in state:
            weight = state[f"{module}.weight"]
            state[f"{module}.weight"] = values.view(-1, *[1] * (weight.ndim - 1)).expand_as(weight).clone()
            state[f"{module}.bias"] = values.clone()
    return state


@pytest.mark.parametrize(("builder", "anchors"), [("fcos_resnet50_fpn", 1), ("retinanet_resnet50_fpn", 9)])
def test_cocos_80_classes_of_sigmoids(tmp_path: Path, builder: str, anchors: int) -> None:
    path = saved(tmp_path / "file.pth", numbered(builder_state(builder), anchors))
    model, report = started(example(builder, path), COCO)
    head = model.heads["objects"].classification_head["cls_logits"]
    assert head.bias.unflatten(0, (anchors, 80)).tolist() == [CATEGORIES] * anchors
    assert head.weight.unflatten(0, (anchors, 80))[:, :, 3, 1, 2].tolist() == [CATEGORIES] * anchors
    assert report.classes["objects"][12:14] == [("parking meter", "14 parking meter"), ("bench", "15 bench")]
    assert report.whole_heads() == ["objects"]


def test_cocos_80_classes_of_a_softmax(tmp_path: Path) -> None:
    builder = "fasterrcnn_resnet50_fpn"
    path = saved(tmp_path / "file.pth", numbered(builder_state(builder)))
    model, report = started(example(builder, path), COCO)
    predictor = model.heads["objects"].roi_heads.box_predictor
    rows = [0, *CATEGORIES]  # the background stays first
    assert predictor.cls_score.bias.tolist() == predictor.cls_score.weight[:, 5].tolist() == rows
    assert predictor.bbox_pred.bias.unflatten(0, (81, 4)).tolist() == [[row] * 4 for row in rows]
    assert predictor.bbox_pred.weight[:, 9].unflatten(0, (81, 4)).tolist() == [[row] * 4 for row in rows]
    assert report.whole_heads() == ["objects"]


def test_a_softmax_of_80_classes_is_that_of_91_without_the_others(tmp_path: Path) -> None:
    builder, generator = "fasterrcnn_resnet50_fpn", torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    theirs = getattr(detection, builder)(weights=None, weights_backbone=None).eval()
    randomise_norms(theirs, generator)
    skip_resize(theirs)
    predictor = theirs.roi_heads.box_predictor
    unused = sorted(set(range(1, 91)) - set(CATEGORIES))
    with torch.no_grad():
        predictor.cls_score.weight.mul_(40)
        predictor.cls_score.bias[unused] = -torch.inf
    path = saved(tmp_path / "file.pth", theirs.state_dict())
    model, _ = started(example(builder, path, "trunk.norm_eps=0.00001"), COCO)
    (image,) = random_images([(96, 128)], generator)
    batch = as_batch([image])
    with torch.no_grad():
        expected = theirs([image / 255])[0]
        features, outputs = model.eval()(batch.images, batch.sizes)
        (found,) = model.predict(model.decode(features, outputs), batch.metas)["objects"]
    assert len(found.scores) > 5
    with_slots = replace(found, classes=torch.tensor(CATEGORIES)[found.classes])
    assert_same_detections(with_slots, expected, label_offset=0)


def test_other_data_is_matched_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", numbered(small_fcos()))
    data = LabelInfo(("cat", "Dog", "widget"), (1, 18, 3))  # 18 is dog there too; 1 is person: the name wins
    model, report = started(small_config(tmp_path, path), data)
    logits = model.heads["objects"].classification_head["cls_logits"]
    assert logits.bias[:2].tolist() == [17, 18]
    assert logits.bias[2].item() == pytest.approx(-4.595, abs=1e-3)  # its own start: a probability of 0.01
    assert report.classes["objects"] == [("cat", "17 cat"), ("Dog", "18 dog"), ("widget", None)]
    assert report.whole_heads() == []
    text = weights_text(report)
    assert "objects: 2 of 3 classes are the file's" in text
    assert ["widget", "fresh"] in [line.split() for line in text.splitlines()]
    assert "note: its 91 class slots are taken for those of torchvision's COCO weights" in text


def test_slots_without_names_are_taken_in_order_if_their_number_fits(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", small_fcos(4))
    key = "head.classification_head.cls_logits.bias"
    model, report = started(small_config(tmp_path, path), LabelInfo(("x", "x", "z"), (5, 6, 9)))
    logits = model.heads["objects"].classification_head["cls_logits"]
    assert torch.equal(logits.bias, small_fcos(4)[key][1:])
    assert "its 4 slots are taken for a background and our classes, in order" in report.notes[0]
    model, report = started(small_config(tmp_path, path), COCO)
    assert not torch.isin(
        model.state_dict()["heads.objects.classification_head.cls_logits.bias"], small_fcos(4)[key]
    ).any()
    assert all(slot is None for _, slot in report.classes["objects"])
    assert report.notes == [
        "it has 4 class slots and names none: all classes start fresh. Slots are understood if there are 91 "
        "(COCO's) or 81 (a background and our classes)"
    ]
