"""What a run writes down: where its features came from, what produced its result, and its predictions."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo._version import __version__
from leukaemia_zoo.cells.manifests import save_manifest
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import replacing, sha256_of
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.training.distillation import TEACHER_SOURCE, is_of_this_package
from leukaemia_zoo.training.provenance import (
    InitialWeights,
    LinearTeacher,
    LogitsTeacher,
    find_trunk,
    found_linear_teachers,
    found_teachers,
    trunk_record,
)
from leukaemia_zoo.training.recipes import Recipe, TrainingOptions
from leukaemia_zoo.zoo import sources as places
from leukaemia_zoo.zoo.tensors import read_config

_C_NMC = {
    "name": "C-NMC 2019",
    "source": "Gupta and Gupta 2019, doi 10.7937/tcia.2019.dc64i46r",
    "licence": "CC BY 3.0 according to third-party notes",
}

UNKNOWN_IMAGES = (
    "The trunk was made by an older release and does not say which images it was distilled on: whether these cells or "
    "people were among them was not checked."
)


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where features that were not learnt on the labelled cells come from; see `train`."""

    teacher: str | Path | None
    unlabelled: str | Path | None
    trunk: Path | None
    initial: InitialWeights = dataclasses.field(default_factory=InitialWeights)
    logits_teachers: tuple[LogitsTeacher, ...] = ()
    linear_teachers: tuple[LinearTeacher, ...] = ()

    @classmethod
    def of(cls, options: TrainingOptions, recipe: Recipe, initial: InitialWeights, folds: int = 0) -> Sources:
        """What the options name, with what was found of it; `folds` are those of a cross-validation."""
        teachers = found_teachers(recipe, options.logits_teacher, options.linear_teachers, folds)
        linear = found_linear_teachers(options.linear_teachers)
        return cls(options.teacher, options.unlabelled, find_trunk(options.trunk), initial, teachers, linear)

    @property
    def soft_teachers(self) -> tuple[LogitsTeacher | LinearTeacher, ...]:
        """Those whose probabilities are a part of the targets."""
        return (*self.logits_teachers, *self.linear_teachers)

    @property
    def trunks(self) -> tuple[Path, ...]:
        """Files of trunks that learnt without labels, of which the run uses the features."""
        return (*(() if self.trunk is None else (self.trunk,)), *(teacher.file for teacher in self.linear_teachers))


def fingerprint(recipe: Recipe, seed: int, data: str, sources: Sources, devices: int = 1) -> str:
    """Hash of all that must be the same for an interrupted run to go on."""
    given = [str(value) for value in (sources.teacher, sources.unlabelled)]
    # A trunk is read again by every part of a run: one that was replaced meanwhile must not go on in its place.
    given.append(str(None) if sources.trunk is None else sha256_of(sources.trunk))
    if sources.initial.source is not None:
        given += [sources.initial.source, str(sources.initial.sha256)]
    given += [teacher.sha256 for teacher in sources.soft_teachers]
    if devices > 1:
        given.append(f"{devices} devices")
    content = [recipe.to_dict(), seed, data, given, keras.backend.backend(), __version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def provenance(
    recipe: Recipe, cells: Cells, seed: int, sources: Sources, features: Path | None, devices: int = 1
) -> dict[str, Any]:
    """What produced a result, as far as it is the same for a training and a cross-validation."""
    data = [_C_NMC if cells.source == "c-nmc" else {"name": cells.source, "source": "given", "licence": "not stated"}]
    header = (read_config(features) or {}) if features is not None else {}
    given = sources.trunk is not None
    about = trunk_record(sources.trunk) if sources.trunk is not None else header.get("distillation", {})
    initial, taught = sources.initial.to_dict(), [dict(row) for row in sources.initial.data]
    if given and about.get("init"):
        # Nothing is known of the beginning of a trunk but what its own header says.
        initial = {key: value for key, value in about["init"].items() if key not in ("data", "run")}
        taught = list(about["init"].get("data", []))
    elif begins_as_teacher(recipe, sources):
        initial = teacher_beginning(None if given else sources.teacher)
    for teacher in sources.soft_teachers:
        taught += [dict(row) for row in teacher.data]
    data += [row for row in {json.dumps(row): row for row in taught}.values() if row not in data]
    if features is not None and "init" not in header:
        # Who taught a trunk that is given its own header says, not this call.
        taught_by = (about.get("teacher") or {}).get("weights") if given else sources.teacher
        data += [row for row in about.get("data", _data_of_teacher(taught_by)) if row not in data]
    distillation, notes = None, list(cells.notes)
    if features is not None and "init" not in header:
        # What made a trunk that is given, its own header knows, not this call; an older one says less.
        told = {"teacher": {"network": TEACHER_SOURCE}, "unlabelled": None} if given else _told(sources)
        if "taken_from" in about:
            told["teacher"] = None  # the one that the record of that weight names
        elif given and "seen" not in about:
            notes.append(UNKNOWN_IMAGES)
        about = {key: value for key, value in about.items() if key not in ("init", "seen", "data")}
        distillation = {**told, **about, "sha256": sha256_of(features), "given": given}
    return {
        "package": __version__,
        "recipe": recipe.to_dict(),
        "seed": seed,
        "init": initial,
        "devices": devices,
        "cells": cells.summary(),
        "notes": notes,
        "distillation": distillation,
        **_told_of_teachers("logits_teachers", sources.logits_teachers),
        **_told_of_teachers("linear_teachers", sources.linear_teachers),
        "data": data,
        **environment_record(),
    }


def _told_of_teachers(kind: str, teachers: Sequence[LogitsTeacher | LinearTeacher]) -> dict[str, Any]:
    """What a record says of those whose probabilities were a part of the targets."""
    return {kind: [{"weight": one.weight, "sha256": one.sha256} for one in teachers]} if teachers else {}


def begins_as_teacher(recipe: Recipe, sources: Sources) -> bool:
    """Whether the distillation gives the network the teacher's own weights to begin with; see `distillation.distil`."""
    begins = recipe.distillation is not None and recipe.distillation.restain > 0 and sources.teacher is not None
    return begins and sources.initial.source is None


def teacher_beginning(teacher: str | Path | None) -> dict[str, Any]:
    """What a record says of the weights of a network that begins as its teacher; None for one that is not known."""
    described = {} if teacher is None else described_teacher(teacher)
    return {"source": "ImageNet, MobileNet 1.0, the teacher of the distillation", "sha256": described.get("sha256")}


def _told(sources: Sources) -> dict[str, Any]:
    unlabelled = None if sources.unlabelled is None else Path(sources.unlabelled).name
    return {"teacher": described_teacher(sources.teacher), "unlabelled": unlabelled}


def environment_record() -> dict[str, Any]:
    """Versions and machine, as a record has them."""
    found = environment()
    return {
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "numpy": np.__version__,
        },
        "machine": {key: found[key] for key in ("platform", "processor", "cores", "memory_gb", "devices")},
    }


def described_teacher(teacher: str | Path | None) -> dict[str, str]:
    """Network and weights of a teacher, as a record has them."""
    if str(teacher) == "imagenet":
        return {"network": TEACHER_SOURCE, "weights": "keras.applications, imagenet"}
    assert teacher is not None
    if is_of_this_package(teacher):
        found = places.find(str(teacher))
        return {"network": found.spec.config.architecture, "weights": Path(teacher).name, "sha256": found.spec.sha256}
    return {"network": TEACHER_SOURCE, "weights": Path(teacher).name, "sha256": sha256_of(teacher)}


def _data_of_teacher(teacher: str | Path | None) -> list[dict[str, Any]]:
    """What taught a teacher of features, as rows of ``data``."""
    if teacher is None or not is_of_this_package(teacher):
        return [{"name": "teacher", "source": TEACHER_SOURCE, "licence": "Apache-2.0"}]
    return [dict(row) for row in places.find(str(teacher)).spec.data]


def class_counts(cells: Cells, rows: np.ndarray) -> dict[str, dict[str, int]]:
    """Cells and subjects of each class."""
    classes = cells.subset(rows.tolist()).summary()["classes"]
    return {
        label: {"cells": int(found["cells"]), "subjects": int(found["subjects"])} for label, found in classes.items()
    }


def manifest_of(cells: Cells, split: Split) -> tuple[bytes, str]:
    """The bytes of a split's manifest and its hash, before anything is written where the run is to be."""
    with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as place:
        file = Path(place) / "split.json"
        digest = save_manifest(file, cells, split)
        return file.read_bytes(), digest


def write_predictions(
    path: Path, cells: Cells, rows: np.ndarray, probabilities: np.ndarray, fold: np.ndarray | None = None
) -> None:
    """One row a cell: file name, subject, label, probability of each class, and the fold that tested it."""
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "file",
                "subject",
                "label",
                *(f"p_{name}" for name in cells.class_names),
                *(["fold"] if fold is not None else []),
            ]
        )
        for row, values in zip(rows, probabilities, strict=True):
            writer.writerow(
                [cells.paths[row].name, cells.subjects[row], cells.class_names[cells.labels[row]]]
                + [f"{value:.6f}" for value in values]
                + ([int(fold[row])] if fold is not None else [])
            )
