"""Processes in which Keras has another backend than in this one."""

import importlib.metadata
import importlib.util
import os
import sys

import pytest


def environment(backend, *xla_flags):
    """The environment of such a process; the test skips where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if backend == "jax":
        # It compiles much for one batch: optimising it takes longer than it saves, fusing most of all. A release that
        # does not know a flag ends at once, so the second one is for those that were tried.
        tried = importlib.metadata.version("jaxlib").startswith("0.10.")
        fusing = ("--xla_cpu_use_fusion_emitters=false",) if tried else ()
        xla_flags = ("--xla_backend_optimization_level=0", *fusing, *xla_flags)
    own = {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "JAX_PLATFORMS": "cpu",
    }
    return os.environ | own | ({"XLA_FLAGS": " ".join(xla_flags)} if xla_flags else {})


def light_environment():
    """Of the backend that is imported soonest, for tests to which each would do."""
    return environment("jax" if importlib.util.find_spec("jax") else "tensorflow")
