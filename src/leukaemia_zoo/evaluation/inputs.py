"""What every number is computed from: labels, probabilities, weights and subjects, checked once.

Conventions of the whole wing: N cells, K classes, labels from 0 to K - 1. Probabilities have the shape (N, K) with rows
that sum to 1, or for two classes (N,), the probability of the last class. Of two classes the last is the positive one.
Subjects are one name a cell, None where the person is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.common.reading import whole
from leukaemia_zoo.errors import DataError

Subjects = Sequence[str | None] | None

FloatArray = npt.NDArray[np.float64]

Threshold = float | FloatArray
"""One for all cells, or an array of shape (N,) where it was chosen fold by fold."""

IntArray = npt.NDArray[np.int64]

# Softmax in float16 misses a sum of 1 by up to this much; what misses it by more is not a probability.
_SUM_TOLERANCE = 1e-3


def subject_codes(subjects: Subjects, cells: int) -> tuple[list[str], IntArray] | None:
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


def checked_predictions(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
    """Int64 labels (N,) and float64 probabilities (N, K), checked; they may be (N,), of the last of two classes.

    Example:
        >>> checked_predictions([0, 1], [0.25, 0.5])[1]
        array([[0.75, 0.25],
               [0.5 , 0.5 ]])
    """
    table = numbers(probabilities, "probabilities")
    if table.ndim == 1:
        table = np.stack([1 - table, table], axis=1)
    if table.ndim != 2 or table.shape[1] < 2:
        mend = "drop the last axis, probabilities[:, 0]" if table.shape[1:] == (1,) else "give (N, classes) or (N,)"
        raise DataError(f"probabilities have the shape {table.shape}: {mend}.")
    truth = checked_labels(labels, len(table), table.shape[1])
    wrong = np.flatnonzero(~((table >= 0) & (table <= 1)).all(axis=1))  # NaN is neither
    if len(wrong):
        raise DataError(f"probabilities[{wrong[0]}] is outside 0 to 1: give probabilities, not logits.")
    sums = table.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _SUM_TOLERANCE)
    if len(wrong):
        raise DataError(
            f"probabilities[{wrong[0]}] sums to {sums[wrong[0]]:.4g}: each row must sum to 1 over the classes."
        )
    return truth, table


def confidence_and_hits(labels: IntArray, probabilities: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return what each cell was promised and what was found, both of shape (N,), for checked predictions.

    For two classes P(last class) and whether the cell is of it; for more the highest probability and whether its class
    is right.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], (labels == 1).astype(np.float64)
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(np.float64)


def bin_index(confidence: FloatArray, bins: int) -> IntArray:
    """Return the index of the bin of equal width, 0 to `bins` - 1, of each value from 0 to 1."""
    return np.minimum((confidence * whole(bins, "bins")).astype(np.int64), bins - 1)


def numbers(values: Any, name: str) -> FloatArray:
    """An array of finite float64 numbers, or a DataError that names it."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # ragged lists
        raise DataError(f"{name} cannot become an array: give numbers of one shape.") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name} have the dtype {array.dtype}: give numbers.")
    if not array.size:
        raise DataError(f"{name} are empty: give at least one cell.")
    return array.astype(np.float64)


def checked_labels(labels: Any, cells: int, classes: int) -> IntArray:
    """Labels as integers of shape (N,) from 0 to K - 1, or a DataError."""
    array = np.asarray(labels)
    if array.shape != (cells,):
        raise DataError(f"labels have the shape {array.shape}: give one label for each of the {cells} cells.")
    if array.dtype.kind not in "iub":
        raise DataError(f"labels have the dtype {array.dtype}: give whole numbers from 0 to {classes - 1}.")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise DataError(f"labels[{wrong[0]}] is {array[wrong[0]]}: give whole numbers from 0 to {classes - 1}.")
    return array.astype(np.int64)


def checked_weights(weights: Any, cells: int) -> FloatArray:
    """Weights of shape (N,) that sum to 1, or a DataError; None weighs every cell alike."""
    if weights is None:
        return np.full(cells, 1 / cells)
    array = numbers(weights, "weights")
    if array.shape != (cells,):
        raise DataError(f"weights have the shape {array.shape}: give one weight for each of the {cells} cells.")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() > 0):
        raise DataError("weights hold a negative or non-finite number, or zeros only: give numbers from 0 on.")
    return array / array.sum()


# A softmax in float16 misses a sum of 1 by up to the first; no softmax is below 0 by more than rounding, the second.
_SUM_TOLERANCE, _RANGE_TOLERANCE = 1e-3, 1e-6


def check_probabilities(name: str, output: npt.ArrayLike, cells: int, classes: int) -> FloatArray:
    """Probabilities of shape (N, K) from what a model gave, or a refusal by its name.

    For two classes (N,) or (N, 1) are those of the last. A number may miss the range from 0 to 1 by 1e-6, and a row a
    sum of 1 by 1e-3: it is divided by its sum.

    Example:
        >>> check_probabilities("ruler", [0.25, 1.0], cells=2, classes=2)
        array([[0.75, 0.25],
               [0.  , 1.  ]])
    """
    try:
        table = np.asarray(output)
    except (TypeError, ValueError):  # ragged lists
        table = np.array(None)
    if table.dtype.kind not in "fiub":
        raise DataError(f"The model {name!r} gave no table of numbers: let it give one probability for each class.")
    table = table.astype(np.float64)
    if classes == 2 and table.shape in ((cells,), (cells, 1)):
        table = table.reshape(cells)
    elif table.shape != (cells, classes):
        raise DataError(
            f"The model {name!r} gave the shape {table.shape}: {cells} cells of {classes} classes need "
            f"({cells}, {classes})" + (f" or ({cells},)." if classes == 2 else ".")
        )
    by_row = table.reshape(cells, -1)
    wrong = np.flatnonzero(~np.isfinite(by_row).all(axis=1))
    if len(wrong):
        raise DataError(f"The model {name!r} gave NaN or infinity in row {wrong[0]}: check its weights and its input.")
    # Of a vector the rest to 1 is left out, so that there is no sum to miss.
    missed = np.abs(by_row.sum(axis=1) - 1) if table.ndim == 2 else np.zeros(cells)
    low, high = by_row.min(axis=1), by_row.max(axis=1)
    outside = np.flatnonzero((low < -_RANGE_TOLERANCE) | (high > 1 + _SUM_TOLERANCE))
    if len(outside):
        row = outside[0]
        if table.ndim == 2 and missed.max() <= _SUM_TOLERANCE:
            raise DataError(
                f"The model {name!r} gave the probability {low[row]:.4g} in row {row}: none may be below 0."
            )
        raise DataError(
            f"The output of the model {name!r} looks like logits, {low[row] if low[row] < 0 else high[row]:.4g} in row "
            f"{row}: put a {'softmax' if table.ndim == 2 else 'sigmoid'} behind it."
        )
    wrong = np.flatnonzero(missed > _SUM_TOLERANCE)
    if len(wrong):
        raise DataError(
            f"The probabilities of the model {name!r} sum to {by_row[wrong[0]].sum():.4g} in row {wrong[0]}: each row "
            "must sum to 1 over the classes."
        )
    table = np.clip(table, 0, 1)
    if table.ndim == 1:
        return np.stack([1 - table, table], axis=1)
    return np.asarray(table / table.sum(axis=1, keepdims=True), np.float64)
