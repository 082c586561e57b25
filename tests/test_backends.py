"""The same numbers on TensorFlow, JAX and PyTorch.

Keras takes its backend when it is imported, so that each runs `backend_outputs.py` in a process of its own; the
weights are the same, and so are the images.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_outputs import LARGE, SMALL, cells, outputs_of, set_fixed_weights

from leukaemia_zoo import load_model, save_model
from leukaemia_zoo.zoo import build_model, registry
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE
from leukaemia_zoo.zoo.tensors import named_variables

PACKAGED = [name for name, spec in sorted(registry.weights().items()) if registry.packaged_file(spec).is_file()]
BACKENDS = ("tensorflow", "jax", "torch")
PAIRS = [("tensorflow", "jax"), ("tensorflow", "torch"), ("jax", "torch")]
# Each backend runs in a process of its own, which the first test that asks for it waits for.
pytestmark = pytest.mark.slow

NETWORK = 1e-4
LAYER = 1e-5
MAP = 1e-3


def installed(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


def in_process(backend, out, work, *parts):
    """Run `backend_outputs.py` on one backend and read what it found."""
    installed(backend)
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "JAX_PLATFORMS": "cpu",
    }
    if "large" in parts:
        # JAX compiles much for one batch: optimising it takes longer than it saves.
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    command = [sys.executable, Path(__file__).with_name("backend_outputs.py"), out, work, *parts]
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(out) as found:
        values = {key: found[key] for key in found.files}
    assert values.pop("backend") == backend
    return values


def fixed_model():
    return set_fixed_weights(load_model("cnn_attention", weights=None))


class Runs:
    """What each backend gave, computed when it is first asked for."""

    def __init__(self, folder, *parts):
        self.folder, self.parts, self.found = folder, parts, {}

    def __getitem__(self, backend):
        if backend not in self.found:
            work = self.folder / "work"
            work.mkdir(exist_ok=True)
            self.found[backend] = in_process(backend, self.folder / f"{backend}.npz", work, *self.parts)
        return self.found[backend]


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("small"), "small", "shipped", "explained", "load", "save")
    save_model(fixed_model(), runs.folder / "work" / "here")
    return runs


@pytest.fixture(scope="module")
def large_runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("large"), "large")


def compare(first, second, keys, tolerance):
    assert keys
    for key in keys:
        assert first[key].shape == second[key].shape
        assert first[key].dtype == second[key].dtype == np.float32
        np.testing.assert_allclose(first[key], second[key], rtol=0, atol=tolerance, err_msg=key)


def outputs(found, kinds=("probabilities", "logits", "embedding")):
    return [key for key in found if key.rsplit("/", 1)[-1] in kinds]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_small_networks_are_equal(small_runs, one, other):
    first, second = small_runs[one], small_runs[other]
    keys = [key for key in outputs(first) if key.split(":")[0] in ("flatten", "texture")]
    assert len(keys) == len(SMALL) * 2 * 3
    compare(first, second, keys, NETWORK)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_layers_are_equal(small_runs, one, other):
    first, second = small_runs[one], small_runs[other]
    keys = [key for key in first if key.startswith("layers/") or key.endswith("attention_maps")]
    assert {"layers/gated", "layers/attention", "layers/mask", "layers/statistics"} < set(keys)
    compare(first, second, keys, LAYER)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_published_networks_are_equal(large_runs, one, other):
    first, second = large_runs[one], large_runs[other]
    assert len(outputs(first)) == len(LARGE) * 3
    compare(first, second, outputs(first), NETWORK)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_would_show_a_difference(small_runs, backend):
    """Neither saturated nor blind to the image, or the comparisons above could not fail."""
    assert_telling(small_runs[backend])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_of_the_published_networks_would_show_a_difference(large_runs, backend):
    assert_telling(large_runs[backend])


def assert_telling(found):
    own = {key: value for key, value in found.items() if not key.startswith(tuple(registry.weights()))}
    for key in outputs(own, ("probabilities",)):
        assert found[key].min() > 0.01, key
        assert found[key].max() < 0.99, key
    for key in outputs(own, ("logits", "embedding")):
        assert np.ptp(found[key], axis=0).max() > 1e-3, key
        assert 0.05 < np.abs(found[key]).max() < 100, key


@pytest.fixture(scope="module")
def names_here():
    """Names of all tensors of the published networks, built in the reverse order, so that Keras' counters differ."""
    return {
        name: list(named_variables(build_model(name, num_classes=3, input_size=LARGE[name])))
        for name in reversed(LARGE)
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LARGE)
def test_stable_names_are_those_of_another_process(large_runs, names_here, backend, name):
    assert large_runs[backend][f"names:{name}"].tolist() == names_here[name]


# --- saved models and shipped weights ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_saved_here_loads_on_every_backend(small_runs, backend):
    found, here = small_runs[backend], outputs_of(fixed_model(), cells(3, 100))
    keys = [key for key in found if key.startswith("loaded:")]
    assert len(keys) == 3
    for key in keys:
        np.testing.assert_allclose(found[key], here[key.removeprefix("loaded:")], rtol=0, atol=LAYER, err_msg=key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_saves_the_same_bytes(small_runs, backend):
    """With the test above: what one backend saves, each other loads."""
    _ = small_runs[backend]
    work = small_runs.folder / "work"
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        assert (work / backend / name).read_bytes() == (work / "here" / name).read_bytes()


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("name", PACKAGED)
def test_shipped_weights_are_equal(small_runs, name, one, other):
    keys = [key for key in small_runs[one] if key.startswith(f"{name}:")]
    assert len(keys) == 3
    probabilities = [key for key in keys if key.endswith("probabilities")]
    compare(small_runs[one], small_runs[other], probabilities, LAYER)
    for key in set(keys) - set(probabilities):
        # Trained weights give values in the tens and hundreds, which float32 holds to seven digits: relative to those.
        ours, theirs = small_runs[one][key], small_runs[other][key]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(ours).max(), err_msg=key)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_ood_scores_are_equal(small_runs, one, other):
    keys = [key for key in small_runs[one] if key.startswith("ood:")]
    assert "ood:cnn_attention.cnmc" in keys
    for key in keys:
        assert np.ptp(small_runs[one][key]) > 0.01, "would not show a difference"
        np.testing.assert_allclose(small_runs[one][key], small_runs[other][key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_maps_of_evidence_are_equal(small_runs, one, other):
    first, second = small_runs[one], small_runs[other]
    keys = [key for key in first if key.startswith("maps:")]
    assert {key.split(":")[1] for key in keys} == {*PACKAGED, "nested"}
    assert {key.split(":")[2] for key in keys} == {"grad_cam", "hires_cam", "attention", "occlusion"}
    assert all(np.ptp(first[key], axis=(1, 2)).min() > 0.1 for key in keys), "would not show a difference"
    compare(first, second, keys, MAP)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_maps_of_the_published_networks_are_equal(large_runs, one, other):
    first, second = large_runs[one], large_runs[other]
    keys = [key for key in first if key.startswith("maps:")]
    assert len(keys) == 2 * len(LARGE)
    assert all(np.ptp(first[key]) > 100 * MAP for key in keys), "would not show a difference"
    compare(first, second, keys, MAP)


def test_probabilities_are_the_softmax_of_the_logits_in_the_helper():
    """`outputs_of` reads the layers that it says it reads."""
    model = set_fixed_weights(build_model("cnn_attention", input_size=32))
    found = outputs_of(model, np.full((2, 32, 32, 3), 90, np.float32))
    exponents = np.exp(found["cnn_attention/logits"])
    softmax = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(found["cnn_attention/probabilities"], softmax, atol=1e-6)
