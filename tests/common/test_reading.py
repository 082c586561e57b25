"""`reading`: plain data of which nothing can fail later, or one short reason."""

import json
import math
import re

import numpy as np
import pytest

from leukaemia_zoo.common.reading import is_number, is_whole, parse_json, read_arrays, read_json, whole
from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.training.recipes import changed, recipe_for


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps([10**30]), "a whole number of 31 digits"),
        (json.dumps([-(2**63) - 1]), "a whole number of 19 digits"),
        ("9" * 5000, "a whole number of 5000 digits"),
        (r'["\ud800"]', "surrogates not allowed"),
        (r'{"\udfff": 1}', "surrogates not allowed"),
    ],
)
def test_what_nothing_can_be_done_with_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as told:
        parse_json(text)
    assert len(str(told.value)) < 210
    assert str(told.value).isprintable()


def test_everything_that_is_written_is_read(tmp_path):
    data = {"ä": [2**63 - 1, -(2**63), 0.1, 1e300, None, True, "\U0001f9ec"], "": {}}
    (tmp_path / "data.json").write_text(json.dumps(data))
    assert read_json(tmp_path / "data.json") == data
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    (tmp_path / "data.json").write_text("{}", encoding="utf-16")
    with pytest.raises(ValueError, match="utf-8"):
        read_json(tmp_path / "data.json")


def test_arrays_come_back_whole_or_not_at_all(tmp_path):
    file = tmp_path / "arrays.npz"
    np.savez(file, a=np.arange(5), b=np.array("text"))
    assert {name: array.tolist() for name, array in read_arrays(file).items()} == {"a": [0, 1, 2, 3, 4], "b": "text"}
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:150] + b"\0\0\0" + whole[153:], b"PK\x03\x04"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"\w"):
            read_arrays(file)
    np.savez(file, a=np.array([{}], object))
    with pytest.raises(ValueError, match="pickle"):
        read_arrays(file)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distillation": {"pairs": []}}, DataError, "'pairs' holds pairs of names"),
        ({"distillation": {"pairs": ["conv"]}}, DataError, "'pairs' holds pairs of names"),
        ({"distillation": {"pairs": [["a", 1]]}}, DataError, "'pairs' holds pairs of names"),
        ({"distillation": 4}, DataError, "'distillation' is 4"),
        ({"inverse_penalties": [float("inf")]}, DataError, "'inverse_penalties' is"),
        ({"architecture": "vgg16"}, DataError, "'architecture' is 'vgg16', but 'cnn_attention' is to be trained"),
        ({"batch_size": 10**9}, DataError, "'batch_size' is 1000000000: give a number up to 65,536"),
        ({"dropout": 1}, DataError, "'dropout' is 1: give a number from 0 to below 1"),
        ({"label_smoothing": 5}, DataError, "'label_smoothing' is 5: give a number from 0 to below 1"),
        ({"validation_share": 3.0}, DataError, "'validation_share' is 3.0: give a number from 0 to below 1"),
        ({"soft_share": 1.1}, DataError, "'soft_share' is 1.1: give a number from 0 to 1"),
        ({"zoom": 9}, DataError, "'zoom' is 9: give a number from 0 to 1"),
        ({"distillation": {"cut_out": 2}}, DataError, "'cut_out' is 2: give a number from 0 to 1"),
        ({"crop_fraction": 0}, DataError, "'crop_fraction' is 0: give a number above 0 and at most 1"),
        ({"patience": "x" * 9999}, DataError, "'patience' must be of the kind int, not 'xxx"),
        ({"x" * 9999: 1}, UnknownNameError, "has no setting 'xxx"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_short_sentence(change, error, message):
    with pytest.raises(error, match=message) as told:
        recipe_for("cnn_attention", change)
    assert len(str(told.value)) < 700


def test_a_recipe_file_is_refused_as_json_is(tmp_path):
    (tmp_path / "recipe.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        changed(recipe_for("cnn"), tmp_path / "recipe.json")


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", None, np.float64(3), np.bool_(True), math.nan])
def test_what_is_no_whole_number_is_told_by_its_name(value):
    with pytest.raises(DataError, match=rf"^folds is {re.escape(repr(value))}: give a whole number from 1 on\.$"):
        whole(value, "folds")
    assert not is_whole(value)


def test_whole_numbers_of_any_kind_become_those_of_python():
    for value in (3, np.int64(3), np.uint8(3)):
        assert type(whole(value, "folds")) is int
        assert whole(value, "folds", 3, 3) == 3
    with pytest.raises(DataError, match="give a whole number from 0 to 2"):
        whole(3, "seed", 0, 2)


def test_numbers_are_told_from_what_python_counts_with():
    assert [is_number(value) for value in (0, 1.5, True, "1", None)] == [True, True, False, False, False]
