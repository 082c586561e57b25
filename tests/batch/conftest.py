"""Cells in folders and in Parquet, some of which are none."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_cells(draw_cell):
    """A function that writes so many small cells into a folder, of which every tenth is cut off."""

    def write(folder, count):
        folder.mkdir()
        for number in range(count):
            stream = io.BytesIO()
            Image.fromarray(draw_cell(number, size=96, level=60 + number % 130)).save(stream, "PNG")
            data = stream.getvalue()
            file = folder / f"UID_{number % 3}_1_{number}_all.png"
            file.write_bytes(data[:500] if number % 10 == 9 else data)
        return folder

    return write


@pytest.fixture
def same():
    """A function that compares rows of a table with those of `predict`: the same cells, once each."""

    def compare(rows, records):
        assert [row["path"] for row in rows] == [record["path"] for record in records]
        for row, record in zip(rows, records, strict=True):
            assert (row["label"], row["subject"]) == (record["label"], record["subject"])
            assert (row["error"] is None) == (record["error"] is None)
            for name in ("p_hem", "p_all", "ood_score"):
                if record[name] is None:
                    assert row[name] is None
                else:
                    np.testing.assert_allclose(row[name], record[name], rtol=0, atol=1e-4)

    return compare
