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

from leukaemia_zoo._names import renamed, takes
from leukaemia_zoo.cells.copies import tell_shared_cells
from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split, check_split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, replacing, write_json
from leukaemia_zoo.common.hardware import number_of_devices, on_devices, precision, resolved
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
from leukaemia_zoo.errors import DataError, LeukaemiaZooError
from leukaemia_zoo.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, apply_temperature
from leukaemia_zoo.evaluation.conformal import fit_limits
from leukaemia_zoo.evaluation.intervals import bootstrap_over_subjects
from leukaemia_zoo.evaluation.metrics import metrics, per_subject
from leukaemia_zoo.evaluation.out_of_fold import Calibration
from leukaemia_zoo.report.curves import write_curves
from leukaemia_zoo.training.classifier import (
    Fitted,
    calibrated,
    cohort_log_odds,
    new_network,
    raise_logits,
    with_config,
)
from leukaemia_zoo.training.distillation import distil, forget_trunk, read_unlabelled, teacher_for, unlabelled_images
from leukaemia_zoo.training.drawing import development_split, folds_of, read_arrays, training_rows
from leukaemia_zoo.training.leaks import as_header, seen_cells, seen_images
from leukaemia_zoo.training.provenance import (
    InitialWeights,
    cells_seen,
    find_initial_weights,
    trunk_record,
    write_initial_weights,
)
from leukaemia_zoo.training.recipes import Recipe, TrainingOptions
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
from leukaemia_zoo.training.runs import RunState, Training, refuse_to_replace_run
from leukaemia_zoo.training.tuning import check_trainable, fit_network, opinion_features, soft_targets
from leukaemia_zoo.zoo.layers import without_random_weights
from leukaemia_zoo.zoo.loading import save_model
from leukaemia_zoo.zoo.tensors import load_tensors, read_config, save_tensors

INITIAL_FILE = "initial.safetensors"
"""The network before the first stage, in the folder of an unfinished run."""


@renamed(name="model", cells="data", report="log")
@takes(TrainingOptions)
def train(
    model: str,
    data: str | os.PathLike[str] | Cells,
    out: str | Path,
    *,
    split: str | Path | Split | None = None,
    calibration: str | Path | None = None,
    options: TrainingOptions,
) -> keras.Model:
    """Train a network on labelled cells, by subject, and leave it in a folder.

    The folder then holds ``config.json`` and ``model.safetensors`` (see `load_model`), ``split.json`` (the manifest),
    ``validation.csv`` (predictions on the validation subjects) and ``training.json`` (the record: recipe, seed, data,
    versions, curves, figures), the curves as ``curves.csv`` and ``curves.svg`` and, where there was a distillation, its
    result ``distilled.safetensors``. A run that was interrupted goes on where its last whole epoch ended.

    Args:
        model: Architecture, such as ``"cnn"``; or a weight with a recipe of its own, such as ``"mobilenet.pbc"``.
        data: Labelled cells with subjects: a table, or a folder or CSV for `read_data`.
        out: Folder to write.
        split: Manifest or `Split` with the parts train and validation, or with folds by subject; None makes one. Cells
            without subjects are split by cell, which says nothing about new people; a line of progress says so.
        calibration: Folder of a finished cross-validation of the same recipe, for a recipe whose ``validation_share``
            is 0: all subjects teach, and temperature and limits are those of the out-of-fold predictions.
        options: Recipe, beginning, seed and the like, see `TrainingOptions`. Each may be given as a keyword instead,
            or besides: ``train("cnn", "cells", "runs/cnn", seed=1)``.

    Returns:
        The trained network, calibrated on the validation subjects.

    Raises:
        LeakError: If the split shares a subject or an identical image between its parts.
        DataError: If the data or the recipe cannot be used, or the folder holds a run with other settings.
        WeightsError: If the teacher's or the initial weights cannot be had.
        DeviceError: If the devices are not there, or cannot share the batches.

    Example:
        >>> import leukaemia_zoo as lz
        >>> model = lz.train("cnn_attention", "C-NMC", "runs/mine", init=None, seed=1)  # doctest: +SKIP
    """
    recipe, devices = prepared(model, options)
    cells, out, seed, restart = as_cells(data), Path(out), options.seed, options.restart
    found = _calibration(recipe, calibration, cells)
    initial = find_initial_weights(options.init, recipe.architecture, options.trunk)
    inputs = inputs_of(options, initial)
    refuse_to_replace(out, files_of_training(trunk=options.trunk is not None), RECORDS, inputs, restart)
    log = options.tell
    if split is None:
        split = development_split(cells, recipe, options.teacher is not None, seed, initial.source is not None)
        if split.method == "split_by_cell":
            log("note: the cells have no subjects, so the figures below are of cells of the people who taught it")
    elif not isinstance(split, Split):
        split = load_manifest(split, cells)
    check_split(cells, split)
    sources = Sources.of(options, recipe, initial)
    check_beginning(recipe, sources, seed, None if restart else out / TRUNK_FILE, len(folds_of(split)))
    manifest, manifest_hash = manifest_of(cells, split)
    digest = fingerprint(recipe, seed, manifest_hash, sources, devices)
    refuse_to_replace_run(out / "training.json", digest, restart)
    make_folder(out)
    state = RunState(out / RUN, digest, restart)
    with replacing(out / "split.json") as beside:
        beside.write_bytes(manifest)
    log = state.timed(log)
    if sources.trunk is None:
        sources = begun(sources, recipe, seed, state, log)
        overlap = cells_seen(initial, cells)
        if overlap is not None and len(overlap.rows):
            log(f"{overlap.told}: the figures below are too favourable")
        if restart:
            forget_trunk(out / TRUNK_FILE, state)
    tell_shared_cells(cells, log)
    log(f"reading {len(cells):,} cells")
    run = Training(recipe, cells, read_arrays(cells, recipe, seed), state, seed, log, devices)
    taught = training_rows(split)
    features = distilled(run, sources, out / TRUNK_FILE, taught)
    soft = soft_targets(run, sources, opinion_features(run, sources), folds_of(split)[0][0])
    fitted = fit_network(run, split, features, soft=soft)
    judged: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    validation = fitted.validation_rows
    if found is None:
        found, judged, figures = _judged(run, fitted, split)
        probabilities = apply_temperature(fitted.validation_logits, found.temperature)
        write_predictions(out / "validation.csv", cells, validation, probabilities)
    network = with_config(fitted.model, recipe, cells)
    network = calibrated(network, found.temperature, found.ood_limit, found.verdict_limits)
    if recipe.cohort_frequencies:
        raise_logits(network, cohort_log_odds(cells, taught))
    record = {
        "fingerprint": digest,
        **provenance(recipe, cells, seed, sources, features, devices),
        "manifest_sha256": manifest_hash,
        "seconds": round(state.seconds()),
        "curves": fitted.curves,
        "chosen": fitted.chosen,
        "temperature": found.temperature,
        "metrics": figures,
        **judged,
    }
    save_model(
        network,
        out,
        half=True,
        name=model if "." in model else f"{model}.{'cnmc' if cells.source == 'c-nmc' else 'custom'}",
        training={
            "train": class_counts(cells, taught),
            **({"validation": class_counts(cells, validation)} if len(validation) else {}),
            "validation_folds": int(len(validation) > 0) if "train" in split.parts else len(split.parts),
            "manifest_sha256": manifest_hash,
            "seed": seed,
            "recipe": recipe.to_dict(),
            "init": record["init"],
            "distillation": _features_from(record["distillation"]),
            **{key: record[key] for key in ("linear_teachers", "logits_teachers") if key in record},
        },
        metrics=figures,
        data=tuple(record["data"]),
        intended_use="Research on single-cell images like those it was trained on; not a diagnosis.",
    )
    record = plain(record)
    write_curves(out, record, log)
    write_json(out / "training.json", record)
    state.remove()
    if not MIN_TEMPERATURE * 1.01 < found.temperature < MAX_TEMPERATURE * 0.99:
        log("the temperature is at the end of its range: there are too few validation cells to calibrate")
    log(f"temperature {found.temperature:.3f}; saved in {out}")
    return network


def _calibration(recipe: Recipe, folder: str | Path | None, cells: Cells) -> Calibration | None:
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
    found = Calibration.load(folder, recipe.digest(), cells.class_names)
    manifest = Path(folder) / manifest_of_fold(0)
    if manifest.is_file():
        tested = load_manifest(manifest, cells)  # raises if cells are missing or have changed
        if len(cells) != sum(map(len, tested.parts.values())):
            raise DataError(
                f"The cross-validation in {folder} was made on fewer cells than there are now, so that temperature and "
                "limits would be those of others: cross-validate these cells (--cross-validate 5)."
            )
    return found


def _judged(run: Training, fitted: Fitted, split: Split) -> tuple[Calibration, dict[str, Any], dict[str, Any]]:
    """What the validation cells say: calibration, rows of the record, and figures."""
    validation, cells = fitted.validation_rows, run.cells
    probabilities = apply_temperature(fitted.validation_logits, fitted.temperature)
    labels, owners = cells.labels[validation], [cells.subjects[row] for row in validation]
    measured = bootstrap_over_subjects(labels, probabilities, owners, seed=run.seed)
    folds = "" if "train" in split.parts else f", in turn by {len(split.parts)} folds"
    people = "" if None in owners else f" of {len(set(owners))} validation subjects"
    where = f"{len(validation):,} cells{people}{folds}, which also chose penalty or epoch and the temperature" + (
        "; the data name no people, so these are cells of people who taught it" if None in owners else ""
    )
    for metric in ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity", "ece"):
        if metric in measured:
            run.log(f"validation {metric}: {measured[metric]}")
    limits = fit_limits(labels, probabilities, owners, cells.class_names)
    calibration = Calibration(fitted.temperature, fitted.ood_limit, limits, run.recipe.digest())
    judged: dict[str, Any] = {
        "uncalibrated": metrics(labels, apply_temperature(fitted.validation_logits, 1.0)),
    }
    if None not in owners:
        judged["per_subject"] = per_subject(labels, probabilities, owners, cells.class_names)
    return calibration, judged, {"validation": {"on": where, "values": measured.to_dict()["intervals"]}}


# ---------------------------------------------------------------------------------------------------------------------
# What a run begins with


def prepared(model: str, options: TrainingOptions) -> tuple[Recipe, int]:
    """The recipe with the precision that it means on this machine, and the number of devices for its batches."""
    recipe = options.recipe_of(model)
    sizes = [recipe.batch_size] if recipe.fine_tune_epochs else []
    if recipe.distillation is not None and options.teacher is not None and options.trunk is None:
        sizes.append(recipe.distillation.batch_size)
    count = number_of_devices(options.devices, sizes)
    return dataclasses.replace(recipe, precision=resolved(recipe.precision)), count


def inputs_of(options: TrainingOptions, initial: InitialWeights) -> list[tuple[str, Any]]:
    """The files that a run begins with, by what the user calls them."""
    teachers = [("a linear teacher", teacher) for teacher in options.linear_teachers]
    return [
        ("the teacher", options.teacher),
        ("the trunk", options.trunk),
        ("the initial weights", initial.file),
        *teachers,
    ]


def begun(sources: Sources, recipe: Recipe, seed: int, state: RunState, log: Log) -> Sources:
    """Write the initial weights as a file of the run, say in one line which they are, and name the file."""
    if begins_as_teacher(recipe, sources):
        log(f"weights: {teacher_beginning(None)['source']}")
        return sources
    file = state.file(INITIAL_FILE)
    try:
        initial = write_initial_weights(sources.initial, recipe, seed, file, state.fingerprint, log)
    except LeukaemiaZooError:
        state.remove()  # nothing was done yet, and the corrected call is another run
        raise
    return dataclasses.replace(sources, initial=initial)


def check_beginning(recipe: Recipe, sources: Sources, seed: int, own_trunk: Path | None, folds: int = 1) -> None:
    """Raise what would stop a run before its first epoch, while nothing is written yet.

    `own_trunk` is where an interrupted run may have left its trunk, for which no teacher is needed any more.
    """
    distils = recipe.distillation is not None and sources.teacher is not None
    if sources.trunk is not None and not distils:
        raise DataError(
            "This run has no distillation whose trunk could be taken: leave out the trunk (--trunk), or leave the "
            "teacher (--teacher) and the recipe's distillation in."
        )
    if sources.unlabelled is not None and not distils:
        raise DataError(
            "This run has no distillation that could learn from further cells: leave out --unlabelled (unlabelled), or "
            "leave the teacher (--teacher) and the recipe's distillation in."
        )
    with without_random_weights():
        model = new_network(recipe, 2, seed)
    if sources.trunk is not None:
        if trunk_record(sources.trunk).get("recipe") != plain(recipe.to_dict()["distillation"]):
            raise DataError(
                f"{sources.trunk} was not distilled by this recipe: leave out the trunk (--trunk), or give the recipe "
                "it had (--recipe)."
            )
        load_tensors(model, sources.trunk, without_head=True)  # which may be of another architecture
    elif distils and (own_trunk is None or not own_trunk.is_file()):
        if sources.unlabelled is not None:
            unlabelled_images(sources.unlabelled)
        teacher_for(model, recipe.distillation, sources.teacher)  # type: ignore[arg-type]
    check_trainable(recipe, model, distils or sources.initial.source is not None, folds)


def distilled(run: Training, sources: Sources, file: Path, taught: np.ndarray) -> Path | None:
    """File with the distilled trunk: given, made now on these rows, or left by an interrupted run.

    Without distillation the network with its initial weights takes its place; None if those are random.
    """
    recipe, state, seed, log = run.recipe, run.state, run.seed, run.log
    if recipe.distillation is None or sources.teacher is None:
        return sources.initial.file
    if sources.trunk is not None:
        log(f"distillation: taken from {sources.trunk}")
        return Path(sources.trunk)
    made_by = plain(dataclasses.asdict(recipe.distillation))
    if file.is_file():
        found = (read_config(file) or {}).get("distillation", {})
        if found.get("recipe") == made_by and found.get("run") == state.fingerprint:
            log(f"distillation: taken from {file}")
            return file
    if sources.unlabelled is None:
        shown, seen = run.arrays.pixels[0, taught], seen_cells(run.cells.subset(taught.tolist()))
    else:
        paths = unlabelled_images(sources.unlabelled)
        shown, seen = read_unlabelled(paths, recipe), seen_images(paths)
    if sources.initial.trained_on is not None:
        seen |= sources.initial.trained_on
    log(f"distillation: {len(shown):,} images without labels, teacher {sources.teacher}")
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
    with precision(recipe.precision), on_devices(run.devices):
        model = new_network(recipe, 2, seed, recipe.precision)
        if sources.initial.file is not None:
            load_tensors(model, sources.initial.file, without_head=True)
            data = [dict(row) for row in sources.initial.data]
            about["init"] = {**dict(sources.initial.to_dict()), "data": data}  # type: ignore[arg-type]
        about["history"] = distil(
            model,
            shown,
            recipe.distillation,
            sources.teacher,
            seed=seed,
            state=state,
            log=log,
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
