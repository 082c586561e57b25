"""A cell onto a black background, as the cells of C-NMC 2019 lie.

* `cell_mask` finds the one cell in the middle of a photograph, nucleus and cytoplasm.
* `segment_cell` makes everything else black, and if it knows the scale gives the frame that the networks take.

Two things of stained blood carry it. Nuclei absorb red light and are bluer than all else, red cells do neither: that is
the nuclear index. And a cell differs in colour from the empty slide, which its cytoplasm borders on. Filters, watershed
and components are scikit-image's, from the extra `cytology`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.cells.arrays import BLACK, RGBArray, as_image, brightest, lies_on_black
from leukaemia_zoo.errors import ImageError
from leukaemia_zoo.smears.nuclei import BoolArray, cytology, group_nuclei, grow_cells, nuclear_threshold, stain_planes

CNMC_MICROMETRES_PER_PIXEL = 0.06
"""Scale at which C-NMC 2019 shows cells. Its authors published none that we know of: this is the scale at which its
normal cells are as large as the lymphocytes of PBC, measured by the red cells beside them
(`tools/segmentation_results.py`). Normal cells of marrow and lymphocytes of blood need not be equally large, so that it
may be wrong by a sixth or more."""

FRAME = 450
"""Side in pixels of the official frames of C-NMC 2019."""

WORKING_SCALE = 6.0
"""Pixels per micrometre at which cells are looked for; finer images are reduced, which saves time."""

NUCLEUS = 8.0
"""Micrometres that the nucleus in the middle is taken to measure where the scale is not known. Only smoothing and gaps
depend on it, not the outline."""


# --------------------------------------------------------------------------------------------------------------------
# One cell


def segment_cell(image: npt.ArrayLike, *, micrometres_per_pixel: float | None = None) -> RGBArray:
    """Put the one cell in the middle of a photograph on exactly black.

    Args:
        image: What `as_image` takes: shape (height, width, 3), RGB, 0 to 255. A cell that lies on black already is kept
            as it is.
        micrometres_per_pixel: The scale of the image. With it the result is a frame as in C-NMC 2019, 450 x 450 pixels
            at `CNMC_MICROMETRES_PER_PIXEL`, with the cell in its middle: what `predict` takes. Without it the result
            has the size of the image and the cell stays where it is: its size on the slide is then not known, and
            `predict` would take the frame for one of C-NMC.

    Returns:
        A uint8 array, RGB, 0 to 255, 0 wherever there is no cell: of the shape of the image, or (450, 450, 3).

    Raises:
        ImageError: The array is not such an image, no cell is found in it, or the scale is not a number above 0.
        CytologyMissingError: scikit-image is not installed.

    Example:
        >>> y, x = np.mgrid[:120, :120] - 60
        >>> photograph = np.full((120, 120, 3), (235, 225, 225), np.uint8)
        >>> photograph[np.hypot(x, y) < 35] = (190, 160, 205)  # cytoplasm
        >>> photograph[np.hypot(x, y) < 25] = (80, 40, 120)  # nucleus
        >>> cell = segment_cell(photograph)
        >>> cell.shape, cell[60, 60].tolist(), cell[60, 30].tolist(), cell[5, 5].tolist()
        ((120, 120, 3), [80, 40, 120], [190, 160, 205], [0, 0, 0])
        >>> segment_cell(photograph, micrometres_per_pixel=0.15).shape
        (450, 450, 3)
    """
    pixels = as_image(image)
    scale = None if micrometres_per_pixel is None else checked_scale(micrometres_per_pixel)
    mask = cell_mask(pixels)
    if scale is None:
        return np.where(mask[..., None], pixels, 0).astype(np.uint8)
    return on_black(pixels, mask, scale)


def cell_mask(image: npt.ArrayLike) -> BoolArray:
    """Find the one cell in the middle of a photograph: its nucleus and its cytoplasm.

    Args:
        image: What `as_image` takes, with the cell near the middle and darker than the slide. Of a cell on black
            everything that is not black is the mask.

    Returns:
        A bool array of shape (height, width), True on the cell, in one piece without holes.

    Raises:
        ImageError: The array is not such an image, or no cell is found in it.
        CytologyMissingError: scikit-image is not installed.

    Example:
        >>> cell = np.zeros((64, 64, 3), np.uint8)
        >>> cell[20:40, 20:40] = (80, 40, 90)
        >>> int(cell_mask(cell).sum())
        400
    """
    pixels = as_image(image)
    if lies_on_black(pixels):
        mask = off_black(pixels)
        if not mask.any():
            raise ImageError("The image is black everywhere: give a photograph of a cell.")
        return central(mask)
    measure = cytology("skimage.measure")
    small, _ = reduced(pixels, min(1.0, 256 / min(pixels.shape[:2])))
    planes = stain_planes(small)
    nuclear = planes.nuclear > nuclear_threshold(planes)
    middle = np.array(nuclear.shape) / 2
    area = sum(_weight(region, middle) for region in measure.regionprops(measure.label(nuclear)))
    if area < 20 or planes.distance.max() < 10:
        raise ImageError(
            "No nucleus stands out in the image: give a photograph of a stained white blood cell in the middle."
        )
    per_micrometre = np.sqrt(4 * area / np.pi) / NUCLEUS
    nuclei = group_nuclei(nuclear, per_micrometre, gap=3.0)
    if not nuclei.any():
        nuclei = measure.label(nuclear)
    cells = grow_cells(planes, nuclei, per_micrometre)
    chosen = max(measure.regionprops(cells), key=lambda region: _weight(region, middle))
    return enlarged(cells == chosen.label, pixels.shape[:2])


def _weight(region: Any, middle: npt.NDArray[Any]) -> float:
    """Area of a region, the less the farther from the middle: by 1/e at 35 % of the shorter side."""
    away = np.hypot(*(np.array(region.centroid) - middle)) / (2 * middle.min())
    return float(region.area * np.exp(-8 * away**2))


def on_black(pixels: RGBArray, mask: BoolArray, micrometres_per_pixel: float) -> RGBArray:
    """Cut one cell out of an image into a frame as in C-NMC 2019: uint8 (450, 450, 3), exactly black around it.

    The middle of the cell's outline is in the middle of the frame. What does not fit into it is cut off.

    Example:
        >>> pixels = np.full((40, 60, 3), 200, np.uint8)
        >>> mask = np.zeros((40, 60), bool)
        >>> mask[10:20, 10:30] = True
        >>> frame = on_black(pixels, mask, 4 * CNMC_MICROMETRES_PER_PIXEL)
        >>> frame.shape, round(int((frame > 0).any(axis=-1).sum()), -2)  # 10 x 20 pixels, each of them 4 x 4 now
        ((450, 450, 3), 3200)
    """
    zoom = micrometres_per_pixel / CNMC_MICROMETRES_PER_PIXEL
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    middle = np.array([columns[0] + columns[-1] + 1, rows[0] + rows[-1] + 1]) / 2
    # The transform of Pillow would not smooth where it reduces; resize does, but only within the image: put the part of
    # the image that the frame shows onto a canvas first.
    half = FRAME / 2 / zoom
    left, top = np.floor(middle - half).astype(int) - 1
    side = int(np.ceil(2 * half)) + 3
    canvas, cell = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + side, mask.shape[0]), min(left + side, mask.shape[1])
    canvas[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
    cell[y0 - top : y1 - top, x0 - left : x1 - left] = 255 * mask[y0:y1, x0:x1]
    corner = middle - half - (left, top)
    box = (*corner, *np.minimum(corner + 2 * half, side))
    # Bicubic for the colours, as the preprocessing resizes; an area average for the outline, so that the area is kept.
    colours = np.array(Image.fromarray(canvas).resize((FRAME, FRAME), Image.Resampling.BICUBIC, box=box))
    kind = Image.Resampling.BOX if zoom < 1 else Image.Resampling.BILINEAR
    inside = np.asarray(Image.fromarray(cell).resize((FRAME, FRAME), kind, box=box)) >= 128
    # A pixel of a cell is never exactly black: that is how the networks tell the background.
    return np.where(inside[..., None], np.maximum(colours, 1), 0).astype(np.uint8)


def off_black(pixels: RGBArray) -> BoolArray:
    """The pixels that are not the black around a cell: above `BLACK`, or above 0 where the edge is black exactly."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    exact = (edge == 0).all(axis=-1).mean() >= 0.9
    return np.asarray(brightest(pixels) > (0 if exact else BLACK))


def central(mask: BoolArray) -> BoolArray:
    """The largest piece of a mask, without holes."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), bool)


# --------------------------------------------------------------------------------------------------------------------
# Small tools


def reduced(pixels: RGBArray, zoom: float) -> tuple[RGBArray, float]:
    """An image at `zoom` times its size, at most 1, and the zoom that rounding to whole pixels left."""
    if zoom >= 1:
        return pixels, 1.0
    size = (max(1, round(pixels.shape[1] * zoom)), max(1, round(pixels.shape[0] * zoom)))
    small = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX))
    return small, size[0] / pixels.shape[1]


def enlarged(mask: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    """A mask at another size, its outline smoothed."""
    if mask.shape == shape:
        return np.asarray(mask, bool)
    wide = Image.fromarray(255 * mask.astype(np.uint8)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(wide) >= 128


def checked_scale(value: Any) -> float:
    """A scale in micrometres per pixel, from 0.01 to 1.

    Finer than light resolves, or too coarse to see a nucleus in, it is a mistake, such as pixels per micrometre.
    """
    try:
        scale = float(value)
    except (TypeError, ValueError):
        scale = np.nan
    if isinstance(value, bool | str) or not 0.01 <= scale <= 1:
        raise ImageError(
            f"micrometres_per_pixel is {value!r}: give a number from 0.01 to 1, such as 0.1, not pixels per micrometre."
        )
    return scale
