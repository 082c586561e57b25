"""More cells than one sitting or one machine judges: tables of them, parts, clusters."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.batch.predictor import BatchPredictor
    from leukaemia_zoo.batch.run import Outcome, predict_parquet

__getattr__, __dir__, __all__ = lazily(__name__)
