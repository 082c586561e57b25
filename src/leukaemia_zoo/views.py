"""Views of one cell that say the same: turned, mirrored, a little nearer or farther."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from leukaemia_zoo.images import RGBArray
from leukaemia_zoo.preprocessing import Preprocessing
from leukaemia_zoo.segmentation import lies_on_black

SIZE_JITTER = 0.08
"""The size of a turned view changes by a factor from exp(-0.08) to exp(0.08), well inside the spread of real cells."""


_BORDER = 0.3
"""Share of the shorter side: a crop of 0.85 of a frame, turned by 45 degrees and sized by 1.25, stays inside."""


def turned_views(frame: RGBArray, preprocessing: Preprocessing, count: int, seed: int) -> np.ndarray:
    """The preprocessed frame itself and further views of it, turned by angles all around the circle.

    The whole frame is turned before it is cut and reduced. Turning the small image that a network takes would blur it,
    and a network that learns from blurred views misjudges the sharp ones it is used on: texture is its evidence.

    Args:
        frame: Uint8 array (height, width, 3), RGB.
        preprocessing: From a frame to the network's input.
        count: Number of views, the first of which is not turned.
        seed: Of angles and sizes.

    Returns:
        Uint8 array (count, h, w, 3).

    Example:
        >>> views = turned_views(np.zeros((256, 256, 3), np.uint8), Preprocessing((100, 100)), count=3, seed=0)
        >>> views.shape
        (3, 100, 100, 3)
    """
    rng = np.random.default_rng(seed)
    reduced = preprocessing.reduced(frame)
    image = Image.fromarray(reduced)
    views = [preprocessing(reduced)]
    for number in range(1, count):
        turned = image.rotate(360 * (number + rng.random()) / count, Image.Resampling.BICUBIC)
        factor = np.exp(rng.uniform(-SIZE_JITTER, SIZE_JITTER))
        crop = dataclasses.replace(preprocessing, crop_fraction=min(1.0, preprocessing.crop_fraction * factor))
        views.append(crop(np.asarray(turned)))
    return np.stack(views)


def drawn_view(
    frame: RGBArray,
    preprocessing: Preprocessing,
    angle: float,
    mirrored: bool,
    factor: float = 1.0,
) -> RGBArray:
    """One view of a frame turned by any angle, mirrored and sized, in one resampling.

    Args:
        frame: Uint8 array (height, width, 3), RGB, as `Preprocessing.reduced` gives it.
        preprocessing: From a frame to the network's input; its interpolation plays no part.
        angle: In radians.
        mirrored: Whether left and right are swapped.
        factor: The view shows so much more around the cell: above 1 the cell gets smaller.

    Returns:
        Uint8 array (h, w, 3) of the network's input size. Beyond the edge of a photograph lies its mirror image, so
        that a turned view has no black corners; around a cell on black it is black.

    Example:
        >>> drawn_view(np.zeros((256, 256, 3), np.uint8), Preprocessing((100, 100)), 0.5, True).shape
        (100, 100, 3)
    """
    rows, columns = preprocessing.input_size
    side = min(frame.shape[:2])
    if not lies_on_black(frame):
        border = round(_BORDER * side)
        frame = np.pad(frame, ((border, border), (border, border), (0, 0)), mode="reflect")
    height, width = frame.shape[:2]
    # Twice the pixels, averaged two by two: Pillow's affine transform alone does not smooth what it reduces.
    scale = factor * preprocessing.crop_fraction * side / max(rows, columns) / 2
    across = np.array([np.cos(angle), np.sin(angle)]) * scale
    down = np.array([-np.sin(angle), np.cos(angle)]) * scale
    if mirrored:
        across = -across
    origin = np.array([width, height]) / 2 - across * columns - down * rows
    matrix = (across[0], down[0], origin[0], across[1], down[1], origin[1])
    turned = Image.fromarray(frame).transform(
        (2 * columns, 2 * rows), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned.reduce(2))


def symmetric_views(batch: np.ndarray, count: int) -> np.ndarray:
    """Quarter turns of a batch, then the same mirrored: exact views, without resampling.

    Args:
        batch: Array (N, height, width, 3); square for more than one view.
        count: 1, 4 (the quarter turns) or 8 (also mirrored).

    Returns:
        Array (count, N, height, width, 3).

    Example:
        >>> symmetric_views(np.zeros((2, 100, 100, 3), np.uint8), 8).shape
        (8, 2, 100, 100, 3)
    """
    turned = [np.rot90(batch, turns, axes=(1, 2)) for turns in range(min(count, 4))]
    mirrored = [view[:, :, ::-1] for view in turned] if count == 8 else []
    return np.stack([*turned, *mirrored])
