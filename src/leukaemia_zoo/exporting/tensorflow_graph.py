"""A network as a SavedModel, and as a file for LiteRT: both are made by TensorFlow from the Keras network."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.text import reason
from leukaemia_zoo.engine.making import keras_network
from leukaemia_zoo.engine.names import EMBEDDINGS, IMAGES, PROBABILITIES, SCORES
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import EngineError, ExportMissingError
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER

METADATA = "leukaemia_zoo.json"
"""Name of the metadata: in ``assets.extra`` of a SavedModel, and in the ZIP archive at the end of a LiteRT file."""

_SIGNATURE = "serving_default"


def check_backend() -> None:
    """Refuse to begin where Keras does not compute with TensorFlow, which makes both formats."""
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ExportMissingError(
            f"TensorFlow, which makes SavedModels and LiteRT files, cannot be imported ({reason(error)}): "
            "`pip install tensorflow`."
        ) from error
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportMissingError(
            f"Keras computes with {keras.backend.backend()} here, and TensorFlow makes SavedModels and LiteRT files: "
            "set KERAS_BACKEND=tensorflow."
        )


def write_saved_model(
    network: Network, weights: str | os.PathLike[str], folder: Path, views: int, metadata: dict[str, str]
) -> None:
    """Write a SavedModel from images to probabilities, embeddings and OOD scores, whose weights are constants."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = keras_network(network.zoo, weights)
    trunk = keras.Model(model.inputs, model.get_layer(EMBEDDING_LAYER).output)
    kernel, bias = network.classifier.kernel, network.classifier.bias

    def judged(images: Any) -> dict[str, Any]:
        embeddings = trunk(_turned(tf, images, views), training=False)
        embeddings = tf.reduce_mean(tf.reshape(embeddings, [views, -1, network.features]), axis=0)
        logits = tf.matmul(embeddings, kernel) + bias
        if bias.size == 1:  # sigmoid(z) is the second of softmax([0, z])
            logits = tf.concat([tf.zeros_like(logits), logits], axis=1)
        outputs = {PROBABILITIES: tf.nn.softmax(logits), EMBEDDINGS: embeddings}
        if network.has_statistics:
            outputs[SCORES] = tf.sqrt(tf.reduce_mean(tf.square(embeddings), axis=1))
        return outputs

    images = tf.TensorSpec([None, *network.zoo.preprocessing.input_size, 3], tf.float32, name=IMAGES)
    traced = tf.function(judged, input_signature=[images], autograph=False).get_concrete_function()
    # Variables would have to be set by whoever loads the file, and LiteRT does not.
    constant = convert_variables_to_constants_v2(traced)
    names = sorted(traced.structured_outputs)  # in which order TensorFlow flattens them

    def named(images: Any) -> dict[str, Any]:
        return dict(zip(names, constant(images), strict=True))

    module = tf.Module()
    module.judge = tf.function(named, input_signature=[images], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={_SIGNATURE: module.judge})
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / METADATA).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_litert(saved: Path, file: Path, metadata: dict[str, str]) -> None:
    """Convert a SavedModel; the metadata go into a ZIP archive at the end of the file, where LiteRT looks for them."""
    import tensorflow as tf

    try:
        content = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=[_SIGNATURE]).convert()
    except Exception as error:  # the converter has no family of its own for what it refuses
        raise EngineError(f"TensorFlow cannot convert the network for LiteRT ({reason(error)}): take onnx.") from None
    file.write_bytes(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata, indent=2, ensure_ascii=False))


def run_saved_model(folder: Path, cells: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) by a SavedModel, one cell after the other."""
    import tensorflow as tf

    run = tf.saved_model.load(str(folder)).signatures[_SIGNATURE]
    return np.concatenate([run(images=tf.constant(cell[None].astype(np.float32)))[PROBABILITIES] for cell in cells])


def run_litert(file: Path, cells: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) by LiteRT, one cell after the other."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:  # TensorFlow has one too
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter

    run = Interpreter(str(file)).get_signature_runner(_SIGNATURE)
    return np.concatenate([run(images=cell[None].astype(np.float32))[PROBABILITIES] for cell in cells])


def _turned(tf: Any, images: Any, views: int) -> Any:
    """The views, one batch behind the other, as `symmetric_views` has them."""
    lying = tf.transpose(images, [0, 2, 1, 3])
    turned = [images, tf.reverse(lying, [2]), tf.reverse(images, [1, 2]), tf.reverse(lying, [1])][: min(views, 4)]
    mirrored = [tf.reverse(view, [2]) for view in turned] if views == 8 else []
    return tf.concat([*turned, *mirrored], axis=0)
