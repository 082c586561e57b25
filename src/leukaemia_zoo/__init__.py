"""Pretrained Keras networks that tell leukaemic from normal white blood cells in single-cell images.

The names of everyday work are here, the others in the wings: `leukaemia_zoo.cells`, `.zoo`, `.training`... All
are loaded on first use: importing this package loads no Keras backend and no network code.
"""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily
from leukaemia_zoo._version import __version__ as __version__
from leukaemia_zoo.common.registration import register_layers

if TYPE_CHECKING:
    from leukaemia_zoo.adaptation.fine_tuning import fine_tune
    from leukaemia_zoo.batch.predictor import BatchPredictor
    from leukaemia_zoo.benchmarking.runner import benchmark
    from leukaemia_zoo.cells.preprocessing import Preprocessing
    from leukaemia_zoo.cells.readers import read_data
    from leukaemia_zoo.cells.table import Cells
    from leukaemia_zoo.examination.folder import examine_fields
    from leukaemia_zoo.explanation.maps import explain
    from leukaemia_zoo.exporting.writing import export
    from leukaemia_zoo.prediction.features import embed
    from leukaemia_zoo.prediction.verdicts import predict
    from leukaemia_zoo.report.report import Report
    from leukaemia_zoo.training.cross_validation import cross_validate
    from leukaemia_zoo.training.trainer import train
    from leukaemia_zoo.zoo.layers import AttentionBlock
    from leukaemia_zoo.zoo.loading import load_model, save_model
    from leukaemia_zoo.zoo.registry import list_models, model_info
    from leukaemia_zoo.zoo.sources import download

__getattr__, __dir__, __all__ = lazily(__name__)
__all__ += ["__version__"]

register_layers()
