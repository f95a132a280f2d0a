"""Several models' numbers beside one model's: how much better or worse, in percent."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def relative_change(value: float | None, baseline: float | None, lower_is_better: bool) -> float | None:
    """Return by how many percent of `baseline` the `value` is better; negative where it is worse.

    Args:
        value: the metric of the model in question.
        baseline: the same metric of the model that it is compared with.
        lower_is_better: of an error, such as MAE.

    Returns:
        None where either is unknown, and where the baseline is not above 0: a share of nothing, or of less,
        says nothing.
    """
    if value is None or baseline is None or baseline <= 0:
        return None
    change = 100 * (value - baseline) / baseline
    return -change if lower_is_better else change


def delta_m(changes: Sequence[float | None]) -> float | None:
    """Return Δm, the mean over T tasks of the signed relative change in percent; positive is better.

    With M_m,t the metric of the multi-task model at task t, M_b,t that of the single-task baseline, and
    l_t = 1 where lower is better, else 0:

        Δm = 100 % / T * sum_t (-1)^l_t * (M_m,t - M_b,t) / M_b,t

    the average per-task performance of Maninis et al., "Attentive Single-Tasking of Multiple Tasks",
    CVPR 2019, arXiv 1904.08918, there as a drop. `relative_change` returns one task's part.

    Args:
        changes: one per task.

    Returns:
        None where a task's change is None: the mean over the other tasks would be another quantity. None
        without tasks.
    """
    known = [change for change in changes if change is not None]
    return statistics.fmean(known) if known and len(known) == len(changes) else None
