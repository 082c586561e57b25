"""When to ask a human: limits below which a class is ruled out, found on people who were not trained on.

A cell of a class of a new person falls below the limit of that class with at most the stated miss rate. People are
exchangeable, cells of one person are not independent: the limit is the quantile of hierarchical conformal prediction
(Lee, Barber and Willett 2023, doi 10.48550/arXiv.2306.06342), in which every person counts alike and one more person,
of whom nothing is known, counts among them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.common.limits import UNCERTAIN_CODE, VerdictLimits, verdict_codes
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, Subjects, checked_predictions, subject_codes

MISS_RATES = (0.02, 0.05, 0.1, 0.2)
"""The rates that limits are kept for."""

_DEFAULT_RATE, _DEFAULT_RATE_OF_LAST = 0.1, 0.05
"""To miss the last class, the disease, is worse than to raise a false alarm."""


def fit_limits(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    class_names: Sequence[str],
    rates: Sequence[float] = MISS_RATES,
) -> VerdictLimits:
    """Limits from predictions of cells of people whom the network was not trained on.

    Args:
        labels: Int (N,).
        probabilities: Float (N, classes), calibrated.
        subjects: Of each cell; None where unknown, which counts the cell as a person of its own.
        class_names: In the order of the columns.
        rates: Miss rates to keep limits for, rising; the default rates must be among them.

    Example:
        >>> labels = [0] * 30 + [1] * 30
        >>> p = np.concatenate([np.linspace(0.0, 0.6, 30), np.linspace(0.4, 1.0, 30)])
        >>> limits = fit_limits(labels, np.stack([1 - p, p], 1), [f"{n}" for n in range(60)], ("hem", "all"))
        >>> limits.at(0.1).round(2).tolist()
        [0.44, 0.44]
    """
    known, p = checked_predictions(labels, probabilities)
    found = subject_codes(subjects, len(known))
    owners = np.arange(len(known)) if found is None else found[1]
    weights = _alike(owners)
    limits, people = [], []
    for label in range(p.shape[1]):
        rows = known == label
        people.append(len(np.unique(owners[rows])))
        limits.append(tuple(_limit(p[rows, label], owners[rows], rate) for rate in rates))
    last = len(class_names) - 1
    default = tuple(_DEFAULT_RATE_OF_LAST if label == last else _DEFAULT_RATE for label in range(len(class_names)))
    result = VerdictLimits(tuple(class_names), tuple(rates), tuple(limits), tuple(people), default, 0.0)
    uncertain = verdict_codes(p, result.at()) == UNCERTAIN_CODE
    return dataclasses.replace(result, referred=min(1.0, float(weights @ uncertain)))  # which rounds


def _alike(owners: IntArray) -> FloatArray:
    """Weight of each cell, adding up to 1, so that people count alike."""
    _, person, counts = np.unique(owners, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(counts) * counts[person]))


def _limit(own: FloatArray, owners: IntArray, rate: float) -> float:
    """The highest limit below which at most the allowed share of the cells lies, people counting alike."""
    people = len(np.unique(owners))
    # One more person counts among them whose cells may all lie below every limit.
    allowed = 1.0 - (1.0 - rate) * (people + 1) / people if people else -1.0
    if allowed < 0:
        return 0.0
    order = np.argsort(own)
    below = np.cumsum(_alike(owners)[order])
    # A cell at the limit is not ruled out: the first cell that must stay sets it.
    first = int(np.searchsorted(below, allowed + 1e-12, side="right"))
    return float(own[order][min(first, len(own) - 1)])


def coverage(
    labels: IntArray, codes: IntArray, subjects: Subjects, class_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """For each class, over its people, each counting alike: the shares right, missed and referred, and the people.

    A cell is missed where the verdict is another class; "uncertain" is no miss.
    """
    found = subject_codes(subjects, len(labels))
    owners = np.arange(len(labels)) if found is None else found[1]
    result = {}
    for label, name in enumerate(class_names):
        rows = labels == label
        weights = _alike(owners[rows]) if rows.any() else np.zeros(0)
        own = codes[rows]
        result[name] = {
            "right": float(weights @ (own == label)) if rows.any() else math.nan,
            "missed": float(weights @ ((own != label) & (own != UNCERTAIN_CODE))) if rows.any() else math.nan,
            "referred": float(weights @ (own == UNCERTAIN_CODE)) if rows.any() else math.nan,
            "people": len(np.unique(owners[rows])),
        }
    return result
