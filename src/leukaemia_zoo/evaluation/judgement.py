"""All that is said of one model in a report: metrics, operating points, calibration, subjects, subgroups, curves.

Conventions are those of `inputs`; the intervals come from `intervals`, the choices from `thresholds`. Results are
plain data that JSON can hold, with None for what is not defined and intervals as `{"value", "low", "high"}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.table import MIXED
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.calibration import calibration_slope_intercept, reliability, resampled_slope_intercept
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, Subjects, checked_predictions, subject_codes
from leukaemia_zoo.evaluation.intervals import (
    Interval,
    Resampling,
    auroc_interval,
    bootstrap_over_subjects,
    wilson_interval,
)
from leukaemia_zoo.evaluation.metrics import PER_CLASS_METRICS, WeightedCells, called_classes, per_subject
from leukaemia_zoo.evaluation.thresholds import (
    OPERATING_POINTS,
    Chooser,
    choose_temperature,
    chooser,
    curves,
    operating_point,
    predictive_intervals,
    scaled,
)

SMALLEST_GROUP = 20
"""Cells below which a subgroup is only counted: a metric of fewer says nothing."""

_MOST_WRONG = 12

_GROUP_METRICS = ("auroc", "weighted_f1", "balanced_accuracy", "sensitivity", "specificity")
_CALIBRATION_METRICS = ("ece", "brier", "log_loss")


def judge(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    subjects: Subjects,
    class_names: Sequence[str],
    *,
    folds: npt.ArrayLike | None,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    prevalence: float | None = None,
    subgroups: Mapping[str, Sequence[str]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Say all that a report says of one model.

    Every interval of cells is that of `bootstrap_over_subjects`, all from the same resamples; those of a subgroup from
    resamples of its own subjects. Slope and intercept of the calibration have a bias, so that their percentiles are
    turned round their value (`Resampling.interval`). The interval of a small calibration error lies high: in
    simulations of 40 subjects, nominal 95 % intervals held a true ECE of 0.05 in 75 %, of 0.1 in 97 %, of 0.12 in 95 %.

    Thresholds and temperatures are chosen on other cells than those that they are judged on, and stay as they are in
    the resamples: the intervals of an operating point, and of the calibration after scaling, hold for these thresholds
    and temperatures. They leave out how much others, chosen on other subjects, would have differed. With folds, each
    has a threshold of its own, and the models of the folds may differ as well.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes; see `check_probabilities`.
        subjects: Name of each cell's subject, N of them; None, or all None, where they are not known.
        class_names: Names of the K classes, in the order of the labels.
        folds: Whole number of the fold of each cell, no subject in two of them. None with `validation`, or where there
            are too few subjects: then there are no operating points but 0.5 and no calibration after scaling.
        validation: Labels and probabilities of other cells to choose on, instead of the other folds.
        prevalence: Share of the last of two classes, between 0 and 1, for predictive values, taken as known; None
            takes the share in these cells.
        subgroups: Values by the name of a column, one text a cell.
        resamples: Number of resamples.
        seed: Seed of the draws.
        level: Nominal coverage of the intervals.

    Returns:
        What stands below a model in report.json; docs/benchmark.md has it key by key. What is defined for two classes
        only is None for more.

    Raises:
        DataError: Something is not as said here.
        LeakError: A subject has cells in several folds.

    Example:
        >>> scores = [0.1, 0.2, 0.7, 0.4, 0.3, 0.6, 0.8, 0.9]
        >>> names = ["a", "a", "b", "b", "c", "c", "d", "d"]
        >>> folds = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> found = judge([0, 0, 1, 1, 0, 0, 1, 1], scores, names, ["hem", "all"], folds=folds, resamples=200)
        >>> found["metrics"]["sensitivity"], found["confusion"], found["operating_points"]["youden"]["thresholds"]
        ({'value': 0.75, 'low': 0.5, 'high': 1.0}, [[3, 1], [1, 3]], [0.7, 0.30000000000000004])
    """
    truth, table = checked_predictions(labels, probabilities)
    names = _checked_names(class_names, table.shape[1])
    two = len(names) == 2
    if prevalence is not None and not 0 < prevalence < 1:
        raise DataError(f"prevalence is {prevalence!r}: give the share of {names[-1]} between 0 and 1.")
    groups = _checked_groups(subgroups, len(truth))
    choices = chooser(truth, table, subjects, folds, validation)
    named = subject_codes(subjects, len(truth))
    resampling = Resampling(truth, subjects, resamples, seed, level)
    share = float((truth == 1).mean()) if prevalence is None else float(prevalence)
    at_half = WeightedCells(truth, table, 0.5)
    of_classes = [f"{metric}:{label}" for metric in PER_CLASS_METRICS for label in range(len(names))]
    intervals = _plain(resampling.metrics(at_half, (*at_half.names, *of_classes)))
    shares = [1 - share, share] if two else (np.bincount(truth, minlength=len(names)) / len(truth)).tolist()
    predictive = [
        _plain(predictive_intervals(at_half, resampling, of_class, label)) for label, of_class in enumerate(shares)
    ]
    people = means = rows = verdicts = None
    if named is not None:
        people = named[1]
        means = np.stack([np.bincount(people, column) for column in table.T], axis=1) / np.bincount(people)[:, None]
        rows = _subject_rows(truth, table, subjects, names, means)
        verdicts = _subject_verdicts(rows, means, names, resampling)
    return {
        "unit": resampling.unit,
        "cells": len(truth),
        "subjects": None if named is None else len(named[0]),
        "resamples": resampling.resamples,
        "seed": resampling.seed,
        "level": resampling.level,
        "folds": None if choices.folds is None else list(choices.folds),
        "metrics": {name: intervals[name] for name in at_half.names},
        "predictive_values": {"prevalence": share, "stated": prevalence is not None} | predictive[1] if two else None,
        "per_class": {
            name: {
                **_counted(truth == label, people),
                **{metric: intervals[f"{metric}:{label}"] for metric in PER_CLASS_METRICS},
                "prevalence": shares[label],
                **predictive[label],
            }
            for label, name in enumerate(names)
        },
        "confusion": np.bincount(len(names) * truth + called_classes(table), minlength=len(names) ** 2)
        .reshape(len(names), -1)
        .tolist(),
        "operating_points": {
            rule: operating_point(truth, table, choices, resampling, rule, share)
            for rule in OPERATING_POINTS
            if choices.pairs or rule == "0.5"
        }
        if two
        else None,
        "calibration": _calibration(truth, table, choices, resampling),
        "per_subject": rows,
        "worst_subject": None
        if rows is None
        else min(rows, key=lambda row: (row["share_correct"], -row["cells"], row["subject"])),
        "subject_verdicts": verdicts,
        "subgroups": {
            column: {
                value: _group(truth, table, subjects, people, np.flatnonzero(values == value), resampling)
                for value in np.unique(values).tolist()
            }
            for column, values in groups.items()
        },
        "curves": curves(truth, table, names),
        "most_wrong": _most_wrong(truth, table, subjects, names),
    }


# --------------------------------------------------------------------------------------------------------------------
# Over cells


def _plain(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: interval.to_dict() for name, interval in intervals.items()}


def _calibration(
    labels: IntArray, table: FloatArray, choices: Chooser, resampling: Resampling
) -> dict[str, dict[str, Any] | None]:
    before = _calibrated(labels, table, resampling)
    if not choices.pairs:
        return {"before": before, "after": None}
    temperatures = choices.choose(choose_temperature)
    after = scaled(table, choices.by_cell([temperature or 1.0 for temperature in temperatures]))
    return {
        "before": before,
        "after": {"temperatures": temperatures, "chosen_on": choices.description}
        | _calibrated(labels, after, resampling),
    }


def _calibrated(labels: IntArray, table: FloatArray, resampling: Resampling) -> dict[str, Any]:
    result: dict[str, Any] = dict(_plain(resampling.metrics(WeightedCells(labels, table, 0.5), _CALIBRATION_METRICS)))
    lines = ("slope", "intercept")
    if table.shape[1] == 2:
        whole = calibration_slope_intercept(labels, table)
        drawn = resampling.draw(
            lambda counts, units: dict(zip(lines, resampled_slope_intercept(labels, table, counts, units), strict=True))
        )
        for name, value in zip(lines, whole, strict=True):
            result[name] = resampling.interval(value, drawn[name], mirrored=True).to_dict()
        result["fits"] = int(np.count_nonzero(~np.isnan(drawn["slope"])))
    else:
        result |= {name: dict.fromkeys(("value", "low", "high")) for name in lines} | {"fits": None}
    return result | {"bins": reliability(labels, table)}


def _most_wrong(labels: IntArray, table: FloatArray, subjects: Subjects, names: Sequence[str]) -> list[dict[str, Any]]:
    called = called_classes(table)
    wrong = np.flatnonzero(called != labels)
    sure = table[wrong, called[wrong]]
    return [
        {
            "row": int(row),
            "subject": None if subjects is None else subjects[row],
            "label": names[labels[row]],
            "called": names[called[row]],
            "probability": float(table[row, called[row]]),
        }
        for row in wrong[np.argsort(-sure, kind="stable")][:_MOST_WRONG]
    ]


# --------------------------------------------------------------------------------------------------------------------
# Over subjects and groups


def _subject_rows(
    labels: IntArray, table: FloatArray, subjects: Subjects, names: Sequence[str], means: FloatArray
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in per_subject(labels, table, subjects, names)]
    for row, called in zip(rows, called_classes(means), strict=True):
        row["verdict"] = names[called]
        row["right"] = None if row["label"] == MIXED else row["verdict"] == row["label"]
    return rows


def _subject_verdicts(
    rows: list[dict[str, Any]], means: FloatArray, names: Sequence[str], resampling: Resampling
) -> dict[str, Any]:
    kept = [index for index, row in enumerate(rows) if row["right"] is not None]
    labels = np.array([names.index(rows[index]["label"]) for index in kept], np.int64)
    right = np.array([rows[index]["right"] for index in kept], np.bool_)
    level, two = resampling.level, len(names) == 2

    def share(chosen: npt.NDArray[np.bool_]) -> dict[str, float | None]:
        return wilson_interval(int(right[chosen].sum()), int(chosen.sum()), level).to_dict()

    if not kept:
        auroc = Interval(math.nan, math.nan, math.nan)
    elif two:
        value = float(WeightedCells(labels, means[kept], 0.5).whole(["auroc"])["auroc"][0])
        auroc = auroc_interval(value, int((labels == 0).sum()), int((labels == 1).sum()), level)
    else:
        settings = (resampling.resamples, resampling.seed, level)
        auroc = bootstrap_over_subjects(labels, means[kept], None, ["auroc"], *settings)["auroc"]
    return {
        "subjects": len(kept),
        "mixed": len(rows) - len(kept),
        "right": int(right.sum()),
        "accuracy": share(np.ones(len(kept), np.bool_)),
        "sensitivity": share(labels == 1) if two else None,
        "specificity": share(labels == 0) if two else None,
        "auroc": auroc.to_dict(),
    }


def _counted(chosen: npt.NDArray[np.bool_], people: IntArray | None) -> dict[str, Any]:
    return {"cells": int(chosen.sum()), "subjects": None if people is None else len(np.unique(people[chosen]))}


def _group(
    labels: IntArray, table: FloatArray, subjects: Subjects, people: IntArray | None, rows: IntArray, all_: Resampling
) -> dict[str, Any]:
    chosen = np.zeros(len(labels), np.bool_)
    chosen[rows] = True
    found = _counted(chosen, people)
    if len(rows) < SMALLEST_GROUP:
        return found | {"metrics": None}
    own = None if subjects is None else [subjects[row] for row in rows]
    cells = WeightedCells(labels[rows], table[rows], 0.5)
    resampling = Resampling(cells.labels, own, all_.resamples, all_.seed, all_.level)
    names = [name for name in _GROUP_METRICS if name in cells.names]
    return found | {"metrics": _plain(resampling.metrics(cells, names))}


# --------------------------------------------------------------------------------------------------------------------
# Checks


def _checked_names(class_names: Sequence[str], classes: int) -> tuple[str, ...]:
    if isinstance(class_names, str) or len(class_names) != classes or len(set(class_names)) != classes:
        raise DataError(f"class_names is {class_names!r}: give one name for each of the {classes} classes.")
    if MIXED in class_names:
        raise DataError("A class is called 'mixed', which is what subjects of several classes are called: rename it.")
    return tuple(class_names)


def _checked_groups(subgroups: Mapping[str, Sequence[str]] | None, cells: int) -> dict[str, npt.NDArray[np.str_]]:
    groups = {}
    for column, values in (subgroups or {}).items():
        if isinstance(values, str) or len(values) != cells or not all(isinstance(value, str) for value in values):
            raise DataError(f"The subgroups by {column!r} must be one text for each of the {cells} cells.")
        groups[column] = np.array(values, np.str_)
    return groups
