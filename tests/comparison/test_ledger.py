"""The results file: nothing is run twice, nothing is lost, nothing is mixed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vision_mtl.comparison.ledger import Ledger, Train
from vision_mtl.comparison.results import Outcome, Results, Trial
from vision_mtl.errors import ConfigError

from .made import header_of, outcome_of, trial_of

GOOD = {"objects": 0.5, "count": 2.0}


def train(trial: Trial, weights: Path | None) -> Outcome:
    return outcome_of(trial, GOOD)


def refuse(trial: Trial, weights: Path | None) -> Outcome:
    pytest.fail("was run again")


def ledger(path: Path, run: Train, command: str = "first", **tree: object) -> Ledger:
    return Ledger(path, header_of(command, **tree), run)


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "comparison.json"
    first = ledger(path, train)
    outcomes = [first.run(trial_of(lr=0.001 / 3)), first.run(trial_of("count"))]
    again = ledger(path, refuse, "second")
    assert [again.run(trial_of(lr=0.001 / 3)), again.run(trial_of("count"))] == outcomes
    assert again.results.commands == ["first", "second"]
    assert ledger(path, refuse, "first").results.commands == ["first"]
    assert again.find(trial_of(seed=1)) is None
    assert again.find(trial_of(steps=99)) is None
    assert again.find(trial_of(kind="short")) is None


def test_a_diverged_run_is_an_outcome_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    done = ledger(path, lambda trial, _: outcome_of(trial, None)).run(trial_of())
    assert done.diverged is not None
    assert ledger(path, refuse).run(trial_of()) == done


def test_what_was_finished_before_an_interruption_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"

    def interrupted(trial: Trial, weights: Path | None) -> Outcome:
        if trial.seed == 1:
            raise KeyboardInterrupt
        return outcome_of(trial, GOOD)

    first = ledger(path, interrupted)
    first.run(trial_of())
    with pytest.raises(KeyboardInterrupt):
        first.run(trial_of(seed=1))
    assert [run.trial.seed for run in ledger(path, refuse).results.runs] == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["comparison.json"]


def test_weights_are_made_only_for_what_has_to_run(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    given: list[Path | None] = []

    def noting(trial: Trial, weights: Path | None) -> Outcome:
        given.append(weights)
        return outcome_of(trial, GOOD)

    one = ledger(path, noting)
    one.run(trial_of(kind="combined"), lambda: tmp_path / "made.pt")
    one.run(trial_of(kind="combined"), lambda: pytest.fail("was made again"))
    assert given == [tmp_path / "made.pt"]


def test_runs_of_another_config_are_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    ledger(path, train, trunk={"name": "resnet18"}, sides=(1, 2)).run(trial_of())
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"another config: trunk\.name: 'resnet18' -> 'resnet50'"):
        ledger(path, train, trunk={"name": "resnet50"}, sides=(1, 2))
    assert path.read_bytes() == before
    ledger(path, train, trunk={"name": "resnet18"}, sides=(1, 2))  # a tuple comes back as a list


@pytest.mark.parametrize("content", ["", "{", '{"commands": 3}', "[]"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"other\.json' is not a file of this command"):
        ledger(path, train)
    assert path.read_text() == content


def test_the_file_reads_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    one = ledger(path, train)
    one.run(trial_of())
    assert msgspec.json.decode(path.read_bytes(), type=Results) == one.results


def test_folders_of_different_trials_differ() -> None:
    trials = [
        trial_of("joint"),
        trial_of(method="uw"),
        trial_of(),
        trial_of(kind="short"),
        trial_of(kind="combined"),
        trial_of(seed=1),
        trial_of(steps=25),
        trial_of(lr=0.0005),
        trial_of("objects"),
    ]
    assert len({trial.name() for trial in trials}) == len(trials)
