"""What may be chosen in a benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from leukaemia_zoo.common.reading import whole
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.errors import DataError


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """What may be chosen in a benchmark; `benchmark` takes each by name.

    Attributes:
        refit_folds: Judge recipes instead of weights: each name of the zoo is fitted again in so many folds by subject,
            on features that were not learnt on labelled cells, and judged on the cells it has not seen.
        validation: Further labelled cells, of other people, on which thresholds and temperatures are chosen; None
            chooses them within the data, for each fold of people on the others.
        exclude_overlap: Leave out cells and people that a model was trained on, instead of refusing.
        class_names: The classes in the order of labels that are numbers and of a callable's probabilities; the last of
            two is the positive one. None takes the order of a model of the zoo, else that in which folders and CSV are
            read: sorted as a person would, ``hem`` before ``all``.
        subgroups: Columns of the CSV to report by; None for all with at most ten values. The parts of the data set
            (C-NMC folds) and thirds of the cell size are always reported.
        prevalence: Share of the last class, 0 to 1, for the predictive values; None for that of the data.
        baselines: Whether to add the majority class, the cell area alone and the background alone.
        cost: Whether to measure what the models cost.
        choice_folds: Folds by subject for choices and baselines; fewer where a class has fewer subjects.
        resamples: Resamples of the bootstrap over subjects.
        level: Nominal coverage of the intervals.
        seed: Of folds and resamples.
        batch_size: Images computed at once.
        restart: Begin anew where the folder holds an interrupted run.
        log: Called with each line of progress, such as ``print``; None for none.
        progress: Called with the number of cells done and of all.

    Raises:
        DataError: If a value is out of its range, or two of them exclude each other.
    """

    refit_folds: int | None = None
    validation: Any = None
    exclude_overlap: bool = False
    class_names: Sequence[str] | None = None
    subgroups: Sequence[str] | None = None
    prevalence: float | None = None
    baselines: bool = True
    cost: bool = True
    choice_folds: int = 5
    resamples: int = 2000
    level: float = 0.95
    seed: int = 0
    batch_size: int = 32
    restart: bool = False
    log: Log | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise DataError(f"prevalence is {self.prevalence!r}: give the share of the last class between 0 and 1.")
        if not 0 < self.level < 1:
            raise DataError(f"level is {self.level!r}: give a share between 0 and 1, such as 0.95.")
        for name, least in (("choice_folds", 2), ("resamples", 1), ("seed", 0), ("batch_size", 1), ("refit_folds", 2)):
            value = getattr(self, name)
            if name == "refit_folds" and value is None:
                continue
            object.__setattr__(self, name, whole(value, name, least))
        if self.refit_folds is not None and self.validation is not None:
            raise DataError("In a cross-validation the folds choose: leave out either validation or refit_folds.")

    @property
    def tell(self) -> Log:
        """The log, whether there is one or not."""
        return self.log or silent

    def settings(self) -> dict[str, Any]:
        """What the figures depend on besides models and data, as a report has it."""
        return {
            "folds": self.choice_folds,
            "prevalence": self.prevalence,
            "resamples": self.resamples,
            "seed": self.seed,
            "level": self.level,
            "cross_validate": self.refit_folds,
        }
