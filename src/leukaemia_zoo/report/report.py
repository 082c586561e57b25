"""The report of a benchmark: plain data that can be kept, read, compared and shown to a reviewer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukaemia_zoo.common.files import plain, replacing
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.errors import DataError, PandasMissingError
from leukaemia_zoo.report.contents import (
    SCHEMA,
    Contents,
    count,
    in_order,
    intervals,
    mapping,
    number,
    text,
    title,
)

if TYPE_CHECKING:
    import pandas


FILES = ("report.json", "report.csv", "report.md", "report.html")
"""What `Report.save` writes."""


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What a benchmark found.

    `str(report)` is a table for the terminal. The page that `save` writes asks nobody to take a number on trust: every
    value stands with its interval and what was resampled, beside trivial baselines, paired differences, the subjects it
    fails on, what could not be checked, and the settings, hashes and versions it was made with.

    Attributes:
        data: Plain data as in `report.json`, with the keys `schema`, `leukaemia_zoo`, `data`, `settings`,
            `environment`, `models`, `differences` and `timing`. Only `schema` must be there: whatever else is missing
            or None is left out of tables and plots. It is copied; numbers that are not finite become None.

    Raises:
        DataError: The data is not a dict of this layout, or holds what JSON cannot.

    Example:
        >>> metrics = {"auroc": {"value": 0.9, "low": 0.84, "high": 0.94}}
        >>> report = Report({"schema": 1, "models": {"cnn.cnmc": {"kind": "zoo", "metrics": metrics}}})
        >>> print(report.table().splitlines()[-3])
        cnn.cnmc  0.900 (0.840 to 0.940)
    """

    data: dict[str, Any]

    def __post_init__(self) -> None:
        schema = self.data.get("schema") if isinstance(self.data, dict) else None
        if schema != SCHEMA or isinstance(schema, bool):
            raise DataError(
                f"This is not a benchmark report of layout {SCHEMA} (its 'schema' is {schema!r}): read it with the "
                "version of leukaemia-zoo that wrote it."
            )
        try:
            object.__setattr__(self, "data", plain(self.data))
        except (TypeError, RecursionError) as error:
            raise DataError(
                f"The report holds what JSON cannot ({error}): give numbers, text, lists and dicts."
            ) from error

    def __repr__(self) -> str:
        about = mapping(self.data.get("data"))
        cells, subjects = count(about.get("cells"), "cell"), count(about.get("subjects"), "subject")
        return f"<Report: {count(len(mapping(self.data.get('models'))), 'model')}, {cells} of {subjects}>"

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Return the main metrics with their intervals, the paired differences and the cost as text.

        Lines are at most 110 columns wide; columns that do not fit follow below.
        """
        from leukaemia_zoo.report.text import as_text

        return as_text(Contents(self.data))

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the plain data, as JSON can hold it."""
        return copy.deepcopy(self.data)

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row a model and metric, with the columns `model`, `kind`, `metric`, `value`, `low` and `high`.

        Numbers that are not defined are NaN.

        Raises:
            PandasMissingError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise PandasMissingError("Data frames need pandas: run `pip install pandas`.") from error
        rows = [
            (name, model.get("kind"), metric, found.value, found.low, found.high)
            for name, model in Contents(self.data).models.items()
            for metric, found in intervals(model.get("metrics")).items()
        ]
        frame = pandas.DataFrame(rows, columns=["model", "kind", "metric", "value", "low", "high"])
        return frame.astype(dict.fromkeys(("value", "low", "high"), "float64"))

    def save(self, folder: str | Path) -> Path:
        """Write `report.json`, `report.csv`, `report.md` and `report.html`, all or none.

        The page holds all it shows and asks no server for anything. Without Matplotlib it has no plots, and says so.
        The same report gives the same bytes with the same version of Matplotlib.

        Args:
            folder: Where to write; it is made where it is missing. Older files of these names are replaced.

        Returns:
            The folder.

        Raises:
            DataError: The folder cannot be written to.
        """
        from leukaemia_zoo.report.page import as_html
        from leukaemia_zoo.report.text import as_csv, as_markdown

        folder, contents = Path(folder), Contents(self.data)
        data = json.dumps(self.data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
        fingerprint = hashlib.sha256(data.encode()).hexdigest()
        written = (data, as_csv(contents), as_markdown(contents, fingerprint), as_html(contents, fingerprint))
        try:
            _write_all({folder / name: content for name, content in zip(FILES, written, strict=True)})
        except OSError as error:
            raise DataError(
                f"The report cannot be written to {folder} ({error.strerror or error}): give a folder that can be "
                "written to."
            ) from error
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a report back.

        Args:
            path: A `report.json`, or the folder that holds one.

        Raises:
            DataError: There is no such file, or it is not a report of this layout.
        """
        path = Path(path)
        path = path / FILES[0] if path.is_dir() else path
        try:
            return cls(read_json(path))
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}): give a report.json.") from error
        except ValueError as error:
            if isinstance(error, DataError):
                raise DataError(f"{path}: {error}") from error
            raise DataError(f"{path} is not JSON: give the report.json that a benchmark wrote.") from error

    def compare(self, other: Report) -> Comparison:
        """Say what changed from another report to this one.

        Args:
            other: The earlier report.

        Returns:
            A `Comparison`; `print` shows it.
        """
        ours, theirs = Contents(self.data), Contents(other.data)
        shared = [name for name in ours.models if name in theirs.models]
        changes = {}
        for name in shared:
            now, before = (intervals(one.models[name].get("metrics")) for one in (ours, theirs))
            changes[name] = {
                metric: (before[metric].value, now[metric].value)
                for metric, _ in in_order(dict.fromkeys([*now, *before]))
                if metric in now and metric in before
            }
        hashes = [one.about.get("manifest_sha256") for one in (ours, theirs)]
        return Comparison(
            same_data=hashes[0] == hashes[1] if all(hashes) else None,
            only_here=tuple(name for name in ours.models if name not in theirs.models),
            only_there=tuple(name for name in theirs.models if name not in ours.models),
            changes=changes,
            settings=_different(theirs.settings, ours.settings),
            environment=_different(*(mapping(one.data.get("environment")) for one in (theirs, ours))),
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What changed between two reports.

    Attributes:
        same_data: Whether both judged the same cells, by the hash of their manifest; None where one has no hash.
        only_here: Models of the newer report alone.
        only_there: Models of the earlier report alone.
        changes: Of each model in both and each metric in both, the earlier value and the newer one; NaN where a metric
            is not defined.
        settings: What differs in the settings, by name: the earlier value and the newer one.
        environment: Likewise of the environment.
    """

    same_data: bool | None
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    changes: dict[str, dict[str, tuple[float, float]]]
    settings: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as data that JSON can hold."""
        return plain(dataclasses.asdict(self))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.same_data is None:
            yield "Whether both reports are of the same cells is not known: one has no hash of its manifest."
        elif self.same_data:
            yield "Both reports are of the same cells."
        else:
            yield "The reports are of different cells: a change below may come from the cells and not from the model."
        for names, which in ((self.only_here, "this report"), (self.only_there, "the other report")):
            if names:
                yield f"Only in {which}: {', '.join(map(text, names))}."
        if not self.changes:
            yield "No model is in both reports."
        for name, metrics in self.changes.items():
            yield f"\n{text(name)}"
            wide = max((len(title(metric)) for metric in metrics), default=0)
            for metric, (before, now) in metrics.items():
                yield f"  {title(metric):<{wide}}  {_value(before)} -> {_value(now)}  {_change(before, now)}"
        for block, found in (("Settings", self.settings), ("Environment", self.environment)):
            yield f"\n{block}: {'what differs' if found else 'no difference'}"
            for key, (old, new) in found.items():
                yield f"  {text(key)}: {_said(old)} -> {_said(new)}"
        if self.changes:
            yield "\nA change has no interval here: benchmark both models in one run for paired differences."


def _different(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*before, *now])
    return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}


def _value(found: float) -> str:
    return "not defined" if math.isnan(found) else f"{found:.3f}"


def _change(before: float, now: float) -> str:
    change = number(now - before)
    return "" if math.isnan(change) else f"({change:+.3f})" if change else "(same)"


def _said(value: Any) -> str:
    return "not said" if value is None else text(value)


def _write_all(files: dict[Path, str]) -> None:
    """Write every file beside its place and then rename them all."""
    for path in files:
        if path.is_dir():  # the one thing that lets a file be written and its renaming fail
            raise IsADirectoryError(None, f"{path.name} is a folder")
    with contextlib.ExitStack() as renaming:
        for path, content in files.items():
            beside = renaming.enter_context(replacing(path))
            beside.write_text(content, encoding="utf-8", newline="\n")
