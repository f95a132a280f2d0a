"""The design, held by reading the code: imports point one way and heavy ones come late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vision_mtl"
MODULES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))

# A group may import groups of a lower rank, and itself. A new one needs its place here.
ORDER = [
    ["errors", "__version__"],
    ["structures", "convert", "files", "progress", "allocator", "fonts"],
    ["data", "metrics"],
    ["heads"],
    ["models"],
    ["training", "inference", "reporting"],
    ["config"],
    ["commands"],
    ["predict"],  # the Python API opens checkpoints as the commands do
    ["benchmark", "comparison"],
    ["tools"],
]
RANKS = {name: rank for rank, names in enumerate(ORDER) for name in names}
ALSO = {("training", "reporting")}
RUNTIME_MAY = {"runtime", "errors"}  # it runs where torch is not installed


def group(path: Path) -> str:
    """Return the room or top-level module that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "tools" else parts[1]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Return line and dotted name of everything that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "vision_mtl":
                yield from ((node.lineno, f"vision_mtl.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def allowed(own: str, other: str) -> bool:
    """Return whether a file of group `own` may import group `other`."""
    if own == "runtime":
        return other in RUNTIME_MAY
    if other == "runtime":
        return RANKS[own] >= RANKS["training"]
    assert {own, other} <= set(RANKS), f"give {own} and {other} a place in ORDER"
    return own == other or RANKS[other] < RANKS[own] or (own, other) in ALSO


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


ROOMS = [path for path in MODULES + TOOLS if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", ROOMS, ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    wrong = [
        f"{relative(path)}:{line}: imports {name}"
        for line, name in imports(path)
        if name.startswith("vision_mtl.") and not allowed(group(path), name.split(".")[1])
    ]
    assert wrong == []


def test_heads_do_not_import_each_other() -> None:
    kinds = {"fcos", "retinanet", "faster_rcnn", "classification", "multilabel", "regression"}
    wrong = [
        f"{relative(path)}: imports {name}"
        for path in (PACKAGE / "heads").rglob("*.py")
        for _, name in imports(path)
        if name.startswith("vision_mtl.heads.") and name.split(".")[2] in kinds - {path.stem}
    ]
    assert wrong == []


def test_albumentations_is_imported_in_one_file() -> None:
    importing = {
        relative(path)
        for path in MODULES + TOOLS
        for _, name in imports(path)
        if name.split(".")[0] == "albumentations"
    }
    assert importing == {"vision_mtl/data/augment.py"}


def test_a_file_has_one_job() -> None:
    long = {
        relative(path): count
        for path in MODULES + TOOLS
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert long == {}


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter in which importing torch is an error; return what it prints."""
    refuse = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch' or name.startswith('torch.'):\n"
        "            raise AssertionError('torch was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", refuse + code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_refusal_of_torch_works() -> None:
    with pytest.raises(AssertionError, match="torch was imported"):
        python("import vision_mtl.structures")


LIGHT = ["vision_mtl", "vision_mtl.errors"] + [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in MODULES
    if group(path) == "runtime"
]


def test_light_modules_do_not_import_torch() -> None:
    printed = python(
        "import importlib\nfor name in sys.argv[1:]: print(importlib.import_module(name).__name__)", *LIGHT
    )
    assert printed.split() == LIGHT


@pytest.mark.parametrize("tool", TOOLS, ids=relative)
def test_tools_explain_themselves_without_torch(tool: Path) -> None:
    code = (
        "import runpy\npath = sys.argv.pop(1)\nsys.argv[0] = path\nrunpy.run_path(path, run_name='__main__')"
    )
    assert "usage:" in python(code, str(tool), "--help")
