"""Where the attention of a network lies."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from leukaemia_zoo.errors import ArchitectureError, ImageError
from leukaemia_zoo.zoo.layers import AttentionBlock
from leukaemia_zoo.zoo.loading import as_model


def attention_maps(model: keras.Model | str | os.PathLike[str], images: Any, batch_size: int = 64) -> np.ndarray:
    """Attention maps of the last ``AttentionBlock`` in a model.

    Args:
        model: A functional Keras model that holds an ``AttentionBlock``, such as ``load_model("cnn_attention")``; or
            the name of one, a folder or ``hf://`` address.
        images: Array (N, height, width, 3), 0-255, already at the model's input size.
        batch_size: Images computed at once.

    Returns:
        Float32 array (N, h, w) in 0..1, at the resolution of the feature map that the block gates.

    Raises:
        ArchitectureError: If the model holds no ``AttentionBlock``.
        ImageError: If the images are not of the model's input size.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> model = lz.zoo.build_model("cnn_attention")
        >>> lz.prediction.attention_maps(model, np.zeros((1, 100, 100, 3))).shape
        (1, 13, 13)
    """
    model = as_model(model)
    blocks = [layer for layer in model.layers if isinstance(layer, AttentionBlock)]
    if not blocks:
        raise ArchitectureError(f"The model '{model.name}' holds no AttentionBlock, so that it has no attention map.")
    gated_input = keras.Model(model.inputs[0], blocks[-1].input)
    images = np.asarray(images)
    expected = tuple(model.input_shape[1:])
    if images.ndim != 4 or any(
        side not in (None, found) for side, found in zip(expected, images.shape[1:], strict=True)
    ):
        raise ImageError(
            f"The images have the shape {images.shape}, not (N, {', '.join(map(str, expected))}): crop and resize them "
            "with the model's own preprocessing, model.zoo.preprocessing.batch(images)."
        )
    if not len(images):  # of no images the maps have a shape too
        return np.zeros((0, *(side or 0 for side in blocks[-1].input.shape[1:3])), np.float32)
    maps = []
    for start in range(0, len(images), batch_size):
        features = gated_input(
            ops.convert_to_tensor(images[start : start + batch_size], dtype="float32"), training=False
        )
        maps.append(ops.convert_to_numpy(ops.cast(blocks[-1].attention(features), "float32"))[..., 0])
    return np.concatenate(maps)
