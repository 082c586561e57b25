"""Cells as GeoJSON (RFC 7946), as QuPath 0.4 and later opens it: File, Import objects from file.

One cell a line, so that a file with the cells of a whole slide is written and read again with the memory of one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from leukaemia_zoo.examination.field import ExaminedCell

_HEAD, _TAIL = '{"type": "FeatureCollection", "features": [\n', "\n],\n"

_OWN = "leukaemia_zoo"
"""Under this key a cell, among its properties, and the collection carry their rows of the tables for us."""


class CellsWriter:
    """Write cells to an open text file, one after the other.

    Args:
        file: Open for writing.
        field: Name of the field; with the number of a cell it makes the id, so that cells keep their ids.
        colours: Of each answer.
    """

    def __init__(self, file: TextIO, field: str, colours: Mapping[str, tuple[int, int, int]]) -> None:
        self._file, self._field, self._colours = file, field, colours
        self._before = _HEAD

    def write(self, examined: ExaminedCell, **further: Any) -> None:
        """Add a cell; what else its row of the table holds is given by name."""
        feature = _feature(examined, self._field, self._colours[examined.answer])
        feature["properties"][_OWN] = examined.to_dict() | further
        self._file.write(self._before + json.dumps(feature, ensure_ascii=False, allow_nan=False))
        self._before = ",\n"

    def close(self, **about: Any) -> None:
        """Finish the collection with the row of the field; the file stays open."""
        row = json.dumps({_OWN: about}, ensure_ascii=False, allow_nan=False)
        self._file.write((_HEAD if self._before == _HEAD else "") + _TAIL + row[1:] + "\n")


def cell_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the table that the cells of a file carry; the file must be one of `CellsWriter`."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith('{"type": "Feature",'):
                yield json.loads(line.rstrip().rstrip(","))["properties"][_OWN]


def field_row(path: Path) -> dict[str, Any]:
    """The row of the field that such a file carries in its last line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(f'"{_OWN}"'):
                return dict(json.loads("{" + line)[_OWN])
    raise ValueError(f"{path} was not written by this package")


def _feature(examined: ExaminedCell, field: str, colour: tuple[int, int, int]) -> dict[str, Any]:
    ring = examined.outline
    # The right-hand rule of RFC 7946: the area to the left of the way round.
    x, y = ring.T
    if np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) < 0:
        ring = ring[::-1]
    said = examined.prediction
    measured: dict[str, float | None] = {
        f"Probability of {name}": p for name, p in zip(said.class_names, said.probabilities or (), strict=False)
    }
    measured |= {
        "OOD score": said.ood_score,
        "Area um^2": examined.cell.area,
        "Cut by the border": float(examined.cell.touches_border),
        "Micrometres per pixel": examined.cell.micrometres_per_pixel,
    }
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"leukaemia-zoo:{field}:{examined.number}")),
        "geometry": {"type": "Polygon", "coordinates": [ring.round(2).tolist()]},
        "properties": {
            "objectType": "detection",
            "name": f"{examined.number} {examined.answer}",
            "classification": {"name": examined.answer, "color": list(colour)},
            "measurements": {name: round(value, 6) for name, value in measured.items() if value is not None},
        },
    }
