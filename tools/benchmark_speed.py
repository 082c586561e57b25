"""How fast predictions and trainings are, each beside what it is compared with, in one run on one machine.

    python tools/benchmark_speed.py                      # all but accuracy; prints tables, writes results/speed.csv
    python tools/benchmark_speed.py --only start folder --weights mobilenet.cnmc --cells 500
    python tools/benchmark_speed.py --only accuracy --data C-NMC_Leukemia --networks runs/mobilenet_cv
    python tools/render_figures.py                       # the tables of README.md from results/speed.csv

Parts: ``start`` (from the shell to a verdict), ``folder`` (files/s beside Keras over a folder, and the share of the
bare engine), ``memory`` (of the command while a folder goes through), ``weights`` (latency, cells/s, memory and parity
of each weight), ``training`` (images/s beside plain `fit`, and what a step waits), ``accuracy`` (AUROC that fewer views
and int8 cost; it needs C-NMC and takes long, so it is left out unless it is asked for). Each measurement is a process
of its own, and what is compared is measured in turn, so that another load on the machine meets both. Rows of parts that
were not run stay in the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from speed_measurements import drawn_cells

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "speed.csv"
COLUMNS = ("part", "weight", "what", "value", "unit", "cores")

COMMAND = "import sys; from leukaemia_zoo.cli.app import main; sys.exit(main())"

# What somebody would write who has nothing but an engine and an exported file.
BARE = """
import sys, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
side = session.get_inputs()[0].shape[1]
frame = Image.open(sys.argv[2]).convert("RGB")
margin = frame.width / 6
pixels = np.asarray(frame.resize((side, side), box=(margin, margin, frame.width - margin, frame.height - margin)))
print(session.run(["probabilities"], {"images": pixels[None].astype(np.float32)})[0])
"""


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "accuracy"])
    parser.add_argument("--weights", nargs="+", help="for weights and accuracy; default: all, and the small ones")
    parser.add_argument("--weight", default="mobilenet.cnmc", help="for start and folder")
    parser.add_argument("--cells", type=int, default=2000, help="files in the folder; cells of a network for accuracy")
    parser.add_argument("--memory-cells", type=int, default=100_000, help="files that go through for the memory")
    parser.add_argument("--repeats", type=int, default=1, help="of start and folder")
    parser.add_argument("--data", help="C-NMC, for accuracy")
    parser.add_argument("--networks", type=Path, help="cross-validation that kept its networks, for accuracy")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if "accuracy" in options.only and not options.data:
        parser.error("accuracy needs --data")
    with tempfile.TemporaryDirectory() as folder:
        for part in options.only:
            begin = time.perf_counter()
            print(f"\n{part}", flush=True)
            _write(options.out, part, PARTS[part](options, Path(folder)))
            print(f"  ({time.perf_counter() - begin:.0f} s)", flush=True)


def _write(out: Path, part: str, rows: list[dict[str, Any]]) -> None:
    """Replace the rows of a part for these weights; the other ones stay."""
    from leukaemia_zoo.common.files import writing
    from leukaemia_zoo.engine.trunk import cores

    kept: list[dict[str, Any]] = []
    if out.is_file():
        with out.open(newline="", encoding="utf-8") as file:
            kept = list(csv.DictReader(file))
    new = {row["weight"] for row in rows}
    kept = [row for row in kept if row["part"] != part or (part in _BY_WEIGHT and row["weight"] not in new)]
    rows = [*kept, *({**row, "cores": cores()} for row in rows)]
    order = list(PARTS)
    with writing(out) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (order.index(row["part"]), row["weight"])))


# ---------------------------------------------------------------------------------------------------------------------
# Parts: what is compared with what


def start(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Seconds from the shell to a verdict, beside a bare script and beside Keras."""
    from leukaemia_zoo.exporting.writing import export

    weight, cell = options.weight, drawn_cells(folder / "one", 1)[0]
    exported = export(weight, folder / "whole.onnx").file
    keras = "import sys, leukaemia_zoo as lz; print(lz.predict(lz.load_model(sys.argv[1]), sys.argv[2])[0].label)"
    commands = {
        "leukaemia-zoo predict": [sys.executable, "-c", COMMAND, "predict", str(cell), "--model", weight],
        "bare engine, NumPy, Pillow": [sys.executable, "-c", BARE, str(exported), str(cell)],
        "Keras": [sys.executable, "-c", keras, weight, str(cell)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats + 2):
        for name, arguments in commands.items():
            begin = time.perf_counter()
            subprocess.run(arguments, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms the disk
    rows = [_row("start", weight, name, value, "s") for name, value in medians.items()]
    ours, bare, slow = medians.values()
    rows.append(_row("start", weight, "times the bare script", ours / bare, "times"))
    rows.append(_row("start", weight, "faster than Keras", slow / ours, "times"))
    return _printed(rows)


def folder(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Files a second of a folder, beside Keras over the same folder and the engine alone on decoded arrays."""
    from leukaemia_zoo.zoo.registry import weights

    drawn_cells(folder / "many" / "cells", options.cells)
    weight = options.weight
    views = weights()[weight].config.views
    wanted: list[tuple[str, ...]] = [
        ("folder_engine", str(views)),
        ("folder_keras", str(views)),
        ("arrays_engine", str(views)),
        ("folder_engine", str(views), "int8"),
        ("frames_engine", str(views)),
    ]
    fewer = [str(number) for number in (4, 2, 1) if number < views]
    others: list[tuple[str, ...]] = [("folder_engine", number) for number in fewer]
    others += [(*key, "int8") for key in others]
    rates: dict[tuple[str, ...], float] = {}
    work: dict[tuple[str, ...], float] = {}
    for turn in range(options.repeats):
        for key in [*wanted, *(others if turn == 0 else [])]:
            measured = _measure(key[0], weight, str(folder / "many"), *key[1:])
            rates[key] = max(rates.get(key, 0.0), measured["rate"])
            work[key] = min(work.get(key, np.inf), 1000 * measured["work"])
    ours, keras, bare, small, decoded = (rates[key] for key in wanted)
    rows = [
        _row("folder", weight, f"files, engine, {views} views", ours, "files/s"),
        _row("folder", weight, f"files, Keras over image_dataset_from_directory, {views} views", keras, "files/s"),
        _row("folder", weight, f"decoded arrays, engine, {views} views", bare, "cells/s"),
        _row("folder", weight, "faster than Keras", ours / keras, "times"),
        _row("folder", weight, "share of the bare engine", ours / bare, "of 1"),
        _row("folder", weight, f"decoded frames, engine, {views} views", decoded, "cells/s"),
        _row("folder", weight, "share of the bare engine where frames are decoded", decoded / bare, "of 1"),
        # Whatever else runs on the machine.
        _row("folder", weight, "processor time a file, engine", work[wanted[0]], "ms"),
        _row("folder", weight, "processor time a file, Keras", work[wanted[1]], "ms"),
        _row("folder", weight, f"files, engine in int8, {views} views", small, "files/s"),
        _row("folder", weight, "int8, faster than Keras", small / keras, "times"),
        _row("folder", weight, "processor time a file, engine in int8", work[wanted[3]], "ms"),
    ]
    for key in others:
        said = f"--views {key[1]}" + (" --precision int8" if len(key) > 2 else "")
        rows.append(_row("folder", weight, f"files, engine, {said}", rates[key], "files/s"))
        rows.append(_row("folder", weight, f"{said}, faster than Keras with {views}", rates[key] / keras, "times"))
    return _printed(rows)


def memory(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Peak memory of the command over a twentieth of the files, and over all: copies of small ones."""
    weight, most = "cnn_attention", options.memory_cells
    kept = [file.read_bytes() for file in drawn_cells(folder / "few", 50, 48)]
    rows = []
    for count in (most // 20, most):
        place = folder / f"copies{count}"
        for start in range(0, count, 1000):
            (place / str(start)).mkdir(parents=True)
            for number in range(start, min(start + 1000, count)):
                (place / str(start) / f"{number}.png").write_bytes(kept[number % len(kept)])
        command = [sys.executable, "-c", COMMAND, "predict", str(place), "--model", weight, "--views", "1"]
        megabytes = _peak([*command, "--csv", str(folder / "out.csv"), "--quiet"])
        with (folder / "out.csv").open(encoding="utf-8") as table:
            assert sum(1 for _ in table) == count + 1, "not every file has its row"
        rows.append(_row("memory", weight, f"command, {count:,} files, peak", megabytes, "MB"))
    return _printed(rows)


def _peak(command: list[str]) -> float:
    """The largest resident memory of a process, in megabytes."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, "the command failed"
    return usage.ru_maxrss / 1e3


def each_weight(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Latency of one cell, cells a second, memory, and the largest difference in probability from Keras."""
    from leukaemia_zoo.zoo.registry import weights

    rows: list[dict[str, Any]] = []
    for weight in options.weights or sorted(weights()):
        found = {
            "Keras, TensorFlow": _measure("one_keras", weight, KERAS_BACKEND="tensorflow"),
            "Keras, JAX": _measure("one_keras", weight, KERAS_BACKEND="jax"),
            "engine": _measure("one_engine", weight),
            "engine, int8": _measure("one_file", str(_int8_file(weight, folder))),
        }
        expected = np.array(found["Keras, TensorFlow"]["golden"])
        new = [_row("weights", weight, "file", weights()[weight].size / 1e6, "MB")]
        for name, one in found.items():
            difference = float(np.abs(np.array(one["golden"]) - expected).max())
            new.append(_row("weights", weight, f"{name}, one cell", 1000 * one["latency"], "ms"))
            new.append(_row("weights", weight, f"{name}, many cells", one["rate"], "cells/s"))
            new.append(_row("weights", weight, f"{name}, to the first verdict", one["ready"], "s"))
            new.append(_row("weights", weight, f"{name}, peak memory", one["memory"], "MB"))
            if name == "engine":
                new.append(_row("weights", weight, "engine, difference from Keras", difference, "probability"))
        rows += _printed(new)
    return rows


def _int8_file(weight: str, folder: Path) -> Path:
    """An export in int8 for its speed alone: calibrated on drawn cells, so nothing is said of its verdicts."""
    from leukaemia_zoo.exporting.writing import export

    out = folder / f"{weight}.int8.onnx"
    export(weight, out, int8=True, calibration=drawn_cells(folder / "calibration", 20))
    return out


def training(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Images/s of a fine-tuning, with oneDNN and our BatchNorm and without each, beside `fit` on arrays in memory."""
    name = "mobilenet.pbc_cnmc"
    found = _measure("training", name, "10", TF_ENABLE_ONEDNN_OPTS="1")
    without = _measure("training", name, "10", TF_ENABLE_ONEDNN_OPTS="0")
    as_keras = _measure("training", name, "10", "plain", TF_ENABLE_ONEDNN_OPTS="1")
    return _printed(
        [
            _row("training", name, "fine-tuning, views drawn anew", found["ours"], "images/s"),
            _row("training", name, "plain fit on arrays, same network", found["plain"], "images/s"),
            _row("training", name, "views drawn, without a network", found["drawing"], "images/s"),
            _row("training", name, "share of the rate of plain fit", found["ours"] / found["plain"], "of 1"),
            _row("training", name, "share of the time that steps wait for images", found["waits"], "of 1"),
            _row("training", name, "fine-tuning, TensorFlow without oneDNN", without["ours"], "images/s"),
            _row("training", name, "oneDNN, times as fast", found["ours"] / without["ours"], "times"),
            _row("training", name, "fine-tuning, BatchNorm as Keras writes it", as_keras["ours"], "images/s"),
            _row("training", name, "one BatchNorm operation, times as fast", found["ours"] / as_keras["ours"], "times"),
        ]
    )


def accuracy(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """AUROC lost with fewer views and with int8: of unseen people by networks of folds, of seen ones by weights."""
    from leukaemia_zoo.zoo.registry import packaged_file, weights

    classes = ("hem", "all")
    small = [
        n for n, row in sorted(weights().items()) if row.config.class_names == classes and packaged_file(row).is_file()
    ]
    judged: list[tuple[str, list[str]]] = [(weight, [weight]) for weight in options.weights or small]
    if options.networks:
        folds = sorted(path for path in options.networks.glob("fold_*") if path.is_dir())
        judged.insert(0, (f"{options.networks.name}, unseen people", [str(fold) for fold in folds]))
    rows: list[dict[str, Any]] = []
    for name, models in judged:
        found = _measure("accuracy", options.data, str(folder), str(options.cells), *models)
        new = [
            _row("accuracy", name, "cells", found["cells"], "cells"),
            _row("accuracy", name, "AUROC", found["auroc"], "AUROC"),
            _row("accuracy", name, "int8, mean change of a probability", found["int8 change"], "probability"),
        ]
        for what in ("1 views", "2 views", "4 views", "8 views", "int8"):
            new.append(_row("accuracy", name, f"{what}, AUROC lost", round(found[what]["lost"], 5), "AUROC"))
            new.append(_row("accuracy", name, f"{what}, other label", found[what]["changed"], "of 1"))
        rows += _printed(new)
    return rows


# ---------------------------------------------------------------------------------------------------------------------


def _measure(what: str, *arguments: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("speed_measurements.py")), what, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stderr}\nspeed_measurements.py {what} {' '.join(arguments)} failed, see above.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(part: str, weight: str, what: str, value: float, unit: str) -> dict[str, Any]:
    return {"part": part, "weight": weight, "what": what, "value": float(f"{value:.4g}"), "unit": unit}


def _printed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = list(rows)
    for row in rows:
        print(f"  {row['weight']:20} {row['what']:65} {row['value']:>10g} {row['unit']}", flush=True)
    return rows


PARTS = {
    "start": start,
    "folder": folder,
    "memory": memory,
    "weights": each_weight,
    "training": training,
    "accuracy": accuracy,
}
_BY_WEIGHT = ("weights", "accuracy")
"""Parts of which a run for some weights leaves the rows of the others."""

if __name__ == "__main__":
    main()
