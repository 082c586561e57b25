"""Where to set the threshold, what a verdict then means, and choices that never see the cells they are judged on.

Conventions are those of `inputs`. What is chosen from data, thresholds and temperatures, is chosen on one set of
cells and judged on another. Either there are validation cells, and one choice; or the cells have folds, and the choice
for each fold is made on the cells of all others (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.errors import DataError, LeakError
from leukaemia_zoo.evaluation.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, Subjects, checked_predictions, subject_codes
from leukaemia_zoo.evaluation.intervals import Interval, Resampling
from leukaemia_zoo.evaluation.metrics import WeightedCells

OPERATING_POINTS = ("0.5", "youden", "sensitivity>=0.95", "specificity>=0.90")
"""The rules that `choose_threshold` knows; the two targets are those of a rule-out and of a rule-in test."""

_POINT_METRICS = ("sensitivity", "specificity", "balanced_accuracy", "weighted_f1")

# Probabilities nearer to 0 than this are as good as 0 for a float32 network, and have no logarithm to scale.
_SMALLEST = 1e-7

# Points of a curve that are kept; a plot 1,000 pixels wide shows no more.
_CURVE_POINTS = 200

Choice = TypeVar("Choice")


# --------------------------------------------------------------------------------------------------------------------
# Who chooses for whom


@dataclass(frozen=True)
class Chooser:
    """On which cells a choice is made, and to which it is applied.

    Attributes:
        description: The same in words, for a report.
        folds: The number of each fold, in the order of the choices; None with validation cells.
        pairs: For each choice the labels and probabilities that it is made on, and the cells that it is applied to, as
            a mask of shape (N,).
    """

    description: str
    folds: tuple[int, ...] | None
    pairs: tuple[tuple[IntArray, FloatArray, npt.NDArray[np.bool_]], ...]

    def choose(self, rule: Callable[[IntArray, FloatArray], Choice]) -> list[Choice]:
        """Make each choice: `rule` gets labels (n,) and probabilities (n, K) of the cells that it may see."""
        return [rule(labels, probabilities) for labels, probabilities, _ in self.pairs]

    def by_cell(self, choices: list[float]) -> FloatArray:
        """Return the choice that is applied to each cell, shape (N,)."""
        result = np.empty(len(self.pairs[0][2]))
        for choice, (_, _, mask) in zip(choices, self.pairs, strict=True):
            result[mask] = choice
        return result


def chooser(
    labels: IntArray,
    probabilities: FloatArray,
    subjects: Subjects,
    folds: npt.ArrayLike | None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> Chooser:
    """Say on which cells choices are made: for each fold on the others, on validation cells, or on none.

    Example:
        >>> table = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> found = chooser(np.array([0, 1, 0]), table, None, [0, 0, 7])
        >>> found.choose(lambda labels, probabilities: len(labels)), found.folds
        ([1, 2], (0, 7))
    """
    if validation is not None:
        seen, scores = checked_predictions(*validation)
        if scores.shape[1] != probabilities.shape[1]:
            raise DataError(
                f"The validation cells have {scores.shape[1]} classes and the others {probabilities.shape[1]}: give "
                "probabilities of the same classes."
            )
        pair = (seen, scores, np.ones(len(labels), np.bool_))
        return Chooser(f"validation data ({len(seen):,} cells)", None, (pair,))
    if folds is None:
        return Chooser("nothing: there are no other subjects to choose on", None, ())
    numbers = np.asarray(folds)
    if numbers.shape != (len(labels),) or numbers.dtype.kind not in "iu":
        raise DataError(f"folds must be one whole number for each of the {len(labels)} cells: give the fold of each.")
    names = np.unique(numbers)
    if len(names) < 2:
        raise DataError("All cells are in one fold, so that nothing is left to choose on: give folds, or validation.")
    named = subject_codes(subjects, len(labels))
    if named is not None:
        held = np.unique(np.stack([named[1], numbers]), axis=1)[0]
        twice = np.flatnonzero(np.bincount(held) > 1)
        if len(twice):
            raise LeakError(
                f"The subject {named[0][twice[0]]!r} has cells in several folds, so that choices for one would be made "
                "on cells of the same person: split by subject."
            )
    masks = [numbers == name for name in names]
    pairs = tuple((labels[~mask], probabilities[~mask], mask) for mask in masks)
    text = f"the cells of the other folds ({len(names)} folds{'' if named is None else ' by subject'})"
    return Chooser(text, tuple(int(name) for name in names), pairs)


# --------------------------------------------------------------------------------------------------------------------
# What is chosen


def choose_threshold(labels: IntArray, probabilities: FloatArray, rule: str) -> tuple[float, bool]:
    """Choose the threshold of two classes by a rule of `OPERATING_POINTS`, and whether the rule could be kept.

    Thresholds lie halfway between neighbouring probabilities; 0, which calls every cell the last class, is one too, and
    so is one that calls none. `youden` takes the largest sensitivity + specificity, and of several such thresholds the
    one nearest to 0.5; a target takes the threshold that reaches it at the least cost to the other of the two, or comes
    closest to it. Where a class is missing it is 0.5.

    Example:
        >>> scores = np.array([0.1, 0.3, 0.2, 0.8])
        >>> choose_threshold(np.array([0, 0, 1, 1]), np.stack([1 - scores, scores], axis=1), "sensitivity>=0.95")
        (0.15000000000000002, True)
    """
    if rule not in OPERATING_POINTS:
        raise DataError(f"There is no rule {rule!r} for a threshold: use {', '.join(OPERATING_POINTS)}.")
    if rule == "0.5":
        return 0.5, True
    scores = probabilities[:, 1]
    levels, index = np.unique(scores, return_inverse=True)
    upper = np.append(levels[1:], 1.0)
    between = (levels + upper) / 2
    between = np.where(between > levels, between, upper)  # neighbours that no number lies between
    candidates = np.concatenate([[0.0], between])
    if levels[-1] == 1:  # no threshold is above it
        candidates = candidates[:-1]
    with np.errstate(invalid="ignore"):
        # The share of each class that lies below a candidate; NaN without a cell of the class.
        below = [
            np.append(0, np.bincount(index[labels == label], minlength=len(levels)).cumsum())[: len(candidates)]
            / np.sum(labels == label)
            for label in (0, 1)
        ]
    specificity, sensitivity = below[0], 1 - below[1]
    if rule == "youden":
        aim = sensitivity + specificity
        if np.isnan(aim).any():
            return 0.5, False
        best = candidates[aim >= aim.max() - 1e-12]
        return float(best[np.argmin(np.abs(best - 0.5))]), True
    name, _, target = rule.partition(">=")
    reached = {"sensitivity": sensitivity, "specificity": specificity}[name]
    if np.isnan(reached).any():
        return 0.5, False
    good = np.flatnonzero(reached >= float(target) - 1e-12)
    if not len(good):
        return float(candidates[np.argmax(reached)]), False
    return float(candidates[good[-1] if name == "sensitivity" else good[0]]), True


def choose_temperature(labels: IntArray, probabilities: FloatArray) -> float | None:
    """Fit a temperature to the logarithms of probabilities, shape (N, K); None where none is better than another.

    Example:
        >>> table = np.array([[0.1, 0.9]] * 4 + [[0.9, 0.1]] * 4)  # promised odds of 9, found odds of 3
        >>> round(choose_temperature(np.array([1, 1, 1, 0, 0, 0, 0, 1]), table), 3)
        2.0
    """
    logits = _logits(probabilities)
    if len(np.unique(labels)) < 2 or not np.ptp(logits, axis=1).any():
        return None
    return fit_temperature(logits, labels)


def scaled(probabilities: FloatArray, temperatures: FloatArray) -> FloatArray:
    """Return probabilities of shape (N, K) with the temperature of each cell, shape (N,), applied.

    Example:
        >>> scaled(np.array([[0.1, 0.9], [0.1, 0.9]]), np.array([1.0, 2.0])).round(2)
        array([[0.1 , 0.9 ],
               [0.25, 0.75]])
    """
    return apply_temperature(_logits(probabilities) / temperatures[:, None], 1.0)


def _logits(probabilities: FloatArray) -> FloatArray:
    return np.log(np.clip(probabilities, _SMALLEST, 1))


# --------------------------------------------------------------------------------------------------------------------
# What a verdict means, and every threshold at once


def predictive_values(
    sensitivity: npt.ArrayLike, specificity: npt.ArrayLike, prevalence: float
) -> tuple[FloatArray, FloatArray]:
    """Return the positive and the negative predictive value at a prevalence, by Bayes' theorem.

    The share of leukaemic cells in a data set is what its collectors chose, and predictive values follow it; those of
    another place are had from sensitivity and specificity and the prevalence there. NaN where no cell would be called
    the last, or the first, class.

    Example:
        >>> ppv, npv = predictive_values(0.9, 0.8, 0.1)
        >>> print(f"{ppv:.4f} {npv:.4f}")  # 0.09 / (0.09 + 0.18), 0.72 / (0.72 + 0.01)
        0.3333 0.9863
    """
    true_positive = np.asarray(sensitivity, np.float64) * prevalence
    true_negative = np.asarray(specificity, np.float64) * (1 - prevalence)
    with np.errstate(divide="ignore", invalid="ignore"):
        ppv = true_positive / (true_positive + (1 - prevalence - true_negative))
        npv = true_negative / (true_negative + (prevalence - true_positive))
    return ppv, npv


def predictive_intervals(
    cells: WeightedCells, resampling: Resampling, prevalence: float, label: int | None = None
) -> dict[str, Interval]:
    """Return the intervals of `ppv` and `npv` at a prevalence that is taken as known.

    They are of the last of two classes, or of the class with this label against the rest.

    Sensitivity and specificity of the same resample go together. Resamples in which a value is not defined, because no
    cell is called the class, are left out.
    """
    names = tuple(name if label is None else f"{name}:{label}" for name in ("sensitivity", "specificity"))
    whole = cells.whole(names)
    drawn = resampling.draw(lambda counts, units: cells.resampled(counts, units, names))
    found = predictive_values(whole[names[0]], whole[names[1]], prevalence)
    resampled = predictive_values(drawn[names[0]], drawn[names[1]], prevalence)
    return {
        name: resampling.interval(float(value[0]), values)
        for name, value, values in zip(("ppv", "npv"), found, resampled, strict=True)
    }


def operating_point(
    labels: IntArray, probabilities: FloatArray, choices: Chooser, resampling: Resampling, rule: str, prevalence: float
) -> dict[str, Any]:
    """Say how two classes are told apart at the threshold of a rule, each cell at the one chosen for it.

    The thresholds stay fixed in the resamples, so that the intervals leave out that other cells would have led to other
    thresholds. Predictive values are those at the prevalence of the last class.
    """
    fixed = rule == "0.5"
    chosen = [(0.5, True)] if fixed else choices.choose(lambda truth, table: choose_threshold(truth, table, rule))
    thresholds = [threshold for threshold, _ in chosen]
    cells = WeightedCells(labels, probabilities, 0.5 if fixed else choices.by_cell(thresholds))
    found = resampling.metrics(cells, _POINT_METRICS) | predictive_intervals(cells, resampling, prevalence)
    return {
        "thresholds": thresholds,
        "chosen_on": "no data: fixed beforehand" if fixed else choices.description,
        "reached": all(reached for _, reached in chosen),
        "metrics": {name: interval.to_dict() for name, interval in found.items()},
    }


def curves(labels: IntArray, probabilities: FloatArray, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return ROC and precision-recall curves as lists of at most about 200 points, with exact ends.

    For more than two classes those of each by its name, against the rest. A curve is None where a class it needs has no
    cell.
    """
    if probabilities.shape[1] == 2:
        return _curves(labels == 1, probabilities[:, 1])
    return {name: _curves(labels == label, probabilities[:, label]) for label, name in enumerate(class_names)}


def _curves(positive: npt.NDArray[np.bool_], scores: FloatArray) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_curve, roc_curve

    if positive.all() or not positive.any():
        return {"roc": None, "pr": None}
    fpr, tpr, _ = roc_curve(positive, scores)
    precision, recall, _ = precision_recall_curve(positive, scores)
    precision, recall = precision[::-1], recall[::-1]
    # By length along the ROC curve, so that its steep part keeps its points; by rank along the other, because points
    # picked by recall would all lie on the upper edge of its teeth.
    kept, kept_pr = _thinned(fpr + tpr), _thinned(np.arange(len(recall), dtype=np.float64))
    return {
        "roc": {"fpr": fpr[kept].tolist(), "tpr": tpr[kept].tolist()},
        "pr": {"recall": recall[kept_pr].tolist(), "precision": precision[kept_pr].tolist()},
    }


def _thinned(rising: FloatArray) -> IntArray:
    """Indices of points about evenly spaced along a rising coordinate, with both ends."""
    if len(rising) <= _CURVE_POINTS:
        return np.arange(len(rising))
    places = np.searchsorted(rising, np.linspace(rising[0], rising[-1], _CURVE_POINTS - 1))
    return np.unique(np.append(np.minimum(places, len(rising) - 1), [0, len(rising) - 1]))
