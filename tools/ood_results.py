"""Measure how well the OOD score of a weight tells other images from held-out cells, for `results/<weight>/ood.json`.

    python tools/ood_results.py --data C-NMC_Leukemia --pbc PBC --bccd BCCD [--masks MASKED_CELLS] --weights cnn.cnmc
    python tools/ood_results.py --data C-NMC_Leukemia --only natural --weights cnn.cnmc
    python tools/ood_results.py --data C-NMC_Leukemia --limits --weights cnn.cnmc

The cells are a sample of fixed seed from the weight's own training data. Each is scored by a standardisation that no
cell of its person took part in, over the folds that validated the weight; other images are scored as `predict` scores
them. The photographs are those that travel inside scikit-image and scikit-learn. The second form measures some kinds of
images and keeps what the file says of the others. The third sets the limit of a weight that has none yet, from all
cells by the same folds, as training does it; it is written into the row in `weights.json`, or into `config.json` where
the weight is a folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_sample_images

from leukaemia_zoo import Cells, load_model, read_data
from leukaemia_zoo.cells import find_images, read_image
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.prediction import ood_scores
from leukaemia_zoo.prediction.features import limit_of
from leukaemia_zoo.training.classifier import Embeddings, embed, held_out_scores, view_outputs
from leukaemia_zoo.training.drawing import development_split, read_arrays
from leukaemia_zoo.training.recipes import recipe_for
from leukaemia_zoo.zoo.registry import WeightSpec
from leukaemia_zoo.zoo.sources import CONFIG_FILE, find

ROOT = Path(__file__).parents[1]
SIZE = 256
"""Side of the generated frames, which is that of the reference frame."""
CHANGED = 100
"""So many cells of the sample are changed for each set of changed cells."""
PBC = 250
PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
"""Of those inside scikit-image, the ones of everyday things; scikit-learn adds two. Four of them are grey."""
PARTS = {"natural": 6}
"""Images of such a set that are of one photograph, and stand together."""
RESAMPLES = 1000
_CHUNK = 1000
"""Cells embedded at once: eight views of all of them would not fit everywhere."""

Frames = list[np.ndarray]


# ---------------------------------------------------------------------------------------------------------------------
# Cells that the standardisation has not seen


def held_out(model: keras.Model, spec: WeightSpec, cells: Cells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of some rows that validated the weight, and their scores by the standardisation of the other folds."""
    try:
        recipe, seed = recipe_for(spec.config.architecture, spec.training["recipe"]), spec.training["seed"]
    except KeyError as missing:
        raise SystemExit(f"{spec.name} does not tell its {missing}: only a trained weight has folds.") from None
    parts = development_split(cells, recipe, True, seed).parts
    if "validation" in parts:  # fine-tuned: the standardisation is that of the network itself
        rows = np.intersect1d(rows, parts["validation"])
        table = cells.subset(rows)
        shown = read_arrays(table, dataclasses.replace(recipe, turned_views=1), seed).pixels[0]
        chunks = [shown[start : start + _CHUNK] for start in range(0, len(shown), _CHUNK)]
        return rows, np.concatenate([view_outputs(model, chunk, recipe)[1] for chunk in chunks])
    place = {row: index for index, row in enumerate(rows.tolist())}
    folds = [np.array([place[row] for row in part if row in place]) for part in parts.values()]
    table = cells.subset(rows)
    found = []
    for start in range(0, len(rows), _CHUNK):
        chunk = table.subset(range(start, min(start + _CHUNK, len(rows))))
        found.append(embed(model, read_arrays(chunk, recipe, seed).pixels, np.arange(len(chunk)), recipe))
        print(f"{spec.name}: {start + len(chunk):,} of {len(rows):,} cells", flush=True)
    embeddings = Embeddings(
        np.concatenate([own.turned for own in found], axis=1), np.concatenate([own.predicted for own in found])
    )
    pairs = [(np.concatenate([*folds[:number], *folds[number + 1 :]]), own) for number, own in enumerate(folds)]
    order = rows[np.concatenate(folds)]
    return order, held_out_scores(table, embeddings, pairs, recipe)


# ---------------------------------------------------------------------------------------------------------------------
# Images that are something else


def real_sets(pbc: Path | None, bccd: Path | None, masks: Path | None, seed: int) -> dict[str, tuple[str, Frames]]:
    """Sets of other people's images, each with what it holds."""
    sets: dict[str, tuple[str, Frames]] = {}
    if pbc is not None:
        paths = find_images([pbc])[0]
        drawn = np.sort(np.random.default_rng(seed).permutation(len(paths))[:PBC])
        sets["pbc"] = (
            "normal blood cells of PBC as photographed, with what lies around them",
            [read_image(paths[row]) for row in drawn],
        )
    if bccd is not None:
        sets["bccd"] = ("whole fields of a smear, BCCD", [read_image(path) for path in find_images([bccd])[0]])
    if masks is not None:
        images = [path for path in find_images([masks])[0] if path.suffix == ".bmp"]
        sets["photographed_elsewhere"] = (
            "white blood cells of another laboratory as photographed",
            [read_image(path) for path in images],
        )
        sets["cut_out_elsewhere"] = (
            "the same cut out onto black by their masks, at the size of C-NMC cells",
            [_cut_out(path) for path in images],
        )
    return {"natural": natural()} | sets


def natural() -> tuple[str, Frames]:
    """Photographs of everyday things, each whole and as its corners and its middle."""
    try:
        from skimage import data
    except ImportError:
        raise SystemExit("The photographs are scikit-image's: install leukaemia-zoo[cytology].") from None
    photographs = [np.asarray(getattr(data, name)()) for name in PHOTOGRAPHS] + load_sample_images().images
    frames = []
    for photograph in photographs:
        image = Image.fromarray(photograph).convert("RGB")
        right, bottom = image.width - SIZE, image.height - SIZE
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
        frames += [image, *(image.crop((x, y, x + SIZE, y + SIZE)) for x, y in places)]
    what = f"photographs of everyday things, {len(photographs)} of them, each whole and in five parts"
    return what, [np.asarray(frame) for frame in frames]


def _cut_out(path: Path) -> np.ndarray:
    """The cell alone, its longer side 115 of 256 pixels: about the mean of C-NMC."""
    cell = np.asarray(Image.open(path.with_suffix(".png")).convert("L")) > 0
    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = Image.fromarray((read_image(path) * cell[..., None])[box].astype(np.uint8))
    return _centred(image, 115 / max(image.size))


def _centred(image: Image.Image, scale: float) -> np.ndarray:
    width, height = (max(1, round(side * scale)) for side in image.size)
    frame = Image.new("RGB", (SIZE, SIZE))
    frame.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(frame)


def drawn_sets(seed: int) -> dict[str, tuple[str, Frames]]:
    """Sets of images that a program draws."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    colours = [np.array(colour) for colour in ((255, 255, 255), (128, 128, 128), (230, 200, 210))]

    def ramp() -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * x + np.sin(angle) * y
        return np.asarray((along - along.min()) / np.ptp(along))[..., None]

    def gradient() -> np.ndarray:
        first, second = rng.integers(0, 256, (2, 3))
        return np.asarray(first + (second - first) * ramp())

    def stripes() -> np.ndarray:
        first, second = rng.integers(0, 256, (2, 3))
        return np.where(np.sin(ramp() * rng.uniform(20, 200)) > 0, first, second)

    uniform = [np.broadcast_to(c, (SIZE, SIZE, 3)) for c in [*colours, *rng.integers(1, 256, (16, 3))]]
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3)) for _ in range(10)]
    noise += [rng.normal(128, 20, (SIZE, SIZE, 3)) for _ in range(10)]
    sets = {
        "uniform": ("frames of one colour, white among them (black is refused)", uniform),
        "noise": ("noise", noise),
        "gradient": ("gradients from one colour to another", [gradient() for _ in range(20)]),
        "stripes": ("stripes of two colours", [stripes() for _ in range(20)]),
        "smear": ("drawn smears on a bright background", [_smear(rng) for _ in range(20)]),
        "text": ("black text on white", [_text(rng) for _ in range(20)]),
    }
    return {
        name: (what, [np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in frames])
        for name, (what, frames) in sets.items()
    }


def _smear(rng: np.random.Generator) -> np.ndarray:
    image = Image.new("RGB", (SIZE, SIZE), tuple(rng.integers(215, 245, 3).tolist()))
    draw = ImageDraw.Draw(image)

    def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    for _ in range(14):
        (x, y), radius = rng.integers(0, SIZE, 2).tolist(), float(rng.integers(16, 26))
        disc(x, y, radius, (220, 160, 160))
        disc(x, y, radius / 3, (235, 200, 195))
    disc(SIZE / 2, SIZE / 2, 45, (190, 160, 200))
    disc(SIZE / 2, SIZE / 2, 34, (100, 50, 140))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.5))) + rng.normal(0, 6, (SIZE, SIZE, 3))


def _text(rng: np.random.Generator) -> np.ndarray:
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    for line in range(16):
        draw.text((8, 16 * line), "".join(map(chr, rng.integers(97, 123, 40).tolist())), fill="black")
    return np.asarray(image)


def changed_sets(frames: Frames) -> dict[str, tuple[str, Frames]]:
    """Sets of C-NMC cells after something that must not happen to them, from the plainest to the finest."""

    def each(change: Callable[[Image.Image], Any]) -> Frames:
        return [np.asarray(change(Image.fromarray(frame))) for frame in frames]

    def zoomed(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (width / 4, height / 4, 3 * width / 4, 3 * height / 4)
        return image.resize(image.size, Image.Resampling.BICUBIC, box=box)

    on_cell = [frame.max(axis=-1, keepdims=True) > 0 for frame in frames]
    halves = [np.arange(frame.shape[1])[None, :, None] < frame.shape[1] // 2 for frame in frames]
    shift = SIZE // 7
    pairs = zip(frames, [*frames[1:], frames[0]], strict=True)
    return {
        "inverted": ("C-NMC cells in inverted colours", [255 - frame for frame in frames]),
        "white_background": (
            "C-NMC cells on white",
            [np.where(cell, frame, 255).astype(np.uint8) for cell, frame in zip(on_cell, frames, strict=True)],
        ),
        "zoomed": ("C-NMC cells at twice their size", each(zoomed)),
        "shrunk": ("C-NMC cells at half their size", each(lambda image: _centred(image, SIZE / 2 / max(image.size)))),
        "blurred": ("C-NMC cells out of focus", each(lambda image: image.filter(ImageFilter.GaussianBlur(4)))),
        "grey": ("C-NMC cells without colour", each(lambda image: image.convert("L").convert("RGB"))),
        "red_green_swapped": ("C-NMC cells, red and green swapped", [frame[..., [1, 0, 2]] for frame in frames]),
        "red_blue_swapped": ("C-NMC cells, red and blue swapped", [frame[..., ::-1] for frame in frames]),
        "half": (
            "the left half of C-NMC cells",
            [np.where(half, frame, 0).astype(np.uint8) for half, frame in zip(halves, frames, strict=True)],
        ),
        "two_cells": (
            "two C-NMC cells in one frame",
            [np.maximum(np.roll(one, -shift, 1), np.roll(other, shift, 1)) for one, other in pairs],
        ),
        "off_centre": ("C-NMC cells off their place", [np.roll(frame, SIZE // 8, 1) for frame in frames]),
        "brighter": ("C-NMC cells, a fifth brighter", each(lambda image: image.point(lambda level: 1.2 * level))),
        "slightly_blurred": (
            "C-NMC cells, slightly blurred",
            each(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
        ),
        "compressed": ("C-NMC cells as JPEG of quality 30", each(_compressed)),
    }


def _compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file)


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def auroc(cells: np.ndarray, others: np.ndarray, owners: np.ndarray, seed: int, parts: int = 1) -> dict[str, float]:
    """AUROC of the scores of other images over those of cells; interval over persons and over the other images.

    So many `parts` of one photograph are drawn together.
    """
    _, person = np.unique(owners, return_inverse=True)
    people = int(person.max()) + 1
    order = np.argsort(cells)
    # For each other image the cells below it, and half of those with the same score.
    below, upto = (np.searchsorted(cells[order], others, side) for side in ("left", "right"))

    def weighted(cell_weights: np.ndarray, other_weights: np.ndarray) -> float:
        total = np.concatenate([[0.0], np.cumsum(cell_weights[order])])
        return float(other_weights @ (total[below] + total[upto]) / 2 / (total[-1] * other_weights.sum()))

    rng, whole = np.random.default_rng(seed), len(others) // parts
    drawn = [
        weighted(
            np.bincount(rng.integers(people, size=people), minlength=people)[person].astype(float),
            np.repeat(np.bincount(rng.integers(whole, size=whole), minlength=whole), parts).astype(float),
        )
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": weighted(np.ones(len(cells)), np.ones(len(others))), "low": float(low), "high": float(high)}


def share(flagged: np.ndarray, owners: np.ndarray, seed: int) -> dict[str, float]:
    """Share of the cells that are flagged, with an interval over persons."""
    _, person = np.unique(owners, return_inverse=True)
    people = int(person.max()) + 1
    hits, cells = np.bincount(person, flagged, people), np.bincount(person, minlength=people)
    rng = np.random.default_rng(seed)
    drawn = [hits[rows].sum() / cells[rows].sum() for rows in rng.integers(people, size=(RESAMPLES, people))]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(flagged.mean()), "low": float(low), "high": float(high)}


def measure(
    name: str, cells: Cells, sample: int, seed: int, sets: dict[str, tuple[str, Frames]], only: list[str] | None = None
) -> dict[str, Any]:
    """What `ood.json` holds; of the sets named alone, where some are."""
    model, spec = load_model(name), find(name).spec
    limit = model.zoo.ood_limit
    if limit is None:
        raise SystemExit(f"{name} has no limit yet: run this tool with --limits first.")
    rows = np.sort(np.random.default_rng(seed).permutation(len(cells))[:sample])
    judged, scores = held_out(model, spec, cells, rows)
    owners = np.array([cells.subjects[row] for row in judged])
    frames = [read_image(cells.paths[row]) for row in rows[np.linspace(0, len(rows) - 1, CHANGED).astype(int)]]
    found = []
    for key, (what, images) in (sets | drawn_sets(seed) | changed_sets(frames)).items():
        if only is not None and key not in only:
            continue
        others = ood_scores(model, images)
        found.append(
            {
                "name": key,
                "what": what,
                "images": len(images),
                "auroc": auroc(scores, others, owners, seed, PARTS.get(key, 1)),
                "flagged": float((others > limit).mean()),
                "median": float(np.median(others)),
            }
        )
        told = f"{name}: {key:<24} AUROC {found[-1]['auroc']['value']:.3f}, {found[-1]['flagged']:.1%} flagged"
        print(told, flush=True)
    return {
        "weight": spec.name,
        "sha256": spec.sha256,
        "score": "root mean square of the standard scores of the statistics before the classifier",
        "limit": limit,
        "cells": {
            "what": "held-out cells: each standardised by the sampled cells of the other folds of its weight",
            "cells": len(judged),
            "subjects": len(set(owners.tolist())),
            "of": len(cells),
            "seed": seed,
            "flagged": share(scores > limit, owners, seed),
            "median": float(np.median(scores)),
        },
        "intervals": f"95 %, from {RESAMPLES:,} resamples of the persons and of the other images",
        "sets": found,
    }


def kept(found: dict[str, Any], file: Path) -> dict[str, Any]:
    """The new sets in the place of, or else before, those that a file has from the same weight and the same cells."""
    old = json.loads(file.read_text(encoding="utf-8"))
    same = {key: (old[key], found[key]) for key in ("sha256", "limit")}
    same |= {key: (old["cells"][key], found["cells"][key]) for key in ("cells", "subjects", "of", "seed")}
    if other := [key for key, (before, now) in same.items() if before != now]:
        raise SystemExit(f"{file} is of another {' and '.join(other)}: measure all sets.")
    sets = {own["name"]: own for own in old["sets"]}
    new = {own["name"]: own for own in found["sets"]}
    first = [own for name, own in new.items() if name not in sets]
    return {**old, "sets": first + [new.get(name, own) for name, own in sets.items()]}


def set_limit(name: str, cells: Cells) -> float:
    """Limit of a weight from all cells, written where its configuration is."""
    model, spec = load_model(name), find(name).spec
    limit = limit_of(held_out(model, spec, cells, np.arange(len(cells)))[1])
    if (Path(name) / CONFIG_FILE).is_file():
        file = Path(name) / CONFIG_FILE
        row = json.loads(file.read_text(encoding="utf-8"))
        row["config"]["ood_limit"] = limit
        write_json(file, row)
        return limit
    table = ROOT / "src" / "leukaemia_zoo" / "weights.json"
    rows = json.loads(table.read_text(encoding="utf-8"))
    for row in rows:
        if row["name"] == spec.name:
            row["config"]["ood_limit"] = limit
    write_json(table, rows)
    return limit


def main() -> None:
    """Measure, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the cells the weights learnt from")
    parser.add_argument("--pbc", type=Path, metavar="DIR")
    parser.add_argument("--bccd", type=Path, metavar="DIR")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="NAME.bmp with the mask NAME.png beside it")
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME", help="names of weights, or folders")
    parser.add_argument("--only", nargs="+", metavar="SET", help="measure these and keep the others of the file")
    parser.add_argument("--limits", action="store_true", help="set the limit, from all cells, instead of measuring")
    parser.add_argument("--sample", type=int, default=1500, metavar="N", help="cells measured (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the drawings (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "results", metavar="DIR", help="default: results/")
    options = parser.parse_args()
    cells = read_data(options.data)
    if options.limits:
        for name in options.weights:
            print(f"{name}: {set_limit(name, cells):.4f}")
        return
    sets = real_sets(options.pbc, options.bccd, options.masks, options.seed)
    for name in options.weights:
        found = measure(name, cells, options.sample, options.seed, sets, options.only)
        file = options.out / found["weight"] / "ood.json"
        write_json(file, kept(found, file) if options.only else found)


if __name__ == "__main__":
    main()
