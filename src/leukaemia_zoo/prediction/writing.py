"""Predictions as the rows of a CSV file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import writing


@contextlib.contextmanager
def writing_csv(path: Path | None, class_names: tuple[str, ...]) -> Iterator[Any]:
    """Give a function that writes the record of one prediction; with no path one that does nothing."""
    if path is None:
        yield lambda record: None
        return
    with writing(path) as file:
        writer = csv.DictWriter(file, ["path", *verdict_columns(class_names)])
        writer.writeheader()
        yield lambda record: writer.writerow({key: rounded(value) for key, value in record.items()})


def verdict_columns(class_names: Sequence[str]) -> tuple[str, ...]:
    """Names of what is told of a cell beside its path: keys of `Prediction.to_dict`."""
    return (
        "subject",
        "label",
        *(f"p_{name}" for name in class_names),
        *("verdict", "ood_score", "unfamiliar", "error"),
    )


def rounded(value: Any) -> Any:
    """A number as files have it, with six digits after the point; anything else as it is."""
    return round(value, 6) if isinstance(value, float) else value
