"""Measure how lower precision changes verdicts, for `results/precision.json`.

    python tools/precision_results.py --data C-NMC_Leukemia

One cell of each subject, drawn by a fixed seed, are judged by each network in the package in float32 and in the
precisions that `load_model(..., dtype=)` takes besides. Nothing is chosen by these figures, and cells that taught the
weights are among them: what is told is how far two computations of one network differ, not how good it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo import list_models, load_model, predict, read_data
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.zoo.registry import packaged_file, weights

ROOT = Path(__file__).parents[1]
SEED = 0
DTYPES = ("mixed_float16", "mixed_bfloat16", "bfloat16")
PER_SUBJECT = 1


def sample(folder: Path) -> list[Path]:
    """Paths of `PER_SUBJECT` cells of each subject."""
    cells, rng = read_data(folder), np.random.default_rng(SEED)
    subjects = np.array([str(subject) for subject in cells.subjects])
    rows = [
        row
        for subject in sorted(set(subjects))
        for row in rng.permutation(np.flatnonzero(subjects == subject))[:PER_SUBJECT]
    ]
    return [cells.paths[row] for row in rows]


def compare(name: str, paths: list[Path]) -> list[dict[str, Any]]:
    """One row a precision."""
    usual, rows = predict(load_model(name), paths, errors="raise"), []
    for dtype in DTYPES:
        found = predict(load_model(name, dtype=dtype), paths, errors="raise")
        changes = np.abs(found.probabilities[:, -1] - usual.probabilities[:, -1])
        pairs = list(zip(found, usual, strict=True))
        rows.append(
            {
                "weight": name,
                "dtype": dtype,
                "labels_changed": sum(one.label != other.label for one, other in pairs),
                "warnings_changed": sum(one.unfamiliar != other.unfamiliar for one, other in pairs),
                "median_change": float(np.median(changes)),
                "largest_change": float(changes.max()),
            }
        )
        print(rows[-1])
    return rows


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="C-NMC 2019")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "precision.json")
    options = parser.parse_args()
    paths = sample(options.data)
    names = [name for name in list_models(pretrained=True) if packaged_file(weights()[name]).is_file()]
    rows = [row for name in names for row in compare(name, paths)]
    write_json(options.out, {"cells": len(paths), "seed": SEED, "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
