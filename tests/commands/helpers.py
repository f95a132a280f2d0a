"""Configs of whole runs on the tiny data set."""

from __future__ import annotations

from pathlib import Path

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
) -> str:
    """Write `tiny.yaml` into `folder`, for the data set in `root`; return its path.

    Args:
        folder: of the config.
        root: of the tiny data set, the same for every split.
        heads: YAML of the heads, indented.
        more: YAML of further settings, at the top level.
        trunk: YAML of the trunk.
        training: YAML of the training.
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
{more}
""",
        encoding="utf-8",
    )
    return str(path)
