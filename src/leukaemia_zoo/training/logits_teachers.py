"""Networks whose probabilities teach another one: who they are, and that they have not seen those who are tested."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.table import Cells, file_fingerprint
from leukaemia_zoo.errors import DataError, LeakError
from leukaemia_zoo.training.leaks import find_overlap, training_of
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.zoo import sources
from leukaemia_zoo.zoo.loading import load_model


@dataclasses.dataclass(frozen=True)
class LogitsTeacher:
    """A saved model that teaches.

    Attributes:
        folder: Where it lies.
        weight: Its name in its own description.
        sha256: Of its file.
        data: What it was trained on, as rows of ``data`` in a record.
    """

    folder: Path
    weight: str
    sha256: str
    data: tuple[Any, ...]


def found_teachers(recipe: Recipe, folder: str | Path | None, folds: int = 0) -> tuple[LogitsTeacher, ...]:
    """The teachers of a training, or of each fold of a cross-validation.

    Args:
        recipe: Says whether there is to be one.
        folder: Of a saved model, or of a cross-validation that kept its networks.
        folds: Of the cross-validation; 0 for a training.

    Raises:
        DataError: If there is none where the recipe wants one, or one where it wants none.
        WeightsError: If a network cannot be had.
    """
    if folder is None:
        if recipe.soft_share:
            raise DataError(
                "This recipe learns from the probabilities of another network: name its folder, or that of its "
                "cross-validation (--logits-teacher), or set soft_share to 0 in the recipe."
            )
        return ()
    if not recipe.soft_share:
        raise DataError(
            "This recipe gives the probabilities of another network no share: leave out --logits-teacher, or set "
            "soft_share in the recipe."
        )
    places = [Path(folder) / f"fold_{number}" for number in range(folds)] if folds else [Path(folder)]
    teachers = []
    for place in places:
        spec = sources.find(str(place)).spec
        teachers.append(LogitsTeacher(place, spec.name, spec.sha256, tuple(spec.data)))
    return tuple(teachers)


def load_logits_teacher(
    teachers: tuple[LogitsTeacher, ...], number: int, cells: Cells, tested: np.ndarray, report: Any
) -> keras.Model | None:
    """The teacher of a fold; None without teachers.

    Raises:
        LeakError: If it was trained on a cell or a person that is tested.
        DataError: If it has other classes.
    """
    if not teachers:
        return None
    teacher = teachers[number]
    if len(tested):
        part = cells.subset(tested.tolist())
        trained = training_of(sources.find(str(teacher.folder)).spec, teacher.folder)
        overlap = find_overlap(part, [file_fingerprint(path) for path in part.paths], trained, str(teacher.folder))
        if len(overlap.rows):
            raise LeakError(
                f"{overlap.told}: the teacher of a fold must not know those who are tested in it; give a "
                "cross-validation in the same folds (--logits-teacher)."
            )
        if trained is None:
            raise LeakError(f"{overlap.told} A teacher of a cross-validation must tell; train it again.")
    model = load_model(str(teacher.folder))
    if model.zoo.class_names != cells.class_names:
        raise DataError(
            f"The network in {teacher.folder} knows the classes {', '.join(model.zoo.class_names)}, but the cells have "
            f"{', '.join(cells.class_names)}: take one of the same classes in the same order."
        )
    report(f"probabilities of {teacher.folder.name} are a part of the targets")
    return model
