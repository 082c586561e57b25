"""A weight on the inference engine: images in; embeddings, probabilities and OOD scores out. Nothing here is Keras."""

from __future__ import annotations

import importlib.util
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.common.files import sha256_of
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.engine.classifier import Classifier, distance
from leukaemia_zoo.engine.graphs import find_graph
from leukaemia_zoo.engine.trunk import Trunk
from leukaemia_zoo.errors import ArchitectureError, EngineError, TensorMismatchError, WeightsError
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.sources import Found, find
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER, read_tensors

_log = logging.getLogger(__name__)


class Network:
    """A weight of the zoo, or of one's own, ready to judge cells without Keras.

    Attributes:
        zoo: The `ModelConfig`, with classes and preprocessing, as at a loaded Keras model.
        sha256: Of the file of its weights.
        classifier: The last layer.

    Example:
        >>> import numpy as np
        >>> network = Network.load("cnn_attention")
        >>> network.probabilities(np.zeros((2, 100, 100, 3), np.uint8)).shape
        (2, 2)
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: str | os.PathLike[str],
        graph: bytes,
        *,
        complete: bool = False,
        sha256: str | None = None,
    ) -> None:
        """Bind the weights of a safetensors file to a graph, or only its classifier to one that is complete.

        Raises:
            TensorMismatchError: If the file does not hold the weights of the graph.
            WeightsError: If one of them is not finite.
            EngineError: If the engine is not installed.
        """
        tensors = {name: value.astype(np.float32) for name, value in read_tensors(Path(weights)).items()}
        if bad := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
            raise WeightsError(f"{weights} holds numbers that are not finite, in {shortened(bad)}; fetch it again.")
        try:
            self.classifier = Classifier(tensors.pop(f"{LOGITS_LAYER}/kernel"), tensors.pop(f"{LOGITS_LAYER}/bias"))
        except KeyError:
            raise TensorMismatchError(f"{weights} holds no head '{LOGITS_LAYER}'.") from None
        units, classes = self.classifier.bias.size, len(config.class_names)
        if units != classes and (units, classes) != (1, 2):
            raise TensorMismatchError(f"The head in {weights} has {units} units, which do not fit {classes} classes.")
        self.zoo = config
        self.sha256 = sha256 or sha256_of(Path(weights))
        self._trunk = Trunk(graph, tensors, weights, complete=complete)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None = None,
        graph: bytes | None = None,
    ) -> Network:
        """Find a weight as `load_model` does, and its graph.

        Args:
            name: Architecture or weight of the zoo, folder of a saved model, or ``hf://org/name@revision``.
            weights: Folder, ``.safetensors`` file or ``hf://`` repository to take the weight from.
            graph: Its graph, where somebody has found or made it already; see `find_graph`.

        Raises:
            LeukaemiaZooError: As `load_model`; and EngineError if there is no graph of the network, or no engine.
        """
        return cls.of(find(os.fspath(name), weights), graph)

    @classmethod
    def of(cls, found: Found, graph: bytes | None = None, *, complete: bool = False) -> Network:
        """The network of a weight that was found, whose file was compared with its sha256 there."""
        config = found.spec.config
        graph = find_graph(config, found.file) if graph is None else graph
        return cls(config, found.file, graph, complete=complete, sha256=found.spec.sha256)

    @property
    def name(self) -> str:
        """Of the architecture."""
        return self.zoo.architecture

    @property
    def features(self) -> int:
        """Length of an embedding."""
        return int(self.classifier.kernel.shape[0])

    @property
    def has_statistics(self) -> bool:
        """Whether its embeddings are standard scores by the training cells: those of the head ``texture`` are."""
        return self.zoo.head == "texture"

    def embeddings(
        self, batch: np.ndarray, *, views: int | None = None, pool: ThreadPoolExecutor | None = None
    ) -> npt.NDArray[np.float32]:
        """What the classifier sees, mean over the turned and mirrored views.

        Args:
            batch: Array (N, height, width, 3), RGB, 0 to 255, as the preprocessing of the weight gives it.
            views: 1, 2, 4 or 8; None for the number that the weight was calibrated for.
            pool: Threads that share the work on this batch; None for the calling thread alone.

        Returns:
            Float32 array (N, features).

        Raises:
            ArchitectureError: If the batch has another shape, or what comes out is not finite.
        """
        size = (*self.zoo.preprocessing.input_size, 3)
        if batch.ndim != 4 or batch.shape[1:] != size:
            raise ArchitectureError(f"'{self.name}' takes a batch (N, {size[0]}, {size[1]}, 3), not {batch.shape}.")
        turned = symmetric_views(batch, self.zoo.views if views is None else views)
        outputs = self._trunk.views(turned, pool)
        if not np.isfinite(outputs).all():
            raise ArchitectureError(f"The network '{self.name}' gives numbers that are not finite: train it again.")
        return outputs.mean(axis=0)

    def probabilities(self, batch: np.ndarray, *, views: int | None = None) -> npt.NDArray[np.float64]:
        """Float64 array (N, classes) of a batch; see `embeddings`."""
        return self.classifier.probabilities(self.embeddings(batch, views=views))

    def scores(self, embeddings: np.ndarray) -> npt.NDArray[np.float64] | None:
        """OOD scores (N,) from embeddings; None for a head without statistics of its training cells."""
        return distance(embeddings) if self.has_statistics else None


def resolve(model: Any) -> Any:
    """A name, folder or repository becomes a network on the engine; a network that is loaded stays what it is.

    Where the engine has no graph of it and none can be made, it is loaded by Keras, if that is installed.
    """
    if isinstance(model, Network):
        return model
    if not isinstance(model, str | os.PathLike):
        from leukaemia_zoo.zoo.loading import as_model

        return as_model(model)
    try:
        return Network.load(model)
    except EngineError as error:
        if importlib.util.find_spec("keras") is None:
            raise
        try:
            from leukaemia_zoo.zoo.loading import load_model
        except ImportError:  # Keras is there and its backend is not
            raise error from None
        _log.info("%s Keras judges instead.", error)
        return load_model(model)
