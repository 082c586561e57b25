"""The models of a benchmark, whatever they were given as, under one name each."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from leukaemia_zoo._version import __version__
from leukaemia_zoo.benchmarking.judged_cells import JudgedCells
from leukaemia_zoo.cells.table import class_key
from leukaemia_zoo.common.run_folder import RUN, RunFolder
from leukaemia_zoo.common.text import Log, shown
from leukaemia_zoo.errors import ArchitectureError, DataError
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray
from leukaemia_zoo.explanation.maps import explain
from leukaemia_zoo.explanation.pictures import overlay
from leukaemia_zoo.prediction.verdicts import iter_predictions
from leukaemia_zoo.training.cross_validation import out_of_fold
from leukaemia_zoo.training.leaks import TRAINED_FURTHER, TrainedOn, training_of
from leukaemia_zoo.training.provenance import refit_recipe
from leukaemia_zoo.training.recipes import Recipe, TrainingOptions
from leukaemia_zoo.zoo.loading import config_of, load_model, weights_digest
from leukaemia_zoo.zoo.registry import ModelConfig, WeightSpec, weights
from leukaemia_zoo.zoo.sources import Found, find
from leukaemia_zoo.zoo.tensors import named_variables

_ONE_MODEL = "a name, a folder, a loaded model or a callable from images to probabilities"
_MAP_SIDE = 96
_CHUNK = 1024
"""Cells after which an interrupted run goes on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A model to be judged.

    Attributes:
        name: In the report.
        kind: ``"zoo"``, ``"saved"``, ``"keras"`` or ``"callable"``.
        given: Name, folder or repository, if it was given by one.
        found: Where its weight was found then.
        model: The loaded model, if it was given as one.
        call: The callable, if it was given as one.
        leak_told: Whether the caller has told what it has seen of the cells, so that it is judged all the same.
    """

    name: str
    kind: str
    given: str | None = None
    found: Found | None = None
    model: keras.Model | None = None
    call: Callable[[np.ndarray], Any] | None = None
    leak_told: bool = False

    @property
    def slug(self) -> str:
        """Name of a folder of its own."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.name)[:40]}-{digest}"

    @property
    def config(self) -> ModelConfig | None:
        """Classes and preprocessing; None for a callable."""
        if self.found is not None:
            return self.found.spec.config
        return None if self.model is None else config_of(self.model)

    @property
    def spec(self) -> WeightSpec | None:
        """What is known of its weight."""
        if self.found is not None:
            return self.found.spec
        return None if self.config is None else weights().get(self.config.weight or "")

    @functools.cached_property
    def trained(self) -> TrainedOn | None:
        """What is known of the cells and people it was trained on."""
        if self.found is not None and (self.found.spec.training or self.found.spec.config.weight not in weights()):
            folder = self.found.file.parent if self.found.place == "path" else None
            return training_of(self.found.spec, folder)
        row = None if self.config is None else weights().get(self.config.weight or "")
        known = training_of(row)
        if row is None or known is None:
            return None
        # Whoever loaded a weight may have trained it further.
        theirs = load_model(row.name)
        same = weights_digest(self.loaded(), without_head=False) == weights_digest(theirs, without_head=False)
        return known if same else known.with_gap(TRAINED_FURTHER)

    def to_measure(self) -> Any:
        """What `measure_costs` takes: a name or folder, so that loading is measured too, else the model itself."""
        if self.given is not None:
            return self.given
        return self.model if self.model is not None else self.call

    def loaded(self) -> keras.Model:
        """The network."""
        return self.model if self.given is None else load_model(self.given)

    def about(self) -> dict[str, Any]:
        """What a report says of it."""
        if self.spec is None:
            return {}
        told: dict[str, Any] = {
            "weight": self.spec.name,
            "architecture": self.spec.config.architecture,
            "licence": self.spec.licence,
            "views": self.spec.config.views,
            "origin": self.config.origin if self.config is not None else None,
        }
        if self.found is not None:
            told |= {"sha256": self.spec.sha256}
        return told

    def predict(
        self,
        cells: JudgedCells,
        batch_size: int,
        state: RunFolder,
        name: str,
        progress: Callable[[int, int], None] | None,
    ) -> FloatArray:
        """Probabilities of all cells, (cells, classes) in the order of the data's classes."""
        if self.call is not None:
            return self._called(cells, batch_size, progress)
        model = self.loaded()
        config = config_of(model)
        order = [[*map(class_key, config.class_names)].index(class_key(name)) for name in cells.class_names]
        file = f"{name}.npz"
        identity = self._identity(model, cells)
        output = _unfinished(state.load_arrays(file), identity, (len(cells), len(order)))
        done = int(np.isfinite(output).all(axis=1).cumprod().sum())
        for start in range(done, len(cells), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(cells)))
            found = iter_predictions(model, [cells.items[row] for row in rows], batch_size=batch_size)
            for row, prediction in zip(rows, found, strict=True):
                if prediction.probabilities is None:
                    raise DataError(f"A cell cannot be judged: {prediction.error}")
                output[row] = np.array(prediction.probabilities)[order]
                if progress is not None:
                    progress(row + 1, len(cells))
            state.save_arrays(file, {"identity": np.array(identity), "output": output})
        return output

    def maps(self, items: Sequence[Any]) -> list[Image.Image | None]:
        """A picture of where it found the class that it called each cell; None of what has no such maps."""
        if self.call is not None or not items:
            return [None] * len(items)
        try:
            found = explain(self.loaded(), list(items), batch_size=4)
        except ArchitectureError:  # a network without feature maps
            return [None] * len(items)
        return [overlay(one, _MAP_SIDE) for one in found]

    def _identity(self, model: keras.Model, cells: JudgedCells) -> str:
        """Hash of all that an interrupted prediction must share to go on."""
        digest = hashlib.sha256(json.dumps([__version__, keras.backend.backend(), config_of(model).to_dict()]).encode())
        for name, variable in named_variables(model).items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value)).tobytes())
        digest.update(np.array(cells.fingerprints, np.uint64).tobytes())
        # The columns of the output are in the order of the cells' classes.
        digest.update(json.dumps([cells.class_names, keras.config.dtype_policy().name]).encode())
        return digest.hexdigest()

    def _called(self, cells: JudgedCells, batch_size: int, progress: Callable[[int, int], None] | None) -> FloatArray:
        """What a callable says; its batches hold frames of one size."""
        assert self.call is not None
        parts = []
        done = 0
        for batch in _batches(cells, batch_size):
            try:
                output = np.asarray(self.call(batch), np.float64)
            except Exception as error:
                raise DataError(
                    f"The model '{self.name}' failed on a batch of the shape {batch.shape}: {type(error).__name__}: "
                    f"{error}"
                ) from error
            if output.shape[:1] != batch.shape[:1]:
                raise DataError(
                    f"The model '{self.name}' gave an array of the shape {output.shape} for {len(batch)} images: give "
                    "one row of probabilities an image."
                )
            parts.append(output)
            done += len(batch)
            if progress is not None:
                progress(done, len(cells))
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(f"The model '{self.name}' gave rows of different shapes: give one probability a class.")
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Refitted:
    """A recipe judged on people that its networks had not seen.

    Attributes:
        probabilities: Out of fold, in the order of the data's classes.
        folds: Fold of each cell.
        about: What a report says of it.
        told: One sentence on what the networks had seen.
    """

    probabilities: FloatArray
    folds: IntArray
    about: dict[str, Any]
    told: str


def as_candidates(models: Any) -> list[Candidate]:
    """One candidate a model."""
    if isinstance(models, str | os.PathLike | keras.Model) or callable(models):
        models = [models]
    if not isinstance(models, Iterable):
        raise DataError(f"{shown(models)} is no model: give {_ONE_MODEL}, or a list of these.")
    named: Sequence[tuple[str | None, Any]]
    named = list(models.items()) if isinstance(models, Mapping) else [(None, model) for model in models]
    found = [_candidate(name, model) for name, model in named]
    if not found:
        raise DataError("There is no model to judge: name at least one.")
    names = [candidate.name for candidate in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Two models are called '{twice[0]}': give a dict from names of your own to the models.")
    return found


def _candidate(name: str | None, model: Any) -> Candidate:
    if isinstance(model, Candidate):
        return dataclasses.replace(model, name=name or model.name)
    if isinstance(model, str | os.PathLike):
        given = str(os.fspath(model))
        found = find(given)
        return Candidate(name or given, "saved" if found.place == "path" else "zoo", given, found)
    if isinstance(model, keras.Model):
        try:
            config = config_of(model)
        except ArchitectureError as error:
            raise DataError(
                f"{str(error).rstrip('.')}; or wrap it in a function from whole frames to probabilities, such as "
                f"{{{name or model.name!r}: lambda frames: model.predict(resized(frames))}}."
            ) from error
        return Candidate(name or config.weight or model.name, "keras", model=model)
    if callable(model):
        return Candidate(name or str(getattr(model, "__name__", type(model).__name__)), "callable", call=model)
    raise DataError(f"{shown(model)} is no model: give {_ONE_MODEL}.")


def checked_refit(candidate: Candidate, cells: JudgedCells, folds: int) -> tuple[WeightSpec, Path, Recipe]:
    """The weight whose classifier can be fitted again, its file and the recipe; a DataError where it cannot be."""
    spec = candidate.spec
    if spec is None or candidate.found is None or cells.frames is not None:
        raise DataError(
            f"'{candidate.name}' cannot be cross-validated: only weights given by name can, on cells in files; judge "
            "it as it is, on people it was not trained on."
        )
    recipe = refit_recipe(spec)
    if recipe is None:
        raise DataError(
            f"'{candidate.name}' cannot be cross-validated from its weight, because its features were learnt on "
            f"labelled cells: run `leukaemia-zoo train {spec.config.architecture} --cross-validate {folds}` instead."
        )
    return spec, candidate.found.file, recipe


def refit_on_folds(
    candidate: Candidate, cells: JudgedCells, folds: int, seed: int, state: RunFolder, log: Log
) -> Refitted:
    """Fit the classifier of a weight again in each fold, on features that no labelled cell had a part in."""
    spec, trunk, recipe = checked_refit(candidate, cells, folds)
    state.own_folder(RUN)
    for number in range(folds):
        state.file(f"fold_{number}.json")
    found = out_of_fold(
        spec.config.architecture,
        cells.table,
        state.folder,
        folds=folds,
        options=TrainingOptions(recipe, "of the weight", trunk=trunk, seed=seed, log=log),
    )
    told = (
        f"Every cell was judged by a network whose classifier had seen no cell of its person; its features were learnt "
        f"without labels on {spec.training['distillation']['unlabelled']}."
    )
    return Refitted(found.probabilities, found.folds, {**candidate.about(), "folds": found.parts}, told)


def _batches(cells: JudgedCells, size: int) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for row in range(len(cells)):
        frame = cells.frame(row)
        if batch and (len(batch) == size or batch[0].shape != frame.shape):
            yield np.stack(batch)
            batch = []
        batch.append(frame)
    yield np.stack(batch)


def _unfinished(arrays: Mapping[str, np.ndarray] | None, identity: str, shape: tuple[int, int]) -> FloatArray:
    """What an interrupted run left, NaN for the rest."""
    if arrays is not None and str(arrays["identity"]) == identity and arrays["output"].shape == shape:
        return np.array(arrays["output"])
    return np.full(shape, np.nan)
