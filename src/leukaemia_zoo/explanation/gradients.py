"""Derivatives of what a network says: the one place where the backends differ in how they are asked for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from leukaemia_zoo.errors import ArchitectureError


def gradients(
    network: Callable[[list[Any]], Any], inputs: Sequence[np.ndarray], score: Callable[[Any], Any]
) -> list[np.ndarray]:
    """How much the score of each row changes with each number that goes in: float32, in the shapes of the inputs.

    A row of the output must depend on its own row of the inputs alone. The score is made of `keras.ops`.

    Example:
        >>> double = lambda tensors: 2 * tensors[0]
        >>> gradients(double, [np.ones((2, 3), "float32")], lambda x: ops.sum(x, axis=1))[0].tolist()
        [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """

    def total(tensors: list[Any]) -> Any:
        return ops.sum(score(network(tensors)))

    tensors = [ops.convert_to_tensor(array, dtype="float32") for array in inputs]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            value = total(tensors)
        found = tape.gradient(value, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    elif backend == "jax":
        import jax

        found = jax.grad(total)(tensors)
    elif backend == "torch":
        import torch

        with torch.enable_grad():
            tensors = [tensor.detach().requires_grad_() for tensor in tensors]
            found = torch.autograd.grad(total(tensors), tensors, allow_unused=True)
        found = [ops.zeros_like(tensor) if own is None else own for own, tensor in zip(found, tensors, strict=True)]
    else:
        raise ArchitectureError(
            f"Keras runs on '{backend}', of which no gradients are known here: set KERAS_BACKEND to tensorflow, jax or "
            'torch, or take method="occlusion", which needs none.'
        )
    return [np.asarray(ops.convert_to_numpy(own), np.float32) for own in found]
