"""How the plain data of a benchmark report is read: a key that is missing or None is a gap in a table, never an error.

Names of files, models, classes and subjects in a report were written by others. `text` makes them harmless for a
terminal; each renderer escapes them for its own format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from leukaemia_zoo.common.reading import is_number
from leukaemia_zoo.common.text import printable
from leukaemia_zoo.evaluation.intervals import Interval

SCHEMA = 1
"""The layout of the data that this version reads and writes."""

_LARGEST = 1e100
"""What is larger was never measured, and its squares and sums overflow; whole numbers may be larger than any float."""

TITLES = {
    "auroc": "AUROC",
    "weighted_f1": "Weighted F1",
    "macro_f1": "Macro F1",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "log_loss": "Log loss",
    "auprc": "AUPRC",
    "mcc": "Matthews' correlation",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "slope": "Slope",
    "intercept": "Intercept",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "ppv": "PPV",
    "npv": "NPV",
}
"""How metrics are called in tables, in their order there; others follow under their own names."""

MAIN_METRICS = (
    "auroc",
    "weighted_f1",
    "macro_f1",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "accuracy",
    "log_loss",
)
"""The metrics of the first table. Accuracy and loss are among them, for they are all that older tables tell."""

LOWER_IS_BETTER = frozenset({"ece", "brier", "log_loss"})

_RANKING = ("auroc", "weighted_f1", "macro_f1", "balanced_accuracy", "accuracy")


# --------------------------------------------------------------------------------------------------------------------
# Values


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float:
    """The value if it is a number that can have been measured, else NaN."""
    return float(value) if is_number(value) and abs(value) <= _LARGEST else math.nan


def text(value: Any) -> str:
    """On one line, without control characters; nothing for None."""
    return "" if value is None else printable(str(value).strip())


def interval(value: Any) -> Interval | None:
    """Read `{"value" or "median", "low", "high"}` or a bare number; None where nothing was measured.

    Example:
        >>> interval({"value": 0.5, "low": None}), interval(None)
        (Interval(value=0.5, low=nan, high=nan), None)
    """
    if isinstance(value, Interval):
        return value
    if isinstance(value, dict) and ("value" in value or "median" in value):
        middle = value["value"] if "value" in value else value["median"]
        return Interval(number(middle), number(value.get("low")), number(value.get("high")))
    return None if math.isnan(number(value)) else Interval(number(value), math.nan, math.nan)


def intervals(values: Any) -> dict[str, Interval]:
    """Those values of a dict that are intervals or numbers; a None among them is a metric that is not defined."""
    found = {name: Interval(math.nan, math.nan, math.nan) if v is None else interval(v) for name, v in in_order(values)}
    return {name: value for name, value in found.items() if value is not None}


def in_order(values: Any) -> list[tuple[str, Any]]:
    """Items of a dict, those of `TITLES` first and in its order."""
    place = {name: index for index, name in enumerate(TITLES)}
    return sorted(mapping(values).items(), key=lambda item: place.get(item[0], len(place)))


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """A dict whose nested dicts, other than intervals, are taken apart, one level deep.

    Example:
        >>> flat({"all": {"right": 3}, "share": 0.5})
        {'all right': 3, 'share': 0.5}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and interval(value) is None
        found |= {f"{key} {name}": item for name, item in value.items()} if nested else {key: value}
    return found


def title(metric: str) -> str:
    """How a metric is called in a table."""
    return TITLES.get(metric) or text(metric)


def short(name: str, width: int, start: int | None = None) -> str:
    """A name with a part cut out where it is wider; `start` characters are kept before the cut, half if not given.

    Example:
        >>> short("cnn_attention.cnmc", 12)
        'cnn_at….cnmc'
    """
    if len(name) <= width:
        return name
    start = width // 2 if start is None else start
    return f"{name[:start]}…{name[len(name) - (width - 1 - start) :]}"


def short_names(names: Sequence[str], width: int) -> dict[str, str]:
    """Harmless names of at most `width` columns, no two of which are alike.

    Example:
        >>> short_names(["network_number_1.here", "network_number_2.here"], 16)
        {'network_number_1.here': 'network_…_1.here', 'network_number_2.here': 'network_…_2.here'}
    """
    # They are cut where that leaves them different.
    for start in (width // 2, 3 * width // 4, width - 1, width // 4, 0):
        found = {name: short(text(name), width, start) for name in names}
        if len(set(found.values())) == len(found):
            return found
    return {name: short(f"{place}: {text(name)}", width, width - 1) for place, name in enumerate(names, 1)}


def percent(share: float) -> str:
    """A share of 1 as per cent.

    Example:
        >>> percent(0.95), percent(0.975), percent(float("nan"))
        ('95 %', '97.5 %', 'not defined')
    """
    return "not defined" if math.isnan(share) else f"{round(100 * share, 1):g} %"


def quoted(name: Any) -> str:
    """A class in a sentence, where `all` and others would read as words.

    Example:
        >>> quoted("all")
        "'all'"
    """
    return f"'{text(name)}'"


def fixed(value: float, signed: bool = False) -> str:
    """Three decimals, and no sign on what rounds to 0.

    Example:
        >>> fixed(0.8761), fixed(0.05, signed=True), fixed(-0.0002, signed=True)
        ('0.876', '+0.050', '0.000')
    """
    found = f"{value:{'+' if signed else ''}.3f}"
    return "0.000" if float(found) == 0 else found


def count(value: Any, what: str) -> str:
    """A number of things in words, such as `1,200 cells`."""
    known = number(value)
    return f"an unknown number of {what}s" if math.isnan(known) else f"{known:,.0f} {what}{'' if known == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


# --------------------------------------------------------------------------------------------------------------------
# A whole report


class Contents:
    """The parts of a report that all renderers ask for.

    Attributes:
        data: The plain data.
        models: What was measured of each model, by name, in the order of the report.
        baselines: Names of the trivial baselines.
        networks: Names of all other models.
        about: The block `data`.
        settings: The block `settings`.
        classes: Names of the classes.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.models = {name: mapping(model) for name, model in mapping(data.get("models")).items()}
        self.baselines = [name for name, model in self.models.items() if model.get("kind") == "baseline"]
        self.networks = [name for name in self.models if name not in self.baselines]
        self.about = mapping(data.get("data"))
        self.settings = mapping(data.get("settings"))
        found = items(self.about.get("class_names")) or list(mapping(self.about.get("classes")))
        self.classes = [str(name) for name in found]

    @property
    def share(self) -> float:
        """The nominal coverage of the intervals; 0.95, the default of `intervals`, where it is not said."""
        found = number(self.settings.get("level"))
        return 0.95 if math.isnan(found) else found

    @property
    def level(self) -> str:
        """The nominal coverage in words, such as `95 %`."""
        return percent(self.share)

    @property
    def metrics(self) -> list[str]:
        """All metrics that some model was measured by, in the order of `TITLES`."""
        found = {name: None for model in self.models.values() for name in mapping(model.get("metrics"))}
        return [name for name, _ in in_order(found)]

    @property
    def ranking(self) -> list[str]:
        """At most two metrics that statements are made about: the ranking one, and one of the cells that are called."""
        known = [name for name in _RANKING if any(self.is_defined(model, name) for model in self.models)]
        return known[:2]

    def measured(self, model: str, metric: str) -> Interval | None:
        """One metric of one model; None where it was not measured."""
        return intervals(self.models[model].get("metrics")).get(metric)

    def is_defined(self, model: str, metric: str) -> bool:
        """Whether the metric has a value."""
        found = self.measured(model, metric)
        return found is not None and not math.isnan(found.value)

    @property
    def pairs(self) -> list[tuple[str, str, dict[str, Interval]]]:
        """The paired differences: a, b, and a - b of each metric."""
        rows = [mapping(row) for row in items(self.data.get("differences"))]
        return [(str(row.get("a")), str(row.get("b")), intervals(row.get("metrics"))) for row in rows]

    def difference(self, a: str, b: str, metric: str) -> Interval | None:
        """The paired difference a - b, also where the report holds b - a; None where there is none."""
        for first, second, values in self.pairs:
            if (first, second) == (a, b) and metric in values:
                return values[metric]
            if (first, second) == (b, a) and metric in values:
                found = values[metric]
                return Interval(-found.value, -found.high, -found.low)
        return None


def beyond(difference: Interval | None) -> bool:
    """Whether a difference has an interval that does not hold 0."""
    return difference is not None and (difference.low > 0 or difference.high < 0)


def worst_subject(model: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the subject with the fewest cells right; empty where none is known."""
    named = mapping(model.get("worst_subject"))
    rows = [mapping(row) for row in items(model.get("per_subject"))]
    known = [row for row in rows if not math.isnan(number(row.get("share_correct")))]
    return named or min(known, key=lambda row: number(row["share_correct"]), default={})


def throughput(cost: Mapping[str, Any]) -> Interval | None:
    """Cells a second, at the best batch where several were tried."""
    value = cost.get("throughput")
    found = [one for one in intervals(value).values() if not math.isnan(one.value)] if interval(value) is None else []
    return max(found, key=lambda one: one.value, default=interval(value))
