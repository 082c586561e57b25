"""Networks as files for other programs: each says the same, or is not left."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from leukaemia_zoo import predict
from leukaemia_zoo.engine.golden import golden_cells
from leukaemia_zoo.engine.graphs import TOLERANCE
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import DataError, EngineError, ExportMissingError, UnknownNameError
from leukaemia_zoo.exporting import writing as export_module
from leukaemia_zoo.exporting.writing import export

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"


@pytest.fixture
def tensorflow():
    """TensorFlow, where Keras computes with it."""
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow makes these files, and Keras computes with another backend")
    return pytest.importorskip("tensorflow")


def test_an_export_says_the_same_to_any_program(tmp_path, draw_cell):
    import onnxruntime

    exported = export("mobilenet", tmp_path / "cells.onnx")
    assert exported.difference < TOLERANCE
    assert exported.size == exported.file.stat().st_size
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [128, 128, 3])
    frames = [draw_cell(seed, level=60 + 20 * seed) for seed in range(3)]
    metadata = session.get_modelmeta().custom_metadata_map
    network = Network.load("mobilenet")
    batch = network.zoo.preprocessing.batch(frames).astype(np.float32)
    probabilities, scores = session.run(["probabilities", "ood_score"], {"images": batch})
    expected = predict("mobilenet", frames)
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=TOLERANCE)
    np.testing.assert_allclose(scores, [item.ood_score for item in expected], rtol=1e-3)
    assert json.loads(metadata["classes"]) == ["hem", "all"]
    assert json.loads(metadata["preprocessing"]) == network.zoo.preprocessing.to_dict()
    assert json.loads(metadata["ood_limit"]) == network.zoo.ood_limit
    limits = network.zoo.verdict_limits
    assert json.loads(metadata["verdict_limits"]) == (None if limits is None else limits.to_dict())
    assert metadata["note"].startswith("For research only")


def test_batch_norm_is_folded_into_the_convolutions(tmp_path):
    import onnx

    graph = onnx.load(export("mobilenet", tmp_path / "cells.onnx").file).graph
    kinds = [node.op_type for node in graph.node]
    # One is left, which standardises the statistics.
    assert kinds.count("BatchNormalization") <= 1
    assert {node.domain for node in graph.node} == {""}


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_views_are_inside_an_export(tmp_path, views, draw_cell):
    import onnxruntime

    exported = export("cnn", tmp_path / "cells.onnx", views=views)
    network = Network.load("cnn")
    batch = network.zoo.preprocessing(draw_cell(3, radius=0.3))[None]
    batch[:, :40, :70] = 200  # not symmetric
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    found = session.run(["embeddings"], {"images": batch.astype(np.float32)})[0]
    np.testing.assert_allclose(found, network.embeddings(batch, views=views), atol=1e-3)


def test_a_trained_network_is_exported_as_it_is(tmp_path, draw_cell):
    import onnxruntime

    from leukaemia_zoo import load_model

    model = load_model("cnn", num_classes=1)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 0.5, bias + 0.3])
    exported = export(model, tmp_path / "mine.onnx")
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    batch = model.zoo.preprocessing(draw_cell())[None].astype(np.float32)
    found = session.run(["probabilities"], {"images": batch})[0]
    np.testing.assert_allclose(found, predict(model, draw_cell()).probabilities, atol=TOLERANCE)


def test_a_file_that_differs_is_not_left(tmp_path, monkeypatch):
    def of_another(file, cells):
        return np.tile([0.9, 0.1], (len(cells), 1))

    monkeypatch.setitem(export_module._MAKERS, "onnx", (export_module._to_onnx, of_another))
    with pytest.raises(EngineError, match=r"was not written.* differs by \d"):
        export("cnn", tmp_path / "cells.onnx")
    assert not list(tmp_path.iterdir())


def test_int8_tells_its_difference(tmp_path, draw_cell):
    frames = [draw_cell(seed, level=60 + 4 * seed, radius=0.2 + seed / 400) for seed in range(24)]
    exported = export("cnn", tmp_path / "small.onnx", int8=True, calibration=frames, views=1)
    whole = export("cnn", tmp_path / "whole.onnx", views=1)
    assert exported.cells == 12
    assert 0 < exported.difference < 0.5
    assert exported.size < whole.size / 2


@pytest.fixture(scope="module")
def mobilenet_in_int8(tmp_path_factory):
    """The graph of `mobilenet` for one view, the same in int8, and the cells that it was calibrated on."""
    import onnx

    from leukaemia_zoo.exporting.quantising import quantise

    file = tmp_path_factory.mktemp("int8") / "whole.onnx"
    export("mobilenet", file, views=1)
    whole = onnx.load(file)
    cells = np.concatenate([np.rot90(golden_cells(128, 128)[:2], turns, axes=(1, 2)) for turns in range(4)])
    quantise(file, cells)
    return whole, onnx.load(file), cells


def test_the_first_convolutions_stay_in_floating_point(mobilenet_in_int8):
    _, graph = (each.graph for each in mobilenet_in_int8[:2])
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_int8 = [made_by.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert in_int8 == [False] * 2 + [True] * 15


def test_numbers_are_rounded_behind_the_activation(mobilenet_in_int8):
    from onnx import numpy_helper

    graph = mobilenet_in_int8[1].graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = [float(values[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"]
    # Behind an activation that keeps 0 to 6 no step can be wider; before it they were up to six times as wide.
    assert len(steps) == 16
    assert max(steps) <= 6 / 255 + 1e-6


def test_rounded_weights_leave_the_mean_of_each_channel(mobilenet_in_int8, tmp_path, monkeypatch):
    import onnx
    import onnxruntime

    from leukaemia_zoo.exporting import quantising

    def mean_outputs(model):
        """Of the first convolutions in int8, one plain and one depthwise."""
        names = [node.output[0] for node in model.graph.node if node.op_type == "Conv"][2:4]
        looked = onnx.ModelProto()
        looked.CopyFrom(model)
        looked.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
        )
        session = onnxruntime.InferenceSession(looked.SerializeToString(), providers=["CPUExecutionProvider"])
        return [maps.mean(axis=(0, 2, 3)) for maps in session.run(names, {"images": cells.astype(np.float32)})]

    whole, rounded, cells = mobilenet_in_int8
    monkeypatch.setattr(quantising, "_correct_biases", lambda *args: None)
    onnx.save(whole, tmp_path / "plain.onnx")
    quantising.quantise(tmp_path / "plain.onnx", cells)
    expected, found, plain = map(mean_outputs, (whole, rounded, onnx.load(tmp_path / "plain.onnx")))
    for exact, corrected, uncorrected in zip(expected, found, plain, strict=True):
        error, without = (np.abs(each - exact).mean() for each in (corrected, uncorrected))
        assert error < without / 3


def test_predictions_in_int8_differ_a_little(draw_cell):
    frames = [draw_cell(seed, level=60 + 4 * seed, radius=0.2 + seed / 400) for seed in range(24)]
    found = predict("cnn", frames[1::4], precision="int8", calibration=frames, views=4)
    expected = predict("cnn", frames[1::4], views=4)
    change = np.abs(found.probabilities - expected.probabilities)
    assert 0 < change.max() < 0.2
    scores = [[item.ood_score for item in each] for each in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "int4"}, UnknownNameError, "no precision 'int4'; did you mean int8"),
        ({"precision": "int8"}, DataError, "a folder of cells for its calibration"),
        ({"precision": "int8", "calibration": EXAMPLES}, DataError, "There are 6 images .* give 20"),
    ],
)
def test_mistakes_in_a_precision_are_told(draw_cell, options, error, message):
    with pytest.raises(error, match=message):
        predict("cnn", draw_cell(), **options)


def test_the_command_predicts_in_int8(tmp_path, capsys):
    from leukaemia_zoo.cli.app import main

    cell, table = str(min(EXAMPLES.glob("*.png"))), tmp_path / "cells.csv"
    for number in range(20):
        (tmp_path / "known").mkdir(exist_ok=True)
        (tmp_path / "known" / f"{number}.png").write_bytes(Path(cell).read_bytes())
    options = ["--model", "cnn", "--csv", str(table), "--views", "1", "--precision", "int8"]
    assert main(["predict", cell, *options]) == 2
    assert "folder of cells for its calibration" in capsys.readouterr().err
    assert not table.exists()
    assert main(["predict", cell, *options, "--calibration", str(tmp_path / "known")]) == 0
    assert len(table.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "cells.txt"}, DataError, r"suffix \.onnx"),
        ({"to": "onx"}, UnknownNameError, "did you mean onnx"),
        ({"int8": True}, DataError, "a folder of cells for its calibration"),
        ({"calibration": EXAMPLES}, DataError, "Calibration cells are for int8: ask for that too"),
        ({"int8": True, "calibration": EXAMPLES}, DataError, "There are 6 images .* give 20"),
        ({"views": 3}, DataError, "1, 2, 4 or 8 views, not 3"),
        ({"to": "litert"}, DataError, r"suffix \.tflite"),
        ({"to": "litert", "out": "cells.tflite", "int8": True}, DataError, "int8 is for onnx, openvino, bioimageio"),
        ({"model": "mobilnet"}, UnknownNameError, "did you mean mobilenet"),
    ],
)
def test_mistakes_in_an_export_are_told(tmp_path, options, error, message):
    options = {"model": "cnn", "out": "cells.onnx", **options}
    with pytest.raises(error, match=message):
        export(options.pop("model"), tmp_path / options.pop("out"), **options)
    assert not list(tmp_path.iterdir())


def test_the_command_exports(tmp_path, capsys):
    from leukaemia_zoo.cli.app import main

    assert main(["export", "cnn", "--out", str(tmp_path / "cells.onnx"), "--views", "1"]) == 0
    said = capsys.readouterr().out
    assert "on 3 golden cells it differs from the network by at most" in said
    assert "For research only" in said
    assert main(["export", "cnn", "--out", str(tmp_path / "cells.txt")]) == 2
    assert "suffix .onnx" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["cells.onnx"]


def test_an_export_to_openvino_says_the_same(tmp_path):
    pytest.importorskip("openvino")
    exported = export("cnn", tmp_path / "cells.xml", to="openvino")
    assert exported.difference < TOLERANCE
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cells.bin", "cells.xml"]


# --- SavedModel and LiteRT ---


def test_a_saved_model_says_the_same_of_any_number_of_cells(tmp_path, tensorflow):
    exported = export("cnn_attention", tmp_path / "cells", to="saved_model")
    assert exported.difference < TOLERANCE
    assert exported.size == sum(file.stat().st_size for file in (tmp_path / "cells").rglob("*") if file.is_file())
    network = Network.load("cnn_attention")
    cells = golden_cells(*network.zoo.preprocessing.input_size)
    run = tensorflow.saved_model.load(str(tmp_path / "cells")).signatures["serving_default"]
    found = run(images=tensorflow.constant(cells.astype(np.float32)))
    embeddings = network.embeddings(cells)
    np.testing.assert_allclose(found["probabilities"], network.probabilities(cells), atol=TOLERANCE)
    np.testing.assert_allclose(found["embeddings"], embeddings, atol=2e-3, rtol=1e-5)
    np.testing.assert_allclose(found["ood_score"], network.scores(embeddings), rtol=1e-3)
    about = json.loads((tmp_path / "cells" / "assets.extra" / "leukaemia_zoo.json").read_text(encoding="utf-8"))
    assert json.loads(about["classes"]) == ["hem", "all"]
    assert about["views"] == "4"
    assert about["note"].startswith("For research only")
    with pytest.raises(DataError, match="is there already"):
        export("cnn_attention", tmp_path / "cells", to="saved_model")


def test_a_network_trained_further_becomes_a_file_for_litert(tmp_path, tensorflow):
    from leukaemia_zoo import load_model

    model = load_model("cnn_attention", num_classes=1)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 0.5, bias + 0.3])
    exported = export(model, tmp_path / "mine.tflite", to="litert", views=2)
    assert exported.difference < TOLERANCE
    with zipfile.ZipFile(exported.file) as archive:
        about = json.loads(archive.read("leukaemia_zoo.json"))
    assert about["views"] == "2"
    assert json.loads(about["preprocessing"]) == model.zoo.preprocessing.to_dict()
    cells = golden_cells(*model.zoo.preprocessing.input_size).astype(np.float32)
    signature = tensorflow.lite.Interpreter(str(exported.file)).get_signature_runner()
    found = signature(images=cells)["probabilities"]  # in one batch; the command compares one by one
    from leukaemia_zoo.zoo.outputs import class_probabilities

    expected = class_probabilities(model, dataclasses.replace(model.zoo, views=2), cells)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_other_backends_are_told_what_to_set(tmp_path, monkeypatch):
    import keras

    pytest.importorskip("tensorflow")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportMissingError, match="KERAS_BACKEND=tensorflow"):
        export("cnn", tmp_path / "cells", to="saved_model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "run", "out"), [("litert", "run_litert", "a.tflite"), ("saved_model", "run_saved_model", "a")]
)
def test_what_tensorflow_makes_is_not_left_either_if_it_differs(tmp_path, monkeypatch, tensorflow, to, run, out):
    from leukaemia_zoo.exporting import tensorflow_graph

    monkeypatch.setattr(tensorflow_graph, run, lambda file, cells: np.tile([0.9, 0.1], (len(cells), 1)))
    with pytest.raises(EngineError, match="was not written"):
        export("cnn_attention", tmp_path / out, to=to, views=1)
    assert not list(tmp_path.iterdir())
