"""The outline of a cell as a polygon."""

from __future__ import annotations

import numpy as np

from leukaemia_zoo.smears.fields import ExtractedCell
from leukaemia_zoo.smears.nuclei import FloatArray, cytology

TOLERANCE = 0.01
"""How far the polygon may lie from the outline, as a part of the width of the cell."""


def outline(cell: ExtractedCell) -> FloatArray:
    """The outline of a cell as a closed ring that does not cross itself: float64 (points, 2), pixels of its field."""
    measure = cytology("skimage.measure")
    ring = max(measure.find_contours(np.pad(cell.mask.astype(float), 1), 0.5), key=len)
    simple = measure.approximate_polygon(ring, max(0.5, TOLERANCE * max(cell.mask.shape)))
    if len(simple) < 4 or crosses_itself(simple):
        simple = ring
    # From the middles of padded pixels to corners of the field's.
    return np.asarray(simple[:, ::-1] - 0.5 + cell.box[:2])


def crosses_itself(ring: FloatArray) -> bool:
    """Whether two edges of a closed ring that are no neighbours meet.

    Example:
        >>> square = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]])
        >>> crosses_itself(square), crosses_itself(square[[0, 2, 1, 3, 0]])
        (False, True)
    """

    def side(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
        return np.asarray(np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]))

    starts, ends = np.asarray(ring[:-1], float), np.asarray(ring[1:], float)
    a, b, c, d = starts[:, None], ends[:, None], starts[None], ends[None]
    apart = (side(a, b, c) * side(a, b, d) > 0) | (side(c, d, a) * side(c, d, b) > 0)
    away = (np.maximum(a, b) < np.minimum(c, d)) | (np.maximum(c, d) < np.minimum(a, b))
    meets = ~(apart | away.any(axis=-1))
    number = np.arange(len(starts))
    gap = np.abs(number[:, None] - number[None])
    return bool((meets & (gap > 1) & (gap < len(starts) - 1)).any())
