"""Short versions of the stress commands: each must end with nothing wrong."""

from __future__ import annotations

import time

import pytest

from tests.stress import annotations
from tests.stress.annotation_corrections import CORRECTIONS
from tests.stress.verdicts import Hang, Refused, Tally, at_most


def test_annotation_mutants(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(annotations.OPERATORS) >= 40
    code = annotations.read_mutants(len(annotations.OPERATORS), seed=1, images=30)
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert "0 uncaught, 0 hangs, 0 wrong" in printed.out


def test_a_wrong_verdict_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    untouched = annotations.in_text(CORRECTIONS["untouched"])
    shifted = CORRECTIONS["box overhangs left"]
    refused = Refused(("unheard of",))
    wrong = {
        "good, to be refused": lambda document, rng: (untouched(document, rng)[0], refused),
        "bad, to be accepted": lambda document, rng: (b"{", untouched(document, rng)[1]),
        "another error": lambda document, rng: (b"{", refused),
        "other boxes": lambda document, rng: (
            untouched(document, rng)[0],
            shifted(document, rng),  # changed after it was written
        ),
    }
    monkeypatch.setattr(annotations, "OPERATORS", wrong)
    assert annotations.read_mutants(4, 0, tuple(wrong), images=5) == 1
    printed = capfd.readouterr()
    assert "4 wrong" in printed.out
    assert printed.err.count("WRONG") == 4


def test_a_hang_is_noticed() -> None:
    with pytest.raises(Hang), at_most(0.05):
        time.sleep(5)


def test_the_tally_says_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.add("read")
    assert tally.finish("1 file") == 0
    tally.add("read", "the second one")
    assert tally.finish("2 files") == 1
    printed = capsys.readouterr()
    assert printed.err == "WRONG the second one\n"
    assert printed.out.startswith("1 file (")
