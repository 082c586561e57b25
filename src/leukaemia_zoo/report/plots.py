"""The plots of a benchmark report: what is drawn. `svg` says how it becomes part of a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukaemia_zoo.evaluation.intervals import Interval
from leukaemia_zoo.report.contents import (
    Contents,
    beyond,
    interval,
    items,
    listed,
    mapping,
    number,
    percent,
    quoted,
    short,
    short_names,
    text,
    title,
    worst_subject,
)
from leukaemia_zoo.report.drawing import LIGHT, WIDTH, Plot, drawing, figure_of, finished
from leukaemia_zoo.report.tables import metric_cell, scaled

_HUES, _GREYS = ("m0", "m1", "m2", "m3", "m4", "m5"), ("b0", "b1", "b2")
_MARKERS = "osD^vPX<>ph*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

_OVERLAY = 5
"""More curves than this are drawn side by side: they could not be told apart on top of each other."""

_PAIRS = 24
"""More differences than this stand in the table only."""

_POINTS, _POINTS_BEHIND = 200, 24
"""Points of a curve that are drawn, as many as a benchmark keeps; and of one that is drawn in grey behind others."""


@dataclass(frozen=True)
class _Look:
    """How a model looks in every plot."""

    label: str
    colour: str
    dash: Any
    marker: str


def plots(contents: Contents) -> dict[str, Plot]:
    """Draw all plots for which the report has data, by name.

    Raises:
        PlotsMissingError: Matplotlib is not installed.
    """
    looks = _looks(contents)
    found: dict[str, Plot] = {}
    with drawing():
        for draw in (_forests, _differences, _roc, _precision_recall, _reliability, _subjects, _costs):
            found |= {plot.name: plot for plot in draw(contents, looks)}
    return found


def looks(contents: Contents) -> dict[str, str]:
    """The CSS variable of each model's colour, the same in every plot and table."""
    return {name: look.colour for name, look in _looks(contents).items()}


def _looks(contents: Contents) -> dict[str, _Look]:
    names = short_names(list(contents.models), 30)
    found = {}
    for group, colours in ((contents.networks, _HUES), (contents.baselines, _GREYS)):
        for place, name in enumerate(group):
            # Baselines are dashed from the first on.
            dash = place // len(colours) if group is contents.networks else 1 + place
            marker = _MARKERS[(place if group is contents.networks else -1 - place) % len(_MARKERS)]
            found[name] = _Look(names[name], colours[place % len(colours)], _DASHES[dash % len(_DASHES)], marker)
    return {name: found[name] for name in contents.models}


# --------------------------------------------------------------------------------------------------------------------
# Intervals


def _forests(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
    for metric in contents.ranking:
        rows = [(look.label, look, contents.measured(name, metric)) for name, look in looks.items()]
        known = [(label, look, found) for label, look, found in rows if found and not math.isnan(found.value)]
        if known:
            figure = _forest(known, title(metric), 0.5 if metric == "auroc" else None)
            told = "; ".join(f"{label}: {metric_cell(found)}" for label, _, found in known)
            caption = f"{title(metric)} with {contents.level} intervals."
            yield finished(figure, f"forest-{metric}".replace("_", "-"), caption, told)


def _differences(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
    neutral = _Look("", "muted", "-", "o")
    names = short_names([*dict.fromkeys(name for a, b, _ in contents.pairs for name in (a, b))], 21)
    for metric in contents.ranking:
        rows = [(a, b, values[metric]) for a, b, values in contents.pairs if metric in values]
        rows = [row for row in rows if not math.isnan(row[2].value)]
        drawn = []
        for a, b, found in rows[:_PAIRS]:
            look = looks.get(a, neutral) if beyond(found) else neutral
            drawn.append((f"{names.get(a, a)} - {names.get(b, b)}", look, found))
        if drawn:
            caption = f"Paired differences in {title(metric)}; grey where the {contents.level} interval holds 0."
            if len(rows) > _PAIRS:
                caption += f" The first {_PAIRS} of {len(rows)} pairs; the table has all."
            told = "; ".join(f"{label}: {metric_cell(found, signed=True)}" for label, _, found in drawn)
            figure = _forest(drawn, f"Difference in {title(metric)}", 0, signed=True)
            yield finished(figure, f"differences-{metric}".replace("_", "-"), caption, told)


def _forest(
    rows: Sequence[tuple[str, _Look, Interval]], label: str, reference: float | None, signed: bool = False
) -> Any:
    """One row a value: its name and number above it, so that there is room for both on a phone."""
    height = 0.6 + 0.34 * len(rows)
    figure = figure_of(height)
    axes = figure.add_axes((0.03, 0.48 / height, 0.94, 1 - 0.54 / height))
    for place, (name, look, found) in enumerate(rows):
        low, high = (found.value if math.isnan(bound) else bound for bound in (found.low, found.high))
        axes.plot([low, high], [place, place], color=LIGHT[look.colour], lw=2, solid_capstyle="butt")
        axes.plot([found.value], [place], look.marker, color=LIGHT[look.colour], ms=6)
        across = axes.get_yaxis_transform()
        # On a piece of page, so that no line runs through the words.
        style = {"transform": across, "va": "center", "size": 8.5, "zorder": 5}
        style["bbox"] = {"boxstyle": "square,pad=0.1", "fc": LIGHT["page"], "ec": "none"}
        axes.text(0, place - 0.38, name, **style)
        axes.text(1, place - 0.38, str(metric_cell(found, signed)), ha="right", **style)
    values = [bound for _, _, one in rows for bound in (one.value, one.low, one.high) if not math.isnan(bound)]
    if reference is not None and (signed or min(values) <= reference + 0.1):
        axes.axvline(reference, color=LIGHT["muted"], lw=1, ls=(0, (3, 2)))
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.margins(x=0.03)
    axes.set_yticks([])
    axes.set_xlabel(label)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure


# --------------------------------------------------------------------------------------------------------------------
# Curves

_Curve = tuple[np.ndarray, np.ndarray]


def _roc(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
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


def _precision_recall(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
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
    looks: dict[str, _Look],
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
        figure, panels = _grid(list(known), labels)
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
        _legend(figure, [looks[name] for name in known])
    return figure


def _grid(names: Sequence[str], labels: tuple[str, str]) -> tuple[Any, list[Any]]:
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


def _legend(figure: Any, looks: Sequence[_Look]) -> None:
    """Below the axes, one model a line, for names are long."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=LIGHT[look.colour], ls=look.dash, marker=look.marker, ms=5, lw=1.6) for look in looks
    ]
    names = [look.label for look in looks]
    figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.1, 0), handlelength=3.6, labelspacing=0.25)


# --------------------------------------------------------------------------------------------------------------------
# Calibration, subjects, cost


def _reliability(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
    found = {}
    for name, model in contents.models.items():
        stages = mapping(model.get("calibration"))
        bins = {stage: _bins(stages.get(stage)) for stage in ("before", "after")}
        if any(bins.values()):
            found[name] = bins
    if not found:
        return
    figure, panels = _grid(list(found), ("Promised probability", "Observed share"))
    for (name, bins), axes in zip(found.items(), panels, strict=True):
        axes.plot([0, 1], [0, 1], color=LIGHT["muted"], lw=0.8, ls=(0, (3, 2)))
        colour = LIGHT[looks[name].colour]
        for stage, filled in (("before", False), ("after", True)):
            if not bins[stage]:
                continue
            x, y, counts = map(np.array, zip(*bins[stage], strict=True))
            axes.plot(x, y, color=colour, lw=1.2 if filled else 0.8, alpha=1 if filled else 0.7)
            sizes = 4 + 40 * counts / max(counts.max(), 1)
            face = colour if filled else LIGHT["page"]
            axes.scatter(x, y, sizes, facecolor=face, edgecolor=colour, linewidth=0.8, zorder=3)
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
        axes.grid()
    caption = (
        "What was promised and what was found, before (hollow) and after (filled) temperature scaling. Larger marks "
        "stand for more cells; the dashed diagonal is perfect."
    )
    told = []
    for name in found:
        stages = mapping(contents.models[name].get("calibration"))
        errors = [f"{stage} {metric_cell(interval(mapping(stages.get(stage)).get('ece')))}" for stage in found[name]]
        told.append(f"{text(name)}: calibration error {', '.join(errors)}")
    yield finished(figure, "reliability", caption, "; ".join(told))


def _bins(stage: Any) -> list[tuple[float, float, float]]:
    rows = []
    for row in map(mapping, items(mapping(stage).get("bins"))):
        observed = row.get("accuracy") if row.get("accuracy") is not None else row.get("observed")
        point = (number(row.get("confidence")), number(observed), number(row.get("count")))
        if not any(map(math.isnan, point)) and point[2] > 0:
            rows.append(point)
    return rows


def _subjects(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
    """One strip a model and in it one lane a class; jitter is a fixed sequence, the same each time."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, model in contents.models.items():
        rows = [mapping(row) for row in items(model.get("per_subject"))]
        found[name] = [row for row in rows if not math.isnan(number(row.get("mean_probability")))]
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return
    named = [*contents.classes, *dict.fromkeys(str(row.get("label")) for rows in found.values() for row in rows)]
    present = {str(row.get("label")) for rows in found.values() for row in rows}
    lanes = [name for name in dict.fromkeys(named) if name in present]
    strip, gap = 0.26 * len(lanes), 0.34
    height = len(found) * (strip + gap) + 0.5
    figure = figure_of(height)
    most = max(max((number(row.get("cells")) for row in rows), default=1) for rows in found.values())
    worst_of = []
    for place, (name, rows) in enumerate(found.items()):
        bottom = height - (place + 1) * (strip + gap)
        axes = figure.add_axes((0.16, bottom / height, 0.81, strip / height))
        look, worst = looks[name], worst_subject(contents.models[name])
        axes.set_title(look.label, size=8.5, pad=3, loc="left")
        # Marks of few sizes, drawn together, take a fifth of the bytes of marks that are drawn one by one.
        alike: dict[tuple[float, bool], list[tuple[float, float]]] = {}
        for index, row in enumerate(rows):
            x = number(row["mean_probability"])
            y = lanes.index(str(row.get("label"))) + 0.6 * ((index * 0.618034) % 1 - 0.5)
            cells = number(row.get("cells"))
            size = 8 + (10 * math.ceil(4 * cells / most) if cells > 0 and most > 0 else 0)
            right = row.get("right") if row.get("right") is not None else number(row.get("share_correct")) >= 0.5
            alike.setdefault((size, bool(right)), []).append((x, y))
            if worst and row.get("subject") == worst.get("subject"):
                subject = short(text(worst.get("subject")), 16)
                worst_of.append(f"{text(name)}: worst subject {text(worst.get('subject'))}, mean probability {x:.2f}")
                side, push = ("right", -6) if x > 0.5 else ("left", 6)
                where = {"xytext": (push, 0), "textcoords": "offset points", "ha": side, "va": "center"}
                halo = {"boxstyle": "round,pad=0.1", "fc": LIGHT["page"], "ec": "none", "alpha": 0.8}
                axes.annotate(subject, (x, y), size=7.5, weight="bold", bbox=halo, zorder=4, **where)
        for (large, right), points in sorted(alike.items(), reverse=True):
            colour = LIGHT[look.colour]
            axes.scatter(
                *zip(*points, strict=True),
                large,
                facecolor=colour if right else LIGHT["page"],
                edgecolor=colour,
                linewidth=0.9,
                zorder=3,
            )
        if len(contents.classes) < 3:  # of more classes no one probability decides
            axes.axvline(0.5, color=LIGHT["muted"], lw=0.8, ls=(0, (3, 2)))
        axes.set(xlim=(-0.02, 1.02), ylim=(len(lanes) - 0.5, -0.5))
        axes.set_yticks(range(len(lanes)), [short(text(lane), 11) for lane in lanes])
        axes.set_xticks(np.linspace(0, 1, 6), None if place == len(found) - 1 else [])
        axes.grid(axis="x")
    last = quoted(contents.classes[-1]) if contents.classes else "the last class"
    axes.set_xlabel(f"Mean probability of {short(last, 30)} over the cells of a subject")
    caption = (
        "One mark a subject, larger with more cells, hollow where the subject is called wrong. Named: the subject with "
        "the fewest cells right."
    )
    yield finished(figure, "subjects", caption, "; ".join(worst_of))


def _costs(contents: Contents, looks: dict[str, _Look]) -> Iterator[Plot]:
    metric = next((name for name in ("weighted_f1", "macro_f1", *contents.ranking) if name in contents.metrics), None)
    costs = {name: mapping(model.get("cost")) for name, model in contents.models.items()}
    known: dict[str, Interval] = {}
    label = ""
    for key, label in (("latency_ms", "One cell, ms"), ("flops", "FLOPs a view"), ("parameters", "Parameters")):  # noqa: B007
        amounts = {name: interval(cost.get(key)) for name, cost in costs.items()}
        known = {name: found for name, found in amounts.items() if found is not None and found.value > 0}
        known = {name: found for name, found in known.items() if metric and contents.is_defined(name, metric)}
        if known:
            break
    if not known or metric is None:
        return
    heights = {name: contents.measured(name, metric) for name in contents.models if contents.is_defined(name, metric)}
    values = {name: found for name, found in heights.items() if found is not None}
    without = [name for name in contents.baselines if name in values and name not in known]
    height = 3.5 + 0.19 * (len(known) + len(without))
    figure = figure_of(height)
    axes = figure.add_axes((0.12, 1 - 3.1 / height, 0.85, 3.0 / height))
    for name in without:
        axes.axhline(values[name].value, color=LIGHT[looks[name].colour], ls=looks[name].dash, lw=1)
    for name, amount in known.items():
        look, found = looks[name], values[name]
        colour = LIGHT[look.colour]
        if not (math.isnan(found.low) or math.isnan(found.high)):
            axes.plot([amount.value] * 2, [found.low, found.high], color=colour, lw=1.2)
        axes.plot([amount.value], [found.value], look.marker, color=colour, ms=7, mec=LIGHT["page"], mew=0.6)
    low, high = (edge([found.value for found in known.values()]) for edge in (min, max))
    if high > 3 * low:  # else the axis would have too few ticks to be read
        label += " (logarithmic)"
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        ticks = [m * 10.0**e for e in range(-3, 13) for m in ((1, 2, 5) if high / low < 300 else (1,))]
        seen = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
        axes.set_xticks(seen, [_tick(tick) for tick in seen])
        axes.set_xticks([], minor=True)
    else:
        axes.set_xlim(0, high * 1.2)
        axes.xaxis.set_major_formatter(lambda tick, _: _tick(tick))
    axes.set(xlabel=label, ylabel=title(metric))
    axes.grid()
    _legend(figure, [looks[name] for name in [*known, *without]])
    lines = f" Dashed lines: {listed([looks[name].label for name in without])}." if without else ""
    caption = f"{title(metric)} with its {contents.level} interval against cost.{lines}"
    told = "; ".join(f"{text(name)}: {found.value:.4g}, {metric_cell(values[name])}" for name, found in known.items())
    yield finished(figure, "cost", caption, told)


def _tick(value: float) -> str:
    return str(scaled(value)) if value >= 1e5 else f"{value:,.10g}"
