"""Splits that keep every person on one side, and the proof that they do.

C-NMC's own folds share 94 identical cells and five groups of subjects; results on them are not results on new patients.
Everything that trains here calls `check_split` first.
"""

import os
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leukaemia_zoo.cells.copies import check_copies, pixel_sha256
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError, LeakError, UnknownNameError

#: Random orders of the subjects tried for the best balance of cells. On 7,861 C-NMC cells of 60 subjects and ten seeds,
#: the worst part missed its share of a class's cells by 2.6 points with 200, 1.5 with 1,000, 0.4 with 5,000 (80 ms).
_TRIALS = 5000

_ORDERS = 100
"""Random orders of the subjects tried where each part needs somebody with a class that is few people's main class."""


@dataclass(frozen=True)
class Split:
    """Which cells of a table belong to which part.

    Attributes:
        parts: Indices into the `Cells` that the split was made for, by name of the part.
        seed: Seed it was made with; None for a split by hand.
        method: How it was made, such as `split_by_subject`.

    >>> Split({"train": (0, 1), "test": (2,)}, seed=None, method="by hand").parts["test"]
    (2,)
    """

    parts: dict[str, tuple[int, ...]]
    seed: int | None
    method: str

    def cells(self, name: str, table: str | os.PathLike[str] | Cells) -> Cells:
        """Return one part of the table that the split was made for.

        Raises:
            UnknownNameError: If the split has no such part.
        """
        if name not in self.parts:
            raise UnknownNameError(f"The split has no part {name!r}: choose one of {', '.join(self.parts)}.")
        return as_cells(table).subset(self.parts[name])


def split_by_subject(
    cells: str | os.PathLike[str] | Cells,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    *,
    allow_unknown_subjects: bool = False,
) -> Split:
    """Split a table so that no person is in two parts and every part has every class.

    Subjects are dealt out class by class in the wanted proportion of subjects; among random orders the one whose parts
    come nearest to the wanted proportion of cells is taken. The result depends on the seed, the subjects and their
    cells, not on the order of the table or where the files lie.

    Args:
        cells: Table to split, or a folder or CSV for `read_data`.
        fractions: Share of each part, adding up to 1; by default train 0.7, validation 0.15, test 0.15.
        seed: Seed of the random orders.
        allow_unknown_subjects: Treat each cell without a subject as a person of its own; copies of one image still stay
            together. The result then says nothing about new patients.

    Raises:
        DataError: If there are too few subjects, subjects are unknown, or the fractions make no split.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> split = split_by_subject(cells, {"train": 2 / 3, "test": 1 / 3}, seed=1)
    >>> [len(split.cells(part, cells)) for part in split.parts]
    [4, 2]
    """
    shares = dict(fractions) if fractions is not None else {"train": 0.7, "validation": 0.15, "test": 0.15}
    if len(shares) < 2 or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"The fractions {shares} make no split: give at least two parts above 0 that add up to 1.")
    cells = as_cells(cells)
    people = _people(cells, allow_unknown_subjects)
    names, person_of_cell = np.unique(people, return_inverse=True)
    counts = np.zeros((len(names), len(cells.class_names)), np.int64)  # cells of each person in each class
    np.add.at(counts, (person_of_cell, cells.labels), 1)

    part_of_person = _deal_people(counts, np.array(list(shares.values())), np.random.default_rng(seed))
    part_of_cell = part_of_person[person_of_cell]
    parts = {name: tuple(np.flatnonzero(part_of_cell == number).tolist()) for number, name in enumerate(shares)}
    _require_every_class(cells, parts, people)
    return Split(parts, seed, "split_by_cell" if None in cells.subjects else "split_by_subject")


def kfold_by_subject(
    cells: str | os.PathLike[str] | Cells, folds: int = 5, seed: int = 0, *, allow_unknown_subjects: bool = False
) -> tuple[Split, ...]:
    """Return `folds` splits into `train` and `test`; each person is tested exactly once.

    Subjects are dealt out as in `split_by_subject`, in equal shares, so that every fold is balanced in its subjects
    and, as far as their sizes allow, in its cells. (scikit-learn's `StratifiedGroupKFold` balances cells alone: on
    C-NMC one subject of 1,053 cells then is all the leukaemia of a fold.)

    Raises:
        DataError: If a class has fewer subjects than folds, or subjects are unknown and `allow_unknown_subjects` is
            off.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> [split.method for split in kfold_by_subject(cells, folds=2)]
    ['kfold_by_subject 1/2', 'kfold_by_subject 2/2']
    """
    cells = as_cells(cells)
    people = _people(cells, allow_unknown_subjects)
    subjects = _subjects_per_class(cells, people)
    if folds < 2 or min(subjects.values()) < folds:
        raise DataError(
            f"{folds} folds cannot be made from the subjects there are ({_listed(subjects)}): choose at least 2 "
            f"folds and at most as many as the smallest class has subjects."
        )
    dealt = split_by_subject(
        cells, {str(number): 1 / folds for number in range(folds)}, seed, allow_unknown_subjects=allow_unknown_subjects
    )
    everything = frozenset(range(len(cells)))
    return tuple(
        Split(
            {"train": tuple(sorted(everything.difference(test))), "test": test},
            seed,
            f"kfold_by_subject {number}/{folds}",
        )
        for number, test in enumerate(dealt.parts.values(), start=1)
    )


def check_split(cells: str | os.PathLike[str] | Cells, split: Split, images: bool = True) -> None:
    """Prove that the parts of a split share no cell, no subject and no identical image.

    Args:
        cells: The table the split was made for.
        split: The split.
        images: Decode every image and compare the pixels, so that copies under other names or in other formats are
            found (about 1 ms a cell, remembered while the files do not change).

    Raises:
        LeakError: If parts share something, naming it and the parts, or an index lies outside the table.
        DataError: If an image cannot be read, or has two labels.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> check_split(cells, split_by_subject(cells, {"train": 0.5, "test": 0.5}))
    """
    cells = as_cells(cells)
    used = [index for part in split.parts.values() for index in part]
    if outside := [index for index in used if not 0 <= index < len(cells)]:
        raise LeakError(
            f"The split names cell {outside[0]} of a table of {len(cells)} cells: it was made for another table, make "
            f"it again for this one."
        )
    names = relative_paths(cells)
    if shared := _shared(split, range(len(cells))):
        examples = [f"{names[places[0][1]]} ({_parts_of(places)})" for places in shared.values()]
        raise LeakError(f"Cells are in more than one part: {shortened(examples)}; put each into one part only.")
    if shared := _shared(split, cells.subjects):
        examples = [f"{subject} ({_parts_of(places)})" for subject, places in shared.items()]
        raise LeakError(f"Subjects are in more than one part: {shortened(examples)}; split by subject.")
    if not images:
        return
    digests: list[str | None] = [None] * len(cells)
    for index in used:
        digests[index] = pixel_sha256(cells.paths[index])
    if shared := _shared(split, digests):
        examples = [" = ".join(f"{names[index]} ({part})" for part, index in places) for places in shared.values()]
        raise LeakError(
            f"Identical images are in more than one part: {shortened(examples)}; keep one copy of each, or give all "
            f"its copies one subject and split by subject."
        )
    rows = sorted(used)
    check_copies(cells.subset(rows), [digests[row] for row in rows])


# --- dealing out -----------------------------------------------------------------------------------------------------


def _people(cells: Cells, allow_unknown_subjects: bool) -> np.ndarray:
    """Return whom each cell belongs to; where unknown and allowed, each distinct image counts as a person."""
    unknown = sum(subject is None for subject in cells.subjects)
    if unknown and not allow_unknown_subjects:
        raise DataError(
            f"{unknown:,} of {len(cells):,} cells have no subject, so a split could put one patient on both sides: "
            "give a CSV with a subject column. The splits of lz.cells do without it (allow_unknown_subjects=True), for "
            "results that say nothing about new patients."
        )
    return np.array(
        [
            f"image {pixel_sha256(path)}" if subject is None else subject
            for path, subject in zip(cells.paths, cells.subjects, strict=True)
        ]
    )


def _deal_people(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a part for each person, given their cells in each class, counts of shape (people, classes)."""
    part_of_person = np.zeros(len(counts), np.int64)
    main_class = counts.argmax(axis=1)
    for label in range(counts.shape[1]):
        members = np.flatnonzero(main_class == label)
        places = np.repeat(np.arange(len(shares)), _part_sizes(len(members), shares))
        part_of_person[members] = _best_order(counts[members], places, shares, rng)
    wanted = shares[:, None] * counts.sum(axis=0)
    if _dealt(part_of_person, counts, wanted).all() or (counts > 0).sum(axis=0).min() < len(shares):
        return part_of_person  # or there are too few people with a class, in whatever order
    # A class that is few people's main class was left to chance.
    others = [_rarest_class_first(counts, wanted, rng) for _ in range(_ORDERS)]
    return min(
        others, key=lambda parts: (np.sum(_dealt(parts, counts, wanted) == 0), _deviation(parts, counts, wanted))
    )


def _rarest_class_first(counts: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal somebody with each class to each part, the rarest class first, then whoever is left where most is wanted."""
    part_of_person = np.full(len(counts), -1)
    dealt = np.zeros_like(wanted)
    order = rng.permutation(len(counts))
    for label in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        for part in rng.permutation(len(wanted)):
            free = order[(part_of_person[order] < 0) & (counts[order, label] > 0)]
            if dealt[part, label] == 0 and len(free):
                part_of_person[free[0]] = part
                dealt[part] += counts[free[0]]
    for person in order[part_of_person[order] < 0]:
        after = np.abs(dealt + counts[person] - wanted).sum(axis=1) - np.abs(dealt - wanted).sum(axis=1)
        part_of_person[person] = np.argmin(after)
        dealt[part_of_person[person]] += counts[person]
    return part_of_person


def _dealt(part_of_person: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Cells of each class in each part, (parts, classes) as are those that are wanted."""
    dealt = np.zeros_like(wanted)
    np.add.at(dealt, part_of_person, counts)
    return dealt


def _deviation(part_of_person: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> float:
    """By how many cells the parts differ from what is wanted."""
    return float(np.abs(_dealt(part_of_person, counts, wanted) - wanted).sum())


def _part_sizes(people: int, shares: np.ndarray) -> np.ndarray:
    """Round the shares of a number of people to whole people, with one at least in each part while they last."""
    wanted = shares * people
    sizes = np.floor(wanted).astype(np.int64)
    if people >= len(shares):
        sizes = np.maximum(sizes, 1)
    while sizes.sum() < people:
        sizes[np.argmax(wanted - sizes)] += 1
    while sizes.sum() > people:
        sizes[np.argmax(np.where(sizes > 1, sizes - wanted, -np.inf))] -= 1
    return sizes


def _best_order(counts: np.ndarray, places: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the places in the random order whose parts come nearest to their shares of the cells."""
    wanted = shares[:, None] * counts.sum(axis=0)
    best, least = places, np.inf
    for _ in range(_TRIALS):
        order = rng.permutation(places)
        deviation = _deviation(order, counts, wanted)
        if deviation < least:
            best, least = order, deviation
        if least <= len(shares):  # one cell a part: nothing left to gain
            break
    return best


def _subjects_per_class(cells: Cells, people: np.ndarray) -> dict[str, int]:
    return {name: len(set(people[cells.labels == label])) for label, name in enumerate(cells.class_names)}


def _require_every_class(cells: Cells, parts: Mapping[str, Sequence[int]], people: np.ndarray) -> None:
    for part, indices in parts.items():
        for label, name in enumerate(cells.class_names):
            if not np.any(cells.labels[list(indices)] == label):
                raise DataError(
                    f"The part {part!r} would have no {name} cells, since there are too few subjects for {len(parts)} "
                    f"parts ({_listed(_subjects_per_class(cells, people))}): use fewer parts or add subjects."
                )


# --- checking --------------------------------------------------------------------------------------------------------


def _shared(split: Split, keys: Sequence[Hashable]) -> dict[Hashable, list[tuple[str, int]]]:
    """Return each key but None that cells of several parts have, with one cell (part, index) of each of those parts."""
    places: dict[Hashable, dict[str, int]] = defaultdict(dict)
    for part, indices in split.parts.items():
        for index in indices:
            if keys[index] is not None:
                places[keys[index]].setdefault(part, index)
    return {key: list(by_part.items()) for key, by_part in places.items() if len(by_part) > 1}


def _parts_of(places: list[tuple[str, int]]) -> str:
    return " and ".join(part for part, _ in places)


def _listed(subjects: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in subjects.items())


def relative_paths(cells: Cells) -> list[str]:
    """Return the paths below the folder that all of them share, with forward slashes on every system."""
    paths = [path.absolute() for path in cells.paths]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [path.relative_to(root).as_posix() for path in paths]
