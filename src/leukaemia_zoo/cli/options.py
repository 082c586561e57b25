"""Options that several commands have, each in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from leukaemia_zoo.cli import paths

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]

POSITIVE = click.IntRange(min=1)
MODEL = "name in the zoo, folder of a saved model, or hf://org/name@revision"
LABELLED = "C-NMC as downloaded, class folders, or a CSV"
RESTART = "begin anew where an interrupted run could be resumed"


def known_model(text: str) -> str:
    """A model whose name is known: a mistyped one is told before the seconds of the backend."""
    from leukaemia_zoo.zoo.registry import model_info
    from leukaemia_zoo.zoo.sources import is_elsewhere

    name = paths.home(text)
    if not is_elsewhere(name):
        model_info(name)
    return name


class _Model(click.ParamType):
    """A type of click's, because of a function click would take the error, a `ValueError`, for its own."""

    name = "model"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return known_model(value)


KNOWN_MODEL = _Model()


def data(what: str = LABELLED) -> Decorator[Any]:
    """``--data``: the labelled cells."""
    return click.option("--data", type=paths.path, required=True, metavar="DIR", help=what)


def out(what: str) -> Decorator[Any]:
    """``--out``: the folder to write."""
    return click.option("--out", type=paths.output_folder, required=True, metavar="DIR", help=what)


def file(name: str, what: str, metavar: str = "FILE") -> Decorator[Any]:
    """A file or folder to read that may be left out."""
    return click.option(name, type=paths.path, metavar=metavar, help=what)


def recipe() -> Decorator[Any]:
    """``--recipe``: changed settings."""
    return file("--recipe", "JSON with settings that replace the recipe's own")


def positive(speaks: str, name: str) -> Decorator[Any]:
    """``--positive``: the class that the metrics speak of."""
    what = f"of two classes the one that {speaks} of (default: the one whose name says it{name}, else the last)"
    return click.option("--positive", metavar="CLASS", help=what)


def cross_validate(what: str) -> Decorator[Any]:
    """``--cross-validate``: folds by subject."""
    return click.option("--cross-validate", type=POSITIVE, metavar="K", help=what)


def seed(what: str) -> Decorator[Any]:
    """``--seed``: of all that is drawn."""
    return click.option("--seed", type=int, default=0, metavar="N", help=f"seed of {what}")


def views(what: str) -> Decorator[Any]:
    """``--views``: turned and mirrored views that a verdict averages over."""
    from leukaemia_zoo.cells.preprocessing import VIEWS

    return click.option("--views", type=click.Choice(VIEWS), help=f"{what} (default: as the weight was judged)")


def restart(what: str = RESTART) -> Decorator[Any]:
    """``--restart``: an older run counts for nothing."""
    return click.option("--restart", is_flag=True, help=what)


def private(what: str) -> Decorator[Any]:
    """``--private``: None leaves a repository as it is."""
    return click.option("--private", is_flag=True, default=None, help=what)


def as_json() -> Decorator[Any]:
    """``--json``: what is printed is for programs."""
    return click.option("--json", "as_json", is_flag=True, help="print JSON")


def all_or_positive(text: str) -> int | str:
    """A number from 1 on, or 'all'."""
    if text == "all":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is neither a number from 1 on nor 'all'.")
    return int(text)
