"""White cells of whole-slide files, tile by tile, so that a slide of a hundred thousand pixels needs little memory.

Tiles overlap by more than a cell. A cell belongs to the tile in whose core its middle lies, where it is seen whole;
what two tiles see on both sides of a seam is counted once. Files are read by tiffslide, from the extra `slides`.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from leukaemia_zoo.cells.arrays import MAX_PIXELS, RGBArray, lies_on_black
from leukaemia_zoo.errors import ImageError, SlidesMissingError
from leukaemia_zoo.smears.fields import ExtractedCell, estimate_scale, extract_cells
from leukaemia_zoo.smears.segmentation import checked_scale

SLIDE_SUFFIXES: frozenset[str] = frozenset({".svs", ".ndpi", ".scn", ".bif"})
"""Suffixes, in lower case, of what is always a whole slide. A TIFF is one if it is tiled and large, or has levels."""

CORE = 200.0
"""Micrometres along a tile without what it shares with its neighbours."""

MARGIN = 30.0
"""Micrometres that a tile goes beyond its core on each side: the widest white cells of blood measure 25 to 30."""

SEAM = 3.0
"""Micrometres by which two tiles may differ on where the middle of a cell is."""

_TILED = 322
"""Tag of TIFF: the width of a tile."""

_LEAST_CONTRAST = 20
"""Grey levels between the darkest and brightest of a tile seen coarsely, below which it is empty glass."""

_COARSE = 16
"""A tile is looked at coarsely, to pass it over, at a level that is at most so many times smaller."""

_PLACES_FOR_SCALE, _TILES_FOR_SCALE = 60, 12
"""So many places are looked at, for so many tiles that show something."""


def is_slide(path: Path) -> bool:
    """Whether a file is a whole slide: by its suffix, or a TIFF in tiles that is larger than an image or has levels."""
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return True
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            image = TiffImageFile(stream)
            tags: Any = image.tag_v2
            if _TILED not in tags:
                return False
            levels = 330 in tags or getattr(image, "n_frames", 1) > 1  # 330: smaller copies inside
            return levels or image.width * image.height > MAX_PIXELS
    except Exception:  # of a damaged file reading tells
        return False


class Slide:
    """A whole-slide file that is open.

    Args:
        path: What tiffslide reads: Aperio SVS, Hamamatsu NDPI, Leica SCN, Ventana BIF and tiled TIFF.

    Attributes:
        path: The file.
        width: Pixels of its full resolution.
        height: See above.
        micrometres_per_pixel: As the file says; None where it does not.

    Raises:
        ImageError: If the file cannot be read.
        SlidesMissingError: If tiffslide is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = slide_reader()
        if not path.is_file():
            raise ImageError(f"{path} does not exist: check the file's name and folder.")
        try:
            self._slide = reader.TiffSlide(path)
            self.width, self.height = self._slide.dimensions
            told = [self._slide.properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
        except Exception as error:  # tiffslide has no errors of its own
            raise ImageError(f"{path} cannot be read as a whole slide ({error}): copy or export it again.") from error
        scales = [float(value) for value in told if value]
        same = len(scales) == 2 and abs(scales[0] - scales[1]) < 0.05 * scales[0] and 0.01 <= scales[0] <= 1
        self.micrometres_per_pixel = scales[0] if same else None

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slide.close()

    def read(self, left: int, top: int, width: int, height: int, level: int = 0) -> RGBArray:
        """Pixels of a rectangle, which is given in pixels of the full resolution.

        Raises:
            ImageError: If this part of the file is damaged.
        """
        shrink = self._slide.level_downsamples[level]
        size = (max(1, int(width / shrink)), max(1, int(height / shrink)))
        try:
            found = self._slide.read_region((left, top), level, size, as_array=True)
        except Exception as error:
            raise ImageError(
                f"{self.path} is damaged near the pixel {left}, {top} ({error}): copy or export it again."
            ) from error
        return np.ascontiguousarray(found[..., :3])

    def overview(self, side: int) -> RGBArray:
        """The whole slide, its longer side reduced to at most so many pixels."""
        picture = self._slide.get_thumbnail((side, side))
        return np.asarray(picture.convert("RGB"))

    def looks_empty(self, left: int, top: int, width: int, height: int) -> bool:
        """Whether a rectangle shows glass alone, or the black beside what was scanned, by a coarse level."""
        level = max(i for i, shrink in enumerate(self._slide.level_downsamples) if i == 0 or shrink <= _COARSE)
        pixels = self.read(left, top, width, height, level)
        return bool(np.ptp(pixels.reshape(-1, 3), axis=0).max() < _LEAST_CONTRAST) or lies_on_black(pixels)

    def estimate_scale(self) -> float:
        """Micrometres per pixel by the red cells of some tiles.

        Raises:
            ImageError: If there are too few red cells in sight.
        """
        side = min(1024, self.width, self.height)
        rng = np.random.default_rng(0)
        places = (
            (int(rng.integers(self.width - side + 1)), int(rng.integers(self.height - side + 1)))
            for _ in range(_PLACES_FOR_SCALE)
        )
        full = ((x, y) for x, y in places if not self.looks_empty(x, y, side, side))
        tiles = [self.read(x, y, side, side) for x, y in itertools.islice(full, _TILES_FOR_SCALE)]
        if not tiles:
            raise ImageError(
                f"{self.path} is empty, so that its scale cannot be estimated: give micrometres_per_pixel."
            )
        return estimate_scale(tiles)

    def cells(self, micrometres_per_pixel: float, stain: str | None = None) -> Iterator[ExtractedCell]:
        """Find the white cells tile by tile.

        Args:
            micrometres_per_pixel: The scale of the full resolution.
            stain: As `extract_cells` takes it.

        Yields:
            The cells, their boxes in pixels of the full resolution, row by row of tiles.

        Raises:
            ImageError: If the file is damaged, or the scale is not a number from 0.01 to 1.
        """
        scale = checked_scale(micrometres_per_pixel)
        margin, seam = round(MARGIN / scale), SEAM / scale
        columns, rows = (_cores(length, CORE / scale) for length in (self.width, self.height))
        near: list[tuple[int, tuple[int, int, int, int]]] = []
        for number, (top, bottom) in enumerate(rows):
            near = [(row, box) for row, box in near if row >= number - 1]
            for left, right in columns:
                x, y = max(0, left - margin), max(0, top - margin)
                width, height = min(self.width, right + margin) - x, min(self.height, bottom + margin) - y
                if self.looks_empty(x, y, width, height):
                    continue
                pixels = self.read(x, y, width, height)
                if lies_on_black(pixels):
                    continue
                for cell in extract_cells(pixels, micrometres_per_pixel=scale, stain=stain):
                    box = (cell.box[0] + x, cell.box[1] + y, cell.box[2] + x, cell.box[3] + y)
                    middle, height_of_middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                    # How far inside the core: below 0 outside, where another tile has it unless the two differ.
                    inside = min(middle - left, right - middle, height_of_middle - top, bottom - height_of_middle)
                    if inside < -seam:
                        continue
                    if inside <= 2 * seam:
                        if any(_same(box, other) for _, other in near):
                            continue
                        near.append((number, box))
                    yield dataclasses.replace(cell, box=box)


def _cores(length: int, side: float) -> list[tuple[int, int]]:
    """Beginning and end of the cores along one side, about equally long, without gaps."""
    edges = np.linspace(0, length, max(1, round(length / side)) + 1).round().astype(int).tolist()
    return list(itertools.pairwise(edges))


def _same(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two boxes show the same cell: they share more than half of the smaller one."""
    width, height = (min(one[2 + a], other[2 + a]) - max(one[a], other[a]) for a in (0, 1))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width > 0 and height > 0 and width * height > 0.5 * smaller


def slide_reader() -> Any:
    """tiffslide."""
    try:
        return importlib.import_module("tiffslide")
    except ImportError as error:
        raise SlidesMissingError(
            "Reading whole slides needs tiffslide: run `pip install 'leukaemia-zoo[cytology,slides]'`."
        ) from error
