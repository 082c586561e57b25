"""From a distilled trunk and labelled cells to a classifier: the stages that see labels.

The classifier is a logistic regression on the embeddings: convex, so that seed and backend do not matter, and with one
penalty to choose. Fine-tuning of all layers may follow; validation subjects decide whether it stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.architectures import LOGITS_LAYER, STATISTICS_NORM, build_model, with_output
from leukaemia_zoo.augmentation import CellAugmentation
from leukaemia_zoo.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.datasets import Cells
from leukaemia_zoo.evaluation import cell_area, metrics
from leukaemia_zoo.images import read_image
from leukaemia_zoo.preprocessing import Preprocessing
from leukaemia_zoo.recipes import Recipe
from leukaemia_zoo.run_state import RunState
from leukaemia_zoo.seeds import reseed
from leukaemia_zoo.splits import Split
from leukaemia_zoo.views import symmetric_views, turned_views
from leukaemia_zoo.weights_io import load_tensors

Report = Callable[[str], None]

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class CellArrays:
    """The cells of a table as arrays.

    Attributes:
        pixels: Uint8 (views, N, height, width, 3); the first view is what prediction sees.
        area: Float (N,), area of the cell in official pixels.
    """

    pixels: np.ndarray
    area: np.ndarray


@dataclasses.dataclass
class Fitted:
    """A trained network in the training precision, and how it was chosen.

    Attributes:
        model: The network, not yet calibrated.
        temperature: That calibrates it on the validation subjects.
        chosen: The row of ``curves`` that was taken.
        curves: Validation figures of every penalty and every epoch that was tried.
    """

    model: keras.Model
    temperature: float
    chosen: dict[str, Any]
    curves: list[dict[str, Any]]


def read_arrays(cells: Cells, recipe: Recipe, seed: int) -> CellArrays:
    """Read every cell once: the view that prediction sees, further turned views, and the cell's area."""
    preprocessing = preprocessing_for(recipe)
    pixels = np.empty((recipe.turned_views, len(cells), recipe.input_size, recipe.input_size, 3), np.uint8)
    area = np.empty(len(cells))

    def read(row: int) -> None:
        frame = read_image(cells.paths[row])
        area[row] = cell_area(frame)
        # The file's name, not its row, so that a cell has the same views in every table.
        name_seed = int.from_bytes(cells.paths[row].stem.encode()[-8:], "little")
        pixels[:, row] = turned_views(frame, preprocessing, recipe.turned_views, seed + name_seed)

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(cells))))
    return CellArrays(pixels, area)


def preprocessing_for(recipe: Recipe) -> Preprocessing:
    """The preprocessing of a network that is trained by a recipe."""
    return Preprocessing((recipe.input_size, recipe.input_size))


def fit_network(
    recipe: Recipe,
    cells: Cells,
    pixels: np.ndarray,
    split: Split,
    trunk: Path | None,
    state: RunState,
    seed: int,
    report: Report,
    embeddings: np.ndarray | None = None,
) -> Fitted:
    """Fit the classifier, fine-tune if the recipe says so, and keep what the validation subjects prefer.

    Args:
        recipe: How.
        cells: The table.
        pixels: See `CellArrays`.
        split: With the parts train and validation; rows of other parts are not touched.
        trunk: File with the distilled trunk, or None to begin with random weights.
        state: Where an interrupted run goes on.
        seed: Of weights, order and views.
        report: Called with each line of progress.
        embeddings: Of ``pixels`` by the trunk (views, N, features), where they are known already.
    """
    classes = len(cells.class_names)
    with precision(recipe.precision):
        model = new_network(recipe, classes, seed)
    if trunk is not None:
        load_tensors(model, trunk, without_head=True)
    train_rows, validation_rows = (np.array(split.parts[part]) for part in ("train", "validation"))
    weights = drawing_weights(cells, train_rows, recipe)
    progress = state.progress
    if trunk is not None and progress["chosen"] is None:
        if embeddings is None:
            rows = np.concatenate([train_rows, validation_rows])
            embeddings = np.zeros((len(pixels), len(cells), model.get_layer(LOGITS_LAYER).kernel.shape[0]), np.float32)
            embeddings[:, rows] = embed(model, pixels[:, rows])
        _fit_classifier(
            model, recipe, cells.labels, embeddings, pixels[0], train_rows, validation_rows, weights, state, report
        )
    if recipe.fine_tune_epochs:
        _fine_tune(model, recipe, cells, pixels, train_rows, validation_rows, weights, state, seed, report)
    state.restore_best(model)
    return Fitted(model, float(progress["chosen"]["temperature"]), progress["chosen"], progress["curves"])


def new_network(recipe: Recipe, classes: int, seed: int) -> keras.Model:
    """The recipe's network with random weights; the same for the same seed."""
    keras.utils.set_random_seed(seed)
    return build_model(
        recipe.architecture,
        num_classes=classes,
        input_size=recipe.input_size,
        head=recipe.head,
        dropout=recipe.dropout,
    )


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under another dtype policy; the caller's own is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def embed(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """What the normalisation before the classifier sees: float32 (views, N, features)."""
    network = keras.Model(model.inputs, model.get_layer(STATISTICS_NORM).input)
    return np.stack([_in_batches(network, view) for view in pixels])


def view_logits(model: keras.Model, pixels: np.ndarray, views: int) -> np.ndarray:
    """Float64 logits (N, classes), averaged over the symmetric views that prediction averages over."""
    network = with_output(model, "logits")
    logits = np.stack([_in_batches(network, view) for view in symmetric_views(pixels, views)])
    return logits.astype(np.float64).mean(axis=0)


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


def _fit_classifier(
    model: keras.Model,
    recipe: Recipe,
    labels: np.ndarray,
    embeddings: np.ndarray,
    clean: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    weights: np.ndarray,
    state: RunState,
    report: Report,
) -> None:
    """Logistic regression on the embeddings of all views; the penalty is chosen on the validation subjects."""
    from sklearn.linear_model import LogisticRegression

    views = len(embeddings)
    known = embeddings[:, train_rows].reshape(views * len(train_rows), -1).astype(np.float64)
    repeated = np.tile(weights, views) / views
    mean = repeated @ known
    deviation = np.sqrt(repeated @ (known - mean) ** 2) + 1e-6
    _set_standardisation(model, mean, deviation)
    known = (known - mean) / deviation
    targets = np.tile(labels[train_rows], views)
    # Weights that add up to the number of cells: views repeat a cell, they do not make new ones.
    repeated = repeated * len(train_rows)
    classifier = LogisticRegression(max_iter=1000, warm_start=True)
    # Validation embeddings of the views that prediction averages over; the trunk is the same for every penalty.
    unseen = (
        embed(model, symmetric_views(clean[validation_rows], recipe.prediction_views)).astype(np.float64) - mean
    ) / deviation
    for penalty in sorted(recipe.inverse_penalties):
        classifier.set_params(C=penalty)
        classifier.fit(known, targets, sample_weight=repeated)
        kernel, bias = _as_softmax(classifier)
        logits = (unseen @ kernel + bias).mean(axis=0)
        row = {"stage": "classifier", "inverse_penalty": penalty, **validation_figures(logits, labels[validation_rows])}
        model.get_layer(LOGITS_LAYER).set_weights([kernel, bias])
        note = _keep_if_better(model, row, state)
        report(f"classifier, C = {penalty:g}: {_figures(row)}{note}")


def _as_softmax(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (features, classes) and bias (classes,) of a fitted scikit-learn classifier."""
    kernel, bias = classifier.coef_.T, classifier.intercept_
    if kernel.shape[1] == 1:  # scikit-learn keeps one score for two classes
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    return kernel, bias


def _set_standardisation(model: keras.Model, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Make the BatchNorm before the classifier compute (x - mean) / deviation."""
    norm = model.get_layer(STATISTICS_NORM)
    variance = deviation**2
    norm.set_weights([np.sqrt(variance + norm.epsilon) / deviation, np.zeros_like(mean), mean, variance])


# ---------------------------------------------------------------------------------------------------------------------
# Fine-tuning


def _fine_tune(
    model: keras.Model,
    recipe: Recipe,
    cells: Cells,
    pixels: np.ndarray,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    weights: np.ndarray,
    state: RunState,
    seed: int,
    report: Report,
) -> None:
    """Train all layers; the epoch with the best validation figures stays, which may be the classifier from before."""
    progress = state.progress
    # A distilled trunk keeps its BatchNorm: its statistics hold for more laboratories than one laboratory's batches.
    keep_statistics = progress["chosen"] is not None
    for layer in model.layers:
        layer.trainable = not (keep_statistics and isinstance(layer, keras.layers.BatchNormalization))
    with precision(recipe.precision):
        inputs = keras.Input(model.input_shape[1:])
        augmentation = CellAugmentation(
            recipe.zoom, recipe.shift, recipe.colour, any_angle=not recipe.turned_views > 1, seed=seed, name="views"
        )
        trainer = keras.Model(inputs, with_output(model, "logits")(augmentation(inputs)))
    steps = max(1, len(train_rows) // recipe.batch_size)
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
        jit_compile=False,  # compiling takes longer than it saves at this size
    )
    if progress["epoch"]:
        state.restore(trainer)
    else:
        state.restore_best(model)
    while progress["epoch"] < recipe.fine_tune_epochs and progress["waited"] < recipe.patience:
        epoch, began = progress["epoch"], time.perf_counter()
        reseed(trainer, seed, epoch)
        drawn = _Drawn(
            pixels, cells.labels, train_rows, weights, recipe.batch_size, [seed, epoch], len(cells.class_names)
        )
        loss = float(trainer.fit(drawn, verbose=0).history["loss"][-1])
        logits = view_logits(model, pixels[0, validation_rows], recipe.prediction_views)
        row = {
            "stage": "fine-tuning",
            "epoch": epoch + 1,
            "loss": loss,
            **validation_figures(logits, cells.labels[validation_rows]),
        }
        note = _keep_if_better(model, row, state)
        progress["waited"] = 0 if note else progress["waited"] + 1
        progress["epoch"] = epoch + 1
        state.save(trainer)
        report(
            f"fine-tuning {epoch + 1}/{recipe.fine_tune_epochs}: loss {loss:.3f}, {_figures(row)}{note}, "
            f"{time.perf_counter() - began:.0f} s"
        )


class _Drawn(keras.utils.PyDataset):
    """An epoch of randomly drawn cells, each in one of its views; the same for the same seed."""

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray,
        batch_size: int,
        seed: list[int],
        classes: int,
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        steps = max(1, len(rows) // batch_size)
        self._rows = rows[rng.choice(len(rows), size=(steps, batch_size), p=weights)]
        self._views = rng.integers(len(pixels), size=self._rows.shape)
        self._pixels = pixels
        self._targets = np.eye(classes, dtype=np.float32)[labels]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows[index]
        return self._pixels[self._views[index], rows].astype(np.float32), self._targets[rows]


# ---------------------------------------------------------------------------------------------------------------------
# Choosing


def validation_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Figures that choose: the log loss is taken after temperature scaling, as the network will be used."""
    temperature = fit_temperature(logits, labels)
    found = metrics(labels, apply_temperature(logits, temperature))
    return {
        "log_loss": found["log_loss"],
        "auroc": found.get("auroc", found.get("macro_auroc", float("nan"))),
        "weighted_f1": found["weighted_f1"],
        "temperature": temperature,
    }


def _keep_if_better(model: keras.Model, row: dict[str, Any], state: RunState) -> str:
    progress = state.progress
    progress["curves"].append(row)
    better = row["log_loss"] < progress["best"]
    if better:
        progress.update(best=row["log_loss"], chosen=row)
        state.save_best(model)
    return " (best)" if better else ""


def _figures(row: dict[str, Any]) -> str:
    return f"validation log loss {row['log_loss']:.4f}, AUROC {row['auroc']:.3f}, weighted F1 {row['weighted_f1']:.3f}"
