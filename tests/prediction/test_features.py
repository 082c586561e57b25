"""The OOD score: what it is, what it flags, and how its limit travels from training to verdicts."""

import csv
import dataclasses
import doctest
import gc
import importlib.util
import json
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_outputs import set_fixed_weights
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo import load_model, predict, save_model
from leukaemia_zoo.cells import images
from leukaemia_zoo.cells.images import find_images, read_image
from leukaemia_zoo.cells.preprocessing import symmetric_views
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.errors import ArchitectureError, ImageError, WeightsError
from leukaemia_zoo.prediction import Prediction, ood_scores
from leukaemia_zoo.prediction import features as ood
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.prediction.results import SubjectTally
from leukaemia_zoo.zoo import ModelConfig, registry
from leukaemia_zoo.zoo.outputs import class_probabilities, with_statistics
from leukaemia_zoo.zoo.tensors import STATISTICS_NORM

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "cells"
CNMC = [name for name in sorted(registry.weights()) if name.endswith(".cnmc")]
SHIPPED = [name for name in CNMC if registry.packaged_file(registry.weights()[name]).is_file()]


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request):
    """A weight for C-NMC that travels in the package."""
    return load_model(request.param)


@pytest.fixture(scope="module")
def textured():
    """A small network with the head `texture` and fixed weights, without a limit."""
    model = set_fixed_weights(lz.zoo.build_model("cnn_attention", input_size=32, head="texture"))
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "texture", lz.Preprocessing((32, 32)), views=4)
    return model


def every(paths, number):
    """So many of the paths, from the first to the last."""
    paths = sorted(paths)
    return [paths[row] for row in np.linspace(0, len(paths) - 1, number).astype(int)]


# --- what the score is ---


def test_the_score_by_hand(textured, draw_cell):
    """The root mean square over the features of the standardised statistics, averaged over the views before."""
    frames = [draw_cell(seed, level=level) for seed, level in ((0, 60), (1, 120), (2, 190))]
    norm = textured.get_layer(STATISTICS_NORM)
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(0, 1, norm.output.shape[-1]), rng.uniform(0.5, 2, norm.output.shape[-1])
    old = norm.get_weights()
    norm.set_weights([np.sqrt(variance + norm.epsilon) / np.sqrt(variance), np.zeros_like(mean), mean, variance])
    pixels = textured.zoo.preprocessing.batch(frames).astype(np.float32)
    trunk = keras.Model(textured.inputs, norm.input)
    features = np.mean([np.asarray(trunk.predict_on_batch(view)) for view in symmetric_views(pixels, 4)], axis=0)
    expected = np.sqrt((((features - mean) / np.sqrt(variance)) ** 2).mean(axis=1))
    found = ood_scores(textured, frames)
    norm.set_weights(old)
    assert (found.shape, found.dtype) == ((3,), np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(found) > 0.01


def test_the_score_is_kept_at_hand_but_not_its_weights(textured, draw_cell):
    """The compiled network is made once, and sees weights that are set afterwards."""
    frame = draw_cell()
    before = ood_scores(textured, frame)
    assert with_statistics(textured) is with_statistics(textured)
    kept = [np.array(values) for values in textured.get_layer(STATISTICS_NORM).get_weights()]
    textured.get_layer(STATISTICS_NORM).set_weights([2 * kept[0], 2 * kept[1], *kept[2:]])
    after = ood_scores(textured, frame)
    textured.get_layer(STATISTICS_NORM).set_weights(kept)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)
    assert [layer.name for layer in textured.layers].count(STATISTICS_NORM) == 1


def test_a_model_that_is_gone_is_forgotten(draw_cell):
    model = lz.zoo.build_model("cnn_attention", input_size=32, head="texture")
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "texture", lz.Preprocessing((32, 32)))
    assert ood_scores(model, draw_cell()).shape == predict(model, draw_cell()).probabilities.shape[:1]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("module", [ood, images])
def test_the_examples_in_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_distance_and_limit():
    np.testing.assert_allclose(distance(np.array([[3.0, -4.0], [0.0, 0.0]])), [np.sqrt(12.5), 0])
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    assert (scores > limit_of(scores)).sum() == 10
    assert limit_of(np.array([1.5])) == 1.5


def test_files_frames_and_batches_give_the_same(textured, draw_cell, tmp_path):
    frames = [draw_cell(seed, level=60 + 30 * seed) for seed in range(5)]
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    expected = ood_scores(textured, frames)
    for given in (paths, tmp_path, np.stack(frames), [str(path) for path in paths]):
        np.testing.assert_allclose(ood_scores(textured, given, batch_size=2), expected, rtol=1e-5)
    np.testing.assert_allclose([item.ood_score for item in predict(textured, frames)], expected, rtol=1e-6)
    assert ood_scores(textured, []).shape == (0,)
    with pytest.raises(ImageError, match=r"images\[1\] has no value above 1"):
        ood_scores(textured, [frames[0], frames[1] / 255])


@pytest.mark.parametrize("head", ["flatten", "pooled"])
def test_heads_without_statistics(head, draw_cell):
    name = "cnn_attention" if head == "flatten" else "vgg16"
    model = lz.zoo.build_model(name, input_size=32, head=head)
    model.zoo = ModelConfig(name, ("hem", "all"), head, lz.Preprocessing((32, 32)))
    with pytest.raises(ArchitectureError, match=f"head '{head}' holds no statistics.*take a weight"):
        ood_scores(model, draw_cell())
    (found,) = predict(model, draw_cell())
    assert (found.ood_score, found.unfamiliar, found.error) == (None, None, None)
    assert found.probabilities is not None


# --- the shipped weights ---


def test_shipped_weights_have_a_limit(shipped):
    assert 1 < shipped.zoo.ood_limit < 3


def test_the_examples_are_familiar(shipped):
    # They are drawn, and the strongest of them lie at the limit of `mobilenet`.
    limit = shipped.zoo.ood_limit * (1.05 if shipped.zoo.weight == "mobilenet.cnmc" else 1.0)
    assert all(item.ood_score < limit for item in predict(shipped, EXAMPLES))


def test_cells_on_black_are_unfamiliar_to_a_weight_of_smears():
    assert [item.unfamiliar for item in predict("mobilenet.pbc", EXAMPLES)] == [True] * 6


def test_what_is_no_cell_is_unfamiliar(shipped):
    rng = np.random.default_rng(0)
    cell = read_image(sorted(EXAMPLES.glob("*.png"))[0])
    ramp = np.broadcast_to(np.linspace(0, 255, 256)[None, :, None], (256, 256, 3))
    shown = {
        "white": np.full((256, 256, 3), 255, np.uint8),
        "pink": np.broadcast_to(np.array([230, 200, 210], np.uint8), (256, 256, 3)),
        "noise": rng.integers(0, 256, (256, 256, 3)).astype(np.uint8),
        "a ramp": ramp.astype(np.uint8),
        "stripes": np.where(np.arange(256)[:, None, None] // 8 % 2, (200, 40, 90), (250, 240, 240))
        .repeat(256, axis=1)
        .astype(np.uint8),
        "inverted": 255 - cell,
    }
    found = predict(shipped, list(shown.values()))
    assert {name: item.unfamiliar for name, item in zip(shown, found, strict=True)} == dict.fromkeys(shown, True)
    assert all(item.ood_score > 2 * shipped.zoo.ood_limit for item in found)


def test_cells_of_cnmc_are_familiar(shipped, shared_data):
    paths = every(find_images([shared_data / "cnmc" / "training_data"])[0], 120)
    flagged = np.mean([item.unfamiliar for item in predict(shipped.zoo.weight, paths)])
    assert flagged <= 0.05


@pytest.mark.parametrize("folder", ["pbc", "bccd"])
def test_images_of_smears_are_unfamiliar(shipped, shared_data, folder):
    paths = every(find_images([shared_data / folder])[0], 40)
    assert np.mean([item.unfamiliar for item in predict(shipped.zoo.weight, paths)]) >= 0.95


def test_the_verdicts_are_those_of_the_network_alone(shipped):
    """The score comes along; it does not change a probability."""
    pixels = shipped.zoo.preprocessing.batch([read_image(path) for path in sorted(EXAMPLES.glob("*.png"))])
    alone = class_probabilities(shipped, shipped.zoo, pixels)
    np.testing.assert_allclose(predict(shipped, EXAMPLES).probabilities, alone, rtol=0, atol=1e-7)


# --- the limit on its way ---


def test_the_limit_survives_saving(textured, tmp_path):
    textured.zoo = dataclasses.replace(textured.zoo, ood_limit=1.75)
    save_model(textured, tmp_path / "model")
    textured.zoo = dataclasses.replace(textured.zoo, ood_limit=None)
    assert load_model(tmp_path / "model").zoo.ood_limit == 1.75


def test_a_model_saved_before_there_were_limits_loads(textured, tmp_path, draw_cell):
    save_model(textured, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    row = json.loads(file.read_text(encoding="utf-8"))
    del row["config"]["ood_limit"]
    file.write_text(json.dumps(row), encoding="utf-8")
    (found,) = predict(load_model(tmp_path / "model"), draw_cell())
    assert found.ood_score > 0
    assert found.unfamiliar is None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "1.5", [1.5]])
def test_bad_limits_are_refused(textured, value):
    with pytest.raises(WeightsError, match="ood_limit must be a finite number above 0, or null"):
        ModelConfig.from_dict({**textured.zoo.to_dict(), "ood_limit": value})


# --- in verdicts ---


@pytest.fixture
def two_kinds(shipped, tmp_path):
    """Folder with two example cells and a white frame, all of one subject, and a file that is no image."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, path in enumerate(sorted(EXAMPLES.glob("*H90*.png"))[:2], start=1):
        Image.open(path).save(folder / f"UID_7_{number}_1_all.png")
    Image.new("RGB", (256, 256), "white").save(folder / "UID_7_3_1_all.png")
    (folder / "UID_7_4_1_all.png").write_text("no image")
    return folder


def test_predictions_carry_the_score(shipped, two_kinds):
    found = predict(shipped, two_kinds)
    assert [item.unfamiliar for item in found] == [False, False, True, None]
    assert found[3].ood_score is None
    record = found[2].to_dict()
    assert list(record) == ["path", "subject", "label", "p_hem", "p_all", "verdict", "ood_score", "unfamiliar", "error"]
    assert (record["ood_score"], record["unfamiliar"]) == (found[2].ood_score, True)
    (subject,) = found.by_subject()
    assert (subject.cells, subject.unfamiliar) == (3, 1)
    assert subject.to_dict()["unfamiliar"] == 1


def test_a_subject_without_scores_has_no_count():
    tally = SubjectTally()
    tally.add(Prediction("f", "x", "hem", (0.6, 0.4), ("hem", "all")))
    assert tally.summaries()[0].unfamiliar is None


def test_the_command_tells(shipped, two_kinds, tmp_path, capsys):
    name, limit = shipped.zoo.weight, shipped.zoo.ood_limit
    options = ["--csv", str(tmp_path / "o.csv"), "--json", str(tmp_path / "o.json")]
    assert main(["predict", str(two_kinds), "--model", name, *options]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == (
        f"1 of 3 images does not look like the cells this weight was trained on (OOD score above {limit:.2f}): "
        "do not rely on its verdict."
    )
    rows = [line for line in out.splitlines() if "UID_7_" in line]
    assert [line.endswith("  unfamiliar") for line in rows] == [False, False, True, False]
    assert out.splitlines()[0].split()[-1] == "ood"
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        assert [row["unfamiliar"] for row in csv.DictReader(file)] == ["False", "False", "True", ""]
    records = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [record["unfamiliar"] for record in records] == [False, False, True, None]
    assert records[2]["ood_score"] > limit
    assert main(["predict", str(sorted(EXAMPLES.glob("*H90*.png"))[0]), "--model", name, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


# --- the measurement ---


@pytest.fixture(scope="module")
def tool():
    file = ROOT / "tools" / "ood_results.py"
    if not file.is_file():
        pytest.skip("the tools are not beside the tests")
    spec = importlib.util.spec_from_file_location("ood_results", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_auroc_of_the_tool_is_that_of_all_pairs(tool):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    cells, others = rng.integers(0, 10, 60).astype(float), rng.integers(4, 14, 25).astype(float)
    owners = np.repeat(["a", "b", "c", "d", "e", "f"], 10)
    found = tool.auroc(cells, others, owners, seed=0)
    labels = np.repeat([0, 1], [60, 25])
    assert found["value"] == pytest.approx(roc_auc_score(labels, np.concatenate([cells, others])))
    assert found["low"] < found["value"] < found["high"]
    alone = tool.auroc(cells, np.full(3, 99.0), owners, seed=0)
    assert alone == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_parts_of_one_photograph_are_drawn_together(tool):
    rng = np.random.default_rng(0)
    cells, owners = rng.normal(0, 1, 60), np.repeat(["a", "b", "c", "d", "e", "f"], 10)
    others = np.repeat(rng.normal(0.5, 1, 10), 6)  # all six parts alike
    alone, together = (tool.auroc(cells, others, owners, 0, parts) for parts in (1, 6))
    assert together["value"] == alone["value"]
    assert together["high"] - together["low"] > 1.2 * (alone["high"] - alone["low"])


def test_the_tool_has_photographs(tool):
    pytest.importorskip("skimage")
    what, frames = tool.natural()
    assert len(frames) == tool.PARTS["natural"] * (len(tool.PHOTOGRAPHS) + 2)
    assert f"{len(tool.PHOTOGRAPHS) + 2} of them" in what
    assert all(frame.dtype == np.uint8 and frame.shape[2] == 3 and min(frame.shape[:2]) >= 256 for frame in frames)
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_a_set_is_measured_anew_and_the_others_are_kept(tool, tmp_path):
    about = {"sha256": "0", "limit": 1.5, "cells": {"cells": 9, "subjects": 3, "of": 20, "seed": 0}}
    old = about | {"sets": [{"name": "pbc", "images": 1}, {"name": "text", "images": 1}]}
    (tmp_path / "ood.json").write_text(json.dumps(old), encoding="utf-8")
    new = about | {"sets": [{"name": "natural", "images": 2}, {"name": "text", "images": 2}]}
    sets = tool.kept(new, tmp_path / "ood.json")["sets"]
    assert [(own["name"], own["images"]) for own in sets] == [("natural", 2), ("pbc", 1), ("text", 2)]
    with pytest.raises(SystemExit, match="of another sha256: measure all sets"):
        tool.kept(new | {"sha256": "1"}, tmp_path / "ood.json")


def test_the_share_of_the_tool_knows_persons(tool):
    owners = np.repeat(["a", "b", "c", "d"], 25)
    one_person = tool.share(owners == "a", owners, seed=0)
    everybody = tool.share(np.arange(100) % 4 == 0, owners, seed=0)
    assert one_person["value"] == everybody["value"] == 0.25
    assert one_person["high"] - one_person["low"] > 3 * (everybody["high"] - everybody["low"])


def test_the_tool_draws_frames(tool):
    frames = [frame for _, frames in tool.drawn_sets(0).values() for frame in frames]
    cells = [read_image(path) for path in sorted(EXAMPLES.glob("*.png"))]
    changed = tool.changed_sets(cells)
    for frame in frames + [frame for _, frames in changed.values() for frame in frames]:
        assert frame.dtype == np.uint8
        assert frame.shape == (256, 256, 3)
    assert all(len(frames) == len(cells) for _, frames in changed.values())


@pytest.mark.parametrize("name", [name for name in CNMC if registry.weights()[name].config.ood_limit is not None])
def test_the_results_are_those_of_the_weight(name):
    if not (ROOT / "results").is_dir():
        pytest.skip("the results are not beside the tests")
    file = ROOT / "results" / name / "ood.json"
    assert file.is_file(), "run: python tools/ood_results.py"
    found, spec = json.loads(file.read_text(encoding="utf-8")), registry.weights()[name]
    assert (found["sha256"], found["limit"]) == (spec.sha256, spec.config.ood_limit), "run: python tools/ood_results.py"
