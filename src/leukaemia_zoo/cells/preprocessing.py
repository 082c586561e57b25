"""From a frame to the pixels that a network takes.

`Preprocessing` cuts the fixed centre out of the frame and resizes it. Every weight carries its own. Nothing here scales
or standardises: networks take RGB from 0 to 255 and do the rest inside their graph.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.images import MIN_SIDE, RGBArray, as_image, as_images, check_visible, frame_of

_INTERPOLATIONS: dict[str, Image.Resampling] = {
    # Pillow widens each of these when it reduces an image (antialiasing); "nearest" does not and is left out.
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


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
        if not (isinstance(size, Sequence) and len(size) == 2 and all(_is_whole(side, 1) for side in size)):
            raise DataError(f"input_size is {size!r}: give height and width in whole pixels, such as (100, 100).")
        if not (isinstance(self.crop_fraction, Real) and not isinstance(self.crop_fraction, bool)):
            raise DataError(f"crop_fraction is {self.crop_fraction!r}: give a number above 0 and up to 1.")
        if not 0 < self.crop_fraction <= 1:
            raise DataError(f"crop_fraction is {self.crop_fraction!r}: give a number above 0 and up to 1.")
        if not (self.reference_frame is None or _is_whole(self.reference_frame, MIN_SIDE)):
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
        frame = Image.fromarray(self.reduced(image))
        height, width = self.input_size
        scale = self.crop_fraction * min(frame.size) / max(height, width)
        crop_w, crop_h = scale * width, scale * height
        left, top = (frame.width - crop_w) / 2, (frame.height - crop_h) / 2
        # Rounding may put an edge a hair outside the frame, which Pillow refuses.
        box = (max(left, 0.0), max(top, 0.0), min(left + crop_w, frame.width), min(top + crop_h, frame.height))
        return np.array(frame.resize((width, height), _INTERPOLATIONS[self.interpolation], box=box))

    def reduced(self, image: npt.ArrayLike) -> RGBArray:
        """Reduce one image to the reference frame, where it is larger, without cropping: the first half of a call.

        Args:
            image: What `as_image` takes.

        Returns:
            A uint8 array of shape (height, width, 3), RGB, 0 to 255.

        Raises:
            ImageError: The array is not such an image.
        """
        frame = np.ascontiguousarray(as_image(image))
        if self.reference_frame is None or min(frame.shape[:2]) <= self.reference_frame:
            return frame
        return np.asarray(_reduce(Image.fromarray(frame), self.reference_frame))

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
    """What a network takes of one image.

    Args:
        item: One of the items of `image_items`: a path, an array, an image of Pillow or an open binary file.
        name: What to call it in messages, if it has no path.
        preprocessing: From its frame to the network's input.

    Raises:
        ImageError: If it is no image, or every pixel of it is background.
    """
    pixels = preprocessing(frame_of(item, name))
    check_visible(pixels, os.fspath(item) if isinstance(item, str | os.PathLike) else name)
    return pixels


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _reduce(frame: Image.Image, side: int) -> Image.Image:
    """Reduce to `side` pixels on the shorter side and put the black background back."""
    scale = side / min(frame.size)
    size = (round(frame.width * scale), round(frame.height * scale))
    pixels = np.array(frame.resize(size, Image.Resampling.LANCZOS))
    cell = frame.convert("L").point([0] + [255] * 255)
    pixels[np.asarray(cell.resize(size, Image.Resampling.BOX)) < 128] = 0
    return Image.fromarray(pixels)
