"""`trainer`, `tuning`, `drawing`, `distillation`, `recipes` at work on small drawn cells with a random teacher."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from other_backends import environment
from PIL import Image

from leukaemia_zoo import load_model, predict, read_data
from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.splits import Split, split_by_subject
from leukaemia_zoo.common import hardware, markdown
from leukaemia_zoo.common.files import sha256_of
from leukaemia_zoo.common.run_folder import RUN, TRUNK_FILE
from leukaemia_zoo.common.text import silent
from leukaemia_zoo.errors import DataError, LeakError, LeukaemiaZooError, UnknownNameError, WeightsError
from leukaemia_zoo.evaluation.calibration import apply_temperature
from leukaemia_zoo.evaluation.metrics import metrics
from leukaemia_zoo.prediction.features import ood_scores
from leukaemia_zoo.report.report import Report
from leukaemia_zoo.training import distillation, tuning
from leukaemia_zoo.training import trainer as training
from leukaemia_zoo.training.classifier import Embeddings, classifiers, embed, new_network, opinions, outputs_of
from leukaemia_zoo.training.cross_validation import cross_validate
from leukaemia_zoo.training.distillation import distil, forget_trunk, load_teacher
from leukaemia_zoo.training.drawing import (
    CellArrays,
    Drawn,
    SoftLabels,
    Views,
    drawing_weights,
    preprocessing_for,
    read_arrays,
)
from leukaemia_zoo.training.recipes import recipe_for
from leukaemia_zoo.training.records import Sources, fingerprint, provenance
from leukaemia_zoo.training.runs import RunState, Training
from leukaemia_zoo.training.trainer import train
from leukaemia_zoo.training.tuning import fit_network
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.augmentation import turned
from leukaemia_zoo.zoo.cards import model_card, taught_beside
from leukaemia_zoo.zoo.registry import weights
from leukaemia_zoo.zoo.sources import read_saved
from leukaemia_zoo.zoo.tensors import load_tensors, named_variables, read_config, save_tensors

SMALL = {
    "input_size": 40,
    "turned_views": 2,
    "prediction_views": 4,
    "validation_folds": 3,
    "validation_share": 0.34,
    "precision": "float32",
    "inverse_penalties": [0.01, 0.1],
    "batch_size": 8,
    "distillation": {
        **{"epochs": 2, "steps_per_epoch": 1, "batch_size": 4},
        "pairs": [["block2_pool", "conv_pw_3_relu"], ["head2_relu", "conv_pw_5_relu"]],
    },
}

RESTAINED = {
    "input_size": 40,
    "precision": "float32",
    "fine_tune_epochs": 0,
    "drawn_views": False,
    "train_batch_norm": False,
    "validation_share": 0.2,
    "distillation": {"restain": 0.3, "pairs": [[f"conv_pw_{n}_relu"] * 2 for n in (3, 5)]},
}
"""A `mobilenet` that begins as its teacher and learns to see the same in another stain."""


@pytest.fixture(scope="module")
def cells(tmp_path_factory, draw_cell):
    """Six subjects of each class with six cells each: leukaemic ones are larger and brighter, not without overlap."""
    root = tmp_path_factory.mktemp("cells") / "training_data" / "fold_0"
    rng = np.random.default_rng(0)
    for label, prefix, radius, level in (("all", "9", 0.30, 120), ("hem", "H9", 0.24, 100)):
        (root / label).mkdir(parents=True)
        for subject in range(6):
            own = rng.normal(0, 8)
            for cell in range(6):
                frame = draw_cell(int(rng.integers(1 << 30)), 128, radius + rng.normal(0, 0.03), level + own)
                Image.fromarray(frame).save(root / label / f"UID_{prefix}{subject}_1_{cell}_{label}.png")
    return read_data(root)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """MobileNet with random weights in the format of a teacher's file."""
    keras.utils.set_random_seed(3)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    arrays = {f"{layer.name}/{v.name}": np.asarray(v) for layer in network.layers for v in layer.weights}
    file = tmp_path_factory.mktemp("teacher") / "mobilenet.npz"
    np.savez(file, **arrays)
    return file


@pytest.fixture
def short_adaptation(monkeypatch):
    """BatchNorm takes the statistics of two batches, not of sixty."""
    monkeypatch.setattr(tuning, "_ADAPTATION_STEPS", 2)


@pytest.fixture(scope="module")
def recipe():
    return recipe_for("cnn_attention", SMALL)


@pytest.fixture(scope="module")
def trained(cells, teacher, recipe, tmp_path_factory):
    """Folder of one whole training, and the lines it reported."""
    out, lines = tmp_path_factory.mktemp("runs") / "whole", []
    train("cnn_attention", cells, out, recipe=recipe, teacher=teacher, seed=1, log=lines.append)
    return out, lines


@pytest.fixture(scope="module")
def _stopped(cells, teacher, recipe, tmp_path_factory):
    """Trainings like `trained` that were interrupted, by the line at which they were."""
    found = {}

    def stopped_at(line):
        if line not in found:
            found[line] = tmp_path_factory.mktemp("stopped") / "run"
            with pytest.raises(KeyboardInterrupt):
                train("cnn_attention", cells, found[line], recipe=recipe, teacher=teacher, seed=1, log=stop_at(line))
        return found[line]

    return stopped_at


@pytest.fixture
def stopped_at(_stopped, tmp_path):
    """A function from a line to the folder of a training that was interrupted there, for this test alone."""
    return lambda line: shutil.copytree(_stopped(line), tmp_path / "run")


def stop_at(line):
    """A log that interrupts the training at a line."""

    def stop(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    return stop


@pytest.fixture(scope="module")
def others(tmp_path_factory, draw_cell):
    """Folder of cells of somebody else, without names of subjects."""
    folder = tmp_path_factory.mktemp("unlabelled") / "others"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(draw_cell(500 + number, 128, 0.25, 110)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained_on_others(cells, teacher, recipe, others, tmp_path_factory):
    """Folder of a training whose trunk has seen none of the cells."""
    out = tmp_path_factory.mktemp("runs") / "others"
    train("cnn_attention", cells, out, recipe=recipe, teacher=teacher, unlabelled=others, log=str.strip)
    return out


def _header_changed(trunk, file, change):
    """A trunk with the same tensors and another header."""
    model = build_model("cnn_attention", input_size=40, head="texture")
    load_tensors(model, trunk)
    about = read_config(trunk)["distillation"]
    change(about)
    save_tensors(model, file, config={"distillation": about})
    return file


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_model_that_is_left_predicts_as_it_was_judged(cells, teacher, recipe, trained, tmp_path):
    split = split_by_subject(cells, {"train": 0.66, "validation": 0.34}, 0)
    trunk = trained[0] / "distilled.safetensors"
    train("cnn_attention", cells, tmp_path, recipe=recipe, teacher=teacher, trunk=trunk, split=split, log=str.strip)
    rows = _rows(tmp_path / "validation.csv")
    assert {row["subject"] for row in rows} == {cells.subjects[row] for row in split.parts["validation"]}
    path_of = {path.name: path for path in cells.paths}
    found = predict(load_model(tmp_path), [path_of[row["file"]] for row in rows])
    expected = [float(row["p_all"]) for row in rows]
    # float16 kernels on the way; everything else, views and temperature too, must be the same
    np.testing.assert_allclose(found.probabilities[:, 1], expected, atol=5e-3)


def test_folds_validate_every_subject_and_the_last_classifier_learns_from_all(trained, cells):
    out, _ = trained
    rows = _rows(out / "validation.csv")
    assert sorted(row["file"] for row in rows) == sorted(path.name for path in cells.paths)
    parts = json.loads((out / "split.json").read_text())["parts"]
    owners = [{file["subject"] for file in part["files"]} for part in parts.values()]
    assert len(owners) == 3
    assert sum(map(len, owners)) == len(set.union(*owners)) == 12
    record = json.loads((out / "training.json").read_text())
    labels = np.array([row["label"] == "all" for row in rows], int)
    value = record["metrics"]["validation"]["values"]["auroc"]["value"]
    assert value == pytest.approx(metrics(labels, np.array([float(row["p_all"]) for row in rows]))["auroc"], abs=1e-4)
    assert value > 0.8
    found = predict(load_model(out), cells.paths)
    assert metrics(cells.labels, found.probabilities)["auroc"] > value


def test_the_record_tells_what_produced_the_weight(trained, cells, recipe):
    out, _ = trained
    record = json.loads((out / "training.json").read_text())
    assert record["recipe"]["input_size"] == 40
    assert record["seed"] == 1
    assert len(record["distillation"]["history"]) == 2
    assert len(record["distillation"]["teacher"]["sha256"]) == 64
    assert record["cells"]["cells"] == len(cells)
    assert {row["inverse_penalty"] for row in record["curves"]} == {0.01, 0.1}
    assert record["chosen"] == min(record["curves"], key=lambda row: row["log_loss"])
    assert len(record["manifest_sha256"]) == 64
    assert 0 < record["distillation"]["seconds"] <= record["seconds"] < 600
    assert record["machine"]["devices"] == ["cpu"]
    assert not (out / RUN).exists()


def test_the_temperature_is_inside_the_last_layer(trained, cells):
    out, _ = trained
    model = load_model(out)
    logits = load_model(out, output="logits")
    pixels = model.zoo.preprocessing.batch([np.asarray(Image.open(path)) for path in cells.paths[:4]])
    hot = np.asarray(logits(pixels)) * model.zoo.temperature
    np.testing.assert_allclose(apply_temperature(hot, model.zoo.temperature), np.asarray(model(pixels)), atol=1e-5)


def test_the_limit_is_that_of_cells_that_were_held_out(trained, cells, recipe):
    out, _ = trained
    model = load_model(out)
    parts = [np.array(part) for part in load_manifest(out / "split.json", cells).parts.values()]
    embeddings = embed(model, read_arrays(cells, recipe, 1).pixels, np.arange(len(cells)), recipe)
    scores = []
    for number, held_out in enumerate(parts):
        others = np.concatenate([*parts[:number], *parts[number + 1 :]])
        weights = np.tile(drawing_weights(cells, others, recipe), 2) / 2
        taught = embeddings.turned[:, others].reshape(len(weights), -1)
        mean = weights @ taught
        deviation = np.sqrt(weights @ (taught - mean) ** 2)
        deviation = np.maximum(deviation, 0.1 * np.median(deviation))
        scores.extend(np.sqrt(np.mean(((embeddings.predicted[held_out] - mean) / deviation) ** 2, axis=1)))
    # float16 kernels on the way
    assert model.zoo.ood_limit == pytest.approx(np.quantile(scores, 0.99), rel=0.02)
    assert np.mean(ood_scores(model, cells.paths)) < np.mean(scores)


def test_a_feature_that_is_nearly_constant_does_not_drown_the_others(cells, recipe):
    features = np.random.default_rng(0).normal(size=(2, len(cells), 9)).astype(np.float32)
    features[..., 3] = 1e-5 * cells.labels  # tells the classes apart, but by next to nothing
    known = Embeddings(features, features[0])
    _, kernel, _, _, deviation = next(classifiers(cells, known, np.arange(len(cells)), recipe))
    np.testing.assert_allclose(deviation[3], 0.1 * np.median(deviation), rtol=1e-4)
    # Such a feature at 1, as in an image of another kind, says less than what the ordinary ones say when they are at 1.
    assert abs(kernel[3] / deviation[3]).max() < abs(kernel / deviation[:, None]).max()


def test_a_fine_tuned_network_has_the_limit_of_its_validation_cells(cells, tmp_path):
    changes = {**SMALL, "distillation": None, "fine_tune_epochs": 1, "batch_size": 16}
    recipe = recipe_for("cnn_attention", changes)
    split = split_by_subject(cells, {"train": 0.66, "validation": 0.34}, 0)
    model = train("cnn_attention", cells, tmp_path, recipe=recipe, teacher=None, split=split, log=str.strip)
    scores = ood_scores(model, [cells.paths[row] for row in split.parts["validation"]])
    assert model.zoo.ood_limit == pytest.approx(np.quantile(scores, 0.99), rel=1e-4)
    flat = recipe_for("cnn_attention", {**changes, "head": "flatten"})
    flat = train("cnn_attention", cells, tmp_path / "f", recipe=flat, teacher=None, split=split, log=str.strip)
    assert flat.zoo.ood_limit is None


@pytest.mark.parametrize("line", ["distillation 1/2", "classifier, C = 0.1"])
def test_an_interrupted_training_goes_on_and_ends_the_same(trained, stopped_at, cells, teacher, recipe, line):
    (whole, _), run = trained, stopped_at(line)
    assert not (run / "model.safetensors").exists()
    lines = []
    train("cnn_attention", cells, run, recipe=recipe, teacher=teacher, seed=1, log=lines.append)
    assert not any(text.startswith(line) and "distillation" in line for text in lines)
    ours = named_variables(load_model(run))
    for name, expected in named_variables(load_model(whole)).items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(expected), atol=2e-3, err_msg=name)


def test_fine_tuning_goes_on_where_its_last_epoch_ended(cells, tmp_path):
    changes = {**SMALL, "distillation": None, "head": "flatten", "fine_tune_epochs": 3, "patience": 5, "batch_size": 16}
    recipe = recipe_for("cnn_attention", changes)
    split = split_by_subject(cells, {"train": 0.66, "validation": 0.34}, 0)
    arrays = read_arrays(cells, recipe, 0)

    def fit(folder, log=lambda text: None):
        return fit_network(Training(recipe, cells, arrays, RunState(folder, "x"), 0, log), split, None)

    def stop(text):
        if text.startswith("fine-tuning 2/3"):
            raise KeyboardInterrupt

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", stop)
    lines = []
    resumed = fit(tmp_path / "run", lines.append)
    assert [line[:15] for line in lines] == ["fine-tuning 3/3"]
    assert [row["loss"] for row in resumed.curves] == pytest.approx([row["loss"] for row in whole.curves], rel=1e-4)
    assert resumed.chosen == min(resumed.curves, key=lambda row: row["log_loss"])


def test_a_folder_with_another_unfinished_run_is_refused(stopped_at, cells, teacher, recipe):
    run, other = stopped_at("distillation 1/2"), {"recipe": recipe, "teacher": teacher, "seed": 2}
    with pytest.raises(DataError, match="--restart"):
        train("cnn_attention", cells, run, **other, log=str.strip)
    with pytest.raises(KeyboardInterrupt):
        train("cnn_attention", cells, run, **other, restart=True, log=stop_at("distillation 1/2"))


def test_a_finished_run_is_replaced_by_another_only_when_asked(trained, cells, teacher, recipe):
    out, _ = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    stronger = dataclasses.replace(recipe, inverse_penalties=(0.01,))
    for other in ({"recipe": recipe, "seed": 2}, {"recipe": stronger, "seed": 1}):
        with pytest.raises(DataError, match="holds a finished run with other settings or data"):
            train("cnn_attention", cells, out, teacher=teacher, **other)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_further_cells_that_nothing_would_learn_from_are_refused(cells, tmp_path):
    recipe = {**SMALL, "distillation": None, "fine_tune_epochs": 1}
    with pytest.raises(DataError, match="no distillation that could learn from further cells: leave out --unlabelled"):
        train("cnn", cells, tmp_path / "run", recipe=recipe, teacher=None, unlabelled=cells.paths[0].parent)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [{"fine_tune_learning_rate": 1e30}, {"colour": 1e9}], ids=str)
def test_a_training_that_diverges_says_so_and_begins_anew_as_it_says(cells, tmp_path, wrong):
    recipe = {**SMALL, "distillation": None, "fine_tune_epochs": 2, "batch_size": 16, **wrong}
    with pytest.raises(
        DataError, match=r"diverged in epoch [12], .*--restart\) and a recipe with a lower fine_tune_learn"
    ):
        train("cnn", cells, tmp_path / "run", recipe=recipe, teacher=None)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    mended = {**recipe, **dict.fromkeys(wrong, 1e-4), "fine_tune_epochs": 1}
    train("cnn", cells, tmp_path / "run", recipe=mended, teacher=None, restart=True)
    assert (tmp_path / "run" / "model.safetensors").exists()


class Told(Exception):
    """Ends a run as soon as it has said what was waited for."""


@pytest.mark.parametrize("learn", [train, cross_validate])
def test_subjects_that_share_a_cell_are_told_before_anything_is_learnt(cells, recipe, teacher, tmp_path, learn):
    again = tmp_path / "again.jpg"
    Image.open(cells.paths[0]).save(again, quality=85)
    twice = dataclasses.replace(cells, paths=(*cells.paths[:-1], again))

    def log(text):
        if "show one cell" in text:
            assert f"{cells.paths[0].name} ({cells.subjects[0]}) and again.jpg ({cells.subjects[-1]})" in text
            raise Told

    with pytest.raises(Told):
        learn("cnn_attention", twice, tmp_path / "run", recipe=recipe, teacher=teacher, log=log)


def test_rows_of_other_parts_do_not_touch_the_network(cells, recipe, tmp_path):
    split = split_by_subject(cells, {"train": 0.5, "validation": 0.3, "test": 0.2}, 0)
    arrays = read_arrays(cells, recipe, 0)
    trunk = tmp_path / "trunk.safetensors"
    save_tensors(new_network(recipe, 2, 0), trunk)
    test = list(split.parts["test"])
    changed, labels = arrays.pixels.copy(), cells.labels.copy()
    changed[:, test] = 77
    labels[test] = 1 - labels[test]
    whole = Training(recipe, cells, arrays, RunState(tmp_path / "0", "x"), 0, silent)
    other = Training(
        recipe,
        dataclasses.replace(cells, labels=labels),
        dataclasses.replace(arrays, pixels=changed),
        RunState(tmp_path / "1", "x"),
        0,
        silent,
    )
    results = [fit_network(run, split, trunk) for run in (whole, other)]
    first, second = (named_variables(result.model) for result in results)
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), err_msg=name)
    assert results[0].temperature == results[1].temperature


def test_the_classifier_sees_standardised_statistics(cells, recipe, tmp_path):
    split = split_by_subject(cells, {"train": 0.66, "validation": 0.34}, 0)
    arrays = read_arrays(cells, recipe, 0)
    pixels, trunk = arrays.pixels, tmp_path / "trunk.safetensors"
    save_tensors(new_network(recipe, 2, 0), trunk)
    fitted = fit_network(Training(recipe, cells, arrays, RunState(tmp_path / "s", "x"), 0, silent), split, trunk)
    rows = np.array(split.parts["train"])
    weights = drawing_weights(cells, rows, recipe)
    outputs = keras.Model(fitted.model.inputs, fitted.model.get_layer("statistics_norm").output)
    standardised = np.mean([np.asarray(outputs(view[rows].astype("float32"))) for view in pixels], axis=0)
    np.testing.assert_allclose(weights @ standardised, 0, atol=1e-3)
    embeddings = embed(fitted.model, pixels, rows, recipe)
    assert np.isnan(embeddings.turned[:, split.parts["validation"]]).all()
    assert np.isfinite(embeddings.predicted[rows]).all()
    # What is embedded needs no network any more to be judged.
    for ours, whole in zip(
        outputs_of(fitted, embeddings, pixels, rows, recipe),
        outputs_of(fitted, None, pixels, rows, recipe),
        strict=True,
    ):
        np.testing.assert_allclose(ours, whole, rtol=1e-4, atol=1e-4)


def test_batches_drawn_ahead_are_those_of_the_epoch_in_their_order(cells):
    recipe = recipe_for("cnn_attention", {**SMALL, "drawn_views": True})
    arrays, rows = read_arrays(cells, recipe, 0), np.arange(len(cells))
    views = Views(arrays.pixels, arrays.frames, recipe, preprocessing_for(recipe))
    drawn = Drawn(views, cells.labels, rows, np.full(len(rows), 1 / len(rows)), 4, [0, 1], 2, steps=12)
    found = list(drawn.in_turn())
    assert len(found) == 12
    for number, (images, targets) in enumerate(found):
        np.testing.assert_array_equal(images, drawn[number][0])
        np.testing.assert_array_equal(targets, drawn[number][1])


def test_a_split_that_leaks_is_refused(cells, teacher, recipe, tmp_path):
    rows = np.arange(len(cells))
    leaky = Split({"train": tuple(rows[::2].tolist()), "validation": tuple(rows[1::2].tolist())}, 0, "by hand")
    with pytest.raises(LeakError, match="in more than one part"):
        train("cnn_attention", cells, tmp_path, recipe=recipe, teacher=teacher, split=leaky)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_trained_is_said(cells, teacher, recipe, tmp_path):
    with pytest.raises(DataError, match="nothing for this recipe to train"):
        train("cnn_attention", cells, tmp_path / "a", recipe=recipe, teacher=None, log=str.strip)
    flat = recipe_for("cnn_attention", {**SMALL, "head": "flatten"})
    with pytest.raises(DataError, match="has no layers head2_relu"):
        train("cnn_attention", cells, tmp_path / "b", recipe=flat, teacher=teacher, log=str.strip)


def test_subjects_are_balanced(cells, recipe):
    rows = np.arange(len(cells) - 4)  # the last subject lacks four of its six cells
    weights = drawing_weights(cells, rows, dataclasses.replace(recipe, subject_power=0.0))
    totals = {}
    for row, weight in zip(rows, weights, strict=True):
        totals[cells.subjects[row]] = totals.get(cells.subjects[row], 0) + weight
    assert np.ptp(list(totals.values())) < 1e-12
    balanced = drawing_weights(cells, rows, dataclasses.replace(recipe, balance_classes=True))
    assert balanced[cells.labels[rows] == 1].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("own_trunks", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cross_validation_predicts_every_cell_once_by_a_network_that_saw_none_of_its_subject(
    cells, teacher, recipe, trained_on_others, tmp_path, own_trunks
):
    found = cross_validate(
        "cnn_attention",
        cells,
        tmp_path,
        folds=2,
        recipe=recipe,
        teacher=teacher,
        trunk=None if own_trunks else trained_on_others / "distilled.safetensors",
        log=str.strip,
    )
    record = found.record
    # Where the features came from is told: of a trunk by its own header, else fold by fold.
    assert len(record["distillation"]["teacher"]["sha256"]) == 64
    assert "teacher" in [row["name"] for row in record["data"]]
    assert record["distillation"]["unlabelled"] == (None if own_trunks else "others")
    assert record["distillation"]["given"] != own_trunks
    if own_trunks:
        hashes = [fold["distillation"]["sha256"] for fold in record["folds"]]
        assert len(set(hashes)) == 2
        assert all(len(fold["distillation"]["history"]) == 2 for fold in record["folds"])
    rows = _rows(tmp_path / "out_of_fold.csv")
    assert sorted(row["file"] for row in rows) == sorted(path.name for path in cells.paths)
    for fold in range(2):
        manifest = json.loads((tmp_path / f"fold_{fold}.json").read_text())["parts"]
        owners = {part: {file["subject"] for file in manifest[part]["files"]} for part in manifest}
        assert len(owners) == 4
        assert not owners["test"] & set.union(*(owners[part] for part in owners if part != "test"))
        assert {row["subject"] for row in rows if row["fold"] == str(fold)} == owners["test"]
    labels = np.array([row["label"] == "all" for row in rows], int)
    probabilities = np.array([float(row["p_all"]) for row in rows])
    for name, value in metrics(labels, probabilities).items():
        assert record["metrics"]["intervals"][name]["value"] == pytest.approx(value, abs=1e-3), name
    assert record["area_baseline"]["intervals"]["auroc"]["value"] > 0.7
    assert json.loads((tmp_path / "cross_validation.json").read_text()) == record
    # The report says the same of the network and of the area, and what a benchmark says besides.
    assert isinstance(found, Report)
    models = found.to_dict()["models"]
    assert {name: model["kind"] for name, model in models.items()} == {
        "cnn_attention": "cross-validated",
        "cell area alone": "baseline",
    }
    for name, key in (("cnn_attention", "metrics"), ("cell area alone", "area_baseline")):
        assert models[name]["metrics"] == record[key]["intervals"]
    assert found.data["differences"][0]["metrics"] == record["less_area_baseline"]["intervals"]
    assert "cell area alone" in str(found)
    found.save(tmp_path / "report")
    assert Report.load(tmp_path / "report").data == found.data
    with pytest.warns(DeprecationWarning, match=r"cross_validate\(\)\.record\['seed'\]"):
        assert found["seed"] == 0


def test_unlabelled_images_that_are_tested_are_refused(cells, teacher, recipe, tmp_path):
    folder = cells.paths[0].parent
    with pytest.raises(LeakError, match="among the unlabelled images"):
        cross_validate("cnn_attention", cells, tmp_path, recipe=recipe, teacher=teacher, unlabelled=folder)


def test_copies_of_tested_images_are_refused_whatever_they_are_called(cells, teacher, recipe, others, tmp_path):
    folder = tmp_path / "copies"
    shutil.copytree(others, folder)
    Image.open(cells.paths[5]).save(folder / "copy.bmp")
    settings = {"recipe": recipe, "teacher": teacher, "unlabelled": folder, "log": str.strip}
    with pytest.raises(LeakError, match=r"6 of the 72 cells to be tested .*\(1 identical images\)"):
        cross_validate("cnn_attention", cells, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_trunk_that_has_seen_the_tested_cells_is_refused(cells, teacher, recipe, trained, tmp_path):
    trunk = trained[0] / "distilled.safetensors"
    settings = {"folds": 2, "recipe": recipe, "log": str.strip}
    with pytest.raises(LeakError, match=r"72 of the 72 cells to be tested .*--trunk"):
        cross_validate("cnn_attention", cells, tmp_path / "run", teacher=teacher, trunk=trunk, **settings)
    with pytest.raises(LeakError, match=r"72 of 72 cells must not judge 'distilled.safetensors'"):
        cross_validate("cnn_attention", cells, tmp_path / "run", teacher=None, init=trunk, **settings)
    # The names are enough, where the images are others of the same people.
    named = _header_changed(trunk, tmp_path / "named.safetensors", lambda about: about["seen"].update(fingerprints=[]))
    with pytest.raises(LeakError, match="72 of the 72 cells"):
        cross_validate("cnn_attention", cells, tmp_path / "run", teacher=teacher, trunk=named, **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_only_with_the_trunk_that_it_began_with(recipe, tmp_path):
    """A file of the same name may be another."""
    found = []
    for content in (b"one", b"other", b"one"):
        (tmp_path / "trunk.safetensors").write_bytes(content)
        found.append(fingerprint(recipe, 0, "data", Sources(None, None, tmp_path / "trunk.safetensors")))
    assert found[0] == found[2] != found[1]


def test_of_an_older_trunk_it_is_said_that_its_images_are_not_known(cells, teacher, recipe, trained, tmp_path):
    def older(about):
        for key in ("seen", "unlabelled", "teacher"):
            del about[key]

    trunk = _header_changed(trained[0] / "distilled.safetensors", tmp_path / "older.safetensors", older)
    out, lines = tmp_path / "run", []
    settings = {"folds": 2, "recipe": recipe, "teacher": teacher, "trunk": trunk, "unlabelled": None}
    found = cross_validate("cnn_attention", cells, out, log=lines.append, **settings)
    assert any("was not checked" in line for line in lines)
    assert "was not checked" in found.record["notes"][-1]
    assert found.record["distillation"]["unlabelled"] is None
    assert "sha256" not in found.record["distillation"]["teacher"]  # what this call names as teacher may be another one


def test_a_trunk_tells_the_record_what_it_was_distilled_on(cells, teacher, recipe, trained_on_others, others, tmp_path):
    trunk = trained_on_others / "distilled.safetensors"
    train("cnn_attention", cells, tmp_path, recipe=recipe, teacher="imagenet", trunk=trunk, log=str.strip)
    record, first = (json.loads((run / "training.json").read_text()) for run in (tmp_path, trained_on_others))
    for key in ("unlabelled", "images", "teacher", "sha256"):
        assert record["distillation"][key] == first["distillation"][key]
    assert (record["distillation"]["unlabelled"], record["distillation"]["images"]) == ("others", 8)
    assert record["distillation"]["teacher"]["weights"] == teacher.name
    assert (first["distillation"]["given"], record["distillation"]["given"]) == (False, True)
    assert "seen" not in record["distillation"]


def test_the_classifier_of_a_weight_is_learnt_anew_on_its_trunk(cells, tmp_path):
    spec = weights()["cnn_attention.cnmc"]
    few = {"validation_folds": 3, "validation_share": 0.34, "turned_views": 2, "prediction_views": 4}
    settings = {"recipe": recipe_for("cnn_attention", few), "trunk": spec.name, "log": str.strip}
    own = cross_validate("cnn_attention", cells, tmp_path / "cv", folds=2, **settings).record
    with pytest.raises(DataError, match="holds a finished run with other settings"):
        cross_validate("cnn_attention", cells, tmp_path / "cv", folds=2, **{**settings, "seed": 7})
    model = train("cnn_attention", cells, tmp_path / "run", **settings)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    for about in (own, record):
        assert about["distillation"]["taken_from"] == spec.name
        assert about["distillation"]["unlabelled"] == "pbc_full"
        assert not about["notes"][len(cells.notes) :]
        assert about["data"] == [dict(row) for row in spec.data]
    shipped = load_model(spec.name)
    for layer in shipped.layers:
        if layer.name not in ("statistics_norm", "logits"):
            for old, new in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)


def test_layers_that_learnt_from_labels_are_no_trunk(cells, recipe, tmp_path):
    with pytest.raises(DataError, match=r"learnt from labelled cells.*--init"):
        train("mobilenet", cells, tmp_path / "run", recipe=recipe, trunk="mobilenet.pbc", log=str.strip)
    assert not (tmp_path / "run").exists()


def test_opinions_are_of_people_who_did_not_teach_them(cells):
    # Each subject has a mark of its own that gives its label away, as stain and slide do: only who has seen it knows.
    marks = np.array([[float(subject == other) for other in sorted(set(cells.subjects))] for subject in cells.subjects])
    features = Embeddings(marks[None].astype(np.float32), marks.astype(np.float32))
    recipe = recipe_for("cnn", {"inverse_penalties": [100.0]})
    rows = np.arange(0, len(cells), 2)
    said = opinions(cells, [(recipe, features)], rows, 3, 0)
    assert np.isnan(said[1::2]).all()
    np.testing.assert_allclose(said[rows].sum(axis=1), 1.0)
    assert abs(said[rows, 1] - 0.5).max() < 0.1
    known = np.stack([cells.labels, 1 - cells.labels], axis=1) + np.linspace(0, 0.1, len(cells))[:, None]
    features = Embeddings(known[None].astype(np.float32), known.astype(np.float32))
    assert (opinions(cells, [(recipe, features)] * 2, rows, 3, 0)[rows].argmax(axis=1) == cells.labels[rows]).all()


def test_labels_are_mixed_with_what_others_say(cells):
    said = np.tile([0.9, 0.1], (len(cells), 1))
    rows = np.array([0, len(cells) - 1])
    mixed = SoftLabels(said, 0.25).mixed(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), rows, rows, [0])
    np.testing.assert_allclose(mixed, [[0.225, 0.775], [0.975, 0.025]], atol=1e-6)
    assert mixed.dtype == np.float32


@pytest.mark.slow
@pytest.mark.usefixtures("short_adaptation")
def test_linear_classifiers_and_networks_teach_beside_the_labels(cells, trained, trained_on_others, tmp_path):
    changes = {"fine_tune_epochs": 1, "train_batch_norm": True, "drawn_views": True, "validation_folds": 2}
    plain = recipe_for("cnn_attention", {**SMALL, **changes, "distillation": None})
    soft = dataclasses.replace(plain, soft_share=0.9, label_smoothing=0.0)
    begun = {"teacher": None, "init": trained_on_others / "distilled.safetensors", "seed": 3}
    linear = {"recipe": soft, "linear_teachers": (trained_on_others,)}
    ways = {
        "labels": {"recipe": dataclasses.replace(plain, label_smoothing=0.0)},
        "linear": linear,
        "network": {"recipe": soft, "logits_teacher": trained_on_others},
    }
    losses, records = {}, {}
    for name, settings in ways.items():
        train("cnn_attention", cells, tmp_path / name, **begun, **settings)
        records[name] = json.loads((tmp_path / name / "training.json").read_text())
        losses[name] = records[name]["curves"][-1]["loss"]
    assert len({round(loss, 4) for loss in losses.values()}) == 3
    name = json.loads((trained_on_others / "config.json").read_text())["name"]
    expected = [{"weight": name, "sha256": sha256_of(trained_on_others / "model.safetensors")}]
    assert records["linear"]["linear_teachers"] == records["network"]["logits_teachers"] == expected
    assert "linear_teachers" not in records["labels"]
    spec = read_saved(tmp_path / "linear")[0]
    told = f"Taught beside the labels, a share of 0.9: linear classifiers of other people on the features of {name}"
    assert list(taught_beside(spec.training)) == [told]
    assert markdown.text(told) in model_card(spec)

    found = cross_validate("cnn_attention", cells, tmp_path / "cv", folds=2, **begun, **linear)
    assert found.record["linear_teachers"] == expected
    for number in range(2):
        shutil.copytree(trained_on_others, tmp_path / "teachers" / f"fold_{number}")
    network = {"recipe": soft, "logits_teacher": tmp_path / "teachers"}
    with pytest.raises(LeakError, match="must not know those who are tested"):
        cross_validate("cnn_attention", cells, tmp_path / "leak", folds=2, **begun, **network)


@pytest.mark.parametrize(
    ("share", "teachers", "told"),
    [
        (0.5, {}, r"name either weights.*--linear-teacher"),
        (0.0, {"linear_teachers": ("cnn.cnmc",)}, "no share of the targets"),
        (0.5, {"linear_teachers": ("cnn.cnmc",), "logits_teacher": "runs/cv"}, "name either"),
        (0.5, {"linear_teachers": ("mobilenet.pbc",)}, "learnt from labelled cells"),
    ],
)
def test_who_teaches_beside_the_labels_is_checked(cells, trained_on_others, tmp_path, share, teachers, told):
    changes = {"fine_tune_epochs": 1, "drawn_views": True, "soft_share": share, "distillation": None}
    settings = {"recipe": recipe_for("cnn_attention", {**SMALL, **changes}), "teacher": None, **teachers}
    with pytest.raises(DataError, match=told):
        train("cnn_attention", cells, tmp_path / "run", init=trained_on_others / "distilled.safetensors", **settings)
    assert not (tmp_path / "run").exists()


def test_linear_classifiers_on_a_trunk_that_saw_the_tested_cells_do_not_teach(cells, recipe, teacher, tmp_path):
    shown = tmp_path / "shown"
    shown.mkdir()
    for path in cells.paths[:3]:
        shutil.copy(path, shown / f"copy_{path.name}")
    train("cnn_attention", cells, tmp_path / "knowing", recipe=recipe, teacher=teacher, unlabelled=shown)
    changes = {"fine_tune_epochs": 1, "drawn_views": True, "soft_share": 0.5, "head": "flatten", "distillation": None}
    settings = {"recipe": recipe_for("cnn_attention", {**SMALL, **changes}), "teacher": None}
    with pytest.raises(LeakError, match="linear-teacher"):
        cross_validate("cnn_attention", cells, tmp_path / "cv", linear_teachers=(tmp_path / "knowing",), **settings)


def test_a_network_that_begins_as_its_teacher_says_so(cells, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "distil", lambda *_, **settings: [])
    recipe, lines = recipe_for("mobilenet", RESTAINED), []
    state, trunk = RunState(tmp_path / RUN, "x"), tmp_path / TRUNK_FILE
    sources = training.begun(Sources(teacher, None, None), recipe, 0, state, lines.append)
    assert lines == ["weights: ImageNet, MobileNet 1.0, the teacher of the distillation"]
    init = {"source": lines[0].removeprefix("weights: "), "sha256": sha256_of(teacher)}
    arrays = CellArrays(np.zeros((1, 2, 40, 40, 3), np.uint8), np.ones(2))
    training.distilled(Training(recipe, cells, arrays, state, 0, silent), sources, trunk, np.arange(2))
    # The trunk tells it to a run that takes it, with whatever teacher that is called.
    for own in (sources, Sources("imagenet", None, trunk)):
        assert provenance(recipe, cells, 0, own, trunk)["init"] == init


@pytest.mark.parametrize(
    ("mistake", "error", "told"),
    [
        ({"trunk": "nope.safetensors"}, WeightsError, "nope.safetensors"),
        ({"teacher": None}, DataError, "nothing for this recipe to train"),
        ({"teacher": "nope.npz"}, WeightsError, "nope.npz cannot be read"),
        ({"unlabelled": "nowhere"}, LeukaemiaZooError, "nowhere"),
        ({"teacher": None, "trunk": "nope.safetensors"}, DataError, "no distillation whose trunk"),
    ],
)
def test_a_mistake_leaves_nothing_behind(cells, teacher, recipe, tmp_path, mistake, error, told):
    settings = {"recipe": recipe, "teacher": teacher, "log": str.strip, **mistake}
    for run in (train, cross_validate):
        with pytest.raises(error, match=told) as caught:
            run("cnn_attention", cells, tmp_path / "run", **settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_initial_weights_that_cannot_be_had_do_not_block_the_folder(cells, recipe, trained, tmp_path, monkeypatch):
    def fails(*_):
        raise WeightsError("no network")

    monkeypatch.setattr(training, "write_initial_weights", fails)
    with pytest.raises(WeightsError, match="no network"):
        train("cnn_attention", cells, tmp_path, recipe=recipe, teacher=None, init=trained[0], log=str.strip)
    assert not (tmp_path / RUN).exists()


def test_a_restart_distils_anew(stopped_at, cells, teacher, recipe):
    run, lines = stopped_at("classifier, C = 0.1"), []
    train("cnn_attention", cells, run, recipe=recipe, teacher=teacher, seed=1, log=lines.append, restart=True)
    assert any(line.startswith("distillation 1/2") for line in lines)
    assert not any("taken from" in line for line in lines)


def test_a_restart_removes_the_trunk_of_its_own_run_alone(trained, tmp_path):
    trunk = shutil.copy(trained[0] / TRUNK_FILE, tmp_path / TRUNK_FILE)
    broken = tmp_path / "broken.safetensors"
    broken.write_text("mine")
    forget_trunk(trunk, RunState(tmp_path / RUN, "another run"))
    forget_trunk(broken, RunState(tmp_path / RUN, "another run"))
    forget_trunk(tmp_path / "none", RunState(tmp_path / RUN, "another run"))
    assert trunk.is_file()
    assert broken.read_text() == "mine"
    own = read_config(trunk)["distillation"]["run"]
    forget_trunk(trunk, RunState(tmp_path / RUN, own, restart=True))
    assert not trunk.exists()


def test_progress_and_weights_are_of_one_epoch_whenever_a_run_is_killed(tmp_path, monkeypatch):
    """Killed between the two, an epoch would be trained twice."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="dense")])
    model.compile("sgd", "mse")
    state = RunState(tmp_path / RUN, "x")

    def epoch(number):
        model.get_layer("dense").set_weights([np.full((1, 1), float(number)), np.zeros(1)])
        state.progress["epoch"] = number
        state.save(model)

    epoch(1)
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            epoch(2)
    again = RunState(tmp_path / RUN, "x")
    again.restore(model)
    assert again.progress["epoch"] == float(model.get_layer("dense").get_weights()[0][0, 0]) == 1
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_trunk_of_another_recipe_is_refused(trained, cells, teacher, tmp_path):
    out, _ = trained
    other = recipe_for("cnn_attention", {**SMALL, "distillation": {"epochs": 3, "steps_per_epoch": 1, "batch_size": 4}})
    with pytest.raises(DataError, match="not distilled by this recipe"):
        train(
            "cnn_attention",
            cells,
            tmp_path,
            recipe=other,
            teacher=teacher,
            trunk=out / "distilled.safetensors",
            log=lambda text: None,
        )


def test_a_trunk_of_another_architecture_is_refused_before_anything_is_written(trained, cells, teacher, tmp_path):
    """Else the corrected call would be told of an unfinished run with other settings."""
    trunk, out = trained[0] / "distilled.safetensors", tmp_path / "out"
    with pytest.raises(WeightsError, match="are not those of the network 'cnn'"):
        train("cnn", cells, out, recipe=recipe_for("cnn", SMALL), teacher=teacher, trunk=trunk)
    assert not out.exists()


@pytest.mark.graphs
@pytest.mark.parametrize("turned", [False, True])
def test_distillation_imitates_the_teacher_and_leaves_the_last_layer(cells, teacher, recipe, turned):
    student = new_network(recipe, 2, 0)
    before = [np.array(value) for value in student.get_layer("logits").get_weights()]
    pixels = read_arrays(cells, recipe, 0).pixels[0]
    long = dataclasses.replace(recipe.distillation, epochs=4, steps_per_epoch=8, colour=0.2, turned_teacher=turned)
    if turned:
        long = dataclasses.replace(long, pairs=long.pairs[:1])  # one is enough
    history = distil(student, pixels, long, teacher, log=lambda text: None)
    assert all(history[-1][pair] < 0.9 * history[0][pair] for pair in history[0])
    for value, expected in zip(student.get_layer("logits").get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.graphs
def test_a_network_of_the_teachers_layers_learns_to_see_the_same_in_another_stain(cells, teacher):
    changes = {"epochs": 4, "steps_per_epoch": 8, "batch_size": 8, "colour": 0.2, "learning_rate": 0.001}
    recipe = recipe_for("mobilenet", {**RESTAINED, "distillation": {**RESTAINED["distillation"], **changes}})
    student = new_network(recipe, 2, 0)
    pixels = read_arrays(cells, recipe, 0).pixels[0]
    with np.load(teacher) as arrays:
        first = arrays["conv1/kernel"]
    history = distil(student, pixels, recipe.distillation, teacher, log=lambda text: None)
    assert sum(history[-1].values()) < sum(history[0].values())
    learnt = np.asarray(student.get_layer("conv1").kernel)
    assert 0 < np.abs(learnt - first).max() < 0.1 * np.abs(first).max()  # its own weights, not far from where it began
    norm = student.get_layer("conv1_bn")
    np.testing.assert_array_equal(np.asarray(norm.moving_mean), 0)  # as in the teacher


def test_what_the_teacher_sees_turned_is_turned_back():
    maps = np.random.default_rng(0).random((32, 5, 5, 2)).astype("float32")
    coins = np.asarray(distillation._Coins(seed=0)(maps, training=True))
    assert len({tuple(way) for way in coins.reshape(-1, 3).tolist()}) == 8
    chosen = [coins[..., number : number + 1] > 0.5 for number in range(3)]
    shown = np.asarray(turned(maps, chosen))
    assert sum(np.array_equal(one, other) for one, other in zip(shown, maps, strict=True)) < 16
    np.testing.assert_array_equal(np.asarray(turned(shown, chosen, back=True)), maps)


def test_restaining_takes_layers_of_the_teacher(teacher):
    recipe = recipe_for("cnn_attention", SMALL | {"distillation": {"restain": 0.3}})
    with pytest.raises(DataError, match="each layer by itself, but its pairs name block2_pool and conv_pw_3_relu"):
        distil(new_network(recipe, 2, 0), np.zeros((2, 40, 40, 3), np.uint8), recipe.distillation, teacher)


def test_the_teacher_is_checked(teacher, tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_teacher(tmp_path / "none.npz", (40, 40), ["conv_pw_3_relu"])
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(WeightsError, match=r"cut\.npz cannot be read as an \.npz file"):
        load_teacher(tmp_path / "cut.npz", (40, 40), ["conv_pw_3_relu"])
    np.savez(tmp_path / "half.npz", **{"conv1/kernel": np.zeros((3, 3, 3, 32))})
    with pytest.raises(WeightsError, match="lack 'conv1_bn/"):
        load_teacher(tmp_path / "half.npz", (40, 40), ["conv_pw_3_relu"])
    np.savez(tmp_path / "pickle.npz", **{"conv1/kernel": np.array([{}], object)})
    with pytest.raises(WeightsError, match="cannot be read"):
        load_teacher(tmp_path / "pickle.npz", (40, 40), ["conv_pw_3_relu"])
    maps = load_teacher(teacher, (40, 40), ["conv_pw_3_relu", "conv_pw_5_relu"])(np.zeros((1, 40, 40, 3)))
    assert [tuple(value.shape) for value in maps] == [(1, 10, 10, 128), (1, 5, 5, 256)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_command_trains_on_every_backend(cells, teacher, tmp_path, backend):
    variables = environment(backend)
    (tmp_path / "recipe.json").write_text(json.dumps({**SMALL, "fine_tune_epochs": 1}))
    data, run = cells.paths[0].parents[1], tmp_path / "run"

    both = tmp_path / "both.json"  # one process: each begins by importing the backend
    options = ["--out", run, "--teacher", teacher, "--recipe", tmp_path / "recipe.json"]
    trains = ["train", "cnn_attention", "--data", data, *options]
    predicts = ["predict", data, "--model", run, "--csv", tmp_path / "there.csv", "--quiet"]
    both.write_text(json.dumps([trains, predicts], default=str))
    code = "import json, sys; from leukaemia_zoo.cli.app import main; commands = json.load(open(sys.argv[1]))"
    code += "; sys.exit(max(map(main, commands)))"
    done = subprocess.run(
        [sys.executable, "-c", code, both], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "weights: random from seed 0" in done.stdout
    record = json.loads((run / "training.json").read_text())
    assert record["versions"]["backend"] == backend
    assert [row["stage"] for row in record["curves"]] == ["classifier", "classifier", "fine-tuning"]
    rows = _rows(tmp_path / "there.csv")
    found = predict(load_model(run), [row["path"] for row in rows])  # on TensorFlow
    np.testing.assert_allclose(found.probabilities[:, 1], [float(row["p_all"]) for row in rows], atol=1e-3)
    labels = np.array([row["path"].endswith("_all.png") for row in rows], int)
    assert metrics(labels, found.probabilities)["auroc"] > 0.8


# --- initial weights, curves ---


@pytest.fixture(scope="module")
def begun(cells, recipe, trained, tmp_path_factory):
    """Folder of a training without a teacher that began with the weights of another, and the lines it reported."""
    out, lines = tmp_path_factory.mktemp("runs") / "begun", []
    model = train("cnn_attention", cells, out, recipe=recipe, teacher=None, init=trained[0], seed=4, log=lines.append)
    return out, lines, model


def test_a_classifier_is_fitted_on_initial_weights(begun, trained, cells):
    out, lines, model = begun
    source = named_variables(load_model(trained[0]))
    for name, value in named_variables(model).items():
        if not name.startswith(("logits/", "statistics_norm/")):
            np.testing.assert_array_equal(np.asarray(value), np.asarray(source[name]), err_msg=name)
    row = json.loads((trained[0] / "config.json").read_text())
    record = json.loads((out / "training.json").read_text())
    init = {"source": "whole", "sha256": row["sha256"], "manifest_sha256": row["training"]["manifest_sha256"]}
    assert record["init"] == init
    assert record["distillation"] is None
    assert json.loads((out / "config.json").read_text())["training"]["init"] == init
    # What taught the weights is named, and that these people were among it.
    assert record["data"] == row["data"]
    assert "teacher" in [entry["name"] for entry in record["data"]]
    assert f"weights: whole, sha256 {row['sha256']}" in lines
    assert any("of 12 people" in line and "too favourable" in line for line in lines)
    assert {line["stage"] for line in _rows(out / "curves.csv")} == {"classifier"}
    assert not (out / RUN).exists()


def test_the_default_beginning_is_told_and_written_down(trained):
    out, lines = trained
    assert lines[0] == "weights: random from seed 1"
    assert json.loads((out / "training.json").read_text())["init"] == "random"
    assert json.loads((out / "config.json").read_text())["training"]["init"] == "random"
    assert re.search(r"^distillation 1/2: .*, about \d+ (s|min) left$", "\n".join(lines), re.MULTILINE)
    assert {row["stage"] for row in _rows(out / "curves.csv")} == {"distillation", "classifier"}
    assert (out / "curves.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_distillation_goes_on_from_the_initial_weights(trained, cells, teacher, recipe, tmp_path):
    still = dataclasses.replace(recipe.distillation, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    still = dataclasses.replace(recipe, distillation=still)
    trunk = trained[0] / "distilled.safetensors"
    out = tmp_path / "run"
    train("cnn_attention", cells, out, recipe=still, teacher=teacher, init=trunk, log=str.strip)
    ours, theirs, fresh = (new_network(recipe, 2, 0) for _ in range(3))
    load_tensors(ours, out / "distilled.safetensors")
    load_tensors(theirs, trunk)
    ours, theirs, fresh = map(named_variables, (ours, theirs, fresh))
    for layer in ("block1_conv", "block2_conv", "head2_conv"):
        kernel = np.asarray(ours[f"{layer}/kernel"])
        np.testing.assert_allclose(kernel, np.asarray(theirs[f"{layer}/kernel"]), atol=1e-6)
        assert not np.allclose(kernel, np.asarray(fresh[f"{layer}/kernel"]), atol=1e-3)
    record = json.loads((out / "training.json").read_text())
    assert record["init"]["source"] == "distilled.safetensors"
    # A trunk takes its beginning along.
    again = tmp_path / "again"
    given = out / "distilled.safetensors"
    train("cnn_attention", cells, again, recipe=still, teacher=teacher, trunk=given, log=str.strip)
    assert json.loads((again / "training.json").read_text())["init"] == record["init"]


def test_fine_tuning_keeps_the_statistics_of_initial_weights(trained, cells, tmp_path):
    changes = {**SMALL, "distillation": None, "fine_tune_epochs": 1, "fine_tune_learning_rate": 0.01}
    recipe = recipe_for("cnn_attention", changes)
    split = split_by_subject(cells, {"train": 0.66, "validation": 0.34}, 0)
    arrays = read_arrays(cells, recipe, 0)
    state = RunState(tmp_path / "s", "x", False)
    seen = {}

    def keep(trainer):
        seen.update({name: np.array(value) for name, value in named_variables(trainer.layers[-1]).items()})

    state.save = keep  # the network that learns, whatever the validation cells prefer
    fit_network(Training(recipe, cells, arrays, state, 0, silent), split, trained[0] / "distilled.safetensors")
    trunk = new_network(recipe, 2, 0)
    load_tensors(trunk, trained[0] / "distilled.safetensors")
    expected = {name: np.asarray(value) for name, value in named_variables(trunk).items()}
    for name in ("head1_norm/moving_mean", "head1_norm/gamma"):
        np.testing.assert_array_equal(seen[name], expected[name])
    assert not np.allclose(seen["head1_conv/kernel"], expected["head1_conv/kernel"], atol=1e-4)


def test_cross_validation_refuses_weights_that_know_the_people(trained, cells, recipe, tmp_path):
    with pytest.raises(LeakError, match=r"72 of 72 cells must not judge 'whole'.*--init"):
        cross_validate("cnn_attention", cells, tmp_path, folds=2, recipe=recipe, teacher=None, init=trained[0])
    assert not list(tmp_path.iterdir())


def test_cross_validation_begins_with_initial_weights(cells, recipe, tmp_path):
    trunk = tmp_path / "other.safetensors"
    save_tensors(new_network(recipe, 2, 8), trunk)
    out, lines = tmp_path / "out", []
    found = cross_validate(
        "cnn_attention", cells, out, folds=2, recipe=recipe, teacher=None, init=trunk, log=lines.append
    )
    assert lines[0].startswith("weights: other.safetensors, sha256 ")
    assert found.record["init"]["source"] == "other.safetensors"
    assert found.record["distillation"] is None
    # Nothing but a classifier is fitted, so that three folds choose in turn, beside the test part.
    assert len(json.loads((out / "fold_0.json").read_text())["parts"]) == 4
    assert not (out / RUN).exists()


def test_an_unfinished_run_with_another_beginning_is_refused(trained, cells, recipe, tmp_path):
    def stop(text):
        if text.startswith("classifier"):
            raise KeyboardInterrupt

    settings = {"recipe": recipe, "teacher": None, "log": stop}
    with pytest.raises(KeyboardInterrupt):
        train("cnn_attention", cells, tmp_path, init=trained[0], **settings)
    with pytest.raises(DataError, match="beginning"):
        train("cnn_attention", cells, tmp_path, init=trained[0] / "distilled.safetensors", **settings)


def test_a_head_without_statistics_needs_fine_tuning(cells, tmp_path):
    flat = recipe_for("cnn_attention", {**SMALL, "head": "flatten", "distillation": None})
    save_tensors(new_network(flat, 2, 0), tmp_path / "flat.safetensors")
    with pytest.raises(DataError, match="head 'flatten' gives no statistics"):
        train("cnn_attention", cells, tmp_path / "run", recipe=flat, init=tmp_path / "flat.safetensors", log=str.strip)


def test_the_precision_that_was_used_is_written_down(cells, recipe, teacher, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "computing_devices", lambda: ["cpu"])
    monkeypatch.setattr(hardware, "has_bfloat16_instructions", lambda: True)
    settings = {"teacher": teacher, "trunk": trained[0] / "distilled.safetensors", "log": str.strip}
    auto = dataclasses.replace(recipe, precision="auto")
    train("cnn_attention", cells, tmp_path, recipe=auto, **settings)
    for file in ("training.json", "config.json"):
        data = json.loads((tmp_path / file).read_text())
        assert data.get("training", data)["recipe"]["precision"] == "mixed_bfloat16"


def test_recipes_are_checked(tmp_path):
    assert recipe_for("cnn", {"distillation": {"epochs": 1}}).distillation.epochs == 1
    assert recipe_for("cnn", {"distillation": None}).distillation is None
    with pytest.raises(UnknownNameError, match="did you mean batch_size"):
        recipe_for("cnn", {"batchsize": 3})
    with pytest.raises(DataError, match="'batch_size' must be of the kind int"):
        recipe_for("cnn", {"batch_size": "many"})
    with pytest.raises(UnknownNameError, match="did you mean cnn"):
        recipe_for("cn")
    (tmp_path / "recipe.json").write_text("[1]")
    with pytest.raises(DataError, match="not a JSON object"):
        recipe_for("cnn", tmp_path / "recipe.json")


def test_a_new_network_is_the_same_for_the_same_seed(recipe):
    first, second, third = (new_network(recipe, 2, seed).get_weights() for seed in (0, 0, 1))
    keras.utils.set_random_seed(0)  # what seeds any network of Keras
    fourth = build_model("cnn_attention", input_size=40, head="texture", dropout=recipe.dropout).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, fourth, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, third, strict=True))
    assert build_model("cnn_attention", head="texture").count_params() < 1_000_000


@pytest.mark.slow
@pytest.mark.usefixtures("short_adaptation")
def test_all_subjects_teach_and_people_out_of_fold_calibrate(cells, trained_on_others, tmp_path):
    changes = {"fine_tune_epochs": 1, "train_batch_norm": True, "drawn_views": True, "validation_share": 0.0}
    recipe = recipe_for("cnn_attention", {**SMALL, **changes, "distillation": None, "batch_size": 16})
    begun = {
        "recipe": recipe,
        "teacher": None,
        "init": trained_on_others / "distilled.safetensors",
        "log": str.strip,
    }
    found = cross_validate("cnn_attention", cells, tmp_path / "cv", folds=2, **begun)
    assert [set(part["cells"]) for part in found.record["folds"]] == [{"train", "test"}] * 2
    assert sum(part["cells"]["test"] for part in found.record["folds"]) == len(cells)
    assert set(found.record["coverage"]) == {"hem", "all"}
    calibration = json.loads((tmp_path / "cv" / "calibration.json").read_text())
    assert calibration["temperature"] not in {part["temperature"] for part in found.record["folds"]}
    assert calibration["verdict_limits"]["people"] == {"hem": 6, "all": 6}

    model = train("cnn_attention", cells, tmp_path / "all", calibration=tmp_path / "cv", **begun)
    assert model.zoo.temperature == calibration["temperature"]
    assert model.zoo.ood_limit == calibration["ood_limit"]
    loaded = load_model(str(tmp_path / "all"))
    assert loaded.zoo.verdict_limits.to_dict() == calibration["verdict_limits"]
    record = json.loads((tmp_path / "all" / "training.json").read_text())
    assert record["metrics"] == {}
    assert "validation" not in json.loads((tmp_path / "all" / "config.json").read_text())["training"]
    assert [row["stage"] for row in record["curves"]] == ["fine-tuning"]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = read_tensors_of(trained_on_others / "distilled.safetensors", norms[0])
    assert not np.allclose(before, np.asarray(norms[0].moving_mean), atol=1e-3)

    with pytest.raises(DataError, match="--calibration"):
        train("cnn_attention", cells, tmp_path / "none", **begun)
    assert not (tmp_path / "none").exists()
    other = {**begun, "recipe": dataclasses.replace(recipe, zoom=0.2)}
    named = dataclasses.replace(cells, class_names=("hem", "blast"))
    with pytest.raises(DataError, match=r"its classes are 'hem', 'all'.*on these cells"):
        train("cnn_attention", named, tmp_path / "other", calibration=tmp_path / "cv", **begun)
    some = cells.subset(np.arange(1, len(cells)))
    with pytest.raises(DataError, match="1 missing"):
        train("cnn_attention", some, tmp_path / "other", calibration=tmp_path / "cv", **begun)
    with pytest.raises(DataError, match="another recipe"):
        train("cnn_attention", cells, tmp_path / "other", calibration=tmp_path / "cv", **other)
    validated = {**begun, "recipe": dataclasses.replace(recipe, validation_share=0.3)}
    with pytest.raises(DataError, match="validation_share"):
        train("cnn_attention", cells, tmp_path / "validated", calibration=tmp_path / "cv", **validated)


@pytest.mark.slow
@pytest.mark.usefixtures("short_adaptation")
def test_probabilities_for_a_cohort_follow_from_those_for_classes_that_count_alike(cells, trained_on_others, tmp_path):
    few = sorted({subject for subject, label in zip(cells.subjects, cells.labels, strict=True) if label == 0})[:4]
    cells = cells.subset([row for row in range(len(cells)) if cells.labels[row] or cells.subjects[row] in few])
    swapped = [subject in (few[0], "90") for subject in cells.subjects]  # no network tells all of them apart
    cells = dataclasses.replace(cells, labels=np.where(swapped, 1 - cells.labels, cells.labels))
    changes = {"fine_tune_epochs": 1, "train_batch_norm": True, "drawn_views": True, "validation_share": 0.0}
    changes = {**SMALL, **changes, "distillation": None, "batch_size": 16, "balance_classes": True}
    begun = {"teacher": None, "init": trained_on_others / "distilled.safetensors", "log": str.strip}
    odds, heads, temperatures = [], [], []
    for cohort in (False, True):
        begun["recipe"] = recipe_for("cnn_attention", {**changes, "cohort_frequencies": cohort})
        cross_validate("cnn_attention", cells, tmp_path / f"cv_{cohort}", folds=2, **begun)
        rows = _rows(tmp_path / f"cv_{cohort}" / "out_of_fold.csv")
        odds.append(np.array([float(row["p_all"]) / float(row["p_hem"]) for row in rows]))
        model = train("cnn_attention", cells, tmp_path / str(cohort), calibration=tmp_path / f"cv_{cohort}", **begun)
        heads.append(model.get_layer("logits").get_weights())
        temperatures.append(model.zoo.temperature)
    folds = np.array([int(row["fold"]) for row in rows])
    ratio = odds[1] / odds[0]
    for fold in (0, 1):
        taught = cells.labels[folds != fold]
        assert ratio[folds == fold] == pytest.approx(taught.sum() / (len(taught) - taught.sum()), rel=0.02)
    assert ratio.min() > 1
    kernels = [kernel * temperature for (kernel, _), temperature in zip(heads, temperatures, strict=True)]
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-6)
    alike, cohort = (bias * temperature for (_, bias), temperature in zip(heads, temperatures, strict=True))
    share = cells.labels.mean()
    gained = (cohort - alike) / temperatures[1]
    assert gained[1] - gained[0] == pytest.approx(np.log(share / (1 - share)), rel=1e-3)
    begun["recipe"] = recipe_for("cnn_attention", {**changes, "cohort_frequencies": True, "balance_classes": False})
    with pytest.raises(DataError, match="balance_classes to true"):
        cross_validate("cnn_attention", cells, tmp_path / "no", folds=2, **begun)


def read_tensors_of(file, layer):
    model = build_model("cnn_attention", input_size=40, head="texture")
    load_tensors(model, file)
    return np.asarray(model.get_layer(layer.name).moving_mean)


@pytest.mark.usefixtures("short_adaptation")
def test_cells_without_subjects_are_split_by_cell_and_the_record_says_so(others, tmp_path, draw_cell):
    for name, level in (("a", 90), ("b", 150)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            frame = draw_cell(900 + number, 96, 0.25, level)
            Image.fromarray(frame).save(tmp_path / "data" / name / f"{number}.png")
    table = read_data(tmp_path / "data")
    changes = {"fine_tune_epochs": 1, "train_batch_norm": True, "drawn_views": True, "crop_fraction": 0.8}
    recipe = recipe_for("cnn_attention", {**SMALL, **changes, "distillation": None})
    lines = []
    model = train("cnn_attention", table, tmp_path / "out", recipe=recipe, teacher=None, log=lines.append)
    assert any("no subjects" in line for line in lines)
    assert model.zoo.preprocessing.crop_fraction == 0.8
    assert model.zoo.preprocessing.reference_frame is None
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert "people who taught it" in record["metrics"]["validation"]["on"]
    assert model.zoo.verdict_limits.class_names == ("a", "b")
