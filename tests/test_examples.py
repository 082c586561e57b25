"""The programs in `examples/` do what they show, on drawn cells and without a network."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [
    pytest.mark.filterwarnings("ignore:The split is by image"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests"),
]


@pytest.fixture
def program(monkeypatch):
    """A function that imports an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def drawn(program, tmp_path):
    return program("finetune_blood_cells").draw_folder(tmp_path / "cells", per_class=8, classes=3)


def test_keras_idioms(program, drawn, capsys):
    program("keras_idioms").main(drawn)
    said = capsys.readouterr().out
    assert "arrays: ['accuracy', 'learning_rate', 'loss', 'val_accuracy', 'val_loss']" in said
    assert "PyDataset: 3 batches" in said
    assert "tf.data: 3 batches" in said or "TensorFlow is not installed" in said
    assert "DataLoader: 3 batches" in said or "PyTorch is not installed" in said
    assert "('basophil', 'eosinophil', 'erythroblast')" in said
    assert "a .keras file gives the same: True" in said


@pytest.mark.slow
def test_custom_architecture(program, drawn, tmp_path, capsys):
    program("custom_architecture").main(drawn, tmp_path / "run")
    said = capsys.readouterr().out
    assert "in the zoo: True" in said
    assert "small_separable ('basophil', 'eosinophil', 'erythroblast')" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_finetune_blood_cells(program, drawn, tmp_path, capsys):
    program("finetune_blood_cells").main(drawn, tmp_path / "run", per_class=6)
    said = capsys.readouterr().out
    assert "24 cells, 5 folds by image" in said
    assert "saved in" in said
    assert "basophil_0.png" in said
