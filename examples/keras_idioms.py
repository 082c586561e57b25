"""The networks of the zoo are ordinary Keras models: compile, fit, callbacks, tf.data, PyDataset, DataLoader.

python examples/keras_idioms.py [--data DIR]

DIR holds one folder a class. Without it the program draws its own cells.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
from finetune_blood_cells import draw_folder

import leukaemia_zoo as lz

BATCH = 8


class CellBatches(keras.utils.PyDataset):
    """Batches read from disk when they are needed, for data that does not fit into memory."""

    def __init__(self, model: keras.Model, cells: lz.Cells) -> None:
        super().__init__(workers=2)
        self.preprocessing = model.zoo.preprocessing
        self.cells = cells

    def __len__(self) -> int:
        return -(-len(self.cells) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(index * BATCH, (index + 1) * BATCH)
        frames = [lz.cells.read_image(path) for path in self.cells.paths[rows]]
        return self.preprocessing.batch(frames).astype("float32"), self.cells.labels[rows]


def main(data: Path) -> None:
    """Train the same network in each way that Keras knows."""
    cells = lz.read_data(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the last layer is new, which is the point here
        model = lz.load_model("cnn_attention", num_classes=len(cells.class_names), class_names=cells.class_names)

    # Whole frames become pixels by the model's own preprocessing; RGB, 0 to 255, is what it takes.
    pixels = model.zoo.preprocessing.batch([lz.cells.read_image(path) for path in cells.paths]).astype("float32")
    labels = cells.labels

    # Transfer learning as in every Keras guide: freeze, compile, fit.
    for layer in model.layers:
        layer.trainable = layer.name == "logits"
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1),
        keras.callbacks.TerminateOnNaN(),
    ]
    order = np.random.default_rng(0).permutation(len(labels))  # Keras takes the last cells for validation
    arrays = pixels[order], labels[order]
    history = model.fit(*arrays, validation_split=0.25, epochs=2, batch_size=BATCH, callbacks=callbacks, verbose=0)
    print("arrays:", sorted(history.history))

    # A view of each cell that no two epochs share: the layer sits in front of the network.
    inputs = keras.Input(model.input_shape[1:])
    augmented = keras.Model(inputs, model(lz.zoo.CellAugmentation(any_angle=False, seed=0)(inputs)))
    augmented.compile("adam", "sparse_categorical_crossentropy")
    augmented.fit(pixels, labels, batch_size=BATCH, verbose=0)
    print("augmentation: inside the graph, on every backend")

    model.fit(CellBatches(model, cells), verbose=0)
    print("PyDataset:", len(CellBatches(model, cells)), "batches")

    try:
        import tensorflow as tf
    except ImportError:
        print("tf.data: TensorFlow is not installed")
    else:
        dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(64, seed=0).batch(BATCH).prefetch(1)
        model.fit(dataset, verbose=0)
        print("tf.data:", int(dataset.cardinality()), "batches")

    try:
        from torch.utils.data import DataLoader
    except ImportError:
        print("DataLoader: PyTorch is not installed")
    else:
        pairs = [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]
        loader = DataLoader(pairs, batch_size=BATCH, shuffle=True)
        model.fit(loader, verbose=0)
        print("DataLoader:", len(loader), "batches")

    # Keras' own saving works as well as ours, which adds classes and preprocessing.
    with tempfile.TemporaryDirectory() as folder:
        lz.save_model(model, folder)
        again = lz.load_model(folder)
        found = lz.predict(again, cells.paths[:1])[0]
        print("saved and loaded:", found.label, again.zoo.class_names)
        model.save(Path(folder) / "model.keras")
        twin = keras.saving.load_model(Path(folder) / "model.keras")
        same = np.allclose(keras.ops.convert_to_numpy(twin(pixels[:1])), keras.ops.convert_to_numpy(model(pixels[:1])))
        print("a .keras file gives the same:", same)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(options.data or draw_folder(Path(place), per_class=8, classes=3))
