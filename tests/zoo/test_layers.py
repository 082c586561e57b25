"""The spatial gate and its maps."""

import contextlib
import random

import keras
import numpy as np
import pytest
from backend_outputs import cells, set_fixed_weights
from keras import ops

from leukaemia_zoo import AttentionBlock
from leukaemia_zoo.errors import ArchitectureError, ImageError
from leukaemia_zoo.prediction import attention_maps
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo import layers as own_layers
from leukaemia_zoo.zoo.layers import fuse_normalisation, without_random_weights

SHAPE = (2, 5, 4, 8)


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)


@pytest.fixture
def weights():
    rng = np.random.default_rng(1)
    return [rng.normal(0, 0.5, (8, 1)).astype(np.float32), np.array([0.3], np.float32)]


def gate(weights, **options):
    """A built block with these weights."""
    block = AttentionBlock(**options)
    block.build(SHAPE)
    block.set_weights(weights)
    return block


def expected(features, weights):
    """Gated features and map, by the formula of the class, in float64."""
    score = np.einsum("bijc,c->bij", features.astype(float), weights[0][:, 0].astype(float)) + float(weights[1][0])
    attention = 1 / (1 + np.exp(-score))
    return features * attention[..., None], attention[..., None]


@pytest.mark.parametrize("channels", [1, 32, 128])
def test_it_has_one_weight_a_channel_and_a_bias(channels):
    block = AttentionBlock()
    block.build((None, 13, 13, channels))
    assert block.count_params() == channels + 1
    assert [tuple(weight.shape) for weight in block.weights] == [(channels, 1), (1,)]
    without = AttentionBlock(use_bias=False)
    without.build((None, 13, 13, channels))
    assert without.count_params() == channels


def test_it_is_the_formula(features, weights):
    gated, attention = expected(features, weights)
    np.testing.assert_allclose(ops.convert_to_numpy(gate(weights)(features)), gated, atol=1e-5)
    both = gate(weights, return_attention=True)(features)
    assert isinstance(both, tuple)
    np.testing.assert_allclose(ops.convert_to_numpy(both[0]), gated, atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(both[1]), attention, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(gate(weights).attention(features)), attention, atol=1e-6)


def test_another_activation_and_no_bias(features, weights):
    block = gate(weights[:1], activation="tanh", use_bias=False)
    score = features @ weights[0]
    np.testing.assert_allclose(ops.convert_to_numpy(block(features)), features * np.tanh(score), atol=1e-5)


def test_shapes_are_told_before_anything_is_computed():
    assert AttentionBlock().compute_output_shape((None, 7, 7, 3)) == (None, 7, 7, 3)
    both = AttentionBlock(return_attention=True).compute_output_shape((None, 7, 7, 3))
    assert both == ((None, 7, 7, 3), (None, 7, 7, 1))
    gated, attention = AttentionBlock(return_attention=True)(keras.Input((None, None, 3)))
    assert gated.shape == (None, None, None, 3)
    assert attention.shape == (None, None, None, 1)


@pytest.mark.parametrize("shape", [(5, 4, 8), (2, 5, 4, 8, 1), (None, 5, 4, None)])
def test_another_shape_is_refused_by_name(shape):
    with pytest.raises(ArchitectureError, match=r"'gate' takes a feature map \(batch, height, width, channels\)"):
        AttentionBlock(name="gate").build(shape)


# --- serialisation ---


def test_configuration_round_trip(features, weights):
    block = gate(
        weights,
        name="gate",
        activation="hard_sigmoid",
        kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(0.01),
        return_attention=True,
    )
    for copy in (
        AttentionBlock.from_config(block.get_config()),
        keras.layers.deserialize(keras.layers.serialize(block)),
    ):
        assert copy.get_config() == block.get_config()
        assert copy.kernel_regularizer.l2 == pytest.approx(0.01)
        if not copy.built:  # deserialize builds it, since the shape is in the configuration
            copy.build(SHAPE)
        copy.set_weights(weights)
        for ours, theirs in zip(block(features), copy(features), strict=True):
            assert np.array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))
    assert keras.saving.get_registered_object("leukaemia_zoo>AttentionBlock") is AttentionBlock


def test_regulariser_is_a_loss(weights):
    block = gate(weights, kernel_regularizer=keras.regularizers.L2(0.5))
    assert float(block.losses[0]) == pytest.approx(0.5 * float((weights[0] ** 2).sum()), rel=1e-5)


@pytest.mark.parametrize("head", ["flatten", "texture"])
def test_keras_file_round_trip(tmp_path, head):
    """Keras' own format, in safe mode and without custom_objects, holds our layers."""
    model = set_fixed_weights(build_model("cnn_attention", input_size=32, head=head))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = cells(2, 32)
    np.testing.assert_allclose(copy.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6)


# --- training and precision ---


def test_it_learns(features):
    """A gate must find out which channel says where to look."""
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, AttentionBlock(kernel_initializer="zeros")(inputs))
    model.compile(keras.optimizers.SGD(0.5), "mse")
    images = np.random.default_rng(2).normal(0, 1, (64, *SHAPE[1:])).astype(np.float32)
    target = images * (images[..., :1] > 0)
    first = model.train_on_batch(images, target)
    for _ in range(60):
        last = model.train_on_batch(images, target)
    kernel, bias = model.get_weights()
    assert float(last) < 0.5 * float(first)
    assert kernel[0, 0] > 1
    assert np.abs(kernel[1:]).max() < 0.3
    assert not np.array_equal(bias, [0.0]), "no gradient came to the bias"


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 5e-2)])
def test_mixed_precision(features, weights, policy, tolerance):
    block = gate(weights, dtype=policy, return_attention=True)
    half = policy.removeprefix("mixed_")
    gated, attention = block(features)
    assert keras.backend.standardize_dtype(gated.dtype) == keras.backend.standardize_dtype(attention.dtype) == half
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in block.weights} == {"float32"}
    reference = expected(features, weights)
    for found, true in zip((gated, attention), reference, strict=True):
        found = ops.convert_to_numpy(ops.cast(found, "float32"))
        np.testing.assert_allclose(found, true, atol=tolerance * np.abs(true).max())


# --- maps ---


@pytest.fixture(scope="module")
def model():
    return set_fixed_weights(build_model("cnn_attention", input_size=40))


def test_maps_are_those_of_the_network(model):
    images = cells(5, 40)
    before = keras.Model(model.inputs, model.get_layer("block3_pool").output).predict_on_batch(images)
    maps = attention_maps(model, images)
    assert maps.shape == (5, 5, 5)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected(before, model.get_layer("attention").get_weights())[1][..., 0], atol=1e-5)
    assert maps.std() > 0.01
    assert maps.min() >= 0
    assert maps.max() <= 1
    np.testing.assert_allclose(attention_maps(model, images, batch_size=2), maps, atol=1e-6)
    np.testing.assert_allclose(attention_maps(model, images.astype(np.uint8)), maps, atol=1e-6)
    assert attention_maps(model, images[:0]).shape == (0, 5, 5)


def test_maps_are_of_the_last_block(features, weights):
    inputs = keras.Input(SHAPE[1:])
    first, last = gate([-weights[0], weights[1]]), gate(weights)
    model = keras.Model(inputs, last(first(inputs)))
    gated = expected(features, [-weights[0], weights[1]])[0]
    np.testing.assert_allclose(attention_maps(model, features), expected(gated, weights)[1][..., 0], atol=1e-5)


def test_a_network_without_gate_has_no_maps():
    with pytest.raises(ArchitectureError, match="'cnn' holds no AttentionBlock"):
        attention_maps(build_model("cnn", input_size=32), cells(1, 32))


@pytest.mark.parametrize("shape", [(40, 40, 3), (1, 100, 100, 3), (1, 3, 40, 40), (1, 40, 40)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(ImageError, match=r"not \(N, 40, 40, 3\)"):
        attention_maps(model, np.zeros(shape, np.float32))


def test_networks_for_loaded_weights_draw_none_and_are_the_same_otherwise():
    built, drawn_after = [], []
    for context in (contextlib.nullcontext, without_random_weights):
        keras.utils.set_random_seed(3)
        with context():
            built.append(build_model("mobilenet", head="pooled", input_size=32))
        drawn_after.append(random.random())
    kernels = [[np.asarray(w) for w in model.weights if w.path.endswith("kernel")] for model in built]
    assert all(kernel.any() for kernel in kernels[0])
    assert not any(kernel.any() for kernel in kernels[1])
    assert [kernel.shape for kernel in kernels[0]] == [kernel.shape for kernel in kernels[1]]
    # Neither what is drawn next nor what Keras writes of the network tells that it drew nothing.
    assert drawn_after[0] == drawn_after[1]
    kinds = ("kernel_initializer", "depthwise_initializer")
    described = [[layer.get_config().get(kind) for layer in model.layers for kind in kinds] for model in built]
    assert described[0] == described[1]
    layer = built[1].get_layer("logits")
    assert np.asarray(layer.kernel_initializer((4, 4))).any()
    assert build_model("cnn", input_size=32).get_layer("logits").get_weights()[0].any()


# --- normalisation in one operation ---


@pytest.fixture
def normalised():
    """A network with a BatchNorm of maps and one of vectors."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="of_maps")(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.BatchNormalization(name="of_vectors")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


@pytest.fixture
def fused_calls(monkeypatch):
    """How often a fused step was taken."""
    backend = keras.backend.backend()
    real, calls = own_layers._FUSED_STEPS[backend], []

    def counted(x, *given):
        calls.append(tuple(x.shape))
        return real(x, *given)

    monkeypatch.setitem(own_layers._FUSED_STEPS, backend, counted)
    return calls


def test_only_maps_that_learn_are_normalised_in_one_operation(normalised, fused_calls):
    images = np.random.default_rng(0).normal(0, 1, (5, 6, 6, 3)).astype(np.float32)
    normalised(images, training=True)
    assert fused_calls == []
    fuse_normalisation(normalised)
    normalised(images, training=False)
    assert fused_calls == []
    normalised(images, training=True)
    assert fused_calls == [(5, 4, 4, 4)]
    normalised.get_layer("of_maps").trainable = False
    before = normalised.get_layer("of_maps").get_weights()
    normalised(images, training=True)
    assert len(fused_calls) == 1
    for ours, theirs in zip(normalised.get_layer("of_maps").get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_position_has_no_variance(fused_calls):
    """PyTorch refuses to estimate it, Keras calls it 0."""
    inputs = keras.Input((1, 1, 2))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    fuse_normalisation(model)
    outputs = ops.convert_to_numpy(model(np.array([[[[3.0, -2.0]]]], np.float32), training=True))
    np.testing.assert_array_equal(outputs, np.zeros((1, 1, 1, 2)))
    assert fused_calls == []


def test_an_interrupted_training_of_plain_layers_goes_on_with_fused_ones(normalised, tmp_path):
    rng = np.random.default_rng(0)
    for weight in normalised.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    normalised.save_weights(tmp_path / "plain.weights.h5")
    expected = normalised.get_weights()
    fuse_normalisation(normalised)
    normalised.save_weights(tmp_path / "fused.weights.h5")
    for file in ("plain", "fused"):
        for weight in normalised.weights:
            weight.assign(np.zeros(weight.shape))
        normalised.load_weights(tmp_path / f"{file}.weights.h5")
        for ours, theirs in zip(normalised.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
