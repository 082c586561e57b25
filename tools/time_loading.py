"""Time a warm `load_model` of a 94 MB weight beside what it cannot do without, in one run.

    python tools/time_loading.py [--repeats 7]

A ResNet50 with random float32 weights is put into a temporary cache of the Hub, where a registry row pins it. Then, in
turn, `load_model` reads it from there with the network switched off, and the bare work is done by hand: the file's
bytes are read and hashed, and the graph is built. Medians, and the ratio of each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CACHE = tempfile.TemporaryDirectory()
# Read when the client of the Hub is imported.
os.environ |= {"HF_HOME": CACHE.name, "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from leukaemia_zoo import Preprocessing, load_model, save_model  # noqa: E402
from leukaemia_zoo.hub.cache import cache_path  # noqa: E402
from leukaemia_zoo.zoo import ModelConfig, build_model, registry  # noqa: E402
from leukaemia_zoo.zoo.sources import WEIGHTS_FILE  # noqa: E402

NAME = "resnet50.timing"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Prepare, measure in pairs, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats

    model = build_model("resnet50")
    model.zoo = ModelConfig("resnet50", ("hem", "all"), "pooled", Preprocessing((224, 224)), weight=NAME)
    saved = Path(CACHE.name) / "saved"
    row = dataclasses.replace(save_model(model, saved), name=NAME, repo=f"timing/{NAME}", revision="0" * 40)
    file = cache_path(row.repo or "", row.revision or "", WEIGHTS_FILE)
    file.parent.mkdir(parents=True)
    (saved / WEIGHTS_FILE).rename(file)
    registry.weights = lambda: {NAME: row}  # type: ignore[assignment]

    def read_and_hash() -> None:
        if hashlib.sha256(file.read_bytes()).hexdigest() != row.sha256:
            raise SystemExit("The file is not the one that was saved.")

    loading, reading, building = [], [], []
    for _ in range(repeats + 1):  # the first round warms up
        loading.append(seconds(lambda: load_model(NAME)))
        reading.append(seconds(read_and_hash))
        building.append(seconds(lambda: build_model("resnet50")))
    loading, reading, building = loading[1:], reading[1:], building[1:]
    ratios = [whole / (read + built) for whole, read, built in zip(loading, reading, building, strict=True)]
    print(f"{row.size:,} bytes, {row.parameters:,} parameters, {repeats} rounds; medians:")
    print(f"load_model           {statistics.median(loading):.3f} s")
    print(f"read and hash        {statistics.median(reading):.3f} s")
    print(f"build the graph      {statistics.median(building):.3f} s")
    print(f"ratio of each round  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
