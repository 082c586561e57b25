"""``leukaemia-zoo export``: a network as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from leukaemia_zoo.cli import options, paths

_FORMATS = ("onnx", "openvino", "bioimageio", "litert", "saved_model")
_OUT = ".onnx, .xml for OpenVINO, .zip for bioimage.io, .tflite for LiteRT, or a new folder for a SavedModel"


@click.command()
@click.argument("model", type=options.KNOWN_MODEL, help=options.MODEL)
@click.option(
    "--to",
    type=click.Choice(_FORMATS),
    default="onnx",
    help="kind of the file",
)
@click.option("--out", type=paths.output_folder, required=True, metavar="FILE", help=_OUT)
@click.option("--int8", is_flag=True, help="convolutions in whole numbers: smaller, a little different")
@options.file("--calibration", "for --int8: 20 images of cells or more, better 200", "DIR")
@options.views("views inside")
def export(
    model: str,
    to: Literal["onnx", "openvino", "bioimageio", "litert", "saved_model"],
    out: Path,
    int8: bool,
    calibration: Path | None,
    views: int | None,
) -> int:
    """Write a network as one file for other programs, and say how it compares."""
    from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
    from leukaemia_zoo.exporting.writing import export as write

    exported = write(model, out, to=to, int8=int8, calibration=calibration, views=views)
    kind = "cells that it was not calibrated on" if int8 else "golden cells"
    print(
        f"{printable(str(exported.file))}: {exported.size / 1e6:.1f} MB; on {exported.cells} {kind} it differs from "
        f"the network by at most {exported.difference:.1g} in probability and names another class for "
        f"{exported.changed}."
    )
    print(NOT_A_DIAGNOSIS)
    return 0
