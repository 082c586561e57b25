"""Run the notebooks of `examples/notebooks` in kernels of their own, offline, and tell how long each took.

    python tools/notebooks.py                 # run all; the first cell that fails ends it with its error
    python tools/notebooks.py --out FOLDER    # and keep them there with what they printed and drew

The committed notebooks hold no output. The documentation shows them run, by `page`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = [FOLDER / f"{name}.ipynb" for name in ("first_verdicts", "compare_models", "finetune_your_cells")]
KEPT = ROOT / "build" / "notebooks"
"""Where what came out of a notebook is kept, by what went in."""

TIME_LIMIT = 300  # seconds a cell; all three together take about one minute
BADGE = re.compile(r"\[!\[[^]]*\]\([^)]*colab-badge\.svg\)\]\((?P<link>[^)]*)\)")


def run(path: Path) -> tuple[Any, float]:
    """Return a notebook with its outputs, and the seconds that it took; nbclient's error where a cell fails."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    began = time.monotonic()
    # The kernel gets this environment: the same interpreter, and the package that this process would import.
    kept = {name: os.environ.get(name) for name in ("PYTHONPATH", "TQDM_DISABLE")}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [kept["PYTHONPATH"]])])
    os.environ["TQDM_DISABLE"] = "1"  # a bar is for a person who waits
    try:
        place = {"metadata": {"path": str(path.parent)}}
        nbclient.NotebookClient(notebook, kernel_name="python3", timeout=TIME_LIMIT, resources=place).execute()
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return notebook, time.monotonic() - began


def title(path: Path) -> str:
    """The heading of a notebook."""
    import nbformat

    found = re.search(r"^# (.+)$", nbformat.read(path, as_version=4).cells[0].source, re.MULTILINE)
    return found[1] if found else path.stem


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page of the documentation, with outputs, and its pictures by their names beside it."""
    kept = KEPT / f"{path.stem}-{_inputs(path)[:20]}"
    if not kept.is_dir():
        kept = keep(path, *run(path))
    pictures = {file.relative_to(kept).as_posix(): file.read_bytes() for file in sorted(kept.rglob("*.png"))}
    return (kept / "page.md").read_text(encoding="utf-8"), pictures


def keep(path: Path, notebook: Any, seconds: float) -> Path:
    """Keep what came out of a notebook for `page`, which then need not run it again; the folder."""
    from nbconvert import MarkdownExporter

    for cell in notebook.cells:
        # The standard error names folders of this machine, and TensorFlow's notes are no part of the story.
        cell["outputs"] = [output for output in cell.get("outputs", []) if not _is_noise(output)]
    exporter = MarkdownExporter()
    names = {"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    text, resources = exporter.from_notebook_node(notebook, resources=names)
    # The badge is a picture on a server of others: the page has a link instead.
    text = BADGE.sub(lambda found: f"[Open in Colab]({found['link']}){{ .md-button }}", text)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    about = f"`examples/notebooks/{path.name}`, run for this page in {seconds:.0f} seconds."
    text = f"{text.rstrip()}\n\n---\n\n{about}\n"
    pictures = {name: bytes(data) for name, data in resources["outputs"].items()}
    kept = KEPT / f"{path.stem}-{_inputs(path)[:20]}"
    _write(kept, {"page.md": text.encode(), **pictures})
    return kept


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder whole, in the place of those of earlier inputs."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{folder.name.rpartition('-')[0]}-*"):
        shutil.rmtree(old, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(dir=KEPT, prefix=".new-"))
    for name, data in files.items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_bytes(data)
    try:
        beside.rename(folder)
    except OSError:  # another build was first
        shutil.rmtree(beside)


def _is_noise(output: Any) -> bool:
    return output.get("name") == "stderr" or output.get("text", "").startswith("WARNING:tensorflow")


def _inputs(path: Path) -> str:
    """A hash of all that an output depends on: the notebook, the examples, this file, and the package."""
    files = [path, Path(__file__), *FOLDER.parent.rglob("*.py")]
    files += [file for file in (ROOT / "src").rglob("*") if file.suffix in {".py", ".json", ".safetensors", ".onnx"}]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    out = parser.parse_args().out
    import nbformat

    for path in NOTEBOOKS:
        notebook, seconds = run(path)
        print(f"{path.name}: {seconds:.1f} s")
        if out:
            out.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, out / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
