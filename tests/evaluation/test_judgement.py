"""All that a report says of one model, against scikit-learn, counts by hand and made-up truths."""

import doctest
import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation import calibration, intervals, judgement
from leukaemia_zoo.evaluation.calibration import calibration_slope_intercept, resampled_slope_intercept
from leukaemia_zoo.evaluation.inputs import check_probabilities
from leukaemia_zoo.evaluation.intervals import (
    Resampling,
    auroc_interval,
    bootstrap_over_subjects,
    paired_difference,
    wilson_interval,
)
from leukaemia_zoo.evaluation.judgement import judge
from leukaemia_zoo.evaluation.metrics import called_classes, metrics


def made_up(subjects=30, seed=0, sharpness=1.0, classes=2):
    """Cells whose true probabilities are known: (labels, probabilities, subjects, folds)."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), rng.integers(10, 60, subjects))
    logits = rng.normal(0, 1.2, (len(owner), classes)) + rng.normal(0, 0.6, (subjects, classes))[owner]
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((len(owner), 1)) > true.cumsum(axis=1)).sum(axis=1)
    told = np.exp(sharpness * logits) / np.exp(sharpness * logits).sum(axis=1, keepdims=True)
    return labels, told, [f"P{person}" for person in owner], owner % 5


def judged(data, **changes):
    labels, told, subjects, folds = data
    names = ("hem", "all", "aml")[: told.shape[1]]
    return judge(labels, told, subjects, names, **{"folds": folds, "resamples": 200, **changes})


@pytest.fixture(scope="module")
def two():
    data = made_up()
    return data, judged(data, prevalence=0.01)


# --- metrics ---


def test_the_metrics_are_those_of_the_bootstrap(two):
    (labels, told, subjects, _), found = two
    expected = bootstrap_over_subjects(labels, told, subjects, resamples=200).to_dict()["intervals"]
    assert found["metrics"] == expected
    assert (found["unit"], found["subjects"], found["cells"]) == ("subject", 30, len(labels))


@pytest.mark.parametrize("classes", [2, 3])
def test_each_class_against_scikit_learn(classes):
    data = made_up(classes=classes)
    labels, told, found = data[0], data[1], judged(data)
    called = told.argmax(axis=1)
    for label, name in enumerate(("hem", "all", "aml")[:classes]):
        row = found["per_class"][name]
        truth, claim = labels == label, called == label
        assert row["precision"]["value"] == pytest.approx(precision_score(truth, claim))
        assert row["recall"]["value"] == pytest.approx(recall_score(truth, claim))
        assert row["f1"]["value"] == pytest.approx(f1_score(truth, claim))
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(truth, told[:, label]))
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(truth, told[:, label]))
        assert row["sensitivity"] == row["recall"]
        assert row["specificity"]["value"] == pytest.approx(recall_score(~truth, ~claim))
        # At the share of the class in these cells the predictive values are those of the calls.
        assert row["prevalence"] == pytest.approx(truth.mean())
        assert row["ppv"]["value"] == pytest.approx(precision_score(truth, claim))
        assert row["npv"]["value"] == pytest.approx(precision_score(~truth, ~claim))
        for metric in ("auprc", "specificity", "ppv", "npv"):
            assert row[metric]["low"] < row[metric]["value"] < row[metric]["high"], metric
        assert row["cells"] == truth.sum()
    assert np.array(found["confusion"]).tolist() == [
        [int(((labels == t) & (called == c)).sum()) for c in range(classes)] for t in range(classes)
    ]


def test_predictive_values_of_either_class_at_a_stated_prevalence(two):
    _, found = two
    hem, blast = found["per_class"]["hem"], found["per_class"]["all"]
    assert (blast["prevalence"], hem["prevalence"]) == (0.01, 0.99)
    assert blast["ppv"] == found["predictive_values"]["ppv"]
    assert hem["npv"]["value"] == pytest.approx(blast["ppv"]["value"])
    assert hem["ppv"]["value"] == pytest.approx(blast["npv"]["value"])


def test_thresholds_of_each_cell():
    labels, told, _, _ = made_up()
    thresholds = np.random.default_rng(1).random(len(labels))
    called = told[:, 1] >= thresholds
    found = metrics(labels, told, thresholds)
    assert found["sensitivity"] == pytest.approx(recall_score(labels, called))
    assert found["weighted_f1"] == pytest.approx(f1_score(labels, called, average="weighted"))
    assert (called_classes(told, thresholds) == called).all()
    for wrong in (thresholds[:5], thresholds + 1, np.full(len(labels), np.nan)):
        with pytest.raises(DataError, match="threshold"):
            metrics(labels, told, wrong)


def test_predictive_values_at_a_stated_prevalence(two):
    found = two[1]["predictive_values"]
    measured = two[1]["metrics"]
    hit, miss = measured["sensitivity"]["value"] * 0.01, (1 - measured["specificity"]["value"]) * 0.99
    assert (found["prevalence"], found["stated"]) == (0.01, True)
    assert found["ppv"]["value"] == pytest.approx(hit / (hit + miss))
    assert not judged(two[0])["predictive_values"]["stated"]
    with pytest.raises(DataError, match="prevalence is 0"):
        judged(two[0], prevalence=0)


def test_operating_points_are_cross_fitted(two):
    (labels, told, _, folds), found = two
    points = found["operating_points"]
    assert list(points) == ["0.5", "youden", "sensitivity>=0.95", "specificity>=0.90"]
    for rule in ("youden", "sensitivity>=0.95"):
        assert len(points[rule]["thresholds"]) == 5
        called = told[:, 1] >= np.array(points[rule]["thresholds"])[folds]
        assert points[rule]["metrics"]["sensitivity"]["value"] == pytest.approx(recall_score(labels, called))
    assert found["folds"] == [0, 1, 2, 3, 4]


def test_intervals_of_an_operating_point_keep_the_threshold_of_each_cell(two):
    (labels, told, subjects, folds), found = two
    point = found["operating_points"]["youden"]
    thresholds = np.array(point["thresholds"])[folds]
    names = ["sensitivity", "specificity", "balanced_accuracy", "weighted_f1"]
    expected = bootstrap_over_subjects(labels, told, subjects, names, 200, threshold=thresholds).to_dict()["intervals"]
    assert {name: point["metrics"][name] for name in names} == expected


def test_one_choice_on_validation_cells():
    labels, told, subjects, _ = made_up()
    seen, scores, _, _ = made_up(seed=1, sharpness=2.0)
    found = judge(labels, told, subjects, ("hem", "all"), folds=None, validation=(seen, scores), resamples=50)
    assert found["folds"] is None
    assert len(found["operating_points"]["youden"]["thresholds"]) == 1
    (temperature,) = found["calibration"]["after"]["temperatures"]
    assert temperature == pytest.approx(2, rel=0.2)  # that of the validation cells; these would need 1
    assert "validation" in found["calibration"]["after"]["chosen_on"]


# --- calibration ---


def test_temperatures_do_not_see_the_fold_that_they_are_applied_to():
    """A planted fold that is three times too sure, among others that are right."""
    labels, told, subjects, folds = made_up(60)
    distorted = told**3 / (told**3).sum(axis=1, keepdims=True)
    told = np.where((folds == 4)[:, None], distorted, told)
    temperatures = judged((labels, told, subjects, folds))["calibration"]["after"]["temperatures"]
    assert temperatures[4] == pytest.approx(1, rel=0.2)
    assert min(temperatures[:4]) > temperatures[4] + 0.1


def test_slope_and_intercept_are_turned_round_their_value(two):
    (labels, told, subjects, _), found = two
    resampling = Resampling(labels, subjects, 200, 0, 0.95)
    drawn = resampling.draw(lambda *counts: {"slope": resampled_slope_intercept(labels, told, *counts)[0]})["slope"]
    value = calibration_slope_intercept(labels, told)[0]
    assert found["calibration"]["before"]["slope"] == resampling.interval(value, drawn, mirrored=True).to_dict()
    assert found["calibration"]["before"]["fits"] == 200


def test_a_calibrated_and_a_distorted_predictor_are_told_apart():
    right, wrong = (judged(made_up(60, sharpness=sharpness))["calibration"] for sharpness in (1.0, 3.0))
    assert right["before"]["slope"]["low"] < 1 < right["before"]["slope"]["high"]
    assert wrong["before"]["slope"]["high"] < 0.6
    assert right["before"]["ece"]["value"] < 0.05 < 0.1 < wrong["before"]["ece"]["value"]
    assert wrong["after"]["ece"]["value"] < 0.05
    assert wrong["after"]["slope"]["low"] < 1 < wrong["after"]["slope"]["high"]
    assert np.allclose(wrong["after"]["temperatures"], 3, rtol=0.2)
    assert np.allclose(right["after"]["temperatures"], 1, rtol=0.2)


def test_slopes_of_resamples_are_those_of_single_fits():
    labels, told, subjects, _ = made_up(12)
    units = np.unique(subjects, return_inverse=True)[1]
    counts = np.random.default_rng(2).integers(0, 3, (6, 12)).astype(float)
    slopes, intercepts = resampled_slope_intercept(labels, told, counts, units)
    logit = np.log(told[:, 1] / told[:, 0])[:, None]
    for row, weights in enumerate(counts[:, units]):
        fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit, labels, sample_weight=weights)
        assert slopes[row] == pytest.approx(fit.coef_[0, 0], abs=1e-4)
        assert intercepts[row] == pytest.approx(fit.intercept_[0], abs=1e-4)
    whole = resampled_slope_intercept(labels, told, np.ones((1, 12)), units)
    assert np.allclose(np.ravel(whole), calibration_slope_intercept(labels, told), atol=1e-6)


# --- subjects ---


def test_each_subject_and_the_worst_by_name():
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.9, 0.9, 0.8, 0.3, 0.2, 0.1])
    subjects = ["a", "a", "a", "b", "b", "c", "c", "c"]
    found = judge(labels, scores, subjects, ("hem", "all"), folds=None, resamples=50)
    verdicts = {row["subject"]: (row["verdict"], row["right"]) for row in found["per_subject"]}
    assert verdicts == {"a": ("hem", True), "b": ("all", True), "c": ("hem", False)}
    assert found["worst_subject"]["subject"] == "c"
    over = found["subject_verdicts"]
    assert (over["subjects"], over["right"]) == (3, 2)
    assert over["accuracy"] == pytest.approx(wilson_interval(2, 3).to_dict())
    assert over["sensitivity"]["value"] == 0.5
    assert over["auroc"]["value"] == 0.5  # a's mean of 0.4 lies above c's 0.2 and below b's
    assert list(found["operating_points"]) == ["0.5"]  # without folds nothing is chosen
    assert found["calibration"]["after"] is None


def test_subjects_of_several_classes_get_no_right_or_wrong():
    subjects = ["a", "a", "b", "b", "c"]
    found = judge([0, 1, 1, 1, 0], [0.1, 0.9, 0.8, 0.7, 0.2], subjects, ("hem", "all"), folds=None, resamples=20)
    assert [row["right"] for row in found["per_subject"]] == [None, True, True]
    assert (found["subject_verdicts"]["subjects"], found["subject_verdicts"]["mixed"]) == (2, 1)
    all_mixed = judge([0, 1, 0, 1], [0.1, 0.9, 0.8, 0.7], ["a", "a", "b", "b"], ("hem", "all"), folds=None)
    assert all_mixed["subject_verdicts"]["accuracy"] == {"value": None, "low": None, "high": None}
    with pytest.raises(DataError, match="called 'mixed'"):
        judge([0, 1], [0.1, 0.9], ["a", "b"], ("hem", "mixed"), folds=None)


def test_of_equally_bad_subjects_the_one_with_more_cells_is_named():
    found = judge([0, 0, 0, 1], [0.9, 0.9, 0.9, 0.9], ["x", "y", "y", "z"], ("hem", "all"), folds=None, resamples=20)
    assert found["worst_subject"]["subject"] == "y"


def test_intervals_of_verdicts_by_hand():
    found = wilson_interval(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert np.isnan(wilson_interval(0, 0).value)
    mirrored = auroc_interval(0.3, 12, 8)
    straight = auroc_interval(0.7, 12, 8)
    assert mirrored.low == pytest.approx(1 - straight.high)
    assert auroc_interval(0.9, 40, 40).low > auroc_interval(0.9, 10, 10).low


def test_without_subjects_cells_are_resampled():
    labels, told, _, folds = made_up()
    found = judge(labels, told, None, ("hem", "all"), folds=folds, resamples=50)
    assert found["unit"] == "cell"
    assert found["per_subject"] is found["worst_subject"] is found["subject_verdicts"] is None


def test_one_subject_in_a_class_has_no_interval():
    labels, scores = np.array([0] * 6 + [1] * 6), np.linspace(0.1, 0.9, 12)
    subjects = ["a"] * 6 + ["b"] * 3 + ["c"] * 3
    report = judge(labels, scores, subjects, ("hem", "all"), folds=None, resamples=50)
    found = report["metrics"]
    assert found["specificity"]["low"] is None
    assert found["sensitivity"]["low"] is not None
    assert report["per_class"]["hem"]["recall"] == found["specificity"]
    assert report["per_class"]["all"]["recall"] == found["sensitivity"]
    assert report["predictive_values"]["ppv"]["low"] is None  # depends on both classes


# --- groups, classes, cells ---


def test_subgroups_and_those_that_are_too_small():
    labels, told, subjects, folds = made_up()
    stain = np.where(np.arange(len(labels)) < 15, "rare", np.where(np.arange(len(labels)) % 2, "a", "b"))
    found = judged((labels, told, subjects, folds), subgroups={"stain": stain.tolist()})["subgroups"]["stain"]
    rows = stain == "a"
    assert found["a"]["cells"] == rows.sum()
    assert found["a"]["metrics"]["auroc"]["value"] == pytest.approx(roc_auc_score(labels[rows], told[rows, 1]))
    assert (found["rare"]["cells"], found["rare"]["metrics"]) == (15, None)
    with pytest.raises(DataError, match="stain"):
        judged((labels, told, subjects, folds), subgroups={"stain": ["a"]})


def test_three_classes():
    data = made_up(classes=3)
    found = judged(data)
    labels, told = data[:2]
    assert found["predictive_values"] is found["operating_points"] is None
    for label, name in enumerate(("hem", "all", "aml")):
        expected = roc_auc_score(labels == label, told[:, label])
        assert found["per_class"][name]["auroc"]["value"] == pytest.approx(expected)
    assert np.array(found["confusion"]).shape == (3, 3)
    assert set(found["curves"]) == {"hem", "all", "aml"}
    json.dumps(found, allow_nan=False)


def test_the_most_confidently_wrong_cells_come_first(two):
    (labels, told, subjects, _), found = two
    rows = [cell["row"] for cell in found["most_wrong"]]
    assert len(rows) == 12
    assert (told.argmax(axis=1)[rows] != labels[rows]).all()
    sure = told.max(axis=1)
    assert (np.diff(sure[rows]) <= 0).all()
    wrong = told.argmax(axis=1) != labels
    assert sure[rows].min() >= np.sort(sure[wrong])[-12]
    assert found["most_wrong"][0]["subject"] == subjects[rows[0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([0, 1] * 20, [0.5] * 40),
        ([0, 1] * 20, [1.0] * 40),
        ([1] * 40, np.linspace(0, 1, 40)),
        ([0, 1] * 20, [0, 1] * 20),
    ],
    ids=["all alike", "all certain", "one class", "perfect"],
)
def test_predictors_that_tell_nothing_or_all_are_judged(labels, scores):
    subjects = [f"P{row % 2}{row // 10}" for row in range(40)]
    found = judge(labels, scores, subjects, ("hem", "all"), folds=np.arange(40) // 20, resamples=50)
    json.dumps(found, allow_nan=False)
    assert found["calibration"]["before"]["slope"]["value"] is None
    assert found["calibration"]["before"]["fits"] == 0


def test_the_result_is_plain_data(two):
    json.dumps(two[1], allow_nan=False)


def test_differences_are_paired():
    labels, told, subjects, _ = made_up()
    same = paired_difference(labels, told, told, subjects, resamples=50).to_dict()["intervals"]["auroc"]
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    worse = np.stack([1 - told[:, 1] * 0 - 0.5, told[:, 1] * 0 + 0.5], axis=1)
    found = paired_difference(labels, told, worse, subjects, resamples=200).to_dict()["intervals"]["auroc"]
    assert found["value"] == pytest.approx(roc_auc_score(labels, told[:, 1]) - 0.5)
    assert found["low"] > 0


# --- what a model may give ---


REFUSED = {
    "NaN": ([[np.nan, 1.0]], "NaN or infinity in row 0"),
    "infinity": ([[0.0, np.inf]], "NaN or infinity"),
    "a wrong shape": ([[0.2, 0.3, 0.5]], r"the shape \(1, 3\): 1 cells of 2 classes need \(1, 2\) or \(1,\)"),
    "too many rows": ([[0.5, 0.5]] * 2, r"the shape \(2, 2\)"),
    "ragged rows": ([[0.5, 0.5], [1.0]], "no table of numbers"),
    "text": ("all", "no table of numbers"),
    "logits": ([[-2.0, 4.0]], "looks like logits.* put a softmax behind it"),
    "one logit": ([4.2], "looks like logits.* put a sigmoid behind it"),
    "a negative probability": ([[-0.2, 1.2]], "looks like logits|may be below 0"),
    "rows that do not sum to 1": ([[0.3, 0.3]], "sum to 0.6 in row 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_probability_is_refused_by_name(kind):
    output, told = REFUSED[kind]
    with pytest.raises(DataError, match=rf"model 'theirs'.*({told})"):
        check_probabilities("theirs", output, 1, 2)


def test_what_is_accepted_becomes_exact():
    rows = check_probabilities("a", np.float16([[0.3, 0.7], [0.1, 0.9]]), 2, 2)
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows.sum(axis=1), 1)
    for vector in ([0.25, 1.0], [[0.25], [1.0]]):
        np.testing.assert_array_equal(check_probabilities("a", vector, 2, 2), [[0.75, 0.25], [0, 1]])


def test_examples_in_the_docstrings_run():
    for module in (judgement, intervals, calibration):
        assert doctest.testmod(module).failed == 0
