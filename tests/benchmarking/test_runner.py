"""`benchmark` from images to a report: what it refuses, what is chosen on whom, and how it goes on where it stopped."""

import csv
import dataclasses
import doctest
import json

import keras
import numpy as np
import pytest
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo import benchmark, load_model
from leukaemia_zoo.benchmarking import runner
from leukaemia_zoo.benchmarking.contestants import Candidate, as_candidates
from leukaemia_zoo.benchmarking.judged_cells import MANIFEST_FILE, read_judged_cells
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.common.run_folder import BENCHMARK, RunFolder
from leukaemia_zoo.errors import DataError, LeakError, UnknownNameError
from leukaemia_zoo.evaluation.metrics import metrics
from leukaemia_zoo.report.contents import Contents
from leukaemia_zoo.report.page import as_html
from leukaemia_zoo.report.report import FILES
from leukaemia_zoo.zoo import registry

QUICK = {"resamples": 200, "cost": False}
SHIPPED = sorted(registry.weights())


def by_brightness(frames):
    """P(all) of frames uint8 (N, height, width, 3): bright cells are `all`."""
    found = [frame[frame.max(axis=2) > 0].mean() for frame in frames]
    return 1 / (1 + np.exp((120 - np.array(found)) / 10))


@pytest.fixture(scope="module")
def drawn(draw_cell):
    """48 frames of 12 people, the cells of the last six a little brighter: (frames, labels, subjects)."""
    people = np.arange(48) // 4
    labels = (people >= 6).astype(int)
    levels = 110 + 15 * labels + 4 * (people % 3)
    frames = [
        draw_cell(seed, size=64, radius=0.2 + seed % 7 / 50, level=int(level)) for seed, level in enumerate(levels)
    ]
    return frames, labels, [f"P{person}" for person in people]


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    """The same as files with a CSV that also says the microscope."""
    root = tmp_path_factory.mktemp("cells")
    frames, labels, subjects = drawn
    with (root / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "subject", "Microscope"])
        for number, (frame, label, subject) in enumerate(zip(frames, labels, subjects, strict=True)):
            Image.fromarray(frame).save(root / f"{number}.png")
            writer.writerow([f"{number}.png", ("hem", "all")[label], subject, "AB"[number % 2]])
    return root


# --- what it gives ---


def test_a_callable_is_judged_beside_the_baselines(drawn, tmp_path):
    report = benchmark(by_brightness, drawn, out=tmp_path, **QUICK)
    found = report.to_dict()
    assert list(found["models"]) == ["by_brightness", "majority class", "cell area alone", "background alone"]
    model = found["models"]["by_brightness"]
    expected = metrics(drawn[1], by_brightness(drawn[0]))
    for name, value in expected.items():
        assert model["metrics"][name]["value"] == pytest.approx(value), name
        assert model["metrics"][name]["low"] <= model["metrics"][name]["value"] + 1e-9
    assert found["data"]["unit"] == "subject"
    assert found["data"]["classes"] == {name: {"cells": 24, "subjects": 6} for name in ("class_0", "class_1")}
    assert found["models"]["majority class"]["metrics"]["auroc"]["value"] == 0.5
    assert "these very cells" in found["models"]["majority class"]["overlap"]["told"]
    assert found["models"]["cell area alone"]["overlap"]["told"] == "Fitted on other people."
    assert not model["overlap"]["checked"]
    assert "not known" in model["overlap"]["told"]
    assert len(model["operating_points"]["youden"]["thresholds"]) == 5
    pairs = {(row["a"], row["b"]) for row in found["differences"]}
    assert ("by_brightness", "cell area alone") in pairs
    assert ("majority class", "cell area alone") not in pairs
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert "by_brightness" in str(report)


def test_loaded_models_folders_and_columns_of_the_csv(folder, tiny_folder, tmp_path):
    model = load_model(tiny_folder)
    found = benchmark({"loaded": model, "saved": tiny_folder}, folder / "cells.csv", out=tmp_path, **QUICK).to_dict()
    loaded, saved = found["models"]["loaded"], found["models"]["saved"]
    assert (loaded["kind"], saved["kind"]) == ("keras", "saved")
    assert loaded["metrics"] == saved["metrics"]
    assert found["data"]["class_names"] == ["hem", "all"]
    assert set(loaded["subgroups"]) == {"microscope", "cell size"}
    assert {value: group["cells"] for value, group in loaded["subgroups"]["microscope"].items()} == {"A": 24, "B": 24}
    # The manifest is that of the very files, with its hash.
    assert len(found["data"]["manifest"]["parts"]["evaluation"]["files"]) == 48
    assert (tmp_path / "evaluation.json").is_file()
    assert len(found["data"]["manifest_sha256"]) == 64
    wrong = loaded["worst_cells"]
    assert all(cell["label"] != cell["called"] and cell["png"].startswith("iVBOR") for cell in wrong)
    # Small enough that a page with all of them can be sent by mail.
    assert all(cell["map"].startswith("iVBOR") and len(cell["map"]) < 15_000 for cell in wrong)
    assert 0 < len(wrong) <= 12
    (difference,) = [row for row in found["differences"] if (row["a"], row["b"]) == ("loaded", "saved")]
    assert set(difference["metrics"]["auroc"].values()) == {0.0}


def test_the_classes_of_the_model_decide_the_order(drawn, tiny_folder):
    frames, labels, subjects = drawn
    names = ["all" if label else "hem" for label in labels]
    found = benchmark({"tiny": tiny_folder}, (frames, names, subjects), **QUICK).to_dict()
    assert found["data"]["class_names"] == ["hem", "all"]
    with pytest.raises(DataError, match="cells of the class 'blast', but the models know hem, all"):
        benchmark({"tiny": tiny_folder}, (frames, ["blast"] * 48, subjects), **QUICK)


@pytest.mark.parametrize("spelt", [("Hem", "ALL"), ("ALL", "HEM")])
def test_models_and_data_may_spell_the_classes_otherwise(drawn, tiny_folder, spelt):
    """The second model gives the same columns under other spellings, in the second case in the other order."""
    frames, labels, subjects = drawn
    other = load_model(tiny_folder)
    other.zoo = dataclasses.replace(other.zoo, class_names=spelt)
    data = (frames, ["All" if label else "hem" for label in labels], subjects)
    found = benchmark({"one": load_model(tiny_folder), "other": other}, data, **QUICK).to_dict()
    assert found["data"]["class_names"] == ["hem", "all"]
    one, two = (found["models"][name]["metrics"]["auroc"]["value"] for name in ("one", "other"))
    assert one != pytest.approx(0.5)
    assert two == pytest.approx(one if spelt[0] == "Hem" else 1 - one)


def test_names_of_classes_in_arrays_have_the_order_of_folders_and_csv(drawn, folder):
    frames, labels, subjects = drawn
    names = [("hem", "all")[label] for label in labels]
    files = benchmark(by_brightness, folder / "cells.csv", **QUICK).to_dict()
    # As a list, as pandas gives texts, and as somebody may write them.
    for given in (names, np.array(names, object), [name.upper() for name in names]):
        found = benchmark(by_brightness, (frames, given, subjects), **QUICK).to_dict()
        assert found["data"]["class_names"] == ["hem", "all"]
        assert found["models"]["by_brightness"]["metrics"] == files["models"]["by_brightness"]["metrics"]
    turned = benchmark(by_brightness, (frames, names, subjects), class_names=["all", "hem"], **QUICK).to_dict()
    assert turned["data"]["class_names"] == ["all", "hem"]
    values = [one["models"]["by_brightness"]["metrics"]["auroc"]["value"] for one in (files, turned)]
    assert sum(values) == pytest.approx(1)
    numbered = benchmark(by_brightness, (frames, labels, subjects), class_names=("hem", "all"), **QUICK).to_dict()
    assert numbered["models"]["by_brightness"]["metrics"] == files["models"]["by_brightness"]["metrics"]


def test_the_limits_of_a_model_are_judged_on_these_people(drawn, tiny_folder):
    model = load_model(tiny_folder)
    limits = VerdictLimits(("hem", "all"), (0.05, 0.1), ((0.4, 0.6), (0.3, 0.5)), (9, 9), (0.1, 0.05), 0.2)
    model.zoo = dataclasses.replace(model.zoo, verdict_limits=limits)
    found = benchmark(
        {"with": model, "brightness": by_brightness}, drawn, class_names=["HEM", "ALL"], **QUICK
    ).to_dict()
    judged = found["models"]["with"]["limits"]
    assert {name: (row["promised"], row["people"]) for name, row in judged.items()} == {
        "HEM": (0.1, 6),
        "ALL": (0.05, 6),
    }
    for row in judged.values():
        assert sum(row[kind]["value"] for kind in ("right", "missed", "referred")) == pytest.approx(1)
    assert "limits" not in found["models"]["brightness"]
    for low, told in ((0.0, False), (0.2, True)):
        judged["ALL"]["missed"] = {"value": 0.5, "low": low, "high": 0.8}
        judged["HEM"]["missed"] = {"value": 0.0, "low": 0.0, "high": 0.1}
        page = as_html(Contents(found), "")
        assert "Verdicts where the model may say uncertain" in page
        assert ("misses 0.500 (0.200 to 0.800)" in page) == told


def test_three_classes(drawn):
    frames, _, subjects = drawn
    labels = np.arange(48) // 4 % 3

    def guess(batch):
        return np.tile([0.5, 0.3, 0.2], (len(batch), 1))

    found = benchmark(guess, (frames, labels, subjects), **QUICK).to_dict()
    model = found["models"]["guess"]
    assert set(model["per_class"]) == {"class_0", "class_1", "class_2"}
    assert model["metrics"]["macro_f1"]["value"] < 0.4
    assert model["operating_points"] is None


def test_without_subjects_the_intervals_are_over_cells_and_it_says_so(drawn):
    found = benchmark(by_brightness, drawn[:2], **QUICK).to_dict()
    assert found["data"]["unit"] == "cell"
    assert found["models"]["by_brightness"]["per_subject"] is None
    assert found["data"]["subjects"] is None
    assert {row["subjects"] for row in found["data"]["classes"].values()} == {None}
    empty = benchmark(by_brightness, (*drawn[:2], [float("nan")] * 48), **QUICK)
    assert empty.to_dict()["models"] == found["models"]
    assert "0 subjects" not in str(empty)


def test_numbers_beside_an_empty_field_are_names_of_subjects_still(drawn):
    read = read_judged_cells((drawn[0][:4], drawn[1][:4], [11.0, np.float32("nan"), " P2 ", ""]), None)
    assert read.subjects == ("11", None, "P2", None)


def test_too_few_subjects_to_choose_on_others(drawn):
    frames, labels, _ = drawn
    subjects = ["one" if label else "two" for label in labels]
    found = benchmark(by_brightness, (frames, labels, subjects), **QUICK).to_dict()
    assert list(found["models"]) == ["by_brightness"]
    assert "too few subjects" in found["settings"]["choices"]
    assert any("There are no baselines" in note for note in found["data"]["notes"])


def test_choices_on_validation_cells_of_other_people(drawn):
    frames, labels, subjects = drawn
    first = [row for row in range(48) if row % 24 < 12]
    rest = [row for row in range(48) if row % 24 >= 12]
    one, other = ([[column[row] for row in rows] for column in (frames, labels, subjects)] for rows in (first, rest))
    found = benchmark(by_brightness, tuple(one), validation=tuple(other), **QUICK).to_dict()
    assert len(found["models"]["by_brightness"]["operating_points"]["youden"]["thresholds"]) == 1
    with pytest.raises(LeakError, match=r"validation cells share 6 subjects \(P0, .*identical images"):
        benchmark(by_brightness, tuple(one), validation=tuple(one), **QUICK)


def test_costs_that_cannot_be_measured_lose_no_figures(drawn, monkeypatch):
    def only_black_backgrounds(batch):
        assert (batch[:, 0, 0] == 0).all(), "no black background"
        assert len(batch) <= 64, "too many"
        return by_brightness(batch)

    calls = []

    def breaks_after_its_predictions(batch):
        calls.append(len(batch))
        return by_brightness(batch) if sum(calls) <= 48 else 1 / 0

    models = {"real": only_black_backgrounds, "broken": breaks_after_its_predictions}
    monkeypatch.setattr("leukaemia_zoo.benchmarking.cost._LEAST_SECONDS", 0.0)
    found = benchmark(models, drawn, resamples=200, baselines=False).to_dict()
    assert found["models"]["real"]["cost"]["latency_ms"]["median"] > 0
    assert found["models"]["broken"]["cost"] is None
    assert found["models"]["broken"]["metrics"] == found["models"]["real"]["metrics"]
    assert any("The cost of 'broken' could not be measured" in note for note in found["data"]["notes"])


# --- what it refuses ---


BAD_OUTPUTS = {
    "NaN": (lambda batch: np.full((len(batch), 2), np.nan), "'model' gave NaN"),
    "a wrong number of classes": (lambda batch: np.full((len(batch), 3), 1 / 3), r"'model' gave the shape \(48, 3\)"),
    "rows that do not sum to 1": (lambda batch: np.full((len(batch), 2), 0.4), "'model' sum to 0.8"),
    "logits": (lambda batch: np.full((len(batch), 2), -3.0), "'model' looks like logits"),
    "too few rows": (lambda batch: np.full((1, 2), 0.5), r"'model' gave an array of the shape \(1, 2\) for 32 images"),
    "a text": (lambda batch: "all", "'model' failed on a batch"),
    "an error": (lambda batch: 1 / 0, r"'model' failed on a batch of the shape \(32, 64, 64, 3\): ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_a_callable_that_gives_no_probabilities_is_refused_by_name(kind, drawn):
    call, told = BAD_OUTPUTS[kind]
    with pytest.raises(DataError, match=told):
        benchmark({"model": call}, drawn, **QUICK)


def test_a_model_is_not_judged_on_its_own_training_cells(folder, tiny_folder, tmp_path):
    """A planted leak: the manifest beside the model names half of the cells."""
    cells = lz.read_data(folder / "cells.csv")
    model = tmp_path / "model"
    lz.save_model(load_model(tiny_folder), model)
    lz.cells.save_manifest(model / "split.json", cells, lz.cells.Split({"train": tuple(range(0, 48, 4))}, 0, "by hand"))
    with pytest.raises(LeakError, match=r"48 of 48 cells must not judge 'mine': 48 are .*12 are identical"):
        benchmark({"mine": model}, cells, **QUICK)
    with pytest.raises(LeakError, match="48 of 48"):
        benchmark({"mine": model}, cells, out=tmp_path / "refused", **QUICK)
    assert not (tmp_path / "refused").exists()
    lz.cells.save_manifest(model / "split.json", cells, lz.cells.Split({"train": (0, 1, 4, 26)}, 0, "by hand"))
    with pytest.raises(LeakError, match=r"12 of 48 cells must not judge 'mine': 12 are of 3 people .*\(P0, P1, P6\)"):
        benchmark({"mine": model, "other": by_brightness}, cells, **QUICK)
    found = benchmark({"mine": model, "other": by_brightness}, cells, exclude_overlap=True, **QUICK).to_dict()
    assert found["data"]["excluded"]["cells"] == 12
    assert (found["data"]["excluded"]["subjects"], found["data"]["cells"]) == (3, 36)
    assert {row["subject"] for row in found["models"]["other"]["per_subject"]}.isdisjoint({"P0", "P1", "P6"})


@pytest.mark.skipif(not SHIPPED, reason="no weight is shipped yet")
def test_a_shipped_weight_is_not_judged_on_its_own_patients(shared_data, tmp_path):
    cells = lz.cells.read_cnmc(shared_data / "cnmc_original")
    with pytest.raises(LeakError, match=r"60 of 60 cells .*31 people .*60 are identical .*--cross-validate 5"):
        benchmark("cnn", cells, **QUICK)
    with pytest.raises(LeakError, match="Nothing is left to judge on"):
        benchmark("cnn", cells, exclude_overlap=True, **QUICK)
    # Nor under other names: as an unnamed set of files, and as arrays.
    frames = [lz.cells.read_image(path) for path in cells.paths[:4]]
    with pytest.raises(LeakError, match=r"4 of 4 cells .*4 are identical"):
        benchmark("cnn", (frames, ["hem", "all", "hem", "all"]), **QUICK)


@pytest.mark.skipif("cnn.cnmc" not in SHIPPED, reason="the weight is not shipped yet")
def test_what_taught_the_zoo_is_remembered_in_copies_and_further_trainings(drawn, folder, shared_data, tmp_path):
    cells = lz.cells.read_cnmc(shared_data / "cnmc_original")
    model = load_model("cnn")
    assert as_candidates([model])[0].trained.gaps == ()
    lz.save_model(model, tmp_path / "copy")
    assert as_candidates([str(tmp_path / "copy")])[0].trained.gaps == ()
    with pytest.raises(LeakError, match="60 of 60 cells"):
        benchmark({"copy": tmp_path / "copy"}, cells, **QUICK)
    # Fine-tuned on own cells: the people of both trainings are known to it.
    own = lz.read_data(folder / "cells.csv")
    (tmp_path / "tuned").mkdir()
    digest = lz.cells.save_manifest(
        tmp_path / "tuned" / "split.json", own, lz.cells.Split({"train": (0, 1)}, 0, "by hand")
    )
    begun = {"source": "cnn.cnmc", "sha256": registry.weights()["cnn.cnmc"].sha256}
    lz.save_model(model, tmp_path / "tuned", training={"manifest_sha256": digest, "init": begun})
    with pytest.raises(LeakError, match="60 of 60 cells"):
        benchmark({"tuned": tmp_path / "tuned"}, cells, **QUICK)
    with pytest.raises(LeakError, match=r"4 of 48 cells must not judge 'tuned': 4 are of 1 people .*\(P0\)"):
        benchmark({"tuned": tmp_path / "tuned"}, own, **QUICK)
    # Trained further in memory: on whom, nobody can know.
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([1.3 * kernel, bias])
    frames, labels, subjects = drawn
    names = [("hem", "all")[label] for label in labels]
    found = benchmark({"mine": model}, (frames, names, subjects), baselines=False, **QUICK).to_dict()
    overlap = found["models"]["mine"]["overlap"]
    assert not overlap["checked"]
    assert "what taught them since is not known" in overlap["told"]
    with pytest.raises(LeakError, match="60 of 60 cells"):
        benchmark({"mine": model}, cells, **QUICK)


def test_the_whole_person_is_left_out_whose_image_was_trained_on(drawn, folder, tiny_folder, tmp_path):
    cells = lz.read_data(folder / "cells.csv")
    lz.save_model(load_model(tiny_folder), tmp_path)
    lz.cells.save_manifest(tmp_path / "split.json", cells, lz.cells.Split({"train": (0, 4, 26)}, 0, "by hand"))
    frames, labels, subjects = drawn
    names = [("hem", "all")[label] for label in labels]
    other = (frames, names, [f"Q{name}" for name in subjects])
    with pytest.raises(LeakError, match=r"12 of 48 cells .*12 are of 3 people .*\(QP0, QP1, QP6\), 3 are identical"):
        benchmark({"mine": tmp_path}, other, **QUICK)
    found = benchmark({"mine": tmp_path}, other, exclude_overlap=True, **QUICK).to_dict()
    assert (found["data"]["cells"], found["data"]["subjects"]) == (36, 9)
    excluded = found["data"]["excluded"]
    assert (excluded["cells"], excluded["subjects"]) == (12, 3)


def test_mistakes_in_the_call(drawn, folder, tiny_folder, tmp_path):
    for models, told in (
        ([], "There is no model to judge"),
        ([by_brightness, by_brightness], "Two models are called 'by_brightness'"),
        ([3], "3 is no model"),
    ):
        with pytest.raises(DataError, match=told):
            benchmark(models, drawn, **QUICK)
    with pytest.raises(UnknownNameError, match="did you mean"):
        benchmark("cnn_atention", drawn, **QUICK)
    with pytest.raises(DataError, match="The data is a int"):
        benchmark(by_brightness, 3, **QUICK)
    with pytest.raises(DataError, match="The labels have the shape"):
        benchmark(by_brightness, (drawn[0], [1]), **QUICK)
    with pytest.raises(DataError, match="There is no column 'colour' to report by: the data has microscope"):
        benchmark({"tiny": tiny_folder}, folder / "cells.csv", subgroups=["colour"], **QUICK)
    with pytest.raises(DataError, match="called 'cell area alone', like a baseline"):
        benchmark({"cell area alone": by_brightness}, drawn, **QUICK)
    named = benchmark({"cell area alone": by_brightness}, drawn, baselines=False, **QUICK).to_dict()
    assert named["models"]["cell area alone"]["kind"] == "callable"
    plain = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(DataError, match="wrap it in a function"):
        benchmark({"mine": plain}, drawn, **QUICK)
    with pytest.raises(DataError, match=r"labels have the shape \(48,\) and dtype object"):
        benchmark(by_brightness, (drawn[0], ["hem", None] * 24), **QUICK)
    with pytest.raises(DataError, match="leave out either"):
        benchmark(by_brightness, drawn, validation=drawn, refit_folds=2, **QUICK)
    told = []
    with pytest.raises(DataError, match="'by_brightness' cannot be cross-validated"):
        benchmark(
            {"cnn": "cnn", "by_brightness": by_brightness},
            folder / "cells.csv",
            tmp_path / "new",
            refit_folds=2,
            log=told.append,
            **QUICK,
        )
    assert not any("fitted again" in line for line in told), "the first was fitted before the second was looked at"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prevalence": 2}, "prevalence is 2"),
        ({"level": 2}, "level is 2"),
        ({"choice_folds": 1}, "choice_folds is 1"),
        ({"resamples": 0}, "resamples is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"refit_folds": 1}, "refit_folds is 1"),
        ({"subgroups": ["colour"]}, "no column 'colour'"),
        ({"class_names": "hem"}, "class_names is 'hem'"),
        ({"class_names": ("hem", "hem")}, "class_names is"),
    ],
)
def test_settings_are_checked_before_anything_is_predicted(options, told, drawn, tmp_path):
    def never(batch):
        raise AssertionError("it was asked")

    with pytest.raises(DataError, match=told):
        benchmark(never, drawn, out=tmp_path / "deep" / "out", **{**QUICK, **options})
    assert not list(tmp_path.iterdir())


def test_data_is_checked_before_anything_is_predicted(drawn, tmp_path):
    def never(batch):
        raise AssertionError("it was asked")

    frames, labels, subjects = drawn
    with pytest.raises(DataError, match="1 of 48 cells have no subject"):
        benchmark(never, (frames, labels, [None, *subjects[1:]]), out=tmp_path / "out", **QUICK)
    with pytest.raises(LeakError, match="validation cells share 12 subjects"):
        benchmark(never, drawn, validation=drawn, out=tmp_path / "out", **QUICK)
    assert not list(tmp_path.iterdir())


def test_copies_of_a_cell_are_told_and_not_counted_in_silence(drawn):
    frames, labels, subjects = drawn
    again = ([*frames, *frames[:3]], [*labels, *labels[:3]], [*subjects, subjects[0], "P90", "P91"])
    notes = benchmark(by_brightness, again, **QUICK).to_dict()["data"]["notes"]
    assert notes == [
        "3 cells are copies of others by their pixels (images[48] = images[0]), 2 of them under another subject, "
        "who may be the same person: each counts, so that intervals are too narrow."
    ]


def test_an_empty_label_is_no_class(drawn):
    labels = [float("nan"), *(("hem", "all")[label] for label in drawn[1][1:])]  # which NumPy makes the text "nan"
    with pytest.raises(DataError, match=r"images\[0\] has no label"):
        benchmark(by_brightness, (drawn[0], labels), **QUICK)


def test_an_image_with_two_labels_is_refused(drawn):
    frames, labels, subjects = drawn
    with pytest.raises(DataError, match=r"images\[0\] \('class_0'\) and images\[48\] \('class_1'\) are the same image"):
        benchmark(by_brightness, ([*frames, frames[0]], [*labels, 1 - labels[0]], [*subjects, subjects[0]]), **QUICK)


def test_a_refused_call_leaves_no_folders(folder, tiny_folder, tmp_path):
    cells, model = lz.read_data(folder / "cells.csv"), tmp_path / "model"
    lz.save_model(load_model(tiny_folder), model)
    lz.cells.save_manifest(model / "split.json", cells, lz.cells.Split({"train": (0,)}, 0, "by hand"))
    with pytest.raises(LeakError):
        benchmark({"mine": model}, cells, out=tmp_path / "deep" / "out", **QUICK)
    assert not (tmp_path / "deep").exists()


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(runner)
    assert result.attempted >= 4
    assert not result.failed


# --- long runs ---


def test_an_interrupted_run_goes_on_where_it_was(folder, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("leukaemia_zoo.benchmarking.contestants._CHUNK", 10)
    seen = []

    def stop_at_25(done, total):
        seen.append(done)
        if done == 25:
            raise KeyboardInterrupt

    arguments = {"models": {"tiny": tiny_folder}, "data": folder / "cells.csv", "out": tmp_path, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        benchmark(**arguments, progress=stop_at_25)
    assert not (tmp_path / "report.json").exists()
    seen.clear()
    resumed = benchmark(**arguments, progress=lambda done, total: seen.append(done)).to_dict()
    assert seen[0] == 21  # two whole chunks were kept
    whole = benchmark(**{**arguments, "out": None}).to_dict()
    assert resumed["models"]["tiny"]["metrics"] == whole["models"]["tiny"]["metrics"]
    assert not (tmp_path / BENCHMARK).exists()


def test_a_run_goes_on_only_with_the_same_order_of_the_classes(drawn, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("leukaemia_zoo.benchmarking.contestants._CHUNK", 10)
    frames, labels, subjects = drawn
    data = (frames, [("hem", "all")[label] for label in labels], subjects)

    def stop(done, total):
        if done == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark({"tiny": tiny_folder}, data, out=tmp_path, progress=stop, **QUICK)
    turned = {"models": {"tiny": tiny_folder}, "data": data, "class_names": ("all", "hem"), **QUICK}
    resumed, whole = benchmark(**turned, out=tmp_path).to_dict(), benchmark(**turned).to_dict()
    assert resumed["models"]["tiny"]["metrics"] == whole["models"]["tiny"]["metrics"]


def test_restart_begins_anew(folder, tiny_folder, tmp_path):
    kept = RunFolder(tmp_path / BENCHMARK)
    kept.save_json("old.json", 1)
    kept.inside("old").save_json("old.json", 1)
    arguments = ["benchmark", tiny_folder, "--data", folder / "cells.csv", "--out", tmp_path, "--no-cost", "--restart"]
    seen = []

    def look(self, *rest):
        seen.append((tmp_path / BENCHMARK).exists())
        return predict(self, *rest)

    predict = Candidate.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Candidate, "predict", look)
        assert main([*map(str, arguments), "--resamples", "50"]) == 0
    assert seen == [False]


def test_what_another_model_left_is_not_taken(drawn, tiny_folder, tmp_path):
    cells = read_judged_cells(drawn, ("hem", "all"))
    model = load_model(tiny_folder)
    state = RunFolder(tmp_path / BENCHMARK)
    first = Candidate("tiny", "keras", model=model).predict(cells, 32, state, "tiny", None)
    kernel = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([2 * kernel[0], kernel[1]])
    second = Candidate("tiny", "keras", model=model).predict(cells, 32, state, "tiny", None)
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
@pytest.mark.skipif("cnn_attention.cnmc" not in SHIPPED, reason="the weight is not shipped yet")
def test_a_recipe_is_judged_on_unseen_people(folder, tmp_path):
    found = benchmark("cnn_attention", folder / "cells.csv", refit_folds=6, out=tmp_path, **QUICK).to_dict()
    model = found["models"]["cnn_attention"]
    assert model["kind"] == "cross-validated"
    assert "learnt without labels on pbc" in model["overlap"]["told"]
    assert model["metrics"]["auroc"]["value"] > 0.6  # the bright cells are easy to tell
    for fold in model["about"]["folds"]:
        assert fold["subjects"]["test"] == 2
    assert "cell area alone" in found["models"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((MANIFEST_FILE, *FILES))


# --- the command line ---


def test_the_command_writes_a_report(folder, tiny_folder, tmp_path, capsys, monkeypatch):
    # Memory is measured in processes of their own: `test_each_backend_measures_a_folder`.
    monkeypatch.setattr("leukaemia_zoo.benchmarking.cost.peak_memory", lambda name, path, count: (100.0, 50.0))
    arguments = [
        "benchmark",
        tiny_folder,
        "--data",
        folder / "cells.csv",
        "--out",
        tmp_path / "out",
        "--resamples",
        "100",
    ]
    assert main([*map(str, arguments), "--resamples", "100", "--prevalence", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "cell area alone" in printed
    assert f"{tmp_path / 'out' / 'report.html'}" in printed
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    model = found["models"][str(tiny_folder)]
    assert model["predictive_values"]["prevalence"] == 0.01
    assert model["cost"]["parameters"] == load_model(tiny_folder).count_params()
    assert model["cost"]["latency_ms"]["median"] > 0


def test_a_mistake_on_the_command_line_is_one_sentence(folder, tmp_path, capsys):
    assert main(["benchmark", "cnn_atention", "--data", str(folder), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "did you mean cnn_attention" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()
