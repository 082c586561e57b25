"""Files that are whole or not there, their hashes, the walk of a folder, and plain data for JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, TextIO

from leukaemia_zoo.errors import DataError, IntegrityError, WeightsError

try:
    import fcntl
except ImportError:  # on Windows, where a file that somebody writes to cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

OWN = ".leukaemia-zoo-"
"""What the names of files and folders that are only for this package begin with."""

STANDARD_OUTPUT = "-"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the user's share of it, or the file as large as it may be."""

_YOUNG_S = 1.0
"""So long a file may be there before whoever made it has locked it."""


def package_folder() -> Path:
    """Where this package is installed: its data lie there, beside the wings."""
    return Path(str(resources.files("leukaemia_zoo")))


def cache_folder(what: str) -> Path:
    """Folder of this user for what one call keeps for the next: in XDG_CACHE_HOME, or else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leukaemia-zoo" / what


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, whose content becomes that of ``path`` at the end, all or nothing.

    A regular file is written beside its place and renamed; so is the file that a link leads to, and the link stays. Its
    folder is made where it is missing, and the rights of a file that is there stay. A device, a pipe or an open file is
    written to as it is. What a killed process left beside ``path`` is removed.
    """
    path = Path(path)
    target = _regular_target(path)
    if target is None:
        with _named_if_full(path), tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as place:
            made = Path(place) / f"written{_suffix(path)}"
            yield made
            with made.open("rb") as source, path.open("wb") as there:
                shutil.copyfileobj(source, there)
        return
    mode = _mode(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        handle, name = tempfile.mkstemp(prefix=_start_beside(target), suffix=_suffix(path), dir=target.parent)
    except OSError as error:  # of a folder on the way, or of a name that nobody gave
        raise OSError(error.errno, error.strerror, str(path)) from error
    beside = Path(name)
    try:
        with _named_if_full(path), _locked(handle, path):
            yield beside
            beside.chmod(mode)
            beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[TextIO]:
    """Open a text file, or ``-`` for the standard output, as `replacing` does; a device gets each line at once.

    File names may hold bytes that are no UTF-8; they are written as ``\\udc..``, so that the file stays readable.
    """
    form: dict[str, Any] = {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    path = Path(path)
    if str(path) == STANDARD_OUTPUT:
        binary = getattr(sys.stdout, "buffer", None)
        if binary is None:
            raise DataError("There is no standard output to write to: name a file instead of '-'.")
        sys.stdout.flush()
        stream = io.TextIOWrapper(binary, write_through=True, **form)
        try:
            yield stream
        finally:
            stream.detach()  # not closed: the standard output is not ours
    elif _regular_target(path) is not None:
        with replacing(path) as beside, beside.open("w", **form) as file:
            yield file
    else:
        number = _own_descriptor(path)
        # Another opening of an open file would begin at its start again.
        where = path if number is None else os.dup(number)
        with _named_if_full(path), open(where, "w", buffering=1, **form) as file:  # noqa: PTH123 - may be a number
            yield file


@contextlib.contextmanager
def _named_if_full(path: Path) -> Iterator[None]:
    """Name the file that there was no room for: the system does not say which one it was that could not grow."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def write_json(path: str | Path, data: Any) -> None:
    """Write plain data as indented JSON, beside first and then renamed."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_png(path: str | Path, image: Any) -> None:
    """Write an image of Pillow as PNG, beside first and then renamed."""
    with replacing(path) as beside:
        image.save(beside, "PNG")


def sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file have left beside it."""
    for old in path.parent.glob(f"{_start_beside(path)}*"):
        with contextlib.suppress(OSError):
            if fcntl is not None and time.time() - old.stat().st_mtime > _YOUNG_S:
                with old.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody writes to it
                    old.unlink()


def refuse_to_overwrite(outputs: Iterable[tuple[str, Any]], inputs: Iterable[tuple[str, Any]]) -> None:
    """Raise if a file that is to be written is one that is read, or two outputs are one file; links are followed.

    Both are pairs of what the user calls a file, such as ``--csv``, and its path; what is no path is passed over.
    """
    taken: dict[Any, str] = {}
    for name, path in outputs:
        if path is None or (place := _identity(path)) is None:
            continue
        if place in taken:
            raise DataError(f"{taken[place]} and {name} {path} are the same file: give each a name of its own.")
        taken[place] = f"{name} {path}"
    if not taken:
        return
    for name, path in inputs:
        if isinstance(path, str | os.PathLike) and (place := _identity(path)) in taken:
            raise DataError(
                f"{taken[place]} would overwrite what is to be read, {name} {path}: write to another place."
            )


def _identity(path: Any) -> Any:
    """Equal for two paths of one file, also of one that is not there yet; None for what cannot be overwritten."""
    if str(path) == STANDARD_OUTPUT:
        return STANDARD_OUTPUT
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path))
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _regular_target(path: Path) -> Path | None:
    """The regular file that is there or is to be made, links followed; None for what is something else."""
    if _descriptors(path) is not None:
        return None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))  # a link that leads nowhere yet is followed too
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return Path(os.path.realpath(path)) if stat.S_ISREG(mode) else None


def _mode(target: Path) -> int:
    """The rights that the file is to have."""
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
    if not os.access(target, os.W_OK):  # renaming would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return mode


def _descriptors(path: Path) -> str | None:
    """The number of an open file, if the path or a link on its way leads to one: ``/dev/stdout``, ``/dev/fd/63``."""
    for _ in range(40):  # as many links as Linux follows
        here = os.path.realpath(path.parent)
        if here == "/dev/fd" or (here.startswith("/proc/") and here.endswith("/fd")):
            return path.name
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _own_descriptor(path: Path) -> int | None:
    """The number of an open file of this process."""
    number = _descriptors(path)
    if number is None or not number.isdigit():
        return None
    try:
        same = os.path.samestat(os.fstat(int(number)), path.stat())
    except OSError:
        return None
    return int(number) if same else None


def _start_beside(path: Path) -> str:
    # Of one length whatever the name: a long name with something added would be too long for a file.
    return f"{OWN}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"


def _suffix(path: Path) -> str:
    """Of a file, as far as those who write it look at it: two parts, as in ``.weights.h5``."""
    return "".join(path.suffixes[-2:])[-40:]


@contextlib.contextmanager
def _locked(handle: int, path: Path) -> Iterator[None]:
    """Keep others from taking an open file for one that was left behind."""
    if fcntl is None or path.suffix == ".h5":  # HDF5 locks its files itself, in the same way
        os.close(handle)
        yield
        return
    try:
        with contextlib.suppress(OSError):  # not every network file system can lock
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def existing_folder(root: Path) -> Path:
    """Return the folder, or raise a DataError if there is none."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: check the path.")
    return root


def distinct_stems(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """A name without suffix for what is made of each file: its own where that is free, however a system compares names.

    Example:
        >>> distinct_stems(["a/cell.png", "b/Cell.bmp", "c/1 of 2.png"])
        ['cell', 'Cell_2', '1_of_2']
    """
    taken: set[str] = set()
    stems = []
    for number, path in enumerate(paths, start=1):
        own = re.sub(r"[^\w.-]", "_", Path(path).stem)[:100].strip(".") or "file"
        further = (f"{own}_{count}" for count in itertools.count(number))
        stem = next(name for name in itertools.chain([own], further) if name.lower() not in taken)
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def version_of(path: str | Path) -> tuple[int, int]:
    """Size and time of change, by which a file is known to be the same; an OSError where it cannot be reached."""
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def sha256_of(path: str | Path) -> str:
    """sha256 of a file's bytes, as 64 hexadecimal digits."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def check_integrity(
    path: str | Path, sha256: str, size: int | None = None, mend: str = "remove it and install or fetch it again"
) -> None:
    """Raise unless a file has the promised sha256, and size where it is known; `mend` says what to do about it."""
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError(f"There is no weight file {path}.")
        found = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    digest = sha256_of(path)
    if digest == sha256 and size in (None, found):
        return
    lengths = f"{found:,} bytes, not the {size:,} promised, and " if size not in (None, found) else ""
    raise IntegrityError(
        f"{path} is cut off, damaged or not this weight: it has {lengths}the sha256 {digest}, not the promised "
        f"{sha256}; {mend}."
    )


def _unreadable(path: str | Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path} cannot be read ({error.strerror or error}): give yourself the right to read it, or get it again."
    )


def plain(value: Any) -> Any:
    """Copy to what JSON can hold: text keys, lists, no NumPy types; numbers that are not finite become None.

    Example:
        >>> plain({1: (0.5, float("nan"))})
        {'1': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    raise TypeError(f"{type(value).__name__} cannot stand in a report")
