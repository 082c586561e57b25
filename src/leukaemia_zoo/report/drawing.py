"""Matplotlib's drawings as SVG that is part of an HTML page.

Matplotlib is imported when the first plot is drawn, without pyplot and its global figures. Colours of the drawing are
replaced by variables of the page's style sheet (`LIGHT`, `DARK`), so that plots follow the reader's theme; ids that
nothing refers to are left out and the others get the plot's name, so that many plots fit into one page.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from leukaemia_zoo.errors import PlotsMissingError
from leukaemia_zoo.report.contents import short_names

# Six hues after Okabe and Ito 2008, darkened or lightened until each has a contrast of at least 3.1 to white and of 4.1
# to the dark page (WCAG 2.2 asks for 3), and any two differ by at least 16 (CIE 1976) in normal vision and in the three
# dichromacies of Machado et al. 2009. The greys are for baselines. Markers, dashes or names always tell models apart as
# well, for no palette does with twelve.
LIGHT = {
    "ink": "#1c1d22",
    "muted": "#62646f",
    "grid": "#dcdde3",
    "page": "#fdfdfe",
    "m0": "#1177bb",
    "m1": "#dd7722",
    "m2": "#00664a",
    "m3": "#cc6fa0",
    "m4": "#7a0f26",
    "m5": "#30217a",
    "b0": "#3f4047",
    "b1": "#70727b",
    "b2": "#90929c",
}
"""Colours of the page and its plots by the name of their CSS variable, on white."""

DARK = {
    "ink": "#e9eaf0",
    "muted": "#a3a6b3",
    "grid": "#3a3d47",
    "page": "#16181d",
    "m0": "#49b6f5",
    "m1": "#d5702f",
    "m2": "#178a68",
    "m3": "#e0a8cb",
    "m4": "#f2e3a0",
    "m5": "#8078f5",
    "b0": "#d3d5de",
    "b1": "#a0a2ae",
    "b2": "#7d808d",
}
"""The same in a dark theme."""

WIDTH = 5.0
"""Inches of every plot: 360 units, so that type of 9 units can be read on a phone, where a plot is as wide."""


@dataclass(frozen=True)
class Plot:
    """A plot, ready to stand in a page.

    Attributes:
        name: Short name, fit for an HTML id.
        svg: An `<svg>` element with a text alternative.
        caption: What it shows, as plain text that still has to be escaped.
    """

    name: str
    svg: str
    caption: str


_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leukaemia-zoo",
    "text.parse_math": False,  # names may hold dollars
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.unicode_minus": False,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.titlecolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["grid"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's settings are, and our own on top; both are undone afterwards."""
    try:
        import matplotlib
    except ImportError as error:
        raise PlotsMissingError("Plots need Matplotlib: run `pip install matplotlib`.") from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The page's fonts have the glyphs that Matplotlib's own misses.
        warnings.filterwarnings("ignore", message="Glyph")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def figure_of(height: float) -> Any:
    """A Matplotlib figure `WIDTH` inches wide and `height` inches high, inside `drawing`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height))


def finished(figure: Any, name: str, caption: str, told: str) -> Plot:
    """Turn a figure into a `Plot`; `told` is what a reader who does not see it hears after the caption."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Plot(name, _embedded(drawn.getvalue(), name, f"{caption} {told}".strip()), caption)


_VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def _embedded(svg: bytes, name: str, told: str) -> str:
    """An SVG document as an element of a page, with the page's colours and font."""
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in [child for child in parent if child.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)
    elements = list(root.iter())
    used = {
        found for element in elements for value in element.attrib.values() for found in re.findall(r"#([\w-]+)", value)
    }
    for element in elements:
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        if element.tag != "text":
            element.text = None
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        for key, value in element.attrib.items():
            element.set(key, _rewritten(key, value, name))
    for unwanted in ("width", "height", "version"):
        root.attrib.pop(unwanted, None)
    root.set("role", "img")
    root.set("aria-label", told)
    _without_empty(root)
    return ET.tostring(root, encoding="unicode")


def _rewritten(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key == "style":
        # The font is the page's; `font` and `font-family` are how old and new versions of Matplotlib name theirs.
        value = re.sub(r"font: ((?:[a-z0-9]+ )*?)([\d.]+px) [^;]*", _font, value)
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        value = re.sub(r"stroke-dashoffset: 0;? ?", "", value).replace(": ", ":").replace("; ", ";")
        value = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), value)
    if key in ("d", "x", "y", "transform", "points"):
        # A hundredth of a unit cannot be seen.
        value = re.sub(r"-?\d+\.\d+(?:e-\d+)?", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
        value = re.sub(r" {2,}", " ", value).strip()
    return value


def _font(found: re.Match[str]) -> str:
    bold = "font-weight: bold; " if re.search(r"bold|700", found[1]) else ""
    return f"{bold}font-size: {found[2]}"


def _without_empty(element: ET.Element) -> None:
    for child in list(element):
        _without_empty(child)
        if child.tag in ("g", "defs") and not len(child):
            element.remove(child)


@dataclass(frozen=True)
class Look:
    """How a model looks in every plot."""

    label: str
    colour: str
    dash: Any
    marker: str


def grid(names: Sequence[str], labels: tuple[str, str]) -> tuple[Any, list[Any]]:
    """Square panels, three in a row, each with the name of its model above it."""
    side, left, top = 1.38, 0.44, 0.24
    lines = -(-len(names) // 3)
    height = lines * (side + top) + 0.5
    figure = figure_of(height)
    panels, titles = [], short_names(names, 22)
    for place, name in enumerate(names):
        line, column = divmod(place, 3)
        bottom = height - (line + 1) * (side + top)
        axes = figure.add_axes(((left + 1.52 * column) / WIDTH, bottom / height, side / WIDTH, side / height))
        axes.set_title(titles[name], size=7.5, pad=3)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if place + 3 >= len(names) else [])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if column == 0 else [])
        panels.append(axes)
    figure.text(0.5, 0.08 / height, labels[0], ha="center", va="bottom", size=9)
    figure.text(0.005, 0.5, labels[1], ha="left", va="center", rotation=90, size=9)
    return figure, panels


def legend(figure: Any, looks: Sequence[Look]) -> None:
    """Below the axes, one model a line, for names are long."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=LIGHT[look.colour], ls=look.dash, marker=look.marker, ms=5, lw=1.6) for look in looks
    ]
    names = [look.label for look in looks]
    figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.1, 0), handlelength=3.6, labelspacing=0.25)
