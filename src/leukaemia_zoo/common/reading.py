"""Plain data from files that came from elsewhere: JSON and arrays, or one short reason why there is none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.text import reason

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


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= int(digits) < _LARGEST:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits stands in it")
    return int(digits)
