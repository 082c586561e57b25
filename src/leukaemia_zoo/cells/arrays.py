"""Pixels: what a frame must be, what of it is background, and arrays from elsewhere checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.errors import ImageError

MIN_SIDE = 16
"""The fewest pixels on a side: a smaller image is an icon or a mistake, not a cell."""

MAX_PIXELS = 50_000_000
"""The most pixels that are decoded (150 MB as RGB): a slide or a decompression bomb lies above it."""

BLACK = 8
"""A pixel with no channel above this is background, for the networks and for all that looks at a cell on black: exactly
black in C-NMC 2019, a few levels above it after lossy compression."""

_MOST_OF_A_CELL = 0.25
"""Largest share of the frame that a cell of C-NMC 2019 covers, of 2,621 cells looked at."""

_SLIDE = 150
"""Median of each pixel's darkest channel from which there is mostly empty slide: 159 to 192 in 40 fields of BCCD, 17 to
53 within the cells of C-NMC 2019."""

RGBArray = npt.NDArray[np.uint8]


def as_image(array: npt.ArrayLike, *, name: str = "image") -> RGBArray:
    """Check one image that is already an array.

    What is refused is what would give a wrong answer without a word: values scaled to 0..1, standardised values,
    channels first, grey and four channels. Whether the channels are RGB or BGR cannot be told from the values: OpenCV
    reads BGR, so reverse its channels with `array[..., ::-1]`.

    Args:
        array: Shape (height, width, 3), RGB, at least `MIN_SIDE` on a side. uint8 is taken as it is; other integers
            and finite floats must lie in 0..255, and floats are rounded. A float image that is not black but has no
            value above 1 is refused as scaled to 0..1.
        name: What to call the image in messages, such as `images[3]` or the file's name.

    Returns:
        A uint8 array of shape (height, width, 3); a uint8 `array` itself, not a copy.

    Raises:
        ImageError: The array is not such an image; the message says how to mend it.

    Example:
        >>> as_image(np.full((20, 20, 3), 74.6))[0, 0].tolist()
        [75, 75, 75]
        >>> as_image(np.full((20, 20, 3), 0.5), name="images[0]")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        leukaemia_zoo.errors.ImageError: images[0] has no value above 1 ...: multiply it by 255.
    """
    pixels = _as_array(array, name)
    _check_shape(pixels, name)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise ImageError(f"{name} has the dtype {pixels.dtype}: give numbers from 0 to 255, best as uint8.")
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} holds values that are not finite (NaN or infinite): mend the step that made it.")
    if low < 0:
        raise ImageError(
            f"{name} has values below 0 (lowest {low:.6g}), so it was probably standardised or scaled to -1..1: give "
            "the pixels from before that step, 0 to 255."
        )
    if high > 255:
        bits = max(10, int(min(high, 2**32)).bit_length())
        raise ImageError(
            f"{name} has values above 255 (highest {high:.6g}, so perhaps {bits} bits): scale it to 0..255, images of "
            f"{bits} bits by dividing by {((1 << bits) - 1) / 255:.6g}."
        )
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        raise ImageError(
            f"{name} has no value above 1 (highest {high:.6g}), so it was probably scaled to 0..1: multiply it by 255."
        )
    return np.rint(pixels).astype(np.uint8)


def as_images(images: npt.ArrayLike | Iterable[npt.ArrayLike], *, name: str = "images") -> list[RGBArray]:
    """Check one image, a batch, or images of differing sizes.

    Args:
        images: One array of shape (height, width, 3), one of shape (count, height, width, 3), or a list, tuple or
            other iterable of arrays of shape (height, width, 3), whose sizes may differ. See `as_image` for what
            values may be.
        name: What to call the argument in messages; image 3 of a batch is then `images[3]`.

    Returns:
        One uint8 array of shape (height, width, 3) an image. To go on after a faulty image, call `as_image` on each.

    Raises:
        ImageError: There is no image, or one of them is not what `as_image` takes; the message names its index.

    Example:
        >>> [image.shape for image in as_images(np.zeros((2, 20, 30, 3)))]
        [(20, 30, 3), (20, 30, 3)]
    """
    if isinstance(images, str | bytes | os.PathLike):
        raise ImageError(f"{name} is a path or text ({images!r}): read the file with read_image() first.")
    if not any(hasattr(images, mark) for mark in ("shape", "__array__", "__array_interface__")):
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise ImageError(f"{name} is of type {type(images).__name__}: give an array or a list of arrays.")
        result = [as_image(image, name=f"{name}[{index}]") for index, image in enumerate(images)]
    else:
        array = _as_array(images, name)
        if array.ndim != 4:
            return [as_image(array, name=name)]
        if array.shape[1] == 3 and array.shape[3] != 3:
            raise ImageError(
                f"{name} has the shape {array.shape}, channels first: move the channels to the end with "
                "np.moveaxis(images, 1, -1)."
            )
        result = [as_image(image, name=f"{name}[{index}]") for index, image in enumerate(array)]
    if not result:
        raise ImageError(f"{name} holds no image: give at least one.")
    return result


def _as_array(value: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(value, str | bytes | os.PathLike):
        raise ImageError(f"{name} is a path or text ({value!r}): read the file with read_image() first.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a GPU or that want gradients
        what = type(value).__name__
        raise ImageError(f"{name} of type {what} cannot become an array: give a NumPy array.") from error
    if array.dtype.kind in "OUS":
        raise ImageError(f"{name} has the dtype {array.dtype}: give numbers, as a list of arrays if sizes differ.")
    return array


def _check_shape(array: npt.NDArray[Any], name: str) -> None:
    shape = array.shape
    is_has = f"{name} has the shape {shape}"
    if array.ndim == 2:
        raise ImageError(
            f"{is_has}, a grey image or one without channels: give RGB, or repeat grey with "
            "np.repeat(image[..., None], 3, axis=-1)."
        )
    if array.ndim != 3:
        raise ImageError(f"{is_has}: one image has three axes, height, width and the 3 channels.")
    if array.size == 0:
        raise ImageError(f"{is_has} and is empty: give an image of at least {MIN_SIDE} x {MIN_SIDE} pixels.")
    if shape[2] != 3:
        if shape[0] == 3:
            mend = ", channels first: move the channels to the end with np.moveaxis(image, 0, -1)."
        elif shape[2] == 1:
            mend = ", one grey channel: give RGB, or repeat grey with np.repeat(image, 3, axis=-1)."
        elif shape[2] == 4:
            mend = ", four channels: give RGB without alpha, image[..., :3]."
        else:
            mend = ": the last axis must hold the 3 channels, red, green and blue."
        raise ImageError(is_has + mend)
    if min(shape[:2]) < MIN_SIDE:
        raise ImageError(f"{is_has}, less than {MIN_SIDE} pixels on a side: give an image of a cell.")


def check_size(size: tuple[int, int], path: Path) -> None:
    """Refuse what is too large to be decoded, or too small to be a cell; `size` is (width, height)."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{path} is {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels: cut single cells "
            "out of it first."
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{path} is {width} x {height} pixels, less than {MIN_SIDE} on a side: give an image of a cell."
        )


def brightest(pixels: RGBArray) -> npt.NDArray[np.uint8]:
    """The highest channel of each pixel, (height, width): NumPy's maximum over so short an axis takes 20 times as long.

    >>> brightest(np.array([[[1, 3, 2]]], np.uint8))
    array([[3]], dtype=uint8)
    """
    return np.maximum.reduce((pixels[..., 0], pixels[..., 1], pixels[..., 2]))


def lies_on_black(pixels: RGBArray) -> bool:
    """Whether an image shows a cell on black: nine tenths of its outermost pixels are background, as in C-NMC 2019.

    The round field of an eyepiece is no cell, though black lies around it: it fills more of the frame than a cell does,
    mostly with empty slide.
    """
    above = brightest(pixels) > BLACK
    if np.concatenate([above[0], above[-1], above[1:-1, 0], above[1:-1, -1]]).mean() > 0.1:
        return False
    return not (above.mean() > _MOST_OF_A_CELL and np.median(pixels[above].min(axis=-1)) >= _SLIDE)


def check_visible(pixels: RGBArray, name: str) -> None:
    """Refuse a frame in which the networks would see nothing: every pixel of it is background."""
    if (highest := int(pixels.max())) <= BLACK:
        raise ImageError(
            f"{name} is black where the cell should be (highest value {highest} of 255, background up to {BLACK}): "
            "give an image of a cell, scaled to 0..255."
        )
