"""Plain data from elsewhere: JSON and arrays, or one short reason why there is none; numbers that can be used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.text import reason
from leukaemia_zoo.errors import DataError

_LARGEST = 2**63
"""Whole numbers from here on are no count, size or seed; Python alone reads them, and its arithmetic fails on them."""


def parse_json(text: str) -> Any:
    """Plain data from JSON that anything can be done with: every text can be written as UTF-8, every number counted.

    Example:
        >>> parse_json('{"epochs": 4}')
        {'epochs': 4}
    """
    try:
        data = json.loads(text, parse_int=_whole_number)
        json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(reason(error)) from None
    return data


def read_json(path: str | os.PathLike[str]) -> Any:
    """Plain data from a JSON file in UTF-8."""
    return parse_json(Path(path).read_text(encoding="utf-8"))


def read_arrays(path: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """Every array of an ``.npz`` file; objects, which could run code, are refused."""
    with Path(path).open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # zipfile, zlib and NumPy raise errors of a dozen kinds on damaged bytes
            raise ValueError(reason(error) or type(error).__name__) from error


def is_number(value: object) -> bool:
    """Whether a value is a number; True and False, with which Python counts as well, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object, least: float = 1, most: float = math.inf) -> bool:
    """Whether a value is a whole number of any kind, Python's or NumPy's, within bounds; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most


def whole(value: Any, name: str, least: int = 1, most: float = math.inf) -> int:
    """A whole number within bounds as an `int`, or a DataError that names it.

    Example:
        >>> whole(np.int64(3), "resamples")
        3
    """
    if not is_whole(value, least, most):
        to = "on" if most == math.inf else f"to {most}"
        raise DataError(f"{name} is {value!r}: give a whole number from {least} {to}.")
    return int(value)


def checked_seed(seed: Any) -> int:
    """A seed that every generator takes, NumPy's and Keras' alike."""
    return whole(seed, "seed", 0, 2**32 - 1)


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= int(digits) < _LARGEST:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits stands in it")
    return int(digits)
