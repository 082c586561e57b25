"""`curves`: the curves of a training as a table and as a picture."""

import csv
import doctest
import xml.etree.ElementTree as ET

from leukaemia_zoo import errors
from leukaemia_zoo.report import curves
from leukaemia_zoo.report.curves import curve_rows, write_curves

CLASSIFIER = [
    {"stage": "classifier", "inverse_penalty": penalty, "log_loss": loss, "auroc": 0.9, "temperature": 1.1}
    for penalty, loss in ((0.01, 0.5), (0.1, 0.4))
]
TUNING = [
    {"stage": "fine-tuning", "epoch": epoch, "loss": 0.6 / epoch, "log_loss": 0.4, "auroc": None} for epoch in (1, 2)
]
RECORD = {
    "distillation": {"history": [{"a-b": 1.0, "c-d": 0.9}, {"a-b": 0.7, "c-d": 0.8}]},
    "curves": [*CLASSIFIER, *TUNING],
}


def test_every_value_of_every_stage_has_its_row():
    rows = curve_rows(RECORD)
    assert rows[:4] == [
        ("distillation", 1, None, "a-b", 1.0),
        ("distillation", 1, None, "c-d", 0.9),
        ("distillation", 2, None, "a-b", 0.7),
        ("distillation", 2, None, "c-d", 0.8),
    ]
    assert ("classifier", None, 0.1, "log_loss", 0.4) in rows
    assert ("fine-tuning", 2, None, "loss", 0.3) in rows
    assert len(rows) == 4 + 2 * 3 + 2 * 2  # what is not known is left out
    assert curve_rows({"distillation": None, "curves": CLASSIFIER}) == rows[4:10]
    assert doctest.testmod(curves).failed == 0


def test_table_and_picture_are_written(tmp_path):
    write_curves(tmp_path, RECORD)
    with (tmp_path / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"stage": "distillation", "epoch": "1", "inverse_penalty": "", "metric": "a-b", "value": "1.0"}
    assert len(rows) == len(curve_rows(RECORD))
    told = [element.text for element in ET.parse(tmp_path / "curves.svg").iter() if element.text]
    for label in ("a-b", "c-d", "training loss", "validation log loss"):
        assert label in told
    assert sum(text.startswith(("Distillation", "Classifier", "Fine-tuning")) for text in told) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv", "curves.svg"]


def test_only_stages_that_took_place_are_drawn(tmp_path):
    write_curves(tmp_path, {"distillation": None, "curves": TUNING})
    text = (tmp_path / "curves.svg").read_text()
    assert "Fine-tuning" in text
    assert "Distillation" not in text
    assert "Classifier" not in text


def test_where_all_subjects_teach_the_training_loss_alone_is_drawn(tmp_path):
    write_curves(tmp_path, {"distillation": None, "curves": [{"stage": "fine-tuning", "epoch": 1, "loss": 0.4}]})
    told = [element.text for element in ET.parse(tmp_path / "curves.svg").iter() if element.text]
    assert any(text.startswith("Fine-tuning") for text in told)
    assert "validation log loss" not in told


def test_without_matplotlib_the_table_is_written_and_it_is_told(tmp_path, monkeypatch):
    def missing():
        raise errors.PlotsMissingError("Plots need Matplotlib: run `pip install matplotlib`.")

    monkeypatch.setattr(curves, "drawing", missing)
    lines = []
    write_curves(tmp_path, RECORD, lines.append)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.csv"]
    assert lines == ["curves.svg was not drawn: Plots need Matplotlib: run `pip install matplotlib`."]
