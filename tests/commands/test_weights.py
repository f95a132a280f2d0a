"""`weights` in the commands: a run that starts from another, and a config that is evaluated as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import detection

from tests.commands.helpers import HEADS, write_config
from tests.models.torchvision_files import COCO, SMALL, saved, small_backbone
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.models.class_slots import layout_of
from vision_mtl.models.multitask import build_model
from vision_mtl.models.weights import WeightsReport, load_weights
from vision_mtl.training.checkpoint import load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train_from_config(write_config(folder, tiny_coco_root), [], folder / "run")
    return folder / "run/checkpoints/best.pt"


def other_data(root: Path, folder: Path) -> Path:
    """Return a copy of the tiny data set with other categories: nut, Washer, gear in place of bolt, and in
    another order; attributes are clean, dirty and wet."""
    content = json.loads((root / "annotations.json").read_text())
    content["categories"] = [{"id": 1, "name": "nut"}, {"id": 2, "name": "Washer"}, {"id": 5, "name": "gear"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = {7: 1, 21: 2, 3: 5}[annotation["category_id"]]
    content["images"][0]["attributes"]["kind"] = "wet"
    folder.mkdir()
    (folder / "images").symlink_to(root / "images")
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def first_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], WeightsReport]:
    """Train from the config in `folder`; return what the network was before, and the report."""
    from vision_mtl.commands import train as command

    seen = []

    def watched(model: torch.nn.Module, *arguments: object) -> WeightsReport:
        report = load_weights(model, *arguments)
        seen.append(({key: value.clone() for key, value in model.state_dict().items()}, report))
        return report

    monkeypatch.setattr(command, "load_weights", watched)
    train_from_config(str(folder / "tiny.yaml"), [], folder / "run")
    monkeypatch.undo()
    (found,) = seen
    return found


def test_our_checkpoint_into_other_classes_and_heads(
    checkpoint: Path, tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = HEADS.replace("count:    {type: regression, source: count}", "presence: {type: multilabel}")
    write_config(tmp_path, other_data(tiny_coco_root, tmp_path / "data"), heads, f"weights: {checkpoint}")
    own, report = first_weights(tmp_path, monkeypatch)
    old = load_checkpoint(checkpoint)["average"]
    assert all(torch.equal(own[key], old[key]) for key in own if key.startswith("trunk."))
    same = [key for key in own if key.startswith(("heads.objects.", "heads.kind.")) and not layout_of(key)]
    assert same
    assert all(torch.equal(own[key], old[key]) for key in same)
    for kind in ("weight", "bias"):
        key = f"heads.objects.classification_head.cls_logits.{kind}"
        assert torch.equal(own[key][:2], old[key][1:])  # bolt, nut, washer -> nut, Washer, gear
        assert not torch.equal(own[key][2], old[key][0])
        key = f"heads.kind.pooled.logits.{kind}"
        assert torch.equal(own[key][:2], old[key])  # clean, dirty -> clean, dirty, wet
    assert report.classes["objects"] == [("nut", "7 nut"), ("Washer", "21 washer"), ("gear", None)]
    assert report.classes["kind"] == [("clean", "clean"), ("dirty", "dirty"), ("wet", None)]
    assert report.whole_heads() == []
    assert {key.split(".")[1] for key in report.fresh} == {"presence"}
    assert {key.split(".")[1] for key in report.skipped} == {"count"}
    log = (tmp_path / "run/log.txt").read_text()
    assert f"weights={checkpoint}: tensors" in log
    assert "objects: 2 of 3 classes are the file's" in log
    rows = [line.split() for line in log.splitlines()]
    assert ["Washer", "21", "washer"] in rows
    assert ["gear", "fresh"] in rows


def test_resuming_does_not_ask_for_the_weights_again(
    checkpoint: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "first.pt"
    weights.write_bytes(checkpoint.read_bytes())
    config = write_config(tmp_path, tiny_coco_root, more=f"weights: {weights}")
    train_from_config(config, [], tmp_path / "run")
    weights.unlink()
    train_from_config(str(tmp_path / "run/config.yaml"), [], tmp_path / "run", resume=True)
    evaluate_checkpoint(str(tmp_path / "run/checkpoints/best.pt"), [], "val", tmp_path / "judged")
    with pytest.raises(CheckpointError, match=r"weights: no file '.*first\.pt'"):
        train_from_config(config, [], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_our_own_trunk_settings_must_agree(checkpoint: Path) -> None:
    trained = open_checkpoint(checkpoint)
    config = trained.config.model()
    config.weights = str(checkpoint)
    model = build_model(config, trained.labels)
    config.trunk.norm_eps, config.trunk.extra = 0.001, "p6p7_from_c5"
    message = (
        r"set trunk\.norm_eps=1e-05 \(found 0\.001\), set trunk\.extra=p6p7_from_p5 \(found p6p7_from_c5\)"
    )
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, config, trained.labels)
    config.trunk.norm_eps, config.trunk.extra = 1e-5, "p6p7_from_p5"
    config.heads["objects"].points = "corner"
    report = load_weights(model, config, trained.labels)
    assert report.notes == [
        "to get the answers that the file was trained for, set heads.objects.points=middle (found corner)"
    ]
    assert report.whole_heads() == ["objects", "kind", "count"]


def test_a_config_with_weights_is_evaluated_like_the_checkpoint_it_names(
    checkpoint: Path, tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate_checkpoint(str(checkpoint), [], "val", tmp_path / "a")
    more = HEADS + "  presence: {type: multilabel}\n"
    config = write_config(tmp_path, tiny_coco_root, more, f"weights: {checkpoint}")
    monkeypatch.chdir(tmp_path)
    found = evaluate_checkpoint(config, [], "val", None)
    assert found["heads"] == expected["heads"]  # without the head that the weights do not fill
    written = tmp_path / "runs/evaluation-tiny-val"
    assert json.loads((written / "metrics.json").read_text())["heads"] == expected["heads"]
    assert (written / "detections.json").is_file()


def test_a_config_without_weights_or_of_other_classes_is_not_evaluated(
    checkpoint: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, other_data(tiny_coco_root, tmp_path / "data"))
    with pytest.raises(
        ConfigError, match=r"tiny\.yaml: weights: found null, and an untrained network has no answers"
    ):
        evaluate_checkpoint(config, [], "val", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"fill none of the heads objects, kind, count to the last tensor"):
        evaluate_checkpoint(
            config, [f"weights={checkpoint}", "heads.count.features=c4"], "val", tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_images_are_answered_by_published_weights_without_a_data_set(
    tiny_coco_root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = saved(tmp_path / "file.pth", detection.FCOS(small_backbone(), 91).state_dict())
    config = tmp_path / "small.yaml"
    config.write_text(
        f"{SMALL}  kind: {{type: classification, source: attribute, field: kind}}\n"
        f"data: {{resize: {{shorter: 64, longer: 96}}, workers: 0}}\nweights: {weights}\n"
    )
    images = [str(tiny_coco_root / "images")]
    overrides = ["heads.objects.score_threshold=0"]
    skipped = infer_with_checkpoint(images, str(config), tmp_path / "out", 0.0, False, False, overrides)
    assert skipped == 0
    entries = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert len(entries) == 8
    found = [answer for entry in entries for answer in entry["detections"]]
    assert found
    names = dict(zip(COCO.ids, COCO.names, strict=True))
    assert all(names[answer["category_id"]] == answer["category"] for answer in found)
    assert not any(entry["labels"] for entry in entries)


def test_only_weights_of_coco_answer_without_a_data_set(
    checkpoint: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    images, output = [str(tiny_coco_root / "images")], tmp_path / "out"
    config = write_config(tmp_path, tiny_coco_root, more=f"weights: {checkpoint}")
    with pytest.raises(ConfigError, match=r"fill none of the heads objects"):
        infer_with_checkpoint(images, config, output, 0.3, False, False)
    heads = ["heads={kind: {type: classification, source: attribute, field: kind}}"]
    with pytest.raises(ConfigError, match=r"tiny\.yaml: heads: found no detection head"):
        infer_with_checkpoint(images, config, output, 0.3, False, False, heads)
    assert not output.exists()


def test_the_tool_evaluates_a_torchvision_file(tiny_coco_root: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_coco_root / "annotations.json").read_text())
    for category, name in zip(content["categories"], ("cat", "dog", "person"), strict=True):
        category["name"] = name
    annotations = tmp_path / "named.json"
    annotations.write_text(json.dumps(content))
    config = tmp_path / "small.yaml"
    config.write_text(
        f"""{SMALL}  kind: {{type: classification, source: attribute, field: kind}}
data:
  root: {tiny_coco_root}
  val: [{{images: images, annotations: {annotations}}}]
  resize: {{shorter: 64, longer: 96}}
  workers: 0
weights: {saved(tmp_path / "file.pth", detection.FCOS(small_backbone(), 91).state_dict())}
"""
    )
    command = [sys.executable, str(REPOSITORY / "tools/evaluate.py"), str(config), "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "objects: 3 of 3 classes are the file's" in said
    assert "left out, since the weights do not fill them: kind" in said
    assert list(json.loads((tmp_path / "out/metrics.json").read_text())["heads"]) == ["objects"]
