"""A folder to a config and a run, without a line of YAML."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TinyCoco
from vision_mtl.commands.quick_start import propose, render, run_name, train_from_folder
from vision_mtl.commands.quick_start_heads import propose_heads, unasked
from vision_mtl.commands.quick_start_rules import Facts, batch_size, choose_settings, choose_trunk, input_size
from vision_mtl.config import config_from_tree, load_config
from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.layout import find_layout
from vision_mtl.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]


def facts(**changes: Any) -> Facts:
    """Return those of 205 images of 640 by 480 pixels on a CPU."""
    sizes = np.tile([480, 640], (205, 1))
    known: dict[str, Any] = {"images": 205, "sizes": sizes, "box_sides": np.array([0.2]), "gpu": False}
    return Facts(**{**known, "has_weights": lambda name: False, **changes})


def write_labels(tiny: TinyCoco, **columns: list[str]) -> Path:
    """Write `labels.csv` beside the images' folder, a row per image."""
    rows = [",".join(["file_name", *columns])]
    rows += [",".join([f"{i:03d}.png", *(values[i] for values in columns.values())]) for i in range(8)]
    path = tiny.root / "labels.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_settings_of_the_recipe() -> None:
    """On BCCD's facts the rules end where its recipe did: the size that images get, batch, trunk, epochs."""
    tree, notes = choose_settings(facts())
    assert tree["data"]["resize"] == {"shorter": 256, "longer": 320}  # 640x480 becomes 320x240 by either
    assert tree["data"]["batch_size"] == 8
    assert tree["trunk"] == {"name": "resnet18", "norm": "batch", "channels": 128}
    assert tree["training"] == {"epochs": 49, "lr": 0.001, "ema": 0.995}
    assert tree["evaluation"] == {"every": 5}
    assert "640 by 480" in notes["data.resize"]


def test_input_size() -> None:
    assert input_size(facts(gpu=True)) == (480, 640)
    assert input_size(facts(sizes=np.array([[200, 200]]))) == (224, 224)
    assert input_size(facts(sizes=np.array([[28, 28]]))) == (32, 32)
    # A quarter of the boxes under 8 of 320 pixels: twice as large.
    assert input_size(facts(box_sides=np.array([0.02, 0.02, 0.5, 0.5]))) == (480, 640)
    # Portrait and landscape of one shape: as if all were landscape.
    assert input_size(facts(sizes=np.array([[480, 640], [640, 480]]))) == (256, 320)


def test_batch_size() -> None:
    assert [batch_size(n, "CPU") for n in (1000, 128, 127, 63, 3)] == [8, 8, 4, 2, 2]
    assert batch_size(1000, "GPU") == 16


def test_trunk() -> None:
    trunk, training, note = choose_trunk(facts(has_weights=lambda name: name == "resnet18"))
    assert (trunk["weights"], trunk["norm"], training) == ("imagenet", "frozen", {"trunk_lr_factor": 0.1})
    assert "on this machine" in note
    assert choose_trunk(facts(gpu=True))[0]["name"] == "resnet18"
    assert choose_trunk(facts(gpu=True, images=20_000))[0]["name"] == "resnet50"
    assert choose_trunk(facts(gpu=True, has_weights=lambda name: True))[0]["channels"] == 256


def test_heads(tiny_coco: TinyCoco) -> None:
    index = read_annotations(tiny_coco.annotations)
    grades, wear = [*"abababa", ""], [f"{i / 4}" for i in range(8)]
    write_labels(
        tiny_coco, **{"the grade": grades, "wear": wear, "tags": ["a|b", "a"] * 4, "type": list("ab") * 4}
    )
    columns = [f"labels.csv:{name}" for name in ("the grade", "wear", "tags", "type")]
    heads = {q.name: q for q in propose_heads(index, tiny_coco.root, ["attribute:kind", *columns])}
    csv = {"source": "csv", "file": "labels.csv"}
    assert {name: question.head for name, question in heads.items()} == {
        "objects": {"type": "fcos"},
        "kind": {"type": "classification", "source": "attribute", "field": "kind", "pool": "attention"},
        "the_grade": {"type": "classification", **csv, "column": "the grade", "pool": "attention"},
        "wear": {"type": "regression", **csv, "column": "wear"},
        "tags": {"type": "multilabel", **csv, "column": "tags"},
        "type_label": {
            "type": "classification",
            **csv,
            "column": "type",
            "pool": "attention",
        },  # torch has a `type`
    }
    assert heads["the_grade"].note == "2 classes: a, b; 1 of 8 images have no label"
    assert heads["objects"].labels[1] == ["nut", "bolt"]


def test_one_column_needs_no_name(tiny_coco: TinyCoco) -> None:
    file = write_labels(tiny_coco, grade=list("ab") * 4)
    index = read_annotations(tiny_coco.annotations)
    assert propose_heads(index, tiny_coco.root, [str(file)])[1].head["column"] == "grade"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("labels.csv:grad", "no column 'grad'; did you mean 'grade'?; name one as labels.csv:COLUMN"),
        ("labels.csv", "Columns of .*labels.csv: grade, same"),
        ("labels.csv:same", "every label is 'x'"),
        ("lables.csv:grade", "no file 'lables.csv', here or in .* which holds labels.csv, other.csv"),
        ("attribute:kin", "has the attribute 'kin'; did you mean 'kind'"),
        ("other.csv:grade", "no row matches any of the 8 images"),
    ],
)
def test_wrong_labels(tiny_coco: TinyCoco, labels: str, said: str) -> None:
    write_labels(tiny_coco, grade=list("ab") * 4, same=["x"] * 8)
    (tiny_coco.root / "other.csv").write_text("file_name,grade\nelsewhere.png,a\n")
    with pytest.raises((ConfigError, DataError), match=said.replace("?", r"\?")):
        propose_heads(read_annotations(tiny_coco.annotations), tiny_coco.root, [labels])


def test_nothing_to_learn(tiny_coco: TinyCoco) -> None:
    tree = json.loads(tiny_coco.annotations.read_text())
    tiny_coco.annotations.write_text(json.dumps({**tree, "annotations": []}))
    with pytest.raises(
        ConfigError, match=r"no boxes, and no --labels .* there are also --labels attribute:kind"
    ):
        propose_heads(read_annotations(tiny_coco.annotations), tiny_coco.root, [])


def test_the_config_is_what_was_proposed(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    overrides = ["training.epochs=4", "data.resize.shorter=64", "heads.kind.weight=0.5", "weights=null"]
    proposal = propose(find_layout(tiny_coco.root), ["attribute:kind"], overrides, tmp_path / "run")
    text = render(proposal)
    (tmp_path / "written.yaml").write_text(text)
    config = load_config(tmp_path / "written.yaml")
    assert config == config_from_tree(proposal.tree, "the proposal")
    assert config.training.epochs == 4
    assert config.data.resize.shorter == 64
    assert config.heads["kind"].weight == 0.5
    assert "  # given: training.epochs=4\n  epochs: 4\n" in text
    assert all(len(ids) for ids in proposal.files.values())
    assert sorted(i for ids in proposal.files.values() for i in ids) == list(range(10, 18))
    assert not (tmp_path / "run").exists()


def test_labels_that_were_not_asked_for(tiny_coco: TinyCoco) -> None:
    index = read_annotations(tiny_coco.annotations)
    write_labels(tiny_coco, grade=list("ab") * 4)
    both = "there are also --labels attribute:kind, labels.csv"
    assert unasked(index, tiny_coco.root, []) == both
    assert unasked(index, tiny_coco.root, ["attribute:kinds", "labels.csvx:grade"]) == both, "other names"
    assert unasked(index, tiny_coco.root, ["labels.csv:grade"]) == "there are also --labels attribute:kind"
    assert unasked(index, tiny_coco.root, ["attribute:kind", "labels.csv"]) == ""


def test_names() -> None:
    assert run_name(Path("/data/my parts v2")) == "my_parts_v2"
    assert run_name(Path("/")) == "data"


def test_errors_leave_nothing_behind(
    tiny_coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tiny_coco.images / "003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"003\.png"):
        train_from_folder(tiny_coco.root, [], None, [], [], tmp_path / "run")
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        train_from_folder(tiny_coco.root, [], None, [], ["training.epoch=1"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_from_a_folder_to_a_run(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    """The tool itself, with a split of its own; the data set stays as it was."""
    before = {path: path.stat().st_mtime_ns for path in tiny_coco.root.rglob("*")}
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train.py"), "--data", str(tiny_coco.root), "--labels",
         "attribute:kind", "training.max_steps=1", "training.precision=fp32", "trunk.channels=32",
         "data.workers=0", "--output", str(run)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "head kind: classification (2 classes: clean, dirty)" in done.stdout + done.stderr
    assert set(json.loads((run / "metrics.json").read_text())["heads"]) == {"objects", "kind"}
    split = {name: read_annotations(run / "split" / f"{name}.json").image_ids for name in ("train", "val")}
    assert sorted(np.concatenate(list(split.values()))) == list(range(10, 18))
    assert load_config(run / "tiny.yaml") == load_config(run / "config.yaml")
    assert before == {path: path.stat().st_mtime_ns for path in tiny_coco.root.rglob("*")}
