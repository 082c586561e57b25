"""Pictures of maps: a cell with its map over it, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from leukaemia_zoo.common.text import printable
from leukaemia_zoo.explanation.maps import Explanation

SIDE = 288
"""Pixels along the longer side of a picture."""

_COLOURS = ((33, 145, 140), (94, 201, 98), (253, 231, 37))
"""From little to much: the upper half of the scale viridis, which nobody confuses with the purple of a stained cell."""

_OPAQUE = 0.7
"""How much of the cell the highest value of a map covers."""

_GAP, _LINE = 10, 15
_SIDE_ON_SHEET = 144


def overlay(explanation: Explanation, side: int = SIDE) -> Image.Image:
    """Lay a map over its cell: green to yellow where there is evidence for the class.

    Args:
        explanation: Of a cell that could be read.
        side: Pixels along the longer side of the picture.

    Returns:
        An RGB image in the shape of the network's input.

    Example:
        >>> import leukaemia_zoo as lz
        >>> frame = np.zeros((450, 450, 3), "uint8")
        >>> frame[150:300, 150:300] = (90, 40, 110)
        >>> overlay(lz.explain("cnn_attention", frame, views=1)[0]).size
        (288, 288)
    """
    cell = _enlarged(Image.fromarray(explanation.image), side)
    heat = np.asarray(_enlarged(Image.fromarray(explanation.map), side)).clip(0, 1)[..., None]
    steps = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(heat[..., 0], steps, channel) for channel in zip(*_COLOURS, strict=True)], axis=-1)
    mixed = np.asarray(cell) * (1 - _OPAQUE * heat) + colour * _OPAQUE * heat
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def contact_sheet(explanations: Sequence[Explanation], title: str, columns: int = 4) -> Image.Image:
    """Cells with their maps beside them, and what was said of each below.

    Args:
        explanations: Of cells that could be read, one or more.
        title: One line at the top.
        columns: The most cells in a row.

    Returns:
        An RGB image.
    """
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    width, height = 2 * _SIDE_ON_SHEET + _GAP, _SIDE_ON_SHEET + 2 * _LINE + _GAP
    columns = min(columns, len(explanations))
    rows = -(-len(explanations) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + 3 * _LINE), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _LINE // 2), _fitted(pen, title, sheet.width - 2 * _GAP, font), "black", font)
    for number, one in enumerate(explanations):
        left, top = _GAP + number % columns * width, 2 * _LINE + number // columns * height
        cell = _enlarged(Image.fromarray(one.image), _SIDE_ON_SHEET)
        sheet.paste(cell, (left, top))
        sheet.paste(overlay(one, _SIDE_ON_SHEET), (left + _SIDE_ON_SHEET, top))
        inside = "" if one.share_inside is None else f", {one.share_inside:.0%} of the map on the cell"
        lines = (one.path.replace("\\", "/").rsplit("/", 1)[-1], f"{one.target} {one.probability:.2f}{inside}")
        for place, line in enumerate(lines):
            where = (left, top + _SIDE_ON_SHEET + place * _LINE)
            pen.text(where, _fitted(pen, printable(line), 2 * _SIDE_ON_SHEET, small), "black", small)
    return sheet


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    zoom = side / max(image.size)
    size = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _fitted(pen: ImageDraw.ImageDraw, line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A line cut to a width, with dots where something is missing."""
    if pen.textlength(line, font) <= width:
        return line
    while line and pen.textlength(f"{line}...", font) > width:
        line = line[:-1]
    return f"{line}..."
