"""What several test modules share: generated cells, a tiny saved model, where the real data lies."""

import gc
import os
import random
import struct
import sys
import zlib
from pathlib import Path

# Before anything imports Keras: TensorFlow's notes on its build flags, and GPUs that nobody needs here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Small problems, and as many processes of tests as cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import numpy as np
import pytest
from PIL import Image
from time_limit import pytest_addoption, pytest_runtest_call, pytest_runtest_makereport  # noqa: F401 - hooks

import leukaemia_zoo  # noqa: F401 - before a test imports Keras: TensorFlow computes with oneDNN then, as for users

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
EXAMPLES = Path(__file__).parents[1] / "examples" / "cells"


LONGEST = (
    *("test_backends.py", "training/test_trainer.py", "adaptation/test_fine_tuning.py", "test_notebooks.py"),
    *("benchmarking/test_cost.py", "common/test_devices.py", "hub/test_hub.py", "training/test_kill_runs.py"),
    *("prediction/test_verdicts.py", "zoo/test_loading.py", "benchmarking/test_runner.py", "report/test_report.py"),
    # The site shows the notebooks as they were run above.
    *("test_site.py", "test_page.py", "training/test_provenance.py", "test_examples.py", "zoo/test_publishing.py"),
    *("zoo/test_architectures.py", "evaluation/test_intervals.py", "prediction/test_features.py"),
    *("adaptation/test_probing.py", "hub/test_repositories.py", "examination/test_examination.py"),
    *("explanation/test_explanations.py", "engine/test_engine.py", "common/test_registration.py"),
    *("desk/test_desk.py", "smears/test_slides.py", "smears/test_fields.py", "exporting/test_exporting.py"),
    *("exporting/test_bioimageio.py", "batch/test_cluster.py", "cli/test_app.py", "cli/test_outputs.py"),
)
"""Files that take longest, in this order: begun last, one of them would keep one process busy and the other idle."""


def pytest_collection_modifyitems(items):
    """Where two processes share the files, those that take longest come first; they go on being whole."""
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish():
    """What has been imported stays: collecting garbage, as measuring costs does, need not look through TensorFlow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds(monkeypatch):
    """The same random numbers whatever ran before; and no command that shows a progress bar."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what Keras without a seed of its own draws from
    monkeypatch.setenv("TQDM_DISABLE", "1")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """What is kept for a user from one call to the next is kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _architectures():
    """What a test registers is gone after it."""
    from leukaemia_zoo.zoo import registry

    known = dict(registry._BY_NAME)
    yield
    for name in set(registry._BY_NAME) - set(known):
        del registry._BY_NAME[name]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """TensorFlow runs each step as it is written: making a graph takes seconds, and pays after many steps only.

    Tests of many steps, and those of what users get, who have graphs, are marked `graphs`; new processes have them too.
    """
    # Keras' other backends, and who has none, are left alone.
    if "keras" in sys.modules and sys.modules["keras"].backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(item.get_closest_marker("graphs") is None)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real data; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data is not on this machine ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(scope="session")
def draw_cell():
    """A function that draws one cell in the middle of a black frame, uint8 (size, size, 3).

    Its arguments are the seed of the texture, the side of the frame, the radius as a part of the frame and the level
    of grey around which the texture lies.
    """

    def draw(seed=0, size=256, radius=0.25, level=120):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        texture = np.clip(level + rng.normal(0, 15, (size, size, 1)) + rng.uniform(-30, 30, 3), 20, 255)
        return np.where((np.hypot(x, y) < radius * size)[..., None], texture, 0).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def tiny_model():
    """A small `cnn_attention` (32 px) with fixed weights, which calls dark cells `hem` and bright ones `all`."""
    from backend_outputs import set_fixed_weights

    from leukaemia_zoo import Preprocessing
    from leukaemia_zoo.zoo import ModelConfig, build_model

    model = set_fixed_weights(build_model("cnn_attention", input_size=32))
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "flatten", Preprocessing((32, 32)))
    # As drawn from the fixed weights, z[1] - z[0] is -0.9 for dark cells and -1.8 for bright ones.
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([-4 * kernel, -4 * bias + np.array([0, -5.3], np.float32)])
    return model


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory):
    """Folder in which `tiny_model` is saved."""
    from leukaemia_zoo import save_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model, folder)
    return folder


@pytest.fixture(scope="session")
def limited_folder(tiny_model, tmp_path_factory):
    """Folder in which `tiny_model` is saved with limits of verdicts.

    By them cells around a grey level of 60 are `hem`, around 120 "uncertain", around 190 `all`; at a miss rate of 0.2
    those around 120 are `all`, at one of 0.05 those around 190 are "uncertain" too.
    """
    import dataclasses

    from leukaemia_zoo import save_model
    from leukaemia_zoo.common.limits import VerdictLimits

    folder = tmp_path_factory.mktemp("models") / "limited"
    limits = ((0.05, 0.3, 0.45), (0.3, 0.4, 0.5))
    kept = VerdictLimits(("hem", "all"), (0.05, 0.1, 0.2), limits, (26, 47), (0.1, 0.05), 0.234)
    plain = tiny_model.zoo
    tiny_model.zoo = dataclasses.replace(plain, verdict_limits=kept)
    save_model(tiny_model, folder)
    tiny_model.zoo = plain
    return folder


@pytest.fixture(scope="session")
def bomb():
    """Bytes of a PNG whose header promises 100 megapixels and whose data ends at once."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.fixture
def mixed_folder(tmp_path, draw_cell, bomb):
    """A folder as people have them: three good cells among six files that are none, and two that are no images.

    The good ones are `UID_7_1_1_all.bmp` (bright), `UID_H3_1_1_hem.png` (dark) and `wrong_suffix.jpg` (a PNG, bright).
    """
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.fromarray(draw_cell(1, level=190)).save(folder / "UID_7_1_1_all.bmp")
    Image.fromarray(draw_cell(2, level=60)).save(folder / "UID_H3_1_1_hem.png")
    Image.fromarray(draw_cell(3, level=190)).save(folder / "wrong_suffix.jpg", format="PNG")
    (folder / "cut_off.png").write_bytes((folder / "UID_H3_1_1_hem.png").read_bytes()[:2000])
    (folder / "empty.bmp").touch()
    (folder / "text.png").write_text("UID_7_1_1_all.bmp,1\n")
    (folder / "bomb.png").write_bytes(bomb)
    Image.new("RGB", (1, 1), (90, 40, 110)).save(folder / "one_pixel.png")
    (folder / "report.pdf").write_bytes(b"%PDF-1.7\n")
    (folder / "labels.csv").write_text("path,label\n")
    return folder
