"""Δm against numbers worked out by hand."""

from __future__ import annotations

import pytest

from vision_mtl.metrics.relative_change import delta_m, relative_change


@pytest.mark.parametrize(
    ("value", "baseline", "lower_is_better", "expected"),
    [
        (0.44, 0.40, False, 10.0),
        (0.36, 0.40, False, -10.0),
        (0.60, 0.80, True, 25.0),  # a quarter less error
        (1.00, 0.80, True, -25.0),
        (0.40, 0.40, False, 0.0),
        (0.00, 0.40, False, -100.0),
    ],
)
def test_the_change_in_percent_is_positive_where_better(
    value: float, baseline: float, lower_is_better: bool, expected: float
) -> None:
    assert relative_change(value, baseline, lower_is_better) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "baseline"), [(None, 0.5), (0.5, None), (0.5, 0.0), (0.5, -0.1), (None, None)]
)
def test_a_share_of_nothing_is_not_a_number(value: float | None, baseline: float | None) -> None:
    assert relative_change(value, baseline, False) is None
    assert relative_change(value, baseline, True) is None


def test_delta_m_is_the_mean_over_tasks() -> None:
    # AP 0.50 -> 0.55 is +10 %, accuracy 0.8 -> 0.6 is -25 %, an error of 2 -> 1.5 is +25 %: 10 / 3.
    changes = [
        relative_change(0.55, 0.50, False),
        relative_change(0.6, 0.8, False),
        relative_change(1.5, 2.0, True),
    ]
    assert delta_m(changes) == pytest.approx(10 / 3)
    assert delta_m(changes[:1]) == pytest.approx(10.0)


def test_delta_m_does_not_leave_tasks_out() -> None:
    assert delta_m([10.0, None]) is None
    assert delta_m([]) is None
