"""From a name, a folder or a repository on the Hub to a network that is ready, and back.

`sources` finds the weight and checks its sha256; here the network is built from our own code, all tensors are compared,
and only then assigned. Nothing that is loaded can run code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from leukaemia_zoo._names import renamed
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.common.files import sha256_of, write_json
from leukaemia_zoo.common.hardware import precision
from leukaemia_zoo.common.reading import is_whole
from leukaemia_zoo.common.text import close_matches, shown
from leukaemia_zoo.errors import ArchitectureError, TensorMismatchError, UnknownNameError, WeightsError
from leukaemia_zoo.zoo.architectures import Output, build_model, tensor_shapes, with_output
from leukaemia_zoo.zoo.cards import as_written
from leukaemia_zoo.zoo.layers import without_random_weights
from leukaemia_zoo.zoo.registry import ARCHITECTURES, ModelConfig, WeightSpec, model_info
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, find
from leukaemia_zoo.zoo.tensors import (
    LOGITS_LAYER,
    check_tensors,
    head_tensors,
    load_tensors,
    named_variables,
    save_tensors,
)

DTYPES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64")
"""What a network can be computed in."""


@renamed(name="model")
def load_model(
    model: str | os.PathLike[str] = "cnn_attention",
    weights: Literal["default"] | str | os.PathLike[str] | None = "default",
    num_classes: int | None = None,
    *,
    class_names: tuple[str, ...] | list[str] | None = None,
    output: Output = "probabilities",
    dtype: str = "float32",
) -> keras.Model:
    """Load a network of the zoo, or one that `save_model` or training left in a folder.

    Args:
        model: An architecture (``"cnn"``), a weight (``"cnn.cnmc"``), a folder with a saved model, or a model in
            our format on the Hugging Face Hub, ``"hf://org/name@revision"`` (commit, tag or branch).
        weights: ``"default"`` for the pretrained weight that the name means, from the package, the local cache of the
            Hub or the Hub; None for the architecture as published, with random weights; or a folder, ``.safetensors``
            file or ``hf://`` repository.
        num_classes: Number of classes; None for the weight's own (2 where there is no weight). With 1 there is one
            sigmoid unit, P(last class); of a two-class weight it gives exactly the second of the two probabilities.
            Any other number than the weight's replaces the last layer by a new one, with a warning: train it.
        class_names: Names of the classes, in the order of the probabilities, for a replaced or a random head.
        output: ``"probabilities"``, ``"logits"`` or ``"embeddings"``.
        dtype: What the network computes in: ``"float32"``, in which every figure of a weight was measured, whatever
            dtype policy Keras is set to; or ``"mixed_bfloat16"``, ``"mixed_float16"``, ``"bfloat16"``, ``"float16"`` or
            ``"float64"``. Lower precision changes verdicts: see "Precision" in the documentation.

    Returns:
        An ordinary ``keras.Model`` from images (batch, height, width, 3), RGB, 0 to 255, to float32 (batch, classes).
        Its ``zoo`` attribute, a `ModelConfig`, holds classes and preprocessing. Calling the model judges one view of
        each image; `predict` averages over the turned and mirrored views that the weight was calibrated for.

    Raises:
        UnknownNameError: If there is no such name or dtype; the message lists close matches.
        WeightsError: If there is no weight, or the folder holds no model.
        HubError: If the weight cannot be had from the Hub; its subclasses say why.
        IntegrityError: If the file is not the one that was saved.
        TensorMismatchError: If its tensors do not fit the network.

    Example:
        >>> import leukaemia_zoo as lz
        >>> model = lz.load_model("cnn_attention.cnmc")
        >>> model.zoo.class_names, model.output_shape
        (('hem', 'all'), (None, 2))
    """
    if num_classes is not None and not is_whole(num_classes):
        raise ArchitectureError(f"num_classes is {num_classes!r}, but a network has one class or more.")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnknownNameError(f"A network cannot be computed in {shown(dtype)}: choose one of {', '.join(DTYPES)}.")
    with precision(dtype):
        network, config = _loaded(model_name(model), weights, num_classes, class_names)
    if class_names is not None and tuple(class_names) != config.class_names:
        raise ArchitectureError(
            f"The classes are {list(config.class_names)}, not {list(class_names)}: class_names can name only the "
            "classes of a replaced or random head."
        )
    network.zoo = config
    return with_output(network, output)


def _loaded(name: str, weights: Any, num_classes: int | None, class_names: Any) -> tuple[keras.Model, ModelConfig]:
    """A network with its weights, and what is known of it."""
    if weights is None:
        config = _random_config(model_info(name).architecture.name, num_classes, class_names)
        model = _build(config, 2 if num_classes is None else num_classes)
    else:
        found = find(name, None if weights == "default" else weights)
        spec, file, config = found.spec, found.file, found.spec.config
        own = _units(file, config)
        if num_classes in (None, own):
            with without_random_weights():
                model = _build(config, own)
            load_tensors(model, file)
        else:
            assert num_classes is not None
            model = _build(config, num_classes)
            load_tensors(model, file, without_head=True)
            if max(num_classes, own) == 2:
                _convert_head(model, file)
            else:
                names = _checked_names(class_names, num_classes)
                # Of the new classes nothing was measured.
                config = dataclasses.replace(config, class_names=names, temperature=1.0, verdict_limits=None)
                warnings.warn(
                    f"The last layer of '{spec.name}' ({len(spec.config.class_names)} classes) was replaced by a new "
                    f"one with random weights for {num_classes}: train it before use.",
                    stacklevel=4,  # whoever called `load_model`, through its decorator
                )
    return model, config


@renamed(folder="out")
def save_model(model: keras.Model, out: str | os.PathLike[str], *, half: bool = False, **about: Any) -> WeightSpec:
    """Save a network of the zoo into a folder that `load_model` and ``leukaemia-zoo predict --model`` take.

    Args:
        model: A network from `load_model`, trained further or not, with output ``"probabilities"``; or the name of one,
            a folder or ``hf://org/name@revision``.
        out: Folder for ``config.json`` and ``model.safetensors``; made where it is missing.
        half: Store kernels as float16.
        **about: Further fields of `WeightSpec`: name, licence, citation, data, training, metrics, intended_use.

    Returns:
        The row that was written as ``config.json``.

    Raises:
        ArchitectureError: If the model does not come from this zoo, or has embeddings as output.
        UnknownNameError: If ``about`` has a key that is no field.
        TensorMismatchError: If its tensors are not those of the network that `load_model` would build for it, as after
            ``quantize``, ``enable_lora`` or with another number of classes than ``model.zoo`` names.
        WeightsError: If a weight is not finite, ``model.zoo`` or ``about`` hold what `load_model` would refuse, or the
            folder cannot be written to. Of the first two nothing is written.
    """
    model = as_model(model)
    config = config_of(model)
    if not any(layer.name == LOGITS_LAYER for layer in model.layers):
        raise ArchitectureError(
            f"The model '{model.name}' has no layer '{LOGITS_LAYER}': save the one with output=\"probabilities\"."
        )
    fields = [field.name for field in dataclasses.fields(WeightSpec)]
    if unknown := sorted(set(about) - set(fields)):
        raise UnknownNameError(
            f"There is nothing called '{unknown[0]}' to tell about a weight; {close_matches(unknown[0], fields)}"
        )
    spec = WeightSpec(
        name=about.pop("name", config.weight or f"{config.architecture}.custom"),
        config=config,
        file=WEIGHTS_FILE,
        sha256="0" * 64,
        size=0,
        parameters=model.count_params(),
        licence=about.pop("licence", "not stated"),
        citation=about.pop("citation", "not stated"),
        **about,
    )
    _check_loadable(model, spec)
    folder = Path(out)
    file = folder / WEIGHTS_FILE
    with _told_as_unwritable(folder):
        save_tensors(model, file, config=config.to_dict(), half=half)
        spec = dataclasses.replace(spec, sha256=sha256_of(file), size=file.stat().st_size)
        write_json(folder / CONFIG_FILE, spec.to_dict())
    return spec


@contextlib.contextmanager
def _told_as_unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"The model cannot be saved in {folder} ({error.strerror or error}): name another folder, make room, or "
            "give yourself the right to write there."
        ) from error


def _check_loadable(model: keras.Model, spec: WeightSpec) -> None:
    """Raise what `load_model` would of this network and its row, before anything is written."""
    config = WeightSpec.from_dict(as_written(spec.to_dict())).config
    taken, expected = tuple(model.input_shape[1:]), (*config.preprocessing.input_size, 3)
    if taken != expected:
        raise TensorMismatchError(
            f"The network '{model.name}' takes images of the shape {taken}, but its preprocessing, "
            f"model.zoo.preprocessing, makes {expected}: build the network for that input_size, or correct model.zoo."
        )
    units = int(model.get_layer(LOGITS_LAYER).output.shape[-1])
    classes = len(config.class_names)
    if not (units == classes or (units, classes) == (1, 2)):
        raise TensorMismatchError(
            f"The network '{model.name}' tells {units} classes apart, but model.zoo names {classes}, "
            f"{', '.join(config.class_names)}: set model.zoo to a ModelConfig with its own class names."
        )
    check_tensors(model, tensor_shapes(config.architecture, units, config.preprocessing.input_size, config.head))


def as_model(model: Any) -> keras.Model:
    """The network that is meant: a loaded one as it is, else by its name, its folder or its address on the Hub."""
    return model if isinstance(model, keras.Model) else load_model(model_name(model))


def model_name(model: Any) -> str:
    """The name, folder or address as text."""
    if isinstance(model, str | os.PathLike) and isinstance(name := os.fspath(model), str):
        return name
    raise ArchitectureError(
        f"{shown(model)} is no model: give a network from load_model, the name of one, the folder of a saved model or "
        "hf://org/name@revision."
    )


def config_of(model: keras.Model) -> ModelConfig:
    """The `ModelConfig` that travels with a network of the zoo."""
    if not isinstance(model, keras.Model):
        model_name(model)  # raises what is wrong with anything but a name
        raise ArchitectureError(f"{shown(model)} is the name of a model: load it with load_model.")
    config = getattr(model, "zoo", None)
    if not isinstance(config, ModelConfig):
        raise ArchitectureError(
            f"The model '{model.name}' does not carry its classes and preprocessing: load it with load_model, or set "
            "model.zoo to a ModelConfig."
        )
    return config


def _random_config(architecture: str, num_classes: int | None, class_names: Any) -> ModelConfig:
    spec = ARCHITECTURES[architecture]
    count = 2 if num_classes is None else num_classes
    names = _checked_names(class_names or (("hem", "all") if count <= 2 else None), count)
    return ModelConfig(architecture, names, spec.heads[0], Preprocessing(spec.input_size), spec.dropout)


def _checked_names(class_names: Any, units: int) -> tuple[str, ...]:
    """Names of the classes that a head with so many units tells apart; made up where none are given."""
    count = max(units, 2)  # one unit is the second of two classes
    names = tuple(class_names or (f"class_{number}" for number in range(count)))
    if len(names) != count:
        raise ArchitectureError(f"There are {len(names)} class names for {count} classes.")
    if len(set(names)) < count:
        raise ArchitectureError(f"The class names {list(names)} must differ.")
    return names


def _build(config: ModelConfig, num_classes: int) -> keras.Model:
    return build_model(
        config.architecture,
        num_classes=num_classes,
        input_size=config.preprocessing.input_size,
        head=config.head,
        dropout=config.dropout,
    )


def _units(file: Path, config: ModelConfig) -> int:
    """Number of output units in a file: one a class, or a single sigmoid unit for two classes."""
    kernel, bias = head_tensors(file)
    classes = len(config.class_names)
    if (
        kernel.ndim != 2
        or bias.shape != kernel.shape[1:]
        or not (bias.size == classes or (bias.size, classes) == (1, 2))
    ):
        raise TensorMismatchError(
            f"The head in {file} has tensors of the shapes {kernel.shape} and {bias.shape}, which do not fit the "
            f"{classes} classes {', '.join(config.class_names)}."
        )
    return int(bias.size)


def _convert_head(model: keras.Model, file: Path) -> None:
    """From a softmax over two classes to one sigmoid unit or back: softmax(z)[1] is sigmoid(z[1] - z[0])."""
    kernel, bias = head_tensors(file)
    if bias.size == 2:
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    else:
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    model.get_layer(LOGITS_LAYER).set_weights([kernel, bias])


def weights_digest(model: keras.Model, without_head: bool = True) -> str:
    """sha256 of the names and values of a network's weights; embeddings do not depend on the classifier, its head."""
    import keras

    digest = hashlib.sha256()
    for name, variable in named_variables(model).items():
        if not (without_head and name.split("/", 1)[0] == LOGITS_LAYER):
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value), np.float32)
            digest.update(name.encode() + str(value.shape).encode() + value.tobytes())
    return digest.hexdigest()
