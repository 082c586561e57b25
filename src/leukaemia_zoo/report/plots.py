"""The plots of a benchmark report: what is drawn. `drawing` says how it becomes part of a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    quoted,
    short,
    short_names,
    text,
    title,
    worst_subject,
)
from leukaemia_zoo.report.curve_plots import precision_recall, roc
from leukaemia_zoo.report.drawing import LIGHT, Look, Plot, drawing, figure_of, finished, grid, legend
from leukaemia_zoo.report.table_cells import metric_cell, scaled

_HUES, _GREYS = ("m0", "m1", "m2", "m3", "m4", "m5"), ("b0", "b1", "b2")
_MARKERS = "osD^vPX<>ph*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


_PAIRS = 24
"""More differences than this stand in the table only."""


def plots(contents: Contents) -> dict[str, Plot]:
    """Draw all plots for which the report has data, by name."""
    looks = _looks(contents)
    found: dict[str, Plot] = {}
    with drawing():
        for draw in (_forests, _differences, roc, precision_recall, _reliability, _subjects, _costs):
            found |= {plot.name: plot for plot in draw(contents, looks)}
    return found


def looks(contents: Contents) -> dict[str, str]:
    """The CSS variable of each model's colour, the same in every plot and table."""
    return {name: look.colour for name, look in _looks(contents).items()}


def _looks(contents: Contents) -> dict[str, Look]:
    names = short_names(list(contents.models), 30)
    found = {}
    for group, colours in ((contents.networks, _HUES), (contents.baselines, _GREYS)):
        for place, name in enumerate(group):
            # Baselines are dashed from the first on.
            dash = place // len(colours) if group is contents.networks else 1 + place
            marker = _MARKERS[(place if group is contents.networks else -1 - place) % len(_MARKERS)]
            found[name] = Look(names[name], colours[place % len(colours)], _DASHES[dash % len(_DASHES)], marker)
    return {name: found[name] for name in contents.models}


# --------------------------------------------------------------------------------------------------------------------
# Intervals


def _forests(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
    for metric in contents.ranking:
        rows = [(look.label, look, contents.measured(name, metric)) for name, look in looks.items()]
        known = [(label, look, found) for label, look, found in rows if found and not math.isnan(found.value)]
        if known:
            figure = _forest(known, title(metric), 0.5 if metric == "auroc" else None)
            told = "; ".join(f"{label}: {metric_cell(found)}" for label, _, found in known)
            caption = f"{title(metric)} with {contents.level} intervals."
            yield finished(figure, f"forest-{metric}".replace("_", "-"), caption, told)


def _differences(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
    neutral = Look("", "muted", "-", "o")
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
    rows: Sequence[tuple[str, Look, Interval]], label: str, reference: float | None, signed: bool = False
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
# Calibration, subjects, cost


def _reliability(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
    found = {}
    for name, model in contents.models.items():
        stages = mapping(model.get("calibration"))
        bins = {stage: _bins(stages.get(stage)) for stage in ("before", "after")}
        if any(bins.values()):
            found[name] = bins
    if not found:
        return
    figure, panels = grid(list(found), ("Promised probability", "Observed share"))
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


def _subjects(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
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


def _costs(contents: Contents, looks: dict[str, Look]) -> Iterator[Plot]:
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
    legend(figure, [looks[name] for name in [*known, *without]])
    lines = f" Dashed lines: {listed([looks[name].label for name in without])}." if without else ""
    caption = f"{title(metric)} with its {contents.level} interval against cost.{lines}"
    told = "; ".join(f"{text(name)}: {found.value:.4g}, {metric_cell(values[name])}" for name, found in known.items())
    yield finished(figure, "cost", caption, told)


def _tick(value: float) -> str:
    return str(scaled(value)) if value >= 1e5 else f"{value:,.10g}"
