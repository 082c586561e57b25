"""Convolutions in whole numbers of 8 bits, with ranges measured on real cells."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from leukaemia_zoo.engine.names import EMBEDDINGS, IMAGES

_FIRST = 3
"""Convolutions from the pixels on that stay in floating point, in a network without depthwise ones."""


class _Cells(CalibrationDataReader):
    def __init__(self, cells: np.ndarray) -> None:
        self._cells = iter(cells)

    def get_next(self) -> dict[str, Any] | None:
        """The next cell as the graph takes it."""
        cell = next(self._cells, None)
        return None if cell is None else {IMAGES: cell[None].astype(np.float32)}


def quantise(file: Path, cells: np.ndarray) -> None:
    """Replace a graph by one whose convolutions take and hold whole numbers: a scale each channel, static ranges.

    The first convolutions stay in floating point, where texture still lies in small differences, and so do the
    statistics behind them, which are sums of hundreds of values. Numbers are rounded behind an activation and not
    before it: `mobilenet` keeps 0 to 6 of them, a fifth of what comes out of a convolution.

    Rounding a weight changes what comes out by its error times what comes in, which is the same everywhere for the mean
    of what comes in. That is taken off each bias. It was nine tenths of the error in the first depthwise convolutions
    of `mobilenet`, and half of all of it. What is left on average in each feature is taken off at the end.
    """
    model = onnx.load(file)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = [_groups(node) > 1 for node in convolutions]
    first = depthwise.index(True) + 1 if True in depthwise else _FIRST
    quantised = file.with_name("int8.onnx")
    logging.getLogger().addFilter(_is_no_advice)
    try:
        quantize_static(
            file,
            quantised,
            _Cells(cells),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "Clip"],
            nodes_to_exclude=[node.name for node in convolutions[:first]],
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.getLogger().removeFilter(_is_no_advice)
    rounded = onnx.load(quantised)
    _correct_biases(rounded, model, cells)
    onnx.save(rounded, quantised)
    shift = (_embeddings(file, cells) - _embeddings(quantised, cells)).mean(axis=0)
    _add_to_embeddings(rounded.graph, shift)
    del rounded.metadata_props[:]
    rounded.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(rounded)
    onnx.save(rounded, file)


def _correct_biases(rounded: onnx.ModelProto, model: onnx.ModelProto, cells: np.ndarray) -> None:
    """Take off each bias what the rounding of the weights adds to a channel on average."""
    before = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    exact = {tensor.name: tensor for tensor in model.graph.initializer}
    whole = {tensor.name: tensor for tensor in rounded.graph.initializer}
    made_by = {name: node for node in rounded.graph.node for name in node.output}
    means = _mean_inputs(model, sorted({node.input[0] for node in before.values()}), cells)
    for node in rounded.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[1] not in made_by:
            continue  # without a bias, or in floating point
        weights, bias = (made_by[name] for name in node.input[1:])
        kernel = numpy_helper.to_array(exact[before[node.name].input[1]])
        values, scales = (numpy_helper.to_array(whole[name]) for name in weights.input[:2])
        error = (values * scales[:, None, None, None].astype(np.float64) - kernel).sum(axis=(2, 3))
        groups = _groups(node)
        mean = means[before[node.name].input[0]].reshape(groups, -1)
        added = np.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), mean).ravel()
        values, scales = (numpy_helper.to_array(whole[name]) for name in bias.input[:2])
        corrected = (values - np.rint(added / scales)).astype(np.int32)
        whole[bias.input[0]].CopyFrom(numpy_helper.from_array(corrected, bias.input[0]))


def _mean_inputs(model: onnx.ModelProto, names: list[str], cells: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of each channel of what convolutions take, over cells and places."""
    looked = onnx.ModelProto()
    looked.CopyFrom(model)
    looked.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(looked.SerializeToString(), providers=["CPUExecutionProvider"])
    sums: dict[str, np.ndarray] = {}
    for cell in cells:
        maps = session.run(names, {IMAGES: cell[None].astype(np.float32)})
        for name, each in zip(names, maps, strict=True):
            sums[name] = sums.get(name, 0.0) + each.mean(axis=(0, 2, 3), dtype=np.float64)
    return {name: total / len(cells) for name, total in sums.items()}


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """ONNX Runtime advises to fold constants first, which was done."""
    return "pre-processing" not in record.getMessage()


def _embeddings(file: Path, cells: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([EMBEDDINGS], {IMAGES: cell[None].astype(np.float32)})[0] for cell in cells])


def _add_to_embeddings(graph: Any, shift: np.ndarray) -> None:
    (place,) = [place for place, node in enumerate(graph.node) if EMBEDDINGS in node.output]
    graph.node[place].output[:] = ["embeddings_rounded"]
    graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), "rounding"))
    graph.node.insert(place + 1, helper.make_node("Add", ["embeddings_rounded", "rounding"], [EMBEDDINGS]))
