"""From labelled cells to a network and its judgement on people whom it has never seen."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.training.cross_validation import CrossValidation, cross_validate
    from leukaemia_zoo.training.distillation import distil, load_teacher
    from leukaemia_zoo.training.leaks import find_overlap
    from leukaemia_zoo.training.provenance import find_initial_weights
    from leukaemia_zoo.training.recipes import DistillationRecipe, Recipe, TrainingOptions, recipe_for
    from leukaemia_zoo.training.trainer import train

__getattr__, __dir__, __all__ = lazily(__name__)
