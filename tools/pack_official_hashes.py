"""Pack the list of official C-NMC 2019 files into `src/leukaemia_zoo/data/cnmc_official.npz`.

    python tools/pack_official_hashes.py official_sha256.csv

The CSV holds one row a file of the complete official download: `path,sha256,bytes`. The packed list keeps all of it:
`digests` (n, 32) uint8, `sizes` (n,) uint32, and `paths` as the uint8 bytes of the UTF-8 names, one a line. Digests do
not compress, so they are nearly all of its size. The same CSV always gives the same bytes.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "src" / "leukaemia_zoo" / "data" / "cnmc_official.npz"


def pack(table: Path, target: Path) -> int:
    """Write the packed list and return its number of rows."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    digests = np.frombuffer(bytes.fromhex("".join(row["sha256"] for row in rows)), np.uint8).reshape(len(rows), 32)
    names = "\n".join(row["path"] for row in rows).encode()
    np.savez_compressed(
        target,
        paths=np.frombuffer(names, np.uint8),
        digests=digests,
        sizes=np.array([int(row["bytes"]) for row in rows], np.uint32),
    )
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV with the columns path, sha256, bytes")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    count = pack(arguments.table, arguments.target)
    print(f"{arguments.target}: {count:,} files, {arguments.target.stat().st_size:,} bytes")
