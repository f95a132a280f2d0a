from __future__ import annotations

import pytest

from tests.inference.networks import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny network of `networks`."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.pt")
