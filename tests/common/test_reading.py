"""`reading`: plain data of which nothing can fail later, or one short reason."""

import json

import numpy as np
import pytest

from leukaemia_zoo.common.reading import parse_json, read_arrays, read_json
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
        ({"distillation": {"pairs": ["conv"]}}, DataError, "'pairs' holds pairs of names"),
        ({"distillation": {"pairs": [["a", 1]]}}, DataError, "'pairs' holds pairs of names"),
        ({"distillation": 4}, DataError, "'distillation' is 4"),
        ({"inverse_penalties": [float("inf")]}, DataError, "'inverse_penalties' is"),
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
