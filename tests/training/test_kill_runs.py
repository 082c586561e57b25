"""`tools/kill_runs.py`: one kill of each command; twenty take as many minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "kill_runs.py"
COMMANDS = ("train", "finetune", "benchmark", "predict", "download")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork"),
    pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not here"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of each command, all in one process, which imports the backend once."""
    out = tmp_path_factory.mktemp("killed") / "found.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, TOOL, "--times", "1", "--eagerly", "--json", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.is_file(), done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert set(found) == set(COMMANDS)
    assert done.returncode == int(any(row["wrong"] for row in found.values())), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_was_killed_ends_as_if_it_had_not_been(command, found):
    assert found[command]["wrong"] == []
    assert (found[command]["killed"], found[command]["same"]) == (1, 1)
