"""Classify a folder of cells from Python, and see what the attention gate lets pass.

python examples/predict_folder.py [FOLDER] [--picture FILE]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import leukaemia_zoo as lz

SIDE = 260  # pixels a side of each of the three panels


def main(folder: Path, picture: Path) -> None:
    """Predict every cell of the folder, and draw the attention map of the first."""
    # The model carries its classes and its preprocessing.
    model = lz.load_model("cnn_attention")
    print("classes:", ", ".join(model.zoo.class_names))

    # Whole frames go in: predict crops and resizes them as the weight wants it.
    paths, _ = lz.cells.find_images(folder)
    predictions = lz.predict(model, paths)
    for cell in predictions:
        print(Path(cell.path).name, cell.error or f"{cell.label} {cell.probabilities}")
    for subject in predictions.by_subject():
        print("subject", subject.to_dict())

    # One number from 0 to 1 for each position of the last feature map.
    first = next(cell for cell in predictions if cell.error is None)
    pixels = model.zoo.preprocessing.batch([lz.cells.read_image(first.path)])
    attention = lz.prediction.attention_maps(model, pixels)[0]
    print(f"attention {attention.shape}: {attention.min():.3f} to {attention.max():.3f}")
    draw(pixels[0], attention).save(picture, optimize=True)
    print("wrote", picture)


def draw(pixels: np.ndarray, attention: np.ndarray) -> Image.Image:
    """The cell, the map stretched from its lowest to its highest value, and both."""
    spread = max(float(np.ptp(attention)), 1e-6)
    stretched = np.rint(255 * (attention - attention.min()) / spread).astype(np.uint8)
    gate = Image.fromarray(stretched)
    coarse = gate.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    smooth = gate.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    cell = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    # Yellow where the gate is open, on the cell only: the black around it says nothing.
    is_cell = np.asarray(cell).max(axis=2, keepdims=True) > 8
    share = 0.7 * is_cell * np.asarray(smooth)[..., None] / 255
    both = np.asarray(cell) * (1 - share) + np.array([255, 210, 60]) * share

    panels = [cell, coarse.convert("RGB"), Image.fromarray(both.astype(np.uint8))]
    picture = Image.new("RGB", (3 * SIDE + 20, SIDE), "white")
    for number, panel in enumerate(panels):
        picture.paste(panel, (number * (SIDE + 10), 0))
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, nargs="?", default=Path("examples/cells"))
    parser.add_argument("--picture", type=Path, default=Path("attention.png"))
    main(**vars(parser.parse_args()))
