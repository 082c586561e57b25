"""Tiny images of cells, for the tests of readers and tables."""

from pathlib import Path

import numpy as np
from PIL import Image


def paint(path: Path, value: int = 0) -> Path:
    """Write a tiny image; the value, below 256, decides its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((18, 16, 3), value, np.uint8)
    pixels[0, 0] = (10, 20, 30)
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)
    return path
