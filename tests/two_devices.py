"""Run by `test_devices` in a process of its own: distil and fine-tune a small network on one device, then on two.

Argument: file for the results. The environment says which backend; its processor pretends to be two.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras
import numpy as np

from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.hardware import number_of_devices, on_devices
from leukaemia_zoo.training.classifier import new_network
from leukaemia_zoo.training.distillation import distil
from leukaemia_zoo.training.drawing import CellArrays
from leukaemia_zoo.training.recipes import recipe_for
from leukaemia_zoo.training.runs import RunState, Training
from leukaemia_zoo.training.tuning import fit_network

CHANGES = {
    "input_size": 32,
    "turned_views": 2,
    "prediction_views": 1,
    "precision": "float32",
    "batch_size": 8,
    "fine_tune_epochs": 3,
    "fine_tune_learning_rate": 1e-3,
    "distillation": {
        **{"epochs": 3, "steps_per_epoch": 2, "batch_size": 8},
        "pairs": [["block2_pool", "conv_pw_3_relu"]],
    },
}


def teacher(folder: Path) -> None:
    keras.utils.set_random_seed(3)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
    np.savez(
        folder / "t.npz", **{f"{layer.name}/{v.name}": np.asarray(v) for layer in network.layers for v in layer.weights}
    )


def plain_steps(count: int) -> list[float]:
    """The weights of a network without anything random after six steps: the same for any number of devices."""
    rng = np.random.default_rng(1)
    values, labels = rng.normal(size=(24, 5)).astype(np.float32), (np.arange(24) % 3).astype(np.int32)
    with on_devices(count):
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss)
        model.fit(values, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(weight)) for weight in model.weights]).tolist()


def results(count: int, folder: Path) -> dict:
    recipe = recipe_for("cnn_attention", CHANGES)
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = np.clip(rng.integers(0, 120, (2, 24, 32, 32, 3)) + 100 * labels[:, None, None, None], 0, 255).astype(
        np.uint8
    )
    paths = tuple(Path(f"{row}.png") for row in range(24))
    cells = Cells(
        paths, labels, tuple(f"s{row // 2}-{row % 2}" for row in range(24)), ("hem", "all"), ("",) * 24, "csv"
    )
    count = number_of_devices(count, [8])
    with on_devices(count):
        model = new_network(recipe, 2, 0)
        history = distil(model, pixels[0], recipe.distillation, folder / "t.npz", seed=1, log=str.strip)
    variable = model.get_layer("block1_conv").kernel.value
    spread = (
        len(variable.sharding.device_set) if hasattr(variable, "sharding") else len(getattr(variable, "values", [0]))
    )
    split = Split({"train": tuple(range(16)), "validation": tuple(range(16, 24))}, 0, "by hand")
    arrays, state = CellArrays(pixels, np.ones(24)), RunState(folder / f"state_{count}", "x", restart=False)
    fitted = fit_network(Training(recipe, cells, arrays, state, 0, str.strip, count), split, None)
    finite = all(np.isfinite(np.asarray(weight)).all() for m in (model, fitted.model) for weight in m.weights)
    tuned = [row["loss"] for row in fitted.curves]
    result = {"distillation": history, "fine_tuning": tuned, "finite": bool(finite), "spread": spread}
    return result | {"plain": plain_steps(count)}


def main(out: Path) -> None:
    found = []
    with tempfile.TemporaryDirectory() as name:
        teacher(Path(name))
        for count in (1, 2):
            if os.environ["KERAS_BACKEND"] == "tensorflow":
                # One device is what two are compared with: it needs no graphs, which take longer to make than to run.
                tf.config.run_functions_eagerly(count == 1)
            found.append(results(count, Path(name)))
    out.write_text(json.dumps(found), encoding="utf-8")


main(Path(sys.argv[1]))
