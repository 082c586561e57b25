"""Write the measured figures of the pretrained weights into README.md, so that no figure is typed by hand.

    python tools/render_figures.py            # write
    python tools/render_figures.py --check    # only tell whether README.md is up to date (exit status 1 if not)

The figures are those of `src/leukaemia_zoo/weights.json`; the documentation site renders its tables with the same code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leukaemia_zoo.registry import WeightSpec, weights

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"

MAIN_METRICS = {
    "auroc": "AUROC",
    "weighted_f1": "Weighted F1",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity (`all` called `all`)",
    "specificity": "Specificity (`hem` called `hem`)",
}
"""What README.md shows, in this order."""

ALL_METRICS = {
    **MAIN_METRICS,
    "auprc": "AUPRC",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "mcc": "Matthews' correlation",
    "ece": "Expected calibration error",
    "brier": "Brier score",
    "log_loss": "Log loss",
}
"""What the documentation shows where it was measured."""

NOTHING_YET = "*No pretrained weight is in this version yet, so there are no figures to show.*"

Values = Mapping[str, Mapping[str, Any]]


def figures(specs: Iterable[WeightSpec]) -> str:
    """Return the block of README.md: cross-validation of every weight beside cell area alone."""
    measured = [spec for spec in specs if "cross_validation" in spec.metrics]
    if not measured:
        return NOTHING_YET
    columns = {f"`{spec.name}`": spec.metrics["cross_validation"]["values"] for spec in measured}
    columns |= _baselines(measured)
    sources: dict[str, list[str]] = {}
    for spec in measured:
        sources.setdefault(spec.metrics["cross_validation"]["on"], []).append(f"`{spec.name}`")
    notes = [f"{' and '.join(names)}: {_sentence(on)}" for on, names in sources.items()]
    return "\n".join([table(columns, MAIN_METRICS), "", *notes])


def table(columns: Mapping[str, Values], titles: Mapping[str, str] = ALL_METRICS) -> str:
    """Return a Markdown table with a row for each metric that some column has, values with their intervals."""
    rows = [
        f"| {title} | " + " | ".join(interval(values.get(name)) for values in columns.values()) + " |"
        for name, title in titles.items()
        if any(name in values for values in columns.values())
    ]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *rows])


def interval(found: Mapping[str, Any] | None) -> str:
    """Return a value with its bounds, or as much of it as is known."""
    if not found or found.get("value") is None:
        return "not known"
    if found.get("low") is None or found.get("high") is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _baselines(specs: list[WeightSpec]) -> dict[str, Values]:
    """One column where all weights were measured on the same folds, else one a weight."""
    found = {
        spec.name: spec.metrics["cross_validation_area_baseline"]["values"]
        for spec in specs
        if "cross_validation_area_baseline" in spec.metrics
    }
    distinct = {tuple(interval(values.get(name)) for name in MAIN_METRICS) for values in found.values()}
    if len(distinct) == 1:
        return {"Cell area alone": next(iter(found.values()))}
    return {f"Cell area alone, folds of `{name}`": values for name, values in found.items()}


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def with_block(text: str, block: str) -> str:
    """Return the text with another block between the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"The text lacks the marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> int:
    """Write or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    expected = with_block(text, figures(weights().values()))
    if check:
        print("README.md is up to date." if text == expected else "README.md is old: run tools/render_figures.py.")
        return int(text != expected)
    README.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
