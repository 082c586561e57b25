"""What is in a table twice: the same image in two files, and the same cell in two images.

An image is known by its pixels. A cell that was photographed, cut out, turned or compressed once more has other pixels,
and the same texture.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from leukaemia_zoo.cells.arrays import RGBArray
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.preprocessing import VIEWS, Preprocessing, lies_on_black, symmetric_view
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import version_of
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError, ImageError

_REFERENCE = Preprocessing((1, 1))

_OUTLINE, _TEXTURE = 20, 100
"""Pixels of a side at which images are compared: first coarsely, each with each, then the nearest of them finely."""

_NEAREST = 24
"""Images of other people, or their turned and mirrored views, that are looked at more closely for each."""

_AT_ONCE = 128
"""Images that are compared with all others at once."""

_COARSELY_ALIKE = 0.95
_BLURS = (0.7, 3.5)
_LEAST_PIXELS = 150

_RIM = 6
"""Pixels of a cell's rim that are left out: what is bright or dark along it is alike in all round cells."""

MOST_COMPARED = 20_000
"""Cells up to which a training compares each with each without being asked: they take four minutes."""

LEAST_CORRELATION = 0.72
"""Of two textures that count as one cell: among 7,861 cells of C-NMC those of two cells reach 0.66."""

Texture: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float16], npt.NDArray[np.bool_]]
"""An image as `texture_of` sees it."""


# --- the same image in two files --------------------------------------------------------------------------------------


def duplicate_cells(cells: Cells) -> list[tuple[Path, Path]]:
    """Return the pairs of files that show exactly the same pixels, whatever their format.

    Every further copy of an image is paired with its first in the table.

    Raises:
        DataError: If a file cannot be read as an image.

    >>> [(one.name, other.name) for one, other in duplicate_cells(read_folders("my_cells"))]
    [('1.png', 'copy of 1.webp')]
    """
    paths = cells.paths
    rows = copied_rows([pixel_sha256(path) for path in paths])
    return [(paths[one], paths[other]) for one, other in rows if paths[one] != paths[other]]


def copied_rows(keys: Iterable[Hashable]) -> list[tuple[int, int]]:
    """Rows whose image is there already, each with the first row of it; images are the same if their keys are.

    >>> copied_rows(["a", "b", "a"])
    [(0, 2)]
    """
    first: dict[Hashable, int] = {}
    pairs = ((first.setdefault(key, row), row) for row, key in enumerate(keys))
    return [(one, other) for one, other in pairs if one != other]


def check_copies(cells: Cells, keys: Iterable[Hashable]) -> list[tuple[int, int]]:
    """The `copied_rows` of a table, which must have one label.

    Raises:
        DataError: If one image has two labels, of which one is wrong.
    """
    copies = copied_rows(keys)
    for rows in copies:
        if len({cells.labels[row] for row in rows}) > 1:
            one, two = (f"{cells.paths[row]} ('{cells.class_names[cells.labels[row]]}')" for row in rows)
            raise DataError(f"{one} and {two} are the same image with two labels: remove the wrong one.")
    return copies


def pixel_sha256(path: str | Path) -> str:
    """Return the SHA-256 of an image's size and RGB pixels as `read_image` gives them to the networks.

    It is the same for one image in two lossless formats. JPEG changes pixels, so a JPEG copy counts as another image.

    Raises:
        DataError: If the file cannot be read as an image.

    >>> len(pixel_sha256("my_cells/blast/1.png"))
    64
    """
    return _pixel_hashes(path)[0]


def fingerprint(frame: npt.ArrayLike) -> int:
    """Return 64 bits of the SHA-256 of a frame reduced to 256 pixels, as before every network: the same for both sizes.

    Args:
        frame: Shape (height, width, 3), RGB, 0 to 255.

    Raises:
        ImageError: If the array is not such an image.

    >>> fingerprint(np.zeros((450, 450, 3), np.uint8)) == fingerprint(np.zeros((256, 256, 3), np.uint8))
    True
    """
    return int.from_bytes(_digest(_REFERENCE.reduced(frame))[:8], "little")


def file_fingerprint(path: str | Path) -> int:
    """Return the `fingerprint` of an image file.

    >>> file_fingerprint("my_cells/blast/1.png") == file_fingerprint("my_cells/lymphocyte/2.png")
    False
    """
    return _pixel_hashes(path)[1]


def _pixel_hashes(path: str | Path) -> tuple[str, int]:
    path = Path(path)
    try:
        # One run checks many splits of the same files; size and time of change tell whether a file is still the same.
        return _hashes_of_version(path, *version_of(path))
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): check the path.") from error
    except ImageError as error:
        raise DataError(str(error)) from error


@lru_cache(maxsize=1 << 16)
def _hashes_of_version(path: Path, size: int, changed: int) -> tuple[str, int]:
    pixels = read_image(path)
    return _digest(pixels).hex(), fingerprint(pixels)


def _digest(pixels: np.ndarray) -> bytes:
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()


# --- the same cell in two images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NearCopy:
    """Two images that show one cell.

    Attributes:
        first: Row of the one in the table.
        second: Row of the other, a later one.
        correlation: Of their textures, at most 1.
        view: How the second is to be turned to be like the first: 0 not at all, 1 to 3 by so many quarter turns
            clockwise, 4 to 7 by as many from 0 on, and then mirrored.
    """

    first: int
    second: int
    correlation: float
    view: int = 0


def near_copies(cells: Cells, *, least: float = LEAST_CORRELATION) -> tuple[NearCopy, ...]:
    """Find cells that are there under two subjects though their pixels differ: one person, or a cell that is misfiled.

    Cells that were photographed, cut out, normalised or compressed once more keep their texture, and so do those that
    were turned by quarters or mirrored, as augmented copies are. Textures of cells of C-NMC that are not the same
    correlate by up to 0.66, those of one cell by 0.77 to 1. What was turned by other angles or moved is not found.
    7,861 images take a minute on two cores; the time grows with the square of their number.

    Args:
        cells: Images of single cells. Those without a subject are compared with all others.
        least: The correlation of two textures from which they count as one cell, from 0 to 1.

    Returns:
        The pairs, the surest first.

    Raises:
        ImageError: If an image cannot be read.

    >>> [(copy.first, copy.second) for copy in near_copies(read_folders("others_cells"))]
    [(0, 1)]
    """
    with ThreadPoolExecutor() as pool:
        return near_copies_among(list(pool.map(texture_of, cells.paths)), cells.subjects, least)


def near_copies_among(
    seen: Sequence[Texture], subjects: Sequence[str | None], least: float = LEAST_CORRELATION
) -> tuple[NearCopy, ...]:
    """The same of images that have been looked at, each of a subject or nobody known."""
    outlines = np.stack([outline for outline, _, _ in seen])
    count, planes = len(outlines), outlines.reshape(-1, _OUTLINE, _OUTLINE)
    views = [np.ascontiguousarray(symmetric_view(planes, view)).reshape(count, -1) for view in range(max(VIEWS))]
    owners = [subject or f"\0{row}" for row, subject in enumerate(subjects)]
    people = np.unique(owners, return_inverse=True)[1]
    found: dict[tuple[int, int, int], float] = {}
    for begin in range(0, count, _AT_ONCE):
        alike = np.stack([outlines[begin : begin + _AT_ONCE] @ view.T for view in views])
        alike[:, people[begin : begin + _AT_ONCE, None] == people[None]] = -1.0
        for row, likeness in enumerate(alike.transpose(1, 0, 2).reshape(alike.shape[1], -1), start=begin):
            nearest = np.argpartition(likeness, max(-_NEAREST, -len(likeness)))[-_NEAREST:]
            for place in nearest[likeness[nearest] >= _COARSELY_ALIKE].tolist():
                view, other = divmod(place, count)
                pair = (row, other, view) if row < other else (other, row, _inverse(view))
                if pair not in found:
                    found[pair] = _correlation(seen[pair[0]], seen[pair[1]], pair[2])
    best: dict[tuple[int, int], NearCopy] = {}
    for (first, second, view), value in sorted(found.items(), key=lambda item: -item[1]):
        if value >= least:
            best.setdefault((first, second), NearCopy(first, second, round(value, 4), view))
    return tuple(sorted(best.values(), key=lambda copy: (-copy.correlation, copy.first)))


def _inverse(view: int) -> int:
    """The view of the first that is like the second, where this view of the second is like the first."""
    return -view % 4 if view < 4 else view  # mirrored twice, it is as it was


def tell_shared_cells(cells: Cells, log: Callable[[str], None]) -> None:
    """Log which subjects share a cell, in two images of it: one of them may teach and the other test, as one person.

    Nothing is compared where no two subjects are known, or where there are more than `MOST_COMPARED` cells.
    """
    if len({*cells.subjects} - {None}) < 2 or len(cells) > MOST_COMPARED:
        return
    known = [
        pair for pair in near_copies(cells) if None not in (cells.subjects[pair.first], cells.subjects[pair.second])
    ]
    if known:
        log(f"note: possibly {shared_cells_told(cells, known)}; if it is so, give them one name in the table")


def shared_cells_told(cells: Cells, pairs: Sequence[NearCopy]) -> str:
    """Which images show one cell, the surest first."""
    files = []
    for pair in pairs:
        rows = (pair.first, pair.second)
        names = " and ".join(f"{cells.paths[row].name} ({cells.subjects[row] or 'no subject'})" for row in rows)
        files.append(names + (" turned or mirrored" if pair.view else ""))
    return f"two images show one cell, and their subjects are one person: {shortened(files)}"


def texture_of(path: Path) -> Texture:
    """The coarse image as a vector of length 1, the texture, and which pixels of it are of the cell."""
    return texture_of_frame(read_image(path))


def texture_of_frame(frame: RGBArray) -> Texture:
    """The same of a uint8 frame."""
    from scipy import ndimage

    grey = Image.fromarray(frame).convert("L")
    outline = np.asarray(grey.resize((_OUTLINE, _OUTLINE), Image.Resampling.BOX), np.float32).ravel()
    outline = outline - outline.mean()
    fine = np.asarray(grey.resize((_TEXTURE, _TEXTURE), Image.Resampling.BOX), np.float32)
    texture = ndimage.gaussian_filter(fine, _BLURS[0]) - ndimage.gaussian_filter(fine, _BLURS[1])
    inside = fine > 4 if lies_on_black(frame) else np.ones_like(fine, bool)
    inside = ndimage.binary_erosion(inside, iterations=_RIM)
    return outline / max(float(np.linalg.norm(outline)), 1e-6), texture.astype(np.float16), inside


def _correlation(one: Texture, other: Texture, view: int) -> float:
    """Of a texture and this view of another, where both images have the cell; -1 where that is hardly anywhere."""
    inside = one[2] & symmetric_view(other[2], view)
    if inside.sum() < _LEAST_PIXELS:
        return -1.0
    first, second = one[1][inside].astype(np.float64), symmetric_view(other[1], view)[inside].astype(np.float64)
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / max(np.sqrt((first**2).sum() * (second**2).sum()), 1e-9))
