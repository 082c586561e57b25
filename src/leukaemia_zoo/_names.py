"""Names of the package: loaded on first use, and for one release also under what they were called before."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


NAMES = {
    "": {
        "zoo.registry": "list_models model_info",
        "zoo.loading": "load_model save_model",
        "zoo.sources": "download",
        "prediction.verdicts": "predict",
        "prediction.features": "embed",
        "explanation.maps": "explain",
        "examination.folder": "examine_fields",
        "batch.predictor": "BatchPredictor",
        "cells.readers": "read_data",
        "benchmarking.runner": "benchmark",
        "training.trainer": "train",
        "training.cross_validation": "cross_validate",
        "adaptation.fine_tuning": "fine_tune",
        "exporting.writing": "export",
        "zoo.layers": "AttentionBlock",
        "cells.table": "Cells",
        "cells.preprocessing": "Preprocessing",
        "report.report": "Report",
    },
    "cells": {
        "arrays": "as_image as_images",
        "images": "find_images read_image",
        "preprocessing": "Preprocessing symmetric_views turned_views",
        "readers": "read_cnmc read_csv read_data read_folders",
        "table": "Cells",
        "copies": "NearCopy duplicate_cells near_copies pixel_sha256",
        "splits": "Split check_split kfold_by_subject split_by_subject",
        "manifests": "load_manifest manifest_sha256 save_manifest",
        "verification": "VerifyReport verify",
        "cnmc": "canonical_subject official_duplicates official_files parse_cnmc_name subject_from_name",
    },
    "smears": {
        "segmentation": "cell_mask segment_cell",
        "fields": "ExtractedCell estimate_scale extract_cells reject",
        "stains": "normalise_stain",
        "slides": "Slide",
    },
    "zoo": {
        "registry": "ModelConfig ModelInfo ModelSpec WeightSpec list_models model_info",
        "loading": "load_model save_model",
        "sources": "Found download",
        "architectures": "build_model register_architecture with_output",
        "layers": "AttentionBlock CellMask CellStatistics",
        "augmentation": "CellAugmentation",
        "publishing": "Published publish push_to_hub save_pretrained",
        "cards": "model_card",
    },
    "engine": {
        "network": "Network",
    },
    "exporting": {
        "writing": "Exported export",
    },
    "prediction": {
        "verdicts": "iter_predictions predict",
        "results": "Prediction Predictions SubjectSummary SubjectTally",
        "features": "embed embed_files limit_of ood_scores",
        "attention": "attention_maps",
    },
    "explanation": {
        "maps": "Explanation explain iter_explanations",
        "folder": "ExplainedFiles explain_files",
        "pictures": "contact_sheet overlay",
    },
    "examination": {
        "field": "ExaminedCell ExaminedField examine_field",
        "folder": "ExaminedFields examine_fields",
    },
    "batch": {
        "predictor": "BatchPredictor",
        "run": "Outcome predict_parquet",
    },
    "desk": {
        "page": "build_page serve",
    },
    "evaluation": {
        "metrics": "called_classes per_subject",
        "intervals": "Bootstrap Interval bootstrap_over_subjects paired_difference",
        "calibration": "apply_temperature calibration_slope_intercept expected_calibration_error fit_temperature "
        "reliability",
        "baselines": "area_baseline cell_area",
        "judgement": "judge",
    },
    "report": {
        "report": "Comparison Report",
        "curves": "curve_rows",
    },
    "training": {
        "trainer": "train",
        "cross_validation": "CrossValidation cross_validate",
        "recipes": "DistillationRecipe Recipe TrainingOptions recipe_for",
        "provenance": "find_initial_weights",
        "distillation": "distil load_teacher",
        "leaks": "find_overlap",
    },
    "benchmarking": {
        "runner": "benchmark",
        "options": "BenchmarkOptions",
        "cost": "Cost measure_costs",
        "operations": "flops",
    },
    "adaptation": {
        "fine_tuning": "FineTuned fine_tune",
        "options": "FineTuningOptions fine_tuning_recipe",
        "probing": "Probe linear_probe",
        "inspection": "Inspected inspect_cells usual_preprocessing",
        "splits": "folds_by_people split_for_fine_tuning",
    },
}
"""The public names by wing and file: those of everyday work at the top, which are in their wings as well."""

_MOVED = {
    "zoo": "build_model save_pretrained push_to_hub publish ModelConfig CellAugmentation register_architecture",
    "prediction": "ood_scores iter_predictions Prediction Predictions attention_maps",
    "smears": "segment_cell extract_cells ExtractedCell estimate_scale reject normalise_stain",
    "cells": "read_image find_images read_cnmc read_folders read_csv Split split_by_subject kfold_by_subject "
    "check_split save_manifest load_manifest verify",
    "training": "Recipe",
    "adaptation": "FineTuned linear_probe",
}
"""What version 0.1 had at the top, by the wing where it is now."""


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are loaded on first use, by its `__name__`."""
    wing = package.partition(".")[2]
    file_of = {name: file for file, names in NAMES[wing].items() for name in names.split()}
    wings = [] if wing else [name for name in NAMES if name]
    moved_to = {} if wing else {name: now for now, names in _MOVED.items() for name in names.split()}

    def load(name: str) -> Any:
        if name in file_of:
            value = getattr(importlib.import_module(f"{package}.{file_of[name]}"), name)
            setattr(importlib.import_module(package), name, value)
            return value
        if name in wings:
            return importlib.import_module(f"{package}.{name}")
        if name in moved_to:
            now = f"{package}.{moved_to[name]}"
            _warn(f"{package}.{name} is {now}.{name} now", stacklevel=3)
            return getattr(importlib.import_module(now), name)
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
