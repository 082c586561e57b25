"""The stage that trains the last layers of the trunk together with the classifier."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.hardware import compiles_steps, on_devices, precision
from leukaemia_zoo.prediction.features import limit_of, view_scores
from leukaemia_zoo.training.classifier import (
    Fitted,
    Report,
    SoftTargets,
    Views,
    adapt_statistics,
    drawing_weights,
    figures_told,
    new_network,
    preprocessing_for,
    validation_figures,
)
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import RunState, TimeLeft, reseed
from leukaemia_zoo.zoo.architectures import LOGITS_LAYER, with_output
from leukaemia_zoo.zoo.augmentation import CellAugmentation
from leukaemia_zoo.zoo.outputs import has_statistics, view_logits
from leukaemia_zoo.zoo.tensors import copy_tensors


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
        learner, trainer = _trainer(model, recipe, classes, steps, seed, keep_statistics, unfreeze)
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


def _trainer(
    model: keras.Model,
    recipe: Recipe,
    classes: int,
    steps: int,
    seed: int,
    keep_statistics: bool,
    unfreeze: int | None,
) -> tuple[keras.Model, keras.Model]:
    """A copy of the network that is to learn, and the same compiled, from pixels over random views to logits."""
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


class Drawn(keras.utils.PyDataset):
    """An epoch of randomly drawn cells, each in one view; the same for the same seed."""

    def __init__(
        self,
        views: Views,
        labels: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray,
        batch_size: int,
        seed: list[int],
        classes: int,
        steps: int | None = None,
        soft: SoftTargets | None = None,
    ) -> None:
        # Views are drawn in two threads while the network learns: Pillow works outside of Python's lock.
        super().__init__(workers=1 if views.frames is None else 2)
        rng = np.random.default_rng(seed)
        steps = steps or max(1, len(rows) // batch_size)
        self._rows = rows[rng.choice(len(rows), size=(steps, batch_size), p=weights)]
        self._numbers = rng.integers(len(views.pixels), size=self._rows.shape)
        self._views, self._seed, self._soft = views, seed, soft
        self._targets = np.eye(classes, dtype=np.float32)[labels]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows, numbers, seed = self._rows[index], self._numbers[index], [*self._seed, index]
        targets = self._targets[rows]
        if self._soft is not None:
            targets = self._soft.mixed(targets, rows, numbers, seed)
        return self._views.draw(rows, numbers, seed), targets
