"""The report of a benchmark: what it says, that nothing written by others breaks it, and that a browser shows it."""

import base64
import copy
import csv
import doctest
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import Report, benchmark
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.evaluation.calibration import calibration_slope_intercept, reliability
from leukaemia_zoo.evaluation.intervals import bootstrap_over_subjects, paired_difference
from leukaemia_zoo.evaluation.metrics import called_classes, metrics, per_subject
from leukaemia_zoo.report import contents
from leukaemia_zoo.report import report as report_module
from leukaemia_zoo.report.contents import Contents
from leukaemia_zoo.report.report import FILES
from leukaemia_zoo.report.tables import tables

# --------------------------------------------------------------------------------------------------------------------
# Made-up reports


def picture(seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] - 31.5
    frame = np.where((np.hypot(x, y) < 20)[..., None], rng.integers(90, 200, (64, 64, 3)), 0).astype(np.uint8)
    drawn = io.BytesIO()
    Image.fromarray(frame).save(drawn, "PNG")
    return base64.b64encode(drawn.getvalue()).decode()


def intervals_of(bootstrap):
    return bootstrap.to_dict()["intervals"]


def made_up(networks=2, class_names=("hem", "all"), subjects=24, seed=0, baselines=("majority class", "cell area")):
    """A complete report of cells that were never seen: the figures belong together, the cells do not exist."""
    rng = np.random.default_rng(seed)
    classes = len(class_names)
    sizes = rng.integers(8, 60, subjects)
    owner = np.repeat(np.arange(subjects), sizes)
    labels = (np.arange(subjects) % 3 % classes if classes > 2 else (np.arange(subjects) % 3 > 0).astype(int))[owner]
    names = [f"{'H' if (index % 3) == 0 else ''}{index + 1}" for index in range(subjects)]
    owners = [names[index] for index in owner]
    hard = rng.normal(0, 0.9, subjects)[owner]

    def probabilities(skill, sharpness=1.0):
        logits = skill * np.eye(classes)[labels] + rng.normal(0, 1.2, (len(labels), classes))
        logits[np.arange(len(labels)), labels] += hard * (skill > 0)
        exponents = np.exp(sharpness * logits)
        return exponents / exponents.sum(axis=1, keepdims=True)

    known = ["cnn.cnmc", "cnn_attention.cnmc", "my_resnet", "a_callable"]
    known += [f"network_number_{index}.somewhere" for index in range(5, 20)]
    predicted = {name: probabilities(1.9 - 0.13 * index, 1.6) for index, name in enumerate(known[:networks])}
    for index, name in enumerate(baselines):
        constant = np.tile(np.bincount(labels, minlength=classes) / len(labels), (len(labels), 1))
        predicted[name] = constant if index == 0 else probabilities(0.9)
    kinds = ["zoo", "zoo", "keras", "callable", "cross-validated"]
    models = {}
    for index, (name, p) in enumerate(predicted.items()):
        kind = "baseline" if name in baselines else kinds[index % len(kinds)]
        models[name] = made_up_model(name, kind, labels, p, owners, class_names, index)
    pairs = [(a, b) for a in [*predicted][:networks] for b in predicted if a != b and (b in baselines or a < b)]
    differences = [
        {
            "a": a,
            "b": b,
            "metrics": intervals_of(paired_difference(labels, predicted[a], predicted[b], owners, resamples=60)),
        }
        for a, b in pairs
    ]
    counts = {
        name: {"cells": int((labels == k).sum()), "subjects": len({owners[row] for row in np.flatnonzero(labels == k)})}
        for k, name in enumerate(class_names)
    }
    return {
        "schema": 1,
        "leukaemia_zoo": "0.1.0",
        "data": {
            "source": "made-up cells",
            "cells": len(labels),
            "subjects": subjects,
            "unit": "subject",
            "class_names": list(class_names),
            "classes": counts,
            "manifest_sha256": "ab" * 32,
            "manifest": {"files": 3},
            "notes": ["Subject 7 was stained twice."],
            "excluded": {"cells": 12, "subjects": 1, "why": "cnn.cnmc was trained on them"},
        },
        "settings": {
            "resamples": 60,
            "seed": 0,
            "level": 0.95,
            "prevalence": None,
            "folds": 5,
            "choices": "Thresholds and temperatures were chosen on other subjects than they are judged on.",
        },
        "environment": {"python": "3.11.7", "keras": "3.8.0", "backend": "tensorflow", "cores": 2},
        "models": models,
        "differences": differences,
        "timing": {"total_s": 61.5, "predict_s": 48.25, "bootstrap_s": 9.75},
    }


def made_up_model(name, kind, labels, p, owners, class_names, index):
    called = called_classes(p)
    classes = len(class_names)
    found = intervals_of(bootstrap_over_subjects(labels, p, owners, resamples=60))
    if kind == "baseline" and index % 2 == 0:
        found["mcc"] = {"value": None, "low": None, "high": None}
    rows = per_subject(labels, p, owners, list(class_names))
    for row in rows:
        row["right"] = row["share_correct"] >= 0.5
        row["verdict"] = row["label"] if row["right"] else "unsure"
    softer = p**0.7 / (p**0.7).sum(axis=1, keepdims=True)

    def calibration(values):
        measured = metrics(labels, values)
        slope, intercept = calibration_slope_intercept(labels, values) if classes == 2 else (None, None)
        wide = {"slope": (slope, 0.2), "intercept": (intercept, 0.3)}
        bins = [{**row, "accuracy": row.pop("observed")} for row in reliability(labels, values, 10)]
        return {
            **{
                key: {"value": measured[key], "low": measured[key] * 0.8, "high": measured[key] * 1.3}
                for key in ("ece", "brier", "log_loss")
            },
            **{key: {"value": v, "low": v - w, "high": v + w} for key, (v, w) in wide.items() if v is not None},
            "bins": bins,
        }

    order = np.argsort(-p[:, -1])
    hits = (labels == classes - 1)[order]
    tpr, fpr = np.cumsum(hits) / hits.sum(), np.cumsum(~hits) / (~hits).sum()
    wrong = np.flatnonzero(called != labels)
    wrong = wrong[np.argsort(-p[wrong, called[wrong]])][:6]
    is_baseline = kind == "baseline"
    scale = 4.0**index
    halves = {"bright": np.arange(len(labels)) % 2 == 0, "dark": np.arange(len(labels)) % 2 == 1}
    return {
        "kind": kind,
        "about": {}
        if is_baseline
        else {"weight": name, "licence": "Apache-2.0", "origin": "https://example.org/weights"},
        "overlap": {
            "checked": is_baseline or kind == "zoo",
            "told": "judged in folds by subject"
            if is_baseline
            else f"No subject of '{name}' is among these."
            if kind == "zoo"
            else f"What '{name}' was trained on is not known.",
        },
        "metrics": found,
        "predictive_values": {
            "prevalence": 0.67,
            "stated": index % 2 == 0,
            "ppv": {"value": 0.9, "low": 0.8, "high": 0.95},
            "npv": {"value": 0.7, "low": None, "high": None},
        },
        "per_class": {
            label: {
                "cells": int((labels == k).sum()),
                "subjects": 3 + k,
                "precision": 0.8,
                "recall": {"value": 0.7, "low": 0.6, "high": 0.8},
                "f1": 0.75,
                "auroc": None,
            }
            for k, label in enumerate(class_names)
        },
        "confusion": [[int(((labels == t) & (called == c)).sum()) for c in range(classes)] for t in range(classes)],
        "operating_points": {
            "sensitivity at least 0.95": {
                "thresholds": [0.31, 0.29],
                "chosen_on": "other folds",
                "reached": index % 2 == 0,
                "metrics": {key: found[key] for key in ("sensitivity", "specificity") if key in found},
            }
        },
        "calibration": {"before": calibration(p), "after": {**calibration(softer), "temperatures": [1.41, 1.44]}},
        "per_subject": rows,
        "worst_subject": min(rows, key=lambda row: row["share_correct"]),
        "subject_verdicts": {
            "right": sum(row["right"] for row in rows),
            "unsure": 2,
            "share": {"value": 0.9, "low": 0.8, "high": 1.0},
        },
        "subgroups": {
            "stain": {
                value: {"cells": int(rows_of.sum()), "subjects": 9, "metrics": metrics(labels[rows_of], p[rows_of])}
                for value, rows_of in halves.items()
            }
        },
        "curves": {
            "roc": {"fpr": [0, *fpr.tolist()], "tpr": [0, *tpr.tolist()]},
            "pr": {
                "recall": tpr[::-1].tolist(),
                "precision": (np.cumsum(hits) / (1 + np.arange(len(hits))))[::-1].tolist(),
            },
        },
        "worst_cells": [
            {
                "path": f"fold_0/UID_{row}.bmp",
                "subject": owners[row],
                "label": class_names[labels[row]],
                "called": class_names[called[row]],
                "probability": float(p[row, called[row]]),
                "png": picture(int(row)) if place else None,
                "map": picture(int(row) + 1) if place > 1 and not is_baseline else None,
            }
            for place, row in enumerate(wrong)
        ],
        "cost": None
        if is_baseline
        else {
            "parameters": int(65_000 * scale),
            "flops": int(2.1e7 * scale),
            "file_bytes": int(270_000 * scale),
            "load_s": {"median": 0.9, "low": 0.8, "high": 1.2},
            "latency_ms": {"median": 3.2 * scale**0.5, "low": 3.0 * scale**0.5, "high": 4.1 * scale**0.5},
            "throughput": {"median": 812 / scale**0.5, "low": 700 / scale**0.5, "high": 850 / scale**0.5},
            "best_batch": 64,
            "peak_memory_mb": 410.5,
            "of_which_backend_mb": 301,
            "views": 8,
        },
    }


@pytest.fixture(scope="module")
def data():
    return made_up()


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """Folder with the four files of a made-up report."""
    return Report(data).save(tmp_path_factory.mktemp("report"))


HOSTILE = "</style><script>alert(1)</script> | a\n\"b' & <img src=http://x.y/z>"


class Parsed(html.parser.HTMLParser):
    """A page that is well-formed, and what is in it."""

    void = frozenset({"meta", "link", "img", "br", "hr", "path", "use", "rect", "circle", "line", "stop", "wbr"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.text.append(text)


# --------------------------------------------------------------------------------------------------------------------
# Data


def test_what_is_saved_comes_back(data, saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    for place in (saved, saved / "report.json"):
        assert Report.load(place).to_dict() == Report(data).to_dict()
    assert json.loads((saved / "report.json").read_text())["models"].keys() == data["models"].keys()


def test_a_report_does_not_change_with_the_data_it_was_made_of(data):
    given = copy.deepcopy(data)
    report = Report(given)
    given["models"].clear()
    report.to_dict()["models"].clear()
    assert len(report.to_dict()["models"]) == 4


@pytest.mark.parametrize("given", [{}, {"schema": 2}, {"schema": True}, [], None, {"schema": 1, "x": object()}])
def test_what_is_no_report_is_refused(given):
    with pytest.raises(DataError, match=r"not a benchmark report|holds what JSON cannot"):
        Report(given)


def test_files_that_are_no_report(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(DataError, match="not a benchmark report"):
        Report.load(tmp_path)


def test_numbers_that_nobody_measured_are_gaps(tmp_path, data):
    (tmp_path / "report.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is not JSON"):
        Report.load(tmp_path)
    for absurd in (10**400, 1e308):
        report = Report({"schema": 1, "models": {"a": {"metrics": {"auroc": {"value": absurd, "low": -absurd}}}}})
        assert "not defined" in report.table()


def test_numbers_that_are_not_finite_become_none():
    report = Report({"schema": 1, "models": {"a": {"metrics": {"auroc": {"value": float("nan"), "low": 1.0}}}}})
    assert report.to_dict()["models"]["a"]["metrics"]["auroc"]["value"] is None
    assert "not defined" in report.table()


def test_a_data_frame_has_one_row_a_model_and_metric(data):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = Report(data).to_pandas()
    assert list(frame.columns) == ["model", "kind", "metric", "value", "low", "high"]
    assert len(frame) == sum(len(model["metrics"]) for model in data["models"].values())
    row = frame[(frame.model == "cnn.cnmc") & (frame.metric == "auroc")].iloc[0]
    assert row.value == pytest.approx(data["models"]["cnn.cnmc"]["metrics"]["auroc"]["value"])
    assert frame.value.dtype == "float64"
    assert pandas.isna(frame[(frame.model == "majority class") & (frame.metric == "mcc")].value).all()


def test_without_pandas_one_sentence_says_how_to_get_it(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        Report(data).to_pandas()


def test_two_reports_are_compared(data):
    other = copy.deepcopy(data)
    other["models"]["cnn.cnmc"]["metrics"]["auroc"]["value"] = 0.5
    other["models"]["new"] = other["models"].pop("cell area")
    other["settings"]["seed"] = 7
    found = Report(data).compare(Report(other))
    now = data["models"]["cnn.cnmc"]["metrics"]["auroc"]["value"]
    assert found.changes["cnn.cnmc"]["auroc"] == (0.5, now)
    assert (found.same_data, found.only_here, found.only_there) == (True, ("cell area",), ("new",))
    assert found.settings == {"seed": (7, 0)}
    assert f"0.500 -> {now:.3f}" in str(found)
    other["data"]["manifest_sha256"] = "cd" * 32
    assert "different cells" in str(Report(data).compare(Report(other)))
    json.dumps(found.to_dict(), allow_nan=False)


# --------------------------------------------------------------------------------------------------------------------
# Text


def test_the_table_of_the_terminal(data):
    table = Report(data).table()
    assert max(map(len, table.splitlines())) <= 110
    found = data["models"]["cnn.cnmc"]["metrics"]
    for metric in ("auroc", "weighted_f1", "accuracy", "log_loss"):
        value = found[metric]
        assert f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" in table, metric
    assert all(name in table for name in data["models"])


def test_the_csv_has_every_interval(data, saved):
    with (saved / "report.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["model"], row["block"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for name, model in data["models"].items():
        for metric, value in model["metrics"].items():
            told = found[name, "metrics", metric]["value"]
            assert (float(told) if told else None) == value["value"]
    blocks = " ".join({row["block"] for row in rows})
    assert all(block in blocks for block in ("calibration", "subgroup", "operating", "cost"))


def test_the_markdown_has_tables_of_one_width(data, saved):
    text = (saved / "report.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "not a diagnosis" in text


# --------------------------------------------------------------------------------------------------------------------
# The page


@pytest.mark.parametrize(
    "kind",
    ["complete", "three classes", "many models", "minimal", "no models"],
    ids=lambda kind: kind.replace(" ", "-"),
)
def test_the_page_is_well_formed_and_asks_nobody(kind):
    given = {
        "complete": made_up,
        "three classes": lambda: made_up(class_names=("hem", "all", "aml")),
        "many models": lambda: made_up(networks=10),
        "minimal": lambda: {"schema": 1, "models": {"a": {"metrics": {"auroc": 0.7}}}},
        "no models": lambda: {"schema": 1},
    }[kind]()
    page = Parsed(_page(given))
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    assert "script" not in page.tags
    assert any("not a diagnosis" in text for text in page.text)
    if kind == "complete":
        assert page.tags.count("svg") >= 8
        assert page.tags.count("img") >= 6  # cells
        assert page.tags.count("table") >= 10


def _page(given):
    from leukaemia_zoo.report.contents import Contents
    from leukaemia_zoo.report.page import as_html

    return as_html(Contents(Report(given).to_dict()), "0" * 64)


def test_names_of_others_break_nothing(tmp_path):
    given = made_up()
    given["models"] = {name.replace("cnn.cnmc", HOSTILE): model for name, model in given["models"].items()}
    given["data"]["source"] = given["data"]["notes"][0] = HOSTILE
    for model in given["models"].values():
        model["worst_subject"]["subject"] = HOSTILE
        model["subgroups"] = {HOSTILE: {HOSTILE: next(iter(model["subgroups"]["stain"].values()))}}
        model["about"]["licence"] = HOSTILE
        for cell in model["worst_cells"]:
            cell["path"] = cell["png"] = cell["map"] = HOSTILE
    page = Parsed(_page(given))
    assert "script" not in page.tags
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    Report(given).save(tmp_path)
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8") as file:
        assert len({len(row) for row in csv.reader(file)}) == 1


def test_maps_stand_beside_the_wrong_cells_that_have_one(data):
    page = _page(data)
    networks = [model for model in data["models"].values() if model["kind"] != "baseline"]
    maps = [cell["map"] for model in networks for cell in model["worst_cells"] if cell["map"]]
    assert maps
    assert page.count('class="pair"') == len(maps)
    assert all(f'<img src="data:image/png;base64,{one}" alt="Where it finds ' in page for one in maps)
    assert "A map tells where a network looked" in page
    without = copy.deepcopy(data)
    for model in without["models"].values():
        for cell in model["worst_cells"]:
            del cell["map"]  # as in reports of before
    assert "Where it finds" not in _page(without)
    assert "A map tells" not in _page(without)


def test_the_same_report_gives_the_same_bytes(data, saved, tmp_path):
    Report(copy.deepcopy(data)).save(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_what_the_page_says_is_what_was_measured(data):
    text = " ".join(Parsed(_page(data)).text)
    worst = data["models"]["cnn.cnmc"]["worst_subject"]["subject"]
    assert re.search(rf"\b{worst}\b", text)
    assert "What 'my_resnet' was trained on is not known" not in text
    assert "subject" in text
    assert "ab" * 32 in text


def test_examples_of_the_docstrings_run():
    for module in (report_module, contents):
        result = doctest.testmod(module)
        assert result.attempted >= 2
        assert not result.failed


def test_all_files_are_written_or_none(data, tmp_path):
    (tmp_path / "report.md").mkdir()  # where a file should go
    with pytest.raises(DataError, match="cannot be written"):
        Report(data).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_what_is_not_defined_is_said_in_words():
    given = made_up(class_names=("hem", "all", "aml"))
    for model in given["models"].values():
        model["calibration"]["after"]["temperatures"] = [None, 1.5, None]
        model["subject_verdicts"] |= {"sensitivity": None}
        for row in model["per_class"].values():
            row |= {"prevalence": 0.25, "sensitivity": 0.7, "specificity": 0.6, "ppv": None, "npv": 0.9, "auprc": 0.4}
    text = " ".join(Parsed(_page(given)).text)
    assert "none, 1.50, none" in text
    assert not re.search(r"\bnan\b", text)
    found = tables(Contents(Report(given).to_dict()))
    assert "Sensitivity" not in found["verdicts"].columns
    assert found["class-predictive"].columns == (
        "Model",
        "Class",
        "Prevalence",
        "Sensitivity",
        "Specificity",
        "PPV",
        "NPV",
    )
    for model in given["models"].values():
        model["calibration"]["after"]["temperatures"] = [1.5, 1.25, 2.0]
    assert "1.25 to 2.00" in " ".join(Parsed(_page(given)).text)


def test_a_network_of_which_not_all_is_known_is_told_with_the_reason(data):
    given = copy.deepcopy(data)
    told = "Whether 'cnn.cnmc' was trained on these could not be fully checked; people could not be told apart."
    given["models"]["cnn.cnmc"]["overlap"] = {"checked": False, "known": True, "told": told}
    text = " ".join(Parsed(_page(given)).text)
    assert "could not be checked for cnn.cnmc" in text
    assert "people could not be told apart" in text.split("Main metrics")[0]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module", params=["two", "three"])
def benchmarked(request, draw_cell, tmp_path_factory):
    """Folder of a report that `benchmark` itself wrote, of two classes or of three, and the number of classes."""
    classes = {"two": 2, "three": 3}[request.param]
    people = np.arange(72) // 4
    labels = people % classes
    frames = [
        draw_cell(seed, size=64, radius=0.2 + seed % 7 / 50, level=100 + 20 * int(label) + 4 * int(person % 4))
        for seed, (label, person) in enumerate(zip(labels, people, strict=True))
    ]

    def by_brightness(batch, sharpness=0.004):
        levels = np.array([frame[frame.max(axis=2) > 0].mean() for frame in batch])
        near = np.exp(-sharpness * (levels[:, None] - (100 + 20 * np.arange(classes))) ** 2)
        return near / near.sum(axis=1, keepdims=True)

    models = {"by brightness": by_brightness, "less sure": lambda batch: by_brightness(batch, 0.001)}
    folder = tmp_path_factory.mktemp("benchmarked")
    benchmark(models, (frames, labels, [f"P{person}" for person in people]), out=folder, resamples=40)
    return folder, classes


def browse(flags, page, profile):
    """Open a page without a window; what the browser prints and warns of."""
    common = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    common += " disable-component-update enable-logging=stderr"
    command = [BROWSER, *(f"--{flag}" for flag in common.split()), f"--user-data-dir={profile}", *flags]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=100, check=True)


@pytest.mark.skipif(
    BROWSER is None and not os.environ.get("LEUKAEMIA_ZOO_NEEDS_BROWSER"),
    reason="there is no Chromium or Chrome on this machine",
)
def test_a_browser_shows_the_page(benchmarked, tmp_path):
    assert BROWSER is not None, "LEUKAEMIA_ZOO_NEEDS_BROWSER is set, but there is no Chromium or Chrome"
    folder, classes = benchmarked
    result = browse(["--dump-dom"], folder / "report.html", tmp_path / "profile")
    page = Parsed(result.stdout)
    assert page.tags.count("svg") >= 7
    assert page.tags.count("table") >= 10
    text = " ".join(page.text)
    for expected in ("by brightness", "cell area alone", f"class_{classes - 1}", "not a diagnosis"):
        assert expected in text
    assert "CONSOLE" not in result.stderr, result.stderr
    picture_file = tmp_path / "page.png"
    flags = [f"--screenshot={picture_file}", "--window-size=1200,3000", "--hide-scrollbars"]
    browse(flags, folder / "report.html", tmp_path / "profile")
    pixels = np.asarray(Image.open(picture_file).convert("RGB"))
    assert pixels.shape == (3000, 1200, 3)
    colours, counts = np.unique(pixels @ np.array([1 << 16, 1 << 8, 1]), return_counts=True)
    assert len(colours) > 50
    assert counts.max() / counts.sum() < 0.97
    for third in np.split(pixels, 3):  # tables and plots all the way down
        assert third.std() > 10
