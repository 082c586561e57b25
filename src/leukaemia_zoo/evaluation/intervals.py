"""How sure one can be of a metric: intervals for new subjects, and for the difference of two models.

Conventions are those of `inputs`. Intervals come from a bootstrap over subjects. Cells of one person resemble each
other, so that 757 cells of a child are not 757 independent observations; a bootstrap over cells gives intervals that
are several times too narrow.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.common.reading import whole
from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.evaluation.inputs import (
    FloatArray,
    IntArray,
    Subjects,
    Threshold,
    checked_predictions,
    subject_codes,
)
from leukaemia_zoo.evaluation.metrics import WeightedCells

# Cell weights that are held at a time: 16 MB, small enough to stay in the cache and large enough to amortise Python.
_WEIGHTS_AT_A_TIME = 2_000_000

Measure = Callable[[FloatArray, IntArray], dict[str, FloatArray]]
"""From counts of shape (R, units) and the unit of each cell to values of shape (R,) by name."""


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
        found = {name: getattr(self, name) for name in ("unit", "resamples", "level", "seed")}
        return found | {"intervals": {name: interval.to_dict() for name, interval in self.intervals.items()}}


def bootstrap_over_subjects(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    threshold: Threshold = 0.5,
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

    Three things no bootstrap mends: a metric that is perfect in every subject gets an interval of no width; the ECE of
    a resample is larger than that of new subjects, so that its interval lies high; and thresholds stay as they are
    given, so that intervals leave out that other data would have led to other ones.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        subjects: Name of each cell's subject, N of them. If all are None, or `subjects` itself is, cells are drawn
            instead, within their class, and the result says so.
        metrics: Names of the metrics; None takes all that `metrics.metrics` gives.
        resamples: Number of resamples.
        seed: Seed of the draws; the same seed gives the same intervals.
        level: Nominal coverage, between 0 and 1.
        threshold: As in `metrics.metrics`: one number, or one a cell.

    Returns:
        A `Bootstrap`. Its values are those of `metrics.metrics`. Bounds are NaN where a metric depends on a class
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
    cells = WeightedCells(*checked_predictions(labels, probabilities), threshold)
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
    thresholds: tuple[Threshold, Threshold] = (0.5, 0.5),
) -> Bootstrap:
    """Give the difference a - b of two models on the same cells an interval.

    Both are measured on the same resamples, so that what makes a subject hard for both cancels out. That two separate
    intervals overlap does not mean that two models do not differ; that this one holds 0 means that it is not shown.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities_a: Shape (N, K), or (N,) for two classes.
        probabilities_b: Likewise, of the other model, with the same number of classes.
        subjects: As in `bootstrap_over_subjects`, and so are ``metrics``, ``resamples``, ``seed`` and ``level``.
        metrics: Names; None takes all.
        resamples: Number.
        seed: Of the draws.
        level: Nominal coverage.
        thresholds: The threshold of a and that of b, each one number or one a cell.

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
    a = WeightedCells(*checked_predictions(labels, probabilities_a), thresholds[0])
    b = WeightedCells(*checked_predictions(labels, probabilities_b), thresholds[1])
    if a.classes != b.classes:
        raise DataError(f"The models have {a.classes} and {b.classes} classes: compare models of the same classes.")
    names = _checked_metrics(metrics, a.names)
    whole_a, whole_b = a.whole(names), b.whole(names)

    def difference(counts: FloatArray, units: IntArray) -> dict[str, FloatArray]:
        of_a, of_b = a.resampled(counts, units, names), b.resampled(counts, units, names)
        return {name: of_a[name] - of_b[name] for name in names}

    values = {name: float(whole_a[name][0]) - float(whole_b[name][0]) for name in names}
    return _bootstrap(a.labels, subjects, values, difference, (resamples, seed, level))


class Resampling:
    """The resamples of one set of cells, for statistics of any kind; `bootstrap_over_subjects` says how they are drawn.

    Every `draw` passes the same resamples, made anew from the seed, so that what several of them give may be combined
    resample by resample.

    Attributes:
        unit: `"subject"`, or `"cell"` where no subject is known.
        resamples: Number of resamples.
        level: Nominal coverage.
        seed: Seed of the resamples.

    Example:
        >>> resampling = Resampling(np.array([0, 0, 1, 1]), ["a", "b", "c", "d"], resamples=3, seed=0, level=0.95)
        >>> resampling.draw(lambda counts, units: {"cells": counts[:, units].sum(axis=1)})
        {'cells': array([4., 4., 4.])}
    """

    def __init__(self, labels: IntArray, subjects: Subjects, resamples: int, seed: int, level: float) -> None:
        self.resamples = whole(resamples, "resamples")
        if not 0 < level < 1:
            raise DataError(f"level is {level!r}: give a share between 0 and 1, such as 0.95.")
        named = subject_codes(subjects, len(labels))
        self.unit = "cell" if named is None else "subject"
        self.seed, self.level = seed, float(level)
        self._units = np.arange(len(labels)) if named is None else named[1]
        self._strata = _strata(labels, self._units)
        sizes = np.bincount(self._units)
        self._effective = {label: _effective_number(sizes[stratum]) for label, stratum in self._strata.items()}

    def draw(self, measure: Measure) -> dict[str, FloatArray]:
        """Return what `measure` says of each resample, shape (resamples,) each."""
        parts = _draws([*self._strata.values()], self.resamples, self.seed, len(self._units))
        chunks = [measure(counts, self._units) for counts in parts]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def interval(self, value: float, drawn: FloatArray, label: int | None = None, mirrored: bool = False) -> Interval:
        """The interval of a statistic of the cells of one class (`label`) or of all, from what `draw` gave for it.

        `mirrored` turns the percentiles round the value (the basic bootstrap), for a statistic whose bias the resamples
        show once more. In simulations of 40 subjects, nominal 95 % intervals of a calibration slope held the truth in
        88 % without and 93 % with it.
        """
        number = self._effective[label] if label in self._effective else min(self._effective.values())
        low, high = _expanded_percentiles(drawn, self.level, number)
        return Interval(value, 2 * value - high, 2 * value - low) if mirrored else Interval(value, low, high)

    def metrics(self, cells: WeightedCells, names: Sequence[str]) -> dict[str, Interval]:
        """Return the intervals of metrics by name, for the same cells; names are those of `WeightedCells.resampled`."""
        whole = cells.whole(names)
        drawn = self.draw(lambda counts, units: cells.resampled(counts, units, names))
        return {name: self.interval(float(whole[name][0]), drawn[name], _label_of(name)) for name in names}


def _bootstrap(
    labels: IntArray,
    subjects: Subjects,
    values: dict[str, float],
    measure: Measure,
    settings: tuple[int, int, float],
) -> Bootstrap:
    resampling = Resampling(labels, subjects, *settings)
    drawn = resampling.draw(measure)
    intervals = {name: resampling.interval(value, drawn[name], _label_of(name)) for name, value in values.items()}
    return Bootstrap(resampling.unit, resampling.resamples, resampling.level, resampling.seed, intervals)


# --------------------------------------------------------------------------------------------------------------------
# Intervals without resampling, for independent units such as the verdicts on subjects


def wilson_interval(right: int, number: int, level: float = 0.95) -> Interval:
    """Give a share of independent cases Wilson's interval (1927), which has a width even where all are right.

    Example:
        >>> print(wilson_interval(10, 10))
        1.000 (0.722 to 1.000)
    """
    if not number:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.stats import binomtest

    bounds = binomtest(right, number).proportion_ci(level, method="wilson")
    return Interval(right / number, float(bounds.low), float(bounds.high))


def auroc_interval(auroc: float, negatives: int, positives: int, level: float = 0.95) -> Interval:
    """Give the AUROC of independent cases an interval that has a width even where the classes are separated.

    Newcombe (2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
    method 5): all areas whose own standard error, by Hanley and McNeil with both group sizes at their mean, reaches to
    the one that was found.

    Example:
        >>> print(auroc_interval(1.0, 12, 8))
        1.000 (0.793 to 1.000)
    """
    if not negatives or not positives:
        return Interval(math.nan, math.nan, math.nan)
    from scipy.optimize import brentq
    from scipy.special import ndtri

    square, mean = float(ndtri((1 + level) / 2)) ** 2, (negatives + positives) / 2

    def lower(found: float) -> float:
        def excess(area: float) -> float:
            inflation = 2 * mean - 1 - 3 * (mean - 1) / ((2 - area) * (1 + area))
            return (found - area) ** 2 - square * area * (1 - area) * inflation / (negatives * positives)

        # At 1 itself the standard error is 0, so that 1 is a root as well, and not the one that is looked for.
        return 0.0 if found == 0 else float(brentq(excess, 0, min(found, 1 - 1e-9)))

    return Interval(auroc, lower(auroc), 1 - lower(1 - auroc))


# --------------------------------------------------------------------------------------------------------------------
# Drawing


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


def _label_of(name: str) -> int | None:
    """Return the class that a metric depends on alone; None if it depends on all."""
    metric, _, label = name.partition(":")
    if metric in ("recall", "sensitivity") and label:
        return int(label)
    return {"specificity": 0, "sensitivity": 1}.get(name)


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
