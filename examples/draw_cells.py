"""Draw the six cells in `examples/cells`: python examples/draw_cells.py [folder]

The drawings only resemble the segmented cells of C-NMC 2019 in size, colour and texture, so that the software can be
tried without any patient's data. No network was trained on them, and what a network says about them means nothing.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256  # pixels for the frame that an official file shows at 450 pixels

NUCLEUS_ALL, NUCLEUS_HEM = (76, 31, 85), (60, 24, 73)  # median RGB in C-NMC 2019, as measured on some cells of each
CYTOPLASM = (88, 48, 98)
GRANULE = (112, 54, 104)  # lighter, redder spots between the chromatin


@dataclass(frozen=True)
class Drawing:
    """One cell: lengths as parts of the frame's side, the rest as parts of 1."""

    name: str
    nucleus: tuple[int, int, int]
    radius: float
    elongation: float
    irregularity: float
    cytoplasm: float  # width of the rim around the nucleus
    grain: float  # size of the chromatin's clumps: fine in blasts, coarse in mature lymphocytes


# ALL cells cover 36,244 of 450 x 450 pixels on average, normal ones 26,544: mean radii of 0.239 and 0.204.
DRAWINGS = (
    Drawing("UID_901_1_1_all", NUCLEUS_ALL, 0.241, 0.05, 0.045, 0.008, 0.026),
    Drawing("UID_901_1_2_all", NUCLEUS_ALL, 0.252, 0.10, 0.060, 0.006, 0.024),
    Drawing("UID_902_1_1_all", NUCLEUS_ALL, 0.228, 0.03, 0.050, 0.010, 0.028),
    Drawing("UID_H901_1_1_hem", NUCLEUS_HEM, 0.203, 0.04, 0.012, 0.014, 0.040),
    Drawing("UID_H901_1_2_hem", NUCLEUS_HEM, 0.190, 0.02, 0.015, 0.018, 0.046),
    Drawing("UID_H902_1_1_hem", NUCLEUS_HEM, 0.215, 0.06, 0.010, 0.012, 0.040),
)


def draw_cell(drawing: Drawing) -> npt.NDArray[np.uint8]:
    """Draw one cell on exactly black as uint8 RGB of shape (256, 256, 3), always with the same pixels."""
    # The random module, because only its stream is promised to stay the same in every version.
    rng = random.Random(drawing.name)
    y, x = np.mgrid[0:SIDE, 0:SIDE] - (SIDE - 1) / 2
    angle, distance = np.arctan2(y, x), np.hypot(x, y)

    outline = _outline(rng, drawing, angle)
    # The nucleus lies a little to one side, so that the rim of cytoplasm is uneven.
    rim = drawing.cytoplasm * SIDE * (1 + 0.9 * np.cos(angle - rng.uniform(0, math.tau)))
    in_cell = np.clip(outline - distance + 0.5, 0, 1)
    in_nucleus = np.clip((outline - rim - distance) / 3 + 0.5, 0, 1)

    clumps = _noise(rng, drawing.grain) + 0.5 * _noise(rng, drawing.grain / 2)
    shade = 1 + 0.07 * clumps + 0.05 * _noise(rng, 0.15)
    granules = np.clip(_noise(rng, 0.03) - 1.3, 0, 1) * 0.6
    nucleus = _mix(np.multiply.outer(shade, drawing.nucleus), GRANULE, granules)
    cytoplasm = np.multiply.outer(1 + 0.05 * _noise(rng, 0.02), CYTOPLASM)
    cell = _mix(cytoplasm, nucleus, in_nucleus)
    return np.rint(np.clip(cell * in_cell[..., None], 0, 255)).astype(np.uint8)


def _outline(rng: random.Random, drawing: Drawing, angle: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Distance of the cell's edge from the middle, in pixels, in each direction."""
    outline = 1 + drawing.elongation * np.cos(2 * (angle - rng.uniform(0, math.tau)))
    for wave in range(3, 12):
        strength = drawing.irregularity * rng.uniform(0.3, 1) / math.sqrt(wave - 1)
        outline += strength * np.cos(wave * angle + rng.uniform(0, math.tau))
    return drawing.radius * SIDE * outline


def _noise(rng: random.Random, grain: float) -> npt.NDArray[np.floating]:
    """Cloudy noise of mean about 0 and standard deviation 1, its clouds `grain` of the frame's side wide."""
    points = max(2, round(1 / grain))
    grid = np.array([rng.random() for _ in range(points * points)], np.float32).reshape(points, points)
    noise = np.asarray(Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return (noise - noise.mean()) / noise.std()


def _mix(below: npt.ArrayLike, above: npt.ArrayLike, share: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    share = share[..., None]
    return (1 - share) * np.asarray(below) + share * np.asarray(above)


def main() -> None:
    """Write every drawing as PNG."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in DRAWINGS:
        Image.fromarray(draw_cell(drawing)).save(folder / f"{drawing.name}.png", optimize=True)


if __name__ == "__main__":
    main()
