"""The commands and configs that the project's pages show, read from their fenced blocks."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        place: the page's name and the line of the fence.
        language: what the fence says, `bash` or `yaml`.
        text: what is in it.
    """

    place: str
    language: str
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    """Return a page's blocks of one language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match[1], match[2])
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if match[1] == language
    ]


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell text: one a line, or several joined by `&&`."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in found if words]


def is_tool(words: list[str]) -> bool:
    """Return whether a command runs one of the tools."""
    return words[0] == "python" and len(words) > 1 and words[1].startswith("tools/")


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a tool's command with the tool's own parser; raise AssertionError where it refuses."""
    before = sys.argv
    sys.argv = words[1:]
    try:
        return runpy.run_path(str(ROOT / words[1]))["parse_arguments"]()
    except SystemExit as error:
        raise AssertionError(f"refused: {shlex.join(words)}") from error
    finally:
        sys.argv = before
