"""What may be chosen in a fine-tuning, and the recipe that it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.common.hardware import resolved
from leukaemia_zoo.common.reading import checked_seed, is_whole, whole
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.training.recipes import Recipe, changed
from leukaemia_zoo.zoo.cards import checked_about
from leukaemia_zoo.zoo.publishing import checked_repo
from leukaemia_zoo.zoo.registry import ModelConfig

_ENOUGH_CELLS = 500
"""Cells from which statistics of their own are taken for BatchNorm; a round number that nobody has measured."""


_PASSED_OVER = {
    "crop_fraction": ", and give crop_fraction (--crop-fraction) beside the recipe",
    "validation_share": ", since folds or the split validate",
    "soft_share": "",
    "cohort_frequencies": "",
}
"""Settings of a recipe that fine-tuning does not look at, and what does their work."""


@dataclasses.dataclass(frozen=True)
class FineTuningOptions:
    """What may be chosen in a fine-tuning; `fine_tune` takes each by name.

    Attributes:
        per_class: The most cells of each class to learn from; None for all. The test part does not depend on it.
        split: Manifest or `Split` with the parts ``train``, ``validation`` and ``test``, or folds and ``test``; None
            makes one by `split_for_fine_tuning`.
        split_by: See `inspect_cells`: by subject where subjects are known, else by image, with a warning.
        test_share: Share of the cells in the test part.
        skip_unreadable: Leave out images that cannot be read instead of refusing.
        positive: The class of two that sensitivity and AUROC speak of, the last of ``class_names``; None takes the one
            whose name says it (leukaemia, blast, malignant...), else the last in the alphabet.
        preprocessing: From a frame to the input; None takes the weight's own for frames like C-NMC's, and for others
            the centre crop that suits the classifier best on the validation folds.
        crop_fraction: Side of the centre crop as a share of the frame's shorter side, instead of trying several.
        recipe: Settings that replace those of `fine_tuning_recipe`, as a dict or a JSON file; or a whole `Recipe`.
        unfreeze: How many of the last layers with kernels learn in stage 2, or ``"all"``.
        rate_decay: Each layer with a kernel learns at this share of the rate of the one after it: with 1 all learn at
            the same rate, with 0.8 the first layers, which see edges and colours, hardly change.
        keep_statistics: Leave the statistics and scales of every BatchNorm as they are; False lets them follow your
            cells, None does so where all layers learn from 500 cells or more.
        time_budget_s: Seconds after which no further epoch is begun, counted from the call; the classifier and the
            report are made whatever it is. None for no limit. After an interruption it counts anew.
        cost: Whether the report measures times and memory, which takes longer.
        resamples: Of the bootstrap for the intervals of the report.
        about: What to tell about the model, as in `save_pretrained`: name, licence, citation, intended_use, data.
        push_to: ``org/name`` on the Hugging Face Hub to put the model into; see `push_to_hub`.
        private: Whether a new repository there is private.
        seed: Of split, order and views.
        restart: Begin anew where the folder holds another run.
        log: Called with each line of progress, such as ``print``; None for none.

    Raises:
        DataError: If a value is out of its range, or two of them exclude each other.
    """

    per_class: int | None = None
    split: str | Path | Split | None = None
    split_by: str = "auto"
    test_share: float = 0.2
    skip_unreadable: bool = False
    positive: str | None = None
    preprocessing: Preprocessing | None = None
    crop_fraction: float | None = None
    recipe: Recipe | str | Path | Mapping[str, Any] | None = None
    unfreeze: int | Literal["all"] = 2
    rate_decay: float = 1.0
    keep_statistics: bool | None = True
    time_budget_s: float | None = None
    cost: bool = False
    resamples: int = 2000
    about: Mapping[str, Any] | None = None
    push_to: str | None = None
    private: bool | None = None
    seed: int = 0
    restart: bool = False
    log: Log | None = None

    def __post_init__(self) -> None:
        if self.push_to is not None:
            checked_repo(self.push_to)
        checked_about(self.about or {})
        object.__setattr__(self, "seed", checked_seed(self.seed))
        object.__setattr__(self, "resamples", whole(self.resamples, "resamples"))
        layers = self.unfreeze
        if layers != "all" and not is_whole(layers):
            raise DataError(f"unfreeze is {layers!r}: give a number of layers from 1 on, or 'all'.")
        if not 0 < self.rate_decay <= 1:
            raise DataError(f"rate_decay is {self.rate_decay!r}: give a share above 0 and at most 1, such as 0.8.")
        if self.time_budget_s is not None and not self.time_budget_s > 0:
            raise DataError(f"time_budget_s is {self.time_budget_s!r}: give seconds above 0, or None for no limit.")
        if self.preprocessing is not None and self.crop_fraction is not None:
            raise DataError("The preprocessing says how to crop: leave out either preprocessing or crop_fraction.")
        if self.split is not None and self.per_class is not None:
            raise DataError("A given split says which cells are learnt from: leave out either split or per_class.")

    @property
    def tell(self) -> Log:
        """The log, whether there is one or not."""
        return self.log or silent

    def keeps_statistics(self, cells: int) -> bool:
        """Whether BatchNorm stays as it is where so many cells teach."""
        if self.keep_statistics is None:
            return self.unfreeze != "all" or cells < _ENOUGH_CELLS
        return self.keep_statistics

    def choices(self, split_by: str, preprocessing: Preprocessing | None) -> dict[str, Any]:
        """What of this a record holds: all that the result depends on, beside recipe and seed."""
        return {
            "unfreeze": self.unfreeze,
            "keep_statistics": self.keep_statistics,
            **({"rate_decay": self.rate_decay} if self.rate_decay != 1 else {}),
            "per_class": self.per_class,
            "split_by": split_by,
            "time_budget": self.time_budget_s,
            "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        }


def fine_tuning_recipe(config: ModelConfig, changes: Recipe | str | Path | Mapping[str, Any] | None = None) -> Recipe:
    """The settings of `fine_tune` for a network, with some replaced.

    Args:
        config: Of the network to begin with: its architecture, head, input size, dropout and views stay.
        changes: Settings that replace the others, as a dict or a JSON file; or a whole `Recipe`.

    Returns:
        A `Recipe`: classes count alike, five folds choose among five penalties; then at most 20 epochs at a rate of up
        to 0.00002, ended after 5 without improvement.

    Raises:
        UnknownNameError: If there is no such setting.
        DataError: If a value is not of its kind, if a setting is one of training alone, or if the network takes no
            square input.

    Example:
        >>> import leukaemia_zoo as lz
        >>> fine_tuning_recipe(lz.load_model("cnn").zoo, {"fine_tune_epochs": 0}).balance_classes
        True
    """
    height, width = config.preprocessing.input_size
    if height != width:
        raise DataError(
            f"The network takes {height}x{width} pixels, but cells are turned all around: take one with a square input."
        )
    kept: dict[str, Any] = {
        "architecture": config.architecture,
        "input_size": height,
        "head": config.head,
        "distillation": None,
    }
    recipe = Recipe(
        **kept,
        dropout=config.dropout,
        prediction_views=config.views if config.views > 1 else 4,
        # With people apart the strong penalties do best, with images apart the weak ones.
        inverse_penalties=(0.01, 0.03, 0.1, 0.3, 1.0),
        balance_classes=True,
        # Measured on PBC, 50 cells a class: at 1e-4 and above the first epochs undo what the classifier has found.
        fine_tune_epochs=20,
        fine_tune_learning_rate=2e-5,
        patience=5,
        batch_size=32,
        label_smoothing=0.0,
        colour=0.1,
    )
    recipe = changes if isinstance(changes, Recipe) else changed(recipe, changes)
    if wrong := [name for name, value in kept.items() if getattr(recipe, name) != value]:
        raise DataError(f"The setting '{wrong[0]}' belongs to the weight and cannot be changed in fine-tuning.")
    # A whole recipe has a crop and a share for validation, whatever it is for.
    whole = ("crop_fraction", "validation_share") if isinstance(changes, Recipe) else ()
    for name in [name for name in _PASSED_OVER if name not in whole]:
        if getattr(recipe, name) != getattr(Recipe, name):
            mend = _PASSED_OVER[name]
            raise DataError(f"The recipe's setting '{name}' has no part in fine-tuning: leave it out{mend}.")
    return dataclasses.replace(recipe, precision=resolved(recipe.precision))
