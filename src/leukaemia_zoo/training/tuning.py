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
from leukaemia_zoo.common.hardware import compiles_steps, on_devices, precision
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.training.classifier import (
    Embeddings,
    Fitted,
    begin_with_classifier,
    embed,
    figures_told,
    fit_classifier,
    new_network,
    opinions,
    validation_figures,
    view_outputs,
)
from leukaemia_zoo.training.drawing import (
    ADAPTATION,
    Drawn,
    NetworkTargets,
    SoftLabels,
    SoftTargets,
    Views,
    drawing_weights,
    folds_of,
    read_arrays,
)
from leukaemia_zoo.training.provenance import load_logits_teacher
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.records import Sources
from leukaemia_zoo.training.runs import TimeLeft, Training, optimiser, reseed
from leukaemia_zoo.zoo.architectures import with_output
from leukaemia_zoo.zoo.augmentation import CellAugmentation
from leukaemia_zoo.zoo.layers import fuse_normalisation, without_random_weights
from leukaemia_zoo.zoo.outputs import has_statistics
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER, copy_tensors, load_tensors

_ADAPTATION_STEPS = 60
"""Batches of 64 cells whose mean statistics BatchNorm takes before and after it learns."""


def fit_network(
    run: Training,
    split: Split,
    trunk: Path | None,
    embeddings: Embeddings | None = None,
    soft: SoftTargets | None = None,
) -> Fitted:
    """Fit the classifier, fine-tune if the recipe says so, and keep what the validation subjects prefer.

    The trunk is a file, None for random weights; `soft` is what the labels are mixed with, see `soft_targets`.
    """
    recipe = run.recipe
    model = new_network(recipe, len(run.cells.class_names), run.seed)
    folds = folds_of(split)
    check_trainable(recipe, model, trunk is not None, len(folds))
    if trunk is not None:
        load_tensors(model, trunk, without_head=True)
    if trunk is not None and has_statistics(model) and recipe.fine_tune_epochs and recipe.train_batch_norm:
        adapt_statistics(run, model, folds[0][0])
        begin_with_classifier(run, model, folds[0][0])
        run.log("all layers begin with BatchNorm at these cells and a linear classifier on the features as they are")
    elif trunk is not None and has_statistics(model):
        rows = np.concatenate([fold[1] for fold in folds])
        if len(folds) == 1:
            rows = np.concatenate([rows, folds[0][0]])
        embeddings = embeddings or embed(model, run.arrays.pixels, rows, recipe)
        fitted = fit_classifier(run, model, embeddings, folds)
        run.state.save_first(model, fitted.chosen, fitted.curves)
    if recipe.fine_tune_epochs:
        keeps = trunk is not None and not recipe.train_batch_norm
        fitted = tune_layers(run, model, folds[0], keep_statistics=keeps, soft=soft)
    return fitted


def opinion_features(run: Training, sources: Sources) -> list[tuple[Recipe, Embeddings]]:
    """Embeddings of all cells by the trunk of each linear teacher, with its recipe; kept for an interrupted run."""
    found = []
    for number, teacher in enumerate(sources.linear_teachers):
        name = f"linear_teacher_{number}.npz"
        arrays = run.state.load_arrays(name)
        if arrays is None:
            run.log(f"features of {teacher.weight}, whose linear classifiers teach")
            network = new_network(teacher.recipe, len(run.cells.class_names), run.seed)
            load_tensors(network, teacher.file, without_head=True)
            pixels = read_arrays(run.cells, teacher.recipe, run.seed).pixels
            arrays = vars(embed(network, pixels, np.arange(len(run.cells)), teacher.recipe))
            run.state.save_arrays(name, arrays)
        found.append((teacher.recipe, Embeddings(**arrays)))
    return found


def soft_targets(
    run: Training,
    sources: Sources,
    features: list[tuple[Recipe, Embeddings]],
    rows: np.ndarray,
    number: int = 0,
    tested: np.ndarray | None = None,
) -> SoftTargets | None:
    """What the labels of the rows that teach are mixed with, in this fold; None where they stand alone."""
    share = run.recipe.soft_share
    if features:
        return SoftLabels(opinions(run.cells, features, rows, run.recipe.validation_folds, run.seed), share)
    tested = np.zeros(0, np.int64) if tested is None else tested
    teacher = load_logits_teacher(sources.logits_teachers, number, run.cells, tested, run.log)
    return None if teacher is None else NetworkTargets.by(teacher, run.views)


def check_trainable(recipe: Recipe, model: keras.Model, featured: bool, folds: int = 1) -> None:
    """Raise a DataError if a recipe leaves a network nothing to train, or cannot be trained on so many folds."""
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
    if recipe.cohort_frequencies and not (recipe.balance_classes and recipe.validation_share == 0):
        raise DataError(
            "The frequencies of a cohort come after classes that counted alike, and with out-of-fold predictions: set "
            "balance_classes to true and validation_share to 0 in the recipe, or cohort_frequencies to false."
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
    run: Training,
    model: keras.Model,
    fold: tuple[np.ndarray, np.ndarray],
    *,
    keep_statistics: bool,
    unfreeze: int | None = None,
    rate_decay: float = 1.0,
    until: float | None = None,
    soft: SoftTargets | None = None,
) -> Fitted:
    """Train all layers; the epoch with the best validation figures stays, which may be the classifier from before.

    Without validation cells the last epoch stays. Of the layers with kernels only the last `unfreeze` learn, besides
    the classifier, and each at the `rate_decay` of the rate of the one after it. No epoch is begun that would end after
    `until`, a time of ``time.perf_counter()``.
    """
    recipe, state, views, (train_rows, validation_rows) = run.recipe, run.state, run.views, fold
    progress, validates = state.progress, len(validation_rows) > 0
    labels, classes = run.cells.labels, len(run.cells.class_names)
    shown, truth = run.arrays.pixels[0, validation_rows], labels[validation_rows]
    weights = drawing_weights(run.cells, train_rows, recipe)
    with precision(recipe.precision), on_devices(run.devices):
        learner, trainer = compiled_trainer(run, model, len(train_rows), keep_statistics, unfreeze, rate_decay)
        if progress["epoch"]:
            state.restore(trainer)
    left, seconds = TimeLeft(progress["epoch"]), 0.0
    while progress["epoch"] < recipe.fine_tune_epochs and progress["waited"] < recipe.patience:
        epoch, began = progress["epoch"], time.perf_counter()
        if until is not None and began + seconds > until:
            run.log(f"fine-tuning ended after {epoch} epochs: the time is up")
            break
        reseed(trainer, run.seed, epoch)
        drawn = Drawn(views, labels, train_rows, weights, recipe.batch_size, [run.seed, epoch], classes, soft=soft)
        # The order within an epoch is drawn there: Keras' own shuffling would not be the same after a resume.
        with on_devices(run.devices):
            loss = float(trainer.fit(drawn, shuffle=False, verbose=0).history["loss"][-1])
        copy_tensors(learner, model)
        if recipe.train_batch_norm and (validates or epoch + 1 == recipe.fine_tune_epochs):
            # Its running statistics lag behind weights that change, and drawn views are smoother than those that a
            # prediction sees: on C-NMC cells either shifts every probability.
            adapt_statistics(run, model, train_rows, run.views_as_predicted)
        row: dict[str, Any] = {"stage": "fine-tuning", "epoch": epoch + 1, "loss": loss}
        logits = view_outputs(model, shown, recipe)[0] if validates else np.zeros((0, classes))
        # The logits of weights that are no numbers may be finite: an activation can make 0 of them.
        weights_there = map(keras.ops.convert_to_numpy, model.weights)
        if not (np.isfinite(loss) and np.isfinite(logits).all() and all(np.isfinite(w).all() for w in weights_there)):
            raise DataError(
                f"The training diverged in epoch {epoch + 1}, with a loss of {loss:.3g}: begin anew with restart "
                "(--restart) and a recipe with a lower fine_tune_learning_rate, weight_decay or colour."
            )
        if validates:
            row |= validation_figures(logits, truth)
        progress["curves"].append(row)
        better = not validates or row["log_loss"] < progress["best"]
        progress["waited"] = 0 if better else progress["waited"] + 1
        progress["epoch"] = epoch + 1
        if better:
            progress.update(best=row.get("log_loss", progress["best"]), chosen=row)
            state.save_best(model)
        state.save(trainer)
        seconds = time.perf_counter() - began
        run.log(
            f"fine-tuning {epoch + 1}/{recipe.fine_tune_epochs}: loss {loss:.3f}, "
            f"{figures_told(row) + (' (best), ' if better else ', ') if validates else ''}{seconds:.0f} s"
            f"{left.told(epoch + 1, recipe.fine_tune_epochs)}"
        )
    state.restore_best(model)
    chosen = progress["chosen"]
    if not validates:
        nothing = np.zeros((0, classes))
        return Fitted(model, 1.0, chosen, progress["curves"], validation_rows, nothing, None)
    logits, scores = view_outputs(model, shown, recipe)
    limit = None if scores is None else limit_of(scores)
    return Fitted(model, float(chosen["temperature"]), chosen, progress["curves"], validation_rows, logits, limit)


def compiled_trainer(
    run: Training, model: keras.Model, cells: int, keep_statistics: bool, unfreeze: int | None, rate_decay: float
) -> tuple[keras.Model, keras.Model]:
    """A copy of the network that is to learn, and the same compiled, from pixels over random views to logits."""
    recipe, seed = run.recipe, run.seed
    with without_random_weights():
        learner = new_network(recipe, len(run.cells.class_names), seed, recipe.precision)
    fuse_normalisation(learner)
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
    rate, steps = recipe.fine_tune_learning_rate, max(1, cells // recipe.batch_size)
    share_of = rate_shares(learner, rate_decay)
    shares = [share_of[id(variable)] for variable in trainer.trainable_variables] if rate_decay != 1 else None
    schedule: dict[str, Any] = {"first": 10, "last": 0.05, "clipnorm": 1.0, "shares": shares}
    trainer.compile(
        optimiser(rate, recipe.fine_tune_epochs, steps, recipe.weight_decay, **schedule),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        jit_compile=compiles_steps(),
    )
    return learner, trainer


def rate_shares(model: keras.Model, decay: float) -> dict[int, float]:
    """The share of the rate by the `id` of a variable: 1 in the last layer, `decay` in the one with a kernel before."""
    found: dict[int, float] = {}
    share = 1.0
    for layer in reversed(model.layers):
        found |= {id(variable): share for variable in layer.trainable_variables}
        if any(len(variable.shape) > 1 for variable in layer.trainable_variables):
            share *= decay  # what normalises a convolution stands behind it, and has its rate
    return found


def frozen_layers(model: keras.Model, unfreeze: int) -> list[keras.layers.Layer]:
    """The layers before the last so many that have kernels, without the classifier, in the order of the graph."""
    kernels = [
        place
        for place, layer in enumerate(model.layers)
        if layer.name != LOGITS_LAYER and any(len(variable.shape) > 1 for variable in layer.trainable_variables)
    ]
    first = kernels[-unfreeze] if 0 < unfreeze <= len(kernels) else (len(model.layers) if unfreeze < 1 else 0)
    return [layer for layer in model.layers[:first] if layer.name != LOGITS_LAYER]


def adapt_statistics(run: Training, model: keras.Model, train_rows: np.ndarray, views: Views | None = None) -> None:
    """Replace the statistics of every BatchNorm by those of the training cells; nothing else is changed.

    They are those of the `views`; None for the views that the network learns from.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = drawing_weights(run.cells, train_rows, run.recipe)
    momenta = [layer.momentum for layer in norms]
    sums = [[np.zeros(layer.moving_mean.shape), np.zeros(layer.moving_variance.shape)] for layer in norms]
    labels, classes = run.cells.labels, len(run.cells.class_names)
    views = views or run.views
    drawn = Drawn(views, labels, train_rows, weights, 64, [run.seed, ADAPTATION], classes, _ADAPTATION_STEPS)
    inputs = keras.Input(model.input_shape[1:], dtype="float32")
    try:
        for layer in norms:
            layer.momentum = 0.0  # what it holds after a batch are the statistics of that batch
        # Compiled, which on TensorFlow takes half the time of a call.
        network = keras.Model(inputs, _AsInTraining(model)(inputs))
        for images, _ in drawn.in_turn():
            network.predict_on_batch(images)
            for layer, (mean, variance) in zip(norms, sums, strict=True):
                mean += keras.ops.convert_to_numpy(layer.moving_mean) / len(drawn)
                variance += keras.ops.convert_to_numpy(layer.moving_variance) / len(drawn)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    for layer, (mean, variance) in zip(norms, sums, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


class _AsInTraining(keras.layers.Layer):
    """A network that normalises each batch by its own statistics and keeps them, also where it predicts."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(dtype="float32")
        self.model = model

    def call(self, images: Any) -> Any:
        return self.model(images, training=True)
