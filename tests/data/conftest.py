"""What the tests of annotation files share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_mtl.data.annotations import AnnotationIndex, read_annotations


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write content (an object, text or bytes) to a file and read it without cache."""

    def from_content(content: Any) -> AnnotationIndex:
        file = tmp_path / "set.json"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_annotations(file, None)

    return from_content
