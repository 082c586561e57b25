"""Text of other people made short and harmless, and names that are nearly those that exist."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 100, 100, 40

Log = Callable[[str], None]
"""What is called with each line of progress. The library prints nothing by itself: a log is None unless it is given."""

NOT_A_DIAGNOSIS = "For research only: these are the outputs of a statistical model, not a diagnosis."


def shown(value: object) -> str:
    """A value as it stands in an error: as in Python, and so without what a terminal would obey, but short."""
    text = _SHORT.repr(value)
    return text if len(text) <= 150 else f"{text[:150]}..."


def shortened(texts: Iterable[str], most: int = 5) -> str:
    """The first of several texts, and how many more there are."""
    texts = list(texts)
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def reason(error: object, most: int = 200) -> str:
    """What another library or a server says, for the middle of a sentence: its first line, printable and short."""
    line = str(error).strip().split("\n", 1)[0]
    line = "".join(char if char.isprintable() else " " for char in line).rstrip(". ")
    return line if len(line) <= most else f"{line[:most]}..."


def close_matches(name: str, names: Iterable[str]) -> str:
    """The part of an error that helps: "did you mean ...?" or all the names there are."""
    names = sorted(names)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


def printable(text: str) -> str:
    """A file name without line ends and terminal commands."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def silent(line: str) -> None:
    """The log of those who want none."""
