"""Whole fields of a smear: the white cells in them, their scale, and how to tell them from single cells.

* `extract_cells` finds the white cells of a field and gives each as a frame like those of C-NMC 2019.
* `estimate_scale` tells micrometres per pixel from the red cells, which are almost equally large in everybody.
* `reject` says why an image is not what the networks take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.cells.arrays import RGBArray, as_image, as_images, lies_on_black
from leukaemia_zoo.errors import ImageError
from leukaemia_zoo.smears.nuclei import (
    BoolArray,
    FloatArray,
    cytology,
    differs,
    group_nuclei,
    grow_cells,
    nuclear_threshold,
    stain_planes,
)
from leukaemia_zoo.smears.segmentation import WORKING_SCALE, checked_scale, off_black, on_black, reduced
from leukaemia_zoo.smears.stains import checked_method, normalise_stain

RED_CELL_DIAMETER = 7.35
"""Micrometres across a red cell on a stained smear: the middle of 7.2 to 7.5, the mean that textbooks give."""

LEAST_RED_CELLS = 3
"""Fewer whole, round, single red cells than this give no scale."""

LEAST_INDEX = 0.40
"""Mean nuclear index of a nucleus: below it, it is a red cell. Chosen on the tuning part of BCCD and PBC."""

LEAST_AREA = 30.0
"""Square micrometres of the smallest white cell, 6.2 micrometres across: below it, it is a platelet or a fragment."""


@dataclass(frozen=True, eq=False)
class ExtractedCell:
    """A white cell of a field.

    Attributes:
        image: uint8 (450, 450, 3), RGB: the cell on exactly black at the scale of C-NMC 2019, for `predict`.
        box: Left, top, right and bottom in pixels of the field; right and bottom lie just outside.
        mask: bool (bottom - top, right - left), True on the cell, at the resolution of the field.
        area: Of the cell, in square micrometres.
        touches_border: Whether the border of the field, or of the frame in `image`, may cut the cell: its size and
            shape say little then.
        micrometres_per_pixel: The scale of the field that was given or estimated.
    """

    image: RGBArray
    box: tuple[int, int, int, int]
    mask: BoolArray
    area: float
    touches_border: bool
    micrometres_per_pixel: float


def extract_cells(
    field: npt.ArrayLike, *, micrometres_per_pixel: float | None = None, stain: str | None = None
) -> list[ExtractedCell]:
    """Find the white cells of a field and cut them out at the scale of C-NMC 2019.

    Args:
        field: What `as_image` takes: shape (height, width, 3), RGB, 0 to 255, stained cells on a bright background.
        micrometres_per_pixel: Its scale; None estimates it from the red cells, see `estimate_scale`. Give it where you
            know it: an error of a tenth in the scale is one of a fifth in the area of every cell.
        stain: None, or `"reinhard"` or `"macenko"`: bring the colours of each cell to those of C-NMC 2019, see
            `normalise_stain`.

    Returns:
        The cells from top to bottom, then from left to right; an empty list where there is none. Nucleated red cells,
        smudges and large platelets pass for white cells.

    Raises:
        ImageError: The array is not such an image, it is a cell on black, the scale is not a number from 0.01 to 1, or
            it cannot be estimated.
        UnknownNameError: There is no such normalisation.
        CytologyMissingError: A package of the extra `cytology` is not installed.

    Example:
        >>> y, x = np.mgrid[:300, :400]
        >>> field = np.full((300, 400, 3), (235, 225, 225), np.uint8)
        >>> field[np.hypot(x - 200, y - 150) < 55] = (190, 160, 205)  # cytoplasm
        >>> field[np.hypot(x - 200, y - 150) < 40] = (80, 40, 120)  # nucleus
        >>> field[np.hypot(x - 60, y - 60) < 36] = (225, 170, 165)  # red cell
        >>> (cell,) = extract_cells(field, micrometres_per_pixel=0.1)
        >>> cell.image.shape, cell.touches_border, 90 < cell.area < 100
        ((450, 450, 3), False, True)
    """
    pixels = as_image(field, name="field")
    checked_method(stain)
    scale = None if micrometres_per_pixel is None else checked_scale(micrometres_per_pixel)
    if lies_on_black(pixels):
        raise ImageError(
            "The field is black around its edge, like a cell cut out: give a field on a bright background."
        )
    if scale is None:
        scale = estimate_scale(pixels)
    small, zoom = reduced(pixels, WORKING_SCALE * scale)
    per_micrometre = zoom / scale
    planes = stain_planes(small)
    # As strong as the strongest 20 square micrometres, less than any nucleus, however large the field is.
    threshold = max(LEAST_INDEX / 2, nuclear_threshold(planes, 20 * per_micrometre**2 / planes.nuclear.size))
    nuclei = group_nuclei(planes.nuclear > threshold, per_micrometre)
    measure = cytology("skimage.measure")
    strong = [
        region.label for region in measure.regionprops(nuclei, planes.nuclear) if region.intensity_mean >= LEAST_INDEX
    ]
    if not strong:
        return []
    table = np.zeros(int(nuclei.max()) + 1, np.intp)
    table[strong] = range(1, len(strong) + 1)
    cells = grow_cells(planes, table[nuclei], per_micrometre)
    found = [
        _cut_out(pixels, cells == region.label, region.bbox, zoom, scale, stain)
        for region in measure.regionprops(cells)
        if region.area >= LEAST_AREA * per_micrometre**2
    ]
    return sorted(found, key=lambda cell: (cell.box[1], cell.box[0]))


def _cut_out(
    pixels: RGBArray, small: BoolArray, bbox: tuple[int, ...], zoom: float, scale: float, stain: str | None
) -> ExtractedCell:
    """One cell at the resolution of the field from its mask at the working scale."""
    height, width = pixels.shape[:2]
    top, left = (int(side / zoom) for side in bbox[:2])
    bottom, right = min(height, int(np.ceil(bbox[2] / zoom))), min(width, int(np.ceil(bbox[3] / zoom)))
    # The zooms of height and width differ by a rounding.
    down, along = small.shape[0] / height, small.shape[1] / width
    source = (left * along, top * down, min(right * along, small.shape[1]), min(bottom * down, small.shape[0]))
    wide = Image.fromarray(255 * small.astype(np.uint8))
    wide = wide.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=source)
    mask = np.asarray(wide) >= 128
    whole = np.zeros((height, width), bool)
    whole[top:bottom, left:right] = mask
    image = on_black(pixels, whole, scale)
    if stain is not None:
        image = normalise_stain(image, stain)
    edge = max(1.0, 1 / zoom)  # a pixel of the working scale
    cut = min(left, top) < edge or right > width - edge or bottom > height - edge
    on_frame = bool(image[[0, -1]].any() or image[:, [0, -1]].any())
    return ExtractedCell(
        image, (left, top, right, bottom), mask, float(mask.sum() * scale**2), bool(cut) or on_frame, scale
    )


def estimate_scale(fields: npt.ArrayLike | Iterable[npt.ArrayLike]) -> float:
    """Estimate micrometres per pixel from the red cells, which are about 7.35 micrometres across.

    Only red cells that lie whole, round and free, or only just touch another, are measured; the result is
    `RED_CELL_DIAMETER` by their median diameter. People with small or large red cells (iron deficiency, megaloblastic
    anaemia) shift it by a tenth and more: a scale from the microscope is better.

    Args:
        fields: A field, or several of the same microscope, as `as_images` takes them. More fields give a better scale.

    Returns:
        Micrometres per pixel.

    Raises:
        ImageError: They are not such images, or show fewer than `LEAST_RED_CELLS` red cells to measure.
        CytologyMissingError: scikit-image is not installed.

    Example:
        >>> y, x = np.mgrid[:300, :400]
        >>> field = np.full((300, 400, 3), (235, 225, 225), np.uint8)
        >>> for column in (60, 180, 300):
        ...     field[np.hypot(x - column, y - 150) < 37] = (225, 170, 165)
        >>> round(estimate_scale(field), 2)
        0.1
    """
    measured = [_red_cells(pixels) for pixels in as_images(fields, name="fields")]
    diameters = np.sort(np.concatenate(measured))
    if len(diameters):
        # The median by area: specks, however many, are not what the field consists of.
        covered = np.cumsum(diameters**2)
        typical = diameters[np.searchsorted(covered, covered[-1] / 2)]
        diameters = diameters[(diameters > 0.7 * typical) & (diameters < 1.4 * typical)]
    if len(diameters) < LEAST_RED_CELLS:
        raise ImageError(
            f"The scale cannot be estimated: {len(diameters)} whole round red cells are in sight and "
            f"{LEAST_RED_CELLS} are needed, so give micrometres_per_pixel, or estimate_scale() of several fields."
        )
    return RED_CELL_DIAMETER / float(np.median(diameters))


def _red_cells(pixels: RGBArray) -> FloatArray:
    """Diameters in pixels of what looks like a whole red cell."""
    from scipy import ndimage

    measure, morphology, segmentation = (
        cytology(f"skimage.{name}") for name in ("measure", "morphology", "segmentation")
    )
    small, zoom = reduced(pixels, min(1.0, 1024 / max(pixels.shape[:2])))
    planes = stain_planes(small)
    if planes.distance.max() < 10:
        return np.zeros(0)
    coloured = differs(planes)
    nuclear = planes.nuclear > nuclear_threshold(planes)
    holes = measure.label(~coloured)
    pale = np.bincount(holes.ravel()) <= 0.005 * coloured.size  # the middle of a red cell, not a gap between many
    coloured = morphology.opening(coloured | pale[holes], morphology.disk(2))
    if not coloured.any():
        return np.zeros(0)
    depth = ndimage.distance_transform_edt(coloured)
    step = max(1.0, 0.05 * float(np.quantile(depth[coloured], 0.98)))
    pieces = segmentation.watershed(-depth, measure.label(morphology.h_maxima(depth, step)), mask=coloured)
    height, width = coloured.shape
    return np.array(
        [
            region.equivalent_diameter_area / zoom
            for region in measure.regionprops(pieces)
            if region.area >= 60
            and min(region.bbox[:2]) > 0
            and region.bbox[2] < height
            and region.bbox[3] < width
            and region.solidity >= 0.9
            and region.eccentricity <= 0.8
            and nuclear[tuple(region.coords.T)].mean() <= 0.2
        ]
    )


def reject(image: npt.ArrayLike) -> str | None:
    """Tell a field, or anything else that is not one cell on black, from what the networks take.

    Looks at the layout alone: black around the edge, and one piece on it. Whether that piece is a white cell is for
    `ood_scores` to doubt. Needs no further package.

    Args:
        image: What `as_image` takes.

    Returns:
        None for a single cell on black, else one sentence: what the image is instead, and what to do with it.

    Raises:
        ImageError: The array is not an image.

    Example:
        >>> cell = np.zeros((450, 450, 3), np.uint8)
        >>> cell[150:300, 150:300] = (80, 40, 90)
        >>> reject(cell) is None
        True
        >>> reject(np.full((480, 640, 3), 220, np.uint8))  # doctest: +ELLIPSIS
        'It does not lie on black: cut the cells of a field out with extract_cells(), ...'
    """
    from scipy import ndimage

    pixels = as_image(image)
    if not lies_on_black(pixels):
        return (
            "It does not lie on black: cut the cells of a field out with extract_cells(), a single cell with "
            "segment_cell()."
        )
    cell = off_black(pixels)
    labels, _ = ndimage.label(cell, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    if not len(sizes) or sizes.max() < 0.005 * cell.size:
        return "It is black with nothing the size of a cell on it: give an image of a cell."
    if (sizes > 0.2 * sizes.max()).sum() > 1:
        return "It shows more than one piece on black: give one cell an image."
    return None
