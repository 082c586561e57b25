"""The table of labelled cells, which readers make and splits and training take, and the classes in it."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo._names import old_method
from leukaemia_zoo.cells.cnmc import CNMC_CLASSES
from leukaemia_zoo.common.folders import natural
from leukaemia_zoo.common.limits import UNCERTAIN
from leukaemia_zoo.common.tables import check_subjects, subject_name
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError, UnknownNameError

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

    Nor do the zeros that spreadsheets and pandas put behind whole numbers.

    >>> class_key("Band-Neutrophil") == class_key("band neutrophil"), class_key("1.0") == class_key("1")
    (True, True)
    """
    return re.sub(r"[\s_-]+|(?<=\d)\.0+$", "", name.casefold()) or name


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
                f"The classes {other!r} and {name!r} differ in case, spaces, hyphens or zeros alone: give them one "
                "spelling if they are one class, else names that a reader can tell apart."
            )


# --- classes and their order ------------------------------------------------------------------------------------------

# The last of two classes is the positive one, as AUROC needs it. Names are sorted as a person would; but `leukemia`
# stands before `normal` in the alphabet, and a report would then give the sensitivity for normal cells. So where the
# name of one of two classes says that it is the diseased or the healthy one, that decides.

_POSITIVE = re.compile(
    r"all|aml|apl|cll|cml|leuka?emi(a|as|c)|(lympho|myelo|mono)?blasts?|malignan(t|cy)|cancer(ous)?|tumou?r|neoplastic|"
    r"pos(itive)?|abnormal|pathological|diseased?|sick|patients?|cases?|affected"
)
_NEGATIVE = re.compile(
    r"hem|normal|healthy|benign|neg(ative)?|controls?|no|not|non|without|free|unaffected|remission|"
    r"non(leuka?emic|malignant|cancerous|diseased)"
)


def positive_last(names: Sequence[str]) -> tuple[str, ...]:
    """Class names with the positive of two at the end, where their names tell it; else as they are.

    Example:
        >>> positive_last(["leukemia", "normal"]), positive_last(["blast", "lymphocyte"]), positive_last(["a", "b"])
        (('normal', 'leukemia'), ('lymphocyte', 'blast'), ('a', 'b'))
    """
    return tuple(sorted(names, key=_rank)) if len(names) == 2 else tuple(names)


def _rank(name: str) -> int:
    """-1 for a name of what is healthy, 1 for one of what is not, 0 for others; "non-leukemic" is healthy."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    if any(map(_NEGATIVE.fullmatch, words)):
        return -1
    return int(any(map(_POSITIVE.fullmatch, words)))


def class_names_of(labels: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The classes in their order, the same for folders, CSV and arrays, and the class of each label as it is written.

    Where `hem` and `all`, in any case, are all there is, they are C-NMC's; beside other classes they are as written.
    """
    written = set(labels)
    if written and {label.lower() for label in written} <= set(CNMC_CLASSES):
        return CNMC_CLASSES, {label: label.lower() for label in written}
    return positive_last(sorted(written, key=natural)), {label: label for label in written}


_PART_OF_SPLIT = re.compile(
    r"(?:\d+[ _-]*)?(?:train(?:ing)?|test(?:ing)?|val|valid|validation|dev|development|hold[ _-]?out|eval|evaluation)"
    r"(?:[ _-]*(?:set|data|dataset|images?|cells|part|split|\d+))*|(?:cv|split|fold)[ _-]*\d+"
)


_VERSIONS_OF_IMAGES = re.compile(
    r"(?:images?|masks?|labels?|annotations?|originals?|segment(?:ed|ation)s?|raw|processed|augmented|cropped)"
    r"(?:[ _-]*\d+)?"
)


def refuse_other_layouts(root: Path, folders: Sequence[Path], images: Iterable[Path]) -> None:
    """Refuse folders that are parts of a split, or versions of the same images, and would be learnt as classes."""
    if parts := [folder for folder in folders if _PART_OF_SPLIT.fullmatch(folder.name.casefold())]:
        raise DataError(
            f"{parts[0]} is called after a part of a split, and the folders in {root} are the classes: give one part, "
            f"such as {parts[0]}, and judge on another, or a CSV with the columns path,label[,subject]."
        )
    inner: dict[Path, set[str]] = defaultdict(set)
    for image in images:
        first, *deeper = image.relative_to(root).parts[:-1]
        if deeper:
            inner[root / first].add(deeper[0].casefold())
    for one, other in itertools.combinations(folders, 2):
        if len(shared := inner[one] & inner[other]) > 1:
            raise DataError(
                f"{one} and {other} hold the same folders ({shortened(sorted(shared))}), so that which are the classes "
                f"cannot be told: give the folder that holds one folder a class, such as {one}, or a CSV with the "
                "columns path,label[,subject]."
            )
    if all(_VERSIONS_OF_IMAGES.fullmatch(folder.name.casefold()) for folder in folders):
        raise DataError(
            f"The folders in {root} ({shortened(folder.name for folder in folders)}) are called after versions of the "
            "same images and not after classes: sort the images into one folder a class, or give a CSV with the "
            "columns path,label[,subject]."
        )
