"""Maps of evidence: whether they say what the network says, where it is, and nothing of what it is not."""

import csv
import dataclasses
import doctest
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

import leukaemia_zoo as lz
from leukaemia_zoo import Preprocessing
from leukaemia_zoo.cells.preprocessing import network_pixels
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.errors import ArchitectureError, DataError, ImageError, UnknownNameError
from leukaemia_zoo.explanation import depths, folder, gradients, maps, pictures
from leukaemia_zoo.explanation.depths import depths_of
from leukaemia_zoo.explanation.maps import METHODS, evidence, iter_explanations, lead
from leukaemia_zoo.zoo import ModelConfig, build_model, registry

SLOPES = ("grad_cam", "hires_cam")


@pytest.fixture(scope="module")
def shipped():
    if not registry.packaged_file(registry.weights()["cnn_attention.cnmc"]).is_file():
        pytest.skip("the pretrained weights are not in this package")
    return lz.load_model("cnn_attention")


@pytest.fixture(scope="module")
def cells():
    return sorted((Path(__file__).parents[2] / "examples" / "cells").glob("*.png"))


def network(name, head, classes=2, units=None, size=32, seed=0):
    """A network with random weights, ready to be explained."""
    keras.utils.set_random_seed(seed)
    model = build_model(name, num_classes=units or classes, input_size=size, head=head)
    names = ("hem", "all") if classes == 2 else tuple(f"class_{number}" for number in range(classes))
    model.zoo = ModelConfig(name, names, head, Preprocessing((size, size)))
    return model


def test_the_examples_in_the_docstrings_run(shipped):
    for module in (depths, gradients, maps, pictures):
        found = doctest.testmod(module)
        assert found.attempted, module
        assert not found.failed, module


# --- a map says what the network says ---


@pytest.mark.parametrize("method", SLOPES)
@pytest.mark.parametrize(
    ("head", "classes", "units"), [("texture", 2, 2), ("texture", 3, 3), ("flatten", 2, 1), ("flatten", 2, 2)]
)
def test_the_evidence_adds_up_to_the_lead_of_the_class(draw_cell, head, classes, units, method):
    model = network("cnn_attention", head, classes, units)
    batch = np.stack([network_pixels(draw_cell(seed), "cell", model.zoo.preprocessing) for seed in (1, 2, 3)])
    cut = depths_of(model)
    parts = cut.see(batch.astype("float32"))
    odds = model.predict_on_batch(batch.astype("float32")).astype(float)
    odds = np.concatenate([1 - odds, odds], axis=1) if units == 1 else odds
    for aim in range(classes):
        found = evidence(cut, parts, np.full(3, aim), method)
        assert len(found) == cut.count == (4 if head == "texture" else 1)
        expected = np.log(odds[:, aim]) - np.log(odds).mean(axis=1)
        np.testing.assert_allclose(sum(one.sum(axis=(1, 2)) for one in found), expected, rtol=1e-3, atol=1e-3)
        assert all(np.ptp(one, axis=(1, 2)).min() > 0 for one in found)


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other(draw_cell):
    model = network("cnn_attention", "texture")
    batch = network_pixels(draw_cell(1), "cell", model.zoo.preprocessing)[None].astype("float32")
    cut = depths_of(model)
    parts = cut.see(batch)
    for one, other in zip(*(evidence(cut, parts, np.array([aim]), "hires_cam") for aim in (0, 1)), strict=True):
        np.testing.assert_allclose(one, -other, atol=1e-5)


@pytest.mark.parametrize("of_logits", [True, False])
def test_the_lead_by_logits_and_by_probabilities(of_logits):
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = keras.ops.convert_to_tensor((logits if of_logits else odds).astype("float32"))
    found = keras.ops.convert_to_numpy(lead(given, np.array([2, 1]), of_logits))
    np.testing.assert_allclose(found, logits[[0, 1], [2, 1]] - logits.mean(axis=1), rtol=1e-5)


def test_class_and_probability_are_those_of_predict(shipped, cells):
    said = lz.predict(shipped, cells)
    for method in METHODS[:3]:
        for one, other in zip(lz.explain(shipped, cells, method=method), said, strict=True):
            assert (one.path, one.label, one.target) == (other.path, other.label, other.label)
            assert one.probability == pytest.approx(max(other.probabilities), abs=1e-5)
            assert one.map.shape == (100, 100)
            assert (one.map.dtype, one.map.min() >= 0, one.map.max()) == (np.float32, True, 1.0)


# --- where it is ---


@pytest.fixture
def red_model():
    """A network that calls a cell `all` by how red it is on the whole, through convolutions that lose a margin."""

    def build(images):
        x = keras.layers.Rescaling(1 / 255, name="scale")(images)
        x = keras.layers.Conv2D(2, 3, strides=2, use_bias=False, name="conv")(x)
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)

    lz.zoo.register_architecture("by_red", build, input_size=48)
    model = lz.load_model("by_red", weights=None)
    kernel = np.zeros((3, 3, 3, 2), np.float32)
    kernel[1, 1, 0, 0] = kernel[1, 1, 2, 1] = 1
    model.get_layer("conv").set_weights([kernel])
    model.get_layer("logits").set_weights([np.array([[0, 40.0], [0, -1]], np.float32), np.array([0, -3], np.float32)])
    return model


@pytest.mark.parametrize("method", [*SLOPES, "occlusion"])
def test_the_map_lies_where_the_evidence_is(red_model, method):
    frame = np.zeros((72, 72, 3), np.uint8)
    frame[16:56, 16:56] = (60, 40, 110)
    frame[20:28, 42:50] = (
        250,
        40,
        110,
    )  # in the inner 48 pixels, which the network sees: rows 8 to 16, columns 30 to 38
    (found,) = lz.explain(red_model, frame, method=method, target="all")
    y, x = np.unravel_index(found.map.argmax(), found.map.shape)
    assert 7 <= y <= 16
    assert 29 <= x <= 38
    assert found.map[8:16, 30:38].mean() > 3 * found.map[20:36, 12:28].mean()
    assert found.share_inside > 0.9 > found.cell_share


def test_a_turned_cell_has_the_same_map_turned(shipped, cells):
    frame = lz.cells.read_image(cells[0])
    for method in METHODS[:3]:
        upright, turned = (one.map for one in lz.explain(shipped, [frame, np.rot90(frame).copy()], method=method))
        # Resizing rounds a little differently when it is turned.
        assert np.abs(np.rot90(upright) - turned).mean() < 0.01
        assert np.corrcoef(np.rot90(upright).ravel(), turned.ravel())[0, 1] > 0.99
        assert np.abs(upright - turned).max() > 0.05, "the cell looks the same turned: nothing was tested"


def test_positions_are_laid_over_the_pixels_that_they_stand_for():
    matrix = depths.enlarging(100, 13, 8.0)  # as after pooling that pads: the last position lies half outside
    assert matrix[3:92].sum(axis=1) == pytest.approx(1)
    assert [int(matrix[:, place].argmax()) // 8 for place in range(12)] == list(range(12))
    margin = depths.enlarging(128, 14, 8.0)  # as after convolutions without padding, which lose 8 pixels at each edge
    assert not margin[:8].any()
    assert not margin[-8:].any()
    assert margin[8:-8].sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "head", "size", "strides"),
    [("cnn", "texture", 64, [4, 8, 8, 8]), ("mobilenet", "texture", 64, [4, 8, 16, 16]), ("cnn", "flatten", 64, [8])],
)
def test_the_depths_that_a_head_reads_are_found(name, head, size, strides):
    cut = depths_of(network(name, head, size=size))
    assert sorted(down for down, _ in cut.strides) == strides
    assert all((mask is None) == (head == "flatten") for mask in cut.masks)


# --- sanity checks (Adebayo et al. 2018) ---


def draw_weights(model, seed):
    """Random weights that are the same on every backend."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if len(shape) > 1:
            weight.assign(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        elif "variance" not in weight.path:
            weight.assign(rng.normal(1 if "gamma" in weight.path else 0, 0.1, shape))


@pytest.mark.parametrize("method", METHODS)
def test_random_weights_give_other_maps(shipped, cells, method):
    """Maps that look the same whatever the network has learnt show the image, not the network.

    Cells have a middle and a rim, by which any two maps of one cell are alike or opposite. Over several random networks
    that is as often the one as the other, unless maps show the image.
    """
    config = dataclasses.replace(shipped.zoo, weight=None)
    random = build_model("cnn_attention", head="texture", input_size=100)
    random.zoo = config
    some = cells[:1] if method == "occlusion" else cells[:3]
    learnt, again = (lz.explain(shipped, some, method=method, target="all", views=1) for _ in range(2))
    alike = []
    for seed in range(4 if method == "occlusion" else 8):
        draw_weights(random, seed)
        for one, other in zip(learnt, lz.explain(random, some, method=method, target="all", views=1), strict=True):
            on_cell = one.image.max(axis=-1) > 8
            assert np.ptp(one.map[on_cell]) > 0
            found = spearmanr(one.map[on_cell], other.map[on_cell]).statistic if np.ptp(other.map[on_cell]) else 0.0
            alike.append(found)
    for one, same in zip(learnt, again, strict=True):
        np.testing.assert_allclose(one.map, same.map, atol=1e-4)
    assert abs(np.mean(alike)) < 0.5, alike
    assert np.max(alike) < 0.95, alike


def test_another_classifier_on_the_same_features_gives_another_map(shipped, cells):
    other = keras.models.clone_model(shipped)
    other.set_weights(shipped.get_weights())
    other.zoo = shipped.zoo
    kernel, bias = other.get_layer("logits").get_weights()
    rng = np.random.default_rng(0)
    other.get_layer("logits").set_weights([rng.permutation(kernel), bias])
    for method in SLOPES:
        pairs = zip(*(lz.explain(m, cells, method=method, target="all") for m in (shipped, other)), strict=True)
        alike = [spearmanr(*(m.map[m.image.max(axis=-1) > 8] for m in pair)).statistic for pair in pairs]
        assert np.nanmean(np.abs(alike)) < 0.6, alike


# --- whatever the network ---


def nested_builder(flat):
    """Two convolutions as layers of the network itself, or as networks within a network."""

    def build(images):
        scaled = keras.layers.Rescaling(1 / 255, name="scale")(images)
        first = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="first")
        second = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="second")
        pool = keras.layers.GlobalAveragePooling2D(name="pool")
        if flat:
            return pool(second(first(scaled)))
        inner_input = keras.Input((15, 15, 8))
        inner = keras.Model(inner_input, pool(second(inner_input)), name="inner")
        outer_input = keras.Input((32, 32, 3))
        outer = keras.Model(outer_input, inner(first(outer_input)), name="outer")
        return keras.Sequential([outer, keras.layers.Activation("linear", name="as_it_is")], name="in_a_row")(scaled)

    return build


@pytest.mark.parametrize("method", SLOPES)
def test_networks_within_networks_are_seen_through(draw_cell, method):
    found = []
    for flat in (True, False):
        keras.utils.set_random_seed(3)
        lz.zoo.register_architecture("nested", nested_builder(flat), input_size=32)
        model = lz.load_model("nested", weights=None, num_classes=3, class_names=("a", "b", "c"))
        kernels = [weight for weight in model.weights if len(weight.shape) > 1]
        for number, weight in enumerate(sorted(kernels, key=lambda one: (len(one.shape), tuple(one.shape)))):
            weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
        found.append(lz.explain(model, draw_cell(1), method=method, target="b")[0])
    assert found[0].target == "b"
    np.testing.assert_allclose(found[0].map, found[1].map, atol=1e-4)
    assert found[0].map.max() == 1


def test_a_network_without_logits_of_its_own_is_explained(draw_cell):
    images = keras.Input((32, 32, 3))
    keras.utils.set_random_seed(0)
    x = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(images))
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalMaxPooling2D()(x))
    model = keras.Model(images, x)
    model.zoo = ModelConfig("cnn", ("hem", "all"), "flatten", Preprocessing((32, 32)))
    for method in (*SLOPES, "occlusion"):
        (found,) = lz.explain(model, draw_cell(1), method=method)
        assert found.map.shape == (32, 32)
        assert found.probability == pytest.approx(max(lz.predict(model, draw_cell(1))[0].probabilities), abs=1e-5)


def test_attention_is_that_of_the_block(tiny_model, draw_cell):
    frame = draw_cell(2)
    batch = network_pixels(frame, "cell", tiny_model.zoo.preprocessing)[None]
    own = lz.prediction.attention_maps(tiny_model, batch)[0]
    found = lz.explain(tiny_model, frame, method="attention")[0].map
    place = np.unravel_index(own.argmax(), own.shape)
    assert own[place] / own.max() == pytest.approx(found[place[0] * 8 + 4, place[1] * 8 + 4], abs=0.1)
    with pytest.raises(ArchitectureError, match="no AttentionBlock"):
        lz.explain(network("cnn", "flatten"), frame, method="attention")


def test_what_cannot_be_cut_is_told(draw_cell):
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(images)))
    model.zoo = ModelConfig("cnn", ("hem", "all"), "flatten", Preprocessing((32, 32)))
    with pytest.raises(ArchitectureError, match="occlusion"):
        lz.explain(model, draw_cell(1))
    assert lz.explain(model, draw_cell(1), method="occlusion")[0].map.shape == (32, 32)


# --- mistakes, and what is no cell ---


def test_mistakes_are_told_before_any_image_is_read(tiny_model):
    for mistake, error in (
        ({"method": "gradcam"}, "did you mean grad_cam"),
        ({"target": "blast"}, "there are all, hem"),
    ):
        with pytest.raises(UnknownNameError, match=error):
            iter_explanations(tiny_model, iter(()), **mistake)
    with pytest.raises(DataError, match="1, 4 or 8"):
        iter_explanations(tiny_model, iter(()), views=3)


def test_bad_images_are_raised_or_told(tiny_model, mixed_folder):
    with pytest.raises(ImageError):
        lz.explain(tiny_model, mixed_folder)
    found = list(iter_explanations(tiny_model, sorted(mixed_folder.glob("*.[bjp][mpn][gp]"))))
    assert sum(one.error is None for one in found) == 3
    assert all((one.error is None) == (one.label is not None) for one in found)


def test_no_share_is_told_of_what_does_not_lie_on_black(tiny_model):
    rng = np.random.default_rng(0)
    (found,) = lz.explain(tiny_model, rng.integers(60, 255, (64, 64, 3), dtype=np.uint8))
    assert (found.share_inside, found.cell_share) == (None, None)


# --- pictures and files ---


def test_the_overlay_shows_the_map(shipped, cells):
    (found,) = lz.explain(shipped, cells[0])
    picture = np.asarray(pictures.overlay(found, 200)).astype(int)
    plain = np.asarray(Image.fromarray(found.image).resize((200, 200), Image.Resampling.BICUBIC)).astype(int)
    changed = np.abs(picture - plain).sum(axis=-1)
    large = np.asarray(Image.fromarray(found.map).resize((200, 200)))
    assert changed[large > 0.8].min() > 60
    assert changed[large < 0.01].max() < 12


def test_files_are_left_for_every_cell(tiny_model, tmp_path, draw_cell, monkeypatch):
    monkeypatch.setattr(folder, "ON_SHEET", 2)
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw_cell(number)).save(tmp_path / name)
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    out = tmp_path / "maps"
    steps = []
    found = folder.explain_files(
        tiny_model, [tmp_path / "a", tmp_path / "b"], out, progress=lambda *step: steps.append(step)
    )
    assert (found.cells, len(found.failed), steps[-1]) == (3, 1, (4, 4))
    assert [sheet.name for sheet in found.sheets] == ["sheet_001.png", "sheet_002.png"]
    with (out / "explanations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == ["1_map.png", "2_map.png", "", "1_4_map.png"]
    assert all(0 <= float(row["share_inside"]) <= 1 for row in rows if not row["error"])
    assert found.share_inside == pytest.approx(
        np.mean([float(r["share_inside"]) for r in rows if r["picture"]]), abs=1e-5
    )
    for row in rows:
        if row["picture"]:
            assert Image.open(out / row["picture"]).size == (288, 288)
    assert Image.open(found.sheets[0]).width > Image.open(found.sheets[1]).width
    assert json.loads((out / "explanations.json").read_text())["method"] == "grad_cam"
    folder.explain_files(tiny_model, [tmp_path / "b"], out)  # its own files may be replaced


def test_a_sheet_has_as_many_cells_in_a_row_as_asked_for(tiny_model, draw_cell):
    found = lz.explain(tiny_model, [draw_cell(number) for number in range(3)])
    one, two, all_of_them = (pictures.contact_sheet(found, "cells", columns) for columns in (1, 2, 9))
    assert one.width < two.width < all_of_them.width
    assert one.height > two.height > all_of_them.height


def test_files_of_others_are_not_replaced(tiny_model, tmp_path, draw_cell):
    Image.fromarray(draw_cell(1)).save(tmp_path / "1.png")
    (tmp_path / "explanations.csv").write_text("mine\n")
    with pytest.raises(DataError, match="restart"):
        folder.explain_files(tiny_model, [tmp_path / "1.png"], tmp_path)
    assert (tmp_path / "explanations.csv").read_text() == "mine\n"
    Image.fromarray(draw_cell(1)).save(tmp_path / "1_map.png")
    with pytest.raises(DataError, match="overwrite"):
        folder.explain_files(tiny_model, [tmp_path / "1.png", tmp_path / "1_map.png"], tmp_path, restart=True)


def test_maps_do_not_lie_among_the_cells_where_the_next_call_would_take_them_for_cells(
    tiny_folder, tiny_model, tmp_path, draw_cell, capsys
):
    Image.fromarray(draw_cell(1)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="is searched for images"):
        folder.explain_files(tiny_model, tmp_path, tmp_path)
    assert main(["explain", str(tmp_path), "--model", str(tiny_folder), "--out", str(tmp_path)]) == 2
    assert "give a folder of its own to write, such as" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]


def test_the_command(tiny_folder, tmp_path, draw_cell, capsys):
    Image.fromarray(draw_cell(1)).save(tmp_path / "1.png")
    call = ["explain", str(tmp_path / "1.png"), "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    assert main([*call, "--views", "4", "--target", "all"]) == 0
    told = capsys.readouterr().out
    assert "1 cell explained" in told
    assert "lies on the cell, which covers" in told
    assert "not a diagnosis" in told
    assert (tmp_path / "out" / "sheet_001.png").is_file()
    assert main([*call, "--method", "saliency"]) == 2
    assert "occlusion" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry.weights()))
def test_every_weight_has_maps(name, cells):
    spec = registry.weights()[name]
    if not (registry.packaged_file(spec).is_file() or registry.checkout_file(spec).is_file()):
        pytest.skip("this weight is not here")
    model = lz.load_model(name)
    for method in SLOPES:
        for one in lz.explain(model, cells[:2], method=method, views=1):
            assert one.map.max() == 1
            assert one.share_inside > one.cell_share
