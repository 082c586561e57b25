"""Griffe extension: doctest examples become example sections, and call arguments become parameters."""

from __future__ import annotations

import re
from typing import Any

import griffe

_BARE_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class ExampleSections(griffe.Extension):
    """Bring the forms in which our docstrings give examples into the one that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = with_sections(obj.docstring.value)


def with_sections(text: str) -> str:
    """Return a docstring with its examples in a section `Examples:` and its call arguments in one of parameters."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"^Call arguments:$", "Keyword Args: Call arguments:", text, flags=re.MULTILINE)
    return _BARE_EXAMPLE.sub(lambda found: "Examples:\n    " + found[0].replace("\n", "\n    "), text)
