"""What comes after the embedding: probabilities and the OOD score, in NumPy.

The classifier is one matrix, and the mean of the logits over views is the logits of the mean embedding. So the engine
gives embeddings, and whatever is asked of a cell, its class, its score or its embedding, costs one pass.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The last layer of a network.

    Attributes:
        kernel: Float array (features, units): one unit a class, or a single one for the second of two classes.
        bias: Float array (units,). The temperature is inside of both.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def probabilities(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Float64 (N, classes), rows that sum to 1, of embeddings (N, features) that are means over views.

        Example:
            >>> Classifier(np.zeros((3, 1)), np.zeros(1)).probabilities(np.ones((1, 3))).tolist()
            [[0.5, 0.5]]
        """
        logits = np.asarray(embeddings, np.float64) @ self.kernel.astype(np.float64) + self.bias.astype(np.float64)
        if logits.shape[-1] == 1:  # sigmoid(z) is the second of softmax([0, z])
            logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def distance(standardised: npt.ArrayLike) -> FloatArray:
    """The OOD score of cells, (N,): the root mean square of their standard scores, (N, features).

    Example:
        >>> distance(np.array([[0.0, 0.0], [3.0, -4.0]])).round(2).tolist()
        [0.0, 3.54]
    """
    squares = np.square(np.asarray(standardised, np.float64))
    return np.asarray(np.sqrt(squares.mean(axis=1)))
