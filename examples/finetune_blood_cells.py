"""Fine-tune on cells of another laboratory: eight classes of normal blood cells.

python examples/finetune_blood_cells.py [--data DIR] [--out DIR] [--per-class N]

DIR holds one folder a class, such as those of the PBC data set (Acevedo et al. 2020, doi 10.17632/snkd93bnjr.1).
Without it the program draws its own cells.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import leukaemia_zoo as lz

# Drawn cells: colour of the nucleus, number of its lobes, colour of the cytoplasm.
DRAWN = {
    "basophil": ((50, 30, 100), 2, (120, 90, 150)),
    "eosinophil": ((100, 50, 120), 2, (230, 130, 120)),
    "erythroblast": ((60, 20, 60), 1, (190, 180, 200)),
    "ig": ((120, 70, 140), 1, (190, 160, 200)),
    "lymphocyte": ((80, 40, 130), 1, (150, 170, 220)),
    "monocyte": ((110, 80, 150), 1, (170, 170, 190)),
    "neutrophil": ((90, 45, 125), 3, (230, 205, 210)),
    "platelet": ((150, 100, 170), 0, (200, 170, 210)),
}


def main(data: Path, out: Path, per_class: int | None = None) -> None:
    """Probe, fine-tune, predict."""
    # A first answer within a minute: how well do the features of the weight, as they are, tell the classes apart?
    print(lz.adaptation.linear_probe("cnn_attention", data, cache=False, resamples=200))

    # Test part, folds, crop, penalty, fine-tuning, temperature and report: all chosen by the call, all recorded.
    recipe = {"fine_tune_epochs": 3}
    tuned = lz.fine_tune("cnn_attention", data, out, per_class=per_class, recipe=recipe, log=print)
    print(tuned.report)

    # The folder is a model like those of the zoo.
    model = lz.load_model(out)
    paths, _ = lz.cells.find_images(data)
    for cell in lz.predict(model, paths[:3]):
        print(Path(cell.path).name, cell.label, f"{max(cell.probabilities):.2f}", "unfamiliar" * bool(cell.unfamiliar))


def draw_folder(folder: Path, per_class: int = 10, classes: int = 8) -> Path:
    """Draw cells into one folder a class."""
    rng = np.random.default_rng(0)
    for name in [*DRAWN][:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(draw_cell(rng, *DRAWN[name])).save(folder / name / f"{name}_{number}.png")
    return folder


def draw_cell(rng: np.random.Generator, nucleus: tuple, lobes: int, cytoplasm: tuple, side: int = 180) -> np.ndarray:
    """A cell among pale ground, uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side] - side / 2
    frame = np.full((side, side, 3), 228.0) + rng.normal(0, 3, 3)
    radius = side * (0.26 if lobes else 0.1) * rng.uniform(0.9, 1.1)
    frame[np.hypot(x, y) < radius] = cytoplasm
    for lobe in range(lobes):
        angle = 2 * np.pi * (lobe / max(lobes, 1) + rng.random())
        away = 0.0 if lobes == 1 else 0.45 * radius
        inside = np.hypot(x - away * np.cos(angle), y - away * np.sin(angle)) < radius * (0.7 if lobes == 1 else 0.4)
        frame[inside] = nucleus
    return np.clip(frame + rng.normal(0, 8, frame.shape), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/blood_cells"), metavar="DIR")
    parser.add_argument("--per-class", type=int, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        main(options.data or draw_folder(Path(place) / "cells"), options.out, options.per_class)
