"""The stages that see labels: the classifier, then the layers below it where the recipe lets them learn.

Validation subjects decide whether what the layers have learnt stays.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.hardware import compiles_steps, on_devices, precision
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.prediction.features import limit_of, view_scores
from leukaemia_zoo.training.classifier import (
    Embeddings,
    Fitted,
    Report,
    begin_with_classifier,
    embed,
    figures_told,
    fit_classifier,
    new_network,
    validation_figures,
)
from leukaemia_zoo.training.drawing import (
    ADAPTATION,
    Drawn,
    SoftTargets,
    Views,
    drawing_weights,
    folds_of,
    preprocessing_for,
)
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import RunState, TimeLeft, reseed
from leukaemia_zoo.zoo.architectures import with_output
from leukaemia_zoo.zoo.augmentation import CellAugmentation
from leukaemia_zoo.zoo.outputs import has_statistics, view_logits
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER, copy_tensors, load_tensors

_ADAPTATION_STEPS = 60
"""Batches of 64 cells whose mean statistics BatchNorm takes before and after it learns."""


def fit_network(
    recipe: Recipe,
    cells: Cells,
    pixels: np.ndarray,
    split: Split,
    trunk: Path | None,
    state: RunState,
    seed: int,
    report: Report,
    embeddings: Embeddings | None = None,
    devices: int = 1,
    frames: tuple[np.ndarray, ...] | None = None,
    teacher: keras.Model | None = None,
) -> Fitted:
    """Fit the classifier, fine-tune if the recipe says so, and keep what the validation subjects prefer.

    Args:
        recipe: How.
        cells: The table.
        pixels: See `CellArrays`.
        split: The parts train and validation; or folds by subject, each of which validates a classifier fitted on the
            others, before the last one is fitted on all. Rows in no such part are not touched.
        trunk: File with the distilled or otherwise given trunk, or None to begin with random weights.
        state: Where an interrupted run goes on.
        seed: Of weights, order and views.
        report: Called with each line of progress.
        embeddings: Of ``pixels`` by the trunk, where they are known already.
        devices: Number of devices that share the batches of the fine-tuning; see `on_devices`.
        frames: See `CellArrays`.
        teacher: A network that has learnt the same classes, for a recipe with a ``soft_share``.

    Raises:
        DataError: If the recipe leaves nothing to train.
    """
    model = new_network(recipe, len(cells.class_names), seed)
    folds = folds_of(split)
    check_trainable(recipe, model, trunk is not None, len(folds))
    if trunk is not None:
        load_tensors(model, trunk, without_head=True)
    views = Views(pixels, frames, recipe, preprocessing_for(recipe))
    if trunk is not None and has_statistics(model) and recipe.fine_tune_epochs and recipe.train_batch_norm:
        adapt_statistics(model, cells, views, folds[0][0], recipe, seed)
        begin_with_classifier(model, cells, views, folds[0][0], recipe, seed)
        report("all layers begin with BatchNorm at these cells and a linear classifier on the features as they are")
    elif trunk is not None and has_statistics(model):
        rows = np.concatenate([fold[1] for fold in folds])
        if len(folds) == 1:
            rows = np.concatenate([rows, folds[0][0]])
        embeddings = embeddings or embed(model, pixels, rows, recipe)
        fitted = fit_classifier(model, recipe, cells, embeddings, folds, state, report)
    if recipe.fine_tune_epochs:
        keeps = trunk is not None and not recipe.train_batch_norm
        soft = None if teacher is None else SoftTargets.by(teacher, views)
        fitted = tune_layers(
            model, recipe, cells, pixels, *folds[0], state, seed, report, keeps, devices, views=views, soft=soft
        )
    return fitted


def check_trainable(recipe: Recipe, model: keras.Model, featured: bool, folds: int = 1) -> None:
    """Raise if a recipe leaves nothing to train, or cannot be trained on such a split.

    Args:
        recipe: How.
        model: Its network.
        featured: Whether the network begins with features, distilled or given, and not with random weights.
        folds: Number of the pairs of training and validation rows, see `folds_of`.

    Raises:
        DataError: With what to change.
    """
    if not featured and not recipe.fine_tune_epochs:
        raise DataError(
            "Without distilled features there is nothing for this recipe to train: give a teacher or initial weights, "
            "or set fine_tune_epochs in the recipe."
        )
    if not recipe.fine_tune_epochs and not has_statistics(model):
        raise DataError(
            f"The head '{recipe.head}' gives no statistics of the cell for a classifier to be fitted on: set the "
            "head 'texture' or fine_tune_epochs in the recipe."
        )
    if recipe.soft_share and not recipe.drawn_views:
        raise DataError(
            "Another network teaches on the views that both see: set drawn_views in the recipe, or soft_share to 0."
        )
    if recipe.fine_tune_epochs and folds > 1:
        raise DataError(
            "Fine-tuning takes a split with the parts train and validation, not folds: give such a split (--split), or "
            "none."
        )


def tune_layers(
    model: keras.Model,
    recipe: Recipe,
    cells: Cells,
    pixels: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    state: RunState,
    seed: int,
    report: Report,
    keep_statistics: bool,
    devices: int = 1,
    unfreeze: int | None = None,
    until: float | None = None,
    views: Views | None = None,
    soft: SoftTargets | None = None,
) -> Fitted:
    """Train all layers; the epoch with the best validation figures stays, which may be the classifier from before.

    Without validation cells the last epoch stays.

    Args:
        model: The network, which gets the best weights.
        recipe: How.
        cells: The table.
        pixels: See `CellArrays`.
        train_rows: Cells that teach.
        validation_rows: Cells that choose the epoch.
        state: Where an interrupted run goes on, and what was best before.
        seed: Of order and views.
        report: Called with a line an epoch.
        keep_statistics: Leave every BatchNorm as it is.
        devices: Number of devices that share the batches.
        unfreeze: Of the layers with kernels only the last so many learn, besides the classifier; None for all.
        until: Time of ``time.perf_counter()`` by which to end: no epoch is begun that would last longer.
        views: Where the cells are drawn from; None for ``pixels``.
        soft: Another network that teaches beside the labels.
    """
    progress, validates = state.progress, len(validation_rows) > 0
    views = views or Views(pixels, None, recipe, preprocessing_for(recipe))
    labels, classes = cells.labels, len(cells.class_names)
    weights = drawing_weights(cells, train_rows, recipe)
    steps = max(1, len(train_rows) // recipe.batch_size)
    with precision(recipe.precision), on_devices(devices):
        learner, trainer = compiled_trainer(model, recipe, classes, steps, seed, keep_statistics, unfreeze)
        if progress["epoch"]:
            state.restore(trainer)
    left, seconds = TimeLeft(progress["epoch"]), 0.0
    while progress["epoch"] < recipe.fine_tune_epochs and progress["waited"] < recipe.patience:
        epoch, began = progress["epoch"], time.perf_counter()
        if until is not None and began + seconds > until:
            report(f"fine-tuning ended after {epoch} epochs: the time is up")
            break
        reseed(trainer, seed, epoch)
        drawn = Drawn(views, labels, train_rows, weights, recipe.batch_size, [seed, epoch], classes, soft=soft)
        # The order within an epoch is drawn there: Keras' own shuffling would not be the same after a resume.
        with on_devices(devices):
            loss = float(trainer.fit(drawn, shuffle=False, verbose=0).history["loss"][-1])
        copy_tensors(learner, model)
        if recipe.train_batch_norm and (validates or epoch + 1 == recipe.fine_tune_epochs):
            # Its running statistics lag behind weights that change: on C-NMC cells every probability was shifted.
            adapt_statistics(model, cells, views, train_rows, recipe, seed)
        row: dict[str, Any] = {"stage": "fine-tuning", "epoch": epoch + 1, "loss": loss}
        if validates:
            logits = view_logits(model, pixels[0, validation_rows], recipe.prediction_views)
            row |= validation_figures(logits, labels[validation_rows])
        progress["curves"].append(row)
        better = not validates or row["log_loss"] < progress["best"]
        progress["waited"] = 0 if better else progress["waited"] + 1
        progress["epoch"] = epoch + 1
        if better:
            progress.update(best=row.get("log_loss", progress["best"]), chosen=row)
            state.save_best(model)
        state.save(trainer)
        seconds = time.perf_counter() - began
        report(
            f"fine-tuning {epoch + 1}/{recipe.fine_tune_epochs}: loss {loss:.3f}, "
            f"{figures_told(row) + (' (best), ' if better else ', ') if validates else ''}{seconds:.0f} s"
            f"{left.told(epoch + 1, recipe.fine_tune_epochs)}"
        )
    state.restore_best(model)
    chosen = progress["chosen"]
    if not validates:
        nothing = np.zeros((0, classes))
        return Fitted(model, 1.0, chosen, progress["curves"], validation_rows, nothing, None)
    shown = pixels[0, validation_rows]
    logits = view_logits(model, shown, recipe.prediction_views)
    limit = limit_of(view_scores(model, shown, recipe.prediction_views)) if has_statistics(model) else None
    return Fitted(model, float(chosen["temperature"]), chosen, progress["curves"], validation_rows, logits, limit)


def compiled_trainer(
    model: keras.Model,
    recipe: Recipe,
    classes: int,
    steps: int,
    seed: int,
    keep_statistics: bool,
    unfreeze: int | None,
) -> tuple[keras.Model, keras.Model]:
    """A copy of the network that is to learn, and the same compiled, from pixels over random views to logits.

    See `tune_layers`; ``steps`` are those of an epoch.
    """
    learner = new_network(recipe, classes, seed, recipe.precision)
    inputs = keras.Input(learner.input_shape[1:])
    augmentation = CellAugmentation(
        0.0 if recipe.drawn_views else recipe.zoom,
        0.0 if recipe.drawn_views else recipe.shift,
        recipe.colour,
        any_angle=recipe.turned_views == 1 and not recipe.drawn_views,
        seed=seed,
        name="views",
    )
    trainer = keras.Model(inputs, with_output(learner, "logits")(augmentation(inputs)))
    copy_tensors(model, learner)
    frozen = [] if unfreeze is None else frozen_layers(learner, unfreeze)
    for layer in learner.layers:
        # A distilled trunk keeps its BatchNorm: its statistics hold for more laboratories than one's batches.
        kept = keep_statistics and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not (kept or layer in frozen)
    trainer.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                recipe.fine_tune_learning_rate / 10,
                recipe.fine_tune_epochs * steps,
                warmup_target=recipe.fine_tune_learning_rate,
                warmup_steps=min(100, steps),
                alpha=0.05,
            ),
            weight_decay=recipe.weight_decay,
            clipnorm=1.0,
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        jit_compile=compiles_steps(),
    )
    return learner, trainer


def frozen_layers(model: keras.Model, unfreeze: int) -> list[keras.layers.Layer]:
    """The layers that stay as they are where only the last ones learn.

    Args:
        model: A network of this package.
        unfreeze: So many of the last layers with kernels learn, besides the classifier, and what stands behind them.

    Returns:
        The layers before those, in the order of the graph.
    """
    kernels = [
        place
        for place, layer in enumerate(model.layers)
        if layer.name != LOGITS_LAYER and any(len(variable.shape) > 1 for variable in layer.trainable_variables)
    ]
    first = kernels[-unfreeze] if 0 < unfreeze <= len(kernels) else (len(model.layers) if unfreeze < 1 else 0)
    return [layer for layer in model.layers[:first] if layer.name != LOGITS_LAYER]


def adapt_statistics(
    model: keras.Model, cells: Cells, views: Views, train_rows: np.ndarray, recipe: Recipe, seed: int
) -> None:
    """Replace the statistics of every BatchNorm by those of the training cells; nothing else is changed."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = drawing_weights(cells, train_rows, recipe)
    momenta = [layer.momentum for layer in norms]
    sums = [[np.zeros(layer.moving_mean.shape), np.zeros(layer.moving_variance.shape)] for layer in norms]
    drawn = Drawn(
        views, cells.labels, train_rows, weights, 64, [seed, ADAPTATION], len(cells.class_names), _ADAPTATION_STEPS
    )
    try:
        for layer in norms:
            layer.momentum = 0.0  # what it holds after a batch are the statistics of that batch
        for number in range(len(drawn)):
            model(drawn[number][0], training=True)
            for layer, (mean, variance) in zip(norms, sums, strict=True):
                mean += keras.ops.convert_to_numpy(layer.moving_mean) / len(drawn)
                variance += keras.ops.convert_to_numpy(layer.moving_variance) / len(drawn)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    for layer, (mean, variance) in zip(norms, sums, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
