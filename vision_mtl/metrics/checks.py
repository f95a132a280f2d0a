"""The check that every metric makes first: a number that is not finite never turns into a score."""

from __future__ import annotations

import numpy as np

from vision_mtl.errors import NumericsError


def require_finite(values: np.ndarray, what: str) -> None:
    """Raise a `NumericsError` that counts the rows of `values` (N, ...) holding NaN or infinity."""
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        rows = ", ".join(map(str, np.flatnonzero(bad)[:10]))
        raise NumericsError(
            f"{bad.sum()} of {len(values)} {what} are not finite (NaN or infinity); first rows: {rows}. "
            "The model has diverged: evaluate an earlier checkpoint or lower the learning rate"
        )
