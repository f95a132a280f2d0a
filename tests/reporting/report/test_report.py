"""The report of a run, as files."""

import base64
import csv
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from tests.commands.helpers import write_config
from tests.conftest import write_tiny_coco
from tests.reporting.report.conftest import CLOSING, EVIL
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import ConfigError
from vision_mtl.reporting.report import write
from vision_mtl.reporting.report.data_figures import _box_sizes
from vision_mtl.reporting.report.gallery import MOST_BYTES, thumbnail


class Page(HTMLParser):
    """Tags, what they refer to, the scripts, and the tables of figures: (caption, rows of cells)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.caption, self.known = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "script":
            self.scripts.append("")
        elif tag == "figcaption":
            self.caption = ""
        elif tag == "table" and ("class", "sortable") in attrs:
            self.tables.append((self.caption, []))
        elif tag == "tr" and self.tables:
            self.tables[-1][1].append([])
        elif tag == "td" and self.tables:
            value = dict(attrs).get("data-value")  # the whole number; the text is rounded
            self.known = value is not None
            self.tables[-1][1][-1].append(value or "")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data
        elif self.lasttag == "figcaption":
            self.caption += data
        elif self.lasttag == "td" and self.tables and not self.known:
            self.tables[-1][1][-1][-1] += data.rstrip("\n")


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    return Page((reported / "report.html").read_text(encoding="utf-8"))


def gallery_of(page: Page) -> Any:
    return json.loads(page.scripts[0])


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)


def test_names_with_html_in_them_make_no_element(page: Page) -> None:
    assert page.tags.count("script") == 2
    assert "img" not in page.tags  # those of the gallery are made by the script
    assert "i" in page.tags  # our own bars
    names = {name for image in gallery_of(page)["images"] for name in image["heads"]["objects"]["classes"]}
    assert {EVIL, CLOSING} <= names


def test_the_gallery_shows_every_image_of_a_small_set(page: Page) -> None:
    images = gallery_of(page)["images"]
    assert len({image["file"] for image in images}) == len(images) == 8
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)


def test_a_thumbnail_is_small_whatever_it_shows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    source: Any = SimpleNamespace(
        read=lambda at, needs: SimpleNamespace(pixels=pixels), size=lambda at: (600, 900)
    )
    content = base64.b64decode(thumbnail(source, 0).removeprefix("data:image/jpeg;base64,"))
    assert len(content) <= MOST_BYTES
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (341, 512, 3)


def test_every_figure_is_there_as_json_csv_svg_and_png(reported: Path) -> None:
    figures = json.loads((reported / "report.json").read_text())
    tables = {"summary", "data", "data-corrected", "objects-classes", "kind-classes", "presence-classes"}
    assert tables <= figures.keys()
    expected = {
        "objects-errors",
        "objects-pr",
        "objects-confusion",
        "objects-calibration",
        "kind-confusion",
    }
    expected |= {
        "kind-roc",
        "presence-pr",
        "count-predicted-true",
        "loss-training",
        "learning-rate",
        "memory",
    }
    expected |= {"count-residuals", "presence-label-errors", "data-box-sizes"}
    expected |= {"metrics", "gradient-cosines", "speed", "data-classes", "data-presence", "data-count"}
    assert expected <= figures.keys()
    for key, figure in figures.items():
        with (reported / f"plots/{key}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 1 + len(figure["rows"])
    for key in expected:
        assert ElementTree.parse(reported / f"plots/{key}.svg").getroot().tag.endswith("svg")
        assert cv2.imread(str(reported / f"plots/{key}.png")) is not None


def test_the_pages_tables_and_bars_are_those_of_the_files(page: Page, reported: Path) -> None:
    figures = json.loads((reported / "report.json").read_text())
    written = [(figure["title"], figure["rows"]) for figure in figures.values()]
    texts = [
        (title, [["" if cell is None else str(cell) for cell in row] for row in rows])
        for title, rows in written
    ]
    captions = {caption.strip() for caption, _ in page.tables}
    assert captions == {"AP per class", "Per class", "Per label", "Images and boxes"}
    for caption, rows in page.tables:
        assert (caption.strip(), [row for row in rows if row]) in texts  # the head's row has no cell
    text = html.unescape((reported / "report.html").read_text(encoding="utf-8"))
    for name, points in figures["objects-errors"]["rows"]:
        assert f"<title>{name}, AP50 points: {points:.3g}</title>" in text


def test_sizes_of_boxes_by_hand() -> None:
    def split(areas: list[float]) -> Any:
        return [SimpleNamespace(truth=SimpleNamespace(areas=np.array(areas)))]

    found = _box_sizes({"train": split([10.0**2, 16**2, 20**2, 40**2]), "val": split([])})
    assert found is not None
    assert list(found.names) == ["8 to 16", "16 to 32", "32 to 64"]
    assert found.series == {"train (4)": [25, 50, 25]}
    assert _box_sizes({"val": split([])}) is None


def test_the_summary_holds_the_metrics_of_metrics_json(reported: Path) -> None:
    heads = json.loads((reported / "metrics.json").read_text())["heads"]
    rows = json.loads((reported / "report.json").read_text())["summary"]["rows"]
    assert {(head, name): value for head, name, value, *_ in rows} == {
        (head, name): value for head, metrics in heads.items() for name, value in metrics.items()
    }


def test_an_evaluation_compares_with_the_one_before(reported: Path, tmp_path: Path) -> None:
    best = str(reported / "checkpoints/best.pt")
    evaluate_checkpoint(best, [], "val", tmp_path, per_class=False)
    first = (tmp_path / "report.html").read_text(encoding="utf-8")
    earlier = json.loads((tmp_path / "metrics.json").read_text())
    assert "Changes are against" not in first
    earlier["heads"]["count"]["MAE"] += 0.25
    (tmp_path / "metrics.json").write_text(json.dumps(earlier))
    evaluate_checkpoint(best, [], "val", tmp_path, per_class=False)
    second = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "against the evaluation that was here before" in second
    assert re.search(r'class="change better">▼ 0\.250<', second)


def test_a_baseline_that_is_no_evaluation_is_one_error_before_anything_else(
    reported: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[1]")
    best = str(reported / "checkpoints/best.pt")
    with pytest.raises(ConfigError, match="has no 'heads'"):
        evaluate_checkpoint(best, [], "val", tmp_path / "out", baseline=wrong)
    assert not (tmp_path / "out").exists()


def test_the_option_leaves_the_report_out(reported: Path, tmp_path: Path) -> None:
    best = str(reported / "checkpoints/best.pt")
    evaluate_checkpoint(best, ["evaluation.report=false"], "val", tmp_path, per_class=False)
    assert (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_fails_leaves_the_numbers(
    reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(write, "report_page", fail)
    with pytest.raises(RuntimeError, match="no page"):
        evaluate_checkpoint(str(reported / "checkpoints/best.pt"), [], "val", tmp_path, per_class=False)
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == 8
    assert (tmp_path / "detections.json").exists()


@pytest.mark.parametrize(
    "heads",
    [
        "\n  objects: {type: fcos, depth: 1, norm: group}\n",
        "\n  kind: {type: classification, source: attribute, field: kind}\n",
    ],
    ids=["boxes alone", "labels alone"],
)
def test_splits_without_labels_and_damaged_images(heads: str, tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "tiny")
    config = write_config(tmp_path, data.root, heads=heads, evaluation="{report: true}")
    train_from_config(config, ["training.max_steps=1"], tmp_path / "run")
    content = json.loads(data.annotations.read_text())
    content["annotations"] = []
    for image in content["images"][1:]:
        image["attributes"] = {"kind": ""}
    data.annotations.write_text(json.dumps(content))
    (data.images / "002.png").write_bytes(b"not an image")
    best = str(tmp_path / "run/checkpoints/best.pt")
    evaluate_checkpoint(best, ["data.bad_images=skip"], "val", tmp_path / "out", per_class=False)
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert ("annotates no objects" in text) == ("objects" in heads)
    assert "002.png</td>" in text  # among the images that were left out
    assert len(gallery_of(Page(text))["images"]) == 7
    assert "NaN" not in (tmp_path / "out/report.json").read_text()
