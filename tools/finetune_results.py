"""Accuracy against the number of cells a class, on eight classes of normal blood cells, by several ways to train.

    python tools/finetune_results.py --data PBC --out runs/finetune [--imagenet FILE]
    python tools/finetune_results.py --draw docs/assets/finetuning.svg

For each way, number of cells and seed a network is trained on the same machine and judged on the same test cells, a
fifth of all, which depend on the seed alone. The first weight is fine-tuned under the time budget, which stage 1 may
overrun; the other ways get as many seconds as that took for the same number and seed. What is done already is kept in
``--out`` and not done again; ``results/finetune.json`` gets the table. Each way and number of cells runs in a process
of its own, whose peak memory is recorded. Nothing else should run on the machine: time buys less on a busy one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import queue
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "finetune.json"
COUNTS = (10, 25, 50, 100)
SEEDS = 5
TIME_BUDGET = 20.0
INPUT_SIDE = 128  # of the usual recipe
FIGURES = ("accuracy", "macro_f1")

TRANSDUCTIVE = (
    "The trunks of these weights were distilled without labels on all images of PBC, the test images among them "
    "(transductive): on cells of a laboratory that they have never seen the figures may be lower."
)

TUNING = (
    "The rate of stage 2 and the crops on offer were chosen on cells of PBC before these runs, so that the "
    "rows of `fine_tune` may be a little too favourable. From scratch means random weights: "
    "where stage 2 was left out, it is a linear classifier on random features."
)


def main() -> None:
    """Fill the table, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="PBC, one folder a class")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), metavar="DIR", help="keeps what is done")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="gets the table")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["cnn_attention.cnmc"],
        metavar="NAME",
        help="weights to fine-tune: names or folders, such as one whose trunk has not seen PBC",
    )
    parser.add_argument("--imagenet", type=Path, metavar="FILE", help="MobileNet's ImageNet weights (.npz), frozen")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), metavar="N", help="cells a class")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="seeds (default: %(default)s)")
    parser.add_argument("--time-budget", type=float, default=TIME_BUDGET, metavar="SECONDS", help="of each training")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many trainings at once, each on a core of its own"
    )
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw the table as .svg or .png, and nothing else")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw is not None:
        draw(options.json, options.draw)
        return
    if options.data is None:
        parser.error("the following arguments are required: --data")
    if options.one is not None:
        run_one(options.one[0], int(options.one[1]), options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    ways = ways_of(options)
    began, done, count = time.perf_counter(), 0, len(ways) * len(options.counts)
    cores = [{core} for core in sorted(os.sched_getaffinity(0))[: options.jobs]] if options.jobs > 1 else [None]
    free: queue.Queue[set[int] | None] = queue.Queue()
    for core in cores:
        free.put(core)

    def one(way: str, number: int) -> None:
        core = free.get()
        line = [sys.executable, __file__, *sys.argv[1:], "--one", way, str(number)]
        try:
            subprocess.run(line, check=True, preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, core))
        finally:
            free.put(core)

    for way in ways:  # one after the other, because the time of the first is that of the others
        with ThreadPoolExecutor(len(cores)) as pool:
            for _ in pool.map(one, [way] * len(options.counts), sorted(options.counts, reverse=True)):
                done += 1
        spent = time.perf_counter() - began
        print(f"{done}/{count} in {spent:.0f} s, about {spent / done * (count - done) / 60:.0f} min left", flush=True)
    write_table(options)
    whole = len(ways) * len(COUNTS) * SEEDS
    runs = [run for run in read_runs(options) if run["seconds"]]
    each = np.mean([run["seconds"] + run["other_seconds"] for run in runs])
    print(f"a run took {each:.1f} s on average; the whole table of {whole} runs: about {each * whole / 60:.0f} min")


def ways_of(options: argparse.Namespace) -> list[str]:
    """Names of the ways to train."""
    from leukaemia_zoo.zoo.sources import find

    scratch = dict.fromkeys(find(name).spec.config.architecture for name in options.weights)
    usual = "frozen MobileNet, ImageNet" if options.imagenet else "frozen MobileNetV2, random"
    return [*options.weights, *(f"{name} from scratch" for name in scratch), usual]


def file_of(way: str, number: int, seed: int, options: argparse.Namespace) -> Path:
    """Where a run is kept."""
    return options.out / f"{slug(way)}-{number}-{seed}.json"


def run_one(way: str, number: int, options: argparse.Namespace) -> None:
    """One way at one number of cells, for all seeds that are not done yet."""
    for seed in range(options.seeds):
        file = file_of(way, number, seed, options)
        if file.is_file():
            continue
        if way != options.weights[0]:
            first = json.loads(file_of(options.weights[0], number, seed, options).read_text(encoding="utf-8"))
            options.time_budget = first["seconds"]
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found, seconds, about = trainer_of(way, options)(number, seed)
        run = {"way": way, "per_class": number, "seed": seed, **found, "seconds": seconds}
        run["other_seconds"] = time.perf_counter() - began - seconds
        run["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        from leukaemia_zoo.common.files import write_json

        write_json(file, run | about)
        print(f"{way}, {number} a class, seed {seed}: accuracy {run['accuracy']:.3f}, {seconds:.1f} s", flush=True)


def slug(way: str) -> str:
    """A way as the name of a file."""
    return "".join(letter if letter.isalnum() else "_" for letter in Path(way).name)


def figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy and macro F1 of the test cells."""
    from leukaemia_zoo.evaluation.metrics import metrics

    found = metrics(labels, probabilities)
    return {name: found[name] for name in FIGURES}


def trainer_of(way: str, options: argparse.Namespace) -> Callable[[int, int], Any]:
    """The function that trains in this way: from cells a class and seed to figures, seconds, notes."""
    if way.endswith(" from scratch"):
        return lambda number, seed: from_scratch(way.removesuffix(" from scratch"), number, seed, options)
    if way.startswith("frozen "):
        return lambda number, seed: frozen(way, number, seed, options)
    return lambda number, seed: fine_tuned(way, number, seed, options, {})


def fine_tuned(model: Any, number: int, seed: int, options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    """`fine_tune` as it is, but for the budget and the crop, which is the same for all ways."""
    import leukaemia_zoo as lz
    from leukaemia_zoo.adaptation.inspection import DEFAULT_CROP

    found = lz.fine_tune(
        model,
        options.data,
        per_class=number,
        seed=seed,
        time_budget_s=options.time_budget,
        crop_fraction=DEFAULT_CROP,
        resamples=20,
        **settings,
    )
    (judged,) = (own for own in found.report.data["models"].values() if own["kind"] == "saved")
    measured = {name: judged["metrics"][name]["value"] for name in FIGURES}
    about = {"stage": found.record["chosen"]["stage"], "crop": found.record["preprocessing"]["crop_fraction"]}
    about["epochs"] = sum(row["stage"] == "fine-tuning" for row in found.history)
    return measured, found.record["training_s"], about


def from_scratch(architecture: str, number: int, seed: int, options: argparse.Namespace) -> Any:
    """The same network with random weights, all of whose layers learn, BatchNorm too."""
    import keras

    from leukaemia_zoo.zoo import build_model
    from leukaemia_zoo.zoo.registry import model_info

    weight = model_info(architecture).weight
    assert weight is not None
    keras.utils.set_random_seed(seed)
    config = weight.config
    side = config.preprocessing.input_size
    model = build_model(architecture, input_size=side, head=config.head, dropout=config.dropout)
    model.zoo = dataclasses.replace(config, weight=None, ood_limit=None)
    recipe = {"fine_tune_epochs": 1000, "patience": 1000, "fine_tune_learning_rate": 1e-3}
    settings = {"recipe": recipe, "unfreeze": "all", "keep_statistics": False}
    return fine_tuned(model, number, seed, options, settings)


def frozen(way: str, number: int, seed: int, options: argparse.Namespace) -> Any:
    """The usual recipe: a frozen network of keras.applications, dropout, one dense layer, Adam, early stopping."""
    began = time.perf_counter()
    import keras

    from leukaemia_zoo.adaptation.inspection import DEFAULT_CROP
    from leukaemia_zoo.cells.images import read_image
    from leukaemia_zoo.cells.preprocessing import Preprocessing
    from leukaemia_zoo.training.distillation import load_teacher

    keras.utils.set_random_seed(seed)
    cells, test, train, validation = parts_of(options.data, number, seed)
    preprocessing = Preprocessing((INPUT_SIDE, INPUT_SIDE), DEFAULT_CROP, None)

    def pixels(rows: np.ndarray) -> np.ndarray:
        return preprocessing.batch([read_image(cells.paths[row]) for row in rows]).astype(np.float32)

    inputs = keras.Input((INPUT_SIDE, INPUT_SIDE, 3))
    x = keras.layers.RandomFlip("horizontal_and_vertical", seed=seed)(inputs)
    x = keras.layers.RandomRotation(0.5, seed=seed)(x)
    if "ImageNet" in way:
        backbone = load_teacher(options.imagenet, (INPUT_SIDE, INPUT_SIDE), ["conv_pw_12_relu"])
        x = backbone(x, training=False)
        x = x[0] if isinstance(x, list) else x
    else:
        backbone = keras.applications.MobileNetV2(
            include_top=False, weights=None, input_shape=(INPUT_SIDE, INPUT_SIDE, 3)
        )
        backbone.trainable = False
        x = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(len(cells.class_names), activation="softmax")(x))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    until = began + options.time_budget

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.begun = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            now = time.perf_counter()
            if now + (now - self.begun) > until:
                self.model.stop_training = True

    stop = keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
    history = model.fit(
        pixels(train),
        cells.labels[train],
        validation_data=(pixels(validation), cells.labels[validation]),
        epochs=1000,
        batch_size=32,
        callbacks=[stop, Clock()],
        verbose=0,
    )
    seconds = time.perf_counter() - began
    probabilities = np.asarray(model.predict(pixels(test), verbose=0), np.float64)
    about = {"epochs": len(history.history["loss"]), "crop": DEFAULT_CROP}
    return figures(cells.labels[test], probabilities), seconds, about


def parts_of(data: Path, number: int, seed: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """The table and the rows that test, teach and validate, as `fine_tune` deals them out."""
    from leukaemia_zoo.adaptation.inspection import inspect_cells
    from leukaemia_zoo.adaptation.splits import split_for_fine_tuning

    inspected = inspect_cells(data)
    split = split_for_fine_tuning(inspected, per_class=number, seed=seed)
    folds = [np.array(split.parts[name]) for name in split.parts if name != "test"]
    return inspected.cells, np.array(split.parts["test"]), np.concatenate(folds[1:]), folds[0]


# ---------------------------------------------------------------------------------------------------------------------
# The table


def read_runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What was done under this time budget."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(options.out.glob("*.json"))]
    return [run for run in runs if run["way"] in ways_of(options)]


def write_table(options: argparse.Namespace) -> None:
    """Means and ranges over the seeds, and every run."""
    from leukaemia_zoo.adaptation.inspection import DEFAULT_CROP
    from leukaemia_zoo.common.files import write_json
    from leukaemia_zoo.common.hardware import environment
    from leukaemia_zoo.zoo.cards import LIBRARY

    runs = read_runs(options)
    table = []
    for way in ways_of(options):
        for number in sorted({run["per_class"] for run in runs if run["way"] == way}):
            own = [run for run in runs if (run["way"], run["per_class"]) == (way, number)]
            row: dict[str, Any] = {"way": Path(way).name, "per_class": number, "seeds": len(own)}
            for name in ("accuracy", "macro_f1", "seconds"):
                values = [run[name] for run in own]
                row[name] = {"mean": np.mean(values), "low": min(values), "high": max(values)}
            row["peak_mb"] = max(run["peak_mb"] for run in own)
            table.append(row)
    seen = [Path(name).name for name in options.weights if saw_pbc(name)]
    data = {
        "schema": 1,
        "made_by": f"{LIBRARY}, tools/finetune_results.py",
        "data": "PBC, 125 cells of each of eight classes (Acevedo et al. 2020, doi 10.17632/snkd93bnjr.1)",
        "test": "a fifth of the cells of each class, drawn by the seed; nothing was chosen on them; split by image",
        "time_budget_s": options.time_budget,
        "crop": f"{DEFAULT_CROP:g} of the frame for all ways, which was found on PBC",
        "tuning": TUNING,
        "transductive": {"weights": seen, "told": TRANSDUCTIVE} if seen else None,
        "environment": environment() | ({"cores": 1} if options.jobs > 1 else {}),
        "table": table,
        "runs": [{**run, "way": Path(run["way"]).name} for run in runs],
    }
    write_json(options.json, json.loads(json.dumps(data, default=float)))
    for row in table:
        value = row["accuracy"]
        print(
            f"{row['way']:<34} {row['per_class']:>4} a class: accuracy {value['mean']:.3f} "
            f"({value['low']:.3f} to {value['high']:.3f}), macro F1 {row['macro_f1']['mean']:.3f}, "
            f"{row['seconds']['mean']:.1f} s, {row['peak_mb']:.0f} MB, {row['seeds']} seeds"
        )
    if seen:
        print(f"{', '.join(seen)}: {TRANSDUCTIVE}")


def saw_pbc(name: str) -> bool:
    """Whether the trunk of a weight was distilled on PBC, as its own description says."""
    from leukaemia_zoo.zoo.sources import find

    spec = find(name).spec
    told = [(spec.training.get("distillation") or {}).get("unlabelled"), *(row.get("name") for row in spec.data)]
    return any("pbc" in str(text).lower() for text in told)


def draw(table: Path, picture: Path) -> None:
    """Learning curves: mean accuracy and macro F1 over the seeds, bars from the worst seed to the best."""
    from leukaemia_zoo.common.files import replacing
    from leukaemia_zoo.report.drawing import LIGHT, drawing, figure_of

    data = json.loads(table.read_text(encoding="utf-8"))
    ways = list(dict.fromkeys(row["way"] for row in data["table"]))
    with drawing():
        figure = figure_of(4.6)
        figure.set_layout_engine("constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (metric, title) in zip(axes, (("accuracy", "Accuracy"), ("macro_f1", "Macro F1")), strict=True):
            for number, way in enumerate(ways):
                rows = [row for row in data["table"] if row["way"] == way]
                across = [row["per_class"] * 1.025 ** (number - len(ways) / 2) for row in rows]
                mean = np.array([row[metric]["mean"] for row in rows])
                bars = [mean - [row[metric]["low"] for row in rows], [row[metric]["high"] for row in rows] - mean]
                style = {"color": LIGHT[f"m{number % 6}"], "ls": "-" if number < 6 else "--"}
                axis.errorbar(across, mean, bars, marker="o", ms=3, lw=1.3, capsize=2, label=way, **style)
            counts = sorted({row["per_class"] for row in data["table"]})
            axis.set_xscale("log")
            axis.set_xticks(counts, [str(count) for count in counts])
            axis.minorticks_off()
            axis.set_xlabel("cells a class to learn from")
            axis.set_title(title, loc="left", size=9.5)
            axis.grid(axis="y")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        with replacing(picture) as beside:
            kind = picture.suffix.removeprefix(".")
            about = {"Title": "Cells a class and accuracy", "Date": None, "Creator": None} if kind == "svg" else None
            figure.savefig(beside, format=kind, facecolor=LIGHT["page"], metadata=about, dpi=150)


if __name__ == "__main__":
    main()
