"""Operations against TensorFlow's own profiler and by hand; turns, repeats and spreads on a clock that is not real."""

import dataclasses
import doctest
import json
import math
import os
import platform
import re
import subprocess
import sys

import keras
import numpy as np
import other_backends
import pytest
from keras import layers

from leukaemia_zoo import AttentionBlock, load_model
from leukaemia_zoo.benchmarking import cost, memory, operations
from leukaemia_zoo.benchmarking.cost import Spread, measure_costs
from leukaemia_zoo.benchmarking.operations import flops
from leukaemia_zoo.common import hardware
from leukaemia_zoo.common.hardware import environment
from leukaemia_zoo.errors import ArchitectureError, DataError, UnknownNameError, WeightsError
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.layers import without_random_weights

NETWORKS = [
    ("cnn", "flatten", 64),
    ("cnn", "texture", 64),
    ("cnn_attention", "flatten", 32),
    ("cnn_attention", "texture", 32),
    ("vgg16", None, 48),
    pytest.param("resnet50", None, 64, marks=pytest.mark.slow),
    pytest.param("inception_v3", None, 96, marks=pytest.mark.slow),
    pytest.param("xception", None, 80, marks=pytest.mark.slow),
]


def even(images):
    """Probabilities that cost nothing."""
    return np.full((len(images), 2), 0.5)


class Clock:
    """Stands in for the module `time`: the time is what the functions under test say has passed."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def model(self, start, each):
        """A function that takes `start` seconds and `each` more for each image."""

        def predict(images):
            self.now += start + each * len(images)
            return even(images)

        return predict


@pytest.fixture
def clock(monkeypatch):
    stand_in = Clock()
    monkeypatch.setattr(cost, "time", stand_in)
    return stand_in


@pytest.fixture
def no_processes(monkeypatch):
    """Figures of memory without the processes, which take seconds to import a backend."""
    monkeypatch.setattr(cost, "peak_memory", lambda name, path, count: (150.0, 100.0))


# ---------------------------------------------------------------------------------------------------------------------
# Operations


def profiled(model):
    """What TensorFlow's profiler counts in the graph."""
    import tensorflow as tf

    function = tf.function(lambda images: model(images, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]), tf.float32))
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return tf.compat.v1.profiler.profile(concrete.graph, options=options).total_float_ops


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the profiler is TensorFlow's")
@pytest.mark.parametrize(("name", "head", "size"), NETWORKS)
def test_operations_are_those_of_the_profiler(name, head, size):
    with without_random_weights():
        model = build_model(name, head=head, input_size=size)
    # The profiler leaves out activations other than softmax.
    assert flops(model) == pytest.approx(profiled(model), rel=0.01)


def test_operations_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(inputs)  # 2 x 192
    x = layers.Conv2D(4, 3, activation="relu")(x)  # 6x6x4: 36 positions x 108 entries x 2, bias, activation
    x = layers.BatchNormalization()(x)  # 2 x 144
    x = layers.DepthwiseConv2D(3, padding="same", strides=2, use_bias=False)(x)  # 3x3x4: 9 positions x 36 x 2
    x = layers.SeparableConv2D(5, 3, padding="same")(x)  # 3x3x5: 9 positions x (36 + 20) x 2, bias
    x = AttentionBlock()(x)  # 45 multiply-adds, 9 biases, 9 sigmoids, 45 gates
    y = layers.ZeroPadding2D(1)(x)  # nothing
    y = layers.MaxPooling2D(3, strides=1)(y)  # 9 x 45
    x = layers.Concatenate()([layers.Add()([x, y, y]), y])  # 2 x 45
    x = layers.GlobalAveragePooling2D()(x)  # 90
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(2, activation="softmax")(x)  # 20 x 2, bias, activation
    expected = 2 * 192 + (36 * 108 * 2 + 144 + 144) + 2 * 144 + 9 * 36 * 2 + (9 * 56 * 2 + 45)
    expected += (2 * 45 + 9 + 9 + 45) + 9 * 45 + 2 * 45 + 90 + (20 * 2 + 2 + 2)
    assert flops(keras.Model(inputs, x)) == expected


def test_groups_and_plain_convolutions():
    inputs = keras.Input((4, 4, 8))
    plain = layers.Conv2D(6, 1, use_bias=False)(inputs)
    grouped = layers.Conv2D(6, 1, groups=2, use_bias=False)(inputs)
    assert flops(keras.Model(inputs, plain)) == 2 * 16 * 48
    assert flops(keras.Model(inputs, grouped)) == 16 * 48


def test_a_shared_layer_counts_as_often_as_it_is_used():
    inputs = keras.Input((10,))
    shared = layers.Dense(10, use_bias=False)
    once = shared(inputs)
    assert flops(keras.Model(inputs, once)) == 200
    assert flops(keras.Model(inputs, shared(shared(once)))) == 600


def test_inner_models_count_at_the_size_they_are_used_with():
    open_size = keras.Input((None, None, 3))
    trunk = keras.Model(open_size, layers.Conv2D(2, 3, padding="same", use_bias=False)(open_size))
    inputs = keras.Input((6, 6, 3))
    x = keras.Sequential([layers.Flatten(), layers.Dense(3, use_bias=False)])(trunk(inputs))
    assert flops(keras.Model(inputs, x)) == 2 * 36 * 54 + 2 * 72 * 3
    assert flops(keras.Sequential([inputs, trunk])) == 2 * 36 * 54
    with pytest.raises(ArchitectureError, match="fixed size"):
        flops(trunk)


def test_counting_leaves_the_graph_as_it_is():
    model = build_model("cnn_attention", input_size=32)
    before = [len(layer._inbound_nodes) for layer in model.layers]
    assert flops(model) == flops(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_what_cannot_be_counted_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    inputs = keras.Input((4, 4, 3))
    with pytest.raises(ArchitectureError, match=r"'wide' cannot be counted: .* Conv2DTranspose"):
        flops(keras.Model(inputs, layers.Conv2DTranspose(2, 3, name="wide")(inputs)))
    with pytest.raises(ArchitectureError, match=r"cannot be counted: .* Matmul"):
        flops(keras.Model(inputs, keras.ops.matmul(inputs, keras.ops.transpose(inputs, (0, 1, 3, 2)))))
    with pytest.raises(ArchitectureError, match="'mine' cannot be counted"):
        flops(keras.Model(inputs, Own(name="mine")(inputs)))
    with pytest.raises(ArchitectureError, match="fixed size"):
        flops(Own())


# ---------------------------------------------------------------------------------------------------------------------
# Spreads, repeats, turns


def test_spread():
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.median, spread.repeats) == (3.0, 5)
    assert (spread.low, spread.high) == pytest.approx((1.4, 4.6))
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert str(spread) == "3 (1.4 to 4.6)"


def test_models_take_turns_and_another_one_begins_each_time(monkeypatch):
    monkeypatch.setattr(cost, "_LEAST_SECONDS", 0.0)  # one call a timing
    calls = []

    def recording(name):
        def predict(images):
            calls.append((name, len(images)))
            return even(images)

        return predict

    names = "abc"
    costs = measure_costs(
        {name: recording(name) for name in names}, input_sizes=dict.fromkeys(names, 8), repeats=4, batches=(4, 1)
    )
    warm_up = [(name, batch) for name in names for batch in (1, 1, 4, 4)]
    turns = [(name, batch) for order in ("abc", "bca", "cab", "abc") for batch in (1, 4) for name in order]
    assert calls == warm_up + turns
    assert [*costs] == list(names)
    assert {each.latency_ms.repeats for each in costs.values()} == {4}


def test_latency_throughput_and_the_best_batch(clock):
    models = {"steady": clock.model(0.1, 0.01), "alone": clock.model(0.0, 0.2)}
    costs = measure_costs(models, input_sizes={"steady": 8, "alone": (8, 6)}, repeats=3, batches=(1, 8))
    steady, alone = costs["steady"], costs["alone"]
    assert steady.latency_ms.median == pytest.approx(110)
    assert (steady.best_batch, steady.throughput.median) == (8, pytest.approx(8 / 0.18))
    assert alone.throughput.median == pytest.approx(5)
    assert steady.latency_ms.low == pytest.approx(steady.latency_ms.high)
    assert (steady.parameters, steady.flops, steady.file_bytes, steady.load_s) == (None,) * 4
    assert (steady.peak_memory_mb, steady.of_which_backend_mb, steady.views) == (None, None, 1)


def test_a_spread_is_over_the_repeats(clock):
    durations = iter([1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0])  # two calls of warm-up

    def slower(images):
        clock.now += next(durations)
        return even(images)

    spread = measure_costs({"it": slower}, input_sizes={"it": 8}, repeats=5, batches=[1])["it"].latency_ms
    assert (spread.median, spread.repeats) == (pytest.approx(3000), 5)
    assert (spread.low, spread.high) == pytest.approx((1400, 4600))


def test_short_calls_are_repeated_within_a_timing(clock):
    lengths = []

    def predict(images):
        lengths.append(len(images))
        clock.now += 0.011
        return even(images)

    found = measure_costs({"short": predict}, input_sizes={"short": 8}, repeats=3, batches=[1])["short"]
    assert len(lengths) == 2 + 3 * 5  # 5 x 11 ms fill 50 ms
    assert found.latency_ms.median == pytest.approx(11)


def test_latency_is_of_one_image_also_where_that_batch_is_not_tried(clock):
    found = measure_costs({"it": clock.model(0.1, 0.1)}, input_sizes={"it": 8}, repeats=3, batches=[4])["it"]
    assert found.best_batch == 4
    assert found.latency_ms.median == pytest.approx(200)


@pytest.mark.parametrize(("repeats", "seconds", "made"), [(7, 0, 3), (2, 0, 2), (7, 12, 5), (7, 1000, 7)])
def test_it_stops_when_the_time_is_up_but_not_below_three_repeats(clock, repeats, seconds, made):
    steps = []
    found = measure_costs(
        {"slow": clock.model(2.0, 0.0)},  # two calls of warm-up take 4 s, each repeat 2 s
        input_sizes={"slow": 8},
        repeats=repeats,
        seconds=seconds + 2.5 if seconds else 0,
        batches=[1],
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found["slow"].latency_ms.repeats == made
    assert steps[0] == (1, 1 + repeats)
    assert steps[-1] == (1 + repeats, 1 + repeats)


def test_batches_beyond_the_share_are_left_out(clock):
    calls = []

    def slow(images):
        calls.append(len(images))
        clock.now += len(images)
        return even(images)

    models = {"slow": slow, "fast": clock.model(0.001, 0.0)}
    costs = measure_costs(models, input_sizes=dict.fromkeys(models, 8), batches=(1, 4, 64), seconds=60)
    assert set(calls) == {1, 4}
    assert costs["fast"].best_batch == 64


def test_no_models_cost_nothing():
    assert measure_costs({}) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def test_a_loaded_network(tiny_model):
    found = measure_costs({"mine": tiny_model}, repeats=3, batches=(1, 2), seconds=0)["mine"]
    assert found.parameters == tiny_model.count_params()
    assert found.flops == flops(tiny_model)
    assert (found.views, found.load_s, found.file_bytes, found.peak_memory_mb) == (1, None, None, None)
    assert 0 < found.latency_ms.low <= found.latency_ms.median <= found.latency_ms.high


def test_a_prediction_is_over_all_views(tiny_folder, monkeypatch, clock):
    model = load_model(tiny_folder)
    model.zoo = dataclasses.replace(model.zoo, views=4)
    predict, shapes = model.predict_on_batch, []

    def recording(images):
        shapes.append(images.shape)
        clock.now += 1.0
        return predict(images)

    monkeypatch.setattr(model, "predict_on_batch", recording)
    found = measure_costs({"mine": model}, repeats=1, batches=[1])["mine"]
    assert (found.views, found.latency_ms.median) == (4, pytest.approx(4000))
    assert set(shapes) == {(1, 32, 32, 3)}


def test_a_folder_is_loaded_in_each_repeat(tiny_folder, no_processes):
    steps = []
    found = measure_costs(
        {"mine": tiny_folder, "other": even},
        input_sizes={"other": 8},
        repeats=3,
        batches=[2],
        progress=lambda done, total: steps.append((done, total)),
    )["mine"]
    assert found.file_bytes == (tiny_folder / "model.safetensors").stat().st_size
    assert found.load_s.repeats == 3
    assert found.load_s.low > 0
    assert (found.peak_memory_mb, found.of_which_backend_mb) == (150.0, 100.0)
    assert steps == [(done, 6) for done in range(1, 7)]
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["load_s"]["repeats"] == 3
    assert set(plain["throughput"]) == {"median", "low", "high", "repeats"}


def test_a_network_with_other_layers_has_no_count(tiny_model, monkeypatch):
    def refuse(model):
        raise ArchitectureError("no")

    monkeypatch.setattr(cost, "flops", refuse)
    assert measure_costs({"mine": tiny_model}, repeats=1, batches=[1])["mine"].flops is None


def test_images_are_noise_of_the_right_size_and_always_the_same():
    seen = []

    def look(images):
        seen.append(images.copy())
        return even(images)

    for _ in range(2):
        measure_costs({"it": look}, input_sizes={"it": (6, 9)}, repeats=1, batches=[3], seconds=0)
    assert {images.dtype for images in seen} == {np.dtype("uint8")}
    assert {images.shape for images in seen} == {(1, 6, 9, 3), (3, 6, 9, 3)}
    assert len({images.tobytes() for images in seen}) == 2
    assert np.ptp(seen[0]) > 200


def test_a_function_may_give_tensors_of_the_backend():
    found = measure_costs(
        {"it": lambda images: keras.ops.full((len(images), 2), 0.5)}, input_sizes={"it": 8}, repeats=1, batches=[1]
    )
    assert found["it"].latency_ms.repeats == 1


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_a_function_that_fails_is_named():
    def broken(images):
        raise RuntimeError("no such kernel")

    with pytest.raises(ArchitectureError, match=r"'second' failed on 1 images .*\(RuntimeError: no such kernel\)"):
        measure_costs({"first": even, "second": broken}, input_sizes={"first": 8, "second": 8}, repeats=1)


def test_a_function_that_fails_can_be_left_out_and_the_others_are_measured():
    def broken(images):
        raise RuntimeError("no such kernel")

    told, late = [], iter([even] * 4)

    def breaks_later(images):
        return next(late)(images)  # StopIteration in the first repeat

    models = {"first": broken, "second": even, "third": breaks_later}
    sizes = dict.fromkeys(models, 8)
    costs = measure_costs(
        models, input_sizes=sizes, repeats=3, batches=(1, 2), failed=lambda name, error: told.append((name, str(error)))
    )
    assert list(costs) == ["second"]
    assert [name for name, _ in told] == ["first", "third"]
    assert "no such kernel" in told[0][1]


def test_a_batch_that_a_function_fails_on_is_left_out():
    def small(images):
        if len(images) > 8:
            raise ValueError("too many")
        return even(images)

    costs = measure_costs({"it": small}, input_sizes={"it": 8}, repeats=3, batches=(1, 8, 32))
    assert costs["it"].best_batch in (1, 8)


def test_functions_are_fed_the_given_frames_and_may_give_one_number_an_image():
    frames = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
    seen = []

    def brightness(images):
        seen.append(images[:, 0, 0, 0].tolist())
        return images.mean(axis=(1, 2, 3)) / 255

    costs = measure_costs({"it": brightness}, frames=frames, repeats=3, batches=(1, 8))
    assert costs["it"].best_batch in (1, 8)
    assert {tuple(values) for values in seen} == {(0,), (0, 1, 2, 0, 1, 2, 0, 1)}
    with pytest.raises(DataError, match="frames has the shape"):
        measure_costs({"it": brightness}, frames=frames[0])


@pytest.mark.parametrize(
    "answer",
    [lambda images: 0.5, lambda images: np.zeros((1, 2, 2)), lambda images: np.full((len(images), 2), np.nan)],
)
def test_what_is_no_probabilities_is_refused(answer):
    with pytest.raises(ArchitectureError, match="'odd' gave values of the shape"):
        measure_costs({"odd": answer}, input_sizes={"odd": 8}, repeats=1)


def test_a_network_without_probabilities_is_named(tiny_folder):
    model = load_model(tiny_folder, output="embeddings")
    with pytest.raises(ArchitectureError, match="'mine' failed"):
        measure_costs({"mine": model}, repeats=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats is 0"),
        ({"batches": ()}, "no batch"),
        ({"batches": (1, 2.5)}, "a batch is 2.5"),
        ({"input_sizes": None}, "'it' is a function"),
        ({"input_sizes": {"it": 0}}, "height for 'it' is 0"),
        ({"input_sizes": {"it": (8, 8, 3)}}, r"'it' is \(8, 8, 3\)"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(DataError, match=message):
        measure_costs({"it": even}, **{"input_sizes": {"it": 8}, **options})


def test_what_is_no_model(tiny_model, tmp_path):
    with pytest.raises(DataError, match="'it' is 3"):
        measure_costs({"it": 3})
    with pytest.raises(UnknownNameError, match=r"'ot'.*there are it"):
        measure_costs({"it": even}, input_sizes={"it": 8, "ot": 8})
    with pytest.raises(DataError, match="of 'mine' is 32x32"):
        measure_costs({"mine": tiny_model}, input_sizes={"mine": 64})
    with pytest.raises(UnknownNameError, match="did you mean cnn"):
        measure_costs({"it": "cnnn"})
    with pytest.raises(WeightsError, match="no saved model"):
        measure_costs({"it": tmp_path})


# ---------------------------------------------------------------------------------------------------------------------
# Memory and machine


def assert_measured(found, machine, backend):
    """Every figure of a folder is there, and the machine is described, on whatever backend."""
    assert found["peak_memory_mb"] > found["of_which_backend_mb"] > 0
    assert min(found[key]["low"] for key in ("load_s", "latency_ms", "throughput")) > 0
    assert found["flops"] == flops(build_model("cnn_attention", input_size=32))  # the same on every backend
    assert machine["backend"] == backend
    assert machine["devices"] == ["cpu"]


def test_the_memory_of_a_folder_is_not_that_of_the_process_that_measures_it(tiny_folder):
    ballast = np.ones(190_000_000)  # more than importing any backend takes
    assert memory._high_water_mark() > ballast.nbytes / 1e6
    found = measure_costs({"tiny": str(tiny_folder)}, repeats=3, batches=(1, 4), seconds=0)["tiny"]
    assert 10 < found.of_which_backend_mb < found.peak_memory_mb < ballast.nbytes / 1e6
    assert_measured(found.to_dict(), environment(), keras.backend.backend())


def test_memory_that_is_not_known(tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.warns(UserWarning, match="memory of 'mine' is not known"):
        found = measure_costs({"mine": tiny_folder}, repeats=1, batches=[1])["mine"]
    assert (found.peak_memory_mb, found.of_which_backend_mb) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted({"tensorflow", "jax", "torch"} - {keras.backend.backend()}))
def test_the_other_backends_measure_a_folder(backend, tiny_folder):
    script = """
import json, sys
from leukaemia_zoo.benchmarking.cost import measure_costs
from leukaemia_zoo.common.hardware import environment
costs = measure_costs({"tiny": sys.argv[1]}, repeats=3, batches=(1, 4), seconds=0)
print(json.dumps([costs["tiny"].to_dict(), environment()], allow_nan=False))
"""
    command = [sys.executable, "-c", script, str(tiny_folder)]
    done = subprocess.run(command, env=other_backends.environment(backend), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_measured(*json.loads(done.stdout.splitlines()[-1]), backend)


def test_the_environment_names_versions_and_hardware():
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["keras"], found["numpy"]) == (keras.__version__, np.__version__)
    assert found["backend"] == keras.backend.backend()
    assert re.match(r"\d+\.\d+", found["backend_version"])
    assert found["cores"] >= 1
    assert math.isfinite(found["memory_gb"])
    assert found["dtype_policy"] == "float32"
    assert found["devices"]
    assert found["processor"]


def test_the_environment_names_no_machine_user_or_folder(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "ward-seven")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-wardseven")
    monkeypatch.setenv("USER", "somebody")
    found = environment()
    text = json.dumps(found)
    for name in ("ward", "somebody", os.path.expanduser("~") + os.sep, os.getcwd()):  # noqa: PTH109, PTH111
        assert name not in text
    assert not [value for value in found.values() if isinstance(value, str) and value.startswith(("/", "\\", "C:"))]
    assert " 6.1.0 " in found["platform"]


def test_examples_of_the_docstrings():
    results = [doctest.testmod(module) for module in (cost, hardware, operations)]
    assert sum(result.attempted for result in results) > 5
    assert not any(result.failed for result in results)
