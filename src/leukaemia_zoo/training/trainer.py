"""The recipe at work: from labelled cells to a calibrated network.

First the distillation, without labels; then the classifier, and fine-tuning where the recipe says so. The choice of
penalty and epoch and the temperature look at validation subjects only; test subjects are never seen.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split, check_split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, replacing, write_json
from leukaemia_zoo.common.hardware import number_of_devices, on_devices, precision, resolved
from leukaemia_zoo.common.run_folder import RECORDS, RUN, TRUNK_FILE, files_of_training, make_folder, refuse_to_replace
from leukaemia_zoo.errors import DataError, LeukaemiaZooError
from leukaemia_zoo.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, apply_temperature
from leukaemia_zoo.evaluation.conformal import fit_limits
from leukaemia_zoo.evaluation.intervals import bootstrap_over_subjects
from leukaemia_zoo.evaluation.metrics import metrics, per_subject
from leukaemia_zoo.evaluation.out_of_fold import Calibration
from leukaemia_zoo.report.curves import write_curves
from leukaemia_zoo.training.classifier import Fitted, Report, calibrated, new_network, with_config
from leukaemia_zoo.training.distillation import distil, forget_trunk, read_unlabelled, teacher_for, unlabelled_images
from leukaemia_zoo.training.drawing import development_split, folds_of, read_arrays, training_rows
from leukaemia_zoo.training.leaks import as_header, seen_cells, seen_images
from leukaemia_zoo.training.provenance import (
    InitialWeights,
    cells_seen,
    find_initial_weights,
    found_teachers,
    load_logits_teacher,
    write_initial_weights,
)
from leukaemia_zoo.training.recipes import Recipe, recipe_for
from leukaemia_zoo.training.records import (
    Sources,
    begins_as_teacher,
    class_counts,
    described_teacher,
    fingerprint,
    manifest_of,
    provenance,
    teacher_beginning,
    write_predictions,
)
from leukaemia_zoo.training.runs import RunState
from leukaemia_zoo.training.tuning import check_trainable, fit_network
from leukaemia_zoo.zoo.loading import save_model
from leukaemia_zoo.zoo.tensors import load_tensors, read_config, save_tensors

INITIAL_FILE = "initial.safetensors"
"""The network before the first stage, in the folder of an unfinished run."""


def train(
    name: str,
    cells: str | os.PathLike[str] | Cells,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    teacher: str | Path | None = "imagenet",
    unlabelled: str | Path | None = None,
    trunk: str | Path | None = None,
    init: str | Path | None = None,
    split: str | Path | Split | None = None,
    logits_teacher: str | Path | None = None,
    calibration: str | Path | None = None,
    seed: int = 0,
    devices: int | str = 1,
    restart: bool = False,
    report: Report = print,
) -> keras.Model:
    """Train a network on labelled cells, by subject, and leave it in a folder.

    The folder then holds ``config.json`` and ``model.safetensors`` (see `load_model`), ``split.json`` (the manifest),
    ``validation.csv`` (predictions on the validation subjects) and ``training.json`` (the record: recipe, seed, data,
    versions, curves, figures), the curves as ``curves.csv`` and ``curves.svg`` and, where there was a distillation, its
    result ``distilled.safetensors``. A run that was interrupted goes on where its last whole epoch ended.

    Args:
        name: Architecture.
        cells: Labelled cells with subjects: a table, or a folder or CSV for `read_data`.
        out: Folder to write.
        recipe: How to train; None for the recipe of the package.
        teacher: Weights of MobileNet to distil: ``"imagenet"`` (Keras downloads them), an ``.npz`` file, or None to
            leave out the distillation.
        unlabelled: Folder of cell images for the distillation; None takes the training cells, without their labels.
        trunk: ``distilled.safetensors`` that a training or cross-validation with the same distillation left, to save
            its time; None distils. What it was distilled on the record takes from its header.
        init: Weights before the first stage: ``"imagenet"`` for those that Keras publishes for five of the
            architectures, a safetensors file or saved-model folder of this package or a name of the zoo for all tensors
            but the last layer's, None for random ones.
        split: Manifest or `Split` with the parts train and validation, or with folds by subject; None makes one. Cells
            without subjects are split by cell, which says nothing about new people; a line of progress says so.
        logits_teacher: Folder of a saved model of the same classes, for a recipe with a ``soft_share``: its
            probabilities of the same view are a part of the targets.
        calibration: Folder of a finished cross-validation of the same recipe, for a recipe whose ``validation_share``
            is 0: all subjects teach, and temperature and limits are those of the out-of-fold predictions.
        seed: Of the split, the weights, the order and the views.
        devices: Number of devices that share the batches of distillation and fine-tuning, or ``"all"``.
        restart: Begin anew instead of resuming.
        report: Called with each line of progress.

    Returns:
        The trained network, calibrated on the validation subjects.

    Raises:
        LeakError: If the split shares a subject or an identical image between its parts.
        DataError: If the data or the recipe cannot be used, or the folder holds a run with other settings.
        WeightsError: If the teacher's or the initial weights cannot be had.
        DeviceError: If the devices are not there, or cannot share the batches.
    """
    recipe, count = prepared(recipe or recipe_for(name), teacher, trunk, devices)
    found = _calibration(recipe, calibration)
    initial = find_initial_weights(init, recipe.architecture, trunk)
    cells, out = as_cells(cells), Path(out)
    refuse_to_replace(
        out, files_of_training(trunk=trunk is not None), RECORDS, inputs_of(teacher, trunk, initial), restart
    )
    if split is None:
        split = development_split(cells, recipe, teacher is not None, seed, initial.source is not None)
        if split.method == "split_by_cell":
            report("note: the cells have no subjects, so the figures below are of cells of the people who taught it")
    elif not isinstance(split, Split):
        split = load_manifest(split, cells)
    check_split(cells, split)
    sources = Sources(teacher, unlabelled, trunk, initial, found_teachers(recipe, logits_teacher))
    check_beginning(recipe, sources, seed, None if restart else out / TRUNK_FILE, len(folds_of(split)))
    make_folder(out)
    manifest, manifest_hash = manifest_of(cells, split)
    state = RunState(out / RUN, fingerprint(recipe, seed, manifest_hash, sources, count), restart)
    with replacing(out / "split.json") as beside:
        beside.write_bytes(manifest)
    report = state.timed(report)
    if trunk is None:
        sources = begun(sources, recipe, seed, state, report)
        overlap = cells_seen(initial, cells)
        if overlap is not None and len(overlap.rows):
            report(f"{overlap.told}: the figures below are too favourable")
        if restart:
            forget_trunk(out / TRUNK_FILE, state)
    report(f"reading {len(cells):,} cells")
    arrays = read_arrays(cells, recipe, seed)
    taught = training_rows(split)
    features = distilled(recipe, state, out / TRUNK_FILE, cells, taught, arrays.pixels, sources, seed, report, count)
    guide = load_logits_teacher(sources.logits_teachers, 0, cells, np.zeros(0, np.int64), report)
    fitted = fit_network(
        recipe, cells, arrays.pixels, split, features, state, seed, report,
        devices=count, frames=arrays.frames, teacher=guide,
    )  # fmt: skip
    judged: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    validation = fitted.validation_rows
    if found is None:
        found, judged, figures = _judged(fitted, recipe, cells, split, seed, report)
        write_predictions(
            out / "validation.csv", cells, validation, apply_temperature(fitted.validation_logits, found.temperature)
        )
    model = with_config(fitted.model, recipe, cells)
    model = calibrated(model, found.temperature, found.ood_limit, found.verdict_limits)
    record = {
        **provenance(recipe, cells, seed, sources, features, count),
        "manifest_sha256": manifest_hash,
        "seconds": round(state.seconds()),
        "curves": fitted.curves,
        "chosen": fitted.chosen,
        "temperature": found.temperature,
        "metrics": figures,
        **judged,
    }
    save_model(
        model,
        out,
        half=True,
        name=name if "." in name else f"{name}.{'cnmc' if cells.source == 'c-nmc' else 'custom'}",
        training={
            "train": class_counts(cells, taught),
            **({"validation": class_counts(cells, validation)} if len(validation) else {}),
            "validation_folds": int(len(validation) > 0) if "train" in split.parts else len(split.parts),
            "manifest_sha256": manifest_hash,
            "seed": seed,
            "recipe": recipe.to_dict(),
            "init": record["init"],
            "distillation": _features_from(record["distillation"]),
        },
        metrics=figures,
        data=tuple(record["data"]),
        intended_use="Research on single-cell images like those it was trained on; not a diagnosis.",
    )
    record = plain(record)
    write_curves(out, record, report)
    write_json(out / "training.json", record)
    state.remove()
    if not MIN_TEMPERATURE * 1.01 < found.temperature < MAX_TEMPERATURE * 0.99:
        report("the temperature is at the end of its range: there are too few validation cells to calibrate")
    report(f"temperature {found.temperature:.3f}; saved in {out}")
    return model


def _calibration(recipe: Recipe, folder: str | Path | None) -> Calibration | None:
    """The calibration of a recipe that keeps no subjects for its own; None for one that does."""
    if recipe.validation_share > 0:
        if folder is not None:
            raise DataError(
                "This recipe calibrates the network on validation subjects of its own: leave out the calibration "
                "(--calibration), or set validation_share to 0 in the recipe."
            )
        return None
    if folder is None:
        raise DataError(
            "This recipe lets all subjects teach and keeps none to calibrate the network: cross-validate it first "
            "(--cross-validate 5), and name that folder (--calibration)."
        )
    return Calibration.load(folder, recipe.digest())


def _judged(
    fitted: Fitted, recipe: Recipe, cells: Cells, split: Split, seed: int, report: Report
) -> tuple[Calibration, dict[str, Any], dict[str, Any]]:
    """What the validation cells say: calibration, rows of the record, and figures."""
    validation = fitted.validation_rows
    probabilities = apply_temperature(fitted.validation_logits, fitted.temperature)
    labels, owners = cells.labels[validation], [cells.subjects[row] for row in validation]
    measured = bootstrap_over_subjects(labels, probabilities, owners, seed=seed)
    folds = "" if "train" in split.parts else f", in turn by {len(split.parts)} folds"
    people = "" if None in owners else f" of {len(set(owners))} validation subjects"
    where = f"{len(validation):,} cells{people}{folds}, which also chose penalty or epoch and the temperature" + (
        "; the data name no people, so these are cells of people who taught it" if None in owners else ""
    )
    for metric in ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity", "ece"):
        if metric in measured:
            report(f"validation {metric}: {measured[metric]}")
    limits = fit_limits(labels, probabilities, owners, cells.class_names)
    calibration = Calibration(fitted.temperature, fitted.ood_limit, limits, recipe.digest())
    judged: dict[str, Any] = {
        "uncalibrated": metrics(labels, apply_temperature(fitted.validation_logits, 1.0)),
    }
    if None not in owners:
        judged["per_subject"] = per_subject(labels, probabilities, owners, cells.class_names)
    return calibration, judged, {"validation": {"on": where, "values": measured.to_dict()["intervals"]}}


# ---------------------------------------------------------------------------------------------------------------------
# What a run begins with


def prepared(
    recipe: Recipe, teacher: str | Path | None, trunk: str | Path | None, devices: int | str
) -> tuple[Recipe, int]:
    """The recipe with the precision that it means on this machine, and the number of devices for its batches.

    Raises:
        DataError: If Keras knows no such precision.
        DeviceError: See `number_of_devices`.
    """
    sizes = [recipe.batch_size] if recipe.fine_tune_epochs else []
    if recipe.distillation is not None and teacher is not None and trunk is None:
        sizes.append(recipe.distillation.batch_size)
    count = number_of_devices(devices, sizes)
    return dataclasses.replace(recipe, precision=resolved(recipe.precision)), count


def inputs_of(teacher: Any, trunk: Any, initial: InitialWeights) -> list[tuple[str, Any]]:
    """The files that a run begins with, by what the user calls them."""
    return [("the teacher", teacher), ("the trunk", trunk), ("the initial weights", initial.file)]


def begun(sources: Sources, recipe: Recipe, seed: int, state: RunState, report: Report) -> Sources:
    """The sources with the network before the first stage as a file, which is told in one line."""
    if begins_as_teacher(recipe, sources):
        report(f"weights: {teacher_beginning(None)['source']}")
        return sources
    file = state.file(INITIAL_FILE)
    try:
        initial = write_initial_weights(sources.initial, recipe, seed, file, state.fingerprint, report)
    except LeukaemiaZooError:
        state.remove()  # nothing was done yet, and the corrected call is another run
        raise
    return dataclasses.replace(sources, initial=initial)


def check_beginning(recipe: Recipe, sources: Sources, seed: int, own_trunk: Path | None, folds: int = 1) -> None:
    """Raise what would stop a run before its first epoch, while nothing is written yet.

    Args:
        recipe: How to train.
        sources: What it begins with.
        seed: Of the weights.
        own_trunk: Where an interrupted run may have left its trunk, for which no teacher is needed any more.
        folds: Number of folds that validate the network.

    Raises:
        DataError: If the recipe leaves nothing to train, the trunk is another recipe's, or there are no images.
        WeightsError: If the trunk or the teacher's weights cannot be had.
    """
    distils = recipe.distillation is not None and sources.teacher is not None
    if sources.trunk is not None and not distils:
        raise DataError(
            "This run has no distillation whose trunk could be taken: leave out the trunk (--trunk), or leave the "
            "teacher (--teacher) and the recipe's distillation in."
        )
    model = new_network(recipe, 2, seed)
    if sources.trunk is not None:
        about = (read_config(sources.trunk) or {}).get("distillation") or {}
        if about.get("recipe") != plain(recipe.to_dict()["distillation"]):
            raise DataError(
                f"{sources.trunk} was not distilled by this recipe: leave out the trunk (--trunk), or give the recipe "
                "it had (--recipe)."
            )
    elif distils and (own_trunk is None or not own_trunk.is_file()):
        if sources.unlabelled is not None:
            unlabelled_images(sources.unlabelled)
        teacher_for(model, recipe.distillation, sources.teacher)  # type: ignore[arg-type]
    check_trainable(recipe, model, distils or sources.initial.source is not None, folds)


def distilled(
    recipe: Recipe,
    state: RunState,
    file: Path,
    cells: Cells,
    taught: np.ndarray,
    pixels: np.ndarray,
    sources: Sources,
    seed: int,
    report: Report,
    devices: int = 1,
) -> Path | None:
    """File with the distilled trunk: given, made now, or left by an interrupted run; see `check_beginning`.

    Without distillation the network with its initial weights takes its place; None if those are random.
    """
    if recipe.distillation is None or sources.teacher is None:
        return sources.initial.file
    if sources.trunk is not None:
        report(f"distillation: taken from {sources.trunk}")
        return Path(sources.trunk)
    made_by = plain(dataclasses.asdict(recipe.distillation))
    if file.is_file():
        found = (read_config(file) or {}).get("distillation", {})
        if found.get("recipe") == made_by and found.get("run") == state.fingerprint:
            report(f"distillation: taken from {file}")
            return file
    if sources.unlabelled is None:
        shown, seen = pixels[0, taught], seen_cells(cells.subset(taught.tolist()))
    else:
        paths = unlabelled_images(sources.unlabelled)
        shown, seen = read_unlabelled(paths, recipe), seen_images(paths)
    if sources.initial.trained_on is not None:
        seen |= sources.initial.trained_on
    report(f"distillation: {len(shown):,} images without labels, teacher {sources.teacher}")
    about = {
        "recipe": made_by,
        "seed": seed,
        "images": len(shown),
        "run": state.fingerprint,
        "teacher": described_teacher(sources.teacher),
        "unlabelled": None if sources.unlabelled is None else Path(sources.unlabelled).name,
        "seen": as_header(seen),
    }
    if begins_as_teacher(recipe, sources):
        about["init"] = teacher_beginning(sources.teacher)
    began = state.progress.setdefault("distillation_began", state.seconds())
    with precision(recipe.precision), on_devices(devices):
        model = new_network(recipe, 2, seed, recipe.precision)
        if sources.initial.file is not None:
            load_tensors(model, sources.initial.file, without_head=True)
            data = [dict(row) for row in sources.initial.data]
            about["init"] = {**dict(sources.initial.record()), "data": data}  # type: ignore[arg-type]
        about["history"] = distil(
            model,
            shown,
            recipe.distillation,
            sources.teacher,
            seed=seed,
            state=state,
            report=report,
            keep_first_filters=sources.initial.file is not None,
        )
    about["seconds"] = round(state.seconds() - began)
    save_tensors(model, file, config={"distillation": about})
    return file


def _features_from(distillation: dict[str, Any] | None) -> dict[str, Any] | None:
    """Where the features of a network come from, as its row says it: without this nobody knows what it has seen."""
    if distillation is None:
        return None
    return {key: distillation.get(key) for key in ("unlabelled", "images", "sha256")}
