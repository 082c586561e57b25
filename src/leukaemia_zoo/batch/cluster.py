"""Parts of a run on the workers of a Ray cluster: Ray Data gives them out, and out again where a worker was lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo import errors
from leukaemia_zoo.batch.judging import Work, judge_part
from leukaemia_zoo.batch.parts import Part, require
from leukaemia_zoo.batch.predictor import BatchPredictor
from leukaemia_zoo.common.text import reason, shown
from leukaemia_zoo.engine.trunk import cores
from leukaemia_zoo.errors import ClusterError, DataError, LeukaemiaZooError
from leukaemia_zoo.prediction.results import CellTally

LOCAL = "local"
"""Instead of an address: a cluster that is started on this machine and ends with the run."""

_TRIES = 5
"""Workers that may begin a part. Spot machines take one now and then, and then Ray gives the part to another; but an
image that needs more memory than there is would end one worker after the other for ever."""

_ANSWER_S = 10.0

_OBJECTS = 200_000_000
"""Bytes of memory for what is passed between workers: descriptions of parts, since images and verdicts are files."""


class PartJudge:
    """A worker: it loads its weight once, and judges one part after the other.

    Args:
        work: What it has to know, as JSON.
        graph: Of the network.
        tries: Folder where workers leave their process number for each part that they begin.
    """

    def __init__(self, work: str, graph: bytes, tries: str) -> None:
        described = json.loads(work)
        self._work = Work(**{**described, "keep": tuple(described["keep"]), "graph": graph})
        self._tries = Path(tries)
        self._predictor: BatchPredictor | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Judge parts, each described as JSON; see `judge_part`."""
        described = [json.loads(text) for text in batch["part"]]
        parts = [Part(**{**each, "groups": tuple(each["groups"])}) for each in described]
        return {"told": [json.dumps(self._told(part)) for part in parts]}

    def _told(self, part: Part) -> dict[str, Any]:
        """Of a mistake its sentence: Ray hands on what is raised as the text of a traceback."""
        try:
            return self._judged(part).to_dict()
        except LeukaemiaZooError as error:
            return {"mistake": str(error), "kind": type(error).__name__}
        except OSError as error:
            where = f"{error.filename or self._work.out} cannot be read or written on {socket.gethostname()}"
            mend = "every machine must see it under the same path, with room and the right to write"
            return {"mistake": f"{where} ({error.strerror or reason(error)}): {mend}.", "kind": DataError.__name__}

    def _judged(self, part: Part) -> CellTally:
        if self._predictor is None:
            self._predictor = self._work.predictor()
        tries = self._tries / part.name
        with tries.open("a+", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
            file.seek(0)
            begun = len(file.readlines())
        if begun > _TRIES:
            raise ClusterError(
                f"{_TRIES} workers ended while they judged cells {part.first:,} to {part.first + part.cells - 1:,} of "
                f"{part.file}: give workers more memory, or look for an image among these that is too large for it."
            )
        tally = judge_part(self._work, part, self._predictor)
        tries.unlink(missing_ok=True)
        return tally


def judged_by_cluster(
    work: Work, parts: Sequence[Part], address: str, tries: Path, workers: int | None = None
) -> Iterator[CellTally]:
    """The cells of each part, as it is done; see `judge_part`."""
    _check_answer(address)
    # Ray would report the use of a cluster that we start to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray")
    data = require("ray.data")
    tries.mkdir(exist_ok=True)
    for part in parts:
        (tries / part.name).unlink(missing_ok=True)
    with _connection(ray, address):
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < 1:
            raise ClusterError(f"The cluster at {address} has no processors: add a machine with some to it.")
        described = dataclasses.asdict(dataclasses.replace(work, graph=b"")) | {"graph": None}
        rows = [{"part": json.dumps(dataclasses.asdict(part))} for part in parts]
        judged = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartJudge,
            fn_constructor_args=(json.dumps(described), work.graph, str(tries)),
            batch_size=1,
            concurrency=min(len(parts), workers or there),
            num_cpus=1,
        )
        try:
            for row in judged.iter_rows():
                told = json.loads(row["told"])
                if "mistake" in told:
                    raise getattr(errors, told["kind"])(told["mistake"])
                yield CellTally.from_dict(told)
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"The cluster gave up ({reason(getattr(error, 'cause', None) or error)}): see its logs; the parts "
                "that are written stay, and the same call goes on with the others."
            ) from error


@contextlib.contextmanager
def _connection(ray: Any, address: str) -> Iterator[None]:
    """Connect to a cluster for the time of a run; a connection that is there already is used and left."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address == LOCAL:
            ray.init(LOCAL, num_cpus=cores(), object_store_memory=_OBJECTS, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except Exception as error:  # Ray has no family of its own for what keeps it from starting
        ray.shutdown()
        if address == LOCAL:
            raise ClusterError(
                f"Ray cannot be started on this machine ({reason(error)}): call it again, or leave out Ray (--ray)."
            ) from error
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Raise if nobody listens at ``host:port``: Ray itself would ask again for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: BaseException) -> ClusterError:
    return ClusterError(
        f"There is no Ray cluster at {shown(address)} ({reason(error)}): start one with `ray start --head`, correct "
        "the address, or leave it out to use this machine."
    )
