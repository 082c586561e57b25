"""Where a weight comes from: what the caller names, package, checkout, the local cache of the Hub, the Hub; in turn.

A saved model is a folder with ``config.json`` (plain data: see `WeightSpec`) and one safetensors file. A repository on
the Hub holds the same two. Whatever is found here has been compared with the size and the sha256 that its description
promises, and nothing of it has been parsed but that description. What a weight of somebody's own says in its header has
been compared with the description too, which has no sha256 of its own. Nothing here imports Keras.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from leukaemia_zoo._names import renamed
from leukaemia_zoo.common.files import check_integrity, replacing, sha256_of, write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.common.text import reason, shown
from leukaemia_zoo.errors import DataError, HubStorageError, TensorMismatchError, UnknownNameError, WeightsError
from leukaemia_zoo.hub import addresses, cache, transfers
from leukaemia_zoo.zoo.registry import (
    ARCHITECTURES,
    WeightSpec,
    checkout_file,
    list_models,
    model_info,
    packaged_file,
    weights,
)
from leukaemia_zoo.zoo.tensors import read_config

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_OF_KERAS = (".keras", ".h5", ".hdf5")
_OF_OTHERS = (".pt", ".pth", ".ckpt", ".onnx", ".pb", ".tflite", ".pkl", ".pickle", ".joblib", ".npz", ".bin")
_FILES = (".safetensors", *_OF_KERAS, *_OF_OTHERS)
"""What the names of files with weights end in: no model of the zoo is called so."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """A weight that was found, and is what it should be.

    Attributes:
        spec: Its description.
        file: Its file, of the promised size and sha256.
        place: ``"path"``, ``"package"``, ``"checkout"``, ``"cache"`` or ``"hub"``: where it was found.
    """

    spec: WeightSpec
    file: Path
    place: str


def is_in_zoo(name: str) -> bool:
    """Whether a name means an architecture or a weight of the zoo, whatever folders of that name lie about."""
    return name in ARCHITECTURES or name in weights()


def is_elsewhere(name: str) -> bool:
    """Whether a name means a folder or a repository on the Hub: ``./cnn.cnmc`` is a folder, ``cnn.cnmc`` is not."""
    if not name or is_in_zoo(name):
        return False
    path = Path(name)
    is_path = os.sep in name or "/" in name or path.exists() or path.suffix.lower() in _FILES
    return name.startswith(addresses.PREFIX) or is_path


def find(name: str, path: str | os.PathLike[str] | None = None) -> Found:
    """Find the weight that a name, a folder or ``hf://org/name@revision`` means, or one of that name at `path`."""
    if path is not None:
        expected = model_info(name).architecture.name
        found = _elsewhere(os.fspath(path), expected)
        if found.spec.config.architecture != expected:
            raise TensorMismatchError(f"{path} is a weight of '{found.spec.config.architecture}', not of '{expected}'.")
        return found
    if is_elsewhere(name):
        return _elsewhere(name)
    info = model_info(name)
    if info.weight is None:
        raise WeightsError(
            f"There is no pretrained weight for '{name}' yet: give the folder of a model of your own, "
            + "".join(f"{weight}, " for weight in list_models(pretrained=True))
            + "or in Python weights=None for the network with random weights."
        )
    return _of_the_zoo(info.weight)


def read_saved(folder: str | os.PathLike[str]) -> tuple[WeightSpec, Path]:
    """Row and weight file of a saved model, checked for form but not yet for integrity."""
    spec = _read_config(Path(folder) / CONFIG_FILE)
    return spec, Path(folder) / spec.file


def read_whole(folder: str | os.PathLike[str]) -> tuple[WeightSpec, Path]:
    """Row and weight file of a saved model, the file as the row promises it, the row as the file was saved with it."""
    spec, file = read_saved(folder)
    check_integrity(file, spec.sha256, spec.size, mend="save, copy or download the model again")
    _check_description(spec, file, os.fspath(folder))
    return spec, file


def check_download(name: str) -> None:
    """Raise what is wrong with a name for `download`, as far as it can be told without looking for the weight."""
    if name.startswith(addresses.PREFIX):
        addresses.parse(name)
    elif is_elsewhere(name):
        if Path(name).exists():
            raise DataError(f"{name} is there already: there is nothing to download, load_model takes it as it is.")
        raise UnknownNameError(
            f"{shown(name)} is no name in the zoo: `leukaemia-zoo list` has them; for a repository on the Hub write "
            "hf://org/name."
        )
    else:
        model_info(name)


@renamed(name="model", folder="out")
def download(model: str, out: str | os.PathLike[str] | None = None) -> Found:
    """Get a weight ahead of time, so that it is there when there is no network.

    Args:
        model: Architecture or weight of the zoo, or ``hf://org/name@revision``.
        out: Where to write ``<weight>/config.json`` and ``<weight>/model.safetensors`` for another machine, on which
            `load_model` takes that folder itself; a repository becomes ``<org>--<name>``, whatever it calls its weight,
            with ``@<revision>`` if one was named. None to fill the local cache.

    Returns:
        What was found or fetched; with ``out`` the copy.

    Raises:
        UnknownNameError: If there is no such name.
        DataError: If ``model`` is a folder.
        HubStorageError: If ``out`` cannot be written to; nothing half-written is left there.
        WeightsError: As `find`.

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.download("cnn_attention").place  # travels inside the package
        'package'
    """
    check_download(model)
    found = find(model)
    if out is None:
        return found
    own = model.startswith(addresses.PREFIX)  # what somebody calls a weight must not replace another one
    target = Path(out) / (_folder_name(model) if own else found.spec.name)
    row = dataclasses.replace(found.spec, file=WEIGHTS_FILE)
    made: list[Path] = []
    try:
        made += [path for path in (target, *target.parents) if not path.exists()]
        with replacing(target / WEIGHTS_FILE) as beside:
            shutil.copyfile(found.file, beside)
            check_integrity(beside, row.sha256, row.size)
            write_json(target / CONFIG_FILE, row.to_dict())
    except OSError as error:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        raise HubStorageError(
            f"{target} cannot be written ({error.strerror or error}): make room and give yourself the right to write "
            "there, or name another folder with --to."
        ) from error
    return Found(row, target / WEIGHTS_FILE, found.place)


def local_files(name: str) -> list[Path]:
    """The files on this disk that the name of a model means; none of a model of the zoo or on the Hub."""
    path = Path(name)
    if not is_elsewhere(name) or not path.exists():
        return []
    if path.is_file():
        return [path, path.parent / CONFIG_FILE]
    return [file for kind in (CONFIG_FILE, WEIGHTS_FILE) for file in (*path.glob(kind), *path.glob(f"*/{kind}"))]


def _folder_name(uri: str) -> str:
    """``org--name`` or ``org--name@revision``: two repositories, or two revisions of one, get two folders."""
    return "@".join(part.replace("/", "--") for part in addresses.parse(uri) if part)


def _of_the_zoo(spec: WeightSpec) -> Found:
    for place, file in (("package", packaged_file(spec)), ("checkout", checkout_file(spec))):
        if file.is_file():
            mend = "install leukaemia-zoo again" if place == "package" else "restore it with git"
            check_integrity(file, spec.sha256, spec.size, mend=mend)
            return Found(spec, file, place)
    if spec.repo is None or spec.revision is None:
        raise WeightsError(
            f"The weight '{spec.name}' ({spec.size:,} bytes, sha256 {spec.sha256}) is not inside this package and was "
            f"not published on the Hub yet: get weights/{spec.file} from the project and name it with --model FILE, "
            "or load_model(..., weights=FILE) in Python."
        )
    return _from_hub(spec, spec.repo, spec.revision, WEIGHTS_FILE)


def _elsewhere(name: str, architecture: str | None = None) -> Found:
    """A weight that the caller names by path or repository."""
    if name.startswith(addresses.PREFIX):
        return _from_repository(*addresses.parse(name))
    path = Path(name)
    if path.suffix.lower() in _OF_KERAS and not path.is_dir():
        raise WeightsError(
            f"{name} is a file of Keras' own format, which can hold code and no sha256, so that it is not loaded by "
            f"name: read it with keras.saving.load_model({name!r}), or weights alone with load_weights of their "
            "network, and give the network itself, or save that with save_model and name the folder."
        )
    if path.suffix.lower() in _OF_OTHERS and not path.is_dir():
        raise WeightsError(
            f"{name} is no saved model of this package: name the folder with {CONFIG_FILE} and {WEIGHTS_FILE} that "
            "save_model or training left, or for a repository on the Hub hf://org/name."
        )
    if not path.exists():
        kind = "folder" if architecture is None else "weight at"
        raise WeightsError(
            f"There is no {kind} {name}: name the folder of a saved model, or for a repository on the Hub hf://org/name."
        )
    if path.is_dir():
        if architecture is not None and (own := _registered_file(path, architecture)) is not None:
            return own
        return Found(*read_whole(_model_folder(path, architecture)), "path")
    if not (path.parent / CONFIG_FILE).is_file():
        return Found(_row_of(path), path, "path")
    _, file = read_saved(path.parent)
    if path != file:
        raise WeightsError(f"{path.parent / CONFIG_FILE} describes {file.name}, not {path.name}.")
    return Found(*read_whole(path.parent), "path")


def _model_folder(folder: Path, architecture: str | None) -> Path:
    """The folder itself, or the one in it that holds a model: that is how `download` leaves them."""
    if (folder / CONFIG_FILE).is_file():
        return folder
    inside, others = [], []
    for path in sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}")):
        try:
            found = read_saved(path)[0].config.architecture
        except WeightsError as error:
            others.append(error)  # a model of another package may lie among them, or a damaged one of ours
            continue
        if architecture in (None, found):
            inside.append(path)
    if others and not inside:
        raise others[0]
    if len(inside) > 1:
        raise WeightsError(
            f"The folder {folder} holds {len(inside)} models: name one of {', '.join(map(str, inside))}."
        )
    return inside[0] if inside else folder  # of which it is then told that it holds none


def _registered_file(folder: Path, architecture: str) -> Found | None:
    """The weight of the zoo whose file lies in a folder under its registered name: ``weights`` of the project."""
    default = ARCHITECTURES[architecture].default_weight
    rows = [spec for spec in weights().values() if spec.config.architecture == architecture]
    for spec in sorted(rows, key=lambda spec: spec.name != default):
        if not (folder / CONFIG_FILE).is_file() and (folder / spec.file).is_file():
            check_integrity(folder / spec.file, spec.sha256, spec.size, mend="get the file from the project again")
            return Found(spec, folder / spec.file, "path")
    return None


def _row_of(path: Path) -> WeightSpec:
    """What the registry knows of a file without a description: whoever got it by hand has the file alone."""
    digest = sha256_of(path)
    for spec in weights().values():
        if spec.sha256 == digest:
            return spec
    raise WeightsError(
        f"There is no {CONFIG_FILE} beside {path}, and its sha256 {digest} is of no weight of the zoo: put the two "
        "files of a saved model into one folder, or get the file again."
    )


def _from_repository(repo: str, revision: str | None) -> Found:
    """A model in somebody's repository: nothing is believed of it but that its description is ours in form."""
    config, commit = transfers.fetch_config(repo, revision, CONFIG_FILE)
    if revision is None:
        _log.warning(
            "hf://%s names no revision: commit %s was taken; write hf://%s@%s to get the same again.",
            *(repo, commit, repo, commit),
        )
    spec = _read_config(config)
    known = weights().get(spec.config.weight or "")
    if known is None or known.sha256 != spec.sha256:
        # A weight of the zoo is known by its bytes: what was found out about it must not pass to another one.
        spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, weight=None))
    if spec.size > transfers.LARGEST_WEIGHTS:
        raise WeightsError(
            f"The description in {repo} claims a weight of {spec.size:,} bytes, more than any architecture has: do not "
            "use it."
        )
    found = _from_hub(spec, repo, commit, spec.file)
    _check_description(found.spec, found.file, f"{addresses.PREFIX}{repo}")
    return found


def _from_hub(spec: WeightSpec, repo: str, commit: str, name: str) -> Found:
    file = addresses.HubFile(repo, commit, name, spec.sha256, spec.size)
    place = "cache" if cache.is_cached(file) else "hub"
    origin = f"{addresses.PREFIX}{repo}@{commit}"
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, origin=origin))
    return Found(spec, transfers.fetch(file), place)


def _read_config(path: Path) -> WeightSpec:
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise WeightsError(f"The folder {path.parent} holds no saved model: there is no {path.name} in it.") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({reason(error)}); save the model again.") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not the description of a model; save the model again.")
    try:
        return WeightSpec.from_dict(data)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


_SAVED_TWICE = ("architecture", "head", "class_names", "preprocessing", "dropout", "temperature", "views")
"""Of a configuration: what decides on the answers of a network. The rest may change after its weights were saved."""


def _check_description(spec: WeightSpec, file: Path, where: str) -> None:
    """Raise if a description differs from the configuration that the weight file was saved with, if that has one."""
    # The sha256 of the description guards the file. Only this guards the description: of two class names the wrong way
    # round nothing else can be seen.
    saved, told = read_config(file) or {}, json.loads(json.dumps(spec.config.to_dict()))
    for key in _SAVED_TWICE:
        if key in saved and not _agree(saved[key], told[key]):
            raise WeightsError(
                f"The {CONFIG_FILE} of {where} says {key} {shown(told[key])}, but {file.name} was saved with "
                f"{shown(saved[key])}: one was damaged or changed; save, copy or download the model again."
            )


def _agree(saved: Any, told: Any) -> bool:
    """Whether a setting is the same; of an object, what was saved of it: later versions may have further keys."""
    if isinstance(saved, dict) and isinstance(told, dict):
        return all(told.get(key) == value for key, value in saved.items())
    return bool(saved == told)
