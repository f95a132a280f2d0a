"""Tables, plot and page of made-up results."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from vision_mtl.comparison.command import report, rules
from vision_mtl.comparison.plan import Chosen, Finished
from vision_mtl.comparison.plot import comparison_figure, svg_text
from vision_mtl.comparison.results import Outcome, Results, Summary
from vision_mtl.comparison.summary import summarize
from vision_mtl.comparison.tables import cost_cells, rich_table, run_cells, score_cells
from vision_mtl.reporting.tables import text

from .made import HEADS, costs, header_of, outcome_of, plan_of, trial_of

EVIL = "<script>alert('x')</script> & co"


def summary_of(conflict: str | None = None) -> Summary:
    def run(heads: tuple[str, ...], seed: int, objects: float, count: float) -> Outcome:
        scores = {"objects": objects, "count": count}
        return outcome_of(trial_of(*heads, seed=seed), scores, seconds=30.0 if len(heads) == 1 else 45.0)

    alone = {
        "objects": [run(("objects",), 0, 0.5, 0), run(("objects",), 1, 0.52, 0)],
        "count": [run(("count",), 0, 0, 20.0), run(("count",), 1, 0, 20.0)],
    }
    joint = [run(HEADS, 0, 0.6, 30.0), run(HEADS, 1, 0.62, 30.0)]
    joint[0] = msgspec.structs.replace(joint[0], conflict=conflict)
    together = {"fixed": joint, "combined": [joint[0], outcome_of(trial_of(seed=1), None)]}
    chosen = Chosen(dict.fromkeys(HEADS, 0.001), {"fixed": 0.002, "combined": 0.0004})
    return summarize(plan_of(combine=True), chosen, Finished(alone, together), costs())


def row(shown: str, start: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(start))


def numbers(line: str) -> list[str]:
    return [word for word in line.split() if word[0].isdigit()]


def test_scores_side_by_side() -> None:
    shown = text(rich_table(score_cells(summary_of(), "title")), width=160)
    assert "objects: mAP" in shown
    assert "count: MAE ↓" in shown
    alone, fixed, combined = (row(shown, name) for name in ("alone", "fixed", "combined"))
    assert "0.510 ± 0.014" in alone
    assert "20 ± 0.000" in alone
    # 20 % and 19.23 % more mAP, 50 % more error: Δm -15 and -15.38.
    assert "0.610 ± 0.014 (+19.6 %) ▲" in fixed
    assert "30 ± 0.000 (-50.0 %) ▼" in fixed
    assert "-15.2 ± 0.2" in fixed
    assert "0.600, 1 of 2 without result (+20.0 %)" in combined
    assert "-15.0, 1 of 2 without result" in combined


def test_costs_against_the_detector_and_against_all() -> None:
    shown = text(rich_table(cost_cells(summary_of(), costs(), "objects")), width=160)
    assert row(shown, "objects alone").split()[2:5] == ["0.001", "2.00", "M"]
    fixed = row(shown, "fixed")
    assert "2.10 M" in fixed
    assert "0:45" in fixed
    assert "500.0 (450.0 to 550.0)" in fixed
    # Parameters, training, step, one image, a batch.
    assert numbers(row(shown, "  against objects")) == ["1.05", "1.50", "1.25", "1.25", "1.20"]
    assert numbers(row(shown, "  against all")) == ["0.70", "0.75", "0.83", "0.83", "0.80"]
    assert "1:45" in row(shown, "combined")  # 45 s of fine-tuning on top of twice 30 s


def test_costs_that_are_not_known_are_left_out() -> None:
    shown = text(rich_table(cost_cells(summary_of(), None, "objects")), width=160)
    assert "ms" not in shown
    assert "against" not in shown
    assert "0:30" in row(shown, "count alone")


def test_every_run_is_listed_with_what_became_of_it() -> None:
    runs = [outcome_of(trial_of("count"), {"count": 3.0}), outcome_of(trial_of(), None)]
    cells = run_cells(runs, {"objects": "mAP", "count": "MAE"})
    assert cells.rows == [
        [runs[0].folder, "0:10", "count MAE 3.000"],
        [runs[1].folder, "\N{EN DASH}", "diverged: the loss of objects is not finite"],
    ]


def test_the_plot_shows_every_seed_and_is_the_same_each_time() -> None:
    figure = comparison_figure(summary_of(), "costs $5, and $6")
    first, second, delta = figure.axes
    assert [line.get_ydata().tolist() for line in first.lines] == [[0.5, 0.52], [0.6, 0.62], [0.6]]
    assert [line.get_ydata().tolist() for line in second.lines] == [[20.0, 20.0], [30.0, 30.0], [30.0]]
    assert delta.lines[0].get_ydata().tolist() == pytest.approx([-15.0, (100 / 5.2 - 50) / 2])
    assert [label.get_text() for label in first.get_xticklabels()] == ["alone", "fixed", "combined"]
    again = comparison_figure(summary_of(), "costs $5, and $6")
    assert svg_text(figure) == svg_text(again)
    assert svg_text(figure).startswith("<svg")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Results]:
    results = header_of(f"python tools/compare.py {EVIL}")
    results.runs = [outcome_of(trial_of(), None)]
    results.costs, results.summary = costs(), summary_of(conflict=f"{EVIL} agree")
    report(results, plan_of(combine=True), "tiny", tmp_path / "out")
    return tmp_path / "out", results


def test_the_page_holds_everything_and_needs_nothing(written: tuple[Path, Results]) -> None:
    folder, results = written
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert results.summary is not None
    assert results.summary.conclusion in page
    assert page.count("<svg") == 1
    assert page.count("<table") == 3
    assert "prefers-color-scheme: dark" in page
    assert "a machine" in page
    assert "diverged: the loss of objects is not finite" in page
    assert re.findall(r'(?:src|href)\s*=\s*"(?!#)[^"]*"', page) == []
    assert "url(http" not in page
    assert "@import" not in page


def test_names_are_escaped(written: tuple[Path, Results]) -> None:
    page = (written[0] / "comparison.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert (
        page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; co") == 3
    )  # the command, and a run that two rows share


def test_the_plot_is_written_twice(written: tuple[Path, Results]) -> None:
    assert (written[0] / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert (written[0] / "comparison.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_rules_name_the_metrics_and_the_tries() -> None:
    words = rules(plan_of())
    assert "objects by mAP, count by MAE" in words
    assert "the best of 3 learning rates, from one run of 25 steps each" in words
    assert "Combined" not in words
    assert "the config's learning rate" in rules(plan_of(factors=(1.0,)))
    assert "Combined" in rules(plan_of(combine=True))
