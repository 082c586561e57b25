"""Does an image look like the cells that a network was trained on? A score, from what the classifier sees anyway.

The head ``texture`` ends in a normalisation that turns the statistics of a cell into standard scores: how far each lies
from the mean of the training cells, in their standard deviations. The out-of-distribution (OOD) score is the root mean
square of these standard scores: about 1 for a training cell, several for a field of a smear or a photograph.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.engine.stream import embedding_stream
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.images import image_items
from leukaemia_zoo.preprocessing import network_pixels
from leukaemia_zoo.views import symmetric_views

if TYPE_CHECKING:
    import keras

FAMILIAR_SHARE = 0.99
"""This share of held-out cells has a score of at most the limit: one cell in a hundred is flagged without reason."""


def ood_scores(
    model: keras.Model | str | os.PathLike[str], images: Any, *, batch_size: int = 32
) -> npt.NDArray[np.float64]:
    """How little images look like the cells that a network was trained on.

    The statistics of an image, averaged over the views that a prediction averages over, are standardised by those of
    the training cells; the score is the root mean square of the result. Cells like the training cells have scores
    around 1, of which 99 in 100 are at most ``model.zoo.ood_limit``. `predict` gives the same score with its verdict.

    Args:
        model: A weight with the head ``"texture"`` as `load_model` takes it, or such a network from `load_model` with
            any output but ``"embeddings"``.
        images: What `predict` takes: paths, or frames (height, width, 3), RGB, 0 to 255.
        batch_size: Images computed at once.

    Returns:
        Float64 array (N,), 0 or more, in the order of the images.

    Raises:
        ArchitectureError: If the network has no statistics of its training cells, as with the heads ``"pooled"`` and
            ``"flatten"``.
        ImageError: For a bad image.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> scores = lz.ood_scores("cnn_attention", np.full((1, 450, 450, 3), 255, "uint8"))
        >>> scores.shape, bool(scores[0] > lz.model_info("cnn_attention").weight.config.ood_limit)
        ((1,), True)
    """
    model = resolve(model)
    if isinstance(model, Network):
        if not model.has_statistics:
            raise _no_statistics(model.name, model.zoo.head)
        named = ((item, f"images[{number}]") for number, item in enumerate(image_items(images)[0]))
        found = [np.asarray(embedding) for _, embedding in embedding_stream(model, named, raise_errors=True)]
        return distance(np.stack(found)) if found else np.zeros(0)
    from leukaemia_zoo.loading import config_of

    config = config_of(model)
    layer = statistics_layer(model)
    if layer is None:
        raise _no_statistics(model.name, config.head)
    network = _kept(model, "statistics", layer.output)
    rows = enumerate(image_items(images)[0])
    scores = [np.zeros(0)]
    while batch := list(itertools.islice(rows, batch_size)):
        pixels = np.stack([network_pixels(item, f"images[{number}]", config.preprocessing) for number, item in batch])
        views = symmetric_views(pixels.astype(np.float32), config.views)
        outputs = [np.asarray(network.predict_on_batch(view)) for view in views]
        scores.append(distance(np.mean(outputs, axis=0, dtype=np.float64)))
    return np.concatenate(scores)


def _no_statistics(name: str, head: str) -> ArchitectureError:
    return ArchitectureError(
        f"The model '{name}' with the head '{head}' holds no statistics of the cells it was trained on: take a weight "
        "with the head 'texture'."
    )


def limit_of(scores: np.ndarray) -> float:
    """The limit that `FAMILIAR_SHARE` of the scores of held-out cells do not exceed.

    Args:
        scores: Float array (N,) of one cell or more, none of which the standardisation was made from.

    Example:
        >>> limit_of(np.arange(101.0))
        99.0
    """
    return float(np.quantile(scores, FAMILIAR_SHARE))


def statistics_layer(model: keras.Model) -> keras.layers.Layer | None:
    """The layer whose output are the standard scores; None if a network has none, or was cut off before it."""
    from leukaemia_zoo.architectures import STATISTICS_NORM

    return next((layer for layer in model.layers if layer.name == STATISTICS_NORM), None)


def with_statistics(model: keras.Model) -> keras.Model | None:
    """The same network with a list of two outputs, its own and the standard scores (N, features); None without those.

    It is made once for a model and kept as long as that lives, because a backend compiles each network anew.
    """
    layer = statistics_layer(model)
    return None if layer is None else _kept(model, "both", [*model.outputs, layer.output])


_networks: weakref.WeakKeyDictionary[keras.Model, dict[str, keras.Model]] = weakref.WeakKeyDictionary()


def _kept(model: keras.Model, kind: str, outputs: Any) -> keras.Model:
    import keras

    # Not as an attribute: Keras would take it for a part of the model.
    networks = _networks.setdefault(model, {})
    if kind not in networks:
        networks[kind] = keras.Model(model.inputs, outputs, name=model.name)
    return networks[kind]
