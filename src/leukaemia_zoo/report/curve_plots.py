"""The curves of a benchmark report: ROC, precision and recall."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from leukaemia_zoo.report.contents import Contents, items, mapping, number, percent, quoted, text, title
from leukaemia_zoo.report.drawing import LIGHT, Look, Plot, figure_of, finished, grid, legend
from leukaemia_zoo.report.table_cells import metric_cell

_OVERLAY = 5
"""More curves than this are drawn side by side: they could not be told apart on top of each other."""


_POINTS, _POINTS_BEHIND = 200, 24
"""Points of a curve that are drawn, as many as a benchmark keeps; and of one that is drawn in grey behind others."""


_Curve = tuple[np.ndarray, np.ndarray]


def roc(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
    """The ROC curves: one plot of two classes, of more one a class."""
    dots = {
        name: (1 - specificity.value, sensitivity.value)
        for name in contents.models
        if (sensitivity := contents.measured(name, "sensitivity"))
        and (specificity := contents.measured(name, "specificity"))
    }

    def frame(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=LIGHT["muted"], lw=0.8, ls=(0, (3, 2)))

    for place, (label, found) in enumerate(_curves_by_class(contents, "roc", "fpr", "tpr").items()):
        figure = _curves(found, looks, ("1 - specificity", "Sensitivity"), frame, {} if label else dots, "default")
        mark = "" if label else " The mark on each is where its calls lie."
        caption = f"ROC curves{_against_the_rest(label)}.{mark} The dashed diagonal is guessing."
        yield finished(figure, f"roc-{place}" if label else "roc", caption, _areas(contents, found, "auroc", label))


def precision_recall(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
    """Precision against recall, as many plots as of ROC curves."""
    counts = {name: number(mapping(row).get("cells")) for name, row in mapping(contents.about.get("classes")).items()}
    whole = math.fsum(counts.values())
    for place, (label, found) in enumerate(_curves_by_class(contents, "pr", "recall", "precision").items()):
        cells = counts.get(label or (contents.classes[-1] if contents.classes else ""), math.nan)
        share = cells / whole if whole > 0 else math.nan

        def frame(axes: Any, share: float = share) -> None:
            if not math.isnan(share):
                axes.axhline(share, color=LIGHT["muted"], lw=0.8, ls=(0, (3, 2)))

        # Average precision is not interpolated: each precision holds back to the recall before.
        figure = _curves(found, looks, ("Recall", "Precision"), frame, {}, "steps-pre")
        guessing = "" if math.isnan(share) else f" The dashed line is guessing, {percent(share)}."
        caption = f"Precision and recall{_against_the_rest(label)}.{guessing}"
        yield finished(figure, f"pr-{place}" if label else "pr", caption, _areas(contents, found, "auprc", label))


def _against_the_rest(label: str) -> str:
    return f" of {quoted(label)} against the rest" if label else ""


def _areas(contents: Contents, curves: dict[str, _Curve], metric: str, label: str) -> str:
    """The areas under the curves in words; those of one class among several stand in a table."""
    if label:
        return ""
    return "; ".join(f"{text(name)}: {title(metric)} {metric_cell(contents.measured(name, metric))}" for name in curves)


def _curves_by_class(contents: Contents, name: str, x: str, y: str) -> dict[str, dict[str, _Curve]]:
    """The curves of the models: of two classes under an empty name, of more by the name of each class."""
    found: dict[str, dict[str, _Curve]] = {}
    for model, row in contents.models.items():
        curves = mapping(row.get("curves"))
        labelled = {"": curves} if name in curves else {label: mapping(curves.get(label)) for label in contents.classes}
        for label, kinds in labelled.items():
            curve = _curve(mapping(kinds.get(name)), x, y)
            if curve is not None:
                found.setdefault(label, {})[model] = curve
    return found


def _curve(found: dict[str, Any], x: str, y: str) -> _Curve | None:
    """The points of a curve in rising order."""
    across, up = ([number(value) for value in items(found.get(key))] for key in (x, y))
    points = np.array([pair for pair in zip(across, up, strict=False) if not any(map(math.isnan, pair))])
    if len(points) < 2:
        return None
    points = points if points[0, 0] <= points[-1, 0] else points[::-1]
    return _thinned((points[:, 0], points[:, 1]), _POINTS)


def _thinned(curve: _Curve, most: int) -> _Curve:
    """At most so many points of a curve, at equal distances along it."""
    if len(curve[0]) <= most:
        return curve
    way = np.cumsum(np.abs(np.diff(curve, axis=1, prepend=np.array(curve)[:, :1])).sum(axis=0))
    kept = np.unique(np.minimum(np.searchsorted(way, np.linspace(0, way[-1], most)), len(way) - 1))
    return curve[0][kept], curve[1][kept]


def _curves(
    known: dict[str, _Curve],
    looks: dict[str, Look],
    labels: tuple[str, str],
    frame: Callable[[Any], None],
    dots: dict[str, tuple[float, float]],
    style: str,
) -> Any:
    """All curves in one frame, or each in its own with the others in grey behind it."""
    if len(known) <= _OVERLAY:
        height = 4.4 + 0.19 * len(known)
        figure = figure_of(height)
        panels = [figure.add_axes((0.12, 1 - 4.0 / height, 0.85, 3.9 / height))]
        shown = [list(known)]
    else:
        figure, panels = grid(list(known), labels)
        shown = [[name] for name in known]
    behind = {name: _thinned(curve, _POINTS_BEHIND) for name, curve in known.items()}
    for axes, names in zip(panels, shown, strict=True):
        frame(axes)
        for name in [name for name in known if name not in names]:
            axes.plot(*behind[name], color=LIGHT["grid"], lw=0.7)
        for name in names:
            look = looks[name]
            curve = known[name] if len(panels) == 1 else _thinned(known[name], _POINTS // 2)
            axes.plot(*curve, color=LIGHT[look.colour], ls=look.dash, lw=1.6, drawstyle=style)
            if name in dots:
                axes.plot(*dots[name], look.marker, color=LIGHT[look.colour], ms=6, mec=LIGHT["page"], mew=0.8)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid()
    if len(panels) == 1 and len(known) <= _OVERLAY:
        panels[0].set(xlabel=labels[0], ylabel=labels[1])
        legend(figure, [looks[name] for name in known])
    return figure
