"""One run on the tiny data set, whose names are HTML, and its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.helpers import write_config
from tests.conftest import write_tiny_coco
from vision_mtl.commands.train import train_from_config

EVIL = '<img src="https://example.org/x.png" onerror="document.title=1">'
CLOSING = "</script><script>document.title='taken'</script>"
HEADS = """
  objects:  {type: fcos, depth: 1, norm: group}
  kind:     {type: classification, source: attribute, field: kind}
  presence: {type: multilabel, source: boxes}
  count:    {type: regression, source: count}
"""


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report; all names of classes, files and heads that can be are HTML."""
    folder = tmp_path_factory.mktemp("reported")
    data = write_tiny_coco(folder / "tiny")
    content = json.loads(data.annotations.read_text())
    content["categories"][0]["name"] = EVIL
    content["categories"][1]["name"] = CLOSING
    evil_file = "<b>0&.png"
    (data.images / content["images"][0]["file_name"]).rename(data.images / evil_file)
    content["images"][0]["file_name"] = evil_file
    data.annotations.write_text(json.dumps(content))
    config = write_config(
        folder,
        data.root,
        heads=HEADS,
        evaluation="{report: true}",
        training="{epochs: 2, warmup_steps: 1, log_every: 1, conflict_every: 1, precision: fp32}",
    )
    train_from_config(config, [], folder / "run")
    return folder / "run"
