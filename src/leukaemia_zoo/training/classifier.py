"""From a distilled trunk and labelled cells to a classifier: the stages that see labels.

The classifier is a logistic regression on the embeddings: convex, so that seed and backend do not matter, and with one
penalty to choose. Fine-tuning of all layers may follow; validation subjects decide whether it stays.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from leukaemia_zoo.architectures import EMBEDDING_LAYER, LOGITS_LAYER, STATISTICS_NORM, build_model, with_output
from leukaemia_zoo.augmentation import CellAugmentation
from leukaemia_zoo.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.cells import Cells
from leukaemia_zoo.devices import on_devices
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation import cell_area, metrics
from leukaemia_zoo.images import check_visible, read_image
from leukaemia_zoo.ood import distance, limit_of
from leukaemia_zoo.precision import compiles_steps, precision
from leukaemia_zoo.preprocessing import Preprocessing
from leukaemia_zoo.recipes import Recipe
from leukaemia_zoo.run_state import RunState
from leukaemia_zoo.seeds import reseed
from leukaemia_zoo.splits import Split
from leukaemia_zoo.timing import TimeLeft
from leukaemia_zoo.views import drawn_view, symmetric_views, turned_views
from leukaemia_zoo.weights_io import copy_tensors, load_tensors

Report = Callable[[str], None]

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class CellArrays:
    """The cells of a table as arrays.

    Attributes:
        pixels: Uint8 (views, N, height, width, 3); the first view is what prediction sees.
        area: Float (N,), area of the cell in official pixels.
        frames: Uint8 frames (height, width, 3) that views are drawn from in fine-tuning; None where the recipe draws
            none.
    """

    pixels: np.ndarray
    area: np.ndarray
    frames: tuple[np.ndarray, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What the normalisation before the classifier sees of each cell, by a trunk that is not trained any more.

    Of a head without that normalisation it is what the classifier itself sees.

    Attributes:
        turned: Float32 (views, N, features), of the turned views: the classifier learns from them.
        predicted: Float32 (N, features), mean over the symmetric views: the classifier is used on it, because the mean
            of the logits is the logit of the mean.
    """

    turned: np.ndarray
    predicted: np.ndarray


@dataclasses.dataclass
class Fitted:
    """A trained network and how it was chosen.

    Attributes:
        model: The network, not yet calibrated.
        temperature: That calibrates it on the validation cells.
        chosen: The row of ``curves`` that was taken.
        curves: Validation figures of every penalty and every epoch that was tried.
        validation_rows: Cells that chose it. Each was predicted by a network that had seen no cell of its subject.
        validation_logits: Float64 (validation cells, classes), of these predictions.
        ood_limit: What the OOD scores of the validation cells do not exceed, see `limit_of`; None for a head without
            statistics.
    """

    model: keras.Model
    temperature: float
    chosen: dict[str, Any]
    curves: list[dict[str, Any]]
    validation_rows: np.ndarray
    validation_logits: np.ndarray
    ood_limit: float | None


def read_arrays(cells: Cells, recipe: Recipe, seed: int, preprocessing: Preprocessing | None = None) -> CellArrays:
    """Read every cell once: the view that prediction sees, further turned views, and the cell's area.

    Args:
        cells: The table.
        recipe: Says how many views, and their size.
        seed: Of the turned views.
        preprocessing: From a frame to the network's input; None for that of C-NMC's frames.
    """
    preprocessing = preprocessing or preprocessing_for(recipe)
    pixels = np.empty((recipe.turned_views, len(cells), recipe.input_size, recipe.input_size, 3), np.uint8)
    area = np.empty(len(cells))
    frames: list[np.ndarray] = [np.empty(0, np.uint8)] * len(cells)

    def read(row: int) -> None:
        frame = read_image(cells.paths[row])
        area[row] = cell_area(frame)
        if recipe.drawn_views:
            frames[row] = _drawable(frame, preprocessing)
        # The file's name, not its row, so that a cell has the same views in every table.
        name_seed = int.from_bytes(cells.paths[row].stem.encode()[-8:], "little")
        pixels[:, row] = turned_views(frame, preprocessing, recipe.turned_views, seed + name_seed)
        check_visible(pixels[0, row], str(cells.paths[row]))

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(cells))))
    return CellArrays(pixels, area, tuple(frames) if recipe.drawn_views else None)


def _drawable(frame: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The frame as views are drawn from it: at most 1.5 times as fine as the network's input, to save memory."""
    image = Image.fromarray(preprocessing.reduced(frame))
    side = math.ceil(1.5 * max(preprocessing.input_size) / preprocessing.crop_fraction)
    if min(image.size) > side:
        scale = side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def preprocessing_for(recipe: Recipe) -> Preprocessing:
    """The preprocessing of a network that is trained by a recipe."""
    size = (recipe.input_size, recipe.input_size)
    if recipe.crop_fraction == Preprocessing.crop_fraction:
        return Preprocessing(size)
    return Preprocessing(size, crop_fraction=recipe.crop_fraction, reference_frame=None)


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
    views = _Views(pixels, frames, recipe, preprocessing_for(recipe))
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


_ADAPTATION_STEPS = 60
"""Batches of 64 cells whose mean statistics BatchNorm takes before it learns."""


def adapt_statistics(
    model: keras.Model, cells: Cells, views: _Views, train_rows: np.ndarray, recipe: Recipe, seed: int
) -> None:
    """Replace the statistics of every BatchNorm by those of the training cells; nothing else is changed."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = drawing_weights(cells, train_rows, recipe)
    momenta = [layer.momentum for layer in norms]
    sums = [[np.zeros(layer.moving_mean.shape), np.zeros(layer.moving_variance.shape)] for layer in norms]
    drawn = _Drawn(
        views, cells.labels, train_rows, weights, 64, [seed, _ADAPTATION], len(cells.class_names), _ADAPTATION_STEPS
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


def begin_with_classifier(
    model: keras.Model, cells: Cells, views: _Views, train_rows: np.ndarray, recipe: Recipe, seed: int
) -> None:
    """Set the last layer to a logistic regression on drawn views of the training cells, at the first penalty."""
    from sklearn.linear_model import LogisticRegression

    network = keras.Model(model.inputs, model.get_layer(EMBEDDING_LAYER).output)
    weights = drawing_weights(cells, train_rows, recipe)
    steps = max(1, len(train_rows) // 128)
    drawn = _Drawn(views, cells.labels, train_rows, weights, 128, [seed, _BEGINNING], len(cells.class_names), steps)
    batches = [drawn[number] for number in range(steps)]
    features = np.concatenate([np.asarray(network.predict_on_batch(images)) for images, _ in batches])
    labels = np.concatenate([targets.argmax(axis=1) for _, targets in batches])
    classifier = LogisticRegression(C=recipe.inverse_penalties[0], max_iter=300).fit(features, labels)
    model.get_layer(LOGITS_LAYER).set_weights(_as_softmax(classifier))


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


def folds_of(split: Split) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of training and validation rows; without validation rows where all cells teach."""
    parts = {name: np.array(rows) for name, rows in split.parts.items() if name != "test"}
    if set(parts) == {"train"}:
        return [(parts["train"], np.zeros(0, np.int64))]
    if set(parts) == {"train", "validation"}:
        return [(parts["train"], parts["validation"])]
    return [
        (np.concatenate([other for key, other in parts.items() if key != name]), rows) for name, rows in parts.items()
    ]


def new_network(recipe: Recipe, classes: int, seed: int, policy: str = "float32") -> keras.Model:
    """The recipe's network with random weights; the same for the same seed, whatever policy Keras is set to."""
    keras.utils.set_random_seed(seed)
    with precision(policy):
        return build_model(
            recipe.architecture,
            num_classes=classes,
            input_size=recipe.input_size,
            head=recipe.head,
            dropout=recipe.dropout,
        )


def has_statistics(model: keras.Model) -> bool:
    """Whether a network describes the cell by statistics that a classifier can be fitted on: the head ``texture``."""
    return any(layer.name == STATISTICS_NORM for layer in model.layers)


def embed(model: keras.Model, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Embeddings:
    """Embeddings of some cells by the trunk of a network; those of other cells are NaN."""
    described = (
        model.get_layer(STATISTICS_NORM).input if has_statistics(model) else model.get_layer(EMBEDDING_LAYER).output
    )
    network = keras.Model(model.inputs, described)
    features = network.output_shape[-1]
    turned = np.full((*pixels.shape[:2], features), np.nan, np.float32)
    for view, own in zip(turned, pixels, strict=True):
        view[rows] = _in_batches(network, own[rows])
    predicted = np.full((pixels.shape[1], features), np.nan, np.float32)
    symmetric = symmetric_views(pixels[0, rows], recipe.prediction_views)
    predicted[rows] = np.mean([_in_batches(network, view) for view in symmetric], axis=0)
    return Embeddings(turned, predicted)


def view_logits(model: keras.Model, pixels: np.ndarray, views: int) -> np.ndarray:
    """Float64 logits (N, classes), averaged over the symmetric views that prediction averages over."""
    network = with_output(model, "logits")
    logits = np.stack([_in_batches(network, view) for view in symmetric_views(pixels, views)])
    return logits.astype(np.float64).mean(axis=0)


def view_scores(model: keras.Model, pixels: np.ndarray, views: int) -> np.ndarray:
    """Float64 OOD scores (N,) by a whole network, over the symmetric views that prediction averages over."""
    network = keras.Model(model.inputs, model.get_layer(STATISTICS_NORM).output)
    standardised = [_in_batches(network, view) for view in symmetric_views(pixels, views)]
    return distance(np.mean(standardised, axis=0, dtype=np.float64))


def _in_batches(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Uint8 pixels go in batch by batch, so that they are never all in float32."""
    starts = range(0, len(pixels), _BATCH)
    return np.concatenate(
        [np.asarray(network.predict_on_batch(pixels[start : start + _BATCH].astype(np.float32))) for start in starts]
    )


def drawing_weights(cells: Cells, rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Weight of each cell, adding up to 1: balanced over subjects, and over classes where the recipe says so."""
    owners = np.array([cells.subjects[row] or str(cells.paths[row]) for row in rows])
    _, person, counts = np.unique(owners, return_inverse=True, return_counts=True)
    weights = counts[person].astype(float) ** (recipe.subject_power - 1)
    if recipe.balance_classes:
        labels = cells.labels[rows]
        for label in np.unique(labels):
            weights[labels == label] /= weights[labels == label].sum()
    return weights / weights.sum()


# ---------------------------------------------------------------------------------------------------------------------
# The classifier


def fit_classifier(
    model: keras.Model,
    recipe: Recipe,
    cells: Cells,
    embeddings: Embeddings,
    folds: list[tuple[np.ndarray, np.ndarray]],
    state: RunState,
    report: Report,
) -> Fitted:
    """Logistic regression on the embeddings; the validation subjects choose the penalty and the temperature.

    Args:
        model: The network, whose last layer is set.
        recipe: Penalties, and how much each cell counts.
        cells: The table.
        embeddings: Of its cells.
        folds: Pairs of training and validation rows. With one pair the classifier is fitted on its training rows, with
            more on all validation rows.
        state: Keeps the result where it has none yet.
        report: Called with a line a penalty.
    """
    validation_rows = np.concatenate([validation for _, validation in folds])
    labels = cells.labels[validation_rows]
    logits = {penalty: np.zeros((len(validation_rows), len(cells.class_names))) for penalty in recipe.inverse_penalties}
    scores = np.zeros(len(validation_rows))
    done = 0
    for train_rows, rows in folds:
        for penalty, kernel, bias, mean, deviation in classifiers(cells, embeddings, train_rows, recipe):
            standardised = (embeddings.predicted[rows] - mean) / deviation
            logits[penalty][done : done + len(rows)] = standardised @ kernel + bias
        scores[done : done + len(rows)] = distance(standardised)
        done += len(rows)
    curves: list[dict[str, Any]] = [
        {"stage": "classifier", "inverse_penalty": penalty, **validation_figures(values, labels)}
        for penalty, values in logits.items()
    ]
    chosen = min(curves, key=lambda row: row["log_loss"])
    for row in curves:
        report(f"classifier, C = {row['inverse_penalty']:g}: {_figures(row)}{' (best)' if row is chosen else ''}")
    # With folds every subject has validated and may now teach; a single split keeps its validation subjects apart.
    train_rows = folds[0][0] if len(folds) == 1 else validation_rows
    only = dataclasses.replace(recipe, inverse_penalties=(chosen["inverse_penalty"],))
    ((_, kernel, bias, mean, deviation),) = classifiers(cells, embeddings, train_rows, only)
    _set_classifier(model, kernel, bias, mean, deviation)
    if state.progress["chosen"] is None:
        state.progress.update(best=chosen["log_loss"], chosen=chosen, curves=curves)
        state.save_best(model)
    chosen_logits = logits[chosen["inverse_penalty"]]
    limit = limit_of(scores) if has_statistics(model) else None
    return Fitted(model, chosen["temperature"], chosen, curves, validation_rows, chosen_logits, limit)


def held_out_scores(
    cells: Cells, embeddings: Embeddings, folds: list[tuple[np.ndarray, np.ndarray]], recipe: Recipe
) -> np.ndarray:
    """OOD scores of cells by the standardisation of the others, as the fitting of a classifier makes them.

    Args:
        cells: The table.
        embeddings: Of its cells.
        folds: Pairs of rows: those that the standardisation is made from, and those that are scored by it.
        recipe: Says how much each cell counts.

    Returns:
        Float64 array: the scores of the second rows of all folds, one fold after the other.
    """
    scores = []
    for train_rows, rows in folds:
        _, _, mean, deviation = _taught(cells, embeddings, train_rows, recipe)
        scores.append(distance((embeddings.predicted[rows] - mean) / deviation))
    return np.concatenate(scores)


def classifiers(
    cells: Cells, embeddings: Embeddings, train_rows: np.ndarray, recipe: Recipe
) -> Iterator[tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each penalty: C, kernel (features, classes), bias (classes,), mean and deviation of the standardisation."""
    from sklearn.linear_model import LogisticRegression

    known, weights, mean, deviation = _taught(cells, embeddings, train_rows, recipe)
    known = (known - mean) / deviation
    targets = np.tile(cells.labels[train_rows], len(embeddings.turned))
    classifier = LogisticRegression(max_iter=1000, warm_start=True)
    for penalty in sorted(recipe.inverse_penalties):
        classifier.set_params(C=penalty)
        # Weights that add up to the number of cells: views repeat a cell, they do not make new ones.
        classifier.fit(known, targets, sample_weight=weights * len(train_rows))
        yield (penalty, *_as_softmax(classifier), mean, deviation)


def _taught(
    cells: Cells, embeddings: Embeddings, train_rows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All views of some cells (views x cells, features), their weights, and their mean and deviation (features,)."""
    views = len(embeddings.turned)
    known = embeddings.turned[:, train_rows].reshape(views * len(train_rows), -1).astype(np.float64)
    weights = np.tile(drawing_weights(cells, train_rows, recipe), views) / views
    mean = weights @ known
    return known, weights, mean, np.sqrt(weights @ (known - mean) ** 2) + 1e-6


def _as_softmax(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (features, classes) and bias (classes,) of a fitted scikit-learn classifier."""
    kernel, bias = classifier.coef_.T, classifier.intercept_
    if kernel.shape[1] == 1:  # scikit-learn keeps one score for two classes
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    return kernel, bias


def _set_classifier(
    model: keras.Model, kernel: np.ndarray, bias: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> None:
    """Make a network give (x - mean) / deviation @ kernel + bias, the first part in its BatchNorm if it has one."""
    if has_statistics(model):
        norm = model.get_layer(STATISTICS_NORM)
        variance = deviation**2
        norm.set_weights([np.sqrt(variance + norm.epsilon) / deviation, np.zeros_like(mean), mean, variance])
    else:
        kernel = kernel / deviation[:, None]
        bias = bias - mean @ kernel
    model.get_layer(LOGITS_LAYER).set_weights([kernel, bias])


# ---------------------------------------------------------------------------------------------------------------------
# Fine-tuning


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
    views: _Views | None = None,
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
    views = views or _Views(pixels, None, recipe, preprocessing_for(recipe))
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
        drawn = _Drawn(views, labels, train_rows, weights, recipe.batch_size, [seed, epoch], classes, soft=soft)
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
            f"{_figures(row) + (' (best), ' if better else ', ') if validates else ''}{seconds:.0f} s"
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


_ADAPTATION, _BEGINNING = 1_000_001, 1_000_002
"""Stand in for the number of an epoch in the seeds of views that are drawn before the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Views:
    """Where the views of cells come from: read beforehand, or drawn anew from the frames at every step."""

    pixels: np.ndarray
    frames: tuple[np.ndarray, ...] | None
    recipe: Recipe
    preprocessing: Preprocessing

    def draw(self, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float32 (N, height, width, 3): one view of each cell, the one of its number or by the seed a new one."""
        if self.frames is None:
            return self.pixels[numbers, rows].astype(np.float32)
        rng = np.random.default_rng(seed)
        angles = rng.uniform(0.0, 2 * math.pi, len(rows))
        mirrored = rng.random(len(rows)) < 0.5
        factors = np.exp(rng.uniform(-self.recipe.zoom, self.recipe.zoom, len(rows)))
        drawn = [
            drawn_view(self.frames[row], self.preprocessing, angle, bool(swapped), factor)
            for row, angle, swapped, factor in zip(rows, angles, mirrored, factors, strict=True)
        ]
        return np.stack(drawn).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class SoftTargets:
    """A network that has learnt the same classes, whose probabilities are a part of what another one learns.

    It sees the same views, at its own input size. Its temperature is taken back: softer targets tell more.
    """

    network: keras.Model
    views: _Views
    temperature: float
    share: float

    @classmethod
    def by(cls, teacher: keras.Model, views: _Views) -> SoftTargets:
        """By a network with its ``zoo``, for views from these frames."""
        config = teacher.zoo
        own = dataclasses.replace(views, preprocessing=config.preprocessing)
        return cls(with_output(teacher, "logits"), own, config.temperature, views.recipe.soft_share)

    def mixed(self, targets: np.ndarray, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float32 (N, classes): the targets, and in part what the network says of the same views."""
        logits = np.asarray(self.network.predict_on_batch(self.views.draw(rows, numbers, seed)), np.float64)
        soft = apply_temperature(logits, 1.0 / self.temperature)
        return ((1.0 - self.share) * targets + self.share * soft).astype(np.float32)


class _Drawn(keras.utils.PyDataset):
    """An epoch of randomly drawn cells, each in one view; the same for the same seed."""

    def __init__(
        self,
        views: _Views,
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


# ---------------------------------------------------------------------------------------------------------------------
# Choosing


def validation_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures that choose: the log loss is taken after temperature scaling, as the network will be used."""
    temperature = fit_temperature(logits, labels)
    found = metrics(labels, apply_temperature(logits, temperature))
    return {
        "log_loss": found["log_loss"],
        "auroc": found["auroc"],
        "weighted_f1": found["weighted_f1"],
        "temperature": temperature,
    }


def _figures(row: dict[str, Any]) -> str:
    return f"validation log loss {row['log_loss']:.4f}, AUROC {row['auroc']:.3f}, weighted F1 {row['weighted_f1']:.3f}"
