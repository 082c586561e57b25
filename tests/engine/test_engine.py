"""Prediction without Keras: the graphs, the engine that runs them, and their export."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import predict
from leukaemia_zoo.cells import read_image
from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.common.files import cache_folder
from leukaemia_zoo.engine import graphs, stream
from leukaemia_zoo.engine.classifier import Classifier
from leukaemia_zoo.engine.golden import golden_cells
from leukaemia_zoo.engine.graphs import TOLERANCE, graph_name
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import (
    ArchitectureError,
    EngineError,
    ImageError,
    IntegrityError,
    TensorMismatchError,
    WeightsError,
)
from leukaemia_zoo.prediction import ood_scores
from leukaemia_zoo.prediction.features import embed
from leukaemia_zoo.zoo import registry
from leukaemia_zoo.zoo.sources import find

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"
CELL = min(EXAMPLES.glob("*.png"))
SMALL = [name for name, spec in sorted(registry.weights().items()) if registry.packaged_file(spec).is_file()]
LARGE = sorted(set(registry.weights()) - set(SMALL))
EVERY = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
BACKENDS = {"keras", "tensorflow", "jax", "torch", "onnx"}


def skip_outside_a_checkout(name):
    if name in LARGE and not registry.checkout_file(registry.weights()[name]).parent.is_dir():
        pytest.skip("the large weights are not in the source archive")


def index_of_graphs():
    """What lies beside the graphs of the package: their hashes, and what Keras said of the golden cells."""
    return json.loads((graphs._packaged_folder() / graphs.INDEX_FILE).read_text())


def golden_probabilities(name):
    """What Keras said of the golden cells with the present weight."""
    row = index_of_graphs()["golden"].get(name)
    assert row is not None, "run: python tools/make_graphs.py"
    assert row["sha256"] == registry.weights()[name].sha256, "run: python tools/make_graphs.py"
    return row["probabilities"]


def run_python(code, **environment):
    """What a fresh interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- no Keras ---


@pytest.mark.parametrize(
    "work",
    [
        "import leukaemia_zoo as lz; assert not lz.predict('mobilenet', cell).errors",
        "import leukaemia_zoo as lz; lz.embed('cnn', cell); lz.prediction.ood_scores('cnn', cell)",
        "from leukaemia_zoo.cli.app import main; assert main(['predict', cell, '--model', 'cnn']) == 0",
        "from leukaemia_zoo.cli.app import main; assert main(['probe', 'cnn', '--data', folder]) == 0",
    ],
    ids=["predict", "embed and ood_scores", "command", "probe"],
)
def test_no_backend_is_imported(work, draw_cell, tmp_path):
    for number in range(12):
        place = tmp_path / "cells" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_cell(number, 80)).save(place / f"{number}.png")
    names = f"cell, folder = {str(CELL)!r}, {str(tmp_path / 'cells')!r}"
    code = f"import json, sys; {names}\n{work}\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    # A backend that cannot be imported would do as well as one that is not asked for; here it is there and is not.
    assert not BACKENDS & set(run_python(code, XDG_CACHE_HOME=str(tmp_path)))


def test_one_cell_does_not_wait_for_a_progress_bar():
    cell = str(CELL)
    code = (
        "import json, sys; from leukaemia_zoo.cli.app import main\n"
        f"assert main(['predict', {cell!r}, '--model', 'cnn']) == 0\n"
        "print(); print(json.dumps('tqdm' in sys.modules))"
    )
    assert run_python(code) is False


def test_predicts_where_neither_keras_nor_tensorflow_is_installed():
    cell = str(CELL)
    code = (
        "import json, sys\n"
        f"for name in {sorted(BACKENDS)!r}: sys.modules[name] = None\n"  # import then fails as if it were not installed
        f"import leukaemia_zoo as lz; print(json.dumps(lz.predict('cnn', {cell!r})[0].to_dict()))"
    )
    assert run_python(code)["label"] in ("hem", "all")


# --- the same verdicts as Keras ---


@pytest.mark.parametrize("name", EVERY)
def test_golden_cells_are_judged_as_keras_judged_them(name):
    skip_outside_a_checkout(name)
    network = Network.load(name)
    expected = golden_probabilities(name)
    cells = golden_cells(*network.zoo.preprocessing.input_size)
    np.testing.assert_allclose(network.probabilities(cells), expected, atol=TOLERANCE)


@pytest.mark.graphs
@pytest.mark.parametrize("name", SMALL)
def test_a_name_and_its_keras_model_say_the_same(name, draw_cell):
    from leukaemia_zoo import load_model

    model, frames = load_model(name), [draw_cell(seed, level=60 + 30 * seed) for seed in range(3)]
    by_engine, by_keras = predict(name, frames), predict(model, frames)
    np.testing.assert_allclose(by_engine.probabilities, by_keras.probabilities, atol=TOLERANCE)
    assert [item.label for item in by_engine] == [item.label for item in by_keras]
    assert [item.unfamiliar for item in by_engine] == [item.unfamiliar for item in by_keras]
    scores = [item.ood_score for item in by_keras]
    np.testing.assert_allclose([item.ood_score for item in by_engine], scores, rtol=1e-3)
    np.testing.assert_allclose(ood_scores(name, frames), scores, rtol=1e-3)
    np.testing.assert_allclose(embed(name, frames), embed(model, frames), atol=2e-3)
    expected = golden_probabilities(name)
    from leukaemia_zoo.zoo.outputs import class_probabilities

    cells = golden_cells(*model.zoo.preprocessing.input_size)
    np.testing.assert_allclose(class_probabilities(model, model.zoo, cells), expected, atol=1e-5)


def test_real_cells_are_judged_as_by_keras(shared_data):
    from leukaemia_zoo import load_model

    files = sorted((shared_data / "cnmc" / "training_data" / "fold_0").rglob("*.webp"))[::400]
    found, expected = predict("mobilenet", files), predict(load_model("mobilenet"), files)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=TOLERANCE)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A saved `cnn` of 48 pixels, three classes and random weights, and an empty cache."""
    from leukaemia_zoo import Preprocessing, save_model
    from leukaemia_zoo.zoo import ModelConfig, build_model

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = build_model("cnn", num_classes=3, input_size=48, head="texture")
    model.zoo = ModelConfig("cnn", ("a", "b", "c"), "texture", Preprocessing((48, 48)), views=4)
    save_model(model, tmp_path / "own")
    return tmp_path / "own"


def test_a_model_of_another_size_gets_its_graph_once(own_folder, draw_cell, monkeypatch):
    from leukaemia_zoo import load_model

    frames = [draw_cell(seed) for seed in range(2)]
    expected = predict(load_model(own_folder), frames).probabilities
    np.testing.assert_allclose(predict(own_folder, frames).probabilities, expected, atol=TOLERANCE)
    (kept,) = cache_folder("graphs").iterdir()
    assert kept.name == f"cnn.texture.48x48.{hashlib.sha256(kept.read_bytes()).hexdigest()}.onnx"
    # From now on Keras is not asked; a damaged graph is.
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    np.testing.assert_allclose(predict(own_folder, frames).probabilities, expected, atol=TOLERANCE)
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"48x48 pixels .* keras and onnx must be installed: `pip"):
        predict(own_folder, frames)


@pytest.mark.parametrize("classes", [1, 2])
def test_one_unit_is_the_second_of_two_classes(classes):
    rng = np.random.default_rng(0)
    kernel, bias, embeddings = rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=(4, 5))
    expected = Classifier(kernel, bias).probabilities(embeddings)
    one = Classifier(kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1])
    np.testing.assert_allclose(one.probabilities(embeddings), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1)


def test_every_kind_of_layer_becomes_the_same_operation(tmp_path):
    import keras
    from keras import layers

    from leukaemia_zoo import Preprocessing, save_model
    from leukaemia_zoo.zoo import ModelConfig, register_architecture
    from leukaemia_zoo.zoo.architectures import build_model

    def build(images):
        x = layers.Rescaling([1 / 255, 1 / 200, 1 / 100], offset=[-1.0, 0.0, 0.5], name="scale")(
            keras.ops.flip(images, axis=-1)
        )
        x = layers.ZeroPadding2D(((0, 1), (2, 1)), name="pad")(x)
        x = layers.SeparableConv2D(6, 3, strides=2, padding="same", activation="elu", name="separable")(x)
        x = layers.BatchNormalization(scale=False, name="norm")(x)
        x = layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2, name="depthwise")(x)
        x = layers.ReLU(6.0, name="relu6")(x)
        y = layers.Conv2D(12, 3, padding="same", groups=3, activation="tanh", name="groups")(x)
        x = layers.Multiply(name="gate")([layers.Add(name="sum")([x, y]), layers.Activation("sigmoid", name="s")(y)])
        x = layers.MaxPooling2D(3, 2, padding="same", name="largest")(x)
        x = layers.AveragePooling2D(2, padding="same", name="average")(x)
        x = layers.SpatialDropout2D(0.5, name="dropped")(layers.Cropping2D(((1, 0), (0, 1)), name="cropped")(x))
        pooled = layers.GlobalMaxPooling2D(name="pooled")(x)
        flat = layers.Dense(7, activation="relu", name="dense")(layers.Flatten(name="flat")(x))
        return layers.Concatenate(name="both")([pooled, flat])

    register_architecture("every_kind", build, input_size=(33, 40))
    model = build_model("every_kind", num_classes=3)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.4, weight.shape) for weight in model.get_weights()])
    model.zoo = ModelConfig("every_kind", ("a", "b", "c"), "own", Preprocessing((33, 40)))
    save_model(model, tmp_path / "model")
    batch = rng.integers(0, 256, (3, 33, 40, 3)).astype(np.uint8)
    expected = keras.Model(model.inputs, model.get_layer("embedding").output).predict_on_batch(batch)
    found = Network.load(tmp_path / "model").embeddings(batch)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_nobody_knows_is_named(tmp_path):
    from keras import layers

    from leukaemia_zoo.engine.tracing import trace
    from leukaemia_zoo.zoo import build_model, register_architecture

    def build(images):
        return layers.GlobalAveragePooling2D(name="pool")(layers.UnitNormalization(name="odd_one")(images))

    register_architecture("odd", build, input_size=32)
    with pytest.raises(ArchitectureError, match=r"'odd_one'.*UnitNormalization"):
        trace(build_model("odd"))


def test_keras_judges_what_no_graph_can_be_made_of(tmp_path, draw_cell):
    from keras import layers

    from leukaemia_zoo import Preprocessing, load_model, save_model
    from leukaemia_zoo.zoo import ModelConfig, build_model, register_architecture

    def build(images):
        x = layers.Conv2D(4, 3, activation="gelu", name="conv")(layers.Rescaling(1 / 255, name="scale")(images))
        return layers.GlobalAveragePooling2D(name="pool")(x)

    register_architecture("odd", build, input_size=32)
    model = build_model("odd")
    model.zoo = ModelConfig("odd", ("hem", "all"), "own", Preprocessing((32, 32)))
    save_model(model, tmp_path / "odd")
    with pytest.raises(EngineError, match="gelu"):
        Network.load(tmp_path / "odd")
    found, expected = predict(tmp_path / "odd", draw_cell()), predict(load_model(tmp_path / "odd"), draw_cell())
    np.testing.assert_allclose(found.probabilities, expected.probabilities)


# --- files that are not what they should be ---


def test_a_damaged_graph_is_refused(monkeypatch, tmp_path):
    folder = graphs._packaged_folder()
    name = graph_name(registry.model_info("cnn").weight.config)
    (tmp_path / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes() + b"\0")
    graphs._index()  # the real one is kept
    monkeypatch.setattr(graphs, "_packaged_folder", lambda: tmp_path)
    with pytest.raises(IntegrityError, match="install leukaemia-zoo again"):
        Network.load("cnn")


def test_every_graph_in_the_package_is_the_one_in_the_index():
    index = index_of_graphs()
    files = {file.stem: file for file in graphs._packaged_folder().glob("*.onnx")}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == index["graphs"]
    assert {graph_name(spec.config) for spec in registry.weights().values()} == set(files)
    assert {name: row["sha256"] for name, row in index["golden"].items()} == {
        name: spec.sha256 for name, spec in registry.weights().items()
    }


def changed_tensors(tmp_path, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(find("cnn").file)
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: t.pop("block1_conv/bias"), TensorMismatchError),
        (lambda t: t.update(other=np.zeros(3, np.float32)), TensorMismatchError),
        (lambda t: t.update({"block1_conv/bias": np.zeros(5, np.float32)}), TensorMismatchError),
        (lambda t: t.update({"block1_conv/bias": np.zeros(32, np.float64)}), TensorMismatchError),
        (lambda t: t.pop("logits/bias"), TensorMismatchError),
        (lambda t: t.update({"logits/bias": np.zeros(4, np.float32)}), TensorMismatchError),
        (lambda t: t.update({"block1_conv/bias": np.full(32, np.nan, np.float32)}), WeightsError),
    ],
    ids=["missing", "left over", "shape", "dtype", "no head", "classes", "nan"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, error):
    found = find("cnn")
    graph = graphs.find_graph(found.spec.config, found.file)
    with pytest.raises(error, match=r"changed\.safetensors"):
        Network(found.spec.config, changed_tensors(tmp_path, change), graph)


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ArchitectureError, match=r"\(N, 128, 128, 3\), not \(1, 64, 64, 3\)"):
        Network.load("cnn").embeddings(np.zeros((1, 64, 64, 3), np.uint8))


# --- streams ---


def test_a_bad_file_has_its_place_in_the_order(draw_cell, tmp_path):
    for number in range(9):
        Image.fromarray(draw_cell(number, level=60 + 15 * number)).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_text("no image")
    found = predict("cnn", [tmp_path / f"{number}.png" for number in range(9)])
    assert [item.error is None for item in found] == [number != 4 for number in range(9)]
    alone = [predict("cnn", tmp_path / f"{number}.png")[0].probabilities for number in (0, 5, 8)]
    np.testing.assert_allclose([found[number].probabilities for number in (0, 5, 8)], alone, atol=1e-6)
    with pytest.raises(ImageError, match=r"4\.png"):
        predict("cnn", tmp_path, errors="raise")


def test_nothing_is_judged_of_nothing():
    assert len(predict("cnn", [])) == 0
    assert embed("cnn", []).shape == (0, 512)
    assert ood_scores("cnn", []).shape == (0,)


def test_no_more_than_a_few_are_begun_ahead():
    begun, done = threading.Semaphore(0), []

    def work(item):
        begun.release()
        return item

    def items():
        for number in range(100):
            # What was begun and not yet handed out; begun is counted when an item is taken.
            assert number - len(done) <= 5
            yield number

    with ThreadPoolExecutor(2) as pool:
        for result in stream.ordered(work, items(), pool, ahead=5):
            done.append(result)
    assert done == list(range(100))


def test_images_that_are_taken_together_are_judged_as_alone(draw_cell):
    network = Network.load("cnn")
    frames = [draw_cell(seed) for seed in range(3)]
    black = np.zeros((64, 64, 3), np.uint8)
    kinds = [0, black, 1, 2, 0, black, black] * 3 + [1]
    items = [(frames[kind] if isinstance(kind, int) else kind, f"cell {n}", n) for n, kind in enumerate(kinds)]
    alone = network.embeddings(network.zoo.preprocessing.batch(frames))
    found = list(stream.embedding_stream(network, items, threads=2))
    assert [number for (_, _, number), _ in found] == list(range(len(items)))
    for kind, (item, embedding) in zip(kinds, found, strict=True):
        if isinstance(kind, int):
            np.testing.assert_allclose(embedding, alone[kind], atol=1e-4)
        else:
            assert item[1] in str(embedding)
    strict = stream.embedding_stream(network, items, threads=2, raise_errors=True)
    assert next(strict)[0][1] == "cell 0"
    with pytest.raises(ImageError, match="cell 1 "):
        next(strict)


def test_views_can_be_fewer(draw_cell):
    network = Network.load("cnn")
    batch = network.zoo.preprocessing(draw_cell())[None]
    four = np.mean([network.embeddings(view, views=1) for view in symmetric_views(batch, 4)], axis=0)
    np.testing.assert_allclose(network.embeddings(batch), four, atol=1e-4)
    assert np.abs(network.embeddings(batch, views=1) - four).max() > 1e-3


def test_the_cell_in_a_folder_is_the_cell_in_an_array():
    (from_file,), (from_array,) = predict("cnn", CELL), predict("cnn", read_image(CELL))
    assert dataclasses.replace(from_file, path="images[0]", subject=None) == from_array
