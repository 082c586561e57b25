"""How far the page in the browser is from Python: the same cells by both, in a real Chromium.

    mkdir DIR && cp tools/page/package.json DIR && npm install --prefix DIR
    python tools/page_parity.py --packages DIR --data C-NMC_Leukemia

    python tools/page_parity.py --packages DIR --picture docs/assets/browser.png

Judges the example cells, and 50 real ones of as many people as there are, with every weight of the page, and writes the
largest differences to results/page.json, from where the documentation takes them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import http.server
import io
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.cells.images import IMAGE_SUFFIXES
from leukaemia_zoo.cells.readers import read_data
from leukaemia_zoo.common.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "page.json"
EXAMPLES = ROOT / "examples" / "cells"
REAL = 50

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve a folder on this machine alone, and give its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def guess_type(self, path: Any) -> str:
            """As servers of pages name them, whatever this machine's table of types says."""
            own = {".mjs": "text/javascript", ".wasm": "application/wasm"}
            return own.get(Path(path).suffix) or super().guess_type(path)

        def log_message(self, *_: Any) -> None:
            """Keep silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def browse(packages: Path, profile: Path, steps: Sequence[Sequence[Any]], **more: Any) -> dict[str, Any]:
    """Take steps on a page, as tools/page/browse.mjs knows them, and give what each of them gave.

    Raises:
        RuntimeError: If a step failed; the message says why, and what the page wrote to its console.
    """
    task = {"modules": str(packages / "node_modules"), "chromium": BROWSER, "profile": str(profile), "steps": steps}
    done = subprocess.run(
        ["node", str(ROOT / "tools" / "page" / "browse.mjs")],
        input=json.dumps({**task, **more}),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise RuntimeError("\n".join([answer["error"], *answer["console"]]))
    return answer


def by_browser(packages: Path, page: Path, model: str, files: Sequence[Path], profile: Path) -> list[dict[str, str]]:
    """The rows of the CSV that the page gives for files."""
    with served(page) as address:
        steps = [
            ["goto", address],
            ["ready"],
            ["select", "#model", model],
            ["choose", [str(file) for file in files]],
            ["judged"],
            ["download", "#csv-cells"],
        ]
        answer = browse(packages, profile, steps)
    return list(csv.DictReader(io.StringIO(answer["results"][-1]["text"])))


def differences(model: str, files: Sequence[Path], rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """How far the rows of the page are from what `predict` says of the same files."""
    expected = lz.predict(model, list(files))
    assert [row["path"] for row in rows] == [file.name for file in files]
    classes = expected.class_names
    found = np.array([[float(row[f"p_{name}"]) for name in classes] for row in rows])
    scores = np.array([float(row["ood_score"]) for row in rows])
    same = {
        key: sum(
            row[key] == ("" if (value := getattr(item, key)) is None else str(value))
            for row, item in zip(rows, expected, strict=True)
        )
        for key in ("label", "verdict", "unfamiliar")
    }
    return {
        "cells": len(files),
        "probability": float(np.abs(found - expected.probabilities).max()),
        "ood_score": float(np.abs(scores - [item.ood_score for item in expected]).max()),
        "same": min(same.values()),
    }


def real_cells(data: Path, count: int = REAL) -> list[Path]:
    """As many cells as asked for, from people in turn."""
    cells = read_data(data)
    rank: dict[str, int] = {}
    order = []
    for path, subject in zip(cells.paths, cells.subjects, strict=True):
        rank[subject] = rank.get(subject, -1) + 1
        order.append((rank[subject], str(subject), str(path)))
    return [Path(path) for _, _, path in sorted(order)[:count]]


def table(results: dict[str, Any]) -> str:
    """The differences as Markdown."""
    lines = [
        "| Weight | Cells | Probability, at most | OOD score, at most | Same class, verdict and warning |",
        "|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| `{row['weight']}` | {row['cells']} {row['what']} | {row['probability']:.1e} | {row['ood_score']:.1e} | "
            f"{row['same']} of {row['cells']} |"
        )
    return "\n".join(lines)


def take_picture(packages: Path, page: Path, file: Path, profile: Path) -> None:
    """A picture of the example cells on the page, with the attention of the network."""
    with served(page) as address:
        steps = [
            ["goto", address],
            ["ready"],
            ["select", "#model", "cnn_attention.cnmc"],
            ["click", "#examples"],
            ["judged"],
            ["evaluate", "document.getElementById('status').scrollIntoView()"],
            ["screenshot", str(file), False],
        ]
        browse(packages, profile, steps, width=900, height=900)
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(file, optimize=True)


def main() -> None:
    """Measure, print and write; or take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, metavar="DIR", help="folder with node_modules")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--data", type=Path, metavar="DIR", help="C-NMC 2019, or a part of it")
    wanted.add_argument("--picture", type=Path, metavar="FILE", help="take a picture of the page instead")
    parser.add_argument(
        "--official", type=Path, metavar="DIR", help="official files of 450 pixels, of which 20 are taken"
    )
    options = parser.parse_args()
    if BROWSER is None:
        sys.exit("There is no Chromium or Chrome on this machine: install one.")
    sys.path.insert(0, str(ROOT / "tools"))
    from build_page import WEIGHTS, build_page

    if options.picture is not None:
        with tempfile.TemporaryDirectory() as place:
            build_page(Path(place) / "page", options.packages)
            take_picture(options.packages, Path(place) / "page", options.picture, Path(place) / "profile")
        return
    sets = {
        "example cells": sorted(file for file in EXAMPLES.iterdir() if file.suffix in IMAGE_SUFFIXES),
        "cells of C-NMC 2019": real_cells(options.data),
    }
    if options.official is not None:
        sets["of them as official BMP files"] = real_cells(options.official, 20)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "page"
        build_page(page, options.packages)
        for name in WEIGHTS:
            weight = lz.model_info(name).weight.name
            for what, files in sets.items():
                found = by_browser(options.packages, page, weight, files, Path(place) / "profile")
                rows.append({"weight": weight, "what": what, **differences(name, files, found)})
                print(rows[-1])
    version = subprocess.run([BROWSER, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    results = {"browser": version.split(" built on")[0], "rows": rows}
    write_json(RESULTS, results)
    print(table(results))


if __name__ == "__main__":
    main()
