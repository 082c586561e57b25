"""Where the graph of a network comes from: the package, the local cache, or Keras, once.

A graph holds the operations of an architecture at one input size and no weights, so that those of the whole zoo are
small enough to travel inside the package, and a weight that somebody trained further needs none of its own. Graphs of
other sizes are made with Keras and the package ``onnx``, compared with what Keras says of golden cells, and kept in the
cache under their sha256.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import cache_folder, package_folder, replacing
from leukaemia_zoo.errors import EngineError, IntegrityError
from leukaemia_zoo.zoo.registry import ARCHITECTURES, ModelConfig

TOLERANCE = 1e-4
"""A probability from the engine may differ from that of Keras by this much."""

INDEX_FILE = "graphs.json"

_log = logging.getLogger(__name__)


def graph_name(config: ModelConfig) -> str:
    """Name of the graph that a configuration needs: ``mobilenet.texture.128x128``.

    Example:
        >>> from leukaemia_zoo import model_info
        >>> graph_name(model_info("mobilenet").weight.config)
        'mobilenet.texture.128x128'
    """
    return _name(config.architecture, config.head, config.preprocessing.input_size)


def _name(architecture: str, head: str, size: tuple[int, int]) -> str:
    return f"{architecture}.{head}.{size[0]}x{size[1]}"


def packaged_graph(architecture: str, head: str, size: tuple[int, int]) -> bytes | None:
    """The graph of a network of the zoo from the package, ONNX without weights; None if none travels with it."""
    name = _name(architecture, head, size)
    return _packaged(name) if name in _index()["graphs"] else None


def find_graph(config: ModelConfig, weights: str | os.PathLike[str]) -> bytes:
    """The graph of a network, ONNX without weights; one that must be made is compared with Keras on these weights."""
    name = graph_name(config)
    if (packaged := packaged_graph(config.architecture, config.head, config.preprocessing.input_size)) is not None:
        return packaged
    # Somebody's own architecture may be another one tomorrow under the same name.
    is_own = ARCHITECTURES[config.architecture].heads == ("own",)
    if not is_own and (cached := _cached(name)) is not None:
        return cached
    missing = [package for package in ("keras", "onnx") if importlib.util.find_spec(package) is None]
    if missing:
        height, width = config.preprocessing.input_size
        raise EngineError(
            f"There is no graph of '{config.architecture}' with the head '{config.head}' at {height}x{width} pixels in "
            f"this package; to make it, {' and '.join(missing)} must be installed: "
            "`pip install 'leukaemia-zoo[export]'`, or predict with load_model."
        )
    from leukaemia_zoo.engine.making import make_graph

    graph = make_graph(config, weights)
    if not is_own:
        _keep(name, graph)
    return graph


@functools.cache
def _index() -> dict[str, Any]:
    return dict(json.loads((_packaged_folder() / INDEX_FILE).read_text(encoding="utf-8")))


def _packaged_folder() -> Path:
    return package_folder() / "engine" / "graphs"


def _packaged(name: str) -> bytes:
    file = _packaged_folder() / f"{name}.onnx"
    try:
        graph = file.read_bytes()
    except OSError as error:
        raise EngineError(f"{file} cannot be read ({error.strerror}): install leukaemia-zoo again.") from error
    if hashlib.sha256(graph).hexdigest() != _index()["graphs"][name]:
        raise IntegrityError(f"{file} is not the graph that was released: install leukaemia-zoo again.")
    return graph


def _cached(name: str) -> bytes | None:
    """The graph whose bytes have the sha256 in its name; a damaged one is made anew."""
    for file in sorted(cache_folder("graphs").glob(f"{name}.{'[0-9a-f]' * 64}.onnx")):
        try:
            graph = file.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(graph).hexdigest() == file.name.split(".")[-2]:
            return graph
        _log.warning("%s is damaged and is made anew.", file)
    return None


def _keep(name: str, graph: bytes) -> None:
    folder = cache_folder("graphs")
    try:
        for old in folder.glob(f"{name}.*.onnx"):
            old.unlink()
        with replacing(folder / f"{name}.{hashlib.sha256(graph).hexdigest()}.onnx") as beside:
            beside.write_bytes(graph)
    except OSError as error:
        _log.warning("%s cannot be written (%s): the graph will be made again.", folder, error.strerror)
