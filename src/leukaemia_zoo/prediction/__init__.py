"""Images through a network: verdicts, embeddings, unfamiliar images, attention."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.prediction.attention import attention_maps
    from leukaemia_zoo.prediction.features import embed, embed_files, limit_of, ood_scores
    from leukaemia_zoo.prediction.results import Prediction, Predictions, SubjectSummary, SubjectTally
    from leukaemia_zoo.prediction.verdicts import iter_predictions, predict

__getattr__, __dir__, __all__ = lazily(__name__)
