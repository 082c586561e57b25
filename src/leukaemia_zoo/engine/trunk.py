"""A network up to its classifier, on the engine: views of cells in, what the classifier sees out."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.common.text import reason
from leukaemia_zoo.engine.names import EMBEDDINGS, IMAGES
from leukaemia_zoo.errors import EngineError, TensorMismatchError
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER, STATISTICS_NORM, named_variables

if TYPE_CHECKING:
    import keras

_LARGE = 8_000_000
"""Weights of more values than the caches of a processor hold are read from memory in each pass: all views in one."""

_BLOCK = 64
"""Cells whose views are in memory at once, where there are many."""


class Trunk:
    """A graph with the weights of one network bound to it."""

    def __init__(
        self, graph: bytes, tensors: dict[str, np.ndarray], source: str | os.PathLike[str], *, complete: bool = False
    ) -> None:
        """Bind weights to a graph by their names, or none to one that is complete.

        Args:
            graph: ONNX, see `find_graph`.
            tensors: Float32 arrays by the names that our safetensors files have, without the classifier.
            source: Where they come from, for an error.
            complete: Whether the graph holds its weights.

        Raises:
            TensorMismatchError: If they are not the weights of the graph.
            EngineError: If the engine is not installed.
        """
        self._session = _session(graph, {} if complete else tensors, source)
        self._piece = 8 if sum(value.size for value in tensors.values()) > _LARGE else 2

    @classmethod
    def of(cls, model: keras.Model, graph: bytes, *, standardised: bool = True) -> Trunk:
        """With the weights that a Keras network has now; with `standardised` False without its `STATISTICS_NORM`."""
        import keras

        tensors = {
            name: np.asarray(keras.ops.convert_to_numpy(variable.value), np.float32)
            for name, variable in named_variables(model).items()
            if name.split("/", 1)[0] != LOGITS_LAYER
        }
        if not standardised:
            ones = np.ones_like(tensors[f"{STATISTICS_NORM}/gamma"])
            epsilon = model.get_layer(STATISTICS_NORM).epsilon
            tensors |= {
                f"{STATISTICS_NORM}/{name}": value
                for name, value in {
                    "gamma": ones * np.float32(math.sqrt(1.0 + epsilon)),
                    "beta": 0 * ones,
                    "moving_mean": 0 * ones,
                    "moving_variance": ones,
                }.items()
            }
        return cls(graph, tensors, f"the network '{model.name}'")

    def views(self, turned: np.ndarray, pool: ThreadPoolExecutor | None = None) -> npt.NDArray[np.float32]:
        """Float32 (views, N, features) of views (views, N, height, width, 3); threads of a pool share the work."""
        flat = turned.reshape(-1, *turned.shape[2:])
        most = self._piece if pool is None else min(self._piece, math.ceil(len(flat) / cores()))
        pieces = [flat[start : start + most] for start in range(0, len(flat), max(most, 1))]
        run_each = map if pool is None else pool.map
        outputs = np.concatenate([*run_each(self._run, pieces)]) if pieces else self._run(flat)
        return outputs.reshape(*turned.shape[:2], outputs.shape[-1])

    def means(self, pixels: np.ndarray, views: int) -> npt.NDArray[np.float32]:
        """Float32 (N, features) of many cells, mean over the symmetric views, on all cores."""
        blocks = [pixels[start : start + _BLOCK] for start in range(0, len(pixels), _BLOCK)]
        with ThreadPoolExecutor(cores()) as pool:
            found = [self.views(symmetric_views(block, views), pool).mean(axis=0) for block in blocks or [pixels]]
        return np.concatenate(found)

    def _run(self, images: np.ndarray) -> np.ndarray:
        outputs = self._session.run([EMBEDDINGS], {IMAGES: images.astype(np.float32)})
        return np.asarray(outputs[0])


def cores() -> int:
    """How many cores this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


def _session(graph: bytes, tensors: dict[str, np.ndarray], source: str | os.PathLike[str]) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"The inference engine cannot be imported ({reason(error)}): `pip install onnxruntime`, or predict with "
            "load_model."
        ) from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is told below
    # One thread a call, and as many calls as there are cores: measured faster than one call on all cores, on cells as
    # small as these, and none of them spins while another works.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the engine has no family of its own for what it refuses
        raise TensorMismatchError(
            f"The tensors in {Path(source)} are not those of its network ({reason(error)}): load the file with the "
            "architecture and options that it was saved with."
        ) from None
