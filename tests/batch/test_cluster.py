"""Two nodes of a Ray cluster on this machine; a worker that is killed amid a part."""

import contextlib
import os
import signal
import time

import pytest

import leukaemia_zoo as lz
from leukaemia_zoo.batch.run import predict_parquet
from leukaemia_zoo.errors import ClusterError, DataError

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray", reason="Ray has no release for this Python")

pytestmark = pytest.mark.slow

MODEL = "cnn_attention"


@pytest.fixture(scope="module")
def cluster():
    """Address of two nodes with one processor each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        for left in reversed(range(3)):
            nodes = Cluster()
            try:
                nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
                nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
                nodes.wait_for_nodes()
                break
            except Exception:  # on a busy machine a node does not answer within the thirty seconds that it has
                nodes.shutdown()
                if not left:
                    raise
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()


def test_a_killed_worker_loses_and_doubles_no_cell(cluster, write_cells, tmp_path, same):
    cells, out = write_cells(tmp_path / "cells", 160), tmp_path / "out"
    tries, killed = out / ".leukaemia-zoo-run" / "tries", []

    def report(done, total):
        if done and not killed:
            # Whatever a worker has begun and not written; for a moment none may be between two parts.
            until = time.monotonic() + 5
            while not killed and time.monotonic() < until:
                for part in tries.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if (words := part.read_text().split()) and not (out / part.name).exists():
                            killed.append((part.name, int(words[-1])))
                            os.kill(killed[0][1], signal.SIGKILL)
                            break

    outcome = predict_parquet(MODEL, [cells], out, ray=cluster, most_cells=20, progress=report)
    assert killed
    assert (outcome.cells, outcome.failed, outcome.parts, outcome.found) == (160, 16, 8, 0)
    same(pq.read_table(out).to_pylist(), lz.predict(MODEL, cells).to_records())
    assert sorted(path.name for path in out.iterdir()) == [
        "_predictions.json",
        *(f"part-0000{n}.parquet" for n in range(8)),
    ]


def test_mistakes_of_workers_are_told_as_they_are(cluster, write_cells, tmp_path):
    files = sorted(write_cells(tmp_path / "cells", 4).iterdir())
    import pyarrow as pa

    table = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), table, row_group_size=1)
    with table.open("r+b") as file:  # the first page of the images is not what it was
        file.seek(4)
        file.write(b"\xff" * 40)
    with pytest.raises(DataError, match=r"cells.parquet cannot be read \("):
        predict_parquet(MODEL, [table], tmp_path / "out", ray=cluster, workers=1)


def test_map_batches_with_the_predictor_alone(cluster, write_cells, tmp_path):
    import ray

    files = sorted(write_cells(tmp_path / "cells", 12).iterdir())

    class Watched(lz.BatchPredictor):
        def __call__(self, batch):
            import sys

            import pyarrow as pa

            found = super().__call__(batch)
            loaded = bool({"keras", "tensorflow", "jax", "torch"} & set(sys.modules))
            return found.append_column("keras", pa.array([loaded] * len(found)))

    ray.init(cluster, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = (
            ray.data.from_items([{"path": str(file), "bytes": file.read_bytes()} for file in files])
            .map_batches(Watched, fn_constructor_kwargs={"model": MODEL}, batch_format="pyarrow", concurrency=1)
            .take_all()
        )
    finally:
        ray.shutdown()
    expected = {record["path"]: record["p_all"] for record in lz.predict(MODEL, files).to_records()}
    assert {row["path"]: row["p_all"] for row in rows} == pytest.approx(expected, abs=1e-4)
    assert len(rows) == 12
    assert not any(row["keras"] for row in rows)


def test_a_cluster_that_is_not_there(write_cells, tmp_path):
    cells = write_cells(tmp_path / "cells", 1)
    with pytest.raises(ClusterError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        predict_parquet(MODEL, [cells], tmp_path / "out", ray="127.0.0.1:1")
