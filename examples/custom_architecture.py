"""Add an architecture of your own to the zoo, fine-tune it, save it and load it again.

python examples/custom_architecture.py [--data DIR] [--out DIR]

DIR holds one folder a class. Without it the program draws its own cells.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from finetune_blood_cells import draw_folder
from keras import layers

import leukaemia_zoo as lz


def small_separable(images: Any) -> Any:
    """Separable convolutions, from RGB of 0 to 255 to 64 features. Every layer has a name: weights are found by it."""
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(images)
    for number, channels in enumerate((16, 32, 64), start=1):
        x = layers.SeparableConv2D(channels, 3, strides=2, padding="same", name=f"block{number}_conv")(x)
        x = layers.BatchNormalization(name=f"block{number}_norm")(x)
        x = layers.Activation("relu", name=f"block{number}_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def main(data: Path, out: Path) -> None:
    """Register, train, save, load."""
    lz.zoo.register_architecture(
        "small_separable", small_separable, input_size=64, dropout=0.2, title="Three separable convolutions"
    )
    print("in the zoo:", "small_separable" in lz.list_models())

    # Random weights: all layers learn, and BatchNorm with them.
    model = lz.load_model("small_separable", weights=None)
    recipe = {"fine_tune_epochs": 2, "fine_tune_learning_rate": 0.003}
    tuned = lz.fine_tune(model, data, out, recipe=recipe, unfreeze="all", keep_statistics=False, log=print)
    print(tuned.report)

    # Any process that has registered the name can load the folder; one that has not is told so.
    again = lz.load_model(out)
    print(again.zoo.architecture, again.zoo.class_names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/small_separable"), metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(options.data or draw_folder(Path(place) / "cells", classes=3), options.out)
