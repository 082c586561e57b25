"""Image files, listed and read as uint8 RGB."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from leukaemia_zoo.cells.arrays import RGBArray, as_image, check_size
from leukaemia_zoo.cells.decoding import decode, to_rgb
from leukaemia_zoo.common.folders import distinct, link_fault, system_note, walk
from leukaemia_zoo.errors import ImageError

IMAGE_SUFFIXES: frozenset[str] = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files that `find_images` takes from a folder."""

_ONE_IMAGE = "a path, an array, an image of Pillow or an open binary file such as io.BytesIO(data)"


def read_image(path: str | os.PathLike[str]) -> RGBArray:
    """Read one image file as RGB.

    The format is told from the content, not from the suffix: BMP, PNG, JPEG, TIFF or WebP. Of a file with several
    frames or pages the first is read, but a TIFF of grey pages, such as the channels of one image, is refused. An EXIF
    orientation is applied.

    How the colours become 8-bit RGB:

    * grey, palette, CMYK and YCbCr are converted; grey is repeated in the three channels;
    * transparency is composited over black, which is the background of segmented cells;
    * 16-bit grey is divided by 257 (65535 becomes 255) and rounded, 12-bit grey TIFF is scaled from 4095; of 16-bit
      RGB Pillow keeps the upper 8 bits; 16-bit samples of which none is above 16383 are refused, because they come
      from a camera of fewer bits and would be nearly black;
    * grey floating-point TIFF is taken as 0 to 1 if no value is above 1, else as 0 to 255, and refused outside.

    Args:
        path: The file.

    Returns:
        A uint8 array of shape (height, width, 3), RGB, 0 to 255.

    Raises:
        ImageError: There is no such file, or it is a folder, empty, not an image, damaged or cut off, of a format
            that is not read, transparent everywhere, smaller than `MIN_SIDE` on a side, or larger than `MAX_PIXELS`
            (found from the header, before anything is decoded). The message names the file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "cell.png"
        ...     Image.new("RGB", (20, 16), (74, 30, 82)).save(file)
        ...     pixels = read_image(file)
        >>> pixels.shape, pixels.dtype, pixels[0, 0].tolist()
        ((16, 20, 3), dtype('uint8'), [74, 30, 82])
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{path} is a folder: name an image file in it, or list its images with find_images().")
        if not stat.S_ISREG(mode):  # reading a pipe or a device could wait for ever
            raise ImageError(f"{path} is not a regular file: give the path of an image file.")
        with _BoundedReader(path) as stream:
            return decode(stream, path)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ImageError(f"{path} {link_fault(path)}") from error
        raise ImageError(f"{path} does not exist: check the file's name and folder.") from error
    except ImageError:  # is a ValueError too
        raise
    except (OSError, ValueError) as error:  # no permission, name too long, part of the path is a file, a null byte...
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path} cannot be opened ({reason}): check the path and your right to read it.") from error


@dataclasses.dataclass(frozen=True)
class Listing:
    """The image files among files and folders, see `list_images`.

    Attributes:
        images: Image files, each real file once, and broken links called like images, which fail when they are read.
        skipped: Other files that were met in folders.
        notes: One sentence for each kind of thing that was passed over and is no reason to worry.
        faults: One sentence for each folder that could not be entered, so that images may be missing.
    """

    images: tuple[Path, ...]
    skipped: tuple[Path, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]


def list_images(paths: Iterable[str | os.PathLike[str]]) -> Listing:
    """List the image files among files and folders, with all that has to be told of them; see `find_images`."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[Path] = []
    skipped: list[Path] = []
    system: list[Path] = []
    faults: list[str] = []
    for path in map(Path, paths):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            if not path.is_symlink():
                if isinstance(error, FileNotFoundError | ValueError):
                    raise ImageError(f"{path} does not exist: check the name of the file or folder.") from error
                reason = error.strerror or error
                raise ImageError(f"{path} cannot be reached ({reason}): check the path and your rights.") from error
            is_folder = False  # a broken link, of which reading tells
        if not is_folder:
            found.append(path)
            continue
        try:
            walked = walk(path)
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{path} cannot be listed ({reason}): check your right to read the folder.") from error
        for file in walked.files:
            (found if file.suffix.lower() in IMAGE_SUFFIXES else skipped).append(file)
        system += walked.system
        faults += walked.faults
    images, again = distinct(found)
    notes = [system_note(system)] if system else []
    if again:
        what = "file was" if len(again) == 1 else "files were"
        notes.append(f"{len(again):,} {what} named twice or through a link and counted once, such as {again[0]}.")
    return Listing(tuple(images), tuple(skipped), tuple(notes), tuple(faults))


def find_images(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[Path]]:
    """List the image files among files and folders.

    Args:
        paths: Files and folders. A file is taken whatever its suffix, so that a wrong one is reported by name when it
            is read. A folder is walked with all its subfolders, in natural order (`cell_2` before `cell_10`), and
            gives the files with one of `IMAGE_SUFFIXES`. Hidden files and folders are passed over, and so are folders
            that a system makes by itself, such as `@eaDir` and `$RECYCLE.BIN`, and folders below the named one in which
            `cells` or `explain` has left its pictures. Linked folders are followed, each real
            folder at most once, so that a loop of links ends. A broken link called like an image is taken, so that it
            is reported by name when it is read. A file that is met twice, by two names or through a link, is taken
            once.

    Returns:
        The images, in the order of `paths`, and the other files that were met in folders and left out.

    Raises:
        ImageError: A path does not exist or a folder that was named cannot be listed.

    Warns:
        UserWarning: A subfolder cannot be entered, so that images may be missing.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("10.bmp", "2.bmp", "labels.csv"):
        ...         Path(folder, name).touch()
        ...     images, skipped = find_images([folder])
        >>> [file.name for file in images], [file.name for file in skipped]
        (['2.bmp', '10.bmp'], ['labels.csv'])
    """
    found = list_images(paths)
    for fault in found.faults:
        warnings.warn(fault, stacklevel=2)
    return list(found.images), list(found.skipped)


def image_items(images: Any) -> tuple[Any, bool]:
    """The images one by one, and whether they are files; a folder stands for the images in it.

    Example:
        >>> import numpy as np
        >>> items, are_files = image_items(np.zeros((2, 64, 64, 3), np.uint8))
        >>> len(items), are_files
        (2, False)
    """
    if isinstance(images, str | os.PathLike | Image.Image) or _is_open_file(images):
        images = [images]
    if (
        images is None
        or isinstance(images, bytes | bytearray | Mapping | io.TextIOBase)
        or not isinstance(images, Iterable)
    ):
        raise ImageError(f"images is of type {type(images).__name__}: give {_ONE_IMAGE}, or a list of these.")
    if hasattr(images, "ndim") and images.ndim != 1:  # with one axis: a column of paths
        return ([images] if images.ndim < 4 else images), False
    items = list(images)
    if not items or not all(isinstance(item, str | os.PathLike) for item in items):
        return items, False
    return [found for item in items for found in (find_images([item])[0] if Path(item).is_dir() else [item])], True


def frame_of(item: Any, name: str) -> RGBArray:
    """One of the items of `image_items` as uint8 RGB; `name` is what to call one without a path."""
    if isinstance(item, str | os.PathLike):
        return read_image(item)
    if isinstance(item, Image.Image):
        check_size(item.size, Path(name))
        return to_rgb(item, Path(name))
    if _is_open_file(item):
        return decode(item, Path(name))
    if not isinstance(item, list | tuple | bytes) and not hasattr(item, "__array__"):
        raise ImageError(f"{name} is of type {type(item).__name__}: give {_ONE_IMAGE}.")
    return as_image(item, name=name)


def _is_open_file(value: Any) -> bool:
    """Whether it gives bytes: a text file or a StringIO holds no image."""
    methods = (getattr(value, name, None) for name in ("read", "seek"))
    return all(map(callable, methods)) and not isinstance(value, io.TextIOBase)


class _BoundedReader(io.BufferedReader):
    """A file of which no reader gets, or sets memory aside for, more than is left, whatever a header promises."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))
