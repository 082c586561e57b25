"""What says how little a metric may mean: the commonest class, the area of a cell, its background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.arrays import as_image, brightest
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, checked_predictions

OFFICIAL_SIDE = 450
"""Height and width in pixels of the official C-NMC 2019 frames, the scale of `cell_area`."""


BASELINES = MAJORITY, AREA, BACKGROUND = "majority class", "cell area alone", "background alone"


def background_features(image: npt.ArrayLike) -> FloatArray:
    """What is in a frame besides the cell: the colours of its outermost tenth on each side, and its size.

    Float64 (8,): mean of red, green and blue, their standard deviations, height, width. Darker pixels further in would
    not do: those along the edge of a cell tell how large it is.

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
    """Predict each fold by a logistic regression on the other folds: float64 (N, classes).

    Standardised features, no class weights, scikit-learn's default penalty. Without features, or where none varies, the
    shares of the classes in all cells: a constant of each fold would rank the folds.

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


def cell_area(image: npt.ArrayLike) -> float:
    """Measure a segmented cell on black: the pixels in which any channel is above 0.

    Args:
        image: A frame as `arrays.as_image` takes it: shape (height, width, 3), RGB, 0 to 255.

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
    return float(np.count_nonzero(brightest(pixels)) * (OFFICIAL_SIDE / min(pixels.shape[:2])) ** 2)


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
