"""How good the probabilities of a model are, and how sure one can be of that number.

Conventions: N cells, K classes, labels from 0 to K - 1. Probabilities have the shape (N, K) with rows that sum to 1, or
for two classes (N,), the probability of the last class. Of two classes the last, `all`, is the positive one. Subjects
are one name a cell, None where the person is not known.

Intervals come from a bootstrap over subjects. Cells of one person resemble each other, so that 757 cells of a child are
not 757 independent observations; a bootstrap over cells gives intervals that are several times too narrow.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.calibration import FloatArray, IntArray, bin_index, checked_predictions, confidence_and_hits
from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.images import as_image

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

OFFICIAL_SIDE = 450
"""Height and width in pixels of the official C-NMC 2019 frames, the scale of `cell_area`."""

_ECE_BINS = 15

# Cell weights that are held at a time: 16 MB, small enough to stay in the cache and large enough to amortise Python.
_WEIGHTS_AT_A_TIME = 2_000_000

Subjects = Sequence[str | None] | None


# --------------------------------------------------------------------------------------------------------------------
# Results


@dataclass(frozen=True)
class Interval:
    """A value between its bounds; the bounds are NaN where they cannot be told.

    Example:
        >>> print(Interval(0.876, 0.831, 0.912))
        0.876 (0.831 to 0.912)
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not defined"
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def to_dict(self) -> dict[str, float | None]:
        """Return `value`, `low` and `high` as data that JSON can hold, None for NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(number) else number for name, number in numbers.items()}


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by the name of the metric, and how they were made; `bootstrap["auroc"]` is one of them.

    Attributes:
        unit: What was resampled, `"subject"`, or `"cell"` where no subject is known. Intervals over cells are too
            narrow for statements about new patients.
        resamples: Number of resamples.
        level: Nominal coverage, such as 0.95.
        seed: Seed of the resamples.
        intervals: One `Interval` a metric.
    """

    unit: str
    resamples: int
    level: float
    seed: int
    intervals: dict[str, Interval]

    def __getitem__(self, name: str) -> Interval:
        if name not in self.intervals:
            raise UnknownNameError(_unknown_metric(name, self.intervals))
        return self.intervals[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.intervals)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as data that JSON can hold."""
        return {
            "unit": self.unit,
            "resamples": self.resamples,
            "level": self.level,
            "seed": self.seed,
            "intervals": {name: interval.to_dict() for name, interval in self.intervals.items()},
        }


# --------------------------------------------------------------------------------------------------------------------
# Metrics


def metrics(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Measure predictions against labels.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        threshold: For two classes, a cell is called the last class if its probability is at least this much, 0 to 1.
            For more classes the most probable one is called and the threshold plays no part.

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
    cells = _Cells(*checked_predictions(labels, probabilities), threshold)
    return {name: float(values[0]) for name, values in cells.whole(cells.names).items()}


class _Cells:
    """Predictions reduced to what every metric of a weighted sample needs.

    A resample is one whole number a unit, how often the unit was drawn. Threshold metrics, Brier score, log loss and
    ECE depend on sums over the cells of a unit, so that all resamples are one matrix product. Areas under curves need
    the order of the scores, which is the same in every resample: one sort, then cumulative sums of the weights.
    """

    def __init__(self, labels: IntArray, probabilities: FloatArray, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise DataError(f"threshold is {threshold!r}: give a probability from 0 to 1.")
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
        self.rankings = [
            _Ranking(probabilities[:, index], labels == index) for index in ([1] if classes == 2 else range(classes))
        ]

    def whole(self, names: Sequence[str]) -> dict[str, FloatArray]:
        """Metrics of the cells as they are, each of shape (1,)."""
        return self.resampled(np.ones((1, 1)), np.zeros(len(self.labels), np.int64), names)

    def resampled(self, counts: FloatArray, units: IntArray, names: Sequence[str]) -> dict[str, FloatArray]:
        """Metrics of shape (R,) of R resamples.

        Args:
            counts: How often each unit was drawn, shape (R, units).
            units: Unit of each cell, shape (N,).
            names: The metrics that are wanted.
        """
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
            if not {"auroc", "auprc"}.isdisjoint(names):
                areas = [ranking.areas(counts, units) for ranking in self.rankings]
                result["auroc"] = np.mean([auroc for auroc, _ in areas], axis=0)
                result["auprc"] = areas[-1][1]
        return {name: result[name] for name in names}


class _Ranking:
    """The cells in falling order of one score, for areas under curves of weighted samples."""

    def __init__(self, scores: FloatArray, positive: npt.NDArray[np.bool_]) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.positive = positive[self.order].astype(np.float64)
        # Cells of equal score are passed at once: curves have points at the last cell of each tie only.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def areas(self, counts: FloatArray, units: IntArray) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision of each resample, equal to scikit-learn's with `sample_weight`."""
        weights = counts[:, units[self.order]]
        drawn = np.cumsum(weights, axis=1)[:, self.ends]
        weights *= self.positive
        found = np.cumsum(weights, axis=1)[:, self.ends]
        positives, negatives = found[:, -1], drawn[:, -1] - found[:, -1]
        before = np.concatenate([np.zeros((len(counts), 1)), found[:, :-1]], axis=1)
        gained = found - before
        false = np.diff(drawn - found, axis=1, prepend=0)
        auroc = np.einsum("rn,rn->r", false, (found + before) / 2) / (positives * negatives)
        # Where nothing has been drawn yet nothing is gained either.
        precision = np.divide(found, drawn, out=np.zeros_like(found), where=drawn > 0)
        auprc = np.einsum("rn,rn->r", gained, precision) / positives
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
    return {
        "weighted_f1": (f1 * true).sum(axis=1) / total,
        "macro_f1": f1.sum(axis=1) / occurs.sum(axis=1),
        "balanced_accuracy": recall.mean(axis=1),  # NaN as soon as one class has no cell
        "sensitivity": recall[:, -1],
        "specificity": recall[:, 0],
        "accuracy": correct / total,
        "mcc": np.where((true > 0).sum(axis=1) > 1, mcc, np.nan),
    }


def called_classes(probabilities: FloatArray, threshold: float = 0.5) -> IntArray:
    """Return the class that each cell is called, shape (N,), for checked probabilities of shape (N, K).

    Of two classes the last if its probability is at least `threshold`, of more the most probable.

    Example:
        >>> called_classes(np.array([[0.5, 0.5], [0.6, 0.4]]))
        array([1, 0])
    """
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(axis=1)


# --------------------------------------------------------------------------------------------------------------------
# Bootstrap


def bootstrap_over_subjects(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    threshold: float = 0.5,
) -> Bootstrap:
    """Give each metric an interval for new subjects.

    Whole subjects are drawn with replacement, as many as there are. If each subject has one class, as in C-NMC, they
    are drawn within their class: how many healthy and ill subjects there are was decided by whoever collected them, and
    a resample without a healthy one says nothing about specificity. If some subject has cells of several classes all
    are drawn together, and resamples in which a metric is not defined are left out of its interval.

    Intervals are expanded percentile intervals (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
    section 4): the percentiles lie further out, by Student's t for the number of subjects, because a few subjects
    resampled vary less than new ones. Subjects of unequal size count as fewer, (sum of cells)² / sum of cells² (Kish
    1965), and a metric of both classes goes by the class with fewer. In simulations of 40 subjects of 9 to 757 cells,
    nominal 95 % intervals held the truth in 87 % (AUROC) and 88 % (balanced accuracy) with plain percentiles, in 85 %
    and 84 % with BCa, and in 94 % and 95 % with these.

    Two things no bootstrap mends: a metric that is perfect in every subject gets an interval of no width, and the ECE
    of a resample is larger than that of new subjects, so that its interval lies high.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        subjects: Name of each cell's subject, N of them. If all are None, or `subjects` itself is, cells are drawn
            instead, within their class, and the result says so.
        metrics: Names of the metrics; None takes all that `evaluation.metrics` gives.
        resamples: Number of resamples.
        seed: Seed of the draws; the same seed gives the same intervals.
        level: Nominal coverage, between 0 and 1.
        threshold: As in `evaluation.metrics`.

    Returns:
        A `Bootstrap`. Its values are those of `evaluation.metrics`. Bounds are NaN where a metric depends on a class
        with one subject only, whose resamples are all alike and would pretend that nothing varies.

    Raises:
        DataError: An array or number is not as said here, or only some of the subjects are known.
        UnknownNameError: There is no such metric.

    Example:
        >>> labels = [0, 0, 1, 1, 0, 0, 1, 1]
        >>> scores = [0.1, 0.2, 0.7, 0.8, 0.3, 0.6, 0.4, 0.9]
        >>> found = bootstrap_over_subjects(labels, scores, ["a", "a", "b", "b", "c", "c", "d", "d"])
        >>> found.unit, str(found["specificity"])
        ('subject', '0.750 (0.500 to 1.000)')
    """
    cells = _Cells(*checked_predictions(labels, probabilities), threshold)
    names = _checked_metrics(metrics, cells.names)
    return _bootstrap(
        cells.labels,
        subjects,
        {name: float(values[0]) for name, values in cells.whole(names).items()},
        lambda counts, units: cells.resampled(counts, units, names),
        (resamples, seed, level),
    )


def paired_difference(
    labels: npt.ArrayLike,
    probabilities_a: npt.ArrayLike,
    probabilities_b: npt.ArrayLike,
    subjects: Subjects,
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    thresholds: tuple[float, float] = (0.5, 0.5),
) -> Bootstrap:
    """Give the difference a - b of two models on the same cells an interval.

    Both are measured on the same resamples, so that what makes a subject hard for both cancels out. That two separate
    intervals overlap does not mean that two models do not differ; that this one holds 0 means that it is not shown.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities_a: Shape (N, K), or (N,) for two classes.
        probabilities_b: Likewise, of the other model, with the same number of classes.
        subjects: As in `bootstrap_over_subjects`.
        metrics: As in `bootstrap_over_subjects`.
        resamples: Number of resamples.
        seed: Seed of the draws.
        level: Nominal coverage, between 0 and 1.
        thresholds: The threshold of a and that of b.

    Returns:
        A `Bootstrap` whose values are metric of a - metric of b.

    Raises:
        DataError: An array or number is not as said here, or only some of the subjects are known.
        UnknownNameError: There is no such metric.

    Example:
        >>> labels, subjects = [0, 0, 1, 1], ["a", "b", "c", "d"]
        >>> print(paired_difference(labels, [0.1, 0.2, 0.8, 0.9], [0.6, 0.7, 0.8, 0.9], subjects)["specificity"])
        1.000 (1.000 to 1.000)
    """
    a = _Cells(*checked_predictions(labels, probabilities_a), thresholds[0])
    b = _Cells(*checked_predictions(labels, probabilities_b), thresholds[1])
    if a.classes != b.classes:
        raise DataError(f"The models have {a.classes} and {b.classes} classes: compare models of the same classes.")
    names = _checked_metrics(metrics, a.names)
    whole_a, whole_b = a.whole(names), b.whole(names)

    def difference(counts: FloatArray, units: IntArray) -> dict[str, FloatArray]:
        of_a, of_b = a.resampled(counts, units, names), b.resampled(counts, units, names)
        return {name: of_a[name] - of_b[name] for name in names}

    values = {name: float(whole_a[name][0]) - float(whole_b[name][0]) for name in names}
    return _bootstrap(a.labels, subjects, values, difference, (resamples, seed, level))


def _bootstrap(
    labels: IntArray,
    subjects: Subjects,
    values: dict[str, float],
    measure: Callable[[FloatArray, IntArray], dict[str, FloatArray]],
    settings: tuple[int, int, float],
) -> Bootstrap:
    """Resample, `measure` (counts and units to values by name), and take the percentiles."""
    resamples, seed, level = settings
    if isinstance(resamples, bool) or not isinstance(resamples, int | np.integer) or resamples < 1:
        raise DataError(f"resamples is {resamples!r}: give a whole number above 0.")
    if not 0 < level < 1:
        raise DataError(f"level is {level!r}: give a share between 0 and 1, such as 0.95.")
    named = _subject_codes(subjects, len(labels))
    units = np.arange(len(labels)) if named is None else named[1]
    strata = _strata(labels, units)
    chunks = [measure(counts, units) for counts in _draws([*strata.values()], int(resamples), seed, len(labels))]
    sizes = np.bincount(units)
    effective = {label: _effective_number(sizes[stratum]) for label, stratum in strata.items()}
    intervals = {}
    for name, value in values.items():
        # Only these two depend on one class alone.
        label = {"specificity": 0, "sensitivity": 1}.get(name)
        number = min(effective.values()) if label is None or label not in effective else effective[label]
        drawn = np.concatenate([chunk[name] for chunk in chunks])
        intervals[name] = Interval(value, *_expanded_percentiles(drawn, level, number))
    return Bootstrap("cell" if named is None else "subject", int(resamples), float(level), seed, intervals)


def _strata(labels: IntArray, units: IntArray) -> dict[int, IntArray]:
    """Units by class if each has one class, else all in one group under -1."""
    pairs = np.unique(np.stack([units, labels]), axis=1)  # sorted by unit
    count = int(units.max()) + 1
    if pairs.shape[1] > count:
        return {-1: np.arange(count)}
    return {int(label): pairs[0, pairs[1] == label] for label in np.unique(pairs[1])}


def _draws(strata: list[IntArray], resamples: int, seed: int, cells: int) -> Iterator[FloatArray]:
    """How often each unit is drawn, in arrays of shape (part of the resamples, units)."""
    rng = np.random.default_rng(seed)
    count = sum(map(len, strata))
    part = max(1, _WEIGHTS_AT_A_TIME // cells)
    for start in range(0, resamples, part):
        size = min(part, resamples - start)
        drawn = [stratum[rng.integers(len(stratum), size=(size, len(stratum)))] for stratum in strata]
        places = np.concatenate(drawn, axis=1) + count * np.arange(size)[:, None]
        yield np.bincount(places.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def _effective_number(sizes: IntArray) -> float:
    """How many units of equal size say as much as units of these sizes (Kish 1965); 1 for one unit."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _expanded_percentiles(values: FloatArray, level: float, number: float) -> tuple[float, float]:
    """Percentile interval of resampled values with the tails of Student's t for `number` units (Hesterberg 2015)."""
    defined = values[~np.isnan(values)]
    if not len(defined) or number <= 1:
        return math.nan, math.nan
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(stdtrit(number - 1, (1 - level) / 2) * math.sqrt(number / (number - 1))))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _subject_codes(subjects: Subjects, cells: int) -> tuple[list[str], IntArray] | None:
    """Sorted names and the index of each cell's subject; None if no subject is known."""
    if subjects is None:
        return None
    if isinstance(subjects, str) or len(subjects) != cells:
        raise DataError(f"subjects must hold one name for each of the {cells} cells: give a list of {cells}.")
    unknown = [index for index, subject in enumerate(subjects) if subject is None]
    if len(unknown) == cells:
        return None
    if unknown:
        raise DataError(
            f"{len(unknown)} of {cells} cells have no subject, the first at index {unknown[0]}: name them or leave "
            "these cells out."
        )
    wrong = next((index for index, subject in enumerate(subjects) if not isinstance(subject, str)), None)
    if wrong is not None:
        raise DataError(f"subjects[{wrong}] is {subjects[wrong]!r}: give names as text, or None.")
    names = sorted({str(subject) for subject in subjects})
    place = {name: index for index, name in enumerate(names)}
    return names, np.array([place[str(subject)] for subject in subjects])


def _checked_metrics(wanted: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    if wanted is None:
        return tuple(known)
    wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in wanted:
        if name not in known:
            raise UnknownNameError(_unknown_metric(name, known))
    return wanted


def _unknown_metric(name: object, known: Sequence[str] | dict[str, Interval]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"There is no metric {name!r}: " + (f"did you mean {close[0]!r}?" if close else f"use {', '.join(known)}.")


# --------------------------------------------------------------------------------------------------------------------
# Subject by subject


def per_subject(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    class_names: Sequence[str],
    threshold: float = 0.5,
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
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold is {threshold!r}: give a probability from 0 to 1.")
    named = _subject_codes(subjects, len(truth))
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
            "label": str(class_names[first[index]]) if first[index] == last[index] else "mixed",
            "cells": int(count[index]),
            "mean_probability": probability,
            "share_called_last": share_last,
            "share_correct": share_correct,
        }
        for index, (name, (probability, share_last, share_correct)) in enumerate(zip(names, rows, strict=True))
    ]


# --------------------------------------------------------------------------------------------------------------------
# The baseline that a network must beat


def cell_area(image: npt.ArrayLike) -> float:
    """Measure a segmented cell on black: the pixels in which any channel is above 0.

    Args:
        image: A frame as `images.as_image` takes it: shape (height, width, 3), RGB, 0 to 255.

    Returns:
        The area in pixels of the official 450-pixel C-NMC 2019 frame, that is pixels x (450 / shorter side)². There,
        leukaemic cells cover 36,244 pixels on average and normal ones 26,544.

    Raises:
        ImageError: The array is not such an image.

    Example:
        >>> frame = np.zeros((225, 225, 3), np.uint8)
        >>> frame[:10, :10, 2] = 80
        >>> cell_area(frame)
        400.0
    """
    pixels = as_image(image)
    return float(np.count_nonzero(pixels.any(axis=2)) * (OFFICIAL_SIDE / min(pixels.shape[:2])) ** 2)


def area_baseline(train_area: npt.ArrayLike, train_labels: npt.ArrayLike, test_area: npt.ArrayLike) -> FloatArray:
    """Predict the class from the area of the cell alone: what a ruler knows.

    Leukaemic cells are larger: area alone reaches an AUROC of 0.84 on fold_0 of C-NMC 2019 and of 0.87 on fold_1, yet
    says nothing on some other subjects. Logistic regression on the standardised logarithm of the area, no class
    weights, scikit-learn's default penalty (C = 1), which keeps the slope finite where areas separate the classes.

    Args:
        train_area: Areas above 0, shape (N,), such as those of `cell_area`.
        train_labels: 0 or 1, shape (N,), both of which must occur.
        test_area: Areas above 0, shape (M,), in the same unit.

    Returns:
        float64 probabilities of the class 1, shape (M,).

    Raises:
        DataError: An array has another shape or range, or the labels hold one class only.

    Example:
        >>> area_baseline([20e3, 24e3, 30e3, 40e3], [0, 0, 1, 1], [20e3, 40e3]) > 0.5
        array([False,  True])
    """
    train, test = _log_area(train_area, "train_area"), _log_area(test_area, "test_area")
    # Checked as predictions, because labels are checked there.
    labels, _ = checked_predictions(train_labels, np.full(len(train), 0.5))
    if len(np.unique(labels)) < 2:
        raise DataError("train_labels hold one class only: give cells of both.")
    from sklearn.linear_model import LogisticRegression

    mean, spread = train.mean(), train.std() or 1.0
    model = LogisticRegression().fit((train - mean)[:, None] / spread, labels)
    return np.asarray(model.predict_proba((test - mean)[:, None] / spread)[:, 1], np.float64)


def _log_area(area: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(area)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        raise DataError(f"{name} has the shape {array.shape} and dtype {array.dtype}: give one number a cell.")
    wrong = np.flatnonzero(~((array > 0) & (array < np.inf)))
    if len(wrong):
        raise DataError(f"{name}[{wrong[0]}] is {array[wrong[0]]}: give areas above 0, so leave out black frames.")
    return np.log(array.astype(np.float64))
