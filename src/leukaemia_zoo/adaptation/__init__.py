"""Somebody else's cells: looked at, split, probed, and a network fine-tuned on them."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.adaptation.fine_tuning import FineTuned, fine_tune
    from leukaemia_zoo.adaptation.inspection import Inspected, inspect_cells, usual_preprocessing
    from leukaemia_zoo.adaptation.options import FineTuningOptions, fine_tuning_recipe
    from leukaemia_zoo.adaptation.probing import Probe, linear_probe
    from leukaemia_zoo.adaptation.splits import folds_by_people, split_for_fine_tuning

__getattr__, __dir__, __all__ = lazily(__name__)
