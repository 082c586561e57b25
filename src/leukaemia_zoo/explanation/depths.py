"""A network cut where space is lost: the feature maps that its classifier reads, and the classifier.

A map of a cell needs the last layers that still know where something is. In most networks that is the last convolution;
a head ``texture`` reads feature maps of several depths. Here they are found in the graph itself, so that networks with
other heads, with networks inside them, and fine-tuned ones need no list of layer names.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.layers import CellStatistics
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER


@dataclasses.dataclass(frozen=True, eq=False)
class Depths:
    """A network in two parts.

    Attributes:
        features: From images to a list: the feature maps, (batch, height, width, channels) each, then what else the
            classifier needs, such as the masks of the cell.
        classifier: From that list to the output of the network, (batch, units).
        count: Number of feature maps.
        masks: For each feature map the place in the list of what says how much each of its positions counts for the
            classifier, (batch, height, width, 1); None where all count alike.
        strides: How many pixels of the image a step in each feature map is, down and across.
        gives_logits: Whether the output are logits, else probabilities.
    """

    features: keras.Model
    classifier: keras.Model
    count: int
    masks: tuple[int | None, ...]
    strides: tuple[tuple[float, float], ...]
    gives_logits: bool

    def see(self, images: np.ndarray) -> list[np.ndarray]:
        """The first part, for float32 images."""
        outputs = self.features.predict_on_batch(images)
        return [np.asarray(part) for part in (outputs if isinstance(outputs, list | tuple) else [outputs])]

    def classify(self, parts: list[np.ndarray]) -> np.ndarray:
        """The second part: float32 (batch, units)."""
        # A list of one would be taken for the batch itself.
        return np.asarray(self.classifier.predict_on_batch(parts if len(parts) > 1 else parts[0]))


_known: weakref.WeakKeyDictionary[keras.Model, Depths] = weakref.WeakKeyDictionary()


def depths_of(model: keras.Model) -> Depths:
    """Cut a network with one input and one output; it is done once for a model and kept as long as that lives."""
    if model not in _known:
        _known[model] = _cut(model)
    return _known[model]


def _cut(model: keras.Model) -> Depths:
    if not getattr(model, "inputs", None) or len(model.inputs) != 1:
        raise ArchitectureError(
            f"The model '{model.name}' is no functional network with images as its one input, so that no map can be "
            'made of it: take a network from load_model, or method="occlusion".'
        )
    images, output, gives_logits = _flat(model)
    maps, mask_of = _where_space_ends(output)
    if not maps:
        raise ArchitectureError(
            f"The model '{model.name}' has no feature map with places in it, so that it has no Grad-CAM: take "
            'method="occlusion".'
        )
    others = list({id(mask): mask for mask in mask_of.values()}.values())
    cut = [*maps, *others]
    places = {id(tensor): number for number, tensor in enumerate(cut)}
    masks = tuple(places[id(mask_of[id(one)])] if id(one) in mask_of else None for one in maps)
    strides = tuple(_stride(tensor, {}) for tensor in maps)
    return Depths(keras.Model(images, cut), keras.Model(cut, output), len(maps), masks, strides, gives_logits)


def _flat(model: keras.Model) -> tuple[Any, Any, bool]:
    """Input and output of the graph, in which there are no networks within networks, and whether that are logits."""
    found = next((layer for layer in model.layers if layer.name == LOGITS_LAYER), None)
    images, output = model.inputs[0], model.outputs[0] if found is None else found.output
    whole = keras.Model(images, output)
    if any(_is_network(operation) for operation in whole.operations):
        images = keras.Input(batch_shape=images.shape, dtype=images.dtype)
        output = _walk(whole, images)
        output = output[0] if isinstance(output, list | tuple) else output
    return images, output, found is not None


def _is_network(operation: Any) -> bool:
    return isinstance(operation, keras.Function | keras.Sequential)


def _walk(network: Any, inputs: Any) -> Any:
    """Call every layer of a network once more, those of networks inside it one by one."""

    def through(operation: Any) -> Callable[..., Any]:
        return (lambda inner, **_: _walk(operation, inner)) if _is_network(operation) else operation

    if isinstance(network, keras.Sequential):
        for layer in network.layers:
            inputs = through(layer)(inputs)
        return inputs
    return network._run_through_graph(inputs, operation_fn=through)


def _where_space_ends(output: Any) -> tuple[list[Any], dict[int, Any]]:
    """The last tensors with rows and columns on every way to the output, and by their ids the masks of some."""
    maps: dict[int, Any] = {}
    mask_of: dict[int, Any] = {}
    seen, queue = {id(output)}, [output]
    while queue:
        operation, sources = _made_from(queue.pop(0))
        if isinstance(operation, CellStatistics):
            mask_of[id(sources[0])] = sources[1]
            sources = sources[:1]
        for source in sources:
            if _has_places(source):
                maps.setdefault(id(source), source)
            elif id(source) not in seen:
                seen.add(id(source))
                queue.append(source)
    if any(not _made_from(tensor)[1] for tensor in maps.values()):  # the images themselves: no layer looked at them
        return [], {}
    return list(maps.values()), mask_of


def _has_places(tensor: Any) -> bool:
    """Whether a symbolic tensor is (batch, height, width, channels) with more than one place."""
    return len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)


def _made_from(tensor: Any) -> tuple[Any, list[Any]]:
    """The operation that gave a symbolic tensor, and its inputs; none for an input of the network."""
    history = tensor._keras_history
    return history.operation, history.operation._inbound_nodes[history.node_index].input_tensors


def _stride(tensor: Any, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """Pixels of the image to a step in a feature map, down and across."""
    if id(tensor) not in known:
        operation, sources = _made_from(tensor)
        own, wider = _pair(getattr(operation, "strides", 1)), (1, 1)
        if isinstance(operation, keras.layers.UpSampling2D):
            wider = _pair(operation.size)
        elif isinstance(operation, keras.layers.Conv2DTranspose):
            own, wider = (1, 1), own
        before = [_stride(source, known) for source in sources if len(source.shape) == 4] or [(1.0, 1.0)]
        down, across = np.max(before, axis=0)
        known[id(tensor)] = (float(down * own[0] / wider[0]), float(across * own[1] / wider[1]))
    return known[id(tensor)]


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) and len(value) == 2 else (1, 1)


def enlarging(side: int, positions: int, stride: float) -> np.ndarray:
    """Float64 (side, positions): from the positions of a feature map to the pixels along one side of an image.

    Each position stands for `stride` pixels; between their middles it is linear. What lies outside of all positions, as
    where convolutions without padding lose a margin, is 0.

    Example:
        >>> enlarging(4, 2, 2.0).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    start = max(0.0, (side - stride * positions) / 2)
    centre = (np.arange(side) + 0.5 - start) / stride - 0.5
    inside = (centre >= -0.5) & (centre <= positions - 0.5)
    centre = np.clip(centre, 0, positions - 1)
    rows = np.maximum(1 - np.abs(centre[:, None] - np.arange(positions)), 0.0)
    return np.asarray(rows * inside[:, None])
