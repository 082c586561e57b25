"""The networks and their weights: what exists, where it is found, how it is built, kept and published."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.zoo.architectures import build_model, register_architecture, with_output
    from leukaemia_zoo.zoo.augmentation import CellAugmentation
    from leukaemia_zoo.zoo.cards import model_card
    from leukaemia_zoo.zoo.layers import AttentionBlock, CellMask, CellStatistics
    from leukaemia_zoo.zoo.loading import load_model, save_model
    from leukaemia_zoo.zoo.publishing import Published, publish, push_to_hub, save_pretrained
    from leukaemia_zoo.zoo.registry import ModelConfig, ModelInfo, ModelSpec, WeightSpec, list_models, model_info
    from leukaemia_zoo.zoo.sources import Found, download

__getattr__, __dir__, __all__ = lazily(__name__)
