"""What a weight that all subjects taught takes from a cross-validation: temperature, OOD limit and limits of verdicts.

Nobody is left to calibrate such a weight on. The cross-validation of the same recipe has predicted every subject by a
network that did not know them; its predictions stand for those of the weight on new people.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.limits import VerdictLimits, verdict_codes
from leukaemia_zoo.common.text import shown
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.calibration import apply_temperature, fit_temperature
from leukaemia_zoo.evaluation.conformal import coverage, fit_limits
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray, Subjects

CALIBRATION_FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What out-of-fold predictions say of a weight.

    Attributes:
        temperature: That calibrates the logits of all cells, each of which was predicted out of fold.
        ood_limit: What 99 of 100 cells do not exceed, see `features.limit_of`; None for a head without statistics.
        verdict_limits: See `VerdictLimits`.
        recipe: Hash of the recipe, so that a weight of another one does not take it.
    """

    temperature: float
    ood_limit: float | None
    verdict_limits: VerdictLimits
    recipe: str

    @classmethod
    def found(
        cls,
        logits: FloatArray,
        labels: IntArray,
        subjects: Subjects,
        class_names: Sequence[str],
        ood_limit: float | None,
        recipe: str,
    ) -> Calibration:
        """The calibration from the logits (N, classes) of every cell, by networks that did not know its subject."""
        temperature = fit_temperature(logits, labels)
        limits = fit_limits(labels, apply_temperature(logits, temperature), subjects, class_names)
        return cls(temperature, ood_limit, limits, recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "temperature": self.temperature,
            "ood_limit": self.ood_limit,
            "class_names": list(self.verdict_limits.class_names),
            "verdict_limits": self.verdict_limits.to_dict(),
            "recipe": self.recipe,
        }

    @classmethod
    def load(cls, folder: str | Path, recipe: str, class_names: Sequence[str]) -> Calibration:
        """What a cross-validation of the recipe with this hash left in its folder, for classes in this order."""
        file = Path(folder) / CALIBRATION_FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if set(data["class_names"]) != set(class_names):
                raise DataError(f"its classes are {', '.join(map(shown, data['class_names']))}")
            limits = VerdictLimits.from_dict(data["verdict_limits"], class_names)
            found = cls(float(data["temperature"]), data["ood_limit"], limits, data["recipe"])
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise DataError(
                f"{folder} holds no calibration for this training ({error}): name the folder of a finished "
                "cross-validation of this recipe on these cells (--calibration)."
            ) from None
        if found.recipe != recipe:
            raise DataError(
                f"The cross-validation in {folder} was made by another recipe: cross-validate this one, or give the "
                "recipe it had (--recipe)."
            )
        return found


def cross_temperatures(logits: FloatArray, labels: IntArray, folds: IntArray) -> list[float]:
    """Of each fold, the temperature that the cells of the other folds have."""
    return [fit_temperature(logits[folds != fold], labels[folds != fold]) for fold in np.unique(folds)]


def cross_fitted_coverage(
    probabilities: FloatArray,
    labels: IntArray,
    subjects: Sequence[str | None],
    class_names: Sequence[str],
    folds: IntArray,
) -> dict[str, Any]:
    """How often verdicts are right, wrong or left to a human, by limits that were found on the other folds."""
    codes = np.zeros(len(labels), np.int64)
    for fold in np.unique(folds):
        test = folds == fold
        others = [subject for subject, tested in zip(subjects, test, strict=True) if not tested]
        limits = fit_limits(labels[~test], probabilities[~test], others, class_names)
        codes[test] = verdict_codes(probabilities[test], limits.at())
    return coverage(labels, codes, subjects, class_names)
