"""The bootstrap against the slow loop, and whether its intervals keep their promise."""

import doctest
import json
import math

import numpy as np
import pytest
from reference_metrics import cohort, several_classes, slow_multi_class, slow_two_class
from scipy.special import ndtr

from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.evaluation import intervals
from leukaemia_zoo.evaluation.calibration import calibration_slope_intercept, resampled_slope_intercept
from leukaemia_zoo.evaluation.inputs import checked_predictions, subject_codes
from leukaemia_zoo.evaluation.intervals import Interval, Resampling, bootstrap_over_subjects, paired_difference
from leukaemia_zoo.evaluation.metrics import MULTI_CLASS_METRICS, TWO_CLASS_METRICS, WeightedCells, metrics


class TestBootstrap:
    @pytest.mark.parametrize("ties", [False, True])
    def test_each_resample_equals_the_slow_loop(self, ties):
        labels, p, subjects = cohort(ties=ties)
        names, units = subject_codes(subjects, len(labels))
        counts = np.random.default_rng(1).integers(0, 4, (8, len(names))).astype(float)
        cells = WeightedCells(*checked_predictions(labels, p), 0.5)
        fast = cells.resampled(counts, units, TWO_CLASS_METRICS)
        for row, drawn in enumerate(counts):
            slow = slow_two_class(labels, p, drawn[units])
            assert {name: values[row] for name, values in fast.items()} == pytest.approx(slow, abs=1e-10)

    def test_each_resample_of_several_classes_equals_the_slow_loop(self):
        labels, p = several_classes(ties=True)
        units = np.random.default_rng(2).integers(0, 12, len(labels))
        counts = np.random.default_rng(3).integers(0, 3, (5, 12)).astype(float)
        fast = WeightedCells(*checked_predictions(labels, p), 0.5).resampled(counts, units, MULTI_CLASS_METRICS)
        for row, drawn in enumerate(counts):
            slow = slow_multi_class(labels, p, drawn[units])
            assert {name: values[row] for name, values in fast.items()} == pytest.approx(slow, abs=1e-10)

    def test_draws_keep_the_number_of_subjects_of_each_class(self):
        strata = [np.array([0, 2, 3]), np.array([1, 4])]
        parts = list(intervals._draws(strata, 50, seed=0, cells=intervals._WEIGHTS_AT_A_TIME // 20))
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
            labels, p, subjects = cohort(ill=26, healthy=14, seed=seed, log_size=3)
            found = bootstrap_over_subjects(labels, p, subjects, tuple(truth), resamples=200, seed=seed)
            for name, value in truth.items():
                held[name] += found[name].low <= value <= found[name].high
        shares = {name: count / 400 for name, count in held.items()}
        assert all(0.90 <= share <= 0.97 for share in shares.values()), shares


class TestResampling:
    def test_each_draw_passes_the_same_resamples(self):
        labels, _, subjects = cohort()
        resampling = Resampling(labels, subjects, 300, 5, 0.95)
        first, again = (resampling.draw(lambda counts, _: {"first": counts[:, 0]})["first"] for _ in range(2))
        assert first.shape == (300,)
        assert first.std() > 0
        np.testing.assert_array_equal(first, again)

    def test_mirrored_percentiles_by_hand(self):
        resampling = Resampling(np.arange(200) % 2, None, 10, 0, 0.95)
        drawn = np.linspace(2.0, 3.0, 1001)
        plain, mirrored = (resampling.interval(2.2, drawn, mirrored=mirrored) for mirrored in (False, True))
        assert (mirrored.low, mirrored.high) == pytest.approx((4.4 - plain.high, 4.4 - plain.low))
        assert mirrored.low < 1.45  # as far below the value as the resamples reach above it
        assert Resampling(np.array([0, 1]), None, 10, 0, 0.95).interval(2.2, drawn, mirrored=True).to_dict() == {
            "value": 2.2,
            "low": None,
            "high": None,
        }

    @pytest.mark.parametrize("change", [{"resamples": 0}, {"resamples": 2.5}, {"level": 1.0}, {"subjects": ["a"]}])
    def test_bad_arguments(self, change):
        with pytest.raises(DataError):
            Resampling(
                **({"labels": np.array([0, 1]), "subjects": None, "resamples": 5, "seed": 0, "level": 0.9} | change)
            )

    @pytest.mark.slow
    def test_intervals_of_slope_and_intercept_hold_the_truth_as_often_as_they_say(self):
        # The scores of `cohort` are normal with a variance of 2 and means 2.5 apart, so that logistic regression holds
        # exactly, with a slope of 2.5 / 2 and odds of 26 to 14 halfway between the means, at 0.25.
        names = ("slope", "intercept")
        truth = {"slope": 1.25, "intercept": math.log(26 / 14) - 1.25 * 0.25}
        held = dict.fromkeys(truth, 0)
        for seed in range(300):
            labels, p, subjects = cohort(ill=26, healthy=14, seed=seed, log_size=3)
            checked = checked_predictions(labels, p)
            resampling = Resampling(labels, subjects, 200, seed, 0.95)
            drawn = resampling.draw(
                lambda *counts, checked=checked: dict(
                    zip(names, resampled_slope_intercept(*checked, *counts), strict=True)
                )
            )
            for name, value in zip(names, calibration_slope_intercept(*checked), strict=True):
                found = resampling.interval(value, drawn[name], mirrored=True)
                held[name] += found.low <= truth[name] <= found.high
        shares = {name: count / 300 for name, count in held.items()}
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


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(intervals)
    assert result.attempted >= 6
    assert result.failed == 0
