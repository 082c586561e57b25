"""One field of a smear: its white cells, and what a network says of each."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from leukaemia_zoo.cells.arrays import as_image
from leukaemia_zoo.common.limits import UNCERTAIN
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.examination.outlines import outline
from leukaemia_zoo.prediction.results import Prediction
from leukaemia_zoo.prediction.verdicts import iter_predictions
from leukaemia_zoo.prediction.writing import verdict_columns
from leukaemia_zoo.smears.fields import ExtractedCell, estimate_scale, extract_cells
from leukaemia_zoo.smears.nuclei import FloatArray

if TYPE_CHECKING:
    import keras

CUT, UNFAMILIAR = "cut", "unfamiliar"
"""What stands for a class where a cell is cut by the border, or does not look like the training cells."""

_OF_A_FILE = ("path", "subject", "error")
"""What is told of an image file, and not of a cell of a field."""

_BATCH = 32

_CLASS_COLOURS = ((0, 114, 178), (200, 30, 60), (0, 158, 115), (204, 121, 167), (86, 180, 233), (122, 15, 38))
_OTHER_COLOURS = {UNCERTAIN: (230, 159, 0), UNFAMILIAR: (95, 95, 95), CUT: (150, 150, 150)}


@dataclasses.dataclass(frozen=True, eq=False)
class ExaminedCell:
    """A white cell of a field, and what a network says of it.

    Attributes:
        number: Of the cell in its field, from 1 on.
        cell: Its frame, box, mask and area.
        prediction: What the network says.
        answer: What is left of that: ``"cut"`` where the border cuts the cell, so that its size says nothing;
            ``"unfamiliar"`` where its score is above the limit of the model; ``"uncertain"`` where two or more
            classes are left; else the class.
    """

    number: int
    cell: ExtractedCell
    prediction: Prediction
    answer: str

    @property
    def outline(self) -> FloatArray:
        """The closed outline, float64 (points, 2), x and y in pixels of the field."""
        return outline(self.cell)

    def to_dict(self) -> dict[str, Any]:
        """Flat dict: cell, answer, label, ``p_<class>`` a class, verdict, ood_score, unfamiliar, and where it lies."""
        said = self.prediction.to_dict()
        left, top, right, bottom = self.cell.box
        return {
            "cell": self.number,
            "answer": self.answer,
            **{key: value for key, value in said.items() if key not in _OF_A_FILE},
            "left": left,
            "top": top,
            "right": right,
            "bottom": bottom,
            "area_um2": round(self.cell.area, 3),
            "touches_border": self.cell.touches_border,
            "micrometres_per_pixel": round(self.cell.micrometres_per_pixel, 6),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ExaminedField:
    """The white cells of a field.

    Attributes:
        cells: From top to bottom, then from left to right.
        micrometres_per_pixel: The scale that was given or estimated.
        scale_was_given: Which of the two.
    """

    cells: tuple[ExaminedCell, ...]
    micrometres_per_pixel: float
    scale_was_given: bool


def examine_field(
    field: npt.ArrayLike,
    model: keras.Model | Network | str | os.PathLike[str] = "cnn_attention",
    *,
    micrometres_per_pixel: float | None = None,
    stain: str | None = None,
    miss_rate: float | None = None,
) -> ExaminedField:
    """Find the white cells of a field and say what a network calls each.

    Args:
        field: What `as_image` takes: shape (height, width, 3), RGB, 0 to 255, stained cells on a bright background.
        model: What `predict` takes.
        micrometres_per_pixel: The scale of the field; None estimates it from the red cells in it, see `estimate_scale`.
        stain: As `extract_cells` takes it.
        miss_rate: As `predict` takes it.

    Returns:
        The cells with their verdicts; none where the field has no white cell.

    Raises:
        ImageError: The array is no field, or its scale cannot be estimated.
        CytologyMissingError: A package of the extra `cytology` is not installed.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:300, :400]
        >>> field = np.full((300, 400, 3), (235, 225, 225), np.uint8)
        >>> field[np.hypot(x - 200, y - 150) < 55] = (190, 160, 205)  # cytoplasm
        >>> field[np.hypot(x - 200, y - 150) < 40] = (80, 40, 120)  # nucleus
        >>> field[np.hypot(x - 60, y - 60) < 36] = (225, 170, 165)  # red cell
        >>> (cell,) = examine_field(field, micrometres_per_pixel=0.1).cells
        >>> cell.answer, cell.cell.box[:2]
        ('unfamiliar', (145, 95))
    """
    pixels = as_image(field, name="field")
    given = micrometres_per_pixel is not None
    scale = estimate_scale(pixels) if micrometres_per_pixel is None else micrometres_per_pixel
    cells = extract_cells(pixels, micrometres_per_pixel=scale, stain=stain)
    return ExaminedField(tuple(examined(cells, resolve(model), miss_rate)), float(scale), given)


def examined(
    cells: Iterable[ExtractedCell], model: keras.Model | Network, miss_rate: float | None = None
) -> Iterator[ExaminedCell]:
    """What a network says of cells, one after the other, with the memory of some; numbered from 1 on."""
    numbered = enumerate(cells, start=1)
    while some := list(itertools.islice(numbered, _BATCH)):
        said = iter_predictions(model, [cell.image for _, cell in some], miss_rate=miss_rate, raise_errors=True)
        for (number, cell), prediction in zip(some, said, strict=True):
            yield ExaminedCell(number, cell, prediction, _answer(cell, prediction))


def cell_columns(class_names: tuple[str, ...]) -> list[str]:
    """The columns of a table of cells: the keys of `ExaminedCell.to_dict`, whether or not there is a cell."""
    said = [name for name in verdict_columns(class_names) if name not in _OF_A_FILE]
    shape = ["left", "top", "right", "bottom", "area_um2", "touches_border", "micrometres_per_pixel"]
    return ["cell", "answer", *said, *shape]


def _answer(cell: ExtractedCell, prediction: Prediction) -> str:
    if cell.touches_border:
        return CUT
    if prediction.unfamiliar:
        return UNFAMILIAR
    return str(UNCERTAIN if prediction.verdict == UNCERTAIN else prediction.label)


def colours_of(class_names: tuple[str, ...]) -> Mapping[str, tuple[int, int, int]]:
    """The colour of each answer, RGB from 0 to 255; the answers in their order: classes first."""
    named = {name: _CLASS_COLOURS[number % len(_CLASS_COLOURS)] for number, name in enumerate(class_names)}
    return named | {name: colour for name, colour in _OTHER_COLOURS.items() if name not in named}
