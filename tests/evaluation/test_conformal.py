"""Limits of verdicts: what they promise on new people, and what they are read from."""

import json

import numpy as np
import pytest

from leukaemia_zoo.common.limits import UNCERTAIN_CODE, VerdictLimits, verdict_codes
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.conformal import MISS_RATES, coverage, fit_limits, judge_limits
from leukaemia_zoo.evaluation.out_of_fold import CALIBRATION_FILE, Calibration

NAMES = ("hem", "all")


def _people(rng, number, label, spread=1.2):
    """Logits of the cells of some people, who differ from each other, and whose cells are unequal in number."""
    sizes = rng.integers(5, 200, number)
    centres = rng.normal(1.5 if label else -1.5, spread, number)
    logits = np.concatenate([rng.normal(centre, 1.0, size) for centre, size in zip(centres, sizes, strict=True)])
    owners = np.repeat([f"{label}-{person}" for person in range(number)], sizes)
    return logits, owners


def _cells(rng, people):
    parts = [(*_people(rng, number, label), label) for label, number in enumerate(people)]
    p = 1 / (1 + np.exp(-np.concatenate([logits for logits, _, _ in parts])))
    labels = np.concatenate([np.full(len(logits), label) for logits, _, label in parts])
    return labels, np.stack([1 - p, p], axis=1), [name for _, owners, _ in parts for name in owners]


@pytest.mark.parametrize("people", [(21, 39), (40, 12), (100, 100)])
def test_new_people_are_missed_as_seldom_as_promised(people):
    rng, missed = np.random.default_rng(0), []
    for _ in range(150):
        limits = fit_limits(*_cells(rng, people), NAMES)
        labels, p, owners = _cells(rng, (20, 20))
        found = coverage(labels, verdict_codes(p, limits.at()), owners, NAMES)
        missed.append([found[name]["missed"] for name in NAMES])
    promised = limits.default
    for share, error, rate in zip(np.mean(missed, axis=0), np.std(missed, axis=0) / 150**0.5, promised, strict=True):
        assert share <= rate + 2 * error
    # And not by leaving everything to a human: with many people the promise is used up to a good part.
    if min(people) >= 100:
        assert np.mean(missed, axis=0)[1] > 0.5 * promised[1]


def test_one_person_with_many_cells_counts_as_one():
    rng = np.random.default_rng(1)
    labels, p, owners = _cells(rng, (30, 30))
    alone = fit_limits(labels, p, owners, NAMES)
    again = [0] * 40 + list(range(len(labels)))  # the first cell, and so its person, forty times more
    repeated = fit_limits(labels[again], p[again], [owners[row] for row in again], NAMES)
    by_cell = fit_limits(labels[again], p[again], [f"{n}" for n in range(len(again))], NAMES)
    assert np.abs(alone.at() - repeated.at()).max() < np.abs(alone.at() - by_cell.at()).max()


def test_too_few_people_never_rule_a_class_out():
    rng = np.random.default_rng(2)
    limits = fit_limits(*_cells(rng, (6, 6)), NAMES)
    assert limits.at(0.05).tolist() == [0.0, 0.0]  # 1 / 7 > 0.05: a seventh person may be unlike the six
    assert (limits.at(0.2) > 0).all()
    assert (verdict_codes(rng.dirichlet([1, 1], 50), limits.at(0.05)) == UNCERTAIN_CODE).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_is_missed_only_where_it_is_ruled_out_as_its_miss_rate_promises(classes):
    """Limits above 0.5, as weights that are mostly sure have them, rule out the likeliest class too."""
    rng = np.random.default_rng(11)
    p, limits = rng.dirichlet([1] * classes, 2000), rng.uniform(0, 1, (2000, classes))
    codes = np.array([verdict_codes(row[None], limit)[0] for row, limit in zip(p, limits, strict=True)])
    left = p >= limits
    missed = (codes[:, None] != np.arange(classes)) & (codes[:, None] != UNCERTAIN_CODE)
    assert not (missed & left).any()
    one = left.sum(axis=1) == 1
    assert (codes[one] == left[one].argmax(axis=1)).all()
    assert (codes[one] != p[one].argmax(axis=1)).any()


def test_a_higher_miss_rate_refers_fewer_cells():
    rng = np.random.default_rng(3)
    labels, p, owners = _cells(rng, (60, 60))
    limits = fit_limits(labels, p, owners, NAMES)
    referred = [(verdict_codes(p, limits.at(rate)) == UNCERTAIN_CODE).mean() for rate in MISS_RATES]
    assert referred == sorted(referred, reverse=True)
    assert referred[0] > referred[-1]


def test_a_rate_that_is_not_kept_is_refused_with_those_that_are():
    limits = fit_limits(*_cells(np.random.default_rng(4), (20, 20)), NAMES)
    with pytest.raises(DataError, match=r"choose one of 0\.02, 0\.05, 0\.1, 0\.2"):
        limits.at(0.03)


def test_cells_without_subjects_count_one_by_one():
    labels, p, _ = _cells(np.random.default_rng(5), (20, 20))
    assert fit_limits(labels, p, None, NAMES).people == (int((labels == 0).sum()), int((labels == 1).sum()))


def test_three_classes():
    rng = np.random.default_rng(6)
    labels = rng.integers(3, size=900)
    logits = rng.normal(size=(900, 3)) + 2.5 * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    limits = fit_limits(labels, p, None, ("a", "b", "c"))
    found = coverage(labels, verdict_codes(p, limits.at(0.1)), None, ("a", "b", "c"))
    assert all(found[name]["missed"] <= 0.1 for name in "abc")
    assert all(abs(sum(found[name][key] for key in ("right", "missed", "referred")) - 1) < 1e-9 for name in "abc")


def test_limits_survive_json_and_refuse_what_is_not_theirs():
    limits = fit_limits(*_cells(np.random.default_rng(7), (20, 20)), NAMES)
    data = limits.to_dict()
    assert VerdictLimits.from_dict(data, NAMES) == limits
    for change in (
        {"rates": [0.1, 0.05, 0.02, 0.2]},
        {"limits": {"hem": [0.1] * 4}},
        {"limits": {**data["limits"], "hem": [0.5, 0.4, 0.3, 0.2]}},
        {"limits": {**data["limits"], "hem": [0.1, 0.2, 0.3, float("nan")]}},
        {"people": {"hem": -1, "all": 3}},
        {"default": {"hem": 0.03, "all": 0.05}},
        {"referred": True},
        {"more": 1},
    ):
        with pytest.raises(DataError, match="verdict_limits"):
            VerdictLimits.from_dict({**data, **change}, NAMES)
    with pytest.raises(DataError, match="verdict_limits"):
        VerdictLimits.from_dict(data, ("hem", "all", "aml"))
    with pytest.raises(DataError, match="verdict_limits"):
        VerdictLimits.from_dict(7, NAMES)


def test_a_calibration_is_taken_for_its_own_classes_in_whatever_order(tmp_path):
    labels, p, owners = _cells(np.random.default_rng(9), (20, 20))
    found = Calibration.found(np.log(p), labels, owners, NAMES, 1.5, "recipe")
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps(found.to_dict()))
    assert Calibration.load(tmp_path, "recipe", NAMES) == found
    swapped = Calibration.load(tmp_path, "recipe", NAMES[::-1])
    assert swapped.verdict_limits.at(0.1).tolist() == found.verdict_limits.at(0.1)[::-1].tolist()
    with pytest.raises(DataError, match=r"its classes are 'hem', 'all'.* of this recipe on these cells"):
        Calibration.load(tmp_path, "recipe", ("normal", "blast"))


def test_limits_by_which_every_cell_is_uncertain_can_be_written_and_read():
    """The weights of the people add up to 1 but for rounding: six and six whose cells are told apart without fault."""
    labels = np.repeat([0, 1], 30)
    limits = fit_limits(labels, np.eye(2)[labels], [f"{label}{row // 5}" for row, label in enumerate(labels)], NAMES)
    assert limits.referred == 1.0
    assert VerdictLimits.from_dict(limits.to_dict(), NAMES) == limits


def test_the_judgement_of_limits_counts_people_and_has_intervals():
    rng = np.random.default_rng(6)
    limits = fit_limits(*_cells(rng, (60, 60)), NAMES)
    labels, p, owners = _cells(rng, (25, 25))
    found = judge_limits(labels, p, owners, limits, NAMES, resamples=200)
    simple = coverage(labels, verdict_codes(p, limits.at()), owners, NAMES)
    for name, rate in zip(NAMES, limits.default, strict=True):
        assert found[name]["promised"] == rate
        assert found[name]["people"] == 25
        for kind in ("missed", "referred", "right"):
            share = found[name][kind]
            assert share["value"] == pytest.approx(simple[name][kind])
            assert share["low"] <= share["value"] <= share["high"]
            assert share["high"] > share["low"] or share["value"] in (0.0, 1.0)


def test_classes_in_another_order_keep_their_limits():
    rng = np.random.default_rng(7)
    limits = fit_limits(*_cells(rng, (60, 60)), NAMES)
    labels, p, owners = _cells(rng, (10, 10))
    there = judge_limits(labels, p, owners, limits, NAMES, resamples=50)
    swapped = judge_limits(1 - labels, p[:, ::-1], owners, limits, NAMES[::-1], resamples=50)
    assert {name: found["missed"]["value"] for name, found in there.items()} == {
        name: found["missed"]["value"] for name, found in swapped.items()
    }


def test_people_on_whom_limits_do_not_hold_are_seen():
    rng = np.random.default_rng(8)
    limits = fit_limits(*_cells(rng, (60, 60)), NAMES)
    labels, p, owners = _cells(rng, (25, 25))
    shifted = 1 / (1 + np.exp(4.0 - np.log(p[:, 1] / p[:, 0])))  # every cell of these people looks healthier
    found = judge_limits(labels, np.stack([1 - shifted, shifted], 1), owners, limits, NAMES, resamples=200)
    assert found["all"]["missed"]["low"] > found["all"]["promised"]
