"""Which folders and labels are classes, and in which order: the last of two is the positive one, as AUROC needs it.

Names are sorted as a person would; but `leukemia` stands before `normal` in the alphabet, and a report would then give
the sensitivity for normal cells. So where the name of one of two classes says that it is the diseased or the healthy
one, that decides.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from leukaemia_zoo.cells.cnmc import CNMC_CLASSES
from leukaemia_zoo.common.folders import natural
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError

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
