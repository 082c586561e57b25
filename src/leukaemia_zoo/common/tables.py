"""The one reader of tables that come from elsewhere: labels, subjects, the label file of C-NMC 2019."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import DataError

_MOST_BYTES = 200_000_000
"""The largest table that is read: some two million cells."""

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "an Excel workbook or another ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"SQLite", "a database"),
)


NOTHING = frozenset({"", "nan", "NaN", "<NA>", "NA", "NaT"})
"""An empty field, and what pandas, NumPy and R write for one."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: Their names in lower case, without spaces around them.
        rows: The line in the file at which each row begins, and its fields by column, without spaces around them.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def subject_name(field: Any) -> str | None:
    """The name of a person as text from a field of a table or data frame; None where the field says nothing.

    Example:
        >>> [subject_name(field) for field in ("P1", 7, 7.0, float("nan"), "nan", None, "")]
        ['P1', '7', '7', None, None, None, None]
    """
    if field is None or type(field).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(field, float | np.floating) and float(field).is_integer():
        field = int(field)  # numbers beside an empty field
    name = str(field).strip()
    return None if name in NOTHING or name == "None" else name


def subject_key(name: str) -> str:
    """What two writings of one person's name share: case, spaces, and what a spreadsheet does to a number.

    Example:
        >>> [subject_key(name) for name in ("P 1", "p1", "007", "7.0", "H7")]
        ['p1', 'p1', '7', '7', 'h7']
    """
    text = "".join(name.casefold().split())
    number = re.fullmatch(r"0*(\d+?)(?:\.0+)?", text)
    return number[1] if number else text


def check_subjects(names: Iterable[str | None]) -> None:
    """Refuse one person under two writings of a name: two people of whom one teaches and the other tests."""
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name is not None and (other := first.setdefault(subject_key(name), name)) != name:
            raise DataError(
                f"The subjects {shown(other)} and {shown(name)} differ in case, spaces or zeros alone: give them one "
                "spelling if they are one person, else names that a reader can tell apart."
            )


_PERSON = re.compile(
    r"(?:patient|person|donor|participant|proband|individual|case|subject)s?(?:[ _-]?(?:id|no|nr|number|name|code))?"
)


def notes_on_subjects(columns: Sequence[str]) -> list[str]:
    """A note on a column that may name the people, where none is called so: without them cells of one person leak."""
    named = [] if "subject" in columns else [name for name in columns if _PERSON.fullmatch(name)]
    return [
        f"The column {shown(name)} is not read as the subject: call it subject if it names the person of each cell."
        for name in named
    ]


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Read a CSV with a header: commas, semicolons or tabs; UTF-8, or UTF-16 with a byte order mark.

    It must have the columns, given in lower case, in whatever case; their fields are one line each.
    """
    text = _text(path)
    lines = text.splitlines(keepends=True)
    # Excel can say in a line of its own what divides the fields.
    said = re.fullmatch(r"\"?sep=(.)\"?\s*", lines[0], re.IGNORECASE) if lines else None
    skipped = 1 if said else 0
    header = lines[skipped] if len(lines) > skipped else ""
    delimiter = said[1] if said else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    start = 1 + skipped
    try:
        for fields in reader:
            number, start = start, reader.line_num + skipped + 1
            fields = [field.strip() for field in fields]
            if number == 1 + skipped:
                names = [field.lower() for field in fields]
                _check_header(path, names, columns)
            elif any(fields):
                rows.append((number, _row(path, number, names, fields, columns)))
    except csv.Error as error:
        raise DataError(
            f"Row {start} of {path} cannot be read as CSV ({reason(error)}): a quote in it may not be closed, so close "
            "or remove it."
        ) from error
    if not names:
        _check_header(path, names, columns)
    if not rows:
        raise DataError(f"{path} has a header but no rows: it needs one row a file.")
    return Table(tuple(names), tuple(rows))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)  # a pipe or a device does not say how much there is
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror or error}): check the path and your rights."
        ) from error
    if len(data) > _MOST_BYTES:
        raise DataError(f"{path} is larger than {_MOST_BYTES // 1_000_000} MB: divide the table.")
    what = next((what for start, what in _OTHER_KINDS if data.startswith(start)), None)
    if what is None and data.lstrip()[:200].lower().startswith((b"<html", b"<!doctype", b"<table", b"<?xml")):
        what = "a web page or XML"
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if what is None and not wide and b"\0" in data:
        what = "no text, or UTF-16 without its byte order mark"
    if what is not None:
        raise DataError(f"{path} is {what}, whatever its name: save the table as CSV in UTF-8.")
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:  # which of the many older encodings it is, nothing tells
        raise DataError(
            f"{path} is no CSV in UTF-8 or UTF-16 ({reason(error)}): save it as UTF-8, which Excel calls CSV UTF-8."
        ) from error


def _check_header(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    if {"patient_id", "new_names"} <= set(names) and "new_names" not in columns:
        raise DataError(f"{path} is C-NMC's own label file: give the folder that holds it and its images instead.")
    if missing := [column for column in columns if column not in names]:
        raise DataError(
            f"{path} lacks the column {' and '.join(missing)}: its first line must name the columns "
            f"{' and '.join(columns)}{' and, if known, subject' if 'label' in columns else ''}."
        )
    if twice := sorted(name for name, times in Counter(names).items() if name and times > 1):
        raise DataError(f"{path} has the column {shown(twice[0])} twice: remove or rename one.")


def _row(
    path: Path, number: int, names: Sequence[str], fields: Sequence[str], columns: Sequence[str]
) -> dict[str, str]:
    if further := [field for field in fields[len(names) :] if field]:
        raise DataError(
            f"Row {number} of {path} has more fields than the header ({shortened(map(shown, further))}): put quotes "
            "around a field that holds the divider."
        )
    row = dict(zip(names, [*fields, *[""] * (len(names) - len(fields))], strict=False))
    for column in dict.fromkeys((*columns, "path", "label", "subject")):
        if "\n" in row.get(column, "") or "\r" in row.get(column, ""):
            raise DataError(
                f"Row {number} of {path} has a {column} of several lines: a quote in it is not closed, so close or "
                "remove it."
            )
    return row
