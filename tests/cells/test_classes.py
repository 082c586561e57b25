"""The order of classes, `as_cells`: which of two classes is the positive one, and a path as good as a table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.table import positive_last
from leukaemia_zoo.errors import DataError, UnknownNameError


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("leukemia", "normal"), "leukemia"),
        (("Leukaemia", "other"), "Leukaemia"),
        (("abnormal", "normal"), "abnormal"),
        (("ALL", "Normal"), "ALL"),
        (("AML cells", "control cells"), "AML cells"),
        (("blast", "lymphocyte"), "blast"),
        (("malignant", "reactive"), "malignant"),
        (("diseased", "healthy"), "diseased"),
        (("leukemic", "non-leukemic"), "leukemic"),
        (("no_cancer", "yes"), "yes"),
        (("leukemia", "leukemia-free"), "leukemia"),
        (("relapse", "remission"), "relapse"),
        (("Benign", "Malignant"), "Malignant"),
        (("0", "1"), "1"),
        (("lymphocyte", "monocyte"), "monocyte"),  # neither says: the last
        (("AML", "CML"), "CML"),  # both say
        (("erythroblast", "lymphoblast"), "lymphoblast"),
    ],
)
def test_the_name_says_which_class_is_positive(names, positive):
    assert positive_last(names)[-1] == positive
    assert positive_last(names[::-1])[-1] == (positive if positive not in ("monocyte", "CML", "1") else names[0])
    assert set(positive_last(names)) == set(names)


def test_more_than_two_classes_stay_as_they_are():
    assert positive_last(["AML", "blast", "normal"]) == ("AML", "blast", "normal")


@pytest.fixture
def folder(tmp_path):
    """Two leukaemia cells and one normal one, in folders that the alphabet puts the other way round."""
    for number, label in enumerate(("leukemia", "leukemia", "normal")):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (90, 40, 100 + number)).save(tmp_path / "data" / label / f"{number}.png")
    return tmp_path / "data"


def test_folders_and_tables_agree(folder):
    rows = [f"{path},{path.parent.name}" for path in sorted(folder.glob("*/*.png"))]
    table = folder.parent / "cells.csv"
    table.write_text("\n".join(["path,label", *rows]))
    for data in (folder, str(folder), table, lz.cells.read_folders(folder)):
        cells = as_cells(data)
        assert cells.class_names == ("normal", "leukemia")
        assert [cells.class_names[label] for label in cells.labels] == [path.parent.name for path in cells.paths]


def test_the_positive_class_can_be_named(folder):
    cells = as_cells(folder, positive="normal")
    assert cells.class_names == ("leukemia", "normal")
    assert [cells.class_names[label] for label in cells.labels] == [path.parent.name for path in cells.paths]
    assert cells.paths == as_cells(folder).paths
    with pytest.raises(UnknownNameError, match="no class 'blast' to be the positive one: choose one of normal, leuke"):
        as_cells(folder, positive="blast")


def test_a_manifest_does_not_depend_on_the_order_of_the_classes(folder, tmp_path):
    split = lz.cells.Split({"train": (0, 2), "test": (1,)}, None, "by hand")
    lz.cells.save_manifest(tmp_path / "split.json", as_cells(folder, positive="normal"), split)
    assert lz.cells.load_manifest(tmp_path / "split.json", folder).parts == split.parts


def test_a_path_is_as_good_as_a_table(folder):
    (folder / "normal" / "3.png").write_bytes((folder / "leukemia" / "0.png").read_bytes()[:-1] + b"x")
    halves = {"train": 0.5, "test": 0.5}
    splits = [
        lz.cells.split_by_subject(data, halves, allow_unknown_subjects=True) for data in (str(folder), as_cells(folder))
    ]
    assert splits[0] == splits[1]
    with pytest.raises(DataError, match="subject"):
        lz.cells.split_by_subject(folder)
    with pytest.raises(DataError, match="subject"):
        lz.cells.kfold_by_subject(str(folder))


TAKES_CELLS = {
    "train": lambda data, out: lz.train("cnn", data, out, teacher=None),
    "cross_validate": lambda data, out: lz.cross_validate("cnn", data, out, teacher=None),
    "fine_tune": lambda data, out: lz.fine_tune("cnn_attention", data, out),
    "linear_probe": lambda data, out: lz.adaptation.linear_probe("cnn_attention", data),
    "split_by_subject": lambda data, out: lz.cells.split_by_subject(data),
    "kfold_by_subject": lambda data, out: lz.cells.kfold_by_subject(data),
    "check_split": lambda data, out: lz.cells.check_split(data, lz.cells.Split({}, None, "")),
    "benchmark": lambda data, out: lz.benchmark({"constant": np.zeros}, data),
}


@pytest.mark.parametrize("verb", TAKES_CELLS)
def test_what_is_no_data_is_told(verb, tmp_path):
    with pytest.raises(DataError, match=r"3 is no data|The data is a int"):
        TAKES_CELLS[verb](3, tmp_path / "out")
    for path in (tmp_path / "no", str(tmp_path / "no")):
        with pytest.raises(DataError, match="There is no folder"):
            TAKES_CELLS[verb](path, tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
