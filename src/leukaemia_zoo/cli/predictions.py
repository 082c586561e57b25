"""``leukaemia-zoo predict``: a table on the terminal, one row a file in CSV and JSON."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options, output
from leukaemia_zoo.cli import paths as cli_paths
from leukaemia_zoo.cli.output import print_lines, progress, tell, without_notes_of_the_backend
from leukaemia_zoo.common.files import STANDARD_OUTPUT, refuse_to_overwrite, writing
from leukaemia_zoo.common.limits import UNCERTAIN
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
from leukaemia_zoo.errors import DataError, ImageError

DEFAULT_MODEL = "cnn_attention"
_TABLE_ROWS = 50
"""Cells printed in full; of more only the summaries are printed, since the files hold them all."""


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="PATH...", help="image file, folder of images, or pattern")
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
@click.option("--quiet", is_flag=True, help="print no table")
def predict(
    inputs: tuple[str, ...],
    model: str,
    csv_file: Path | None,
    json_file: Path | None,
    subjects: Path | None,
    batch_size: int,
    miss_rate: float | None,
    quiet: bool,
) -> int:
    """Classify the cells in files and folders."""
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
    subject_of = _subject_of_path(subjects) if subjects else {}
    if subjects and not any(_look_up(subject_of, path) for path in paths):
        raise DataError(f"{subjects} has a subject for none of the {len(paths)} files: compare their paths.")

    from leukaemia_zoo.engine.network import resolve
    from leukaemia_zoo.prediction.results import SubjectTally
    from leukaemia_zoo.prediction.verdicts import iter_predictions

    with without_notes_of_the_backend():  # a network of a size of its own gets its graph from Keras, once
        network = resolve(model)
    owners = (_look_up(subject_of, path) for path in paths) if subjects else None
    predictions = iter_predictions(network, paths, subjects=owners, batch_size=batch_size, miss_rate=miss_rate)
    # Data on the standard output are for a program: what is for people must not stand among them.
    data = STANDARD_OUTPUT in (str(csv_file), str(json_file))
    tally, table = SubjectTally(), not quiet and not data and len(paths) <= _TABLE_ROWS
    failed, unfamiliar, uncertain, reasons = 0, 0, 0, []
    counts = dict.fromkeys(network.zoo.class_names, 0)
    with contextlib.ExitStack() as stack:
        write_csv = stack.enter_context(_csv_writer(csv_file, network.zoo.class_names))
        write_json = stack.enter_context(_json_writer(json_file))
        if table:
            print(output.heading(paths, network.zoo))
        for prediction in progress(predictions, len(paths), "cells", quiet=table):
            write_csv(prediction.to_dict())
            write_json(prediction.to_dict())
            tally.add(prediction)
            if prediction.error is None:
                counts[prediction.label] += 1
                unfamiliar += bool(prediction.unfamiliar)
                uncertain += prediction.verdict == UNCERTAIN
            else:
                failed += 1
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
        print_lines(output.summary(name, counts, failed, len(skipped), tally.summaries()), people)
        if network.zoo.verdict_limits is not None:
            cells = sum(counts.values())
            print(output.uncertain(uncertain, cells, network.zoo.verdict_limits, miss_rate), file=people)
        if not (table or csv_file or json_file):
            print(f"Above {_TABLE_ROWS} files there is no table: --csv FILE or --json FILE writes each one.")
        print(NOT_A_DIAGNOSIS, file=people)
    if unfamiliar:
        sys.stdout.flush()
        print(output.unfamiliar(unfamiliar, sum(counts.values()), network.zoo.ood_limit), file=sys.stderr)
    return 1 if failed or listing.faults else 0


def _check_output(name: str, file: Path | None) -> None:
    """Raise if a path is no place for a table, or holds something else than text.

    ``--csv cells/*.png``, where the name was forgotten, names the first image.
    """
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
    from leukaemia_zoo.common.tables import read_table

    table = read_table(file, ("path", "subject"))
    by_path: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    for line, row in table.rows:
        path, subject = row["path"], row["subject"]
        if not path or not subject:
            raise DataError(f"{file} lacks a path or a subject in row {line}.")
        if by_path.setdefault(os.path.normpath(path), subject) != subject:
            raise DataError(f"{file} gives {path} two subjects, {by_path[os.path.normpath(path)]} and {subject}.")
        by_name.setdefault(Path(path).name, set()).add(subject)
    # The same name in the folders of two subjects tells nothing; the whole path must.
    return {name: owners.pop() for name, owners in by_name.items() if len(owners) == 1} | by_path


def _look_up(subjects: dict[str, str], path: Path) -> str | None:
    return subjects.get(os.path.normpath(path), subjects.get(path.name)) or None


@contextlib.contextmanager
def _csv_writer(path: Path | None, class_names: tuple[str, ...]) -> Iterator[Any]:
    if path is None:
        yield lambda record: None
        return
    columns = ["path", "subject", "label", *(f"p_{name}" for name in class_names)]
    columns += ["verdict", "ood_score", "unfamiliar", "error"]
    with writing(path) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        yield lambda record: writer.writerow({key: _rounded(value, 6) for key, value in record.items()})


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
                separator + json.dumps({key: _rounded(value, 6) for key, value in record.items()}, ensure_ascii=False)
            )
            separator = ",\n"

        yield write
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _rounded(value: Any, digits: int) -> Any:
    return round(value, digits) if isinstance(value, float) else value


def _tell_not_read(reason: str) -> None:
    tell(f"not read: {printable(reason)}")
