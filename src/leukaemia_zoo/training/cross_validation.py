"""Recipes judged on unseen subjects: each subject is predicted by a network that saw none of their cells."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo._names import renamed, takes
from leukaemia_zoo._version import __version__
from leukaemia_zoo.cells.copies import tell_shared_cells
from leukaemia_zoo.cells.manifests import save_manifest
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split, check_split, kfold_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, write_json
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.common.run_folder import (
    RECORDS,
    RUN,
    TRUNK_FILE,
    files_of_training,
    make_folder,
    manifest_of_fold,
    refuse_to_replace,
)
from leukaemia_zoo.common.text import Log
from leukaemia_zoo.errors import LeakError
from leukaemia_zoo.evaluation.baselines import AREA, area_baseline
from leukaemia_zoo.evaluation.calibration import apply_temperature
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray
from leukaemia_zoo.evaluation.intervals import bootstrap_over_subjects, paired_difference
from leukaemia_zoo.evaluation.judgement import judge
from leukaemia_zoo.evaluation.metrics import metrics, per_subject
from leukaemia_zoo.evaluation.out_of_fold import (
    CALIBRATION_FILE,
    Calibration,
    cross_fitted_coverage,
    cross_temperatures,
)
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.report.contents import SCHEMA
from leukaemia_zoo.report.report import Report
from leukaemia_zoo.training.classifier import Fitted, cohort_log_odds, embed, new_network, outputs_of, with_config
from leukaemia_zoo.training.distillation import forget_trunk
from leukaemia_zoo.training.drawing import development_split, folds_of, read_arrays, training_rows
from leukaemia_zoo.training.leaks import MANIFEST_FILE, cells_among, seen_by_trunk, seen_images
from leukaemia_zoo.training.provenance import InitialWeights, cells_seen, find_initial_weights, trunk_record
from leukaemia_zoo.training.recipes import Recipe, TrainingOptions
from leukaemia_zoo.training.records import UNKNOWN_IMAGES, Sources, fingerprint, provenance, write_predictions
from leukaemia_zoo.training.runs import RunState, Training, refuse_to_replace_run
from leukaemia_zoo.training.trainer import begun, check_beginning, distilled, inputs_of, prepared, unlabelled_images
from leukaemia_zoo.training.tuning import fit_network, opinion_features, soft_targets
from leukaemia_zoo.zoo.loading import save_model
from leukaemia_zoo.zoo.outputs import has_statistics
from leukaemia_zoo.zoo.tensors import load_tensors

_OF_A_FOLD = ("images", "history", "seconds", "run", "sha256")
"""What the record of a distillation says that differs from fold to fold, if each has its own."""


@dataclasses.dataclass(frozen=True)
class OutOfFold:
    """Predictions of every cell by a network that saw no cell of its subject.

    Attributes:
        probabilities: Calibrated, float64 (cells, classes).
        calibration: What the shipped weight takes from these predictions, see `Calibration`; None where every fold
            calibrates itself on validation subjects.
        area: Area of each cell in official pixels, (cells,).
        folds: Fold that tested each cell, (cells,).
        parts: What is known of each fold: manifest, temperature, choices, cells and subjects, figures.
        record: What produced it, see `provenance`.
        state: What an interrupted run goes on from; remove it when the result is kept.
    """

    probabilities: FloatArray
    calibration: Calibration | None
    area: FloatArray
    folds: IntArray
    parts: list[dict[str, Any]]
    record: dict[str, Any]
    state: RunState


def out_of_fold(
    model: str,
    cells: Cells,
    out: Path,
    *,
    folds: int = 5,
    keep_networks: bool = False,
    options: TrainingOptions,
) -> OutOfFold:
    """The predictions of `cross_validate`."""
    recipe, devices = prepared(model, options)
    initial, seed, restart = (
        find_initial_weights(options.init, recipe.architecture, options.trunk),
        options.seed,
        options.restart,
    )
    sources = Sources.of(options, recipe, initial, folds)
    check_beginning(recipe, sources, seed, None if restart else out / TRUNK_FILE)
    _refuse_tested_images(cells, sources, options.tell)
    _refuse_tested_cells(cells, initial)
    outer = kfold_by_subject(cells, folds, seed)
    digest = fingerprint(recipe, seed, f"{folds} folds", sources, devices)
    refuse_to_replace_run(out / "cross_validation.json", digest, restart)
    make_folder(out)
    shared = RunState(out / RUN, digest, restart)
    log = options.tell
    if sources.trunk is None:
        sources = begun(sources, recipe, seed, shared, log)
        if restart:
            forget_trunk(out / TRUNK_FILE, shared)
    tell_shared_cells(cells, log)
    log(f"reading {len(cells):,} cells")
    whole = Training(recipe, cells, read_arrays(cells, recipe, seed), shared, seed, log, devices)
    pixels = whole.arrays.pixels
    features = embeddings = None
    if not (recipe.distillation and sources.teacher) or sources.unlabelled is not None or sources.trunk is not None:
        # No cell of the table takes part in this distillation, if there is one: every fold can use it.
        features = distilled(whole, sources, out / TRUNK_FILE, np.zeros(0, np.int64))
    if features is not None:
        network = new_network(recipe, len(cells.class_names), seed)
        load_tensors(network, features, without_head=True)
        if has_statistics(network) and not (recipe.fine_tune_epochs and recipe.train_batch_norm):
            embeddings = embed(network, pixels, np.arange(len(cells)), recipe)
    opinion = opinion_features(whole, sources)
    probabilities = np.zeros((len(cells), len(cells.class_names)))
    logits = np.zeros_like(probabilities)
    scores = np.full(len(cells), np.nan)
    fold_of_cell = np.zeros(len(cells), np.int64)
    parts = []
    for number, fold in enumerate(outer):
        test = np.array(fold.parts["test"])
        split = _with_test(cells, fold, recipe, sources.teacher is not None, seed, initial.source is not None)
        check_split(cells, split)
        manifest_hash = save_manifest(out / manifest_of_fold(number), cells, split)
        state = shared.inside(f"fold_{number}", fingerprint(recipe, seed, manifest_hash, sources, devices))
        run = dataclasses.replace(whole, state=state)
        own_features = features
        if own_features is None:
            own_features = distilled(run, sources, state.file(TRUNK_FILE), training_rows(split))
        own_record = provenance(recipe, cells, seed, sources, own_features, devices)
        result = state.load_result()
        if result is None:
            soft = soft_targets(run, sources, opinion, folds_of(split)[0][0], number, test)
            fitted = fit_network(run, split, own_features, embeddings, soft)
            if keep_networks:
                _keep_network(out / f"fold_{number}", fitted, recipe, cells, manifest_hash, initial)
            of_test, scores_of_test = outputs_of(fitted, embeddings, pixels, test, recipe)
            result = {
                "logits": of_test,
                "temperature": np.array(fitted.temperature),
                "chosen": np.array(json.dumps(fitted.chosen)),
            }
            if recipe.validation_share == 0 and scores_of_test is not None:
                result["scores"] = scores_of_test
            state.save_result(result)
        logits[test] = result["logits"]
        scores[test] = result.get("scores", np.nan)
        probabilities[test] = apply_temperature(logits[test], float(result["temperature"]))
        fold_of_cell[test] = number
        measured = metrics(cells.labels[test], probabilities[test])
        parts.append(
            {
                "fold": number,
                "manifest_sha256": manifest_hash,
                "temperature": float(result["temperature"]),
                "chosen": json.loads(str(result["chosen"])),
                "subjects": {part: len({cells.subjects[row] for row in rows}) for part, rows in split.parts.items()},
                "cells": {part: len(rows) for part, rows in split.parts.items()},
                "metrics": measured,
            }
        )
        if features is None and own_record["distillation"] is not None:
            distillation = own_record["distillation"]
            parts[-1]["distillation"] = {key: distillation.pop(key) for key in _OF_A_FOLD}
        log(f"fold {number + 1}/{folds}: AUROC {measured['auroc']:.3f}, weighted F1 {measured['weighted_f1']:.3f}")
    calibration = None
    if recipe.validation_share == 0:
        for part, temperature in zip(parts, cross_temperatures(logits, cells.labels, fold_of_cell), strict=True):
            test = fold_of_cell == part["fold"]
            if recipe.cohort_frequencies:
                logits[test] += temperature * cohort_log_odds(cells, np.flatnonzero(~test))
            probabilities[test] = apply_temperature(logits[test], temperature)
            part |= {"temperature": temperature, "metrics": metrics(cells.labels[test], probabilities[test])}
        limit = None if np.isnan(scores).any() else limit_of(scores)
        calibration = Calibration.found(logits, cells.labels, cells.subjects, cells.class_names, limit, recipe.digest())
    return OutOfFold(probabilities, calibration, whole.arrays.area, fold_of_cell, parts, own_record, shared)


@dataclasses.dataclass(frozen=True, repr=False)
class CrossValidation(Report):
    """What `cross_validate` found: a `Report` of the network beside the area of the cell alone.

    Attributes:
        data: See `Report`.
        record: What ``cross_validation.json`` holds: what produced it, figures with their intervals, the folds.
    """

    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        warnings.warn(
            f"leukaemia_zoo: cross_validate()[{key!r}] is cross_validate().record[{key!r}] now; the old way goes with "
            "the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.record[key]


@renamed(name="model", cells="data", report="log")
@takes(TrainingOptions)
def cross_validate(
    model: str,
    data: str | os.PathLike[str] | Cells,
    out: str | Path,
    *,
    folds: int = 5,
    keep_networks: bool = False,
    options: TrainingOptions,
) -> CrossValidation:
    """Judge a recipe on unseen subjects: each is predicted once, by a network that saw none of their cells.

    In every fold the subjects that are not tested are split again into training and validation subjects, and the whole
    of `train` runs on them. The baseline "cell area alone" is fitted on the same training subjects. Distillation on
    further unlabelled images is done once, because no cell of the table takes part in it.

    Args:
        model: Architecture, or a weight with a recipe of its own; see `train`.
        data: Labelled cells with subjects: a table, or a folder or CSV for `read_data`.
        out: Folder for ``cross_validation.json``, ``out_of_fold.csv`` and the manifests of the folds.
        folds: Number of folds.
        keep_networks: Leave the network of each fold in ``fold_0``, ``fold_1``..., each a saved model, not calibrated.
        options: Recipe, beginning, seed and the like, see `TrainingOptions`. Each may be given as a keyword instead.

    Returns:
        A `Report` with 95 % intervals from a bootstrap over subjects, for the network, the area baseline and their
        difference; its ``record`` is what ``cross_validation.json`` holds, also fold by fold.

    Raises:
        LeakError: If a fold shares a subject or an identical image, or the unlabelled images, the trunk or the initial
            weights are known to have seen one.
        DataError: If there are too few subjects, or the folder holds a run with other settings.
        WeightsError: See `train`.
        DeviceError: See `train`.

    Example:
        >>> import leukaemia_zoo as lz
        >>> report = lz.cross_validate("cnn_attention", "C-NMC", "runs/cv", folds=5)  # doctest: +SKIP
        >>> report.save("runs/cv/report")  # doctest: +SKIP
    """
    cells, out, seed, log = as_cells(data), Path(out), options.seed, options.tell
    initial = find_initial_weights(options.init, options.recipe_of(model).architecture, options.trunk)
    files = files_of_training(folds, options.trunk is not None)
    refuse_to_replace(out, files, RECORDS, inputs_of(options, initial), options.restart)
    found = out_of_fold(model, cells, out, folds=folds, keep_networks=keep_networks, options=options)
    probabilities = found.probabilities
    area = np.zeros(len(cells))
    for number in range(folds):
        test = found.folds == number
        area[test] = area_baseline(found.area[~test], cells.labels[~test], found.area[test])
    baseline = np.stack([1 - area, area], 1)
    judged = bootstrap_over_subjects(cells.labels, probabilities, cells.subjects, seed=seed)
    by_area = bootstrap_over_subjects(cells.labels, area, cells.subjects, seed=seed)
    difference = paired_difference(cells.labels, probabilities, baseline, cells.subjects, seed=seed)
    record = {
        "fingerprint": found.state.fingerprint,
        **found.record,
        "folds": found.parts,
        "metrics": judged.to_dict(),
        "area_baseline": by_area.to_dict(),
        "less_area_baseline": difference.to_dict(),
        "per_subject": per_subject(cells.labels, probabilities, cells.subjects, cells.class_names),
    }
    if found.calibration is not None:
        record["coverage"] = cross_fitted_coverage(
            probabilities, cells.labels, cells.subjects, cells.class_names, found.folds
        )
        write_json(out / CALIBRATION_FILE, plain(found.calibration.to_dict()))
    write_predictions(out / "out_of_fold.csv", cells, np.arange(len(cells)), probabilities, fold=found.folds)
    record = plain(record)
    write_json(out / "cross_validation.json", record)
    found.state.remove()
    for metric in judged:
        log(f"{metric:<18} {judged[metric]}; cell area alone {by_area[metric].value:.3f}")
    report = _report(model, cells, found, baseline, difference.to_dict()["intervals"], options)
    return CrossValidation(report, record)


def _report(
    model: str,
    cells: Cells,
    found: OutOfFold,
    baseline: FloatArray,
    difference: dict[str, Any],
    options: TrainingOptions,
) -> dict[str, Any]:
    """The data of the report, laid out as that of a benchmark whose models are cross-validated."""
    told = {
        model: ("cross-validated", "Every cell was judged by a network that had seen no cell of its person."),
        AREA: ("baseline", "Fitted on other people."),
    }
    about = {"architecture": found.record["recipe"]["architecture"], "folds": found.parts}
    blocks = {}
    for name, probabilities in ((model, found.probabilities), (AREA, baseline)):
        block = judge(
            cells.labels, probabilities, cells.subjects, cells.class_names, folds=found.folds, seed=options.seed
        )
        block.pop("most_wrong")
        blocks[name] = {
            **block,
            "kind": told[name][0],
            "about": about if name == model else {},
            "overlap": {"checked": True, "told": told[name][1]},
        }
    about_cells = cells.summary()
    return {
        "schema": SCHEMA,
        "leukaemia_zoo": __version__,
        "data": {
            **{key: about_cells[key] for key in ("source", "cells", "subjects", "classes")},
            "class_names": list(cells.class_names),
            "notes": found.record["notes"],
            "unit": blocks[model]["unit"],
        },
        "settings": {
            **{key: blocks[model][key] for key in ("resamples", "seed", "level")},
            "cross_validate": len(found.parts),
            "choices": "in each fold on the subjects that it does not test",
        },
        "environment": environment(),
        "models": blocks,
        "differences": [{"a": model, "b": AREA, "metrics": difference}],
    }


def _keep_network(
    folder: Path, fitted: Fitted, recipe: Recipe, cells: Cells, manifest_hash: str, initial: InitialWeights
) -> None:
    """Leave the network of a fold as a saved model that knows who taught it."""
    model = with_config(fitted.model, recipe, cells)
    training = {"manifest_sha256": manifest_hash, "init": initial.to_dict(), "recipe": recipe.to_dict()}
    save_model(model, folder, half=True, training=training)
    shutil.copyfile(folder.with_suffix(".json"), folder / MANIFEST_FILE)


def _refuse_tested_images(cells: Cells, sources: Sources, log: Log) -> None:
    """A network that imitated a teacher on an image has seen it, even without its label."""
    if sources.unlabelled is not None:
        found = cells_among(seen_images(unlabelled_images(sources.unlabelled)), cells)
        if len(found.rows):
            raise LeakError(
                f"{len(found.rows):,} of the {len(cells):,} cells to be tested are, or are of people who are, among "
                f"the unlabelled images of the distillation in {sources.unlabelled} ({found.images:,} identical "
                "images): take these out of the folder, or leave it out (--unlabelled) for a distillation in each fold."
            )
    for trunk in sources.trunks:
        seen = seen_by_trunk(trunk)
        if seen is None:
            if "taken_from" not in trunk_record(trunk):
                log(f"note: {UNKNOWN_IMAGES}")
            continue
        found = cells_among(seen, cells)
        if len(found.rows):
            raise LeakError(
                f"{len(found.rows):,} of the {len(cells):,} cells to be tested are, or are of people who are, among "
                f"the images that {trunk} was distilled on ({found.images:,} identical images): give a trunk of other "
                "images (--trunk, --linear-teacher), or none for a distillation in each fold."
            )


def _refuse_tested_cells(cells: Cells, initial: InitialWeights) -> None:
    """Weights that were trained on a subject know them, whatever is trained on top."""
    overlap = cells_seen(initial, cells)
    if overlap is not None and len(overlap.rows):
        raise LeakError(
            f"{overlap.told}: begin with other weights (--init), or leave these cells out of the cross-validation."
        )


def _with_test(cells: Cells, fold: Split, recipe: Recipe, distilled: bool, seed: int, initialised: bool) -> Split:
    """Split the subjects that a fold does not test for the choices of training; the test subjects stay apart."""
    rows = list(fold.parts["train"])
    inner = development_split(cells.subset(rows), recipe, distilled, seed, initialised)
    parts = {part: tuple(rows[row] for row in members) for part, members in inner.parts.items()}
    return Split({**parts, "test": fold.parts["test"]}, seed, f"{fold.method}; {inner.method}")
