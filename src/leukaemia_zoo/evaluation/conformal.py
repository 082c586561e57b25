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
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.table import class_key
from leukaemia_zoo.common.limits import UNCERTAIN_CODE, VerdictLimits, verdict_codes
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, Subjects, checked_predictions, subject_codes
from leukaemia_zoo.evaluation.intervals import Resampling

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
    """Limits from calibrated predictions of cells of people whom the network was not trained on.

    A cell without a subject counts as a person of its own. The default rates must be among the rates, which rise.

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
        given = _verdicts(codes[rows], label)
        shares = {kind: float(weights @ cells) if rows.any() else math.nan for kind, cells in given.items()}
        result[name] = {**shares, "people": len(np.unique(owners[rows]))}
    return result


def _verdicts(codes: IntArray, label: int) -> dict[str, npt.NDArray[np.bool_]]:
    """What verdicts on cells of one class are: the class, another one, or none."""
    right, referred = codes == label, codes == UNCERTAIN_CODE
    return {"right": right, "missed": ~right & ~referred, "referred": referred}


def judge_limits(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    limits: VerdictLimits,
    class_names: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Any]]:
    """How limits hold on people whom neither the network nor the limits have seen, every person counting alike.

    For each class with cells `promised`, its default miss rate; `missed`, `referred` and `right` as `value`, `low` and
    `high` with an interval over people; and `people`.

    Example:
        >>> labels, p = [0] * 30 + [1] * 30, np.linspace(0, 1, 60)
        >>> tables = np.stack([1 - p, p], axis=1)
        >>> limits = fit_limits(labels, tables, None, ("hem", "all"))
        >>> found = judge_limits(labels, tables, None, limits, ("hem", "all"), resamples=50)
        >>> found["all"]["promised"], found["all"]["missed"]["value"], found["all"]["people"]
        (0.05, 0.0, 30)
    """
    known, p = checked_predictions(labels, probabilities)
    keys = [class_key(name) for name in limits.class_names]
    places = [keys.index(class_key(name)) for name in class_names]
    codes = verdict_codes(p, limits.at()[places])
    resampling = Resampling(known, subjects, resamples, seed, level)
    whole = coverage(known, codes, subjects, class_names)
    result: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(class_names):
        own = known == label
        if not own.any():
            continue
        verdicts = {kind: own & rows for kind, rows in _verdicts(codes, label).items()}

        def shares(counts: FloatArray, units: IntArray, own: Any = own, verdicts: Any = verdicts) -> dict[str, Any]:
            cells = np.bincount(units[own], minlength=counts.shape[1])
            people = counts[:, cells > 0]
            with np.errstate(invalid="ignore"):
                return {
                    kind: (people @ (np.bincount(units[rows], minlength=len(cells))[cells > 0] / cells[cells > 0]))
                    / people.sum(axis=1)
                    for kind, rows in verdicts.items()
                }

        drawn = resampling.draw(shares)
        result[name] = {
            "promised": limits.default[places[label]],
            **{kind: resampling.interval(whole[name][kind], drawn[kind], label).to_dict() for kind in verdicts},
            "people": whole[name]["people"],
        }
    return result
