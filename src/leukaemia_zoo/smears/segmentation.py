"""A cell onto a black background, as the cells of C-NMC 2019 lie.

* `cell_mask` finds the one cell in the middle of a photograph, nucleus and cytoplasm.
* `segment_cell` makes everything else black, and if it knows the scale gives the frame that the networks take.

Two things of stained blood carry it. Nuclei absorb red light and are bluer than all else, red cells do neither: that is
the nuclear index. And a cell differs in colour from the empty slide, which its cytoplasm borders on. Filters, watershed
and components are scikit-image's, from the extra `cytology`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.cells.arrays import BLACK, RGBArray, as_image, lies_on_black
from leukaemia_zoo.errors import CytologyMissingError, ImageError

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

NUCLEAR_SHARE = 0.4
"""A pixel belongs to a nucleus from this share of the strongest nuclear index of the image on."""

LEAST_DIFFERENCE = 5.0
"""Colour difference (CIE 1976) from the empty slide below which there is noise: an eye just tells 2.3."""

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.floating[Any]]


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
    """Cut one cell out of an image into a frame as in C-NMC 2019.

    Args:
        pixels: uint8 of shape (height, width, 3), RGB.
        mask: bool of shape (height, width), True on the cell.
        micrometres_per_pixel: The scale of the image.

    Returns:
        A uint8 array (450, 450, 3) at `CNMC_MICROMETRES_PER_PIXEL`, the middle of the cell's outline in the middle of
        the frame, exactly black around it. What does not fit into the frame is cut off.

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
    return np.asarray(pixels.max(axis=-1) > (0 if exact else BLACK))


def central(mask: BoolArray) -> BoolArray:
    """The largest piece of a mask, without holes."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), bool)


# --------------------------------------------------------------------------------------------------------------------
# Steps that a field takes too


@dataclass(frozen=True)
class StainPlanes:
    """What an image says of stain, each of shape (height, width) but for `lab`.

    Attributes:
        lab: CIE L*a*b* of the smoothed image, (height, width, 3).
        distance: Colour difference from the empty slide, CIE 1976.
        nuclear: The nuclear index: half the absorbance of red light, plus a hundredth of how much bluer (b*) a pixel is
            than the slide. In nuclei about 0.5 and more, in red cells a third of that or less.
    """

    lab: FloatArray
    distance: FloatArray
    nuclear: FloatArray


def stain_planes(pixels: RGBArray) -> StainPlanes:
    """Compute the planes of a uint8 image (height, width, 3), smoothed by a Gaussian of one pixel.

    The colour of the empty slide is the median of the brightest of three classes of the green channel, which all stains
    darken (multi-level Otsu).
    """
    color, filters = cytology("skimage.color"), cytology("skimage.filters")
    green = pixels[..., 1]
    bright = green > filters.threshold_multiotsu(green, 3)[-1] if len(np.unique(green)) > 3 else green == green.max()
    slide = np.median(pixels[bright], axis=0)
    smooth = filters.gaussian(pixels.astype(np.float64), 1.0, channel_axis=-1, preserve_range=True)
    lab, own = color.rgb2lab(smooth / 255), color.rgb2lab(slide[None, None] / 255)
    red = -np.log((smooth[..., 0] + 1) / (slide[0] + 1))
    return StainPlanes(lab, np.linalg.norm(lab - own, axis=-1), red / 2 - (lab[..., 2] - own[..., 2]) / 100)


def differs(planes: StainPlanes) -> BoolArray:
    """What differs in colour from the empty slide: above noise and the lowest of three classes (multi-level Otsu)."""
    lowest = cytology("skimage.filters").threshold_multiotsu(planes.distance, 3)[0]
    return np.asarray(planes.distance > max(lowest, LEAST_DIFFERENCE))


def nuclear_threshold(planes: StainPlanes, strongest: float = 0.005) -> float:
    """`NUCLEAR_SHARE` of the index that this part of the pixels exceeds, and at least 0.1."""
    return max(0.1, NUCLEAR_SHARE * float(np.quantile(planes.nuclear, 1 - min(strongest, 1.0))))


def group_nuclei(
    nuclear: BoolArray, per_micrometre: float, *, least: float = 15.0, full: float = 40.0, gap: float = 1.5
) -> IntArray:
    """Label nuclei: lobes of one nucleus together, nuclei that touch apart.

    Pieces are split at necks a micrometre narrower than they are (watershed of the distance from the edge), then those
    less than `gap` apart are joined again unless both are whole nuclei already: round, and of the area `full` or more.

    Args:
        nuclear: bool of shape (height, width).
        per_micrometre: Pixels per micrometre.
        least: Square micrometres below which it is a platelet or dirt.
        full: Square micrometres from which a round piece is a nucleus of its own: one of 7 micrometres across.
        gap: Micrometres between lobes of one nucleus.

    Returns:
        Whole numbers of shape (height, width): 0, or the number of the nucleus.

    Example:
        >>> y, x = np.mgrid[:80, :120]
        >>> touching = (np.hypot(x - 35, y - 40) < 24) | (np.hypot(x - 80, y - 40) < 24)
        >>> len(np.unique(group_nuclei(touching, 5.0))) - 1
        2
    """
    from scipy import ndimage

    measure, morphology, segmentation = (
        cytology(f"skimage.{name}") for name in ("measure", "morphology", "segmentation")
    )
    mask = morphology.opening(nuclear, morphology.disk(max(1, round(0.4 * per_micrometre))))
    mask = ndimage.binary_fill_holes(mask)
    if not mask.any():
        return np.zeros(mask.shape, np.intp)
    depth = ndimage.distance_transform_edt(mask) / per_micrometre
    pieces = segmentation.watershed(-depth, measure.label(morphology.h_maxima(depth, 1.0)), mask=mask)
    regions = {region.label: region for region in measure.regionprops(pieces)}
    square = per_micrometre**2
    area = {label: region.area / square for label, region in regions.items()}
    whole = {label: area[label] >= full and region.solidity >= 0.88 for label, region in regions.items()}
    leader = {label: label for label in regions}

    def find(label: int) -> int:
        return label if leader[label] == label else find(leader[label])

    for _, one, other in sorted(_neighbours(pieces, regions, gap * per_micrometre)):
        first, second = find(one), find(other)
        if first != second and not (whole[first] and whole[second]):
            leader[second] = first
            area[first] += area[second]
            whole[first] = whole[first] or whole[second] or area[first] >= 1.2 * full
    table = np.zeros(int(pieces.max()) + 1, np.intp)
    kept = [label for label in regions if leader[label] == label and area[label] >= least]
    for label in regions:
        table[label] = kept.index(find(label)) + 1 if find(label) in kept else 0
    return table[pieces]


def _neighbours(pieces: IntArray, regions: dict[int, Any], gap: float) -> list[tuple[float, int, int]]:
    """Pairs of pieces less than `gap` pixels apart, with their distance."""
    from scipy import ndimage

    pairs, margin = [], int(np.ceil(gap))
    for label, region in regions.items():
        y0, x0, y1, x1 = region.bbox
        part = pieces[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
        away = ndimage.distance_transform_edt(part != label)
        pairs += [
            (float(away[part == other].min()), label, int(other))
            for other in np.unique(part[(away <= gap) & (part > label)])
        ]
    return pairs


def grow_cells(planes: StainPlanes, nuclei: IntArray, per_micrometre: float, *, reach: float = 7.0) -> IntArray:
    """Grow each nucleus to its cell.

    What differs in colour from the empty slide is shared out by a watershed from the hulls of the nuclei and from the
    middles of other things: local maxima of the distance from the edge, away from any nucleus. It runs along necks,
    where that distance is small, and along edges of colour. Thin appendages are cut off.

    Args:
        planes: Of the image.
        nuclei: Labels 0, 1, 2... of shape (height, width).
        per_micrometre: Pixels per micrometre.
        reach: Micrometres of cytoplasm at most between the hull of a nucleus and the outline of its cell.

    Returns:
        Labels of the cells, (height, width), with the numbers of their nuclei; each in one piece without holes.
    """
    from scipy import ndimage

    measure, morphology, segmentation, filters = (
        cytology(f"skimage.{name}") for name in ("measure", "morphology", "segmentation", "filters")
    )

    def disk(micrometres: float) -> BoolArray:
        return np.asarray(morphology.disk(max(1, round(micrometres * per_micrometre))), bool)

    def filled(mask: BoolArray, square_micrometres: float) -> BoolArray:
        holes = measure.label(~mask)
        small = np.bincount(holes.ravel()) <= square_micrometres * per_micrometre**2
        return np.asarray(mask | small[holes], bool)

    coloured = differs(planes)
    # The pale middle of a red cell is 6 square micrometres at most; a vacuole or a pale patch of cytoplasm may have 20.
    depth = ndimage.distance_transform_edt(filled(coloured, 6)) / per_micrometre
    coloured = filled(morphology.closing(coloured, disk(0.3)) | (nuclei > 0), 20)
    hulls = np.zeros_like(nuclei)
    for region in measure.regionprops(nuclei):
        part = hulls[region.slice]
        part[region.image_convex & (part == 0)] = region.label
    hulls[nuclei > 0] = nuclei[nuclei > 0]
    away = ndimage.distance_transform_edt(hulls == 0) / per_micrometre
    count = int(nuclei.max())
    seeds = hulls.copy()
    peaks = measure.label(morphology.h_maxima(depth, 0.3))
    for region in measure.regionprops(peaks):
        rows, columns = region.coords.T
        if away[rows, columns].min() > 1.5:
            seeds[rows, columns] = count + region.label
    seeds[coloured & (away > reach) & (seeds == 0)] = count + int(peaks.max()) + 1
    gradient = np.sqrt(sum(filters.sobel(planes.lab[..., channel]) ** 2 for channel in range(3)))
    basins = segmentation.watershed(0.2 * gradient - depth, seeds, mask=coloured | (hulls > 0))
    cells = np.zeros_like(nuclei)
    brush = disk(0.8)
    margin = len(brush)  # what lies farther away does not change the opening
    for label, box in enumerate(ndimage.find_objects(basins, count), start=1):
        if box is None:
            continue
        part = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        nucleus, own = nuclei[part] == label, cells[part]
        mask = ndimage.binary_fill_holes((basins[part] == label) | nucleus)
        pieces = measure.label(morphology.opening(mask, brush) | nucleus)
        main = np.bincount(pieces[nucleus]).argmax()
        own[ndimage.binary_fill_holes(pieces == main) & (own == 0)] = label
    return cells


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
    """A scale in micrometres per pixel as a float.

    Raises:
        ImageError: It is not a number from 0.01 to 1. Finer than light resolves, or too coarse to see a nucleus in, it
            is a mistake, such as pixels per micrometre.
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


def cytology(module: str) -> Any:
    """Import a module of the extra `cytology`.

    Raises:
        CytologyMissingError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"skimage": "scikit-image"}.get(module.partition(".")[0], module.partition(".")[0])
        raise CytologyMissingError(
            f"Cutting cells out needs {package}: run `pip install 'leukaemia-zoo[cytology]'`."
        ) from error
