"""A folder of our own inside one of the user's: what an interrupted run goes on from, and what it may replace there.

It has a name that nobody else gives a folder, and a marker that lists every file in it that is ours before it is
written. Those files alone are ever removed, and the folder only when nothing else is left in it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.files import OWN, refuse_to_overwrite, replacing, sweep, write_json
from leukaemia_zoo.common.text import shortened
from leukaemia_zoo.errors import DataError

try:
    import fcntl
except ImportError:  # on Windows, where two runs in one folder are not told apart
    fcntl = None  # type: ignore[assignment]

RUN = f"{OWN}run"
"""Folder of a training, cross-validation or fine-tuning."""

BENCHMARK = f"{OWN}benchmark"
"""Folder of a benchmark, which may run inside the folder of a fine-tuning."""

MARKER = "leukaemia-zoo.json"

RECORDS = {"training.json": "recipe", "cross_validation.json": "recipe"}
"""By which the folder of a training, cross-validation or fine-tuning is known, and a key that each of them has."""

_NOTE = "Kept by leukaemia-zoo until its run has ended. It may be deleted: the run then begins anew."


TRUNK_FILE = "distilled.safetensors"
"""What a distillation leaves in the folder of a run."""


def files_of_training(folds: int | None = None, trunk: bool = False) -> list[str]:
    """What a training leaves in its folder, or a cross-validation in so many folds; with or without a given trunk."""
    if folds is None:
        names = ["config.json", "model.safetensors", "split.json", "validation.csv", "training.json"]
        names += ["curves.csv", "curves.svg"]
    else:
        names = ["cross_validation.json", "out_of_fold.csv", "calibration.json"]
        names += [manifest_of_fold(number) for number in range(folds)]
    return names if trunk else [*names, TRUNK_FILE]


def manifest_of_fold(number: int) -> str:
    """The file of a fold in the folder of a cross-validation: the manifest of its split, which holds every cell."""
    return f"fold_{number}.json"


class RunFolder:
    """Files by name, in a folder that is made with the first of them.

    Args:
        folder: Where.
        fingerprint: Of all that must be the same for a run to go on; None where each file says that itself.
        restart: Begin anew where the folder holds another run.

    Raises:
        DataError: If the folder is there and not ours, holds a run with another fingerprint, or another process runs in
            it; so does the first file that is written.
    """

    def __init__(self, folder: Path, fingerprint: str | None = None, restart: bool = False) -> None:
        self.folder = folder
        found = _marker_of(folder)
        if found is not None:
            _hold(folder)
            found = _marker_of(folder)  # which who held it until now may have changed
        if found is not None and (restart or found["ended"]):
            # Written first: a run that is killed amid the removal must not be taken for one that can go on.
            write_json(folder / MARKER, found | {"ended": True})
            _remove(folder, found)
            found = None
        elif found is not None and found["fingerprint"] != fingerprint:
            _let_go(folder)
            raise DataError(
                f"{folder.parent} holds an unfinished run with other settings, such as recipe, seed, data, beginning "
                "or number of devices: give another folder, or begin anew with restart (--restart)."
            )
        self._marker = found or {"note": _NOTE, "fingerprint": fingerprint, "ended": False, "files": [], "folders": []}

    def file(self, name: str) -> Path:
        """The path of a file that the run may write, and may remove."""
        return self._own("files", name)

    def own_folder(self, name: str) -> Path:
        """The path of a folder of the same kind in this one."""
        return self._own("folders", name)

    def inside(self, name: str, fingerprint: str | None = None) -> RunFolder:
        """A folder of the same kind in this one."""
        return RunFolder(self.own_folder(name), fingerprint)

    def begin(self) -> None:
        """Leave the marker: what a run writes outside of this folder is then known to be its own."""
        self._write()

    def save_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays."""
        with replacing(self.file(name)) as beside:
            np.savez(beside, **arrays)  # type: ignore[arg-type]

    def load_arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Arrays that were kept, or None."""
        file = self.folder / name
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def save_json(self, name: str, data: Any) -> None:
        """Keep plain data."""
        write_json(self.file(name), data)

    def load_json(self, name: str) -> Any:
        """Plain data that was kept, or None."""
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def save_weights(self, name: str, model: Any) -> None:
        """Keep all weights of a Keras model with its optimizer."""
        with replacing(self.file(name)) as beside:
            model.save_weights(beside)

    def discard(self, name: str) -> None:
        """Remove a file that is not needed any more."""
        if name in self._marker["files"]:
            (self.folder / name).unlink(missing_ok=True)

    @property
    def has_ended(self) -> bool:
        """Whether it was removed."""
        return bool(self._marker["ended"])

    def remove(self) -> None:
        """Remove what only an unfinished run needs. A run that is killed meanwhile has ended all the same."""
        if self.folder.is_dir():
            self._marker["ended"] = True
            self._write()
            _remove(self.folder, self._marker)

    def _own(self, kind: str, name: str) -> Path:
        if name not in self._marker[kind] or not (self.folder / MARKER).is_file():
            if name not in self._marker[kind]:
                self._marker[kind].append(name)
            self._write()
        return self.folder / name

    def _write(self) -> None:
        _hold(self.folder)
        try:
            write_json(self.folder / MARKER, self._marker)
        except OSError:
            _remove_if_empty(self.folder)  # nothing can be kept here, such as on a full disk
            _let_go(self.folder)
            raise


def is_under_way(folder: Path) -> bool:
    """Whether a folder of this kind holds a run that has not ended."""
    found = _marker_of(folder)
    return found is not None and not found["ended"]


def make_folder(folder: Path) -> None:
    """Make the folder of a run where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError(f"{folder} cannot be made or written to ({error.strerror or error}): give another.") from error


@contextlib.contextmanager
def folder_or_temporary(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder to write, made where it is missing and gone again if nothing is left in it; or one for the moment."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as place:
            yield Path(place)
        return
    folder = Path(out)
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            for made in new:  # a refused call leaves no empty folders
                made.rmdir()


def has_record(folder: Path, records: Mapping[str, str]) -> bool:
    """Whether one of these JSON files is in a folder and holds an object with its key, as a run of ours leaves it."""
    for record, key in records.items():
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((folder / record).read_text(encoding="utf-8"))
            if isinstance(found, dict) and key in found:
                return True
    return False


def refuse_to_replace(
    folder: Path,
    names: Sequence[str],
    records: Mapping[str, str],
    inputs: Iterable[tuple[str, Any]] = (),
    restart: bool = False,
) -> None:
    """Raise if a run would replace files that it reads, or that no run of ours has left in its folder.

    A run of ours was there if the folder `has_record`. For `inputs` see `refuse_to_overwrite`.
    """
    refuse_to_overwrite([("the run's", folder / name) for name in names], inputs)
    there = [name for name in names if (folder / name).exists()]
    if folders := [name for name in there if (folder / name).is_dir()]:
        raise DataError(f"{folder / folders[0]} is a folder, where the run writes a file: give another folder.")
    if restart or not there or is_under_way(folder / RUN) or is_under_way(folder / BENCHMARK):
        return
    if has_record(folder, records):
        return
    raise DataError(
        f"{folder} holds {shortened(there)}, which the run would replace and no run of leukaemia-zoo has left there: "
        "give another folder, or replace them with restart (--restart)."
    )


def refuse_among_images(folder: Path, images: Any) -> None:
    """Raise if a run would leave its pictures right in a folder that is searched: the next call would read them too."""
    given = [images] if isinstance(images, str | os.PathLike) else images
    searched = [path for path in given if isinstance(path, str | os.PathLike) and os.path.isdir(path)]  # noqa: PTH112
    if os.path.realpath(folder) in map(os.path.realpath, searched):
        raise DataError(
            f"{folder} is searched for images, and the next call would take the run's pictures for further ones: give "
            f"a folder of its own to write, such as {folder / 'results'}."
        )


def _marker_of(folder: Path) -> dict[str, Any] | None:
    """What the marker says; None of a folder that is not there, or is empty."""
    # A folder that is not ours raises a DataError.
    if not folder.is_dir():
        if folder.exists():
            raise _not_ours(folder)
        return None
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files, folders = found["files"], found["folders"]
        if all(Path(name).name == name and name not in ("", "..") for name in (*files, *folders)):
            return {"note": _NOTE, "fingerprint": found["fingerprint"], "ended": found["ended"]} | {
                "files": list(files),
                "folders": list(folders),
            }
    except FileNotFoundError:
        sweep(folder / MARKER)
        if not any(folder.iterdir()):  # killed before the first file
            return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise _not_ours(folder)


def _remove(folder: Path, marker: dict[str, Any]) -> None:
    """Remove the files that the marker lists, then the marker, then the folder if nothing else is in it."""
    for name in marker["folders"]:
        with contextlib.suppress(DataError):  # somebody else's by now
            if (inner := _marker_of(folder / name)) is not None:
                _remove(folder / name, inner)
            else:
                _remove_if_empty(folder / name)
    for name in marker["files"]:
        with contextlib.suppress(IsADirectoryError, PermissionError):
            (folder / name).unlink(missing_ok=True)
        sweep(folder / name)
    (folder / MARKER).unlink(missing_ok=True)
    sweep(folder / MARKER)
    _remove_if_empty(folder)
    _let_go(folder)


_held: dict[str, int] = {}
"""Folders of runs that this process works in, each with the open descriptor that keeps other processes out."""


def _hold(folder: Path) -> None:
    """Make a folder where it is missing, and keep other processes out until it is let go or this process ends."""
    here = os.path.realpath(folder)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise _not_ours(folder) from error
        if fcntl is None or (here in _held and _is_still(_held[here], here)):
            return
        _let_go(folder)  # it was removed meanwhile, and made again
        try:
            number = os.open(here, os.O_RDONLY)
        except FileNotFoundError:  # whoever held it has just ended
            continue
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            raise DataError(
                f"Another process runs in {folder.parent} at this moment: wait until it has ended, end it, or give "
                "another folder."
            ) from None
        except OSError:  # not every network file system can lock
            os.close(number)
            return
        _held[here] = number


def _let_go(folder: Path) -> None:
    if (number := _held.pop(os.path.realpath(folder), None)) is not None:
        os.close(number)


def _is_still(number: int, place: str) -> bool:
    """Whether an open folder is the one that is at a place."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(number), os.stat(place))  # noqa: PTH116
    return False


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _not_ours(folder: Path) -> DataError:
    return DataError(
        f"{folder} is where a run keeps its state, but it was not made by leukaemia-zoo or is damaged, and was left as "
        "it is: move it away, or give another folder."
    )
