"""Damaged and lying inputs for every reader of what comes from outside, and the judge of what a reader does with them.

An input is made from a target and a seed alone. A reader must raise one of our errors or give a correct answer: the
answer of the undamaged file, where the change left its content as it was or where the format has a checksum, and else
one of the promised form. `tools/fuzz.py` tries inputs by the thousand, `tests/test_fuzz.py` some hundred.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import random
import shutil
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo.errors import LeukaemiaZooError

SECONDS = 5.0
"""The most processor time that one file may take."""

MEMORY = 1 << 30
"""The most bytes that reading one file may take."""

LONGEST_ERROR = 2000
"""Characters: an error is one sentence, however much a file would have it quote."""

SAME, SAME_OR_ERROR, ANY = "the same", "the same or an error", "any"
"""What may come of an input."""

Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        original: Number of the undamaged files that it was made from.
        files: What lies in its folder, by name.
        change: What was done to them, in words.
        must: `SAME`, `SAME_OR_ERROR` or `ANY`.
    """

    original: int
    files: Files
    change: str
    must: str = ANY


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        originals: Makes the undamaged files.
        change: Makes an input from a generator and the originals.
        read: Reads a folder and gives an answer that can be compared; must raise nothing but our errors.
        fault: What is wrong with the form of an answer, or None.
        common: Makes files that lie in every folder, undamaged.
    """

    originals: Callable[[], list[Files]]
    change: Callable[[random.Random, list[Files]], Input]
    read: Callable[[Path], Any]
    fault: Callable[[Any], str | None] = lambda answer: None
    common: Callable[[], Files] = dict


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        kind: ``"error"`` (one of ours), ``"answer"`` or ``"finding"``.
        change: What was done to the files.
        detail: The error, or what was found.
        seconds: Of processor time.
        memory: Bytes that the process held at most while it read, beyond what it held before; 0 where it is not known.
    """

    kind: str
    change: str
    detail: str
    seconds: float
    memory: int


def attempt(name: str, seed: int, folder: Path) -> Outcome:
    """Make an input in a folder, which it replaces, read it and judge."""
    target, case = TARGETS[name], make(name, seed)
    _lay_out(folder, target.common() | case.files)
    before = _forget_peak()
    begin = time.process_time()
    answer, kind, detail = None, "answer", ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):  # as Python itself does
            warnings.simplefilter("ignore", hidden)
        try:
            answer = target.read(folder)
        except LeukaemiaZooError as error:
            kind, detail = "error", f"{type(error).__name__}: {error}"
            if any(isinstance(cause, MemoryError) for cause in _causes(error)):
                kind, detail = "finding", f"ran out of memory: {detail}"
            elif case.must == SAME:
                kind, detail = "finding", f"refused, though its content is sound: {detail}"
            elif len(str(error)) > LONGEST_ERROR:
                kind, detail = "finding", f"an error of {len(str(error)):,} characters: {detail[:200]}"
        except Exception as error:
            kind, detail = "finding", f"{type(error).__name__}: {error}"[:LONGEST_ERROR] + f" at {_place(error)}"
    seconds, memory = time.process_time() - begin, _peak() - before
    if kind == "answer":
        fault = target.fault(answer)
        if fault is None and case.must != ANY and not _equal(answer, _right_answer(name, case.original, folder)):
            fault = f"another answer than the undamaged file's, which was to give {case.must}"
        if fault is not None:
            kind, detail = "finding", fault
    if told and kind != "finding":
        kind, detail = "finding", f"warned: {told[0].category.__name__}: {told[0].message}"
    if seconds > SECONDS:
        kind, detail = "finding", f"took {seconds:.1f} s; {detail}"
    if memory > MEMORY:
        kind, detail = "finding", f"took {memory / 2**20:,.0f} MB; {detail}"
    return Outcome(kind, case.change, detail, seconds, max(memory, 0))


_PROCESS = Path("/proc/self")


def _forget_peak() -> int:
    """Have the kernel measure the peak of memory anew; bytes that are held now."""
    if not (_PROCESS / "clear_refs").is_file():
        return 0
    (_PROCESS / "clear_refs").write_text("5")
    return _held("VmRSS")


def _peak() -> int:
    return _held("VmHWM") if (_PROCESS / "clear_refs").is_file() else 0


def _held(what: str) -> int:
    line = next(line for line in (_PROCESS / "status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def make(name: str, seed: int) -> Input:
    """The input of a target and a seed."""
    return TARGETS[name].change(random.Random(f"{name} {seed}"), _originals(name))


@functools.cache
def _originals(name: str) -> list[Files]:
    return TARGETS[name].originals()


_right_answers: dict[tuple[str, int], Any] = {}


def _right_answer(name: str, original: int, folder: Path) -> Any:
    """What the undamaged files give; read in the same folder, since answers hold paths."""
    if (name, original) not in _right_answers:
        target = TARGETS[name]
        _lay_out(folder, target.common() | _originals(name)[original])
        _right_answers[name, original] = target.read(folder)
    return _right_answers[name, original]


def _lay_out(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    return bool(one == other)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """The last line of our own package that an exception came through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.parent.name == "leukaemia_zoo":
            place = f"{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


# --------------------------------------------------------------------------------------------------------------------
# Changes of bytes

_NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536, 50_000_000)
_NUMBERS += (2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(rng: random.Random, data: bytes, within: int | None = None) -> bytes:
    """One to eight bits turned, in the whole or near its beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(min(within or len(data), len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes, place: int | None = None, width: int | None = None) -> bytes:
    """A number that programs trip over, in either byte order."""
    width = width or rng.choice((1, 2, 4))
    place = rng.randrange(max(1, len(data) - width)) if place is None else place
    number = (rng.choice(_NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return data[:place] + number + data[place + width :]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A part left out, doubled, made up or taken from another file."""
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    place = rng.randrange(len(other) + 1)
    middle = rng.choice((b"", data[start:stop] * 2, rng.randbytes(rng.randrange(64)), other[place : place + 64]))
    return data[:start] + middle + data[stop:]


def _damage(rng: random.Random, data: bytes, other: bytes) -> tuple[str, bytes]:
    """Any change of bytes, and its name; none of them leaves nothing."""
    name = rng.choice(("flip", "flip near the beginning", "overwrite", "splice"))
    match name:
        case "flip":
            return name, _flip(rng, data)
        case "flip near the beginning":
            return name, _flip(rng, data, within=64)
        case "overwrite":
            return name, _overwrite(rng, data)
        case _:
            return name, _splice(rng, data, other)


# --------------------------------------------------------------------------------------------------------------------
# Images

_SUFFIXES = {"BMP": ".bmp", "PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}


def _pixels() -> np.ndarray:
    """A cell on black, 24 x 20 pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :20] - 10
    return np.where((np.hypot(x, y) < 8)[..., None], rng.integers(40, 220, (24, 20, 3)), 0).astype(np.uint8)


@functools.cache
def _images() -> list[Files]:
    """Every format in its modes, compressions and with its metadata; the name of the file tells which."""
    rgb = Image.fromarray(_pixels())
    grey = np.asarray(rgb.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(grey))
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a maker of cameras"
    found: list[Files] = []

    def add(kind: str, image: Image.Image, what: str, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append({f"{what}{_SUFFIXES[kind]}": file.getvalue()})

    modes = {mode: rgb.convert(mode) for mode in ("RGB", "L", "P", "1", "CMYK", "LAB", "YCbCr")}
    modes |= {"RGBA": alpha, "LA": alpha.convert("LA"), "I;16": deep, "F": Image.fromarray(grey.astype(np.float32))}
    for kind, able in (
        ("BMP", ("RGB", "RGBA", "L", "P", "1")),
        ("PNG", ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        ("JPEG", ("RGB", "L", "CMYK")),
        ("TIFF", tuple(modes)),
        ("WEBP", ("RGB", "RGBA")),
    ):
        for mode in able:
            add(kind, modes[mode], mode.replace(";", ""))
    add("PNG", modes["P"], "transparent", transparency=0)
    add("PNG", modes["L"], "transparent grey", transparency=0)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        add(kind, rgb, "turned", exif=exif)
    add("JPEG", rgb, "progressive", progressive=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        add("TIFF", rgb, compression, compression=compression)
    add("TIFF", modes["1"], "group4", compression="group4")
    add("TIFF", deep, "deep lzw", compression="tiff_lzw")
    add("TIFF", rgb, "strips", compression="tiff_lzw", tiffinfo={278: 5})
    add("TIFF", rgb, "big", big_tiff=True)
    add("TIFF", rgb, "pages", save_all=True, append_images=[rgb.rotate(90, expand=True)])
    add("WEBP", rgb, "lossless", lossless=True)
    add("WEBP", rgb, "moving", save_all=True, append_images=[rgb.rotate(180)])
    return found


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def _png(chunks: Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]) -> bytes:
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole


def _lie_of_png(rng: random.Random, data: bytes) -> bytes:
    """A chunk changed, left out, doubled or moved, with checksums that hold."""
    chunks = list(_png_chunks(data))
    at = rng.randrange(len(chunks)) if rng.random() < 0.5 else 0
    kind, content = chunks[at]
    match rng.choice(("number", "number", "content", "out", "twice", "moved", "foreign")):
        case "number":
            chunks[at] = (kind, _overwrite(rng, content or b"\0"))
        case "content":
            chunks[at] = (kind, _splice(rng, content, content))
        case "out":
            del chunks[at]
        case "twice":
            chunks.insert(at, chunks[at])
        case "moved":
            rng.shuffle(chunks)
        case _:
            kind = rng.choice(
                (b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf", b"zTXt", b"acTL", b"fcTL")
            )
            chunks.insert(rng.randrange(1, len(chunks)), (kind, rng.randbytes(rng.choice((0, 1, 2, 8, 26, 300, 900)))))
    return _png(chunks)


def _lie_of_tiff(rng: random.Random, data: bytes) -> bytes:
    """One number of one entry of the first directory: tag, type, count or value."""
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    start = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)[0]
    entry = start + (8 if big else 2) + rng.randrange(count) * (20 if big else 12)
    fields = ((0, 2), (2, 2), (4, 8), (12, 8)) if big else ((0, 2), (2, 2), (4, 4), (8, 4), (8, 2))
    shift, width = rng.choice(fields)
    number = (rng.choice(_NUMBERS) % 256**width).to_bytes(width, "little" if order == "<" else "big")
    return data[: entry + shift] + number + data[entry + shift + width :]


def _lie(rng: random.Random, data: bytes) -> bytes:
    """A header that lies about the size, the depth, the strips, the palette or the place of what follows."""
    if data.startswith(b"\x89PNG"):
        return _lie_of_png(rng, data)
    if data[:2] in (b"II", b"MM"):
        return _lie_of_tiff(rng, data)
    if data.startswith(b"BM"):
        place, width = rng.choice(
            ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4))
        )
        return _overwrite(rng, data, place, width)
    if data.startswith(b"RIFF"):
        return _overwrite(rng, data, rng.choice((4, 16, 20, 24, 27, 30)), rng.choice((1, 2, 3, 4)))
    markers = [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    return _overwrite(rng, data, rng.choice(markers) + rng.randrange(1, 12), rng.choice((1, 2)))


def _with_rubbish(rng: random.Random, data: bytes) -> bytes:
    """The same pixels beside metadata that nobody can read, or with rubbish behind the end."""
    rubbish = rng.randbytes(rng.randrange(1, 300))
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        chunks = list(_png_chunks(data))
        kind = rng.choice((b"eXIf", b"tEXt", b"tIME", b"prVt"))
        return _png([*chunks[:-1], (kind, rubbish), chunks[-1]])
    if data.startswith(b"\xff\xd8") and rng.random() < 0.7:
        rubbish = rng.choice((b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0")) + rubbish
        marker = rng.choice((b"\xff\xe1", b"\xff\xe5", b"\xff\xfe"))
        return data[:2] + marker + struct.pack(">H", len(rubbish) + 2) + rubbish + data[2:]
    return data + rubbish


def _change_image(rng: random.Random, originals: list[Files]) -> Input:
    original = rng.randrange(len(originals))
    [(name, data)] = originals[original].items()
    turned = name.startswith("turned")  # without its metadata, which it may lose, it lies in another direction
    how = rng.choice(("lie", "lie", "lie", "damage", "damage", "cut", "rubbish", "lie and damage", "name"))
    must = ANY
    match how:
        case "lie":
            changed = _lie(rng, data)
        case "damage":
            how, changed = _damage(rng, data, rng.choice([*rng.choice(originals).values()]))
            if how.startswith("flip") and data.startswith(b"\x89PNG"):
                must = SAME_OR_ERROR  # a checksum stands behind every chunk
        case "cut":
            changed, must = _cut(rng, data), ANY if turned else SAME_OR_ERROR
        case "rubbish":
            changed, must = _with_rubbish(rng, data), ANY if turned else SAME
        case "name":
            name, changed, must = rng.choice(("cell", "cell.csv", "cell.webp", "cell.BMP")), data, SAME
        case _:
            changed = _damage(rng, _lie(rng, data), data)[1]
    return Input(original, {f"images/{name}": changed}, f"{name}: {how}", must)


def _image_originals() -> list[Files]:
    return _images()


def _read_image(folder: Path) -> np.ndarray:
    from leukaemia_zoo.cells.images import read_image

    return read_image(next(file for file in folder.rglob("*") if file.is_file()))


def _fault_of_image(pixels: np.ndarray) -> str | None:
    from leukaemia_zoo.cells.arrays import MAX_PIXELS, MIN_SIDE

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        return f"pixels of {pixels.dtype}, {pixels.shape}"
    height, width, _ = pixels.shape
    return None if min(height, width) >= MIN_SIDE and height * width <= MAX_PIXELS else f"a size of {pixels.shape}"


# --------------------------------------------------------------------------------------------------------------------
# Large images, which are small files


def _no_originals() -> list[Files]:
    return [{}]


_PNG_KINDS = {
    "1": (1, 0),
    "L": (8, 0),
    "I;16": (16, 0),
    "RGB": (8, 2),
    "RGB;16": (16, 2),
    "P": (8, 3),
    "LA": (8, 4),
    "RGBA": (8, 6),
}


def _large_png(mode: str, width: int, height: int, fill: int) -> bytes:
    bits, colour = _PNG_KINDS[mode]
    line = b"\0" + bytes([fill]) * (-(-width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] // 8))
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    palette = [(b"PLTE", bytes(range(256)) * 3), (b"tRNS", bytes(range(255, -1, -1)))] if mode == "P" else []
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return _png([(b"IHDR", header), *palette, (b"IDAT", packed), (b"IEND", b"")])


def _change_large(rng: random.Random, originals: list[Files]) -> Input:
    """Images at the border of what is decoded, all of one colour, and metadata that unpacks to much."""
    width = rng.choice((7000, 16_000, 3_000_000, 20_000))
    height = rng.choice((1.0, 1.0, 0.3, 1.001)) * 50_000_000 / width
    shape, fill = (width, int(height)), rng.choice((0, 1, 255))
    kind = rng.choice(("PNG", "PNG", "PNG", "TIFF", "TIFF", "JPEG", "BMP", "WebP", "text"))
    if kind == "PNG":
        mode = rng.choice([*_PNG_KINDS])
        data, what = _large_png(mode, *shape, fill), f"PNG {mode}"
    elif kind == "text":
        packed = zlib.compress(b"\0" * rng.choice((1_000_000, 400_000_000)), 1)
        chunk = rng.choice(
            ((b"zTXt", b"a\0\0" + packed), (b"iCCP", b"a\0\0" + packed), (b"iTXt", b"a\0\1\0\0\0" + packed))
        )
        chunks = list(_png_chunks(_images()[5]["RGB.png"]))
        data, what = _png([chunks[0], *[chunk] * rng.choice((1, 20)), *chunks[1:]]), f"PNG with a large {chunk[0]!r}"
    else:
        shape = (min(shape[0], 16_000), min(shape[1], 16_000))
        mode = rng.choice(
            {"TIFF": ("F", "I;16", "RGBA", "CMYK", "RGB", "1"), "BMP": ("RGB", "1"), "JPEG": ("L", "CMYK")}.get(
                kind, ("RGB",)
            )
        )
        file = io.BytesIO()
        options = {"compression": rng.choice(("tiff_adobe_deflate", "tiff_lzw", None))} if kind == "TIFF" else {}
        Image.new(mode, shape, 1).save(file, kind, **options)
        data, what = file.getvalue(), f"{kind} {mode}"
    if rng.random() < 0.2:
        data, what = _cut(rng, data), f"{what}, cut"
    return Input(0, {"images/large": data}, f"{what} {shape[0]} x {shape[1]}")


# --------------------------------------------------------------------------------------------------------------------
# Tables

_PEOPLE = ("Ärztin, 1", "P2", "P 3", 'P"4')


def _cells_on_disk() -> Files:
    """Four images, which the tables name."""
    data = _images()[5]["RGB.png"]
    assert data.startswith(b"\x89PNG")
    return {f"cells/{place} ü.png": data for place in range(4)}


def _rows() -> list[list[str]]:
    labels = ("hem", "all", "all", "hem")
    return [
        ["path", "label", "subject", "site"],
        *([f"cells/{place} ü.png", labels[place], _PEOPLE[place], "B"] for place in range(4)),
    ]


def _as_csv(rows: list[list[str]], delimiter: str = ",", end: str = "\n", quote: bool = False) -> str:
    import csv

    file = io.StringIO()
    writer = csv.writer(
        file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
    )
    writer.writerows(rows)
    return file.getvalue()


def _table_originals() -> list[Files]:
    return [{"cells.csv": _as_csv(_rows()).encode()}]


def _change_table(rng: random.Random, originals: list[Files]) -> Input:
    rows, data = _rows(), originals[0]["cells.csv"]
    how = rng.choice(("layout", "layout", "field", "field", "row", "damage", "damage", "cut", "encoding", "odd"))
    must = ANY
    match how:
        case "layout":
            must = SAME
            order = rng.sample(range(4), 4)
            rows = [[row[place] for place in order] for row in rows]
            if rng.random() < 0.3:
                rows[0] = [rng.choice((name.upper(), f" {name} ", name.title())) for name in rows[0]]
            text = _as_csv(rows, rng.choice(",;"), rng.choice(("\n", "\r\n")), rng.random() < 0.5)
            changed = rng.choice((b"", b"\xef\xbb\xbf")) + text.encode() + rng.choice((b"", b"\n", b"\r\n\r\n"))
        case "field":
            rows[rng.randrange(5)][rng.randrange(4)] = rng.choice(
                (
                    "",
                    " ",
                    "\0",
                    "a\0b",
                    "/",
                    ".",
                    "..",
                    "~",
                    "x" * 5000,
                    "x" * 200_000,
                    "\ud800",
                    '"',
                    "=1+1",
                    "nan",
                    "²",
                    "①2",
                )
            )
            changed = _as_csv(rows, rng.choice(",;\t|")).encode("utf-8", "surrogatepass")
        case "row":
            at = rng.randrange(5)
            rows = rng.choice(
                (
                    rows[:at] + rows[at + 1 :],
                    [*rows, rows[at]],
                    [*rows[:at], rows[at] * 3, *rows[at:]],
                    [*rows[:at], [], *rows[at:]],
                    rows[:1],
                    rows[1:],
                    [],
                )
            )
            changed = _as_csv(rows).encode()
        case "damage":
            how, changed = _damage(rng, data, data)
        case "cut":
            changed = _cut(rng, data)
        case "encoding":
            encoding = rng.choice(("utf-16", "utf-16-be", "utf-32", "cp1252", "utf-7"))
            how, changed = encoding, data.decode().encode(encoding)
        case _:
            odd = (b"", b"\n", b"\r", b",", b'"', b"\0" * 1000, b"path,label\n", b"path,path,label,label\na,b,c,d\n")
            odd += (
                b'path,label\n"' + b"x" * 500_000,
                b"path,label," + b"a," * 100_000 + b"\n1,2\n",
                rng.randbytes(500),
            )
            odd += (b"path,label\r1,2\r", b"PK\x03\x04" + rng.randbytes(300), b"Patient_ID,new_names,labels\n1,2,3\n")
            changed = rng.choice(odd)
    return Input(0, {"cells.csv": changed}, how, must)


def _read_table(folder: Path) -> Any:
    from leukaemia_zoo.cells.readers import read_csv

    cells = read_csv(folder / "cells.csv")
    rows = zip(cells.paths, cells.labels.tolist(), cells.subjects, strict=True)
    return [(path.relative_to(folder), cells.class_names[label], subject) for path, label, subject in rows]


def _subject_originals() -> list[Files]:
    return [{"cells.csv": _as_csv([[row[0], row[2]] for row in _rows()]).encode()}]


def _read_subjects(folder: Path) -> Any:
    from leukaemia_zoo.cli.predictions import _subject_of_path

    return _subject_of_path(folder / "cells.csv")


def _preliminary() -> Files:
    rows = [
        ["Patient_ID", "new_names", "labels"],
        ["UID_7_1_1_all.bmp", "1.bmp", "1"],
        ["UID_H3_1_1_hem.bmp", "2.bmp", "0"],
    ]
    return {"C-NMC_test_prelim_phase_data_labels.csv": _as_csv(rows).encode()}


def _change_preliminary(rng: random.Random, originals: list[Files]) -> Input:
    if rng.random() < 0.8:
        return _change_bytes(rng, originals)
    [(name, data)] = originals[0].items()
    changed = rng.choice((b"", b"\xef\xbb\xbf")) + data.replace(b"\n", rng.choice((b"\n", b"\r\n")))
    return Input(0, {name: changed}, "layout", SAME)


def _preliminary_images() -> Files:
    return {f"C-NMC_test_prelim_phase_data/{place}.bmp": _images()[0]["RGB.bmp"] for place in (1, 2)}


def _read_preliminary(folder: Path) -> Any:
    from leukaemia_zoo.cells.readers import read_cnmc

    cells = read_cnmc(folder)
    return [
        (path.name, label, subject)
        for path, label, subject in zip(cells.paths, cells.labels.tolist(), cells.subjects, strict=True)
    ]


def _change_bytes(rng: random.Random, originals: list[Files]) -> Input:
    """One file of the originals damaged, whatever it is."""
    original = rng.randrange(len(originals))
    name = rng.choice(sorted(originals[original]))
    data = originals[original][name]
    if rng.random() < 0.2:
        how, changed = "cut", _cut(rng, data)
    else:
        how, changed = _damage(rng, data, data)
    return Input(original, originals[original] | {name: changed}, f"{name}: {how}")


# --------------------------------------------------------------------------------------------------------------------
# JSON

_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e308,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
)
_ODD_VALUES += (
    "x" * 10_000,
    "\ud800",
    "\x1b[2J",
    "a/b",
    "../..",
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, 2],
    ["a", "a"],
    {"source": []},
)


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from _nodes(item, (*path, key))


def _change_value(rng: random.Random, data: Any) -> str:
    """Put an odd value into the data, in place of another, or leave something out; says where."""
    path = rng.choice([*_nodes(data)])
    holder = functools.reduce(lambda inner, key: inner[key], path[:-1], data)
    key = path[-1]
    match rng.choice(("value", "value", "value", "value", "out", "further", "renamed")):
        case "out":
            del holder[key]
            return f"without {path}"
        case "further" if isinstance(holder, dict):
            holder[rng.choice(("", "x", "\ud800", "é"))] = copy.deepcopy(rng.choice(_ODD_VALUES))
            return f"more beside {path}"
        case "renamed" if isinstance(holder, dict):
            holder[f"{key}s"] = holder.pop(key)
            return f"{path} renamed"
        case _:
            value = copy.deepcopy(rng.choice(_ODD_VALUES))
            holder[key] = value
            return f"{path} = {str(value)[:20]!a}"


def _change_json(name: str) -> Callable[[random.Random, list[Files]], Input]:
    """Changes of one JSON file among the originals."""

    def change(rng: random.Random, originals: list[Files]) -> Input:
        original = rng.randrange(len(originals))
        data = originals[original][name]
        content = json.loads(data)
        how = rng.choice(("value",) * 7 + ("layout", "damage", "cut", "encoding", "odd"))
        must = ANY
        match how:
            case "value":
                how = "; ".join(_change_value(rng, content) for _ in range(rng.choice((1, 1, 1, 2))) if content)
                changed = json.dumps(content).encode()
            case "layout":
                text = json.dumps(content, indent=rng.choice((None, 1, "\t")), ensure_ascii=rng.random() < 0.5)
                changed, must = rng.choice(("", "\n", " \r\n")).encode() + text.encode() + b"\n", SAME
            case "damage":
                how, changed = _damage(rng, data, data)
            case "cut":
                changed = _cut(rng, data)
            case "encoding":
                how = rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp1252"))
                changed = data.decode().replace("e", "é", 3).encode(how)
            case _:
                odd = (
                    b"",
                    b"null",
                    b"[]",
                    b"{}",
                    b"1",
                    b'"x"',
                    b"[" * 100_000,
                    b'{"a":' * 50_000,
                    b"1" * 5000,
                    b"\0" * 100,
                )
                odd += (b"[[]]", b"[{}]", b"NaN", b"{" + b'"a":1,' * 9 + data.lstrip(b" {"))
                changed = rng.choice(odd)
        return Input(original, originals[original] | {name: changed}, how, must)

    return change


# --- models


def _tensors() -> dict[str, np.ndarray]:
    return {"logits/kernel": np.arange(8, dtype=np.float32).reshape(4, 2), "logits/bias": np.zeros(2, np.float32)}


def _configuration() -> dict[str, Any]:
    from leukaemia_zoo.cells.preprocessing import Preprocessing
    from leukaemia_zoo.zoo.registry import ModelConfig

    config = ModelConfig("cnn_attention", ("hem", "all"), "flatten", Preprocessing((32, 32)), ood_limit=12.5, views=8)
    return config.to_dict()


def _model_files(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Files:
    import hashlib

    from safetensors.numpy import save

    from leukaemia_zoo.zoo.registry import weights

    data = save(tensors, metadata={"leukaemia_zoo": json.dumps(config)})
    row = weights()["cnn_attention.cnmc"].to_dict() | {"config": config, "file": "model.safetensors"}
    row |= {"name": "mine", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    row["training"] = dict(row["training"]) | {
        "init": {"source": "cnn.cnmc", "sha256": "0" * 64, "init": {"source": "x"}}
    }
    return {"config.json": json.dumps(row).encode(), "model.safetensors": data}


def _model_originals() -> list[Files]:
    return [_model_files(_tensors(), _configuration())]


def _read_model(folder: Path) -> Any:
    """What is told of a model: its row, its card, and what it was trained on."""
    from leukaemia_zoo.training.leaks import training_of
    from leukaemia_zoo.zoo.cards import model_card
    from leukaemia_zoo.zoo.sources import read_whole

    spec, _ = read_whole(folder)
    trained = training_of(spec, folder)
    return spec.to_dict(), model_card(spec), None if trained is None else (sorted(trained.people), trained.gaps)


def _change_safetensors(rng: random.Random, originals: list[Files]) -> Input:
    """A header of another length, with other offsets, shapes, dtypes, names or configuration; or damaged bytes."""
    files = dict(originals[0])
    data, must = files["model.safetensors"], ANY
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = rng.choice(
        ("header", "header", "header", "configuration", "configuration", "layout", "damage", "cut", "length")
    )
    match how:
        case "header":
            how = _change_value(rng, header)
        case "configuration":
            config = json.loads(header["__metadata__"]["leukaemia_zoo"])
            how = _change_value(rng, config)
            header["__metadata__"]["leukaemia_zoo"] = rng.choice(
                (json.dumps(config), json.dumps([config]), "[" * 99_999, "")
            )
        case "layout":
            must = SAME
        case "damage":
            how, changed = _damage(rng, data, data)
        case "cut":
            changed = _cut(rng, data)
        case _:
            changed = rng.choice((*_NUMBERS, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    if how not in ("cut", "length") and not any(how.startswith(name) for name in ("flip", "overwrite", "splice")):
        text = json.dumps(header).encode()
        text += b" " * (rng.randrange(40) + -len(text) % 8)
        text += b" " * (-len(text) % 8)
        changed = len(text).to_bytes(8, "little") + text + body
    import hashlib

    row = json.loads(files["config.json"]) | {"sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed)}
    return Input(0, files | {"model.safetensors": changed, "config.json": json.dumps(row).encode()}, how, must)


def _trunk_originals() -> list[Files]:
    """A distilled trunk, whose header tells what it has seen and began with."""
    beginning = {"source": "cnn.cnmc", "sha256": "0" * 64, "data": [{"name": "A", "source": "B", "licence": "C"}]}
    seen = {"people": [[True, "20"], [False, "A"]], "fingerprints": ["0" * 15 + "7"], "files": ["0" * 64]}
    about = {"recipe": {"epochs": 4}, "seed": 0, "run": "0", "seen": seen, "init": beginning}
    return [_model_files(_tensors(), {"distillation": about, "init": beginning})]


def _read_trunk(folder: Path) -> Any:
    from leukaemia_zoo.training.leaks import seen_by_trunk
    from leukaemia_zoo.zoo.tensors import read_config

    config, seen = read_config(folder / "model.safetensors"), seen_by_trunk(folder / "model.safetensors")
    for block in (config or {}, (config or {}).get("distillation") or {}):  # as a training reads them
        [row.get("name") for row in (block.get("init") or {}).get("data", [])]
    return config, None if seen is None else (sorted(seen.people), seen.fingerprints.tolist(), sorted(seen.files))


def _read_weights(folder: Path) -> Any:
    """What is read of a weight file without a network, as it is and as a description promises it."""
    from leukaemia_zoo.zoo.sources import read_whole
    from leukaemia_zoo.zoo.tensors import head_tensors, read_config

    kernel, bias = head_tensors(folder / "model.safetensors")
    config = read_config(folder / "model.safetensors")
    spec, _ = read_whole(folder)
    return config, kernel.tolist(), bias.tolist(), spec.config


@functools.cache
def _network() -> Any:
    """A small network of the zoo; here Keras starts."""
    from leukaemia_zoo.zoo import build_model

    return build_model("cnn_attention", input_size=32)


def _network_originals() -> list[Files]:
    from leukaemia_zoo.zoo.tensors import named_variables

    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=tuple(variable.shape)).astype(np.float32)
        for name, variable in named_variables(_network()).items()
    }
    return [_model_files(tensors, _configuration())]


def _read_into_network(folder: Path) -> Any:
    """Assign to a network, all or none."""
    from leukaemia_zoo.zoo.tensors import load_tensors

    before = _network().get_weights()
    try:
        load_tensors(_network(), folder / "model.safetensors")
    except LeukaemiaZooError:
        if not all(map(np.array_equal, before, _network().get_weights())):
            raise AssertionError("a file that was refused changed the network") from None
        raise
    return [value.tolist() for value in _network().get_weights()]


def _fault_of_network(values: Any) -> str | None:
    finite = all(np.isfinite(np.array(value)).all() for value in values)
    return None if finite else "numbers that are not finite in a network"


# --- splits, recipes, reports, trainings


def _manifest_originals() -> list[Files]:
    import tempfile

    from leukaemia_zoo.cells.manifests import save_manifest
    from leukaemia_zoo.cells.readers import read_csv
    from leukaemia_zoo.cells.splits import Split

    with tempfile.TemporaryDirectory() as place:
        _lay_out(Path(place), _manifest_data())
        split = Split({"train": (0, 1), "validation": (2,), "test": (3,)}, 0, "by hand")
        save_manifest(Path(place) / "split.json", read_csv(Path(place) / "cells.csv"), split)
        return [{"split.json": (Path(place) / "split.json").read_bytes()}]


def _manifest_data() -> Files:
    return _cells_on_disk() | _table_originals()[0]


def _read_manifest(folder: Path) -> Any:
    from leukaemia_zoo.cells.manifests import load_manifest, manifest_sha256
    from leukaemia_zoo.cells.readers import read_csv
    from leukaemia_zoo.training.leaks import training_of_folder

    trained = training_of_folder(folder)
    people = trained and (sorted(trained.people), trained.fingerprints.tolist(), sorted(trained.files), trained.gaps)
    split = load_manifest(folder / "split.json", read_csv(folder / "cells.csv"))
    return people, manifest_sha256(folder / "split.json"), split.parts, split.seed, split.method


def _recipe_originals() -> list[Files]:
    from leukaemia_zoo.training.recipes import recipe_for

    whole = recipe_for("cnn_attention").to_dict()
    return [
        {"recipe.json": json.dumps(whole).encode()},
        {"recipe.json": b'{"distillation": {"epochs": 4}, "patience": 5}'},
    ]


def _read_recipe(folder: Path) -> Any:
    from leukaemia_zoo.training.recipes import recipe_for

    found = recipe_for("cnn_attention", folder / "recipe.json")
    hash(found)  # frozen, all through
    return json.dumps(found.to_dict(), allow_nan=False)


def _report_originals() -> list[Files]:
    """A report of two models with each block that the renderers know."""
    measured = {"value": 0.9, "low": 0.8, "high": 0.95}
    metrics = dict.fromkeys(("auroc", "accuracy", "sensitivity", "specificity", "log_loss"), measured)
    model = {
        "kind": "zoo",
        "metrics": metrics,
        "per_class": {"all": {"precision": measured, "recall": 0.5}, "hem": {"precision": measured}},
        "confusion": [[3, 1], [0, 4]],
        "calibration": {"ece": measured, "slope": 1.0, "temperature": 1.2},
        "operating_points": [{"name": "youden", "threshold": 0.4, "sensitivity": measured, "specificity": measured}],
        "predictive_values": {"0.1": {"ppv": measured, "npv": measured}},
        "per_subject": [{"subject": "P1", "cells": 3, "correct": 2, "share_correct": 0.67, "label": "all"}],
        "worst_subject": {"subject": "P1", "cells": 3, "share_correct": 0.67},
        "subgroups": {"site": {"B": {"cells": 8, "metrics": metrics}}},
        "cost": {"parameters": 1000, "throughput": measured, "size": 4000, "latency": measured, "operations": 1e9},
        "wrong": [{"path": "a.png", "label": "all", "probability": 0.2, "subject": "P1", "png": "iVBORw0KGgo="}],
        "roc": {"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]},
    }
    about = {"cells": 8, "subjects": 2, "class_names": ["hem", "all"], "manifest_sha256": "0" * 64, "notes": ["a"]}
    about["classes"] = {"hem": {"cells": 4, "subjects": 1}, "all": {"cells": 4, "subjects": 1}}
    data = {
        "schema": 1,
        "leukaemia_zoo": "0",
        "data": about,
        "settings": {"level": 0.95, "resamples": 10, "seed": 0},
        "environment": {"python": "3"},
        "models": {"cnn.cnmc": model, "mean": model | {"kind": "baseline"}},
        "differences": [{"a": "cnn.cnmc", "b": "mean", "metrics": metrics}],
        "timing": {"seconds": 3},
    }
    real = Path(__file__).parents[1] / "results" / "benchmark.json"
    found = [data, *([json.loads(real.read_text(encoding="utf-8"))] if real.is_file() else [])]
    return [{"report.json": json.dumps(content).encode()} for content in found]


def _read_report(folder: Path) -> Any:
    """Read, and tell in each way but the page with its plots."""
    from leukaemia_zoo.report.contents import Contents
    from leukaemia_zoo.report.report import Report
    from leukaemia_zoo.report.text import as_csv, as_markdown

    found = Report.load(folder)
    contents, twin = Contents(found.data), Report({"schema": 1, "models": {"cnn.cnmc": {"metrics": {"auroc": 0.5}}}})
    told = (as_csv(contents), as_markdown(contents, "0"), str(found), repr(found), str(found.compare(twin)))
    return tuple(text.encode() for text in told)


def _page_of_report(folder: Path) -> Any:
    from leukaemia_zoo.report.report import Report

    found = Report.load(folder)
    found.save(folder / "again")
    return (folder / "again" / "report.html").read_bytes()


def _training_originals() -> list[Files]:
    import tempfile

    from leukaemia_zoo.training.leaks import TrainedOn, pack

    known = TrainedOn("0" * 64, frozenset({(True, "20"), (False, "Ä")}), np.arange(9, dtype=np.uint64))
    with tempfile.TemporaryDirectory() as place:
        pack(Path(place) / "trainings.npz", [known])
        return [{"trainings.npz": (Path(place) / "trainings.npz").read_bytes()}]


def _read_trainings(folder: Path) -> Any:
    from leukaemia_zoo.training.leaks import unpack

    found = unpack(folder / "trainings.npz")
    return {digest: (sorted(one.people), one.fingerprints.tolist()) for digest, one in found.items()}


TARGETS: dict[str, Target] = {
    "images": Target(_image_originals, _change_image, _read_image, _fault_of_image),
    "large": Target(_no_originals, _change_large, _read_image, _fault_of_image),
    "tables": Target(_table_originals, _change_table, _read_table, common=_cells_on_disk),
    "subjects": Target(_subject_originals, _change_bytes, _read_subjects),
    "preliminary": Target(lambda: [_preliminary()], _change_preliminary, _read_preliminary, common=_preliminary_images),
    "config": Target(_model_originals, _change_json("config.json"), _read_model),
    "weights": Target(_model_originals, _change_safetensors, _read_weights),
    "trunks": Target(_trunk_originals, _change_safetensors, _read_trunk),
    "network": Target(_network_originals, _change_safetensors, _read_into_network, _fault_of_network),
    "manifests": Target(_manifest_originals, _change_json("split.json"), _read_manifest, common=_manifest_data),
    "recipes": Target(_recipe_originals, _change_json("recipe.json"), _read_recipe),
    "reports": Target(_report_originals, _change_json("report.json"), _read_report),
    "pages": Target(_report_originals, _change_json("report.json"), _page_of_report),
    "trainings": Target(_training_originals, _change_bytes, _read_trainings),
}
"""By name, in the order of the work: cells, models, training, results."""

WITH_KERAS = frozenset({"network"})
"""Targets that start Keras."""
