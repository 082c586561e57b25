"""The names of the package: few at the top, the others in their wings, the old ones with a warning."""

import ast
import importlib
import inspect
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

import leukaemia_zoo as lz
from leukaemia_zoo._names import NAMES, old_method, renamed, takes

SOURCE = Path(lz.__file__).parent
WINGS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name in NAMES)

OLD_NAMES = {
    **dict.fromkeys(("build_model", "save_pretrained", "push_to_hub", "publish", "ModelConfig"), "zoo"),
    **dict.fromkeys(("register_architecture", "CellAugmentation"), "zoo"),
    **dict.fromkeys(("ood_scores", "iter_predictions", "Prediction", "Predictions", "attention_maps"), "prediction"),
    **dict.fromkeys(("segment_cell", "extract_cells", "ExtractedCell", "estimate_scale"), "smears"),
    **dict.fromkeys(("reject", "normalise_stain"), "smears"),
    **dict.fromkeys(("read_image", "find_images", "read_cnmc", "read_folders", "read_csv", "Split"), "cells"),
    **dict.fromkeys(("split_by_subject", "kfold_by_subject", "check_split"), "cells"),
    **dict.fromkeys(("save_manifest", "load_manifest", "verify"), "cells"),
    "Recipe": "training",
    **dict.fromkeys(("FineTuned", "linear_probe"), "adaptation"),
}
"""What version 0.1 had at the top, and where it is now."""


def test_few_names_are_at_the_top():
    names = set(lz.__all__) - {"__version__"}
    assert len(names) <= 20
    assert names >= {"predict", "load_model", "train", "cross_validate", "fine_tune", "benchmark", "read_data"}
    assert set(WINGS) < set(dir(lz))


@pytest.mark.parametrize("wing", ["", *WINGS])
def test_a_name_leads_to_its_file_and_type_checkers_see_the_same(wing):
    package = importlib.import_module(f"leukaemia_zoo.{wing}".rstrip("."))
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (typing_only,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typing_only.body for alias in node.names}
    assert sorted(seen) == sorted(set(package.__all__) - {"__version__"})
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)
        assert not (Path(package.__file__).parent / f"{name}.py").exists(), "importing that file would hide the name"
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        _ = package.predictt


@pytest.mark.parametrize("name", sorted(OLD_NAMES))
def test_an_old_name_answers_and_says_where_it_is_now(name):
    wing = OLD_NAMES[name]
    with pytest.warns(DeprecationWarning, match=rf"leukaemia_zoo\.{name} is leukaemia_zoo\.{wing}\.{name} now") as told:
        found = getattr(lz, name)
    assert found is getattr(getattr(lz, wing), name)
    assert told[0].filename == __file__
    assert name not in lz.__all__


@pytest.mark.parametrize("wing", ["", *WINGS])
def test_nothing_is_printed_by_default(wing):
    """Every log and every bar is None unless it is given, whether an option or an argument."""
    package = importlib.import_module(f"leukaemia_zoo.{wing}".rstrip("."))
    for name in set(package.__all__) - {"__version__"}:
        value = getattr(package, name)
        parameters = inspect.signature(value).parameters if callable(value) else {}
        for told in parameters.keys() & {"log", "progress"}:
            assert parameters[told].default is None, f"{name}({told}=...)"


def test_importing_the_package_and_looking_around_loads_nothing_heavy():
    code = (
        "import sys, leukaemia_zoo as lz; lz.cells, lz.zoo, lz.training, lz.adaptation, dir(lz.training); "
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('keras', 'tensorflow', 'numpy', 'huggingface_hub', 'requests', 'httpx', 'sklearn')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@dataclass(frozen=True)
class _Options:
    seed: int = 0
    names: tuple[str, ...] = field(default=())


@renamed(cells="data")
@takes(_Options)
def _count(data, *, twice=False, options):
    return len(data) * (1 + twice), options


def test_options_are_an_object_or_keywords_or_both():
    assert _count("abc") == (3, _Options())
    assert _count("abc", seed=2, twice=True) == (6, _Options(2))
    assert _count("abc", options=_Options(1, ("a",)), seed=2) == (3, _Options(2, ("a",)))
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        _count("abc", sed=1)
    with pytest.raises(TypeError, match="takes a _Options as options"):
        _count("abc", options={"seed": 1})

    assert list(inspect.signature(_count).parameters) == ["data", "twice", "seed", "names", "options"]


def test_an_old_keyword_answers_and_says_what_it_is_now():
    with pytest.warns(DeprecationWarning, match=r"_count\(cells=\.\.\.\) is data=\.\.\. now") as told:
        assert _count(cells="ab")[0] == 2
    assert told[0].filename == __file__
    with pytest.raises(TypeError, match="got 'cells' and 'data'"):
        _count(cells="ab", data="ab")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _count(data="ab")[0] == 2


def test_an_old_method_answers_and_says_what_it_is_now():
    class Row:
        def to_dict(self):
            return {"a": 1}

        to_record = old_method("Row", "to_record", "to_dict")

    with pytest.warns(DeprecationWarning, match=r"Row\.to_record\(\) is Row\.to_dict\(\) now"):
        assert Row().to_record() == {"a": 1}


RENAMED = [
    ("training", "train", {"name": "model", "cells": "data", "report": "log"}),
    ("training", "cross_validate", {"name": "model", "cells": "data", "report": "log"}),
    ("training", "distil", {"report": "log"}),
    ("adaptation", "fine_tune", {"report": "log", "time_budget": "time_budget_s"}),
    ("adaptation", "linear_probe", {"report": "log"}),
    ("benchmarking", "benchmark", {"report": "log", "cross_validate": "refit_folds", "folds": "choice_folds"}),
    ("zoo", "load_model", {"name": "model"}),
    ("zoo", "save_model", {"folder": "out"}),
    ("zoo", "save_pretrained", {"folder": "out"}),
    ("zoo", "download", {"name": "model", "folder": "out"}),
    ("zoo", "publish", {"report": "log"}),
]


@pytest.mark.parametrize(
    ("wing", "name", "new_names"), RENAMED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_public_functions_take_the_names_of_the_last_release(wing, name, new_names, tmp_path):
    """With a value that nothing can be done with: what counts is that the name is known, and what it is now."""
    function = getattr(getattr(lz, wing), name)
    parameters = inspect.signature(function).parameters
    assert set(new_names.values()) <= set(parameters)
    assert not set(new_names) & set(parameters)
    for old, new in new_names.items():
        told = pytest.warns(DeprecationWarning, match=rf"{name}\({old}=\.\.\.\) is {new}=\.\.\. now")
        with told, pytest.raises((TypeError, lz.errors.LeukaemiaZooError)):
            function(**{old: 0}, nonsense=1)


@pytest.mark.parametrize(
    ("wing", "name", "options"),
    [
        ("training", "train", "TrainingOptions"),
        ("training", "cross_validate", "TrainingOptions"),
        ("adaptation", "fine_tune", "FineTuningOptions"),
        ("benchmarking", "benchmark", "BenchmarkOptions"),
    ],
)
def test_a_function_takes_each_of_its_options_as_a_keyword_and_few_others(wing, name, options):
    own = set(inspect.signature(getattr(getattr(lz, wing), name)).parameters)
    of_object = {each.name for each in fields(getattr(getattr(lz, wing), options))}
    assert of_object < own
    assert len(own - of_object - {"options"}) <= 5
