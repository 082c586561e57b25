"""`tools/kill_runs.py`: one kill of each command; twenty take as many minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "kill_runs.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not here")
@pytest.mark.parametrize("command", ["train", "finetune", "benchmark", "predict", "download"])
def test_a_command_that_was_killed_ends_as_if_it_had_not_been(command, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = ["--times", "1", "--only", command, "--json", str(tmp_path / "found.json")]
    done = subprocess.run([sys.executable, TOOL, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())[command]
    assert (found["killed"], found["same"], found["wrong"]) == (1, 1, [])
