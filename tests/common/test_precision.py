"""`precision`, `timing`: how training is computed, and how long it takes."""

import doctest
import pathlib

import keras
import pytest

from leukaemia_zoo.common import hardware
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.training import runs
from leukaemia_zoo.training.recipes import recipe_for

INTEL = "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu sse avx512f {}\n\nprocessor\t: 1\nflags\t\t: fpu sse\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd {}\n"


@pytest.fixture
def cpuinfo(monkeypatch):
    """A function that sets what the system says of the processor; None where it says nothing."""

    def set_text(text):
        def read_text(self, *args, **kwargs):
            assert str(self) == "/proc/cpuinfo"
            if text is None:
                raise FileNotFoundError
            return text

        monkeypatch.setattr(pathlib.Path, "read_text", read_text)

    return set_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INTEL.format("avx512_bf16"), True),
        (INTEL.format("amx_bf16 amx_tile"), True),
        (INTEL.format("avx512_vnni"), False),
        (ARM.format("i8mm bf16"), True),
        (ARM.format("i8mm"), False),
        ("model name : bf16\n", False),
        (None, False),
    ],
)
def test_the_processor_tells_its_instructions(cpuinfo, text, expected):
    cpuinfo(text)
    assert hardware.has_bfloat16_instructions() is expected


@pytest.mark.parametrize(
    ("devices", "instructions", "expected"),
    [
        (["cpu"], True, "mixed_bfloat16"),
        (["cpu"], False, "float32"),
        (["gpu NVIDIA H200"], False, "mixed_bfloat16"),
        (["tpu TPU v4"], False, "mixed_bfloat16"),
        (["mps"], True, "float32"),
    ],
)
def test_auto_means_bfloat16_where_the_device_has_it(monkeypatch, devices, instructions, expected):
    monkeypatch.setattr(hardware, "computing_devices", lambda: devices)
    monkeypatch.setattr(hardware, "has_bfloat16_instructions", lambda: instructions)
    assert hardware.resolved("auto") == expected
    before = keras.config.dtype_policy().name
    with hardware.precision("auto"):
        assert keras.config.dtype_policy().name == expected
    assert keras.config.dtype_policy().name == before
    assert hardware.resolved("mixed_float16") == "mixed_float16"


def test_auto_is_the_default_and_others_are_checked():
    assert recipe_for("cnn").precision == "auto"
    assert recipe_for("cnn", {"precision": "mixed_bfloat16"}).precision == "mixed_bfloat16"  # as shipped weights say
    with pytest.raises(DataError, match="'half' is no dtype policy of Keras"):
        hardware.resolved("half")


def test_the_time_left_is_that_of_the_epochs_of_this_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])
    left = runs.TimeLeft(done=2)
    now[0] += 60
    assert left.told(done=3, total=15) == ", about 12 min left"
    now[0] += 60
    assert left.told(done=4, total=5) == ", about 60 s left"
    assert left.told(done=4, total=400) == ", about 6.6 h left"
    assert left.told(done=5, total=5) == ""
    assert runs.TimeLeft(done=2).told(done=2, total=5) == ""
    assert doctest.testmod(runs).failed == 0
