"""Where a network comes from: the weights that its training begins with, and the networks that teach it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, sha256_of
from leukaemia_zoo.common.hardware import precision
from leukaemia_zoo.common.run_folder import TRUNK_FILE
from leukaemia_zoo.common.text import Log
from leukaemia_zoo.errors import DataError, LeakError, WeightsError
from leukaemia_zoo.training.classifier import new_network
from leukaemia_zoo.training.distillation import TEACHER_SOURCE, assign_arrays
from leukaemia_zoo.training.leaks import Overlap, TrainedOn, find_overlap, seen_by_trunk, training_of
from leukaemia_zoo.training.recipes import Recipe, recipe_for
from leukaemia_zoo.zoo import sources
from leukaemia_zoo.zoo.layers import without_random_weights
from leukaemia_zoo.zoo.loading import load_model
from leukaemia_zoo.zoo.registry import WeightSpec, weights
from leukaemia_zoo.zoo.tensors import load_tensors, named_variables, read_config, save_tensors

IMAGENET = "imagenet"
NONE = "none"
ARRAYS = ".npz"

_OWN_LAYERS = ("neck", "statistics", "logits", "dense")
"""The names of the layers that this package puts on a published network begin so."""

# ImageNet's weights: what they are called, their papers, and their licences: of those of Keras as the documentation of
# Keras 2 gave them; that of Keras 3 gives none.
_IMAGENET = {
    "vgg16": ("VGG16", "Simonyan and Zisserman 2014, doi 10.48550/arXiv.1409.1556", "CC BY 4.0"),
    "resnet50": ("ResNet50", "He et al. 2016, doi 10.1109/CVPR.2016.90", "MIT"),
    "inception_v3": ("InceptionV3", "Szegedy et al. 2016, doi 10.1109/CVPR.2016.308", "Apache-2.0"),
    "xception": ("Xception", "Chollet 2017, doi 10.1109/CVPR.2017.195", "MIT"),
    "mobilenet": ("MobileNet", "Howard et al. 2017, doi 10.48550/arXiv.1704.04861", "Apache-2.0"),
    "efficientnet_lite0": (
        "EfficientNet-lite0 by its authors",
        "Tan and Le 2019, doi 10.48550/arXiv.1905.11946",
        "Apache-2.0",
    ),
}

# Those of them that Keras downloads, as keras.applications calls them.
_PUBLISHED = {name: called for name, (called, *_) in _IMAGENET.items() if name != "efficientnet_lite0"}


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights that a training begins with; random ones by default.

    Attributes:
        source: Where they are from, in the words of the record; None for random weights.
        sha256: Of the file, or of ImageNet's tensors once they are fetched.
        data: What they were trained on, as rows of ``data`` in a record.
        file: Where their tensors lie; None for random weights, and for ImageNet's before they are fetched.
        trained_on: The people and images that taught them, where these are known.
        begun_with: The weights that these began with, as their own record tells it.
    """

    source: str | None = None
    sha256: str | None = None
    data: tuple[Mapping[str, Any], ...] = ()
    file: Path | None = None
    trained_on: TrainedOn | None = None
    begun_with: Any = None

    def to_dict(self) -> str | dict[str, Any]:
        """As a record holds it: ``"random"``, or source, sha256 and what `leaks.training_of` reads."""
        if self.source is None:
            return "random"
        taught = {"manifest_sha256": self.trained_on.manifest_sha256} if self.trained_on is not None else {}
        before = {"init": self.begun_with} if isinstance(self.begun_with, Mapping) else {}
        return {"source": self.source, "sha256": self.sha256, **taught, **before}

    def __str__(self) -> str:
        return "random" if self.source is None else self.source + (f", sha256 {self.sha256}" if self.sha256 else "")


def find_initial_weights(init: str | Path | None, architecture: str, trunk: str | Path | None) -> InitialWeights:
    """The weights that ``init`` names; those of ImageNet are not fetched yet.

    Args:
        init: ``"imagenet"``, a safetensors file or saved-model folder of this package, a name of the zoo, or
            ``hf://org/name@revision``; None or ``"none"`` for random weights.
        architecture: Of the network that is to begin with them.
        trunk: The trunk file that the training is given, if any.

    Raises:
        DataError: If they are of another architecture, or there is a trunk, which would replace them.
        WeightsError: If they cannot be had; its subclasses say why.
    """
    if init is None or str(init) == NONE:
        return InitialWeights()
    if trunk is not None:
        raise DataError("A trunk replaces every weight that init (--init) would set: leave out one of the two.")
    if str(init) == IMAGENET:
        if architecture not in _PUBLISHED:
            raise DataError(
                f"Keras has published no ImageNet weights for '{architecture}': leave out init (--init), name an .npz "
                f"file of them or a file of this package, or take one of {', '.join(_PUBLISHED)}."
            )
        row = _imagenet_row(architecture, "")
        return InitialWeights(f"ImageNet, keras.applications {_PUBLISHED[architecture]}", data=(row,))
    if Path(init).suffix == ARRAYS and Path(init).is_file():
        row = _imagenet_row(architecture, Path(init).name)
        return InitialWeights(Path(init).name, sha256_of(init), (row,), Path(init))
    spec, file = _find_file(init, architecture)
    digest = sha256_of(file)
    spec = spec or next((row for row in weights().values() if row.sha256 == digest), None)
    if spec is None:
        data: tuple[Mapping[str, Any], ...] = _data_of(file)
        return InitialWeights(file.name, digest, data, file, seen_by_trunk(file))
    trained = training_of(spec, file.parent)
    return InitialWeights(_label(init), digest, tuple(spec.data), file, trained, spec.training.get("init"))


def _imagenet_row(architecture: str, file: str) -> dict[str, str]:
    """The row of ``data`` of weights that learnt from ImageNet."""
    called, paper, licence = _IMAGENET.get(architecture, (file, "given as initial weights", "not stated"))
    whose = f"keras.applications {called}" if architecture in _PUBLISHED else called
    return {"name": "ImageNet", "source": f"weights of {whose}, {paper}", "licence": licence}


def _find_file(init: str | Path, architecture: str) -> tuple[WeightSpec | None, Path]:
    """The file of weights of this package, after its row or None."""
    path = Path(init)
    described = (path.parent / sources.CONFIG_FILE).is_file() and path.name == sources.WEIGHTS_FILE
    if path.is_file() and not described:
        return None, path  # such as a distilled trunk: its tensors are compared with the network's
    if path.suffix == ".safetensors" and not path.is_file():
        raise WeightsError(
            f"There is no weight file {init} to begin with: name one with init (--init), or leave it out."
        )
    found = sources.find(str(path.parent if path.is_file() else init))
    if found.spec.config.architecture != architecture:
        raise DataError(
            f"{init} is a weight of '{found.spec.config.architecture}', not of '{architecture}': name one of the same "
            "architecture with init (--init)."
        )
    return found.spec, found.file


def _label(init: str | Path) -> str:
    """The name that a record gives: without the folders of this machine."""
    if sources.is_in_zoo(str(init)) or str(init).startswith("hf://"):
        return str(init)
    path = Path(init).resolve()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _data_of(file: Path) -> tuple[Mapping[str, Any], ...]:
    """What is known of a file without a description: a trunk tells what it was distilled from."""
    about = read_config(file) or {}
    distillation = about.get("distillation")
    rows = list((about.get("init") or {}).get("data", []))
    if not isinstance(distillation, dict):
        return (*rows, {"name": file.name, "source": "given as initial weights", "licence": "not stated"})
    rows += list((distillation.get("init") or {}).get("data", []))
    return (
        *rows,
        {"name": "teacher", "source": TEACHER_SOURCE, "licence": "Apache-2.0"},
        {"name": file.name, "source": "given as initial weights, distilled without labels", "licence": "not stated"},
    )


def write_initial_weights(
    initial: InitialWeights, recipe: Recipe, seed: int, file: Path, run: str, log: Log
) -> InitialWeights:
    """Write the network that a training begins with to a file, unless this run has; returns the weights with it."""
    if initial.source is None:
        log(f"weights: random from seed {seed}")
        return initial
    about = (read_config(file) or {}).get("init", {}) if file.is_file() else {}
    if about.get("run") != run:
        model = new_network(recipe, 2, seed)
        if initial.file is None:
            about = {"sha256": _take_imagenet(model, recipe)}
        elif initial.file.suffix == ARRAYS:
            assign_arrays(model, initial.file, "The initial weights", _OWN_LAYERS)
            about = {"sha256": initial.sha256}
        else:
            load_tensors(model, initial.file, without_head=True)
            about = {"sha256": initial.sha256}
        about |= {"source": initial.source, "data": [dict(row) for row in initial.data], "run": run}
        save_tensors(model, file, config={"init": about})
    initial = dataclasses.replace(initial, file=file, sha256=about["sha256"])
    log(f"weights: {initial}")
    return initial


def _take_imagenet(model: keras.Model, recipe: Recipe) -> str:
    """Copy the tensors of Keras' published network into ours by name; returns their sha256."""
    name = _PUBLISHED[recipe.architecture]
    try:
        with precision("float32"), without_random_weights():
            published = getattr(keras.applications, name)(include_top=False, weights="imagenet")
    except Exception as error:
        raise WeightsError(
            f"Keras could not fetch the ImageNet weights of {name} ({error}); try again with a network connection, or "
            "begin otherwise with init (--init FILE or --init none)."
        ) from None
    ours, digest = named_variables(model), hashlib.sha256()
    values = {key: keras.ops.convert_to_numpy(variable) for key, variable in named_variables(published).items()}
    if recipe.architecture == "mobilenet" and recipe.head == "texture":
        values = {key: value for key, value in values.items() if key in ours}  # it ends at the eighth block
    for key, value in values.items():
        if key not in ours or tuple(ours[key].shape) != value.shape:
            raise WeightsError(
                f"The {name} of this release of Keras has a tensor '{key}' that '{recipe.architecture}' lacks: install "
                "the release of Keras that this package was made for, or begin with --init none."
            )
        digest.update(key.encode() + np.ascontiguousarray(value, np.float32).tobytes())
    for key, value in values.items():
        ours[key].assign(value)
    return digest.hexdigest()


def cells_seen(initial: InitialWeights, cells: Cells) -> Overlap | None:
    """Which of the cells taught these weights, by person and by image; None where nothing is known of them."""
    trained = initial.trained_on
    if trained is None:
        return None
    prints = [file_fingerprint(path) for path in cells.paths]
    return find_overlap(cells, prints, trained, str(initial.source))


# ---------------------------------------------------------------------------------------------------------------------
# Trunks that learnt without labels


def find_trunk(trunk: str | Path | None) -> Path | None:
    """The file of a trunk: as given, or that of a weight of the zoo or of a saved model."""
    if trunk is None:
        return None
    if Path(trunk).is_file() or Path(trunk).suffix == ".safetensors":
        return Path(trunk)
    return _trunk_of(sources.find(str(trunk)), trunk)[0]


def _trunk_of(found: sources.Found, name: str | Path) -> tuple[Path, Recipe]:
    """File and recipe of the trunk of a weight that was found, which must have learnt without labels."""
    recipe = refit_recipe(found.spec)
    if recipe is None:
        raise DataError(
            f"The layers of {name} learnt from labelled cells, which the record of a trunk would not tell: begin with "
            "it with init (--init), or give a weight whose trunk learnt without labels."
        )
    trunk = found.file.parent / TRUNK_FILE  # beside a model of one's own; it tells which images it has seen
    return (trunk if trunk.is_file() else found.file), recipe


def trunk_record(file: Path) -> dict[str, Any]:
    """The record of a trunk's distillation, from its own header or from the description of its weight."""
    about = (read_config(file) or {}).get("distillation")
    if isinstance(about, dict):
        return about
    digest = sha256_of(file)
    spec = next((row for row in weights().values() if row.sha256 == digest), None)
    if spec is None and (file.parent / sources.CONFIG_FILE).is_file():
        spec = sources.find(str(file.parent)).spec
    recipe = None if spec is None else refit_recipe(spec)
    if spec is None or recipe is None:
        return {}
    known = {key: value for key, value in spec.training["distillation"].items() if key != "sha256"}
    settings = plain(recipe.to_dict()["distillation"])
    init = spec.training.get("init", "random")
    begun = {"init": dict(init)} if init != "random" else {}
    return {"recipe": settings, **known, **begun, "taken_from": spec.name, "data": [dict(row) for row in spec.data]}


def refit_recipe(spec: WeightSpec) -> Recipe | None:
    """The recipe of a weight, if nothing but its classifier has seen labelled cells; None otherwise."""
    settings = dict(spec.training.get("recipe") or {})
    distillation = spec.training.get("distillation") or {}
    if not settings.get("distillation") or not distillation.get("unlabelled") or settings.get("fine_tune_epochs"):
        return None
    initial = spec.training.get("init", "random")
    if initial != "random" and not str(initial.get("source", "")).startswith("ImageNet, "):
        return None  # those weights may have seen labelled cells
    architecture = settings.pop("architecture")
    return recipe_for(architecture, settings)


# ---------------------------------------------------------------------------------------------------------------------
# Networks whose probabilities teach


@dataclasses.dataclass(frozen=True)
class LogitsTeacher:
    """A saved model whose probabilities teach; it must not have seen the people who are tested.

    Attributes:
        folder: Where it lies.
        weight: Its name in its own description.
        sha256: Of its file.
        data: What it was trained on, as rows of ``data`` in a record.
    """

    folder: Path
    weight: str
    sha256: str
    data: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class LinearTeacher:
    """A weight whose trunk learnt without labels, and the recipe of the linear classifiers on its features.

    Attributes:
        weight: Its name in its own description.
        sha256: Of its file.
        file: Where it lies.
        recipe: The recipe it was made by.
        data: What its trunk learnt from, as rows of ``data`` in a record.
    """

    weight: str
    sha256: str
    file: Path
    recipe: Recipe
    data: tuple[Any, ...]


def found_linear_teachers(names: Sequence[str | Path]) -> tuple[LinearTeacher, ...]:
    """The weights on whose features linear classifiers are to teach."""
    teachers = []
    for name in names:
        found = sources.find(str(name))
        spec = found.spec
        teachers.append(LinearTeacher(spec.name, spec.sha256, *_trunk_of(found, name), tuple(spec.data)))
    return tuple(teachers)


def found_teachers(
    recipe: Recipe, folder: str | Path | None, linear: Sequence[str | Path] = (), folds: int = 0
) -> tuple[LogitsTeacher, ...]:
    """The saved models that teach: one of a training, or one of each fold of a cross-validation."""
    if (folder is not None) + bool(linear) != bool(recipe.soft_share):
        raise DataError(
            "This recipe gives the probabilities of others no share of the targets: leave out --linear-teacher and "
            "--logits-teacher, or set soft_share in the recipe."
            if not recipe.soft_share
            else "This recipe learns in part from the probabilities of others: name either weights whose trunk learnt "
            "without labels (--linear-teacher), or the folder of a network or of its cross-validation "
            "(--logits-teacher), or set soft_share to 0 in the recipe."
        )
    if folder is None:
        return ()
    places = [Path(folder) / f"fold_{number}" for number in range(folds)] if folds else [Path(folder)]
    teachers = []
    for place in places:
        spec = sources.find(str(place)).spec
        teachers.append(LogitsTeacher(place, spec.name, spec.sha256, tuple(spec.data)))
    return tuple(teachers)


def load_logits_teacher(
    teachers: tuple[LogitsTeacher, ...], number: int, cells: Cells, tested: np.ndarray, log: Log
) -> keras.Model | None:
    """The teacher of a fold; None without teachers."""
    if not teachers:
        return None
    teacher = teachers[number]
    if len(tested):
        part = cells.subset(tested.tolist())
        trained = training_of(sources.find(str(teacher.folder)).spec, teacher.folder)
        overlap = find_overlap(part, [file_fingerprint(path) for path in part.paths], trained, str(teacher.folder))
        if len(overlap.rows):
            raise LeakError(
                f"{overlap.told}: the teacher of a fold must not know those who are tested in it; give a "
                "cross-validation in the same folds (--logits-teacher)."
            )
        if trained is None:
            raise LeakError(f"{overlap.told} A teacher of a cross-validation must tell; train it again.")
    model = load_model(str(teacher.folder))
    if model.zoo.class_names != cells.class_names:
        raise DataError(
            f"The network in {teacher.folder} knows the classes {', '.join(model.zoo.class_names)}, but the cells have "
            f"{', '.join(cells.class_names)}: take one of the same classes in the same order."
        )
    log(f"probabilities of {teacher.folder.name} are a part of the targets")
    return model
