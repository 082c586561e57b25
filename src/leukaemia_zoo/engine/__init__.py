"""Prediction without Keras: graphs of the zoo's networks, the engine that runs them, and their export."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.engine.exporting import Exported, export

__getattr__, __dir__, __all__ = lazily(__name__)
