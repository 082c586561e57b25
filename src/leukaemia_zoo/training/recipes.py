"""How each network is trained, as data: ``recipes.json`` beside this file holds one recipe a network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from leukaemia_zoo.common.reading import is_number, read_json
from leukaemia_zoo.common.text import Log, close_matches, reason, shown, silent
from leukaemia_zoo.errors import DataError, UnknownNameError
from leukaemia_zoo.zoo.registry import ARCHITECTURES, packaged_table


@dataclasses.dataclass(frozen=True)
class DistillationRecipe:
    """The first stage: imitate an ImageNet network, without labels; see `distillation.distil`.

    Attributes:
        pairs: Layers of the network and the layers of MobileNet that they imitate.
        epochs: Number of epochs.
        steps_per_epoch: Batches an epoch.
        batch_size: Images a batch.
        learning_rate: Highest learning rate; it falls as a cosine.
        weight_decay: Of AdamW.
        zoom: See `CellAugmentation`.
        shift: See `CellAugmentation`.
        colour: See `CellAugmentation`.
        cut_out: See `CellAugmentation`.
        crop_fraction: Centre crop of the unlabelled frames, as a share of their shorter side.
        restain: For a network whose layers are MobileNet's own: above 0 it begins with MobileNet's weights and sees
            every view in another stain (of this strength; see ``colour`` of `CellAugmentation`) and with noise, while
            MobileNet sees it as it is. So it learns to see the same whatever the stain.
        turned_teacher: Show the teacher each view turned by quarters and mirrored by chance, and turn its feature maps
            back: the network learns their mean over the eight, so that one view says nearly what the mean of all says.
    """

    pairs: tuple[tuple[str, str], ...]
    epochs: int = 10
    steps_per_epoch: int = 100
    batch_size: int = 48
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    zoom: float = 0.25
    shift: float = 0.05
    colour: float = 1.0
    cut_out: float = 0.8
    crop_fraction: float = 0.9
    restain: float = 0.0
    turned_teacher: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained on labelled cells.

    Attributes:
        architecture: The network.
        input_size: Side of the input.
        head: See `build_model`.
        dropout: See `build_model`.
        distillation: The first stage, or None to begin with random weights.
        crop_fraction: See `Preprocessing`; with another one than that of C-NMC's frames no frame is reduced first.
        validation_folds: Folds by subject that choose the classifier's penalty and temperature: each validates a
            classifier that was fitted on the others; the last one is fitted on all.
        validation_share: Share of the subjects that fine-tuning keeps for the choice of the epoch and the temperature.
            With 0 all subjects teach for all epochs, the last epoch stays, and the temperature is found on the
            out-of-fold predictions of a cross-validation.
        turned_views: Views of each training cell, turned all around the circle; see `turned_views`.
        prediction_views: Symmetric views that a prediction averages over: 1, 4 (quarter turns) or 8 (also mirrored).
        inverse_penalties: Values of C that are tried for the classifier, a logistic regression on the embeddings.
        subject_power: A subject of n cells counts as n to this power: with 1 cells count alike, with 0 subjects do.
        balance_classes: Whether the classes count alike; otherwise as often as they occur, which keeps the
            probabilities true to the share of classes in the data.
        cohort_frequencies: Whether, where classes count alike in training, the calibrated probabilities are those of
            people among whom a class is as frequent as among the cells that teach. It needs ``validation_share`` 0.
        fine_tune_epochs: Epochs in which all layers learn, after the classifier or from random weights.
        fine_tune_learning_rate: Highest learning rate of these epochs; it rises in the first and falls as a cosine.
        train_batch_norm: Whether every BatchNorm learns in fine-tuning, scales and statistics. Its statistics are first
            taken from the training cells, so that the classifier begins on the features that training sees.
        drawn_views: Whether fine-tuning turns, mirrors and sizes each cell anew at every step, in one resampling of the
            whole frame; otherwise it takes one of the ``turned_views`` and turns it by quarters.
        patience: Epochs without better validation figures after which fine-tuning ends.
        batch_size: Cells a batch.
        weight_decay: Of AdamW.
        label_smoothing: Share of the label that is spread over all classes.
        soft_share: Share of the target that other probabilities of the cell take in fine-tuning; see
            ``linear_teachers`` and ``logits_teacher`` of `train`. 0 for none.
        zoom: See `CellAugmentation`; in fine-tuning. Of ``drawn_views`` the size changes by as much.
        shift: See `CellAugmentation`; in fine-tuning.
        colour: See `CellAugmentation`; in fine-tuning.
        precision: Keras' policy in training; predictions are always computed in float32. "auto" is "mixed_bfloat16" on
            GPUs, TPUs and processors with bfloat16 instructions, where it is twice as fast, and "float32" elsewhere;
            a run writes down which it was.
    """

    architecture: str
    input_size: int
    head: str
    dropout: float
    distillation: DistillationRecipe | None
    crop_fraction: float = 2 / 3
    validation_folds: int = 5
    validation_share: float = 0.2
    turned_views: int = 3
    prediction_views: int = 8
    inverse_penalties: tuple[float, ...] = (0.03, 0.1, 0.3)
    subject_power: float = 0.5
    balance_classes: bool = False
    cohort_frequencies: bool = False
    fine_tune_epochs: int = 0
    fine_tune_learning_rate: float = 1e-4
    train_batch_norm: bool = False
    drawn_views: bool = False
    patience: int = 3
    batch_size: int = 48
    weight_decay: float = 1e-3
    label_smoothing: float = 0.05
    soft_share: float = 0.0
    zoom: float = 0.1
    shift: float = 0.03
    colour: float = 0.3
    precision: str = "auto"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Hash of all settings, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """What a training begins with and how it runs, beside its cells; `train` and `cross_validate` take each by name.

    Attributes:
        recipe: How to train: a `Recipe`, or settings that replace those of the package's recipe, as a dict or a JSON
            file; None for the package's recipe.
        teacher: Weights of MobileNet to distil: ``"imagenet"`` (Keras downloads them), a weight or folder such as
            ``"mobilenet.pbc"``, an ``.npz`` file, or None to leave out the distillation.
        unlabelled: Folder of cell images for the distillation; None takes the training cells, without their labels.
            None of the cells that a cross-validation tests may be among them, under whatever name, nor another cell of
            their subjects.
        trunk: ``distilled.safetensors`` that a training or cross-validation with the same distillation left, to save
            its time, or a weight of the zoo whose trunk learnt without labels, to learn its classifier anew; None
            distils. What it was distilled on the record takes from its header. A cross-validation refuses one that was
            distilled on the people whom it tests; a trunk of an older release does not say what it has seen, which a
            note of the result says.
        init: Weights before the first stage: ``"imagenet"`` for those that Keras publishes for five of the
            architectures, an ``.npz`` file of ImageNet's, a safetensors file or saved-model folder of this package or
            a name of the zoo for all tensors but the last layer's, None for random ones. A cross-validation refuses
            weights that know those whom it tests.
        logits_teacher: For a recipe with a ``soft_share``: folder of a saved model of the same classes, whose
            probabilities of the same view are a part of the targets; in a cross-validation the folder of one in the
            same folds that kept its networks, so that each teaches the network of its own fold.
        linear_teachers: For a recipe with a ``soft_share``: weights whose trunk learnt without labels, such as
            ``("mobilenet.cnmc", "inception_v3.cnmc")``. Linear classifiers on their features, each fitted on other
            subjects than those of whom it is asked, say what the cell looks like; their mean is a part of the targets,
            so that a network that sees all of a person's cells does not learn the person by heart.
        seed: Of the split, the weights, the order and the views.
        devices: Number of devices that share the batches of distillation and fine-tuning, or ``"all"``.
        restart: Begin anew instead of resuming.
        log: Called with each line of progress, such as ``print``; None for none.
    """

    recipe: Recipe | str | Path | Mapping[str, Any] | None = None
    teacher: str | Path | None = "imagenet"
    unlabelled: str | Path | None = None
    trunk: str | Path | None = None
    init: str | Path | None = None
    logits_teacher: str | Path | None = None
    linear_teachers: tuple[str | Path, ...] = ()
    seed: int = 0
    devices: int | str = 1
    restart: bool = False
    log: Log | None = None

    def recipe_of(self, architecture: str) -> Recipe:
        """The recipe that is meant, see `recipe_for`."""
        return self.recipe if isinstance(self.recipe, Recipe) else recipe_for(architecture, self.recipe)

    @property
    def tell(self) -> Log:
        """The log, whether there is one or not."""
        return self.log or silent


def recipe_for(architecture: str, changes: str | Path | Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a network, with settings replaced.

    Args:
        architecture: Name of the network, or of a weight that has a recipe of its own, such as ``"mobilenet.pbc"``.
        changes: Settings that replace the recipe's own, as a dict or a JSON file; ``{"distillation": {"epochs": 4}}``
            replaces one setting inside the distillation, ``{"distillation": null}`` leaves it out.

    Returns:
        The recipe.

    Raises:
        UnknownNameError: If there is no such network or setting.
        DataError: If the file is no JSON object, or a value is not of its kind.

    Example:
        >>> recipe_for("cnn_attention", {"batch_size": 16}).batch_size
        16
    """
    name, architecture = architecture, architecture.partition(".")[0]
    if architecture not in ARCHITECTURES:
        raise UnknownNameError(
            f"There is no architecture '{architecture}'; {close_matches(architecture, ARCHITECTURES)}"
        )
    rows = packaged_table("recipes.json")
    if name not in rows:
        raise UnknownNameError(f"There is no recipe for '{name}' yet; {close_matches(name, rows)}")
    settings = {**rows[name], "architecture": architecture}
    changes = read_changes(changes)
    if isinstance(changes.get("distillation"), Mapping):
        changes = {**changes, "distillation": {**(settings["distillation"] or {}), **changes["distillation"]}}
    if changes.get("architecture", architecture) != architecture:
        raise DataError(
            f"The recipe's setting 'architecture' is {shown(changes['architecture'])}, but '{name}' is to be trained: "
            "leave the setting out, or name that architecture."
        )
    settings |= changes
    distillation = settings["distillation"]
    if distillation is not None:
        settings["distillation"] = _distillation(distillation)
    return _checked(Recipe, settings)


def _distillation(settings: Any) -> DistillationRecipe:
    pairs = settings.get("pairs") if isinstance(settings, Mapping) else None
    if not pairs or not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        raise DataError(
            f"The recipe's setting 'distillation' is {shown(settings)}: give an object of settings in which 'pairs' "
            "holds pairs of names of layers, or null."
        )
    return _checked(DistillationRecipe, {**settings, "pairs": tuple((own, other) for own, other in pairs)})


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(name, str) for name in value)


def changed(recipe: Recipe, changes: str | Path | Mapping[str, Any] | None) -> Recipe:
    """A recipe with settings replaced.

    Example:
        >>> changed(recipe_for("cnn"), {"patience": 5}).patience
        5
    """
    own = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return _checked(Recipe, own | dict(read_changes(changes)))


def read_changes(changes: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Settings from a dict, a JSON file or nothing."""
    if changes is None or isinstance(changes, Mapping):
        return changes or {}
    try:
        data = read_json(changes)
    except (OSError, ValueError) as error:
        raise DataError(f"The recipe {changes} cannot be read as JSON ({reason(error)}).") from None
    if not isinstance(data, dict):
        raise DataError(f"The recipe {changes} is not a JSON object of settings.")
    return data


_Dataclass = TypeVar("_Dataclass")

_LEAST = {
    "fine_tune_epochs": 0,
    "validation_folds": 2,
    **dict.fromkeys(("input_size", "epochs", "steps_per_epoch", "batch_size", "turned_views", "patience"), 1),
}
_SHARES: dict[str, tuple[Callable[[float], bool], str]] = {
    "crop_fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    **dict.fromkeys(("soft_share", "cut_out", "zoom", "shift"), (lambda value: value <= 1, "from 0 to 1")),
    **dict.fromkeys(("dropout", "validation_share", "label_smoothing"), (lambda value: value < 1, "from 0 to below 1")),
}
"""Numbers that are shares, or that leave nothing of a cell beyond 1: told before the run, and not by what it learns."""

_MOST = {"batch_size": 65_536, "input_size": 2_048, "turned_views": 1_000}
"""Beyond these no machine of today has the memory, and the system would end the run without a word."""

_CHOICES = {"prediction_views": (1, 4, 8)}
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def _checked(kind: type[_Dataclass], settings: Mapping[str, Any]) -> _Dataclass:
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in settings.items():
        if name not in fields:
            raise UnknownNameError(f"A recipe has no setting {shown(name)}; {close_matches(str(name)[:100], fields)}")
        wanted = str(fields[name].type)
        allowed = _KINDS.get(wanted)
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and wanted != "bool")):
            raise DataError(f"The recipe's setting '{name}' must be of the kind {wanted}, not {shown(value)}.")
        if wanted == "float" and not (0 <= value < float("inf")):
            raise DataError(f"The recipe's setting '{name}' is {shown(value)}: give a number from 0 on.")
        if name in _LEAST and value < _LEAST[name]:
            raise DataError(f"The recipe's setting '{name}' is {shown(value)}: give a number from {_LEAST[name]} on.")
        if name in _MOST and value > _MOST[name]:
            raise DataError(f"The recipe's setting '{name}' is {shown(value)}: give a number up to {_MOST[name]:,}.")
        if name in _SHARES and not _SHARES[name][0](value):
            raise DataError(f"The recipe's setting '{name}' is {shown(value)}: give a number {_SHARES[name][1]}.")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise DataError(
                f"The recipe's setting '{name}' is {shown(value)}: give one of {', '.join(map(str, _CHOICES[name]))}."
            )
    if "inverse_penalties" in settings:
        settings = {**settings, "inverse_penalties": _penalties(settings["inverse_penalties"])}
    return kind(**settings)


def _penalties(values: Any) -> tuple[float, ...]:
    given = values if isinstance(values, list | tuple) else ()
    if not given or not all(is_number(value) and 0 < value <= sys.float_info.max for value in given):
        raise DataError(
            f"The recipe's setting 'inverse_penalties' is {shown(values)}: give a list of numbers above 0, such as "
            "[0.1, 1]."
        )
    return tuple(float(value) for value in given)
