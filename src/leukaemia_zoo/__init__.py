"""Pretrained Keras networks that tell leukaemic from normal white blood cells in single-cell images.

Public names are loaded on first use: importing this package loads no Keras backend and no network code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leukaemia_zoo._version import __version__
from leukaemia_zoo.common.registration import register_layers

_MODULE_OF = {
    "AttentionBlock": "zoo.layers",
    "attention_maps": "prediction.attention",
    "build_model": "zoo.architectures",
    "load_model": "zoo.loading",
    "save_model": "zoo.loading",
    "download": "zoo.sources",
    "save_pretrained": "zoo.publishing",
    "push_to_hub": "zoo.publishing",
    "publish": "zoo.publishing",
    "list_models": "zoo.registry",
    "model_info": "zoo.registry",
    "ModelConfig": "zoo.registry",
    "ood_scores": "prediction.features",
    "segment_cell": "smears.segmentation",
    "extract_cells": "smears.fields",
    "ExtractedCell": "smears.fields",
    "estimate_scale": "smears.fields",
    "reject": "smears.fields",
    "normalise_stain": "smears.stains",
    "export": "engine.exporting",
    "predict": "prediction.verdicts",
    "iter_predictions": "prediction.verdicts",
    "Prediction": "prediction.results",
    "Predictions": "prediction.results",
    "Preprocessing": "cells.preprocessing",
    "read_image": "cells.images",
    "find_images": "cells.images",
    "Cells": "cells.table",
    "read_data": "cells.readers",
    "read_cnmc": "cells.readers",
    "read_folders": "cells.readers",
    "read_csv": "cells.readers",
    "Split": "cells.splits",
    "split_by_subject": "cells.splits",
    "kfold_by_subject": "cells.splits",
    "check_split": "cells.splits",
    "save_manifest": "cells.manifests",
    "load_manifest": "cells.manifests",
    "verify": "cells.verification",
    "benchmark": "benchmarking.runner",
    "Report": "report.report",
    "CellAugmentation": "zoo.augmentation",
    "Recipe": "training.recipes",
    "train": "training.trainer",
    "fine_tune": "adaptation.fine_tuning",
    "FineTuned": "adaptation.fine_tuning",
    "embed": "prediction.features",
    "linear_probe": "adaptation.probing",
    "register_architecture": "zoo.architectures",
    "cross_validate": "training.cross_validation",
}

__all__ = ["__version__", *_MODULE_OF]

if TYPE_CHECKING:
    from leukaemia_zoo.adaptation.fine_tuning import FineTuned, fine_tune
    from leukaemia_zoo.adaptation.probing import linear_probe
    from leukaemia_zoo.benchmarking.runner import benchmark
    from leukaemia_zoo.cells.images import find_images, read_image
    from leukaemia_zoo.cells.manifests import load_manifest, save_manifest
    from leukaemia_zoo.cells.preprocessing import Preprocessing
    from leukaemia_zoo.cells.readers import read_cnmc, read_csv, read_data, read_folders
    from leukaemia_zoo.cells.splits import Split, check_split, kfold_by_subject, split_by_subject
    from leukaemia_zoo.cells.table import Cells
    from leukaemia_zoo.cells.verification import verify
    from leukaemia_zoo.engine.exporting import export
    from leukaemia_zoo.prediction.attention import attention_maps
    from leukaemia_zoo.prediction.features import embed, ood_scores
    from leukaemia_zoo.prediction.results import Prediction, Predictions
    from leukaemia_zoo.prediction.verdicts import iter_predictions, predict
    from leukaemia_zoo.report.report import Report
    from leukaemia_zoo.smears.fields import ExtractedCell, estimate_scale, extract_cells, reject
    from leukaemia_zoo.smears.segmentation import segment_cell
    from leukaemia_zoo.smears.stains import normalise_stain
    from leukaemia_zoo.training.cross_validation import cross_validate
    from leukaemia_zoo.training.recipes import Recipe
    from leukaemia_zoo.training.trainer import train
    from leukaemia_zoo.zoo.architectures import build_model, register_architecture
    from leukaemia_zoo.zoo.augmentation import CellAugmentation
    from leukaemia_zoo.zoo.layers import AttentionBlock
    from leukaemia_zoo.zoo.loading import load_model, save_model
    from leukaemia_zoo.zoo.publishing import publish, push_to_hub, save_pretrained
    from leukaemia_zoo.zoo.registry import ModelConfig, list_models, model_info
    from leukaemia_zoo.zoo.sources import download


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_layers()
