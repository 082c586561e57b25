"""The stages of a fine-tuning on somebody else's cells: crop, classifier, layers, temperature."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.adaptation.base import Base
from leukaemia_zoo.adaptation.inspection import CROPS, DEFAULT_CROP
from leukaemia_zoo.adaptation.options import FineTuningOptions
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.text import silent
from leukaemia_zoo.evaluation.calibration import MAX_TEMPERATURE, apply_temperature, fit_temperature
from leukaemia_zoo.evaluation.metrics import metrics
from leukaemia_zoo.training.classifier import Embeddings, Fitted, classifiers, embed, fit_classifier, new_network
from leukaemia_zoo.training.drawing import read_arrays
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import RunState, Training
from leukaemia_zoo.training.tuning import adapt_statistics, tune_layers
from leukaemia_zoo.zoo.layers import without_random_weights
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER, named_variables

_CROP_CELLS = 400  # of so many cells the embeddings are made at every crop
_CROP_PENALTY = 0.3


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What the stages leave behind."""

    fitted: Fitted
    temperature: float
    preprocessing: Preprocessing
    crops: list[dict[str, Any]]
    history: list[dict[str, Any]]


def fit_stages(
    base: Base,
    recipe: Recipe,
    cells: Cells,
    folds: list[Any],
    given: Preprocessing | None,
    why: str,
    until: float | None,
    state: RunState,
    options: FineTuningOptions,
) -> Outcome:
    """Find the crop, fit the classifier, train the last layers where that is better, find the temperature."""
    seed, log = options.seed, options.tell
    recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(folds[0][0])))
    model = _with_classes(base, recipe, len(cells.class_names), seed)
    crops: list[dict[str, Any]] = []
    kept = state.load_result()
    if given is None:
        if kept is not None:
            crops = json.loads(str(kept["crops"]))
        else:
            crops = _tried_crops(model, recipe, cells, folds, base.config.preprocessing, seed)
        best = min(crops, key=lambda row: row["log_loss"])
        tried = ", ".join(f"{row['crop_fraction']:g}: {row['log_loss']:.3f}" for row in crops)
        log(f"preprocessing: {why}; validation log loss of centre crops {tried}; {best['crop_fraction']:g} it is")
        given = dataclasses.replace(
            base.config.preprocessing, crop_fraction=best["crop_fraction"], reference_frame=None
        )
    else:
        log(f"preprocessing: {why}")
    log(f"reading {len(cells):,} cells to learn from")
    arrays = read_arrays(cells, recipe, seed, given)
    run = Training(recipe, cells, arrays, state, seed, log, preprocessing=given)
    if kept is not None:
        embeddings = Embeddings(kept["turned"], kept["predicted"])
    else:
        embeddings = embed(model, arrays.pixels, np.arange(len(cells)), recipe)
        found = {"turned": embeddings.turned, "predicted": embeddings.predicted, "crops": np.array(json.dumps(crops))}
        state.save_result(found)
    log(f"stage 1: a linear classifier on {embeddings.predicted.shape[1]} features; the trunk stays as it is")
    fitted = fit_classifier(run, model, embeddings, folds)
    history = list(fitted.curves)
    if recipe.fine_tune_epochs:
        tuned, gain = _tuned(run, base, options, embeddings, folds[0], fitted, until)
        history += [row for row in tuned.curves if row["stage"] == "fine-tuning"]
        if gain is None:
            log("stage 2 is left out: no epoch is better on the validation cells than the classifier of stage 1")
        else:
            error = gain.std() / np.sqrt(len(gain))
            better = gain.mean() > error
            log(
                f"stage 2 {'stays' if better else 'is left out'}: its best epoch has a validation log loss "
                f"{gain.mean():.4f} lower than stage 1, {'more' if better else 'no more'} than the standard error of "
                f"{error:.4f}"
            )
            fitted = tuned if better else fitted
    temperature = _temperature(fitted, cells)
    log(f"temperature {temperature:.3f}, found on {len(fitted.validation_rows):,} validation cells")
    return Outcome(fitted, temperature, given, crops, history)


def _tuned(
    run: Training,
    base: Base,
    options: FineTuningOptions,
    embeddings: Embeddings,
    fold: tuple[np.ndarray, np.ndarray],
    fitted: Fitted,
    until: float | None,
) -> tuple[Fitted, np.ndarray | None]:
    """Stage 2, from a classifier that has not seen the validation cells either, and by how much each of them gains."""
    count = None if options.unfreeze == "all" else int(options.unfreeze)
    what = "all layers learn" if count is None else f"the last {count} layers learn too"
    keeps = options.keeps_statistics(len(fold[0]))
    statistics = ", BatchNorm stays as it is" if keeps else ", BatchNorm follows the cells"
    run.log(f"stage 2: {what}{statistics}; {len(fold[0]):,} cells teach, {len(fold[1]):,} validate")
    model = _with_classes(base, run.recipe, len(run.cells.class_names), run.seed)
    only = dataclasses.replace(run.recipe, inverse_penalties=(fitted.chosen["inverse_penalty"],))
    alone = dataclasses.replace(run, recipe=only, log=lambda line: run.log(f"to beat: {line}"))
    before = fit_classifier(alone, model, embeddings, [fold])
    run.state.save_first(model, before.chosen, before.curves)
    if not keeps:  # all layers then begin where a classifier on features with the new statistics left them
        run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, train_batch_norm=True))
        adapt_statistics(run, model, fold[0])
        own = embed(model, run.arrays.pixels, np.concatenate(fold), run.recipe)
        fit_classifier(dataclasses.replace(alone, log=silent), model, own, [fold])
    tuned = tune_layers(
        run, model, fold, keep_statistics=keeps, unfreeze=count, rate_decay=options.rate_decay, until=until
    )
    if tuned.chosen["stage"] != "fine-tuning":
        return tuned, None
    truth = run.cells.labels[fold[1]]
    # The better one of many epochs is better by luck too, and stage 1 will learn from the validation cells as well.
    return tuned, _losses(before, truth) - _losses(tuned, truth)


def _losses(fitted: Fitted, truth: np.ndarray) -> np.ndarray:
    """Log loss of each validation cell."""
    probabilities = apply_temperature(fitted.validation_logits, fitted.temperature)
    return -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-15))


def _with_classes(base: Base, recipe: Recipe, classes: int, seed: int) -> keras.Model:
    """The network with a new last layer, which is to be fitted, and all its other weights."""
    with without_random_weights():
        model = new_network(recipe, classes, seed)
    ours = named_variables(model)
    for name, variable in named_variables(base.model).items():
        if name.split("/", 1)[0] != LOGITS_LAYER:
            ours[name].assign(keras.ops.convert_to_numpy(variable.value))
    return model


def _tried_crops(
    model: keras.Model, recipe: Recipe, cells: Cells, folds: list[Any], own: Preprocessing, seed: int
) -> list[dict[str, Any]]:
    """Validation log loss of a classifier for each crop, on some of the cells and in at most three folds."""
    some = np.sort(np.random.default_rng([seed, 2]).permutation(len(cells))[:_CROP_CELLS])
    part, place = cells.subset(some), {int(row): number for number, row in enumerate(some)}
    pairs = [
        tuple(np.array([place[row] for row in rows.tolist() if row in place], np.int64) for rows in fold)
        for fold in folds[:3]
    ]
    pairs = [
        (train, validation)
        for train, validation in pairs
        if len(validation) and len(np.unique(part.labels[train])) == len(cells.class_names)
    ]
    if not pairs:  # a class so rare that none of its cells was drawn
        return [{"crop_fraction": DEFAULT_CROP, "log_loss": float("inf")}]
    quick = dataclasses.replace(recipe, turned_views=1, prediction_views=1, inverse_penalties=(_CROP_PENALTY,))
    found = []
    for crop in CROPS:
        preprocessing = dataclasses.replace(own, crop_fraction=crop, reference_frame=None)
        embeddings = embed(model, read_arrays(part, quick, seed, preprocessing).pixels, np.arange(len(part)), quick)
        logits, truth = [], []
        for train, validation in pairs:
            ((_, kernel, bias, mean, deviation),) = classifiers(part, embeddings, train, quick)
            logits.append((embeddings.predicted[validation] - mean) / deviation @ kernel + bias)
            truth.append(part.labels[validation])
        loss = metrics(np.concatenate(truth), apply_temperature(np.concatenate(logits), 1.0))["log_loss"]
        found.append({"crop_fraction": crop, "log_loss": loss})
    return found


def _temperature(fitted: Fitted, cells: Cells) -> float:
    """The temperature as if some of the cells were of another class, which keeps few cells from promising too much.

    Platt (1999) has targets of (n + 1) / (n + 2) instead of 1 for n cells of a class: where every one of ten validation
    cells is right, a network may promise 11 in 12, not certainty.
    """
    labels = cells.labels[fitted.validation_rows]
    logits, classes = fitted.validation_logits, fitted.validation_logits.shape[1]
    counts = np.bincount(labels, minlength=classes)
    spread = 1.0 / (counts[labels] + 2.0)
    weights = np.repeat((spread / (classes - 1))[:, None], classes, axis=1)
    weights[np.arange(len(labels)), labels] = 1.0 - spread
    repeated = np.repeat(logits, classes, axis=0)
    return min(fit_temperature(repeated, np.tile(np.arange(classes), len(labels)), weights.ravel()), MAX_TEMPERATURE)
