"""The main memory that a model takes, measured in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

from leukaemia_zoo.zoo.loading import config_of, load_model
from leukaemia_zoo.zoo.outputs import class_probabilities

_CHILD_SECONDS = 600
"""A process that has not loaded a model and judged a batch by then hangs."""

_SEED = 0


def noise(count: int, size: tuple[int, int]) -> np.ndarray:
    """Random images, the same in each call: uint8 (count, height, width, 3)."""
    return np.random.default_rng(_SEED).integers(0, 256, (count, *size, 3), dtype=np.uint8)


Peak = tuple[float | None, float | None]
"""The most memory that was taken, and of it what the backend takes before there is a model; None where nobody knows."""


def peak_memory(name: str, path: str, count: int) -> Peak:
    """The most memory, in 10**6 bytes, that a fresh process takes which loads a model and judges `count` images."""
    command = [
        sys.executable,
        "-c",
        "from leukaemia_zoo.benchmarking.memory import _tell_peak_memory; _tell_peak_memory()",
    ]
    environment = os.environ | {
        "KERAS_BACKEND": keras.backend.backend(),
        # What can be imported here can be imported there, however it came about.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    try:
        done = subprocess.run(
            [*command, keras.config.dtype_policy().name, path, str(count)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=True,
        )
        peak, of_backend = json.loads(done.stdout.splitlines()[-1])
        return peak, of_backend
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or "").strip().splitlines()
        warnings.warn(f"The peak memory of '{name}' is not known: {lines[-1] if lines else error}", stacklevel=3)
        return None, None


def _tell_peak_memory() -> None:
    """In that process: load the model that the arguments name, judge one batch, print the most memory it took."""
    policy, path, count = sys.argv[1:]
    keras.config.set_dtype_policy(policy)
    of_backend = _high_water_mark()
    model = load_model(path)
    config = config_of(model)
    class_probabilities(model, config, noise(int(count), config.preprocessing.input_size))
    print(json.dumps([_high_water_mark(), of_backend]))


def _high_water_mark() -> float | None:
    """Main memory that this process took at its most, in 10**6 bytes."""
    try:
        # getrusage would be simpler, but on Linux its maximum begins with the memory of the process that started this.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
