"""Files that try to run code, to read or write elsewhere, or to fill the memory."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.comparison.made import header_of
from tests.stress import image_refusals
from tests.stress.malicious_weights import WEIGHTS, Attack
from vision_mtl.comparison.page import comparison_page
from vision_mtl.comparison.plot import comparison_figure, svg_text
from vision_mtl.comparison.results import Sample, Summary, TaskAlone
from vision_mtl.comparison.tables import Cells
from vision_mtl.config import load_config
from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.cache import cache_folder
from vision_mtl.data.images import check_images, read_image
from vision_mtl.data.index_cache import DamagedCacheError, read_packed
from vision_mtl.data.label_csv import read_column
from vision_mtl.errors import DataError
from vision_mtl.inference.gallery import write_gallery
from vision_mtl.inference.writers import write_csv


def config(text: str) -> Attack:
    """Offer a config."""

    def attack(folder: Path, canary: str) -> None:
        (folder / "config.yaml").write_bytes(text.replace("CANARY", canary).encode("utf-8", "surrogatepass"))
        load_config(folder / "config.yaml")

    return attack


def laughs(levels: int, merged: bool) -> str:
    """Return YAML that doubles at every level."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(levels):
        pair = f"[*a{i}, *a{i}]"
        lines.append(f"a{i + 1}: &a{i + 1} {{<<: {pair}}}" if merged else f"a{i + 1}: &a{i + 1} {pair}")
    return "\n".join(lines)


def named_file(name: str) -> Attack:
    """Let an annotation name a file."""

    def attack(folder: Path, canary: str) -> None:
        _check(folder, name)

    return attack


def linked(target: str, name: str = "link.png", directory: bool = False) -> Attack:
    """Let an annotation name a link that leads out of the image folder."""

    def attack(folder: Path, canary: str) -> None:
        secret = folder / "secret"
        secret.mkdir()
        Image.new("RGB", (8, 8)).save(secret / "a.png")
        link = folder / "images" / ("inside" if directory else name)
        link.parent.mkdir()
        link.symlink_to(target.replace("SECRET", str(secret)))
        try:
            _check(folder, "inside/a.png" if directory else name)
        except DataError as error:
            if "data.follow_links=true" not in str(error):
                raise AssertionError(f"the error does not say data.follow_links: {error}") from error
            raise

    return attack


def _check(folder: Path, name: str) -> None:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    document = {
        "images": [{"id": 1, "file_name": name, "height": 8, "width": 8}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "set.json").write_text(json.dumps(document))
    index = read_annotations(folder / "set.json", None)
    check_images(images, index, folder / "cache").raise_if_bad()


def bomb(kind: str) -> Attack:
    """Read an image that unpacks to far more than it should."""

    def attack(folder: Path, canary: str) -> None:
        image_refusals.REFUSALS[kind](folder / "bomb.jpg", np.random.default_rng(0))
        read_image(folder / "bomb.jpg")

    return attack


MARKUP = {
    "script": "<script>document.title='owned'</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x="',
    "end of a style": "</style><svg onload=alert(1)>",
    "end of a comment": "--><img src=x onerror=alert(1)>",
    "template": "{{ ''.__class__.__mro__ }}{% include '/etc/passwd' %}",
    "formula": "$\\mathrm{<b>}$ \\input{/etc/passwd} $",
}


def markup(text: str) -> Attack:
    """Name everything that a page shows like markup: heads, methods, commands, versions, cells."""

    def attack(folder: Path, canary: str) -> None:
        sample = Sample((0.5,), 0.5, None, None)
        summary = Summary([TaskAlone(text, text, False, 0.1, sample, sample)], [], text)
        results = header_of(text)
        results.summary = summary
        cells = Cells(text, [text], [[text]], text)
        svg = svg_text(comparison_figure(summary, text))
        page = comparison_page(results, text, text, [cells], cells, svg)
        outside = page.replace(svg, "")
        text_alone(outside)
        for found in ("<script>document", "<img", "<svg onload"):  # quotes are harmless in its comments
            assert found not in svg, f"the plot holds {found}"
        assert "root:" not in page

    return attack


def gallery(text: str) -> Attack:
    """Name classes, labels and the title of a page of answers like markup."""

    def attack(folder: Path, canary: str) -> None:
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        found = {"category": text, "category_id": 1, "score": 0.5, "bbox": [1.0, 2.0, 3.0, 4.0]}
        labels = {"kind": {"label": text, "score": 0.5, "scores": {}}}
        entry = {
            "file": str(folder / "a.png"),
            "width": 8,
            "height": 8,
            "detections": [found],
            "labels": labels,
        }
        write_gallery(folder / "page.html", [entry], 1, {1: 0}, 1000, text)
        text_alone((folder / "page.html").read_text())

    return attack


def text_alone(page: str) -> None:
    """Raise AssertionError where a page holds any of `MARKUP` as markup, or what it asks for."""
    for found in ("<script>document", "<img src=x", "<svg onload", '" onmouseover="alert', "root:"):
        assert found not in page, f"the page holds {found}"


def safetensors(header: bytes, length: int | None = None, data: bytes = bytes(64)) -> Attack:
    """Offer a damaged file of packed arrays, alone and in the place of a cache."""

    def attack(folder: Path, canary: str) -> None:
        (folder / "set.json").write_text('{"images": [], "annotations": [], "categories": []}')
        good = read_annotations(folder / "set.json")
        (cached,) = [f for f in cache_folder().iterdir() if f.suffix == ".safetensors"]
        cached.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
        try:
            read_packed(cached)
        except DamagedCacheError:
            assert read_annotations(folder / "set.json").fingerprint == good.fingerprint
            return
        raise AssertionError("read_packed accepted it")

    return attack


def formulas_in_labels(folder: Path, canary: str) -> None:
    """Read cells that spreadsheets would compute: they are text."""
    cells = [f"=cmd|'/c touch {canary}'!A1", "+1+1", "@SUM(1)"]
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = [("file_name", "kind"), *((f"{i}.png", cell) for i, cell in enumerate(cells))]
        csv.writer(file).writerows(rows)
    names = [f"{i}.png" for i in range(3)]
    assert read_column("kind", folder / "labels.csv", "kind", names, numbers=False) == cells


def formulas_in_predictions(folder: Path, canary: str) -> None:
    """Write names that spreadsheets would compute: they become text."""
    found = {"category": "=1+1", "category_id": 1, "score": 0.5, "bbox": [-1.0, 2.0, 3.0, 4.0]}
    entry = {"file": "@a.png", "width": 5, "height": 5, "detections": [found], "labels": {}}
    write_csv(folder / "predictions.csv", [entry], "-head")
    with (folder / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["file"], row["label"], row["head"], row["x"]) == ("'@a.png", "'=1+1", "'-head", "-1.0")


def giant_cell(folder: Path, canary: str) -> None:
    (folder / "labels.csv").write_text("file_name,kind\na.png," + "x" * 10**6)
    read_column("kind", folder / "labels.csv", "kind", ["a.png"], numbers=False)


_SHAPE = '{"__metadata__": {"crc32": "0"}, "a": {"dtype": "I64", "shape": %s, "data_offsets": %s}}'

# What must be refused by an error of the project.
REFUSALS: dict[str, Attack] = {
    **WEIGHTS,
    "YAML os.system": config("data: !!python/object/apply:os.system ['touch CANARY']"),
    "YAML eval": config("data: !!python/object/apply:eval [\"open('CANARY', 'w')\"]"),
    "YAML Popen": config("data: !!python/object/new:subprocess.Popen [[touch, CANARY]]"),
    "YAML name": config("data: !!python/name:os.system"),
    "YAML module": config("data: !!python/module:antigravity"),
    "YAML own tag": config("data: !include /etc/passwd"),
    "YAML laughs": config(laughs(25, merged=False)),
    "YAML merged laughs": config(laughs(22, merged=True)),
    "YAML laughs and a thousand": config(laughs(10, merged=False) + "\nb: [" + "*a10," * 300 + "]"),
    "YAML that holds itself": config("data: &a [*a]"),
    "YAML deep": config("data: " + "[" * 500 + "]" * 500),
    "YAML very deep": config("[" * 100_000),
    "YAML deep keys": config("\n".join(" " * i + f"k{i}:" for i in range(40)) + " 1"),
    "YAML large": config("# " + "x" * 1_000_000),
    "YAML number of 5,000 digits": config("training: {epochs: " + "9" * 5000 + "}"),
    "YAML date that is none": config("data: 2001-99-99"),
    "YAML tag that does not fit": config("data: !!bool maybe"),
    "YAML empty number": config("data: !!int ''"),
    "YAML list as a key": config("data: {[a]: b}"),
    "YAML zero byte": config("data: \0"),
    "file name absolute": named_file("/etc/passwd"),
    "file name upwards": named_file("../secret/a.png"),
    "file name through a folder": named_file("x/../../secret/a.png"),
    "file name with a drive": named_file("c:secret.png"),
    "link out": linked("SECRET/a.png"),
    "folder linked out": linked("SECRET", directory=True),
    "link to the memory of the process": linked("/proc/self/environ"),
    "link to endless zeros": linked("/dev/zero"),
    "CSV cell of a million letters": giant_cell,
    **{name: bomb(name) for name in ("PNG bomb", "WebP bomb", "zip bomb in iTXt", "photo of 600 MiB")},
}

# What must be read, without any of its effects.
HARMLESS: dict[str, Attack] = {
    **{f"HTML {name}": markup(text) for name, text in MARKUP.items()},
    **{f"HTML {name} in answers": gallery(text) for name, text in MARKUP.items()},
    "CSV formulas read": formulas_in_labels,
    "CSV formulas written": formulas_in_predictions,
    "safetensors header longer than the file": safetensors(b"{}", length=2**62),
    "safetensors header of noise": safetensors(b"\xff\xfe{"),
    "safetensors header of a list": safetensors(b"[]"),
    "safetensors without metadata": safetensors(b"{}"),
    "safetensors offsets outside": safetensors((_SHAPE % ("[1000]", "[0, 8000]")).encode()),
    "safetensors negative shape": safetensors((_SHAPE % ("[-1]", "[0, 8]")).encode()),
    "safetensors giant shape": safetensors((_SHAPE % ("[4611686018427387904, 4]", "[0, 8]")).encode()),
}
