"""A folder of verdicts: whole parts, each cell once, whatever ends the run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import leukaemia_zoo as lz
from leukaemia_zoo.batch.cluster import PartJudge
from leukaemia_zoo.batch.judging import Work
from leukaemia_zoo.batch.parts import Part, cells_of_part
from leukaemia_zoo.batch.run import predict_parquet
from leukaemia_zoo.engine.graphs import find_graph
from leukaemia_zoo.errors import BatchMissingError, DataError, ImageError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MODEL = "cnn_attention"


def rows_of(out):
    return pq.read_table(out).to_pylist()


def parquet_of(files, path, **columns):
    """The bytes of files as Parquet of three row groups."""
    table = pa.table({"cell": [file.stem for file in files], "image": [file.read_bytes() for file in files], **columns})
    pq.write_table(table, path, row_group_size=-(-len(files) // 3))
    return path


def test_a_folder_of_images(write_cells, tmp_path, same):
    cells = write_cells(tmp_path / "cells", 30)
    steps = []
    outcome = predict_parquet(
        MODEL, [cells], tmp_path / "out", most_cells=8, progress=lambda *step: steps.append(step), log=steps.append
    )
    expected = lz.predict(MODEL, cells).to_records()
    same(rows_of(tmp_path / "out"), expected)
    assert (outcome.cells, outcome.failed, outcome.parts, outcome.found) == (30, 3, 4, 0)
    assert sum(outcome.counts.values()) == 27
    assert outcome.counts["all"] == sum(record["label"] == "all" for record in expected)
    assert steps == [(0, 30), (8, 30), (16, 30), (24, 30), (30, 30)]
    record = json.loads((tmp_path / "out" / "_predictions.json").read_text())
    assert record["counts"] == outcome.counts
    assert record["model"] == "cnn_attention.cnmc"
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["_predictions.json", *(f"part-0000{number}.parquet" for number in range(4))]


def test_parquet_of_bytes_keeps_its_columns(write_cells, tmp_path):
    files = sorted(write_cells(tmp_path / "cells", 12).iterdir())
    table = parquet_of(files, tmp_path / "cells.parquet", subject=[7] * 12)
    outcome = predict_parquet(MODEL, [table], tmp_path / "out", most_cells=4)
    rows = rows_of(tmp_path / "out")
    assert outcome.parts == 3
    assert [row["cell"] for row in rows] == [file.stem for file in files]
    assert [row["path"] for row in rows] == [f"{table}[{number}]" for number in range(12)]
    assert {row["subject"] for row in rows} == {"7"}
    assert "image" not in rows[0]
    expected = lz.predict(MODEL, files).probabilities[:, 1]
    assert [row["p_all"] for row in rows] == pytest.approx(
        [None if value != value else value for value in expected], abs=1e-4
    )
    (broken,) = [row for row in rows if row["error"]]
    assert broken["error"].startswith(broken["path"])


def test_views_are_those_that_were_asked_for(write_cells, tmp_path, same):
    cells = write_cells(tmp_path / "cells", 3)
    predict_parquet(MODEL, [cells], tmp_path / "out", views=1)
    one, default = (lz.predict(MODEL, cells, views=views).to_records() for views in (1, None))
    same(rows_of(tmp_path / "out"), one)
    assert one[0]["ood_score"] != pytest.approx(default[0]["ood_score"], abs=1e-3)
    with pytest.raises(DataError, match="3"):
        predict_parquet(MODEL, [cells], tmp_path / "other", views=3)


def test_columns_that_cannot_be_kept(write_cells, tmp_path):
    files = sorted(write_cells(tmp_path / "cells", 2).iterdir())
    table = parquet_of(files, tmp_path / "a.parquet", label=["all"] * 2, mask=[b""] * 2)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"several columns that may hold images \(image, mask\)"):
        predict_parquet(MODEL, [table], out)
    with pytest.raises(DataError, match="a column 'label', where the verdict is to stand"):
        predict_parquet(MODEL, [table], out, image="image")
    with pytest.raises(DataError, match="no column 'pixels'"):
        predict_parquet(MODEL, [table], out, image="pixels")
    with pytest.raises(DataError, match="no column 'id' to keep"):
        predict_parquet(MODEL, [table], out, image="image", keep=["id"])
    predict_parquet(MODEL, [table], out, image="image", keep=["cell"])  # a mistake leaves the folder free
    assert [*rows_of(out)[0]][:2] == ["cell", "path"]

    other = parquet_of(files, tmp_path / "b.parquet", label=["all"] * 2)
    with pytest.raises(DataError, match="another column 'mask'"):
        predict_parquet(MODEL, [table, other], tmp_path / "both", image="image", keep=["mask"])
    with pytest.raises(DataError, match="both images"):
        predict_parquet(MODEL, [table, files[0]], tmp_path / "both")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images and no Parquet files"):
        predict_parquet(MODEL, [tmp_path / "empty"], tmp_path / "both")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        predict_parquet(MODEL, [tmp_path / "text.parquet"], tmp_path / "both")


KILLED = """
import os, signal, sys
from leukaemia_zoo.batch.run import predict_parquet
def report(done, total):
    if done >= 12:
        assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
        os.kill(os.getpid(), signal.SIGKILL)
predict_parquet("cnn_attention", [sys.argv[1]], sys.argv[2], most_cells=6, progress=report)
"""


def test_a_killed_run_goes_on_with_what_is_missing(write_cells, tmp_path, same):
    cells, out = write_cells(tmp_path / "cells", 30), tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, cells, out], check=False)
    assert killed.returncode == -signal.SIGKILL
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(written) == 2
    # What it would leave in the middle of writing, and a cell that came after it had listed them.
    (out / "part-00002.parquet").write_bytes(b"PAR1")
    (cells / "z.png").write_bytes(next(cells.iterdir()).read_bytes())
    with pytest.raises(DataError, match="unfinished run with other settings"):
        predict_parquet("cnn", [cells], out)
    with pytest.raises(DataError, match="unfinished run with other settings"):
        predict_parquet(MODEL, [cells], out, views=1)
    told = []
    outcome = predict_parquet(MODEL, [cells], out, log=told.append)
    assert (outcome.parts, outcome.found, outcome.cells) == (5, 2, 30)
    assert told == [
        f"Image files since the run began: 1 added ({cells / 'z.png'}). It goes on with those that it has listed; "
        "restart (--restart) judges what is there now."
    ]
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written
    (cells / "z.png").unlink()
    same(rows_of(out), lz.predict(MODEL, cells).to_records())


def test_a_part_that_ends_each_of_its_workers_is_given_up(write_cells, tmp_path):
    cells, tries = write_cells(tmp_path / "cells", 1), tmp_path / "tries"
    tries.mkdir()
    (image,) = cells.iterdir()
    table = parquet_of([image], tmp_path / "cells.parquet")
    work = Work(MODEL, b"", str(tmp_path), "image", ("cell",), None, None, "run")
    part = Part(0, str(table), (0,), 0, 1)
    graph = find_graph(lz.model_info(MODEL).weight.config, "")

    def judge():
        """What a worker of a cluster says of the part."""
        described = json.dumps(dataclasses.asdict(work) | {"graph": None})
        judged = PartJudge(described, graph, str(tries))({"part": [json.dumps(dataclasses.asdict(part))]})
        return json.loads(judged["told"][0])

    (tries / part.name).write_text("101\n102\n103\n104\n105\n")
    told = judge()
    assert told["kind"] == "ClusterError"
    assert told["mistake"].startswith(f"5 workers ended while they judged cells 0 to 0 of {table}: give")
    (tries / part.name).write_text("101\n102\n103\n104\n")
    assert judge()["cells"] == 1
    assert not (tries / part.name).exists()
    (tmp_path / part.name).unlink()
    part = dataclasses.replace(part, cells=2)
    assert judge()["mistake"].startswith(f"{table} has changed since the run began")


def test_parquet_that_changed_meanwhile_is_refused(write_cells, tmp_path):
    files = sorted(write_cells(tmp_path / "cells", 6).iterdir())
    table, out = parquet_of(files, tmp_path / "cells.parquet"), tmp_path / "out"

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_parquet(MODEL, [table], out, most_cells=2, progress=stop)
    parquet_of(files[:5], table)
    os.utime(table, ns=(time.time_ns(), time.time_ns() + 1))
    with pytest.raises(DataError, match="has changed since the run began"):
        predict_parquet(MODEL, [table], out)
    assert predict_parquet(MODEL, [table], out, restart=True).cells == 5
    assert len(rows_of(out)) == 5


def test_what_lies_in_the_folder_is_not_replaced(write_cells, tmp_path):
    cells, out = write_cells(tmp_path / "cells", 3), tmp_path / "out"
    predict_parquet(MODEL, [cells], out, most_cells=1)
    with pytest.raises(DataError, match="verdicts of an earlier run"):
        predict_parquet(MODEL, [cells], out)
    assert predict_parquet(MODEL, [cells], out, most_cells=2, restart=True).parts == 2
    assert len(rows_of(out)) == 3
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds thesis.txt, which is no part of a run"):
        predict_parquet(MODEL, [cells], out, restart=True)
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(pa.table({"a": [1]}), other / "part-00000.parquet")
    with pytest.raises(DataError, match=r"holds part-00000.parquet, which is no part of a run"):
        predict_parquet(MODEL, [cells], other, restart=True)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text(write_cells, tmp_path):
    cells = write_cells(tmp_path / "cells", 1)
    (good,) = cells.iterdir()
    good.rename(os.fsdecode(os.fsencode(cells) + b"/caf\xe9.png"))
    (cells / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    predict_parquet(MODEL, [cells], tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows[0]["path"] == rf"{cells}/caf\udce9.png"
    assert [row["error"] is None for row in rows] == [True, False]


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BatchMissingError, match=r"pip install 'leukaemia-zoo\[parquet\]'"):
        predict_parquet(MODEL, [tmp_path], tmp_path / "out")


@pytest.mark.parametrize(("cells", "part"), [(1, 50), (100_000, 391), (5_000_000, 10_000)])
def test_parts_suit_the_number_of_cells(cells, part):
    assert cells_of_part(cells) == part
