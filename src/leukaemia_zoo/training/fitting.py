"""The two stages with labels, one after the other: the classifier, then the layers above it that may move."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.training.classifier import (
    Embeddings,
    Fitted,
    Report,
    SoftTargets,
    Views,
    adapt_statistics,
    begin_with_classifier,
    embed,
    fit_classifier,
    folds_of,
    new_network,
    preprocessing_for,
)
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import RunState
from leukaemia_zoo.training.tuning import tune_layers
from leukaemia_zoo.zoo.outputs import has_statistics
from leukaemia_zoo.zoo.tensors import load_tensors


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


def validates_by_folds(recipe: Recipe, distilled: bool) -> bool:
    """Whether a recipe fits nothing but a classifier, which is cheap enough to validate it on every subject in turn."""
    return distilled and not recipe.fine_tune_epochs
