"""One temperature, reliability, ECE, slope and intercept."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation import calibration
from leukaemia_zoo.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    apply_temperature,
    calibration_slope_intercept,
    expected_calibration_error,
    fit_temperature,
    reliability,
    resampled_slope_intercept,
)


def calibrated(cells, classes, seed=0):
    """Logits of a network that is exactly calibrated, and labels drawn from its probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(cells, classes)) * 2
    cumulative = apply_temperature(logits, 1.0).cumsum(axis=1)
    return logits, (rng.random((cells, 1)) > cumulative[:, :-1]).sum(axis=1)


class TestFitTemperature:
    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
    def test_recovers_a_known_temperature(self, classes, true):
        logits, labels = calibrated(20_000, classes)
        assert fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.05)

    def test_one_logit_a_cell_is_the_last_class_against_the_first(self):
        logits, labels = calibrated(500, 2)
        expected = fit_temperature(logits, labels)
        assert fit_temperature(logits[:, 1] - logits[:, 0], labels) == pytest.approx(expected, rel=1e-6)

    def test_closed_form(self):
        # Three of four right at a logit of 4: best where sigmoid(4 / T) = 3 / 4.
        assert fit_temperature([4.0, 4.0, 4.0, -4.0], [1, 1, 0, 0]) == pytest.approx(4 / math.log(3), rel=1e-6)

    def test_is_the_minimum_of_a_grid(self):
        logits, labels = calibrated(300, 3, seed=2)
        logits *= 3
        grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 4001)
        rows = np.arange(len(labels))
        losses = [-np.log(apply_temperature(logits, t)[rows, labels]).mean() for t in grid]
        assert fit_temperature(logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=2e-3)

    def test_weights_count_as_repeated_cells(self):
        logits, labels = calibrated(200, 2, seed=3)
        weights = np.random.default_rng(4).integers(0, 4, 200)
        repeated = fit_temperature(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
        assert fit_temperature(logits, labels, weights) == pytest.approx(repeated, rel=1e-6)
        assert fit_temperature(logits, labels, weights * 0.01) == pytest.approx(repeated, rel=1e-6)

    def test_bounds_come_back_where_nothing_inside_is_best(self):
        labels = np.array([0, 1, 0, 1])
        right = np.array([-1.0, 1.0, -2.0, 0.5])
        assert fit_temperature(right, labels) == pytest.approx(MIN_TEMPERATURE, rel=1e-9)
        assert fit_temperature(-right, labels) == pytest.approx(MAX_TEMPERATURE, rel=1e-9)

    def test_huge_logits_do_not_overflow(self):
        assert MIN_TEMPERATURE <= fit_temperature([1e5, -1e5, 1e5, -1e5], [1, 0, 0, 1]) <= MAX_TEMPERATURE

    def test_ece_of_a_distorted_network_falls(self):
        logits, labels = calibrated(5000, 2, seed=5)
        before = expected_calibration_error(labels, apply_temperature(logits * 4, 1.0))
        temperature = fit_temperature(logits * 4, labels)
        after = expected_calibration_error(labels, apply_temperature(logits * 4, temperature))
        assert before > 0.1
        assert after < 0.03

    @pytest.mark.parametrize(
        ("logits", "labels", "weights", "message"),
        [
            ([], [], None, "empty"),
            ([[0.0], [1.0]], [0, 1], None, r"drop the last axis, logits\[:, 0\]"),
            ([0.0, math.nan], [0, 1], None, r"logits\[1\] is not finite"),
            ([0.0, math.inf], [0, 1], None, r"logits\[1\] is not finite"),
            ([1.0, 2.0], [1, 1], None, "one class only"),
            ([1.0, 2.0, 3.0], [1, 1, 0], [1, 1, 0], "one class only"),
            ([0.0, 0.0], [0, 1], None, "equal for all classes"),
            ([[3.0, 3.0], [5.0, 5.0]], [0, 1], None, "equal for all classes"),
            ([1.0, 2.0], [0, 2], None, r"labels\[1\] is 2"),
            ([1.0, 2.0], [0, -1], None, r"labels\[1\] is -1"),
            ([1.0, 2.0], [0.0, 1.0], None, "dtype float64"),
            ([1.0, 2.0], [0], None, "one label for each of the 2 cells"),
            ([1.0, 2.0], [0, 1], [1, -1], "negative"),
            ([1.0, 2.0], [0, 1], [0, 0], "zeros only"),
            ([1.0, 2.0], [0, 1], [1], "one weight for each"),
            ([[1.0, 2.0], [1.0]], [0, 1], None, "cannot become an array"),
            (["a", "b"], [0, 1], None, "give numbers"),
        ],
    )
    def test_degenerate_input(self, logits, labels, weights, message):
        with pytest.raises(DataError, match=message):
            fit_temperature(logits, labels, weights)


class TestApplyTemperature:
    def test_is_softmax(self):
        logits = np.random.default_rng(0).normal(size=(5, 3))
        expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(apply_temperature(logits, 2.0), expected, rtol=1e-12)

    def test_is_stable_and_float64(self):
        found = apply_temperature(np.array([[1000.0, 0.0], [-1000.0, 0.0]], np.float32), 0.5)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, [[1, 0], [0, 1]])

    def test_shape_of_one_logit_a_cell_is_kept(self):
        np.testing.assert_allclose(apply_temperature([0.0, 2.0], 2.0), [0.5, 1 / (1 + math.exp(-1))])

    def test_keeps_the_order(self):
        logits = np.random.default_rng(1).normal(size=100)
        np.testing.assert_array_equal(np.argsort(apply_temperature(logits, 3.0)), np.argsort(logits))

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
    def test_bad_temperature(self, temperature):
        with pytest.raises(DataError, match="above 0"):
            apply_temperature([0.0, 1.0], temperature)


class TestReliability:
    def test_by_hand(self):
        rows = reliability([0, 1, 1, 1], [0.2, 0.4, 0.9, 1.0], bins=4)
        assert [row["count"] for row in rows] == [1, 1, 0, 2]
        assert [row["observed"] for row in rows] == [0, 1, None, 1]
        assert rows[3] == {"low": 0.75, "high": 1.0, "confidence": 0.95, "observed": 1.0, "count": 2}

    def test_edges(self):
        assert [row["count"] for row in reliability([0, 0, 0], [0.0, 0.5, 1.0], bins=2)] == [1, 2]

    def test_more_classes_take_the_top_label(self):
        rows = reliability([0, 1], [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]], bins=2)
        assert rows[1] == {"low": 0.5, "high": 1.0, "confidence": 0.75, "observed": 0.5, "count": 2}
        assert expected_calibration_error([0, 1], [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]], bins=2) == pytest.approx(0.25)

    def test_ece_is_the_weighted_gap_of_the_rows(self):
        rng = np.random.default_rng(0)
        labels, probabilities = rng.integers(0, 2, 500), rng.random(500)
        rows = [row for row in reliability(labels, probabilities) if row["count"]]
        expected = sum(abs(row["confidence"] - row["observed"]) * row["count"] for row in rows) / 500
        assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)

    def test_perfect_and_worst(self):
        assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
        assert expected_calibration_error([0, 1], [1.0, 0.0]) == 1

    @pytest.mark.parametrize("bins", [0, -1, 2.5, True, None])
    def test_bad_bins(self, bins):
        with pytest.raises(DataError, match="bins is"):
            reliability([0, 1], [0.1, 0.9], bins=bins)

    @pytest.mark.parametrize(
        ("probabilities", "message"),
        [
            ([0.5, 1.5], r"probabilities\[1\] is outside 0 to 1"),
            ([0.5, math.nan], r"probabilities\[1\] is outside"),
            ([[0.5, 0.5], [0.5, 0.4]], r"probabilities\[1\] sums to 0.9"),
            ([[0.5], [0.4]], r"drop the last axis, probabilities\[:, 0\]"),
            (np.zeros((2, 2, 2)), "have the shape"),
            ([], "empty"),
        ],
    )
    def test_bad_probabilities(self, probabilities, message):
        with pytest.raises(DataError, match=message):
            reliability([0, 1], probabilities)

    def test_half_precision_softmax_is_taken(self):
        logits, labels = calibrated(1000, 5)
        reliability(labels, apply_temperature(logits, 1.0).astype(np.float16))


class TestSlopeAndIntercept:
    def test_a_calibrated_network_has_1_and_0(self):
        logits, labels = calibrated(50_000, 2)
        slope, intercept = calibration_slope_intercept(labels, apply_temperature(logits, 1.0))
        assert slope == pytest.approx(1, abs=0.05)
        assert intercept == pytest.approx(0, abs=0.05)

    def test_distortion_is_found(self):
        logits, labels = calibrated(50_000, 2)
        distorted = apply_temperature(3 * (logits[:, 1] - logits[:, 0]) + 0.6, 1.0)
        slope, intercept = calibration_slope_intercept(labels, distorted)
        assert slope == pytest.approx(1 / 3, abs=0.02)
        assert intercept == pytest.approx(-0.2, abs=0.05)

    def test_against_scikit_learn(self):
        rng = np.random.default_rng(0)
        labels, p = rng.integers(0, 2, 200), rng.uniform(0.01, 0.99, 200)
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        model.fit(np.log(p / (1 - p))[:, None], labels)
        found = calibration_slope_intercept(labels, p)
        assert found == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-5)

    def test_odds_by_hand(self):
        slope, intercept = calibration_slope_intercept([0, 0, 0, 1, 0, 1, 1, 1], [0.1] * 4 + [0.9] * 4)
        assert slope == pytest.approx(math.log(3) / math.log(9), abs=1e-6)
        assert intercept == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(
        ("labels", "p"),
        [
            ([1, 1], [0.2, 0.4]),
            ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
            ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
            ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),
            ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
        ],
    )
    def test_nan_where_there_is_no_best_fit(self, labels, p):
        assert all(map(math.isnan, calibration_slope_intercept(labels, p)))

    def test_certainty_does_not_break_it(self):
        assert all(map(math.isfinite, calibration_slope_intercept([0, 1, 1, 0], [0.0, 1.0, 0.0, 0.4])))

    def test_two_classes_only(self):
        with pytest.raises(DataError, match="3 classes"):
            calibration_slope_intercept([0], [[0.5, 0.25, 0.25]])


class TestSlopesOfResamples:
    def fits(self, labels, p, counts, units=None):
        table = np.stack([1 - np.asarray(p), p], axis=1)
        units = np.arange(len(p)) if units is None else units
        return resampled_slope_intercept(np.asarray(labels), table, np.asarray(counts, float), units)

    def test_are_those_of_repeated_cells(self):
        rng = np.random.default_rng(0)
        units = rng.integers(0, 15, 300)
        logits = rng.normal(size=300) * 4 + 3  # far from 0, so that the start and the scale matter
        labels = (rng.random(300) < 1 / (1 + np.exp(-(logits - 3) / 3))).astype(int)
        p = 1 / (1 + np.exp(-logits))
        counts = rng.integers(0, 4, (70, 15))  # more than are fitted at a time
        slopes, intercepts = self.fits(labels, p, counts, units)
        for row in (0, 31, 32, 69):
            repeated = np.repeat(np.arange(300), counts[row][units])
            expected = calibration_slope_intercept(labels[repeated], p[repeated])
            assert (slopes[row], intercepts[row]) == pytest.approx(expected, abs=1e-6)

    def test_all_but_separated(self):
        # One cell of each class on the wrong side, ever less often than the others: the slope grows, but is found.
        labels, p = np.array([0, 0, 1, 1]), np.array([0.01, 0.7, 0.6, 0.99])
        counts = np.array([[many, 1, 1, many] for many in (1, 10, 1000, 100_000)])
        slopes, intercepts = self.fits(labels, p, counts)
        logit = np.log(p / (1 - p))
        for slope, intercept, drawn in zip(slopes, intercepts, counts, strict=True):
            promised = 1 / (1 + np.exp(-(slope * logit + intercept)))
            # At the best fit both sums over the cells, of the residuals and of them times the logit, are 0.
            assert (drawn * (labels - promised)).sum() == pytest.approx(0, abs=1e-6)
            assert (drawn * (labels - promised) * logit).sum() == pytest.approx(0, abs=1e-6)

    @pytest.mark.filterwarnings("error")
    def test_resamples_that_are_far_from_the_whole(self):
        # One unit of 1,000 easy cells, which none of the resamples holds, makes the fit to all cells steep: full steps
        # from there go astray.
        rng = np.random.default_rng(0)
        easy = np.arange(1000) % 2
        logits = np.concatenate([12.0 * easy - 6 + rng.normal(size=1000), rng.normal(size=8) * 6])
        labels, p = np.concatenate([easy, rng.integers(0, 2, 8)]), 1 / (1 + np.exp(-logits))
        units = np.concatenate([np.zeros(1000, int), np.arange(1, 9)])
        counts = rng.integers(0, 3, (40, 9))
        counts[:, 0] = 0
        slopes, _ = self.fits(labels, p, counts, units)
        repeated = [np.repeat(np.arange(1008), drawn[units]) for drawn in counts]
        expected = [calibration_slope_intercept(labels[rows], p[rows])[0] for rows in repeated]
        assert np.isfinite(expected).sum() >= 10
        np.testing.assert_allclose(slopes, expected, rtol=1e-5)

    @pytest.mark.filterwarnings("error")
    def test_nan_where_a_resample_has_no_best_fit(self):
        labels, p = [0, 0, 1, 1, 1], [0.1, 0.6, 0.4, 0.9, 0.6]
        everything, one_class, separated, shared_edge = [1] * 5, [1, 2, 0, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 1, 1]
        slopes, intercepts = self.fits(labels, p, [everything, one_class, separated, shared_edge])
        assert np.isfinite(slopes).tolist() == np.isfinite(intercepts).tolist() == [True, False, False, False]
        assert np.isnan(self.fits([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [[1, 1, 1, 1]])).all()


def test_no_backend_and_no_scientific_library_is_imported():
    code = (
        "import sys, leukaemia_zoo.evaluation.calibration, leukaemia_zoo.evaluation.metrics, "
        "leukaemia_zoo.evaluation.intervals;"
        "print({'keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(calibration)
    assert result.attempted >= 6
    assert result.failed == 0
