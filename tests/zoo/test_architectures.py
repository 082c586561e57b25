"""The networks: their sizes, their contract, their graphs."""

import warnings

import keras
import numpy as np
import pytest
from backend_outputs import cells, set_fixed_weights
from keras import ops

from leukaemia_zoo import AttentionBlock
from leukaemia_zoo.errors import ArchitectureError, UnknownNameError
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.architectures import with_output
from leukaemia_zoo.zoo.layers import CellMask, CellStatistics, without_random_weights
from leukaemia_zoo.zoo.registry import ARCHITECTURES

SMALL = ("cnn", "cnn_attention")
PUBLISHED = ("vgg16", "resnet50", "inception_v3", "xception", "mobilenet", "efficientnet_lite0")
LEAST = {name: spec.min_size for name, spec in ARCHITECTURES.items()}


def run(model, images):
    """Output as a NumPy array, in inference."""
    return ops.convert_to_numpy(model(ops.convert_to_tensor(images), training=False))


def unset(name, **options):
    """A network whose weights do not matter: drawing them takes as long as all the rest."""
    with without_random_weights():
        return build_model(name, **options)


def fixed(name, **options):
    """A network with fixed weights."""
    return set_fixed_weights(unset(name, **options))


@pytest.fixture(scope="module", params=[*PUBLISHED, *SMALL])
def network(request):
    """Each architecture at its least input with three classes and fixed weights."""
    name = request.param
    return fixed(name, num_classes=3, input_size=LEAST[name] + 6)


@pytest.fixture(params=[(name, head) for name in SMALL for head in ("flatten", "texture")], ids="-".join)
def small(request):
    """Both small networks with both heads at 64 pixels, with fixed weights."""
    name, head = request.param
    return fixed(name, head=head, input_size=64)


@pytest.fixture
def policy():
    """A function that sets the dtype policy; undone afterwards."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


# --- parameters, layer by layer ---


@pytest.mark.parametrize(("name", "total", "fixed"), [("cnn", 838_721, 0), ("cnn_attention", 192_930, 192)])
def test_the_originals_have_their_parameters(name, total, fixed):
    model = unset(name, num_classes=1)
    assert model.count_params() == total == ARCHITECTURES[name].parameters
    assert sum(int(np.prod(weight.shape)) for weight in model.non_trainable_weights) == fixed


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("vgg16", 14_714_688),
        ("resnet50", 23_587_712),
        ("inception_v3", 21_802_784),
        ("xception", 20_861_480),
        ("mobilenet", 3_228_864),
        ("efficientnet_lite0", 3_413_024),
    ],
)
def test_the_published_networks_have_their_parameters_without_the_head(name, total):
    model = unset(name, num_classes=2, input_size=LEAST[name])
    head = model.get_layer("logits")
    assert model.count_params() - head.count_params() == total == ARCHITECTURES[name].parameters
    assert with_output(model, "embeddings").count_params() == total
    features = {"vgg16": 512, "mobilenet": 1024, "efficientnet_lite0": 1280}.get(name, 2048)
    assert [tuple(weight.shape) for weight in head.weights] == [(features, 2), (2,)]


def shapes(model):
    """Output shapes of the layers that do not only rename or cast."""
    skipped = ("images", "scale", "embedding", "dropout", "probabilities")
    return [(layer.name, *layer.output.shape[1:]) for layer in model.layers if layer.name not in skipped]


def test_cnn_layer_by_layer():
    model = unset("cnn", num_classes=1)
    assert shapes(model) == [
        *(("block1_conv", 178, 178, 32), ("block1_pool", 89, 89, 32)),
        *(("block2_conv", 87, 87, 32), ("block2_pool", 43, 43, 32)),
        *(("block3_conv", 41, 41, 32), ("block3_pool", 20, 20, 32)),
        *(("flatten", 12_800), ("dense", 64), ("logits", 1)),
    ]
    convolutions = [model.get_layer(f"block{number}_conv") for number in (1, 2, 3)]
    assert [layer.activation.__name__ for layer in convolutions] == ["relu"] * 3
    initializers = [type(layer.kernel_initializer).__name__ for layer in convolutions]
    assert initializers == ["GlorotUniform", "HeUniform", "HeUniform"]
    assert {layer.padding for layer in convolutions} == {"valid"}
    assert model.get_layer("dense").activation.__name__ == "relu"
    assert model.get_layer("dropout").rate == 0.5
    assert model.get_layer("probabilities").activation.__name__ == "sigmoid"


def test_cnn_attention_layer_by_layer():
    model = unset("cnn_attention", num_classes=1)
    assert shapes(model) == [
        *(("block1_conv", 100, 100, 32), ("block1_norm", 100, 100, 32), ("block1_pool", 50, 50, 32)),
        *(("block2_conv", 50, 50, 32), ("block2_norm", 50, 50, 32), ("block2_pool", 25, 25, 32)),
        *(("block3_conv", 25, 25, 32), ("block3_norm", 25, 25, 32), ("block3_pool", 13, 13, 32)),
        *(("attention", 13, 13, 32), ("flatten", 5_408), ("dense", 32), ("logits", 1)),
    ]
    activations = [model.get_layer(f"block{number}_conv").activation.__name__ for number in (1, 2, 3)]
    assert activations == ["elu", "elu", "relu"]
    assert {model.get_layer(f"block{number}_pool").padding for number in (1, 2, 3)} == {"same"}
    assert isinstance(model.get_layer("attention"), AttentionBlock)
    assert model.get_layer("attention").count_params() == 33
    assert model.get_layer("dropout").rate == 0


def test_the_published_input_sizes():
    sizes = {name: ARCHITECTURES[name].input_size for name in ARCHITECTURES}
    assert sizes == {
        **{"vgg16": (224, 224), "resnet50": (224, 224), "inception_v3": (299, 299), "xception": (299, 299)},
        **{"cnn": (180, 180), "cnn_attention": (100, 100), "mobilenet": (224, 224)},
        "efficientnet_lite0": (224, 224),
    }
    assert build_model("cnn").input_shape == (None, 180, 180, 3)
    assert build_model("cnn_attention").input_shape == (None, 100, 100, 3)


# --- the contract ---


def test_outputs_belong_together(network):
    images = cells(2, network.input_shape[1])
    probabilities = run(network, images)
    logits = run(with_output(network, "logits"), images)
    embeddings = run(with_output(network, "embeddings"), images)
    assert probabilities.shape == logits.shape == (2, 3)
    assert {array.dtype.name for array in (probabilities, logits, embeddings)} == {"float32"}
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exponents / exponents.sum(axis=1, keepdims=True), probabilities, atol=1e-6)
    kernel, bias = network.get_layer("logits").get_weights()
    np.testing.assert_allclose(embeddings @ kernel + bias, logits, atol=1e-4)
    assert probabilities.min() > 0.001, "saturated, so that this test would see nothing"
    assert np.abs(logits[0] - logits[1]).max() > 1e-5, "the two cells give the same"


def test_graphs_are_flat(network):
    assert not [layer.name for layer in network.layers if isinstance(layer, keras.Model | keras.Sequential)]
    names = [layer.name for layer in network.layers]
    assert names[-4:] == ["embedding", "dropout", "logits", "probabilities"]
    assert network.name in ARCHITECTURES


def test_a_shared_output_shares_its_weights(tiny_model):
    assert with_output(tiny_model, "probabilities") is tiny_model
    assert with_output(tiny_model, "logits").get_layer("logits") is tiny_model.get_layer("logits")


@pytest.mark.parametrize(("classes", "activation"), [(1, "sigmoid"), (2, "softmax"), (5, "softmax")])
@pytest.mark.parametrize("name", SMALL)
def test_any_number_of_classes(name, classes, activation):
    model = fixed(name, num_classes=classes, input_size=32)
    assert model.output_shape == (None, classes)
    assert model.get_layer("probabilities").activation.__name__ == activation
    images = cells(2, 32)
    logits, probabilities = run(with_output(model, "logits"), images), run(model, images)
    expected = 1 / (1 + np.exp(-logits)) if classes == 1 else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_an_output_can_be_asked_for_at_once():
    assert build_model("cnn", output="logits", num_classes=4).output.name != build_model("cnn").output.name
    assert build_model("cnn", output="embeddings").output_shape == (None, 64)
    assert build_model("cnn_attention", output="embeddings", head="texture").output_shape == (None, 512)


def test_rectangular_input():
    assert build_model("cnn_attention", input_size=(40, 64)).input_shape == (None, 40, 64, 3)
    assert build_model("cnn", input_size=np.int64(50)).input_shape == (None, 50, 50, 3)


def test_uint8_and_float_images_give_the_same(small):
    images = cells(2, 64)
    reference = small.predict_on_batch(images)
    assert np.array_equal(small.predict_on_batch(images.astype(np.uint8)), reference)
    assert not np.allclose(small.predict_on_batch(images / 255), reference, atol=1e-4), "blind to the range"


def test_dropout_acts_in_training_only():
    model = fixed("cnn", input_size=32, dropout=0.9)
    images = ops.convert_to_tensor(cells(2, 32))
    first, second = (ops.convert_to_numpy(model(images, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)
    assert np.array_equal(run(model, images), run(model, images))


def scaled(name, pixel):
    """What the first layers make of one colour."""
    model = unset(name, input_size=LEAST[name])
    first = next(layer for layer in model.layers if layer.name == "scale")
    images = np.broadcast_to(np.array(pixel, np.float32), (1, *model.input_shape[1:]))
    return run(keras.Model(model.inputs, first.output), images)[0, 0, 0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", np.array([255, 102, 0]) / 255),
        ("cnn_attention", np.array([255, 102, 0]) / 255),
        ("vgg16", np.array([0, 102, 255]) - [103.939, 116.779, 123.68]),
        ("resnet50", np.array([0, 102, 255]) - [103.939, 116.779, 123.68]),
        ("inception_v3", np.array([255, 102, 0]) / 127.5 - 1),
        ("xception", np.array([255, 102, 0]) / 127.5 - 1),
        ("mobilenet", np.array([255, 102, 0]) / 127.5 - 1),
        ("efficientnet_lite0", (np.array([255, 102, 0]) - 127) / 128),
    ],
)
def test_scaling_and_channel_order_are_those_of_the_publication(name, expected):
    np.testing.assert_allclose(scaled(name, (255, 102, 0)), expected, atol=1e-4)


# --- heads ---


def test_heads_by_name():
    for name, spec in ARCHITECTURES.items():
        assert spec.heads == (("flatten", "texture") if name in SMALL else ("pooled", "texture"))
    layers = {head: [layer.name for layer in build_model("cnn", head=head).layers] for head in ("flatten", "texture")}
    assert {"flatten", "dense"} <= set(layers["flatten"])
    assert not {"flatten", "dense"} & set(layers["texture"])
    assert layers["flatten"] == [layer.name for layer in build_model("cnn").layers]


def texture_parameters(name, **options):
    return unset(name, head="texture", **options).count_params()


def test_the_texture_head_does_not_grow_with_the_input():
    for name in SMALL:
        assert texture_parameters(name, input_size=64) == texture_parameters(name, input_size=100) < 120_000


def statistics(model, images):
    return run(keras.Model(model.inputs, model.get_layer("statistics").output), images)


def moved(image, down, right):
    assert not image[-down:].any() if down > 0 else not image[:-down].any()
    return np.roll(image, (down, right), axis=(0, 1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("down", "right"), [(8, 0), (0, -8), (16, 8)])
def test_texture_of_a_cell_does_not_depend_on_its_place(name, down, right, draw_cell):
    """Moved by a multiple of the stride, 8, everything moves along: the mask must lie where the features lie."""
    model = fixed(name, head="texture", input_size=128)
    image = draw_cell(size=128, radius=0.2).astype(np.float32)
    here, there = statistics(model, image[None]), statistics(model, moved(image, down, right)[None])
    np.testing.assert_allclose(there, here, atol=1e-4)
    other = statistics(model, draw_cell(5, size=128, radius=0.2, level=80).astype(np.float32)[None])
    assert np.abs(other - here).max() > 0.1, "blind to the cell"


@pytest.mark.parametrize("name", SMALL)
def test_masks_lie_on_the_centre_of_the_cell(name):
    """The centre of mass of each mask, in pixels of the image by the geometry of the layers, is that of the cell."""
    size, row, column = 128, 52.5, 71.5
    image = np.zeros((1, size, size, 3), np.float32)
    image[0, 40:66, 60:84] = 100
    model = unset(name, head="texture", input_size=size)
    # The first pixel of the map of a block lies here in the image, and its pixels so far apart: without padding each
    # convolution cuts one pixel, and each pooling takes the middle of two.
    first = 0.0
    for block in (1, 2, 3):
        apart = 2 ** (block - 1)
        first += (apart if name == "cnn" else 0) + apart / 2
        mask = run(keras.Model(model.inputs, model.get_layer(f"block{block}_mask").output), image)[0, ..., 0]
        features = model.get_layer(f"block{block}_pool").output
        assert mask.shape == tuple(features.shape[1:3])
        rows, columns = np.indices(mask.shape)
        centre = [float((axis * mask).sum() / mask.sum()) for axis in (rows, columns)]
        # Where the border of the cell cuts through a position, the centre moves by a part of a pixel.
        np.testing.assert_allclose(first + 2 * apart * np.array(centre), (row, column), atol=0.4)


@pytest.mark.parametrize("name", SMALL)
def test_a_black_frame_and_a_bright_one_give_finite_numbers(name):
    model = fixed(name, head="texture", input_size=64)
    images = np.stack([np.zeros((64, 64, 3)), np.full((64, 64, 3), 255), np.full((64, 64, 3), 4)]).astype(np.float32)
    output = run(model, images)
    assert np.isfinite(output).all()
    np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-6)


def test_training_on_a_black_frame_keeps_the_weights_finite():
    model = fixed("cnn", head="texture", input_size=32)
    model.compile("sgd", "categorical_crossentropy")
    before = [weight.copy() for weight in model.get_weights()]
    model.train_on_batch(np.zeros((2, 32, 32, 3), np.float32), np.eye(2, dtype=np.float32))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any(not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


# --- layers ---


def test_cell_mask():
    image = np.zeros((1, 3, 3, 3), np.float32)
    image[0, 0, 0], image[0, 1, 1], image[0, 2, 2] = (0, 0, 9), (8, 8, 8), (200, 100, 150)
    mask = ops.convert_to_numpy(CellMask()(image))
    assert mask.shape == (1, 3, 3, 1)
    assert np.argwhere(mask[0, ..., 0]).tolist() == [[0, 0], [2, 2]]
    assert ops.convert_to_numpy(CellMask(threshold=0.0)(image)).sum() == 3
    assert np.array_equal(ops.convert_to_numpy(CellMask()(image.astype(np.uint8))), mask)


def test_cell_statistics_against_numpy():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (2, 5, 6, 4)).astype(np.float32)
    mask = rng.uniform(0, 1, (2, 5, 6, 1)).astype(np.float32)
    weight = np.maximum(mask - 0.3, 0)
    mean = (features * weight).sum((1, 2)) / weight.sum((1, 2))
    deviation = np.sqrt(((features - mean[:, None, None]) ** 2 * weight).sum((1, 2)) / weight.sum((1, 2)))
    found = ops.convert_to_numpy(CellStatistics()(features, mask))
    np.testing.assert_allclose(found, np.concatenate([mean, deviation], axis=1), atol=1e-5)


@pytest.mark.parametrize("layer", [CellMask(threshold=5.0), CellStatistics()])
def test_layers_come_back_from_their_configuration(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()


# --- mixed precision ---


@pytest.mark.parametrize(("name_of_policy", "tolerance"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 4e-2)])
@pytest.mark.parametrize(("name", "head"), [(name, head) for name in SMALL for head in ("flatten", "texture")])
def test_mixed_precision(name, head, name_of_policy, tolerance, policy):
    images = cells(3, 64)
    reference = run(fixed(name, head=head, input_size=64), images)
    policy(name_of_policy)
    model = fixed(name, head=head, input_size=64)
    assert model.get_layer("block2_conv").compute_dtype == name_of_policy.removeprefix("mixed_")
    for output in ("probabilities", "logits", "embeddings"):
        assert with_output(model, output).output.dtype == "float32"
    mixed = run(model, images)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, reference, atol=tolerance)
    assert not np.array_equal(mixed, reference), "nothing was computed in half precision"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_build_in_mixed_precision(name, policy):
    policy("mixed_bfloat16")
    model = unset(name, input_size=LEAST[name])
    assert model.output.dtype == "float32"
    assert model.get_layer("logits").compute_dtype == "float32"


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SMALL])
def test_the_texture_head_of_the_published_networks(name):
    """Statistics of three or four depths, at the least input and at others, of the cell alone."""
    for size in (LEAST[name], 96, 101):
        model = (fixed if size == 101 else unset)(name, head="texture", input_size=size)
        features = {"inception_v3": 1280, "mobilenet": 2816, "efficientnet_lite0": 848}.get(name, 1536)
        assert model.get_layer("statistics").output.shape == (None, features)
        for layer in model.layers:
            if layer.name.endswith("_mask_crop"):
                statistics_layer = model.get_layer(layer.name.replace("neck", "statistics").replace("_mask_crop", ""))
                features, mask = statistics_layer.input
                assert mask.shape[1:3] == features.shape[1:3]
    black = statistics(model, np.zeros((1, 101, 101, 3), np.float32))
    assert np.isfinite(black).all()
    assert run(model, cells(2, 101)).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "total", "beyond"),
    [("mobilenet", 832_194, "conv_pw_9"), ("efficientnet_lite0", 949_250, "block6b")],
)
def test_the_compact_networks_for_texture_have_fewer_than_a_million_weights(name, total, beyond):
    model = unset(name, head="texture", input_size=128)
    assert model.count_params() == total
    assert not any(layer.name.startswith(beyond) for layer in model.layers)


def test_efficientnet_lite0_block_by_block():
    model = unset("efficientnet_lite0", input_size=224)
    ends = [layer for layer in model.layers if layer.name.endswith(("_project_bn", "_add"))]
    found = {layer.name.split("_")[0]: layer.output.shape[1:] for layer in ends}
    assert list(found) == [
        f"block{number}{letter}" for number, count in enumerate((1, 2, 2, 3, 3, 4, 1), 1) for letter in "abcd"[:count]
    ]
    assert {name: shape for name, shape in found.items() if name.endswith("a")} == {
        **{"block1a": (112, 112, 16), "block2a": (56, 56, 24), "block3a": (28, 28, 40), "block4a": (14, 14, 80)},
        **{"block5a": (14, 14, 112), "block6a": (7, 7, 192), "block7a": (7, 7, 320)},
    }
    windows = [layer.kernel_size[0] for layer in model.layers if layer.name.endswith("_dwconv")]
    assert windows == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert {layer.max_value for layer in model.layers if layer.name.endswith("_activation")} == {6.0}
    assert {layer.epsilon for layer in model.layers if layer.name.endswith("_bn")} == {1e-3}
    assert sum(layer.name.endswith("_add") for layer in model.layers) == 9


# --- mistakes ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_input_too_small_is_refused_and_the_least_is_taken(name):
    least = LEAST[name]
    with pytest.raises(ArchitectureError, match=f"'{name}'.*at least {least}x{least}.*{least - 1}x{least + 5}"):
        build_model(name, input_size=(least - 1, least + 5))
    if name in SMALL:
        for head in ARCHITECTURES[name].heads:
            assert run(build_model(name, input_size=least, head=head), cells(1, least)).shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": "resnet"}, UnknownNameError, "resnet50"),
        ({"name": "ResNet50"}, UnknownNameError, "resnet50"),
        ({"head": "pooled"}, UnknownNameError, "flatten, texture"),
        ({"name": "vgg16", "head": "flatten"}, UnknownNameError, "pooled"),
        ({"output": "logit"}, UnknownNameError, "probabilities, logits, embeddings"),
        ({"num_classes": 0}, ArchitectureError, "one class or more"),
        ({"num_classes": 2.0}, ArchitectureError, "one class or more"),
        ({"num_classes": None}, ArchitectureError, "one class or more"),
        ({"dropout": 1}, ArchitectureError, "dropout is 1"),
        ({"dropout": -0.1}, ArchitectureError, "dropout is -0.1"),
        ({"dropout": float("nan")}, ArchitectureError, "dropout is nan"),
        ({"input_size": (100, 100, 3)}, ArchitectureError, "height and width"),
        ({"input_size": 100.5}, ArchitectureError, "whole pixels"),
        ({"input_size": 5000}, ArchitectureError, "at most 2048"),
        ({"input_size": -5}, ArchitectureError, "whole pixels"),
    ],
)
def test_wrong_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        build_model(**{"name": "cnn", **options})


@pytest.mark.parametrize("output", ["probabilities", "logits", "embeddings"])
def test_a_network_takes_an_array_without_a_warning(output):
    model = build_model("cnn_attention", input_size=32, head="texture", output=output)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The structure of `inputs`")
        model(np.zeros((1, 32, 32, 3), np.float32))
