"""What a network must beat: the share of the classes, the size of the cell, and the background around it.

A benchmark fits these on other people than they are judged on, like the networks; only the share of the classes, which
ranks nothing, is that of the very cells. Whoever does not beat the size of the
cell has learnt what a ruler knows; whoever is beaten by the background has found a flaw of the data set.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.calibration import FloatArray, IntArray
from leukaemia_zoo.evaluation import cell_area
from leukaemia_zoo.images import as_image

BASELINES = MAJORITY, AREA, BACKGROUND = "majority class", "cell area alone", "background alone"


def background_features(image: npt.ArrayLike) -> FloatArray:
    """What is in a frame besides the cell: the colours of its outermost tenth on each side, and its size.

    Darker pixels further in would not do: those along the edge of a cell tell how large it is.

    Args:
        image: A frame, shape (height, width, 3), RGB, 0 to 255.

    Returns:
        float64 of shape (8,): mean of red, green and blue, their standard deviations, height, width.

    Example:
        >>> frame = np.zeros((50, 60, 3), np.uint8)
        >>> frame[20:30, 20:30] = 120
        >>> background_features(frame).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 50.0, 60.0]
    """
    pixels = as_image(image)
    height, width = pixels.shape[:2]
    outside = np.ones((height, width), bool)
    outside[height // 10 : height - height // 10, width // 10 : width - width // 10] = False
    chosen = pixels[outside].astype(np.float64)
    return np.concatenate([chosen.mean(axis=0), chosen.std(axis=0), [height, width]])


def features_of(image: npt.ArrayLike) -> dict[str, FloatArray]:
    """What each baseline sees of a frame, by its name."""
    return {
        MAJORITY: np.zeros(0),
        AREA: np.log([max(cell_area(image), 1.0)]),
        BACKGROUND: background_features(image),
    }


def cross_fitted(features: FloatArray, labels: IntArray, folds: IntArray, classes: int) -> FloatArray:
    """Predict each fold by a logistic regression on the other folds.

    Standardised features, no class weights, scikit-learn's default penalty. Without features, or where none varies,
    the shares of the classes in all cells: a constant of each fold would rank the folds.

    Args:
        features: Shape (N, features), finite.
        labels: Shape (N,), 0 to classes - 1.
        folds: Fold of each cell, shape (N,).
        classes: Number of classes.

    Returns:
        Probabilities, float64 of shape (N, classes).

    Example:
        >>> areas = np.log([[20e3], [40e3], [21e3], [41e3]])
        >>> found = cross_fitted(areas, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), 2)
        >>> found.argmax(axis=1).tolist()
        [0, 1, 0, 1]
    """
    from sklearn.linear_model import LogisticRegression

    result = np.zeros((len(labels), classes))
    for fold in np.unique(folds):
        test = folds == fold
        known = labels[~test]
        useful = _useful(features, labels, ~test)
        if not useful.any():
            result[test] = np.bincount(labels, minlength=classes) / len(labels)
            continue
        mean, spread = features[~test][:, useful].mean(axis=0), features[~test][:, useful].std(axis=0)
        model = LogisticRegression(max_iter=1000).fit((features[~test][:, useful] - mean) / spread, known)
        result[np.ix_(test, model.classes_)] = model.predict_proba((features[test][:, useful] - mean) / spread)
    return result


def fitted_on(features: FloatArray, labels: IntArray, folds: IntArray) -> str:
    """What `cross_fitted` predicted from, in one sentence.

    Example:
        >>> fitted_on(np.zeros((4, 0)), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]))
        'Gives the shares of the classes in these very cells: nothing was fitted.'
    """
    fitted = [bool(_useful(features, labels, folds != fold).any()) for fold in np.unique(folds)]
    shares = "the shares of the classes in these very cells"
    if all(fitted):
        return "Fitted on other people."
    if not any(fitted):
        return f"Gives {shares}: nothing was fitted."
    number = f"{fitted.count(False)} of {len(fitted)} folds"
    return f"Fitted on other people; in {number}, where nothing varied, it gives {shares}."


def _useful(features: FloatArray, labels: IntArray, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which features can be fitted on the known cells: those that vary, if the classes do."""
    if not features.shape[1] or len(np.unique(labels[known])) < 2:
        return np.zeros(features.shape[1], bool)
    return np.asarray(features[known].std(axis=0) > 0)
