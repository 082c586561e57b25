"""What is in the zoo: architectures and their pretrained weights, as data.

One row a weight lives in ``weights.json`` beside this file; code, command line and documentation all read it, so that
nothing about a weight stands anywhere else. Nothing here imports Keras.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leukaemia_zoo.cells.preprocessing import MAX_SIDE, Preprocessing
from leukaemia_zoo.common.files import package_folder
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.common.reading import is_number
from leukaemia_zoo.common.text import close_matches, reason, shortened, shown
from leukaemia_zoo.errors import DataError, UnknownNameError, WeightsError

BLOOD_TRUNKS = ("efficientnet_lite0.pbc", "mobilenet.pbc")
"""Weights that have learnt the classes of normal blood cells, in any stain and frame."""

DEFAULT_TRUNK = BLOOD_TRUNKS[0]
"""The one that fine-tuning and probing begin with unless told otherwise."""

_LONGEST_CLASS_NAME = 255  # characters: a folder of cells can be called so


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One architecture.

    Attributes:
        name: How it is called.
        title: One line about it.
        input_size: (height, width) that it was published with.
        min_size: The fewest pixels a side of which its strides leave something.
        parameters: Weights of the original: for ``cnn`` and ``cnn_attention`` with one sigmoid unit, for the published
            networks without their top.
        heads: The heads it can be built with, its own first.
        dropout: Share of the embedding dropped in training.
        source: Where it was published.
        default_weight: What its bare name loads, or None if no weight exists.
    """

    name: str
    title: str
    input_size: tuple[int, int]
    min_size: int
    parameters: int
    heads: tuple[str, ...]
    dropout: float
    source: str
    default_weight: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What it takes to build a network and to feed it: travels with every loaded and saved model, as ``model.zoo``.

    Attributes:
        architecture: Name of the network.
        class_names: Classes in the order of the probabilities.
        head: Head of the network; see `build_model`.
        preprocessing: From an image file to the input; holds the input size.
        dropout: Share of the embedding dropped in training.
        temperature: What the logits were divided by to calibrate them. The weights of the last layer hold the division
            already; logits times it are the uncalibrated ones.
        views: Turned and mirrored views that a prediction averages over: 1, 4 or 8; see `symmetric_views`. The
            temperature belongs to their average.
        weight: Name of the pretrained weight inside, or None.
        origin: Where on the Hugging Face Hub the weights came from, ``hf://org/name@commit``, or None.
        verdict_limits: Below which probability a class is ruled out, so that a cell gets a verdict or is "uncertain";
            None where they were not found.
        ood_limit: The OOD score that 99 of 100 cells held out in training do not exceed; an image above it does not
            look like the training cells. None where it is not known; see `ood_scores`.
    """

    architecture: str
    class_names: tuple[str, ...]
    head: str
    preprocessing: Preprocessing
    dropout: float = 0.0
    temperature: float = 1.0
    views: int = 1
    weight: str | None = None
    origin: str | None = None
    ood_limit: float | None = None
    verdict_limits: VerdictLimits | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        limits = None if self.verdict_limits is None else self.verdict_limits.to_dict()
        preprocessing = self.preprocessing.to_dict()
        return {
            **data, "class_names": list(self.class_names), "preprocessing": preprocessing, "verdict_limits": limits
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """The configuration from plain data.

        Raises:
            WeightsError: If a key is missing or unknown, or a value is not of its kind. A file can name the
                architectures of this package and no other class or function.
        """
        if not isinstance(data, Mapping):
            raise WeightsError(f"A model configuration is an object, not {shown(data)}; save the model again.")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown, missing = set(data) - known, {"architecture", "class_names", "head", "preprocessing"} - set(data)
        if unknown or missing:
            raise WeightsError(
                f"A model configuration has {', '.join(sorted(known))}, but this one "
                + " and ".join(
                    f"{verb} {shortened(sorted(map(shown, keys)))}"
                    for verb, keys in (("lacks", missing), ("also has", unknown))
                    if keys
                )
                + "; save the model again with save_model."
            )
        architecture, head, classes = data["architecture"], data["head"], data["class_names"]
        if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
            raise WeightsError(
                f"This package has no architecture {shown(architecture)}; "
                f"{close_matches(str(architecture)[:100], ARCHITECTURES)}"
            )
        if head not in ARCHITECTURES[architecture].heads:
            raise WeightsError(f"The architecture {architecture!r} has no head {shown(head)}.")
        if not isinstance(classes, list) or not all(_is_class_name(name) for name in classes):
            raise WeightsError(f"class_names must be a list of printable names, not {shown(classes)}.")
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise WeightsError(f"class_names must be two or more different names, not {shown(classes)}.")
        numbers = {key: data[key] for key in ("dropout", "temperature") if key in data}
        for key, value in numbers.items():
            if not is_number(value):
                raise WeightsError(f"{key} must be a number, not {shown(value)}.")
        if not 0 <= numbers.get("dropout", 0.0) < 1:
            raise WeightsError(f"dropout must be a share from 0 up to, not including, 1, not {shown(data['dropout'])}.")
        if not 0 < numbers.get("temperature", 1.0) < math.inf:
            raise WeightsError(f"temperature must be a finite number above 0, not {shown(data['temperature'])}.")
        limit = data.get("ood_limit")
        if limit is not None and not (is_number(limit) and 0 < limit < math.inf):
            raise WeightsError(f"ood_limit must be a finite number above 0, or null, not {shown(limit)}.")
        for key in ("weight", "origin"):
            if not (data.get(key) is None or isinstance(data[key], str)):
                raise WeightsError(f"{key} must be a name or null, not {shown(data[key])}.")
        views = data.get("views", 1)
        if isinstance(views, bool) or views not in (1, 4, 8):
            raise WeightsError(f"A prediction averages over 1, 4 or 8 views, not {shown(views)}.")
        try:
            preprocessing = Preprocessing.from_dict(data["preprocessing"])
        except DataError as error:
            raise WeightsError(f"A model configuration has a wrong preprocessing: {reason(error)}.") from None
        verdict_limits = None
        if data.get("verdict_limits") is not None:
            try:
                verdict_limits = VerdictLimits.from_dict(data["verdict_limits"], classes)
            except DataError as error:
                raise WeightsError(f"A model configuration has wrong limits: {reason(error)}.") from None
        height, width = preprocessing.input_size
        if max(height, width) > MAX_SIDE:
            raise WeightsError(
                f"'{architecture}' takes an input of at most {MAX_SIDE} pixels a side, not "
                f"{shown(height)}x{shown(width)}."
            )
        if views > 1 and height != width:
            raise WeightsError(f"An input of {height}x{width} pixels is not square and cannot be turned: give 1 view.")
        checked = {"class_names": tuple(classes), "preprocessing": preprocessing, "verdict_limits": verdict_limits}
        return cls(**{**data, **checked})


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_CLASS_NAME and name.isprintable()


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """One pretrained weight: a row of ``weights.json``, or the ``config.json`` of a saved model.

    Attributes:
        name: ``architecture.dataset``.
        config: How to build and feed the network.
        file: Name of the safetensors file.
        sha256: Of the file.
        size: Of the file, in bytes.
        parameters: Number of weights in the network.
        licence: Of the weight.
        citation: What to cite when using it.
        data: What it was trained on: name, source and licence of each data set.
        training: Subjects and cells of the training and validation parts, and the hash of the split manifest.
        metrics: Measured figures, each with what it was measured on.
        intended_use: What it is for, and its limits.
        repo: Repository on the Hugging Face Hub that holds it, ``org/name``, or None if it was not published.
        revision: Commit of that repository, 40 hexadecimal digits: the registry pins it.
    """

    name: str
    config: ModelConfig
    file: str
    sha256: str
    size: int
    parameters: int
    licence: str
    citation: str
    data: tuple[Mapping[str, Any], ...] = ()
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    intended_use: str = ""
    repo: str | None = None
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {**dataclasses.asdict(self), "config": self.config.to_dict(), "data": [dict(row) for row in self.data]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightSpec:
        """The row from plain data.

        Raises:
            WeightsError: If a key is missing or unknown, a value is not of its kind, or the file name is more than a
                name.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        required = {"name", "config", "file", "sha256", "size", "parameters", "licence", "citation"}
        if set(data) - known or required - set(data):
            wrong = shortened(sorted(map(shown, (set(data) - known) | (required - set(data)))))
            raise WeightsError(f"A row about a weight has missing or unknown keys ({wrong}); save the model again.")
        file = data["file"]
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]{0,90}\.safetensors", file):
            raise WeightsError(
                f"A weight file is the name of a .safetensors file in the same folder, not {shown(file)}: of letters, "
                "digits, '.', '-' and '_', at most 100."
            )
        kinds = {"name": str, "sha256": str, "size": int, "parameters": int, "licence": str, "citation": str}
        kinds |= {"data": list, "training": Mapping, "metrics": Mapping, "intended_use": str}
        for key, kind in kinds.items():
            value = data.get(key, kind() if kind is not Mapping else {})
            if not isinstance(value, kind) or isinstance(value, bool):
                raise WeightsError(f"In a row about a weight {key} cannot be {shown(value)}; save the model again.")
        if not re.fullmatch(r"\w[\w.-]{0,95}", data["name"]):  # it names folders and repositories too
            raise WeightsError(
                f"The name of a weight has letters, digits, '.', '-' and '_', at most 96, not {shown(data['name'])}."
            )
        if not re.fullmatch(r"[0-9a-f]{64}", data["sha256"]):
            raise WeightsError(
                f"A sha256 has 64 digits from 0 to f, not {shown(data['sha256'])}; save the model again."
            )
        repo, revision = data.get("repo"), data.get("revision")
        if (repo, revision) != (None, None) and not (
            isinstance(repo, str)
            and re.fullmatch(r"[\w.-]+/[\w.-]+", repo)
            and isinstance(revision, str)
            and re.fullmatch(r"[0-9a-f]{40}", revision)
        ):
            raise WeightsError(
                f"A weight is pinned by repo and commit, org/name and 40 digits, not {shown(repo)}, {shown(revision)}."
            )
        _check_training(data.get("training", {}))
        if not all(isinstance(source, Mapping) for source in data.get("data", ())):
            raise WeightsError(f"In a row about a weight data is a list of objects, not {shown(data['data'])}.")
        return cls(**{**data, "config": ModelConfig.from_dict(data["config"]), "data": tuple(data.get("data", ()))})


_MOST_BEGINNINGS = 100
"""Weights may have begun with weights that began with others; a longer chain is a file that wants to do harm."""


def _check_training(training: Mapping[str, Any]) -> None:
    """Raise unless the keys of a training that this package reads are of their kinds; others are free."""
    kinds: dict[str, Any] = {"manifest_sha256": str, "recipe": Mapping, "distillation": Mapping, "init": str | Mapping}
    block: Any = training
    for _ in range(_MOST_BEGINNINGS):
        for key, kind in kinds.items():
            if not (block.get(key) is None or isinstance(block[key], kind)):
                raise WeightsError(f"In a row about a weight {key} of the training cannot be {shown(block[key])}.")
        block = block.get("init")
        if not isinstance(block, Mapping):
            return
    raise WeightsError(f"A row about a weight names more than {_MOST_BEGINNINGS} weights that it began with.")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """An architecture, and a weight of it where there is one.

    Attributes:
        architecture: The network.
        weight: The weight, or None.
    """

    architecture: ModelSpec
    weight: WeightSpec | None

    @property
    def name(self) -> str:
        """Name of the weight, or of the architecture where there is no weight."""
        return self.weight.name if self.weight else self.architecture.name

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "name": self.name,
            "architecture": dataclasses.asdict(self.architecture),
            "weight": self.weight.to_dict() if self.weight else None,
        }


def packaged_table(file: str) -> Any:
    """A table that lies beside the wings."""
    return json.loads((package_folder() / file).read_text(encoding="utf-8"))


_BY_NAME = {
    row["name"]: ModelSpec(**{**row, "input_size": tuple(row["input_size"]), "heads": tuple(row["heads"])})
    for row in packaged_table("architectures.json")
}

ARCHITECTURES: Mapping[str, ModelSpec] = _BY_NAME
"""The architectures by name, from ``architectures.json``."""


def register(spec: ModelSpec) -> None:
    """Add an architecture for this process; see `register_architecture`, which also keeps its builder."""
    _BY_NAME[spec.name] = spec


@functools.cache
def weights() -> Mapping[str, WeightSpec]:
    """Every pretrained weight by name, from ``weights.json``."""
    return {spec.name: spec for spec in map(WeightSpec.from_dict, packaged_table("weights.json"))}


def packaged_file(spec: WeightSpec) -> Path:
    """Where the file of a weight lies in the installed package."""
    return package_folder() / "weights" / spec.file


def checkout_file(spec: WeightSpec) -> Path:
    """Where the file of a weight that is too large for the package lies in a checkout: ``weights/`` at its root."""
    return package_folder().parents[1] / "weights" / spec.file


def list_models(pattern: str = "*", pretrained: bool | None = None) -> list[str]:
    """Names in the zoo.

    Args:
        pattern: Shell-style pattern, such as ``"cnn*"`` or ``"*.cnmc"``.
        pretrained: True for the weights that exist (``architecture.dataset``), False for the architectures that have
            none, None for all architectures.

    Returns:
        Sorted names; each is one that `load_model` takes.

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.list_models("cnn*")
        ['cnn', 'cnn_attention']
        >>> lz.list_models("cnn*", pretrained=True)
        ['cnn.cnmc', 'cnn_attention.cnmc']
    """
    if pretrained:
        names: Iterable[str] = weights()
    elif pretrained is False:
        trained = {weight.config.architecture for weight in weights().values()}
        names = set(ARCHITECTURES) - trained
    else:
        names = ARCHITECTURES
    return sorted(fnmatch.filter(names, pattern))


def model_info(name: str) -> ModelInfo:
    """What is known of an architecture or a weight.

    Args:
        name: An architecture (then with its default weight, if it has one) or a weight, ``architecture.dataset``.

    Raises:
        UnknownNameError: If there is none of that name; the message lists close matches.

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.model_info("cnn").weight.config.class_names
        ('hem', 'all')
    """
    if name in ARCHITECTURES:
        spec = ARCHITECTURES[name]
        return ModelInfo(spec, weights().get(spec.default_weight or ""))
    if name in weights():
        return ModelInfo(ARCHITECTURES[weights()[name].config.architecture], weights()[name])
    raise UnknownNameError(
        f"There is no model '{name}' in the zoo; {close_matches(name, [*ARCHITECTURES, *weights()])}"
    )
