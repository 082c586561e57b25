"""`registration`: Keras learns of our layers without being imported, and a missing backend is told in one sentence.

Each test is a new process: in this one Keras has been imported.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys

import pytest
from other_backends import environment

MODULES = (
    "zoo.layers",
    "zoo.augmentation",
    "zoo.architectures",
    "zoo.loading",
    "zoo.outputs",
    "common.hardware",
    "prediction.attention",
    "prediction.verdicts",
)


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *(arguments or ("-c", code))],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_importing_the_package_imports_no_keras():
    done = run("import sys, leukaemia_zoo; print('keras' in sys.modules, 'huggingface_hub' in sys.modules)")
    assert done.stdout == "False False\n", done.stderr


def test_asking_whether_keras_is_there_leaves_the_wait_for_it():
    done = run(
        "import sys, importlib.util, leukaemia_zoo\n"
        "for _ in range(3): assert importlib.util.find_spec('keras') is not None\n"
        "print([type(finder).__name__ for finder in sys.meta_path].count('_AwaitKeras'))"
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or importlib.util.find_spec("tensorflow") is None,
    reason="needs a TensorFlow that has oneDNN's kernels as a second set",
)
@pytest.mark.parametrize(("wish", "on"), [({}, True), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False)])
def test_tensorflow_computes_with_onednn_unless_a_user_says_no(wish, on):
    left = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    told = left | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "0"} | wish
    command = [sys.executable, "-c", "import leukaemia_zoo, keras"]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
    assert ("oneDNN custom operations are on" in done.stderr) is on, done.stderr


FIRST = """
import os, sys
if os.environ["KERAS_BACKEND"] == "jax":
    # What Keras needs, before the processes part; TensorFlow imports Keras itself, which none may have imported.
    import h5py, jax, optree, rich.console, sklearn.base
    assert "keras" not in sys.modules
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(f"leukaemia_zoo.{module}")
        import keras
        known = sorted(name for name in keras.saving.get_custom_objects() if name.startswith("leukaemia_zoo>"))
        print(module, known, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("backend", "modules"), [("jax", MODULES), ("tensorflow", MODULES[:1])])
def test_whichever_module_is_imported_first_keras_knows_all_layers(backend, modules):
    command = [sys.executable, "-c", FIRST, *modules]
    done = subprocess.run(command, env=environment(backend), capture_output=True, text=True, check=False)
    names = ("AttentionBlock", "CellAugmentation", "CellFeatures", "CellMask", "CellNetwork", "CellStatistics")
    known = [f"leukaemia_zoo>{name}" for name in names]
    assert done.stdout.splitlines() == [f"{module} {known}" for module in modules], done.stderr


CALL = "import leukaemia_zoo as lz\ntry: lz.load_model('cnn')\nexcept lz.errors.BackendError as error: print(error)"


@pytest.fixture
def without_jax(tmp_path):
    """Environment in which Keras is set to JAX, which cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def find_others(name, path=None, target=None):\n"
        "    return None if name in ('jax', 'jaxlib') else find(name, path, target)\n"
        "PathFinder.find_spec = find_others\n"
    )
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    return {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_a_backend_that_is_not_installed_is_one_sentence(without_jax):
    done = run(CALL, **without_jax)
    assert done.stdout.startswith("Keras is to compute on jax (KERAS_BACKEND says so), which is not installed: pip")
    assert 'pip install "leukaemia-zoo[jax]", or set KERAS_BACKEND=tensorflow' in done.stdout


def test_so_it_is_in_a_terminal(without_jax):
    code = "import sys; from leukaemia_zoo.cli.app import main; sys.exit(main(sys.argv[1:]))"
    done = run(code, "-c", code, "benchmark", "cnn", "--data", "x", "--out", "y", **without_jax)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.split("\n")[-2].startswith("leukaemia-zoo: error: Keras is to compute on jax")


def test_an_unknown_backend_is_one_sentence():
    done = run(CALL, KERAS_BACKEND="tensorfow")
    told = "Keras cannot compute on 'tensorfow' (KERAS_BACKEND says so): set KERAS_BACKEND to one of tensorflow, jax"
    assert done.stdout.startswith(told), done.stderr


def test_keras_json_may_name_the_backend(tmp_path, without_jax):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    done = run(CALL, **without_jax | {"KERAS_BACKEND": "", "KERAS_HOME": str(tmp_path)})
    assert f"Keras is to compute on jax ({tmp_path / 'keras.json'} says so)" in done.stdout, done.stderr
