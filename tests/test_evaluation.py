"""Metrics against scikit-learn, the bootstrap against the slow loop, and whether its intervals keep their promise."""

import doctest
import json
import math

import numpy as np
import pytest
from scipy.special import expit, ndtr
from sklearn import metrics as sklearn_metrics

from leukaemia_zoo import evaluation
from leukaemia_zoo.calibration import checked_predictions, expected_calibration_error
from leukaemia_zoo.errors import DataError, ImageError, UnknownNameError
from leukaemia_zoo.evaluation import (
    MULTI_CLASS_METRICS,
    TWO_CLASS_METRICS,
    Interval,
    area_baseline,
    bootstrap_over_subjects,
    cell_area,
    metrics,
    paired_difference,
    per_subject,
)


def cohort(ill=8, healthy=5, seed=0, ties=False):
    """Cells of subjects of very unequal size who differ from one another: labels, P(all), subjects."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(np.exp(rng.normal(4, 1, ill + healthy)), 9, 757).astype(int)
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


class TestMetrics:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
    def test_two_classes_against_scikit_learn(self, ties, threshold):
        labels, p, _ = cohort(ties=ties)
        found = metrics(labels, p, threshold)
        assert tuple(found) == TWO_CLASS_METRICS
        assert found == pytest.approx(slow_two_class(labels, p, threshold=threshold), abs=1e-12)

    @pytest.mark.parametrize("ties", [False, True])
    def test_several_classes_against_scikit_learn(self, ties):
        labels, p = several_classes(ties=ties)
        found = metrics(labels, p)
        assert tuple(found) == MULTI_CLASS_METRICS
        assert found == pytest.approx(slow_multi_class(labels, p), abs=1e-12)

    def test_by_hand(self):
        found = metrics([0, 0, 0, 1, 1], [0.1, 0.2, 0.7, 0.7, 0.4])
        assert found["auroc"] == pytest.approx((2 + 2.5) / 6)
        assert found["sensitivity"] == 0.5
        assert found["specificity"] == pytest.approx(2 / 3)
        assert found["accuracy"] == 0.6
        assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.49 + 0.09 + 0.36) / 5)

    def test_one_column_is_two(self):
        labels, p, _ = cohort()
        assert metrics(labels, p) == metrics(labels, np.stack([1 - p, p], axis=1))

    def test_values_are_plain_numbers(self):
        labels, p, _ = cohort()
        assert all(type(value) is float for value in metrics(labels, p.astype(np.float32)).values())

    def test_threshold_itself_is_positive(self):
        assert metrics([1, 0], [0.5, 0.4])["sensitivity"] == 1
        assert metrics([1, 0], [0.5, 0.4], threshold=0.6)["sensitivity"] == 0

    def test_ece_is_that_of_calibration(self):
        labels, p, _ = cohort()
        assert metrics(labels, p)["ece"] == pytest.approx(expected_calibration_error(labels, p))

    @pytest.mark.parametrize(
        ("label", "undefined"),
        [
            (1, {"auroc", "auprc", "balanced_accuracy", "specificity", "mcc"}),
            (0, {"auroc", "auprc", "balanced_accuracy", "sensitivity", "mcc"}),
        ],
    )
    @pytest.mark.filterwarnings("error")
    def test_one_class_only(self, label, undefined):
        found = metrics([label] * 3, [0.2, 0.6, 0.7])
        assert {name for name, value in found.items() if math.isnan(value)} == undefined

    @pytest.mark.filterwarnings("error")
    def test_missing_class_of_several(self):
        found = metrics([0, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
        assert {name for name, value in found.items() if math.isnan(value)} == {"auroc", "balanced_accuracy"}
        assert found["macro_f1"] == found["mcc"] == 1

    def test_all_called_the_same(self):
        found = metrics([0, 1, 1], [0.9, 0.9, 0.9])
        assert found["mcc"] == 0
        assert found["auroc"] == 0.5
        assert found["weighted_f1"] == pytest.approx(0.8 * 2 / 3)

    def test_certain_and_wrong_is_finite(self):
        assert metrics([0, 1], [1.0, 0.0])["log_loss"] == pytest.approx(52 * math.log(2))

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
    def test_bad_threshold(self, threshold):
        with pytest.raises(DataError, match="threshold is"):
            metrics([0, 1], [0.1, 0.9], threshold)

    def test_bad_input_is_a_data_error(self):
        with pytest.raises(DataError, match="not logits"):
            metrics([0, 1], [-3.0, 3.0])
        with pytest.raises(DataError, match="one label for each of the 2 cells"):
            metrics([0, 1, 1], [0.1, 0.9])


class TestBootstrap:
    @pytest.mark.parametrize("ties", [False, True])
    def test_each_resample_equals_the_slow_loop(self, ties):
        labels, p, subjects = cohort(ties=ties)
        names, units = evaluation._subject_codes(subjects, len(labels))
        counts = np.random.default_rng(1).integers(0, 4, (8, len(names))).astype(float)
        cells = evaluation._Cells(*checked_predictions(labels, p), 0.5)
        fast = cells.resampled(counts, units, TWO_CLASS_METRICS)
        for row, drawn in enumerate(counts):
            slow = slow_two_class(labels, p, drawn[units])
            assert {name: values[row] for name, values in fast.items()} == pytest.approx(slow, abs=1e-10)

    def test_each_resample_of_several_classes_equals_the_slow_loop(self):
        labels, p = several_classes(ties=True)
        units = np.random.default_rng(2).integers(0, 12, len(labels))
        counts = np.random.default_rng(3).integers(0, 3, (5, 12)).astype(float)
        fast = evaluation._Cells(*checked_predictions(labels, p), 0.5).resampled(counts, units, MULTI_CLASS_METRICS)
        for row, drawn in enumerate(counts):
            slow = slow_multi_class(labels, p, drawn[units])
            assert {name: values[row] for name, values in fast.items()} == pytest.approx(slow, abs=1e-10)

    def test_draws_keep_the_number_of_subjects_of_each_class(self):
        strata = [np.array([0, 2, 3]), np.array([1, 4])]
        parts = list(evaluation._draws(strata, 50, seed=0, cells=evaluation._WEIGHTS_AT_A_TIME // 20))
        assert [len(part) for part in parts] == [20, 20, 10]
        counts = np.concatenate(parts)
        assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()
        assert (counts[:, [1, 4]].sum(axis=1) == 2).all()
        assert len(np.unique(counts, axis=0)) > 10

    def test_value_is_that_of_metrics(self):
        labels, p, subjects = cohort()
        found = bootstrap_over_subjects(labels, p, subjects, resamples=20, threshold=0.7)
        assert {name: found[name].value for name in found} == metrics(labels, p, 0.7)
        assert (found.unit, found.resamples, found.level, found.seed) == ("subject", 20, 0.95, 0)

    def test_same_seed_same_intervals(self):
        labels, p, subjects = cohort()
        first, again, other = (bootstrap_over_subjects(labels, p, subjects, resamples=100, seed=s) for s in (3, 3, 4))
        assert first == again
        assert first.intervals != other.intervals

    def test_order_of_the_cells_does_not_matter(self):
        labels, p, subjects = cohort()
        order = np.random.default_rng(0).permutation(len(labels))
        shuffled = bootstrap_over_subjects(labels[order], p[order], [subjects[i] for i in order], resamples=100)
        expected = bootstrap_over_subjects(labels, p, subjects, resamples=100)
        for name in expected:
            assert shuffled[name].to_dict() == pytest.approx(expected[name].to_dict(), abs=1e-12)

    def test_higher_level_is_wider(self):
        labels, p, subjects = cohort()
        narrow, wide = (bootstrap_over_subjects(labels, p, subjects, level=level)["auroc"] for level in (0.5, 0.95))
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high

    def test_names_choose_metrics(self):
        labels, p, subjects = cohort()
        everything = bootstrap_over_subjects(labels, p, subjects, resamples=50)
        some = bootstrap_over_subjects(labels, p, subjects, ["brier", "auroc"], resamples=50)
        assert list(some) == ["brier", "auroc"]
        assert some["auroc"] == everything["auroc"]
        with pytest.raises(UnknownNameError, match="did you mean 'auroc'"):
            bootstrap_over_subjects(labels, p, subjects, ["aurok"])
        with pytest.raises(UnknownNameError, match="'mcc'"):
            some["mcc"]

    def test_cells_of_a_subject_that_are_all_alike(self):
        # 200 cells of 10 + 10 subjects say no more than 20 cells do.
        rng = np.random.default_rng(0)
        units = np.repeat(np.arange(20), 200)
        labels = (units < 10).astype(int)
        p = np.clip(rng.normal(0.5, 0.2, 20), 0, 1)[units]
        subjects = [str(unit) for unit in units]
        by_subject = bootstrap_over_subjects(labels, p, subjects)
        by_cell = bootstrap_over_subjects(labels, p, None)
        assert (by_subject.unit, by_cell.unit) == ("subject", "cell")
        for name in ("auroc", "balanced_accuracy", "brier"):
            wide, narrow = by_subject[name], by_cell[name]
            assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
        # Binomial: 10 subjects, each wholly right or wrong.
        few = bootstrap_over_subjects(labels[::200], p[::200], subjects[::200])
        assert few["sensitivity"] == by_subject["sensitivity"]

    def test_unknown_subjects(self):
        labels, p, subjects = cohort()
        nameless = bootstrap_over_subjects(labels, p, [None] * len(labels), ["auroc"], resamples=50)
        assert nameless == bootstrap_over_subjects(labels, p, None, ["auroc"], resamples=50)
        assert nameless.unit == "cell"
        with pytest.raises(DataError, match=r"^1 of .* the first at index 5"):
            bootstrap_over_subjects(labels, p, [*subjects[:5], None, *subjects[6:]])

    @pytest.mark.filterwarnings("error")
    def test_one_healthy_subject_has_no_spread(self):
        labels, p, subjects = cohort(healthy=1)
        found = bootstrap_over_subjects(labels, p, subjects, resamples=100)
        assert math.isnan(found["specificity"].low)
        assert math.isnan(found["auroc"].high)
        assert found["sensitivity"].low < found["sensitivity"].value < found["sensitivity"].high

    @pytest.mark.filterwarnings("error")
    def test_one_class_only(self):
        found = bootstrap_over_subjects([1, 1, 1, 1], [0.2, 0.6, 0.7, 0.8], ["a", "a", "b", "c"], resamples=100)
        assert str(found["auroc"]) == "not defined"
        assert found["sensitivity"].low < found["sensitivity"].high

    @pytest.mark.filterwarnings("error")
    def test_subjects_of_several_classes_are_drawn_together(self):
        labels, p = [0, 1, 1, 1, 0, 0], [0.1, 0.9, 0.3, 0.8, 0.6, 0.2]
        found = bootstrap_over_subjects(labels, p, ["a", "a", "b", "b", "c", "c"], resamples=200)
        assert 0 <= found["auroc"].low < found["auroc"].high <= 1  # from the resamples with both classes

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"resamples": 0}, "resamples is 0"),
            ({"resamples": 1.5}, r"resamples is 1\.5"),
            ({"level": 95}, "level is 95"),
            ({"subjects": ["a"]}, "one name for each of the 4 cells"),
            ({"subjects": "abcd"}, "one name for each of the 4 cells"),
            ({"subjects": ["a", "b", 3, "d"]}, r"subjects\[2\] is 3"),
        ],
    )
    def test_bad_arguments(self, change, message):
        arguments = {"labels": [0, 0, 1, 1], "probabilities": [0.1, 0.2, 0.8, 0.9], "subjects": ["a", "b", "c", "d"]}
        with pytest.raises(DataError, match=message):
            bootstrap_over_subjects(**(arguments | change))

    def test_becomes_json(self):
        labels, p, subjects = cohort(healthy=1)
        found = json.loads(json.dumps(bootstrap_over_subjects(labels, p, subjects, resamples=20).to_dict()))
        assert found["intervals"]["specificity"]["low"] is None
        assert found["unit"] == "subject"

    @pytest.mark.slow
    def test_intervals_hold_the_truth_as_often_as_they_say(self):
        # Scores as `cohort` draws them, so that both truths are known; 400 cohorts, so that the share of a sound 95 %
        # interval is found within 2 points of it 19 times in 20.
        truth = {
            "auroc": ndtr(2.5 / 2),
            "balanced_accuracy": (ndtr(1.5 / math.sqrt(2)) + ndtr(1 / math.sqrt(2))) / 2,
        }
        held = dict.fromkeys(truth, 0)
        for seed in range(400):
            labels, p, subjects = cohort(ill=26, healthy=14, seed=seed)
            found = bootstrap_over_subjects(labels, p, subjects, tuple(truth), resamples=500, seed=seed)
            for name, value in truth.items():
                held[name] += found[name].low <= value <= found[name].high
        shares = {name: count / 400 for name, count in held.items()}
        assert all(0.90 <= share <= 0.97 for share in shares.values()), shares


class TestInterval:
    def test_text(self):
        assert str(Interval(0.8761, 0.8312, 0.912)) == "0.876 (0.831 to 0.912)"
        assert str(Interval(0.5, math.nan, math.nan)) == "0.500 (no interval)"

    def test_dictionary(self):
        assert Interval(0.5, math.nan, 0.6).to_dict() == {"value": 0.5, "low": None, "high": 0.6}


class TestPairedDifference:
    def test_value_is_the_difference_of_metrics(self):
        labels, a, subjects = cohort(seed=1)
        b = cohort(seed=1, ties=True)[1]
        found = paired_difference(labels, a, b, subjects, resamples=50, thresholds=(0.5, 0.4))
        first, second = metrics(labels, a), metrics(labels, b, 0.4)
        assert {name: found[name].value for name in found} == {name: first[name] - second[name] for name in first}

    def test_a_model_does_not_differ_from_itself(self):
        labels, p, subjects = cohort()
        found = paired_difference(labels, p, p, subjects, resamples=50)
        assert all(interval == Interval(0, 0, 0) for interval in found.intervals.values())

    def test_is_antisymmetric(self):
        labels, a, subjects = cohort()
        b = a**2
        there, back = (paired_difference(labels, *pair, subjects)["brier"] for pair in ((a, b), (b, a)))
        assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))

    def test_what_is_hard_for_both_cancels_out(self):
        labels, a, subjects = cohort()
        b = np.clip(a - 0.05 * (2 * labels - 1), 0, 1)
        paired = paired_difference(labels, a, b, subjects)["brier"]
        single = bootstrap_over_subjects(labels, a, subjects)["brier"]
        assert paired.high < 0
        assert paired.high - paired.low < (single.high - single.low) / 3

    def test_classes_must_match(self):
        with pytest.raises(DataError, match="2 and 3 classes"):
            paired_difference([0, 1], [0.1, 0.9], [[1, 0, 0], [0, 1, 0]], None)


class TestPerSubject:
    def test_rows(self):
        rows = per_subject([1, 0, 1, 0, 1], [0.9, 0.2, 0.4, 0.6, 0.8], ["b", "H1", "b", "H1", "a"], ["hem", "all"])
        assert [row["subject"] for row in rows] == ["H1", "a", "b"]
        assert rows[0] == {
            "subject": "H1",
            "label": "hem",
            "cells": 2,
            "mean_probability": pytest.approx(0.4),
            "share_called_last": 0.5,
            "share_correct": 0.5,
        }
        assert all(type(value) in (str, int, float) for row in rows for value in row.values())
        json.dumps(rows)

    def test_mixed_and_threshold(self):
        (row,) = per_subject([0, 1], [0.3, 0.6], ["a", "a"], ("hem", "all"), threshold=0.2)
        assert (row["label"], row["share_called_last"], row["share_correct"]) == ("mixed", 1, 0.5)

    def test_shares_add_up_to_accuracy(self):
        labels, p, subjects = cohort()
        rows = per_subject(labels, p, subjects, ["hem", "all"])
        accuracy = sum(row["share_correct"] * row["cells"] for row in rows) / len(labels)
        assert accuracy == pytest.approx(metrics(labels, p)["accuracy"])

    def test_several_classes(self):
        labels, p = several_classes()
        rows = per_subject(labels, p, ["x"] * len(labels), list("abcd"))
        assert rows[0]["share_correct"] == pytest.approx(metrics(labels, p)["accuracy"])
        assert rows[0]["share_called_last"] == pytest.approx((p.argmax(axis=1) == 3).mean())

    @pytest.mark.parametrize(
        ("subjects", "names", "message"),
        [
            (None, ["hem", "all"], "No cell has a subject"),
            (["a", None], ["hem", "all"], "1 of 2 cells"),
            (["a", "b"], ["hem"], "each of the 2 classes"),
            (["a", "b"], "ab", "each of the 2 classes"),
        ],
    )
    def test_bad_arguments(self, subjects, names, message):
        with pytest.raises(DataError, match=message):
            per_subject([0, 1], [0.1, 0.9], subjects, names)


class TestArea:
    @pytest.mark.parametrize("side", [45, 225, 450])
    def test_is_that_of_the_official_frame(self, side):
        frame = np.zeros((side, side, 3), np.uint8)
        frame[: side // 5, : side // 5, 1] = 1
        assert cell_area(frame) == pytest.approx(90 * 90)

    def test_any_channel_counts(self):
        frame = np.zeros((450, 450, 3), np.uint8)
        frame[0, 0], frame[0, 1], frame[0, 2], frame[0, 3] = (1, 0, 0), (0, 1, 0), (0, 0, 1), (9, 9, 9)
        assert cell_area(frame) == 4

    def test_shorter_side_of_an_oblong_frame(self):
        assert cell_area(np.ones((45, 90, 3), np.uint8)) == 45 * 90 * 100

    def test_other_arrays_are_refused(self):
        with pytest.raises(ImageError, match="multiply it by 255"):
            cell_area(np.full((20, 20, 3), 0.5))

    def test_larger_cells_are_leukaemic(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 2000)
        area = np.where(labels == 1, 36_244, 26_544) * np.exp(rng.normal(0, 0.2, 2000))
        found = area_baseline(area[:1000], labels[:1000], area[1000:])
        assert found.shape == (1000,)
        assert found.dtype == np.float64
        assert (np.diff(found[np.argsort(area[1000:])]) >= 0).all()
        # Two log-normals with equal spread, so that the truth is known: within 0.05 of it with 1,000 cells.
        log = np.log(area[1000:])
        truth = expit((np.log(36_244) - np.log(26_544)) / 0.2**2 * (log - np.log(36_244 * 26_544) / 2))
        assert np.abs(found - truth).max() < 0.05

    def test_unit_does_not_matter(self):
        areas, labels = [20e3, 30e3, 25e3, 40e3], [0, 1, 1, 0]
        np.testing.assert_allclose(
            area_baseline(areas, labels, areas), area_baseline(np.divide(areas, 7), labels, np.divide(areas, 7))
        )

    def test_equal_areas_give_the_share(self):
        np.testing.assert_allclose(area_baseline([5, 5, 5, 5], [1, 1, 1, 0], [5, 5]), 0.75, atol=1e-3)

    @pytest.mark.parametrize(
        ("train", "labels", "test", "message"),
        [
            ([1, 0], [0, 1], [1], r"train_area\[1\] is 0"),
            ([1, 2], [0, 1], [1, math.nan], r"test_area\[1\] is nan"),
            ([1, 2], [1, 1], [1], "one class only"),
            ([1, 2], [0], [1], "one label for each of the 2 cells"),
            ([[1], [2]], [0, 1], [1], r"train_area has the shape \(2, 1\)"),
            ([1, 2], [0, 1], [], "test_area has the shape"),
        ],
    )
    def test_bad_arguments(self, train, labels, test, message):
        with pytest.raises(DataError, match=message):
            area_baseline(train, labels, test)


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(evaluation)
    assert result.attempted >= 10
    assert result.failed == 0
