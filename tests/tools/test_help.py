"""Every tool explains all of its arguments, with examples that it takes."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import ROOT, parse

TOOLS = sorted((ROOT / "tools").glob("*.py"))


def parser_of(tool: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Return a tool's parser, from what it does on --help."""
    seen: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: seen.append(self))
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(tool))["parse_arguments"]()
    return seen[0]


def arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from arguments(part)
        else:
            yield action


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help(tool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(tool, monkeypatch)
    assert [action.dest for action in arguments(parser) if not action.help] == []
    _, heading, after = parser.format_help().partition("\nexamples:\n")
    assert heading
    examples = re.findall(r"^  (python tools/.*)$", after, re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(re.split(r" {3,}", example)[0])  # what follows says what it does
        assert words[1] == f"tools/{tool.name}"
        parse(words)
