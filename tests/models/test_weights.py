"""Weights into the network: what is taken, what stays fresh, and a word about all the rest."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet

from tests.models.torchvision_files import (
    COCO,
    EXAMPLES,
    SLOTS,
    builder_state,
    example,
    our_name,
    saved,
    small_config,
    small_fcos,
    started,
)
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.published import DETECTORS
from vision_mtl.reporting.weights_report import weights_text

SOFTMAX = "fasterrcnn"


def all_slots(builder: str) -> LabelInfo:
    """Return a data set whose categories are torchvision's slots; of a softmax, 0 is the background."""
    first = 1 if builder.startswith(SOFTMAX) else 0
    return LabelInfo(tuple(SLOTS[first:]), tuple(range(first, len(SLOTS))))


@pytest.mark.parametrize("builder", EXAMPLES)
def test_every_tensor_of_a_builder_is_taken(tmp_path: Path, builder: str) -> None:
    state = builder_state(builder)
    config = example(builder, saved(tmp_path / "file.pth", state))
    model, report = started(config, all_slots(builder))
    own = model.state_dict()
    wanted = {our_name(key): value for key, value in state.items()}
    if config.trunk.norm == "frozen":
        wanted = {k: v for k, v in wanted.items() if "body" not in k or "num_batches" not in k}
    assert own.keys() - wanted.keys() == {key for key in own if key.split(".")[1] in ("presence", "dominant")}
    assert all(torch.equal(own[key], value) for key, value in wanted.items())
    assert report.skipped == []
    assert {key.split(".")[1] for key in report.fresh} == {"presence", "dominant"}
    assert report.whole_heads() == ["objects"]
    named = (slot.split(" ", 1)[1] for _, slot in report.classes["objects"] if slot)
    assert list(named) == list(all_slots(builder).names)


def test_a_builders_trunk_and_head_settings_are_those_of_its_config() -> None:
    for builder, file in EXAMPLES.items():
        detector = DETECTORS[builder]
        assert detector.example == f"configs/{file}"
        config = example(builder, f"torchvision:{builder}/COCO_V1")  # checks the trunk
        head = config.heads["objects"]
        for key, values in detector.head.items():
            assert getattr(head, key) in (values if isinstance(values, tuple) else (values,))


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("counted", [True, False])
def test_norms_frozen_or_not_with_counters_or_without(tmp_path: Path, norm: str, counted: bool) -> None:
    state = {k: v for k, v in small_fcos().items() if counted or "num_batches" not in k}
    config = small_config(tmp_path, saved(tmp_path / "file.pth", state), f"trunk.norm={norm}")
    model, report = started(config, COCO)
    assert torch.equal(model.trunk.body["bn1"].running_var, state["backbone.body.bn1.running_var"])
    counters = [value for key, value in model.state_dict().items() if "num_batches" in key]
    assert {int(value) for value in counters} == (set() if norm == "frozen" else {7} if counted else {0})
    assert (report.fresh, report.skipped) == ([], [])


# A head that is not the file's


def test_another_head_on_the_files_trunk_starts_fresh_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", small_fcos())
    config = small_config(tmp_path, path, "heads.objects={type: retinanet}")
    model, report = started(config, COCO)
    assert torch.equal(model.trunk.body["conv1"].weight, small_fcos()["backbone.body.conv1.weight"])
    assert report.notes[-1] == "head 'objects' is retinanet and the file's is fcos: it starts fresh"
    assert {key.split(".")[0] for key in report.loaded} == {"trunk"}
    assert set(report.fresh) == {k for k in model.state_dict() if k.startswith("heads.")}
    assert len(report.skipped) == sum(key.startswith("head.") for key in small_fcos())


def test_our_own_fcos_takes_what_fits(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", small_fcos())
    config = small_config(tmp_path, path, "heads.objects={type: fcos, depth: 4, norm: group, quality: none}")
    model, report = started(config, COCO)
    own = model.state_dict()
    key = "regression_head.conv.9.weight"
    assert torch.equal(own[f"heads.objects.{key}"], small_fcos()[f"head.{key}"])
    assert report.fresh == [f"heads.objects.regression_head.bbox_reg.{name}" for name in ("weight", "bias")]
    assert "heads.objects.regression_head.bbox_ctrness.weight" in report.skipped
    assert all(slot is not None for _, slot in report.classes["objects"])
    assert report.whole_heads() == []
    assert "set heads.objects.points=corner (found middle)" in report.notes[-1]
    lines = [line.split() for line in weights_text(report).splitlines()]
    row = next(line for line in lines if line[:1] == ["heads.objects.regression_head"])
    assert row[1:6] == ["16", "2", "4", "bbox_reg.weight,", "bbox_reg.bias,"]


@pytest.mark.parametrize(
    "tower", ["depth: 2, norm: group", "depth: 4, norm: batch", "depth: 4, norm: group, width: 128"]
)
def test_output_layers_are_not_taken_without_their_towers(tmp_path: Path, tower: str) -> None:
    path = saved(tmp_path / "file.pth", small_fcos())
    config = small_config(
        tmp_path, path, f"heads.objects={{type: fcos, quality: centreness, bins: 0, {tower}}}"
    )
    _, report = started(config, COCO)
    fresh = {key.split(".")[3] for key in report.fresh if key.startswith("heads.")} - {"conv"}
    assert fresh == {"cls_logits", "bbox_reg", "bbox_ctrness"}
    assert all(slot is None for _, slot in report.classes["objects"])
    assert "objects: 0 of 80 classes are the file's" in weights_text(report)


def test_a_network_without_detection_takes_the_resnet(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", small_fcos())
    config = small_config(tmp_path, path, "heads={presence: {type: multilabel}}")
    _, report = started(config, COCO)
    assert {key.split(".")[0] for key in report.loaded} == {"trunk"}
    assert {key.split(".")[1] for key in report.fresh} == {"presence"}
    pyramid = [key for key in report.skipped if key.startswith("trunk.fpn.")]  # which nothing reads
    assert len(pyramid) == 16
    assert {key.split(".")[0] for key in report.skipped if key not in pyramid} == {"head"}


# Files with more or less than the network


def test_a_mask_is_not_used_and_not_in_the_way(tmp_path: Path) -> None:
    state = dict(builder_state("fasterrcnn_resnet50_fpn"))
    state["roi_heads.mask_head.0.0.weight"] = torch.zeros(256, 256, 3, 3)
    config = example("fasterrcnn_resnet50_fpn", saved(tmp_path / "file.pth", state))
    _, report = started(config, COCO)
    assert report.skipped == ["heads.objects.roi_heads.mask_head.0.0.weight"]
    assert report.whole_heads() == ["objects"]


def test_a_detector_that_we_have_not_gives_its_trunk(tmp_path: Path) -> None:
    state = {k: v for k, v in small_fcos().items() if k.startswith("backbone.")}
    state["other.weight"] = torch.zeros(3)
    _, report = started(small_config(tmp_path, saved(tmp_path / "file.pth", state)), COCO)
    assert report.skipped == ["other.weight"]
    assert report.notes == ["it has a head of a type that we have not"]


def test_nothing_given_nothing_loaded(tmp_path: Path) -> None:
    model, report = started(small_config(tmp_path, "null"), COCO)
    assert report.source is None
    assert len(report.fresh) == sum("num_batches" not in key for key in model.state_dict())
    assert weights_text(report) == "no pretrained weights: the whole network starts fresh"


def test_what_trunk_weights_fill_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "r18.pth", resnet.resnet18(weights=None).state_dict())
    _, report = started(small_config(tmp_path, "null", f"trunk.weights={path}"), COCO)
    assert {key.rsplit(".", 1)[0][:10] for key in report.loaded} == {"trunk.body"}
    assert {key[:9] for key in report.fresh} == {"trunk.fpn", "heads.obj"}
    assert report.skipped == ["fc.weight", "fc.bias"]
    lines = [line.split() for line in weights_text(report).splitlines()]
    assert ["trunk.body", "100"] in lines
    assert ["trunk.fpn", "16"] in lines
    assert ["fc", "2"] in lines


def test_loading_leaves_the_file_and_other_networks_alone(tmp_path: Path) -> None:
    before = copy.deepcopy(small_fcos())
    model, _ = started(small_config(tmp_path, saved(tmp_path / "file.pth", small_fcos())), COCO)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, small_fcos()[key]) for key, value in before.items())
