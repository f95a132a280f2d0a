"""torchvision's detectors into the network: every tensor, every class, and a word about all the rest."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision.models import detection, get_model_weights, resnet
from torchvision.models._api import WeightsEnum

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
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.published import DETECTORS
from vision_mtl.models.weight_files import renamed
from vision_mtl.reporting.weights_report import weights_text

SOFTMAX = "fasterrcnn"


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Remove the files, since pytest keeps its folders and each may have 170 MB."""
    yield
    for path in tmp_path.glob("*.pth"):
        path.unlink()


def all_slots(builder: str) -> LabelInfo:
    """Return a data set whose categories are torchvision's slots; of a softmax, 0 is the background."""
    first = 1 if builder.startswith(SOFTMAX) else 0
    return LabelInfo(tuple(SLOTS[first:]), tuple(range(first, len(SLOTS))))


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


def old_names(state: dict[str, Tensor], retinanet: bool) -> dict[str, Tensor]:
    """Return the state with the names of the published files, as torchvision's modules read them."""
    found = {}
    for key, value in state.items():
        if ".fpn.inner_blocks." in key or ".fpn.layer_blocks." in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if retinanet and "_head.conv." in key:
            start, number, _, last = key.rsplit(".", 3)
            key = f"{start}.{2 * int(number)}.{last}"
        found[key] = value
    return found


@pytest.mark.parametrize(
    "builder", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"]
)
def test_names_of_older_torchvisions(builder: str) -> None:
    state = builder_state(builder)
    retinanet = builder.startswith("retinanet")
    old = old_names(state, retinanet)
    assert old.keys() != state.keys()
    network = getattr(detection, builder)(weights=None, weights_backbone=None)
    network.load_state_dict(dict(old))  # torchvision understands them as its own
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    again = renamed(old, retinanet)
    assert again.keys() == state.keys()
    assert all(again[key] is state[key] for key in state)
    assert renamed(state, retinanet).keys() == state.keys()


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


def test_what_torchvisions_training_saves(tmp_path: Path) -> None:
    content = {
        "model": small_fcos(),
        "optimizer": {"state": {}},
        "args": argparse.Namespace(lr=0.1),
        "epoch": 3,
    }
    path = saved(tmp_path / "model_3.pth", content)
    model, report = started(small_config(tmp_path, path), COCO)
    assert torch.equal(model.trunk.body["conv1"].weight, small_fcos()["backbone.body.conv1.weight"])
    assert report.whole_heads() == ["objects"]


def test_half_precision_and_the_old_file_format(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in small_fcos().items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, _ = started(small_config(tmp_path, tmp_path / "old.pth"), COCO)
    conv = model.trunk.body["conv1"].weight
    assert conv.dtype == torch.float32
    assert torch.equal(conv, state["backbone.body.conv1.weight"].float())


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
    config = small_config(tmp_path, path, "heads.objects={type: fcos, depth: 4, norm: group}")
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


def test_a_network_without_detection_takes_the_trunk(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", small_fcos())
    config = small_config(tmp_path, path, "heads={presence: {type: multilabel}}")
    _, report = started(config, COCO)
    assert {key.split(".")[0] for key in report.loaded} == {"trunk"}
    assert {key.split(".")[1] for key in report.fresh} == {"presence"}
    assert {key.split(".")[0] for key in report.skipped} == {"head"}


# Trunks that do not fit


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trunk.name=resnet34", r"with \d+ missing \['trunk\.body\.layer1\.2"),
        ("trunk.channels=128", r"\d+ of another shape \['trunk\.fpn"),
        ("trunk.finest=2", r"with 4 missing \['trunk\.fpn\.inner_blocks\.3"),
        ("trunk.extra=none", r"with 4 unknown \['trunk\.fpn\.extra_blocks\.p6"),
        ("trunk.norm=group", r"unknown \['trunk\.body\.bn1\.running_mean"),
        ("trunk.pyramid_norm=batch", r"missing \['trunk\.fpn\.inner_blocks\.0\.1"),
    ],
)
def test_another_trunk_is_refused_and_nothing_changes(tmp_path: Path, override: str, message: str) -> None:
    config = small_config(tmp_path, saved(tmp_path / "file.pth", small_fcos()), override)
    with pytest.raises(CheckpointError, match=message) as error:
        started(config, COCO)
    assert str(error.value).startswith(f"weights: '{tmp_path}/file.pth' has another trunk, with ")
    assert str(error.value).endswith(": take the trunk of configs/torchvision_fcos.yaml")


@pytest.mark.parametrize("builder", ["retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def test_first_generation_weights_need_an_eps_of_0(tmp_path: Path, builder: str) -> None:
    weights = f"torchvision:{builder}/COCO_V1"
    assert example(builder, weights).trunk.norm_eps == 0
    with pytest.raises(ConfigError, match=r"set trunk\.norm_eps=0\.0 \(found 1e-05\); configs/torchvision_"):
        example(builder, weights, "trunk.norm_eps=0.00001")
    url = get_model_weights(builder).COCO_V1.url
    with pytest.raises(ConfigError, match=r"set trunk\.norm_eps=0\.0"):  # the same file, by its name
        example(builder, tmp_path / Path(url).name, "trunk.norm_eps=0.00001")
    _, report = started(example(builder, saved(tmp_path / "any.pth", builder_state(builder))), COCO)
    assert "tensors do not tell the eps of their norms" in report.notes[0]


@pytest.mark.parametrize(
    ("builder", "override", "message"),
    [
        ("fcos_resnet50_fpn", "trunk.norm_eps=0", r"set trunk\.norm_eps=1e-05 \(found 0\.0\)"),
        ("fcos_resnet50_fpn", "trunk.norm=group", r"set trunk\.norm=frozen or batch \(found group\)"),
        ("retinanet_resnet50_fpn_v2", "trunk.extra=p6p7_from_p5", r"set trunk\.extra=p6p7_from_c5"),
        ("fasterrcnn_resnet50_fpn_v2", "trunk.pyramid_norm=none", r"set trunk\.pyramid_norm=batch"),
    ],
)
def test_published_weights_name_the_trunk_they_need(builder: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        example(builder, f"torchvision:{builder}/COCO_V1", override)


# Names and files that cannot be used


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("torchvision:fcos_resnet50/COCO_V1", "did you mean 'fcos_resnet50_fpn'"),
        ("torchvision:ssd300_vgg16/COCO_V1", "with a builder of fcos_resnet50_fpn, retinanet_resnet50_fpn, "),
        ("torchvision:resnet50/IMAGENET1K_V2", "the weights of a plain ResNet go into trunk.weights"),
        ("torchvision:fcos_resnet50_fpn/COCO_V7", "expected one of torchvision:fcos_resnet50_fpn/COCO_V1, "),
        ("torchvision:fcos_resnet50_fpn", "expected one of torchvision:fcos_resnet50_fpn/COCO_V1, "),
    ],
)
def test_weights_that_torchvision_has_not(tmp_path: Path, weights: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        small_config(tmp_path, weights)
    assert f"weights: found '{weights}', expected" in str(error.value)
    assert message in str(error.value)


def test_weights_and_trunk_weights_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights and trunk\.weights: found both"):
        small_config(tmp_path, "any.pth", "trunk.weights=imagenet")


def test_published_weights_are_asked_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def get(self: WeightsEnum, **options: Any) -> dict[str, Tensor]:
        asked.append((self, options))
        return old_names(builder_state("fcos_resnet50_fpn"), False)

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    config = example("fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn/COCO_V1")
    _, report = started(config, COCO)
    ((member, options),) = asked
    assert member is get_model_weights("fcos_resnet50_fpn").COCO_V1
    assert options["check_hash"] is True
    assert options["weights_only"] is True
    assert report.notes == []  # nothing had to be assumed
    assert report.whole_heads() == ["objects"]


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def get(self: WeightsEnum, **options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = example("fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn/COCO_V1")
    with pytest.raises(CheckpointError) as error:
        started(config, COCO)
    text = str(error.value)
    assert "no route to host" in text
    assert "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth" in text
    assert "set weights=<path of the file>" in text
    assert str(tmp_path) in text
    assert "\n" not in text


class Foreign:
    """Not what a file of weights may hold."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"weights: no file '.*file\.pth'; expected torchvision:<builder>/<WEIGHTS>"),
        (b"", "cannot read '.*file.pth': "),
        (b"<html>not found</html>", "cannot read '.*file.pth': "),
        (b"PK\x03\x04 cut", "cannot read '.*file.pth': "),
        ({"a": Foreign()}, "cannot read '.*file.pth': "),
        ([1, 2], "found no tensors by name at the top"),
        ({"model": [1]}, "found no tensors by name at the top"),
        ({1: torch.zeros(1)}, "found no tensors by name at the top"),
        ({}, r"no torchvision detector.*found the names \[\]"),
        (
            {"features.0.weight": torch.zeros(1)},
            r"found the names \['features\.0\.weight'\], expected some like",
        ),
        (resnet.resnet18(weights=None).state_dict(), "a plain ResNet's weights go into trunk.weights"),
        ({"average": {}, "labels": {}, "config": {}}, "no checkpoint of this version"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        started(small_config(tmp_path, path), COCO)
    assert "\n" not in str(error.value)


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
