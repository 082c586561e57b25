"""Recipes judged on unseen subjects: each subject is predicted by a network that saw none of their cells."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.cells.manifests import save_manifest
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split, check_split, kfold_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, write_json
from leukaemia_zoo.common.run_folder import RECORDS, RUN, TRUNK_FILE, files_of_training, make_folder, refuse_to_replace
from leukaemia_zoo.errors import LeakError
from leukaemia_zoo.evaluation.baselines import area_baseline
from leukaemia_zoo.evaluation.calibration import apply_temperature
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray
from leukaemia_zoo.evaluation.intervals import bootstrap_over_subjects, paired_difference
from leukaemia_zoo.evaluation.metrics import metrics, per_subject
from leukaemia_zoo.evaluation.out_of_fold import CALIBRATION_FILE, Calibration, cross_calibrated, cross_fitted_coverage
from leukaemia_zoo.prediction.features import limit_of, view_scores
from leukaemia_zoo.training.classifier import Fitted, Report, embed, new_network, with_config
from leukaemia_zoo.training.distillation import forget_trunk
from leukaemia_zoo.training.drawing import development_split, read_arrays, training_rows
from leukaemia_zoo.training.leaks import MANIFEST_FILE, cells_among, seen_by_trunk, seen_images
from leukaemia_zoo.training.provenance import (
    InitialWeights,
    cells_seen,
    find_initial_weights,
    found_teachers,
    load_logits_teacher,
)
from leukaemia_zoo.training.recipes import Recipe, recipe_for
from leukaemia_zoo.training.records import UNKNOWN_IMAGES, Sources, fingerprint, provenance, write_predictions
from leukaemia_zoo.training.runs import RunState
from leukaemia_zoo.training.trainer import (
    begun,
    check_beginning,
    distilled,
    inputs_of,
    prepared,
    unlabelled_images,
)
from leukaemia_zoo.training.tuning import fit_network
from leukaemia_zoo.zoo.loading import save_model
from leukaemia_zoo.zoo.outputs import has_statistics, view_logits
from leukaemia_zoo.zoo.tensors import load_tensors, read_config

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
    name: str,
    cells: str | os.PathLike[str] | Cells,
    out: str | Path,
    *,
    folds: int = 5,
    recipe: Recipe | None = None,
    teacher: str | Path | None = "imagenet",
    unlabelled: str | Path | None = None,
    trunk: str | Path | None = None,
    init: str | Path | None = None,
    logits_teacher: str | Path | None = None,
    keep_networks: bool = False,
    seed: int = 0,
    devices: int | str = 1,
    restart: bool = False,
    report: Report = print,
) -> OutOfFold:
    """The predictions of `cross_validate`, which see for the arguments and the errors."""
    recipe, count = prepared(recipe or recipe_for(name), teacher, trunk, devices)
    initial = find_initial_weights(init, recipe.architecture, trunk)
    cells, out = as_cells(cells), Path(out)
    sources = Sources(teacher, unlabelled, trunk, initial, found_teachers(recipe, logits_teacher, folds))
    check_beginning(recipe, sources, seed, None if restart else out / TRUNK_FILE)
    _refuse_tested_images(cells, sources, report)
    _refuse_tested_cells(cells, initial)
    outer = kfold_by_subject(cells, folds, seed)
    make_folder(out)
    probabilities = np.zeros((len(cells), len(cells.class_names)))
    logits = np.zeros_like(probabilities)
    scores = np.full(len(cells), np.nan)
    fold_of_cell = np.zeros(len(cells), np.int64)
    parts = []
    shared = RunState(out / RUN, fingerprint(recipe, seed, f"{folds} folds", sources, count), restart)
    if trunk is None:
        sources = begun(sources, recipe, seed, shared, report)
        if restart:
            forget_trunk(out / TRUNK_FILE, shared)
    report(f"reading {len(cells):,} cells")
    arrays = read_arrays(cells, recipe, seed)
    features = embeddings = None
    if unlabelled is not None or trunk is not None or recipe.distillation is None or teacher is None:
        # No cell of the table takes part in this distillation, if there is one: every fold can use it.
        file, nobody = out / TRUNK_FILE, np.zeros(0, np.int64)
        features = distilled(recipe, shared, file, cells, nobody, arrays.pixels, sources, seed, report, count)
    if features is not None:
        model = new_network(recipe, len(cells.class_names), seed)
        load_tensors(model, features, without_head=True)
        if has_statistics(model) and not (recipe.fine_tune_epochs and recipe.train_batch_norm):
            embeddings = embed(model, arrays.pixels, np.arange(len(cells)), recipe)
    for number, fold in enumerate(outer):
        test = np.array(fold.parts["test"])
        split = _with_test(cells, fold, recipe, teacher is not None, seed, initial.source is not None)
        check_split(cells, split)
        manifest_hash = save_manifest(out / f"fold_{number}.json", cells, split)
        run = fingerprint(recipe, seed, manifest_hash, sources, count)
        state = shared.inside(f"fold_{number}", run)
        own_features = features
        if own_features is None:
            taught, file = training_rows(split), state.file(TRUNK_FILE)
            own_features = distilled(recipe, state, file, cells, taught, arrays.pixels, sources, seed, report, count)
        own_record = provenance(recipe, cells, seed, sources, own_features, count)
        result = state.load_result()
        if result is None:
            guide = load_logits_teacher(sources.logits_teachers, number, cells, test, report)
            fitted = fit_network(
                recipe, cells, arrays.pixels, split, own_features, state, seed, report, embeddings, count,
                arrays.frames, guide,
            )  # fmt: skip
            if keep_networks:
                _keep_network(out / f"fold_{number}", fitted, recipe, cells, manifest_hash, initial)
            shown = arrays.pixels[0, test]
            result = {
                "logits": view_logits(fitted.model, shown, recipe.prediction_views),
                "temperature": np.array(fitted.temperature),
                "chosen": np.array(json.dumps(fitted.chosen)),
            }
            if recipe.validation_share == 0 and has_statistics(fitted.model):
                result["scores"] = view_scores(fitted.model, shown, recipe.prediction_views)
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
        report(f"fold {number + 1}/{folds}: AUROC {measured['auroc']:.3f}, weighted F1 {measured['weighted_f1']:.3f}")
    calibration = None
    if recipe.validation_share == 0:
        probabilities, temperatures = cross_calibrated(logits, cells.labels, fold_of_cell)
        for part, temperature in zip(parts, temperatures, strict=True):
            test = fold_of_cell == part["fold"]
            part |= {"temperature": temperature, "metrics": metrics(cells.labels[test], probabilities[test])}
        limit = None if np.isnan(scores).any() else limit_of(scores)
        calibration = Calibration.found(logits, cells.labels, cells.subjects, cells.class_names, limit, recipe.digest())
    return OutOfFold(probabilities, calibration, arrays.area, fold_of_cell, parts, own_record, shared)


def cross_validate(
    name: str,
    cells: str | os.PathLike[str] | Cells,
    out: str | Path,
    *,
    folds: int = 5,
    recipe: Recipe | None = None,
    teacher: str | Path | None = "imagenet",
    unlabelled: str | Path | None = None,
    trunk: str | Path | None = None,
    init: str | Path | None = None,
    logits_teacher: str | Path | None = None,
    keep_networks: bool = False,
    seed: int = 0,
    devices: int | str = 1,
    restart: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Judge a recipe on unseen subjects: each is predicted once, by a network that saw none of their cells.

    In every fold the subjects that are not tested are split again into training and validation subjects, and the whole
    of `train` runs on them. The baseline "cell area alone" is fitted on the same training subjects. Distillation on
    further unlabelled images is done once, because no cell of the table takes part in it.

    Args:
        name: Architecture.
        cells: Labelled cells with subjects: a table, or a folder or CSV for `read_data`.
        out: Folder for ``cross_validation.json``, ``out_of_fold.csv`` and the manifests of the folds.
        folds: Number of folds.
        recipe: See `train`.
        teacher: See `train`.
        unlabelled: See `train`; no cell of the table may be among them, under whatever name, nor another cell of its
            subjects.
        trunk: See `train`; it must not have been distilled on cells of the table, nor on other cells of its subjects.
            A trunk of an older release does not say what it has seen; a note of the result says so.
        init: See `train`; the weights must not have been trained on cells of the table, nor on other cells of its
            subjects.
        logits_teacher: Folder of a cross-validation in the same folds that kept its networks: each teaches the network
            of its own fold, so that neither has seen the people who are tested.
        keep_networks: Leave the network of each fold in ``fold_0``, ``fold_1``..., each a saved model, not calibrated.
        seed: See `train`.
        devices: See `train`.
        restart: See `train`.
        report: See `train`.

    Returns:
        What ``cross_validation.json`` holds: figures with 95 % intervals from a bootstrap over subjects, for the
        network, the area baseline and their difference, per fold and per subject.

    Raises:
        LeakError: If a fold shares a subject or an identical image, or the unlabelled images, the trunk or the initial
            weights are known to have seen one.
        DataError: If there are too few subjects, or the folder holds a run with other settings.
        WeightsError: See `train`.
        DeviceError: See `train`.
    """
    cells, out = as_cells(cells), Path(out)
    initial = find_initial_weights(init, (recipe or recipe_for(name)).architecture, trunk)
    refuse_to_replace(
        out, files_of_training(folds, trunk is not None), RECORDS, inputs_of(teacher, trunk, initial), restart
    )
    found = out_of_fold(
        name,
        cells,
        out,
        folds=folds,
        recipe=recipe,
        teacher=teacher,
        unlabelled=unlabelled,
        trunk=trunk,
        init=init,
        logits_teacher=logits_teacher,
        keep_networks=keep_networks,
        seed=seed,
        devices=devices,
        restart=restart,
        report=report,
    )
    probabilities = found.probabilities
    baseline = np.zeros(len(cells))
    for number in range(folds):
        test = found.folds == number
        baseline[test] = area_baseline(found.area[~test], cells.labels[~test], found.area[test])
    judged = bootstrap_over_subjects(cells.labels, probabilities, cells.subjects, seed=seed)
    by_area = bootstrap_over_subjects(cells.labels, baseline, cells.subjects, seed=seed)
    result = {
        **found.record,
        "folds": found.parts,
        "metrics": judged.to_dict(),
        "area_baseline": by_area.to_dict(),
        "less_area_baseline": paired_difference(
            cells.labels, probabilities, np.stack([1 - baseline, baseline], 1), cells.subjects, seed=seed
        ).to_dict(),
        "per_subject": per_subject(cells.labels, probabilities, cells.subjects, cells.class_names),
    }
    if found.calibration is not None:
        result["coverage"] = cross_fitted_coverage(
            probabilities, cells.labels, cells.subjects, cells.class_names, found.folds
        )
        write_json(out / CALIBRATION_FILE, plain(found.calibration.to_dict()))
    write_predictions(out / "out_of_fold.csv", cells, np.arange(len(cells)), probabilities, fold=found.folds)
    result = plain(result)
    write_json(out / "cross_validation.json", result)
    found.state.remove()
    for metric in judged:
        report(f"{metric:<18} {judged[metric]}; cell area alone {by_area[metric].value:.3f}")
    return result


def _keep_network(
    folder: Path, fitted: Fitted, recipe: Recipe, cells: Cells, manifest_hash: str, initial: InitialWeights
) -> None:
    """Leave the network of a fold as a saved model that knows who taught it."""
    model = with_config(fitted.model, recipe, cells)
    training = {"manifest_sha256": manifest_hash, "init": initial.record(), "recipe": recipe.to_dict()}
    save_model(model, folder, half=True, training=training)
    shutil.copyfile(folder.with_suffix(".json"), folder / MANIFEST_FILE)


def _refuse_tested_images(cells: Cells, sources: Sources, report: Report) -> None:
    """A network that imitated a teacher on an image has seen it, even without its label."""
    if sources.unlabelled is not None:
        found = cells_among(seen_images(unlabelled_images(sources.unlabelled)), cells)
        if len(found.rows):
            raise LeakError(
                f"{len(found.rows):,} of the {len(cells):,} cells to be tested are, or are of people who are, among "
                f"the unlabelled images of the distillation in {sources.unlabelled} ({found.images:,} identical "
                "images): take these out of the folder, or leave it out (--unlabelled) for a distillation in each fold."
            )
    if sources.trunk is None:
        return
    seen = seen_by_trunk(sources.trunk)
    if seen is None:
        if "taken_from" not in ((read_config(sources.trunk) or {}).get("distillation") or {}):
            report(f"note: {UNKNOWN_IMAGES}")
        return
    found = cells_among(seen, cells)
    if len(found.rows):
        raise LeakError(
            f"{len(found.rows):,} of the {len(cells):,} cells to be tested are, or are of people who are, among the "
            f"images that {sources.trunk} was distilled on ({found.images:,} identical images): give a trunk of other "
            "images, or none (--trunk) for a distillation in each fold."
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
