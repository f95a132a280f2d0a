"""The data set report, as its command prints it, and the drawings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "inspect_data.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def words(output: str, start: str) -> list[str]:
    """Return the words of the first line that starts with `start`."""
    return next(line.split() for line in output.splitlines() if line.startswith(start))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {resize: {shorter: 64, longer: 96}}\n"
        "heads: {objects: {type: fcos}, kind: {type: classification, source: attribute, field: kind}}\n"
    )
    return path


def test_report(tiny_coco):
    tree = json.loads(tiny_coco.annotations.read_text())
    tree["annotations"][0]["bbox"] = [0, 0, 0, 5]
    tree["images"][0]["attributes"] = {"kind": None, "grade": [1, {}]}
    tiny_coco.annotations.write_text(json.dumps(tree))
    (tiny_coco.images / "002.png").unlink()
    result = run(tiny_coco.annotations, "--images", tiny_coco.images)
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert words(out, "images  ") == ["images", "8"]
    assert words(out, "portrait") == ["portrait", "4", "(50.0%)"]
    assert words(out, "without") == ["without", "annotations", "1", "(12.5%)"]
    assert words(out, "boxes per") == ["boxes", "per", "image", "0", "/", "1.5", "/", "3"]
    assert words(out, "crowds") == ["crowds", "1", "(8.3%)"]
    assert words(out, "nut") == ["nut", "7", "5", "41.7%", "4", "1"]
    assert words(out, "dirty") == ["dirty", "4"]
    assert words(out, "unknown") == ["unknown", "1"]
    assert "no label: " in out  # an attribute that is no label is shown, not fatal
    assert "dropped 1: box of zero or negative size (annotation ids 1)" in out
    assert "002.png (image id 12)" in out


def test_drawings(tiny_coco, tmp_path, config):
    output = tmp_path / "drawings"
    arguments = (tiny_coco.annotations, "--images", tiny_coco.images, "--draw", 3, "--output", output)
    result = run(*arguments, "--config", config, "data.min_visibility=0.1")
    assert result.returncode == 0, result.stderr
    names = ["sample-000.jpg", "sample-001.jpg", "sample-002.jpg", "samples.jpg"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert cv2.imread(str(output / "samples.jpg")).shape == (800, 800, 3)


def test_errors(tiny_coco, tmp_path):
    missing = run(tmp_path / "absent.json", "--images", tiny_coco.images)
    assert missing.returncode == 2
    assert "absent.json: cannot read the annotations" in missing.stderr
    folder = run(tiny_coco.annotations, "--images", tmp_path / "absent")
    assert folder.returncode == 2
    assert folder.stderr.startswith("error: --images: no folder")
