"""Whether a probability can be taken at its word, and one temperature that mends it; conventions as in `inputs`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.inputs import (
    FloatArray,
    IntArray,
    bin_index,
    checked_labels,
    checked_predictions,
    checked_weights,
    confidence_and_hits,
    numbers,
)

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""The temperatures between which `fit_temperature` looks; networks are found at 0.5 to 5."""


# A float32 sigmoid saturates at 1 about here, so that probabilities nearer to 0 or 1 carry no further information.
_EPSILON = 1e-7

# Resamples that are fitted together: few enough for the processor's cache. Most need 4 steps; a resample that is all
# but separated needs more.
_FITS_AT_A_TIME, _NEWTON_STEPS, _LAST_STEP = 32, 100, 1e-5


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Find the one temperature T that minimises the log loss of softmax(logits / T).

    Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") changes how sure a network is and
    nothing else: no cell changes its class and AUROC stays. Fit it on validation data of subjects that the network was
    neither trained nor will be tested on.

    Args:
        logits: Finite numbers of shape (N, K), or of shape (N,) for two classes: the logit of the last class against
            the first, what a sigmoid takes.
        labels: Integers of shape (N,), 0 to K - 1; at least two classes must occur.
        weights: Weight of each cell, shape (N,), not negative; None counts every cell once.

    Returns:
        T between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`; above 1 the network was too sure. Where no T inside is best
        the bound comes back: the lower one if every cell is right, the upper one if the logits are worse than chance.

    Raises:
        DataError: An array has another shape or range, only one class has cells with weight, or the logits of every
            cell are equal among its classes, so that every T is as good.

    Example:
        >>> round(fit_temperature([4.0, 4.0, 4.0, -4.0], [1, 1, 0, 0]), 3)  # three of four right, so odds of 3
        3.641
    """
    from scipy.optimize import minimize_scalar

    scores = _checked_logits(logits)
    truth = checked_labels(labels, len(scores), scores.shape[1])
    share = checked_weights(weights, len(scores))
    if len(np.unique(truth[share > 0])) < 2:
        raise DataError("labels hold one class only, from which no temperature can be fitted: give cells of two.")
    if not np.ptp(scores[share > 0], axis=1).any():
        raise DataError("logits are equal for all classes in every cell: check that they come from a trained network.")
    rows = np.arange(len(scores))

    def loss(log_temperature: float) -> float:
        return float(-(share * _log_softmax(scores / math.exp(log_temperature))[rows, truth]).sum())

    # The log loss is convex in 1 / T, so it has one minimum in log T as well, where the steps suit every scale.
    bounds = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    found = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x)
    # The bounded search stops just short of its bounds.
    return math.exp(min((found, *bounds), key=loss))


def apply_temperature(logits: npt.ArrayLike, temperature: float) -> FloatArray:
    """Turn logits into probabilities, softmax(logits / temperature), without overflow.

    Args:
        logits: Finite numbers of shape (N, K), or of shape (N,) for two classes: the logit of the last class against
            the first, what a sigmoid takes.
        temperature: A number above 0; 1 leaves the network as it is.

    Returns:
        float64 probabilities in the shape of `logits`: rows that sum to 1, or the probability of the last class.

    Raises:
        DataError: The logits have another shape or are not finite, or the temperature is not above 0.

    Example:
        >>> apply_temperature([[0.0, 2.0], [0.0, -2000.0]], 2.0).round(3)
        array([[0.269, 0.731],
               [1.   , 0.   ]])
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise DataError(f"temperature is {temperature!r}: give a finite number above 0.")
    probabilities = np.exp(_log_softmax(_checked_logits(logits) / temperature))
    return probabilities[:, 1] if np.ndim(logits) == 1 else probabilities


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15
) -> list[dict[str, float | int | None]]:
    """Compare what was promised with what was found, in bins of equal width.

    For two classes a cell goes to the bin of its probability of the last class, and what is observed is how many cells
    of the bin are of that class. For more classes it is the probability of the most probable class, and how often that
    class was right.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        bins: Number of bins, at least 1. Bin i holds probabilities from i / bins up to, but not including,
            (i + 1) / bins; the last one includes 1.

    Returns:
        One row a bin, in order: `low`, `high`, `confidence` (mean probability), `observed` (share of the cells) and
        `count`. `confidence` and `observed` are None in an empty bin.

    Raises:
        DataError: There is no cell, an array has another shape or range, or `bins` is not a whole number above 0.

    Example:
        >>> for row in reliability([0, 1, 1], [0.2, 0.4, 0.9], bins=2):
        ...     print(row["low"], row["high"], row["confidence"], row["observed"], row["count"])
        0.0 0.5 0.30000000000000004 0.5 2
        0.5 1.0 0.9 1.0 1
    """
    confidence, hits = confidence_and_hits(*checked_predictions(labels, probabilities))
    index = bin_index(confidence, bins)
    count = np.bincount(index, minlength=bins)
    promised = np.bincount(index, confidence, bins)
    observed = np.bincount(index, hits, bins)
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "confidence": float(promised[i] / count[i]) if count[i] else None,
            "observed": float(observed[i] / count[i]) if count[i] else None,
            "count": int(count[i]),
        }
        for i in range(bins)
    ]


def expected_calibration_error(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> float:
    """Return the mean distance between promise and observation over the cells (ECE), from 0, the best, to 1.

    It is the sum over the bins of `reliability` of |confidence - observed| x count / N. It is never quite 0 on a finite
    number of cells, and depends on the number of bins: compare only values with the same `bins`.

    Args:
        labels: Integers of shape (N,), 0 to K - 1.
        probabilities: Shape (N, K), or (N,) for two classes.
        bins: Number of bins of equal width.

    Raises:
        DataError: There is no cell, an array has another shape or range, or `bins` is not a whole number above 0.

    Example:
        >>> round(expected_calibration_error([0, 1, 1], [0.2, 0.4, 0.9], bins=2), 4)  # (2 x 0.2 + 1 x 0.1) / 3
        0.1667
    """
    confidence, hits = confidence_and_hits(*checked_predictions(labels, probabilities))
    gaps = np.bincount(bin_index(confidence, bins), hits - confidence, bins)
    return float(np.abs(gaps).sum() / len(hits))


def calibration_slope_intercept(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[float, float]:
    """Fit the label by logistic regression, unpenalised, on logit(P(last class)): two classes only.

    A calibrated network has the slope 1 and the intercept 0. A slope below 1 means that its probabilities are too
    extreme, an intercept above 0 that the last class is more frequent than they say (both are fitted together; the
    "calibration in the large" of some reports fixes the slope at 1).

    Args:
        labels: Integers of shape (N,), 0 or 1.
        probabilities: Shape (N, 2) or (N,). Values nearer than 1e-7 to 0 or 1 count as that near.

    Returns:
        Slope and intercept; NaN for both where there is no best fit: one class only, one probability only, or
        probabilities that separate the classes without overlap.

    Raises:
        DataError: There is no cell, an array has another shape or range, or there are more than two classes.

    Example:
        >>> slope, intercept = calibration_slope_intercept([0, 0, 0, 1, 0, 1, 1, 1], [0.1] * 4 + [0.9] * 4)
        >>> f"{slope:.3f}, {abs(intercept):.3f}"  # promised odds of 9 and found odds of 3: half the logit
        '0.500, 0.000'
    """
    truth, table = checked_predictions(labels, probabilities)
    if table.shape[1] != 2:
        raise DataError(f"probabilities have {table.shape[1]} classes: slope and intercept are defined for two.")
    logit = _clipped_logit(table[:, 1])
    negative, positive = logit[truth == 0], logit[truth == 1]
    if not len(negative) or not len(positive):
        return math.nan, math.nan
    # Without overlap (a shared edge is none) steeper is always better, and equal logits leave the slope open.
    if negative.max() <= positive.min() or positive.max() <= negative.min():
        return math.nan, math.nan
    from sklearn.linear_model import LogisticRegression

    mean, spread = logit.mean(), logit.std()  # standardised, so that the solver's steps suit any logits
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(((logit - mean) / spread)[:, None], truth)
    slope = float(model.coef_[0, 0] / spread)
    return slope, float(model.intercept_[0] - slope * mean)


def resampled_slope_intercept(
    labels: IntArray, probabilities: FloatArray, counts: FloatArray, units: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Slopes and intercepts of R resamples, (R,), for checked predictions; NaN where there is no best fit.

    `counts` (R, units) is how often each unit was drawn, `units` (N,) the unit of each cell. All resamples are fitted
    at once, by Newton's method from the fit to the cells as they are, with steps halved where they overshoot.
    """
    slope, intercept = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    start = calibration_slope_intercept(labels, probabilities)
    if math.isnan(start[0]):  # what separates all cells separates any part of them
        return slope, intercept
    logit = _clipped_logit(probabilities[:, 1])
    mean, spread = logit.mean(), logit.std()
    fitted = np.flatnonzero(_overlap(labels, logit, counts, units))
    for part in np.array_split(fitted, math.ceil(len(fitted) / _FITS_AT_A_TIME)) if len(fitted) else []:
        design = np.stack([np.ones_like(logit), (logit - mean) / spread], axis=1)
        truth, weights = labels.astype(np.float64), counts[part][:, units]
        found = _newton(design, truth, weights, np.array([start[1] + start[0] * mean, start[0] * spread]))
        # For a resample without the easy subjects the common fit may be so steep that no step leads away from it.
        lost = np.isnan(found[:, 0])
        if lost.any():
            found[lost] = _newton(design, truth, weights[lost], np.zeros(2))
        slope[part] = found[:, 1] / spread
        intercept[part] = found[:, 0] - slope[part] * mean
    return slope, intercept


def _clipped_logit(promised: FloatArray) -> FloatArray:
    promised = np.clip(promised, _EPSILON, 1 - _EPSILON)
    return np.log(promised) - np.log1p(-promised)


def _overlap(labels: IntArray, logit: FloatArray, counts: FloatArray, units: IntArray) -> npt.NDArray[np.bool_]:
    """Whether each resample has cells of both classes whose logits overlap, shape (R,)."""
    drawn = counts > 0

    def extreme(label: int, sign: int) -> FloatArray:
        by_unit = np.full(counts.shape[1], -np.inf)
        np.maximum.at(by_unit, units[labels == label], sign * logit[labels == label])
        return sign * np.where(drawn, by_unit, -np.inf).max(axis=1)

    # Without a cell of a class its maximum is -inf, which lies below everything.
    apart = (extreme(0, 1) <= extreme(1, -1)) | (extreme(1, 1) <= extreme(0, -1))
    return np.logical_not(apart)


def _newton(design: FloatArray, labels: FloatArray, weights: FloatArray, start: FloatArray) -> FloatArray:
    """Fit logistic regressions of two coefficients with weights of shape (R, N): coefficients (R, 2), NaN if none."""
    products = np.stack([design[:, 0], design[:, 1], design[:, 1] ** 2], axis=1)

    def derivatives(at: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        with np.errstate(over="ignore"):  # exp of a huge number is inf, and 1 / inf is the right 0
            promised = 1 / (1 + np.exp(-(at @ design.T)))
        gradient = (weights * (labels - promised)) @ design
        promised *= 1 - promised
        promised *= weights
        return gradient, promised @ products

    def step_from(gradient: FloatArray, curvature: FloatArray) -> FloatArray:
        a, b, c = curvature.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return (
                np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], 1)
                / (a * c - b * b)[:, None]
            )

    found = np.full((len(weights), 2), np.nan)
    rows = np.arange(len(weights))  # those that are not fitted yet
    at = np.tile(start, (len(weights), 1))
    gradient, curvature = derivatives(at, weights)
    step = step_from(gradient, curvature)
    for _ in range(_NEWTON_STEPS):
        new_gradient, curvature = derivatives(at + step, weights)
        # The likelihood is concave: a step that ends on a steeper slope than it began on went too far.
        ahead, behind = (np.abs((there * step).sum(axis=1)) for there in (new_gradient, gradient))
        good = ahead <= behind
        at[good] += step[good]
        gradient[good] = new_gradient[good]
        newton = step_from(new_gradient, curvature)
        # The error squares with each step, so that after one of this size nothing is left of it.
        done = good & (np.abs(newton) < _LAST_STEP).all(axis=1)
        found[rows[done]] = at[done] + newton[done]
        step = np.where(good[:, None], newton, step / 2)
        going = ~done & np.isfinite(step).all(axis=1)
        if not going.any():
            break
        if not going.all():
            rows, at, gradient, step, weights = rows[going], at[going], gradient[going], step[going], weights[going]
    return found


# --------------------------------------------------------------------------------------------------------------------
# Checks


def _checked_logits(logits: Any) -> FloatArray:
    scores = numbers(logits, "logits")
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    if scores.ndim != 2 or scores.shape[1] < 2:
        mend = "drop the last axis, logits[:, 0]" if scores.shape[1:] == (1,) else "give (N, classes) or (N,)"
        raise DataError(f"logits have the shape {scores.shape}: {mend}.")
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(wrong):
        raise DataError(f"logits[{wrong[0]}] is not finite: check the image and the network that gave it.")
    return scores


def _log_softmax(scores: FloatArray) -> FloatArray:
    shifted = scores - scores.max(axis=1, keepdims=True)  # the largest becomes 0, so that no exponential overflows
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
