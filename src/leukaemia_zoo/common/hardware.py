"""The machine: what it is, in which precision it computes, and the devices that share a training.

On several devices a batch is cut into equal parts, and each device computes the gradients of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo._version import __version__
from leukaemia_zoo.common.reading import is_whole
from leukaemia_zoo.errors import DataError, DeviceError

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
    if wanted != ALL and not is_whole(wanted):
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


def environment() -> dict[str, Any]:
    """On what costs were measured: versions and hardware, without the names of the machine, its users or its folders.

    Example:
        >>> sorted(environment())[:5]
        ['backend', 'backend_version', 'cores', 'devices', 'dtype_policy']
    """
    backend = keras.backend.backend()
    return {
        "python": platform.python_version(),
        # Only the numbers of the release: what follows them can be the name of a place.
        "platform": " ".join(
            [platform.system(), *re.findall(r"^[\d.]*\d", platform.release()), platform.machine()],
        ),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory(),
        "leukaemia_zoo": __version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": backend,
        "backend_version": getattr(importlib.import_module(backend), "__version__", None),
        "devices": computing_devices(),
        "dtype_policy": keras.config.dtype_policy().name,
    }


def _processor() -> str:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return re.findall(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)[0].strip()
    except (OSError, IndexError):
        pass
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def has_bfloat16_instructions() -> bool:
    """Whether the processor computes in bfloat16 itself, as far as the system tells: ``/proc/cpuinfo`` of Linux does.

    Intel and AMD call the instructions ``avx512_bf16`` and ``amx_bf16``, Arm ``bf16``.
    """
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return bool(found) and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(found[0].split())


def computing_devices() -> list[str]:
    """On what the backend computes: ``["cpu"]``, or ``"gpu NVIDIA ..."`` for each GPU.

    What a GPU is called each backend tells in its own way.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # Visible and not logical ones: to list those takes all memory of a GPU.
        found = [
            (device.device_type, tf.config.experimental.get_device_details(device).get("device_name", ""))
            for device in tf.config.get_visible_devices()
        ]
    elif backend == "jax":
        import jax

        found = [(device.platform, device.device_kind) for device in jax.devices()]
    elif backend == "torch":
        import torch

        kind = keras.ops.convert_to_tensor(0.0).device.type
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        found = [("gpu", name) for name in names] if kind == "cuda" else [(kind, "")]
    else:
        found = [(device.split(":")[0], "") for device in keras.distribution.list_devices()]
    found = [(kind.lower(), name) for kind, name in found]
    # TensorFlow lists the processor beside its GPUs, though it computes on it only what they cannot.
    computing = [device for device in found if device[0] != "cpu"] or found
    return [kind if name.lower() in ("", kind) else f"{kind} {name}" for kind, name in computing]


AUTOMATIC = "auto"
"""The recipe's way to say: in bfloat16 where the device has it."""


def resolved(policy: str) -> str:
    """The dtype policy that is meant on this machine.

    Args:
        policy: Name of a policy of Keras, or ``"auto"``: ``"mixed_bfloat16"`` on GPUs, TPUs and processors that say
            that they have bfloat16 instructions, else ``"float32"``, which is faster where bfloat16 is emulated.

    Raises:
        DataError: If Keras knows no such policy.
    """
    if policy == AUTOMATIC:
        kinds = {device.split(" ")[0] for device in computing_devices()}
        fast = bool(kinds & {"gpu", "cuda", "tpu"}) or (kinds == {"cpu"} and has_bfloat16_instructions())
        return "mixed_bfloat16" if fast else "float32"
    try:
        return str(keras.dtype_policies.DTypePolicy(policy).name)
    except (ValueError, TypeError):
        raise DataError(
            f"The recipe's precision '{policy}' is no dtype policy of Keras: write 'auto', 'float32' or "
            "'mixed_bfloat16'."
        ) from None


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under another dtype policy, or under what ``"auto"`` means; the caller's own is put back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(resolved(policy))
    try:
        with own_settings():
            yield
    finally:
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Build layers that take float32 images, channels last, whatever Keras is set to; that is put back.

    ``keras.json`` and ``keras.config`` may say otherwise for other programs of the same user.
    """
    order, floats = keras.config.image_data_format(), keras.config.floatx()
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_image_data_format(order)
        keras.config.set_floatx(floats)


def compiles_steps() -> bool:
    """Whether training steps are compiled with XLA: JAX crawls without, elsewhere it costs more than it saves here."""
    return bool(keras.backend.backend() == "jax")
