"""What a network learns from: which cells teach, how much each counts, and in which views it sees them."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
from PIL import Image

from leukaemia_zoo.cells.arrays import check_visible
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing, drawn_view, turned_views
from leukaemia_zoo.cells.splits import Split, kfold_by_subject, split_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.engine.stream import ordered
from leukaemia_zoo.engine.trunk import cores
from leukaemia_zoo.evaluation.baselines import cell_area
from leukaemia_zoo.evaluation.calibration import apply_temperature
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.zoo.architectures import with_output

_MOST_THREADS = 8
"""Threads that draw views beside a network that learns: they give some 4,000 a second."""

ADAPTATION, BEGINNING = 1_000_001, 1_000_002
"""Stand in for the number of an epoch in the seeds of views that are drawn before the first."""

# ---------------------------------------------------------------------------------------------------------------------
# Which cells teach


def development_split(cells: Cells, recipe: Recipe, distilled: bool, seed: int, initialised: bool = False) -> Split:
    """Folds by subject where that is enough to choose, else one split into training and validation subjects."""
    if validates_by_folds(recipe, initialised or (distilled and recipe.distillation is not None)):
        folds = kfold_by_subject(cells, recipe.validation_folds, seed)
        parts = {f"fold_{number}": fold.parts["test"] for number, fold in enumerate(folds, start=1)}
        return Split(parts, seed, f"kfold_by_subject, {recipe.validation_folds} folds")
    share = recipe.validation_share
    if share == 0:
        return Split({"train": tuple(range(len(cells)))}, seed, "all")
    unknown = all(subject is None for subject in cells.subjects)
    return split_by_subject(cells, {"train": 1 - share, "validation": share}, seed, allow_unknown_subjects=unknown)


def validates_by_folds(recipe: Recipe, distilled: bool) -> bool:
    """Whether a recipe fits nothing but a classifier, which is cheap enough to validate it on every subject in turn."""
    return distilled and not recipe.fine_tune_epochs


def folds_of(split: Split) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of training and validation rows; without validation rows where all cells teach."""
    parts = {name: np.array(rows) for name, rows in split.parts.items() if name != "test"}
    if set(parts) == {"train"}:
        return [(parts["train"], np.zeros(0, np.int64))]
    if set(parts) == {"train", "validation"}:
        return [(parts["train"], parts["validation"])]
    return [
        (np.concatenate([other for key, other in parts.items() if key != name]), rows) for name, rows in parts.items()
    ]


def training_rows(split: Split) -> np.ndarray:
    """Cells that teach the network that is kept."""
    parts = ["train"] if "train" in split.parts else [part for part in split.parts if part != "test"]
    return np.concatenate([np.array(split.parts[part]) for part in parts])


def drawing_weights(cells: Cells, rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Weight of each cell, adding up to 1: balanced over subjects, and over classes where the recipe says so."""
    owners = np.array([cells.subjects[row] or str(cells.paths[row]) for row in rows])
    _, person, counts = np.unique(owners, return_inverse=True, return_counts=True)
    weights = counts[person].astype(float) ** (recipe.subject_power - 1)
    if recipe.balance_classes:
        labels = cells.labels[rows]
        for label in np.unique(labels):
            weights[labels == label] /= weights[labels == label].sum()
    return weights / weights.sum()


# ---------------------------------------------------------------------------------------------------------------------
# What the network sees of them


@dataclasses.dataclass(frozen=True)
class CellArrays:
    """The cells of a table as arrays.

    Attributes:
        pixels: Uint8 (views, N, height, width, 3); the first view is what prediction sees.
        area: Float (N,), area of the cell in official pixels.
        frames: Uint8 frames (height, width, 3) that views are drawn from in fine-tuning; None where the recipe draws
            none.
    """

    pixels: np.ndarray
    area: np.ndarray
    frames: tuple[np.ndarray, ...] | None = None


def read_arrays(cells: Cells, recipe: Recipe, seed: int, preprocessing: Preprocessing | None = None) -> CellArrays:
    """Read every cell once: the view that prediction sees, further turned views, and the cell's area."""
    preprocessing = preprocessing or preprocessing_for(recipe)
    pixels = np.empty((recipe.turned_views, len(cells), recipe.input_size, recipe.input_size, 3), np.uint8)
    area = np.empty(len(cells))
    frames: list[np.ndarray] = [np.empty(0, np.uint8)] * len(cells)

    def read(row: int) -> None:
        frame = read_image(cells.paths[row])
        area[row] = cell_area(frame)
        if recipe.drawn_views:
            frames[row] = _drawable(frame, preprocessing)
        # The file's name, not its row, so that a cell has the same views in every table.
        name_seed = int.from_bytes(cells.paths[row].stem.encode()[-8:], "little")
        pixels[:, row] = turned_views(frame, preprocessing, recipe.turned_views, seed + name_seed)
        check_visible(pixels[0, row], str(cells.paths[row]))

    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(cells))))
    return CellArrays(pixels, area, tuple(frames) if recipe.drawn_views else None)


def _drawable(frame: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The frame as views are drawn from it: at most 1.5 times as fine as the network's input, to save memory."""
    image = Image.fromarray(preprocessing.reduced(frame))
    side = math.ceil(1.5 * max(preprocessing.input_size) / preprocessing.crop_fraction)
    if min(image.size) > side:
        scale = side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


def preprocessing_for(recipe: Recipe) -> Preprocessing:
    """The preprocessing of a network that is trained by a recipe."""
    size = (recipe.input_size, recipe.input_size)
    if recipe.crop_fraction == Preprocessing.crop_fraction:
        return Preprocessing(size)
    return Preprocessing(size, crop_fraction=recipe.crop_fraction, reference_frame=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Where the views of cells come from: read beforehand, or drawn anew from the frames at every step."""

    pixels: np.ndarray
    frames: tuple[np.ndarray, ...] | None
    recipe: Recipe
    preprocessing: Preprocessing

    def draw(self, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float32 (N, height, width, 3): one view of each cell, the one of its number or by the seed a new one."""
        if self.frames is None:
            return self.pixels[numbers, rows].astype(np.float32)
        rng = np.random.default_rng(seed)
        angles = rng.uniform(0.0, 2 * math.pi, len(rows))
        mirrored = rng.random(len(rows)) < 0.5
        factors = np.exp(rng.uniform(-self.recipe.zoom, self.recipe.zoom, len(rows)))
        drawn = [
            drawn_view(self.frames[row], self.preprocessing, angle, bool(swapped), factor)
            for row, angle, swapped, factor in zip(rows, angles, mirrored, factors, strict=True)
        ]
        return np.stack(drawn).astype(np.float32)


class SoftTargets(abc.ABC):
    """Probabilities that are a part of what a network learns, beside the labels."""

    share: float

    @abc.abstractmethod
    def of(self, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float64 (N, classes): the probabilities of these cells, in the views that `Views.draw` gives."""

    def mixed(self, targets: np.ndarray, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float32 (N, classes): the targets, and in part the probabilities of the same cells."""
        return ((1.0 - self.share) * targets + self.share * self.of(rows, numbers, seed)).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkTargets(SoftTargets):
    """A network that has learnt the same classes, whose probabilities are a part of what another one learns.

    It sees the same views, at its own input size. Its temperature is taken back: softer targets tell more.
    """

    network: keras.Model
    views: Views
    temperature: float
    share: float

    @classmethod
    def by(cls, teacher: keras.Model, views: Views) -> NetworkTargets:
        """By a network with its ``zoo``, for views from these frames."""
        config = teacher.zoo
        own = dataclasses.replace(views, preprocessing=config.preprocessing)
        return cls(with_output(teacher, "logits"), own, config.temperature, views.recipe.soft_share)

    def of(self, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float64 (N, classes): what the network says of the same views."""
        logits = np.asarray(self.network.predict_on_batch(self.views.draw(rows, numbers, seed)), np.float64)
        return apply_temperature(logits, 1.0 / self.temperature)


@dataclasses.dataclass(frozen=True, eq=False)
class SoftLabels(SoftTargets):
    """Probabilities (cells, classes) that are the same whatever the view."""

    probabilities: np.ndarray
    share: float

    def of(self, rows: np.ndarray, numbers: np.ndarray, seed: list[int]) -> np.ndarray:
        """Float64 (N, classes): the probabilities of the cells."""
        return self.probabilities[rows]


class Drawn(keras.utils.PyDataset):
    """An epoch of randomly drawn cells, each in one view; the same for the same seed."""

    def __init__(
        self,
        views: Views,
        labels: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray,
        batch_size: int,
        seed: list[int],
        classes: int,
        steps: int | None = None,
        soft: SoftTargets | None = None,
    ) -> None:
        # Views are drawn in threads while the network learns: Pillow works outside of Python's lock.
        super().__init__(workers=1 if views.frames is None else min(max(2, cores()), _MOST_THREADS))
        rng = np.random.default_rng(seed)
        steps = steps or max(1, len(rows) // batch_size)
        self._rows = rows[rng.choice(len(rows), size=(steps, batch_size), p=weights)]
        self._numbers = rng.integers(len(views.pixels), size=self._rows.shape)
        self._views, self._seed, self._soft = views, seed, soft
        self._targets = np.eye(classes, dtype=np.float32)[labels]

    def __len__(self) -> int:
        return len(self._rows)

    def in_turn(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches in their order; while one is worked on, the next ones are drawn in threads."""
        with ThreadPoolExecutor(self.workers) as pool:
            yield from ordered(self.__getitem__, range(len(self)), pool, self.workers + 1)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows, numbers, seed = self._rows[index], self._numbers[index], [*self._seed, index]
        targets = self._targets[rows]
        if self._soft is not None:
            targets = self._soft.mixed(targets, rows, numbers, seed)
        return self._views.draw(rows, numbers, seed), targets
