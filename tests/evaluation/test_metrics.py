"""Metrics against scikit-learn, results by subject, and what a ruler knows."""

import doctest
import json
import math

import numpy as np
import pytest
from reference_metrics import cohort, several_classes, slow_multi_class, slow_two_class
from scipy.special import expit

from leukaemia_zoo.errors import DataError, ImageError
from leukaemia_zoo.evaluation import inputs
from leukaemia_zoo.evaluation import metrics as evaluation
from leukaemia_zoo.evaluation.baselines import area_baseline, cell_area
from leukaemia_zoo.evaluation.calibration import expected_calibration_error
from leukaemia_zoo.evaluation.metrics import MULTI_CLASS_METRICS, TWO_CLASS_METRICS, metrics, per_subject


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
    for module, least in ((evaluation, 5), (inputs, 1)):
        result = doctest.testmod(module)
        assert result.attempted >= least
        assert result.failed == 0
