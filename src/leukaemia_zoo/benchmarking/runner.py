"""One call, and a comparison of models is fair, complete and reproducible.

All models are judged on the same cells, none of which they were trained on; what must be chosen (thresholds,
temperatures, baselines) is chosen on other people than it is judged on; every figure has an interval over subjects.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo._version import __version__
from leukaemia_zoo.benchmarking.contestants import Candidate, as_candidates, refit_on_folds
from leukaemia_zoo.benchmarking.cost import measure_costs
from leukaemia_zoo.benchmarking.judged_cells import MANIFEST_FILE, JudgedCells, read_judged_cells
from leukaemia_zoo.cells.splits import kfold_by_subject
from leukaemia_zoo.cells.table import class_key
from leukaemia_zoo.common.files import plain
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.common.run_folder import BENCHMARK, RunFolder, refuse_to_replace
from leukaemia_zoo.errors import DataError, LeakError, LeukaemiaZooError
from leukaemia_zoo.evaluation import judgement
from leukaemia_zoo.evaluation.baselines import BASELINES, cross_fitted, fitted_on
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, check_probabilities, subject_codes
from leukaemia_zoo.evaluation.intervals import paired_difference
from leukaemia_zoo.report.report import FILES, Report
from leukaemia_zoo.training.leaks import Overlap, find_overlap, people_of, refuse
from leukaemia_zoo.zoo.sources import local_files

MAIN_METRICS = ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity")
"""Of these the report gives paired differences."""

_MAIN_METRICS_OF_MORE_CLASSES = ("auroc", "macro_f1", "weighted_f1", "balanced_accuracy")

_COST_FRAMES = 32
"""Different frames that a callable is timed on."""

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What the figures depend on besides models and data."""

    folds: int
    prevalence: float | None
    resamples: int
    seed: int
    level: float

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise DataError(f"prevalence is {self.prevalence!r}: give the share of the last class between 0 and 1.")
        if not 0 < self.level < 1:
            raise DataError(f"level is {self.level!r}: give a share between 0 and 1, such as 0.95.")
        for name, least in (("folds", 2), ("resamples", 1), ("seed", 0)):
            _check_whole(name, getattr(self, name), least)


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise DataError(f"{name} is {value!r}: give a whole number from {least} on.")


def benchmark(
    models: str | Sequence[Any] | Mapping[str, Any],
    data: Any,
    *,
    out: str | os.PathLike[str] | None = None,
    cross_validate: int | None = None,
    validation: Any = None,
    exclude_overlap: bool = False,
    class_names: Sequence[str] | None = None,
    subgroups: Sequence[str] | None = None,
    prevalence: float | None = None,
    baselines: bool = True,
    cost: bool = True,
    folds: int = 5,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int = 32,
    restart: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> Report:
    """Judge models on the same labelled cells, so that a reviewer cannot take the comparison apart.

    Args:
        models: What to judge, one or several, or a dict from names of your own to them: names of the zoo, folders of
            saved models, ``hf://`` repositories, loaded Keras models of the zoo, or any callable from a batch of whole
            frames, uint8 (N, height, width, 3), RGB, to probabilities (N, classes), or (N,) for the last of two.
        data: What `read_data` takes (a folder or a CSV), a `Cells` table, or a tuple (images, labels) or (images,
            labels, subjects): images a sequence of whole frames of any sizes, uint8 or float, 0 to 255; labels numbers
            or names; subjects names, None or NaN where unknown.
        out: Folder for the report, and for what an interrupted run goes on from; None keeps nothing.
        cross_validate: Judge recipes instead of weights: each name of the zoo is fitted again in so many folds by
            subject, on features that were not learnt on labelled cells, and judged on the cells it has not seen.
        validation: Further labelled cells, of other people, on which thresholds and temperatures are chosen; None
            chooses them within ``data``, for each fold of people on the others.
        exclude_overlap: Leave out cells and people that a model was trained on, instead of refusing.
        class_names: The classes in the order of labels that are numbers and of a callable's probabilities; the last of
            two is the positive one. None takes the order of a model of the zoo, else that in which folders and CSV are
            read: sorted as a person would, ``hem`` before ``all``.
        subgroups: Columns of the CSV to report by; None for all with at most ten values. The parts of the data set
            (C-NMC folds) and thirds of the cell size are always reported.
        prevalence: Share of the last class, 0 to 1, for the predictive values; None for that of the data.
        baselines: Whether to add the majority class, the cell area alone and the background alone.
        cost: Whether to measure what the models cost.
        folds: Folds by subject for choices and baselines; fewer where a class has fewer subjects.
        resamples: Resamples of the bootstrap over subjects.
        level: Nominal coverage of the intervals.
        seed: Of folds and resamples.
        batch_size: Images computed at once.
        restart: Begin anew where ``out`` holds an interrupted run.
        report: Called with lines of progress.
        progress: Called with the number of cells done and of all.

    Returns:
        A `Report`.

    Raises:
        LeakError: If a model was trained on some of the cells or people, with the counts.
        DataError: If the data cannot be used, or a model gives something else than probabilities of its classes; the
            message names the model.
        UnknownNameError: If a model does not exist.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> frames = np.random.default_rng(0).integers(1, 255, (40, 32, 32, 3), dtype=np.uint8)
        >>> labels, subjects = np.arange(40) % 2, [f"P{number % 10}" for number in range(40)]
        >>> brightness = lambda batch: batch.mean((1, 2, 3)) / 255
        >>> found = lz.benchmark({"brightness": brightness}, (frames, labels, subjects), resamples=100)
        >>> sorted(found.to_dict()["models"])
        ['background alone', 'brightness', 'cell area alone', 'majority class']
    """
    begun = time.perf_counter()
    settings = _Settings(folds, prevalence, resamples, seed, level)
    _check_whole("batch_size", batch_size, 1)
    if cross_validate is not None:
        _check_whole("cross_validate", cross_validate, 2)
    candidates = as_candidates(models)
    if out is not None:
        named = [("the data", data), ("the validation cells", validation)]
        named += [(candidate.name, file) for candidate in candidates for file in local_files(candidate.given or "")]
        refuse_to_replace(Path(out), (MANIFEST_FILE, *FILES), {FILES[0]: "leukaemia_zoo"}, named, restart)
    if baselines and (taken := [candidate.name for candidate in candidates if candidate.name in BASELINES]):
        raise DataError(
            f"A model is called '{taken[0]}', like a baseline: give a dict with another name for it, or leave out the "
            "baselines (--no-baselines)."
        )
    if cross_validate is not None and validation is not None:
        raise DataError("In a cross-validation the folds choose: leave out either validation or cross_validate.")
    cells = read_judged_cells(data, _common_classes(candidates, class_names))
    # Whatever a user may have to mend is told before the minutes of the predictions.
    cells.subgroups(subgroups)
    subject_codes(cells.subjects, len(cells))
    chosen_on = None if validation is None else _other_people(validation, candidates, cells)
    report(cells.table.describe())
    with _folder(out) as folder:
        state = RunFolder(folder / BENCHMARK, restart=restart)
        if cross_validate is None:
            judged = _as_they_are(candidates, cells, exclude_overlap, settings, batch_size, state, report, progress)
        else:
            judged = _refitted(candidates, cells, cross_validate, seed, state, report)
        cells = judged.cells
        chosen = {} if chosen_on is None else _predicted(candidates, chosen_on, batch_size, state, progress)
        if baselines and judged.folds is not None:
            for name, features in cells.baseline_features.items():
                judged.probabilities[name] = cross_fitted(features, cells.labels, judged.folds, len(cells.class_names))
                judged.overlap[name] = {"checked": True, "told": fitted_on(features, cells.labels, judged.folds)}
        elif baselines:
            judged.notes.append("There are no baselines: there are too few subjects to fit them on others.")
        started = time.perf_counter()
        report("intervals over subjects")
        blocks = {
            name: judgement.judge(
                cells.labels,
                probabilities,
                cells.subjects,
                cells.class_names,
                folds=judged.folds,
                validation=chosen.get(name),
                prevalence=prevalence,
                subgroups=cells.subgroups(subgroups),
                resamples=resamples,
                seed=seed,
                level=level,
            )
            for name, probabilities in judged.probabilities.items()
        }
        differences = _differences(cells, judged, settings)
        bootstrap_seconds = time.perf_counter() - started
        costs, not_measured = _costs(candidates, cells, report) if cost else ({}, [])
        for name, block in blocks.items():
            block["kind"] = judged.kinds.get(name, "baseline")
            block["about"] = judged.about.get(name, {})
            block["overlap"] = judged.overlap[name]
            block["cost"] = costs.get(name)
            block["worst_cells"] = cells.pictures(block.pop("most_wrong"))
        if out is not None:
            state.begin()
        described = cells.describe(folder)
        described["notes"] += [*judged.notes, *not_measured]
        found = Report(
            plain(
                {
                    "schema": 1,
                    "leukaemia_zoo": __version__,
                    "data": {
                        **described,
                        "unit": next(iter(blocks.values()))["unit"],
                        "excluded": judged.excluded,
                    },
                    "settings": {
                        **dataclasses.asdict(settings),
                        "cross_validate": cross_validate,
                        "choices": judged.choices if validation is None else "on the validation cells",
                    },
                    "environment": environment(),
                    "models": blocks,
                    "differences": differences,
                    "timing": {
                        "total_s": time.perf_counter() - begun,
                        "predict_s": judged.seconds,
                        "bootstrap_s": bootstrap_seconds,
                    },
                }
            )
        )
        if out is not None:
            found.save(folder)
            state.remove()
    return found


@dataclasses.dataclass
class _Judged:
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


def _as_they_are(
    candidates: list[Candidate],
    cells: JudgedCells,
    exclude_overlap: bool,
    settings: _Settings,
    batch_size: int,
    state: RunFolder,
    report: Callable[[str], None],
    progress: Progress | None,
) -> _Judged:
    """Every model on all cells that none was trained on."""
    overlaps = {
        candidate.name: find_overlap(cells.table, cells.fingerprints, candidate.trained, candidate.name)
        for candidate in candidates
    }
    excluded = None
    if not exclude_overlap:
        for candidate in candidates:
            if not candidate.leak_told:
                refuse(overlaps[candidate.name])
    else:
        cells, excluded = _without(cells, list(overlaps.values()))
    folds, choices = _choice_folds(cells, settings)
    judged = _Judged(cells, folds, choices, excluded)
    for candidate in candidates:
        started = time.perf_counter()
        report(f"{candidate.name}: judging {len(cells):,} cells")
        output = candidate.predict(cells, batch_size, state, candidate.slug, progress)
        judged.probabilities[candidate.name] = check_probabilities(
            candidate.name, output, len(cells), len(cells.class_names)
        )
        judged.seconds[candidate.name] = time.perf_counter() - started
        judged.kinds[candidate.name] = candidate.kind
        judged.about[candidate.name] = candidate.about()
        overlap = overlaps[candidate.name]
        told = overlap.told
        if len(overlap.rows):
            told += "; they were left out." if exclude_overlap else "; its figures are too favourable."
        # Where something is known, though not all, a reader is told what.
        known = candidate.trained is not None
        judged.overlap[candidate.name] = {"checked": overlap.checked, "known": known, "told": told}
    return judged


def _refitted(
    candidates: list[Candidate],
    cells: JudgedCells,
    folds: int,
    seed: int,
    state: RunFolder,
    report: Callable[[str], None],
) -> _Judged:
    """Every recipe on the people that its networks had not seen, all in the same folds."""
    judged = _Judged(cells, None, "in each fold on the subjects that it does not test")
    for candidate in candidates:
        started = time.perf_counter()
        report(f"{candidate.name}: fitted again in {folds} folds by subject")
        found = refit_on_folds(candidate, cells, folds, seed, state.inside(candidate.slug), report)
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
            "with cross_validate (--cross-validate 5)."
        )
    kept = cells.subset(np.setdiff1d(np.arange(len(cells)), rows))
    gone = {cells.subjects[row] for row in rows} - {None}
    why = "cells that a model was trained on, or of people whom it was trained on"
    return kept, {"cells": len(rows), "subjects": len(gone) or None, "why": why}


def _choice_folds(cells: JudgedCells, settings: _Settings) -> tuple[IntArray | None, str]:
    """Folds by subject in which nothing is chosen on the people that it is judged on."""
    fewest = min(
        len({cells.subjects[row] or row for row in np.flatnonzero(cells.labels == label)})
        for label in np.unique(cells.labels)
    )
    folds = min(settings.folds, fewest)
    if folds < 2 or len(np.unique(cells.labels)) < len(cells.class_names):
        return None, "nowhere: there are too few subjects to choose on others"
    result = np.zeros(len(cells), np.int64)
    # A cell whose person is not known is a person of its own, and the same as its copies.
    people = tuple(
        subject or f"image {value:016x}" for subject, value in zip(cells.subjects, cells.fingerprints, strict=True)
    )
    table = dataclasses.replace(cells.table, subjects=people)
    for number, fold in enumerate(kfold_by_subject(table, folds, settings.seed)):
        result[list(fold.parts["test"])] = number
    return result, f"for each of {folds} folds by subject on the others"


def _other_people(data: Any, candidates: list[Candidate], cells: JudgedCells) -> JudgedCells:
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


def _predicted(
    candidates: list[Candidate], cells: JudgedCells, batch_size: int, state: RunFolder, progress: Progress | None
) -> dict[str, tuple[IntArray, FloatArray]]:
    """Labels and each model's probabilities of the cells to choose on."""
    found = {}
    for candidate in candidates:
        output = candidate.predict(cells, batch_size, state, f"{candidate.slug}-validation", progress)
        table = check_probabilities(candidate.name, output, len(cells), len(cells.class_names))
        found[candidate.name] = (cells.labels, table)
    return found


def _differences(cells: JudgedCells, judged: _Judged, settings: _Settings) -> list[dict[str, Any]]:
    """Each pair of models, and each model less each baseline."""
    wanted = MAIN_METRICS if len(cells.class_names) == 2 else _MAIN_METRICS_OF_MORE_CLASSES
    names = list(judged.probabilities)
    pairs = [(a, b) for a, b in itertools.combinations(names, 2) if a in judged.kinds]
    found = []
    for a, b in pairs:
        difference = paired_difference(
            cells.labels,
            judged.probabilities[a],
            judged.probabilities[b],
            cells.subjects,
            wanted,
            settings.resamples,
            settings.seed,
            settings.level,
        )
        found.append({"a": a, "b": b, "metrics": difference.to_dict()["intervals"]})
    return found


def _costs(
    candidates: list[Candidate], cells: JudgedCells, report: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """What each model costs, and a note on each that could not be measured: that must not lose the other figures."""
    report("cost of the models, in turn")
    notes: list[str] = []

    def failed(name: str, error: LeukaemiaZooError) -> None:
        notes.append(f"The cost of '{name}' could not be measured: {error}")
        report(f"warning: {notes[-1]}")

    models = {candidate.name: candidate.to_measure() for candidate in candidates}
    found = measure_costs(models, frames=cells.some_frames(_COST_FRAMES), failed=failed)
    return {name: cost.to_dict() for name, cost in found.items()}, notes


def _common_classes(candidates: list[Candidate], wanted: Sequence[str] | None) -> tuple[str, ...] | None:
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


@contextlib.contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    if out is not None:
        folder = Path(out)
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} cannot be made ({error.strerror or error}): give another folder.") from error
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                for made in new:  # a refused call leaves no empty folders
                    made.rmdir()
        return
    with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as place:
        yield Path(place)
