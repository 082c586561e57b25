"""What prediction says: of a cell, of a subject, of a list of cells."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from leukaemia_zoo._names import old_method
from leukaemia_zoo.common.limits import UNCERTAIN


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one cell.

    Attributes:
        path: The file, or ``images[3]`` for an element of an array.
        subject: Whose cell it is, where that is known.
        label: The class with the highest probability; None after an error.
        probabilities: One per class in the order of ``class_names``, summing to 1; None after an error.
        class_names: The classes.
        error: Why there is no verdict, or None.
        ood_score: How little the image looks like the cells that the network was trained on: around 1 for those, see
            `ood_scores`; None after an error and for networks without statistics of their training cells.
        unfamiliar: Whether the score is above the ``ood_limit`` of the model, so that the verdict is not to be relied
            on; None where there is no score or no limit.
        verdict: The class that is left when those below their ``verdict_limits`` are ruled out (the likeliest where
            none is), or "uncertain" where two or more are left: a human must look at the cell. None after an error and
            for weights without limits.
    """

    path: str
    subject: str | None
    label: str | None
    probabilities: tuple[float, ...] | None
    class_names: tuple[str, ...]
    error: str | None = None
    ood_score: float | None = None
    unfamiliar: bool | None = None
    verdict: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Flat dict: path, subject, label, ``p_<class>`` for each class, verdict, ood_score, unfamiliar, error."""
        values = self.probabilities or (None,) * len(self.class_names)
        return {
            "path": self.path,
            "subject": self.subject,
            "label": self.label,
            **{f"p_{name}": value for name, value in zip(self.class_names, values, strict=True)},
            "verdict": self.verdict,
            "ood_score": self.ood_score,
            "unfamiliar": self.unfamiliar,
            "error": self.error,
        }

    to_record = old_method("Prediction", "to_record", "to_dict")


@dataclasses.dataclass(frozen=True)
class SubjectSummary:
    """What a model says of the cells of one subject.

    Attributes:
        subject: The subject.
        cells: Number of cells with a verdict.
        counts: Cells of each label, in the order of the classes.
        mean_probabilities: Mean over the cells of each class's probability, in the order of the classes: a summary,
            not the probability that a person is ill.
        class_names: The classes.
        unfamiliar: How many of the cells do not look like those that the network was trained on; they are in the other
            figures all the same. None where the model has no limit for that.
        uncertain: How many of the cells have the verdict "uncertain"; they are in the other figures all the same. None
            where the weight has no limits of verdicts.
    """

    subject: str
    cells: int
    counts: tuple[int, ...]
    mean_probabilities: tuple[float, ...]
    class_names: tuple[str, ...]
    unfamiliar: int | None = None
    uncertain: int | None = None

    @property
    def label(self) -> str:
        """The verdict on the subject: the class of the highest mean probability, the first of equal ones.

        How often it is right on people whom the weight has not seen stands in the results of the zoo. It takes the
        cells as they come: a choice of cells by eye changes it.
        """
        return self.class_names[int(np.argmax(self.mean_probabilities))]

    def to_dict(self) -> dict[str, Any]:
        """Flat dict: subject, label, cells, ``n_<class>`` and ``mean_p_<class>`` a class, uncertain, unfamiliar."""
        return {
            "subject": self.subject,
            "label": self.label,
            "cells": self.cells,
            **{f"n_{name}": count for name, count in zip(self.class_names, self.counts, strict=True)},
            **{f"mean_p_{name}": p for name, p in zip(self.class_names, self.mean_probabilities, strict=True)},
            "uncertain": self.uncertain,
            "unfamiliar": self.unfamiliar,
        }

    to_record = old_method("SubjectSummary", "to_record", "to_dict")


@dataclasses.dataclass
class CellTally:
    """Running counts of cells: judged, left to a human, not read.

    Attributes:
        counts: Cells of each label.
        failed: Cells without a verdict, because their image could not be read.
        uncertain: How many of the judged cells have the verdict "uncertain".
        unfamiliar: How many of the judged cells do not look like those that the network was trained on.
    """

    counts: dict[str, int]
    failed: int = 0
    uncertain: int = 0
    unfamiliar: int = 0

    @classmethod
    def of(cls, class_names: Iterable[str]) -> CellTally:
        """A tally before the first cell."""
        return cls(dict.fromkeys(class_names, 0))

    @property
    def judged(self) -> int:
        """Cells with a verdict."""
        return sum(self.counts.values())

    @property
    def cells(self) -> int:
        """All cells."""
        return self.judged + self.failed

    def add(self, prediction: Prediction) -> None:
        """Count one cell."""
        if prediction.label is None:
            self.failed += 1
            return
        self.counts[prediction.label] += 1
        self.uncertain += prediction.verdict == UNCERTAIN
        self.unfamiliar += bool(prediction.unfamiliar)

    def add_all(self, other: CellTally) -> None:
        """Count the cells of another tally."""
        for name, count in other.counts.items():
            self.counts[name] += count
        self.failed += other.failed
        self.uncertain += other.uncertain
        self.unfamiliar += other.unfamiliar

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"cells": self.cells, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CellTally:
        """The tally from plain data."""
        return cls(**{name: count for name, count in data.items() if name != "cells"})


class SubjectTally:
    """Running sums per subject, so that a summary of a million cells needs the memory of its subjects."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._tallies: dict[str, CellTally] = {}
        self._with_limits = self._with_scores = False

    def add(self, prediction: Prediction) -> None:
        """Count one cell; one without a verdict or a subject is passed over."""
        if prediction.subject is None or prediction.probabilities is None:
            return
        tally = self._tallies.setdefault(prediction.subject, CellTally.of(prediction.class_names))
        tally.add(prediction)
        sums = self._sums.get(prediction.subject, np.zeros(len(prediction.class_names)))
        self._sums[prediction.subject] = sums + prediction.probabilities
        self._with_limits |= prediction.verdict is not None
        self._with_scores |= prediction.unfamiliar is not None

    def summaries(self) -> list[SubjectSummary]:
        """One summary a subject, sorted by subject."""
        return [
            SubjectSummary(
                subject,
                tally.judged,
                tuple(tally.counts.values()),
                tuple((self._sums[subject] / tally.judged).tolist()),
                tuple(tally.counts),
                tally.unfamiliar if self._with_scores else None,
                tally.uncertain if self._with_limits else None,
            )
            for subject, tally in sorted(self._tallies.items())
        ]


class Predictions(Sequence[Prediction]):
    """The verdicts on a list of cells, in its order.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> predictions = lz.predict(lz.load_model("cnn_attention"), np.full((2, 450, 450, 3), 90, "uint8"))
        >>> len(predictions), predictions.probabilities.shape
        (2, (2, 2))
    """

    def __init__(self, items: Iterable[Prediction], class_names: tuple[str, ...]) -> None:
        self._items = list(items)
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    @property
    def probabilities(self) -> np.ndarray:
        """Float64 array (cells, classes); NaN in the rows of errors."""
        nothing = (np.nan,) * len(self.class_names)
        return np.array([item.probabilities or nothing for item in self._items]).reshape(-1, len(self.class_names))

    @property
    def errors(self) -> list[Prediction]:
        """The cells without a verdict."""
        return [item for item in self._items if item.error is not None]

    def by_subject(self) -> list[SubjectSummary]:
        """One summary a subject, sorted by subject; empty where no subject is known.

        A file that was given twice, by another name or through a link, counts once.
        """
        tally = SubjectTally()
        files: set[str] = set()
        for item in self._items:
            if (file := os.path.realpath(item.path)) not in files:
                tally.add(item)
            files.add(file)
        return tally.summaries()

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dict a cell: what a data frame or a CSV file takes."""
        return [item.to_dict() for item in self._items]
