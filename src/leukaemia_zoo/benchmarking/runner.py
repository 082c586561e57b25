"""One call, and a comparison of models is fair, complete and reproducible.

All models are judged on the same cells, none of which they were trained on; what must be chosen (thresholds,
temperatures, baselines) is chosen on other people than it is judged on; every figure has an interval over subjects.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo._names import renamed, takes
from leukaemia_zoo._version import __version__
from leukaemia_zoo.benchmarking.contestants import Candidate, as_candidates
from leukaemia_zoo.benchmarking.cost import measure_costs
from leukaemia_zoo.benchmarking.judged_cells import MANIFEST_FILE, JudgedCells, read_judged_cells
from leukaemia_zoo.benchmarking.judging import Judged, as_they_are, common_classes, other_people, predicted, refitted
from leukaemia_zoo.benchmarking.options import BenchmarkOptions
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.common.run_folder import BENCHMARK, RunFolder, folder_or_temporary, refuse_to_replace
from leukaemia_zoo.common.text import Log
from leukaemia_zoo.errors import DataError, LeukaemiaZooError
from leukaemia_zoo.evaluation import judgement
from leukaemia_zoo.evaluation.baselines import BASELINES, cross_fitted, fitted_on
from leukaemia_zoo.evaluation.conformal import judge_limits
from leukaemia_zoo.evaluation.inputs import subject_codes
from leukaemia_zoo.evaluation.intervals import paired_difference
from leukaemia_zoo.report.report import FILES, Report
from leukaemia_zoo.zoo.sources import local_files

MAIN_METRICS = ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity")
"""Of these the report gives paired differences."""

_MAIN_METRICS_OF_MORE_CLASSES = ("auroc", "macro_f1", "weighted_f1", "balanced_accuracy")

_COST_FRAMES = 32
"""Different frames that a callable is timed on."""


@renamed(report="log", cross_validate="refit_folds", folds="choice_folds")
@takes(BenchmarkOptions)
def benchmark(
    models: str | Sequence[Any] | Mapping[str, Any],
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    options: BenchmarkOptions,
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
        options: Folds, intervals, baselines, cost and the like, see `BenchmarkOptions`. Each may be given as a keyword
            instead, or besides: ``benchmark("cnn", "cells", cost=False)``.

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
    started = time.perf_counter()
    log = options.tell
    candidates = as_candidates(models)
    if out is not None:
        named = [("the data", data), ("the validation cells", options.validation)]
        named += [(candidate.name, file) for candidate in candidates for file in local_files(candidate.given or "")]
        refuse_to_replace(Path(out), (MANIFEST_FILE, *FILES), {FILES[0]: "leukaemia_zoo"}, named, options.restart)
    taken = [candidate.name for candidate in candidates if candidate.name in BASELINES]
    if options.baselines and taken:
        raise DataError(
            f"A model is called '{taken[0]}', like a baseline: give a dict with another name for it, or leave out the "
            "baselines (--no-baselines)."
        )
    cells = read_judged_cells(data, common_classes(candidates, options.class_names))
    # Whatever a user may have to mend is told before the minutes of the predictions.
    cells.subgroups(options.subgroups)
    subject_codes(cells.subjects, len(cells))
    chosen_on = None if options.validation is None else other_people(options.validation, candidates, cells)
    log(str(cells.table))
    with folder_or_temporary(out) as folder:
        state = RunFolder(folder / BENCHMARK, restart=options.restart)
        judged = (as_they_are if options.refit_folds is None else refitted)(candidates, cells, state, options)
        cells = judged.cells
        chosen = {} if chosen_on is None else predicted(candidates, chosen_on, state, options)
        if options.baselines and judged.folds is not None:
            for name, features in cells.baseline_features.items():
                judged.probabilities[name] = cross_fitted(features, cells.labels, judged.folds, len(cells.class_names))
                judged.overlap[name] = {"checked": True, "told": fitted_on(features, cells.labels, judged.folds)}
        elif options.baselines:
            judged.notes.append("There are no baselines: there are too few subjects to fit them on others.")
        before_intervals = time.perf_counter()
        log("intervals over subjects")
        blocks = {
            name: judgement.judge(
                cells.labels,
                probabilities,
                cells.subjects,
                cells.class_names,
                folds=judged.folds,
                validation=chosen.get(name),
                prevalence=options.prevalence,
                subgroups=cells.subgroups(options.subgroups),
                resamples=options.resamples,
                seed=options.seed,
                level=options.level,
            )
            for name, probabilities in judged.probabilities.items()
        }
        for name, limits in judged.limits.items():
            blocks[name]["limits"] = judge_limits(
                cells.labels,
                judged.probabilities[name],
                cells.subjects,
                limits,
                cells.class_names,
                options.resamples,
                options.seed,
                options.level,
            )
        differences = _differences(judged, options)
        bootstrap_seconds = time.perf_counter() - before_intervals
        costs, not_measured = _costs(candidates, cells, log) if options.cost else ({}, [])
        explained = {one.name: one for one in candidates if options.refit_folds is None}
        for name, block in blocks.items():
            block["kind"] = judged.kinds.get(name, "baseline")
            block["about"] = judged.about.get(name, {})
            block["overlap"] = judged.overlap[name]
            block["cost"] = costs.get(name)
            block["worst_cells"] = cells.pictures(block.pop("most_wrong"), explained.get(name))
        if out is not None:
            state.begin()
        described = cells.write_manifest(folder)
        described["notes"] += [*judged.notes, *not_measured]
        unit = next(iter(blocks.values()))["unit"]
        choices = judged.choices if options.validation is None else "on the validation cells"
        seconds = {"predict_s": judged.seconds, "bootstrap_s": bootstrap_seconds}
        report = Report(
            {
                "schema": 1,
                "leukaemia_zoo": __version__,
                "data": {**described, "unit": unit, "excluded": judged.excluded},
                "settings": {**options.settings(), "choices": choices},
                "environment": environment(),
                "models": blocks,
                "differences": differences,
                "timing": {"total_s": time.perf_counter() - started, **seconds},
            }
        )
        if out is not None:
            report.save(folder)
            state.remove()
    return report


def _differences(judged: Judged, options: BenchmarkOptions) -> list[dict[str, Any]]:
    """Each pair of models, and each model less each baseline."""
    cells, predictions = judged.cells, judged.probabilities
    wanted = MAIN_METRICS if len(cells.class_names) == 2 else _MAIN_METRICS_OF_MORE_CLASSES
    how = (wanted, options.resamples, options.seed, options.level)
    found = []
    for a, b in itertools.combinations(predictions, 2):
        if a in judged.kinds:
            difference = paired_difference(cells.labels, predictions[a], predictions[b], cells.subjects, *how)
            found.append({"a": a, "b": b, "metrics": difference.to_dict()["intervals"]})
    return found


def _costs(candidates: list[Candidate], cells: JudgedCells, log: Log) -> tuple[dict[str, Any], list[str]]:
    """What each model costs, and a note on each that could not be measured: that must not lose the other figures."""
    log("cost of the models, in turn")
    notes: list[str] = []

    def failed(name: str, error: LeukaemiaZooError) -> None:
        notes.append(f"The cost of '{name}' could not be measured: {error}")
        log(f"warning: {notes[-1]}")

    models = {candidate.name: candidate.to_measure() for candidate in candidates}
    found = measure_costs(models, frames=cells.some_frames(_COST_FRAMES), failed=failed)
    return {name: cost.to_dict() for name, cost in found.items()}, notes
