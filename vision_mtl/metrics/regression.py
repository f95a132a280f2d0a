"""Numbers to errors."""

from __future__ import annotations

import numpy as np

from vision_mtl.metrics.checks import require_finite


def regression_metrics(values: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Score one number per image.

    Args:
        values: (I,) predictions in the label's own unit.
        targets: (I,) labels, NaN for unknown ones, which are left out.

    Returns:
        MAE, RMSE: in the label's unit; None where nothing is labelled.
        R2: 1 - residual / total sum of squares, at most 1, and 0 for predicting the mean; None for
            fewer than two labels or labels that are all equal.
        labelled: the images that these numbers rest on.
    """
    require_finite(values, "predicted values")
    known = ~np.isnan(targets)
    labels = targets[known].astype(np.float64)
    errors = values[known] - labels
    if not len(labels):
        return {"MAE": None, "RMSE": None, "R2": None, "labelled": 0}
    r2 = None
    if labels.min() < labels.max():
        r2 = float(1 - np.square(errors).sum() / np.square(labels - labels.mean()).sum())
    return {
        "MAE": float(np.abs(errors).mean()),
        "RMSE": float(np.sqrt(np.square(errors).mean())),
        "R2": r2,
        "labelled": len(labels),
    }
