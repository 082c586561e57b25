"""Random generators that begin every epoch at a known place, so that a resumed training goes on as it would have."""

from __future__ import annotations

from typing import Any

import numpy as np

from leukaemia_zoo.errors import DataError


def reseed(model: Any, seed: int, epoch: int) -> None:
    """Set every random generator inside a Keras model (augmentation, dropout) by seed and epoch."""
    for number, layer in enumerate(_flat(model)):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            state = np.random.default_rng([seed, epoch, number]).integers(2**31, size=2)
            generator.state.assign(state.astype(generator.state.dtype))


def checked_seed(seed: Any) -> int:
    """A seed that every generator takes, NumPy's and Keras' alike.

    Raises:
        DataError: If it is no whole number from 0 to 4294967295.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise DataError(f"seed is {seed!r}: give a whole number from 0 to {2**32 - 1}.")
    return int(seed)


def _flat(model: Any) -> list[Any]:
    found = []
    for layer in model.layers:
        found += _flat(layer) if hasattr(layer, "layers") else [layer]
    return found
