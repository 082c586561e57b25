"""Write down what every weight of the zoo says of the example cells, for the tests to compare with.

    python tools/golden_outputs.py            # writes tests/golden_outputs.json
    python tools/golden_outputs.py NAME...    # of these weights alone; the others stay as they are

Run it when a weight was added or replaced, and look at the difference: a weight that nobody touched must not change.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.prediction.verdicts import predict
from leukaemia_zoo.zoo.loading import load_model
from leukaemia_zoo.zoo.registry import weights

ROOT = Path(__file__).parents[1]
CELLS = ROOT / "examples" / "cells"
GOLDEN = ROOT / "tests" / "golden_outputs.json"


def golden_outputs(name: str) -> dict[str, Any]:
    """The sha256 of a weight, and of each example cell the probability of the last class and its log odds."""
    found = predict(load_model(name), CELLS)
    return {
        "sha256": weights()[name].sha256,
        "cells": {
            Path(item.path).name: {
                "probability": round(item.probabilities[-1], 6),
                "log_odds": round(float(np.log(item.probabilities[-1] / item.probabilities[0])), 5),
            }
            for item in found
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="weights; default: all")
    names = parser.parse_args().names
    if unknown := set(names) - set(weights()):
        parser.error(f"no weight of the zoo: {', '.join(sorted(unknown))}")
    kept = {name: row for name, row in read_json(GOLDEN).items() if name in weights()} if names else {}
    made = {name: golden_outputs(name) for name in names or sorted(weights())}
    write_json(GOLDEN, dict(sorted((kept | made).items())))
    print(f"{GOLDEN}: {len(made)} weights")
