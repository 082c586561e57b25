"""`tools/add_weight.py`: from a trained folder to a row and a file in the package."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from leukaemia_zoo import save_model
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.common.files import check_integrity
from leukaemia_zoo.errors import IntegrityError
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.registry import ModelConfig, WeightSpec

TOOL = Path(__file__).parents[1] / "tools" / "add_weight.py"
NAME = "cnn_attention.mydata"
PBC = {"name": "PBC", "source": "Acevedo et al. 2020", "licence": "CC BY 4.0"}

pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not beside the tests")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("add_weight", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trained(tmp_path):
    model = build_model("cnn_attention", head="texture", input_size=16)
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "texture", Preprocessing((16, 16)))
    found = {"validation": {"on": "5 cells", "values": {"auroc": {"value": 0.9}}}}
    save_model(model, tmp_path / "trained", metrics=found, data=({"name": "A", "source": "B", "licence": "C"},))
    return tmp_path / "trained"


@pytest.fixture
def cross_validation(tmp_path):
    values = {"resamples": 2000, "unit": "subject", "intervals": {"auroc": {"value": 0.8, "low": 0.7, "high": 0.9}}}
    classes = {"hem": {"subjects": 21}, "all": {"subjects": 39}}
    found = {
        "recipe": {"architecture": "cnn_attention"},
        "cells": {"cells": 7861, "subjects": 60, "classes": classes},
        "folds": [{}] * 5,
        "metrics": values,
        "area_baseline": values,
    }
    folder = tmp_path / "cross_validation"
    folder.mkdir()
    (folder / "cross_validation.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout" / "src" / "leukaemia_zoo"
    folder.mkdir(parents=True)
    (folder / "weights.json").write_text("[]", encoding="utf-8")
    return folder


def _about() -> dict[str, object]:
    return {"licence": "Apache-2.0", "citation": "Someone 2026", "data": [PBC]}


def test_a_weight_gets_a_file_and_a_row(tool, trained, cross_validation, package):
    tool.add_weight(trained, NAME, cross_validation, _about(), package)
    (row,) = map(WeightSpec.from_dict, json.loads((package / "weights.json").read_text(encoding="utf-8")))
    assert (row.name, row.config.weight, row.file) == (NAME, NAME, f"{NAME}.safetensors")
    assert [source["name"] for source in row.data] == ["A", "PBC"]
    assert list(row.metrics) == ["cross_validation", "cross_validation_area_baseline", "validation"]
    assert "7,861 cells of 60 subjects (21 hem, 39 all) in 5 folds by subject" in row.metrics["cross_validation"]["on"]
    check_integrity(package / "weights" / row.file, row.sha256, row.size)


def test_a_large_file_lies_outside_the_package(tool, trained, cross_validation, package, monkeypatch):
    monkeypatch.setattr(tool, "LARGEST_PACKAGED", 1000)
    row = tool.add_weight(trained, NAME, cross_validation, _about(), package)
    check_integrity(package.parents[1] / "weights" / row.file, row.sha256, row.size)
    assert not (package / "weights").exists()


def test_a_weight_of_the_same_name_is_replaced(tool, trained, cross_validation, package):
    tool.add_weight(trained, NAME, cross_validation, _about(), package)
    tool.add_weight(trained, NAME, cross_validation, {**_about(), "licence": "CC BY 4.0"}, package)
    (row,) = json.loads((package / "weights.json").read_text(encoding="utf-8"))
    assert row["licence"] == "CC BY 4.0"


@pytest.mark.parametrize("name", ["cnn.mydata", "cnn_attention", "cnn_attention."])
def test_a_name_that_does_not_fit_is_refused(tool, trained, cross_validation, package, name):
    with pytest.raises(SystemExit, match="is named"):
        tool.add_weight(trained, name, cross_validation, _about(), package)


def test_a_damaged_file_is_refused(tool, trained, cross_validation, package):
    file = trained / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(IntegrityError):
        tool.add_weight(trained, NAME, cross_validation, _about(), package)
    assert not (package / "weights").exists()
