"""Verdicts on many cells as a folder of Parquet files: a part that is written is done, whatever ends the run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from leukaemia_zoo._version import __version__
from leukaemia_zoo.batch.cluster import judged_by_cluster
from leukaemia_zoo.batch.judging import Work, judge_part, mark_of, tally_of
from leukaemia_zoo.batch.parts import Part, Plan, plan, require
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.common.run_folder import RUN, RunFolder, folder_or_temporary
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, Log, silent
from leukaemia_zoo.engine.graphs import find_graph
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.prediction.results import CellTally
from leukaemia_zoo.prediction.writing import verdict_columns
from leukaemia_zoo.zoo.sources import find

RECORD = "_predictions.json"
"""What a run leaves beside its parts. Readers of a folder of Parquet pass over names that begin so."""

_PLAN = "plan.json"
_LISTING = "files.parquet"

_TRIES = "tries"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        out: The folder: ``part-00000.parquet`` and so on, in the order of what was given, and ``_predictions.json``.
        cells: How many there were.
        failed: Of how many the image could not be read.
        counts: Cells of each label.
        uncertain: How many have the verdict "uncertain".
        unfamiliar: How many do not look like the cells of the training.
        parts: Into how many files they were cut.
        found: How many of these an earlier, interrupted run had written.
        seconds: How long this run took.
    """

    out: Path
    cells: int
    failed: int
    counts: dict[str, int]
    uncertain: int
    unfamiliar: int
    parts: int
    found: int
    seconds: float


def predict_parquet(
    model: str | os.PathLike[str],
    paths: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    image: str | None = None,
    keep: Sequence[str] | None = None,
    miss_rate: float | None = None,
    views: int | None = None,
    ray: str | None = None,
    workers: int | None = None,
    most_cells: int | None = None,
    restart: bool = False,
    log: Log | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Judge all cells in files, folders and Parquet files, and write a folder of Parquet files.

    Each part is written beside its place and renamed when it is whole. A run that was interrupted, called again in the
    same way, goes on with the parts that are missing.

    Args:
        model: A weight as `load_model` takes it.
        paths: Image files, Parquet files with a column of encoded images, and folders of the ones or the others.
        out: The folder to write. On a cluster every machine must see it, and the inputs, under the same path.
        image: The column of the images in Parquet files; None for the only one of bytes.
        keep: The columns to keep beside the verdicts; None for all but that of the images.
        miss_rate: As `predict` takes it.
        views: As `predict` takes it.
        ray: Address of a Ray cluster, ``"local"`` for one that is started on this machine, or None to judge in this
            process without Ray.
        workers: Of the cluster, each on a core; None for all cores.
        most_cells: Of a part; None for at most 10,000.
        restart: Begin anew where the folder holds verdicts already.
        log: Called with what is to be known of the files that were met, such as ``print``; None for none.
        progress: Told how many cells are judged, and how many there are.

    Raises:
        BatchMissingError: If PyArrow, or Ray for a cluster, is not installed.
        ClusterError: If there is no cluster at the address, or a part ends every worker that tries it.
        DataError: If the folder holds something else, or the files do not fit the options.
        ImageError: If there are no cells.
        LeukaemiaZooError: As `load_model`.
    """
    require("pyarrow.parquet")
    started = time.monotonic()
    out = Path(os.path.abspath(out))  # noqa: PTH100 - links stay as they were named
    given = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    name = os.fspath(model)
    found = find(name)
    config = found.spec.config
    if Path(name).exists() and found.place == "path":
        name = os.path.abspath(name)  # noqa: PTH100 - workers have other working folders
    settings = [found.spec.sha256, miss_rate, views, image, None if keep is None else [*keep], given]
    fingerprint = hashlib.sha256(json.dumps(settings).encode(errors="surrogateescape")).hexdigest()
    with folder_or_temporary(out):
        run = RunFolder(out / RUN, fingerprint, restart)
        kept = run.load_json(_PLAN)
        if kept is None:
            _clear(out, restart)
        graph = find_graph(config, found.file)
        work = Work(name, graph, str(out), image, (), miss_rate, views, fingerprint)
        work.predictor()  # a mistake in weight, miss rate or views is told before anything is written
        if kept is None:
            run.begin()
            try:
                all_parts = plan(
                    *(given, run.file(_LISTING)),
                    image=image,
                    keep=keep,
                    taken=verdict_columns(config.class_names),
                    most_cells=most_cells,
                )
                _refuse_own_output(all_parts, out)
            except BaseException:
                run.remove()
                raise
            run.save_json(_PLAN, all_parts.to_dict())
            notes = all_parts.notes
        else:
            all_parts = Plan.from_dict(kept)
            all_parts.check_sources()
            notes = (*all_parts.notes, *all_parts.changes(given))
        for line in notes:
            (log or silent)(line)
        work = dataclasses.replace(work, image=all_parts.image, keep=all_parts.keep)
        tally, left, total = CellTally.of(config.class_names), [], all_parts.cells
        for part in all_parts.parts:
            if (known := tally_of(work, part)) is None:
                left.append(part)
            else:
                tally.add_all(known)
        if progress is not None:
            progress(tally.cells, total)
        for of_part in _judged(work, left, ray, run, workers):
            tally.add_all(of_part)
            if progress is not None:
                progress(tally.cells, total)
        seconds, number = time.monotonic() - started, len(all_parts.parts)
        result = Outcome(out, parts=number, found=number - len(left), seconds=seconds, **tally.to_dict())
        if tally.cells != total:
            raise DataError(f"{tally.cells:,} of {total:,} cells were judged: call it again for the others.")
        record = dataclasses.asdict(result) | {"out": None, "model": config.weight or name, "sha256": found.spec.sha256}
        write_json(out / RECORD, {**record, "version": __version__, "use": NOT_A_DIAGNOSIS})
        run.remove()
        return result


def _judged(work: Work, parts: list[Part], ray: str | None, run: RunFolder, workers: int | None) -> Iterator[CellTally]:
    """The cells of each part, as it is done."""
    if not parts:
        return
    if ray is not None:
        yield from judged_by_cluster(work, parts, ray, run.own_folder(_TRIES), workers)
        return
    predictor = work.predictor(threads=workers)
    for part in parts:
        yield judge_part(work, part, predictor)


def _clear(out: Path, restart: bool) -> None:
    """Remove the verdicts of an earlier run, if that is asked for; raise if anything else is in the folder."""
    there = sorted(path for path in out.iterdir() if not path.name.startswith("."))
    ours = [path for path in there if path.name == RECORD or mark_of(path) is not None]
    if others := [path.name for path in there if path not in ours]:
        raise DataError(f"{out} holds {others[0]}, which is no part of a run: give another folder.")
    if ours and not restart:
        raise DataError(
            f"{out} holds the verdicts of an earlier run: give another folder, or replace them: restart (--restart)."
        )
    for path in ours:
        path.unlink()


def _refuse_own_output(all_parts: Plan, out: Path) -> None:
    for file, _, _ in all_parts.sources:
        if Path(file).is_relative_to(out):
            raise DataError(f"{file} lies in the folder that is to be written, {out}: give another folder.")
