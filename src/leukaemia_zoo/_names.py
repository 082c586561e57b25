"""Names of the package: loaded on first use, and for one release also under what they were called before."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def lazily(
    package: str,
    files: Mapping[str, str],
    *,
    wings: Sequence[str] = (),
    moved: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are loaded on first use.

    Args:
        package: Its `__name__`.
        files: Public names, with spaces between them, by the file of the package that they lie in.
        wings: Packages inside it that are attributes too.
        moved: Names that an earlier release had here, by the wing where they are now.
    """
    file_of = {name: file for file, names in files.items() for name in names.split()}
    wing_of = {name: wing for wing, names in (moved or {}).items() for name in names.split()}

    def load(name: str) -> Any:
        if name in file_of:
            value = getattr(importlib.import_module(f"{package}.{file_of[name]}"), name)
            setattr(importlib.import_module(package), name, value)
            return value
        if name in wings:
            return importlib.import_module(f"{package}.{name}")
        if name in wing_of:
            _warn(f"{package}.{name} is {package}.{wing_of[name]}.{name} now", stacklevel=3)
            return getattr(importlib.import_module(f"{package}.{wing_of[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted([*file_of, *wings]), [*file_of]


def renamed(**new_names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A function that takes keywords under their old names too, given as `old="new"`."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **keywords: _P.kwargs) -> _R:
            for old in new_names.keys() & keywords.keys():
                new = new_names[old]
                if new in keywords:
                    raise TypeError(f"{function.__name__}() got {old!r} and {new!r}, which are the same: give {new!r}")
                _warn(f"leukaemia_zoo: {function.__name__}({old}=...) is {new}=... now", stacklevel=3)
                keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        return call

    return decorate


def takes(kind: Any) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """A function whose `options`, an object of this dataclass, may be given as keywords too; its signature has them."""
    import dataclasses
    import inspect

    fields = {field.name: field for field in dataclasses.fields(kind)}

    def decorate(function: Callable[..., _R]) -> Callable[..., _R]:
        @functools.wraps(function)
        def call(*args: Any, options: Any = None, **keywords: Any) -> _R:
            if not isinstance(options, kind | None):
                raise TypeError(f"{function.__name__}() takes a {kind.__name__} as options, not {options!r}")
            given = {name: keywords.pop(name) for name in fields.keys() & keywords.keys()}
            options = dataclasses.replace(options, **given) if options is not None else kind(**given)
            return function(*args, options=options, **keywords)

        signature = inspect.signature(function)
        own = [parameter for name, parameter in signature.parameters.items() if name != "options"]
        single = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for name, field in fields.items()
        ]
        options = signature.parameters["options"].replace(default=None)
        call.__signature__ = signature.replace(parameters=[*own, *single, options])  # type: ignore[attr-defined]
        return call

    return decorate


def old_method(owner: str, old: str, new: str) -> Callable[..., Any]:
    """A method that answers under its old name."""

    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        _warn(f"leukaemia_zoo: {owner}.{old}() is {owner}.{new}() now", stacklevel=3)
        return getattr(self, new)(*args, **keywords)

    call.__name__, call.__doc__ = old, f"The old name of `{new}`."
    return call


def _warn(what: str, stacklevel: int) -> None:
    warnings.warn(f"{what}; the old name goes with the next release.", DeprecationWarning, stacklevel=stacklevel)
