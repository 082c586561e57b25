"""One part: its cells judged, its verdicts a Parquet file that is whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from leukaemia_zoo.batch.parts import FILE_COLUMN, Part, require
from leukaemia_zoo.batch.predictor import BatchPredictor, utf8, with_verdicts
from leukaemia_zoo.common.files import replacing
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, reason
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.prediction.results import CellTally, Prediction

_AT_ONCE = 128
"""Rows that are read at once: 80 MB of C-NMC's largest files."""

_BUFFER = 1 << 20
"""Bytes of a column that are read ahead; without, PyArrow reads a column of a whole row group."""

_MARK = b"leukaemia-zoo"
"""Key in the metadata of a part: by it a part is known to be ours and of this run."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What whoever judges a part has to know; plain data, so that it travels to any machine.

    Attributes:
        model: A weight as `load_model` takes it.
        graph: Of its network, so that no worker has to make it.
        out: Folder of the verdicts.
        image: Column of the images; None where files are listed.
        keep: Columns to keep.
        miss_rate: As `predict` takes it.
        views: As `predict` takes it.
        fingerprint: Of the run.
    """

    model: str
    graph: bytes
    out: str
    image: str | None
    keep: tuple[str, ...]
    miss_rate: float | None
    views: int | None
    fingerprint: str

    def predictor(self, threads: int | None = 1) -> BatchPredictor:
        """A network that is ready to judge."""
        network = Network.load(self.model, graph=self.graph)
        image = self.image or FILE_COLUMN
        return BatchPredictor(network, image=image, miss_rate=self.miss_rate, threads=threads, views=self.views)


def judge_part(work: Work, part: Part, predictor: BatchPredictor) -> CellTally:
    """Judge the cells of a part and write their verdicts, unless they are there."""
    if (known := tally_of(work, part)) is not None:
        return known
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    tally, tables = CellTally.of(predictor.network.zoo.class_names), []
    try:
        with pq.ParquetFile(part.file, buffer_size=_BUFFER) as file:
            columns = [FILE_COLUMN] if work.image is None else list(dict.fromkeys((work.image, *work.keep)))
            row = part.first
            for batch in file.iter_batches(_AT_ONCE, row_groups=list(part.groups), columns=columns):
                table, predictions = _with_verdicts(work, part, row, pa.Table.from_batches([batch]), predictor)
                row += len(predictions)
                tables.append(table)
                for prediction in predictions:
                    tally.add(prediction)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{part.file} cannot be read ({reason(error)}): write or copy it again.") from error
    if tally.cells != part.cells:
        raise DataError(f"{part.file} has changed since the run began: begin anew with restart (--restart).")
    whole = pa.concat_tables(tables)
    mark = {"fingerprint": work.fingerprint, "told": tally.to_dict(), "use": NOT_A_DIAGNOSIS}
    whole = whole.replace_schema_metadata((whole.schema.metadata or {}) | {_MARK: json.dumps(mark).encode()})
    with replacing(Path(work.out) / part.name) as beside:
        pq.write_table(whole, beside, compression="zstd")
    return tally


def _with_verdicts(
    work: Work, part: Part, row: int, table: Any, predictor: BatchPredictor
) -> tuple[Any, list[Prediction]]:
    """Rows of a part from number `row` on, with their verdicts."""
    pa = require("pyarrow")
    images = table[work.image or FILE_COLUMN].to_pylist()
    if work.image is None:
        images = names = [os.fsdecode(file) for file in images]
        kept = pa.table({"path": pa.array([utf8(name) for name in names], pa.string())})
    else:
        kept = table.select(list(work.keep))
        numbers = range(row, row + len(images))
        names = [f"{part.file}[{number}]" for number in numbers]
        if "path" in work.keep:
            own = table["path"].to_pylist()
            names = [name if path is None else str(path) for name, path in zip(names, own, strict=True)]
        elif all(isinstance(image, str) for image in images):
            names = images
        if "path" not in work.keep:
            kept = kept.append_column("path", pa.array([utf8(name) for name in names], pa.string()))
    subjects = table["subject"].to_pylist() if "subject" in work.keep else None
    predictions = list(predictor.judge(images, names, subjects))
    return with_verdicts(kept, predictions, predictor.network.zoo.class_names), predictions


def tally_of(work: Work, part: Part) -> CellTally | None:
    """The cells of a part that is written already."""
    mark = mark_of(Path(work.out) / part.name)
    return CellTally.from_dict(mark["told"]) if mark is not None and mark["fingerprint"] == work.fingerprint else None


def mark_of(file: Path) -> Any:
    """What a run has left in the metadata of a part; None of any other file, or of none."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    if not file.is_file():
        return None
    try:
        return json.loads((pq.read_schema(file).metadata or {})[_MARK])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
