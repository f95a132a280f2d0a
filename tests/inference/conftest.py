from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inference.networks import write_checkpoint
from tests.training.narrow import narrow_trunk


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny network of `networks`; its narrow trunk is built as long as the module's tests run."""
    with narrow_trunk():
        yield write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "best.pt")
