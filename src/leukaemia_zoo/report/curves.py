"""The curves of a training as a table and as a picture, from its record."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import replacing
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.errors import PlotsMissingError
from leukaemia_zoo.report.drawing import LIGHT, drawing, figure_of

TABLE, PICTURE = "curves.csv", "curves.svg"
COLUMNS = ("stage", "epoch", "inverse_penalty", "metric", "value")

_COLOURS = ("m0", "m1", "m2", "m3", "m4", "m5")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_PANEL, _LEGEND_ROW = 2.0, 0.2
"""Inches of one panel's height with its axis, and of each row of its legend, which holds two labels."""

Row = tuple[str, int | None, float | None, str, float]


def curve_rows(record: Mapping[str, Any]) -> list[Row]:
    """The curves of a training, tidy: one row a value.

    Args:
        record: What ``training.json`` holds.

    Returns:
        Tuples (stage, epoch, inverse penalty, metric, value), in the order of the training. The stage is
        ``"distillation"`` (the metrics are the pairs of layers, the values the shares of the teacher's features that
        the network does not explain), ``"classifier"`` (no epoch, but the inverse penalty C) or ``"fine-tuning"``.

    Example:
        >>> curve_rows({"curves": [{"stage": "fine-tuning", "epoch": 1, "loss": 0.5, "auroc": 0.9}]})
        [('fine-tuning', 1, None, 'loss', 0.5), ('fine-tuning', 1, None, 'auroc', 0.9)]
    """
    history = (record.get("distillation") or {}).get("history") or []
    rows: list[Row] = [
        ("distillation", epoch, None, pair, value)
        for epoch, losses in enumerate(history, start=1)
        for pair, value in losses.items()
    ]
    for point in record.get("curves") or []:
        place = (point.get("epoch"), point.get("inverse_penalty"))
        rows += [
            (point["stage"], *place, metric, value)
            for metric, value in point.items()
            if metric not in ("stage", "epoch", "inverse_penalty") and value is not None
        ]
    return rows


def write_curves(folder: Path, record: Mapping[str, Any], log: Log = silent) -> None:
    """Write ``curves.csv`` and ``curves.svg`` beside a record; the log is told if Matplotlib is missing."""
    rows = curve_rows(record)
    if not rows:
        return
    with replacing(folder / TABLE) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
    try:
        with drawing():
            figure = _figure(rows)
            with replacing(folder / PICTURE) as beside:
                about = {"Title": "Curves of a training", "Date": None, "Creator": None}
                figure.savefig(beside, format="svg", facecolor=LIGHT["page"], metadata=about)
    except PlotsMissingError as error:
        log(f"{PICTURE} was not drawn: {error}")


def _figure(rows: list[Row]) -> Any:
    panels = list(_panels(rows))
    heights = [_PANEL + (_LEGEND_ROW * math.ceil(len(curves) / 2) if len(curves) > 1 else 0) for _, _, curves in panels]
    figure = figure_of(sum(heights))
    figure.set_layout_engine("constrained", hspace=0.06)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, across, curves) in zip(axes, panels, strict=True):
        for number, (label, points) in enumerate(curves.items()):
            style = {"color": LIGHT[_COLOURS[number % len(_COLOURS)]], "ls": _DASHES[number // len(_COLOURS) % 3]}
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1.3, label=label, **style)
        axis.set_title(title, loc="left", size=9.5)
        axis.set_xlabel(across)
        places = sorted({place for points in curves.values() for place, _ in points})
        if across == "epoch":
            from matplotlib.ticker import MaxNLocator

            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        else:
            axis.set_xscale("log")
            axis.set_xticks(places, [f"{place:g}" for place in places])
            axis.minorticks_off()
        axis.grid(axis="y")
        if len(curves) > 1:
            # Below the axis, where no curve can run through it.
            axis.legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncols=2, borderaxespad=0)
    return figure


def _panels(rows: list[Row]) -> Iterator[tuple[str, str, dict[str, list[tuple[float, float]]]]]:
    """Title, what the horizontal axis is, and the points of each curve by its label."""
    distilled = _by_metric(rows, "distillation")
    if distilled:
        yield "Distillation: share of the teacher's features not explained", "epoch", distilled
    fitted = _by_metric(rows, "classifier")
    if fitted:
        yield "Classifier: validation log loss", "C, the inverse penalty", {"log loss": fitted["log_loss"]}
    tuned = _by_metric(rows, "fine-tuning")
    if tuned:
        curves = {"training loss": tuned["loss"]}
        if "log_loss" in tuned:  # where all subjects teach, none validates
            curves["validation log loss"] = tuned["log_loss"]
        yield "Fine-tuning: losses, in training against smoothed labels", "epoch", curves


def _by_metric(rows: list[Row], stage: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for own, epoch, penalty, metric, value in rows:
        if own == stage:
            place = epoch if epoch is not None else penalty
            assert place is not None
            found.setdefault(metric, []).append((float(place), value))
    return {metric: sorted(points) for metric, points in found.items()}
