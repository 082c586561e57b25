"""The layers of the zoo's own: the spatial attention gate, the mask of the cell, its statistics."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from leukaemia_zoo.cells.arrays import BLACK
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo import augmentation  # noqa: F401 - for its effect
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER


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


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' own layer, which learns in one operation of TensorFlow or PyTorch: the same numbers, sooner.

    Keras writes the step as a dozen operations over all positions, which took a third of a training step of
    `mobilenet`. The name is that of Keras' class, by which it finds the weights of an interrupted training. JAX fuses
    such operations itself.
    """

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """As Keras' own."""
        step = _FUSED_STEPS.get(keras.backend.backend())
        plain = mask is None and not self.synchronized and not getattr(self, "renorm", False)
        maps = len(inputs.shape) == 4 and self.axis in (-1, 3) and math.prod(side or 2 for side in inputs.shape[:3]) > 1
        if step is None or not (training and self.trainable and plain and maps):
            return super().call(inputs, training=training, mask=mask)
        channels = self.moving_mean.shape[0]
        scale = self.gamma.value if self.scale else ops.ones(channels)
        offset = self.beta.value if self.center else ops.zeros(channels)
        x = ops.cast(inputs, "float32")
        outputs, mean, variance = step(x, ops.cast(scale, x.dtype), ops.cast(offset, x.dtype), self.epsilon)
        # Both estimate the variance of all cells; Keras keeps that of the batch.
        positions = ops.cast(ops.size(x) // channels, x.dtype)
        variance = variance * ((positions - 1) / positions)
        for kept, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
            kept.assign(ops.cast(kept, x.dtype) * self.momentum + found * (1.0 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)


def _tensorflow_step(x: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    import tensorflow as tf

    nothing = tf.zeros([0])
    found = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=nothing, variance=nothing, epsilon=epsilon, is_training=True
    )
    return found[0], tf.stop_gradient(found[1]), tf.stop_gradient(found[2])


def _torch_step(x: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    import torch

    mean, variance = torch.zeros_like(offset), torch.ones_like(offset)
    outputs = torch.nn.functional.batch_norm(
        x.permute(0, 3, 1, 2), mean, variance, scale, offset, training=True, momentum=1.0, eps=epsilon
    )
    return outputs.permute(0, 2, 3, 1), mean, variance


_FUSED_STEPS = {"tensorflow": _tensorflow_step, "torch": _torch_step}
"""From maps (N, height, width, channels): normalised ones, and mean and unbiased variance (channels,) of the batch."""


def fuse_normalisation(model: keras.Model) -> None:
    """Let each BatchNorm of a network that is about to learn do so in one operation."""
    for layer in model.layers:
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = BatchNormalization


@contextlib.contextmanager
def without_random_weights() -> Iterator[None]:
    """Build networks with zeros for random weights, where others are loaded next.

    JAX compiles the drawing of each shape anew, which takes seven times as long as the rest. The layers are left as if
    they had drawn: with the same initialisers, made from the same seeds.
    """
    usual = keras.initializers.GlorotUniform
    made = []

    class Zeros(usual):  # type: ignore[misc, valid-type]
        def __init__(self, seed: Any = None) -> None:
            super().__init__(seed=seed)
            made.append(self)

        def __call__(self, shape: Any, dtype: Any = None) -> Any:
            return ops.convert_to_tensor(np.zeros(shape, np.float32), dtype=dtype)

    try:
        # By this name every layer of Keras and of our own takes its initialiser; the scope is that of one thread.
        with keras.saving.custom_object_scope({"glorot_uniform": Zeros}):
            yield
    finally:
        for initializer in made:
            initializer.__class__ = usual
