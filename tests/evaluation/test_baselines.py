"""Majority class, cell area and background: fitted on other cells than they are judged on."""

import doctest

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from leukaemia_zoo.evaluation import baselines
from leukaemia_zoo.evaluation.baselines import (
    AREA,
    BACKGROUND,
    MAJORITY,
    area_baseline,
    background_features,
    cell_area,
    cross_fitted,
    features_of,
    fitted_on,
)


def test_a_black_background_tells_nothing_whatever_the_cell(draw_cell):
    found = {tuple(background_features(draw_cell(seed, radius=0.1 + seed / 40))) for seed in range(5)}
    assert found == {(0.0,) * 6 + (256.0, 256.0)}


def test_a_background_with_a_colour_and_another_size_tells():
    frame = np.zeros((100, 200, 3), np.uint8)
    frame[..., 1] = 40
    frame[30:60, 50:100] = 200  # the cell plays no part
    assert background_features(frame).tolist() == [0, 40, 0, 0, 0, 0, 100, 200]


def test_what_each_baseline_sees(draw_cell):
    frame = draw_cell()
    found = features_of(frame)
    assert found[MAJORITY].shape == (0,)
    np.testing.assert_allclose(found[AREA], np.log([cell_area(frame)]))
    assert found[BACKGROUND].shape == (8,)
    assert np.isfinite(features_of(np.zeros((32, 32, 3), np.uint8))[AREA]).all()


def test_each_fold_is_predicted_from_the_others():
    rng = np.random.default_rng(0)
    features, folds = rng.normal(size=(200, 3)), np.arange(200) % 4
    labels = (features[:, 0] + rng.normal(size=200) > 0).astype(np.int64)
    found = cross_fitted(features, labels, folds, 2)
    for fold in range(4):
        known, test = folds != fold, folds == fold
        mean, spread = features[known].mean(axis=0), features[known].std(axis=0)
        model = LogisticRegression().fit((features[known] - mean) / spread, labels[known])
        np.testing.assert_allclose(found[test], model.predict_proba((features[test] - mean) / spread), atol=1e-4)


def test_labels_of_the_own_fold_play_no_part():
    rng = np.random.default_rng(1)
    features, folds = rng.normal(size=(100, 2)), np.arange(100) // 50
    labels = rng.integers(2, size=100)
    turned = np.where(folds == 0, 1 - labels, labels)
    one, other = cross_fitted(features, labels, folds, 2), cross_fitted(features, turned, folds, 2)
    np.testing.assert_array_equal(one[folds == 0], other[folds == 0])
    assert np.abs(one[folds == 1] - other[folds == 1]).max() > 0.01


def test_constant_features_give_the_shares_of_the_classes_and_no_ranking():
    labels, folds = np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 1, 0, 1])
    for features in (np.zeros((8, 0)), np.full((8, 2), 7.0)):
        found = cross_fitted(features, labels, folds, 2)
        assert found[:, 1].tolist() == [5 / 8] * 8
        assert roc_auc_score(labels, found[:, 1]) == 0.5


def test_three_classes_and_one_that_a_fold_does_not_know():
    features, labels = np.arange(9.0)[:, None], np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    folds = np.array([0, 1, 0, 0, 1, 0, 1, 1, 1])
    found = cross_fitted(features, labels, folds, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[folds == 1, 2] == 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_area_is_the_same_as_in_cross_validation(seed):
    rng = np.random.default_rng(seed)
    labels, folds = rng.integers(2, size=300), rng.integers(3, size=300)
    area = np.exp(rng.normal(10 + 0.4 * labels, 0.3))
    found = cross_fitted(np.log(area)[:, None], labels, folds, 2)
    for fold in range(3):
        test = folds == fold
        np.testing.assert_allclose(found[test, 1], area_baseline(area[~test], labels[~test], area[test]), atol=1e-6)


def test_it_is_told_what_was_fitted_on_whom():
    labels, folds = np.array([0, 1, 0, 1, 0, 1]), np.arange(6) // 2
    assert fitted_on(np.arange(6.0)[:, None], labels, folds) == "Fitted on other people."
    assert "these very cells: nothing was fitted" in fitted_on(np.full((6, 2), 7.0), labels, folds)
    # Two folds are predicted from cells whose background varies, the one that varies itself from constant ones.
    one = np.array([0.0, 1, 0, 0, 0, 0])[:, None]
    assert "in 1 of 3 folds, where nothing varied, it gives the shares" in fitted_on(one, labels, folds)


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(baselines)
    assert result.attempted >= 3
    assert not result.failed
