"""A test that is slow and does not say so fails."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import time
import pytest

def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def test_long():
    work(0.2)

@pytest.mark.slow
def test_long_and_marked():
    work(0.2)

def test_waiting():
    time.sleep(0.3)

def test_short(pytestconfig):
    print("limit", pytestconfig.getoption("--time-limit"))
"""


def outcomes(folder, *options, **environment):
    (folder / "conftest.py").write_text("from time_limit import *  # noqa: F403\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\n")
    (folder / "test_some.py").write_text(TESTS)
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options)
    kept["PYTHONPATH"] = str(Path(__file__).parent)
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True).stdout


def test_a_slow_test_that_does_not_say_so_fails(tmp_path):
    told = outcomes(tmp_path, "--time-limit", "0.1")
    assert "1 failed, 3 passed" in told
    assert "test_long took 0." in told
    assert "mark it @pytest.mark.slow" in told


def test_continuous_integration_limits_the_time_and_nobody_else(tmp_path):
    assert "limit None" in outcomes(tmp_path, "-s")
    assert "limit 10.0" in outcomes(tmp_path, "-s", CI="true")
