"""``leukaemia-zoo predict``: a table on the terminal, one row a file in CSV and JSON."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options, output
from leukaemia_zoo.cli import paths as cli_paths
from leukaemia_zoo.cli.output import print_lines, progress, tell, without_notes_of_the_backend
from leukaemia_zoo.common.files import STANDARD_OUTPUT, refuse_to_overwrite, writing
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
from leukaemia_zoo.errors import DataError, ImageError
from leukaemia_zoo.prediction.writing import rounded, writing_csv

DEFAULT_MODEL = "cnn_attention"
_TABLE_ROWS = 50
"""Cells printed in full; of more only the summaries are printed, since the files hold them all."""


@click.command()
@click.argument("inputs", nargs=-1, metavar="PATH...", help="image file, folder of images, or pattern")
@click.option("--model", type=options.KNOWN_MODEL, metavar="MODEL", default=DEFAULT_MODEL, help=options.MODEL)
@click.option(
    "--csv",
    "csv_file",
    type=cli_paths.output,
    metavar="FILE",
    help="write one row a file: path, subject, label, p_<class>, verdict, ood_score, unfamiliar, error; '-' for the "
    "standard output",
)
@click.option("--json", "json_file", type=cli_paths.output, metavar="FILE", help="write the same as a list of records")
@options.file("--subjects", "CSV with the columns path and subject, for files not named as in C-NMC")
@click.option("--batch-size", type=options.POSITIVE, default=32, metavar="N", help="images at once")
@click.option(
    "--miss-rate",
    type=float,
    metavar="P",
    help="of each class, the share of its cells that a verdict may miss; `info` has those to choose from (default: the "
    "weight's own)",
)
@options.views("turned and mirrored views that each verdict averages over: fewer are faster, and judge a little worse")
@click.option(
    "--precision",
    type=click.Choice(("float32", "int8")),
    default="float32",
    help="int8 is faster on some processors, for thousands of cells, and changes probabilities a little",
)
@options.file("--calibration", "for --precision int8: 20 images of cells or more, better 200", "DIR")
@click.option("--quiet", is_flag=True, help="print no table")
@click.option(
    "--parquet",
    type=cli_paths.output_folder,
    metavar="DIR",
    help="for very many cells, also in Parquet: write a folder of Parquet files; the same call goes on where an "
    "earlier one was interrupted",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="with --parquet: share the work among the machines of a Ray cluster, or the cores of this one",
)
@click.option("--workers", type=options.POSITIVE, metavar="N", help="with --parquet: cores to use (default: all)")
@click.option(
    "--image-column",
    metavar="NAME",
    help="column of the encoded images in Parquet files (default: the only one of bytes)",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="column of the Parquet files to keep beside the verdicts; may be repeated (default: all others)",
)
@click.option("--restart", is_flag=True, help="with --parquet: replace the verdicts of an earlier run")
def predict(
    inputs: tuple[str, ...],
    model: str,
    csv_file: Path | None,
    json_file: Path | None,
    subjects: Path | None,
    batch_size: int,
    miss_rate: float | None,
    views: int | None,
    precision: str,
    calibration: Path | None,
    quiet: bool,
    parquet: Path | None,
    ray: str | None,
    **settings: Any,
) -> int:
    """Classify the cells in files and folders."""
    if ray and not _is_address(ray):  # --ray PATH: the address was left out
        inputs, ray = (ray, *inputs), ""
    if not inputs:
        raise click.UsageError("Missing argument 'PATH...'.", click.get_current_context())
    if calibration is not None and precision != "int8":
        raise DataError("--calibration is for --precision int8: name that too, or leave the cells out.")
    if parquet is not None:
        if precision != "float32":
            raise DataError("--parquet judges in float32: leave out --precision, or write --csv.")
        if given := [name for name, file in (("csv", csv_file), ("json", json_file), ("subjects", subjects)) if file]:
            raise DataError(f"--parquet writes Parquet alone: leave out --{given[0]}, or call twice.")
        return _predict_parquet(inputs, model, parquet, ray, miss_rate, views, quiet, **settings)
    if ray is not None or any(settings.values()):
        raise DataError(
            "--ray, --workers, --image-column, --keep and --restart are for --parquet DIR: name the folder."
        )
    from leukaemia_zoo.cells.images import list_images
    from leukaemia_zoo.zoo.sources import is_elsewhere, local_files

    outputs = [("--csv", csv_file), ("--json", json_file)]
    refuse_to_overwrite(outputs, [("--subjects", subjects)])
    refuse_to_overwrite(outputs, (("--model", file) for file in local_files(model)))
    listing = list_images(cli_paths.expanded(inputs))
    paths, skipped = list(listing.images), listing.skipped
    for note in (*listing.notes, *listing.faults):
        tell(f"note: {printable(note)}")
    refuse_to_overwrite(outputs, (("the image", path) for path in paths))
    for name, file in outputs:  # after the inputs, of which it can name both
        _check_output(name, file)
    if not paths:
        raise ImageError(f"There are no images in {', '.join(inputs)}.")
    owners = _owners(subjects, paths) if subjects else None

    from leukaemia_zoo.prediction.results import CellTally, SubjectTally
    from leukaemia_zoo.prediction.verdicts import iter_predictions, resolve_in

    with without_notes_of_the_backend():  # a network of a size of its own gets its graph from Keras, once
        network = resolve_in(precision, model, calibration)
    predictions = iter_predictions(
        network, paths, subjects=owners, batch_size=batch_size, miss_rate=miss_rate, views=views
    )
    # Data on the standard output are for a program: what is for people must not stand among them.
    data = STANDARD_OUTPUT in (str(csv_file), str(json_file))
    tally, subject_tally, reasons = CellTally.of(network.zoo.class_names), SubjectTally(), []
    table = not quiet and not data and len(paths) <= _TABLE_ROWS
    with contextlib.ExitStack() as stack:
        write_csv = stack.enter_context(writing_csv(csv_file, network.zoo.class_names))
        write_json = stack.enter_context(_json_writer(json_file))
        if table:
            print(output.heading(paths, network.zoo))
        for prediction in progress(predictions, len(paths), "cells", quiet=table):
            write_csv(prediction.to_dict())
            write_json(prediction.to_dict())
            tally.add(prediction)
            subject_tally.add(prediction)
            if prediction.error is not None:
                # Below the table where there is one; of very many files at once, so that they need no memory.
                reasons.append(prediction.error) if table else _tell_not_read(prediction.error)
            if table:
                print(output.row(prediction, output.path_width(paths), network.zoo.class_names))
    sys.stdout.flush()
    for reason in reasons:
        _tell_not_read(reason)
    if not quiet:
        name = model if is_elsewhere(model) else network.zoo.weight or model
        people = sys.stderr if data else sys.stdout
        summaries, limits = subject_tally.summaries(), network.zoo.verdict_limits
        lines = output.summary(name, tally, limits, miss_rate, skipped=len(skipped), summaries=summaries)
        print_lines(lines, people)
        if not (table or csv_file or json_file):
            print(f"Above {_TABLE_ROWS} files there is no table: --csv FILE or --json FILE writes each one.")
        print(NOT_A_DIAGNOSIS, file=people)
    if tally.unfamiliar:
        sys.stdout.flush()
        print(output.unfamiliar(tally, network.zoo.ood_limit), file=sys.stderr)
    return 1 if tally.failed or listing.faults else 0


def _is_address(text: str) -> bool:
    """Whether a word after ``--ray`` is the address of a cluster, and not the first path."""
    return re.fullmatch(r"auto|local|ray://.+|[^/\\\s]+:\d+", text) is not None and not Path(text).exists()


def _predict_parquet(
    inputs: tuple[str, ...],
    model: str,
    out: Path,
    ray: str | None,
    miss_rate: float | None,
    views: int | None,
    quiet: bool,
    *,
    workers: int | None,
    image_column: str | None,
    keep: tuple[str, ...],
    restart: bool,
) -> int:
    from leukaemia_zoo.batch.run import predict_parquet
    from leukaemia_zoo.zoo.sources import find

    if ray == "":
        ray = os.environ.get("RAY_ADDRESS") or "local"
    with output.progress_bar("cells") as step:
        outcome = predict_parquet(
            model,
            cli_paths.expanded(inputs),
            out,
            image=image_column,
            keep=list(keep) or None,
            miss_rate=miss_rate,
            views=views,
            ray=ray,
            workers=workers,
            restart=restart,
            progress=step,
            log=lambda told: tell(f"note: {printable(told)}"),
        )
    if not quiet:
        config = find(model).spec.config
        name = config.weight or model
        print_lines(output.summary(name, outcome, config.verdict_limits, miss_rate, what="cell"))
        found = f", of which an earlier run had written {outcome.found}" if outcome.found else ""
        print(f"{printable(str(out))}: {outcome.parts} parts{found}; {outcome.seconds:.0f} s.")
        print(NOT_A_DIAGNOSIS)
        if outcome.unfamiliar and config.ood_limit is not None:
            sys.stdout.flush()
            print(output.unfamiliar(outcome, config.ood_limit), file=sys.stderr)
    return 1 if outcome.failed else 0


def _check_output(name: str, file: Path | None) -> None:
    """Raise if a path is no place for a table, or holds something else than text."""
    # ``--csv cells/*.png``, where the name was forgotten, names the first image.
    if file is None or str(file) == STANDARD_OUTPUT:
        return
    if file.is_dir():
        raise DataError(f"{name} {file} is a folder: give the name of a file to write.")
    if not file.is_file():
        return
    with file.open("rb") as stream:
        head = stream.read(4096)
    try:
        # The last character may be cut by the end of what was read.
        codecs.getincrementaldecoder("utf-8-sig")().decode(head)
        text = b"\0" not in head
    except UnicodeDecodeError:
        text = False
    if not text:
        raise DataError(
            f"{name} {file} is there and holds no text, so that it was not replaced: say after {name} which file to "
            "write."
        )


def _subject_of_path(file: Path) -> dict[str, str]:
    """Subjects by the path, and by the bare file name, in a CSV."""
    from leukaemia_zoo.common.tables import check_subjects, read_table, subject_name

    table = read_table(file, ("path", "subject"))
    by_path: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    for line, row in table.rows:
        path, subject = row["path"], subject_name(row["subject"])
        if not path or subject is None:
            raise DataError(f"{file} lacks a path or a subject in row {line}.")
        if by_path.setdefault(os.path.normpath(path), subject) != subject:
            raise DataError(f"{file} gives {path} two subjects, {by_path[os.path.normpath(path)]} and {subject}.")
        by_name.setdefault(Path(path).name, set()).add(subject)
    check_subjects(by_path.values())
    # The same name in the folders of two subjects tells nothing; the whole path must.
    return {name: owners.pop() for name, owners in by_name.items() if len(owners) == 1} | by_path


def _owners(table: Path, paths: Sequence[Path]) -> list[str | None]:
    """Whose each file is, by a CSV."""
    subjects = _subject_of_path(table)
    names = Counter(path.name for path in paths)
    owners, unsure = [], []
    for path in paths:
        owner = subjects.get(os.path.normpath(path))
        if owner is None and (by_name := subjects.get(path.name)) is not None:
            # In two folders one name may be cells of two people.
            if names[path.name] == 1:
                owner = by_name
            else:
                unsure.append(path)
        owners.append(owner)
    if unsure:
        tell(
            f"note: {len(unsure):,} files have no subject, since others have their name too, such as "
            f"{printable(str(unsure[0]))}: give their paths in {printable(str(table))} as they are given here."
        )
    if not any(owners):
        raise DataError(f"{table} has a subject for none of the {len(paths)} files: compare their paths.")
    return owners


@contextlib.contextmanager
def _json_writer(path: Path | None) -> Iterator[Any]:
    """Write a JSON list record by record, so that it never stands in memory whole."""
    if path is None:
        yield lambda record: None
        return
    with writing(path) as file:
        separator = "[\n"

        def write(record: dict[str, Any]) -> None:
            nonlocal separator
            file.write(
                separator + json.dumps({key: rounded(value) for key, value in record.items()}, ensure_ascii=False)
            )
            separator = ",\n"

        yield write
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _tell_not_read(reason: str) -> None:
    tell(f"not read: {printable(reason)}")


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=options.KNOWN_MODEL,
    metavar="MODEL",
    default=[DEFAULT_MODEL],
    help=f"{options.MODEL}; may be repeated, to choose from on the page",
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen at; this one is of this machine only"
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="port (default: the first free one from 7860 on)"
)
@click.option("--miss-rate", type=float, metavar="P", help="as for predict")
@click.option("--open", "browser", is_flag=True, help="open the page in a browser")
def app(models: tuple[str, ...], host: str, port: int | None, miss_rate: float | None, browser: bool) -> int:
    """Judge cells on a page in the browser, on this machine."""
    from leukaemia_zoo.desk.page import serve

    served = serve(models, host=host, port=port, miss_rate=miss_rate, browser=browser)
    print(f"The page is at {served.local_url} until you press Ctrl+C.")
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("note: whoever reaches this machine can open it; it asks for no password.", file=sys.stderr)
    print(NOT_A_DIAGNOSIS)
    sys.stdout.flush()
    served.block_thread()
    return 0
