"""What the tests of metrics and of the bootstrap share: cells of subjects who differ, and scikit-learn's metrics."""

import numpy as np
from scipy.special import expit
from sklearn import metrics as sklearn_metrics


def cohort(ill=8, healthy=5, seed=0, ties=False, log_size=4):
    """Cells of subjects of very unequal size who differ from one another: labels, P(all), subjects."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(np.exp(rng.normal(log_size, 1, ill + healthy)), 9, 757).astype(int)
    units = np.repeat(np.arange(ill + healthy), sizes)
    labels = (units < ill).astype(int)
    scores = rng.normal(size=ill + healthy)[units] + rng.normal(size=len(units)) + 2.5 * (labels - 0.4)
    probabilities = expit(scores)
    return labels, probabilities.round(1) if ties else probabilities, [f"S{unit}" for unit in units]


def several_classes(cells=400, classes=4, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, cells)
    raw = rng.integers(1, 5, (cells, classes)) if ties else rng.random((cells, classes))
    raw = raw + 2.0 * np.eye(classes)[labels]
    return labels, raw / raw.sum(axis=1, keepdims=True)


def weighted_ece(labels, confidence, weights, bins=15):
    """ECE by a plain loop."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(
        abs(np.sum((weights * (labels - confidence))[index == number])) / weights.sum() for number in range(bins)
    )


def slow_two_class(labels, p, weights=None, threshold=0.5):
    """The metrics of two classes, by scikit-learn."""
    weights = np.ones(len(labels)) if weights is None else weights
    called = (p >= threshold).astype(int)
    options = {"sample_weight": weights}
    return {
        "auroc": sklearn_metrics.roc_auc_score(labels, p, **options),
        "auprc": sklearn_metrics.average_precision_score(labels, p, **options),
        "weighted_f1": sklearn_metrics.f1_score(labels, called, average="weighted", zero_division=0, **options),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, called, **options),
        "sensitivity": sklearn_metrics.recall_score(labels, called, **options),
        "specificity": sklearn_metrics.recall_score(labels, called, pos_label=0, **options),
        "accuracy": sklearn_metrics.accuracy_score(labels, called, **options),
        "mcc": sklearn_metrics.matthews_corrcoef(labels, called, **options),
        "ece": weighted_ece(labels, p, weights),
        "brier": sklearn_metrics.brier_score_loss(labels, p, **options),
        "log_loss": sklearn_metrics.log_loss(labels, p, **options),
    }


def slow_multi_class(labels, p, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    called = p.argmax(axis=1)
    options = {"sample_weight": weights}
    return {
        "auroc": sklearn_metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro", **options),
        "macro_f1": sklearn_metrics.f1_score(labels, called, average="macro", zero_division=0, **options),
        "weighted_f1": sklearn_metrics.f1_score(labels, called, average="weighted", zero_division=0, **options),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, called, **options),
        "accuracy": sklearn_metrics.accuracy_score(labels, called, **options),
        "mcc": sklearn_metrics.matthews_corrcoef(labels, called, **options),
        "ece": weighted_ece((called == labels).astype(float), p.max(axis=1), weights),
        "brier": np.average(((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1), weights=weights),
        "log_loss": sklearn_metrics.log_loss(labels, p, **options),
    }
