"""From the graph of a network and its weights to one graph from pixels to probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from leukaemia_zoo.engine.graphs import find_graph
from leukaemia_zoo.engine.names import ATTENTION, EMBEDDINGS, IMAGES, PROBABILITIES, SCORES
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.zoo.sources import Found
from leukaemia_zoo.zoo.tensors import read_tensors

_VIEWS = "views"
_OF_VIEWS = "embeddings_of_views"


def whole_graph(network: Network, found: Found, views: int) -> onnx.ModelProto:
    """The graph from images to probabilities, embeddings, OOD scores and, where there is attention, its map."""
    model = onnx.load_from_string(find_graph(network.zoo, found.file))
    tensors = read_tensors(found.file)
    for weight in model.graph.initializer:
        if weight.data_location == TensorProto.EXTERNAL:
            weight.CopyFrom(_constant(weight.name, tensors[weight.name]))
    inner = [node for node in model.graph.node if EMBEDDINGS not in node.output]
    (last,) = [node.input[0] for node in model.graph.node if EMBEDDINGS in node.output]
    for node in inner:
        node.input[:] = [_VIEWS if name == IMAGES else name for name in node.input]
        node.output[:] = [_OF_VIEWS if name == last else name for name in node.output]
        node.input[:] = [_OF_VIEWS if name == last else name for name in node.input]

    gate = _gate(model.graph)
    before, constants = _turned(views)
    features = network.classifier.kernel.shape[0]
    after, more = _judged(network, views, features)
    del model.graph.node[:]
    model.graph.node.extend([*before, *inner, *after])
    model.graph.initializer.extend([*constants, *more])
    cells = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    outputs = [(PROBABILITIES, [cells, len(network.zoo.class_names)]), (EMBEDDINGS, [cells, features])]
    if network.has_statistics:
        outputs.append((SCORES, [cells]))
    if gate is not None:
        looked, more = _of_first_view(gate)
        model.graph.node.extend(looked)
        model.graph.initializer.extend(more)
        outputs.append((ATTENTION, [cells, None, None]))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs)
    return model


def _gate(graph: Any) -> str | None:
    """The gate of the last `AttentionBlock`: what a map of one channel, made from features by a kernel of our own that
    has two axes, becomes before the features are multiplied by it."""
    weights = {weight.name: weight.dims for weight in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    kernels = {
        node.output[0] for node in graph.node if node.op_type == "Reshape" and weights.get(node.input[0], ())[1:] == [1]
    }
    for product in reversed([node for node in graph.node if node.op_type == "Mul"]):
        features, gate = product.input
        node = made_by.get(gate)
        while node is not None and node.op_type != "Conv":
            node = made_by.get(node.input[0])
        if node is not None and node.input[0] == features and node.input[1] in kernels:
            return str(gate)
    return None


def _of_first_view(gate: str) -> tuple[list[Any], list[Any]]:
    """Nodes from the gates of all views, (views x cells, 1, height, width), to those of the cells as they are given."""
    nodes = [
        helper.make_node("Shape", [IMAGES], ["cells_given"], end=1),
        helper.make_node("Slice", [gate, "first_cell", "cells_given", "first_axis"], ["first_gate"]),
        helper.make_node("Squeeze", ["first_gate", "channel_axis"], [ATTENTION]),
    ]
    values = {"first_cell": 0, "first_axis": 0, "channel_axis": 1}
    return nodes, [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in values.items()]


def _turned(views: int) -> tuple[list[Any], list[Any]]:
    """Nodes from images to their views, one batch behind the other, as `symmetric_views` has them."""
    if views == 1:
        return [helper.make_node("Identity", [IMAGES], [_VIEWS])], []
    nodes, names = [], [IMAGES]

    def node(kind: str, source: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, [source, *inputs], [name], name=name, **attributes))
        return name

    def flipped(source: str, axis: int) -> str:
        return node("Slice", source, f"{source}_flip{axis}", "flip_first", "flip_last", f"flip_axis{axis}", "flip_step")

    lying = node("Transpose", IMAGES, f"{IMAGES}_lying", perm=[0, 2, 1, 3])
    names.append(flipped(lying, 2))
    if views > 2:
        names += [flipped(flipped(IMAGES, 1), 2), flipped(lying, 1)]
    if views == 8:
        # Flipping back what was flipped to turn it would be work for nothing.
        names += [flipped(IMAGES, 2), lying, f"{IMAGES}_flip1", flipped(names[3], 2)]
    nodes.append(helper.make_node("Concat", names, [_VIEWS], name=_VIEWS, axis=0))
    bounds = {"flip_first": -1, "flip_last": np.iinfo(np.int64).min + 1, "flip_step": -1}
    constants = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in bounds.items()]
    constants += [numpy_helper.from_array(np.array([axis], np.int64), f"flip_axis{axis}") for axis in (1, 2)]
    # In the order in which they are needed: the flip of the images along 2 is made once for both uses.
    return list({node.output[0]: node for node in nodes}.values()), constants


def _judged(network: Network, views: int, features: int) -> tuple[list[Any], list[Any]]:
    """Nodes from the embeddings of the views to the outputs."""
    kernel, bias = network.classifier.kernel, network.classifier.bias
    if bias.size == 1:  # sigmoid(z) is the second of softmax([0, z])
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    nodes = [
        helper.make_node("Reshape", [_OF_VIEWS, "by_view"], ["embeddings_by_view"]),
        helper.make_node("ReduceMean", ["embeddings_by_view"], [EMBEDDINGS], axes=[0], keepdims=0),
        helper.make_node("Gemm", [EMBEDDINGS, "logits/kernel", "logits/bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=-1),
    ]
    constants = [
        numpy_helper.from_array(np.array([views, -1, features], np.int64), "by_view"),
        _constant("logits/kernel", kernel),
        _constant("logits/bias", bias),
    ]
    if network.has_statistics:
        nodes += [
            helper.make_node("Mul", [EMBEDDINGS, EMBEDDINGS], ["squares"]),
            helper.make_node("ReduceMean", ["squares"], ["mean_square"], axes=[1], keepdims=0),
            helper.make_node("Sqrt", ["mean_square"], [SCORES]),
        ]
    return nodes, constants


def _constant(name: str, value: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
