"""Pretrained Keras networks that tell leukaemic from normal white blood cells in single-cell images.

Public names are loaded on first use: importing this package loads no Keras backend and no network code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leukaemia_zoo.registration import register_layers

__version__ = "0.1.0"

_MODULE_OF = {
    "AttentionBlock": "attention",
    "attention_maps": "attention",
    "build_model": "architectures",
    "load_model": "loading",
    "save_model": "loading",
    "download": "sources",
    "save_pretrained": "publishing",
    "push_to_hub": "publishing",
    "publish": "publishing",
    "list_models": "registry",
    "model_info": "registry",
    "ModelConfig": "registry",
    "ood_scores": "ood",
    "segment_cell": "segmentation",
    "extract_cells": "fields",
    "ExtractedCell": "fields",
    "estimate_scale": "fields",
    "reject": "fields",
    "normalise_stain": "stains",
    "export": "engine.exporting",
    "predict": "prediction",
    "iter_predictions": "prediction",
    "Prediction": "prediction",
    "Predictions": "prediction",
    "Preprocessing": "preprocessing",
    "read_image": "images",
    "find_images": "images",
    "Cells": "cells",
    "read_data": "datasets",
    "read_cnmc": "datasets",
    "read_folders": "datasets",
    "read_csv": "datasets",
    "Split": "splits",
    "split_by_subject": "splits",
    "kfold_by_subject": "splits",
    "check_split": "splits",
    "save_manifest": "splits",
    "load_manifest": "splits",
    "verify": "verification",
    "benchmark": "benchmarking",
    "Report": "report",
    "CellAugmentation": "augmentation",
    "Recipe": "recipes",
    "train": "training",
    "fine_tune": "finetuning",
    "FineTuned": "finetuning",
    "embed": "embeddings",
    "linear_probe": "probing",
    "register_architecture": "architectures",
    "cross_validate": "cross_validation",
}

__all__ = ["__version__", *_MODULE_OF]

if TYPE_CHECKING:
    from leukaemia_zoo.architectures import build_model, register_architecture
    from leukaemia_zoo.attention import AttentionBlock, attention_maps
    from leukaemia_zoo.augmentation import CellAugmentation
    from leukaemia_zoo.benchmarking import benchmark
    from leukaemia_zoo.cells import Cells
    from leukaemia_zoo.cross_validation import cross_validate
    from leukaemia_zoo.datasets import read_cnmc, read_csv, read_data, read_folders
    from leukaemia_zoo.embeddings import embed
    from leukaemia_zoo.engine.exporting import export
    from leukaemia_zoo.fields import ExtractedCell, estimate_scale, extract_cells, reject
    from leukaemia_zoo.finetuning import FineTuned, fine_tune
    from leukaemia_zoo.images import find_images, read_image
    from leukaemia_zoo.loading import load_model, save_model
    from leukaemia_zoo.ood import ood_scores
    from leukaemia_zoo.prediction import Prediction, Predictions, iter_predictions, predict
    from leukaemia_zoo.preprocessing import Preprocessing
    from leukaemia_zoo.probing import linear_probe
    from leukaemia_zoo.publishing import publish, push_to_hub, save_pretrained
    from leukaemia_zoo.recipes import Recipe
    from leukaemia_zoo.registry import ModelConfig, list_models, model_info
    from leukaemia_zoo.report import Report
    from leukaemia_zoo.segmentation import segment_cell
    from leukaemia_zoo.sources import download
    from leukaemia_zoo.splits import (
        Split,
        check_split,
        kfold_by_subject,
        load_manifest,
        save_manifest,
        split_by_subject,
    )
    from leukaemia_zoo.stains import normalise_stain
    from leukaemia_zoo.training import train
    from leukaemia_zoo.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_layers()
