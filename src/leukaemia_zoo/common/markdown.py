"""What others wrote, as Markdown that says just that."""

from __future__ import annotations

import re
from typing import Any


class Markdown(str):
    """What is Markdown already."""


def finished(value: Any) -> str:
    """A value as it stands in a document: Markdown and numbers as they are, other text escaped."""
    return str(value) if isinstance(value, Markdown | int | float) else text(value)


def plain(value: Any) -> str:
    """On one line and without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())


def text(value: Any) -> str:
    """For Markdown, also in a table: all that has a meaning there is escaped, and a doi becomes a link."""
    parts = re.split(r"doi (10\.\d+/[\w./-]*\w)(?=[,;.)]*(?:\s|$))", plain(value), flags=re.ASCII)
    escaped = [re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", part) for part in parts]
    escaped[0] = re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", escaped[0])  # what would start a heading or a list
    for place in range(1, len(parts), 2):
        escaped[place] = f"[doi {escaped[place]}](https://doi.org/{parts[place]})"
    return "".join(escaped)


def code(value: Any) -> str:
    """As code, or as text where code could not hold it."""
    line = plain(value)
    return f"`{line}`" if line and not set("`|\\") & set(line) else text(line)


def identifier(value: Any) -> str:
    """As the Hub writes identifiers: `c-nmc-2019` for C-NMC 2019."""
    return re.sub(r"[^a-z0-9._]+", "-", plain(value).lower()).strip("-._") or "not-stated"


def short(value: Any) -> str:
    """As Python writes it, cut to 80 characters."""
    line = plain(repr(value))
    return line if len(line) <= 80 else f"{line[:77]}..."
