"""Values of a column to the kind of question."""

from __future__ import annotations

from typing import Any

import pytest

from vision_mtl.data.label_kinds import asked_by


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["good", "bad", None, ""], "classification"),
        ([True, False], "classification"),
        (["1", "2", "3"], "classification"),
        ([str(i) for i in range(10)], "classification"),
        ([str(i) for i in range(11)], "regression"),
        (["0.5", "1", None], "regression"),
        ([0.25, 3], "regression"),
        (["1.0", "2.0"], "classification"),
        (["1", "2.5", "unknown"], "classification"),
        (["a|b", "a"], "multilabel"),
        (["|", "a"], "multilabel"),
        ([["a"], [], None], "multilabel"),
    ],
)
def test_kinds(values: list[Any], kind: str) -> None:
    assert asked_by(values).kind == kind


def test_reasons() -> None:
    assert asked_by(["b", "a", "b"]).reason == "2 classes: a, b"
    assert asked_by(["-1.5", "2"]).reason == "numbers from -1.5 to 2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, ""], "no image has a label"),
        (["a", "a"], "every label is 'a'"),
        ([f"scan {i}" for i in range(30)], "look like names"),
    ],
)
def test_nothing_to_learn(values: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked_by(values)
