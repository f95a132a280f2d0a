"""Configs of whole runs on the tiny data set, and what a run is judged by."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_mtl.metrics.detection import STAT_NAMES

HEADS = """
  objects:  {type: fcos, depth: 1, norm: group}
  kind:     {type: classification, source: attribute, field: kind}
  count:    {type: regression, source: count}
"""


def write_config(
    folder: Path,
    root: Path,
    heads: str = HEADS,
    more: str = "",
    trunk: str = "{name: resnet18, channels: 32}",
    training: str = "{epochs: 1, warmup_steps: 1, precision: fp32}",
    evaluation: str = "{report: false}",
) -> str:
    """Write `tiny.yaml` into `folder`, for the data set in `root`; return its path.

    Args:
        folder: of the config.
        root: of the tiny data set, the same for every split.
        heads: YAML of the heads, indented.
        more: YAML of further settings, at the top level.
        trunk: YAML of the trunk.
        training: YAML of the training.
        evaluation: YAML of the evaluation, by default without a report, which takes longer than a tiny run.
    """
    source = "[{images: images, annotations: annotations.json}]"
    path = folder / "tiny.yaml"
    path.write_text(
        f"""
data:
  root: {root}
  train: {source}
  val: {source}
  test: {source}
  resize: {{shorter: 64, longer: 96}}
  batch_size: 2
  eval_batch_size: 2
  workers: 0
trunk: {trunk}
heads:{heads}
training: {training}
evaluation: {evaluation}
{more}
""",
        encoding="utf-8",
    )
    return str(path)


def assert_pycocotools_agrees(metrics: dict[str, Any], annotations: Path, detections: Path) -> None:
    """Score COCO results with pycocotools on the file itself: the nine numbers are those of `objects`."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        scored = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    for name, value in zip(STAT_NAMES[:9], scored.stats, strict=False):
        ours = metrics["heads"]["objects"][name]
        assert (-1 if ours is None else ours) == value, name
