"""Stain normalisation of cells on black, off by default: Reinhard and Macenko, as torchstain has them.

Only the pixels of the cell take part, so that black stays black. The colours that cells are brought to are those of
C-NMC 2019, which its authors normalised already: do not normalise C-NMC cells again.
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.arrays import RGBArray, as_image, brightest
from leukaemia_zoo.errors import ImageError, UnknownNameError
from leukaemia_zoo.smears.nuclei import cytology

METHODS = ("reinhard", "macenko")
"""What `normalise_stain` knows."""

SAMPLE = 300
"""So many cells of C-NMC 2019, drawn with seed 0, gave the references below: `tools/segmentation_results.py`."""

REINHARD_REFERENCE = ((18.66, 27.72, -22.49), (4.09, 3.67, 3.67))
"""Mean and standard deviation of L*, a* and b* within a cell, medians over the cells."""

MACENKO_REFERENCE = (((0.5642, 0.4824), (0.6445, 0.7954), (0.5137, 0.3675)), (3.8012, 2.9326))
"""The two stains' absorbance of red, green and blue, one column a stain, and the 99th percentile of each one's
amount, medians over the cells."""


def normalise_stain(image: npt.ArrayLike, method: str = "reinhard") -> RGBArray:
    """Bring the colours of a cell on black to those of C-NMC 2019.

    Reinhard et al. 2001 (doi 10.1109/38.946629) shifts and stretches each channel of L*a*b* to a mean and a spread.
    Macenko et al. 2009 (doi 10.1109/ISBI.2009.5193250) finds the two stains of the image in its absorbance and replaces
    them; it was made for tissue in haematoxylin and eosin, and finds them poorly where a cell is nearly all nucleus.

    Both undo what differs in stain between laboratories and some of what differs between cells. They also silence the
    warning of the OOD score without making the verdict right: measure before you rely on them, and use one for all
    images or for none.

    Args:
        image: What `as_image` takes, exactly black around the cell, as `segment_cell` and `extract_cells` leave it.
        method: `"reinhard"` or `"macenko"`.

    Returns:
        A uint8 array of the shape of the image, RGB; black where it was black, and nowhere else.

    Raises:
        ImageError: The array is not an image, has no black background, or no stain can be told in it.
        UnknownNameError: There is no such method.
        CytologyMissingError: torchstain is not installed.

    Example:
        >>> cell = np.zeros((64, 64, 3), np.uint8)
        >>> cell[16:48, 16:48] = np.random.default_rng(0).normal((150, 90, 170), 20, (32, 32, 3)).clip(1, 255)
        >>> result = normalise_stain(cell)
        >>> result.shape, bool(result[:16].any()), bool((result[16:48, 16:48].max(axis=-1) > 0).all())
        ((64, 64, 3), False, True)
    """
    pixels = as_image(image)
    checked_method(method)
    on_cell = brightest(pixels) > 0
    if on_cell.all() or not on_cell.any():
        what = "no black background" if on_cell.all() else "nothing but black"
        raise ImageError(f"The image has {what}: normalise one cell on black, as segment_cell() leaves it.")
    colours = pixels[on_cell][:, None]  # an image one pixel wide, which holds the cell and nothing else
    if len(colours) < 100 or colours.reshape(-1, 3).std(axis=0).min() < 1:
        raise ImageError("The cell is too small or of one colour, so that no stain can be told: leave it as it is.")
    normaliser = _normaliser(method)
    if method == "reinhard":
        found = normaliser.normalize(colours)
    else:
        # torchstain takes its stains from the pixels that absorb at least 0.15 of each colour, of light of 240.
        if (colours.max(axis=-1) + 1 <= 240 * np.exp(-0.15)).sum() < 100:
            raise ImageError("The cell is too pale to tell its two stains apart: leave it as it is.")
        found = normaliser.normalize(colours, stains=False)[0]
    result = np.zeros_like(pixels)
    result[on_cell] = np.maximum(found[:, 0], 1)  # the cell must not become background
    return result


def checked_method(method: str | None) -> str | None:
    """A method that exists, or None."""
    if method is None or method in METHODS:
        return method
    close = difflib.get_close_matches(str(method), METHODS, n=1)
    raise UnknownNameError(
        f"There is no stain normalisation {method!r}: "
        + (f"did you mean {close[0]!r}?" if close else f"give None or one of {', '.join(METHODS)}.")
    )


def _normaliser(method: str) -> Any:
    """A normaliser of torchstain, of its NumPy backend, with the colours of C-NMC 2019 as its target."""
    normalisers = cytology("torchstain").normalizers
    if method == "reinhard":
        result = normalisers.ReinhardNormalizer(backend="numpy")
        result.target_means, result.target_stds = map(np.array, REINHARD_REFERENCE)
    else:
        result = normalisers.MacenkoNormalizer(backend="numpy")
        result.HERef, result.maxCRef = map(np.array, MACENKO_REFERENCE)
    return result
