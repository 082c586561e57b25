"""The networks of the zoo as flat functional Keras graphs: no weights, no files.

One contract for all: RGB images from 0 to 255 in, channels last; one probability per class out, in the order of the
class names. What a network expects of its input (scaling, channel order, mean) is part of its graph.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import keras
from keras import layers, ops

from leukaemia_zoo.cells.preprocessing import MAX_SIDE
from leukaemia_zoo.common.hardware import own_settings, precision
from leukaemia_zoo.common.reading import is_whole
from leukaemia_zoo.common.text import close_matches
from leukaemia_zoo.errors import ArchitectureError, UnknownNameError
from leukaemia_zoo.zoo.efficientnet import efficientnet_lite0
from leukaemia_zoo.zoo.layers import (
    AttentionBlock,
    CellFeatures,
    CellMask,
    CellNetwork,
    CellStatistics,
    without_random_weights,
)
from leukaemia_zoo.zoo.registry import ARCHITECTURES, ModelSpec, register
from leukaemia_zoo.zoo.tensors import EMBEDDING_LAYER, LOGITS_LAYER, STATISTICS_NORM, named_variables

Output = Literal["probabilities", "logits", "embeddings"]

_OWN_HEAD = "own"
"""The one head of an architecture that somebody registered: its builder makes the features."""

_REGISTERED: set[str] = set()


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a builder needs to know, checked once in `build_model`."""

    input_size: tuple[int, int]
    head: str
    dropout: float


def build_model(
    name: str,
    *,
    num_classes: int = 2,
    input_size: int | tuple[int, int] | None = None,
    head: str | None = None,
    dropout: float | None = None,
    output: Output = "probabilities",
) -> keras.Model:
    """Build one of the architectures with random weights.

    Args:
        name: ``"vgg16"``, ``"resnet50"``, ``"inception_v3"``, ``"xception"``, ``"cnn"``, ``"cnn_attention"``,
            ``"mobilenet"`` or ``"efficientnet_lite0"``.
        num_classes: Number of classes. With 1 there is one sigmoid unit, the probability of the last class.
        input_size: Height and width of the input, or one number for both; None for the architecture's own (180 for
            ``cnn``, 100 for ``cnn_attention``, 224 or 299 for the published networks).
        head: What follows the convolutions; None for the architecture's own.

            * ``"flatten"``: every position of the last feature map into one dense layer, as in the original ``cnn``
              and ``cnn_attention`` (their default).
            * ``"texture"``: mean and standard deviation of the features of several depths over the cell and not over
              the black around it; no dense layer that could learn positions. ``cnn`` and ``cnn_attention`` get two more
              convolutions for it (64 and 128 channels), four published networks a 1 x 1 convolution at each depth;
              ``mobilenet`` ends at its eighth block, ``efficientnet_lite0`` at its twelfth.
            * ``"pooled"``: global average pooling, for the six published networks (their default).
        dropout: Share of the embedding dropped in training; None for the architecture's own.
        output: ``"probabilities"``, ``"logits"`` (before softmax or sigmoid) or ``"embeddings"`` (what the last dense
            layer sees, float32).

    Returns:
        A functional ``keras.Model`` from float or integer images (batch, height, width, 3), RGB, 0 to 255, to
        (batch, num_classes) float32, or (batch, features) for embeddings.

    Raises:
        UnknownNameError: If there is no such architecture, head or output.
        ArchitectureError: If the input is too small or a number is out of its range.

    Source:
        VGG16 doi 10.48550/arXiv.1409.1556, ResNet50 doi 10.1109/CVPR.2016.90, Inception v3 doi 10.1109/CVPR.2016.308,
        Xception doi 10.1109/CVPR.2017.195, MobileNet doi 10.48550/arXiv.1704.04861, EfficientNet doi
        10.48550/arXiv.1905.11946; ``cnn`` and ``cnn_attention`` from
        "Leukaemia Classification using DL".

    Example:
        >>> import leukaemia_zoo as lz
        >>> lz.zoo.build_model("cnn_attention", num_classes=1).count_params()
        192930
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError(f"There is no architecture '{name}'; {close_matches(name, ARCHITECTURES)}")
    spec = ARCHITECTURES[name]
    head = head or spec.heads[0]
    if head not in spec.heads:
        raise UnknownNameError(f"'{name}' has no head '{head}'; choose one of {', '.join(spec.heads)}.")
    _check_output(output)
    if not is_whole(num_classes):
        raise ArchitectureError(f"num_classes is {num_classes!r}, but a network has one class or more.")
    dropout = spec.dropout if dropout is None else dropout
    if not 0 <= dropout < 1:
        raise ArchitectureError(f"dropout is {dropout!r}, but it is a share from 0 up to, not including, 1.")
    size = _size(spec.input_size if input_size is None else input_size, name, spec.min_size)

    with own_settings():
        inputs = keras.Input((*size, 3), name="images")
        embedding = _BUILDERS[name](inputs, _Plan(size, head, dropout))
        # float32 whatever the policy: a softmax in half precision loses the calibration.
        logits = layers.Dense(int(num_classes), dtype="float32", name=LOGITS_LAYER)(embedding)
        activation = "sigmoid" if num_classes == 1 else "softmax"
        probabilities = layers.Activation(activation, dtype="float32", name="probabilities")(logits)
        return with_output(CellNetwork(inputs, probabilities, name=name), output)


def register_architecture(
    name: str,
    builder: Callable[[Any], Any],
    *,
    input_size: int | tuple[int, int],
    title: str = "",
    min_size: int = 8,
    dropout: float = 0.0,
    source: str = "not published",
) -> None:
    """Add an architecture of your own to the zoo, for this process.

    From then on its name is taken wherever that of an architecture is: ``load_model(name, weights=None)``, `fine_tune`,
    `save_model`, `predict`. A saved model of it can be loaded by processes that have registered it too; nothing that is
    loaded can register anything.

    Args:
        name: Small letters, digits and underscores; none of the zoo's own. A name that was registered before is
            replaced.
        builder: From the input, a symbolic tensor (batch, height, width, 3) of RGB from 0 to 255, to the features that
            the classifier sees, (batch, features). Give layers names, so that its weights are found again whatever is
            built beside it.
        input_size: Height and width that it is built for unless told otherwise, or one number for both.
        title: One line about it.
        min_size: The fewest pixels a side that it can be built for.
        dropout: Share of the features dropped in training.
        source: Where it was published.

    Raises:
        ArchitectureError: If the name cannot be used, or the builder makes no such features.

    Example:
        >>> import keras, leukaemia_zoo as lz
        >>> def build(images):
        ...     x = keras.layers.Rescaling(1 / 255, name="scale")(images)
        ...     x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(x)
        ...     return keras.layers.GlobalAveragePooling2D(name="pool")(x)
        >>> lz.zoo.register_architecture("my_tiny", build, input_size=32)
        >>> lz.load_model("my_tiny", weights=None, num_classes=3).output_shape
        (None, 3)
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ArchitectureError(f"{name!r} cannot name an architecture: use small letters, digits and underscores.")
    if name in ARCHITECTURES and name not in _REGISTERED:
        raise ArchitectureError(f"'{name}' is an architecture of the zoo: give yours another name.")
    if not is_whole(min_size):
        raise ArchitectureError(f"min_size is {min_size!r}: give whole pixels from 1 on.")
    size = _size(input_size, name, int(min_size))
    if not 0 <= dropout < 1:
        raise ArchitectureError(f"dropout is {dropout!r}, but it is a share from 0 up to, not including, 1.")
    with own_settings():
        inputs = keras.Input((*size, 3), name="images")
        features = builder(inputs)
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise ArchitectureError(
            f"The builder of '{name}' gives the shape {shape}, not (batch, features): end it with a pooling or "
            "flattening layer."
        )
    parameters = keras.Model(inputs, features).count_params()
    spec = ModelSpec(name, title or name, size, int(min_size), parameters, (_OWN_HEAD,), dropout, source)
    register(spec)
    _REGISTERED.add(name)
    _BUILDERS[name] = lambda images, plan: _embedding(builder(images), plan.dropout)


def tensor_shapes(name: str, num_classes: int, input_size: tuple[int, int], head: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a network by their stable names; it is built for them once in a process."""
    return dict(_tensor_shapes(_BUILDERS[name], name, num_classes, input_size, head))


@functools.lru_cache(maxsize=32)
def _tensor_shapes(
    builder: object, name: str, num_classes: int, input_size: tuple[int, int], head: str
) -> dict[str, tuple[int, ...]]:
    """What belongs to a builder, for a name may get another one."""
    with precision("float32"), without_random_weights():
        model = build_model(name, num_classes=num_classes, input_size=input_size, head=head)
    return {key: tuple(variable.shape) for key, variable in named_variables(model).items()}


def with_output(model: keras.Model, output: Output) -> keras.Model:
    """The same network and the same weights with another output; see `build_model`.

    Args:
        model: A model that `build_model` made.
        output: ``"probabilities"``, ``"logits"`` or ``"embeddings"``.

    Returns:
        ``model`` itself for its own output, else a model that shares its layers.

    Raises:
        UnknownNameError: If there is no such output.
    """
    _check_output(output)
    if output == "probabilities":
        return model
    layer = {"logits": LOGITS_LAYER, "embeddings": EMBEDDING_LAYER}[output]
    # One input as such: of a list of one Keras warns at each call.
    return CellNetwork(model.inputs[0], model.get_layer(layer).output, name=model.name)


def _check_output(output: str) -> None:
    if output not in get_args(Output):
        raise UnknownNameError(f"There is no output '{output}'; choose one of {', '.join(get_args(Output))}.")


def _size(size: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    sides: tuple[Any, ...] = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(is_whole(side) for side in sides):
        raise ArchitectureError(f"input_size is {size!r}: give height and width in whole pixels, such as (100, 100).")
    height, width = int(sides[0]), int(sides[1])
    if min(height, width) < least:
        raise ArchitectureError(f"'{name}' needs an input of at least {least}x{least} pixels, not {height}x{width}.")
    if max(height, width) > MAX_SIDE:
        raise ArchitectureError(f"'{name}' takes an input of at most {MAX_SIDE} pixels a side, not {height}x{width}.")
    return height, width


def _embedding(x: Any, dropout: float) -> Any:
    """Name the features that the classifier sees, and drop some of them in training."""
    x = CellFeatures(name=EMBEDDING_LAYER)(x)
    return layers.Dropout(dropout, dtype="float32", name="dropout")(x)


# ---------------------------------------------------------------------------------------------------------------------
# The two small networks of the original system


def _cnn(inputs: Any, plan: _Plan) -> Any:
    x = layers.Rescaling(1 / 255, dtype="float32", name="scale")(inputs)
    mask = CellMask(name="cell_mask")(inputs) if plan.head == "texture" else None
    stages = []
    for block, initializer in enumerate(("glorot_uniform", "he_uniform", "he_uniform"), start=1):
        x = layers.Conv2D(32, 3, activation="relu", kernel_initializer=initializer, name=f"block{block}_conv")(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
        if mask is not None:
            # Without padding a convolution loses one pixel at each edge: the mask must lose the same ones.
            mask = layers.Cropping2D(1, dtype="float32", name=f"block{block}_mask_crop")(mask)
            mask = layers.AveragePooling2D(2, dtype="float32", name=f"block{block}_mask")(mask)
            stages.append((x, mask))
    if plan.head == "texture":
        return _texture_head(stages, plan)
    x = layers.Flatten(name="flatten")(x)
    return _embedding(layers.Dense(64, activation="relu", name="dense")(x), plan.dropout)


def _cnn_attention(inputs: Any, plan: _Plan) -> Any:
    x = layers.Rescaling(1 / 255, dtype="float32", name="scale")(inputs)
    mask = CellMask(name="cell_mask")(inputs) if plan.head == "texture" else None
    stages = []
    for block, activation in enumerate(("elu", "elu", "relu"), start=1):
        x = layers.Conv2D(32, 3, padding="same", activation=activation, name=f"block{block}_conv")(x)
        x = layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
        if mask is not None:
            mask = layers.AveragePooling2D(2, padding="same", dtype="float32", name=f"block{block}_mask")(mask)
            stages.append((x, mask))
    x = AttentionBlock(name="attention")(x)
    if plan.head == "texture":
        return _texture_head([*stages[:-1], (x, mask)], plan)
    x = layers.Flatten(name="flatten")(x)
    return _embedding(layers.Dense(32, activation="relu", name="dense")(x), plan.dropout)


def _texture_head(stages: list[tuple[Any, Any]], plan: _Plan) -> Any:
    """Statistics over the cell of blocks 2 and 3 and of two more convolutions at the same resolution."""
    x, mask = stages[-1]
    depths = stages[-2:]
    for number, channels in enumerate((64, 128), start=1):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"head{number}_conv")(x)
        x = layers.BatchNormalization(name=f"head{number}_norm")(x)
        x = layers.Activation("relu", name=f"head{number}_relu")(x)
        depths.append((x, mask))
    x = layers.Concatenate(dtype="float32", name="statistics")(
        [CellStatistics(name=f"statistics{depth}")(x, mask) for depth, (x, mask) in enumerate(depths, start=1)]
    )
    # Channels differ in scale by orders of magnitude; the classifier and its weight decay want them alike.
    return _embedding(layers.BatchNormalization(dtype="float32", name=STATISTICS_NORM)(x), plan.dropout)


# ---------------------------------------------------------------------------------------------------------------------
# The four published networks, from keras.applications


def _published(
    application: Callable[..., keras.Model], scale: Callable[[Any], Any], taps: dict[str, int], necks: bool = True
) -> Callable[[Any, _Plan], Any]:
    def build(inputs: Any, plan: _Plan) -> Any:
        # With input_tensor the layers join this graph: no nested model, so that Grad-CAM and fine-tuning see each one.
        backbone = application(include_top=False, weights=None, input_tensor=scale(inputs))
        if plan.head == "texture":
            return _tapped_head(inputs, backbone, taps, plan, necks)
        return _embedding(layers.GlobalAveragePooling2D(name="pool")(backbone.output), plan.dropout)

    return build


def _tapped_head(inputs: Any, backbone: keras.Model, taps: dict[str, int], plan: _Plan, necks: bool) -> Any:
    """Statistics over the cell at several depths of a published network."""
    # `taps` are layers and their strides; with `necks` each is narrowed by a 1 x 1 convolution.
    cell = CellMask(name="cell_mask")(inputs)
    depths = []
    for number, (name, stride) in enumerate(taps.items(), start=1):
        x = backbone.get_layer(name).output
        if necks:
            x = layers.Conv2D(128 if stride < 16 else 256, 1, use_bias=False, name=f"neck{number}_conv")(x)
            x = layers.BatchNormalization(name=f"neck{number}_norm")(x)
            x = layers.Activation("relu", name=f"neck{number}_relu")(x)
        mask = layers.AveragePooling2D(stride, padding="same", dtype="float32", name=f"neck{number}_mask")(cell)
        # Networks without padding lose a margin, about as much on each side.
        margins = [(have - want) for have, want in zip(mask.shape[1:3], x.shape[1:3], strict=True)]
        crop = tuple((margin // 2, margin - margin // 2) for margin in margins)
        mask = layers.Cropping2D(crop, dtype="float32", name=f"neck{number}_mask_crop")(mask)
        depths.append(CellStatistics(name=f"statistics{number}")(x, mask))
    x = layers.Concatenate(dtype="float32", name="statistics")(depths)
    return _embedding(layers.BatchNormalization(dtype="float32", name=STATISTICS_NORM)(x), plan.dropout)


def _scale_to_one(inputs: Any) -> Any:
    """-1 to 1, as Inception v3 and Xception were published."""
    return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(inputs)


def _scale_as_lite(inputs: Any) -> Any:
    """-0.99 to 1, as EfficientNet-lite was published."""
    return layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32", name="scale")(inputs)


def _scale_as_caffe(inputs: Any) -> Any:
    """Blue, green, red, less the mean of ImageNet, as VGG16 and ResNet50 were published."""
    return layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68], dtype="float32", name="scale")(
        ops.flip(inputs, axis=-1)
    )


_BUILDERS: dict[str, Callable[[Any, _Plan], Any]] = {
    "vgg16": _published(
        keras.applications.VGG16,
        _scale_as_caffe,
        {"block2_pool": 4, "block3_pool": 8, "block4_pool": 16, "block5_pool": 32},
    ),
    "resnet50": _published(
        keras.applications.ResNet50,
        _scale_as_caffe,
        {"conv2_block3_out": 4, "conv3_block4_out": 8, "conv4_block6_out": 16, "conv5_block3_out": 32},
    ),
    # Without padding, and its blocks of stride 4 have no names of their own.
    "inception_v3": _published(
        keras.applications.InceptionV3, _scale_to_one, {"mixed2": 8, "mixed7": 16, "mixed10": 32}
    ),
    "xception": _published(
        keras.applications.Xception,
        _scale_to_one,
        {"block3_sepconv1_act": 4, "block4_sepconv1_act": 8, "block13_sepconv1_act": 16, "block14_sepconv2_act": 32},
    ),
    # Depths that a classifier reads best, and nothing beyond them: fewer than a million weights.
    "mobilenet": _published(
        keras.applications.MobileNet,
        _scale_to_one,
        {"conv_pw_3_relu": 4, "conv_pw_5_relu": 8, "conv_pw_6_relu": 16, "conv_pw_8_relu": 16},
        necks=False,
    ),
    "efficientnet_lite0": _published(
        efficientnet_lite0,
        _scale_as_lite,
        {"block3b_add": 8, "block4c_add": 16, "block5c_add": 16, "block6a_project_bn": 32},
        necks=False,
    ),
    "cnn": _cnn,
    "cnn_attention": _cnn_attention,
}
