"""The same numbers on TensorFlow, JAX and PyTorch.

Keras takes its backend when it is imported, so that each runs `backend_outputs.py` in a process of its own; the
weights are the same, and so are the images.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_outputs import LARGE, NORMS, SMALL, cells, outputs_of, set_fixed_weights
from other_backends import environment

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
PROBABILITY = 5e-5
"""Of trained weights: their logits in the tens, which float32 holds to seven digits, move a probability by so much."""
MAP = 1e-3


def in_process(backend, out, work, *parts):
    """Run `backend_outputs.py` on one backend and read what it found."""
    command = [sys.executable, Path(__file__).with_name("backend_outputs.py"), out, work, *parts]
    done = subprocess.run([*map(str, command)], env=environment(backend), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(out) as found:
        values = {key: found[key] for key in found.files}
    assert values.pop("backend") == backend
    return values


def fixed_model():
    return set_fixed_weights(load_model("cnn_attention", weights=None))


class Runs:
    """What each backend gave, computed when it is first asked for."""

    def __init__(self, folder):
        self.folder, self.found = folder, {}

    def __getitem__(self, backend):
        if backend not in self.found:
            work = self.folder / "work"
            work.mkdir(exist_ok=True)
            # The published networks first: the names of their tensors are those of a fresh process.
            parts = ("large", "small", "shipped", "nested", "steps", "load", "save")
            self.found[backend] = in_process(backend, self.folder / f"{backend}.npz", work, *parts)
        return self.found[backend]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("backends"))
    save_model(fixed_model(), runs.folder / "work" / "here")
    return runs


def compare(first, second, keys, tolerance):
    assert keys
    for key in keys:
        assert first[key].shape == second[key].shape
        assert first[key].dtype == second[key].dtype == np.float32
        np.testing.assert_allclose(first[key], second[key], rtol=0, atol=tolerance, err_msg=key)


def outputs(found, kinds=("probabilities", "logits", "embedding")):
    return [key for key in found if key.rsplit("/", 1)[-1] in kinds]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_small_networks_are_equal(runs, one, other):
    first, second = runs[one], runs[other]
    keys = [key for key in outputs(first) if key.split(":")[0] in ("flatten", "texture")]
    assert len(keys) == len(SMALL) * 2 * 3
    compare(first, second, keys, NETWORK)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_layers_are_equal(runs, one, other):
    first, second = runs[one], runs[other]
    keys = [key for key in first if key.startswith("layers/") or key.endswith("attention_maps")]
    assert {"layers/gated", "layers/attention", "layers/mask", "layers/statistics"} < set(keys)
    compare(first, second, keys, LAYER)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_published_networks_are_equal(runs, one, other):
    first, second = runs[one], runs[other]
    keys = [key for key in outputs(first) if key.split("/")[0] in LARGE]
    assert len(keys) == len(LARGE) * 3
    compare(first, second, keys, NETWORK)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_would_show_a_difference(runs, backend):
    """Neither saturated nor blind to the image, or the comparisons above could not fail."""
    found = runs[backend]
    own = {key: value for key, value in found.items() if not key.startswith(tuple(registry.weights()))}
    assert len(outputs(own)) == 3 * (2 * len(SMALL) + len(LARGE) + 1)
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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LARGE)
def test_stable_names_are_those_of_another_process(runs, names_here, backend, name):
    assert runs[backend][f"names:{name}"].tolist() == names_here[name]


# --- saved models and shipped weights ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_saved_here_loads_on_every_backend(runs, backend):
    found, here = runs[backend], outputs_of(fixed_model(), cells(3, 100))
    keys = [key for key in found if key.startswith("loaded:")]
    assert len(keys) == 3
    for key in keys:
        np.testing.assert_allclose(found[key], here[key.removeprefix("loaded:")], rtol=0, atol=LAYER, err_msg=key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_saves_the_same_bytes(runs, backend):
    """With the test above: what one backend saves, each other loads."""
    _ = runs[backend]
    work = runs.folder / "work"
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        assert (work / backend / name).read_bytes() == (work / "here" / name).read_bytes()


@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("name", PACKAGED)
def test_shipped_weights_are_equal(runs, name, one, other):
    keys = [key for key in runs[one] if key.startswith(f"{name}:")]
    assert len(keys) == 3
    probabilities = [key for key in keys if key.endswith("probabilities")]
    compare(runs[one], runs[other], probabilities, PROBABILITY)
    for key in set(keys) - set(probabilities):
        # Trained weights give values in the tens and hundreds, which float32 holds to seven digits: relative to those.
        ours, theirs = runs[one][key], runs[other][key]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(ours).max(), err_msg=key)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_ood_scores_are_equal(runs, one, other):
    keys = [key for key in runs[one] if key.startswith("ood:")]
    assert "ood:cnn_attention.cnmc" in keys
    for key in keys:
        assert np.ptp(runs[one][key]) > 0.01, "would not show a difference"
        np.testing.assert_allclose(runs[one][key], runs[other][key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_maps_of_evidence_are_equal(runs, one, other):
    first, second = runs[one], runs[other]
    keys = [key for key in first if key.startswith("maps:") and key.split(":")[1] not in LARGE]
    assert {key.split(":")[1] for key in keys} == {*PACKAGED, "nested"}
    assert {key.split(":")[2] for key in keys} == {"grad_cam", "hires_cam", "attention", "occlusion"}
    assert all(np.ptp(first[key], axis=(1, 2)).min() > 0.1 for key in keys), "would not show a difference"
    compare(first, second, keys, MAP)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_maps_of_the_published_networks_are_equal(runs, one, other):
    first, second = runs[one], runs[other]
    keys = [key for key in first if key.startswith("maps:") and key.split(":")[1] in LARGE]
    assert len(keys) == 2 * len(LARGE)
    assert all(np.ptp(first[key]) > 100 * MAP for key in keys), "would not show a difference"
    compare(first, second, keys, MAP)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fused_normalisation_learns_as_that_of_keras(runs, backend):
    """Losses, weights and moving statistics after two steps."""
    found = runs[backend]
    keys = [key for key in found if key.startswith("step:plain:")]
    assert len(keys) == sum(
        1 + 6 + 2 * (2 + options.get("scale", True) + options.get("center", True)) for options in NORMS
    )
    for key in keys:
        ours, theirs = found[key.replace("plain", "fused")], found[key]
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=LAYER, err_msg=key)
        if key.endswith(":loss"):
            assert abs(theirs[1] - theirs[0]) > 10 * LAYER, "has learnt nothing"


def test_probabilities_are_the_softmax_of_the_logits_in_the_helper():
    """`outputs_of` reads the layers that it says it reads."""
    model = set_fixed_weights(build_model("cnn_attention", input_size=32))
    found = outputs_of(model, np.full((2, 32, 32, 3), 90, np.float32))
    exponents = np.exp(found["cnn_attention/logits"])
    softmax = exponents / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(found["cnn_attention/probabilities"], softmax, atol=1e-6)
