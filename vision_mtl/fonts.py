"""The font of drawings and plots."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache
def font_of_size(size: int) -> Font:
    """Return DejaVu Sans, which comes with matplotlib and has most alphabets; Pillow's font is ASCII only."""
    spec = importlib.util.find_spec("matplotlib")  # only looked for: importing it takes long
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = [Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf") for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    return ImageFont.truetype(str(found), size) if found else ImageFont.load_default(size)
