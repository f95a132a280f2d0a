"""Figures as data and as pictures."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vision_mtl.reporting.report.canvas import Canvas, shortened
from vision_mtl.reporting.report.charts import _log_ticks, _ticks, draw
from vision_mtl.reporting.report.common import MANY, confusion_figures, most_frequent
from vision_mtl.reporting.report.figures import Bars, Curve, Curves, Matrix, Points, Table, as_csv, as_json
from vision_mtl.reporting.report.page import script_json
from vision_mtl.reporting.report.training_figures import training_section


def test_csv_has_a_row_per_point_and_no_formula() -> None:
    curves = Curves("k", "t", "x", "y", [Curve("=1+1", [0, 1], [0.5, None]), Curve("b", [2], [3.0])])
    assert as_csv(curves) == "series,x,y\n'=1+1,0,0.5\n'=1+1,1,\nb,2,3.0\n"
    assert as_json(curves)["rows"] == [["=1+1", 0, 0.5], ["=1+1", 1, None], ["b", 2, 3.0]]


def test_matrix_and_bars_as_rows() -> None:
    matrix = Matrix("k", "t", ["a", "b"], ["a", "b"], [[3, 1], [0, 2]])
    assert matrix.table()[1] == [["a", 3, 1], ["b", 0, 2]]
    bars = Bars("k", "t", ["a", "b"], {"AP": [0.5, None], "AP50": [0.75, 1.0]})
    assert bars.table() == (["name", "AP", "AP50"], [["a", 0.5, 0.75], ["b", None, 1.0]])


@pytest.mark.parametrize(
    "figure",
    [
        Curves("k", "t", "x", "y", [Curve("a", [0, 1, 2], [1e-4, None, 10.0])], log_y=True),
        Curves("k", "t", "x", "y", [Curve("a", [5], [0.0])], zero=True, diagonal=True),
        Bars("k", "t", ["a" * 200, "b"], {"one": [0.0, None], "two": [0.0, 0.0]}),
        Points("k", "t", [1.0], [1.0]),
        Matrix("k", "t", ["a"], ["a"], [[0]]),
    ],
)
def test_odd_values_are_drawn(figure: Any) -> None:
    canvas = draw(figure)
    assert canvas is not None
    assert "nan" not in canvas.page_svg("x")
    pixels = cv2.imdecode(np.frombuffer(canvas.png(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[1] == 2 * canvas.width
    assert pixels.min() < 200  # something is on it


@pytest.mark.parametrize(
    "figure",
    [
        Curves("k", "t", "x", "y", [Curve("a", [1], [None])]),
        Bars("k", "t", [], {"a": []}),
        Points("k", "t", [], []),
        Table("k", "t", ["a"], [[1]]),
    ],
)
def test_nothing_to_draw_is_no_picture(figure: Any) -> None:
    assert draw(figure) is None


def test_the_pages_colours_are_the_themes_and_the_files_are_dark_on_white() -> None:
    canvas = Canvas(10, 10)
    canvas.rectangle((2, 2), (4, 4), "c0")
    canvas.words((0, 8), "<&>\x00")
    assert 'fill="var(--c0)"' in canvas.page_svg("")
    assert "&lt;&amp;&gt;" in canvas.page_svg("")
    assert "var(" not in canvas.file_svg("")
    pixels = cv2.imdecode(np.frombuffer(canvas.png(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels[8, 8].tolist() == [0xDE, 0x6F, 0x2F]  # c0, as BGR
    assert pixels[0, 19].tolist() == [255, 255, 255]


def test_ticks_are_round() -> None:
    assert _ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert _ticks(3, 3) == [3]
    assert _log_ticks(-2, 1) == pytest.approx([0.01, 0.1, 1, 10])
    assert _log_ticks(0, 1) == pytest.approx([1, 2, 5, 10])


def test_json_in_a_script_ends_no_script() -> None:
    text = script_json({"</script><!--": "<&>\u2028\ud800"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"</script><!--": "<&>\u2028\ud800"}


def test_of_many_classes_the_most_confused_are_shown_with_the_background() -> None:
    counts = np.eye(81, dtype=np.int64) * 5
    counts[40, 7], counts[3, 80], counts[80, 2] = 9, 4, 1
    names = [*(f"c{i}" for i in range(80)), "background"]
    matrix, table = confusion_figures("k", counts, names, background=True)
    assert isinstance(matrix, Matrix)
    assert isinstance(table, Table)
    assert len(matrix.rows) == MANY
    assert {"c40", "c7", "c3", "c2", "background"} <= set(matrix.rows)
    assert table.cells == [
        ["c40", "c7", 9, 9 / 14],
        ["c3", "background", 4, 4 / 9],
        ["background", "c2", 1, 1 / 6],
    ]


def test_small_helpers() -> None:
    assert most_frequent(np.array([0, 3, 1, 0])) == [1, 2]
    assert shortened("abc", 100) == "abc"
    assert shortened("a" * 50, 50).endswith("…")


def test_training_curves_come_from_the_log(tmp_path: Path) -> None:
    lines = [
        {
            "step": 1,
            "kind": "train",
            "lr": 0.1,
            "losses": {"a": {"x": 1.0, "y": 2.0}},
            "images_per_second": 4.0,
        },
        {
            "step": 2,
            "kind": "train",
            "lr": 0.2,
            "losses": {"a": {"x": None, "y": 2.0}},
            "images_per_second": 5.0,
        },
        {"step": 2, "kind": "val", "heads": {"a": {"mAP": 0.5}}, "losses": {"a": 3.0}, "headline": 0.5},
        {"step": 2, "kind": "conflict", "norms": {"a": 1.0}, "cosines": {}},
    ]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = training_section(log)
    assert section is not None
    figures = {figure.key: figure for figure in section.figures}
    assert figures["loss-training"].table()[1] == [["a", 1, 3.0], ["a", 2, None]]
    assert figures["metrics"].table()[1] == [["a mAP", 2, 0.5]]
    assert figures["learning-rate"].table()[1] == [["learning rate", 1, 0.1], ["learning rate", 2, 0.2]]
    assert "gradient-cosines" not in figures  # nothing was compared
    assert "memory" not in figures  # older logs lack it
    assert training_section(tmp_path / "none.jsonl") is None
