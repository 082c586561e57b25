"""What a network makes of images before it decides: one vector an image, to search, group or classify by.

On disk the embeddings of a folder are kept by the bytes of each image, so that a second question about the same cells
costs no second pass through the network.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.engine.stream import embedding_stream
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.files import replacing
from leukaemia_zoo.images import image_items, read_image
from leukaemia_zoo.preprocessing import network_pixels
from leukaemia_zoo.reading import read_arrays
from leukaemia_zoo.views import symmetric_views
from leukaemia_zoo.weights_io import HEAD_LAYER, named_variables

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
    from leukaemia_zoo.loading import config_of

    network = _network(model)
    config = config_of(model)

    def prepare(row: tuple[int, Any]) -> np.ndarray:
        number, item = row
        return network_pixels(item, f"images[{number}]", config.preprocessing)

    found = [np.zeros((0, int(network.output_shape[-1])), np.float32)]
    numbered = enumerate(items)
    with ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(numbered, batch_size)):
            pixels = np.stack(list(pool.map(prepare, batch))).astype(np.float32)
            views = symmetric_views(pixels, config.views)
            found.append(np.mean([np.asarray(network.predict_on_batch(view)) for view in views], axis=0))
    return np.concatenate(found).astype(np.float32)


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
    from leukaemia_zoo.loading import as_model

    model = as_model(model)
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


def default_cache() -> Path:
    """Folder for embeddings of this user: ``leukaemia-zoo/embeddings`` in XDG_CACHE_HOME or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leukaemia-zoo" / "embeddings"


def weights_digest(model: keras.Model, without_head: bool = True) -> str:
    """sha256 of the names and values of a network's weights, as 64 hexadecimal digits.

    Args:
        model: A network of this package.
        without_head: Leave out the classifier, on which embeddings do not depend.
    """
    import keras

    digest = hashlib.sha256()
    for name, variable in named_variables(model).items():
        if not (without_head and name.split("/", 1)[0] == HEAD_LAYER):
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value), np.float32)
            digest.update(name.encode() + str(value.shape).encode() + value.tobytes())
    return digest.hexdigest()


def _network(model: keras.Model) -> keras.Model:
    import keras

    from leukaemia_zoo.architectures import EMBEDDING_LAYER

    if not any(layer.name == EMBEDDING_LAYER for layer in model.layers):
        raise ArchitectureError(
            f"The model '{model.name}' has no layer '{EMBEDDING_LAYER}': load it with load_model, or name the features "
            "so in your architecture."
        )
    return keras.Model(model.inputs, model.get_layer(EMBEDDING_LAYER).output, name=model.name)


def _key(model: keras.Model) -> str:
    from leukaemia_zoo.loading import config_of

    config = config_of(model)
    about = [weights_digest(model), config.architecture, config.preprocessing.to_dict(), config.views]
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
