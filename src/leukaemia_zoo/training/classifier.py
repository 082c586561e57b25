"""From a distilled trunk and labelled cells to a classifier: the stages that see labels.

The classifier is a logistic regression on the embeddings: convex, so that seed and backend do not matter, and with one
penalty to choose. Fine-tuning of all layers may follow; validation subjects decide whether it stays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from PIL import Image

from leukaemia_zoo.cells.images import check_visible, read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing, drawn_view, symmetric_views, turned_views
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.hardware import precision
from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.evaluation.baselines import cell_area
from leukaemia_zoo.evaluation.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.evaluation.metrics import metrics
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import RunState
from leukaemia_zoo.training.tuning import Drawn
from leukaemia_zoo.zoo.architectures import LOGITS_LAYER, STATISTICS_NORM, build_model, with_output
from leukaemia_zoo.zoo.layers import EMBEDDING_LAYER
from leukaemia_zoo.zoo.outputs import has_statistics, in_batches

Report = Callable[[str], None]


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


_ADAPTATION_STEPS = 60
"""Batches of 64 cells whose mean statistics BatchNorm takes before it learns."""


def adapt_statistics(
    model: keras.Model, cells: Cells, views: Views, train_rows: np.ndarray, recipe: Recipe, seed: int
) -> None:
    """Replace the statistics of every BatchNorm by those of the training cells; nothing else is changed."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weights = drawing_weights(cells, train_rows, recipe)
    momenta = [layer.momentum for layer in norms]
    sums = [[np.zeros(layer.moving_mean.shape), np.zeros(layer.moving_variance.shape)] for layer in norms]
    drawn = Drawn(
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
    model: keras.Model, cells: Cells, views: Views, train_rows: np.ndarray, recipe: Recipe, seed: int
) -> None:
    """Set the last layer to a logistic regression on drawn views of the training cells, at the first penalty."""
    from sklearn.linear_model import LogisticRegression

    network = keras.Model(model.inputs, model.get_layer(EMBEDDING_LAYER).output)
    weights = drawing_weights(cells, train_rows, recipe)
    steps = max(1, len(train_rows) // 128)
    drawn = Drawn(views, cells.labels, train_rows, weights, 128, [seed, _BEGINNING], len(cells.class_names), steps)
    batches = [drawn[number] for number in range(steps)]
    features = np.concatenate([np.asarray(network.predict_on_batch(images)) for images, _ in batches])
    labels = np.concatenate([targets.argmax(axis=1) for _, targets in batches])
    classifier = LogisticRegression(C=recipe.inverse_penalties[0], max_iter=300).fit(features, labels)
    model.get_layer(LOGITS_LAYER).set_weights(_as_softmax(classifier))


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


def embed(model: keras.Model, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Embeddings:
    """Embeddings of some cells by the trunk of a network; those of other cells are NaN."""
    described = (
        model.get_layer(STATISTICS_NORM).input if has_statistics(model) else model.get_layer(EMBEDDING_LAYER).output
    )
    network = keras.Model(model.inputs, described)
    features = network.output_shape[-1]
    turned = np.full((*pixels.shape[:2], features), np.nan, np.float32)
    for view, own in zip(turned, pixels, strict=True):
        view[rows] = in_batches(network, own[rows])
    predicted = np.full((pixels.shape[1], features), np.nan, np.float32)
    symmetric = symmetric_views(pixels[0, rows], recipe.prediction_views)
    predicted[rows] = np.mean([in_batches(network, view) for view in symmetric], axis=0)
    return Embeddings(turned, predicted)


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
        report(f"classifier, C = {row['inverse_penalty']:g}: {figures_told(row)}{' (best)' if row is chosen else ''}")
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


_ADAPTATION, _BEGINNING = 1_000_001, 1_000_002
"""Stand in for the number of an epoch in the seeds of views that are drawn before the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
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
    views: Views
    temperature: float
    share: float

    @classmethod
    def by(cls, teacher: keras.Model, views: Views) -> SoftTargets:
        """By a network with its ``zoo``, for views from these frames."""
        config = teacher.zoo
        own = dataclasses.replace(views, preprocessing=config.preprocessing)
        return cls(with_output(teacher, "logits"), own, config.temperature, views.recipe.soft_share)

    def mixed(self, targets: np.ndarray, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float32 (N, classes): the targets, and in part what the network says of the same views."""
        logits = np.asarray(self.network.predict_on_batch(self.views.draw(rows, numbers, seed)), np.float64)
        soft = apply_temperature(logits, 1.0 / self.temperature)
        return ((1.0 - self.share) * targets + self.share * soft).astype(np.float32)


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


def figures_told(row: dict[str, Any]) -> str:
    """The figures of an epoch or a penalty in the words of the log."""
    return f"validation log loss {row['log_loss']:.4f}, AUROC {row['auroc']:.3f}, weighted F1 {row['weighted_f1']:.3f}"
