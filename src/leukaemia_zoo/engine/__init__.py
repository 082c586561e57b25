"""Prediction without Keras: graphs of the zoo's networks, the engine that runs them, and what they need."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.engine.network import Network

__getattr__, __dir__, __all__ = lazily(__name__)
