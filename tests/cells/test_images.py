"""Files to arrays, and the checks of arrays that come from elsewhere."""

import contextlib
import doctest
import gc
import importlib.util
import io
import os
import struct
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from leukaemia_zoo.cells import arrays, decoding, images
from leukaemia_zoo.cells.arrays import MAX_PIXELS, MIN_SIDE, as_image, as_images, lies_on_black
from leukaemia_zoo.cells.images import find_images, list_images, read_image
from leukaemia_zoo.errors import ImageError, LeukaemiaZooError

EXAMPLES = Path(__file__).parents[2] / "examples"
HEIGHT, WIDTH = 20, 24


@pytest.fixture
def rgb():
    """Random RGB pixels: lossless formats must give back every one."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def grey(rgb):
    return rgb[..., 0]


def grey_rgb(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def save(path, pixels, mode=None, **options):
    """Write an array, of `mode` if it is not the one that its shape tells."""
    image = Image.fromarray(pixels)
    if mode:
        image = image.convert(mode)
    image.save(path, **options)
    return path


def png_bytes(width, height, depth, colour, rows, *extra):
    """Build a PNG by hand: what Pillow does not write (16-bit colour) or what no writer would (a bomb)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def png_16(values, colour):
    """PNG of 16-bit samples: colour type 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_bytes(values.shape[1], values.shape[0], 16, colour, rows)


def refused(path, *words):
    """Check that reading fails in one sentence that names the file and holds the words."""
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message
    assert message.endswith(".")
    assert "\n" not in message
    return message


class TestReadImage:
    @pytest.mark.parametrize(
        ("suffix", "options"),
        [
            (".bmp", {}),
            (".png", {}),
            (".tif", {}),
            (".tiff", {"compression": "tiff_lzw"}),
            (".tiff", {"compression": "tiff_deflate"}),
            (".webp", {"lossless": True}),
        ],
    )
    def test_lossless_formats_give_back_every_pixel(self, tmp_path, rgb, suffix, options):
        pixels = read_image(save(tmp_path / f"cell{suffix}", rgb, **options))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, rgb)

    @pytest.mark.parametrize("suffix", [".jpg", ".webp"])
    def test_lossy_formats_give_nearly_the_pixels(self, tmp_path, suffix):
        flat = np.full((HEIGHT, WIDTH, 3), (74, 30, 82), np.uint8)
        pixels = read_image(save(tmp_path / f"cell{suffix}", flat, quality=95))
        assert np.abs(pixels.astype(int) - flat).max() <= 4

    def test_suffix_does_not_matter(self, tmp_path, rgb):
        path = save(tmp_path / "cell.dat", rgb, format="PNG")
        np.testing.assert_array_equal(read_image(str(path)), rgb)

    def test_a_chunk_that_claims_gigabytes_sets_nothing_aside(self, tmp_path, rgb):
        path = save(tmp_path / "cell.png", rgb)
        data = path.read_bytes()
        at = data.index(b"IDAT") - 4
        path.write_bytes(data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :])
        tracemalloc.start()
        with contextlib.suppress(ImageError):  # the pixels are whole, so that either may come
            read_image(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50_000_000

    @pytest.mark.parametrize("depth", ["8 bits", "16 bits"])
    def test_a_flipped_bit_in_a_png_is_told(self, tmp_path, rgb, depth):
        """Pillow decodes it to other pixels, for it does not look at the checksum of the pixels."""
        path = tmp_path / "cell.png"
        data = png_16(rgb.astype(np.uint16) * 257, 2)
        if depth == "8 bits":
            data = png_bytes(WIDTH, HEIGHT, 8, 2, b"".join(b"\0" + row.tobytes() for row in rgb))
        stored = bytearray(data)
        at = data.index(b"IDAT") + 4
        for bit in (0, 3, 7):
            for place in (2, 40, len(data[at : data.index(b"IEND")]) - 12):
                flipped = stored.copy()
                flipped[at + place] ^= 1 << bit
                path.write_bytes(flipped)
                refused(path, "PNG", "damaged", "copy it again")
                with pytest.raises(ImageError, match="damaged"):
                    images.frame_of(io.BytesIO(bytes(flipped)), "an open file")
        path.write_bytes(data + b"what follows the end")
        np.testing.assert_array_equal(read_image(path), rgb)

    def test_damaged_metadata_of_a_png_is_no_reason(self, tmp_path, rgb):
        path = save(tmp_path / "cell.png", rgb)
        data = path.read_bytes()
        end = data.index(b"IEND") - 4
        path.write_bytes(data[:end] + struct.pack(">I", 3) + b"tEXt" + b"a\0b" + b"\0\0\0\0" + data[end:])
        np.testing.assert_array_equal(read_image(path), rgb)

    @pytest.mark.parametrize("frames", [(0,), (2**31 + 1,), (1, 1)])
    def test_a_damaged_animation_is_told_and_nothing_is_warned(self, tmp_path, rgb, frames, recwarn):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        path = save(tmp_path / "cell.png", rgb)
        data = path.read_bytes()
        at = data.index(b"IDAT") - 4
        control = b"".join(chunk(b"acTL", struct.pack(">II", number, 0)) for number in frames)
        path.write_bytes(data[:at] + control + data[at:])
        refused(path, "its animation is damaged", "copy it again")
        assert list(recwarn) == []

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "L", "CMYK", "I;16", "F"])
    def test_rows_that_are_converted_apart_give_the_same_pixels(self, tmp_path, rgb, mode, monkeypatch):
        image = Image.fromarray(rgb)
        if mode in ("RGBA", "LA"):
            image = image.convert(mode)
            alpha = np.zeros(rgb.shape[:2], np.uint8)
            alpha[-1] = 100  # nothing can be seen above the last row
            image.putalpha(Image.fromarray(alpha))
        elif mode in ("I;16", "F"):
            grey = np.asarray(image.convert("L"))
            image = Image.fromarray(grey.astype(np.uint16) * 257 if mode == "I;16" else grey / np.float32(255))
        else:
            image = image.convert(mode)
        image.save(tmp_path / "cell.tif")
        whole = read_image(tmp_path / "cell.tif")
        assert whole.any()
        monkeypatch.setattr(decoding, "_PIXELS_AT_ONCE", 3 * rgb.shape[1])
        np.testing.assert_array_equal(read_image(tmp_path / "cell.tif"), whole)

    def test_result_can_be_written_to(self, tmp_path, rgb):
        pixels = read_image(save(tmp_path / "cell.png", rgb))
        pixels[0] = 0

    @pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif"])
    def test_grey_is_repeated(self, tmp_path, grey, suffix):
        np.testing.assert_array_equal(read_image(save(tmp_path / f"cell{suffix}", grey)), grey_rgb(grey))

    def test_black_and_white(self, tmp_path, grey):
        path = tmp_path / "cell.png"
        Image.fromarray(grey > 100).save(path)
        np.testing.assert_array_equal(read_image(path), grey_rgb((grey > 100) * 255))

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_16_bit_grey(self, tmp_path, suffix):
        values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
        values[0, :4] = 0, 128, 129, 65535
        pixels = read_image(save(tmp_path / f"cell{suffix}", values))
        np.testing.assert_array_equal(pixels, grey_rgb(np.rint(values / 257)))
        assert pixels[0, :4, 0].tolist() == [0, 0, 1, 255]

    def test_16_bit_grey_big_endian(self, tmp_path):
        values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 130
        path = tmp_path / "cell.tif"
        Image.frombytes("I;16B", (WIDTH, HEIGHT), values.astype(">u2").tobytes()).save(path)
        np.testing.assert_array_equal(read_image(path), grey_rgb(np.rint(values / 257)))

    def test_32_bit_grey_that_holds_16_bits(self, tmp_path):
        values = np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH) * 130
        pixels = read_image(save(tmp_path / "cell.tif", values))
        np.testing.assert_array_equal(pixels, grey_rgb(np.rint(values / 257)))

    @pytest.mark.parametrize("outside", [-1, 65536])
    def test_32_bit_grey_beyond_16_bits_is_refused(self, tmp_path, outside):
        values = np.full((HEIGHT, WIDTH), 7, np.int32)
        values[3, 3] = outside
        refused(save(tmp_path / "cell.tif", values), "whole numbers", str(outside))

    def test_12_bit_grey_tiff(self, tmp_path):
        values = np.random.default_rng(2).integers(0, 4096, (HEIGHT, WIDTH))
        bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(HEIGHT, WIDTH, 2), axis=2)[:, :, 4:]
        data = np.packbits(bits).tobytes()
        tags = [(256, WIDTH), (257, HEIGHT), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1), (278, HEIGHT)]
        tags.append((279, len(data)))
        start = 8 + 2 + 12 * len(tags) + 4
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
        path = tmp_path / "cell.tif"
        path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data)
        np.testing.assert_array_equal(read_image(path), grey_rgb(np.rint(values / 4095 * 255)))

    def test_16_bit_rgb_keeps_the_upper_8_bits(self, tmp_path):
        values = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
        path = tmp_path / "cell.png"
        path.write_bytes(png_16(values, 2))
        np.testing.assert_array_equal(read_image(path), (values >> 8).astype(np.uint8))

    @pytest.mark.parametrize("bits", [10, 12, 14])
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_fewer_bits_than_16_are_told(self, tmp_path, suffix, bits):
        values = np.random.default_rng(3).integers(0, 1 << bits, (HEIGHT, WIDTH), np.uint16)
        values[0, :2] = 0, (1 << bits) - 1
        refused(save(tmp_path / f"grey{suffix}", values), f"from 0 to {(1 << bits) - 1} only", f"{bits} of the 16 bits")
        if suffix == ".png":
            path = tmp_path / "colour.png"
            path.write_bytes(png_16(np.repeat(values[..., None], 3, axis=2), 2))
            refused(path, f"reach to about {(1 << bits) - 1} only", f"{bits} of the 16 bits")

    @pytest.mark.parametrize(
        "description",
        [
            "ImageJ=1.53t\nimages=3\nchannels=3\nmode=composite\n",
            "ImageJ=1.53t\nimages=12\nslices=12\n",
            '<?xml version="1.0"?><OME><Image><Pixels SizeC="3" SizeT="1"/></Image></OME>',
            "<OME:OME><OME:Pixels SizeC='1' SizeT='20'/></OME:OME>",
            "",
        ],
    )
    def test_channels_on_pages_are_no_image(self, tmp_path, grey, rgb, description):
        """Described, or three pages alike without a word; a colour image with the same words is one."""
        tags = ImageFileDirectory_v2()
        tags[270] = description
        pages = [] if description else [Image.fromarray(grey)] * 2
        path = save(tmp_path / "pages.tif", grey, tiffinfo=tags, save_all=True, append_images=pages)
        refused(path, "is a stack", "save it as one RGB image")
        np.testing.assert_array_equal(read_image(save(tmp_path / "colour.tif", rgb, tiffinfo=tags)), rgb)

    @pytest.mark.parametrize("description", ["ImageJ=1.53t\nmin=0\nmax=255\n", '<OME><Pixels SizeC="1"/></OME>'])
    def test_one_grey_page_is_read_and_so_is_one_with_its_thumbnail(self, tmp_path, grey, description):
        tags = ImageFileDirectory_v2()
        tags[270] = description
        small = [Image.fromarray(grey[::2, ::2])]
        for more in ([], small):
            path = save(tmp_path / "one.tif", grey, tiffinfo=tags, save_all=True, append_images=more)
            np.testing.assert_array_equal(read_image(path), grey_rgb(grey))

    def test_16_bit_rgba_is_composited(self, tmp_path):
        values = np.full((HEIGHT, WIDTH, 4), 65535, np.uint16)
        values[:, 1:, 3] = 0
        path = tmp_path / "cell.png"
        path.write_bytes(png_16(values, 6))
        pixels = read_image(path)
        assert (pixels[:, 0] == 255).all()
        assert (pixels[:, 1:] == 0).all()

    @pytest.mark.parametrize(("scale", "dtype"), [(1.0, np.float32), (255.0, np.float32)])
    def test_float_tiff(self, tmp_path, scale, dtype):
        values = np.random.default_rng(4).random((HEIGHT, WIDTH)).astype(dtype)
        values[0, 0] = 1.0
        pixels = read_image(save(tmp_path / "cell.tif", (values * scale).astype(dtype)))
        np.testing.assert_array_equal(pixels, grey_rgb(np.rint(values * np.float32(255))))

    @pytest.mark.parametrize("bad", [-0.5, 256.0, np.nan, np.inf])
    def test_float_tiff_of_another_range_is_refused(self, tmp_path, bad):
        values = np.full((HEIGHT, WIDTH), 0.5, np.float32)
        values[3, 3] = bad
        refused(save(tmp_path / "cell.tif", values), "floating-point", "8-bit")

    @pytest.mark.parametrize(
        ("suffix", "options"), [(".png", {}), (".tif", {}), (".webp", {"lossless": True, "exact": True})]
    )
    def test_rgba_is_composited_over_black(self, tmp_path, rgb, suffix, options):
        alpha = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 1), np.uint8)
        pixels = read_image(save(tmp_path / f"cell{suffix}", np.concatenate([rgb, alpha], axis=2), **options))
        np.testing.assert_array_equal(pixels, np.floor(rgb * (alpha / 255) + 0.5))

    def test_grey_with_alpha(self, tmp_path, grey):
        alpha = np.zeros_like(grey)
        alpha[:, 5:] = 255
        path = tmp_path / "cell.png"
        Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(path)
        np.testing.assert_array_equal(read_image(path), grey_rgb(np.where(alpha > 0, grey, 0)))

    def test_transparent_everywhere_is_refused(self, tmp_path, rgb):
        path = save(tmp_path / "cell.png", np.concatenate([rgb, np.zeros_like(rgb[..., :1])], axis=2))
        refused(path, "transparent everywhere", "without its alpha")

    @pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0])])
    @pytest.mark.parametrize("suffix", [".png", ".bmp"])
    def test_palette(self, tmp_path, suffix, transparency):
        index = np.indices((HEIGHT, WIDTH)).sum(axis=0).astype(np.uint8) % 2
        image = Image.fromarray(index).convert("P")
        image.putpalette([74, 30, 82, 200, 100, 50])
        path = tmp_path / f"cell{suffix}"
        options = {} if transparency is None or suffix == ".bmp" else {"transparency": transparency}
        image.save(path, **options)
        colours = np.array([[74, 30, 82], [0, 0, 0] if options else [200, 100, 50]], np.uint8)
        np.testing.assert_array_equal(read_image(path), colours[index])

    def test_rgb_with_one_transparent_colour(self, tmp_path, rgb):
        rgb[3, 4] = 255, 255, 254
        path = save(tmp_path / "cell.png", rgb, transparency=(255, 255, 254))
        rgb[3, 4] = 0
        np.testing.assert_array_equal(read_image(path), rgb)

    def test_cmyk(self, tmp_path):
        path = tmp_path / "cell.tif"
        image = Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 0, 0))
        image.save(path)
        assert (read_image(path) == (255, 0, 255)).all()
        image.save(tmp_path / "cell.jpg", quality=95)
        assert np.abs(read_image(tmp_path / "cell.jpg").astype(int) - (255, 0, 255)).max() <= 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_exif_orientation_is_applied(self, tmp_path, rgb, suffix, orientation):
        turned = {
            1: rgb,
            2: rgb[:, ::-1],
            3: rgb[::-1, ::-1],
            4: rgb[::-1],
            5: rgb.transpose(1, 0, 2),
            6: np.rot90(rgb, -1),
            7: rgb[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(rgb, 1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if suffix == ".webp" else {}
        path = save(tmp_path / f"cell{suffix}", rgb, exif=exif, **options)
        np.testing.assert_array_equal(read_image(path), turned)

    def test_damaged_exif_does_not_matter(self, tmp_path, rgb):
        exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
        path = save(tmp_path / "cell.png", rgb, exif=exif)
        np.testing.assert_array_equal(read_image(path), rgb)

    @pytest.mark.parametrize(("suffix", "options"), [(".png", {}), (".tif", {}), (".webp", {"lossless": True})])
    def test_first_of_several_frames(self, tmp_path, rgb, suffix, options):
        others = [Image.fromarray(255 - rgb)]
        path = save(tmp_path / f"cell{suffix}", rgb, save_all=True, append_images=others, **options)
        np.testing.assert_array_equal(read_image(path), rgb)

    def test_jpeg_with_several_pictures(self, tmp_path):
        first, second = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("black", "white"))
        first.save(tmp_path / "cell.jpg", format="MPO", save_all=True, append_images=[second])
        assert read_image(tmp_path / "cell.jpg").max() == 0


class TestReadImageRefuses:
    def test_missing_file(self, tmp_path):
        refused(tmp_path / "none.png", "does not exist")

    def test_folder(self, tmp_path):
        refused(tmp_path, "is a folder", "find_images")

    def test_path_through_a_file(self, tmp_path, rgb):
        refused(save(tmp_path / "cell.png", rgb) / "more.png", "cannot be opened")

    def test_null_byte_in_the_name(self):
        with pytest.raises(ImageError, match="cannot be opened"):
            read_image("a\0b.png")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
    def test_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        refused(tmp_path / "pipe.png", "not a regular file")

    def test_empty_file(self, tmp_path):
        (tmp_path / "cell.png").touch()
        refused(tmp_path / "cell.png", "is empty")

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"just some words\n", "text, not an image"),
            ("Zellgröße,".encode() * 60, "text, not an image"),
            (b"<!DOCTYPE html><html>", "text, not an image"),
            (bytes(range(256)), "not an image of a known format"),
            (bytes(128) + b"DICM", "a DICOM file"),
            (b"\0\0\0\x20ftypheic", "an HEIC image"),
            (b"%PDF-1.7", "a PDF document"),
            (b"\x93NUMPY\x01\0", "a NumPy array"),
        ],
    )
    def test_something_else(self, tmp_path, content, what):
        (tmp_path / "cell.png").write_bytes(content)
        refused(tmp_path / "cell.png", what, "BMP, PNG, JPEG, TIFF and WebP")

    def test_gif_says_which_formats_are_read(self, tmp_path, grey):
        refused(save(tmp_path / "cell.gif", grey), "a GIF image", "BMP, PNG, JPEG, TIFF and WebP")

    @pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
    @pytest.mark.parametrize(
        ("suffix", "options"),
        [(".bmp", {}), (".png", {}), (".jpg", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"}), (".webp", {})],
    )
    def test_truncated_file(self, tmp_path, suffix, options, part):
        noise = np.random.default_rng(6).integers(0, 256, (60, 60, 3), np.uint8)
        path = save(tmp_path / f"cell{suffix}", noise, **options)
        content = path.read_bytes()
        path.write_bytes(content[: max(40, int(len(content) * part))])
        refused(path, "cannot be read as", "cut off")

    def test_damaged_png(self, tmp_path, rgb):
        path = save(tmp_path / "cell.png", rgb)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        refused(path, "cannot be read as PNG", "damaged")

    @pytest.mark.parametrize("start", [b"BM", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"RIFF\0\0\0\0WEBPVP8 "])
    def test_nothing_behind_the_signature(self, tmp_path, start):
        (tmp_path / "cell.png").write_bytes(start)
        refused(tmp_path / "cell.png", "cannot be read as")

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (MIN_SIDE - 1, 100), (100, MIN_SIDE - 1)])
    @pytest.mark.parametrize("suffix", [".bmp", ".png", ".jpg", ".tif", ".webp"])
    def test_too_small(self, tmp_path, suffix, width, height):
        path = save(tmp_path / f"cell{suffix}", np.zeros((height, width, 3), np.uint8))
        refused(path, f"{width} x {height} pixels", f"less than {MIN_SIDE}")

    def test_smallest_image_is_read(self, tmp_path):
        smallest = np.zeros((MIN_SIDE, MIN_SIDE, 3), np.uint8)
        assert read_image(save(tmp_path / "cell.png", smallest)).shape == smallest.shape


class TestBombs:
    """Images that claim more pixels than any cell has are refused before a pixel is decoded."""

    @pytest.fixture(autouse=True)
    def _no_decoding(self, monkeypatch):
        def load(*_):
            raise AssertionError("the image was decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)

    # Pillow warns above 89 and raises above 179 megapixels; neither must show.
    @pytest.mark.parametrize("side", [7_072, 10_000, 20_000, 2**31 - 1])
    def test_png(self, tmp_path, side):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_bytes(side, side, 8, 2, b"\0"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            refused(path, f"{side} x {side} pixels", "50 megapixels")
        assert side * side > MAX_PIXELS

    @pytest.mark.parametrize(
        "header",
        [
            b"VP8X\x0a\0\0\0" + bytes(4) + (19_999).to_bytes(3, "little") * 2,
            b"VP8L\x05\0\0\0\x2f" + ((16_382 << 14) | 16_382).to_bytes(4, "little") + bytes(5),
            b"VP8 \x0a\0\0\0" + bytes(3) + b"\x9d\x01\x2a" + (16_383).to_bytes(2, "little") * 2,
        ],
    )
    def test_webp(self, tmp_path, header):
        path = tmp_path / "bomb.webp"
        path.write_bytes(b"RIFF\x16\0\0\0WEBP" + header)
        refused(path, "50 megapixels")

    def test_bmp(self, tmp_path):
        path = tmp_path / "bomb.bmp"
        path.write_bytes(b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0))
        refused(path, "20000 x 20000 pixels", "50 megapixels")


def test_webp_size_is_that_of_pillow(tmp_path, rgb):
    alpha = np.concatenate([rgb, rgb[..., :1]], axis=2)
    for number, (pixels, options) in enumerate([(rgb, {}), (rgb, {"lossless": True}), (alpha, {})]):
        head = save(tmp_path / f"{number}.webp", pixels, **options).read_bytes()[:512]
        assert decoding._webp_size(head) == (WIDTH, HEIGHT)


class TestManners:
    """Reading leaves nothing behind: no open file, no warning, no changed setting."""

    def test_no_file_stays_open_and_nothing_is_printed(self, tmp_path, rgb, recwarn, capfd):
        gc.collect()  # what tests before left, such as an event loop, is none of this one's
        recwarn.clear()
        for suffix in (".bmp", ".png", ".jpg", ".tif", ".webp"):
            path = save(tmp_path / f"good{suffix}", rgb)
            read_image(path)
            cut = tmp_path / f"cut{suffix}"
            cut.write_bytes(path.read_bytes()[:60])
            with pytest.raises(ImageError):
                read_image(cut)
        multi = tmp_path / "multi.tif"
        save(multi, rgb, save_all=True, append_images=[Image.fromarray(rgb)])
        read_image(multi)
        gc.collect()
        assert not [str(warning.message) for warning in recwarn]
        assert capfd.readouterr() == ("", "")
        fds = Path("/proc/self/fd")
        if fds.is_dir():
            still_open = [str(fd.readlink()) for fd in fds.iterdir() if fd.exists()]
            assert not [name for name in still_open if str(tmp_path) in name]

    def test_warnings_about_metadata_do_not_show(self, tmp_path, rgb, recwarn):
        path = save(tmp_path / "cell.tif", rgb)
        content = bytearray(path.read_bytes())
        # One more tag, whose text lies far behind the end of the file.
        position = struct.unpack_from("<I", content, 4)[0]
        count = struct.unpack_from("<H", content, position)[0]
        moved = content[position + 2 : position + 2 + 12 * count] + struct.pack("<HHII", 305, 2, 5000, 10_000_000)
        new = len(content)
        content += struct.pack("<H", count + 1) + moved + bytes(4)
        struct.pack_into("<I", content, 4, new)
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="larger than file|Truncated File Read"):  # so Pillow does warn
            Image.open(path).load()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(read_image(path), rgb)
        assert not caught

    def test_settings_of_pillow_and_python_stay(self, tmp_path, rgb):
        path = save(tmp_path / "cell.png", rgb)
        before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
        threads = [threading.Thread(target=lambda: [read_image(path) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before

    def test_errors_can_be_caught_together(self, tmp_path):
        with pytest.raises(LeukaemiaZooError):
            read_image(tmp_path / "none.png")


def lock(monkeypatch, folder):
    """Take away the right to list a folder; the tests may run as root, whom no mode keeps out."""
    scandir = os.scandir

    def refuse(path="."):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


class TestFindImages:
    @staticmethod
    def make(root, *names):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    def test_natural_order_through_subfolders(self, tmp_path):
        self.make(tmp_path, "b/10.bmp", "b/9.BMP", "a/cell_2.png", "a/cell_10.webp", "a/Cell_1.tiff", "1.jpeg")
        images, skipped = find_images([tmp_path])
        names = [image.relative_to(tmp_path).as_posix() for image in images]
        assert names == ["1.jpeg", "a/Cell_1.tiff", "a/cell_2.png", "a/cell_10.webp", "b/9.BMP", "b/10.bmp"]
        assert skipped == []

    def test_other_files_are_told_and_hidden_ones_are_not(self, tmp_path):
        self.make(tmp_path, "1.bmp", "labels.csv", "a/film.gif", ".DS_Store", "._1.bmp", ".cache/2.bmp")
        images, skipped = find_images([tmp_path])
        assert images == [tmp_path / "1.bmp"]
        assert skipped == [tmp_path / "a/film.gif", tmp_path / "labels.csv"]

    def test_files_are_taken_as_given_and_in_order(self, tmp_path):
        self.make(tmp_path, "b.bmp", "a.txt", "folder/c.png")
        given = [tmp_path / "b.bmp", str(tmp_path / "a.txt"), tmp_path / "folder"]
        assert find_images(given) == ([tmp_path / "b.bmp", tmp_path / "a.txt", tmp_path / "folder/c.png"], [])

    def test_one_path_alone(self, tmp_path):
        self.make(tmp_path, "1.bmp")
        assert find_images(str(tmp_path)) == ([tmp_path / "1.bmp"], [])

    def test_nothing_there(self, tmp_path):
        assert find_images([tmp_path]) == ([], [])
        assert find_images([]) == ([], [])

    @pytest.mark.parametrize("name", ["none", "none.png", "a\0b"])
    def test_missing_path(self, tmp_path, name):
        with pytest.raises(ImageError, match="does not exist"):
            find_images([tmp_path, tmp_path / name])

    def test_digits_of_other_scripts(self, tmp_path):
        self.make(tmp_path, "cell².png", "cell٣.png", "cell1.png")
        assert len(find_images([tmp_path])[0]) == 3

    def test_loop_of_links_ends(self, tmp_path):
        self.make(tmp_path, "data/1.bmp", "elsewhere/2.bmp")
        try:
            (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
            (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        except OSError:
            pytest.skip("this system does not allow links")
        images, skipped = find_images([tmp_path / "data"])
        assert images == [tmp_path / "data/1.bmp", tmp_path / "data/link/2.bmp"]
        assert skipped == []

    @pytest.mark.parametrize(
        "system",
        [
            *("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@Recycle"),
            *(".Trash-1000", "__MACOSX", "found.000", "LOST+FOUND"),
        ],
    )
    def test_folders_of_the_system_are_passed_over_and_told(self, tmp_path, system):
        self.make(tmp_path, "1.bmp", f"{system}/2.bmp", f"a/{system}/deep/3.bmp", "a/recycled/4.bmp", "a/trash/5.bmp")
        found = list_images([tmp_path])
        names = [image.relative_to(tmp_path).as_posix() for image in found.images]
        assert names == ["1.bmp", "a/recycled/4.bmp", "a/trash/5.bmp"]
        assert find_images(tmp_path) == (list(found.images), [])
        (note,) = found.notes
        assert note.startswith("2 folders of the system passed over: ")
        assert str(tmp_path / "a" / system) in note
        assert len(list_images([tmp_path / system]).images) == 1, "named on purpose"

    @pytest.mark.parametrize("record", ["examination.json", "explanations.json"])
    def test_pictures_of_earlier_results_are_passed_over_and_told(self, tmp_path, record):
        self.make(tmp_path, "1.bmp", "out/cells/2.bmp", "out/3.bmp", "@eaDir/4.bmp", "theirs/5.bmp")
        (tmp_path / "theirs" / record).write_text('{"patient": 7}')  # of somebody else
        (tmp_path / "out" / record).write_text('{"leukaemia_zoo": "0.1.0"}')
        found = list_images([tmp_path])
        assert [image.name for image in found.images] == ["1.bmp", "5.bmp"]
        assert found.notes == (
            f"1 folder of the system passed over: {tmp_path / '@eaDir'}. "
            f"1 folder of earlier results passed over: {tmp_path / 'out'}.",
        )
        assert len(list_images([tmp_path / "out"]).images) == 2, "named on purpose"

    def test_one_file_counts_once_whatever_its_paths(self, tmp_path, monkeypatch):
        """Named twice, by a folder too, by another way, through a link to it and through a link to its folder."""
        self.make(tmp_path, "a/1.bmp", "a/2.bmp")
        (tmp_path / "b").mkdir()
        try:
            (tmp_path / "b" / "again.bmp").symlink_to(tmp_path / "a" / "1.bmp")
            (tmp_path / "b" / "way").symlink_to(tmp_path / "a", target_is_directory=True)
        except OSError:
            pytest.skip("this system does not allow links")
        monkeypatch.chdir(tmp_path)
        for given in (["a/1.bmp", "a"], ["a", tmp_path / "a", "b/../a/2.bmp"], ["a", "b"], ["b", "b"]):
            found = list_images(given)
            assert len(found.images) == 2, given
            assert "counted once" in found.notes[0]
        assert list_images(["a"]).notes == ()

    @pytest.mark.parametrize("target", [".git/annex/objects/Xk/SHA256E-s1--0.bmp", "/gone/.dvc/cache/ab/cdef", "1.bmp"])
    def test_a_broken_link_is_read_and_says_so(self, tmp_path, target):
        self.make(tmp_path, "good.bmp")
        link = tmp_path / "1.bmp"
        try:
            link.symlink_to(target)
        except OSError:
            pytest.skip("this system does not allow links")
        for given in (tmp_path, link):
            assert link in find_images([given])[0]
        message = refused(link, *(["is a link to", "git annex get"] if target != "1.bmp" else []))
        assert "Traceback" not in message

    def test_a_broken_link_to_a_folder_is_a_fault(self, tmp_path):
        self.make(tmp_path, "good.bmp")
        try:
            (tmp_path / "patient 7").symlink_to(tmp_path / "gone")
        except OSError:
            pytest.skip("this system does not allow links")
        with pytest.warns(UserWarning, match=r"patient 7 is a link to .*gone"):
            assert find_images(tmp_path) == ([tmp_path / "good.bmp"], [])

    @pytest.mark.parametrize(
        "text", ["version https://git-lfs.github.com/spec/v1\n", "/annex/objects/SHA256E-s9--0.bmp"]
    )
    def test_a_pointer_to_a_file_elsewhere_says_how_to_fetch_it(self, tmp_path, text):
        path = tmp_path / "1.bmp"
        path.write_text(text)
        refused(path, "pointer of", "fetch it with `git")

    @pytest.mark.parametrize("locked", ["a", "b/deep", "c"])
    def test_a_subfolder_that_cannot_be_listed_stops_nothing(self, tmp_path, monkeypatch, locked):
        self.make(tmp_path, "a/1.bmp", "b/deep/2.bmp", "b/3.bmp", "c/4.bmp")
        lock(monkeypatch, tmp_path / locked)
        found = list_images([tmp_path])
        assert len(found.images) == 3
        assert found.faults == (f"{tmp_path / locked} cannot be listed (Permission denied): check your right to read "
                                "the folder.",)  # fmt: skip
        with pytest.raises(ImageError, match="cannot be listed"):
            list_images([tmp_path / locked])


class TestOnBlack:
    @staticmethod
    def eyepiece(side, radius, level=225):
        """A bright field with cells in it, as through an eyepiece."""
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        field = np.full((side, side, 3), (level + 10, level, level), np.uint8)
        for row, column in ((0.3, 0.4), (0.6, 0.6), (0.5, 0.25)):
            inside = np.hypot(y + side / 2 - row * side, x + side / 2 - column * side) < 0.07 * side
            field[inside] = (90, 50, 130)
        field[np.hypot(x, y) > radius * side] = 0
        return field

    @pytest.mark.parametrize("side", [256, 450])
    @pytest.mark.parametrize("radius", [0.67, 0.6, 0.5, 0.45, 0.35])
    def test_a_field_through_an_eyepiece_is_none(self, side, radius):
        """Whether its circle reaches beyond the frame, so that the corners alone are dark, or lies within it."""
        field = self.eyepiece(side, radius)
        assert field[:4, :4].max() == 0
        assert not lies_on_black(field)
        assert not lies_on_black(self.eyepiece(side, radius, level=170))

    @pytest.mark.parametrize(("radius", "level"), [(0.1, 190), (0.25, 190), (0.28, 120), (0.45, 60), (0.49, 120)])
    def test_a_cell_is_one_whatever_its_size(self, draw_cell, radius, level):
        assert lies_on_black(draw_cell(1, radius=radius, level=level))

    def test_compression_leaves_it_one(self, tmp_path, draw_cell):
        for quality in (60, 75, 95):
            Image.fromarray(draw_cell(1)).save(tmp_path / "cell.jpg", quality=quality)
            assert lies_on_black(read_image(tmp_path / "cell.jpg"))
        assert not lies_on_black(np.full((64, 64, 3), 9, np.uint8))

    def test_the_networks_and_the_augmentation_have_the_same_threshold(self):
        from leukaemia_zoo.smears import segmentation
        from leukaemia_zoo.zoo import augmentation, layers

        assert layers.CellMask().threshold == arrays.BLACK == augmentation.BLACK == segmentation.BLACK

    @pytest.mark.parametrize("folder", ["cnmc/training_data", "cnmc_original"])
    def test_real_cells(self, shared_data, folder):
        paths = find_images([shared_data / folder])[0]
        assert all(lies_on_black(read_image(path)) for path in paths[:: max(1, len(paths) // 60)])

    @pytest.mark.parametrize("folder", ["pbc", "bccd"])
    def test_real_photographs(self, shared_data, folder):
        paths = find_images([shared_data / folder])[0]
        assert not any(lies_on_black(read_image(path)) for path in paths[:: max(1, len(paths) // 40)])


class TestAsImage:
    def test_uint8_is_passed_on_as_it_is(self, rgb):
        assert as_image(rgb) is rgb

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64])
    def test_other_numbers_from_0_to_255(self, rgb, dtype):
        image = as_image(rgb.astype(dtype))
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, rgb)

    def test_floats_are_rounded(self):
        values = np.full((20, 20, 3), 10.4)
        values[0] = 254.6
        assert as_image(values)[0].max() == 255
        assert as_image(values)[1].max() == 10

    def test_black_floats_are_not_taken_for_scaled(self):
        assert as_image(np.zeros((20, 20, 3), np.float32)).max() == 0

    def test_pillow_images_and_lists_are_arrays_too(self, rgb):
        np.testing.assert_array_equal(as_image(Image.fromarray(rgb)), rgb)
        np.testing.assert_array_equal(as_image(rgb.tolist()), rgb)

    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.full((20, 20, 3), 0.5), ["above 1", "0..1", "multiply it by 255"]),
            (np.full((20, 20, 3), 1.0), ["above 1", "multiply it by 255"]),
            (np.linspace(-1, 1, 1200).reshape(20, 20, 3), ["below 0 (lowest -1)", "standardised"]),
            (np.full((20, 20, 3), -1), ["below 0", "standardised"]),
            (np.full((20, 20, 3), 255.1), ["above 255"]),
            (np.full((20, 20, 3), 60000, np.uint16), ["above 255", "257"]),
            (np.full((20, 20, 3), 4000, np.uint16), ["above 255", "12 bits by dividing by 16.0588"]),
            (np.full((20, 20, 3), 700.0), ["above 255", "10 bits by dividing by 4.01176"]),
            (np.full((20, 20, 3), np.nan), ["not finite"]),
            (np.full((20, 20, 3), np.inf), ["not finite"]),
            (np.ones((20, 20, 3), bool), ["dtype bool"]),
            (np.ones((20, 20, 3), complex), ["dtype complex128"]),
            (np.full((20, 20, 3), "a"), ["dtype <U1"]),
            (np.full((20, 20, 3), None), ["dtype object"]),
            (np.zeros((3, 20, 20), np.uint8), ["channels first", "np.moveaxis(image, 0, -1)"]),
            (np.zeros((20, 20), np.uint8), ["grey", "np.repeat(image[..., None], 3, axis=-1)"]),
            (np.zeros((20, 20, 1), np.uint8), ["grey", "np.repeat(image, 3, axis=-1)"]),
            (np.zeros((20, 20, 4), np.uint8), ["four channels", "image[..., :3]"]),
            (np.zeros((20, 20, 7), np.uint8), ["the last axis"]),
            (np.zeros((2, 20, 20, 3), np.uint8), ["three axes"]),
            (np.uint8(3), ["three axes"]),
            (np.zeros((0, 20, 3), np.uint8), ["is empty"]),
            (np.zeros((15, 20, 3), np.uint8), ["less than 16"]),
            ("cell.png", ["read_image"]),
            (Path("cell.png"), ["read_image"]),
            ([[1, 2], [3]], ["cannot become an array"]),
        ],
    )
    def test_refused_with_the_mend(self, array, words):
        with pytest.raises(ImageError) as caught:
            as_image(array, name="cells[7]")
        message = str(caught.value)
        assert message.startswith("cells[7] ")
        assert message.endswith(".")
        for word in words:
            assert word in message

    def test_the_mends_work(self, rgb):
        np.testing.assert_array_equal(as_image(np.moveaxis(rgb.transpose(2, 0, 1), 0, -1)), rgb)
        np.testing.assert_array_equal(as_image(rgb.astype(np.float32) / 255 * 255), rgb)
        assert as_image(np.repeat(rgb[..., :1], 3, axis=-1)).shape == rgb.shape
        assert as_image(np.repeat(rgb[..., 0][..., None], 3, axis=-1)).shape == rgb.shape


class TestAsImages:
    def test_one_image(self, rgb):
        (image,) = as_images(rgb)
        np.testing.assert_array_equal(image, rgb)

    def test_batch(self, rgb):
        np.testing.assert_array_equal(as_images(np.stack([rgb, 255 - rgb]).astype(np.float32)), [rgb, 255 - rgb])

    def test_images_of_differing_sizes_from_list_tuple_and_generator(self, rgb):
        images = [rgb, rgb[:17], rgb.astype(np.float64)]
        for given in (images, tuple(images), iter(images)):
            assert [image.shape for image in as_images(given)] == [(20, 24, 3), (17, 24, 3), (20, 24, 3)]

    def test_one_pillow_image(self, rgb):
        assert len(as_images(Image.fromarray(rgb))) == 1

    def test_message_names_the_index(self, rgb):
        with pytest.raises(ImageError, match=r"^cells\[1\] has no value above 1"):
            as_images([rgb, rgb / 255.0], name="cells")
        with pytest.raises(ImageError, match=r"^images\[2\] has values below 0"):
            as_images(np.stack([rgb, rgb, rgb]).astype(int) - [[[[0]]], [[[0]]], [[[300]]]])

    def test_channels_first_batch(self):
        with pytest.raises(ImageError, match=r"channels first.*np\.moveaxis\(images, 1, -1\)"):
            as_images(np.zeros((2, 3, 20, 20), np.uint8))

    @pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 20, 20, 3), np.uint8)])
    def test_no_image(self, nothing):
        with pytest.raises(ImageError, match="holds no image"):
            as_images(nothing)

    @pytest.mark.parametrize("wrong", [None, 3, {"a": 1}, "cell.png", Path("cell.png"), np.array([None, None])])
    def test_something_else(self, wrong):
        with pytest.raises(ImageError, match=r"^images "):
            as_images(wrong)


@pytest.fixture(scope="module")
def drawings():
    """The module examples/draw_cells.py."""
    spec = importlib.util.spec_from_file_location("draw_cells", EXAMPLES / "draw_cells.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_cells"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["draw_cells"]


class TestExampleCells:
    def test_drawing_again_gives_the_same_pixels(self, drawings):
        images, skipped = find_images([EXAMPLES / "cells"])
        assert [image.stem for image in images] == sorted(drawing.name for drawing in drawings.DRAWINGS)
        assert [file.name for file in skipped] == ["README.md"]
        for drawing in drawings.DRAWINGS:
            shipped = read_image(EXAMPLES / "cells" / f"{drawing.name}.png")
            np.testing.assert_array_equal(drawings.draw_cell(drawing), shipped)

    def test_they_resemble_real_cells_in_size_and_colour(self, drawings):
        areas = {"all": [], "hem": []}
        for drawing in drawings.DRAWINGS:
            pixels = read_image(EXAMPLES / "cells" / f"{drawing.name}.png")
            cell = pixels.any(axis=2)
            assert not cell[[0, -1]].any()
            assert not cell[:, [0, -1]].any()
            assert 0.78 < 1 - cell.mean() < 0.90  # black part of a real frame
            areas[drawing.name.rsplit("_", 1)[1]].append(cell.sum() * (450 / 256) ** 2)
            red, green, blue = pixels[cell].mean(axis=0)
            assert 55 < red < 95
            assert 22 < green < 45
            assert 60 < blue < 100
        assert np.mean(areas["all"]) == pytest.approx(36_244, rel=0.1)
        assert np.mean(areas["hem"]) == pytest.approx(26_544, rel=0.1)

    def test_they_are_small_and_say_what_they_are(self):
        folder = EXAMPLES / "cells"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000
        assert "drawn by a program" in (folder / "README.md").read_text(encoding="utf-8")


def test_examples_in_the_docstrings_run():
    results = [doctest.testmod(module) for module in (images, arrays)]
    assert sum(result.attempted for result in results) >= 5
    assert [result.failed for result in results] == [0, 0]
