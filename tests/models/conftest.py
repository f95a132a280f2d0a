"""What the tests of the network may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """Remove files of weights, since pytest keeps its folders and each may have 170 MB."""
    yield
    for path in tmp_path.glob("*.pth"):
        path.unlink()
