"""Pretrained Keras networks that tell leukaemic from normal white blood cells in single-cell images.

The sixteen names of everyday work are here, the others in the wings: `leukaemia_zoo.cells`, `.zoo`, `.training`... All
are loaded on first use: importing this package loads no Keras backend and no network code.
"""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily
from leukaemia_zoo._version import __version__ as __version__
from leukaemia_zoo.common.registration import register_layers

if TYPE_CHECKING:
    from leukaemia_zoo.adaptation.fine_tuning import fine_tune
    from leukaemia_zoo.benchmarking.runner import benchmark
    from leukaemia_zoo.cells.preprocessing import Preprocessing
    from leukaemia_zoo.cells.readers import read_data
    from leukaemia_zoo.cells.table import Cells
    from leukaemia_zoo.prediction.features import embed
    from leukaemia_zoo.prediction.verdicts import predict
    from leukaemia_zoo.report.report import Report
    from leukaemia_zoo.training.cross_validation import cross_validate
    from leukaemia_zoo.training.trainer import train
    from leukaemia_zoo.zoo.layers import AttentionBlock
    from leukaemia_zoo.zoo.loading import load_model, save_model
    from leukaemia_zoo.zoo.registry import list_models, model_info
    from leukaemia_zoo.zoo.sources import download

_WINGS = (
    *("cells", "smears", "zoo", "engine", "prediction", "evaluation"),
    *("report", "training", "benchmarking", "adaptation"),
)

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "zoo.registry": "list_models model_info",
        "zoo.loading": "load_model save_model",
        "zoo.sources": "download",
        "prediction.verdicts": "predict",
        "prediction.features": "embed",
        "cells.readers": "read_data",
        "benchmarking.runner": "benchmark",
        "training.trainer": "train",
        "training.cross_validation": "cross_validate",
        "adaptation.fine_tuning": "fine_tune",
        "zoo.layers": "AttentionBlock",
        "cells.table": "Cells",
        "cells.preprocessing": "Preprocessing",
        "report.report": "Report",
    },
    wings=_WINGS,
    moved={
        "zoo": "build_model save_pretrained push_to_hub publish ModelConfig CellAugmentation register_architecture",
        "prediction": "ood_scores iter_predictions Prediction Predictions attention_maps",
        "smears": "segment_cell extract_cells ExtractedCell estimate_scale reject normalise_stain",
        "engine": "export",
        "cells": "read_image find_images read_cnmc read_folders read_csv Split split_by_subject kfold_by_subject "
        "check_split save_manifest load_manifest verify",
        "training": "Recipe",
        "adaptation": "FineTuned linear_probe",
    },
)
__all__ += ["__version__"]

register_layers()
