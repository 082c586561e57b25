"""`provenance`: where the weights of a network stand before its training."""

import dataclasses
import sys
import urllib.error
from pathlib import Path

import keras
import numpy as np
import pytest

from leukaemia_zoo import read_data, save_model
from leukaemia_zoo.common.files import sha256_of
from leukaemia_zoo.errors import DataError, TensorMismatchError, WeightsError
from leukaemia_zoo.training.classifier import new_network
from leukaemia_zoo.training.distillation import TEACHER_SOURCE
from leukaemia_zoo.training.drawing import preprocessing_for
from leukaemia_zoo.training.provenance import InitialWeights, find_initial_weights, write_initial_weights
from leukaemia_zoo.training.recipes import recipe_for
from leukaemia_zoo.training.records import Sources, provenance
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.registry import ModelConfig
from leukaemia_zoo.zoo.tensors import load_tensors, named_variables, save_tensors

PUBLISHED = {
    "vgg16": ("VGG16", keras.applications.vgg16, 32),
    "resnet50": ("ResNet50", keras.applications.resnet50, 32),
    "inception_v3": ("InceptionV3", keras.applications.inception_v3, 96),
    "xception": ("Xception", keras.applications.xception, 71),
    "mobilenet": ("MobileNet", keras.applications.mobilenet, 32),
}
EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"


@pytest.fixture
def download(monkeypatch):
    """A function that says what Keras' download gives: a file, or an error that is raised."""
    module = sys.modules[keras.utils.get_file.__module__]

    def set_result(result):
        def get_file(*args, **kwargs):
            if isinstance(result, Exception):
                raise result
            return str(result)

        monkeypatch.setattr(module, "get_file", get_file)

    return set_result


def _published(name, folder):
    """One of Keras' networks with weights that differ in every tensor, and its file."""
    keras.utils.set_random_seed(5)
    network = getattr(keras.applications, PUBLISHED[name][0])(include_top=False, weights=None)
    rng = np.random.default_rng(5)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            low, high = 0.8, 1.2
            layer.set_weights([rng.uniform(low, high, value.shape) for value in layer.get_weights()])
    file = folder / "published.weights.h5"
    network.save_weights(file)
    return network, file


@pytest.mark.parametrize(
    "name", [name if name == "vgg16" else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_imagenet_weights_give_the_features_of_the_published_network(name, download, tmp_path):
    network, file = _published(name, tmp_path)
    download(file)
    _, module, size = PUBLISHED[name]
    recipe = recipe_for(name, {"input_size": size})
    lines = []
    initial = find_initial_weights("imagenet", name, None)
    made = write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", lines.append)
    assert lines == [f"weights: ImageNet, keras.applications {PUBLISHED[name][0]}, sha256 {made.sha256}"]
    model = new_network(recipe, 2, 1)
    load_tensors(model, made.file, without_head=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    last = "conv_pw_8_relu" if name == "mobilenet" else network.layers[-1].name
    ours = np.asarray(keras.Model(model.inputs, model.get_layer(last).output)(pixels))
    published = keras.Model(network.inputs, network.get_layer(last).output)
    theirs = np.asarray(published(module.preprocess_input(pixels.copy())))
    assert np.ptp(theirs) > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_imagenet_weights_are_named_in_the_record(download, tmp_path):
    _, file = _published("vgg16", tmp_path)
    download(file)
    recipe = recipe_for("vgg16", {"input_size": 32})
    initial = find_initial_weights("imagenet", "vgg16", None)
    made = write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    assert len(made.sha256) == 64
    # What the same run left is kept: an interrupted one does not fetch it again.
    download(urllib.error.URLError("no network"))
    again = write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    assert again == made
    with pytest.raises(WeightsError, match="could not fetch"):
        write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "another run", str.strip)
    cells = read_data(EXAMPLES)
    record = provenance(recipe, cells, 0, Sources(None, None, None, made), made.file)
    assert record["init"] == {"source": "ImageNet, keras.applications VGG16", "sha256": made.sha256}
    assert record["distillation"] is None
    (row,) = [row for row in record["data"] if row["name"] == "ImageNet"]
    assert row["source"].startswith("weights of keras.applications VGG16")
    assert row["licence"] == "CC BY 4.0"
    assert TEACHER_SOURCE not in [row["source"] for row in record["data"]]


def test_without_a_network_the_mend_is_told(download, tmp_path):
    download(Exception("URL fetch failure on https://storage"))
    initial = find_initial_weights("imagenet", "mobilenet", None)
    recipe = recipe_for("mobilenet", {"input_size": 32})
    with pytest.raises(WeightsError, match=r"ImageNet weights of MobileNet \(URL fetch.*--init FILE"):
        write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    assert not list(tmp_path.iterdir())


def test_random_weights_are_the_default(tmp_path):
    lines = []
    for init in (None, "none"):
        initial = find_initial_weights(init, "cnn", None)
        assert initial == InitialWeights()
        assert initial.to_dict() == "random"
        made = write_initial_weights(initial, recipe_for("cnn"), 7, tmp_path / "x.safetensors", "run", lines.append)
        assert made.file is None
    assert lines == ["weights: random from seed 7"] * 2
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a saved `cnn_attention` with the head `texture` at 40 pixels, and its recipe."""
    recipe = recipe_for("cnn_attention", {"input_size": 40})
    model = new_network(recipe, 2, 9)
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "texture", preprocessing_for(recipe))
    folder = tmp_path_factory.mktemp("models") / "mine"
    save_model(model, folder, data=({"name": "Our cells", "source": "Us 2026", "licence": "CC0"},))
    return folder, recipe


@pytest.mark.parametrize("way", ["folder", "file", "bare file", "trunk"])
def test_weights_of_this_package_are_taken_but_for_the_head(saved, tmp_path, way):
    folder, recipe = saved
    file = folder / "model.safetensors"
    given = {"folder": folder, "file": file, "bare file": tmp_path / "copy.safetensors"}.get(
        way, tmp_path / "t.safetensors"
    )
    if way == "bare file":
        given.write_bytes(file.read_bytes())
    if way == "trunk":
        theirs = new_network(recipe, 2, 9)
        load_tensors(theirs, file)
        save_tensors(theirs, given, config={"distillation": {"recipe": {}, "init": {"data": [{"name": "ImageNet"}]}}})
    initial = find_initial_weights(given, "cnn_attention", None)
    made = write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    assert made.sha256 == sha256_of(given if given.is_file() else file)
    source = {"folder": "mine", "file": "mine/model.safetensors"}.get(way, given.name)
    assert made.to_dict() == {"source": source, "sha256": made.sha256}
    first = {"bare file": "copy.safetensors", "trunk": "ImageNet"}.get(way, "Our cells")
    assert made.data[0]["name"] == first
    begun, theirs, fresh = new_network(recipe, 2, 0), new_network(recipe, 2, 9), new_network(recipe, 2, 0)
    load_tensors(begun, made.file)
    load_tensors(theirs, file)
    values = [{key: np.asarray(value) for key, value in named_variables(m).items()} for m in (begun, theirs, fresh)]
    for key, value in values[0].items():
        np.testing.assert_array_equal(value, values[2 if key.startswith("logits/") else 1][key], err_msg=key)
    assert not np.array_equal(values[1]["logits/kernel"], values[2]["logits/kernel"])


def test_a_weight_of_the_zoo_is_named_and_its_people_are_known():
    from leukaemia_zoo.zoo.registry import packaged_file, weights

    spec = weights()["cnn_attention.cnmc"]
    if not packaged_file(spec).is_file():
        pytest.skip("the pretrained weights are not in this package")
    initial = find_initial_weights("cnn_attention.cnmc", "cnn_attention", None)
    manifest = spec.training["manifest_sha256"]
    assert initial.to_dict() == {"source": "cnn_attention.cnmc", "sha256": spec.sha256, "manifest_sha256": manifest}
    assert {is_cnmc for is_cnmc, _ in initial.trained_on.people} == {True}
    assert "C-NMC 2019" in [row["name"] for row in initial.data]


def test_a_damaged_file_of_arrays_is_told(tmp_path):
    file = tmp_path / "mobilenet.npz"
    np.savez_compressed(file, **{"conv1/kernel": np.ones((3, 3, 3, 32), np.float32)})
    whole = file.read_bytes()
    recipe = recipe_for("mobilenet", {"input_size": 40, "distillation": None})
    for content, told in (
        (whole[: len(whole) // 2], "cannot be read"),
        (b"PK", "cannot be read"),
        (whole, "lack 'conv1_bn"),
    ):
        file.write_bytes(content)
        initial = find_initial_weights(file, "mobilenet", None)
        with pytest.raises(WeightsError, match=rf"The initial weights .*mobilenet\.npz {told}"):
            write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)


def test_efficientnet_lite0_begins_with_its_authors_arrays(tmp_path):
    """Its ImageNet weights are no download of Keras: a file of arrays by the names of the layers, and another head."""
    recipe = recipe_for("efficientnet_lite0.pbc", {"input_size": 32})
    published = new_network(dataclasses.replace(recipe, head="pooled"), 5, seed=3)
    arrays = {
        name: np.asarray(variable) for name, variable in named_variables(published).items() if "logits" not in name
    }
    file = tmp_path / "arrays.npz"
    np.savez(file, **arrays)
    initial = find_initial_weights(file, "efficientnet_lite0", None)
    assert [row["source"] for row in initial.data] == [
        "weights of EfficientNet-lite0 by its authors, Tan and Le 2019, doi 10.48550/arXiv.1905.11946"
    ]
    made = write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    model = new_network(recipe, 8, 1)
    load_tensors(model, made.file, without_head=True)
    found = named_variables(model)
    own = {name for name in found if name.startswith(("statistics", "logits"))}
    assert set(arrays) > set(found) - own
    for name in set(found) - own:
        np.testing.assert_array_equal(np.asarray(found[name]), arrays[name])
    with pytest.raises(DataError, match="no ImageNet weights for 'efficientnet_lite0'"):
        find_initial_weights("imagenet", "efficientnet_lite0", None)


def test_what_cannot_be_begun_with_is_said(saved, tmp_path):
    folder, recipe = saved
    with pytest.raises(DataError, match="no ImageNet weights for 'cnn_attention'"):
        find_initial_weights("imagenet", "cnn_attention", None)
    with pytest.raises(DataError, match="A trunk replaces every weight"):
        find_initial_weights("imagenet", "resnet50", "distilled.safetensors")
    with pytest.raises(DataError, match="is a weight of 'cnn_attention', not of 'cnn'"):
        find_initial_weights(folder, "cnn", None)
    with pytest.raises(WeightsError, match=r"There is no weight file missing\.safetensors"):
        find_initial_weights("missing.safetensors", "cnn", None)
    with pytest.raises(WeightsError, match="no saved model"):
        find_initial_weights(tmp_path, "cnn", None)
    initial = find_initial_weights(folder, "cnn_attention", None)
    flat = dataclasses.replace(recipe, head="flatten")
    with pytest.raises(TensorMismatchError, match=r"does not belong|is missing"):
        write_initial_weights(initial, flat, 0, tmp_path / "initial.safetensors", "run", str.strip)
    save_tensors(build_model("cnn", head="texture"), tmp_path / "cnn.safetensors")
    initial = find_initial_weights(tmp_path / "cnn.safetensors", "cnn_attention", None)
    with pytest.raises(TensorMismatchError):
        write_initial_weights(initial, recipe, 0, tmp_path / "initial.safetensors", "run", str.strip)
    assert not (tmp_path / "initial.safetensors").exists()


@pytest.mark.parametrize(
    ("teacher", "named"),
    [("mobilenet.pbc", "PBC, normal peripheral blood cells"), ("keras.applications, imagenet", "teacher")],
)
def test_the_data_of_a_trunk_that_is_given_are_those_of_its_own_teacher(teacher, named, tmp_path):
    recipe = recipe_for("cnn_attention", {"input_size": 48})
    trunk = tmp_path / "distilled.safetensors"
    header = {"teacher": {"network": "mobilenet", "weights": teacher}, "unlabelled": "PBC", "images": 8, "seen": {}}
    save_tensors(new_network(recipe, 2, 0), trunk, {"distillation": header})
    record = provenance(recipe, read_data(EXAMPLES), 0, Sources("imagenet", None, trunk, InitialWeights()), trunk)
    assert record["distillation"]["teacher"]["weights"] == teacher
    assert [row["name"] for row in record["data"]].count(named) == 1
    assert (TEACHER_SOURCE in [row["source"] for row in record["data"]]) == (named == "teacher")
