"""Graphs made with Keras, and the proof that they say the same."""

from __future__ import annotations

import os

import keras
import numpy as np

from leukaemia_zoo.engine.golden import golden_cells
from leukaemia_zoo.engine.graphs import TOLERANCE
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.engine.tracing import trace
from leukaemia_zoo.errors import ArchitectureError, EngineError
from leukaemia_zoo.zoo.architectures import build_model
from leukaemia_zoo.zoo.layers import without_random_weights
from leukaemia_zoo.zoo.outputs import class_probabilities
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import head_tensors, load_tensors


def keras_network(config: ModelConfig, weights: str | os.PathLike[str]) -> keras.Model:
    """The network of a configuration with the weights of its safetensors file, as Keras computes it."""
    with without_random_weights():
        model = build_model(
            config.architecture,
            num_classes=head_tensors(os.fspath(weights))[1].size,
            input_size=config.preprocessing.input_size,
            head=config.head,
        )
    load_tensors(model, os.fspath(weights))
    return model


def make_graph(config: ModelConfig, weights: str | os.PathLike[str]) -> bytes:
    """The graph of a network, ONNX without weights, compared with Keras on golden cells."""
    model = keras_network(config, weights)
    try:
        graph = trace(model).SerializeToString(deterministic=True)
    except ArchitectureError as error:
        raise EngineError(str(error)) from error
    cells = golden_cells(*config.preprocessing.input_size)
    expected = class_probabilities(model, config, cells)
    difference = float(np.abs(Network(config, weights, graph).probabilities(cells) - expected).max())
    if not difference <= TOLERANCE:
        raise EngineError(
            f"The graph of '{config.architecture}' differs from Keras by {difference:.1e} in probability, more than "
            f"{TOLERANCE:.0e}: predict with load_model, and tell us."
        )
    return graph
