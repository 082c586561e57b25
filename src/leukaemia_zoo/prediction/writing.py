"""Predictions as the rows of a CSV file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import writing


@contextlib.contextmanager
def writing_csv(path: Path | None, class_names: tuple[str, ...]) -> Iterator[Any]:
    """Give a function that writes the record of one prediction; with no path one that does nothing."""
    if path is None:
        yield lambda record: None
        return
    columns = ["path", "subject", "label", *(f"p_{name}" for name in class_names)]
    columns += ["verdict", "ood_score", "unfamiliar", "error"]
    with writing(path) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        yield lambda record: writer.writerow({key: rounded(value) for key, value in record.items()})


def rounded(value: Any) -> Any:
    """A number as files have it, with six digits after the point; anything else as it is."""
    return round(value, 6) if isinstance(value, float) else value
