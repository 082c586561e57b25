"""A network as one file for other programs, which is run before it is handed over.

The file holds everything between the pixels of a preprocessed cell and the probabilities: scaling, views, classifier
and temperature. What is needed around it, classes, preprocessing and limits, travels in its metadata.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from leukaemia_zoo.cells.preprocessing import check_views
from leukaemia_zoo.common.text import close_matches, reason
from leukaemia_zoo.engine.golden import golden_cells
from leukaemia_zoo.engine.names import IMAGES, PROBABILITIES
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import DataError, EngineError, ExportMissingError, UnknownNameError
from leukaemia_zoo.exporting.metadata import metadata
from leukaemia_zoo.zoo.sources import Found, find

Format = Literal["onnx", "openvino", "bioimageio", "litert", "saved_model"]

_SUFFIX: dict[str, str | None] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "bioimageio": ".zip",
    "litert": ".tflite",
    "saved_model": None,
}
"""By which other programs know a file; a SavedModel is a folder."""

_NEEDED = {
    "onnx": (("onnx",), "'leukaemia-zoo[export]'"),
    "openvino": (("onnx", "openvino"), "'leukaemia-zoo[export]' openvino"),
    "bioimageio": (("onnx", "bioimageio.spec"), "'leukaemia-zoo[bioimageio]'"),
}
"""Of each format, the packages that it takes, and how they are installed; TensorFlow is asked by itself."""

MOST_DIFFERENCE = 1e-3
"""An exported file may differ from the network by this much in probability, or it is not left."""

_NO_CALIBRATION = (
    "int8 needs a folder of cells for its calibration: 20 or more, better 200, like those that will be judged."
)

_MOST = 400
"""Cells that int8 is calibrated and compared on: of more some, evenly spread, are taken."""

_FEWEST = 20
"""Cells for int8, half to calibrate it on and half to compare it on."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares.

    Attributes:
        file: The file, or the folder of a SavedModel; an OpenVINO network has a second file beside it, with the suffix
            ``.bin``.
        difference: The largest difference in probability from the network itself, over ``cells`` cells.
        cells: How many cells it was compared on.
        changed: Cells whose most probable class is another one.
        size: In bytes.
    """

    file: Path
    difference: float
    cells: int
    changed: int
    size: int


def export(
    model: Any,
    out: str | os.PathLike[str],
    *,
    to: Format = "onnx",
    int8: bool = False,
    calibration: Any = None,
    views: int | None = None,
) -> Exported:
    """Write a network as one file for other programs, and prove that it says the same.

    The file takes ``images``, float32 (cells, height, width, 3), RGB, 0 to 255, as the preprocessing of the weight
    gives them, and gives ``probabilities`` (cells, classes), ``embeddings`` (cells, features), where the network
    holds statistics of its training cells ``ood_score`` (cells,), and in ONNX, where it has an `AttentionBlock`,
    ``attention`` (cells, height, width), as `attention_maps` gives it. Views and temperature are inside. Its metadata
    hold classes, preprocessing, limits, licence and that it is for research only: in ONNX and OpenVINO in the file's
    own, in a SavedModel in ``assets.extra/leukaemia_zoo.json``, and in a LiteRT file in a ZIP archive at its end, which
    `zipfile` opens.

    Args:
        model: A weight as `load_model` takes it, or a loaded or trained Keras network of the zoo.
        out: The file to write, ``.onnx``, ``.xml`` for OpenVINO, ``.zip`` for bioimage.io or ``.tflite`` for LiteRT; or
            for a SavedModel a folder that is not there yet, or empty.
        to: ``"onnx"``, ``"openvino"``, ``"bioimageio"``, a package with the ONNX file, its description, model card and
            tensors to test it with; or ``"litert"`` or ``"saved_model"``, which TensorFlow makes.
        int8: Compute convolutions with whole numbers of 8 bits: smaller, faster on processors that have instructions
            for it, and a little different; not what TensorFlow makes. The difference is told in what is returned,
            and refuses nothing.
        calibration: For int8: files, folders or frames of cells like those that will be judged, 20 or more, better 200.
            The ranges of the numbers inside are measured on every other one, and the difference on the rest.
        views: 1, 2, 4 or 8; None for the number that the weight was calibrated for.

    Returns:
        The file and its difference from the network.

    Raises:
        ExportMissingError: If a package for it is not installed.
        UnknownNameError: If there is no such format.
        DataError: If int8 is wanted without calibration cells or in another format, there is no such number of views,
            the name of the file has another suffix, or a folder is there already.
        EngineError: If the file differs by more than 0.001 in probability; it is not left then.
        LeukaemiaZooError: As `load_model`, if there is no such weight.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = export("cnn_attention", f"{folder}/cells.onnx")
        >>> exported.difference < 1e-4
        True
    """
    if to not in get_args(Format):
        raise UnknownNameError(f"Nothing can be exported to '{to}'; {close_matches(str(to), get_args(Format))}")
    file, by_tensorflow = Path(out), to not in _MAKERS
    _check_out(file, to)
    if int8 and by_tensorflow:
        raise DataError(f"int8 is for {', '.join(_MAKERS)}: leave it out, or do not export to {to}.")
    if int8 and calibration is None:
        raise DataError(_NO_CALIBRATION)
    if calibration is not None and not int8:
        raise DataError("Calibration cells are for int8: ask for that too (--int8), or leave the cells out.")
    if by_tensorflow:
        from leukaemia_zoo.exporting import tensorflow_graph

        tensorflow_graph.check_backend()
    else:
        _require(to)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = _found(model, folder)
        network = Network.of(found)
        views = network.zoo.views if views is None else views
        check_views(views, network.zoo.preprocessing.input_size)
        cells = golden_cells(*network.zoo.preprocessing.input_size)
        if by_tensorflow:
            written = [_write_by_tensorflow(network, found, folder, views, to)]
            run = tensorflow_graph.run_litert if to == "litert" else tensorflow_graph.run_saved_model
        else:
            whole = folder / "whole.onnx"
            _write_whole(network, found, whole, views)
            if int8:
                from leukaemia_zoo.exporting.quantising import quantise

                real = _prepared(network, calibration)
                # Judged on cells that it was not calibrated on.
                cells = real[1::2]
                quantise(whole, real[::2])
            make, run = _MAKERS[to]
            written = make(whole, cells, found)
        expected = network.probabilities(cells, views=views)
        probabilities = run(written[0], cells)
        difference = float(np.abs(probabilities - expected).max())
        if not int8 and not difference <= MOST_DIFFERENCE:
            raise EngineError(
                f"{file} was not written: what {to} makes of '{network.name}' differs by {difference:.1e} in "
                f"probability, more than {MOST_DIFFERENCE}; take another format, and tell us."
            )
        size = sum(part.stat().st_size for top in written for part in (top, *top.rglob("*")) if part.is_file())
        for part in written:
            _move(part, file if part.is_dir() else file.with_suffix(part.suffix))
    changed = int((probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return Exported(file, difference, len(cells), changed, size)


def int8_network(model: Any, calibration: Any) -> Network:
    """A network on the engine whose convolutions compute in 8 bits, calibrated on 20 cells or more, better 200."""
    if calibration is None:
        raise DataError(_NO_CALIBRATION)
    _require("onnx")
    from leukaemia_zoo.exporting.quantising import quantise

    with tempfile.TemporaryDirectory() as place:
        found = _found(model, Path(place))
        network = Network.of(found)
        whole = Path(place) / "whole.onnx"
        _write_whole(network, found, whole, views=1)
        quantise(whole, _prepared(network, calibration))
        return Network.of(found, whole.read_bytes(), complete=True)


def _check_out(file: Path, to: str) -> None:
    """Refuse a name that other programs would not know, and a place that holds something else."""
    suffix = _SUFFIX[to]
    if suffix is None:
        if file.exists() and not (file.is_dir() and not any(file.iterdir())):
            raise DataError(f"{file} is there already, and a SavedModel is a folder of its own: name another one.")
    elif file.suffix != suffix or file.is_dir():
        raise DataError(f"{file} does not name a file with the suffix {suffix}, which other programs know {to} by.")


def _write_by_tensorflow(network: Network, found: Found, folder: Path, views: int, to: str) -> Path:
    from leukaemia_zoo.exporting.tensorflow_graph import write_litert, write_saved_model

    about = metadata(network, found, views)
    saved = folder / "saved_model"
    write_saved_model(network, found.file, saved, views, about)
    if to == "saved_model":
        return saved
    write_litert(saved, folder / "whole.tflite", about)
    return folder / "whole.tflite"


def _require(to: str) -> None:
    packages, installed_by = _NEEDED[to]
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        raise ExportMissingError(f"{' and '.join(missing)} is not installed: `pip install {installed_by}`.")


def _is_there(package: str) -> bool:
    import importlib.util

    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is a part of
        return False


def _found(model: Any, folder: Path) -> Found:
    """The weight that is meant; a network in memory is saved first."""
    if isinstance(model, str | os.PathLike):
        return find(os.fspath(model))
    from leukaemia_zoo.zoo.loading import config_of, save_model

    config_of(model)
    save_model(model, folder / "model")
    return find(os.fspath(folder / "model"))


def _prepared(network: Network, images: Any) -> np.ndarray:
    from leukaemia_zoo.cells.arrays import as_image
    from leukaemia_zoo.cells.images import image_items, read_image

    items, are_files = image_items(images)
    items = items[:: max(1, len(items) // _MOST)]
    frames = (read_image(item) if are_files else as_image(item, name="calibration") for item in items)
    pixels = [network.zoo.preprocessing(frame) for frame in frames]
    if len(pixels) < _FEWEST:
        raise DataError(f"There are {len(pixels)} images to calibrate int8 on: give {_FEWEST} or more, better 200.")
    return np.stack(pixels)


def _write_whole(network: Network, found: Found, file: Path, views: int) -> None:
    """The whole graph: views, network, their mean, classifier; constants folded, and with them each BatchNorm."""
    import onnx
    import onnxruntime

    from leukaemia_zoo.exporting.whole_graph import whole_graph

    graph = whole_graph(network, found, views)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Basic: what it writes is ONNX and nothing of the engine's own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file)
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(file)
    del folded.opset_import[:]
    folded.opset_import.extend(graph.opset_import)
    folded.ir_version, folded.producer_name = graph.ir_version, graph.producer_name
    onnx.helper.set_model_props(folded, metadata(network, found, views))
    onnx.checker.check_model(folded, full_check=True)
    onnx.save(folded, file)


def _to_onnx(file: Path, cells: np.ndarray, found: Found) -> list[Path]:
    return [file]


def _to_openvino(file: Path, cells: np.ndarray, found: Found) -> list[Path]:
    import onnx
    import openvino

    model, out = openvino.convert_model(file), file.with_suffix(".xml")
    for entry in onnx.load(file).metadata_props:
        model.set_rt_info(entry.value, ["leukaemia_zoo", entry.key])
    openvino.save_model(model, out, compress_to_fp16=False)
    return [out, out.with_suffix(".bin")]


def _to_bioimageio(file: Path, cells: np.ndarray, found: Found) -> list[Path]:
    from leukaemia_zoo.exporting.bioimageio import GRAPH_FILE, write_package

    parts = file.parent / "package"
    parts.mkdir()
    write_package(file.rename(parts / GRAPH_FILE), cells[:3], found.spec, parts / "package.zip")
    return [parts / "package.zip"]


def _run_bioimageio(file: Path, cells: np.ndarray) -> np.ndarray:
    from leukaemia_zoo.exporting.bioimageio import GRAPH_FILE

    with zipfile.ZipFile(file) as package:
        graph = Path(package.extract(GRAPH_FILE, file.parent / "unpacked"))
    return _run_onnx(graph, cells)


def _run_onnx(file: Path, cells: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([PROBABILITIES], {IMAGES: cell[None].astype(np.float32)})[0] for cell in cells])


def _run_openvino(file: Path, cells: np.ndarray) -> np.ndarray:
    import openvino

    # In full precision: what a processor makes of it in half is its user's choice.
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled({IMAGES: cell[None].astype(np.float32)})[PROBABILITIES] for cell in cells])


_MAKERS: dict[str, tuple[Callable[..., list[Path]], Callable[..., np.ndarray]]] = {
    "onnx": (_to_onnx, _run_onnx),
    "openvino": (_to_openvino, _run_openvino),
    "bioimageio": (_to_bioimageio, _run_bioimageio),
}
"""Of each format, what makes its files of the ONNX file, and what runs the first of them."""


def _move(part: Path, target: Path) -> None:
    from leukaemia_zoo.common.files import replacing

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.is_dir():
            # Beside first: a folder that is copied half must not bear the name.
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
                shutil.copytree(part, Path(beside) / "whole").replace(target)
            return
        with replacing(target) as beside_file:
            shutil.copyfile(part, beside_file)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({reason(error.strerror or error)}): name another file.") from None
