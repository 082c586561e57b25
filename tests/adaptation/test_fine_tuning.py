"""`fine_tuning`, `inspection`, `splits`, and the command: somebody else's cells, drawn small."""

import csv
import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from other_backends import environment
from PIL import Image

from leukaemia_zoo import Preprocessing, benchmark, load_model, predict, read_data
from leukaemia_zoo.adaptation import fine_tuning, stages
from leukaemia_zoo.adaptation.fine_tuning import fine_tune
from leukaemia_zoo.adaptation.inspection import CROPS, inspect_cells, usual_preprocessing
from leukaemia_zoo.adaptation.options import FineTuningOptions, fine_tuning_recipe
from leukaemia_zoo.adaptation.splits import folds_by_people, split_for_fine_tuning
from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.common.run_folder import RUN
from leukaemia_zoo.errors import DataError, LeakError, UnknownNameError
from leukaemia_zoo.report.report import Report
from leukaemia_zoo.training import tuning
from leukaemia_zoo.training.runs import optimiser
from leukaemia_zoo.training.tuning import frozen_layers
from leukaemia_zoo.zoo import publishing
from leukaemia_zoo.zoo.tensors import named_variables

pytestmark = pytest.mark.filterwarnings("ignore:The split is by image", "ignore:.*have no subject")

SMALL = {"turned_views": 2, "validation_folds": 2, "fine_tune_epochs": 1, "batch_size": 8, "precision": "float32"}
CLASSES = {"eosinophil": (200, 90, 90), "lymphocyte": (110, 60, 170), "monocyte": (150, 150, 200)}
COLUMNS = ("path", "label", "subject")


def draw(seed, label, size=(80, 90), ground=235):
    """A cell of its class's colour on a bright ground."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(y - height / 2, x - width / 2) < 0.28 * min(size) * rng.uniform(0.9, 1.1)
    frame = np.full((height, width, 3), ground, float)
    frame[inside] = CLASSES[label]
    return np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8)


def draw_folder(root, per_class=8, classes=tuple(CLASSES), start=0):
    for number, label in enumerate(classes):
        (root / label).mkdir(parents=True, exist_ok=True)
        for cell in range(per_class):
            Image.fromarray(draw(start + 1000 * number + cell, label)).save(root / label / f"{label}_{cell}.png")
    return root


def tune(*arguments, **settings):
    """`fine_tune` with few resamples, which prints nothing."""
    return fine_tune(*arguments, **{"resamples": 20, "log": str.strip, **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("own") / "cells")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of six subjects with cells of all three classes each, as in a blood count."""
    root = draw_folder(tmp_path_factory.mktemp("subjects"), per_class=12)
    rows = [(f"{c}/{c}_{n}.png", c, f"P{n % 6}") for c in CLASSES for n in range(12)]
    return write_csv(root / "cells.csv", rows)


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.fixture(scope="module")
def tuned(tiny_folder, folder, tmp_path_factory):
    """One whole run, and the lines it reported."""
    out, lines = tmp_path_factory.mktemp("runs") / "tuned", []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tune(tiny_folder, folder, out, recipe=SMALL, log=lines.append)
    return found, out, lines


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# --- the whole ---


def test_the_folder_is_a_model_with_its_record(tuned, folder):
    found, out, lines = tuned
    for name in ("config.json", "model.safetensors", "README.md", "split.json", "training.json", "curves.csv"):
        assert (out / name).is_file(), name
    for kind in ("json", "md", "html", "csv"):
        assert (out / f"report.{kind}").is_file()
    assert not (out / RUN).exists()
    model = load_model(out)
    assert model.zoo.class_names == tuple(CLASSES)
    paths = sorted(folder.rglob("*.png"))
    np.testing.assert_allclose(
        predict(model, paths).probabilities, predict(found.model, paths).probabilities, atol=1e-5
    )
    assert any("replaced by one for 3" in line for line in lines)
    record = json.loads((out / "training.json").read_text())
    assert record == json.loads(json.dumps(found.record))
    assert record["curves"] == json.loads(json.dumps(found.history))
    assert {row["stage"] for row in found.history} == {"classifier", "fine-tuning"}
    assert "eosinophil" in (out / "README.md").read_text()


def test_the_report_is_that_of_benchmark_on_the_test_part(tuned, folder):
    found, out, _ = tuned
    cells = read_data(folder)
    split = load_manifest(out / "split.json", cells)
    assert set(split.parts) == {"fold_1", "fold_2", "test"}
    again = benchmark({"again": str(out)}, cells.subset(split.parts["test"]), cost=False, resamples=20)
    (ours,) = [block for block in found.report.data["models"].values() if block["kind"] == "saved"]
    assert ours["metrics"] == again.data["models"]["again"]["metrics"]
    assert "with which it began, is not known" in ours["overlap"]["told"]
    assert not ours["overlap"]["checked"]
    assert Report.load(out).data == found.report.data
    figures = json.loads((out / "config.json").read_text())["metrics"]["test"]["values"]
    assert figures["accuracy"]["value"] == ours["metrics"]["accuracy"]["value"]
    # What taught it must not judge it.
    with pytest.raises(LeakError, match="identical to its training images"):
        benchmark({"again": str(out)}, cells, cost=False)


def test_the_choices_are_recorded_and_predict_does_the_same(tuned):
    found, out, lines = tuned
    preprocessing = load_model(out).zoo.preprocessing
    assert preprocessing.reference_frame is None
    assert preprocessing.crop_fraction in CROPS
    best = min(found.record["crops"], key=lambda row: row["log_loss"])
    assert preprocessing.crop_fraction == best["crop_fraction"]
    assert any(line.startswith("preprocessing: ") and "not C-NMC's" in line for line in lines)
    assert any("The split is by image" in note for note in found.record["notes"])
    assert any("The split is by image" in note for note in found.report.data["data"]["notes"])


def test_a_split_by_image_warns(tiny_folder, folder):
    with pytest.warns(UserWarning, match="not for new ones"):
        tune(tiny_folder, folder, recipe={**SMALL, "fine_tune_epochs": 0}, crop_fraction=1.0)


def test_the_same_call_again_finds_its_result(tuned, tiny_folder, folder):
    found, out, _ = tuned
    lines = []
    again = tune(tiny_folder, folder, out, recipe=SMALL, log=lines.append)
    assert lines[-1].endswith("holds this run already")
    assert again.record == json.loads(json.dumps(found.record))
    with pytest.raises(DataError, match=r"other settings or data.*--restart"):
        tune(tiny_folder, folder, out, recipe=SMALL, seed=1)


LONGER = {
    "recipe": {**SMALL, "fine_tune_epochs": 3, "patience": 3},
    "crop_fraction": 0.8,
    "per_class": 5,
}


@pytest.fixture(scope="module")
def uninterrupted(tiny_folder, folder):
    """A run of three epochs that nobody stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tune(tiny_folder, folder, **LONGER)


@pytest.mark.parametrize("line", ["classifier, C = 0.3", "fine-tuning 2/3", "intervals over subjects"])
def test_an_interrupted_run_goes_on_and_ends_the_same(uninterrupted, tiny_folder, folder, tmp_path, line):
    def stop(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tiny_folder, folder, tmp_path, **LONGER, log=stop)
    assert not (tmp_path / "training.json").exists()
    with pytest.raises(DataError, match="--restart"):
        tune(tiny_folder, folder, tmp_path, **{**LONGER, "crop_fraction": 0.7})
    resumed = tune(tiny_folder, folder, tmp_path, **LONGER)
    losses = [[row["log_loss"] for row in found.history] for found in (uninterrupted, resumed)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    ours, theirs = named_variables(resumed.model), named_variables(uninterrupted.model)
    for name, expected in theirs.items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(expected), atol=1e-4, err_msg=name)


def test_a_model_that_is_no_run_is_not_replaced(tiny_folder, tiny_model, folder, tmp_path):
    from leukaemia_zoo import save_model

    save_model(tiny_model, tmp_path)
    with pytest.raises(DataError, match="give another folder"):
        tune(tiny_folder, folder, tmp_path, recipe=SMALL)


def test_subjects_with_several_classes_do_not_cross_the_split(tiny_folder, table, tmp_path):
    found = tune(tiny_folder, table, tmp_path, recipe=SMALL, crop_fraction=1.0)
    parts = json.loads((tmp_path / "split.json").read_text())["parts"]
    owners = [{file["subject"] for file in part["files"]} for part in parts.values()]
    assert len(owners) == 3
    assert sum(map(len, owners)) == len(set.union(*owners)) == 6
    assert found.report.data["models"][next(iter(found.report.data["models"]))]["unit"] == "subject"
    assert not any("by image" in note for note in found.record["notes"])


def test_a_loaded_model_is_left_as_it_was(tiny_folder, folder):
    model = load_model(tiny_folder)
    before = {name: np.array(value) for name, value in named_variables(model).items()}
    settings = {**SMALL, "fine_tune_learning_rate": 0.01}
    found = tune(model, folder, recipe=settings, crop_fraction=0.9, unfreeze="all")
    for name, value in named_variables(model).items():
        np.testing.assert_array_equal(np.asarray(value), before[name])
    assert model.zoo.class_names == ("hem", "all")
    assert found.folder is None
    assert len(predict(found.model, draw(1, "monocyte"))[0].probabilities) == 3


@pytest.fixture
def learnt(tiny_folder, folder, monkeypatch):
    """A function from settings to the names of the weights that stage 2 has changed."""
    seen = {}

    def keep(state, trainer):
        seen.update({name: np.array(value) for name, value in named_variables(trainer.layers[-1]).items()})

    monkeypatch.setattr("leukaemia_zoo.training.runs.RunState.save", keep)

    def changed(**settings):
        recipe = {**SMALL, "fine_tune_learning_rate": 0.01}
        tune(tiny_folder, folder, recipe=recipe, crop_fraction=0.9, **settings)
        before = named_variables(load_model(tiny_folder))
        return {name for name in seen if "logits" not in name and not np.array_equal(seen[name], before[name])}

    return changed


def test_the_first_layers_stay(learnt):
    changed = {name.split("/")[0] for name in learnt(unfreeze=2)}
    assert "dense_0" in changed
    assert not changed & {"block1_conv", "block2_conv"}


def test_batch_norm_stays_where_all_layers_learn_unless_it_is_to_follow(learnt, monkeypatch):
    monkeypatch.setattr(tuning, "_ADAPTATION_STEPS", 2)
    names = learnt(unfreeze="all")
    assert any(name.startswith("block1_conv/") for name in names)
    assert not any("_norm/" in name for name in names)
    assert any("_norm/moving_mean" in name for name in learnt(unfreeze="all", keep_statistics=False))


def test_the_first_layers_learn_less_where_rates_decay(tiny_model):
    shares = tuning.rate_shares(tiny_model, 0.5)
    by_name = {
        name: shares[id(variable)] for name, variable in named_variables(tiny_model).items() if id(variable) in shares
    }
    kernels = [name for name in by_name if name.endswith("/kernel")]
    assert [by_name[name] for name in kernels] == [0.5 ** (len(kernels) - 1 - place) for place in range(len(kernels))]
    assert by_name["logits/bias"] == 1
    assert by_name["block1_norm/gamma"] == by_name["block1_conv/kernel"]

    variables = [keras.Variable(np.ones((2, 2)), name=name) for name in "ab"]
    step = optimiser(0.1, 1, 1, 0.0, first=1, last=1.0, shares=[1.0, 0.25])
    step.apply([keras.ops.ones((2, 2))] * 2, variables)
    moved = [1 - float(keras.ops.convert_to_numpy(variable.value)[0, 0]) for variable in variables]
    assert moved[0] > 0
    assert moved[1] == pytest.approx(0.25 * moved[0], rel=1e-4)


def test_batch_norm_learns_where_all_layers_do_and_there_are_cells_enough():
    usual, all_layers = FineTuningOptions(), FineTuningOptions(unfreeze="all", keep_statistics=None)
    assert (usual.keeps_statistics(5000), all_layers.keeps_statistics(499), all_layers.keeps_statistics(500)) == (
        True,
        True,
        False,
    )
    assert FineTuningOptions(keep_statistics=None).keeps_statistics(5000)


def test_all_layers_at_rates_of_their_own_fall_back_on_the_linear_probe(tiny_folder, folder, monkeypatch):
    """At a rate that spoils the network no epoch is better, and stage 1 stays, with its statistics."""
    monkeypatch.setattr(tuning, "_ADAPTATION_STEPS", 2)
    lines = []
    ways = {"unfreeze": "all", "rate_decay": 0.7, "keep_statistics": False}
    spoilt = tune(
        tiny_folder,
        folder,
        recipe={**SMALL, "fine_tune_learning_rate": 3.0},
        crop_fraction=0.9,
        log=lines.append,
        **ways,
    )
    assert any("all layers learn, BatchNorm follows the cells" in line for line in lines)
    assert any("stage 2 is left out" in line for line in lines)
    probe = tune(tiny_folder, folder, recipe={**SMALL, "fine_tune_epochs": 0}, crop_fraction=0.9)
    for one, other in zip(spoilt.model.get_weights(), probe.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert spoilt.record["choices"]["rate_decay"] == 0.7


@pytest.mark.parametrize("better", [True, False])
def test_stage_2_stays_where_it_is_better_and_the_temperature_is_in_the_last_layer(
    tiny_folder, folder, monkeypatch, better
):
    kept, real = {}, stages._tuned

    def told(*arguments):
        tuned, _ = real(*arguments)
        head = tuned.model.get_layer("logits").get_weights()
        kept["tuned"] = [values.copy() for values in head]
        return tuned, np.full(8, 0.5) if better else np.linspace(-1, 1, 8)

    monkeypatch.setattr(stages, "_tuned", told)
    lines = []
    found = tune(tiny_folder, folder, recipe=SMALL, crop_fraction=1.0, log=lines.append)
    assert any(f"stage 2 {'stays' if better else 'is left out'}" in line for line in lines)
    temperature = found.record["temperature"]
    own = [values * temperature for values in found.model.get_layer("logits").get_weights()]
    same = all(np.allclose(one, other, rtol=1e-4) for one, other in zip(own, kept["tuned"], strict=True))
    assert same == better
    assert temperature != 1
    logits = load_model(tiny_folder, num_classes=3)  # the shape of a head for three classes
    assert [value.shape for value in logits.get_layer("logits").get_weights()] == [value.shape for value in own]


def test_a_folder_called_like_a_weight_of_the_zoo_is_judged_itself(tiny_folder, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tune(tiny_folder, folder, "cnn", recipe={**SMALL, "fine_tune_epochs": 0})
    (block,) = [block for block in found.report.data["models"].values() if block["kind"] != "baseline"]
    assert block["kind"] == "saved"
    assert set(block["per_class"]) == set(CLASSES)


def test_the_last_layers_are_counted_from_the_classifier():
    model = load_model("cnn_attention")
    frozen = {layer.name for layer in frozen_layers(model, 2)}
    assert {"block1_conv", "block3_conv", "attention"} <= frozen
    assert not frozen & {"head1_conv", "head2_conv", "logits"}
    assert frozen_layers(model, 100) == []


def test_a_time_budget_ends_the_fine_tuning(tiny_folder, folder):
    lines = []
    recipe = {**SMALL, "fine_tune_epochs": 50, "patience": 50}
    tune(tiny_folder, folder, recipe=recipe, crop_fraction=1.0, time_budget_s=0.001, log=lines.append)
    assert any("the time is up" in line for line in lines)
    assert not any(line.startswith("fine-tuning 1/50") for line in lines)


def test_a_head_with_statistics_gets_an_ood_limit(folder):
    recipe = {**SMALL, "fine_tune_epochs": 0, "prediction_views": 1, "turned_views": 1}
    found = tune("cnn_attention", folder, recipe=recipe, crop_fraction=0.9)
    assert found.model.zoo.ood_limit > 0
    held_out = predict(found.model, [draw(77 + n, label) for n, label in enumerate(CLASSES)])
    assert {cell.unfamiliar for cell in held_out} <= {True, False}
    assert np.isfinite(found.record["ood_limit"])


def test_few_cells_that_are_all_right_promise_no_certainty(tuned):
    found, _, _ = tuned
    probabilities = predict(found.model, [draw(9000 + n, "lymphocyte") for n in range(4)]).probabilities
    assert 0.4 < probabilities.max() < 0.99


def test_test_people_that_taught_the_weight_are_told(tmp_path, tiny_folder, tuned, folder):
    with pytest.warns(UserWarning, match="too favourable"):
        tune(tuned[1], folder, recipe={**SMALL, "fine_tune_epochs": 0}, seed=3)


def test_it_is_pushed_when_asked(tuned, tiny_folder, folder, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        fine_tuning,
        "push_to_hub",
        lambda place, repo, private: (
            pushed.append((place, repo, private)) or publishing.Published("n", repo, "a" * 40, "https://hub/x", "", 0)
        ),
    )
    lines = []
    tune(tiny_folder, folder, tuned[1], recipe=SMALL, push_to="lab/cells", private=True, log=lines.append)
    assert pushed == [(tuned[1], "lab/cells", True)]
    assert lines[-1] == "published: https://hub/x"
    with pytest.raises(UnknownNameError, match="org/name"):
        tune(tiny_folder, folder, push_to="nowhere")


def test_images_of_one_cell_are_told(tmp_path, draw_cell):
    rows = ["path,label,subject"]
    for number in range(6):
        Image.fromarray(draw_cell(number, 128)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},p{number}")
    Image.open(tmp_path / "2.png").save(tmp_path / "again.jpg", quality=85)
    table = tmp_path / "cells.csv"
    table.write_text("\n".join([*rows, "again.jpg,a,p5"]))
    told = []
    inspect_cells(table, warn=told.append)
    assert [text for text in told if "2.png (p2) and again.jpg (p5)" in text] == told


# --- preprocessing ---


def test_frames_like_cnmc_keep_the_preprocessing_of_the_weight(tmp_path, draw_cell):
    for label, level in (("a", 80), ("b", 180)):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.fromarray(draw_cell(number, 256, level=level)).save(tmp_path / label / f"{number}.png")
    inspected = inspect_cells(tmp_path)
    own = Preprocessing((32, 32))
    assert usual_preprocessing(inspected, own)[0] == own
    bright = dataclasses.replace(inspected, on_black=np.zeros(6, bool))
    assert usual_preprocessing(bright, own)[0] is None
    mine = Preprocessing((32, 32), 0.8, None)
    assert usual_preprocessing(bright, mine)[0] == mine
    # The trunk that begins with other cytology was taught on frames of any kind.
    assert usual_preprocessing(inspected, mine, any_frame=True)[0] == Preprocessing(mine.input_size)
    assert usual_preprocessing(bright, mine, any_frame=True)[0] is None


@pytest.mark.parametrize("side", [256, 450])
@pytest.mark.parametrize("radius", [0.6, 0.5, 0.4])
def test_fields_through_an_eyepiece_take_no_crop_of_cnmc(tmp_path, side, radius):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    for label, level in (("a", 200), ("b", 230)):
        (tmp_path / label).mkdir()
        for number in range(3):
            field = np.full((side, side, 3), level + number, np.uint8)
            field[np.hypot(x, y - 20 * number) < 0.1 * side] = (90, 40, 120)
            field[np.hypot(x, y) > radius * side] = 0
            Image.fromarray(field).save(tmp_path / label / f"{number}.png")
    inspected = inspect_cells(tmp_path)
    assert not inspected.on_black.any()
    assert usual_preprocessing(inspected, Preprocessing((32, 32)))[0] is None


@pytest.mark.parametrize("highest", [0, 8])
def test_a_black_image_is_no_cell_to_learn_from(tmp_path, draw_cell, highest):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(2):
            Image.fromarray(draw_cell(number + 5 * (label == "a"))).save(tmp_path / label / f"{number}.png")
    Image.new("RGB", (256, 256), (highest, 0, 0)).save(tmp_path / "a" / "night.png")
    with pytest.raises(DataError, match=r"night.png is black where the cell should be .*--skip-unreadable"):
        inspect_cells(tmp_path)
    kept = inspect_cells(tmp_path, skip_unreadable=True)
    assert len(kept.cells) == 4
    assert "night.png" in kept.cells.notes[-1]


def test_preprocessing_can_be_given_once(tiny_folder, folder):
    mine = Preprocessing((32, 32), 0.5, None)
    found = tune(tiny_folder, folder, recipe={**SMALL, "fine_tune_epochs": 0}, preprocessing=mine)
    assert found.model.zoo.preprocessing == mine
    with pytest.raises(DataError, match="leave out either"):
        tune(tiny_folder, folder, preprocessing=mine, crop_fraction=0.5)
    with pytest.raises(DataError, match="but the network takes 32x32"):
        tune(tiny_folder, folder, preprocessing=Preprocessing((40, 40)))


# --- bad input ---


def test_one_class_is_refused(tmp_path, tiny_folder):
    draw_folder(tmp_path, 3, ("monocyte",))
    with pytest.raises(DataError, match="at least two"):
        tune(tiny_folder, tmp_path)
    cells = Cells(tuple(tmp_path.rglob("*.png")), np.zeros(3, int), (None,) * 3, ("a", "b"), ("",) * 3, "csv")
    with pytest.raises(DataError, match="All 3 images are of the class 'a'") as error:
        tune(tiny_folder, cells)
    one_sentence(error)


def test_a_class_with_one_image_is_named(tmp_path, tiny_folder):
    draw_folder(tmp_path, 5)
    for path in sorted((tmp_path / "monocyte").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="The class 'monocyte' has 1 different images") as error:
        tune(tiny_folder, tmp_path)
    one_sentence(error)


def test_a_class_of_two_subjects_is_named_with_the_way_out(tmp_path, tiny_folder):
    draw_folder(tmp_path, 6)
    rows = [(f"{c}/{c}_{n}.png", c, f"{c}{n % (2 if c == 'monocyte' else 6)}") for c in CLASSES for n in range(6)]
    data = write_csv(tmp_path / "cells.csv", rows)
    with pytest.raises(DataError, match=r"'monocyte' has 2 subjects.*--split-by image") as error:
        tune(tiny_folder, data)
    one_sentence(error)
    settings = {**SMALL, "fine_tune_epochs": 0}
    found = tune(tiny_folder, data, split_by="image", recipe=settings, crop_fraction=1.0)
    assert found.record["choices"]["split_by"] == "image"
    with pytest.raises(DataError, match="have no subject"):
        inspect_cells(tmp_path, split_by="subject")


def test_mixed_sizes_and_modes_are_read(tmp_path, tiny_folder):
    draw_folder(tmp_path, 6, ("eosinophil", "lymphocyte"))
    for number, size in enumerate(((60, 60), (200, 160))):
        Image.fromarray(draw(number, "eosinophil", size)).save(tmp_path / "eosinophil" / f"size{number}.jpg")
    grey = Image.fromarray(draw(5, "lymphocyte")).convert("L")
    grey.save(tmp_path / "lymphocyte" / "grey.png")
    Image.fromarray(draw(6, "lymphocyte")).convert("RGBA").save(tmp_path / "lymphocyte" / "alpha.png")
    settings = {**SMALL, "fine_tune_epochs": 0}
    with pytest.warns(UserWarning, match="from 60 to 160 pixels"):
        tune(tiny_folder, tmp_path, recipe=settings, crop_fraction=1.0)


def test_unreadable_files_are_named_or_left_out(tmp_path, tiny_folder):
    draw_folder(tmp_path, 6, ("eosinophil", "lymphocyte"))
    (tmp_path / "eosinophil" / "cut.png").write_bytes((tmp_path / "eosinophil" / "eosinophil_0.png").read_bytes()[:99])
    (tmp_path / "lymphocyte" / "empty.png").touch()
    with pytest.raises(DataError, match=r"cut\.png.*1 more \(empty\.png\).*--skip-unreadable") as error:
        tune(tiny_folder, tmp_path)
    one_sentence(error)
    with pytest.warns(UserWarning, match="2 images that cannot be read left out"):
        found = tune(
            tiny_folder,
            tmp_path,
            skip_unreadable=True,
            recipe={**SMALL, "fine_tune_epochs": 0},
            crop_fraction=1.0,
        )
    assert found.record["cells"]["cells"] == 12
    assert any("cut.png" in note for note in found.record["notes"])


@pytest.mark.parametrize("other", ["Neutrophil", "neutrophil ", "NEUTROPHIL"])
def test_labels_that_differ_in_case_or_space_are_told(tmp_path, other):
    draw_folder(tmp_path, 2, ("eosinophil",))
    rows = [("eosinophil/eosinophil_0.png", "neutrophil", "P1"), ("eosinophil/eosinophil_1.png", other, "P2")]
    data = write_csv(tmp_path / "cells.csv", [*rows])
    with pytest.raises(DataError) as error:
        inspect_cells(data)
    text = one_sentence(error)
    assert "one spelling" in text if other.strip() != "neutrophil" else "of the class 'neutrophil'" in text


def test_classes_that_differ_in_hyphens_are_told(tmp_path):
    for name in ("band-neutrophil", "Band neutrophil"):
        (tmp_path / name).mkdir()
        Image.fromarray(draw(len(name), "monocyte")).save(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="case, spaces, hyphens or zeros alone"):
        inspect_cells(tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("lymphocyt", "lymphocyte", True),
        ("monocite", "monocyte", True),
        ("myelocyte", "promyelocyte", False),
        ("grade 1 blast", "grade 2 blast", False),
    ],
)
def test_slips_in_labels_are_warned_of(tmp_path, one, other, told):
    draw_folder(tmp_path, 2, ("eosinophil", "lymphocyte"))
    rows = [
        (f"{c}/{c}_{n}.png", name, f"{c}{n}") for c, name in zip(CLASSES, (one, other), strict=False) for n in (0, 1)
    ]
    notes = []
    inspect_cells(write_csv(tmp_path / "cells.csv", rows), warn=notes.append)
    assert any("spelt nearly alike" in note for note in notes) == told


def test_an_image_with_two_labels_is_refused(tmp_path):
    draw_folder(tmp_path, 2, ("eosinophil", "lymphocyte"))
    Image.fromarray(draw(0, "eosinophil")).save(tmp_path / "lymphocyte" / "copy.bmp")
    with pytest.raises(DataError, match="same image with two labels") as error:
        inspect_cells(tmp_path)
    assert "eosinophil_0.png" in one_sentence(error)


def test_copies_stay_together_under_any_subject(tmp_path):
    draw_folder(tmp_path, 6)
    Image.fromarray(draw(0, "eosinophil")).save(tmp_path / "eosinophil" / "copy.bmp")
    rows = [(f"{c}/{c}_{n}.png", c, f"{c}{n}") for c in CLASSES for n in range(6)]
    inspected = inspect_cells(write_csv(tmp_path / "c.csv", [*rows, ("eosinophil/copy.bmp", "eosinophil", "other")]))
    assert inspected.people[0] == inspected.people[-1]
    for seed in range(5):
        split = split_for_fine_tuning(inspected, seed=seed)
        assert sum({0, 18} <= set(rows) for rows in split.parts.values()) == 1


def test_a_given_split_is_checked(tiny_folder, folder):
    cells = read_data(folder)
    by_class = [np.flatnonzero(cells.labels == label) for label in range(3)]

    def part(start, stop, leave_out=None):
        rows = [own[start:stop] for label, own in enumerate(by_class) if label != leave_out]
        return tuple(np.concatenate(rows).tolist())

    parts = {"train": part(0, 4), "validation": part(4, 6), "test": part(6, 8)}
    settings = {"recipe": SMALL, "crop_fraction": 1.0}
    found = tune(tiny_folder, folder, split=Split(parts, None, "by hand"), **settings)
    assert sum(block["cells"] for block in found.report.data["data"]["classes"].values()) == 6
    lacking = Split({**parts, "validation": part(4, 6, leave_out=2)}, None, "by hand")
    with pytest.raises(DataError, match="'validation' of the split has no 'monocyte' cells") as error:
        tune(tiny_folder, folder, split=lacking, **settings)
    one_sentence(error)
    with pytest.raises(DataError, match="it takes a test part"):
        tune(tiny_folder, folder, split=Split({"train": (0,), "validation": (1,)}, None, ""), **settings)
    with pytest.raises(DataError, match="leave out either split or per_class"):
        tune(tiny_folder, folder, split=Split(parts, None, ""), per_class=3, **settings)


def test_settings_are_checked(tiny_folder, tiny_model, folder, tmp_path):
    with pytest.raises(DataError, match="belongs to the weight"):
        fine_tuning_recipe(tiny_model.zoo, {"input_size": 64})
    with pytest.raises(DataError, match=r"has no part in fine-tuning: leave it out, and give crop_fraction \(--crop"):
        fine_tuning_recipe(tiny_model.zoo, {"crop_fraction": 0.5})
    with pytest.raises(DataError, match="'soft_share' has no part"):
        fine_tuning_recipe(tiny_model.zoo, {"soft_share": 0.5})
    whole = dataclasses.replace(fine_tuning_recipe(tiny_model.zoo), crop_fraction=0.5, validation_share=0.0)
    assert fine_tuning_recipe(tiny_model.zoo, whole) == whole
    with pytest.raises(DataError, match="'cohort_frequencies' has no part"):
        fine_tuning_recipe(tiny_model.zoo, dataclasses.replace(whole, cohort_frequencies=True))
    with pytest.raises(UnknownNameError, match="did you mean patience"):
        fine_tuning_recipe(tiny_model.zoo, {"patienc": 3})
    for wrong in (
        {"unfreeze": 0}, {"time_budget_s": 0}, {"rate_decay": 0}, {"rate_decay": 1.5},
        {"test_share": 1.0}, {"per_class": 1}, {"seed": -1}, {"seed": 2**32},
        {"resamples": 0}, {"recipe": {"validation_folds": 1}}, {"recipe": {"turned_views": 0}},
        {"recipe": {"batch_size": 0}}, {"recipe": {"fine_tune_epochs": -1}}, {"recipe": {"prediction_views": 3}},
        {"recipe": {"inverse_penalties": []}}, {"recipe": {"inverse_penalties": 5}},
        {"recipe": {"inverse_penalties": ["a"]}}, {"recipe": {"inverse_penalties": [0]}},
        {"recipe": {"fine_tune_learning_rate": float("nan")}},
    ):  # fmt: skip
        with pytest.raises(DataError) as error:
            tune(tiny_folder, folder, tmp_path / "out", **wrong)
        one_sentence(error)
    with pytest.raises(UnknownNameError, match="nothing called 'nam'"):
        tune(tiny_folder, folder, tmp_path / "out", about={"nam": "x"})
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="give a folder"):
        tune(tiny_folder, 5)
    with pytest.raises(DataError, match="at least 2"):
        folds_by_people(inspect_cells(folder), 1)
    with pytest.raises(UnknownNameError, match="auto, subject, image"):
        inspect_cells(folder, split_by="person")
    with pytest.raises(DataError, match="give a folder"):
        inspect_cells([1, 2])


# --- splits ---


def test_fewer_cells_a_class_are_some_of_the_more_and_the_test_stays(folder):
    inspected = inspect_cells(folder)
    less, more, whole = (split_for_fine_tuning(inspected, per_class=n, seed=4) for n in (3, 5, None))
    learnt = [{row for name in s.parts for row in s.parts[name] if name != "test"} for s in (less, more, whole)]
    assert learnt[0] < learnt[1] < learnt[2]
    assert less.parts["test"] == more.parts["test"] == whole.parts["test"]
    assert np.bincount(inspected.cells.labels[sorted(learnt[0])]).tolist() == [3, 3, 3]


def test_few_cells_a_class_come_from_different_people(tmp_path):
    root = draw_folder(tmp_path, per_class=12, classes=("eosinophil", "lymphocyte"))
    rows = [(f"{c}/{c}_{n}.png", c, f"{c}{n // 4}") for c in ("eosinophil", "lymphocyte") for n in range(12)]
    inspected = inspect_cells(write_csv(root / "cells.csv", rows))
    for seed in range(6):  # three people of each class: one tests, and each of the others gives a cell
        split = split_for_fine_tuning(inspected, per_class=2, seed=seed)
        assert {name: len(part) for name, part in split.parts.items() if name != "test"} == {"fold_1": 2, "fold_2": 2}


def test_folds_of_mixed_subjects_have_every_class_and_share_nobody(table):
    inspected = inspect_cells(table)
    folds = folds_by_people(inspected, 5)
    for person in range(6):
        assert len(set(folds[inspected.people == person])) == 1
    for fold in range(folds.max() + 1):
        assert len(set(inspected.cells.labels[folds == fold])) == 3


# --- the command ---


def test_the_command_leaves_a_model_that_predict_takes(tiny_folder, folder, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(json.dumps(SMALL))
    out = tmp_path / "run"
    line = ["finetune", str(tiny_folder), "--data", str(folder), "--out", str(out), "--per-class", "5", "--seed", "2"]
    assert main([*line, "--recipe", str(tmp_path / "recipe.json"), "--crop-fraction", "0.9"]) == 0
    said = capsys.readouterr()
    assert "report.html" in said.out
    assert "Traceback" not in said.err
    assert main(["predict", str(folder), "--model", str(out), "--csv", str(tmp_path / "p.csv"), "--quiet"]) == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"p_eosinophil", "p_lymphocyte", "p_monocyte"} <= set(rows[0])
    assert load_model(out).zoo.preprocessing.crop_fraction == 0.9


def test_the_command_tells_mistakes_in_one_line(tiny_folder, folder, tmp_path, capsys):
    assert main(["finetune", "cnn_attentoin", "--data", str(folder), "--out", str(tmp_path / "x")]) == 2
    assert "did you mean cnn_attention" in capsys.readouterr().err
    assert main(["finetune", str(tiny_folder), "--data", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.graphs
def test_the_call_with_graphs(tiny_folder, folder, tmp_path):
    found = tune(tiny_folder, folder, tmp_path / "run", recipe=SMALL, crop_fraction=0.9)
    assert [row["stage"] for row in found.history][-1] == "fine-tuning"
    assert_right(tmp_path / "run", folder, keras.backend.backend())


def assert_right(run, folder, backend):
    """A network that was fine-tuned on a backend tells the cells apart on this one."""
    record = json.loads((run / "training.json").read_text())
    assert record["versions"]["backend"] == backend
    found = predict(load_model(run), sorted(folder.rglob("*.png")))
    right = [cell.label == Path(cell.path).parent.name for cell in found]
    assert np.mean(right) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted({"tensorflow", "jax", "torch"} - {keras.backend.backend()}))
def test_the_same_call_on_the_other_backends(tiny_folder, folder, tmp_path, backend):
    call = (
        "import sys, leukaemia_zoo as lz; "
        f"found = lz.fine_tune({str(tiny_folder)!r}, {str(folder)!r}, {str(tmp_path / 'run')!r}, "
        f"recipe={SMALL!r}, crop_fraction=0.9); "
        "print([row['stage'] for row in found.history])"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], env=environment(backend), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "fine-tuning" in done.stdout
    assert_right(tmp_path / "run", folder, backend)


@pytest.mark.slow
@pytest.mark.graphs
def test_eight_classes_of_real_cells(shared_data, tmp_path):
    cells = read_data(shared_data / "pbc")
    some = cells.subset(range(0, len(cells), 4))  # 31 or 32 of each class
    found = tune("cnn_attention", some, tmp_path, recipe={"fine_tune_epochs": 0, "turned_views": 2})
    (ours,) = [block for block in found.report.data["models"].values() if block["kind"] == "saved"]
    assert ours["metrics"]["accuracy"]["value"] > 0.85
    assert found.model.zoo.ood_limit is not None


def test_the_positive_class_of_two_is_the_one_whose_name_says_it_or_that_is_named(tiny_folder, tmp_path):
    first, second, *_ = CLASSES
    data = draw_folder(tmp_path / "data", classes=(first, second))
    (data / first).rename(data / "leukemia")
    (data / second).rename(data / "normal")
    assert inspect_cells(data).cells.class_names == ("normal", "leukemia")
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tune(
            tiny_folder, data, recipe=SMALL, resamples=50, positive="normal", log=lines.append, split_by="image"
        )
    assert found.model.zoo.class_names == tuple(found.report.data["data"]["class_names"]) == ("leukemia", "normal")
    assert any(line.startswith("positive class: normal") for line in lines)
    with pytest.raises(UnknownNameError, match="no class 'Blast' to be the positive one"):
        tune(tiny_folder, data, positive="Blast")
