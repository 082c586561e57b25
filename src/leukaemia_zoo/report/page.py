"""A benchmark report as one HTML page that holds all it shows: no script, no font, no picture from elsewhere.

A Content-Security-Policy in the page forbids every request, so that a page that was sent by somebody else cannot call
home either. How it looks stands in `templates`; here is what is on it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukaemia_zoo.common.templates import html_templates
from leukaemia_zoo.errors import PlotsMissingError
from leukaemia_zoo.report import plots as drawing
from leukaemia_zoo.report.contents import Contents, count, items, mapping, number, percent, text, title
from leukaemia_zoo.report.drawing import DARK, LIGHT, Plot
from leukaemia_zoo.report.findings import RESEARCH_ONLY, findings
from leukaemia_zoo.report.table_cells import Number
from leukaemia_zoo.report.tables import tables
from leukaemia_zoo.report.text import glossary, hashes, heading

if TYPE_CHECKING:
    from markupsafe import Markup

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

# A picture of a cell takes some kilobytes; what is larger than this was not made for a page.
_LARGEST_PICTURE = 300_000

# With more networks or rows than this, what stands once a network, or a table, is folded.
_UNFOLDED, _UNFOLDED_ROWS = 4, 40

# Characters of a text that make its column a wide one.
_LONG = 30

_ABOUT_MAPS = (
    "Beside a cell stands, cropped as the model sees it, where the model found the class that it named: from green to "
    "yellow (Grad-CAM). A map tells where a network looked, not that it was right to."
)

_SUBJECTS = ("worst-subjects", "plot subjects", "verdicts", "fold subjects")

Part = dict[str, Any]


def as_html(contents: Contents, fingerprint: str) -> str:
    """Render the page; without Matplotlib it has no plots and says so. `fingerprint` is the sha256 of report.json."""
    templates = html_templates(Path(__file__).parent / "templates")
    templates.filters["breakable"] = _breakable
    page = _Page(contents)
    sections = [
        {"name": name, "title": called, "parts": parts}
        for name, called, made in page.sections(fingerprint)
        if (parts := list(made))
    ]
    return templates.get_template("page.html.j2").render(
        heading=heading(contents),
        cells=count(contents.about.get("cells"), "cell"),
        subjects=count(contents.about.get("subjects"), "subject"),
        version=text(contents.data.get("leukaemia_zoo")),
        sections=sections,
        colours=page.colours,
        light=LIGHT,
        dark=DARK,
        long=_LONG,
        policy=_POLICY,
        research_only=RESEARCH_ONLY,
    )


class _Page:
    """The parts of a page as plain data; each method yields nothing where there is no data."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.tables = tables(contents)
        self.colours = drawing.looks(contents)
        self.plots: dict[str, Plot] = {}
        self.missing = False
        try:
            self.plots = drawing.plots(contents)
        except PlotsMissingError:
            self.missing = True

    def sections(self, fingerprint: str) -> Iterator[tuple[str, str, Iterator[Part]]]:
        yield "says", "What this says", self.says()
        yield "results", "Results", self.parts("main", "plot forest-", "more")
        yield "differences", "Differences between models", self.parts("plot differences-", "differences")
        yield "curves", "Curves", self.figures("roc", "pr")
        yield "thresholds", "Thresholds", self.parts("operating", "predictive")
        yield "calibration", "Calibration", self.parts("plot reliability", "calibration", "limits")
        yield (
            "subjects",
            "Subject by subject",
            self.parts(*_SUBJECTS),
        )
        yield "classes", "Class by class", self.classes()
        yield "subgroups", "Subgroups", self.parts("subgroups")
        yield "cost", "Cost", self.parts("plot cost", "cost")
        yield "cells", "The most confidently wrong cells", self.wrong_cells()
        yield "made", "How it was made", self.made(fingerprint)
        yield "metrics", "What the metrics are", self.glossary()

    def parts(self, *names: str) -> Iterator[Part]:
        """Tables by their names, a folded one after `fold`, and after `plot` the plots whose names begin so."""
        for name in names:
            how, _, which = name.rpartition(" ")
            yield from self.figures(which) if how == "plot" else self.table(which, folded=how == "fold")

    def says(self) -> Iterator[Part]:
        yield {"kind": "findings", "findings": findings(self.contents), "plots_missing": self.missing}

    def classes(self) -> Iterator[Part]:
        yield from self.table("classes")
        matrices = [matrix for name in self.contents.models if (matrix := self.confusion(name)) is not None]
        if matrices:
            yield {"kind": "matrices", "matrices": matrices}
        for name in ("per-class", "class-predictive"):
            yield from self.table(name, folded=len(self.contents.networks) > _UNFOLDED)

    def made(self, fingerprint: str) -> Iterator[Part]:
        yield {"kind": "hashes", "hashes": hashes(self.contents, fingerprint)}
        yield from self.parts("models", "settings", "environment", "timing")

    def glossary(self) -> Iterator[Part]:
        lines = [(title(name), meaning) for name, meaning in glossary(self.contents)]
        if lines:
            yield {"kind": "glossary", "glossary": lines}

    def figures(self, *starts: str) -> Iterator[Part]:
        """Plots beside each other where there is room."""
        found = [plot for name, plot in self.plots.items() if name.startswith(starts)]
        if found:
            yield {"kind": "plots", "plots": found}

    def table(self, name: str, folded: bool = False) -> Iterator[Part]:
        """One table; a long one is folded, and a column is right-aligned with its head if there is a number in it."""
        if name in self.tables:
            table = self.tables[name]
            right = [any(isinstance(row[place], Number) for row in table.rows) for place in range(len(table.columns))]
            yield {
                "kind": "table",
                "table": table,
                "right": right,
                "folded": folded or len(table.rows) > _UNFOLDED_ROWS,
            }

    def confusion(self, model: str) -> Part | None:
        """The matrix of a model; None where it does not fit the classes."""
        classes = [text(name) for name in self.contents.classes]
        rows = [items(row) for row in items(self.contents.models[model].get("confusion"))]
        if not classes or len(rows) != len(classes) or any(len(row) != len(classes) for row in rows):
            return None
        lines = []
        for name, row in zip(classes, rows, strict=True):
            counts = [number(value) for value in row]
            shares = [value / sum(counts) if sum(counts) > 0 else 0 for value in counts]
            cells = [
                {"share": share, "count": f"{value:,.0f}", "percent": percent(share)}
                for value, share in zip(counts, shares, strict=True)
            ]
            lines.append((name, cells))
        return {"model": model, "name": text(model), "classes": classes, "rows": lines}

    def wrong_cells(self) -> Iterator[Part]:
        """Pictures of the cells that each model is most sure and most wrong about."""
        worst = [mapping(cell) for model in self.contents.models.values() for cell in items(model.get("worst_cells"))]
        if any(_png(cell.get("map")) for cell in worst):
            yield {"kind": "text", "text": _ABOUT_MAPS}
        for name, model in self.contents.models.items():
            cells = [_picture(mapping(cell)) for cell in items(model.get("worst_cells"))]
            if cells:
                few = len(self.contents.networks) <= _UNFOLDED and name in self.contents.networks
                yield {"kind": "wrong cells", "model": name, "name": text(name), "open": few, "cells": cells}


def _breakable(name: str) -> Markup:
    """Text that a narrow column breaks after an underscore or dot, before it breaks anywhere else."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([_./])(?=\w)", r"\1<wbr>", str(escape(name))))


def _picture(cell: dict[str, Any]) -> Part:
    """What stands at the picture of a cell."""
    path, label, called = (text(cell.get(key)) for key in ("path", "label", "called"))
    found = number(cell.get("probability"))
    return {
        "path": path,
        "verdict": f"is {label}, called {called}" + ("" if math.isnan(found) else f" ({found:.3f})"),
        "subject": f", subject {text(cell['subject'])}" if cell.get("subject") is not None else "",
        "called": called,
        "source": _png(cell.get("png")),
        "evidence": _png(cell.get("map")),
    }


def _png(value: Any) -> str | None:
    """A data URI for what is the base64 of a PNG, and nothing for anything else."""
    if not isinstance(value, str) or len(value) > _LARGEST_PICTURE:
        return None
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return f"data:image/png;base64,{value}" if content.startswith(b"\x89PNG\r\n\x1a\n") else None
