"""Packages of bioimage.io: valid, tested by bioimage.io's own program, and told what the weight is told."""

import importlib.util
import json
import socket
import zipfile

import numpy as np
import pytest

from leukaemia_zoo.errors import DataError, EngineError, ExportMissingError
from leukaemia_zoo.exporting import writing as exporting
from leukaemia_zoo.exporting.writing import export
from leukaemia_zoo.zoo.registry import model_info

NAME = "mobilenet.pbc_cnmc"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of a weight that has limits of verdicts."""
    pytest.importorskip("bioimageio.spec")
    file = tmp_path_factory.mktemp("package") / "cells.zip"
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_):
            raise AssertionError("an export needs no network")

        patch.setattr(socket.socket, "connect", refuse)
        exported = export(NAME, file, to="bioimageio")
    assert exported.difference < 1e-4
    assert exported.size == file.stat().st_size
    assert [left.name for left in file.parent.iterdir()] == ["cells.zip"]
    return file


@pytest.fixture(scope="module")
def description(package):
    from bioimageio.spec import ValidationContext, load_model_description

    with ValidationContext(perform_io_checks=False):
        return load_model_description(package)


def test_the_program_of_bioimage_io_tests_a_package_green(package):
    core = pytest.importorskip("bioimageio.core")
    summary = core.test_model(package)
    assert summary.status == "passed", summary.format()
    names = [detail.name for detail in summary.details]
    assert any("Reproduce test outputs" in name for name in names)
    assert any("batch_size: 2" in name for name in names)


def test_a_package_tells_what_the_weight_tells(package, description):
    spec = model_info(NAME).weight
    ours = description.config.leukaemia_zoo
    assert ours["preprocessing"] == spec.config.preprocessing.to_dict()
    assert ours["ood_limit"] == spec.config.ood_limit
    assert ours["verdict_limits"] == json.loads(json.dumps(spec.config.verdict_limits.to_dict()))
    assert ours["note"].startswith("For research only")
    assert description.license == "Apache-2.0"
    assert {entry.doi for entry in description.cite} >= {"10.7937/tcia.2019.dc64i46r", "10.17632/snkd93bnjr.1"}
    (images,) = description.inputs
    assert [axis.size for axis in images.axes[1:]] == [128, 128, 3]
    probabilities = description.outputs[0]
    assert probabilities.axes[1].channel_names == ["hem", "all"]
    (evaluation,) = description.config.bioimageio.evaluations
    assert (evaluation.sample_count, evaluation.dataset_role) == (7861, "test")
    auroc = spec.metrics["cross_validation"]["values"]["auroc"]
    assert evaluation.results[evaluation.metrics.index("AUROC")] == [
        round(auroc[key], 4) for key in ("value", "low", "high")
    ]
    with zipfile.ZipFile(package) as archive:
        text = archive.read("README.md").decode()
        tensor = np.load(archive.open("images.npy"))
    assert "## Preprocessing" in text
    assert "resized to 128 x 128 pixels with antialiasing (Pillow, bicubic)" in text
    assert "## Validation" in text
    assert "not a diagnosis" in text
    assert tensor.shape == (3, 128, 128, 3)
    assert 200 < tensor.max() <= 255


def test_a_network_of_ones_own_becomes_a_package_too(tmp_path):
    pytest.importorskip("bioimageio.spec")
    from leukaemia_zoo.cells import Preprocessing
    from leukaemia_zoo.zoo import ModelConfig, build_model, save_model

    model = build_model("cnn", num_classes=3, input_size=48, head="pooled")
    model.zoo = ModelConfig("cnn", ("Lymphocyte (B)", "Zelle, groß", "c"), "pooled", Preprocessing((48, 48)))
    save_model(model, tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text(encoding="utf-8"))
    config["licence"] = "our-own"  # which the format does not know
    (tmp_path / "own" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    exported = export(tmp_path / "own", tmp_path / "own.zip", to="bioimageio")
    core = pytest.importorskip("bioimageio.core")
    assert core.test_model(exported.file).status == "passed"


def test_a_package_that_differs_is_not_left(tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.spec")
    make, _ = exporting._MAKERS["bioimageio"]
    monkeypatch.setitem(
        exporting._MAKERS, "bioimageio", (make, lambda file, cells: np.tile([0.9, 0.1], (len(cells), 1)))
    )
    with pytest.raises(EngineError, match=r"was not written.* differs by \d"):
        export("cnn", tmp_path / "cells.zip", to="bioimageio")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_not_valid_is_told(tmp_path, monkeypatch):
    pytest.importorskip("bioimageio.spec")
    from leukaemia_zoo.exporting import bioimageio

    monkeypatch.setattr(bioimageio, "_summary", lambda spec: "x" * 2000)
    with pytest.raises(EngineError, match=r"No package of bioimage\.io can be made of 'cnn\.cnmc' .*export it to onnx"):
        export("cnn", tmp_path / "cells.zip", to="bioimageio")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_and_another_suffix_are_told(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"suffix \.zip"):
        export("cnn", tmp_path / "cells.onnx", to="bioimageio")
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if "bioimageio" in name else there(name, *more)
    )
    with pytest.raises(
        ExportMissingError, match=r"bioimageio\.spec is not installed: `pip install 'leuk.*\[bioimageio"
    ):
        export("cnn", tmp_path / "cells.zip", to="bioimageio")
    assert not list(tmp_path.iterdir())
