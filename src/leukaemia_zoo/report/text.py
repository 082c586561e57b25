"""A benchmark report as text for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from leukaemia_zoo.report.contents import (
    Contents,
    count,
    flat,
    in_order,
    interval,
    items,
    mapping,
    number,
    short,
    short_names,
    text,
    throughput,
    title,
)
from leukaemia_zoo.report.findings import RESEARCH_ONLY, findings
from leukaemia_zoo.report.table_cells import GLOSSARY, Cell, Number, Table
from leukaemia_zoo.report.tables import tables

WIDTH = 110
"""Columns of the terminal that a table may take."""

CSV_COLUMNS = ("model", "block", "metric", "value", "low", "high")
"""What each row of the CSV holds."""

# A row head that is longer leaves no room for two intervals.
_HEAD = 48


# --------------------------------------------------------------------------------------------------------------------
# Terminal


def as_text(contents: Contents) -> str:
    """The main metrics, the paired differences and the cost, at most `WIDTH` columns wide."""
    about = contents.about
    unit = "subjects" if about.get("unit") == "subject" else "cells: too narrow for new patients"
    source = f" from {short(text(about.get('source')), 40)}" if about.get("source") else ""
    lines = [
        f"{count(about.get('cells'), 'cell')} of {count(about.get('subjects'), 'subject')}{source}",
        f"In brackets: {contents.level} intervals from a bootstrap over {unit}.",
    ]
    found = tables(contents)
    for name in ("main", "differences", "cost"):
        if name in found:
            table = _few(found[name], contents) if name == "differences" else found[name]
            lines += ["", table.title, *_columns(table)]
            lines += ["* The interval does not hold 0."] if name == "differences" else []
    return "\n".join([*lines, "", RESEARCH_ONLY])


def _few(table: Table, contents: Contents) -> Table:
    """The differences in the metrics that count most; the page has them all."""
    wanted = {title(metric) for metric in (*contents.ranking, "accuracy", "log_loss")}
    kept = [place for place, column in enumerate(table.columns) if place < table.heads or column in wanted]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _columns(table: Table) -> Iterator[str]:
    """Rows below each other; where the columns do not fit side by side, the rest follows below with the same heads."""
    heads = list(short_names([str(row[0]) for row in table.rows], _HEAD).values())
    # Rows of one name still are two rows.
    heads = [short(text(str(row[0])), _HEAD) for row in table.rows] if len(heads) < len(table.rows) else heads
    first = max(map(len, [table.columns[0], *heads]))
    columns = [
        [table.columns[place], *(str(row[place]) for row in table.rows)] for place in range(1, len(table.columns))
    ]
    blocks: list[list[list[str]]] = [[]]
    room = WIDTH - first
    for column in columns:
        wide = 2 + max(map(len, column))
        if blocks[-1] and wide > room:
            blocks.append([])
            room = WIDTH - first
        blocks[-1].append(column)
        room -= wide
    for place, block in enumerate(blocks):
        if place:
            yield ""
        for line, head in enumerate([table.columns[0], *heads]):
            cells = "".join(f"  {column[line]:>{max(map(len, column))}}" for column in block)
            yield f"{head:<{first}}{cells}".rstrip()


# --------------------------------------------------------------------------------------------------------------------
# Markdown


def as_markdown(contents: Contents, fingerprint: str) -> str:
    """The whole report as a Markdown document; `fingerprint` is the sha256 of report.json."""
    found = tables(contents)
    how = ("models", "settings", "environment", "timing")
    lines = [f"# {escaped(heading(contents))}", "", f"**{RESEARCH_ONLY}**", "", "## What this says", ""]
    lines += [f"- **{escaped(one.topic)}.** {escaped(one.sentence)}" for one in findings(contents)]
    for name, table in found.items():
        if name not in how:
            lines += ["", f"## {escaped(table.title)}", "", *markdown_table(table)]
    lines += ["", "## How it was made", ""]
    lines += [f"- {escaped(what)}: `{value}`" for what, value in hashes(contents, fingerprint)]
    for name in how:
        if name in found:
            lines += ["", f"### {escaped(found[name].title)}", "", *markdown_table(found[name])]
    lines += ["", "## What the metrics are", ""]
    lines += [f"- **{escaped(title(name))}**: {escaped(meaning)}" for name, meaning in glossary(contents)]
    return "\n".join(lines) + "\n"


def heading(contents: Contents) -> str:
    """The title of the report."""
    source = text(contents.about.get("source"))
    return f"Benchmark on {source}" if source else "Benchmark"


def hashes(contents: Contents, fingerprint: str) -> list[tuple[str, str]]:
    """By what it can be checked that a page, its JSON and the cells belong together; nothing but hexadecimal digits."""
    manifest = text(contents.about.get("manifest_sha256")).lower()
    found = [("sha256 of report.json", fingerprint), ("sha256 of the manifest of the cells", manifest)]
    return [(what, value) for what, value in found if re.fullmatch("[0-9a-f]+", value)]


def glossary(contents: Contents) -> list[tuple[str, str]]:
    """The meaning of the metrics that occur in the report."""
    occurs = [*contents.metrics]
    if any(mapping(model.get("calibration")) for model in contents.models.values()):
        occurs += ["slope", "intercept"]
    return [(name, GLOSSARY[name]) for name in occurs if name in GLOSSARY]


def escaped(value: str) -> str:
    """Text in which nothing has a meaning in Markdown, also inside a table."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", text(value))


def markdown_table(table: Table) -> Iterator[str]:
    """One table as lines of Markdown."""
    # Marks such as `*` are escaped with the rest of the cell.
    yield _markdown_row(table.columns)
    numeric = [any(isinstance(row[place], Number) for row in table.rows) for place in range(len(table.columns))]
    yield "|" + "|".join("---:" if right else "---" for right in numeric) + "|"
    for row in table.rows:
        yield _markdown_row(row)
    if table.note:
        yield ""
        yield escaped(table.note)


def _markdown_row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(escaped(str(cell)) for cell in cells) + " |"


# --------------------------------------------------------------------------------------------------------------------
# CSV

CsvRow = tuple[str, str, str, float | None, float | None, float | None]


def as_csv(contents: Contents) -> str:
    """All numbers in long form: one row a model, block and metric."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for *names, value, low, high in csv_rows(contents):
        numbers = ("" if one is None else int(one) if one.is_integer() else one for one in (value, low, high))
        writer.writerow([*(_inert(str(name)) for name in names), *numbers])
    return lines.getvalue()


def csv_rows(contents: Contents) -> Iterator[CsvRow]:
    """The rows of the CSV; None where a number is not defined."""
    for model, row in contents.models.items():
        for block, values in _blocks(row):
            yield from _csv_block(model, block, values)
    for a, b, values in contents.pairs:
        yield from _csv_block(f"{a} - {b}", "difference", values)


def _blocks(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "metrics", row.get("metrics")
    for name, point in mapping(row.get("operating_points")).items():
        thresholds = {
            f"threshold_{place}": value for place, value in enumerate(items(mapping(point).get("thresholds")))
        }
        yield f"operating point: {name}", {**thresholds, **mapping(mapping(point).get("metrics"))}
    yield "predictive values", row.get("predictive_values")
    for stage, values in mapping(row.get("calibration")).items():
        temperatures = items(mapping(values).get("temperatures"))
        named = {f"temperature_{place}": value for place, value in enumerate(temperatures)}
        yield f"calibration: {stage}", {**mapping(values), **named}
    for name, values in mapping(row.get("per_class")).items():
        yield f"class: {name}", values
    for subject in map(mapping, items(row.get("per_subject"))):
        yield f"subject: {subject.get('subject')}", subject
    yield "subject verdicts", flat(mapping(row.get("subject_verdicts")))
    for column, groups in mapping(row.get("subgroups")).items():
        for value, group in mapping(groups).items():
            known = mapping(group)
            counts = {key: known[key] for key in ("cells", "subjects") if key in known}
            yield f"subgroup: {column}={value}", {**counts, **mapping(known.get("metrics"))}
    cost = mapping(row.get("cost"))
    yield "cost", {**cost, "throughput": throughput(cost)} if cost else {}


# What of a block is not a number, even where it looks like one: a subject called 21 is a name.
_WORDS = frozenset({"subject", "label", "verdict", "bins", "temperatures", "stated", "right"})


def _csv_block(model: str, block: str, values: Any) -> Iterator[CsvRow]:
    for metric, value in in_order(values):
        if metric in _WORDS or isinstance(value, str | bool | list):
            continue
        found = interval(value)
        if found is not None:
            yield model, block, metric, _known(found.value), _known(found.low), _known(found.high)
        elif value is None:
            yield model, block, metric, None, None, None


def _known(value: float) -> float | None:
    return None if math.isnan(number(value)) else value


def _inert(name: str) -> str:
    """A name that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    name = text(name)
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
