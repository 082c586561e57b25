"""The notebooks run from the first cell to the last, offline, and show pictures."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MISSING = [name for name in ("nbformat", "nbclient", "ipykernel") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(not NOTEBOOKS, reason="the examples are not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f"notebooks need {', '.join(MISSING)}: pip install .[docs]"),
]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(path):
    import nbformat

    return nbformat.read(path, as_version=4)


def test_the_tool_knows_every_notebook(tool):
    assert sorted(tool.NOTEBOOKS) == NOTEBOOKS
    assert len({tool.title(path) for path in NOTEBOOKS}) == len(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs_and_opens_in_colab(tool, path):
    import nbformat

    notebook = _read(path)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert tool.BADGE.search(notebook.cells[0].source)["link"].endswith(f"/blob/main/examples/notebooks/{path.name}")
    assert "For research only, not a diagnosis." in notebook.cells[0].source


def _first_cell(path, folder, find_spec):
    """Run the first cell in a folder; what it calls besides git is written down and not done."""
    program = f"""
import importlib.util, json, subprocess, sys
calls, run = [], subprocess.run
def recorded(command, **options):
    calls.append(command)
    return run(command, **options) if command[0] == "git" else None
subprocess.run = recorded
importlib.util.find_spec = lambda name: {find_spec!r}
exec({_read(path).cells[1].source!r})
import draw_cells
print(json.dumps([calls, os.getcwd(), draw_cells.__file__]))
"""
    # The address of the repository leads to this one: as a path, of which Git links the files instead of packing them.
    address = re.search(r'"(https://github\.com/[^"]+)"', _read(path).cells[1].source)[1]
    config = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **config},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    import json

    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_first_cell_does_nothing_where_all_is_there(path):
    calls, place, _ = _first_cell(path, path.parent, "there")
    assert calls == []
    assert Path(place) == path.parent


def test_its_first_cell_fetches_and_installs_what_is_absent(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    # Three notebooks have the same first cell: one clone is enough.
    assert len({_read(path).cells[1].source for path in NOTEBOOKS}) == 1
    calls, place, drawing = _first_cell(NOTEBOOKS[0], tmp_path, None)
    assert [command[0] for command in calls] == ["git", sys.executable]
    assert calls[1][1:4] == ["-m", "pip", "install"]
    assert (Path(place) / calls[1][-1] / "pyproject.toml").is_file()
    assert Path(place) == tmp_path / "leukaemia-zoo" / "examples" / "notebooks"
    assert (Path(place) / drawing).resolve() == tmp_path / "leukaemia-zoo" / "examples" / "draw_cells.py"


EXPECTED = {
    "first_verdicts": (r"UID_901_1_1_all\s+P\(all\) (0\.\d{3}|1\.000)", r"'subject': 'H902'", r"unfamiliar: True"),
    "compare_models": (
        r"60 cells of 12 subjects",
        r"Paired differences",
        r"cnn - cell size",
        r"'report\.html'",
    ),
    "finetune_your_cells": (
        r"56 cells, 5 folds by image",
        r"fine-tuned efficientnet_lite0\.pbc\s+\d\.\d{3}",
        r"12 cells of",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_pictures(tool, path):
    notebook, seconds = tool.run(path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    for pattern in EXPECTED[path.stem]:
        assert re.search(pattern, printed), f"{pattern} is not in:\n{printed}"
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
        assert pixels.std() > 5  # no empty drawing
    assert seconds < tool.TIME_LIMIT
    if importlib.util.find_spec("nbconvert") is not None:
        tool.keep(path, notebook, seconds)  # for the site, which need not run it again
