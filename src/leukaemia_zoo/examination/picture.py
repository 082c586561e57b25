"""A field with the outlines of its white cells and what was said of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from leukaemia_zoo.cells.arrays import RGBArray
from leukaemia_zoo.common.files import write_png
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.examination.field import ExaminedCell

LONGEST_SIDE = 2400
"""Pixels along the longer side of a picture: a larger field is reduced to it."""

_LEGEND = 26


class FieldPicture:
    """Outlines are drawn one by one, so that those of a whole slide are never all in memory.

    Args:
        field: uint8 (height, width, 3): the field, or a whole slide reduced already.
        width: Pixels of the field across, in which the outlines are given.
        colours: Of each answer.

    Attributes:
        counts: How many cells of each answer were drawn.
    """

    def __init__(self, field: RGBArray, width: int, colours: Mapping[str, tuple[int, int, int]]) -> None:
        image = Image.fromarray(field)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        self._zoom, self._height = image.width / width, image.height
        self._colours = colours
        self.counts = dict.fromkeys(colours, 0)
        self._sheet = Image.new("RGB", (image.width, image.height + 2 * _LEGEND), "white")
        self._sheet.paste(image, (0, 0))
        self._pen = ImageDraw.Draw(self._sheet)
        self._font = ImageFont.load_default(max(12, image.width // 70))
        self._small = ImageFont.load_default(13)

    def draw(self, examined: ExaminedCell) -> None:
        """Add a cell: its outline, and its number with what was said of it."""
        colour = self._colours[examined.answer]
        self.counts[examined.answer] += 1
        ring = [tuple(point) for point in (examined.outline * self._zoom).tolist()]
        self._pen.line(ring, fill=colour, width=max(2, self._sheet.width // 220), joint="curve")
        said = examined.prediction
        sure = "" if examined.answer not in said.class_names else f" {max(said.probabilities or (0,)):.2f}"
        line = f"{examined.number} {examined.answer}{sure}"
        x, y = np.array(examined.cell.box[:2]) * self._zoom
        left, _, right, bottom = self._pen.textbbox((0, 0), line, self._font)
        x = float(np.clip(x, 0, max(0, self._sheet.width - right - 4)))
        y = y - bottom - 5 if y > bottom + 5 else min(examined.cell.box[3] * self._zoom + 2, self._height - bottom - 4)
        self._pen.rectangle((x, y, x + right - left + 4, y + bottom + 3), fill=colour)
        self._pen.text((x + 2, y + 1), line, "white", self._font)

    def save(self, path: Path) -> None:
        """Write the picture as PNG, with a legend below it."""
        x = 8.0
        for answer, count in self.counts.items():
            if count:
                y = self._height + 6
                self._pen.rectangle((x, y, x + 14, y + 14), fill=self._colours[answer])
                line = f"{answer}: {count}"
                self._pen.text((x + 20, y), line, "black", self._small)
                x += 36 + self._pen.textlength(line, self._small)
        if not any(self.counts.values()):
            self._pen.text((x, self._height + 6), "no white cell was found", "black", self._small)
        self._pen.text((8, self._height + _LEGEND + 4), NOT_A_DIAGNOSIS, "black", self._small)
        write_png(path, self._sheet)
