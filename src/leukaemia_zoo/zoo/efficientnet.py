"""EfficientNet-lite0, which keras.applications lacks: EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

Layers are called as those of `keras.applications.EfficientNetB0`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

_STAGES = (
    # repeats, kernel, channels, expansion, stride
    (1, 3, 16, 1, 1),
    (2, 3, 24, 6, 2),
    (2, 5, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (3, 5, 112, 6, 1),
    (4, 5, 192, 6, 2),
    (1, 3, 320, 6, 1),
)
_EPSILON = 1e-3


def efficientnet_lite0(include_top: bool = False, weights: None = None, input_tensor: Any = None) -> keras.Model:
    """The convolutions, with random weights, from a scaled image to 1,280 channels; as those of keras.applications.

    Args:
        include_top: False, as for keras.applications: there is no top.
        weights: None: there are none to download.
        input_tensor: The image, scaled to -0.99 to 1.
    """
    x = _convolution(input_tensor, 32, "stem_conv", "stem_bn", "stem_activation", kernel=3, stride=2)
    for number, (repeats, kernel, channels, expansion, stride) in enumerate(_STAGES, start=1):
        for repeat, letter in enumerate("abcd"[:repeats]):
            x = _block(x, f"block{number}{letter}", kernel, channels, expansion, stride if repeat == 0 else 1)
    x = _convolution(x, 1280, "top_conv", "top_bn", "top_activation")
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


def _block(x: Any, name: str, kernel: int, channels: int, expansion: int, stride: int) -> Any:
    """Widen, look around channel by channel, narrow; what came in is added where the shape is the same."""
    before = x
    if expansion > 1:
        wide = before.shape[-1] * expansion
        x = _convolution(x, wide, f"{name}_expand_conv", f"{name}_expand_bn", f"{name}_expand_activation")
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_dwconv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)
    x = layers.ReLU(6.0, name=f"{name}_activation")(x)
    x = _convolution(x, channels, f"{name}_project_conv", f"{name}_project_bn", None)
    return layers.Add(name=f"{name}_add")([before, x]) if x.shape == before.shape else x


def _convolution(
    x: Any, channels: int, name: str, norm: str, activation: str | None, *, kernel: int = 1, stride: int = 1
) -> Any:
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=norm)(x)
    return layers.ReLU(6.0, name=activation)(x) if activation else x
