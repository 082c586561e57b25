"""What the page shows of the cells that were dropped onto it; nothing here is Gradio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import ArchitectureError, BackendError, DataError, ImageError
from leukaemia_zoo.prediction.results import CellTally, Prediction, SubjectTally
from leukaemia_zoo.prediction.verdicts import iter_predictions
from leukaemia_zoo.prediction.writing import writing_csv

MOST_PICTURES = 60
"""Cells that are shown; the tables and the CSV have them all."""

_SIDE = 192
"""Pixels of a picture on the page."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is to be seen.

    Attributes:
        pictures: Uint8 arrays (height, width, 3) with their captions; at most `MOST_PICTURES`.
        cells: Columns and rows of the table of cells.
        subjects: Columns and rows of the table of subjects; no rows where no subject is known.
        told: Sentences for above the tables.
        csv: The file with all columns, as ``leukaemia-zoo predict --csv`` writes it.
    """

    pictures: list[tuple[np.ndarray, str]]
    cells: tuple[list[str], list[list[Any]]]
    subjects: tuple[list[str], list[list[Any]]]
    told: list[str]
    csv: Path


def judge(
    network: Network,
    files: Sequence[str],
    csv: Path,
    *,
    model: str,
    method: str | None = None,
    miss_rate: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Shown:
    """Judge cells, write the CSV and say what came out; with a method of `explain`, its maps lie over the pictures."""
    if not files:
        raise DataError("There are no cells: drop image files of single cells.")
    names = [Path(file).name for file in files]
    tally = SubjectTally()
    predictions: list[Prediction] = []
    with writing_csv(csv, network.zoo.class_names) as write:
        for prediction in iter_predictions(network, files, names=names, miss_rate=miss_rate):
            write(prediction.to_dict())
            tally.add(prediction)
            predictions.append(prediction)
            if progress is not None:
                progress(len(predictions), len(files))
    told = _sentences(network, predictions)
    pictures = _pictures(network, files, predictions)
    if method is not None:
        try:
            pictures = _with_maps(model, method, files, pictures)
        except (ArchitectureError, BackendError) as error:
            told.append(str(error))
    subjects = table(each.to_dict() for each in tally.summaries())
    return Shown(pictures, table(map(_cell, predictions)), subjects, told, csv)


def caption(prediction: Prediction) -> str:
    """One line below a picture.

    Example:
        >>> caption(Prediction("a.png", None, "all", (0.1, 0.9), ("hem", "all"), verdict="uncertain", unfamiliar=True))
        'a.png: uncertain (all 0.900), unfamiliar'
    """
    if prediction.probabilities is None:
        return f"{prediction.path}: not read"
    likeliest = f"{prediction.label} {max(prediction.probabilities):.3f}"
    agreed = prediction.verdict in (None, prediction.label)
    return (
        f"{prediction.path}: "
        + (likeliest if agreed else f"{prediction.verdict} ({likeliest})")
        + (", unfamiliar" if prediction.unfamiliar else "")
    )


def _cell(prediction: Prediction) -> dict[str, Any]:
    record = prediction.to_dict()
    return {"cell": record.pop("path")} | record


def table(records: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows as they are read on a page: three digits, yes and no, nothing where nothing is known.

    Example:
        >>> table([{"cell": "a.png", "p_all": 0.12345, "unfamiliar": False, "error": None}])
        (['cell', 'p_all', 'unfamiliar', 'error'], [['a.png', 0.123, 'no', '']])
    """
    rows = list(records)
    return ([*rows[0]] if rows else []), [[_short(value) for value in row.values()] for row in rows]


def _short(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    return round(value, 3) if isinstance(value, float) else value


def _sentences(network: Network, predictions: Sequence[Prediction]) -> list[str]:
    tally = CellTally.of(network.zoo.class_names)
    for prediction in predictions:
        tally.add(prediction)
    counts = ", ".join(f"{count} {name}" for name, count in tally.counts.items())
    told = [f"{tally.judged} of {tally.cells} images judged: {counts}."]
    if network.zoo.verdict_limits is not None:
        told.append(f"{tally.uncertain} uncertain, for a human to judge.")
    if number := tally.unfamiliar:
        told.append(f"{number} unlike the cells that this weight was trained on: do not rely on what is said of them.")
    return told + [f"Not read: {prediction.error}" for prediction in predictions if prediction.error is not None]


def _pictures(
    network: Network, files: Sequence[str], predictions: Sequence[Prediction]
) -> list[tuple[np.ndarray, str]]:
    found = []
    for file, prediction in zip(files[:MOST_PICTURES], predictions, strict=False):
        try:
            picture = Image.fromarray(read_image(file))
        except ImageError:
            picture = Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
        picture.thumbnail((_SIDE, _SIDE))
        found.append((np.asarray(picture), caption(prediction)))
    return found


def _with_maps(
    model: str,
    method: str,
    files: Sequence[str],
    pictures: list[tuple[np.ndarray, str]],
) -> list[tuple[np.ndarray, str]]:
    """The pictures as the network sees the cells, with its maps over them; where there is no map, as they are."""
    try:
        from leukaemia_zoo.explanation.maps import iter_explanations
        from leukaemia_zoo.explanation.pictures import overlay
    except BackendError:
        raise
    except ImportError as error:
        raise ArchitectureError("Maps need Keras and a backend, which are not installed here.") from error

    explanations = iter_explanations(model, files[: len(pictures)], method=method)
    return [
        (picture if one.error is not None else np.asarray(overlay(one, _SIDE)), words)
        for (picture, words), one in zip(pictures, explanations, strict=True)
    ]
