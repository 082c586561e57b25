"""From a distilled trunk and labelled cells to a classifier: a logistic regression on the embeddings.

The regression is convex, so that seed and backend do not matter. The validation subjects choose its one penalty.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.preprocessing import Preprocessing, symmetric_views
from leukaemia_zoo.cells.splits import kfold_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.hardware import computing_devices, precision
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.engine.graphs import packaged_graph
from leukaemia_zoo.engine.trunk import Trunk
from leukaemia_zoo.errors import EngineError
from leukaemia_zoo.evaluation.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.evaluation.metrics import metrics
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.training.drawing import BEGINNING, Drawn, drawing_weights, preprocessing_for
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.runs import Training
from leukaemia_zoo.zoo.architectures import build_model
from leukaemia_zoo.zoo.outputs import has_statistics, in_batches, kept
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER, LOGITS_LAYER, STATISTICS_NORM

_LEAST_DEVIATION = 0.1
"""Of a feature, as a share of the median over the features: one that is nearly constant on the cells that teach must
not drown the others when an image of another kind moves it."""


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Features of each cell by a trunk that does not learn any more, before they are standardised for the classifier.

    Attributes:
        turned: Float32 (views, N, features), of the turned views: the classifier learns from them.
        predicted: Float32 (N, features), mean over the symmetric views: the classifier judges by it, because the logit
            of the mean is the mean of the logits.
    """

    turned: np.ndarray
    predicted: np.ndarray


@dataclasses.dataclass
class Fitted:
    """A trained network and how it was chosen.

    Attributes:
        model: The network, not yet calibrated.
        temperature: The one that calibrates it on the validation cells.
        chosen: The row of ``curves`` that was taken.
        curves: Validation figures of every penalty and every epoch that was tried.
        validation_rows: The cells that chose it, each predicted by a network that had seen no cell of its subject.
        validation_logits: Float64 (validation cells, classes), of these predictions.
        ood_limit: Of the OOD scores of the validation cells, see `limit_of`; None for a head without statistics.
    """

    model: keras.Model
    temperature: float
    chosen: dict[str, Any]
    curves: list[dict[str, Any]]
    validation_rows: np.ndarray
    validation_logits: np.ndarray
    ood_limit: float | None


def new_network(recipe: Recipe, classes: int, seed: int, policy: str = "float32") -> keras.Model:
    """The recipe's network with random weights; the same for the same seed, whatever policy Keras is set to."""
    # From here Keras draws the seeds of weights and dropout. Its own set_random_seed also loads TensorFlow on the other
    # backends (two seconds), and on TensorFlow throws away the operations that it keeps ready.
    random.seed(seed)
    with precision(policy):
        return build_model(
            recipe.architecture,
            num_classes=classes,
            input_size=recipe.input_size,
            head=recipe.head,
            dropout=recipe.dropout,
        )


def features_of(
    model: keras.Model, recipe: Recipe, *, standardised: bool = True
) -> Callable[[np.ndarray, int], np.ndarray]:
    """How a network describes cells now: from pixels (N, height, width, 3) and a number of views to (N, features).

    On a processor the engine computes it where the package has the graph, which takes less time than Keras.
    """
    standardised = standardised or not has_statistics(model)
    graph = packaged_graph(recipe.architecture, recipe.head, (recipe.input_size, recipe.input_size))
    if graph is not None and set(computing_devices()) == {"cpu"}:
        with contextlib.suppress(EngineError):  # it is not installed
            return Trunk.of(model, graph, standardised=standardised).means
    output = model.get_layer(EMBEDDING_LAYER).output if standardised else model.get_layer(STATISTICS_NORM).input
    network = kept(model, "standardised" if standardised else "described", output)
    return lambda pixels, views: np.mean([in_batches(network, view) for view in symmetric_views(pixels, views)], axis=0)


def embed(model: keras.Model, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Embeddings:
    """Embeddings of some cells by the trunk of a network; those of other cells are NaN."""
    features = features_of(model, recipe, standardised=False)
    means = features(pixels[0, rows], recipe.prediction_views)
    predicted = np.full((pixels.shape[1], means.shape[-1]), np.nan, np.float32)
    predicted[rows] = means
    turned = np.full((len(pixels), *predicted.shape), np.nan, np.float32)
    for view, own in zip(turned, pixels, strict=True):
        view[rows] = features(own[rows], 1)
    return Embeddings(turned, predicted)


def view_outputs(model: keras.Model, pixels: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray | None]:
    """Float64 logits (N, classes) and OOD scores (N,), None without statistics, over the views of a prediction."""
    features = features_of(model, recipe)(pixels, recipe.prediction_views).astype(np.float64)
    kernel, bias = model.get_layer(LOGITS_LAYER).get_weights()
    # It is linear, so that the mean of the views' features gives the mean of their logits.
    return features @ kernel + bias, distance(features) if has_statistics(model) else None


# ---------------------------------------------------------------------------------------------------------------------
# The classifier


def fit_classifier(
    run: Training, model: keras.Model, embeddings: Embeddings, folds: list[tuple[np.ndarray, np.ndarray]]
) -> Fitted:
    """Set the last layer to a logistic regression on the embeddings, whose penalty the validation rows choose."""
    recipe, cells = run.recipe, run.cells
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
        run.log(f"classifier, C = {row['inverse_penalty']:g}: {figures_told(row)}{' (best)' if row is chosen else ''}")
    # With folds every subject has validated and may now teach; a single split keeps its validation subjects apart.
    train_rows = folds[0][0] if len(folds) == 1 else validation_rows
    only = dataclasses.replace(recipe, inverse_penalties=(chosen["inverse_penalty"],))
    ((_, kernel, bias, mean, deviation),) = classifiers(cells, embeddings, train_rows, only)
    _set_classifier(model, kernel, bias, mean, deviation)
    chosen_logits = logits[chosen["inverse_penalty"]]
    limit = limit_of(scores) if has_statistics(model) else None
    return Fitted(model, chosen["temperature"], chosen, curves, validation_rows, chosen_logits, limit)


def outputs_of(
    fitted: Fitted, embeddings: Embeddings | None, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits and OOD scores of some cells, as by `view_outputs`; what is embedded goes through the classifier alone."""
    if embeddings is None or recipe.fine_tune_epochs:
        return view_outputs(fitted.model, pixels[0, rows], recipe)
    norm, last = fitted.model.get_layer(STATISTICS_NORM), fitted.model.get_layer(LOGITS_LAYER)
    gamma, beta, mean, variance = norm.get_weights()
    kernel, bias = last.get_weights()
    features = embeddings.predicted[rows].astype(np.float64)
    standardised = (features - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    return standardised @ kernel + bias, distance(standardised)


def begin_with_classifier(run: Training, model: keras.Model, train_rows: np.ndarray) -> None:
    """Set the last layer to a logistic regression on drawn views of the training cells, at the first penalty."""
    from sklearn.linear_model import LogisticRegression

    describe = features_of(model, run.recipe)
    weights = drawing_weights(run.cells, train_rows, run.recipe)
    steps, labels, classes = max(1, len(train_rows) // 128), run.cells.labels, len(run.cells.class_names)
    drawn = Drawn(run.views, labels, train_rows, weights, 128, [run.seed, BEGINNING], classes, steps)
    features, classes_drawn = [], []
    for images, targets in drawn.in_turn():  # the views of all cells at once would take gigabytes
        features.append(describe(images, 1))
        classes_drawn.append(targets.argmax(axis=1))
    classifier = LogisticRegression(C=run.recipe.inverse_penalties[0], max_iter=300)
    classifier.fit(np.concatenate(features), np.concatenate(classes_drawn))
    model.get_layer(LOGITS_LAYER).set_weights(_as_softmax(classifier))


def held_out_scores(
    cells: Cells, embeddings: Embeddings, folds: list[tuple[np.ndarray, np.ndarray]], recipe: Recipe
) -> np.ndarray:
    """OOD scores of the cells of each fold, standardised on the cells that teach in it, as `fit_classifier` does."""
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


def opinions(
    cells: Cells, features: list[tuple[Recipe, Embeddings]], rows: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """Float64 (cells, classes): what linear classifiers say of each of these cells without having seen its subject.

    Each embedding has classifiers of its own, by its recipe; their logits are averaged. Other cells are NaN.
    """
    probabilities = np.full((len(cells), len(cells.class_names)), np.nan)
    for fold in kfold_by_subject(cells.subset(rows.tolist()), folds, seed):
        taught, asked = rows[list(fold.parts["train"])], rows[list(fold.parts["test"])]
        logits = []
        for recipe, embeddings in features:
            _, kernel, bias, mean, deviation = next(classifiers(cells, embeddings, taught, recipe))
            logits.append((embeddings.predicted[asked] - mean) / deviation @ kernel + bias)
        probabilities[asked] = apply_temperature(np.mean(logits, axis=0), 1.0)
    return probabilities


def _taught(
    cells: Cells, embeddings: Embeddings, train_rows: np.ndarray, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All views of some cells (views x cells, features), their weights, and their mean and deviation (features,)."""
    views = len(embeddings.turned)
    known = embeddings.turned[:, train_rows].reshape(views * len(train_rows), -1).astype(np.float64)
    weights = np.tile(drawing_weights(cells, train_rows, recipe), views) / views
    mean = weights @ known
    deviation = np.sqrt(weights @ (known - mean) ** 2)
    return known, weights, mean, np.maximum(deviation, _LEAST_DEVIATION * np.median(deviation) + 1e-6)


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


# ---------------------------------------------------------------------------------------------------------------------
# The network that is kept


def with_config(
    model: keras.Model, recipe: Recipe, cells: Cells, preprocessing: Preprocessing | None = None
) -> keras.Model:
    """Give a network its configuration, not yet calibrated; C-NMC's preprocessing where none is given."""
    model.zoo = ModelConfig(
        architecture=recipe.architecture,
        class_names=cells.class_names,
        head=recipe.head,
        preprocessing=preprocessing or preprocessing_for(recipe),
        dropout=recipe.dropout,
        views=recipe.prediction_views,
    )
    return model


def cohort_log_odds(cells: Cells, rows: np.ndarray) -> np.ndarray:
    """Float64 (classes,): how much more frequent than on average a class is among these cells, as a logarithm."""
    counts = np.bincount(cells.labels[rows], minlength=len(cells.class_names))
    return np.log(counts / counts.mean())


def raise_logits(model: keras.Model, by: np.ndarray) -> None:
    """Add one number a class to what the last layer gives."""
    head = model.get_layer(LOGITS_LAYER)
    kernel, bias = head.get_weights()
    head.set_weights([kernel, bias + by])


def calibrated(
    model: keras.Model, temperature: float, ood_limit: float | None, verdict_limits: VerdictLimits | None = None
) -> keras.Model:
    """Put the temperature into the last layer of a network of `with_config`, and the limits into its configuration."""
    head = model.get_layer(LOGITS_LAYER)
    head.set_weights([values / temperature for values in head.get_weights()])
    model.zoo = dataclasses.replace(
        model.zoo, temperature=temperature, ood_limit=ood_limit, verdict_limits=verdict_limits
    )
    return model
