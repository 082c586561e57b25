"""From a name or a folder to a network, and what is refused on the way; and the registry."""

import dataclasses
import json
import os
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_outputs import cells, set_fixed_weights
from safetensors.numpy import load, save

from leukaemia_zoo import Preprocessing, embed, fine_tune, load_model, predict, save_model
from leukaemia_zoo.cells import read_image
from leukaemia_zoo.common import files
from leukaemia_zoo.common.files import sha256_of
from leukaemia_zoo.engine.graphs import TOLERANCE
from leukaemia_zoo.errors import (
    ArchitectureError,
    IntegrityError,
    LeukaemiaZooError,
    TensorMismatchError,
    UnknownNameError,
    WeightsError,
)
from leukaemia_zoo.prediction import attention_maps, iter_predictions, ood_scores
from leukaemia_zoo.zoo import ModelConfig, build_model, register_architecture, registry, save_pretrained, sources
from leukaemia_zoo.zoo.architectures import with_output
from leukaemia_zoo.zoo.loading import config_of
from leukaemia_zoo.zoo.registry import ARCHITECTURES, WeightSpec, list_models, model_info, packaged_file
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, find, read_saved
from leukaemia_zoo.zoo.tensors import named_variables

SHIPPED = sorted(registry.weights())
ROOT = Path(__file__).parents[2]
SMALL = [name for name in SHIPPED if packaged_file(registry.weights()[name]).is_file()]
LARGE = sorted(set(SHIPPED) - set(SMALL))


def skip_outside_a_checkout(name):
    if name in LARGE and not (ROOT / "weights").is_dir():
        pytest.skip("the large weights are not in the source archive")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the saved tiny model, to damage."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit(folder, *path, value):
    """Set one value in the config.json of a saved model; `...` removes it."""
    data = json.loads((folder / CONFIG_FILE).read_text())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (folder / CONFIG_FILE).write_text(json.dumps(data))


def forget_configuration(folder):
    """Leave only the tensors in the weight file, as of a model whose description alone says what it is."""
    content = save(load((folder / WEIGHTS_FILE).read_bytes()))
    (folder / WEIGHTS_FILE).write_bytes(content)
    edit(folder, "size", value=len(content))
    edit(folder, "sha256", value=sha256_of(folder / WEIGHTS_FILE))


def probabilities(model, count=4):
    return model.predict_on_batch(cells(count, model.input_shape[1]))


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 600
    return text


# --- saving and loading ---


@pytest.mark.graphs
@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tiny_model, tmp_path, half):
    spec = save_model(tiny_model, tmp_path / "new" / "model", half=half, licence="CC0", citation="nobody")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    model = load_model(tmp_path / "new" / "model")
    np.testing.assert_allclose(probabilities(model), probabilities(tiny_model), atol=2e-2 if half else 0)
    assert model.zoo == tiny_model.zoo
    assert model.name == "cnn_attention"
    assert (spec.name, spec.licence, spec.citation) == ("cnn_attention.custom", "CC0", "nobody")
    assert spec.parameters == model.count_params()
    assert read_saved(tmp_path / "new" / "model") == (spec, tmp_path / "new" / "model" / WEIGHTS_FILE)
    assert spec.sha256 == sha256_of(tmp_path / "new" / "model" / WEIGHTS_FILE)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_model_by_path(tiny_folder, tiny_model, kind):
    expected = probabilities(tiny_model)
    assert np.array_equal(probabilities(load_model(kind(tiny_folder))), expected)
    for weights in (tiny_folder, tiny_folder / WEIGHTS_FILE):
        assert np.array_equal(probabilities(load_model("cnn_attention", weights=kind(weights))), expected)


def test_a_relative_path(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    for name in (tiny_folder.name, f"./{tiny_folder.name}"):
        assert load_model(name).input_shape == (None, 32, 32, 3)


def test_outputs(tiny_folder):
    model, logits, embeddings = (
        load_model(tiny_folder, output=output) for output in ("probabilities", "logits", "embeddings")
    )
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(probabilities(embeddings) @ kernel + bias, probabilities(logits), atol=1e-4)
    assert (probabilities(logits).argmax(1) == probabilities(model).argmax(1)).all()
    assert logits.zoo == embeddings.zoo == model.zoo
    with pytest.raises(UnknownNameError, match="There is no output 'logit'"):
        load_model("cnn", weights=None, output="logit")


def test_the_architecture_as_published():
    model = load_model("cnn_attention", weights=None, num_classes=1)
    assert model.count_params() == 192_930
    assert model.zoo.class_names == ("hem", "all")
    assert model.zoo.preprocessing == Preprocessing((100, 100))
    assert model.zoo.head == "flatten"
    assert not np.array_equal(probabilities(model), probabilities(load_model("cnn_attention", weights=None)))
    many = load_model("cnn", weights=None, num_classes=3)
    assert many.zoo.class_names == ("class_0", "class_1", "class_2")
    named = load_model("cnn", weights=None, num_classes=3, class_names=["a", "b", "c"])
    assert named.zoo.class_names == ("a", "b", "c")
    assert named.output_shape == (None, 3)


@pytest.mark.parametrize("units", [1, 2, 3])
def test_any_head_can_be_saved_and_loaded(tmp_path, units):
    model = set_fixed_weights(load_model("cnn_attention", weights=None, num_classes=units))
    save_model(model, tmp_path)
    copy = load_model(tmp_path)
    assert copy.output_shape == (None, units)
    assert copy.zoo.class_names == model.zoo.class_names
    assert np.array_equal(probabilities(copy), probabilities(model))


# --- the number of classes ---


def test_one_unit_is_the_last_class(tiny_folder):
    two, one = load_model(tiny_folder), load_model(tiny_folder, num_classes=1)
    assert one.output_shape == (None, 1)
    assert one.zoo.class_names == ("hem", "all")
    expected = probabilities(two, 8)
    np.testing.assert_allclose(probabilities(one, 8)[:, 0], expected[:, 1], atol=1e-6)
    assert np.ptp(expected[:, 1]) > 0.01


def test_one_unit_can_be_saved_and_unfolded(tiny_folder, tmp_path):
    save_model(load_model(tiny_folder, num_classes=1), tmp_path)
    expected = probabilities(load_model(tiny_folder))
    np.testing.assert_allclose(probabilities(load_model(tmp_path, num_classes=2)), expected, atol=1e-6)
    np.testing.assert_allclose(probabilities(load_model(tmp_path, num_classes=1))[:, 0], expected[:, 1], atol=1e-6)


def test_another_number_of_classes_replaces_the_head(tiny_folder, tiny_model):
    with pytest.warns(UserWarning, match=r"2 classes\) was replaced .* for 8: train it before use"):
        model = load_model(tiny_folder, num_classes=8)
    assert model.output_shape == (None, 8)
    assert model.zoo.class_names == tuple(f"class_{number}" for number in range(8))
    images = cells(2, 32)
    for layer in ("block3_pool", "attention", "embedding"):
        ours, theirs = (
            with_output(m, "embeddings") if layer == "embedding" else m.__class__(m.inputs, m.get_layer(layer).output)
            for m in (model, tiny_model)
        )
        assert np.array_equal(ours.predict_on_batch(images), theirs.predict_on_batch(images))


def test_names_of_a_replaced_head(tiny_folder):
    with pytest.warns(UserWarning, match="for 3"):
        assert load_model(tiny_folder, num_classes=3, class_names=("a", "b", "c")).zoo.class_names == ("a", "b", "c")


def test_the_own_number_of_classes_warns_of_nothing(tiny_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for classes in (None, 2, 1):
            load_model(tiny_folder, num_classes=classes, class_names=("hem", "all"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 8, "class_names": ("a", "b")}, "2 class names for 8 classes"),
        ({"num_classes": 3, "class_names": ("a", "b", "b")}, "must differ"),
        ({"class_names": ("all", "hem")}, r"\['hem', 'all'\], not \['all', 'hem'\]"),
        ({"num_classes": 1, "class_names": ("a", "b")}, "can name only"),
        ({"weights": None, "num_classes": 3, "class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"weights": None, "num_classes": 2, "class_names": ("a", "a")}, "must differ"),
        *(
            ({"weights": weights, "num_classes": wrong}, "one class or more")
            for weights in ("default", None)
            for wrong in (0, -1, 2.5, "3")
        ),
    ],
)
def test_wrong_classes(tiny_folder, options, words):
    name = "cnn" if options.get("weights", "default") is None else tiny_folder
    with pytest.raises(ArchitectureError, match=words):
        load_model(name, **options)


# --- names ---


@pytest.mark.parametrize(
    ("name", "near"),
    [("cnn_atention", "cnn_attention"), ("RESNET50", "resnet50"), ("inceptionv3", "inception_v3"), ("vgg", "vgg16")],
)
def test_an_unknown_name_raises_with_close_matches(name, near):
    for call in (load_model, model_info, lambda name: load_model(name, weights=None), build_model):
        with pytest.raises(UnknownNameError, match=f"'{name}'.* did you mean .*{near}"):
            call(name)


def test_an_unknown_name_far_from_all_raises_with_all():
    with pytest.raises(UnknownNameError) as caught:
        load_model("transformer")
    assert all(name in str(caught.value) for name in ARCHITECTURES)


@pytest.fixture
def bare_vgg16(monkeypatch):
    """VGG16 as an architecture that nobody has trained yet."""
    spec = dataclasses.replace(registry.ARCHITECTURES["vgg16"], default_weight=None)
    monkeypatch.setitem(registry.ARCHITECTURES, "vgg16", spec)


def test_an_architecture_without_weights(bare_vgg16):
    with pytest.raises(WeightsError, match=r"no pretrained weight for 'vgg16'.*weights=None"):
        load_model("vgg16")


@pytest.mark.parametrize("name", ["./nothing", "/nowhere/model", "folder/model"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(WeightsError, match=f"no folder {name}"):
        load_model(name)


def test_a_folder_without_model(tmp_path):
    with pytest.raises(WeightsError, match=r"no saved model: there is no config\.json"):
        load_model(tmp_path)
    with pytest.raises(WeightsError, match="There is no weight at"):
        load_model("cnn", weights=tmp_path / "none")
    (tmp_path / "weights.dat").touch()
    with pytest.raises(WeightsError, match=r"no config\.json beside .*weights\.dat, and its sha256 .* of no weight"):
        load_model("cnn", weights=tmp_path / "weights.dat")


def test_a_folder_with_the_registered_file_of_a_weight(tmp_path):
    spec = registry.weights()["mobilenet.cnmc"]
    shutil.copyfile(packaged_file(spec), tmp_path / spec.file)
    assert load_model("mobilenet", weights=tmp_path).zoo.weight == spec.name
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_model("cnn", weights=tmp_path)
    (tmp_path / spec.file).write_bytes(b"")
    with pytest.raises(IntegrityError):
        load_model("mobilenet", weights=tmp_path)


def test_a_weight_of_another_architecture(tiny_folder):
    with pytest.raises(TensorMismatchError, match="a weight of 'cnn_attention', not of 'cnn'"):
        load_model("cnn", weights=tiny_folder)


def test_a_folder_named_like_an_architecture_is_not_loaded_by_mistake(folder, tmp_path, monkeypatch, bare_vgg16):
    folder.rename(tmp_path / "vgg16")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no pretrained weight for 'vgg16'"):
        load_model("vgg16")
    assert load_model("./vgg16").name == "cnn_attention"


# --- damaged files ---


def test_a_changed_bit(folder):
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(IntegrityError, match="sha256"):
        load_model(folder)


def test_a_file_cut_off(folder):
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="cut off"):
        load_model(folder)


def test_the_file_is_gone(folder):
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(WeightsError, match="no weight file"):
        load_model(folder)


def test_integrity_is_checked_before_a_network_is_built(folder, monkeypatch):
    edit(folder, "sha256", value="0" * 64)
    monkeypatch.setattr("leukaemia_zoo.zoo.loading.build_model", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(IntegrityError, match="0" * 64):
        load_model(folder)


CHANGED = {
    "class_names": ["all", "hem"],
    "head": "texture",
    "temperature": 2.0,
    "dropout": 0.25,
    "views": 8,
    "preprocessing": {"input_size": [32, 32], "crop_fraction": 0.5},
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_description_that_was_changed_later_is_noticed(folder, key):
    """Without it the classes would be swapped, or the cell cut out in another way, and nothing would be seen."""
    edit(folder, "config", key, value=CHANGED[key])
    with pytest.raises(WeightsError, match=rf"says {key} .*, but model\.safetensors was saved with ") as caught:
        load_model(folder)
    one_sentence(caught)
    with pytest.raises(WeightsError, match=f"says {key} "):
        load_model("cnn_attention", weights=folder / WEIGHTS_FILE)
    forget_configuration(folder)
    assert find(str(folder)).spec.config.to_dict()[key] != tiny_config()[key]  # nobody can tell


def tiny_config():
    return ModelConfig("cnn_attention", ("hem", "all"), "flatten", Preprocessing((32, 32))).to_dict()


def test_a_model_of_another_package_beside_ours_is_passed_over(folder, tmp_path):
    for name, content in (("bert", '{"model_type": "bert"}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG_FILE).write_text(content)
    for model in (load_model(tmp_path), load_model("cnn_attention", weights=tmp_path)):
        assert model.name == "cnn_attention"
    (folder / CONFIG_FILE).unlink()
    with pytest.raises(WeightsError, match=r"bert/config\.json: A row about a weight has missing or unknown") as caught:
        load_model(tmp_path)
    one_sentence(caught)


def test_tensors_of_other_classes(folder):
    forget_configuration(folder)
    edit(folder, "config", "class_names", value=["a", "b", "c"])
    for classes in (None, 1, 3, 5):
        with pytest.raises(TensorMismatchError, match="do not fit the 3 classes a, b, c"):
            load_model(folder, num_classes=classes)


def test_tensors_of_another_head(folder):
    forget_configuration(folder)
    edit(folder, "config", "head", value="texture")
    with pytest.raises(TensorMismatchError, match="'dense_0/bias' does not belong"):
        load_model(folder)


# --- hostile configurations ---


HOSTILE = {
    "a class to import": (("module",), "os"),
    "a class path": (("class_name",), "keras>Lambda"),
    "a class path inside": (("config", "class_name"), "builtins.eval"),
    "code in the preprocessing": (("config", "preprocessing", "function"), "__import__('os').system('true')"),
    "a path upwards": (("file",), "../model.safetensors"),
    "an absolute path": (("file",), "/etc/passwd"),
    "a path that ends well": (("file",), "/tmp/model.safetensors"),
    "another kind of file": (("file",), "model.pkl"),
    "an empty file name": (("file",), ""),
    "a file that is a list": (("file",), ["model.safetensors"]),
    "an unknown architecture": (("config", "architecture"), "lambda"),
    "a private attribute": (("config", "architecture"), "__class__"),
    "an architecture that is a list": (("config", "architecture"), ["cnn"]),
    "an unknown head": (("config", "head"), "transformer"),
    "a head that is an object": (("config", "head"), {"class_name": "Lambda"}),
    "no classes": (("config", "class_names"), []),
    "one class": (("config", "class_names"), ["all"]),
    "a class twice": (("config", "class_names"), ["all", "all"]),
    "classes that are a text": (("config", "class_names"), "ha"),
    "classes that are numbers": (("config", "class_names"), [0, 1]),
    "a temperature that is a text": (("config", "temperature"), "1"),
    "a temperature of zero": (("config", "temperature"), 0),
    "a temperature of nothing": (("config", "temperature"), float("nan")),
    "three views": (("config", "views"), 3),
    "views that are a list": (("config", "views"), [8]),
    "views that are true": (("config", "views"), True),
    "views of what is not square": (
        ("config",),
        {
            "architecture": "cnn_attention",
            "class_names": ["hem", "all"],
            "head": "flatten",
            "preprocessing": {"input_size": [32, 40]},
            "views": 8,
        },
    ),
    "a dropout that is true": (("config", "dropout"), True),
    "a dropout of nothing": (("config", "dropout"), float("nan")),
    "a weight that is a list": (("config", "weight"), ["cnn.cnmc"]),
    "no preprocessing": (("config", "preprocessing"), ...),
    "an empty preprocessing": (("config", "preprocessing"), None),
    "an input without end": (("config", "preprocessing", "input_size"), [10**6, 10**6]),
    "an input of half pixels": (("config", "preprocessing", "input_size"), [32.5, 32]),
    "a crop outside": (("config", "preprocessing", "crop_fraction"), 3),
    "a configuration that is a text": (("config",), "cnn"),
    "a configuration that is a list": (("config",), [1]),
    "no sha256": (("sha256",), ...),
    "a sha256 that is a number": (("sha256",), 0),
    "a size that is a text": (("size",), "12"),
    "a size that is true": (("size",), True),
    "data that is a number": (("data",), 5),
    "data of numbers": (("data",), [5]),
    "metrics that are a list": (("metrics",), [1]),
    "a name that is a list": (("name",), ["cnn"]),
    "a name without end": (("name",), "a" * 300),
    "a dropout of more than all": (("config", "dropout"), 5),
    "a class that colours the terminal": (("config", "class_names"), ["he\x1b[31mm", "all"]),
    "a class of two lines": (("config", "class_names"), ["hem\nleukaemia-zoo: ok", "all"]),
    "a class without end": (("config", "class_names"), ["x" * 800_000, "all"]),
    "a key of two lines": (("a\nleukaemia-zoo: ok\x1b[31m",), 1),
    "a key of two lines inside": (("config", "a\nleukaemia-zoo: ok\x1b[31m"), 1),
    "a key without end": (("k" * 800_000,), 1),
    "a licence without end": (("licence",), ["x" * 800_000]),
    "a licence of many": (("licence",), ["x" * 90] * 90),
    "a sha256 of two lines": (("sha256",), "bad\n\x1b[31mline"),
    "a sha256 in capitals": (("sha256",), "A" * 64),
    "a file of two lines": (("file",), "a\nb.safetensors"),
    "a file without end": (("file",), "a" * 5000 + ".safetensors"),
    "a file with a NUL": (("file",), "a\0.safetensors"),
    "an interpolation without end": (("config", "preprocessing", "interpolation"), "x\n" * 5000),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_configuration_is_refused_in_one_sentence(folder, case):
    path, value = HOSTILE[case]
    edit(folder, *path, value=value)
    with pytest.raises(LeukaemiaZooError) as caught:
        load_model(folder)
    assert isinstance(caught.value, WeightsError)  # which `download` and others count on
    assert not isinstance(caught.value, IntegrityError)
    assert caught.value.args[0].isprintable()
    one_sentence(caught)


@pytest.mark.parametrize("kind", ["upwards", "absolute", "below"])
def test_a_weight_file_lies_in_its_folder_and_nowhere_else(folder, kind):
    """The file is sound and where the path says: only the path itself is wrong."""
    place = {"upwards": folder.parent, "absolute": folder.parent, "below": folder / "below"}[kind]
    place.mkdir(exist_ok=True)
    file = (folder / WEIGHTS_FILE).rename(place / WEIGHTS_FILE)
    path = {"upwards": f"../{WEIGHTS_FILE}", "absolute": str(file), "below": f"below/{WEIGHTS_FILE}"}[kind]
    edit(folder, "file", value=path)
    with pytest.raises(WeightsError, match="in the same folder, not"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b'"cnn"', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_configuration_that_is_none(folder, content):
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_model(folder)


def test_nothing_of_a_folder_is_imported(folder, monkeypatch):
    (folder / "leukaemia_zoo.py").write_text("raise SystemExit('code ran')")
    (folder / "__init__.py").write_text("raise SystemExit('code ran')")
    monkeypatch.chdir(folder)
    assert load_model(folder).name == "cnn_attention"


# --- saving what cannot be loaded ---


def test_what_cannot_be_loaded_is_not_saved(tiny_folder, tmp_path):
    bare = build_model("cnn", input_size=32)
    with pytest.raises(ArchitectureError, match=r"load it with load_model, or set model\.zoo"):
        save_model(bare, tmp_path)
    with pytest.raises(ArchitectureError, match="no layer 'logits'"):
        save_model(load_model(tiny_folder, output="embeddings"), tmp_path)
    with pytest.raises(UnknownNameError, match=r"'license'.* did you mean licence"):
        save_model(load_model(tiny_folder), tmp_path, license="CC0")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArchitectureError, match="does not carry"):
        config_of(bare)


def test_a_save_that_fails_leaves_the_old_model(tiny_folder, folder, monkeypatch):
    model = load_model(tiny_folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(WeightsError, match="disk is full"):
        save_model(model, folder)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_save_stopped_between_the_files_is_noticed(folder, monkeypatch):
    """New weights beside the old description: better no model than a wrong one."""

    def fail(*_):
        raise KeyboardInterrupt

    model = set_fixed_weights(load_model(folder))
    monkeypatch.setattr("leukaemia_zoo.zoo.loading.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, folder)
    with pytest.raises(IntegrityError, match="sha256"):
        load_model(folder)


# --- writing files ---


def test_replacing(tmp_path):
    from leukaemia_zoo.common.files import replacing, write_json

    target = tmp_path / "new" / "data.json"
    write_json(target, {"a": "é"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": "é"}
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(ValueError, match="midway"), replacing(target) as beside:  # noqa: PT012 - the fault is inside
        assert beside.parent == target.parent
        beside.write_text("half")
        raise ValueError("midway")
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": float("nan")})
    assert list(target.parent.iterdir()) == [target]


# --- the registry ---


def test_list_models():
    assert list_models() == sorted(ARCHITECTURES)
    assert list_models("cnn*") == ["cnn", "cnn_attention"]
    assert list_models("nothing*") == []
    assert list_models(pretrained=True) == SHIPPED
    trained = {weight.config.architecture for weight in registry.weights().values()}
    assert list_models(pretrained=False) == sorted(set(ARCHITECTURES) - trained)
    assert list_models("*.cnmc", pretrained=True) == [name for name in SHIPPED if name.endswith(".cnmc")]


def test_model_info():
    for name, spec in ARCHITECTURES.items():
        info = model_info(name)
        assert info.architecture == spec
        assert info.weight is registry.weights().get(spec.default_weight or "")
        assert info.name == (spec.default_weight if info.weight else name)
        assert json.loads(json.dumps(info.to_dict()))["architecture"]["parameters"] == spec.parameters


def test_rows_survive_json():
    config = ModelConfig(
        architecture="cnn",
        class_names=("hem", "all"),
        head="texture",
        preprocessing=Preprocessing((90, 90), crop_fraction=0.7),
        dropout=0.3,
        temperature=1.4,
        views=8,
        weight="a.b",
    )
    row = WeightSpec(
        name="cnn.test",
        config=config,
        file="cnn.safetensors",
        sha256="0" * 64,
        size=10,
        parameters=5,
        licence="CC0",
        citation="nobody",
        data=({"name": "C-NMC"},),
        metrics={"a": {"b": 1.0}},
    )
    assert WeightSpec.from_dict(json.loads(json.dumps(row.to_dict()))) == row
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.size = 11


def test_defaults_are_of_their_architecture():
    for spec in ARCHITECTURES.values():
        if spec.default_weight in registry.weights():
            assert registry.weights()[spec.default_weight].config.architecture == spec.name


# --- shipped weights: one test each, as soon as there are any ---


@pytest.mark.parametrize("name", SHIPPED)
def test_the_file_is_the_one_promised(name):
    skip_outside_a_checkout(name)
    spec = registry.weights()[name]
    found = find(name)
    assert found.place == ("package" if name in SMALL else "checkout")
    assert found.file.stat().st_size == spec.size
    assert sha256_of(found.file) == spec.sha256
    assert name == spec.config.weight
    assert name.split(".")[0] == spec.config.architecture


@pytest.mark.parametrize("name", SHIPPED)
def test_its_row_tells_what_a_user_must_know(name):
    spec = registry.weights()[name]
    assert spec.licence not in ("", "not stated")
    assert spec.citation not in ("", "not stated")
    assert "diagnos" in spec.intended_use.lower()
    assert spec.data
    for source in spec.data:
        assert {"name", "licence", "source"} <= set(source)
    # Where all subjects taught, the people out of fold of a cross-validation calibrated.
    assert {"train", "validation"} <= set(spec.training) or spec.training["validation_folds"] == 0
    assert "train" in spec.training
    assert spec.metrics
    for measured in spec.metrics.values():
        assert {"on", "values"} <= set(measured)


@pytest.mark.parametrize("name", SMALL)
class TestShipped:
    def test_it_loads(self, name):
        spec = registry.weights()[name]
        model = load_model(name)
        assert model.zoo == spec.config
        assert (model.zoo.class_names == ("hem", "all")) == name.endswith("cnmc")
        assert model.count_params() == spec.parameters
        assert model.output_shape == (None, len(spec.config.class_names))
        found = probabilities(model)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
        assert not any(np.isnan(variable).any() for variable in map(np.asarray, model.get_weights()))

    def test_the_bare_name_means_the_default(self, name):
        architecture = registry.weights()[name].config.architecture
        if ARCHITECTURES[architecture].default_weight == name:
            assert load_model(architecture).zoo.weight == name
            assert np.array_equal(probabilities(load_model(architecture)), probabilities(load_model(name)))

    def test_one_unit(self, name):
        if len(registry.weights()[name].config.class_names) > 2:
            with pytest.warns(UserWarning, match="replaced"):
                assert load_model(name, num_classes=1).output_shape == (None, 1)
            return
        two, one = probabilities(load_model(name)), probabilities(load_model(name, num_classes=1))
        np.testing.assert_allclose(one[:, 0], two[:, 1], atol=1e-6)

    def test_other_classes_keep_the_body(self, name):
        with pytest.warns(UserWarning, match="replaced"):
            other = named_variables(load_model(name, num_classes=9))
        for key, variable in named_variables(load_model(name)).items():
            if not key.startswith("logits/"):
                assert np.array_equal(np.asarray(variable), np.asarray(other[key]))

    def test_a_fine_tuned_copy_can_be_saved(self, name, tmp_path):
        save_model(load_model(name), tmp_path, half=True)
        np.testing.assert_allclose(probabilities(load_model(tmp_path)), probabilities(load_model(name)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_weight(name, tmp_path):
    """What `TestShipped` asks of the small ones, with as few loads as will do: each takes seconds."""
    skip_outside_a_checkout(name)
    spec = registry.weights()[name]
    model = load_model(name.split(".")[0])
    assert model.zoo == spec.config
    assert (model.count_params(), model.output_shape) == (spec.parameters, (None, 2))
    assert not any(np.isnan(variable).any() for variable in map(np.asarray, model.get_weights()))
    two = probabilities(model)
    np.testing.assert_allclose(two.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities(load_model(name, num_classes=1))[:, 0], two[:, 1], atol=1e-6)
    save_model(model, tmp_path, half=True)
    assert np.array_equal(probabilities(load_model(tmp_path)), two)


def test_a_large_weight_is_found_in_a_checkout_and_nowhere_else(folder, tmp_path, monkeypatch):
    spec, file = read_saved(folder)
    spec = dataclasses.replace(spec, file="tiny.test.safetensors")
    root = tmp_path / "checkout"
    monkeypatch.setattr(files.resources, "files", lambda name: root / "src" / name)
    place = registry.checkout_file(spec)
    assert place == root / "weights" / "tiny.test.safetensors"
    monkeypatch.setattr(sources, "model_info", lambda name: registry.ModelInfo(ARCHITECTURES["cnn_attention"], spec))
    monkeypatch.setattr(sources, "is_elsewhere", lambda name: False)
    with pytest.raises(WeightsError, match=r"not published on the Hub yet: get weights/tiny\.test\.safetensors"):
        find("tiny.test")
    place.parent.mkdir(parents=True)
    place.write_bytes(file.read_bytes())
    assert find("tiny.test") == sources.Found(spec, place, "checkout")
    place.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="restore it with git"):
        find("tiny.test")


def test_shipped_files_and_rows_are_the_same_set():
    for name in LARGE:
        skip_outside_a_checkout(name)
    package = Path(registry.__file__).parents[1]
    small, large = (sorted(folder.glob("*.safetensors")) for folder in (package / "weights", ROOT / "weights"))
    assert {path.name for path in (*small, *large)} == {spec.file for spec in registry.weights().values()}
    assert sum(path.stat().st_size for path in small) < 8_000_000
    assert sum(path.stat().st_size for path in large) < 200_000_000


# ---------------------------------------------------------------------------------------------------------------------
# Whatever Keras is set to


def set_policy(name):
    return lambda: keras.config.set_dtype_policy(name)


SETTINGS = {
    "bfloat16": set_policy("bfloat16"),
    "mixed_bfloat16": set_policy("mixed_bfloat16"),
    "mixed_float16": set_policy("mixed_float16"),
    "float64": set_policy("float64"),
    "floatx float16": lambda: keras.config.set_floatx("float16"),
    "floatx bfloat16": lambda: keras.config.set_floatx("bfloat16"),
    "channels_first": lambda: keras.config.set_image_data_format("channels_first"),
}


@pytest.fixture
def settings():
    """What Keras is set to is put back after the test."""
    policy, floats, order = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    yield
    keras.config.set_floatx(floats)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(order)


@pytest.fixture(scope="module")
def answer():
    """What a network says of two example cells: verdicts, OOD scores, embeddings."""
    frames = np.stack([read_image(path) for path in sorted((ROOT / "examples" / "cells").glob("*.png"))[:2]])

    def ask(model):
        return predict(model, frames).probabilities, ood_scores(model, frames), embed(model, frames)

    return ask


@pytest.fixture(scope="module")
def usual_answer(answer):
    return answer(load_model("cnn_attention"))


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_setting_of_keras_changes_a_verdict(settings, answer, usual_answer, kind):
    SETTINGS[kind]()
    chosen = keras.config.dtype_policy().name, keras.config.floatx(), keras.config.image_data_format()
    for found, expected in zip(answer(load_model("cnn_attention")), usual_answer, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (keras.config.dtype_policy().name, keras.config.floatx(), keras.config.image_data_format()) == chosen


@pytest.mark.parametrize("kind", ["mixed_bfloat16", "floatx float16", "channels_first"])
def test_nor_does_one_that_is_set_after_loading(settings, answer, usual_answer, kind):
    model = load_model("cnn_attention")
    SETTINGS[kind]()
    for found, expected in zip(answer(model), usual_answer, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["mobilenet", "resnet50"])
def test_published_networks_are_built_channels_last(settings, name):
    usual = {key: tuple(variable.shape) for key, variable in named_variables(build_model(name)).items()}
    keras.config.set_image_data_format("channels_first")
    model = build_model(name)
    assert model.input_shape[-1] == 3
    assert {key: tuple(variable.shape) for key, variable in named_variables(model).items()} == usual


def test_a_saved_model_is_loaded_in_float32_too(settings, tiny_folder):
    keras.config.set_dtype_policy("mixed_bfloat16")
    kinds = {layer.compute_dtype for layer in load_model(tiny_folder).layers}
    assert kinds == {"float32"}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_another_precision_is_taken_where_it_is_named(answer, usual_answer, dtype):
    model = load_model("cnn_attention", dtype=dtype)
    assert model.get_layer("block1_conv").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"
    found = answer(model)[0]
    assert not np.array_equal(found, usual_answer[0])
    np.testing.assert_allclose(found, usual_answer[0], atol=0.3)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("dtype", ["int8", "float8", None, "bfloat"])
def test_a_precision_that_is_none_is_refused(dtype):
    with pytest.raises(UnknownNameError, match="choose one of float32, mixed_bfloat16"):
        load_model("cnn_attention", dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------------
# What could not be loaded again is not saved


def quantised(mode):
    def change(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras tells of each layer that stays as it is
            model.quantize(mode)

    return change


def widened(model):
    kernel, bias = model.get_layer("logits").get_weights()
    wide = load_model(model.zoo.architecture, weights=None, num_classes=3, class_names=["a", "b", "c"])
    assert kernel.shape[1] == bias.shape[0] == 2
    wide.zoo = model.zoo
    return wide


def replaced(**changes):
    def change(model):
        model.zoo = dataclasses.replace(model.zoo, **changes)

    return change


UNLOADABLE = {
    "int8": (quantised("int8"), "'logits/kernel' has the dtype int8"),
    "float8": (quantised("float8"), "'logits/kernel_scale' does not belong"),
    "LoRA": (lambda model: model.get_layer("logits").enable_lora(2), "'logits/lora_kernel_a' does not belong"),
    "three classes": (widened, "tells 3 classes apart, but model.zoo names 2, hem, all"),
    "three names": (
        replaced(class_names=("a", "b", "c"), verdict_limits=None),
        "tells 2 classes apart, but model.zoo names 3, a, b, c",
    ),
    "another head": (replaced(head="flatten"), "'dense_0/kernel' is missing"),
    "another architecture": (replaced(architecture="cnn"), "block1_norm.* does not belong"),
    "another input size": (replaced(preprocessing=Preprocessing((64, 64))), r"shape \(100, 100, 3\), but its .* \(64"),
    "one name twice": (replaced(class_names=("all", "all")), "two or more different names"),
}


@pytest.mark.parametrize("kind", UNLOADABLE)
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path, kind):
    change, message = UNLOADABLE[kind]
    model = load_model("cnn_attention")
    model = change(model) or model
    with pytest.raises((TensorMismatchError, WeightsError), match=message):
        save_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_is_compared_with_what_its_name_stands_for_now(tmp_path):
    def builder(filters):
        def build(images):
            x = keras.layers.Conv2D(filters, 3, name="conv")(images)
            return keras.layers.GlobalAveragePooling2D(name="pool")(x)

        return build

    register_architecture("own", builder(4), input_size=32)
    narrow = load_model("own", weights=None)
    for folder in ("one", "two"):
        save_model(narrow, tmp_path / folder)
    register_architecture("own", builder(5), input_size=32)
    with pytest.raises(TensorMismatchError, match=r"'conv/kernel' has the shape \(3, 3, 3, 4\), not \(3, 3, 3, 5\)"):
        save_model(narrow, tmp_path / "three")
    save_model(load_model("own", weights=None), tmp_path / "three")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"name": "my/model"}, "name of a weight"),
        ({"licence": 3}, "licence cannot be 3"),
        ({"training": {"rate": np.float32(0.1)}}, "cannot be written as JSON"),
    ],
)
def test_nor_what_is_told_and_could_not_be_read(tiny_model, tmp_path, about, message):
    with pytest.raises(WeightsError, match=message):
        save_model(tiny_model, tmp_path / "out", **about)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# A name is as good as a loaded model


def test_a_name_a_folder_and_a_model_give_the_same(tiny_model, tiny_folder, draw_cell, tmp_path):
    """A name and a folder are judged by the engine, which promises the answers of Keras to its tolerance."""
    frames = [draw_cell(seed, size=64) for seed in range(2)]
    by_keras = predict(tiny_model, frames)
    for model in (str(tiny_folder), tiny_folder):
        found = predict(model, frames)
        np.testing.assert_allclose(found.probabilities, by_keras.probabilities, atol=TOLERANCE)
        assert [(item.path, item.label, item.class_names) for item in found] == [
            (item.path, item.label, item.class_names) for item in by_keras
        ]
        np.testing.assert_allclose(embed(model, frames), embed(tiny_model, frames), atol=TOLERANCE)
    pixels = tiny_model.zoo.preprocessing.batch(frames)
    np.testing.assert_array_equal(attention_maps(tiny_folder, pixels), attention_maps(tiny_model, pixels))
    scores = ood_scores("cnn_attention", frames), ood_scores(load_model("cnn_attention"), frames)
    np.testing.assert_allclose(*scores, rtol=1e-3)
    assert save_model(tiny_folder, tmp_path / "a").parameters == tiny_model.count_params()
    assert save_pretrained("cnn_attention", tmp_path / "b").name == "cnn_attention.cnmc"


TAKES_A_MODEL = {
    "predict": lambda model: predict(model, []),
    "iter_predictions": lambda model: list(iter_predictions(model, [])),
    "embed": lambda model: embed(model, []),
    "ood_scores": lambda model: ood_scores(model, []),
    "attention_maps": lambda model: attention_maps(model, []),
    "save_model": lambda model: save_model(model, "nowhere"),
    "save_pretrained": lambda model: save_pretrained(model, "nowhere"),
    "fine_tune": lambda model: fine_tune(model, "nowhere"),
    "load_model": load_model,
}


@pytest.mark.parametrize("verb", TAKES_A_MODEL)
def test_what_is_no_model_is_told(verb):
    for wrong in (None, 3, np.zeros(3), b"cnn", keras.layers.Dense(2)):
        with pytest.raises(ArchitectureError, match="is no model: give a network from load_model, the name of one"):
            TAKES_A_MODEL[verb](wrong)
    with pytest.raises(UnknownNameError, match="did you mean cnn_attention"):
        TAKES_A_MODEL[verb]("cnn_atention")


@pytest.mark.parametrize("name", ["m.keras", "M.KERAS", "somewhere/m.h5", "m.hdf5"])
def test_a_file_of_keras_as_a_name_says_what_to_do(name):
    with pytest.raises(WeightsError, match=r"read it with keras.saving.load_model\('.*'\), or .* and give the network"):
        load_model(name)
    with pytest.raises(WeightsError, match="Keras' own format"):
        load_model("cnn", weights=name)


@pytest.mark.parametrize("name", ["m.pt", "m.onnx", "somewhere/m.pkl"])
def test_a_file_of_another_library_as_a_name_says_what_to_do(name):
    with pytest.raises(WeightsError, match="is no saved model of this package: name the folder"):
        load_model(name)
