"""The layers that look at the cell and not at the black around it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from leukaemia_zoo.images import BLACK

MASK_FLOOR = 0.3
"""A position of a feature map counts from this share of cell pixels on: below it, it mostly describes the border."""


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class CellMask(keras.layers.Layer):
    """Where the cell is: 1 for pixels that are not black, 0 for the black background of a segmented cell.

    In an image without a black background every pixel is 1, and what follows covers the whole frame.

    Args:
        threshold: A pixel belongs to the cell if one of its channels is above this value (0 to 255). Above 0, because
            lossy formats leave a noise of a few grey levels on black.

    Call arguments:
        images: Tensor (batch, height, width, 3), RGB, 0 to 255.

    Returns:
        Float32 tensor (batch, height, width, 1) of zeros and ones.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((1, 4, 4, 3), "float32")
        >>> image[:, 1:3, 1:3] = 90.0
        >>> float(np.sum(CellMask()(image)))
        4.0
    """

    def __init__(self, threshold: float = float(BLACK), **kwargs: Any) -> None:
        # float32 whatever the policy: bfloat16 cannot tell neighbouring grey levels apart.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.threshold = threshold

    def call(self, images: Any) -> Any:
        """Mask of ``images``; see the class."""
        return ops.cast(ops.max(ops.cast(images, "float32"), axis=-1, keepdims=True) > self.threshold, "float32")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(batch, height, width, 1)."""
        return (*input_shape[:-1], 1)

    def get_config(self) -> dict[str, Any]:
        """Plain configuration."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class CellStatistics(keras.layers.Layer):
    """Mean and standard deviation of each channel over the cell: its texture, whatever its size and place.

    Averaging over the whole frame instead mixes the texture with the share of black pixels, that is with the size of
    the cell, which tells much on some patients and nothing on others.

    Call arguments:
        features: Tensor (batch, height, width, channels).
        cell: Tensor (batch, height, width, 1): the share of cell pixels at each position, 0 to 1.

    Returns:
        Float32 tensor (batch, 2 x channels): the means, then the standard deviations.

    Example:
        >>> import numpy as np
        >>> features = np.arange(4, dtype="float32").reshape(1, 2, 2, 1)
        >>> mask = np.array([1, 1, 0, 0], "float32").reshape(1, 2, 2, 1)
        >>> np.round(np.asarray(CellStatistics()(features, mask)), 2).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, **kwargs: Any) -> None:
        # Sums over hundreds of positions and a difference of squares: not in half precision.
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, features: Any, cell: Any) -> Any:
        """Statistics of ``features`` over ``cell``; see the class."""
        weight = ops.maximum(cell - MASK_FLOOR, 0.0)
        total = ops.sum(weight, axis=(1, 2)) + 1e-6
        mean = ops.sum(features * weight, axis=(1, 2)) / total
        centred = features - mean[:, None, None, :]
        variance = ops.sum(centred * centred * weight, axis=(1, 2)) / total
        # The square root has no derivative at zero, where an empty frame lies.
        return ops.concatenate([mean, ops.sqrt(variance + 1e-6)], axis=-1)

    def compute_output_shape(
        self, features_shape: tuple[int | None, ...], cell_shape: tuple[int | None, ...]
    ) -> tuple[int | None, int]:
        """(batch, 2 x channels)."""
        channels = features_shape[-1]
        assert channels is not None
        return (features_shape[0], 2 * channels)
