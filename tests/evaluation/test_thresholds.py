"""Choices on other cells than they are judged on: thresholds, temperatures, predictive values."""

import doctest

import numpy as np
import pytest

from leukaemia_zoo.errors import DataError, LeakError
from leukaemia_zoo.evaluation import thresholds as operating
from leukaemia_zoo.evaluation.intervals import Resampling
from leukaemia_zoo.evaluation.metrics import WeightedCells, called_classes, metrics
from leukaemia_zoo.evaluation.thresholds import (
    OPERATING_POINTS,
    choose_temperature,
    choose_threshold,
    chooser,
    curves,
    operating_point,
    predictive_intervals,
    predictive_values,
    scaled,
)


def table_of(scores):
    scores = np.asarray(scores, np.float64)
    return np.stack([1 - scores, scores], axis=1)


def made_up(cells=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=cells)
    return labels, table_of(np.round(1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.5))), 2))


# --- thresholds ---


def test_thresholds_by_hand():
    labels, table = np.array([0, 0, 0, 1, 1, 1]), table_of([0.1, 0.2, 0.6, 0.3, 0.7, 0.9])
    assert choose_threshold(labels, table, "0.5") == (0.5, True)
    assert choose_threshold(labels, table, "sensitivity>=0.95") == (0.25, True)  # between 0.2 and 0.3
    assert choose_threshold(labels, table, "specificity>=0.90") == (pytest.approx(0.65), True)
    # 0.25: 3/3 + 2/3; 0.65: 2/3 + 3/3; both are as good, 0.65 is nearer to 0.5.
    assert choose_threshold(labels, table, "youden")[0] == pytest.approx(0.65)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["youden", "sensitivity>=0.95", "specificity>=0.90"])
def test_no_other_threshold_is_better(rule, seed):
    labels, table = made_up(seed=seed)
    chosen, reached = choose_threshold(labels, table, rule)
    found = metrics(labels, table, chosen)
    assert reached
    for other in np.linspace(0, 1, 501):
        tried = metrics(labels, table, other)
        if rule == "youden":
            total = tried["sensitivity"] + tried["specificity"]
            assert total <= found["sensitivity"] + found["specificity"] + 1e-12
        elif rule.startswith("sensitivity"):
            assert found["sensitivity"] >= 0.95
            assert tried["sensitivity"] < 0.95 or tried["specificity"] <= found["specificity"]
        else:
            assert found["specificity"] >= 0.90
            assert tried["specificity"] < 0.90 or tried["sensitivity"] <= found["sensitivity"]


def test_a_target_out_of_reach_is_told():
    labels = np.array([0, 0, 1, 1])
    assert choose_threshold(labels, table_of([1.0, 1.0, 1.0, 1.0]), "specificity>=0.90") == (0.0, False)
    assert choose_threshold(np.array([1, 1]), table_of([0.2, 0.4]), "youden") == (0.5, False)
    assert choose_threshold(np.array([0, 0]), table_of([0.2, 0.4]), "sensitivity>=0.95") == (0.5, False)
    with pytest.raises(DataError, match="no rule 'best'"):
        choose_threshold(labels, table_of([0.1] * 4), "best")


# --- who chooses for whom ---


def test_a_fold_is_judged_at_the_threshold_of_the_others():
    """A planted fold whose own best threshold is 0.8, while that of the others is 0.3."""
    labels = np.array([0, 1] * 30)
    folds = np.repeat([0, 1, 2], 20)
    scores = np.where(labels == 1, 0.4, 0.2)
    scores[folds == 2] = np.where(labels[folds == 2] == 1, 0.9, 0.7)
    table = table_of(scores)
    choices = chooser(labels, table, None, folds)
    thresholds = choices.choose(lambda truth, seen: choose_threshold(truth, seen, "youden")[0])
    assert choices.folds == (0, 1, 2)
    assert thresholds[2] == pytest.approx(0.3)
    assert (choices.by_cell(thresholds)[folds == 2] == thresholds[2]).all()
    found = operating_point(labels, table, choices, Resampling(labels, None, 50, 0, 0.95), "youden", 0.5)
    by_cell = called_classes(table, choices.by_cell(thresholds))
    assert found["metrics"]["specificity"]["value"] == pytest.approx((by_cell[labels == 0] == 0).mean())
    assert found["metrics"]["specificity"]["value"] < 0.8  # at its own threshold the planted fold would be perfect
    # Its own labels have no say in its threshold.
    turned = np.where(folds == 2, 1 - labels, labels)
    again = chooser(turned, table, None, folds).choose(lambda truth, seen: choose_threshold(truth, seen, "youden")[0])
    assert again[2] == thresholds[2]


def test_choices_on_validation_cells_or_on_none():
    labels, table = made_up(50)
    seen, scores = made_up(80, seed=1)
    choices = chooser(labels, table, None, None, (seen, scores))
    assert choices.choose(lambda truth, _: len(truth)) == [80]
    assert "80 cells" in choices.description
    assert chooser(labels, table, None, None).pairs == ()


def test_folds_that_are_refused():
    labels, table = made_up(6)
    subjects = ["a", "a", "b", "b", "c", "c"]
    with pytest.raises(LeakError, match="subject 'a' has cells in several folds"):
        chooser(labels, table, subjects, [0, 1, 1, 1, 0, 0])
    for folds in ([0, 0, 0], [0.5] * 6):
        with pytest.raises(DataError, match="one whole number for each of the 6 cells"):
            chooser(labels, table, subjects, folds)
    with pytest.raises(DataError, match="in one fold"):
        chooser(labels, table, subjects, [3] * 6)
    with pytest.raises(DataError, match="validation cells have 3 classes"):
        chooser(labels, table, subjects, None, ([0, 1, 2], np.eye(3)))


# --- temperature ---


def test_a_temperature_undoes_a_distortion():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(int)
    distorted = table_of(1 / (1 + np.exp(-3 * logits)))
    temperature = choose_temperature(labels, distorted)
    assert temperature == pytest.approx(3, rel=0.05)
    back = scaled(distorted, np.full(len(labels), temperature))
    inside = np.abs(3 * logits) < 14  # nearer to 0 and 1 probabilities are cut off before their logarithm
    np.testing.assert_allclose(back[inside, 1], 1 / (1 + np.exp(-3 * logits[inside] / temperature)), atol=1e-6)
    assert metrics(labels, back)["ece"] < 0.02 < 0.08 < metrics(labels, distorted)["ece"]
    assert choose_temperature(labels[:5] * 0, distorted[:5]) is None
    assert choose_temperature(np.array([0, 1]), table_of([0.5, 0.5])) is None


# --- predictive values ---


def test_predictive_values_by_bayes():
    ppv, npv = predictive_values(0.95, 0.9, 0.01)
    assert ppv == pytest.approx(0.95 * 0.01 / (0.95 * 0.01 + 0.1 * 0.99))
    assert npv == pytest.approx(0.9 * 0.99 / (0.9 * 0.99 + 0.05 * 0.01))
    assert np.isnan(predictive_values(0.0, 1.0, 0.3)[0])  # nothing is called the last class


def test_predictive_values_at_the_share_of_the_data_are_counts():
    labels, table = made_up()
    called = table[:, 1] >= 0.5
    resampling = Resampling(labels, [str(row // 10) for row in range(len(labels))], 300, 0, 0.95)
    found = predictive_intervals(WeightedCells(labels, table, 0.5), resampling, labels.mean())
    assert found["ppv"].value == pytest.approx(labels[called].mean())
    assert found["npv"].value == pytest.approx(1 - labels[~called].mean())
    assert found["ppv"].low < found["ppv"].value < found["ppv"].high
    rare = predictive_intervals(WeightedCells(labels, table, 0.5), resampling, 0.001)
    assert rare["ppv"].value < 0.05


# --- curves ---


def test_curves_rise_between_their_ends_and_are_short():
    labels, table = made_up(5000)
    table = table_of(np.random.default_rng(0).permutation(5000) / 5000)
    found = curves(labels, table, ("hem", "all"))
    roc = found["roc"]
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
    for line in (roc["fpr"], roc["tpr"]):
        assert len(line) <= 210
        assert (np.diff(line) >= 0).all()
    assert max(found["pr"]["recall"]) == 1
    assert len(found["pr"]["recall"]) == len(found["pr"]["precision"])


def test_one_curve_a_class_for_three():
    labels = np.arange(30) % 3
    found = curves(labels, np.full((30, 3), 1 / 3), ("a", "b", "c"))
    assert set(found) == {"a", "b", "c"}


def test_rules_and_examples():
    assert OPERATING_POINTS == ("0.5", "youden", "sensitivity>=0.95", "specificity>=0.90")
    assert doctest.testmod(operating).failed == 0
