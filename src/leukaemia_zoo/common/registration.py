"""Keras learns of the layers of this package as soon as both are there, whichever is imported first.

A ``.keras`` file names its layers, and Keras finds only those that somebody has registered: not every program that
reads such a file calls a function of this package before. Importing the package must not import Keras, which takes
seconds; so where Keras is not there yet, its import is awaited, and TensorFlow's faster kernels are switched on before
it. Nothing here imports Keras.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from leukaemia_zoo.common.text import shown
from leukaemia_zoo.errors import BackendError

_BACKENDS = {"tensorflow": "tensorflow", "jax": "leukaemia-zoo[jax]", "torch": "leukaemia-zoo[torch]"}
"""The backends that this package computes on, and what to install for each."""

_WITH_LAYERS = ("zoo.layers", "zoo.augmentation")
"""The modules that register layers when they are imported; they import nothing of ours that imports Keras."""


_ONE_DNN = "TF_ENABLE_ONEDNN_OPTS"
"""TensorFlow's own switch. It is on where the processor has AVX-512 for neural networks, and off on others, where a
network trains and predicts up to twice as fast with it; set to 0 it stays off."""


def register_layers() -> None:
    """Tell Keras of our layers: now if it has been imported, else as soon as it is."""
    keras = sys.modules.get("keras")
    if keras is None:
        sys.meta_path.insert(0, _AwaitKeras())
    elif hasattr(keras, "saving"):  # else it is being imported by this very import
        _import_layers()


def _import_layers() -> None:
    for name in _WITH_LAYERS:
        # One that is being imported, and has imported Keras therefore, goes on after this.
        if f"leukaemia_zoo.{name}" not in sys.modules:
            importlib.import_module(f"leukaemia_zoo.{name}")


class _AwaitKeras:
    """Of the finders of modules the first; it finds Keras by the others, and acts once its code has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            loader, run = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                os.environ.setdefault(_ONE_DNN, "1")  # read once, when Keras imports TensorFlow
                try:
                    run(module)
                except (ImportError, ValueError) as error:
                    if (problem := _problem_of_backend()) is None:
                        raise
                    raise BackendError(f"{problem}.") from error
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _import_layers()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _problem_of_backend() -> str | None:
    """Why Keras cannot begin, if it is for its backend."""
    name, said_by = _backend()
    known = ", ".join(_BACKENDS)
    if name not in _BACKENDS:
        return f"Keras cannot compute on {shown(name)} ({said_by}): set KERAS_BACKEND to one of {known}"
    if importlib.util.find_spec(name) is not None:
        return None
    ready = [other for other in _BACKENDS if importlib.util.find_spec(other) is not None]
    other = f"{ready[0]}, which is installed" if ready else f"one of {known}"
    mend = f'pip install "{_BACKENDS[name]}", or set KERAS_BACKEND={other}'
    return f"Keras is to compute on {name} ({said_by}), which is not installed: {mend}"


def _backend() -> tuple[str, str]:
    """The backend that Keras takes, as it finds it, and who says so."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "KERAS_BACKEND says so"
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["backend"]), f"{file} says so"
    except (OSError, ValueError, LookupError, TypeError):
        return "tensorflow", "its default"
