"""`probing`, `embeddings` and `register_architecture`."""

import dataclasses
import doctest
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import Preprocessing, embed, list_models, load_model, predict, save_model
from leukaemia_zoo.adaptation import inspection, linear_probe
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.errors import ArchitectureError, WeightsError
from leukaemia_zoo.prediction import features
from leukaemia_zoo.prediction.features import embed_files
from leukaemia_zoo.zoo import build_model, register_architecture
from leukaemia_zoo.zoo.loading import weights_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, draw_cell):
    """Dark and bright cells on black, twelve of each class, not of C-NMC's size."""
    root = tmp_path_factory.mktemp("probe")
    for label, level in (("bright", 170), ("dark", 70)):
        (root / label).mkdir()
        for number in range(12):
            frame = draw_cell(number + 100 * level, 64, level=level)
            Image.fromarray(frame).save(root / label / f"{label}{number}.png")
    return root


# --- embeddings ---


def test_embeddings_are_those_that_the_classifier_sees(tiny_folder, draw_cell):
    model = load_model(tiny_folder)
    frames = np.stack([draw_cell(number, 64) for number in range(3)])
    expected = load_model(tiny_folder, output="embeddings")(model.zoo.preprocessing.batch(frames).astype("float32"))
    found = embed(model, frames, batch_size=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)
    np.testing.assert_allclose(embed(load_model(tiny_folder, output="logits"), frames[0]), found[:1], atol=1e-5)


def test_views_are_averaged(draw_cell):
    model = load_model("cnn_attention")
    frame = draw_cell(3, 256)  # which is not reduced before it is cut
    turned = embed(model, [frame, np.rot90(frame).copy(), frame[:, ::-1].copy()])
    # Resizing rounds a little otherwise in a turned frame.
    for other in turned[1:]:
        assert np.linalg.norm(other - turned[0]) < 0.03 * np.linalg.norm(turned[0])
    assert np.abs(turned[0]).mean() > 1


def test_no_images_give_no_rows(tiny_folder):
    assert embed(load_model(tiny_folder), []).shape[0] == 0


def test_the_cache_knows_weights_preprocessing_and_bytes(tiny_folder, folder, tmp_path, monkeypatch):
    model = load_model(tiny_folder)
    paths = sorted(folder.rglob("*.png"))
    first = embed_files(model, paths[:5], tmp_path)
    computed = []
    original = features.embed

    def counted(model, images, **settings):
        computed.append(len(images))
        return original(model, images, **settings)

    monkeypatch.setattr(features, "embed", counted)
    np.testing.assert_array_equal(embed_files(model, paths[:5], tmp_path), first)
    assert computed == []
    again = embed_files(model, [paths[6], *paths[:5]], tmp_path)
    assert computed == [1]
    np.testing.assert_array_equal(again[1:], first)
    model.zoo = dataclasses.replace(model.zoo, preprocessing=Preprocessing((32, 32), 0.5, None))
    assert not np.allclose(embed_files(model, paths[:5], tmp_path), first)
    assert computed == [1, 5]
    embed_files(load_model("cnn_attention", weights=None), paths[:1], tmp_path)
    assert computed == [1, 5, 1]


def test_a_name_is_embedded_on_the_engine_and_kept_by_its_file(folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))[:5]
    first = embed_files("cnn_attention", paths, tmp_path)
    np.testing.assert_array_equal(embed_files("cnn_attention", paths, tmp_path), first)
    assert len([*tmp_path.glob("*.npz")]) == 1
    np.testing.assert_allclose(embed_files(load_model("cnn_attention"), paths, tmp_path), first, atol=1e-3)


def test_a_damaged_cache_is_made_anew(tiny_folder, folder, tmp_path):
    model = load_model(tiny_folder)
    paths = sorted(folder.rglob("*.png"))[:5]
    first = embed_files(model, paths, tmp_path)
    (kept,) = tmp_path.glob("*.npz")
    whole = kept.read_bytes()
    for damaged in (b"", b"cut off", whole[: len(whole) // 2]):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(embed_files(model, paths, tmp_path), first)
        assert len(kept.read_bytes()) == len(whole)


def test_the_digest_is_of_the_trunk_alone(tiny_folder):
    model = load_model(tiny_folder)
    digest = weights_digest(model)
    head = model.get_layer("logits")
    head.set_weights([2 * value for value in head.get_weights()])
    assert weights_digest(model) == digest
    assert weights_digest(model, without_head=False) != digest


# --- the probe ---


def test_the_probe_judges_every_cell_by_a_classifier_that_had_not_seen_it(tiny_folder, folder, tmp_path):
    found = linear_probe(tiny_folder, folder, folds=4, cache=tmp_path, resamples=200)
    assert found.by == "image"
    assert sorted(set(found.folds.tolist())) == [0, 1, 2, 3]
    right = found.probabilities.argmax(axis=1) == found.labels
    assert found.accuracy.value == pytest.approx(right.mean())
    assert found.accuracy.value > 0.9
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
    assert found.confusion.sum() == 24
    from sklearn.metrics import f1_score

    expected = f1_score(found.labels, found.probabilities.argmax(axis=1), average="macro")
    assert found.macro_f1.value == pytest.approx(expected)
    assert any("by image" in note for note in found.notes)
    assert "accuracy" in str(found)
    assert [*tmp_path.glob("*.npz")]


def test_a_name_is_probed_as_its_network_is(folder, tmp_path):
    """The engine describes the cells of a weight that is named, Keras those of a network that is loaded."""
    network = load_model("cnn_attention")
    named, loaded = (
        linear_probe(model, folder, folds=3, cache=place, resamples=200, crop_fraction=0.9)
        for model, place in (("cnn_attention", tmp_path), (network, False))
    )
    np.testing.assert_allclose(named.probabilities, loaded.probabilities, atol=1e-4)
    assert named.preprocessing == loaded.preprocessing
    assert named.preprocessing.crop_fraction == 0.9
    assert network.zoo.preprocessing.crop_fraction != 0.9


def test_chance_is_told_as_chance(tiny_folder, folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    rows = [f"{path},{'ab'[number % 2]},P{number % 8}" for number, path in enumerate(paths)]
    (tmp_path / "c.csv").write_text("path,label,subject\n" + "\n".join(rows))
    found = linear_probe(tiny_folder, tmp_path / "c.csv", cache=False, resamples=200)
    assert found.by == "subject"
    assert found.accuracy.low <= 0.5
    assert not found.notes


def test_the_probe_tells_what_was_passed_over(tiny_folder, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    shutil.copytree(next((tmp_path / "mine").iterdir()), tmp_path / "mine" / "#recycle")
    found = linear_probe(tiny_folder, tmp_path / "mine", folds=4, cache=False, resamples=200)
    assert found.confusion.shape == (2, 2)
    assert found.confusion.sum() == 24
    assert "note: 1 folder of the system passed over: #recycle." in str(found)


def test_the_command_prints_the_probe(tiny_folder, folder, capsys):
    assert main(["probe", str(tiny_folder), "--data", str(folder), "--no-cache", "--folds", "3"]) == 0
    assert "24 cells, 3 folds by image" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.graphs
def test_a_thousand_real_cells(shared_data):
    found = linear_probe("cnn_attention", shared_data / "pbc", cache=False)
    assert found.accuracy.value > 0.85
    assert len(found.labels) == 1000


# --- architectures of one's own ---


def build(images):
    x = keras.layers.Rescaling(1 / 255, name="scale")(images)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="conv")(x)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def test_an_own_architecture_is_saved_and_loaded(tmp_path, draw_cell):
    register_architecture("mine", build, input_size=32)
    assert "mine" in list_models()
    model = load_model("mine", weights=None, num_classes=3, class_names=("a", "b", "c"))
    assert model.output_shape == (None, 3)
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    frame = draw_cell(1, 64)
    np.testing.assert_allclose(predict(again, frame).probabilities, predict(model, frame).probabilities, atol=1e-6)
    assert build_model("mine", input_size=40).input_shape == (None, 40, 40, 3)
    assert embed(again, frame).shape == (1, 6)


def test_a_process_that_has_not_registered_it_builds_nothing(tmp_path):
    register_architecture("mine", build, input_size=32)
    save_model(load_model("mine", weights=None), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["architecture"] = "os.system"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"has no architecture 'os.system'"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("cnn", build, "an architecture of the zoo"),
        ("My-Net", build, "small letters"),
        ("flat", lambda images: images, "not \\(batch, features\\)"),
        ("nothing", lambda images: None, "not \\(batch, features\\)"),
    ],
)
def test_what_cannot_be_an_architecture_is_refused(name, builder, message):
    before = list_models()
    with pytest.raises(ArchitectureError, match=message):
        register_architecture(name, builder, input_size=32)
    assert list_models() == before


def test_an_own_name_can_be_registered_again(draw_cell):
    register_architecture("mine", build, input_size=32)
    register_architecture("mine", build, input_size=48)
    assert load_model("mine", weights=None).input_shape == (None, 48, 48, 3)


def test_examples_in_docstrings_run():
    from leukaemia_zoo.adaptation import fine_tuning as finetuning
    from leukaemia_zoo.adaptation import probing
    from leukaemia_zoo.training import recipes
    from leukaemia_zoo.zoo import architectures

    for module in (architectures, features, finetuning, inspection, probing, recipes):
        result = doctest.testmod(module)
        assert result.failed == 0, module.__name__
