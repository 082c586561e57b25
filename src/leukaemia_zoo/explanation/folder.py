"""Explanations of many cells as files: a picture each, sheets of them, and a table."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo._version import __version__
from leukaemia_zoo.cells.images import image_items
from leukaemia_zoo.common.files import distinct_stems, write_json, write_png, writing
from leukaemia_zoo.common.run_folder import make_folder, refuse_among_images, refuse_to_replace
from leukaemia_zoo.errors import ImageError
from leukaemia_zoo.explanation.maps import Explanation, iter_explanations
from leukaemia_zoo.explanation.pictures import contact_sheet, overlay
from leukaemia_zoo.prediction.writing import rounded
from leukaemia_zoo.zoo.loading import as_model, config_of

ON_SHEET = 24
"""Cells on one contact sheet."""

TABLE, RECORD = "explanations.csv", "explanations.json"


@dataclasses.dataclass(frozen=True)
class ExplainedFiles:
    """What `explain_files` left.

    Attributes:
        folder: Where.
        cells: Cells with a map.
        failed: One sentence for each image that could not be read.
        sheets: The contact sheets.
        share_inside: Mean part of the maps that lies on the cell, 0 to 1; None where no cell lies on black.
        cell_share: Mean part of the images that the same cells cover: the share of a map that looks everywhere alike.
    """

    folder: Path
    cells: int
    failed: tuple[str, ...]
    sheets: tuple[Path, ...]
    share_inside: float | None
    cell_share: float | None


def explain_files(
    model: Any,
    images: Any,
    out: str | os.PathLike[str],
    *,
    method: str = "grad_cam",
    target: str | None = None,
    views: int | None = None,
    batch_size: int = 8,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExplainedFiles:
    """Explain cells and leave a picture of each, contact sheets and a table in a folder.

    Args:
        model: As `explain` takes it.
        images: Paths of files and folders.
        out: The folder; made where it is missing.
        method: As `explain` takes it; so are ``target``, ``views`` and ``batch_size``.
        target: See above.
        views: See above.
        batch_size: See above.
        restart: Replace what the folder holds even where no call of this kind has left it.
        progress: Called with the number of cells done and of all.

    Returns:
        What was left. An image that cannot be read is told there and in the table, and the others are explained.

    Raises:
        ImageError: If there are no images.
        DataError: If files would be replaced that are read, or that are not from such a call.
    """
    paths, are_files = image_items(images)
    if not are_files or not paths:
        raise ImageError("There are no image files to explain: give paths of files, or of folders with images.")
    folder = Path(out)
    refuse_among_images(folder, images)
    model = as_model(model)
    names = [f"{stem}_map.png" for stem in distinct_stems(paths)]
    sheets = [folder / f"sheet_{number + 1:03d}.png" for number in range(-(-len(paths) // ON_SHEET))]
    written = [*names, *(sheet.name for sheet in sheets), TABLE, RECORD]
    read = [("the image", path) for path in paths]
    refuse_to_replace(folder, written, {RECORD: "leukaemia_zoo"}, read, restart)
    found = iter_explanations(model, paths, method=method, target=target, views=views, batch_size=batch_size)
    make_folder(folder)
    about = {"leukaemia_zoo": __version__, "model": config_of(model).weight or model.name, "method": method}
    write_json(folder / RECORD, about | {"target": target, "views": views or config_of(model).views})
    failed: list[str] = []
    shares: list[tuple[float, float]] = []
    pending: list[Explanation] = []
    made: list[Path] = []
    title = f"{about['model']}, {method}: evidence for {target or 'the class that each cell is called'}"

    def finish_sheet() -> None:
        if pending:
            made.append(sheets[len(made)])
            write_png(made[-1], contact_sheet(pending, title))
            pending.clear()

    with writing(folder / TABLE) as file:
        columns = ["path", "label", "target", "probability", "method", "share_inside", "cell_share", "error"]
        writer = csv.DictWriter(file, [*columns, "picture"])
        writer.writeheader()
        for number, (one, name) in enumerate(zip(found, names, strict=True), start=1):
            row = {key: rounded(value) for key, value in one.to_dict().items()}
            writer.writerow(row | {"picture": name if one.error is None else None})
            if one.error is None:
                write_png(folder / name, overlay(one))
                pending.append(one)
                if one.share_inside is not None and one.cell_share is not None:
                    shares.append((one.share_inside, one.cell_share))
            else:
                failed.append(one.error)
            if len(pending) == ON_SHEET:
                finish_sheet()
            if progress is not None:
                progress(number, len(paths))
        finish_sheet()
    inside, covered = np.mean(shares, axis=0).tolist() if shares else (None, None)
    return ExplainedFiles(folder, len(paths) - len(failed), tuple(failed), tuple(made), inside, covered)
