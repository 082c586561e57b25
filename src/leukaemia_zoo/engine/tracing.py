"""From a Keras network to a graph of the ONNX standard that holds no weights, only their names.

The graph ends at the embedding, where the classifier begins: the same graph serves every weight of an architecture,
however many classes it tells apart. Its weights are bound by name from the safetensors file when an engine loads it, in
the layout of Keras; the engine turns them and folds each normalisation into the convolution before it, once, then.
This is the one module of the wing that needs Keras, and with it the package ``onnx`` (the extra ``export``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from leukaemia_zoo.engine.names import EMBEDDINGS, IMAGES, OPSET, UNBOUND
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.layers import MASK_FLOOR, AttentionBlock, CellMask, CellStatistics
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER, named_variables

_BATCH = "cells"


def trace(model: keras.Model) -> onnx.ModelProto:
    """The graph of a functional network, from ``images`` to what its layer ``embedding`` gives, ``embeddings``.

    Each weight is an initialiser without data, called as in our safetensors files.

    Example:
        >>> from leukaemia_zoo.zoo import build_model
        >>> [output.name for output in trace(build_model("cnn_attention", head="texture")).graph.output]
        ['embeddings']
    """
    if not any(layer.name == EMBEDDING_LAYER for layer in model.layers):
        raise ArchitectureError(f"The model '{model.name}' has no layer '{EMBEDDING_LAYER}', where a graph could end.")
    _, height, width, channels = model.inputs[0].shape
    if None in (height, width) or channels != 3:
        raise ArchitectureError(f"The model '{model.name}' has no fixed input (height, width, 3).")
    tracer = _Tracer({id(variable): name for name, variable in named_variables(model).items()})
    images = tracer.add("Transpose", [IMAGES], (None, height, width, 3), perm=[0, 3, 1, 2])
    features = keras.Model(model.inputs, model.get_layer(EMBEDDING_LAYER).output)
    embeddings = tracer.walk(features, images)
    if len(embeddings.shape) != 2:
        raise ArchitectureError(f"The embedding of '{model.name}' is not one vector an image.")
    tracer.nodes.append(helper.make_node("Identity", [embeddings.name], [EMBEDDINGS]))
    graph = helper.make_graph(
        tracer.nodes,
        model.name,
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, [_BATCH, height, width, 3])],
        [helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, [_BATCH, embeddings.shape[1]])],
        [*tracer.weights.values(), *tracer.constants.values()],
    )
    # The oldest format that holds all of it, so that older engines read it too.
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="leukaemia-zoo")


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What flows between two nodes: its name, and its shape as Keras has it (channels last)."""

    name: str
    shape: tuple[Any, ...]


class _Tracer:
    """Nodes, weights and constants of the graph as far as it has been written."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self.constants: dict[str, TensorProto] = {}

    def add(self, kind: str, inputs: list[str], shape: tuple[Any, ...], **attributes: Any) -> _Tensor:
        """One node of the kind, with one output of the shape."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return _Tensor(name, shape)

    def reshaped(self, x: _Tensor, *shape: int) -> _Tensor:
        """The same numbers of each cell in another shape."""
        return self.add("Reshape", [x.name, self.constant([0, *shape], np.int64)], (None, *shape))

    def weight(self, variable: Any) -> str:
        """Name of a weight, which gets its values when the graph is loaded."""
        name = self.names[id(variable)]
        if name not in self.weights:
            tensor = TensorProto(name=name, dims=tuple(variable.shape), data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=UNBOUND)
            self.weights[name] = tensor
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Name of numbers that belong to the graph itself."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def walk(self, model: Any, inputs: Any) -> Any:
        """Through a network, layer by layer; inner networks are walked too."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = self._through(layer)(inputs)
            return inputs
        # Sees a shared layer as often as it is used; Keras has no public way through a graph that does.
        return model._run_through_graph(inputs, operation_fn=self._through)

    def _through(self, operation: Any) -> Callable[..., Any]:
        if isinstance(operation, keras.Function):
            return lambda inputs, **_: self.walk(operation, inputs)
        write = next((write for kind, write in _WRITERS.items() if isinstance(operation, kind)), None)
        if write is None and not isinstance(operation, layers.Layer):
            write = _BARE.get(type(operation).__name__)
        if write is None:
            raise ArchitectureError(
                f"No graph can be made of '{operation.name}': nothing is known here of layers of the kind "
                f"{type(operation).__name__}."
            )
        return lambda *args, **_: write(self, operation, *args)


# ---------------------------------------------------------------------------------------------------------------------
# One writer a kind of layer. Inside, maps are (cells, channels, height, width), as engines want them.


def _activated(tracer: _Tracer, activation: Any, x: _Tensor) -> _Tensor:
    name = getattr(activation, "__name__", str(activation))
    if activation is None or name == "linear":
        return x
    if name == "relu6":
        return tracer.add("Clip", [x.name, tracer.constant(0.0), tracer.constant(6.0)], x.shape)
    if name == "elu":
        # max(x, exp(min(x, 0)) - 1) takes a third of the time of ONNX Runtime's own Elu, half of `cnn_attention`.
        below = tracer.add("Clip", [x.name, "", tracer.constant(0.0)], x.shape)
        below = tracer.add("Exp", [below.name], x.shape)
        below = tracer.add("Sub", [below.name, tracer.constant(1.0)], x.shape)
        return tracer.add("Max", [x.name, below.name], x.shape)
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus"}
    if name not in kinds:
        raise ArchitectureError(f"No graph can be made with the activation '{name}'.")
    return tracer.add(kinds[name], [x.name], x.shape)


def _check_channels_last(layer: Any) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ArchitectureError(f"No graph can be made of '{layer.name}': it does not take channels last.")


def _window(layer: Any, shape: tuple[Any, ...], window: tuple[int, int]) -> tuple[list[int], list[int]]:
    """(height, width) that come out of a window that slides, and the padding (top, left, bottom, right)."""
    strides = layer.strides
    dilation = getattr(layer, "dilation_rate", (1, 1))
    sizes, before, after = [], [], []
    for side, size, stride, step in zip(shape[1:3], window, strides, dilation, strict=True):
        span = (size - 1) * step + 1
        if layer.padding == "same":
            out = math.ceil(side / stride)
            total = max((out - 1) * stride + span - side, 0)
        elif layer.padding == "valid":
            out, total = (side - span) // stride + 1, 0
        else:
            raise ArchitectureError(f"No graph can be made with the padding '{layer.padding}' of '{layer.name}'.")
        sizes.append(out)
        before.append(total // 2)
        after.append(total - total // 2)
    return sizes, [*before, *after]


def _convolution(tracer: _Tracer, layer: Any, x: _Tensor, kernel: Any, bias: Any, depthwise: bool) -> _Tensor:
    _check_channels_last(layer)
    rows, columns, channels, multiple = kernel.shape
    sizes, pads = _window(layer, x.shape, (rows, columns))
    if depthwise:
        turned = tracer.add("Transpose", [tracer.weight(kernel)], (), perm=[2, 3, 0, 1]).name
        if multiple > 1:
            shape = tracer.constant([channels * multiple, 1, rows, columns], np.int64)
            turned = tracer.add("Reshape", [turned, shape], ()).name
        count, groups = channels * multiple, channels
    else:
        turned = tracer.add("Transpose", [tracer.weight(kernel)], (), perm=[3, 2, 0, 1]).name
        count, groups = multiple, layer.groups if hasattr(layer, "groups") else 1
    return tracer.add(
        "Conv",
        [x.name, turned, *([tracer.weight(bias)] if bias is not None else [])],
        (None, *sizes, count),
        kernel_shape=[rows, columns],
        strides=list(layer.strides),
        pads=pads,
        dilations=list(layer.dilation_rate),
        group=groups,
    )


def _conv2d(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    depthwise, bias = isinstance(layer, layers.DepthwiseConv2D), layer.bias if layer.use_bias else None
    convolved = _convolution(tracer, layer, x, layer.kernel, bias, depthwise)
    return _activated(tracer, layer.activation, convolved)


def _separable(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    x = _convolution(tracer, layer, x, layer.depthwise_kernel, None, depthwise=True)
    turned = tracer.add("Transpose", [tracer.weight(layer.pointwise_kernel)], (), perm=[3, 2, 0, 1]).name
    bias = [tracer.weight(layer.bias)] if layer.use_bias else []
    count = layer.pointwise_kernel.shape[-1]
    x = tracer.add("Conv", [x.name, turned, *bias], (*x.shape[:-1], count), kernel_shape=[1, 1])
    return _activated(tracer, layer.activation, x)


def _dense(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    if len(x.shape) != 2:
        raise ArchitectureError(f"No graph can be made of '{layer.name}': it takes more than one vector a cell.")
    bias = [tracer.weight(layer.bias)] if layer.use_bias else []
    out = tracer.add("Gemm", [x.name, tracer.weight(layer.kernel), *bias], (None, layer.units))
    return _activated(tracer, layer.activation, out)


def _normalised(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    if layer.axis not in (-1, len(x.shape) - 1):
        raise ArchitectureError(f"No graph can be made of '{layer.name}': it does not normalise channels.")
    count = x.shape[-1]
    scale = tracer.weight(layer.gamma) if layer.scale else tracer.constant(np.ones(count))
    shift = tracer.weight(layer.beta) if layer.center else tracer.constant(np.zeros(count))
    moving = [tracer.weight(layer.moving_mean), tracer.weight(layer.moving_variance)]
    return tracer.add("BatchNormalization", [x.name, scale, shift, *moving], x.shape, epsilon=layer.epsilon)


def _rescaled(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    for kind, value, neutral in (("Mul", layer.scale, 1.0), ("Add", layer.offset, 0.0)):
        values = np.asarray(value, np.float32)
        if (values != neutral).any():
            # One number a channel; channels lie behind the batch here.
            shaped = values.reshape(1, -1, 1, 1) if values.ndim else values
            x = tracer.add(kind, [x.name, tracer.constant(shaped)], x.shape)
    return x


def _relu(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    if layer.negative_slope or layer.threshold:
        raise ArchitectureError(f"No graph can be made of '{layer.name}': it leaks, or begins above zero.")
    if layer.max_value is None:
        return tracer.add("Relu", [x.name], x.shape)
    return tracer.add("Clip", [x.name, tracer.constant(0.0), tracer.constant(float(layer.max_value))], x.shape)


def _pooled(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    _check_channels_last(layer)
    sizes, pads = _window(layer, x.shape, layer.pool_size)
    largest = isinstance(layer, layers.MaxPooling2D)
    # What was added at the edges is in no average.
    more = {} if largest else {"count_include_pad": 0}
    return tracer.add(
        "MaxPool" if largest else "AveragePool",
        [x.name],
        (None, *sizes, x.shape[-1]),
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        pads=pads,
        **more,
    )


def _pooled_globally(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    _check_channels_last(layer)
    kind = "GlobalAveragePool" if isinstance(layer, layers.GlobalAveragePooling2D) else "GlobalMaxPool"
    pooled = tracer.add(kind, [x.name], (None, 1, 1, x.shape[-1]))
    return tracer.add("Flatten", [pooled.name], (None, x.shape[-1]), axis=1)


def _flattened(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    if len(x.shape) == 2:
        return x
    # Keras flattens with the channels last.
    turned = tracer.add("Transpose", [x.name], x.shape, perm=[0, 2, 3, 1])
    _, height, width, channels = x.shape
    return tracer.add("Flatten", [turned.name], (None, height * width * channels), axis=1)


def _padded(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    (top, bottom), (left, right) = layer.padding
    pads = tracer.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    _, height, width, channels = x.shape
    return tracer.add("Pad", [x.name, pads], (None, height + top + bottom, width + left + right, channels))


def _cropped(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    (top, bottom), (left, right) = layer.cropping
    _, height, width, channels = x.shape
    ends = [height - bottom, width - right]
    bounds = [tracer.constant(values, np.int64) for values in ([top, left], ends, [2, 3])]
    return tracer.add("Slice", [x.name, *bounds], (None, ends[0] - top, ends[1] - left, channels))


def _concatenated(tracer: _Tracer, layer: Any, *args: Any) -> _Tensor:
    parts = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else [arg])]
    if layer.axis not in (-1, len(parts[0].shape) - 1):
        raise ArchitectureError(f"No graph can be made of '{layer.name}': it does not join channels.")
    shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    return tracer.add("Concat", [part.name for part in parts], shape, axis=1)


def _merged(kind: str) -> Callable[..., _Tensor]:
    def write(tracer: _Tracer, layer: Any, *args: Any) -> _Tensor:
        first, *others = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else [arg])]
        for other in others:
            first = tracer.add(kind, [first.name, other.name], first.shape)
        return first

    return write


def _same(tracer: _Tracer, layer: Any, x: _Tensor) -> _Tensor:
    return x


def _mask(tracer: _Tracer, layer: Any, images: _Tensor) -> _Tensor:
    _, height, width, channels = images.shape
    # As rows of pixels, which ONNX Runtime does not turn back to channels last, where a maximum takes twice as long.
    flat = tracer.reshaped(images, channels, height * width)
    brightest = tracer.add("ReduceMax", [flat.name], (None, 1, height * width), axes=[1], keepdims=1)
    is_cell = tracer.add("Greater", [brightest.name, tracer.constant(layer.threshold)], brightest.shape)
    mask = tracer.reshaped(tracer.add("Cast", [is_cell.name], (), to=TensorProto.FLOAT), 1, height, width)
    return _Tensor(mask.name, (None, height, width, 1))


def _statistics(tracer: _Tracer, layer: Any, x: _Tensor, cell: _Tensor) -> _Tensor:
    _, height, width, channels = x.shape
    one, tiny = (None, channels, 1), tracer.constant(1e-6)
    lowered = tracer.add("Sub", [cell.name, tracer.constant(MASK_FLOOR)], cell.shape)
    weight = tracer.reshaped(tracer.add("Relu", [lowered.name], cell.shape), height * width, 1)
    total = tracer.add("ReduceSum", [weight.name, tracer.constant([1], np.int64)], (None, 1, 1), keepdims=1)
    total = tracer.add("Add", [total.name, tiny], total.shape)
    share = tracer.add("Div", [weight.name, total.name], weight.shape)
    x = tracer.reshaped(x, channels, height * width)
    # Weighted sums as matrix products, which take half the time of a product and a sum.
    mean = tracer.add("MatMul", [x.name, share.name], one)
    centred = tracer.add("Sub", [x.name, mean.name], x.shape)
    squares = tracer.add("Mul", [centred.name, centred.name], x.shape)
    variance = tracer.add("MatMul", [squares.name, share.name], one)
    deviation = tracer.add("Sqrt", [tracer.add("Add", [variance.name, tiny], one).name], one)
    joined = tracer.add("Concat", [mean.name, deviation.name], (None, 2 * channels, 1), axis=1)
    return tracer.add("Flatten", [joined.name], (None, 2 * channels), axis=1)


def _gated(tracer: _Tracer, layer: Any, x: _Tensor) -> Any:
    shape = (*x.shape[:-1], 1)
    turned = tracer.add("Reshape", [tracer.weight(layer.kernel), tracer.constant([1, -1, 1, 1], np.int64)], ())
    bias = [tracer.weight(layer.bias)] if layer.bias is not None else []
    score = tracer.add("Conv", [x.name, turned.name, *bias], shape, kernel_shape=[1, 1])
    gate = _activated(tracer, layer.activation, score)
    gated = tracer.add("Mul", [x.name, gate.name], x.shape)
    return (gated, gate) if layer.return_attention else gated


def _flipped(tracer: _Tracer, operation: Any, x: _Tensor) -> _Tensor:
    if operation.axis not in (-1, 3) or len(x.shape) != 4:
        raise ArchitectureError(f"No graph can be made of '{operation.name}': it flips more than the channels.")
    channels = x.shape[-1]
    order = tracer.constant(np.arange(channels)[::-1], np.int64)
    return tracer.add("Gather", [x.name, order], x.shape, axis=1)


_WRITERS: dict[type, Callable[..., Any]] = {
    layers.DepthwiseConv2D: _conv2d,
    layers.SeparableConv2D: _separable,
    layers.Conv2D: _conv2d,
    layers.Dense: _dense,
    layers.BatchNormalization: _normalised,
    layers.Rescaling: _rescaled,
    layers.Activation: lambda tracer, layer, x: _activated(tracer, layer.activation, x),
    layers.ReLU: _relu,
    layers.MaxPooling2D: _pooled,
    layers.AveragePooling2D: _pooled,
    layers.GlobalAveragePooling2D: _pooled_globally,
    layers.GlobalMaxPooling2D: _pooled_globally,
    layers.Flatten: _flattened,
    layers.ZeroPadding2D: _padded,
    layers.Cropping2D: _cropped,
    layers.Concatenate: _concatenated,
    layers.Add: _merged("Add"),
    layers.Multiply: _merged("Mul"),
    layers.Dropout: _same,
    layers.SpatialDropout2D: _same,
    layers.Identity: _same,
    CellMask: _mask,
    CellStatistics: _statistics,
    AttentionBlock: _gated,
}

# Bare operations in a graph, which Keras names by classes that are not public.
_BARE: dict[str, Callable[..., Any]] = {"Flip": _flipped}
