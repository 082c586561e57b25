"""Assemble the page in the browser: its source in docs/try, the graphs of weights, and ONNX Runtime Web from npm.

    mkdocs build && python tools/build_page.py --out site/try
    python tools/build_page.py --out site/try --packages DIR    # DIR/node_modules is there already: no network

Everything that the page needs lies in the folder afterwards; it can be served by any server of files. Only these files
of ONNX Runtime Web are taken, and only if they are the ones whose sha256 stands here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leukaemia_zoo.cells.cnmc import MERGED_SUBJECTS
from leukaemia_zoo.engine.names import ATTENTION, PROBABILITIES, SCORES
from leukaemia_zoo.exporting.writing import export
from leukaemia_zoo.zoo.registry import WeightSpec, model_info

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "try"
PACKAGE = ROOT / "tools" / "page" / "package.json"
EXAMPLES = ROOT / "examples" / "cells"

WEIGHTS = ("mobilenet", "cnn_attention", "mobilenet.pbc_cnmc")
"""What the page offers: the first when it opens."""

RUNTIME = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""Files of onnxruntime-web and their sha256; with another version in tools/page/package.json they change."""


def build_page(out: Path, packages: Path | None = None, names: tuple[str, ...] = WEIGHTS) -> int:
    """Fill a folder with the page and say how many bytes a visitor loads.

    Args:
        out: The folder; files of the same names in it are replaced.
        packages: Folder with ``node_modules``; None fetches the packages into a folder that is gone afterwards.
        names: Weights.

    Raises:
        SystemExit: If npm is missing or fails, or a file of ONNX Runtime Web is another one.
    """
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "page"
        shutil.copytree(SOURCE, made)
        with _modules(packages) as modules:
            _copy_runtime(modules / "onnxruntime-web" / "dist", made / "ort")
        shutil.copytree(EXAMPLES, made / "examples", ignore=shutil.ignore_patterns("*.md"))
        (made / "models").mkdir()
        about: dict[str, Any] = {
            "models": [_model(name, made / "models") for name in names],
            "merged_subjects": dict(MERGED_SUBJECTS),
            "examples": sorted(path.name for path in (made / "examples").iterdir()),
        }
        about["megabytes"] = round(_size(made) / 1e6)
        (made / "models.json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
        _list_files(made)
        shutil.copytree(made, out, dirs_exist_ok=True)
        return _size(made)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _modules(packages: Path | None) -> Iterator[Path]:
    if packages is not None:
        if not (packages / "node_modules" / "onnxruntime-web").is_dir():
            raise SystemExit(f"There is no node_modules/onnxruntime-web in {packages}: run `npm install` there.")
        yield packages / "node_modules"
        return
    if shutil.which("npm") is None:
        raise SystemExit("npm, which fetches ONNX Runtime Web, is not installed: install Node.js, or give --packages.")
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(PACKAGE, place)
        command = ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(command, cwd=place, check=False).returncode != 0:
            raise SystemExit("npm could not fetch ONNX Runtime Web: look at what it printed above.")
        yield Path(place) / "node_modules"


def _copy_runtime(dist: Path, out: Path) -> None:
    out.mkdir()
    for name, sha256 in RUNTIME.items():
        data = (dist / name).read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise SystemExit(f"{name} has the sha256 {found}, not {sha256}: is it another version of onnxruntime-web?")
        (out / name).write_bytes(data)


def _model(name: str, folder: Path) -> dict[str, Any]:
    """Export a weight, and what the page has to know of it: from the metadata of the graph, and its row."""
    import onnx

    spec = model_info(name).weight
    assert spec is not None, name
    exported = export(name, folder / f"{spec.name}.onnx")
    graph = onnx.load(exported.file)
    known = {entry.key: entry.value for entry in graph.metadata_props}
    outputs = [output.name for output in graph.graph.output]
    return {
        "name": spec.name,
        "title": f"{spec.name} ({exported.size / 1e6:.1f} MB)",
        "about": _about(spec),
        "file": exported.file.name,
        "classes": json.loads(known["classes"]),
        "preprocessing": json.loads(known["preprocessing"]),
        "ood_limit": json.loads(known["ood_limit"]),
        "verdict_limits": json.loads(known["verdict_limits"]),
        "outputs": [output for output in (PROBABILITIES, SCORES, ATTENTION) if output in outputs],
        "licence": known["licence"],
        "citation": known["citation"],
    }


def _about(spec: WeightSpec) -> str:
    measured = spec.metrics["cross_validation"]
    auroc = measured["values"]["auroc"]
    return (
        f"Classes {', '.join(spec.config.class_names)}. AUROC {auroc['value']:.3f} ({auroc['low']:.3f} to "
        f"{auroc['high']:.3f}) by cross-validation: {measured['on']}."
    )


def _list_files(page: Path) -> None:
    """Tell the service worker which files to keep, and their version."""
    worker = page / "sw.js"
    digest = hashlib.sha256(worker.read_bytes())
    files = sorted(path for path in page.rglob("*") if path.is_file() and path != worker)
    for path in files:
        digest.update(path.relative_to(page).as_posix().encode() + b"\0" + path.read_bytes())
    text = worker.read_text(encoding="utf-8")
    names = json.dumps([path.relative_to(page).as_posix() for path in files])
    for mark, filled in (("@version@", digest.hexdigest()[:16]), ("['@files@']", names)):
        if text.count(mark) != 1:
            raise SystemExit(f"docs/try/sw.js has no place for {mark}.")
        text = text.replace(mark, filled)
    worker.write_text(text, encoding="utf-8")


def main() -> None:
    """Build, and say what it weighs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="such as site/try, after mkdocs build")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="folder with node_modules, instead of npm")
    options = parser.parse_args()
    size = build_page(options.out, options.packages)
    print(f"{options.out}: {size / 1e6:.1f} MB, {len(WEIGHTS)} networks; serve it over https, or on this machine.")


if __name__ == "__main__":
    main()
