"""Thousands of fields, and whole slides, to a folder of cells, tables, pictures and GeoJSON.

Fields are done one after the other, so that memory does not grow with their number, and a run that was interrupted goes
on with the field that it was at.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo._version import __version__
from leukaemia_zoo.cells.images import list_images, read_image
from leukaemia_zoo.common.files import distinct_stems, version_of, write_json, write_png, writing
from leukaemia_zoo.common.run_folder import (
    RUN,
    RunFolder,
    folder_or_temporary,
    refuse_among_images,
    refuse_to_replace,
)
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.errors import DataError, ImageError
from leukaemia_zoo.examination.field import cell_columns, colours_of, examined
from leukaemia_zoo.examination.geojson import CellsWriter, cell_rows, field_row
from leukaemia_zoo.examination.picture import LONGEST_SIDE, FieldPicture
from leukaemia_zoo.prediction.verdicts import iter_predictions
from leukaemia_zoo.prediction.writing import rounded
from leukaemia_zoo.smears.fields import ExtractedCell, estimate_scale, extract_cells
from leukaemia_zoo.smears.nuclei import cytology
from leukaemia_zoo.smears.segmentation import checked_scale
from leukaemia_zoo.smears.slides import SLIDE_SUFFIXES, Slide, is_slide, slide_reader
from leukaemia_zoo.smears.stains import checked_method

CELLS_TABLE, FIELDS_TABLE, RECORD = "cells.csv", "fields.csv", "examination.json"
CELLS, PICTURES, GEOJSON = "cells", "fields", "geojson"

_FIELDS_FOR_SCALE = 12
"""So many fields, evenly spread, tell the scale of all."""


@dataclasses.dataclass(frozen=True)
class ExaminedFields:
    """What `examine_fields` left in its folder.

    Attributes:
        folder: Where.
        fields: Fields that were examined.
        cells: White cells in them.
        answers: How many cells got each answer, see `ExaminedCell`; classes first.
        scale: One sentence on the micrometres per pixel and where they come from.
        failed: One sentence for each field that could not be examined.
    """

    folder: Path
    fields: int
    cells: int
    answers: dict[str, int]
    scale: str
    failed: tuple[str, ...]


def examine_fields(
    fields: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    model: Any = "cnn_attention",
    *,
    micrometres_per_pixel: float | None = None,
    stain: str | None = None,
    miss_rate: float | None = None,
    restart: bool = False,
    log: Log | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExaminedFields:
    """Find the white cells of many fields, say what a network calls each, and leave all that in a folder.

    The folder then holds ``cells.csv`` (one row a cell), ``fields.csv`` (one row a field), ``cells/`` (each cell on
    black as the network takes it, PNG), ``fields/`` (each field with coloured outlines and verdicts, PNG) and
    ``geojson/`` (the same outlines with class and measurements, which QuPath opens). A run that was interrupted goes
    on when it is called again with the same arguments.

    Args:
        fields: Image files and folders of one microscope; also whole-slide files (SVS, NDPI, SCN, BIF, tiled TIFF),
            which need the extra `slides` and are read tile by tile.
        out: The folder; made where it is missing.
        model: What `predict` takes.
        micrometres_per_pixel: The scale of all fields; None takes that which a whole slide tells, and else estimates
            one from the red cells of twelve fields.
        stain: As `extract_cells` takes it.
        miss_rate: As `predict` takes it.
        restart: Begin anew where the folder holds an interrupted run with other arguments, or files of others.
        log: Called with each line of progress, such as ``print``; None for none.
        progress: Called with the number of fields done and of all.

    Returns:
        What was left.

    Raises:
        ImageError: There are no fields, or their scale cannot be estimated.
        DataError: The folder holds the fields, files that are not of such a run, or the run of other fields.
        CytologyMissingError: A package of the extra `cytology` is not installed.
        SlidesMissingError: There is a whole slide, and the extra `slides` is not installed.
    """
    paths, notes = _listed(fields)
    tell = log or silent
    for note in notes:
        tell(f"note: {note}")
    refuse_among_images(Path(out), fields)
    # Whatever a user may have to mend is told before anything is written.
    checked_method(stain)
    if micrometres_per_pixel is not None:
        micrometres_per_pixel = checked_scale(micrometres_per_pixel)
    cytology("skimage.measure")
    if any(map(is_slide, paths)):
        slide_reader()
    network = resolve(model)
    iter_predictions(network, (), miss_rate=miss_rate)
    run = _Run(paths, Path(out), network, stain, miss_rate)
    run.check(restart)
    state = RunFolder(run.folder / RUN, run.fingerprint(micrometres_per_pixel), restart)
    scale = run.scale(micrometres_per_pixel, state.load_json("scale.json"))
    with folder_or_temporary(run.folder):
        state.begin()  # before anything is removed: another process may be at work here
        begun = state.load_json("done.json") or {"fields": 0, "failed": {}}
        if begun["fields"]:
            tell(f"{begun['fields']:,} of {len(paths):,} fields are there already: going on with the next.")
        else:
            run.remove_earlier()
        state.save_json("scale.json", dataclasses.asdict(scale))
        tell(scale.told)
        for number in range(begun["fields"], len(paths)):
            if progress is not None:
                progress(number, len(paths))
            if (error := run.examine(number, scale)) is not None:
                tell(f"not examined: {error}")
                begun["failed"][str(number)] = error
            state.save_json("done.json", {"fields": number + 1, "failed": begun["failed"]})
        if progress is not None:
            progress(len(paths), len(paths))
        found = run.finish(scale.told, begun["failed"])
        state.remove()
    return found


def _listed(fields: Any) -> tuple[list[Path], list[str]]:
    """Fields and slides, and what has to be told of others."""
    listing = list_images(fields)
    slides = [path for path in listing.skipped if path.suffix.lower() in SLIDE_SUFFIXES]
    paths = [*listing.images, *slides]
    if not paths:
        raise ImageError("There are no fields: give image files, folders of them, or whole-slide files.")
    return paths, [*listing.notes, *listing.faults]


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Micrometres per pixel, and where they come from.

    Attributes:
        given: What the caller said, of all fields.
        estimated: Of the fields that are no slides.
        told: One sentence.
    """

    given: float | None
    estimated: float | None
    told: str


class _Run:
    """One run over fields: where each is left, and how it is examined."""

    def __init__(
        self, paths: Sequence[Path], folder: Path, network: Any, stain: str | None, miss_rate: float | None
    ) -> None:
        self.paths, self.folder, self.network = paths, folder, network
        self.stain, self.miss_rate = stain, miss_rate
        self.stems = distinct_stems(paths)
        self.colours = colours_of(network.zoo.class_names)

    def geojson(self, number: int) -> Path:
        return self.folder / GEOJSON / f"{self.stems[number]}.geojson"

    def picture(self, number: int) -> Path:
        return self.folder / PICTURES / f"{self.stems[number]}.png"

    def check(self, restart: bool) -> None:
        """Raise if files would be replaced that are read, or that are somebody else's."""
        written = [CELLS_TABLE, FIELDS_TABLE, RECORD]
        for number in range(len(self.paths)):
            written += [str(file.relative_to(self.folder)) for file in (self.geojson(number), self.picture(number))]
        # How many cells a field has is not known yet: what lies where one of them would be written counts.
        stems, cell = set(self.stems), re.compile(r"(.+)_\d{4,}\.png")
        there = (cell.fullmatch(file.name) for file in (self.folder / CELLS).glob("*.png"))
        written += [f"{CELLS}/{name[0]}" for name in there if name is not None and name[1] in stems]
        inputs = [("the field", path) for path in self.paths]
        refuse_to_replace(self.folder, written, {RECORD: "leukaemia_zoo"}, inputs, restart)
        places = {os.path.realpath(self.folder / name) for name in (CELLS, PICTURES)}
        if inside := [path for path in self.paths if os.path.realpath(path.parent) in places]:
            raise DataError(
                f"The field {inside[0]} lies where the run leaves its own pictures and removes those of an earlier "
                "one: give another folder to write."
            )

    def fingerprint(self, micrometres_per_pixel: float | None) -> str:
        """Of all that must be the same for a run to go on."""
        files = [(str(path), *_version_of(path)) for path in self.paths]
        about = [__version__, files, _weights_of(self.network), self.network.zoo.to_dict()]
        about += [micrometres_per_pixel, self.stain, self.miss_rate]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def remove_earlier(self) -> None:
        """Remove what an earlier run has left, by its own table, so that no cell of it lies among the new ones."""
        if not (self.folder / RECORD).is_file():
            return
        with (
            contextlib.suppress(OSError, ValueError, KeyError),
            (self.folder / FIELDS_TABLE).open(encoding="utf-8") as file,
        ):
            for row in csv.DictReader(file):
                stem = Path(row["name"]).name
                for path in (self.folder / CELLS).glob(f"{glob.escape(stem)}_[0-9]*.png"):
                    path.unlink()
                for path in (self.folder / GEOJSON / f"{stem}.geojson", self.folder / PICTURES / f"{stem}.png"):
                    path.unlink(missing_ok=True)

    def scale(self, given: float | None, kept: dict[str, Any] | None) -> _Scale:
        """What is known of the scale before the first field; a run that goes on keeps its own."""
        if kept is not None:
            return _Scale(**kept)
        fields = [path for path in self.paths if not is_slide(path)]
        if given is not None:
            return _Scale(given, None, f"{given:g} micrometres per pixel, as given.")
        if not fields:
            return _Scale(None, None, "Micrometres per pixel are those that each slide tells, or by its red cells.")
        places = np.unique(np.linspace(0, len(fields) - 1, _FIELDS_FOR_SCALE).round().astype(int))
        some = [image for image in (_or_none(fields[place]) for place in places) if image is not None]
        if not some:
            raise ImageError(f"None of {len(places)} fields can be read, such as {fields[0]}: check the files.")
        estimated = estimate_scale(some)
        told = (
            f"{estimated:.4g} micrometres per pixel, estimated from the red cells of {len(some)} of {len(fields):,} "
            "fields, all taken for fields of one microscope: give the scale if you know it."
        )
        return _Scale(None, estimated, told)

    def examine(self, number: int, scale: _Scale) -> str | None:
        """Examine one field and leave its files, GeoJSON last; or say why not."""
        path = self.paths[number]
        try:
            if not is_slide(path):
                pixels = read_image(path)
                known = scale.given or scale.estimated
                cells = extract_cells(pixels, micrometres_per_pixel=known, stain=self.stain)
                where = "given" if scale.given else "estimated"
                self._leave(number, cells, pixels, pixels.shape[1::-1], known, where)
                return None
            with Slide(path) as slide:
                known, where = (scale.given, "given") if scale.given else (slide.micrometres_per_pixel, "of the file")
                if known is None:
                    known, where = slide.estimate_scale(), "estimated"
                found = slide.cells(known, self.stain)
                self._leave(number, found, slide.overview(LONGEST_SIDE), (slide.width, slide.height), known, where)
            return None
        except ImageError as error:
            told = str(error)
            return told if str(path) in told else f"{path}: {told}"

    def _leave(
        self,
        number: int,
        cells: Iterable[ExtractedCell],
        overview: np.ndarray,
        size: tuple[int, ...],
        scale: float | None,
        where: str,
    ) -> None:
        stem = self.stems[number]
        (self.folder / CELLS).mkdir(exist_ok=True)
        picture = FieldPicture(overview, size[0], self.colours)
        with writing(self.geojson(number)) as file:
            writer = CellsWriter(file, str(self.paths[number]), self.colours)
            for one in examined(cells, self.network, self.miss_rate):
                name = f"{stem}_{one.number:04d}.png"
                write_png(self.folder / CELLS / name, Image.fromarray(one.cell.image))
                picture.draw(one)
                writer.write(one, picture=f"{CELLS}/{name}")
            picture.save(self.picture(number))
            writer.close(
                field=str(self.paths[number]),
                name=stem,
                width=size[0],
                height=size[1],
                micrometres_per_pixel=scale,
                scale=where,
                cells=sum(picture.counts.values()),
                answers=picture.counts,
            )

    def finish(self, told: str, failed: dict[str, str]) -> ExaminedFields:
        """Both tables and the record, from what was left of each field."""
        names = self.network.zoo.class_names
        answers = dict.fromkeys(self.colours, 0)
        about = ["field", "name", "width", "height", "micrometres_per_pixel", "scale", "cells", *answers, "error"]
        with writing(self.folder / CELLS_TABLE) as cells, writing(self.folder / FIELDS_TABLE) as fields:
            of_cells = csv.DictWriter(cells, ["field", *cell_columns(names), "picture"])
            of_fields = csv.DictWriter(fields, about)
            of_cells.writeheader()
            of_fields.writeheader()
            for number, path in enumerate(self.paths):
                if (error := failed.get(str(number))) is not None:
                    of_fields.writerow({"field": str(path), "name": self.stems[number], "error": error})
                    continue
                row = field_row(self.geojson(number))
                for answer, count in row.pop("answers").items():
                    row[answer] = count
                    answers[answer] += count
                of_fields.writerow(row)
                for cell in cell_rows(self.geojson(number)):
                    of_cells.writerow({"field": str(path)} | {key: rounded(value) for key, value in cell.items()})
        found = ExaminedFields(
            self.folder,
            len(self.paths) - len(failed),
            sum(answers.values()),
            answers,
            told,
            tuple(failed[key] for key in sorted(failed, key=int)),
        )
        record = {"leukaemia_zoo": __version__, "model": self.network.zoo.weight, "scale": told, "stain": self.stain}
        record |= {"miss_rate": self.miss_rate, "fields": found.fields, "cells": found.cells, "answers": answers}
        write_json(self.folder / RECORD, record)
        return found


def _version_of(path: Path) -> tuple[int, int] | tuple[None, None]:
    """None for a broken link, of which reading tells."""
    with contextlib.suppress(OSError):
        return version_of(path)
    return None, None


def _weights_of(network: Any) -> str:
    """A hash of the weights: a network that was trained again bears the same name."""
    if isinstance(network, Network):
        return network.sha256
    from leukaemia_zoo.zoo.loading import weights_digest

    return weights_digest(network, without_head=False)


def _or_none(path: Path) -> Any:
    with contextlib.suppress(ImageError):
        return read_image(path)
    return None
