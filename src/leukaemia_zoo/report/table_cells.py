"""What stands in the tables of a benchmark report: numbers with their intervals, models, amounts, glossary."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from leukaemia_zoo.evaluation.intervals import Interval
from leukaemia_zoo.report.contents import fixed, interval, number, text

# Characters of a text that may stand in a table; the record of a training takes thousands.
_BRIEF = 240


NOT_DEFINED, NOT_MEASURED = "not defined", "not measured"


GLOSSARY = {
    "auroc": "How well the model ranks cells: the chance that a cell of the last class gets a higher probability than "
    "a cell of the first. 0.5 is guessing, 1 is perfect; with more classes, the mean of each against the rest.",
    "weighted_f1": "F1 of each class weighted by its cells, the ranking number of the C-NMC 2019 challenge.",
    "macro_f1": "F1 averaged over the classes, each counted alike.",
    "balanced_accuracy": "Accuracy averaged over the classes: guessing one class always gives 1 / number of classes.",
    "sensitivity": "Share of the cells of the last class that are called so.",
    "specificity": "Share of the cells of the first class that are called so.",
    "accuracy": "Share of all cells that are called right. It depends on how many cells each class has.",
    "log_loss": "Mean negative natural logarithm of the probability of the true class; lower is better.",
    "auprc": "Average precision of the last class; guessing gives the share of that class.",
    "mcc": "Matthews' correlation of truth and call, from -1 to 1; 0 is guessing.",
    "ece": "Mean distance between promised probability and observed share, in 15 bins; lower is better, and never "
    "quite 0 on a finite number of cells.",
    "brier": "Mean squared error of the probability; lower is better.",
    "slope": "Calibration slope: 1 is calibrated, below 1 the probabilities are too extreme.",
    "intercept": "Calibration intercept, fitted with the slope: 0 is calibrated, above 0 the last class is more "
    "frequent than promised.",
}
"""What the metrics are, for readers of another trade; the definitions are those of `metrics.metrics`."""


@dataclass(frozen=True)
class Number:
    """A number in a table, as text, with the bounds it lies between and a mark, if any.

    Example:
        >>> print(Number("0.876", "0.831 to 0.912"))
        0.876 (0.831 to 0.912)
    """

    value: str
    between: str = ""
    mark: str = ""

    def __str__(self) -> str:
        return self.value + (f" ({self.between})" if self.between else "") + (f" {self.mark}" if self.mark else "")


@dataclass(frozen=True)
class Model:
    """A model in a table; its `key` leads renderers to its colour."""

    key: str
    is_baseline: bool

    def __str__(self) -> str:
        return text(self.key) + (" (baseline)" if self.is_baseline else "")


Cell = str | Number | Model


Rows = list[tuple[Cell, ...]]


@dataclass(frozen=True)
class Table:
    """A table before it has a format.

    Attributes:
        name: Short name, fit for an HTML id.
        title: What it shows.
        columns: Heads of the columns.
        rows: As many cells a row as there are columns.
        note: What a reader must know beside it, or nothing.
        heads: How many of the first columns say what a row is about.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    heads: int = 1


def metric_cell(found: Interval | None, signed: bool = False, mark: str = "") -> Number:
    """A metric with its interval; `signed` for differences.

    Example:
        >>> print(metric_cell(Interval(0.05, -0.01, 0.12), signed=True))
        +0.050 (-0.010 to +0.120)
    """
    if found is None:
        return Number(NOT_MEASURED)
    if math.isnan(found.value):
        return Number(NOT_DEFINED)
    value = fixed(found.value, signed)
    if math.isnan(found.low) or math.isnan(found.high):
        return Number(value, "no interval", mark)
    return Number(value, f"{fixed(found.low, signed)} to {fixed(found.high, signed)}", mark)


def temperatures_text(found: list[float]) -> str:
    """Each, or the range of many; none where nothing could be fitted."""
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return "none" if found else ""
    if len(known) < len(found) or len(found) < 3:
        return ", ".join("none" if math.isnan(value) else f"{value:.2f}" for value in found)
    return f"{min(known):.2f} to {max(known):.2f}"


def padded(cells: Iterable[Number], width: int) -> list[Number]:
    """So many cells, those that are missing as not measured."""
    return [*cells, *[Number(NOT_MEASURED)] * width][:width]


def plain_metric(found: Interval | None) -> Number:
    """A metric that may come without an interval, which then is not worth a word."""
    cell = metric_cell(found)
    return Number(cell.value) if cell.between == "no interval" else cell


def any_cell(value: Any) -> Cell:
    """Whatever stands in a flat block."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return Number(f"{value:,}")
    if isinstance(value, float):
        return Number(f"{value:.6g}")
    if isinstance(value, dict):
        found = interval(value)
        return (
            plain_metric(found) if found else "; ".join(f"{text(key)}: {any_cell(item)}" for key, item in value.items())
        )
    if isinstance(value, list):
        return ", ".join(str(any_cell(item)) for item in value)
    return text(value)


def brief(value: Any) -> Cell:
    """Whatever stands in a flat block, unless it would fill the page."""
    cell = any_cell(value)
    return cell if len(str(cell)) <= _BRIEF else "see report.json"


def count_cell(value: Any) -> Number:
    """A whole number with commas."""
    return Number("not known" if math.isnan(number(value)) else f"{number(value):,.0f}")


def divided(value: Any, by: float) -> float | None:
    """A number in a larger unit; None where there is none."""
    return None if math.isnan(number(value)) else number(value) / by


def amount(value: Any) -> Number:
    """A quantity with three digits, and between what it was measured."""
    found = value if isinstance(value, Interval) else interval(value)
    if found is None or math.isnan(found.value):
        return Number(NOT_MEASURED)
    known = not (math.isnan(found.low) or math.isnan(found.high))
    return Number(_digits(found.value), f"{_digits(found.low)} to {_digits(found.high)}" if known else "")


def _digits(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def scaled(value: Any) -> Number:
    """A large number with a word for its size.

    Example:
        >>> print(scaled(123456789))
        123 million
    """
    found = number(value)
    if math.isnan(found):
        return Number(NOT_MEASURED)
    for size, word in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if found >= size:
            return Number(_digits(found / size) + word)
    return Number(_digits(found))
