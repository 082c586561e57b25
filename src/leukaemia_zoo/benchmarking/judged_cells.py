"""The labelled cells of a benchmark: files or arrays, read once for all that is asked of every model."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo.cells.arrays import RGBArray, check_visible
from leukaemia_zoo.cells.copies import check_copies, fingerprint
from leukaemia_zoo.cells.images import frame_of, read_image
from leukaemia_zoo.cells.manifests import save_manifest
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells, class_key, class_names_of
from leukaemia_zoo.common.tables import NOTHING
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.baselines import AREA, features_of
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray

MANIFEST_FILE = "evaluation.json"
"""Which cells a benchmark judged on, in its folder."""

_PICTURE_SIDE = 96
_COLOURS = 64
_MOST_VALUES = 10
"""A column of more different values is no grouping."""


@dataclasses.dataclass(frozen=True, eq=False)
class JudgedCells:
    """Cells with what does not depend on a model.

    Attributes:
        table: Labels, subjects, classes; paths are made up for arrays.
        frames: The frames themselves where they were given as arrays, else None.
        fingerprints: Of each frame, see `table.fingerprint`.
        baseline_features: What each baseline sees, (cells, features) by its name.
    """

    table: Cells
    frames: tuple[RGBArray, ...] | None
    fingerprints: tuple[int, ...]
    baseline_features: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> IntArray:
        """Int64 (cells,)."""
        return self.table.labels

    @property
    def subjects(self) -> tuple[str | None, ...]:
        """One a cell."""
        return self.table.subjects

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.table.class_names

    @property
    def items(self) -> Sequence[Any]:
        """What `predict` takes."""
        return self.table.paths if self.frames is None else self.frames

    def frame(self, row: int) -> RGBArray:
        """One whole frame."""
        return read_image(self.table.paths[row]) if self.frames is None else self.frames[row]

    def some_frames(self, most: int) -> np.ndarray:
        """The first frames that are as large as the very first, uint8 (frames, height, width, 3)."""
        found = [self.frame(row) for row in range(min(most, len(self)))]
        return np.stack([frame for frame in found if frame.shape == found[0].shape])

    def subset(self, rows: np.ndarray) -> JudgedCells:
        """The cells at these indices."""
        return JudgedCells(
            self.table.subset(rows),
            None if self.frames is None else tuple(self.frames[row] for row in rows),
            tuple(self.fingerprints[row] for row in rows),
            {name: features[rows] for name, features in self.baseline_features.items()},
        )

    def subgroups(self, columns: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
        """One value a cell for each grouping that a report gives figures for."""
        further = self.table.columns
        if columns is None:
            columns = [name for name, values in further.items() if 1 < len(set(values)) <= _MOST_VALUES]
        if unknown := [name for name in columns if name not in further]:
            raise DataError(
                f"There is no column '{unknown[0]}' to report by: the data has "
                f"{', '.join(further) or 'no further ones'}."
            )
        found = {name: tuple(further[name]) for name in columns}
        if len(set(self.table.groups)) > 1:
            found["part of the data set"] = self.table.groups
        area = self.baseline_features[AREA][:, 0]
        low, high = np.quantile(area, [1 / 3, 2 / 3])
        if low < high:
            sizes = np.array(["small", "middle", "large"])[(area > low).astype(int) + (area > high)]
            found["cell size"] = tuple(sizes.tolist())
        return found

    def pictures(self, wrong: Sequence[Mapping[str, Any]], candidate: Any = None) -> list[dict[str, Any]]:
        """Small pictures of cells, with maps of a network that judged them as it is, and what was said of them."""
        maps = [None] * len(wrong) if candidate is None else candidate.maps([self.items[cell["row"]] for cell in wrong])
        return [
            {
                **{key: value for key, value in cell.items() if key != "row"},
                "path": self.table.paths[cell["row"]].name,
                "subject": self.subjects[cell["row"]],
                "label": self.class_names[self.labels[cell["row"]]],
                "png": _png(Image.fromarray(self.frame(cell["row"]))),
                "map": None if evidence is None else _png(evidence.quantize(_COLOURS)),
            }
            for cell, evidence in zip(wrong, maps, strict=True)
        ]

    def write_manifest(self, folder: Path) -> dict[str, Any]:
        """Leave the manifest in a folder; what a report says of the data, with the manifest and its hash."""
        summary = self.table.summary()
        keep = ("source", "cells", "subjects", "classes")
        described = {key: summary[key] for key in keep} | {"class_names": list(self.class_names)}
        if not summary["subjects"]:
            counts = {name: {**found, "subjects": None} for name, found in summary["classes"].items()}
            described |= {"subjects": None, "classes": counts}
        described["notes"] = list(self.table.notes)
        if self.frames is None:
            import json

            path = folder / MANIFEST_FILE
            split = Split({"evaluation": tuple(range(len(self)))}, None, "benchmark")
            digest = save_manifest(path, self.table, split, self.fingerprints)
            return {**described, "manifest_sha256": digest, "manifest": json.loads(path.read_text(encoding="utf-8"))}
        prints = [f"{value:016x}" for value in self.fingerprints]
        manifest = {"fingerprints": prints, "labels": self.labels.tolist(), "subjects": list(self.subjects)}
        digest = hashlib.sha256(repr(sorted(manifest.items())).encode()).hexdigest()
        return {**described, "manifest_sha256": digest, "manifest": manifest}


def read_judged_cells(data: Any, class_names: tuple[str, ...] | None) -> JudgedCells:
    """Read every frame once."""
    frames: tuple[RGBArray, ...] | None = None
    if isinstance(data, Cells | str | os.PathLike):
        table = as_cells(data)
    elif isinstance(data, tuple) and len(data) in (2, 3):
        table, frames = _from_arrays(*data, class_names=class_names)
    else:
        raise DataError(
            f"The data is a {type(data).__name__}: give a folder, a CSV, a table of cells, or a tuple (images, "
            "labels) or (images, labels, subjects)."
        )
    if not len(table):
        raise DataError("There are no cells to judge models on.")
    table = _in_order(table, class_names)

    def measure(row: int) -> tuple[int, dict[str, FloatArray]]:
        frame = read_image(table.paths[row]) if frames is None else frames[row]
        check_visible(frame, str(table.paths[row]))
        return fingerprint(frame), features_of(frame)

    with ThreadPoolExecutor() as pool:
        measured = list(pool.map(measure, range(len(table))))
    features = {name: np.stack([found[name] for _, found in measured]) for name in measured[0][1]}
    prints = tuple(value for value, _ in measured)
    table = dataclasses.replace(table, notes=(*table.notes, *_told_of_copies(table, prints)))
    return JudgedCells(table, frames, prints, features)


def _told_of_copies(table: Cells, prints: Sequence[int]) -> Iterator[str]:
    """One sentence if an image is there twice, which counts it twice."""
    copies = check_copies(table, prints)
    if not copies:
        return
    elsewhere = sum(table.subjects[one] != table.subjects[other] for one, other in copies)
    whose = f", {elsewhere:,} of them under another subject, who may be the same person" if elsewhere else ""
    yield (
        f"{len(copies):,} cells are copies of others by their pixels ({table.paths[copies[0][1]].name} = "
        f"{table.paths[copies[0][0]].name}){whose}: each counts, so that intervals are too narrow."
    )


def _from_arrays(
    images: Any, labels: Any, subjects: Any = None, *, class_names: tuple[str, ...] | None
) -> tuple[Cells, tuple[RGBArray, ...]]:
    frames = tuple(frame_of(image, f"images[{row}]") for row, image in enumerate(images))
    given = np.asarray(labels)
    named = given.dtype.kind == "U" or (given.dtype.kind == "O" and all(isinstance(label, str) for label in given.flat))
    if given.shape != (len(frames),) or not (named or given.dtype.kind in "iu"):
        raise DataError(
            f"The labels have the shape {given.shape} and dtype {given.dtype}: give a number or a name for each of the "
            f"{len(frames)} images."
        )
    if named and (empty := [row for row, label in enumerate(given) if label in NOTHING]):
        raise DataError(f"images[{empty[0]}] has no label: give a name for each image, or leave this one out.")
    if named:
        written, spelt = class_names_of(str(label) for label in given)
        names = class_names or written
        numbers_of = _numbers_of(written, names)
        numbers = np.array([numbers_of[spelt[str(label)]] for label in given], np.int64)
    else:
        numbers = given.astype(np.int64)
        names = class_names or tuple(f"class_{number}" for number in range(max(2, int(numbers.max(initial=0)) + 1)))
    people = tuple(subjects) if subjects is not None else (None,) * len(frames)
    paths = tuple(Path(f"images[{row}]") for row in range(len(frames)))
    return Cells(paths, numbers, people, names, ("",) * len(frames), "arrays"), frames


def _in_order(table: Cells, class_names: tuple[str, ...] | None) -> Cells:
    """The same cells with labels in the models' order of the classes."""
    if class_names is None or class_names == table.class_names:
        return table
    present = [table.class_names[label] for label in np.unique(table.labels)]
    numbers = _numbers_of(present, class_names)
    order = np.array([numbers.get(name, -1) for name in table.class_names])
    return dataclasses.replace(table, class_names=class_names, labels=order[table.labels])


def _numbers_of(names: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """The number of each class of the data among those of the models, however either is spelt."""
    keys = [class_key(name) for name in known]
    if unknown := sorted(name for name in names if class_key(name) not in keys):
        raise DataError(
            f"The data has cells of the class '{unknown[0]}', but the models know {', '.join(known)}: take models of "
            "these classes, or train one."
        )
    return {name: keys.index(class_key(name)) for name in names}


def _png(picture: Image.Image) -> str:
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
