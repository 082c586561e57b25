"""What the models of a benchmark say, and on which cells: those that none of them was trained on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from leukaemia_zoo.benchmarking.contestants import Candidate, checked_refit, refit_on_folds
from leukaemia_zoo.benchmarking.judged_cells import JudgedCells, read_judged_cells
from leukaemia_zoo.benchmarking.options import BenchmarkOptions
from leukaemia_zoo.cells.splits import kfold_by_subject
from leukaemia_zoo.cells.table import class_key
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.common.run_folder import RunFolder
from leukaemia_zoo.errors import DataError, LeakError
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, check_probabilities
from leukaemia_zoo.training.leaks import Overlap, find_overlap, people_of, refuse


@dataclasses.dataclass
class Judged:
    """What the models said, and on which cells.

    Attributes:
        cells: Without those that were left out.
        probabilities: By name of the model, (cells, classes).
        folds: Fold of each cell for choices and baselines; None where there are too few subjects.
        choices: Where thresholds and temperatures were chosen, for the reader.
        kinds: See `Candidate`, or ``cross-validated``.
        about: What is known of each model.
        overlap: What is known of its training on these cells.
        excluded: What was left out, or None.
        seconds: Each model took for its predictions.
        notes: What a reader should know besides.
        limits: Of the models that know when to ask a human.
    """

    cells: JudgedCells
    folds: IntArray | None
    choices: str
    excluded: dict[str, Any] | None = None
    probabilities: dict[str, FloatArray] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    about: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    overlap: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    limits: dict[str, VerdictLimits] = dataclasses.field(default_factory=dict)


def as_they_are(candidates: list[Candidate], cells: JudgedCells, state: RunFolder, options: BenchmarkOptions) -> Judged:
    """Every model on all cells that none was trained on."""
    overlaps = {
        candidate.name: find_overlap(cells.table, cells.fingerprints, candidate.trained, candidate.name)
        for candidate in candidates
    }
    excluded = None
    if not options.exclude_overlap:
        for candidate in candidates:
            if not candidate.leak_told:
                refuse(overlaps[candidate.name])
    else:
        cells, excluded = _without(cells, list(overlaps.values()))
    folds, choices = _choice_folds(cells, options)
    judged = Judged(cells, folds, choices, excluded)
    for candidate in candidates:
        started = time.perf_counter()
        options.tell(f"{candidate.name}: judging {len(cells):,} cells")
        output = candidate.predict(cells, options.batch_size, state, candidate.slug, options.progress)
        judged.probabilities[candidate.name] = check_probabilities(
            candidate.name, output, len(cells), len(cells.class_names)
        )
        judged.seconds[candidate.name] = time.perf_counter() - started
        judged.kinds[candidate.name] = candidate.kind
        judged.about[candidate.name] = candidate.about()
        if candidate.config is not None and candidate.config.verdict_limits is not None:
            judged.limits[candidate.name] = candidate.config.verdict_limits
        overlap = overlaps[candidate.name]
        told = overlap.told
        if len(overlap.rows):
            told += "; they were left out." if options.exclude_overlap else "; its figures are too favourable."
        # Where something is known, though not all, a reader is told what.
        known = candidate.trained is not None
        judged.overlap[candidate.name] = {"checked": overlap.checked, "known": known, "told": told}
    return judged


def refitted(candidates: list[Candidate], cells: JudgedCells, state: RunFolder, options: BenchmarkOptions) -> Judged:
    """Every recipe on the people that its networks had not seen, all in the same folds."""
    folds = int(options.refit_folds or 0)
    for candidate in candidates:  # before the minutes of the first, and before anything is written
        checked_refit(candidate, cells, folds)
    judged = Judged(cells, None, "in each fold on the subjects that it does not test")
    for candidate in candidates:
        started = time.perf_counter()
        options.tell(f"{candidate.name}: fitted again in {folds} folds by subject")
        found = refit_on_folds(candidate, cells, folds, options.seed, state.inside(candidate.slug), options.tell)
        judged.folds = found.folds
        judged.probabilities[candidate.name] = found.probabilities
        judged.seconds[candidate.name] = time.perf_counter() - started
        judged.kinds[candidate.name] = "cross-validated"
        judged.about[candidate.name] = found.about
        judged.overlap[candidate.name] = {"checked": True, "told": found.told}
    return judged


def _without(cells: JudgedCells, overlaps: list[Overlap]) -> tuple[JudgedCells, dict[str, Any] | None]:
    """The cells that no model was trained on, the same for all, and what was left out."""
    rows = sorted({int(row) for overlap in overlaps for row in overlap.rows})
    if not rows:
        return cells, None
    if len(rows) == len(cells):
        raise LeakError(
            f"Nothing is left to judge on: {overlaps[0].told}; take other cells, or judge the recipe on unseen people "
            "with refit_folds=5 (--cross-validate 5)."
        )
    kept = cells.subset(np.setdiff1d(np.arange(len(cells)), rows))
    gone = {cells.subjects[row] for row in rows} - {None}
    why = "cells that a model was trained on, or of people whom it was trained on"
    return kept, {"cells": len(rows), "subjects": len(gone) or None, "why": why}


def _choice_folds(cells: JudgedCells, options: BenchmarkOptions) -> tuple[IntArray | None, str]:
    """Folds by subject in which nothing is chosen on the people that it is judged on."""
    fewest = min(
        len({cells.subjects[row] or row for row in np.flatnonzero(cells.labels == label)})
        for label in np.unique(cells.labels)
    )
    # A cell whose person is not known is a person of its own, and the same as its copies.
    people = tuple(
        subject or f"image {value:016x}" for subject, value in zip(cells.subjects, cells.fingerprints, strict=True)
    )
    table = dataclasses.replace(cells.table, subjects=people)
    result = np.zeros(len(cells), np.int64)
    for folds in range(min(options.choice_folds, fewest), 1, -1):
        try:
            dealt = kfold_by_subject(table, folds, options.seed)
        except DataError:  # a class lies with too few people, who have others too
            continue
        for number, fold in enumerate(dealt):
            result[list(fold.parts["test"])] = number
        return result, f"for each of {folds} folds by subject on the others"
    return None, "nowhere: there are too few subjects to choose on others"


def other_people(data: Any, candidates: list[Candidate], cells: JudgedCells) -> JudgedCells:
    """The cells to choose on, which must be of other people."""
    chosen_on = read_judged_cells(data, cells.class_names)
    here, there = (set(people_of(one.table)) - {None} for one in (chosen_on, cells))
    given = (set(chosen_on.subjects) & set(cells.subjects)) - {None}
    shared = sorted({str(subject) for subject in given} or {person[1] for person in here & there if person})
    same = set(chosen_on.fingerprints) & set(cells.fingerprints)
    if shared or same:
        raise LeakError(
            f"The validation cells share {len(shared)} subjects ({', '.join(shared[:5])}) and {len(same)} identical "
            "images with the cells to judge on: choose on other people."
        )
    for candidate in candidates:
        refuse(find_overlap(chosen_on.table, chosen_on.fingerprints, candidate.trained, candidate.name))
    return chosen_on


def predicted(
    candidates: list[Candidate], cells: JudgedCells, state: RunFolder, options: BenchmarkOptions
) -> dict[str, tuple[IntArray, FloatArray]]:
    """Labels and each model's probabilities of the cells to choose on."""
    found = {}
    for candidate in candidates:
        output = candidate.predict(cells, options.batch_size, state, f"{candidate.slug}-validation", options.progress)
        table = check_probabilities(candidate.name, output, len(cells), len(cells.class_names))
        found[candidate.name] = (cells.labels, table)
    return found


def common_classes(candidates: list[Candidate], wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """The classes that all models give, in the wanted order or that of the first; callables take those of the data."""
    named = [(candidate.name, candidate.config.class_names) for candidate in candidates if candidate.config is not None]
    if wanted is not None:
        if isinstance(wanted, str) or len(set(wanted)) != len(wanted) or len(wanted) < 2:
            raise DataError(f"class_names is {wanted!r}: give the names of two classes or more, which differ.")
        named.insert(0, ("class_names", tuple(wanted)))
    for name, classes in named:
        if set(map(class_key, classes)) != set(map(class_key, named[0][1])):
            raise DataError(
                f"'{named[0][0]}' tells {', '.join(named[0][1])} apart and '{name}' {', '.join(classes)}: judge "
                "models of the same classes together."
            )
    return named[0][1] if named else None
