"""A batch of rows in, the same rows with verdicts out."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.errors import DataError

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def predictor():
    return lz.BatchPredictor("cnn_attention")


@pytest.fixture
def files(write_cells, tmp_path):
    return sorted(write_cells(tmp_path / "cells", 12).iterdir())


def test_a_table_keeps_its_rows_and_columns(predictor, files, same):
    bytes_ = [file.read_bytes() for file in files]
    table = pa.table({"path": [*map(str, files)], "bytes": bytes_, "slide": [*range(12)]})
    found = predictor(table)
    assert found.column_names[:2] == ["path", "slide"]
    assert found.column_names[2:] == list(predictor.columns)
    assert found["slide"].to_pylist() == [*range(12)]
    same(found.to_pylist(), lz.predict("cnn_attention", files).to_records())
    assert sum(row["error"] is not None for row in found.to_pylist()) == 1
    # A block without a single error or verdict has the same types as any other.
    assert predictor(table.slice(0, 1)).schema == found.schema
    assert predictor(table.slice(0, 0)).schema == found.schema


def test_columns_of_arrays_frames_and_data_sets(predictor, draw_cell):
    frames = np.stack([draw_cell(1), draw_cell(2, level=190)])
    expected = lz.predict("cnn_attention", frames).probabilities
    by_frame = lz.BatchPredictor("cnn_attention", image="frame")({"frame": frames, "n": np.arange(2)})
    np.testing.assert_allclose(by_frame["p_all"], expected[:, 1], rtol=0, atol=1e-6)
    assert by_frame["n"].tolist() == [0, 1]
    assert "frame" not in by_frame

    def png(frame):
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "PNG")
        return stream.getvalue()

    structs = pa.table({"bytes": [{"bytes": png(frame), "path": None} for frame in frames]})
    np.testing.assert_allclose(predictor(structs)["p_all"].to_numpy(), expected[:, 1], rtol=0, atol=1e-6)


def test_empty_fields_of_subjects_are_nobody(predictor, draw_cell):
    """A data frame has NaN there, and makes decimals of the numbers beside them."""
    frames = np.stack([draw_cell(seed) for seed in range(3)])
    by_frame = lz.BatchPredictor(predictor.network, image="frame")
    assert by_frame({"frame": frames, "subject": np.array([21, np.nan, 22])})["subject"].tolist() == ["21", None, "22"]
    named = np.array(["a", np.nan, ""], object)
    assert by_frame({"frame": frames, "subject": named})["subject"].tolist() == ["a", None, None]
    (summary,) = lz.predict(predictor.network, frames, subjects=[np.nan, "a", "a"]).by_subject()
    assert (summary.subject, summary.cells) == ("a", 2)


def test_paths_are_read_and_subjects_kept(files):
    paths = [str(files[0]), str(files[-1])]
    by_path = lz.BatchPredictor("cnn_attention", image="path")
    assert by_path({"path": np.array(paths, object)})["subject"].tolist() == ["0", "2"]
    told = by_path(pa.table({"path": paths, "subject": pa.array([None, "Ada"])}))
    assert told.column_names[0] == "path"
    assert told["subject"].to_pylist() == ["0", "Ada"]


def test_nothing_is_an_image_without_a_verdict(predictor):
    found = predictor({"bytes": np.array([None, b""], object)})
    assert found["label"].tolist() == [None, None]
    assert np.isnan(found["p_all"]).all()
    assert found["error"][1].startswith("images[1] is empty")


def test_what_cannot_be_right_is_told(predictor):
    with pytest.raises(DataError, match="no column 'bytes' of images, but image"):
        predictor({"image": [b""]})
    with pytest.raises(DataError, match="a column 'label', where the verdict is to stand"):
        predictor({"bytes": [b""], "label": ["all"]})
    with pytest.raises(DataError, match="of type list"):
        predictor([b""])
    with pytest.raises(DataError, match="miss rate"):
        lz.BatchPredictor("cnn_attention", miss_rate=0.123)


def test_its_class_travels_to_workers():
    assert pickle.loads(pickle.dumps(lz.BatchPredictor)) is lz.BatchPredictor
