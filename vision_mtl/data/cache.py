"""Where files that can be made again are kept, outside any data set."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$VISION_MTL_CACHE`, else `$XDG_CACHE_HOME/vision_mtl`, else `~/.cache/vision_mtl`.

    The folder need not exist; whoever writes into it creates it.
    """
    if chosen := os.environ.get("VISION_MTL_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "vision_mtl"
    return Path.home() / ".cache" / "vision_mtl"
