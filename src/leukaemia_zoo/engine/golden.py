"""Cells drawn by a formula: a graph must say of them what Keras says, which is written down for the zoo."""

from __future__ import annotations

import numpy as np

from leukaemia_zoo.cells.arrays import RGBArray


def golden_cells(height: int, width: int) -> RGBArray:
    """Two cells on black and a bright field, uint8 (3, height, width, 3), the same on every machine.

    Example:
        >>> golden_cells(64, 64).shape, int(golden_cells(64, 64)[0, 0, 0].max())
        ((3, 64, 64, 3), 0)
    """
    rows, columns = np.mgrid[:height, :width]
    y, x = (rows + 0.5) / height - 0.5, (columns + 0.5) / width - 0.5
    # Whole numbers from a quadratic residue: rounding is the same everywhere, and it is texture at every scale.
    grain = ((rows * rows * 31 + columns * columns * 17 + rows * columns * 7) % 61) / 60 - 0.5
    cells = []
    for (middle, radius), stain in zip(
        (((0.0, 0.0, 1.0), 0.34), ((0.06, -0.04, 1.5), 0.28)), ((110, 60, 140), (150, 90, 170)), strict=True
    ):
        inside = (y - middle[0]) ** 2 * middle[2] + (x - middle[1]) ** 2 < radius**2
        nucleus = (y - middle[0]) ** 2 + (x - middle[1] - 0.05) ** 2 < (0.6 * radius) ** 2
        colour = np.array(stain) + 40 * grain[..., None] - 35 * nucleus[..., None]
        cells.append(np.where(inside[..., None], np.clip(np.rint(colour), 20, 255), 0))
    cells.append(np.clip(np.rint(np.array((225, 200, 215)) + 50 * grain[..., None]), 0, 255))
    return np.stack(cells).astype(np.uint8)
