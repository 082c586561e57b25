"""Nuclei by their stain, and the cells around them: the steps that a single cell and a field share."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.arrays import RGBArray
from leukaemia_zoo.errors import CytologyMissingError

NUCLEAR_SHARE = 0.4
"""A pixel belongs to a nucleus from this share of the strongest nuclear index of the image on."""


LEAST_DIFFERENCE = 5.0
"""Colour difference (CIE 1976) from the empty slide below which there is noise: an eye just tells 2.3."""


BoolArray = npt.NDArray[np.bool_]


IntArray = npt.NDArray[np.intp]


FloatArray = npt.NDArray[np.floating[Any]]


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
    less than `gap` micrometres apart are joined again unless both are whole nuclei already: round, and of `full` square
    micrometres or more, as one of 7 micrometres across. Below `least` square micrometres it is a platelet or dirt.

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
    """Grow each nucleus to its cell, in one piece without holes.

    What differs in colour from the empty slide is shared out by a watershed from the hulls of the nuclei and from the
    middles of other things: local maxima of the distance from the edge, away from any nucleus. It runs along necks,
    where that distance is small, and along edges of colour. Thin appendages are cut off, and cytoplasm further than
    `reach` micrometres from the hull of its nucleus.
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


def cytology(module: str) -> Any:
    """Import a module of the extra `cytology`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"skimage": "scikit-image"}.get(module.partition(".")[0], module.partition(".")[0])
        raise CytologyMissingError(
            f"Cutting cells out needs {package}: run `pip install 'leukaemia-zoo[cytology]'`."
        ) from error
