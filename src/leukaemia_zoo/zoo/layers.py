"""The spatial attention gate of the zoo, and its maps."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from leukaemia_zoo.errors import ArchitectureError, ImageError


@keras.saving.register_keras_serializable(package="leukaemia_zoo")
class AttentionBlock(keras.layers.Layer):
    """Spatial gate: each position of a feature map is multiplied by one learned number between 0 and 1.

    ``a[i, j] = sigmoid(sum_c w[c] x[i, j, c] + b)`` and ``y[i, j, c] = a[i, j] x[i, j, c]``: the single-head gate of
    the system that this zoo starts from ("Leukaemia Classification using DL"), with C + 1 parameters, no softmax, no
    pooling and no residual.

    Args:
        activation: What turns the score of a position into its gate; ``"sigmoid"`` is the original.
        use_bias: Whether the score has a bias.
        kernel_initializer: Initialiser of the C weights.
        bias_initializer: Initialiser of the bias.
        kernel_regularizer: Regulariser of the C weights, or None.
        return_attention: Whether calling the layer gives ``(y, a)`` instead of ``y`` alone.

    Call arguments:
        x: Float tensor (batch, height, width, channels), channels last.

    Returns:
        Tensor of the shape and dtype of ``x``; with ``return_attention=True`` also the attention map
        (batch, height, width, 1), in 0..1 for the default activation.

    Raises:
        ArchitectureError: If the input is not (batch, height, width, channels) with a known number of channels.

    Example:
        >>> import numpy as np
        >>> from leukaemia_zoo import AttentionBlock
        >>> block = AttentionBlock(return_attention=True)
        >>> gated, attention = block(np.ones((2, 13, 13, 32), "float32"))
        >>> tuple(attention.shape), block.count_params()
        ((2, 13, 13, 1), 33)
    """

    def __init__(
        self,
        activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        return_attention: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.return_attention = return_attention
        self.supports_masking = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the C weights and the bias."""
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ArchitectureError(
                f"AttentionBlock '{self.name}' takes a feature map (batch, height, width, channels) with a known "
                f"number of channels, but got the shape {tuple(input_shape)}."
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], 1),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
        )
        self.bias = (
            self.add_weight(name="bias", shape=(1,), initializer=self.bias_initializer) if self.use_bias else None
        )
        super().build(input_shape)

    def attention(self, x: Any) -> Any:
        """Attention map (batch, height, width, 1) of a feature map ``x`` (batch, height, width, channels)."""
        score = ops.matmul(
            ops.convert_to_tensor(x, dtype=self.compute_dtype), ops.cast(self.kernel, self.compute_dtype)
        )
        if self.bias is not None:
            score = score + ops.cast(self.bias, self.compute_dtype)
        return self.activation(score)

    def call(self, x: Any) -> Any:
        """Gate ``x``; see the class."""
        attention = self.attention(x)
        gated = x * attention
        return (gated, attention) if self.return_attention else gated

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Shape of the gated feature map, and of the attention map where that is returned too."""
        shape = tuple(input_shape)
        return (shape, (*shape[:-1], 1)) if self.return_attention else shape

    def get_config(self) -> dict[str, Any]:
        """Plain configuration, from which ``from_config`` makes the same layer."""
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "return_attention": self.return_attention,
        }


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
        >>> model = lz.build_model("cnn_attention")
        >>> lz.attention_maps(model, np.zeros((1, 100, 100, 3))).shape
        (1, 13, 13)
    """
    from leukaemia_zoo.loading import as_model  # here, because networks are built of this module's layer

    model = as_model(model)
    blocks = [layer for layer in model.layers if isinstance(layer, AttentionBlock)]
    if not blocks:
        raise ArchitectureError(f"The model '{model.name}' holds no AttentionBlock, so that it has no attention map.")
    gated_input = keras.Model(model.inputs, blocks[-1].input)
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
