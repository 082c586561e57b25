"""The table of labelled cells, which readers make and splits and training take, and what is in it twice."""

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo._names import old_method
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.common.files import version_of
from leukaemia_zoo.common.limits import UNCERTAIN
from leukaemia_zoo.common.tables import check_subjects, subject_name
from leukaemia_zoo.errors import DataError, ImageError, UnknownNameError

_REFERENCE = Preprocessing((1, 1))

MIXED = "mixed"

_TAKEN = {
    UNCERTAIN: "the verdict on a cell that no class is certain of",
    MIXED: "what a person with cells of several classes is called",
}
"""Names that no class may have, since results would not tell the two apart."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A table of labelled cell images, one row a file; the images themselves stay on disk.

    Attributes:
        paths: Image files.
        labels: Index into `class_names` of each cell, int64 of shape (n,).
        subjects: The person each cell comes from, merged where one person has several numbers; None where unknown.
        class_names: Class of each label.
        groups: The part of the source that each cell lies in, such as the C-NMC fold `fold_0`; else `""`.
        source: The reader: `c-nmc`, `folders` or `csv`.
        notes: What the reader left out, dropped or merged, one sentence each.
        columns: Further columns of a CSV, one text a cell, such as the microscope: a benchmark can report by them.

    Raises:
        DataError: If the columns differ in length, a label is not an index into `class_names`, two classes are one
            (`class_key`), or one is called "uncertain" as a verdict is, or "mixed" as people of several classes are.

    >>> cells = Cells((Path("a.png"), Path("b.png")), np.array([0, 1]), ("P1", "P2"), ("hem", "all"), ("", ""), "csv")
    >>> len(cells), cells.subset([1]).subjects
    (2, ('P2',))
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    subjects: tuple[str | None, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("paths", "labels", "subjects", "groups")}
        lengths |= {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"A table of cells needs columns of one length, but these have {lengths}.")
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or (len(labels) and not np.issubdtype(labels.dtype, np.integer)):
            raise DataError(f"Labels must be whole numbers in one dimension, not {labels.dtype} of {labels.shape}.")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.class_names)):
            raise DataError(
                f"Labels must lie between 0 and {len(self.class_names) - 1} for the classes "
                f"{', '.join(self.class_names)}, but they reach from {labels.min()} to {labels.max()}."
            )
        check_class_names(self.class_names)
        object.__setattr__(self, "labels", labels.astype(np.int64))
        # Empty fields of a data frame would be one person called "nan".
        object.__setattr__(self, "subjects", tuple(map(subject_name, self.subjects)))
        check_subjects(self.subjects)

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Cells":
        """Return the cells at these indices, in this order, with the same classes, source and notes."""
        rows = [int(index) for index in indices]
        return Cells(
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[np.array(rows, dtype=np.int64)],
            subjects=tuple(self.subjects[row] for row in rows),
            class_names=self.class_names,
            groups=tuple(self.groups[row] for row in rows),
            source=self.source,
            notes=self.notes,
            columns={name: tuple(values[row] for row in rows) for name, values in self.columns.items()},
        )

    def with_positive(self, name: str) -> "Cells":
        """Return the same cells with this class as the last, which of two is the positive one.

        Raises:
            UnknownNameError: If there is no such class.
        """
        if name not in self.class_names:
            raise UnknownNameError(
                f"There is no class {name!r} to be the positive one: choose one of {', '.join(self.class_names)}."
            )
        names = (*(other for other in self.class_names if other != name), name)
        numbers = np.array([names.index(other) for other in self.class_names], np.int64)
        return replace(self, class_names=names, labels=numbers[self.labels])

    def summary(self) -> dict[str, Any]:
        """Return the numbers a report needs: cells and subjects, in all and per class, and cells per group."""
        names = [self.class_names[label] for label in self.labels]
        cells = Counter(names)
        subjects = {
            class_name: {
                subject
                for subject, name in zip(self.subjects, names, strict=True)
                if subject is not None and name == class_name
            }
            for class_name in self.class_names
        }
        return {
            "source": self.source,
            "cells": len(self),
            "subjects": len(set(self.subjects) - {None}),
            "cells_without_subject": sum(subject is None for subject in self.subjects),
            "classes": {name: {"cells": cells[name], "subjects": len(subjects[name])} for name in self.class_names},
            "groups": {group: count for group, count in sorted(Counter(self.groups).items()) if group},
        }

    def __str__(self) -> str:
        """Return the summary and the notes as a few lines of text."""
        summary = self.summary()
        lines = [f"{summary['cells']:,} cells of {summary['subjects']:,} known subjects ({self.source})"]
        lines += [
            f"  {name}: {counts['cells']:,} cells of {counts['subjects']:,} known subjects"
            for name, counts in summary["classes"].items()
        ]
        if summary["cells_without_subject"]:
            lines.append(f"  {summary['cells_without_subject']:,} cells without a subject")
        lines += [f"  {group}: {count:,} cells" for group, count in summary["groups"].items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    describe = old_method("Cells", "describe", "__str__")


def class_key(name: str) -> str:
    """What two spellings of one class share: case, spaces, hyphens and underscores make no other class.

    >>> class_key("Band-Neutrophil") == class_key("band neutrophil")
    True
    """
    return re.sub(r"[\s_-]+", "", name.casefold()) or name


def check_class_names(names: Iterable[str]) -> None:
    """Refuse classes that are one in two spellings, and one that is called as results call something else."""
    first: dict[str, str] = {}
    for name in names:
        if (meaning := _TAKEN.get(class_key(name))) is not None:
            raise DataError(
                f"A class is called {name!r}, which is {meaning}: give it another name, or leave its cells out."
            )
        other = first.setdefault(class_key(name), name)
        if other != name:
            raise DataError(
                f"The classes {other!r} and {name!r} differ in case, spaces or hyphens alone: give them one spelling "
                "if they are one class, else names that a reader can tell apart."
            )


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
