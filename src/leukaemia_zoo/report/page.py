"""A benchmark report as one HTML page that holds all it shows: no script, no font, no picture from elsewhere.

A Content-Security-Policy in the page forbids every request, so that a page that was sent by somebody else cannot call
home either.
"""

from __future__ import annotations

import base64
import binascii
import html
import math
import re
from collections.abc import Iterator
from typing import Any

from leukaemia_zoo.errors import PlotsMissingError
from leukaemia_zoo.report import plots as drawing
from leukaemia_zoo.report.contents import Contents, count, items, mapping, number, percent, text, title
from leukaemia_zoo.report.drawing import DARK, LIGHT, Plot
from leukaemia_zoo.report.findings import RESEARCH_ONLY, findings
from leukaemia_zoo.report.tables import Cell, Model, Number, Table, tables
from leukaemia_zoo.report.text import glossary, hashes, heading

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

# A picture of a cell takes some kilobytes; what is larger than this was not made for a page.
_LARGEST_PICTURE = 300_000

# With more networks or rows than this, what stands once a network, or a table, is folded.
_UNFOLDED, _UNFOLDED_ROWS = 4, 40

_ABOUT_MAPS = (
    "Beside a cell stands, cropped as the model sees it, where the model found the class that it named: from green to "
    "yellow (Grad-CAM). A map tells where a network looked, not that it was right to."
)

# Characters of a text that make its column a wide one.
_LONG = 30


def as_html(contents: Contents, fingerprint: str) -> str:
    """Render the page.

    Args:
        contents: The report.
        fingerprint: sha256 of report.json, in hexadecimal digits.

    Returns:
        The page. Where Matplotlib is not installed it has no plots and says so; the tables hold the same numbers.
    """
    page = _Page(contents)
    sections = [
        ("says", "What this says", page.says()),
        ("results", "Results", page.results()),
        ("differences", "Differences between models", page.differences()),
        ("curves", "Curves", page.curves()),
        ("thresholds", "Thresholds", page.thresholds()),
        ("calibration", "Calibration", page.calibration()),
        ("subjects", "Subject by subject", page.subjects()),
        ("classes", "Class by class", page.classes()),
        ("subgroups", "Subgroups", page.table("subgroups")),
        ("cost", "Cost", page.cost()),
        ("cells", "The most confidently wrong cells", page.wrong_cells()),
        ("made", "How it was made", page.made(fingerprint)),
        ("metrics", "What the metrics are", page.glossary()),
    ]
    shown = [(name, name_of, "\n".join(parts)) for name, name_of, parts in sections]
    shown = [(name, name_of, body) for name, name_of, body in shown if body]
    links = "\n".join(f'<li><a href="#{name}">{name_of}</a></li>' for name, name_of, _ in shown)
    blocks = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{name_of}</h2>\n'
        f"{body}\n</section>"
        for name, name_of, body in shown
    )
    name = html.escape(heading(contents))
    about = contents.about
    told = f"{count(about.get('cells'), 'cell')} of {count(about.get('subjects'), 'subject')}"
    version = text(contents.data.get("leukaemia_zoo"))
    made = f" Made with leukaemia-zoo {html.escape(version)}." if version else ""
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{name}</title>
<link rel="icon" href="data:,">
<style>
{_style()}
</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p>{html.escape(told)}.{made}</p>
<p class="warning" role="note">{RESEARCH_ONLY}</p>
<nav aria-label="Contents"><ul>
{links}
</ul></nav>
</header>
<main>
{blocks}
</main>
</body>
</html>
"""


class _Page:
    """The parts of a page; each method yields blocks of HTML, and nothing where there is no data."""

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

    def says(self) -> Iterator[str]:
        lines = [
            f"<li><strong>{html.escape(one.topic)}.</strong> {html.escape(one.sentence)}</li>"
            for one in findings(self.contents)
        ]
        yield "<ul class='says'>\n" + "\n".join(lines) + "\n</ul>"
        if self.missing:
            yield "<p>Plots are left out, for Matplotlib is not installed here; the tables hold the same numbers.</p>"

    def results(self) -> Iterator[str]:
        yield from self.table("main")
        yield from self.figures(*(name for name in self.plots if name.startswith("forest-")))
        yield from self.table("more")

    def differences(self) -> Iterator[str]:
        yield from self.figures(*(name for name in self.plots if name.startswith("differences-")))
        yield from self.table("differences")

    def curves(self) -> Iterator[str]:
        yield from self.figures(*(name for name in self.plots if name.startswith(("roc", "pr"))))

    def thresholds(self) -> Iterator[str]:
        yield from self.table("operating")
        yield from self.table("predictive")

    def calibration(self) -> Iterator[str]:
        yield from self.figures("reliability")
        yield from self.table("calibration")

    def subjects(self) -> Iterator[str]:
        yield from self.table("worst-subjects")
        yield from self.figures("subjects")
        yield from self.table("verdicts")
        yield from self.table("subjects", folded=True)

    def classes(self) -> Iterator[str]:
        yield from self.table("classes")
        matrices = [block for name in self.contents.models for block in self._confusion(name)]
        if matrices:
            yield '<div class="matrices">\n' + "\n".join(matrices) + "\n</div>"
        yield from self.table("per-class", folded=len(self.contents.networks) > _UNFOLDED)
        yield from self.table("class-predictive", folded=len(self.contents.networks) > _UNFOLDED)

    def cost(self) -> Iterator[str]:
        yield from self.figures("cost")
        yield from self.table("cost")

    def made(self, fingerprint: str) -> Iterator[str]:
        found = hashes(self.contents, fingerprint)
        lines = [f"<li>{html.escape(what)}: <code>{value}</code></li>" for what, value in found]
        yield "<ul>\n" + "\n".join(lines) + "\n</ul>"
        for name in ("models", "settings", "environment", "timing"):
            yield from self.table(name)

    def glossary(self) -> Iterator[str]:
        lines = [
            f"<dt>{html.escape(title(name))}</dt><dd>{html.escape(meaning)}</dd>"
            for name, meaning in glossary(self.contents)
        ]
        if lines:
            yield "<dl>\n" + "\n".join(lines) + "\n</dl>"

    # ----------------------------------------------------------------------------------------------------------------

    def figures(self, *names: str) -> Iterator[str]:
        """Plots beside each other where there is room."""
        found = [self.plots[name] for name in names if name in self.plots]
        blocks = [
            f'<figure class="plot" id="plot-{plot.name}">\n{plot.svg}\n'
            f"<figcaption>{html.escape(plot.caption)}</figcaption>\n</figure>"
            for plot in found
        ]
        if blocks:
            yield '<div class="plots">\n' + "\n".join(blocks) + "\n</div>"

    def table(self, name: str, folded: bool = False) -> Iterator[str]:
        """One table in a box that scrolls by itself, so that the page does not; a long one is folded."""
        if name not in self.tables:
            return
        table = self.tables[name]
        block = self._table(table)
        if folded or len(table.rows) > _UNFOLDED_ROWS:
            block = f"<details>\n<summary>{html.escape(table.title)}</summary>\n{block}\n</details>"
        yield block

    def _table(self, table: Table) -> str:
        # A column is right-aligned with its head if there is a number in it.
        right = [any(isinstance(row[place], Number) for row in table.rows) for place in range(len(table.columns))]
        heads = "".join(
            f'<th scope="col"{" class=n" if right[place] else ""}>{html.escape(column)}</th>'
            for place, column in enumerate(table.columns)
        )
        rows = "\n".join(
            "<tr>"
            + "".join(self._cell(cell, place < table.heads, right[place]) for place, cell in enumerate(row))
            + "</tr>"
            for row in table.rows
        )
        note = f'\n<p class="note">{html.escape(table.note)}</p>' if table.note else ""
        name = html.escape(table.title)
        return (
            f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">\n<table id="table-{table.name}">\n'
            f"<caption>{name}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>{note}"
        )

    def _cell(self, cell: Cell, is_head: bool, right: bool) -> str:
        if isinstance(cell, Number):
            mark = f" {html.escape(cell.mark)}" if cell.mark else ""
            between = f" <small>({html.escape(cell.between)})</small>" if cell.between else ""
            content = f"{html.escape(cell.value)}{mark}{between}"
        else:
            content = self._swatch(cell) + _breakable(html.escape(str(cell)))
        start = "th scope=row" if is_head else "td"
        # A long text needs a wide column, which a table gives only to what insists on it.
        kind = " class=n" if right else " class=long" if not is_head and len(str(cell)) > _LONG else ""
        return f"<{start}{kind}>{content}</{start[:2]}>"

    def _swatch(self, cell: Cell) -> str:
        """The colour of a model before its name; the name says the same."""
        if not isinstance(cell, Model) or cell.key not in self.colours:
            return ""
        return f'<i class="swatch" style="background:var(--{self.colours[cell.key]})"></i>'

    def _confusion(self, model: str) -> Iterator[str]:
        """One matrix, shaded by the share of each true class."""
        classes = [html.escape(text(name)) for name in self.contents.classes]
        rows = [items(row) for row in items(self.contents.models[model].get("confusion"))]
        if not classes or len(rows) != len(classes) or any(len(row) != len(classes) for row in rows):
            return
        lines = []
        for name, row in zip(classes, rows, strict=True):
            counts = [number(value) for value in row]
            whole = sum(counts)
            cells = []
            for value in counts:
                share = value / whole if whole > 0 else 0
                cells.append(
                    f'<td class=n style="--share:{share:.2f}">{value:,.0f} <small>{percent(share)}</small></td>'
                )
            lines.append(f"<tr><th scope=row>{name}</th>{''.join(cells)}</tr>")
        heads = "".join(f"<th scope=col class=n>called {name}</th>" for name in classes)
        label = self._swatch(Model(model, False)) + html.escape(text(model))
        yield (
            f'<figure class="matrix">\n<figcaption>{label}</figcaption>\n'
            f'<div class="scroll" role="region" tabindex="0" '
            f'aria-label="Confusion matrix of {html.escape(text(model))}">\n'
            f"<table>\n<thead><tr><th scope=col>Is</th>{heads}</tr></thead>\n<tbody>\n"
            + "\n".join(lines)
            + "\n</tbody>\n</table>\n</div>\n</figure>"
        )

    def wrong_cells(self) -> Iterator[str]:
        """Pictures of the cells that each model is most sure and most wrong about."""
        worst = [mapping(cell) for model in self.contents.models.values() for cell in items(model.get("worst_cells"))]
        if any(_png(cell.get("map")) for cell in worst):
            yield f"<p>{_ABOUT_MAPS}</p>"
        for name, model in self.contents.models.items():
            pictures = [_picture(mapping(cell)) for cell in items(model.get("worst_cells"))]
            if pictures:
                label = self._swatch(Model(name, False)) + html.escape(text(name))
                few = len(self.contents.networks) <= _UNFOLDED and name in self.contents.networks
                unfolded = " open" if few else ""
                yield (
                    f"<details{unfolded}>\n<summary>{label}</summary>\n<div class='cells'>\n"
                    + "\n".join(pictures)
                    + "\n</div>\n</details>"
                )


def _breakable(name: str) -> str:
    """Escaped text that a narrow column breaks after an underscore or dot, before it breaks anywhere else."""
    return re.sub(r"([_./])(?=\w)", r"\1<wbr>", name)


def _picture(cell: dict[str, Any]) -> str:
    path, label, called = (text(cell.get(key)) for key in ("path", "label", "called"))
    found = number(cell.get("probability"))
    told = f"is {label}, called {called}" + ("" if math.isnan(found) else f" ({found:.3f})")
    subject = f", subject {text(cell['subject'])}" if cell.get("subject") is not None else ""
    alt = html.escape(f"Cell {path}{subject}: {told}")
    source, evidence = _png(cell.get("png")), _png(cell.get("map"))
    image = f'<img src="{source}" alt="{alt}" loading="lazy">' if source else "<div class='none'>no picture</div>"
    if evidence:
        seen = html.escape(f"Where it finds {called} in {path}")
        image = f'<div class="pair">{image}<img src="{evidence}" alt="{seen}" loading="lazy"></div>'
    caption = f"<strong>{html.escape(told)}</strong><br>{_breakable(html.escape(path))}{html.escape(subject)}"
    return f'<figure class="cell">\n{image}\n<figcaption>{caption}</figcaption>\n</figure>'


def _png(value: Any) -> str | None:
    """A data URI for what is the base64 of a PNG, and nothing for anything else."""
    if not isinstance(value, str) or len(value) > _LARGEST_PICTURE:
        return None
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return f"data:image/png;base64,{value}" if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def _style() -> str:
    def variables(colours: dict[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in colours.items())

    return f""":root{{color-scheme:light dark;{variables(LIGHT)}--box:#f3f4f7;--share-rgb:17 119 187}}
@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}--box:#20232b;--share-rgb:73 182 245}}}}
{_RULES}"""


_RULES = """*{box-sizing:border-box}
body{margin:0 auto;max-width:75rem;padding:1rem 1.25rem 3rem;background:var(--page);color:var(--ink);
 font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.3rem;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--grid)}
a{color:inherit}
nav ul{list-style:none;margin:1rem 0;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem}
.warning{display:inline-block;margin:.25rem 0;padding:.35rem .75rem;border:1px solid var(--muted);border-radius:.3rem;
 font-weight:600}
.says{max-width:52rem;padding-left:1.2rem}
.says li{margin:.45rem 0}
.scroll{overflow-x:auto;margin:1rem 0 .25rem}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--m0);outline-offset:2px}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.25rem 0;font-size:.95rem}
th,td{padding:.3rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
thead th{vertical-align:bottom;border-bottom:2px solid var(--muted)}
th.n,td.n{text-align:right}
td.n{white-space:nowrap}
tbody th{font-weight:600;min-width:11rem;max-width:18rem;overflow-wrap:anywhere}
td{max-width:26rem;overflow-wrap:break-word}
td.long{min-width:16rem;overflow-wrap:anywhere}
td small{display:block;color:var(--muted);font-size:.8em}
tbody th:first-child,thead th:first-child{position:sticky;left:0;background:var(--page)}
.note,figcaption{font-size:.85rem;color:var(--muted);max-width:46rem;margin:.4rem 0 1rem}
.swatch{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.45em}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(21rem,100%),1fr));gap:1rem 2rem;align-items:start;
 margin:1rem 0}
figure{margin:0}
.plot{max-width:34rem}
.plot svg{display:block;width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt}
.plot svg text{font-family:inherit}
.matrices{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin:1rem 0}
.matrix{max-width:100%}
.matrix figcaption{color:inherit;font-weight:600;margin:0}
.matrix .scroll{margin:.2rem 0}
.matrix td{background:rgb(var(--share-rgb)/calc(var(--share)*.45))}
.matrix td small{color:inherit}
.matrix tbody th{min-width:0}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
.cells{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:1rem;margin:.75rem 0}
.cell img,.cell .none{display:block;width:100%;max-width:9rem;aspect-ratio:1;object-fit:contain;background:#000;
 border-radius:.25rem}
.cells:has(.pair){grid-template-columns:repeat(auto-fill,minmax(14rem,1fr))}
.pair{display:grid;grid-template-columns:1fr 1fr;max-width:18rem}
.cell .none{display:grid;place-items:center;background:var(--box);color:var(--muted);font-size:.8rem}
.cell figcaption{font-size:.78rem;margin:.3rem 0 0;overflow-wrap:break-word}
.cell strong{color:var(--ink)}
code{font-size:.85em;overflow-wrap:anywhere}
dt{font-weight:600;margin-top:.6rem}
dd{margin:0;max-width:46rem}
@media (max-width:40rem){body{padding:.5rem .75rem 2rem}h1{font-size:1.35rem}h2{font-size:1.15rem}
 tbody th:first-child,thead th:first-child{max-width:9rem;min-width:7.5rem}th,td{padding:.3rem .4rem}
 table{font-size:.8rem}}
@media print{body{max-width:none;padding:0;font-size:9.5pt}nav{display:none}.scroll{overflow:visible}
 table{font-size:7.5pt}th,td{padding:.15rem .35rem}td.n{white-space:normal}tr,figure{break-inside:avoid}
 h2,caption,summary{break-after:avoid}.plots{grid-template-columns:1fr 1fr}
 details::details-content{content-visibility:visible;display:block;block-size:auto}
 tbody th:first-child,thead th:first-child{position:static}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"""
