"""What a network sees of an image: its embedding, and how unfamiliar it looks.

The head ``texture`` ends in a normalisation that turns the statistics of a cell into standard scores. The
out-of-distribution (OOD) score is their root mean square: about 1 for a training cell, several for a field of a smear
or a photograph.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.images import image_items, read_image
from leukaemia_zoo.cells.preprocessing import network_pixels, symmetric_views
from leukaemia_zoo.common.files import replacing
from leukaemia_zoo.common.reading import read_arrays
from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.engine.stream import embedding_stream
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.outputs import kept, statistics_layer
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER

if TYPE_CHECKING:
    import keras

FloatArray = npt.NDArray[np.float32]


def embed(model: keras.Model | str | os.PathLike[str], images: Any, *, batch_size: int = 32) -> FloatArray:
    """Describe images by the features that the classifier of a network sees.

    Args:
        model: A weight as `load_model` takes it, which needs neither Keras nor its backend; or a network from
            `load_model`, with any output.
        images: What `predict` takes: paths, folders, or whole frames (height, width, 3), RGB, 0 to 255. They are
            cropped and resized as the weight's own preprocessing says.
        batch_size: Images computed at once.

    Returns:
        Float32 array (N, features), in the order of the images: the mean over the turned and mirrored views that a
        prediction averages over. With the head ``"texture"`` each feature is standardised by the training cells of
        the weight.

    Raises:
        ImageError: For a bad image.
        ArchitectureError: If the model does not come from this zoo.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> lz.embed("cnn_attention", np.full((2, 450, 450, 3), 90, "uint8")).shape
        (2, 512)
    """
    items, _ = image_items(images)
    model = resolve(model)
    if isinstance(model, Network):
        named = ((item, f"images[{number}]") for number, item in enumerate(items))
        rows = [np.asarray(found)[None] for _, found in embedding_stream(model, named, raise_errors=True)]
        return np.concatenate([np.zeros((0, model.features), np.float32), *rows])
    from leukaemia_zoo.zoo.loading import config_of

    network = _network(model)
    nothing = np.zeros((0, int(network.output_shape[-1])), np.float32)
    found = _view_means(network, items, config_of(model), batch_size, None)
    return np.concatenate([nothing, *found]).astype(np.float32)


def _view_means(
    network: keras.Model, items: Sequence[Any], config: ModelConfig, batch_size: int, dtype: Any
) -> Iterator[np.ndarray]:
    """Batch by batch what a network gives for images, each as the mean over its views, computed in a dtype."""

    def prepare(row: tuple[int, Any]) -> np.ndarray:
        number, item = row
        return network_pixels(item, f"images[{number}]", config.preprocessing)

    numbered = enumerate(items)
    with ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(numbered, batch_size)):
            views = symmetric_views(np.stack(list(pool.map(prepare, batch))).astype(np.float32), config.views)
            yield np.mean([np.asarray(network.predict_on_batch(view)) for view in views], axis=0, dtype=dtype)


def embed_files(
    model: keras.Model | str | os.PathLike[str],
    paths: Sequence[Path],
    cache: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 32,
) -> FloatArray:
    """`embed` for files, with what is known already taken from a folder.

    Args:
        model: What `embed` takes.
        paths: Image files.
        cache: Folder that keeps the embeddings, one file for each network and preprocessing; None computes all.
        batch_size: Images computed at once.

    Returns:
        Float32 array (N, features), in the order of the paths.
    """
    if cache is None:
        return embed(model, list(paths), batch_size=batch_size)
    model = resolve(model)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, paths))
    file = Path(cache) / f"{_key(model)}.npz"
    known = _read(file)
    missing = {digest: path for digest, path in zip(digests, paths, strict=True) if digest not in known}
    if missing:
        found = embed(model, [*missing.values()], batch_size=batch_size)
        known |= dict(zip(missing, found, strict=True))
        with replacing(file) as beside:
            np.savez(beside, digests=np.array([*known]), features=np.stack([*known.values()]))
    return np.stack([known[digest] for digest in digests])


def _network(model: keras.Model) -> keras.Model:
    import keras

    if not any(layer.name == EMBEDDING_LAYER for layer in model.layers):
        raise ArchitectureError(
            f"The model '{model.name}' has no layer '{EMBEDDING_LAYER}': load it with load_model, or name the features "
            "so in your architecture."
        )
    return keras.Model(model.inputs[0], model.get_layer(EMBEDDING_LAYER).output, name=model.name)


def _key(model: keras.Model | Network) -> str:
    if isinstance(model, Network):
        config, digest = model.zoo, model.sha256
    else:
        from leukaemia_zoo.zoo.loading import config_of, weights_digest

        config, digest = config_of(model), weights_digest(model)
    about = [digest, config.architecture, config.preprocessing.to_dict(), config.views]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        read_image(path)  # says what is wrong with it
        raise


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        arrays = read_arrays(file)
        return dict(zip(arrays["digests"].tolist(), arrays["features"], strict=True))
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or cut off: it is made anew
        return {}


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
        >>> scores = lz.prediction.ood_scores("cnn_attention", np.full((1, 450, 450, 3), 255, "uint8"))
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
    from leukaemia_zoo.zoo.loading import config_of

    config = config_of(model)
    layer = statistics_layer(model)
    if layer is None:
        raise _no_statistics(model.name, config.head)
    network = kept(model, "statistics", layer.output)
    means = _view_means(network, image_items(images)[0], config, batch_size, np.float64)
    return np.concatenate([np.zeros(0), *map(distance, means)])


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
