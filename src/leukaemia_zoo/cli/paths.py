"""Paths as people write them on a command line: ``~`` and patterns in quotes, which not every shell expands."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from leukaemia_zoo.errors import DataError

_ENDS_OF_FOLDERS = tuple(filter(None, (os.sep, os.altsep)))


def home(text: str) -> str:
    """A name or a path; ``~`` at its start is the user's folder. For what may be written, or be no path at all."""
    return os.path.expanduser(text)  # noqa: PTH111 - a Path would change names such as hf://org/name


def output(text: str) -> Path:
    """A file to write, or a folder that has no name yet."""
    if text.endswith(_ENDS_OF_FOLDERS):
        raise ValueError(f"{text} names a folder: give the name of a file to write")
    return output_folder(text) if text != "-" else Path(text)


def output_folder(text: str) -> Path:
    """A folder to write."""
    if text == "-":
        raise ValueError("'-' is the standard output and no folder; ./- is a folder of that name")
    return Path(home(_named(text)))


def path(text: str) -> Path:
    """One file or folder to read, which a pattern may stand for."""
    found = _matches(text)
    if len(found) != 1:
        raise ValueError(f"{text} stands for {len(found)} files and folders, not for one")
    return Path(found[0])


def expanded(texts: Iterable[str]) -> list[str]:
    """Files and folders, in the order given; those of a pattern in the order of their names."""
    found = []
    for text in texts:
        matches = _matches(text)
        if not matches:
            raise DataError(f"Nothing matches {text}: check the pattern.")
        found += matches
    return found


def _named(text: str) -> str:
    """The text, unless there is none: a Path would make the folder of now of it."""
    if not text:
        raise DataError("A path is empty, as of a variable of the shell that is not set: name a file or folder.")
    return text


def _matches(text: str) -> list[str]:
    name = home(_named(text))
    if glob.escape(name) == name or os.path.lexists(name):  # a file may be called cell[1].png
        return [name]
    return sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - of a whole path
