"""Tensors of a network in and out of safetensors files, under stable names of our own.

A safetensors file holds named arrays and a JSON header, nothing else: reading one cannot run code. Names, shapes and
dtypes of all tensors are compared with the network's before the first one is assigned, so that a wrong file leaves the
network as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.files import replacing
from leukaemia_zoo.common.reading import parse_json
from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import TensorMismatchError, WeightsError

LOGITS_LAYER = "logits"
"""The classifier: the layer that is made anew when the classes change."""

EMBEDDING_LAYER = "embedding"
"""What the classifier sees."""

STATISTICS_NORM = "statistics_norm"
"""The normalisation that makes standard scores of the statistics of a cell, in the head ``texture``."""

_ALLOWED_DTYPES = {"F16": np.float16, "F32": np.float32}
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_CONFIG_KEY = "leukaemia_zoo"


def named_variables(model: Any) -> dict[str, Any]:
    """Every weight of a network by its stable name, ``layer/variable``, in the order of the graph.

    Keras numbers the layers that nobody named from a global counter (``conv2d_94`` in one process is ``conv2d_188`` in
    the next); such layers are numbered here from zero in the order of the graph instead. States of random generators
    and optimizers are no weights and are left out.
    """
    counts: dict[str, int] = {}
    variables: dict[str, Any] = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        name = layer.name
        base = _snake_case(type(layer).__name__)
        if re.fullmatch(rf"{base}(_\d+)?", name):
            counts[base] = counts.get(base, -1) + 1
            name = f"{base}_{counts[base]}"
        for variable in layer.weights:
            key = f"{name}/{variable.path.rsplit('/', 1)[-1]}"
            if key in variables:
                raise WeightsError(f"Two weights of '{model.name}' would have the name '{key}'; name its layers apart.")
            variables[key] = variable
    return variables


def _snake_case(name: str) -> str:
    """The stem that Keras names layers of a class by: Conv2D -> conv2d, BatchNormalization -> batch_normalization."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def save_tensors(model: Any, path: str | Path, config: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write the weights of a network, with `config` in the header, to a safetensors file that is whole or not there.

    `half` stores kernels as float16; vectors (biases, BatchNorm statistics), which are small and whose range matters,
    stay float32.
    """
    from safetensors.numpy import save

    tensors = {}
    for name, variable in named_variables(model).items():
        value = np.asarray(_to_numpy(variable), dtype=np.float32)
        with np.errstate(over="ignore"):  # told below
            tensors[name] = np.ascontiguousarray(value.astype(np.float16) if half and value.ndim > 1 else value)
        if not np.isfinite(tensors[name]).all():
            reason = "does not fit float16" if np.isfinite(value).all() else "is not finite"
            raise WeightsError(f"'{name}' of the network '{model.name}' {reason}, so that it was not saved to {path}.")
    metadata = {_CONFIG_KEY: json.dumps(config, sort_keys=True)} if config is not None else None
    with replacing(path) as beside:
        beside.write_bytes(save(tensors, metadata=metadata))


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The plain data that ``save_tensors`` kept in the header of a file, or None where there is none."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_CONFIG_KEY)
    if text is None:
        return None
    try:
        config = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"The header of {path} is not what this package writes ({reason(error)}).") from None
    if not isinstance(config, dict):
        raise WeightsError(f"The header of {path} is not what this package writes (no object).")
    if not _tells_beginnings(config):
        raise WeightsError(f"The header of {path} is not what this package writes of a training: make the file again.")
    return config


def _tells_beginnings(config: dict[str, Any]) -> bool:
    """Whether what a header says of a distillation, and of the weights that it began with, is of its kind."""
    distillation = config.get("distillation")
    if not isinstance(distillation, dict | None):
        return False
    for initial in (config.get("init"), (distillation or {}).get("init")):
        if initial is None:
            continue
        data = initial.get("data", []) if isinstance(initial, dict) else None
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            return False
    return True


def load_tensors(model: Any, path: str | Path, without_head: bool = False) -> None:
    """Assign the tensors of a safetensors file to a network, all or none; without its head for other classes."""
    variables = named_variables(model)
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if without_head:
            variables = {n: v for n, v in variables.items() if not _in_head(n)}
            found = {n: s for n, s in found.items() if not _in_head(n)}
        problems = [f"'{name}' is missing" for name in variables if name not in found]
        problems += [f"{shown(name)} does not belong" for name in found if name not in variables]
        for name in variables.keys() & found.keys():
            shape, expected = tuple(found[name].get_shape()), tuple(variables[name].shape)
            if shape != expected:
                problems.append(f"'{name}' has the shape {shown(shape)}, not {expected}")
            elif found[name].get_dtype() not in _ALLOWED_DTYPES:
                problems.append(f"'{name}' has the dtype {found[name].get_dtype()}, not one of {list(_ALLOWED_DTYPES)}")
        if problems:
            raise TensorMismatchError(
                f"The tensors in {path} are not those of the network '{model.name}': {shortened(sorted(problems))}; "
                "load the file with the architecture and options that it was saved with."
            )
        values = {name: file.get_tensor(name) for name in variables}
    bad = [name for name, value in values.items() if not np.isfinite(value).all()]
    if bad:
        raise WeightsError(
            f"{path} holds numbers that are not finite, in {shortened(map(shown, bad))}; train or fetch it again."
        )
    for name, variable in variables.items():
        variable.assign(values[name].astype(np.float32))


def check_tensors(model: Any, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless a network has tensors of these names and shapes, all of a usual kind of number."""
    own = named_variables(model)
    problems = [f"'{name}' is missing" for name in wanted if name not in own]
    problems += [f"{shown(name)} does not belong" for name in own if name not in wanted]
    for name in own.keys() & wanted.keys():
        shape, other = tuple(own[name].shape), wanted[name]
        kind = str(own[name].dtype)
        if shape != other:
            problems.append(f"'{name}' has the shape {shape}, not {other}")
        elif kind not in _FLOATS:
            problems.append(f"'{name}' has the dtype {kind}")
    if problems:
        raise TensorMismatchError(
            f"The tensors of '{model.name}' are not those that its architecture has, so that it could not be loaded "
            f"again: {shortened(sorted(problems))}; save it before it is quantised, given LoRA or changed otherwise, "
            "or save it with Keras' own model.save."
        )


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file by its name."""
    with _opened(path) as file:
        names = list(file.keys())
        odd = [name for name in names if file.get_slice(name).get_dtype() not in _ALLOWED_DTYPES]
        if odd:
            raise TensorMismatchError(
                f"{path} holds tensors of other dtypes than {list(_ALLOWED_DTYPES)}: {shortened(map(shown, odd))}."
            )
        return {name: file.get_tensor(name) for name in names}


def copy_tensors(source: Any, target: Any) -> None:
    """Assign the weights of one network to another of the same architecture, by name.

    ``target.set_weights(source.get_weights())`` would not do: its order depends on which layers are trainable.
    """
    values = {name: _to_numpy(variable) for name, variable in named_variables(source).items()}
    for name, variable in named_variables(target).items():
        variable.assign(values[name])


def head_tensors(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (features, classes) and bias (classes,) of the head in a file, float32."""
    with _opened(path) as file:
        try:
            kernel, bias = file.get_tensor(f"{LOGITS_LAYER}/kernel"), file.get_tensor(f"{LOGITS_LAYER}/bias")
        except Exception as error:
            raise TensorMismatchError(f"{path} holds no head '{LOGITS_LAYER}' ({reason(error)}).") from None
    return kernel.astype(np.float32), bias.astype(np.float32)


def _in_head(name: str) -> bool:
    return name.split("/", 1)[0] == LOGITS_LAYER


def _to_numpy(variable: Any) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(variable.value)


def _opened(path: str | Path) -> Any:
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weight file {path}.")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or it is cut off ({reason(error)}).") from None
