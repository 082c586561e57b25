"""The house: wings with one way between them, a few files each, and no Keras where none is needed."""

import ast
import itertools
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "leukaemia_zoo"
PACKAGE = "leukaemia_zoo"

GROUND = {"errors", "_version", "_names"}
"""What every file may import; these import nothing of the package."""

MAY_IMPORT = {
    "common": set(),
    "cells": {"common"},
    "hub": {"common"},
    "smears": {"cells", "common"},
    "evaluation": {"cells", "common"},
    "report": {"evaluation", "cells", "common"},
    "zoo": {"hub", "cells", "common"},
    "engine": {"zoo", "hub", "cells", "common"},
    "exporting": {"engine", "zoo", "hub", "cells", "common"},
    "prediction": {"exporting", "engine", "zoo", "hub", "cells", "common"},
    "explanation": {"prediction", "exporting", "engine", "zoo", "hub", "cells", "common"},
    "examination": {"prediction", "exporting", "engine", "zoo", "hub", "smears", "cells", "common"},
    "batch": {"prediction", "exporting", "engine", "zoo", "hub", "cells", "common"},
    "desk": {
        *("explanation", "examination", "prediction", "exporting", "engine", "zoo", "hub"),
        *("smears", "cells", "common"),
    },
    "training": {"prediction", "exporting", "engine", "zoo", "hub", "report", "evaluation", "cells", "common"},
    "benchmarking": {
        *("explanation", "training", "prediction", "exporting", "engine", "zoo", "hub"),
        *("report", "evaluation", "cells", "common"),
    },
    "adaptation": {
        *("benchmarking", "explanation", "training", "prediction", "exporting", "engine", "zoo", "hub"),
        *("report", "evaluation", "smears", "cells", "common"),
    },
    "cli": {
        *("adaptation", "batch", "benchmarking", "desk", "examination", "explanation", "training"),
        *("prediction", "exporting", "engine", "zoo", "hub"),
        *("report", "evaluation", "smears", "cells", "common"),
    },
}
"""Which wings a wing may import, in functions too. A wing that is named above another one never imports it back."""

WITHOUT_KERAS = (
    *("cells", "smears", "evaluation", "report", "common.files", "common.text"),
    *("batch", "desk", "engine.network", "engine.stream", "engine.trunk", "adaptation.probing"),
    *("hub", "zoo.registry", "zoo.sources", "zoo.cards"),
)
"""Files and wings whose import loads no Keras, neither by themselves nor through what they import."""

PUT_OFF = {
    ("engine.graphs", "engine.making"),
}
"""Imports within a function that close a circle of files of one wing. The list may only shrink."""

MOST_FILES = 11
MOST_LINES = 400


def _name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
WINGS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def _resolved(module, name):
    """The file that an import of the package leads to: a module, or the one that a name is imported from."""
    inside = module.removeprefix(PACKAGE).lstrip(".")
    longer = f"{inside}.{name}".lstrip(".")
    return longer if longer in FILES else inside


@cache
def _imports(name):
    """What a file imports, as (name, whether when it is imported itself): files of the package and other packages."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    later = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            later |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) not in later) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; this test and people read whole names"
            if node.module.split(".")[0] == PACKAGE:
                found |= {(_own(_resolved(node.module, alias.name)), id(node) not in later) for alias in node.names}
            else:
                found.add((node.module, id(node) not in later))
    return found


def _own(file):
    return f"{PACKAGE}.{file}" if file else PACKAGE


def _own_imports(name, at_import_only=False):
    """Files of the package that a file imports."""
    prefix = f"{PACKAGE}."
    found = {module for module, at_import in _imports(name) if at_import or not at_import_only}
    return {module.removeprefix(prefix) for module in found if module.startswith(prefix)}


def test_every_wing_is_known():
    assert sorted(MAY_IMPORT) == WINGS
    ground = {name for name in FILES if name and "." not in name and name not in WINGS}
    assert ground == {*GROUND, "__main__"}, "a file belongs into a wing"


def test_the_rule_itself_has_one_way():
    for wing, below in MAY_IMPORT.items():
        for other in below:
            assert wing not in MAY_IMPORT[other], f"{wing} and {other} may import each other"
            assert MAY_IMPORT[other] <= below, f"{wing} may import {other}, but not all that it stands on"


@pytest.mark.parametrize("wing", sorted(MAY_IMPORT))
def test_imports_go_one_way(wing):
    upward = []
    for name in FILES:
        if name.split(".")[0] == wing:
            for other in _own_imports(name):
                top = other.split(".")[0]
                if top != wing and top not in GROUND | MAY_IMPORT[wing]:
                    upward.append(f"{name} imports {other}")
    assert upward == []


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_stands_on_nothing(name):
    assert _own_imports(name) == set()


def test_no_file_imports_the_package_itself():
    """Neither its public names nor its version: they would load what a wing must not know."""
    assert [name for name in FILES if (PACKAGE, True) in _imports(name) or (PACKAGE, False) in _imports(name)] == []


def test_no_circle_of_files():
    """Imports within functions count too: a circle that is put off is a circle."""
    for name, other in PUT_OFF:
        assert other in _own_imports(name) - _own_imports(name, at_import_only=True)
    left = {name: {other for other in _own_imports(name) if (name, other) not in PUT_OFF} for name in FILES if name}
    while left:
        free = {name for name, needed in left.items() if not needed & set(left)}
        assert free, f"these files import each other: {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in free}


def test_one_wing_talks_to_the_hub():
    """Beside it `cards` writes the metadata of a model card with the classes of the client, which fetch nothing."""
    importers = {name for name in FILES for module, _ in _imports(name) if module.split(".")[0] == "huggingface_hub"}
    assert {name for name in importers if not name.startswith("hub.")} == {"zoo.cards"}


def test_the_files_of_a_wing_that_promise_it_load_no_keras():
    light = [name for name in FILES for start in WITHOUT_KERAS if name == start or name.startswith(f"{start}.")]
    assert len(light) > len(WITHOUT_KERAS)
    for name in light:
        reached, queue = set(), [name]
        while queue:
            file = queue.pop()
            if file not in reached:
                reached.add(file)
                queue += [*_own_imports(file, at_import_only=True), *_packages_above(file)]
        heavy = {
            file
            for file, (module, at_import) in ((f, i) for f in reached for i in _imports(f))
            if at_import and module.split(".")[0] in {"keras", "tensorflow", "jax", "torch"}
        }
        assert heavy == set(), f"importing {name} loads Keras through {sorted(heavy)}"


def _packages_above(file):
    """The wing of a file, whose `__init__` runs first."""
    wing = file.split(".")[0]
    return [wing] if "." in file and wing in FILES else []


@pytest.mark.parametrize("wing", sorted(MAY_IMPORT))
def test_a_wing_is_small_and_flat(wing):
    folder = SOURCE / wing
    files = [path.name for path in folder.rglob("*.py") if path.name != "__init__.py"]
    assert 0 < len(files) <= MOST_FILES
    assert all((folder / name).is_file() for name in files), "a wing has no folders of modules"
    init = (folder / "__init__.py").read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(init)), "a wing says in one sentence what it is"


def test_no_file_or_wing_hides_a_public_name():
    """Importing `leukaemia_zoo.x` sets the attribute `x` of the package."""
    import leukaemia_zoo

    tops = {name.split(".")[0] for name in FILES if name}
    assert tops & set(leukaemia_zoo.__all__) == set()


def test_no_file_grows_beyond_what_one_reads_at_once():
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES.values()
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}, "split them"


def test_tests_stand_where_their_wing_is():
    folders = {path.name for path in Path(__file__).parent.iterdir() if any(path.glob("test_*.py"))}
    assert folders == set(MAY_IMPORT)
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    twice = [name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1]
    assert twice == [], "pytest tells test files apart by name"
