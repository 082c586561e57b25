"""Templates of Jinja2 that a wing keeps beside its modules: what is put into them is escaped."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukaemia_zoo.common import markdown

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def html_templates(folder: Path) -> Environment:
    """Templates of pages: every value is escaped for HTML, except what is `Markup` or passes the filter `safe`."""
    return _environment(folder, autoescape=True)


@cache
def markdown_templates(folder: Path) -> Environment:
    """Templates of Markdown: every text is escaped on one line, unless it is `markdown.Markdown`; numbers stay.

    Filters: `code`, `counted` for a number with commas, `fixed` for three decimals, `md` for what is Markdown already;
    `oneline` joins a paragraph.
    """
    environment = _environment(folder, finalize=markdown.finished)
    written: dict[str, Callable[..., str]] = {
        "code": markdown.code,
        "counted": "{:,}".format,
        "fixed": lambda value, digits=3: f"{value:.{digits}f}",
        "md": str,
        "oneline": lambda value: " ".join(value.split()),
    }
    for name, write in written.items():
        environment.filters[name] = lambda *values, write=write: markdown.Markdown(write(*values))
    return environment


def _environment(folder: Path, **options: Any) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # a text file ends with one
        **options,
    )
