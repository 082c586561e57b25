"""How good the probabilities of a model are; `intervals` says how sure one can be. Conventions as in `inputs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.table import MIXED
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.inputs import (
    FloatArray,
    IntArray,
    Subjects,
    Threshold,
    bin_index,
    checked_predictions,
    confidence_and_hits,
    subject_codes,
)

TWO_CLASS_METRICS = (
    "auroc",
    "auprc",
    "weighted_f1",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "accuracy",
    "mcc",
    "ece",
    "brier",
    "log_loss",
)
"""What `metrics` gives for two classes."""

MULTI_CLASS_METRICS = (
    "auroc",
    "macro_f1",
    "weighted_f1",
    "balanced_accuracy",
    "accuracy",
    "mcc",
    "ece",
    "brier",
    "log_loss",
)
"""What `metrics` gives for more than two classes."""

PER_CLASS_METRICS = ("precision", "recall", "f1", "auroc", "auprc", "sensitivity", "specificity")
"""What `WeightedCells` gives for each class against the rest, under names such as `recall:0`; sensitivity is recall."""


_ECE_BINS = 15


# --------------------------------------------------------------------------------------------------------------------
# Metrics


def metrics(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: Threshold = 0.5) -> dict[str, float]:
    """Measure predictions against labels.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        threshold: For two classes, a cell is called the last class if its probability is at least this much, 0 to 1;
            one number, or one a cell, shape (N,). For more classes the most probable one is called and the threshold
            plays no part.

    Returns:
        The metrics of `TWO_CLASS_METRICS` or `MULTI_CLASS_METRICS`, by name. They are those of scikit-learn; in detail:

        * `auroc`: for more than two classes the mean over the classes of one against the rest;
        * `auprc`: average precision of the last class, not interpolated;
        * `weighted_f1`: F1 of each class weighted by its cells, the ranking number of the C-NMC 2019 challenge;
        * `mcc`: Matthews' correlation, 0 if all cells are called the same class;
        * `ece`: see `calibration.expected_calibration_error`, 15 bins;
        * `brier`: mean squared error of P(last class), 0 to 1; for more classes summed over the classes, 0 to 2;
        * `log_loss`: natural logarithm, probabilities below 2.2e-16 count as that much.

        NaN where a metric is not defined: `sensitivity` and `specificity` without a cell of their class; `auroc`,
        `auprc`, `balanced_accuracy` and `mcc` unless every class (for `mcc` two) has a cell.

    Raises:
        DataError: There is no cell, or an array or the threshold has another shape or range.

    Example:
        >>> found = metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
        >>> found["auroc"], found["sensitivity"], found["specificity"]
        (0.75, 0.5, 0.5)
    """
    cells = WeightedCells(*checked_predictions(labels, probabilities), threshold)
    return {name: float(values[0]) for name, values in cells.whole(cells.names).items()}


def called_classes(probabilities: FloatArray, threshold: Threshold = 0.5) -> IntArray:
    """Return the class that each cell is called, shape (N,), for checked probabilities of shape (N, K).

    Of two classes the last if its probability is at least `threshold` (one number or one a cell), of more the most
    probable.

    Example:
        >>> called_classes(np.array([[0.5, 0.5], [0.6, 0.4]]))
        array([1, 0])
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(axis=1)


# --------------------------------------------------------------------------------------------------------------------
# Subject by subject


def per_subject(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    class_names: Sequence[str],
    threshold: Threshold = 0.5,
) -> list[dict[str, str | int | float]]:
    """Say how each subject fared.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        subjects: Name of each cell's subject, N of them.
        class_names: Names of the K classes, in the order of the labels.
        threshold: As in `metrics`.

    Returns:
        One row a subject, sorted by name: `subject`; `label`, the name of its class, or `mixed`; `cells`, how many;
        `mean_probability` of the last class; `share_called_last`, the share of the cells that are called the last
        class; `share_correct`. Shares and probabilities are from 0 to 1.

    Raises:
        DataError: An array is not as said here, a subject is not known, or there is not one name for each class.

    Example:
        >>> (row,) = per_subject([1, 1], [0.2, 0.9], ["5", "5"], ["hem", "all"])
        >>> row["subject"], row["label"], row["cells"], row["mean_probability"], row["share_correct"]
        ('5', 'all', 2, 0.55, 0.5)
    """
    truth, table = checked_predictions(labels, probabilities)
    if isinstance(class_names, str) or len(class_names) != table.shape[1]:
        raise DataError(f"class_names is {class_names!r}: give one name for each of the {table.shape[1]} classes.")
    threshold = _checked_threshold(threshold, len(truth))
    named = subject_codes(subjects, len(truth))
    if named is None:
        raise DataError("No cell has a subject: name them to get results by subject.")
    names, units = named
    called = called_classes(table, threshold)
    count = np.bincount(units)

    def mean(values: npt.NDArray[Any]) -> list[float]:
        return (np.bincount(units, values) / count).tolist()

    first, last = np.full(len(names), table.shape[1]), np.full(len(names), -1)
    np.minimum.at(first, units, truth)
    np.maximum.at(last, units, truth)
    rows = zip(mean(table[:, -1]), mean(called == table.shape[1] - 1), mean(called == truth), strict=True)
    return [
        {
            "subject": name,
            "label": str(class_names[first[index]]) if first[index] == last[index] else MIXED,
            "cells": int(count[index]),
            "mean_probability": probability,
            "share_called_last": share_last,
            "share_correct": share_correct,
        }
        for index, (name, (probability, share_last, share_correct)) in enumerate(zip(names, rows, strict=True))
    ]


class WeightedCells:
    """Predictions reduced to what every metric of a weighted sample needs.

    A resample is one whole number a unit, how often the unit was drawn. Threshold metrics, Brier score, log loss and
    ECE depend on sums over the cells of a unit, so that all resamples are one matrix product. Areas under curves need
    the order of the scores, which is the same in every resample: one sort, then cumulative sums of the weights.
    """

    def __init__(self, labels: IntArray, probabilities: FloatArray, threshold: Threshold) -> None:
        threshold = _checked_threshold(threshold, len(labels))
        self.labels = labels
        self.classes = classes = probabilities.shape[1]
        self.names = TWO_CLASS_METRICS if classes == 2 else MULTI_CLASS_METRICS
        called = called_classes(probabilities, threshold)
        positive = np.eye(classes)[labels]
        confidence, hits = confidence_and_hits(labels, probabilities)
        squares = (probabilities - positive) ** 2
        of_truth = probabilities[np.arange(len(labels)), labels]
        # One row a cell: its place in the confusion matrix, then what ECE, Brier score and log loss add up.
        self.table = np.zeros((len(labels), classes**2 + _ECE_BINS + 2))
        rows = np.arange(len(labels))
        self.table[rows, classes * labels + called] = 1
        self.table[rows, classes**2 + bin_index(confidence, _ECE_BINS)] = hits - confidence
        self.table[:, -2] = squares[:, 1] if classes == 2 else squares.sum(axis=1)
        self.table[:, -1] = -np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1))
        self._probabilities = probabilities
        self._rankings: dict[int, _Ranking] = {}

    def whole(self, names: Sequence[str]) -> dict[str, FloatArray]:
        """Metrics of the cells as they are, each of shape (1,)."""
        return self.resampled(np.ones((1, 1)), np.zeros(len(self.labels), np.int64), names)

    def resampled(self, counts: FloatArray, units: IntArray, names: Sequence[str]) -> dict[str, FloatArray]:
        """Metrics (R,) of R resamples that drew each unit `counts` (R, units) times; a class as ``name:label``."""
        per_unit = np.zeros((counts.shape[1], self.table.shape[1]))
        np.add.at(per_unit, units, self.table)
        sums = counts @ per_unit
        confusion = sums[:, : self.classes**2].reshape(-1, self.classes, self.classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            result = _confusion_metrics(confusion)
            total = confusion.sum(axis=(1, 2))
            result["ece"] = np.abs(sums[:, self.classes**2 : -2]).sum(axis=1) / total
            result["brier"] = sums[:, -2] / total
            result["log_loss"] = sums[:, -1] / total
            if any(name.startswith(("auroc", "auprc")) for name in names):
                # Of two classes either one against the rest has the same area under the ROC curve.
                first = 0 if self.classes > 2 or "auprc:0" in names else 1
                precision = any(name.startswith("auprc") for name in names)
                areas = {
                    label: self._ranking(label).areas(counts, units, precision) for label in range(first, self.classes)
                }
                result["auroc"] = np.mean([areas[label][0] for label in areas if self.classes > 2 or label], axis=0)
                result["auprc"] = areas[self.classes - 1][1]
                for label in range(self.classes):
                    result[f"auroc:{label}"] = areas[label if self.classes > 2 else 1][0]
                    result[f"auprc:{label}"] = areas.get(label, areas[self.classes - 1])[1]
        return {name: result[name] for name in names}

    def _ranking(self, label: int) -> _Ranking:
        if label not in self._rankings:
            self._rankings[label] = _Ranking(self._probabilities[:, label], self.labels == label)
        return self._rankings[label]


class _Ranking:
    """The cells in falling order of one score, for areas under curves of weighted samples."""

    def __init__(self, scores: FloatArray, positive: npt.NDArray[np.bool_]) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.positive = positive[self.order].astype(np.float64)
        # Cells of equal score are passed at once: curves have points at the last cell of each tie only.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def areas(self, counts: FloatArray, units: IntArray, precision: bool) -> tuple[FloatArray, FloatArray]:
        """AUROC of each resample and, if asked for, its average precision, as scikit-learn's with `sample_weight`."""
        weights = counts[:, units[self.order]]
        drawn = np.cumsum(weights, axis=1)[:, self.ends]
        weights *= self.positive
        found = np.cumsum(weights, axis=1)[:, self.ends]
        positives, negatives = found[:, -1], drawn[:, -1] - found[:, -1]
        before = np.concatenate([np.zeros((len(counts), 1)), found[:, :-1]], axis=1)
        false = np.diff(drawn - found, axis=1, prepend=0)
        auroc = np.einsum("rn,rn->r", false, (found + before) / 2) / (positives * negatives)
        if not precision:
            return auroc, np.full_like(auroc, np.nan)
        # Where nothing has been drawn yet nothing is gained either.
        share = np.divide(found, drawn, out=np.zeros_like(found), where=drawn > 0)
        auprc = np.einsum("rn,rn->r", found - before, share) / positives
        auprc[negatives == 0] = np.nan  # 1 whatever the scores, which says nothing
        return auroc, auprc


def _confusion_metrics(confusion: FloatArray) -> dict[str, FloatArray]:
    """Metrics of confusion matrices of shape (R, K, K): true class, called class."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, called = confusion.sum(axis=2), confusion.sum(axis=1)
    total = true.sum(axis=1)
    recall = right / true
    occurs = true + called > 0
    f1 = np.where(occurs, 2 * right / (true + called), 0)
    correct = right.sum(axis=1)
    spread = np.sqrt((total**2 - (called**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1)))
    mcc = np.where(spread > 0, (correct * total - (true * called).sum(axis=1)) / spread, 0)
    others = total[:, None] - true
    by_class = {
        "precision": right / called,
        "recall": recall,
        "f1": np.where(occurs, f1, np.nan),
        "sensitivity": recall,
        "specificity": (others - called + right) / others,
    }
    return {
        "weighted_f1": (f1 * true).sum(axis=1) / total,
        "macro_f1": f1.sum(axis=1) / occurs.sum(axis=1),
        "balanced_accuracy": recall.mean(axis=1),  # NaN as soon as one class has no cell
        "sensitivity": recall[:, -1],
        "specificity": recall[:, 0],
        "accuracy": correct / total,
        "mcc": np.where((true > 0).sum(axis=1) > 1, mcc, np.nan),
        **{f"{name}:{label}": table[:, label] for name, table in by_class.items() for label in range(right.shape[1])},
    }


def _checked_threshold(threshold: Threshold, cells: int) -> Threshold:
    if np.ndim(threshold) == 0:
        if not 0 <= threshold <= 1:
            raise DataError(f"threshold is {threshold!r}: give a probability from 0 to 1.")
        return threshold
    array = np.asarray(threshold, np.float64)
    if array.shape != (cells,):
        raise DataError(
            f"threshold has the shape {array.shape}: give one number, or one for each of the {cells} cells."
        )
    wrong = np.flatnonzero(~((array >= 0) & (array <= 1)))
    if len(wrong):
        raise DataError(f"threshold[{wrong[0]}] is {array[wrong[0]]}: give probabilities from 0 to 1.")
    return array
