"""What the page shows of a field that was dropped onto it; nothing here is Gradio."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leukaemia_zoo.cells.arrays import lies_on_black
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.common.files import writing
from leukaemia_zoo.common.limits import UNCERTAIN
from leukaemia_zoo.desk.judging import table
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import ImageError
from leukaemia_zoo.examination.field import CUT, UNFAMILIAR, ExaminedField, cell_columns, colours_of, examine_field
from leukaemia_zoo.examination.picture import FieldPicture
from leukaemia_zoo.prediction.writing import rounded

_MEANING = {
    UNCERTAIN: "for a human to judge",
    UNFAMILIAR: "unlike the cells that this weight was trained on; do not rely on what is said of them",
    CUT: "by the border, so that the size says nothing",
}


@dataclasses.dataclass(frozen=True)
class ShownField:
    """What is to be seen.

    Attributes:
        picture: The field with coloured outlines and verdicts, PNG.
        cells: Columns and rows of the table of its white cells; none where it has none.
        told: Sentences for above the table.
        csv: The same table as a file, with the columns of ``cells.csv`` that say nothing of other files.
    """

    picture: Path
    cells: tuple[list[str], list[list[Any]]]
    told: list[str]
    csv: Path


def examine(
    network: Network,
    file: str,
    folder: Path,
    *,
    micrometres_per_pixel: float | None = None,
    miss_rate: float | None = None,
) -> ShownField:
    """Find the white cells of a field, judge them, leave ``field.png`` and ``cells.csv``, and say what came out."""
    pixels = read_image(file)
    # Before the scale is looked for, of which a single cell tells nothing.
    if lies_on_black(pixels):
        raise ImageError(
            f"{Path(file).name} is black around its edge, like a cell cut out: drop it among single cells."
        )
    found = examine_field(pixels, network, micrometres_per_pixel=micrometres_per_pixel, miss_rate=miss_rate)

    colours = colours_of(network.zoo.class_names)
    picture, written = folder / "field.png", folder / "cells.csv"
    drawing = FieldPicture(pixels, pixels.shape[1], colours)
    with writing(written) as stream:
        writer = csv.DictWriter(stream, cell_columns(network.zoo.class_names))
        writer.writeheader()
        for cell in found.cells:
            drawing.draw(cell)
            writer.writerow({key: rounded(value) for key, value in cell.to_dict().items()})
    drawing.save(picture)
    return ShownField(
        picture, table(cell.to_dict() for cell in found.cells), _sentences(found, drawing.counts), written
    )


def _sentences(found: ExaminedField, drawn: Mapping[str, int]) -> list[str]:
    counts = {answer: count for answer, count in drawn.items() if count}
    listed = ", ".join(f"{count} {answer}" for answer, count in counts.items())
    told = [f"White cells found: {len(found.cells)} ({listed})." if counts else "No white cell was found."]
    told += [f"{answer.capitalize()}: {_MEANING[answer]}." for answer in counts if answer in _MEANING]
    scale = f"{found.micrometres_per_pixel:.4g} micrometres per pixel, "
    if found.scale_was_given:
        return [*told, scale + "as given."]
    return [*told, scale + "estimated from the red cells of this field: give the scale if you know it."]
