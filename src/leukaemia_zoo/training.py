"""The recipe at work: from labelled cells to a calibrated network, and the cross-validation that judges the recipe.

First the distillation, without labels; then the classifier, and fine-tuning where the recipe says so. The choice of
penalty and epoch and the temperature look at validation subjects only; test subjects are never seen.
"""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.architectures import LOGITS_LAYER
from leukaemia_zoo.bootstrap import bootstrap_over_subjects, paired_difference
from leukaemia_zoo.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, apply_temperature
from leukaemia_zoo.cells import Cells
from leukaemia_zoo.distillation import distil
from leukaemia_zoo.errors import DataError, LeakError
from leukaemia_zoo.evaluation import area_baseline, metrics, per_subject
from leukaemia_zoo.files import write_json
from leukaemia_zoo.fitting import (
    Fitted,
    Report,
    embed,
    fit_network,
    new_network,
    preprocessing_for,
    read_arrays,
    validates_by_folds,
    view_logits,
)
from leukaemia_zoo.images import find_images, read_image
from leukaemia_zoo.loading import save_model
from leukaemia_zoo.precision import precision
from leukaemia_zoo.preprocessing import Preprocessing
from leukaemia_zoo.recipes import Recipe, recipe_for
from leukaemia_zoo.records import Sources, class_counts, fingerprint, plain, provenance, write_predictions
from leukaemia_zoo.registry import ModelConfig
from leukaemia_zoo.run_state import RunState
from leukaemia_zoo.splits import Split, check_split, kfold_by_subject, load_manifest, save_manifest, split_by_subject
from leukaemia_zoo.weights_io import load_tensors, read_config, save_tensors

_TRUNK_FILE = "distilled.safetensors"


def train(
    name: str,
    cells: Cells,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    teacher: str | Path | None = "imagenet",
    unlabelled: str | Path | None = None,
    trunk: str | Path | None = None,
    split: str | Path | Split | None = None,
    seed: int = 0,
    restart: bool = False,
    report: Report = print,
) -> keras.Model:
    """Train a network on labelled cells, by subject, and leave it in a folder.

    The folder then holds ``config.json`` and ``model.safetensors`` (see `load_model`), ``split.json`` (the manifest),
    ``validation.csv`` (predictions on the validation subjects) and ``training.json`` (the record: recipe, seed, data,
    versions, curves, figures) and, where there was a distillation, its result ``distilled.safetensors``. A run that was
    interrupted goes on where its last whole epoch ended.

    Args:
        name: Architecture.
        cells: Labelled cells with subjects.
        out: Folder to write.
        recipe: How to train; None for the recipe of the package.
        teacher: Weights of MobileNet to distil: ``"imagenet"`` (Keras downloads them), an ``.npz`` file, or None to
            leave out the distillation.
        unlabelled: Folder of cell images for the distillation; None takes the training cells, without their labels.
        trunk: ``distilled.safetensors`` that a training or cross-validation with the same distillation left, to save
            its time; None distils.
        split: Manifest or `Split` with the parts train and validation, or with folds by subject; None makes one.
        seed: Of the split, the weights, the order and the views.
        restart: Begin anew instead of resuming.
        report: Called with each line of progress.

    Returns:
        The trained network, calibrated on the validation subjects.

    Raises:
        LeakError: If the split shares a subject or an identical image between its parts.
        DataError: If the data cannot be used, or the folder holds a run with other settings.
    """
    recipe = recipe or recipe_for(name)
    out = Path(out)
    if split is None:
        split = _development_split(cells, recipe, teacher is not None, seed)
    elif not isinstance(split, Split):
        split = load_manifest(split, cells)
    check_split(cells, split)
    out.mkdir(parents=True, exist_ok=True)
    manifest_hash = save_manifest(out / "split.json", cells, split)

    sources = Sources(teacher, unlabelled, trunk)
    state = RunState(out / "state", fingerprint(recipe, seed, manifest_hash, sources), restart)
    report(f"reading {len(cells):,} cells")
    arrays = read_arrays(cells, recipe, seed)
    taught = _training_rows(split)
    features = _distilled(recipe, state, out / _TRUNK_FILE, arrays.pixels[0, taught], sources, seed, report)
    fitted = fit_network(recipe, cells, arrays.pixels, split, features, state, seed, report)

    validation = fitted.validation_rows
    probabilities = apply_temperature(fitted.validation_logits, fitted.temperature)
    labels, owners = cells.labels[validation], [cells.subjects[row] for row in validation]
    measured = bootstrap_over_subjects(labels, probabilities, owners, seed=seed)
    model = _finished(fitted, recipe, cells)
    folds = "" if "train" in split.parts else f", in turn by {len(split.parts)} folds"
    where = (
        f"{len(validation):,} cells of {len(set(owners))} validation subjects{folds}, which also chose penalty or "
        "epoch and the temperature"
    )
    figures = {"validation": {"on": where, "values": measured.to_dict()["intervals"]}}
    record = {
        **provenance(recipe, cells, seed, sources, features),
        "manifest_sha256": manifest_hash,
        "curves": fitted.curves,
        "chosen": fitted.chosen,
        "temperature": fitted.temperature,
        "uncalibrated": metrics(labels, apply_temperature(fitted.validation_logits, 1.0)),
        "metrics": figures,
        "per_subject": per_subject(labels, probabilities, owners, cells.class_names),
    }
    write_predictions(out / "validation.csv", cells, validation, probabilities)
    save_model(
        model,
        out,
        half=True,
        name=f"{name}.{'cnmc' if cells.source == 'c-nmc' else 'custom'}",
        training={
            "train": class_counts(cells, taught),
            "validation": class_counts(cells, validation),
            "validation_folds": 1 if "train" in split.parts else len(split.parts),
            "manifest_sha256": manifest_hash,
            "seed": seed,
            "recipe": recipe.to_dict(),
        },
        metrics=figures,
        data=tuple(record["data"]),
        intended_use="Research on single-cell images like those it was trained on; not a diagnosis.",
    )
    write_json(out / "training.json", plain(record))
    state.remove()
    for metric in ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity", "ece"):
        if metric in measured:
            report(f"validation {metric}: {measured[metric]}")
    if not MIN_TEMPERATURE * 1.01 < fitted.temperature < MAX_TEMPERATURE * 0.99:
        report("the temperature is at the end of its range: there are too few validation cells to calibrate")
    report(f"temperature {fitted.temperature:.3f}; saved in {out}")
    return model


def cross_validate(
    name: str,
    cells: Cells,
    out: str | Path,
    *,
    folds: int = 5,
    recipe: Recipe | None = None,
    teacher: str | Path | None = "imagenet",
    unlabelled: str | Path | None = None,
    trunk: str | Path | None = None,
    seed: int = 0,
    restart: bool = False,
    report: Report = print,
) -> dict[str, Any]:
    """Judge a recipe on unseen subjects: each is predicted once, by a network that saw none of their cells.

    In every fold the subjects that are not tested are split again into training and validation subjects, and the whole
    of `train` runs on them. The baseline "cell area alone" is fitted on the same training subjects. Distillation on
    further unlabelled images is done once, because no cell of the table takes part in it.

    Args:
        name: Architecture.
        cells: Labelled cells with subjects.
        out: Folder for ``cross_validation.json``, ``out_of_fold.csv`` and the manifests of the folds.
        folds: Number of folds.
        recipe: See `train`.
        teacher: See `train`.
        unlabelled: See `train`.
        trunk: See `train`; it must not have been distilled on cells of the table.
        seed: See `train`.
        restart: See `train`.
        report: See `train`.

    Returns:
        What ``cross_validation.json`` holds: figures with 95 % intervals from a bootstrap over subjects, for the
        network, the area baseline and their difference, per fold and per subject.

    Raises:
        LeakError: If a fold shares a subject or an identical image.
        DataError: If there are too few subjects, or the folder holds a run with other settings.
    """
    recipe = recipe or recipe_for(name)
    out = Path(out)
    _refuse_tested_images(cells, unlabelled)
    outer = kfold_by_subject(cells, folds, seed)
    out.mkdir(parents=True, exist_ok=True)
    probabilities = np.zeros((len(cells), len(cells.class_names)))
    baseline = np.zeros(len(cells))
    fold_of_cell = np.zeros(len(cells), int)
    parts = []
    sources = Sources(teacher, unlabelled, trunk)
    shared = RunState(out / "state", fingerprint(recipe, seed, f"{folds} folds", sources), restart)
    report(f"reading {len(cells):,} cells")
    arrays = read_arrays(cells, recipe, seed)
    features = embeddings = None
    if unlabelled is not None or trunk is not None:
        # No cell of the table takes part in this distillation: every fold can use it.
        features = _distilled(recipe, shared, out / _TRUNK_FILE, None, sources, seed, report)
    if features is not None:
        model = new_network(recipe, len(cells.class_names), seed)
        load_tensors(model, features, without_head=True)
        embeddings = embed(model, arrays.pixels, np.arange(len(cells)), recipe)
    for number, fold in enumerate(outer):
        test = np.array(fold.parts["test"])
        split = _with_test(cells, fold, recipe, teacher is not None, seed)
        check_split(cells, split)
        manifest_hash = save_manifest(out / f"fold_{number}.json", cells, split)
        state = RunState(shared.folder / f"fold_{number}", fingerprint(recipe, seed, manifest_hash, sources), restart)
        own_features = features
        if own_features is None:
            taught = arrays.pixels[0, _training_rows(split)]
            own_features = _distilled(recipe, state, state.folder / _TRUNK_FILE, taught, sources, seed, report)
        result = state.load_arrays()
        if result is None:
            fitted = fit_network(
                recipe, cells, arrays.pixels, split, own_features, state, seed, report, embeddings=embeddings
            )
            logits = view_logits(fitted.model, arrays.pixels[0, test], recipe.prediction_views)
            result = {
                "probabilities": apply_temperature(logits, fitted.temperature),
                "temperature": np.array(fitted.temperature),
                "chosen": np.array(json.dumps(fitted.chosen)),
            }
            state.save_arrays(result)
        probabilities[test] = result["probabilities"]
        known = np.array(fold.parts["train"])
        baseline[test] = area_baseline(arrays.area[known], cells.labels[known], arrays.area[test])
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
        report(f"fold {number + 1}/{folds}: AUROC {measured['auroc']:.3f}, weighted F1 {measured['weighted_f1']:.3f}")
    judged = bootstrap_over_subjects(cells.labels, probabilities, cells.subjects, seed=seed)
    by_area = bootstrap_over_subjects(cells.labels, baseline, cells.subjects, seed=seed)
    found = {
        **provenance(recipe, cells, seed, sources, features),
        "folds": parts,
        "metrics": judged.to_dict(),
        "area_baseline": by_area.to_dict(),
        "less_area_baseline": paired_difference(
            cells.labels, probabilities, np.stack([1 - baseline, baseline], 1), cells.subjects, seed=seed
        ).to_dict(),
        "per_subject": per_subject(cells.labels, probabilities, cells.subjects, cells.class_names),
    }
    found = plain(found)
    write_predictions(out / "out_of_fold.csv", cells, np.arange(len(cells)), probabilities, fold=fold_of_cell)
    write_json(out / "cross_validation.json", found)
    shared.remove()
    for metric in judged:
        report(f"{metric:<18} {judged[metric]}; cell area alone {by_area[metric].value:.3f}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Data


def _read_unlabelled(folder: str | Path, recipe: Recipe) -> np.ndarray:
    assert recipe.distillation is not None
    paths, _ = find_images([folder])
    if not paths:
        raise DataError(f"There are no images for the distillation in {folder}.")
    preprocessing = Preprocessing(
        (recipe.input_size, recipe.input_size), crop_fraction=recipe.distillation.crop_fraction, reference_frame=None
    )
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda path: preprocessing(read_image(path)), paths)))


def _refuse_tested_images(cells: Cells, unlabelled: str | Path | None) -> None:
    """A network that imitated a teacher on an image has seen it, even without its label."""
    if unlabelled is None:
        return
    tested = {path.resolve() for path in cells.paths}
    for path in find_images([unlabelled])[0]:
        if path.resolve() in tested:
            raise LeakError(
                f"{path} is among the unlabelled images of the distillation and among the cells to be tested: take the "
                "cells of the table out of the unlabelled images, or leave them out for a distillation in each fold."
            )


def _development_split(cells: Cells, recipe: Recipe, distilled: bool, seed: int) -> Split:
    """Folds by subject where that is enough to choose, else one split into training and validation subjects."""
    if validates_by_folds(recipe, distilled and recipe.distillation is not None):
        folds = kfold_by_subject(cells, recipe.validation_folds, seed)
        parts = {f"fold_{number}": fold.parts["test"] for number, fold in enumerate(folds, start=1)}
        return Split(parts, seed, f"kfold_by_subject, {recipe.validation_folds} folds")
    share = recipe.validation_share
    return split_by_subject(cells, {"train": 1 - share, "validation": share}, seed)


def _with_test(cells: Cells, fold: Split, recipe: Recipe, distilled: bool, seed: int) -> Split:
    """Split the subjects that a fold does not test for the choices of training; the test subjects stay apart."""
    rows = list(fold.parts["train"])
    inner = _development_split(cells.subset(rows), recipe, distilled, seed)
    parts = {part: tuple(rows[row] for row in members) for part, members in inner.parts.items()}
    return Split({**parts, "test": fold.parts["test"]}, seed, f"{fold.method}; {inner.method}")


def _training_rows(split: Split) -> np.ndarray:
    """Cells that teach the network that is kept."""
    parts = ["train"] if "train" in split.parts else [part for part in split.parts if part != "test"]
    return np.concatenate([np.array(split.parts[part]) for part in parts])


def _distilled(
    recipe: Recipe,
    state: RunState,
    file: Path,
    training_pixels: np.ndarray | None,
    sources: Sources,
    seed: int,
    report: Report,
) -> Path | None:
    """File with the distilled trunk: given, made now, or left by an interrupted run; None without distillation."""
    if recipe.distillation is None or sources.teacher is None:
        return None
    made_by = plain(dataclasses.asdict(recipe.distillation))
    given = Path(sources.trunk) if sources.trunk is not None else file
    if given.is_file() or sources.trunk is not None:
        found = (read_config(given) or {}).get("distillation", {})
        if found.get("recipe") == made_by and (sources.trunk is not None or found.get("run") == state.fingerprint):
            report(f"distillation: taken from {given}")
            return given
        if sources.trunk is not None:
            raise DataError(
                f"{given} was not distilled by this recipe: leave out the trunk, or give the recipe it had."
            )
    pixels = training_pixels if sources.unlabelled is None else _read_unlabelled(sources.unlabelled, recipe)
    assert pixels is not None
    report(f"distillation: {len(pixels):,} images without labels, teacher {sources.teacher}")
    with precision(recipe.precision):
        model = new_network(recipe, 2, seed)
        history = distil(
            model, pixels, recipe.distillation, sources.teacher, seed=seed, folder=state.folder, report=report
        )
    about = {"recipe": made_by, "seed": seed, "images": len(pixels), "history": history, "run": state.fingerprint}
    save_tensors(model, file, config={"distillation": about})
    return file


def _finished(fitted: Fitted, recipe: Recipe, cells: Cells) -> keras.Model:
    """The network with the temperature inside its last layer, and what it takes to feed it."""
    model = fitted.model
    head = model.get_layer(LOGITS_LAYER)
    head.set_weights([values / fitted.temperature for values in head.get_weights()])
    model.zoo = ModelConfig(
        architecture=recipe.architecture,
        class_names=cells.class_names,
        head=recipe.head,
        preprocessing=preprocessing_for(recipe),
        dropout=recipe.dropout,
        views=recipe.prediction_views,
        temperature=fitted.temperature,
    )
    return model
