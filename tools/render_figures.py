"""Write measured figures and the commands into README.md, so that none of them is typed by hand.

    python tools/render_figures.py            # write
    python tools/render_figures.py --check    # only tell whether README.md is up to date (exit status 1 if not)
    python tools/render_figures.py --pictures # draw those of the documentation's front page

The figures are those of `src/leukaemia_zoo/weights.json` and `results/benchmark.json`, the commands those of
`leukaemia-zoo --help`; the documentation site renders its tables with the same code.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leukaemia_zoo.zoo.cards import TITLES
from leukaemia_zoo.zoo.registry import WeightSpec, weights

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parents[1] / "results" / "benchmark.json"
OOD_FILE = "ood.json"
SPEED = Path(__file__).parents[1] / "results" / "speed.csv"

ORIGINAL = (
    # Name of ours, name there, accuracy, loss, what the figure stands on.
    ("inception_v3", "Inception", 0.775, 0.498, "folds 0 and 1 against fold 2; InceptionResNetV2, ImageNet, frozen"),
    ("resnet50", "ResNet50", 0.802, 0.514, "was not fitted: the figure is the CNN's after 30 epochs"),
    ("vgg16", "VGG16", 0.77, 0.536, "folds 0 and 1 against fold 2; ImageNet, frozen"),
    ("cnn", "CNN", 0.784, 0.506, "folds 0 and 1 against fold 2"),
    ("xception", "Xception", 0.783, 0.533, "folds 0 and 1 against fold 2; ImageNet, frozen"),
    ("cnn_attention", "CNN with attention", 0.858, 0.39, "a random 70 % of the cells against the other 30 %"),
)
"""The table of "Leukaemia Classification using DL" as published: validation accuracy and loss."""

MAIN_METRICS = {
    "auroc": "AUROC",
    "weighted_f1": "Weighted F1",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity (`all` called `all`)",
    "specificity": "Specificity (`hem` called `hem`)",
}
"""What README.md shows, in this order."""

ALL_METRICS = MAIN_METRICS | {name: title for name, title in TITLES.items() if name not in MAIN_METRICS}
"""What the documentation shows where it was measured."""

NOTHING_YET = "*No pretrained weight is in this version yet, so there are no figures to show.*"

NOT_MEASURED = "*Not measured yet: run `python tools/benchmark_speed.py`.*"

Values = Mapping[str, Mapping[str, Any]]


def figures(specs: Iterable[WeightSpec]) -> str:
    """Return the block of README.md: cross-validation of every weight beside cell area alone."""
    measured = [spec for spec in specs if "cross_validation" in spec.metrics]
    if not measured:
        return NOTHING_YET
    rows = {f"`{spec.name}`": spec.metrics["cross_validation"]["values"] for spec in measured}
    rows |= _baselines(measured)
    titles = {**MAIN_METRICS, "ece": "ECE"}
    lines = [f"| | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    for name, values in rows.items():
        lines.append(f"| {name} | " + " | ".join(interval(values.get(metric)) for metric in titles) + " |")
    sources: dict[str, list[str]] = {}
    for spec in measured:
        sources.setdefault(spec.metrics["cross_validation"]["on"], []).append(f"`{spec.name}`")
    notes = [f"{_listed(names)}: {_sentence(on)}" for on, names in sources.items()]
    return "\n".join([*lines, "", *notes])


def table(columns: Mapping[str, Values], titles: Mapping[str, str] = ALL_METRICS) -> str:
    """Return a Markdown table with a row for each metric that some column has, values with their intervals."""
    rows = [
        f"| {title} | " + " | ".join(interval(values.get(name)) for values in columns.values()) + " |"
        for name, title in titles.items()
        if any(name in values for values in columns.values())
    ]
    return "\n".join([f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *rows])


def commands() -> str:
    """Return the table of the commands, in the words of ``leukaemia-zoo --help``."""
    told = subprocess.run(
        [sys.executable, "-m", "leukaemia_zoo", "--help"],
        env={**os.environ, "COLUMNS": "1000"},  # a line each
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    ).stdout
    rows = re.findall(r"^ {2}([a-z]+)\s+(.+)$", told, re.MULTILINE)
    return "\n".join(["| Command | What it does |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in rows)])


def training_table() -> str:
    """Return what `results/` tells of each weight beside its metrics: against area, on whole subjects, and its cost."""
    heads = ("Weight", "AUROC less area's", "Weighted F1 less area's", "Subjects called rightly", "Training", "On")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in weights():
        folds, run = (RESULTS.parent / name / file for file in ("cross_validation.json", "training.json"))
        if not folds.is_file() or not run.is_file():
            continue
        found, record = (json.loads(file.read_text(encoding="utf-8")) for file in (folds, run))
        less, people, machine = found["less_area_baseline"]["intervals"], found["per_subject"], record["machine"]
        right = sum((row["mean_probability"] > 0.5) == (row["label"] == "all") for row in people)
        distillation, about = record["distillation"] or {}, f"{record.get('seconds_are', '')} ".lstrip()
        # A run that made its trunk itself has the time for it in its own.
        minutes = (record["seconds"] + (distillation.get("seconds", 0) if distillation.get("given") else 0)) / 60
        lines.append(
            f"| `{name}` | {interval(less['auroc'])} | {interval(less['weighted_f1'])} | {right} of {len(people)} | "
            f"{about}{minutes:.0f} min | {machine['cores']} cores, {machine['processor']} |"
        )
    return "\n".join(lines)


AIMS = {"weighted_f1": 0.90, "small_weighted_f1": 0.888, "ece": 0.03}
"""What the zoo aims for: of its best, of a network below a million parameters (ResNet18's figure), at most of each."""


def aims(specs: Iterable[WeightSpec]) -> str:
    """Return in one paragraph how far the weights are from what the zoo aims for."""
    found = {spec.name: spec for spec in specs if "cross_validation" in spec.metrics}
    if not found:
        return NOTHING_YET
    values = {name: spec.metrics["cross_validation"]["values"] for name, spec in found.items()}
    best = max(values, key=lambda name: values[name]["weighted_f1"]["value"])
    small = max(
        (name for name in values if found[name].parameters < 1_000_000),
        key=lambda name: values[name]["weighted_f1"]["value"],
        default=best,
    )
    ece = {name: value["ece"]["value"] for name, value in values.items() if "ece" in value}
    rest = [f"{error:.3f}" for error in sorted(ece.values()) if error > AIMS["ece"]]
    good = [f"`{name}` ({error:.3f})" for name, error in ece.items() if error <= AIMS["ece"]]
    reached = f"Its best is {interval(values[best]['weighted_f1'])}, by `{best}`"
    reached += ", which is below a million parameters." if small == best else "; below a million parameters it is "
    if small != best:
        reached += f"{interval(values[small]['weighted_f1'])}, by `{small}`."
    return (
        f"The zoo has three aims: a weighted F1 of {AIMS['weighted_f1']:.2f} by its best network, one of "
        f"{AIMS['small_weighted_f1']:.3f} (that of a ResNet18 with ImageNet's features) by a network below a million "
        f"parameters, and an ECE of at most {AIMS['ece']:.2f}. {reached} The ECE is at most {AIMS['ece']:.2f} for "
        f"{_listed(good) if good else 'none'}" + (f", and {rest[0]} to {rest[-1]} for the others." if rest else ".")
    )


def shortcomings() -> str:
    """Return what the figures of `results/` do not show: a sure gain over area, a gain by the temperature."""
    level, gains = [], []
    for name, spec in weights().items():
        folds, run = (RESULTS.parent / name / file for file in ("cross_validation.json", "training.json"))
        if not folds.is_file() or not run.is_file():
            continue
        less = json.loads(folds.read_text(encoding="utf-8"))["less_area_baseline"]["intervals"]["weighted_f1"]
        level += [f"`{name}`"] if less["low"] <= 0 <= less["high"] else []
        # A weight that all subjects taught has no validation subjects of its own.
        if before := json.loads(run.read_text(encoding="utf-8")).get("uncalibrated"):
            gains.append(spec.metrics["validation"]["values"]["ece"]["value"] - before["ece"])
    if not gains:
        return NOTHING_YET
    area = f"of {_listed(level)} includes 0" if level else "includes 0 for none"
    return (
        f"The interval of the gain in weighted F1 over cell area alone {area}. The temperature changes little: on the "
        f"validation subjects themselves the ECE changes by {min(gains):+.3f} to {max(gains):+.3f}."
    )


def original_table() -> str:
    """Return the original system's table beside what ours say of people whom they have not seen."""
    models = json.loads(RESULTS.read_text(encoding="utf-8"))["models"] if RESULTS.is_file() else {}
    measured = {spec.config.architecture: spec.metrics.get("cross_validation", {}) for spec in weights().values()}
    heads = ("Network", "Accuracy", "Loss", "What it stands on", "Ours on unseen people: accuracy", "Log loss")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title, accuracy, loss, stands_on in ORIGINAL:
        own = measured.get(name, {}).get("values", {})
        ours = [interval(own[metric]) if own else "no weights yet" for metric in ("accuracy", "log_loss")]
        lines.append(f"| {title} | {accuracy:g} | {loss:g} | {stands_on} | {' | '.join(ours)} |")
    if majority := models.get("majority class", {}).get("metrics"):
        guess = [interval(majority[metric]) for metric in ("accuracy", "log_loss")]
        lines.append(f"| always `all` | 0.69 on fold 2 | | | {' | '.join(guess)} |")
    return "\n".join(lines)


def results_table(kind: str) -> str:
    """Return the table `weights`, a row a weight and all that was measured of it, or `people`, a row a subject."""
    return _people_rows() if kind == "people" else _weight_rows(weights().values())


def _weight_rows(specs: Iterable[WeightSpec]) -> str:
    measured = [spec for spec in specs if "cross_validation" in spec.metrics]
    if not measured:
        return NOTHING_YET
    titles = {**MAIN_METRICS, **{name: title for name, title in ALL_METRICS.items() if name not in MAIN_METRICS}}
    known = [spec.metrics["cross_validation"]["values"] for spec in measured]
    titles = {name: title for name, title in titles.items() if any(name in values for values in known)}
    heads = [
        "Weight",
        *titles.values(),
        "Subjects called rightly",
        "Uncertain cells",
        "Parameters",
        "File, MB",
        "Views",
    ]
    rows = []
    for spec, values in zip(measured, known, strict=True):
        limits = spec.config.verdict_limits
        people = _subjects_of(spec.name)
        right = sum((row["mean_probability"] > 0.5) == (row["label"] == "all") for row in people)
        rows.append(
            [
                f"[`{spec.name}`](cards/{spec.name}.md)",
                *(interval(values.get(name)) for name in titles),
                f"{right} of {len(people)}" if people else "not known",
                f"{100 * limits.referred:.1f} %" if limits else "says none",
                f"{spec.parameters:,}",
                f"{spec.size / 1e6:.1f}",
                str(spec.config.views),
            ]
        )
    for name, values in _baselines(measured).items():
        rows.append([name, *(interval(values.get(metric)) for metric in titles), "not known", *["none"] * 4])
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def _subjects_of(name: str) -> list[dict[str, Any]]:
    """What the cross-validation of a weight says of each subject."""
    file = RESULTS.parent / name / "cross_validation.json"
    return json.loads(file.read_text(encoding="utf-8"))["per_subject"] if file.is_file() else []


def _people_rows() -> str:
    found = {name: {row["subject"]: row for row in rows} for name in weights() if (rows := _subjects_of(name))}
    if not found:
        return NOTHING_YET
    first = next(iter(found.values()))
    others = [f"`{name}`" for name, own in found.items() if own.keys() != first.keys()]
    found = {name: own for name, own in found.items() if own.keys() == first.keys()}
    heads = ["Subject", "Label", "Cells", *(f"`{name}`" for name in found), "Networks that call it rightly"]
    rows = []
    for subject, known in first.items():
        means = [own[subject]["mean_probability"] for own in found.values()]
        right = sum((mean > 0.5) == (known["label"] == "all") for mean in means)
        shown = [f"{mean:.3f}" for mean in means]
        rows.append([subject, known["label"], str(known["cells"]), *shown, f"{right} of {len(means)}"])
    table = "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])
    return table + (f"\n\nOther people were counted for {_listed(others)}; they are not shown." if others else "")


def ood_results() -> dict[str, dict[str, Any]]:
    """Return what `ood_results.py` measured, by weight."""
    files = {name: RESULTS.parent / name / OOD_FILE for name in sorted(weights())}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def ood_table(kind: str) -> str:
    """Return the table `auroc` or `flagged` of the OOD score, a row a set and a column a weight, or its `notes`."""
    found = ood_results()
    if not found:
        return NOTHING_YET
    if kind == "notes":
        return _ood_notes(found)
    sets = {own["name"]: own for row in found.values() for own in row["sets"]}
    columns = [{own["name"]: own for own in row["sets"]} for row in found.values()]
    rows = [["Images", "Number", *(f"`{name}`" for name in found)], ["---"] * (len(found) + 2)]
    if kind == "flagged":
        rows.append(["limit of the score", "", *(f"{row['limit']:.2f}" for row in found.values())])
        number = max(row["cells"]["cells"] for row in found.values())
        shares = (_share(row["cells"]["flagged"]) for row in found.values())
        rows.append(["held-out C-NMC cells", f"{number:,}", *shares])
    for key, own in sets.items():
        values = [column.get(key, {}).get(kind) for column in columns]
        shown = map(interval, values) if kind == "auroc" else map(_share, values)
        rows.append([own["what"], f"{own['images']:,}", *shown])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ood_notes(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the scores were measured on, a line for the weights that share it."""
    notes: dict[str, list[str]] = {}
    for name, row in found.items():
        cells = row["cells"]
        text = f"{cells['cells']:,} of {cells['of']:,} C-NMC cells of {cells['subjects']} subjects, {cells['what']}"
        notes.setdefault(f"{text}. Intervals: {row['intervals']}.", []).append(f"`{name}`")
    lines = [f"{_listed(names)}: {text}  " for text, names in notes.items()]
    without = [
        f"`{name}`" for name, spec in weights().items() if spec.config.ood_limit is not None and name not in found
    ]
    return "\n".join([*lines, *([f"Not measured: the scores of {_listed(without)}."] if without else [])])


# --- From fields to cells: results/segmentation.json, by segmentation_results.py ---


def measured(file: Path) -> Any:
    """Return what a tool left in `results`; None where it has not run."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def precision_table() -> str:
    """Return what `precision_results.py` measured, a row a weight and precision."""
    file = RESULTS.parent / "precision.json"
    if (found := measured(file)) is None:
        return NOTHING_YET
    lines = [
        "| Weight | `dtype` | other label | other OOD warning | change of a probability, median | largest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row['weight']}` | `{row['dtype']}` | {row['labels_changed']} of {found['cells']} | "
        f"{row['warnings_changed']} | {row['median_change']:.4f} | {row['largest_change']:.3f} |"
        for row in found["rows"]
    ]
    about = found["environment"]
    on = f"{found['cells']} C-NMC cells, against float32, on {about['backend']} {about['backend_version']}"
    return "\n".join([*lines, "", f"{on} ({', '.join(about['devices'])})."])


def segmentation_table(kind: str) -> str:
    """Return the table `masks`, `fields`, `pbc`, `reject` or `familiar`, or the line `scale`."""
    file = RESULTS.parent / "segmentation.json"
    if (found := measured(file)) is None:
        return NOTHING_YET
    if kind == "scale":
        return _scale_notes(found)
    rows = {
        "masks": _mask_rows,
        "fields": _field_rows,
        "pbc": _pbc_rows,
        "reject": _reject_rows,
        "familiar": _familiar_rows,
    }[kind](found)
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _mask_rows(found: Mapping[str, Any]) -> list[list[str]]:
    methods = found["masks"]["methods"]
    rows = [["", *(f"`{name}`" if name == "segment_cell" else "Otsu on grey" for name in methods)]]
    rows.append(["Intersection over union, mean", *(interval(own["iou"]) for own in methods.values())])
    rows.append(["Dice, mean", *(interval(own["dice"]) for own in methods.values())])
    rows.append(["Intersection over union, median", *(f"{own['median_iou']:.3f}" for own in methods.values())])
    rows.append(["one image in ten is below", *(f"{own['worst_tenth_iou']:.3f}" for own in methods.values())])
    rows.append(["images below 0.5", *(f"{own['below_half']}" for own in methods.values())])
    return [*rows, ["images", *(f"{found['masks']['images']}" for _ in methods)]]


def _field_rows(found: Mapping[str, Any]) -> list[list[str]]:
    names = {
        "reported": "all fields on which nothing was chosen",
        "not_looked_at": "of these, fields never looked at before",
    }
    rows = [["Fields", "Number", "Boxes", "Cells found", "Recall", "Precision", "Mean overlap of the boxes"]]
    for key, title in names.items():
        own = found["bccd"][key]
        counts = [str(own[name]) for name in ("fields", "boxes", "cells")]
        shares = [interval(own[name]) for name in ("recall", "precision")]
        rows.append([title, *counts, *shares, f"{own['mean_box_overlap']:.2f}"])
    return rows


def _pbc_rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [["Class", "Images", "Middle found", "Cells found in all", "Median area, square micrometres"]]
    for name, own in found["pbc"]["classes"].items():
        area = "" if own["median_area"] is None else f"{own['median_area']:.0f}"
        rows.append([name, str(own["images"]), _share(own["middle_found"]), str(own["cells"]), area])
    return rows


def _reject_rows(found: Mapping[str, Any]) -> list[list[str]]:
    titles = {"cnmc": "C-NMC cells", "masks": "photographed cells", "bccd": "fields, BCCD", "pbc": "photographs, PBC"}
    own = found["reject"]
    return [
        ["Images", "Number", "Rejected"],
        *([titles[name], f"{own[name]['images']:,}", _share(own[name]["rejected"])] for name in titles),
    ]


def _familiar_rows(found: Mapping[str, Any]) -> list[list[str]]:
    titles = {"bccd": "white cells cut out of BCCD", "pbc_lymphocytes": "lymphocytes of PBC, all normal"}
    rows = [["Cells", "Number", "Stain", "Flagged as unfamiliar", "Median score", "Called `all`"]]
    for name, title in titles.items():
        own = found["familiar"]["sets"][name]
        for stain, shown in {"none": "as it is", "reinhard": "Reinhard", "macenko": "Macenko"}.items():
            score = f"{own[stain]['median_score']:.2f}"
            share = f"{100 * own[stain]['called_all']:.0f} %"
            rows.append([title, str(own["images"]), shown, _share(own[stain]["flagged"]), score, share])
    return rows


def _scale_notes(found: Mapping[str, Any]) -> str:
    own, cnmc = found["bccd"]["scale"], found["cnmc"]["scale"]
    return (
        f"Of {own['fields']} fields of BCCD taken singly {own['estimated']} gave a scale, from "
        f"{own['single_lowest']:.3f} to {own['single_highest']:.3f} micrometres per pixel (median "
        f"{own['single_median']:.3f}), and the tuning fields together {own['pooled_tuning_fields']:.3f}; by the boxes "
        f"that people drew around red cells it is {own['annotated']:.3f}.\n\n"
        f"The scale of C-NMC 2019 is {cnmc['cnmc_micrometres_per_pixel']:.4f} by "
        f"{cnmc['lymphocytes']} lymphocytes of PBC ({cnmc['lymphocyte_micrometres']:.1f} micrometres across, at "
        f"{cnmc['pbc_micrometres_per_pixel']:.3f} by their red cells) and {cnmc['hem_cells']} normal cells of C-NMC "
        f"({cnmc['hem_pixels']:.0f} of 450 pixels), both medians."
    )


# --- End of the block on fields ---


def finetuning_table(kind: str, file: Path | None = None) -> str:
    """Return the `table` of `finetune_results.py`, a row a way to train and number of cells, or its `notes`."""
    file = file or RESULTS.parent / "finetune.json"
    if (found := measured(file)) is None:
        return NOTHING_YET
    if kind == "notes":
        return _finetuning_notes(found)
    lines = [
        "| Way to train | Cells a class | Accuracy | Macro F1 | Seconds | Peak memory | Ended in stage 2 |",
        "|---" * 7 + "|",
    ]
    for row in found["table"]:
        accuracy, macro_f1 = (
            f"{row[name]['mean']:.3f} ({row[name]['low']:.3f} to {row[name]['high']:.3f})"
            for name in ("accuracy", "macro_f1")
        )
        stages = [run.get("stage") for run in found["runs"] if _is_of(run, row)]
        stayed = "" if None in stages else f"{stages.count('fine-tuning')} of {len(stages)}"
        lines.append(
            f"| {row['way']} | {row['per_class']} | {accuracy} | {macro_f1} | {row['seconds']['mean']:.0f} | "
            f"{row['peak_mb'] / 1000:.1f} GB | {stayed} |"
        )
    return "\n".join(lines)


def transfer_table(file: Path | None = None) -> str:
    """Return what `transfer_results.py` measured: macro-F1 on frozen features, and by `fine_tune`."""
    file = file or RESULTS.parent / "transfer.json"
    if (found := measured(file)) is None:
        return NOTHING_YET
    numbers = list(next(iter(found["weights"].values())))
    lines = [f"| Weight | {' | '.join(f'{number} a class' for number in numbers)} |", "|---" * (len(numbers) + 1) + "|"]
    rows = {f"`{name}`": row for name, row in found["weights"].items()}
    rows |= {f"`{name}` by `fine_tune`": row for name, row in found.get("fine_tuned", {}).items()}
    for name, row in rows.items():
        values = (f"{own['mean']:.3f} ({own['low']:.3f} to {own['high']:.3f})" for own in row.values())
        lines.append(f"| {name} | {' | '.join(values)} |")
    about = (
        f"{found['cells']:,} cells of {found['people']} people, {len(found['classes'])} classes; half of the people "
        f"test; means of {found['draws']} draws, in brackets the worst and the best."
    )
    return "\n".join([*lines, "", about])


def _is_of(run: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return bool((run["way"], run["per_class"]) == (row["way"], row["per_class"]))


def _finetuning_notes(found: Mapping[str, Any]) -> str:
    machine, seeds = found["environment"], {row["seeds"] for row in found["table"]}
    told = [
        f"{found['data']}; tested on {found['test']}. Means over {' or '.join(map(str, sorted(seeds)))} seeds, in "
        f"brackets the worst and the best. `fine_tune` begins no epoch after {found['time_budget_s']:g} seconds; each "
        f"training had {machine['cores']} core{'' if machine['cores'] == 1 else 's'} ({machine['processor']}), "
        f"{machine['backend']}; the peak memory is that of the whole process, report included. Crop: {found['crop']}.",
        found["tuning"],
    ]
    if found.get("transductive"):
        names = " and ".join(f"`{name}`" for name in found["transductive"]["weights"])
        told.append(f"{names}: {found['transductive']['told']}")
    return "\n\n".join(told)


def speed_table(kind: str, file: Path | None = None) -> str:
    """Return what `benchmark_speed.py` measured: the table `summary`, `weights`, `engine` or `accuracy`."""
    file = file or SPEED
    if not file.is_file():
        return NOT_MEASURED
    with file.open(newline="", encoding="utf-8") as lines:
        found = list(csv.DictReader(lines))
    if kind == "summary":
        rows = [row for row in found if row["part"] in ("start", "folder", "memory", "training")]
        table = [["What", "Weight", "Measured"]]
        table += [[row["what"], f"`{row['weight']}`", _quantity(row)] for row in rows]
    elif kind == "weights":
        table = _speed_of_weights([row for row in found if row["part"] == "weights"])
    elif kind == "engine":
        table = _speed_of_engine([row for row in found if row["part"] == "weights"])
    else:
        table = _cost_of_views([row for row in found if row["part"] == "accuracy"])
    if len(table) < 2:
        return NOT_MEASURED
    cores = ", ".join(sorted({row["cores"] for row in found}))
    lines = [f"| {' | '.join(row)} |" for row in [table[0], ["---"] * len(table[0]), *table[1:]]]
    return "\n".join([*lines, *([] if kind == "accuracy" else ["", f"On {cores} cores."])])


def _quantity(row: Mapping[str, str]) -> str:
    value = f"{float(row['value']):,.3g}" if float(row["value"]) < 1000 else f"{float(row['value']):,.0f}"
    return {"of 1": f"{100 * float(row['value']):.0f} %", "times": f"{value} times"}.get(
        row["unit"], f"{value} {row['unit']}"
    )


def _speed_of_weights(rows: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """A row a weight and engine: latency, rate, memory, and how far it is from Keras on TensorFlow."""
    table = [
        ["Weight", "By", "One cell, ms", "Cells/s", "First verdict after, s", "Memory, MB", "Differs from Keras by"]
    ]
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["weight"], {})[row["what"]] = float(row["value"])
    for weight, own in values.items():
        for name in ("Keras, TensorFlow", "Keras, JAX", "engine", "engine, int8"):
            if f"{name}, one cell" not in own:
                continue
            numbers = [
                own[f"{name}, {what}"] for what in ("one cell", "many cells", "to the first verdict", "peak memory")
            ]
            differs = f"{own['engine, difference from Keras']:.1g}" if name == "engine" else ""
            table.append(
                [f"`{weight}`", name, *(f"{number:,.3g}" for number in numbers[:3]), f"{numbers[3]:,.0f}", differs]
            )
    return table


def _speed_of_engine(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A row a weight: the engine as it is used by default, and the rates of the other ways beside it."""
    others = ("engine, int8", "Keras, TensorFlow", "Keras, JAX")
    _, *told = _speed_of_weights(rows)
    rates = {(row[0], row[1]): row[3] for row in told}
    heads = ["Weight", "One cell, ms", "Cells/s", *(f"by {name.removeprefix('engine, ')}" for name in others)]
    table = [[*heads, "First verdict after, s", "Memory, MB", "Differs from Keras by"]]
    for weight, name, latency, rate, *rest in told:
        if name == "engine":
            table.append([weight, latency, rate, *(rates.get((weight, other), "") for other in others), *rest])
    return table


def _cost_of_views(rows: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """A row a weight: AUROC lost with fewer views and in int8, and how many cells get another label."""
    columns = {"1 views": "1 view", "2 views": "2 views", "4 views": "4 views", "int8": "int8, its own views"}
    table = [["Judged by", "Cells", *(f"{title}: AUROC lost (other label)" for title in columns.values())]]
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["weight"], {})[row["what"]] = float(row["value"])
    for name, own in values.items():
        costs = (f"{own[f'{key}, AUROC lost']:.4f} ({100 * own[f'{key}, other label']:.1f} %)" for key in columns)
        table.append([name, f"{own['cells']:,.0f}", *costs])
    return table


def _share(found: Mapping[str, float] | float | None) -> str:
    """Return a share in per cent, with its interval where it has one."""
    if found is None:
        return "not known"
    if isinstance(found, Mapping):
        return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return f"{100 * found:.0f} %"


def interval(found: Mapping[str, Any] | None) -> str:
    """Return a value with its bounds, or as much of it as is known."""
    if not found or found.get("value") is None:
        return "not known"
    if found.get("low") is None or found.get("high") is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _baselines(specs: list[WeightSpec]) -> dict[str, Values]:
    """One column where all weights were measured on the same folds, else one for the weights of each."""
    found: dict[tuple[str, ...], tuple[list[str], Values]] = {}
    for spec in specs:
        if "cross_validation_area_baseline" in spec.metrics:
            values = spec.metrics["cross_validation_area_baseline"]["values"]
            told = tuple(interval(values.get(name)) for name in MAIN_METRICS)
            found.setdefault(told, ([], values))[0].append(f"`{spec.name}`")
    if len(found) == 1:
        return {"Cell area alone": next(values for _, values in found.values())}
    return {f"Cell area alone, folds of {_counted(names)}": values for names, values in found.values()}


def _counted(names: list[str]) -> str:
    return _listed(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} others"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def with_block(text: str, name: str, block: str) -> str:
    """Return the text with another block between the marks of a name."""
    before, begin, rest = text.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise SystemExit(f"The text lacks the marks <!-- {name} --> and <!-- /{name} -->.")
    return f"{before}{begin}\n{block}\n{end}{after}"


def rendered(text: str) -> str:
    """Return the text of README.md with all its blocks."""
    specs = weights().values()
    blocks = {"figures": figures(specs), "aims": aims(specs), "original": original_table(), "commands": commands()}
    blocks["speed"] = speed_table("engine")
    for name, block in blocks.items():
        text = with_block(text, name, block)
    return text


def main() -> int:
    """Write or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of the front page instead")
    options = parser.parse_args()
    check = options.check
    if options.pictures:
        import front_pictures

        for file in front_pictures.main():
            print("wrote", file)
        return 0
    text = README.read_text(encoding="utf-8")
    expected = rendered(text)
    if check:
        print("README.md is up to date." if text == expected else "README.md is old: run tools/render_figures.py.")
        return int(text != expected)
    README.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
