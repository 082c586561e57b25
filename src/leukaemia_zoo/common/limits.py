"""Which classes of a cell are ruled out: it gets a verdict, or goes to a human; `conformal` finds the limits.

A verdict is given where one class is left, or none; where two or more are left it is "uncertain".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.common.reading import is_number, is_whole
from leukaemia_zoo.errors import DataError

UNCERTAIN = "uncertain"
UNCERTAIN_CODE = -1


@dataclasses.dataclass(frozen=True)
class VerdictLimits:
    """Probabilities below which a class is ruled out, at several miss rates.

    Attributes:
        class_names: The classes.
        rates: Miss rates, rising: at most this share of the cells of a class, of new people, has the class ruled out.
        limits: For each class, for each rate, the limit; 0 where the people are too few to ever rule the class out.
        people: For each class, how many people the limits were found on.
        default: For each class, the rate that is meant where none is asked for; one of ``rates``.
        referred: Share of the cells, every person counting alike, that were uncertain at the default rates.
    """

    class_names: tuple[str, ...]
    rates: tuple[float, ...]
    limits: tuple[tuple[float, ...], ...]
    people: tuple[int, ...]
    default: tuple[float, ...]
    referred: float

    def at(self, miss_rate: float | None = None) -> npt.NDArray[np.float64]:
        """The limits, float64 (classes,), at one miss rate for all classes, or at the default ones."""
        if miss_rate is not None and miss_rate not in self.rates:
            raise DataError(
                f"There are no limits for a miss rate of {miss_rate!r}: choose one of "
                f"{', '.join(f'{rate:g}' for rate in self.rates)}."
            )
        wanted = self.default if miss_rate is None else (miss_rate,) * len(self.class_names)
        return np.array([row[self.rates.index(rate)] for row, rate in zip(self.limits, wanted, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        names = self.class_names
        return {
            "rates": list(self.rates),
            "limits": {name: list(row) for name, row in zip(names, self.limits, strict=True)},
            "people": dict(zip(names, self.people, strict=True)),
            "default": dict(zip(names, self.default, strict=True)),
            "referred": self.referred,
        }

    @classmethod
    def from_dict(cls, data: Any, class_names: Sequence[str]) -> VerdictLimits:
        """The limits from plain data."""
        try:
            rates = tuple(_share(rate) for rate in data["rates"])
            limits = tuple(tuple(_share(value) for value in data["limits"][name]) for name in class_names)
            people = tuple(_count(data["people"][name]) for name in class_names)
            default = tuple(_share(data["default"][name]) for name in class_names)
            referred = _share(data["referred"])
            whole = all(set(data[key]) == set(class_names) for key in ("limits", "people", "default"))
            known = set(data) == {"rates", "limits", "people", "default", "referred"}
        except (KeyError, TypeError, ValueError):
            whole = False
        if not (
            whole
            and known
            and list(rates) == sorted(set(rates))
            and set(default) <= set(rates)
            and all(len(row) == len(rates) and list(row) == sorted(row) for row in limits)
        ):
            raise DataError(
                "verdict_limits must have rising rates and, for each class, limits, people and a default rate"
            )
        return cls(tuple(class_names), rates, limits, people, default, referred)


def _share(value: Any) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(value)
    return float(value)


def _count(value: Any) -> int:
    if not is_whole(value, 0):
        raise ValueError(value)
    return value


def verdict_codes(probabilities: npt.ArrayLike, limits: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The class of each cell, int64 (N,), or `UNCERTAIN_CODE` where two or more classes are not ruled out.

    The class that is left need not be the likeliest: that one may lie below a limit above 0.5. Where every class is
    ruled out it is the likeliest, which costs no class more than its miss rate.

    Example:
        >>> verdict_codes([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]], [0.3, 0.3]).tolist()
        [0, -1, 1]
        >>> verdict_codes([[0.3, 0.7]], [0.2, 0.8]).tolist()
        [0]
    """
    p = np.asarray(probabilities, float)
    left = p >= np.asarray(limits, float)
    return np.where(left.sum(axis=1) > 1, UNCERTAIN_CODE, (left + p / 2).argmax(axis=1)).astype(np.int64)
