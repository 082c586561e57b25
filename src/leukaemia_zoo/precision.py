"""How networks are computed in training: in which precision, and compiled or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under another dtype policy; the caller's own is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compiles_steps() -> bool:
    """Whether training steps are compiled with XLA: JAX crawls without, elsewhere it costs more than it saves here."""
    return bool(keras.backend.backend() == "jax")
