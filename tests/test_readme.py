"""README.md and CONTRIBUTING.md: commands parse, configs load. `tests.stress.readme` runs them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests.readme import PAGES, ROOT, Block, blocks, commands, is_tool, parse
from vision_mtl.config import load_config

COMMANDS = [
    (block.place, words) for page in PAGES for block in blocks(page, "bash") for words in commands(block.text)
]
INLINE = [
    (page.name, words)
    for page in PAGES
    for text in re.findall(r"`(python tools/[^`\[<]+)`", page.read_text(encoding="utf-8"))
    for words in commands(text)
]
CONFIGS = [block for page in PAGES for block in blocks(page, "yaml")]
OTHERS = ["python -m pip", "python -m venv", "python -m pytest", "source", "ruff", "mypy"]


def test_there_is_something_to_test() -> None:
    assert len([words for _, words in COMMANDS if is_tool(words)]) >= 6
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize(("place", "words"), COMMANDS + INLINE, ids=lambda value: str(value)[:60])
def test_commands_parse(place: str, words: list[str]) -> None:
    missing = [word for word in words if word.startswith("configs/") and not (ROOT / word).is_file()]
    assert missing == [], place
    if is_tool(words):
        parse(words)
    elif words[1:2] == ["-m"] and words[2].startswith("tests."):
        assert importlib.util.find_spec(words[2]) is not None, place
    else:
        assert any(" ".join(words).startswith(other) for other in OTHERS), place


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(AssertionError, match="refused"):
        parse(["python", "tools/train.py", "--no-such-option"])


@pytest.mark.parametrize("block", CONFIGS, ids=lambda block: block.place)
def test_configs_load(block: Block, tmp_path: Path) -> None:
    """A block that shows data sets alone gets the heads that its sources name."""
    tree = yaml.safe_load(block.text)
    if "heads" not in tree:
        sources = [source for split in ("train", "val", "test") for source in tree["data"].get(split, [])]
        named = {name for source in sources for name in source.get("heads", [])} - {"objects"}
        tree["heads"] = {"objects": {"type": "fcos"}} | {
            name: {"type": "classification", "source": "attribute", "field": name} for name in named
        }
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert load_config(path).heads
