"""Bytes of an image file to uint8 RGB: every fault becomes an `ImageError` that names the file and says the mend."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
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

from leukaemia_zoo.cells.arrays import RGBArray, check_size
from leukaemia_zoo.errors import ImageError

_PIXELS_AT_ONCE = 1_000_000
"""So many are converted at a time: with a whole image of `MAX_PIXELS` the steps between would take up to 1.2 GB."""

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


def decode(stream: BinaryIO, path: Path) -> RGBArray:
    """Pixels of an open file; every fault becomes an ImageError that names `path`."""
    head = stream.read(512)
    if not head:
        raise ImageError(f"{path} is empty (0 bytes): copy or download it again.")
    kind, reader = _reader_for(head, path)
    if kind == "WebP" and len(head) >= 30:
        # Some versions of Pillow allocate the whole WebP canvas while they read the header.
        check_size(_webp_size(head), path)
    stream.seek(0)
    try:
        with _pillow_muted():
            image = reader(stream)
        check_size(image.size, path)
        if kind == "PNG":
            _check_chunks(stream)
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
        pixels = to_rgb(image, path)
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


def _check_chunks(stream: BinaryIO) -> None:
    """Raise if a chunk of a PNG has another checksum than was written: Pillow does not look at those of the pixels."""
    start, animations = stream.tell(), 0
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        left, checksum, kind = int.from_bytes(head[:4]), zlib.crc32(head[4:]), head[4:].decode("latin-1")
        while left and (piece := stream.read(min(left, 1 << 20))):
            if kind == "acTL":
                animations += 1
                if animations > 1 or not 0 < int.from_bytes(piece[:4]) <= 1 << 31:
                    raise ValueError("its animation is damaged")  # of which Pillow warns, and no more
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
        written = stream.read(4)
        if left or len(written) < 4:
            break  # cut off, which Pillow tells where it matters
        # Capital letters: what is needed for the pixels (PNG, 5.4). Metadata may be damaged.
        if kind[0].isupper() and int.from_bytes(written) != checksum:
            raise ValueError(f"wrong checksum of the chunk {kind}")
    stream.seek(start)


@contextlib.contextmanager
def _pillow_muted() -> Iterator[None]:
    """Keep Pillow from warning about odd metadata, on which the pixels do not depend."""
    # catch_warnings swaps the process-wide list of filters, so only one of our threads does it at a time. The filter
    # mutes Pillow alone: should foreign code swap the list meanwhile, no other warning can get lost.
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


def to_rgb(image: Image.Image, path: Path) -> RGBArray:
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
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    step = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
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
