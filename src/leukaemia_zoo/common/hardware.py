"""Training on several devices of one machine: the only module that knows how each backend shares the work.

Each device computes an equal part of every batch, and the gradients are averaged, so that all devices keep the same
weights. JAX does it by `keras.distribution.DataParallel`, TensorFlow by its own ``MirroredStrategy``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from leukaemia_zoo.errors import DeviceError

ALL = "all"


def number_of_devices(wanted: int | str, batch_sizes: Iterable[int] = ()) -> int:
    """How many devices to train on.

    Args:
        wanted: A number from 1 on, or ``"all"`` that the backend has: its GPUs or TPUs, else what it calls processors.
        batch_sizes: Of the batches that the devices are to share.

    Raises:
        DeviceError: If it is no such number, the backend has fewer devices or trains on one alone, or a batch cannot be
            shared in equal parts.

    Example:
        >>> number_of_devices(1, [48])
        1
    """
    if wanted != ALL and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1):
        raise DeviceError(f"The number of devices is {wanted!r}, but it is a whole number from 1 on, or 'all'.")
    if wanted == 1:
        return 1
    backend = keras.backend.backend()
    if backend not in ("jax", "tensorflow"):
        raise DeviceError(
            f"With the backend '{backend}' training runs on one device: leave out --devices, or set KERAS_BACKEND to "
            "jax or tensorflow."
        )
    there = len(_names())
    count = there if wanted == ALL else int(wanted)
    if count > there:
        raise DeviceError(
            f"The backend '{backend}' has {there} of the {count} devices: ask for at most {there}, or 'all'."
        )
    for size in sorted(set(batch_sizes)):
        if size % count:
            raise DeviceError(
                f"A batch of {size} cannot be shared in equal parts among {count} devices: ask for another number of "
                "devices, or set batch_size in the recipe to a multiple of it."
            )
    return count


@contextlib.contextmanager
def on_devices(count: int) -> Iterator[None]:
    """Networks that are built, compiled and fitted inside share their batches among the first ``count`` devices.

    With 1 nothing changes. What was built inside can be read and saved outside.
    """
    if count == 1:
        yield
        return
    with _strategy(tuple(_names()[:count])).scope():
        yield


def _names() -> list[str]:
    return list(keras.distribution.list_devices())


@functools.cache
def _strategy(names: tuple[str, ...]) -> Any:
    """One for the same devices: what two of them built cannot be used together."""
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel(devices=list(names))
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"/{name}" for name in names])
