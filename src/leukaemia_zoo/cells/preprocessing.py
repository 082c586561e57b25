"""From a frame to what a network takes, crop and resize, and the views of it: turned and mirrored."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.cells.arrays import MIN_SIDE, RGBArray, as_image, as_images, check_visible, lies_on_black
from leukaemia_zoo.cells.images import frame_of
from leukaemia_zoo.common.reading import is_whole
from leukaemia_zoo.errors import DataError

MAX_SIDE = 2048
"""The most pixels a side of an input: a configuration from a file must not be able to ask for all the memory."""

_INTERPOLATIONS: dict[str, Image.Resampling] = {
    # Pillow widens each of these when it reduces an image (antialiasing); "nearest" does not and is left out.
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_REACH = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""How far each filter reaches, in pixels of the larger of the two images."""


@dataclass(frozen=True)
class Preprocessing:
    """The way from a frame to the pixels that a network takes: a fixed centre crop, then a resize.

    It assumes one cell in the middle of a frame that spans as much as 450 pixels of the official C-NMC 2019 images,
    whatever the number of pixels of the file. The crop has a fixed size and is not fitted to the cell, because the
    size of a cell is evidence: leukaemic cells cover 36,244 pixels on average and normal ones 26,544. For frames that
    show more or less around the cell set `crop_fraction` so that the crop spans about 300 official pixels.

    Args:
        input_size: Height and width in pixels that the network takes.
        crop_fraction: Side of the centre crop as a part of the frame's shorter side, above 0 and up to 1 (the whole
            frame). The default, 300 of 450 pixels, holds 96.5 % of the C-NMC cells whole. The crop has the shape of
            `input_size`, so that nothing is stretched, and is not rounded to whole pixels.
        reference_frame: Frames whose shorter side is longer are first reduced to this many pixels (see below), so that
            an official 450-pixel file gives the pixels of the 256-pixel copy that the weights were trained on. None
            leaves that out.
        interpolation: `"box"`, `"bilinear"`, `"bicubic"` or `"lanczos"`, as Pillow has them, that is with antialiasing.

    Raises:
        DataError: A value is not as said here.

    The reduction to the reference frame is Lanczos and then puts the black background back: a pixel of which less than
    half was cell becomes exactly black, where Lanczos alone leaves a faint halo. Black is a pixel whose luma rounds to
    0, and the half is that of a box average. On 60 official files of C-NMC 2019 this reproduces their 256-pixel copies
    to the last bit.

    Example:
        >>> preprocessing = Preprocessing(input_size=(100, 100))
        >>> preprocessing(np.zeros((450, 450, 3), np.uint8)).shape
        (100, 100, 3)
        >>> Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
        True
    """

    input_size: tuple[int, int]
    crop_fraction: float = 2 / 3
    reference_frame: int | None = 256
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        size = self.input_size
        if not (isinstance(size, Sequence) and len(size) == 2 and all(is_whole(side) for side in size)):
            raise DataError(f"input_size is {size!r}: give height and width in whole pixels, such as (100, 100).")
        if not (isinstance(self.crop_fraction, Real) and not isinstance(self.crop_fraction, bool)):
            raise DataError(f"crop_fraction is {self.crop_fraction!r}: give a number above 0 and up to 1.")
        if not 0 < self.crop_fraction <= 1:
            raise DataError(f"crop_fraction is {self.crop_fraction!r}: give a number above 0 and up to 1.")
        if not (self.reference_frame is None or is_whole(self.reference_frame, MIN_SIDE)):
            raise DataError(
                f"reference_frame is {self.reference_frame!r}: give None or whole pixels, at least {MIN_SIDE}."
            )
        if self.interpolation not in list(_INTERPOLATIONS):  # a list, for values that cannot be hashed
            raise DataError(f"interpolation is {self.interpolation!r}: give one of {', '.join(_INTERPOLATIONS)}.")
        # Plain types, so that equality, hashing and JSON hold whatever kind of number was given.
        object.__setattr__(self, "input_size", (int(size[0]), int(size[1])))
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        if self.reference_frame is not None:
            object.__setattr__(self, "reference_frame", int(self.reference_frame))

    def __call__(self, image: npt.ArrayLike) -> RGBArray:
        """Crop and resize one image.

        Args:
            image: What `as_image` takes: shape (height, width, 3), RGB, 0 to 255.

        Returns:
            A uint8 array of shape (`input_size[0]`, `input_size[1]`, 3), RGB, 0 to 255.

        Raises:
            ImageError: The array is not such an image.
        """
        pixels = as_image(image)
        size = self._reduced_size(pixels)
        height, width = self.input_size
        scale = self.crop_fraction * min(size) / max(height, width)
        crop_w, crop_h = scale * width, scale * height
        left, top = (size[0] - crop_w) / 2, (size[1] - crop_h) / 2
        # Rounding may put an edge a hair outside the frame, which Pillow refuses.
        box = (max(left, 0.0), max(top, 0.0), min(left + crop_w, size[0]), min(top + crop_h, size[1]))
        columns, rows = (0, size[0]), (0, size[1])
        # Pillow takes rows or columns first, by the shapes: only of a square is the part sure to be taken as the whole.
        # And a box ends abruptly, so that it may take a pixel more or less where the last digit of its place differs.
        if height == width and size[0] == size[1] and self.interpolation != "box":
            # What the crop is not computed from is neither converted nor reduced.
            reach = _REACH[self.interpolation] * max(scale, 1.0)
            columns, rows = (_part(box[axis], box[axis + 2], reach, size[axis]) for axis in (0, 1))
        frame = _reduce(pixels, size, columns, rows)
        return np.array(
            frame.resize((width, height), _INTERPOLATIONS[self.interpolation], box=_moved(box, columns[0], rows[0]))
        )

    def reduced(self, image: npt.ArrayLike) -> RGBArray:
        """Reduce one image to the reference frame, where it is larger, without cropping: the first half of a call.

        Args:
            image: What `as_image` takes.

        Returns:
            A uint8 array of shape (height, width, 3), RGB, 0 to 255.

        Raises:
            ImageError: The array is not such an image.
        """
        pixels = as_image(image)
        size = self._reduced_size(pixels)
        if size == (pixels.shape[1], pixels.shape[0]):
            return np.ascontiguousarray(pixels)
        return np.asarray(_reduce(pixels, size, (0, size[0]), (0, size[1])))

    def _reduced_size(self, pixels: RGBArray) -> tuple[int, int]:
        """Width and height of a frame when it is no larger than the reference frame."""
        height, width = pixels.shape[:2]
        if self.reference_frame is None or min(height, width) <= self.reference_frame:
            return width, height
        scale = self.reference_frame / min(height, width)
        return round(width * scale), round(height * scale)

    def batch(self, images: Sequence[npt.ArrayLike] | npt.NDArray[Any]) -> RGBArray:
        """Crop and resize several images, whose sizes may differ.

        Args:
            images: What `as_images` takes; an empty sequence gives an empty batch.

        Returns:
            A uint8 array of shape (count, `input_size[0]`, `input_size[1]`, 3), RGB, 0 to 255.

        Raises:
            ImageError: One of them is not an image; the message names its index.

        Example:
            >>> frames = [np.zeros((450, 450, 3), np.uint8), np.zeros((256, 300, 3), np.uint8)]
            >>> Preprocessing(input_size=(96, 96)).batch(frames).shape
            (2, 96, 96, 3)
        """
        checked = as_images(images) if len(images) else []
        result = np.empty((len(checked), *self.input_size, 3), np.uint8)
        for index, image in enumerate(checked):
            result[index] = self(image)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as data that JSON can hold."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"input_size": [*self.input_size]}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from the data of `to_dict`; what is left out takes its default.

        Raises:
            DataError: A key is unknown, `input_size` is missing, or a value is wrong.
        """
        if not isinstance(settings, Mapping):
            raise DataError(f"The preprocessing is of type {type(settings).__name__}: give a dictionary of settings.")
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                mend = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}."
                raise DataError(f"The preprocessing has the unknown key {key!r}: {mend}")
        if "input_size" not in settings:
            raise DataError("The preprocessing has no 'input_size': give height and width, such as [100, 100].")
        return cls(**settings)


def network_pixels(item: Any, name: str, preprocessing: Preprocessing) -> RGBArray:
    """What a network takes of one of the items of `image_items`; `name` is what to call one without a path."""
    pixels = preprocessing(frame_of(item, name))
    check_visible(pixels, os.fspath(item) if isinstance(item, str | os.PathLike) else name)
    return pixels


def _reduce(pixels: RGBArray, size: tuple[int, int], columns: tuple[int, int], rows: tuple[int, int]) -> Image.Image:
    """Part of a frame that was reduced to `size`, with the black background put back: the same pixels as of the whole.

    Pillow computes a part from the pixels of the whole, if it is told where the part lies. It is told in numbers of
    24 bits, which hold any place exactly where the new side is a power of two, as that of the reference frame is.
    Of other sides all is reduced, and then cut.
    """
    height, width = pixels.shape[:2]
    if size == (width, height):
        return Image.fromarray(np.ascontiguousarray(pixels[slice(*rows), slice(*columns)]))
    across, down = ((0, new) if new & (new - 1) else part for part, new in zip((columns, rows), size, strict=True))
    scale_x, scale_y = width / size[0], height / size[1]
    box = (across[0] * scale_x, down[0] * scale_y, across[1] * scale_x, down[1] * scale_y)
    x = _part(box[0], box[2], _REACH["lanczos"] * scale_x, width)
    y = _part(box[1], box[3], _REACH["lanczos"] * scale_y, height)
    frame = Image.fromarray(np.ascontiguousarray(pixels[slice(*y), slice(*x)]))
    box, new_size = _moved(box, x[0], y[0]), (across[1] - across[0], down[1] - down[0])
    part = frame.resize(new_size, Image.Resampling.LANCZOS, box=box)
    cell = frame.convert("L").point([0] + [255] * 255).resize(new_size, Image.Resampling.BOX, box=box)
    part.paste((0, 0, 0), mask=cell.point([255] * 128 + [0] * 128))
    left, top = columns[0] - across[0], rows[0] - down[0]
    return part.crop((left, top, left + columns[1] - columns[0], top + rows[1] - rows[0]))


def _part(first: float, last: float, reach: float, side: int) -> tuple[int, int]:
    """First pixel and the one after the last that a filter which reaches so far needs for a span of a side."""
    return max(math.floor(first - reach) - 1, 0), min(math.ceil(last + reach) + 1, side)


def _moved(box: tuple[float, float, float, float], x: int, y: int) -> tuple[float, float, float, float]:
    """A box as seen from another pixel, exactly: rounded before to the 24 bits that Pillow rounds to."""
    left, top, right, bottom = (float(np.float32(edge)) for edge in box)
    return left - x, top - y, right - x, bottom - y


VIEWS = (1, 2, 4, 8)
"""How many turned and mirrored views a prediction can average over; see `symmetric_views`."""


def check_views(views: object, input_size: tuple[int, int]) -> None:
    """Refuse a number of views that a prediction cannot average over; only a square input can be turned."""
    if isinstance(views, bool) or views not in VIEWS:
        known = ", ".join(map(str, VIEWS[:-1]))
        raise DataError(f"A prediction averages over {known} or {VIEWS[-1]} views, not {views!r}.")
    if views != 1 and input_size[0] != input_size[1]:
        raise DataError(
            f"An input of {input_size[0]}x{input_size[1]} pixels is not square and cannot be turned: take 1 view."
        )


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
    """One view of a uint8 frame, turned by an angle in radians, mirrored and sized, in one resampling.

    With a factor above 1 the cell gets smaller. Beyond the edge of a photograph lies its mirror image, so that a turned
    view has no black corners; around a cell on black it is black.

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
    """Quarter turns of a batch, clockwise, then the same mirrored: exact views, without resampling.

    Args:
        batch: Array (N, height, width, 3); square for more than one view.
        count: One of `VIEWS`: 1, 2 (also a quarter turn), 4 (all quarter turns) or 8 (these also mirrored).

    Returns:
        Array (count, N, height, width, 3).

    Example:
        >>> symmetric_views(np.zeros((2, 100, 100, 3), np.uint8), 8).shape
        (8, 2, 100, 100, 3)
    """
    views = np.empty((count, *batch.shape), batch.dtype)
    for number, view in enumerate(views):
        # A channel at a time: where whole pixels are turned NumPy copies three values at once, which takes three times
        # as long.
        for channel in range(batch.shape[-1]):
            view[..., channel] = symmetric_view(batch[..., channel], number)
    return views


def symmetric_view(planes: np.ndarray, number: int) -> np.ndarray:
    """Of the `symmetric_views` of planes (..., height, width) the one of this number, from 0 to 7."""
    turned = np.rot90(planes, -(number % 4), axes=(-2, -1))
    return turned if number < 4 else turned[..., ::-1]


def upright_views(maps: np.ndarray) -> np.ndarray:
    """Turn maps (views, N, height, width) of the views of `symmetric_views` back, so that they lie on one another.

    Example:
        >>> image = np.arange(16).reshape(1, 4, 4, 1)
        >>> views = upright_views(symmetric_views(image, 8)[..., 0])
        >>> bool((views == image[..., 0]).all())
        True
    """
    plain = [maps[number] if number < 4 else maps[number][:, :, ::-1] for number in range(len(maps))]
    return np.stack([np.rot90(one, number % 4, axes=(1, 2)) for number, one in enumerate(plain)])
