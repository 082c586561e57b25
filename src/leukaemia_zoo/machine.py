"""On what a result was computed: processor, memory, devices and versions; nothing that tells whose machine it is."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo import __version__


def environment() -> dict[str, Any]:
    """On what costs were measured: versions and hardware, without the names of the machine, its users or its folders.

    Returns:
        Plain data, ready for JSON: ``python``, ``platform``, ``processor``, ``cores`` that this process may use,
        ``memory_gb`` (10**9 bytes; None where the system does not tell), ``leukaemia_zoo``, ``keras``, ``numpy``,
        ``backend`` and ``backend_version``, ``devices`` that the backend computes on, and ``dtype_policy``.

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
