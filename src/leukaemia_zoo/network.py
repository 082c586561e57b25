"""The network of the zoo as a class of its own, so that its classes and preprocessing go wherever it goes.

Keras copies and saves a network layer by layer, and whatever hangs on the network itself is lost: by ``clone_model``,
by a copy, in a file, on the way to another process. So one layer carries the `ModelConfig`, and `CellNetwork` shows it
as ``zoo``. Importing this module tells Keras of every layer that a network of the zoo may hold; pickle does that in a
process that knows nothing of this package.
"""

from __future__ import annotations

from typing import Any

import keras

from leukaemia_zoo import attention, augmentation, layers  # noqa: F401 - tells Keras of their layers
from leukaemia_zoo.registry import ModelConfig

EMBEDDING_LAYER = "embedding"


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class CellFeatures(keras.layers.Identity):
    """What the classifier sees, in float32; it carries what is known of the network that it is a layer of.

    Args:
        zoo: A `ModelConfig`, its plain data, or None.

    Call arguments:
        features: Tensor (batch, features).

    Returns:
        The same, float32.
    """

    def __init__(self, zoo: ModelConfig | dict[str, Any] | None = None, **kwargs: Any) -> None:
        # float32 whatever the policy: a softmax in half precision loses the calibration.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.zoo = ModelConfig.from_dict(zoo) if isinstance(zoo, dict) else zoo

    def get_config(self) -> dict[str, Any]:
        """Plain configuration."""
        return {**super().get_config(), "zoo": None if self.zoo is None else self.zoo.to_dict()}


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class CellNetwork(keras.Model):
    """A functional network that knows its classes and its preprocessing, also as a copy and in a file of Keras."""

    @property
    def zoo(self) -> ModelConfig | None:
        """What it takes to feed the network and to read its answers; None before it is known."""
        layer = self._features()
        return None if layer is None else layer.zoo

    @zoo.setter
    def zoo(self, config: ModelConfig) -> None:
        layer = self._features()
        if layer is None:
            raise AttributeError(f"The network '{self.name}' has no layer '{EMBEDDING_LAYER}' to carry its classes.")
        layer.zoo = config

    def _features(self) -> CellFeatures | None:
        return next((layer for layer in self.layers if isinstance(layer, CellFeatures)), None)


# An .h5 file names the network by its bare class name, unlike its layers.
keras.saving.get_custom_objects()[CellNetwork.__name__] = CellNetwork
