"""Measure how well cells are cut out, for `results/segmentation.json`.

    python tools/segmentation_results.py --data C-NMC_Leukemia --masks MASKED_CELLS --bccd BCCD --pbc PBC

* `cell_mask` against the masks of people (intersection over union, Dice), beside plain Otsu.
* `extract_cells` against the boxes of white cells in the fields of BCCD, and on the photographs of PBC, which show one
  cell in the middle.
* `estimate_scale` against the boxes of red cells.
* `reject` on C-NMC cells, photographed cells and fields.
* The share of cells that the OOD score of a weight flags, with and without stain normalisation.
* What the constants of `segmentation` and `stains` stand on: the scale and the colours of C-NMC 2019.

All thresholds were chosen on the tuning parts: a third of each set, by a fixed seed (masks, BCCD) or every third file
of a class (PBC). Every figure is of the other images. The first fields of BCCD were looked at while the method was
thought out; the figures without them stand beside the others.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo import load_model, predict
from leukaemia_zoo.cells import find_images, read_image
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.errors import ImageError
from leukaemia_zoo.evaluation.intervals import wilson_interval
from leukaemia_zoo.smears.fields import RED_CELL_DIAMETER, ExtractedCell, estimate_scale, extract_cells, reject
from leukaemia_zoo.smears.nuclei import cytology
from leukaemia_zoo.smears.segmentation import FRAME, cell_mask, central, on_black
from leukaemia_zoo.smears.stains import SAMPLE, normalise_stain

ROOT = Path(__file__).parents[1]
SEED = 0
RESAMPLES = 2000
OVERLAP = 0.5
"""A cell is found if its box and that of a person have this intersection over union."""
LOOKED_AT = 12
"""So many fields, the first by name, were looked at before there was a method."""

Box = tuple[float, float, float, float]


def parts(paths: list[Path], tuning: int) -> tuple[list[Path], list[Path]]:
    """Some of the files by a fixed seed, and the others, both in their order."""
    chosen = set(np.random.default_rng(SEED).permutation(len(paths))[:tuning].tolist())
    return [p for row, p in enumerate(paths) if row in chosen], [p for row, p in enumerate(paths) if row not in chosen]


def thirds(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Every third file, and the others."""
    return paths[::3], [path for row, path in enumerate(paths) if row % 3]


def mean_interval(values: np.ndarray) -> dict[str, float]:
    """Mean over images with a 95 % interval from a bootstrap over them."""
    rng = np.random.default_rng(SEED)
    drawn = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def share_interval(hits: np.ndarray, of: np.ndarray) -> dict[str, float]:
    """Hits by cells over all images, with an interval from a bootstrap over images; Wilson's where all or none hit."""
    if hits.sum() in (0, of.sum()):
        found = wilson_interval(int(hits.sum()), int(of.sum()))
        return {"value": found.value, "low": found.low, "high": found.high}
    rng = np.random.default_rng(SEED)
    rows = rng.integers(len(hits), size=(RESAMPLES, len(hits)))
    low, high = np.nanquantile(hits[rows].sum(axis=1) / of[rows].sum(axis=1), [0.025, 0.975])
    return {"value": float(hits.sum() / of.sum()), "low": float(low), "high": float(high)}


# ---------------------------------------------------------------------------------------------------------------------
# One cell


def otsu(pixels: np.ndarray) -> np.ndarray:
    """The baseline: Otsu's threshold on grey, the largest piece, its holes filled."""
    grey = cytology("skimage.color").rgb2gray(pixels)
    return central(grey < cytology("skimage.filters").threshold_otsu(grey))


def overlap(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Intersection over union, and Dice."""
    both, either = (found & truth).sum(), (found | truth).sum()
    return float(both / either), float(2 * both / (found.sum() + truth.sum()))


def masks(folder: Path) -> dict[str, Any]:
    """`cell_mask` and Otsu on the images that chose nothing, and on those that did."""
    tuning, reported = parts(sorted(folder.glob("*.bmp")), len(list(folder.glob("*.bmp"))) // 3)
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {"segment_cell": cell_mask, "otsu": otsu}
    result: dict[str, Any] = {"tuning_images": len(tuning), "images": len(reported), "methods": {}}
    for name, method in methods.items():
        scores, failed = {}, 0
        for part, paths in (("tuning", tuning), ("reported", reported)):
            rows = []
            for path in paths:
                truth = np.asarray(Image.open(path.with_suffix(".png"))) > 0
                try:
                    rows.append(overlap(method(read_image(path)), truth))
                except ImageError:
                    rows.append((0.0, 0.0))
                    failed += part == "reported"
            scores[part] = np.array(rows)
        iou, dice = scores["reported"].T
        result["methods"][name] = {
            "iou": mean_interval(iou),
            "dice": mean_interval(dice),
            "median_iou": float(np.median(iou)),
            "worst_tenth_iou": float(np.quantile(iou, 0.1)),
            "below_half": int((iou < 0.5).sum()),
            "no_cell_found": failed,
            "tuning_iou": float(scores["tuning"][:, 0].mean()),
            "each": [round(float(value), 4) for value in iou],
        }
        print(name, {key: value for key, value in result["methods"][name].items() if key != "each"}, flush=True)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Fields


def boxes(path: Path, name: str) -> list[Box]:
    """Boxes of one kind in a VOC file: left, top, right, bottom."""
    found = []
    for thing in ET.parse(path.with_suffix(".xml")).iter("object"):
        if thing.findtext("name") == name:
            box = thing.find("bndbox")
            assert box is not None
            found.append(tuple(float(box.findtext(side) or 0) for side in ("xmin", "ymin", "xmax", "ymax")))
    return found  # type: ignore[return-value]


def box_overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = (min(one[2 + a], other[2 + a]) - max(one[a], other[a]) for a in (0, 1))
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def matches(truth: list[Box], found: list[ExtractedCell]) -> list[float]:
    """Overlaps of the pairs of boxes that belong together, each used once, the best first."""
    pairs = sorted(
        ((box_overlap(box, cell.box), a, b) for a, box in enumerate(truth) for b, cell in enumerate(found)),
        reverse=True,
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    kept = []
    for value, a, b in pairs:
        if value >= OVERLAP and a not in taken[0] and b not in taken[1]:
            taken[0].add(a)
            taken[1].add(b)
            kept.append(value)
    return kept


def bccd(folder: Path) -> tuple[dict[str, Any], list[ExtractedCell]]:
    """Recall and precision, and the scale, on the fields that chose nothing."""
    paths = sorted(folder.glob("*.jpg"))
    tuning, reported = parts(paths, len(paths) // 3)
    scale = estimate_scale([read_image(path) for path in tuning])
    result: dict[str, Any] = {"tuning_fields": len(tuning), "micrometres_per_pixel": scale, "overlap": OVERLAP}
    unseen = [path for path in reported if path not in paths[:LOOKED_AT]]
    cells: list[ExtractedCell] = []
    for name, group in (("tuning", tuning), ("reported", reported), ("not_looked_at", unseen)):
        rows, overlaps, left_out = [], [], []
        for path in group:
            truth, found = boxes(path, "WBC"), extract_cells(read_image(path), micrometres_per_pixel=scale)
            pairs = matches(truth, found)
            rows.append((len(pairs), len(truth), len(found)))
            overlaps += pairs
            if name == "reported":
                cells += found
            if len(pairs) < max(len(truth), len(found)):
                left_out.append(path.name)
        hits, wanted, given = np.array(rows).T
        result[name] = {
            "fields": len(group),
            "boxes": int(wanted.sum()),
            "cells": int(given.sum()),
            "recall": share_interval(hits, wanted),
            "precision": share_interval(hits, given),
            "mean_box_overlap": float(np.mean(overlaps)),
            "fields_with_a_miss_or_more": left_out,
        }
        print(name, result[name], flush=True)
    result["scale"] = _scales(reported, scale)
    print(result["scale"], flush=True)
    return result, cells


def _scales(paths: list[Path], pooled: float) -> dict[str, Any]:
    """The scale of single fields, and that of the tuning fields together, beside the boxes of red cells."""
    sides = [
        np.sqrt((right - left) * (bottom - top))
        for path in paths
        for left, top, right, bottom in boxes(path, "RBC")
        if left > 4 and top > 4 and right < 636 and bottom < 476
    ]
    annotated = RED_CELL_DIAMETER / float(np.median(sides))
    single = []
    for path in paths:
        try:
            single.append(estimate_scale(read_image(path)))
        except ImageError:
            single.append(np.nan)
    known = np.array(single)[~np.isnan(single)]
    return {
        "fields": len(paths),
        "estimated": len(known),
        "annotated": annotated,
        "pooled_tuning_fields": pooled,
        "single_median": float(np.median(known)) if len(known) else None,
        "single_lowest": float(known.min()) if len(known) else None,
        "single_highest": float(known.max()) if len(known) else None,
    }


def pbc(folder: Path, scale: float) -> dict[str, Any]:
    """Whether the cell in the middle of a photograph is found, by class, on the two thirds that chose nothing."""
    result: dict[str, Any] = {"micrometres_per_pixel": scale, "classes": {}}
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        hit, count, whole = [], 0, []
        for path in thirds(find_images([group])[0])[1]:
            pixels = read_image(path)
            cells = extract_cells(pixels, micrometres_per_pixel=scale)
            y, x = pixels.shape[0] / 2, pixels.shape[1] / 2
            middle = [cell for cell in cells if cell.box[0] <= x < cell.box[2] and cell.box[1] <= y < cell.box[3]]
            hit.append(bool(middle))
            whole += [cell.area for cell in middle]
            count += len(cells)
        flags = np.array(hit)
        result["classes"][group.name] = {
            "images": len(hit),
            "middle_found": share_interval(flags.astype(int), np.ones(len(flags), int)),
            "cells": count,
            "median_area": float(np.median(whole)) if whole else None,
        }
        print(group.name, result["classes"][group.name], flush=True)
    return result


def rejected(groups: dict[str, list[Path]]) -> dict[str, Any]:
    """Share of each group that `reject` refuses."""
    result = {}
    for name, paths in groups.items():
        said = np.array([reject(read_image(path)) is not None for path in paths])
        result[name] = {"images": len(paths), "rejected": share_interval(said.astype(int), np.ones(len(said), int))}
        print(name, result[name], flush=True)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# What networks say, and what the constants stand on


def familiar(groups: dict[str, list[np.ndarray]], weight: str) -> dict[str, Any]:
    """Share of the cells that a weight calls unfamiliar, as they are and normalised."""
    model = load_model(weight)
    result: dict[str, Any] = {"weight": model.zoo.weight, "limit": model.zoo.ood_limit, "sets": {}}
    for name, images in groups.items():
        for stain in (None, "reinhard", "macenko"):
            shown = []
            for image in images:
                try:
                    shown.append(image if stain is None else normalise_stain(image, stain))
                except ImageError:
                    shown.append(image)
            found = predict(model, shown)
            flagged = np.array([bool(item.unfamiliar) for item in found])
            result["sets"].setdefault(name, {"images": len(images)})[stain or "none"] = {
                "flagged": share_interval(flagged.astype(int), np.ones(len(flagged), int)),
                "median_score": float(np.median([item.ood_score for item in found])),
                "called_all": float(np.mean([item.label == "all" for item in found])),
            }
            print(name, stain, result["sets"][name][stain or "none"], flush=True)
    return result


def colours_of_cnmc(paths: list[Path]) -> dict[str, Any]:
    """What `stains` takes for the colours of C-NMC 2019."""
    normalisers = cytology("torchstain").normalizers
    rows = []
    for path in paths:
        pixels = read_image(path)
        cell = pixels[pixels.any(axis=-1)][:, None]
        reinhard, macenko = (
            getattr(normalisers, kind)(backend="numpy") for kind in ("ReinhardNormalizer", "MacenkoNormalizer")
        )
        reinhard.fit(cell)
        macenko.fit(cell)
        rows.append(
            np.concatenate([reinhard.target_means, reinhard.target_stds, macenko.HERef.ravel(), macenko.maxCRef])
        )
    middle = np.median(rows, axis=0)
    return {
        "cells": len(paths),
        "reinhard": [middle[:3].round(2).tolist(), middle[3:6].round(2).tolist()],
        "macenko": [middle[6:12].round(4).reshape(3, 2).tolist(), middle[12:].round(4).tolist()],
    }


def scale_of_cnmc(cnmc: list[Path], lymphocytes: list[Path]) -> dict[str, Any]:
    """The scale at which normal cells of C-NMC are as large as lymphocytes of PBC, which lie beside red cells."""
    fields = [read_image(path) for path in lymphocytes]
    scale = estimate_scale(fields)
    widths = [2 * np.sqrt(cell_mask(pixels).sum() / np.pi) for pixels in fields]
    normal = []
    for path in cnmc:
        pixels = read_image(path)
        normal.append(2 * np.sqrt(pixels.any(axis=-1).sum() / np.pi) * FRAME / min(pixels.shape[:2]))
    lymphocyte, hem = float(np.median(widths)) * scale, float(np.median(normal))
    return {
        "pbc_micrometres_per_pixel": scale,
        "lymphocytes": len(fields),
        "lymphocyte_micrometres": lymphocyte,
        "hem_cells": len(cnmc),
        "hem_pixels": hem,
        "cnmc_micrometres_per_pixel": lymphocyte / hem,
    }


def main() -> None:
    """Measure, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="C-NMC 2019")
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="NAME.bmp, mask NAME.png")
    parser.add_argument("--bccd", type=Path, required=True, metavar="DIR", help="NAME.jpg, boxes NAME.xml")
    parser.add_argument("--pbc", type=Path, required=True, metavar="DIR", help="one folder a class")
    parser.add_argument("--weight", default="cnn_attention.cnmc", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "segmentation.json", metavar="FILE")
    options = parser.parse_args()

    cells = [path for path in find_images([options.data])[0] if path.suffix in (".webp", ".bmp")]
    drawn = [cells[row] for row in np.sort(np.random.default_rng(SEED).permutation(len(cells))[:SAMPLE])]
    normal = [path for path in cells if path.stem.lower().endswith("_hem")][::6]
    pbc_files = [path for group in sorted(options.pbc.iterdir()) if group.is_dir() for path in find_images([group])[0]]
    scale = scale_of_cnmc(normal, find_images([options.pbc / "lymphocyte"])[0])
    print(scale, flush=True)
    fields, extracted = bccd(options.bccd)
    lymphocytes = []
    for path in thirds(find_images([options.pbc / "lymphocyte"])[0])[1]:
        pixels = read_image(path)
        lymphocytes.append(on_black(pixels, cell_mask(pixels), scale["pbc_micrometres_per_pixel"]))
    write_json(
        options.out,
        {
            "seed": SEED,
            "intervals": f"95 %, from {RESAMPLES:,} resamples of the images; Wilson's where all are right or none is",
            "masks": masks(options.masks),
            "bccd": fields,
            "pbc": pbc(options.pbc, scale["pbc_micrometres_per_pixel"]),
            "reject": rejected(
                {
                    "cnmc": drawn,
                    "masks": sorted(options.masks.glob("*.bmp")),
                    "bccd": sorted(options.bccd.glob("*.jpg")),
                    "pbc": pbc_files,
                }
            ),
            "familiar": familiar(
                {"bccd": [cell.image for cell in extracted], "pbc_lymphocytes": lymphocytes}, options.weight
            ),
            "cnmc": {"scale": scale, "colours": colours_of_cnmc(drawn)},
        },
    )


if __name__ == "__main__":
    main()
