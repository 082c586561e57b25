"""Write what a weight was trained on into the package, so that `benchmark` can refuse to judge it on the same cells.

    python tools/pack_training.py runs/attention --data C-NMC_Leukemia

The folder is what `leukaemia-zoo train` left, with the manifest of its split. Subjects and fingerprints of the images
are added to `data/trainings.npz` under the hash of the manifest; no image goes into the package.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from leukaemia_zoo import read_data
from leukaemia_zoo.cells import load_manifest
from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.manifests import manifest_sha256
from leukaemia_zoo.training.leaks import MANIFEST_FILE, TrainedOn, pack, people_of, unpack

TARGET = Path(__file__).parents[1] / "src" / "leukaemia_zoo" / "data" / "trainings.npz"


def main() -> None:
    """Read, add, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `leukaemia-zoo train` left")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the cells it was trained on")
    options = parser.parse_args()
    cells = read_data(options.data)
    manifest = options.folder / MANIFEST_FILE
    parts = load_manifest(manifest, cells).parts
    rows = sorted({row for name, part in parts.items() if name != "test" for row in part})
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda row: file_fingerprint(cells.paths[row]), rows))
    trained = TrainedOn(
        manifest_sha256(manifest),
        frozenset(filter(None, people_of(cells.subset(rows)))),
        np.array(found, np.uint64),
    )
    pack(TARGET, [*(unpack(TARGET) | {trained.manifest_sha256: trained}).values()])
    print(f"{len(rows):,} cells of {len(trained.people)} subjects under {trained.manifest_sha256}")
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
