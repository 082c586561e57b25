"""`tools/train_zoo.py`: every weight of the zoo by one command; and what one of them begins with."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from leukaemia_zoo.cli.app import main
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.registry import weights
from leukaemia_zoo.zoo.tensors import named_variables

TOOL = Path(__file__).parents[1] / "tools" / "train_zoo.py"
ARRAYS = TOOL.parent / "imagenet_arrays.py"

pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not beside the tests")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_it_makes_every_weight_of_the_zoo_by_commands_that_exist(tmp_path, capsys):
    files = ("--imagenet", "M.npz", "--lite", "E.npz")
    done = run("--cnmc", "CNMC", "--pbc", "PBC", *files, "--out", "runs", "--print")
    commands = [shlex.split(line)[1:] for line in done.stdout.splitlines()]
    made = [Path(command[command.index("--out") + 1]).name for command in commands]
    assert {name.removesuffix("_cv") for name in made} == {*weights()}
    assert made.index("mobilenet.pbc") < min(made.index("cnn.cnmc_cv"), made.index("mobilenet.pbc_cnmc_cv"))
    for command in commands:
        # Every option is one of `train`: what is wrong with it is the data alone, which is not there.
        assert main(command) != 0
        assert re.search(r"There is no folder (CNMC|PBC)", capsys.readouterr().err)


def test_what_is_there_is_not_made_again(tmp_path):
    for folder, record in (("cnn.cnmc_cv", "cross_validation.json"), ("cnn.cnmc", "training.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / record).write_text("{}")
    done = run("--cnmc", "CNMC", "--pbc", "PBC", "--out", tmp_path, "--only", "cnn.cnmc", "--", "--restart")
    assert done.returncode == 0, done.stderr
    assert [line.endswith("--restart  # is there") for line in done.stdout.splitlines()] == [True, True]


def test_a_beginning_that_is_not_given_is_asked_for(tmp_path):
    done = run("--cnmc", "CNMC", "--pbc", "PBC", "--out", tmp_path, "--print")
    assert done.returncode == 2
    assert done.stderr.endswith("give it, or name the other weights with --only.\n")
    assert not done.stdout


def test_it_stops_where_a_command_fails(tmp_path):
    done = run("--cnmc", tmp_path / "none", "--pbc", tmp_path / "none", "--out", tmp_path, "--only", "cnn.cnmc")
    assert done.returncode != 0
    assert "There is no folder" in done.stderr
    assert "cnn.cnmc was not made" in done.stderr
    assert "--trunk" not in done.stdout


def test_every_weight_of_efficientnet_lite0_has_its_name_and_layout_in_pytorch():
    """`tools/imagenet_arrays.py`, without the package that it reads: PyTorch keeps channels out before channels in."""
    tool = runpy.run_path(str(ARRAYS))
    variables = named_variables(build_model("efficientnet_lite0", input_size=32))
    names = tool["torch_names"](variables)
    assert names.keys() == {name for name in variables if not name.startswith("logits/")}
    theirs = set(names.values())
    assert len(theirs) == len(names) == 245
    assert {"_conv_stem.weight", "_blocks.15._bn2.running_var", "_conv_head.weight", "_bn1.bias"} <= theirs
    assert "_blocks.0._expand_conv.weight" not in theirs  # the first block does not widen
    for name in names:
        shape = tuple(variables[name].shape)
        if len(shape) == 4:
            rows, columns, channels, filters = shape
            theirs = (channels, 1, rows, columns) if "dwconv" in name else (filters, channels, rows, columns)
            assert tool["keras_layout"](np.zeros(theirs), name).shape == shape
