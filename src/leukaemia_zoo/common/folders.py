"""The one walk through folders: what every reader of images and of data sets meets, and what it passes over."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from leukaemia_zoo.common.run_folder import RUN, has_record
from leukaemia_zoo.common.text import shortened, shown

_SYSTEM = re.compile(
    r"@eadir|@tmp|@recycle|@recently-snapshot|#recycle|#snapshot"  # Synology and QNAP
    r"|\$recycle\.bin|recycler|system volume information|found\.\d{3}"  # Windows
    r"|lost\+found|__macosx|network trash folder|temporary items|\.trash.*"  # Linux and macOS
)
"""Folders that a system makes by itself: thumbnails, what was deleted, what was found after a crash."""

_RECORDS = {"examination.json": "leukaemia_zoo", "explanations.json": "leukaemia_zoo"}
"""What `cells` and `explain` leave beside their pictures, which are no further cells or fields."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """What is below a folder.

    Attributes:
        files: Visible regular files, and broken links, in natural order.
        hidden: Files whose name begins with a dot.
        folders: The visible folders that were entered, without the first.
        system: Folders of the system and of earlier results, which were not entered.
        faults: One sentence for each folder that could not be entered: what the walk does not tell of.
    """

    files: tuple[Path, ...]
    hidden: tuple[Path, ...]
    folders: tuple[Path, ...]
    system: tuple[Path, ...]
    faults: tuple[str, ...]


def walk(root: Path) -> Walk:
    """Walk a folder with all its subfolders.

    Hidden folders, folders of the system and, below `root`, folders in which this package has left pictures are passed
    over. Linked folders are followed, each real folder at most once, so that a loop of links ends. A folder below
    `root` that cannot be listed is a fault and not the end.
    """
    files: list[Path] = []
    hidden: list[Path] = []
    folders: list[Path] = []
    system: list[Path] = []
    faults: list[str] = []
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as listing:
                entries = sorted(listing, key=lambda entry: natural(entry.name))
        except OSError as error:
            if here == root:
                raise
            faults.append(f"{here} cannot be listed ({error.strerror or error}): check your right to read the folder.")
            continue
        if here != root and _holds_results(here, {entry.name for entry in entries}):
            system.append(here)
            continue
        if here != root:
            folders.append(here)
        inner: list[Path] = []
        for entry in entries:
            path = here / entry.name
            kind = _kind(entry)
            if kind == "folder" and _SYSTEM.fullmatch(entry.name.casefold()):
                system.append(path)
            elif kind == "folder":
                inner += [] if entry.name.startswith(".") else [path]
            elif kind == "link" and not path.suffix:  # it was a folder, as far as its name tells
                faults.append(f"{path} {link_fault(path)}")
            elif kind is not None:
                (hidden if entry.name.startswith(".") else files).append(path)
        waiting += reversed(inner)  # which decides by which path a linked folder is met: the first in natural order
    return Walk(_in_order(files), _in_order(hidden), _in_order(folders), _in_order(system), tuple(faults))


def link_fault(path: Path) -> str:
    """What is wrong with a broken link, after its name."""
    return (
        f"is a link to {shown(str(path.readlink()))}, which is not there: fetch the file (git annex get, dvc pull) or "
        "mend the link."
    )


def system_note(folders: Iterable[Path], root: Path | None = None) -> str:
    """What is told of folders that were passed over."""
    told: dict[str, list[str]] = {"of the system": [], "of earlier results": []}
    for folder in folders:
        kind = "of the system" if _SYSTEM.fullmatch(folder.name.casefold()) else "of earlier results"
        told[kind].append(str(folder if root is None else folder.relative_to(root)))
    return " ".join(
        f"{len(names):,} {'folder' if len(names) == 1 else 'folders'} {kind} passed over: {shortened(names)}."
        for kind, names in told.items()
        if names
    )


def _holds_results(folder: Path, names: set[str]) -> bool:
    """Whether a run that leaves pictures has ended in a folder, or is to go on in it."""
    return RUN in names or (not names.isdisjoint(_RECORDS) and has_record(folder, _RECORDS))


def distinct(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Each real file by the first of its paths, and the further paths of files that were there already."""
    first: set[str] = set()
    once: list[Path] = []
    again: list[Path] = []
    for file in files:
        real = os.path.realpath(file)
        (again if real in first else once).append(file)
        first.add(real)
    return once, again


@functools.lru_cache(maxsize=1 << 14)  # the folders of many files are the same
def natural(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key of people: digits count as numbers and case does not matter."""
    parts = re.split("([0-9]+)", text.casefold())  # text and digits in turn
    numbers = (part.lstrip("0") for part in parts)  # compared by length first: int() refuses very long ones
    keys = (
        (0, len(number), number) if index % 2 else (1, 0, part)
        for index, (part, number) in enumerate(zip(parts, numbers, strict=True))
    )
    return tuple(keys), text


def _in_order(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(sorted(paths, key=lambda path: [natural(part) for part in path.parts]))


def _kind(entry: os.DirEntry[str]) -> str | None:
    """``folder``, ``file``, ``link`` for one that is broken, None for pipes, devices and the like."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "link" if entry.is_symlink() else None
    except OSError:  # its metadata cannot be read; opening it will say why
        return "link" if entry.is_symlink() else "file"
