"""What `benchmark_speed.py` measures, each in a process of its own: ``python tools/speed_measurements.py NAME ...``.

The result is the last line that is printed, as JSON.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_BATCH = 8
"""Cells at once where many are judged."""


def drawn_cells(folder: Path, count: int, side: int = 256) -> list[Path]:
    """Drawn cells as PNG files, by default of 256 pixels as the copies of C-NMC's; each a little different."""
    from leukaemia_zoo.engine.golden import golden_cells

    folder.mkdir(parents=True, exist_ok=True)
    rng, cell = np.random.default_rng(0), golden_cells(side, side)[0].astype(np.int16)
    files = []
    for number in range(count):
        noise = rng.integers(-12, 13, cell.shape)
        files.append(folder / f"{number}.png")
        pixels = np.where(cell > 0, np.clip(cell + noise, 10, 255), 0).astype(np.uint8)
        Image.fromarray(pixels).save(files[-1], compress_level=1)
    return files


# --- a folder of cells ---


def folder_engine(weight: str, folder: str, views: str, precision: str = "float32") -> dict[str, Any]:
    """Files/s through `iter_predictions`; int8 is calibrated on some of the files before."""
    from leukaemia_zoo.cells import find_images
    from leukaemia_zoo.prediction import iter_predictions
    from leukaemia_zoo.prediction.verdicts import resolve_in

    files = find_images([folder])[0]
    network = resolve_in(precision, weight, files[::10])
    list(iter_predictions(network, files[:20], views=int(views)))
    begin, work = time.perf_counter(), time.process_time()
    count = sum(1 for _ in iter_predictions(network, files, views=int(views)))
    return _rate(count, begin, work)


def frames_engine(weight: str, folder: str, views: str) -> dict[str, Any]:
    """Cells/s through `iter_predictions` of frames that are decoded, but neither cropped nor resized."""
    from leukaemia_zoo.cells import find_images, read_image
    from leukaemia_zoo.prediction import iter_predictions
    from leukaemia_zoo.prediction.verdicts import resolve_in

    frames = [read_image(file) for file in find_images([folder])[0][:400]]
    network = resolve_in("float32", weight, frames[:10])
    list(iter_predictions(network, frames[:20], views=int(views)))
    begin, work = time.perf_counter(), time.process_time()
    count = sum(1 for _ in iter_predictions(network, frames, views=int(views)))
    return _rate(count, begin, work)


def arrays_engine(weight: str, folder: str, views: str) -> dict[str, Any]:
    """Cells/s of the engine alone on decoded and preprocessed arrays, on all cores."""
    from leukaemia_zoo.cells import find_images, read_image
    from leukaemia_zoo.engine.network import Network
    from leukaemia_zoo.engine.trunk import cores

    network = Network.load(weight)
    batch = network.zoo.preprocessing.batch([read_image(file) for file in find_images([folder])[0][:400]])

    def judge(cell: np.ndarray) -> Any:
        return network.embeddings(cell, views=int(views))

    pieces = np.split(batch, len(batch))
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(judge, pieces[:20]))
        begin, work = time.perf_counter(), time.process_time()
        list(pool.map(judge, pieces))
    return _rate(len(batch), begin, work)


def folder_keras(weight: str, folder: str, views: str) -> dict[str, Any]:
    """Files/s of `model.predict` over `image_dataset_from_directory`, TensorFlow, the same network and views."""
    import keras
    import tensorflow as tf

    from leukaemia_zoo import load_model

    model, count_of_views = load_model(weight), int(views)

    def turned(images: Any) -> Any:
        quarter = [tf.image.rot90(images, -turns) for turns in range(min(count_of_views, 4))]
        mirrored = [tf.image.flip_left_right(view) for view in quarter] if count_of_views == 8 else []
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
    count = len(model.predict(cells(), verbose=0)) // count_of_views
    return _rate(count, begin, work)


# --- one weight ---


def one_engine(weight: str) -> dict[str, Any]:
    """Latency of one cell, cells/s of many, on the engine."""
    begin = time.perf_counter()
    from leukaemia_zoo.engine.golden import golden_cells
    from leukaemia_zoo.engine.network import Network
    from leukaemia_zoo.engine.trunk import cores

    network = Network.load(weight)
    cells = golden_cells(*network.zoo.preprocessing.input_size)
    with ThreadPoolExecutor(cores()) as pool:

        def judge(batch: np.ndarray) -> Any:
            return network.classifier.probabilities(network.embeddings(batch, pool=pool))

        judge(cells[:1])
        ready = time.perf_counter() - begin
        latency = _fastest(lambda: judge(cells[:1]))
        pieces = [cells[number % len(cells)][None] for number in range(2 * _BATCH)]
        seconds = _fastest(lambda: list(pool.map(network.embeddings, pieces)))
        return _one(judge(cells), latency, len(pieces) / seconds, ready)


def one_file(file: str) -> dict[str, Any]:
    """Latency of one cell, cells/s of many, of an exported ONNX file: as many at once as there are cores."""
    begin = time.perf_counter()
    import onnxruntime

    from leukaemia_zoo.engine.golden import golden_cells
    from leukaemia_zoo.engine.trunk import cores

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    single = onnxruntime.SessionOptions()
    single.intra_op_num_threads = 1
    worker = onnxruntime.InferenceSession(file, single, providers=["CPUExecutionProvider"])
    _, height, width, _ = session.get_inputs()[0].shape
    cells = golden_cells(height, width).astype(np.float32)

    def judge(cell: np.ndarray) -> Any:
        return session.run(["probabilities"], {"images": cell})[0]

    judge(cells[:1])
    ready = time.perf_counter() - begin
    latency = _fastest(lambda: judge(cells[:1]))
    pieces = [cells[number % len(cells)][None] for number in range(2 * _BATCH)]
    with ThreadPoolExecutor(cores()) as pool:
        seconds = _fastest(
            lambda: list(pool.map(lambda cell: worker.run(["probabilities"], {"images": cell})[0], pieces))
        )
    golden = np.concatenate([judge(cell[None]) for cell in cells])
    return _one(golden, latency, len(pieces) / seconds, ready)


def one_keras(weight: str) -> dict[str, Any]:
    """Latency of one cell, cells/s of many, by Keras on the backend that KERAS_BACKEND names."""
    begin = time.perf_counter()
    from leukaemia_zoo import load_model
    from leukaemia_zoo.engine.golden import golden_cells
    from leukaemia_zoo.zoo.outputs import class_probabilities

    model = load_model(weight)
    cells = golden_cells(*model.zoo.preprocessing.input_size)

    def judge(batch: np.ndarray) -> Any:
        return class_probabilities(model, model.zoo, batch)

    golden = [judge(cells[:1])]
    ready = time.perf_counter() - begin
    latency = _fastest(lambda: judge(cells[:1]))
    batch = np.stack([cells[number % len(cells)] for number in range(_BATCH)])
    judge(batch)  # traced for this size
    seconds = _fastest(lambda: judge(batch))
    golden += [judge(cell[None]) for cell in cells[1:]]
    return _one(np.concatenate(golden), latency, len(batch) / seconds, ready)


def _one(golden: Any, latency: float, rate: float, ready: float) -> dict[str, Any]:
    # getrusage begins with the memory of the process that started this; the package's own function imports Keras.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    memory = int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024 / 1e6
    return {"golden": np.asarray(golden).tolist(), "latency": latency, "rate": rate, "ready": ready, "memory": memory}


# --- training ---


def training(architecture: str, steps: str, fused: str = "fused") -> dict[str, Any]:
    """Images/s of the fine-tuning, beside `fit` of the same compiled network on arrays, and what steps wait.

    Unless told ``fused`` BatchNorm learns as Keras writes it.
    """
    import keras

    from leukaemia_zoo.training.classifier import new_network
    from leukaemia_zoo.training.drawing import CellArrays, Drawn, preprocessing_for
    from leukaemia_zoo.training.recipes import recipe_for
    from leukaemia_zoo.training.runs import Training
    from leukaemia_zoo.training.tuning import compiled_trainer
    from leukaemia_zoo.zoo.layers import BatchNormalization

    recipe, count = recipe_for(architecture), int(steps)
    rng, classes = np.random.default_rng(0), 2
    frames = tuple(rng.integers(30, 220, (256, 256, 3), dtype=np.uint8) for _ in range(64))
    preprocessing = preprocessing_for(recipe)
    pixels = np.stack([preprocessing(frame) for frame in frames])[None]
    arrays = CellArrays(pixels, np.ones(len(frames)), frames if recipe.drawn_views else None)
    about: Any = types.SimpleNamespace(class_names=("hem", "all"))  # all that it asks of a table
    state: Any = None  # nothing is resumed
    run = Training(recipe, about, arrays, state, 0, print)
    views, labels, rows = run.views, np.arange(len(frames)) % classes, np.arange(len(frames))
    network = new_network(recipe, classes, 0)
    learner, trainer = compiled_trainer(run, network, count * recipe.batch_size, False, None, 1.0)
    for layer in learner.layers:
        if fused != "fused" and isinstance(layer, BatchNormalization):
            layer.__class__ = keras.layers.BatchNormalization

    def drawn(seed: int, length: int) -> Drawn:
        weights = np.full(len(rows), 1 / len(rows))
        return Drawn(views, labels, rows, weights, recipe.batch_size, [0, seed], classes, steps=length)

    first = drawn(0, count)
    ready = [first[number] for number in range(4)]
    images, targets = (np.concatenate([batch[part] for batch in ready]) for part in (0, 1))
    images, targets = np.tile(images, (math.ceil(count / 4), 1, 1, 1)), np.tile(targets, (math.ceil(count / 4), 1))
    images, targets = images[: count * recipe.batch_size], targets[: count * recipe.batch_size]

    def ours(seed: int) -> float:
        begin = time.perf_counter()
        trainer.fit(drawn(seed, count), shuffle=False, verbose=0)
        return time.perf_counter() - begin

    def plain() -> float:
        begin = time.perf_counter()
        trainer.fit(images, targets, batch_size=recipe.batch_size, shuffle=False, verbose=0)
        return time.perf_counter() - begin

    trainer.fit(drawn(0, 2), shuffle=False, verbose=0)
    trainer.fit(images[: 2 * recipe.batch_size], targets[: 2 * recipe.batch_size], recipe.batch_size, verbose=0)
    seconds, alone = zip(*((ours(number + 1), plain()) for number in range(2)), strict=True)
    cells = count * recipe.batch_size
    begin = time.perf_counter()
    batches = drawn(9, count)
    for number in range(count):
        batches[number]
    drawing = time.perf_counter() - begin
    return {
        "ours": cells / min(seconds),
        "plain": cells / min(alone),
        "waits": max(0.0, 1 - min(alone) / min(seconds)),
        "drawing": cells / drawing,
        "backend": keras.backend.backend(),
    }


# --- what fewer views and int8 cost ---


def accuracy(data: str, out: str, count: str, *models: str) -> dict[str, Any]:
    """AUROC of one weight, or pooled of the networks of a cross-validation, with fewer views and in int8.

    Args:
        data: C-NMC.
        out: Folder for the exported files.
        count: The most cells that are judged, of each network.
        models: A weight; or the fold folders of a cross-validation, of which each judges its own test part.
    """
    from leukaemia_zoo.cells.readers import read_data
    from leukaemia_zoo.engine.network import Network

    cells, rng = read_data(data), np.random.default_rng(0)
    truth: list[int] = []
    logits: dict[str, list[float]] = {}
    changes: list[float] = []
    for model in models:
        network = Network.load(model)
        test, teaching = _parts(model, cells, rng)
        test, known = test[: int(count)], teaching[:200]
        read = [network.zoo.preprocessing.batch(_frames(cells, rows)) for rows in (test, known)]
        file = Path(out) / f"{Path(model).name}.onnx"
        by_int8 = _int8(model, file, read[1])
        whole = _view_logits(network, read[0])
        temperature = _temperature(model)
        for views in (1, 2, 4, 8):
            logits.setdefault(f"{views} views", []).extend(whole[:, :views].mean(axis=1) / temperature)
        default = whole[:, : network.zoo.views].mean(axis=1)
        small = _logit(np.concatenate([by_int8(cell[None]) for cell in read[0]]))
        logits.setdefault("float", []).extend(default / temperature)
        logits.setdefault("int8", []).extend(small / temperature)
        changes += np.abs(_sigmoid(small) - _sigmoid(default)).tolist()
        truth += cells.labels[test].tolist()
    labels = np.array(truth)
    best = np.array(logits["float"])
    area = _auroc(labels, best)
    found: dict[str, Any] = {"cells": len(labels), "auroc": area, "int8 change": float(np.mean(changes))}
    for name, values in logits.items():
        other = np.array(values)
        found[name] = {"lost": area - _auroc(labels, other), "changed": float(((other > 0) != (best > 0)).mean())}
    return found


def _parts(model: str, cells: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows to judge, and rows to calibrate on, in random order: those of a split where the network has one."""
    manifest = Path(model) / "split.json"
    order = rng.permutation(len(cells))
    if not manifest.is_file():
        return order[200:], order[:200]
    from leukaemia_zoo.cells.manifests import load_manifest

    split = load_manifest(manifest, cells)
    test = set(split.parts["test"])
    return np.array([row for row in order if row in test]), np.array([row for row in order if row not in test])


def _temperature(model: str) -> float:
    file = Path(model).parent / "cross_validation.json"
    if not (Path(model) / "split.json").is_file() or not file.is_file():
        return 1.0  # it is inside of the weight
    folds = json.loads(file.read_text(encoding="utf-8"))["folds"]
    return float(next(fold["temperature"] for fold in folds if f"fold_{fold['fold']}" == Path(model).name))


def _frames(cells: Any, rows: np.ndarray) -> list[np.ndarray]:
    from leukaemia_zoo.cells import read_image

    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda row: read_image(cells.paths[row]), rows))


def _int8(model: str, file: Path, known: np.ndarray) -> Any:
    """A function from a batch of preprocessed cells to probabilities, calibrated on known ones."""
    import onnxruntime

    from leukaemia_zoo.exporting.quantising import quantise
    from leukaemia_zoo.exporting.writing import export

    export(model, file)
    quantise(file, known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["probabilities"], {"images": batch.astype(np.float32)})[0]


def _view_logits(network: Any, batch: np.ndarray) -> np.ndarray:
    """Logit of the second class, (N, 8): of each view."""
    from leukaemia_zoo.cells.preprocessing import symmetric_views
    from leukaemia_zoo.engine.trunk import cores

    def judge(cell: np.ndarray) -> np.ndarray:
        views = symmetric_views(cell[None], 8)[:, 0]
        embeddings = np.concatenate([network.embeddings(views[start : start + 2], views=1) for start in range(0, 8, 2)])
        return _logit(network.classifier.probabilities(embeddings))

    with ThreadPoolExecutor(cores()) as pool:
        return np.stack(list(pool.map(judge, batch)))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    odds = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1)
    return np.log(odds[:, 1]) - np.log(odds[:, 0])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _auroc(labels: np.ndarray, values: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, values))


# --- ---


def _rate(count: int, begin: float, work: float) -> dict[str, Any]:
    """Images a second of the clock, and seconds of a processor an image, since two readings."""
    return {"rate": count / (time.perf_counter() - begin), "work": (time.process_time() - work) / count}


def _fastest(work: Any, within: float = 1.0, most: int = 7) -> float:
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < most and (len(seconds) < 2 or time.perf_counter() - begin < within):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


MEASUREMENTS = {
    each.__name__: each
    for each in (
        folder_engine,
        frames_engine,
        arrays_engine,
        folder_keras,
        one_engine,
        one_file,
        one_keras,
        training,
        accuracy,
    )
}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](*sys.argv[2:])))
