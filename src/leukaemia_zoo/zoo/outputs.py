"""What a network puts out for images: their views, batch by batch, averaged to probabilities or logits."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import STATISTICS_NORM

if TYPE_CHECKING:
    import keras

_networks: weakref.WeakKeyDictionary[keras.Model, dict[str, keras.Model]] = weakref.WeakKeyDictionary()

_BATCH = 256


def class_probabilities(model: keras.Model, config: ModelConfig, batch: np.ndarray) -> np.ndarray:
    """(N, classes) float64 in the order of the classes, also from a single sigmoid unit.

    Views are averaged as log probabilities, which is averaging their logits: the temperature was found for that.
    """
    return averaged_views(model, config, [model.predict_on_batch(view) for view in views_of_batch(config, batch)])


def views_of_batch(config: ModelConfig, batch: np.ndarray) -> np.ndarray:
    """The views of a batch that the network averages over, as float32."""
    return symmetric_views(batch.astype(np.float32), config.views)


def averaged_views(model: keras.Model, config: ModelConfig, outputs: Sequence[Any]) -> np.ndarray:
    """Probabilities (N, classes) from what a network gave for each view."""
    output = np.asarray(outputs, dtype=np.float64)
    if output.shape[-1] == 1:
        output = np.concatenate([1.0 - output, output], axis=-1)
    # Logits, embeddings and NaN would pass for a verdict; a single logit z even sums to 1 with 1 - z.
    if output.shape[-1] != len(config.class_names) or not (
        (output >= 0).all() and np.allclose(output.sum(axis=-1), 1.0, atol=1e-3)
    ):
        raise ArchitectureError(
            f"The model '{model.name}' does not give a probability for each of {', '.join(config.class_names)}: load "
            'it with output="probabilities", and train it again if its weights are not finite.'
        )
    mean = np.log(np.maximum(output, 1e-30)).mean(axis=0)
    odds = np.exp(mean - mean.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def statistics_layer(model: keras.Model) -> keras.layers.Layer | None:
    """The layer whose output are the standard scores; None if a network has none, or was cut off before it."""
    return next((layer for layer in model.layers if layer.name == STATISTICS_NORM), None)


def with_statistics(model: keras.Model) -> keras.Model | None:
    """The same network with a list of two outputs, its own and the standard scores (N, features); None without those.

    It is made once for a model and kept as long as that lives, because a backend compiles each network anew.
    """
    layer = statistics_layer(model)
    return None if layer is None else kept(model, "both", [*model.outputs, layer.output])


def kept(model: keras.Model, kind: str, outputs: Any) -> keras.Model:
    """A network with other outputs, made once and kept as long as the model lives."""
    import keras

    # Not as an attribute: Keras would take it for a part of the model.
    networks = _networks.setdefault(model, {})
    if kind not in networks:
        # One input as such: a list of one is another structure, of which Keras warns.
        inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
        networks[kind] = keras.Model(inputs, outputs, name=model.name)
    return networks[kind]


def has_statistics(model: keras.Model) -> bool:
    """Whether a network describes the cell by statistics that a classifier can be fitted on: the head ``texture``."""
    return any(layer.name == STATISTICS_NORM for layer in model.layers)


def in_batches(network: keras.Model, pixels: np.ndarray) -> Any:
    """One array an output; uint8 pixels go in batch by batch, so that they are never all in float32."""
    starts = range(0, len(pixels), _BATCH)
    found = [network.predict_on_batch(pixels[start : start + _BATCH].astype(np.float32)) for start in starts]
    if isinstance(found[0], list):
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return np.concatenate(found)
