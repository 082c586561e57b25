"""Splits of a few hundred cells: a test part that nothing is chosen on, and folds that choose in turn.

`splits` deals out people of one class each. Here a person may have cells of every class, as in a blood count.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter

import numpy as np

from leukaemia_zoo.adaptation.inspection import Inspected, people_of_classes
from leukaemia_zoo.cells.splits import Split, check_split, split_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.inputs import IntArray

TEST = "test"

_LEAST_PEOPLE = 3  # one tests, two choose in turn
_TRIALS = 2000


def split_for_fine_tuning(
    inspected: Inspected, *, test_share: float = 0.2, folds: int = 5, per_class: int | None = None, seed: int = 0
) -> Split:
    """Deal out the people, or the images: some test, the others choose in turn as folds.

    Args:
        inspected: The images.
        test_share: Share of the cells in the part ``test``, above 0 and below 1. It does not depend on ``per_class``.
        folds: Folds of the rest; fewer where a class has fewer people.
        per_class: The most cells of each class that are learnt from; the others are in no part. A lower number takes
            some of the cells of a higher one.
        seed: Of all that is drawn.

    Returns:
        A `Split` with the parts ``fold_1``, ``fold_2``... and ``test``, all of which have every class.

    Raises:
        DataError: If a class has too few people or images, with the counts.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share is {test_share!r}: give a share above 0 and below 1, such as 0.2.")
    if per_class is not None and per_class < 2:
        raise DataError(f"per_class is {per_class}: at least 2 cells of a class are needed, one for each of two folds.")
    _check_people(inspected)
    _check_folds(folds)
    table = _by_person(inspected)
    learning, test = _dealt(table, {"learning": 1 - test_share, TEST: test_share}, inspected, seed)
    learning = _at_most(table, learning, per_class, seed)
    parts = [learning[rows] for rows in _folds(table.subset(learning), inspected, folds, seed)]
    named = {f"fold_{number}": rows for number, rows in enumerate(parts, start=1)} | {TEST: test}
    split = Split(
        {name: tuple(sorted(rows.tolist())) for name, rows in named.items()},
        seed,
        f"split_for_fine_tuning by {inspected.by}, {len(parts)} folds",
    )
    check_split(table, split, images=False)  # copies of an image have one person
    return split


def folds_by_people(inspected: Inspected, folds: int = 5, seed: int = 0) -> IntArray:
    """Number of the fold of each cell, int64 (n,): no person or image is in two of them, and each has every class.

    Args:
        inspected: The images.
        folds: How many; fewer where a class has fewer people.
        seed: Of all that is drawn.

    Raises:
        DataError: If a class has too few people or images, with the counts.
    """
    _check_folds(folds)
    result = np.zeros(len(inspected.cells), np.int64)
    for number, rows in enumerate(_folds(_by_person(inspected), inspected, folds, seed)):
        result[rows] = number
    return result


def check_given(cells: Cells, split: Split) -> None:
    """Raise unless a split by hand can be fine-tuned on: train and validation, or folds, and a test part."""
    choosing = [name for name in split.parts if name != TEST]
    if TEST not in split.parts or not (set(choosing) == {"train", "validation"} or len(choosing) > 1):
        raise DataError(
            f"The split has the parts {', '.join(split.parts) or 'none'}: it takes a test part, and train and "
            "validation or at least two folds."
        )
    for name, rows in split.parts.items():
        present = set(cells.labels[list(rows)].tolist())
        for label, class_name in enumerate(cells.class_names):
            if label not in present:
                raise DataError(
                    f"The part '{name}' of the split has no '{class_name}' cells: put some of them into it, or leave "
                    "out the split to have one made."
                )
    check_split(cells, split)


def _by_person(inspected: Inspected) -> Cells:
    return dataclasses.replace(inspected.cells, subjects=tuple(f"{person:09d}" for person in inspected.people))


def _folds(table: Cells, inspected: Inspected, folds: int, seed: int) -> list[IntArray]:
    """Rows of each of so many folds, or of as many as the classes allow."""
    people = [{table.subjects[row] for row in np.flatnonzero(table.labels == k)} for k in np.unique(table.labels)]
    for count in range(min(folds, *map(len, people)), 1, -1):
        with contextlib.suppress(DataError):
            return _dealt(table, {str(number): 1 / count for number in range(count)}, inspected, seed)
    raise DataError(_too_few(inspected))


def _check_folds(folds: int) -> None:
    if folds < 2:
        raise DataError(f"{folds} folds cannot choose in turn: give at least 2, such as 5.")


def _check_people(inspected: Inspected) -> None:
    found = people_of_classes(inspected)
    few = {name: count for name, count in found.items() if count < _LEAST_PEOPLE}
    if few:
        raise DataError(_too_few(inspected))


def _too_few(inspected: Inspected) -> str:
    found = people_of_classes(inspected)
    name = min(found, key=lambda key: found[key])
    what = "different images" if inspected.by == "image" else "subjects"
    listed = ", ".join(f"{count} {key}" for key, count in found.items())
    mend = (
        "add images, or leave the class out"
        if inspected.by == "image"
        else "add subjects, leave the class out, or split by image (--split-by image), which says nothing about new "
        "people"
    )
    return (
        f"The class '{name}' has {found[name]} {what}, too few for a test part and two folds that each have every "
        f"class ({listed}; at least {_LEAST_PEOPLE} are needed, more where a subject has several classes): {mend}."
    )


def _dealt(table: Cells, shares: dict[str, float], inspected: Inspected, seed: int) -> list[IntArray]:
    """Rows of each part."""
    try:
        split = split_by_subject(table, shares, seed)
        return [np.array(rows, np.int64) for rows in split.parts.values()]
    except DataError:
        return _dealt_together(table, shares, inspected, seed)


def _dealt_together(table: Cells, shares: dict[str, float], inspected: Inspected, seed: int) -> list[IntArray]:
    """Deal out people whatever their classes: the random order that comes nearest to the share of every class."""
    names, person = np.unique(np.array(table.subjects), return_inverse=True)
    counts = np.zeros((len(names), len(table.class_names)))
    np.add.at(counts, (person, table.labels), 1)
    counts /= np.maximum(counts.sum(axis=0), 1)  # a rare class counts as much as a frequent one
    wanted = np.array([*shares.values()])[:, None] * np.ones(len(table.class_names))
    rng = np.random.default_rng(seed)
    best, least = None, np.inf
    for _ in range(_TRIALS):
        part = rng.choice(len(shares), size=len(names), p=[*shares.values()])
        dealt = np.zeros_like(wanted)
        np.add.at(dealt, part, counts)
        off = np.abs(dealt - wanted).sum()
        if off < least and (dealt > 0).all():
            best, least = part, off
    if best is None:
        raise DataError(_too_few(inspected))
    return [np.flatnonzero(best[person] == number) for number in range(len(shares))]


def _at_most(table: Cells, rows: IntArray, per_class: int | None, seed: int) -> IntArray:
    if per_class is None:
        return rows
    rng = np.random.default_rng([seed, 1])
    kept = []
    for label in range(len(table.class_names)):
        own = rng.permutation(rows[table.labels[rows] == label])
        # A first cell of everybody, then a second: two cells of one person could not choose in turn.
        met: Counter[str | None] = Counter()
        turn = []
        for row in own:
            turn.append(met[table.subjects[row]])
            met[table.subjects[row]] += 1
        kept.append(own[np.argsort(turn, kind="stable")][:per_class])
    return np.sort(np.concatenate(kept))
