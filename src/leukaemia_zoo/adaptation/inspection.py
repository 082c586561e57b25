"""What labelled images of another laboratory are, found before anything is learnt from them.

Whether they can be read, whether each has one label, which of them belong to one person, how they were photographed:
every image is decoded once for all of that.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.cells.arrays import check_visible, lies_on_black
from leukaemia_zoo.cells.copies import (
    MOST_COMPARED,
    NearCopy,
    Texture,
    check_copies,
    near_copies_among,
    shared_cells_told,
    texture_of_frame,
)
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError, ImageError, UnknownNameError
from leukaemia_zoo.evaluation.inputs import IntArray

SPLITS_BY = ("auto", "subject", "image")
"""What a split keeps together: subjects where they are known, subjects always, or copies of an image alone."""

CNMC_SIDES = (256, 450)
"""Sides in pixels of the frames of C-NMC 2019: the official ones and the copies that the zoo was trained on."""

CROPS = (1.0, 0.85, 0.7, 0.55)
"""Shares of the frame's shorter side that are tried where frames show more than a cell on black. On 1,000 PBC images of
360 pixels 0.7 was better than 0.9 by 1 to 4 points of accuracy, with both small networks."""

DEFAULT_CROP = 0.6
"""The crop of such frames where none is tried."""

_LIKE = 0.87
"""Likeness of two class names (difflib's ratio) from which one may be a slip: lymphocyt and lymphocyte have 0.95,
monocite and monocyte 0.88, promyelocyte and myelocyte 0.86."""


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """Labelled images that can be learnt from.

    Attributes:
        cells: The table, without what was left out; its notes say what that was.
        people: Number of the person or, where no subject is known, of the image that each cell belongs to, int64 (n,).
        by: ``"subject"`` or ``"image"``: what these numbers stand for.
        sides: Shorter side of each frame in pixels, int64 (n,).
        on_black: Whether each frame has a black background, bool (n,).
    """

    cells: Cells
    people: IntArray
    by: str
    sides: IntArray
    on_black: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Seen:
    digest: str
    side: int
    on_black: bool
    texture: Texture | None


def inspect_cells(
    data: Any,
    *,
    split_by: str = "auto",
    skip_unreadable: bool = False,
    positive: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Inspected:
    """Read a table of labelled images and refuse what would spoil a training without a word.

    Args:
        data: A folder, a CSV, or a `Cells` table; see `read_data`.
        split_by: ``"auto"`` keeps the cells of a subject together where subjects are known, and copies of an image
            always; ``"subject"`` refuses data without subjects; ``"image"`` keeps nothing but copies together.
        skip_unreadable: Leave out images that cannot be read and folders that cannot be listed, with a note, instead of
            refusing.
        positive: The class that shall be the last, which of two is the positive one; None leaves the order.
        warn: Called with each sentence that the user should know and that is no reason to stop.

    Returns:
        `Inspected`.

    Raises:
        DataError: If an image cannot be read, an image has two labels, there is one class only, two classes differ in
            spelling alone, or subjects are wanted and not known. The message names the files.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number, label in enumerate(("blast", "blast", "lymphocyte")):
        ...         Path(folder, label).mkdir(exist_ok=True)
        ...         Image.new("RGB", (64, 64), (90, 40, 100 + number)).save(Path(folder, label, f"{number}.png"))
        ...     found = inspect_cells(folder)
        >>> found.by, found.people.tolist(), found.on_black.tolist()
        ('image', [0, 1, 2], [False, False, False])
    """
    if split_by not in SPLITS_BY:
        raise UnknownNameError(f"Cells cannot be split by '{split_by}': choose one of {', '.join(SPLITS_BY)}.")
    cells = as_cells(data, positive, skip_unreadable=skip_unreadable)
    _warn_of_slips(cells.class_names, warn)
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(_look, cells.paths, itertools.repeat(len(cells) <= MOST_COMPARED)))
    cells, found = _without_unreadable(cells, seen, skip_unreadable, warn)
    _check_classes(cells)
    check_copies(cells, [one.digest for one in found])
    by, people = _people(cells, found, split_by, warn)
    if by == "image":  # nothing may take them for subjects that the split has kept together
        cells = dataclasses.replace(cells, subjects=(None,) * len(cells))
    sides = np.array([one.side for one in found], np.int64)
    if sides.max() > 1.25 * sides.min():
        warn(
            f"The frames measure from {sides.min()} to {sides.max()} pixels, and each is cut in proportion to its own "
            "size: cells of different scales will look alike in size."
        )
    return Inspected(cells, people, by, sides, np.array([one.on_black for one in found]))


def _look(path: Path, compared: bool) -> _Seen | ImageError:
    try:
        frame = read_image(path)
        check_visible(frame, str(path))
    except ImageError as error:
        return error
    digest = hashlib.sha256(str(frame.shape).encode() + frame.tobytes()).hexdigest()
    return _Seen(digest, min(frame.shape[:2]), lies_on_black(frame), texture_of_frame(frame) if compared else None)


def _warn_of_slips(names: Sequence[str], warn: Callable[[str], None]) -> None:
    for one, other in itertools.combinations(names, 2):
        if re.findall(r"\d+", one) == re.findall(r"\d+", other) and _likeness(one, other) >= _LIKE:
            warn(f"The classes {one!r} and {other!r} are spelt nearly alike: if one is a slip, mend the label")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.casefold(), other.casefold(), autojunk=False).ratio()


def _without_unreadable(
    cells: Cells, seen: list[_Seen | ImageError], skip: bool, warn: Callable[[str], None]
) -> tuple[Cells, list[_Seen]]:
    good = [row for row, one in enumerate(seen) if isinstance(one, _Seen)]
    found = [one for one in seen if isinstance(one, _Seen)]
    bad = [path.name for path, one in zip(cells.paths, seen, strict=True) if isinstance(one, ImageError)]
    if not bad:
        return cells, found
    reason = next(str(one) for one in seen if isinstance(one, ImageError))
    if not skip:
        others = f"; so it is with {len(bad) - 1} more ({shortened(bad[1:])})" if len(bad) > 1 else ""
        raise DataError(
            f"{reason.rstrip('.')}{others}; mend or remove it, or leave such images out with skip_unreadable "
            "(--skip-unreadable)."
        )
    note = f"{len(bad):,} images that cannot be read left out: {shortened(bad)}."
    warn(note)
    kept = cells.subset(good)
    return dataclasses.replace(kept, notes=(*kept.notes, note)), found


def _check_classes(cells: Cells) -> None:
    counts = np.bincount(cells.labels, minlength=len(cells.class_names))
    there = [name for name, count in zip(cells.class_names, counts, strict=True) if count]
    if not len(cells):
        raise DataError("None of the images can be read: give 8-bit RGB images such as PNG, JPEG, BMP or TIFF.")
    if len(there) < 2:
        raise DataError(
            f"All {len(cells):,} images are of the class '{there[0] if there else ''}': give images of at least two "
            "classes."
        )
    if len(there) < len(counts):
        empty = cells.class_names[int(np.flatnonzero(counts == 0)[0])]
        raise DataError(f"The class '{empty}' has no images: add some, or leave the class out.")


def _people(cells: Cells, found: list[_Seen], split_by: str, warn: Callable[[str], None]) -> tuple[str, IntArray]:
    """Cells of one subject and copies of one image get one number, also where the one leads to the other."""
    unknown = sum(subject is None for subject in cells.subjects)
    if split_by == "subject" and unknown:
        raise DataError(
            f"{unknown:,} of {len(cells):,} images have no subject: give a CSV with a subject for each, or split by "
            "image (--split-by image)."
        )
    by = "image" if split_by == "image" or unknown == len(cells) else "subject"
    if by == "image":
        warn(
            "The split is by image, because "
            + ("no subject is known" if unknown == len(cells) else "that was asked for")
            + ": cells of one person may teach and test, so that the figures hold for these people, not for new ones."
        )
    elif unknown:
        warn(f"{unknown:,} of {len(cells):,} images have no subject: each counts as a person of its own.")
    group = list(range(len(cells)))

    def root(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    rows_of: dict[tuple[str, str], int] = {}
    for row, one in enumerate(found):
        keys = [("image", one.digest)]
        subject = cells.subjects[row]
        if by == "subject" and subject is not None:
            keys.append(("subject", subject))
        for key in keys:
            group[root(row)] = root(rows_of.setdefault(key, row))
    again = [pair for pair in _seen_again(cells, found) if root(pair.first) != root(pair.second)]
    if again:
        warn(f"Possibly {shared_cells_told(cells, again)}; if it is so, give them one name, or take one image out.")
    return by, np.unique([root(row) for row in range(len(cells))], return_inverse=True)[1].astype(np.int64)


def _seen_again(cells: Cells, found: list[_Seen]) -> tuple[NearCopy, ...]:
    textures = [one.texture for one in found if one.texture is not None]
    return near_copies_among(textures, cells.subjects) if len(textures) == len(cells) else ()


def usual_preprocessing(
    inspected: Inspected, own: Preprocessing, any_frame: bool = False
) -> tuple[Preprocessing | None, str]:
    """The preprocessing of a weight, where the frames are like those that it was made for.

    Args:
        inspected: The images.
        own: The preprocessing of the weight.
        any_frame: Whether the weight was taught to see cells in frames of any kind, as the trunk for other cytology.

    Returns:
        The preprocessing, or None where the crop has to be chosen; and one sentence that says why.

    Frames of C-NMC 2019 are black around the cell and measure 450 or 256 pixels. A weight that takes other frames, such
    as one that was fine-tuned before, keeps its own preprocessing.
    """
    if own.reference_frame is None and not any_frame:
        return own, "the preprocessing of the weight itself, which was not made for C-NMC's frames"
    like = inspected.on_black & np.isin(inspected.sides, CNMC_SIDES)
    if like.mean() > 0.5 and any_frame:
        share = f"{like.mean():.0%} of the frames are black around the cell and of C-NMC's size"
        return Preprocessing(own.input_size), f"that of C-NMC's frames: {share}"
    if like.mean() > 0.5:
        return own, f"the weight's own: {like.mean():.0%} of the frames are black around the cell and of C-NMC's size"
    seen = f"{np.median(inspected.sides):.0f} pixels and {'black' if inspected.on_black.mean() > 0.5 else 'coloured'}"
    return None, f"the frames (typically {seen} around the cell) are not C-NMC's"


def people_of_classes(inspected: Inspected) -> dict[str, int]:
    """How many people, or different images, each class has."""
    counts: dict[str, set[int]] = defaultdict(set)
    for label, person in zip(inspected.cells.labels.tolist(), inspected.people.tolist(), strict=True):
        counts[inspected.cells.class_names[label]].add(person)
    return {name: len(counts[name]) for name in inspected.cells.class_names}
