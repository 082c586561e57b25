"""How fast predictions are, each beside what it is compared with, in one run on one machine.

    python tools/benchmark_speed.py                      # every part; prints tables, writes results/speed.csv
    python tools/benchmark_speed.py --parts start folder --weights mobilenet.cnmc --cells 500

Parts: ``start`` (from the shell to a verdict), ``folder`` (files/s beside Keras over a folder, and the share of the
bare engine), ``memory`` (while files go through), ``weights`` (latency, cells/s and parity of each weight). Each
measurement is a process of its own, and what is compared is measured in turn, so that another load on the machine
meets both.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "speed.csv"

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
    parser.add_argument("--parts", nargs="+", default=["start", "folder", "memory", "weights"])
    parser.add_argument("--weights", nargs="+", help="for the part of that name; default: all")
    parser.add_argument("--weight", default="mobilenet.cnmc", help="for the other parts")
    parser.add_argument("--cells", type=int, default=2000, help="files in the folder")
    parser.add_argument("--memory-cells", type=int, default=20000, help="files that go through for the memory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, *arguments = options.measure
        print(json.dumps(MEASUREMENTS[name](*arguments)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            print(f"\n{part}", flush=True)
            rows += PARTS[part](options, Path(folder))
    from leukaemia_zoo.engine.network import cores

    options.out.parent.mkdir(exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["part", "weight", "what", "value", "unit", "cores"])
        writer.writeheader()
        writer.writerows({**row, "cores": cores()} for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Parts: what is compared with what


def start(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Seconds from the shell to a verdict, beside a bare script and beside Keras."""
    from leukaemia_zoo.exporting.writing import export

    weight, cell = options.weight, _cells(folder / "one", 1)[0]
    exported = export(weight, folder / "whole.onnx").file
    command = "import sys; from leukaemia_zoo.cli.app import main; sys.exit(main())"
    keras = "import sys, leukaemia_zoo as lz; print(lz.predict(lz.load_model(sys.argv[1]), sys.argv[2])[0].label)"
    commands = {
        "leukaemia-zoo predict": [sys.executable, "-c", command, "predict", str(cell), "--model", weight],
        "bare engine, NumPy, Pillow": [sys.executable, "-c", BARE, str(exported), str(cell)],
        "Keras": [sys.executable, "-c", keras, weight, str(cell)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeats + 1):
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
    _cells(folder / "many" / "cells", options.cells)
    weight, rates, work = options.weight, {}, {}
    for _ in range(options.repeats):
        for what in ("folder_engine", "folder_keras", "arrays_engine"):
            measured = _measure(what, weight, str(folder / "many"))
            rates[what] = max(rates.get(what, 0.0), measured["rate"])
            work[what] = min(work.get(what, np.inf), 1000 * measured["work"])
    ours, keras, bare = (rates[what] for what in ("folder_engine", "folder_keras", "arrays_engine"))
    return _printed(
        [
            _row("folder", weight, "files, engine", ours, "files/s"),
            _row("folder", weight, "files, model.predict over image_dataset_from_directory", keras, "files/s"),
            _row("folder", weight, "decoded arrays, engine", bare, "cells/s"),
            _row("folder", weight, "faster than Keras", ours / keras, "times"),
            # Whatever else runs on the machine.
            _row("folder", weight, "processor time a file, engine", work["folder_engine"], "ms"),
            _row("folder", weight, "processor time a file, Keras", work["folder_keras"], "ms"),
            _row("folder", weight, "share of the bare engine", ours / bare, "of 1"),
        ]
    )


def memory(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Resident megabytes when a twentieth of the files went through, and when all did."""
    _cells(folder / "some" / "cells", 200)
    found = _measure("memory", options.weight, str(folder / "some"), str(options.memory_cells))
    return _printed(
        [_row("memory", options.weight, f"after {cells:,} files", value, "MB") for cells, value in found["memory"]]
    )


def each_weight(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Latency of one cell, cells a second, and the largest difference in probability from Keras."""
    from leukaemia_zoo.zoo.registry import weights

    rows = []
    for weight in options.weights or sorted(weights()):
        by_keras, by_engine = (_measure(what, weight) for what in ("latency_keras", "latency_engine"))
        difference = float(np.abs(np.array(by_keras["golden"]) - np.array(by_engine["golden"])).max())
        for name, found in (("Keras", by_keras), ("engine", by_engine)):
            rows.append(_row("weights", weight, f"{name}, one cell", 1000 * found["latency"], "ms"))
            rows.append(_row("weights", weight, f"{name}, many cells", found["rate"], "cells/s"))
            rows.append(_row("weights", weight, f"{name}, to the first verdict", found["ready"], "s"))
        rows.append(_row("weights", weight, "difference from Keras", difference, "probability"))
        _printed(rows[-7:])
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Measurements, each in a process of its own


def folder_engine(weight: str, folder: str) -> dict[str, Any]:
    """Files/s through `iter_predictions`."""
    from leukaemia_zoo.cells import find_images
    from leukaemia_zoo.engine.network import Network
    from leukaemia_zoo.prediction import iter_predictions

    network, files = Network.load(weight), find_images([folder])[0]
    list(iter_predictions(network, files[:20]))
    begin, work = time.perf_counter(), time.process_time()
    count = sum(1 for _ in iter_predictions(network, files))
    return _rate(count, begin, work)


def arrays_engine(weight: str, folder: str) -> dict[str, Any]:
    """Cells/s of the engine on preprocessed arrays, on all cores."""
    from leukaemia_zoo.cells import find_images, read_image
    from leukaemia_zoo.engine.network import Network, cores

    network = Network.load(weight)
    batch = network.zoo.preprocessing.batch([read_image(file) for file in find_images([folder])[0][:200]])
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(network.embeddings, np.split(batch[:20], 20)))
        pieces = np.split(batch, len(batch))
        begin, work = time.perf_counter(), time.process_time()
        list(pool.map(network.embeddings, pieces))
    return _rate(len(batch), begin, work)


def folder_keras(weight: str, folder: str) -> dict[str, Any]:
    """Files/s of `model.predict` over `image_dataset_from_directory`, TensorFlow, the same network and views."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    from leukaemia_zoo import load_model

    model = load_model(weight)
    views = model.zoo.views

    def turned(images: Any) -> Any:
        quarter = [tf.image.rot90(images, turns) for turns in range(min(views, 4))]
        mirrored = [tf.image.flip_left_right(view) for view in quarter] if views == 8 else []
        return tf.concat([*quarter, *mirrored], axis=0)

    def cells(count: int | None = None) -> Any:
        found = keras.utils.image_dataset_from_directory(
            folder,
            labels=None,
            batch_size=16,
            image_size=model.zoo.preprocessing.input_size,
            shuffle=False,
            verbose=False,
        )
        found = found if count is None else found.take(count)
        return found.map(turned, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    model.predict(cells(2), verbose=0)
    begin, work = time.perf_counter(), time.process_time()
    count = len(model.predict(cells(), verbose=0)) // views
    return _rate(count, begin, work)


def resident(weight: str, folder: str, count: str) -> dict[str, Any]:
    """Megabytes of memory while `count` files go through, the files of the folder again and again."""
    import itertools

    from leukaemia_zoo.cells import find_images
    from leukaemia_zoo.engine.network import Network
    from leukaemia_zoo.prediction import iter_predictions

    total, files = int(count), find_images([folder])[0]
    found = []
    items = itertools.islice(itertools.cycle(files), total)
    for number, _ in enumerate(iter_predictions(Network.load(weight), items), start=1):
        if number in (total // 20, total // 2, total):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            found.append((number, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
    return {"memory": found}


def latency_engine(weight: str) -> dict[str, Any]:
    """One weight on the engine."""
    begin = time.perf_counter()
    from leukaemia_zoo.engine.golden import golden_cells
    from leukaemia_zoo.engine.network import Network, cores

    network = Network.load(weight)
    cells = golden_cells(*network.zoo.preprocessing.input_size)
    with ThreadPoolExecutor(cores()) as pool:

        def judge(batch: np.ndarray) -> Any:
            return network.classifier.probabilities(network.embeddings(batch, pool=pool))

        judge(cells[:1])
        ready = time.perf_counter() - begin
        latency = _fastest(lambda: judge(cells[:1]))
        pieces = np.split(np.tile(cells, (8, 1, 1, 1)), 24)
        seconds = _fastest(lambda: list(pool.map(network.embeddings, pieces)), 3)
        return {"golden": judge(cells).tolist(), "latency": latency, "rate": 24 / seconds, "ready": ready}


def latency_keras(weight: str) -> dict[str, Any]:
    """One weight on Keras."""
    begin = time.perf_counter()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from leukaemia_zoo import load_model
    from leukaemia_zoo.engine.golden import golden_cells
    from leukaemia_zoo.zoo.outputs import class_probabilities

    model = load_model(weight)
    cells = golden_cells(*model.zoo.preprocessing.input_size)
    class_probabilities(model, model.zoo, cells[:1])
    ready = time.perf_counter() - begin
    latency = _fastest(lambda: class_probabilities(model, model.zoo, cells[:1]))
    batch = np.tile(cells, (8, 1, 1, 1))
    class_probabilities(model, model.zoo, batch)  # traced for this size
    seconds = _fastest(lambda: class_probabilities(model, model.zoo, batch), 3)
    golden = class_probabilities(model, model.zoo, cells).tolist()
    return {"golden": golden, "latency": latency, "rate": len(batch) / seconds, "ready": ready}


def _rate(count: int, begin: float, work: float) -> dict[str, Any]:
    """Images a second of the clock, and seconds of a processor an image, since two readings."""
    return {"rate": count / (time.perf_counter() - begin), "work": (time.process_time() - work) / count}


def _fastest(work: Any, times: int = 7) -> float:
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


# ---------------------------------------------------------------------------------------------------------------------


def _measure(what: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _cells(folder: Path, count: int) -> list[Path]:
    """Drawn cells of 256 pixels as PNG files, the size of those of C-NMC."""
    from leukaemia_zoo.engine.golden import golden_cells

    folder.mkdir(parents=True, exist_ok=True)
    rng, cell = np.random.default_rng(0), golden_cells(256, 256)[0].astype(np.int16)
    files = []
    for number in range(count):
        noise = rng.integers(-12, 13, cell.shape)
        files.append(folder / f"{number}.png")
        Image.fromarray(np.where(cell > 0, np.clip(cell + noise, 10, 255), 0).astype(np.uint8)).save(
            files[-1], compress_level=1
        )
    return files


def _row(part: str, weight: str, what: str, value: float, unit: str) -> dict[str, Any]:
    return {"part": part, "weight": weight, "what": what, "value": float(f"{value:.4g}"), "unit": unit}


def _printed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        print(f"  {row['weight']:20} {row['what']:55} {row['value']:>10g} {row['unit']}", flush=True)
    return rows


PARTS = {"start": start, "folder": folder, "memory": memory, "weights": each_weight}
MEASUREMENTS = {
    "folder_engine": folder_engine,
    "folder_keras": folder_keras,
    "arrays_engine": arrays_engine,
    "memory": resident,
    "latency_engine": latency_engine,
    "latency_keras": latency_keras,
}

if __name__ == "__main__":
    main()
