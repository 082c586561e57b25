"""How many floating-point operations a network takes for one image, from the shapes of its layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.layers import AttentionBlock, CellMask, CellStatistics


def flops(model: keras.Model) -> int:
    """Floating-point operations of one image on its way through a network once, counted from shapes.

    A prediction that averages over views takes as many times more. The count is the same on every backend:

    * A multiply-add is two. Convolutions (``Conv2D``, ``DepthwiseConv2D``, ``SeparableConv2D``) and ``Dense`` take two
      for each entry of their kernels at each position of their output, borders included, and one an output element
      for a bias.
    * ``BatchNormalization``, ``Normalization`` and ``Rescaling`` take two an element: a scale and a shift.
    * Pooling takes one for each element of its window; global pooling one an input element.
    * Activations, also those inside other layers, take one an output element, whatever their formula; so does adding,
      subtracting, multiplying or averaging two feature maps.
    * ``AttentionBlock``, ``CellMask`` and ``CellStatistics`` take what their formulas do.
    * Nothing is counted for what only moves, names or casts numbers: flattening, padding, cropping, concatenating,
      flipping, and dropout, which does nothing outside of training.

    Args:
        model: A functional or sequential model whose input has a fixed size; models may be nested in it.

    Returns:
        The number of operations.

    Raises:
        ArchitectureError: If the size of the input is open, the model is not a graph of layers, or holds a layer that
            is not in the list above: a count without it would be too low.

    Example:
        >>> from leukaemia_zoo.zoo import build_model
        >>> flops(build_model("cnn")) // 1_000_000
        231
    """
    total = 0

    def counted(operation: Any) -> Callable[..., Any]:
        def through(*args: Any, **kwargs: Any) -> Any:
            nonlocal total
            if isinstance(operation, keras.Model):
                return walk(operation, args[0])
            outputs = operation.compute_output_spec(*args, **kwargs)
            total += _operations(operation, _sizes(args), sum(_sizes(outputs)))
            return outputs

        return through

    def walk(part: keras.Model, inputs: Any) -> Any:
        if isinstance(part, keras.Sequential):
            for layer in part.layers:
                inputs = counted(layer)(inputs)
            return inputs
        if not isinstance(part, keras.Function):
            raise ArchitectureError(
                f"The operations of '{part.name}' cannot be counted: it is no graph of layers but code of its own."
            )
        # The one way through a graph that sees a shared layer as often as it is used, and an inner model at the size
        # that it is used with; Keras has no public one that leaves the graph as it is.
        return part._run_through_graph(inputs, operation_fn=counted)

    shapes = [tuple(tensor.shape[1:]) for tensor in getattr(model, "inputs", None) or ()]
    if not shapes or any(side is None for shape in shapes for side in shape):
        raise ArchitectureError(
            f"The operations of '{model.name}' cannot be counted: build it with an input of a fixed size."
        )
    inputs = [keras.KerasTensor((1, *shape)) for shape in shapes]
    walk(model, inputs if len(inputs) > 1 else inputs[0])
    return total


_WEIGHTED = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
_WINDOWS = (layers.MaxPooling2D, layers.AveragePooling2D)
_GLOBAL = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
_SCALES = (layers.BatchNormalization, layers.Normalization, layers.Rescaling)
_MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
_ACTIVATIONS = (layers.ReLU, layers.ELU, layers.LeakyReLU, layers.PReLU, layers.Softmax)
_MOVES = (
    *(layers.InputLayer, layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.Concatenate),
    *(layers.Flatten, layers.Reshape, layers.Permute, layers.ZeroPadding2D, layers.Cropping2D),
)

# Bare operations in a graph, such as ``ops.flip`` or ``x + y``, which Keras names by classes that are not public.
_BARE_MOVES = {"Cast", "Concatenate", "ExpandDims", "Flip", "GetItem", "Reshape", "Squeeze", "Transpose"}
_BARE_ELEMENTS = {"Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Maximum", "Minimum"}


def _operations(operation: Any, inputs: list[int], output: int) -> int:
    """Operations of one layer, from the sizes of its inputs and the size of its output."""
    if isinstance(operation, _WEIGHTED):
        return _weighted(operation, output)
    if isinstance(operation, AttentionBlock):
        positions = inputs[0] // operation.kernel.shape[0]
        # The score is a multiply-add an element, and so is the gate without the addition.
        return 3 * inputs[0] + positions * (int(operation.use_bias) + _activation(operation))
    if isinstance(operation, CellMask):
        return inputs[0]  # the maximum over the channels, and one comparison
    if isinstance(operation, CellStatistics):
        # A multiply-add for the mean; a difference, its square, and a multiply-add for the deviation.
        return 6 * inputs[0]
    if isinstance(operation, _WINDOWS):
        return math.prod(operation.pool_size) * output
    if isinstance(operation, _GLOBAL):
        return inputs[0]
    if isinstance(operation, _SCALES):
        return 2 * output
    if isinstance(operation, _MERGES):
        return (len(inputs) - 1) * output
    if isinstance(operation, layers.Activation):
        return _activation(operation) * output
    if isinstance(operation, _ACTIVATIONS):
        return output
    if isinstance(operation, _MOVES):
        return 0
    kind = type(operation).__name__
    if not isinstance(operation, layers.Layer) and kind in _BARE_MOVES | _BARE_ELEMENTS:
        return output if kind in _BARE_ELEMENTS else 0
    raise ArchitectureError(
        f"The operations of '{operation.name}' cannot be counted: nothing is known of layers of the kind {kind}."
    )


def _weighted(layer: Any, output: int) -> int:
    """Each entry of a kernel is one multiply-add at each position."""
    kernels = [
        tuple(getattr(layer, name).shape)
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel")
        if hasattr(layer, name)
    ]
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    positions = output // (math.prod(kernels[-1][-2:]) if depthwise else kernels[-1][-1])
    return 2 * positions * sum(map(math.prod, kernels)) + output * (int(layer.use_bias) + _activation(layer))


def _activation(layer: Any) -> int:
    return 0 if layer.activation in (None, keras.activations.linear) else 1


def _sizes(tensors: Any) -> list[int]:
    """Numbers of elements, of one image."""
    return [math.prod(tensor.shape) for tensor in keras.tree.flatten(tensors) if isinstance(tensor, keras.KerasTensor)]
