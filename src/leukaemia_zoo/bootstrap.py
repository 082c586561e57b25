"""How sure one can be of a metric: intervals for new subjects, and for the difference of two models.

Conventions are those of `evaluation`.

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

from leukaemia_zoo.calibration import FloatArray, IntArray, checked_predictions
from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.evaluation import Subjects, WeightedCells, subject_codes

# Cell weights that are held at a time: 16 MB, small enough to stay in the cache and large enough to amortise Python.
_WEIGHTS_AT_A_TIME = 2_000_000


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
    named = subject_codes(subjects, len(labels))
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
