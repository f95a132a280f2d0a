"""Where a stress command works."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the project


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield an empty folder, where the caches are too while it is there."""
    before = os.environ.get("VISION_MTL_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VISION_MTL_CACHE"] = str(Path(folder, "cache"))
        try:
            yield Path(folder)
        finally:
            os.environ.pop("VISION_MTL_CACHE")
            if before is not None:
                os.environ["VISION_MTL_CACHE"] = before
