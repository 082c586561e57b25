"""Convolutions in whole numbers of 8 bits, with ranges measured on real cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from leukaemia_zoo.engine.names import IMAGES

_QUANTISED = ("Conv",)
"""The statistics behind the convolutions are sums of hundreds of values and differences of squares: not in 8 bits."""


class _Cells(CalibrationDataReader):
    def __init__(self, cells: np.ndarray) -> None:
        self._cells = iter(cells)

    def get_next(self) -> dict[str, Any] | None:
        """The next cell as the graph takes it."""
        cell = next(self._cells, None)
        return None if cell is None else {IMAGES: cell[None].astype(np.float32)}


def quantise(file: Path, cells: np.ndarray) -> None:
    """Replace a graph by one whose convolutions take and hold whole numbers: a scale each channel, static ranges.

    Args:
        file: An ONNX file from images to probabilities.
        cells: Uint8 array (N, height, width, 3), as the preprocessing gives them.
    """
    properties = list(onnx.load(file).metadata_props)
    quantised = file.with_name("int8.onnx")
    quantize_static(
        file,
        quantised,
        _Cells(cells),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(_QUANTISED),
        calibrate_method=CalibrationMethod.MinMax,
    )
    model = onnx.load(quantised)
    del model.metadata_props[:]
    model.metadata_props.extend(properties)
    onnx.save(model, file)
