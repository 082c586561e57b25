"""How a training describes cells: on the engine as by Keras, with the weights that the network has now."""

import builtins
import dataclasses

import numpy as np
import pytest

from leukaemia_zoo import load_model
from leukaemia_zoo.engine.trunk import Trunk
from leukaemia_zoo.training import classifier
from leukaemia_zoo.training.recipes import recipe_for


@pytest.fixture(scope="module")
def network():
    return load_model("cnn_attention", output="logits")


@pytest.fixture(scope="module")
def recipe():
    return recipe_for("cnn_attention")


@pytest.fixture(scope="module")
def pixels(draw_cell, recipe):
    side = recipe.input_size
    return np.stack([[draw_cell(seed + turned, side) for seed in range(5)] for turned in (0, 50)])


@pytest.fixture
def by_keras(monkeypatch):
    """A call that is answered by Keras alone."""

    def answered(function, *given, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(classifier, "packaged_graph", lambda *_: None)
            patch.setattr(classifier, "Trunk", None)
            return function(*given, **settings)

    return answered


@pytest.mark.parametrize("standardised", [True, False])
def test_the_engine_describes_cells_as_keras_does(network, recipe, pixels, by_keras, standardised):
    found = classifier.features_of(network, recipe, standardised=standardised)
    assert isinstance(found.__self__, Trunk)
    expected = by_keras(classifier.features_of, network, recipe, standardised=standardised)
    for views in (1, 8):
        ours, theirs = found(pixels[0], views), expected(pixels[0], views)
        assert ours.shape == theirs.shape == (5, 512)
        scale = 1.0 if standardised else np.abs(theirs).max(axis=0) + 1e-6
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-4)


def test_embeddings_are_those_of_the_rows_that_are_asked_for(network, recipe, pixels, by_keras):
    rows = np.array([0, 2, 4])
    ours = classifier.embed(network, pixels, rows, recipe)
    theirs = by_keras(classifier.embed, network, pixels, rows, recipe)
    for found, expected in ((ours.turned, theirs.turned), (ours.predicted, theirs.predicted)):
        assert np.isnan(found[..., [1, 3], :]).all()
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        ours.turned[0, rows], classifier.features_of(network, recipe, standardised=False)(pixels[0, rows], 1)
    )


def test_logits_and_scores_follow_the_weights_that_the_network_has_now(recipe, pixels, by_keras):
    network = load_model("cnn_attention", output="logits")
    before, _ = classifier.view_outputs(network, pixels[0], recipe)
    for layer in network.layers:
        layer.set_weights([1.05 * values for values in layer.get_weights()])
    logits, scores = classifier.view_outputs(network, pixels[0], recipe)
    expected, expected_scores = by_keras(classifier.view_outputs, network, pixels[0], recipe)
    assert np.abs(logits - before).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-3)


def test_what_was_embedded_gives_the_same_verdict_as_the_pixels(network, recipe, pixels):
    rows = np.arange(5)
    recipe = dataclasses.replace(recipe, fine_tune_epochs=0)
    embeddings = classifier.embed(network, pixels, rows, recipe)
    fitted = classifier.Fitted(network, 1.0, {}, [], rows, np.zeros((5, 2)), None)
    logits, scores = classifier.outputs_of(fitted, embeddings, pixels, rows, recipe)
    whole, whole_scores = classifier.outputs_of(fitted, None, pixels, rows, recipe)
    np.testing.assert_allclose(logits, whole, atol=1e-3)
    np.testing.assert_allclose(scores, whole_scores, rtol=1e-3)


def test_on_a_gpu_keras_describes_the_cells(network, recipe, monkeypatch):
    monkeypatch.setattr(classifier, "computing_devices", lambda: ["gpu NVIDIA H100"])
    assert not hasattr(classifier.features_of(network, recipe), "__self__")


def test_without_an_engine_keras_describes_the_cells(network, recipe, pixels, monkeypatch):
    real = builtins.__import__

    def missing(name, *given, **settings):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *given, **settings)

    expected = classifier.features_of(network, recipe)(pixels[0], 1)
    monkeypatch.setattr(builtins, "__import__", missing)
    found = classifier.features_of(network, recipe)
    assert not hasattr(found, "__self__")
    np.testing.assert_allclose(found(pixels[0], 1), expected, atol=1e-3)


def test_a_size_of_ones_own_is_described_by_keras(recipe):
    """There is no graph of it in the package."""
    other = dataclasses.replace(recipe, input_size=64)
    network = classifier.new_network(other, 2, 0)
    found = classifier.features_of(network, other)(np.zeros((3, 64, 64, 3), np.uint8), 2)
    assert found.shape == (3, 512)


def test_no_cells_have_no_features(network, recipe):
    side = recipe.input_size
    assert classifier.features_of(network, recipe)(np.zeros((0, side, side, 3), np.uint8), 8).shape == (0, 512)
