"""Measure `leukaemia-zoo cells` from the files to its table, for `results/fields.json`.

    python tools/fields_results.py --bccd BCCD

The command is run on whole fields of BCCD in which people drew boxes around the white cells; what its table says is
compared with the boxes. Nothing is told to it: it estimates the scale itself. A cell is found if its box and that of a
person overlap by half (intersection over union). Recall and precision are given for all fields, for those on which no
parameter was chosen, and for those of the latter that nobody looked at while the method was thought out
(`tools/segmentation_results.py`); also without the cells that the border may cut, and for boxes that only touch.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from segmentation_results import LOOKED_AT, OVERLAP, RESAMPLES, SEED, Box, box_overlap, boxes, parts, share_interval

from leukaemia_zoo import examine_fields
from leukaemia_zoo.common.files import plain, write_json

ROOT = Path(__file__).parents[1]


def matches(truth: list[Box], found: list[Box], least: float = OVERLAP) -> int:
    """Pairs of boxes that belong together, each used once, the best first."""
    pairs = sorted(((box_overlap(a, b), i, j) for i, a in enumerate(truth) for j, b in enumerate(found)), reverse=True)
    left, right, count = set(range(len(truth))), set(range(len(found))), 0
    for value, i, j in pairs:
        if value >= least and i in left and j in right:
            left.discard(i)
            right.discard(j)
            count += 1
    return count


def compared(paths: list[Path], table: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Recall and precision over some fields."""
    rows, near = [], []
    for path in paths:
        truth = boxes(path, "WBC")
        found: list[Box] = []
        for row in table.get(str(path), []):
            left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
            found.append((left, top, right, bottom))
        rows.append((matches(truth, found), len(truth), len(found)))
        near.append(matches(truth, found, 0.2))
    hits, drawn, given = np.array(rows).T
    return {
        "fields": len(paths),
        "boxes": int(drawn.sum()),
        "cells": int(given.sum()),
        "found": int(hits.sum()),
        "recall": share_interval(hits, drawn),
        "precision": share_interval(hits, given),
        "recall_at_overlap_0.2": share_interval(np.array(near), drawn),
        "precision_at_overlap_0.2": share_interval(np.array(near), given),
    }


def main() -> None:
    """Measure, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bccd", type=Path, required=True, metavar="DIR", help="NAME.jpg, boxes NAME.xml")
    parser.add_argument("--model", default="cnn_attention", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep what the command leaves here")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fields.json", metavar="FILE")
    options = parser.parse_args()
    paths = sorted(options.bccd.glob("*.jpg"))
    _, reported = parts(paths, len(paths) // 3)
    unseen = [path for path in reported if path not in paths[:LOOKED_AT]]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = options.work or Path(place)
        done = examine_fields(paths, folder, options.model, log=print)
        table: dict[str, list[dict[str, str]]] = {}
        with (folder / "cells.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                table.setdefault(row["field"], []).append(row)
    result: dict[str, Any] = {
        "seed": SEED,
        "overlap": OVERLAP,
        "intervals": f"95 %, from {RESAMPLES:,} resamples of the fields; Wilson's where all are right or none is",
        "model": options.model,
        "scale": done.scale,
        "answers": done.answers,
        "seconds": time.perf_counter() - started,
        "all": compared(paths, table),
        "reported": compared(reported, table),
        "not_looked_at": compared(unseen, table),
    }
    whole = {name: [row for row in rows if row["touches_border"] == "False"] for name, rows in table.items()}
    result["whole_cells"] = {"cells": sum(map(len, whole.values())), **compared(paths, whole)}
    for name in ("all", "reported", "not_looked_at", "whole_cells"):
        print(name, result[name])
    write_json(options.out, plain(result))


if __name__ == "__main__":
    main()
