"""The benchmark's figures: ratios, verdicts, the file that holds them, tables and the plot."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision_mtl.benchmark.ratio_plot import bars_of, draw_ratios
from vision_mtl.benchmark.report import number, part_text, target_text
from vision_mtl.benchmark.results import (
    Figure,
    Part,
    Profile,
    Results,
    Share,
    Table,
    Target,
    figure,
    read_results,
    update_results,
)
from vision_mtl.commands.timing import Timing
from vision_mtl.errors import ConfigError

FASTER = Target("ours", "peer", at_least=3.0)
HARDLY_MORE = Target("joint", "ours", at_most=1.05)
SOON = Target("ours", at_most=150.0)


def table() -> Table:
    figures = [
        Figure("convolutions", "limit", 50.0, 49.0, 51.0),
        Figure("ours", "ours", 100.0, 90.0, 110.0, "convolutions"),
        Figure("joint", "ours", 110.0, 100.0, 120.0),
        Figure("peer", "peer", 400.0, 380.0, 420.0),
    ]
    return Table("batch 4", "a step", "ms", figures, [FASTER, HARDLY_MORE, SOON], ["a note"])


def part(**changes: object) -> Part:
    profile = Profile("a step", 10.0, [Share("convolutions", 7.5), Share("python", 2.5)], "trace.json.gz")
    values = {
        "date": "2030-01-02T03:04:05+00:00",
        "command": "python tools/benchmark.py train",
        "machine": "2 cores",
        "versions": {"torch": "2"},
        "device": "cpu",
        "threads": 2,
        "quick": False,
        "tables": [table()],
        "profiles": [profile],
    }
    return Part(**{**values, **changes})  # type: ignore[arg-type]


def test_ratios_and_verdicts() -> None:
    found = table()
    assert found.ratio("ours", "peer") == 4.0
    assert found.judge(FASTER).met
    assert found.judge(FASTER).value == 4.0
    assert not found.judge(HARDLY_MORE).met
    assert found.judge(HARDLY_MORE).value == pytest.approx(1.1)
    assert found.judge(SOON).met
    assert found.judge(SOON).value == 100.0


def test_a_target_is_met_at_its_very_bound() -> None:
    found = table()
    assert found.judge(Target("ours", "peer", at_least=4.0)).met
    assert found.judge(Target("ours", at_most=100.0)).met
    assert not found.judge(Target("ours", "peer", at_least=4.1)).met


def test_a_timing_becomes_a_figure_in_the_tables_unit() -> None:
    found = figure("ours", "ours", Timing(0.5, 0.25, 0.75), 1000, "limit")
    assert found == Figure("ours", "ours", 500.0, 250.0, 750.0, "limit")


def test_targets_in_words() -> None:
    found = table()
    assert target_text(found, FASTER) == "3x of peer: met"
    assert target_text(found, HARDLY_MORE) == "at most 1.05x of ours: missed (1.100x)"
    assert target_text(found, SOON) == "at most 150 ms: met"


def test_numbers_in_words() -> None:
    assert [number(value) for value in (1234.5, 999.4, 12.345, 0.5, 0.0123)] == [
        "1234",
        "999",
        "12.3",
        "0.5",
        "0.0123",
    ]


def test_the_text_of_a_part() -> None:
    lines = part_text("train", part()).splitlines()
    assert lines[0] == "train: 2 cores, 2 threads, cpu"
    first = [line.split()[0] for line in lines[4:] if line and line[0] not in " ─"]
    assert first[:4] == ["peer", "ours", "joint", "convolutions"]
    (ours,) = [line for line in lines if line.startswith("ours")]
    assert "90 to 110" in ours
    assert "4.00x" in ours  # peer / ours
    assert "2.00x" in ours  # ours / limit
    assert "  a note" in lines
    assert any(line.split() == ["convolutions", "7.5", "75.0", "%"] for line in lines)
    assert "--quick" in part_text("train", part(quick=True))


def test_running_one_part_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    assert read_results(path) == Results()
    update_results(path, "train", part())
    update_results(path, "infer", part(threads=1))
    found = update_results(path, "train", part(command="again"))
    assert found == read_results(path)
    assert found.parts == {"train": part(command="again"), "infer": part(threads=1)}


@pytest.mark.parametrize("content", ["{", '{"parts": 1}', '{"parts": {"train": {}}}'])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"--json .*figures\.json"):
        update_results(path, "train", part())
    assert path.read_text() == content


def test_bars_are_of_ratios_only(tmp_path: Path) -> None:
    results = Results({"train": part()})
    bars = bars_of(results)
    assert [bar.label for bar in bars] == ["train batch 4 | peer", "train batch 4, joint | ours"]
    assert [(bar.ratio, bar.target) for bar in bars] == [
        (4.0, 3.0),
        (pytest.approx(1 / 1.1), pytest.approx(1 / 1.05)),
    ]
    assert [bar.met for bar in bars] == [True, False]
    path = tmp_path / "plots" / "ratios.png"
    draw_ratios(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
