"""Measure how much of the maps of evidence lies on the cell, for `results/explanations.json`.

    python tools/explanation_results.py --data C-NMC_Leukemia

For every weight that is here, on the same real cells, as many of each class, of as many people as can be: the share of
Grad-CAM, HiResCAM and the attention map on the cell, beside the share of the image that the cell covers; and on a few
of them how the two agree with occlusion on the cell (Spearman's rank correlation), which asks the network itself. A
weight that is measured already is passed over; `--again` measures all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from leukaemia_zoo import Cells, explain, load_model, read_data
from leukaemia_zoo.cells.arrays import BLACK
from leukaemia_zoo.common.files import plain, write_json
from leukaemia_zoo.errors import ArchitectureError, LeukaemiaZooError
from leukaemia_zoo.explanation.maps import Explanation
from leukaemia_zoo.zoo.registry import weights

ROOT = Path(__file__).parents[1]
SEED = 0
RESAMPLES = 2000


def drawn(cells: Cells, count: int) -> list[Path]:
    """As many cells of each class, each of another person as long as there are others."""
    rng = np.random.default_rng(SEED)
    chosen: list[Path] = []
    for label in range(len(cells.class_names)):
        rows = rng.permutation(np.flatnonzero(cells.labels == label)).tolist()
        seen: dict[Any, int] = {}
        ranked = []
        for row in rows:
            seen[cells.subjects[row]] = seen.get(cells.subjects[row], 0) + 1
            ranked.append((seen[cells.subjects[row]], row))
        ranked.sort(key=lambda pair: pair[0])
        chosen += [cells.paths[row] for _, row in ranked[: count // len(cells.class_names)]]
    return chosen


def interval(values: list[float]) -> dict[str, float] | None:
    """Mean with a 95 % interval from a bootstrap over the cells."""
    if not values:
        return None
    found = np.array(values)
    rows = np.random.default_rng(SEED).integers(len(found), size=(RESAMPLES, len(found)))
    low, high = np.quantile(found[rows].mean(axis=1), [0.025, 0.975])
    return {"value": float(found.mean()), "low": float(low), "high": float(high)}


def shares(found: list[Explanation]) -> dict[str, Any]:
    """What is told of one kind of map."""
    inside = [one.share_inside for one in found if one.share_inside is not None]
    return {"share_inside": interval(inside), "each": [round(value, 4) for value in inside], "cells": len(inside)}


def agreement(found: list[Explanation], asked: list[Explanation]) -> dict[str, float] | None:
    """Rank correlation with occlusion over the pixels of the cell, mean over the cells."""
    values = []
    for one, other in zip(found, asked, strict=False):
        cell = one.image.max(axis=-1) > BLACK
        if np.ptp(one.map[cell]) and np.ptp(other.map[cell]):
            values.append(float(spearmanr(one.map[cell], other.map[cell]).statistic))
    return interval(values)


def measured(name: str, paths: list[Path], asked: int) -> dict[str, Any]:
    """All that is told of one weight."""
    model = load_model(name)
    # A few of each class: the first of both halves.
    few = [*paths[: asked // 2], *paths[len(paths) // 2 :][: asked // 2]]
    occluded = explain(model, few, method="occlusion", views=1)
    row: dict[str, Any] = {"methods": {}}
    for method in ("grad_cam", "hires_cam", "attention"):
        try:
            found = explain(model, paths, method=method)
        except ArchitectureError:  # without an AttentionBlock
            continue
        row["cell_share"] = interval([one.cell_share for one in found if one.cell_share is not None])
        same = [next(one for one in found if one.path == other.path) for other in occluded]
        row["methods"][method] = shares(found) | {"agrees_with_occlusion": agreement(same, occluded)}
        print(name, method, row["methods"][method]["share_inside"], row["methods"][method]["agrees_with_occlusion"])
    return row


def main() -> None:
    """Measure, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="C-NMC 2019")
    parser.add_argument(
        "--cells", type=int, default=40, metavar="N", help="cells for the shares (default: %(default)s)"
    )
    parser.add_argument(
        "--asked", type=int, default=6, metavar="N", help="of them for occlusion (default: %(default)s)"
    )
    parser.add_argument("--weights", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "explanations.json", metavar="FILE")
    options = parser.parse_args()
    cells = read_data(options.data)
    paths = drawn(cells, options.cells)
    people = len({cells.subjects[cells.paths.index(path)] for path in paths})
    about = {"seed": SEED, "data": cells.source, "cells": len(paths), "subjects": people, "asked": options.asked}
    about["intervals"] = f"95 %, from {RESAMPLES:,} resamples of the cells"
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() and not options.again else {}
    rows = known.get("weights", {}) if {key: known.get(key) for key in about} == about else {}
    for name in options.weights or sorted(weights(), key=lambda one: weights()[one].parameters):
        if name not in rows:
            try:
                rows[name] = measured(name, paths, options.asked)
            except LeukaemiaZooError as error:
                print(f"{name}: {error}")
                continue
            write_json(options.out, plain({**about, "weights": rows}))


if __name__ == "__main__":
    main()
