"""`devices`: training on several devices, on processors that pretend to be two."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from other_backends import environment

from leukaemia_zoo.common import hardware
from leukaemia_zoo.common.hardware import number_of_devices
from leukaemia_zoo.errors import DeviceError

# The backend must be told of its devices before anything uses it.
SCRIPT = Path(__file__).parents[1] / "two_devices.py"


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(hardware, "_names", lambda: [f"gpu:{number}" for number in range(4)])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")


def test_devices_are_counted(four):
    assert number_of_devices(1, [7]) == 1
    assert number_of_devices(3, [48, 12]) == 3
    assert number_of_devices("all", [48, 12]) == 4


@pytest.mark.parametrize("wanted", [0, -1, "some", "2", 1.5, True])
def test_what_is_no_number_is_refused(four, wanted):
    with pytest.raises(DeviceError, match="whole number from 1 on, or 'all'"):
        number_of_devices(wanted)


def test_devices_that_are_not_there_or_cannot_share_are_refused(four, monkeypatch):
    with pytest.raises(DeviceError, match="has 4 of the 5 devices"):
        number_of_devices(5)
    with pytest.raises(DeviceError, match="A batch of 50 cannot be shared in equal parts among 4 devices"):
        number_of_devices("all", [48, 50])
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert number_of_devices(1) == 1
    for wanted in (2, "all"):
        with pytest.raises(DeviceError, match="With the backend 'torch' training runs on one device"):
            number_of_devices(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_as_one_does(backend, tmp_path):
    out = tmp_path / "found.json"
    pretended = environment(backend, "--xla_force_host_platform_device_count=2")
    done = subprocess.run([sys.executable, SCRIPT, out], env=pretended, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = json.loads(out.read_text())
    assert (one["spread"], two["spread"]) == (1, 2)
    assert one["finite"]
    assert two["finite"]
    np.testing.assert_allclose(two["plain"], one["plain"], rtol=1e-4, atol=1e-6)
    losses = [np.array([list(epoch.values()) for epoch in run["distillation"]]) for run in (one, two)]
    for run in (*losses, np.array([one["fine_tuning"]]).T, np.array([two["fine_tuning"]]).T):
        assert np.isfinite(run).all()
        assert (run[-1] < run[0]).all()
    if backend == "jax":  # one computation over the whole batch: the same random views, the same statistics
        np.testing.assert_allclose(losses[1], losses[0], rtol=0.05, atol=1e-3)
        np.testing.assert_allclose(two["fine_tuning"], one["fine_tuning"], rtol=0.02)
    # In TensorFlow each device draws views and standardises for its own part of the batch: those losses need not agree.
