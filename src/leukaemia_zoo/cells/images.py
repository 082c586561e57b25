"""Image files and arrays to checked uint8 RGB.

* `read_image` turns one file into one uint8 RGB array, `find_images` lists the files of a folder.
* `as_image` and `as_images` check arrays that come from elsewhere and refuse the ones whose range or channel order
  would be silently wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from leukaemia_zoo.common.folders import distinct, link_fault, system_note, walk
from leukaemia_zoo.errors import ImageError

IMAGE_SUFFIXES: frozenset[str] = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files that `find_images` takes from a folder."""

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
_PIXELS_AT_ONCE = 1_000_000
"""So many are converted at a time: with a whole image of `MAX_PIXELS` the steps between would take up to 1.2 GB."""

RGBArray = npt.NDArray[np.uint8]

_ONE_IMAGE = "a path, an array, an image of Pillow or an open binary file such as io.BytesIO(data)"
_FORMATS = "BMP, PNG, JPEG, TIFF and WebP"

# How a file begins (regular expressions) -> its format and the Pillow class that reads it. We choose the class
# ourselves instead of calling Image.open, which warns about large images through the process-wide warning filters
# before we can look at the size, and which hands JPEG files with several pictures to another plugin.
_READERS: tuple[tuple[bytes, str, type[ImageFile.ImageFile]], ...] = (
    (rb"BM", "BMP", BmpImageFile),
    (rb"\x89PNG\r\n\x1a\n", "PNG", PngImageFile),
    (rb"\xff\xd8\xff", "JPEG", JpegImageFile),
    (rb"II[*+]\0|MM\0[*+]", "TIFF", TiffImageFile),
    (rb"RIFF....WEBP", "WebP", WebPImageFile),
)

# Small text files that stand for a file kept elsewhere, and the command that fetches it.
_POINTERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"version https://git-lfs", "Git LFS", "git lfs pull"),
    (rb"(\.\./)*(\.git)?/?annex/objects/", "git-annex", "git annex get"),
)

# What else people point at by mistake, so that the message can name it.
_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"GIF8", "a GIF image"),
    (rb"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (rb"....ftypavi[fs]", "an AVIF image"),
    (rb"....ftyp(hei|hev|mif1)", "an HEIC image"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
)

_warnings_lock = threading.Lock()


# --------------------------------------------------------------------------------------------------------------------
# Files


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
            return _decode(stream, path)
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
    """List the image files among files and folders, with all that has to be told of them; see `find_images`.

    Raises:
        ImageError: A path does not exist, or a folder that was named cannot be listed.
    """
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
            that a system makes by itself, such as `@eaDir` and `$RECYCLE.BIN`. Linked folders are followed, each real
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
    """The images one by one, and whether they are files.

    Args:
        images: One path or a sequence of paths, of which folders stand for the images in them; or one frame, a batch or
            a sequence of frames, images of Pillow or open binary files.

    Raises:
        ImageError: If it is nothing of these.

    Example:
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
    """One of the items of `image_items` as uint8 RGB.

    Args:
        item: A path, an array, an image of Pillow or an open binary file.
        name: What to call it in messages, if it has no path.

    Raises:
        ImageError: If it is no image; the message says why.
    """
    if isinstance(item, str | os.PathLike):
        return read_image(item)
    if isinstance(item, Image.Image):
        _check_size(item.size, Path(name))
        return _to_rgb(item, Path(name))
    if _is_open_file(item):
        return _decode(item, Path(name))
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


def _decode(stream: BinaryIO, path: Path) -> RGBArray:
    """Pixels of an open file; every fault becomes an ImageError that names `path`."""
    head = stream.read(512)
    if not head:
        raise ImageError(f"{path} is empty (0 bytes): copy or download it again.")
    kind, reader = _reader_for(head, path)
    if kind == "WebP" and len(head) >= 30:
        # Some versions of Pillow allocate the whole WebP canvas while they read the header.
        _check_size(_webp_size(head), path)
    stream.seek(0)
    try:
        with _pillow_muted():
            image = reader(stream)
        _check_size(image.size, path)
        if isinstance(image, TiffImageFile):
            with _pillow_muted():
                _refuse_stack(image, path)
        # Pillow keeps the upper half of each 16-bit colour, after which nothing tells that there was more.
        had_16_bits = any("16" in str(tile[3]) for tile in image.tile)
        # Only TIFF looks at metadata once more while it decodes; the others decode side by side in several threads.
        with _pillow_muted() if kind == "TIFF" else contextlib.nullcontext():
            image.load()
        # Damaged EXIF data is no reason to refuse sound pixels: a cell has no up.
        with _pillow_muted(), contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        pixels = _to_rgb(image, path)
        if had_16_bits:
            _check_range(pixels, path)
        return pixels
    except ImageError:
        raise
    except Exception as error:  # on damaged bytes Pillow raises OSError, SyntaxError, ValueError, struct.error...
        detail = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ImageError(
            f"{path} cannot be read as {kind} ({detail}): it is damaged, cut off or of a rare kind, so copy it again "
            "or save it as 8-bit RGB PNG."
        ) from error


@contextlib.contextmanager
def _pillow_muted() -> Iterator[None]:
    """Keep Pillow from warning about odd metadata, on which the pixels do not depend.

    catch_warnings swaps the process-wide list of filters, so only one of our threads does it at a time. The filter
    mutes Pillow alone: should foreign code swap the list meanwhile, no other warning can get lost.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _reader_for(head: bytes, path: Path) -> tuple[str, type[ImageFile.ImageFile]]:
    for start, kind, reader in _READERS:
        if re.match(start, head, re.DOTALL):
            return kind, reader
    for start, keeper, command in _POINTERS:
        if re.match(start, head):
            raise ImageError(f"{path} is a pointer of {keeper} and not the image itself: fetch it with `{command}`.")
    what = next((what for start, what in _OTHER_KINDS if re.match(start, head, re.DOTALL)), None)
    if what is None:
        what = "text, not an image" if _looks_like_text(head) else "not an image of a known format"
    raise ImageError(f"{path} is {what}: give one of {_FORMATS}.")


def _looks_like_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        # The last character may be cut by the end of what was read.
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    return all(char.isprintable() or char in "\t\n\r\f\ufeff" for char in text)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first 30 bytes (RFC 9649)."""

    def number(start: int, stop: int) -> int:
        return int.from_bytes(head[start:stop], "little")

    match head[12:16]:
        case b"VP8X":
            return 1 + number(24, 27), 1 + number(27, 30)
        case b"VP8L":
            return 1 + (number(21, 25) & 0x3FFF), 1 + (number(21, 25) >> 14 & 0x3FFF)
        case _:
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


def _check_size(size: tuple[int, int], path: Path) -> None:
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


def _refuse_stack(image: TiffImageFile, path: Path) -> None:
    """Refuse a grey TIFF with the channels of one image, or its planes, on pages: the first page alone is no cell."""
    if image.mode not in ("1", "L", "F", "I") and not image.mode.startswith("I;16"):
        return
    text = str(image.tag_v2.get(270, ""))[:100_000]  # ImageDescription
    described = {
        "ImageJ": re.search(r"^(?:channels|images|slices|frames)=0*([2-9]|[1-9]\d+)\s*$", text, re.MULTILINE),
        "OME": re.search(r"""\bSize[CZT]=["']0*([2-9]|[1-9]\d+)["']""", text) if "<OME" in text else None,
    }
    maker = next((name for name, found in described.items() if found), None)
    alike = False
    if maker is None:
        size = image.size
        try:
            image.seek(1)  # and no further: counting the pages of a damaged file could take for ever
            # Reduced copies (1) and masks of transparency (4) are pages too, and no channels.
            alike = image.size == size and not int(image.tag_v2.get(254, 0)) & 5
        except Exception:  # there is no second page, or none that can be read
            alike = False
        image.seek(0)
    if maker or alike:
        raise ImageError(
            f"{path} is a stack of grey pages{f' ({maker})' if maker else ''}, such as channels, slices or times: save "
            "it as one RGB image (in ImageJ: Image > Type > RGB Color)."
        )


def _check_range(pixels: RGBArray, path: Path) -> None:
    """Refuse 16-bit samples that leave the upper two bits empty: they come from a camera of fewer bits."""
    highest = int(pixels.max())
    if 0 < highest < 64:
        raise ImageError(
            f"{path} has 16 bits a sample, but its values reach to about {highest << 8 | 255} only, "
            f"{8 + highest.bit_length()} of the 16 bits: scale it so that white is 65535 (or 255 in 8 bits)."
        )


def _to_rgb(image: Image.Image, path: Path) -> RGBArray:
    """Loaded Pillow image of any mode -> uint8 RGB."""
    if image.mode == "F":
        values = np.asarray(image)
        scale = _float_scale(values, path)
        return _by_rows(image, lambda rows: np.rint(values[rows, :, None] * scale))
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{path} holds whole numbers from {values.min()} to {values.max()}: save it as 8-bit or 16-bit."
            )
        bits = image.tag_v2.get(258, (16,))[0] if isinstance(image, TiffImageFile) else 16
        if bits > 12 and 0 < (high := int(values.max())) < 1 << 14:
            raise ImageError(
                f"{path} has {bits} bits a sample, but its values reach from {values.min()} to {high} only, "
                f"{high.bit_length()} of the 16 bits: scale it so that white is 65535 (or 255 in 8 bits)."
            )
        scale = 255 / (4095 if bits == 12 else 65535)
        return _by_rows(image, lambda rows: np.rint(values[rows, :, None] * scale))
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        visible = False

        def on_black(rows: slice) -> npt.NDArray[np.uint16]:
            nonlocal visible
            rgba = np.asarray(_rows_of(image, rows).convert("RGBA"))
            alpha = rgba[..., 3:].astype(np.uint16)
            visible |= bool(alpha.any())
            return (rgba[..., :3] * alpha + 127) // 255

        pixels = _by_rows(image, on_black)
        if not visible:  # would come out black; often an alpha channel that was never filled
            raise ImageError(f"{path} is transparent everywhere: save it again without its alpha channel.")
        return pixels
    if image.mode == "RGB":
        return np.array(image)
    return _by_rows(image, lambda rows: np.asarray(_rows_of(image, rows).convert("RGB")))


def _by_rows(image: Image.Image, pixels_of: Callable[[slice], npt.NDArray[Any]]) -> RGBArray:
    """The pixels of an image, some rows at a time: what is made on the way needs little memory then."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, step := max(1, _PIXELS_AT_ONCE // image.width)):
        rows = slice(top, min(top + step, image.height))
        pixels[rows] = pixels_of(rows)
    return pixels


def _rows_of(image: Image.Image, rows: slice) -> Image.Image:
    return image.crop((0, rows.start, image.width, rows.stop))


def _float_scale(values: npt.NDArray[np.floating], path: Path) -> float:
    low, high = values.min(), values.max()  # NaN if any value is
    if not (low >= 0 and high <= 255):
        raise ImageError(
            f"{path} holds floating-point values from {low:.6g} to {high:.6g}: save it as 8-bit or scale it to 0 to 1."
        )
    return 255.0 if high <= 1 else 1.0


# --------------------------------------------------------------------------------------------------------------------
# A cell on black


def lies_on_black(pixels: RGBArray) -> bool:
    """Whether an image shows a cell on black: nine tenths of its outermost pixels are background, as in C-NMC 2019.

    The round field of an eyepiece is no cell, though black lies around it: it fills more of the frame than a cell does,
    mostly with empty slide.
    """
    above = pixels.max(axis=-1) > BLACK
    if np.concatenate([above[0], above[-1], above[1:-1, 0], above[1:-1, -1]]).mean() > 0.1:
        return False
    return not (above.mean() > _MOST_OF_A_CELL and np.median(pixels[above].min(axis=-1)) >= _SLIDE)


def check_visible(pixels: RGBArray, name: str) -> None:
    """Refuse a frame in which the networks would see nothing: every pixel of it is background.

    Raises:
        ImageError: With the name and the highest value.
    """
    if (highest := int(pixels.max())) <= BLACK:
        raise ImageError(
            f"{name} is black where the cell should be (highest value {highest} of 255, background up to {BLACK}): "
            "give an image of a cell, scaled to 0..255."
        )


# --------------------------------------------------------------------------------------------------------------------
# Arrays


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
