"""`network`, `registration`: a network keeps its classes as a copy, in a file and in another process."""

import copy
import os
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from other_backends import light_environment

import leukaemia_zoo as lz
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.zoo.layers import CellNetwork

FRAMES = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def in_new_process(code, **environment):
    """What a fresh interpreter prints; no module of this one is there."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n")[-2]


def joblib_copy(model, folder):
    joblib = pytest.importorskip("joblib")
    joblib.dump(model, folder / "m.joblib")
    return joblib.load(folder / "m.joblib")


def keras_copy(suffix):
    def copied(model, folder):
        model.save(folder / f"m{suffix}")
        return keras.saving.load_model(folder / f"m{suffix}")

    return copied


COPIES = {
    "copy": lambda model, folder: copy.copy(model),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "joblib": joblib_copy,
    "keras": keras_copy(".keras"),
    "h5": keras_copy(".h5"),
}
NEW_NETWORKS = {
    "clone_model": keras.models.clone_model,
    "from_config": lambda model: CellNetwork.from_config(model.get_config()),
    "json": lambda model: keras.models.model_from_json(model.to_json()),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_answers_alike_and_knows_its_classes(tiny_model, tmp_path, kind):
    found = COPIES[kind](tiny_model, tmp_path)
    assert found.zoo == tiny_model.zoo
    np.testing.assert_array_equal(found.predict_on_batch(FRAMES), tiny_model.predict_on_batch(FRAMES))


@pytest.mark.parametrize("kind", NEW_NETWORKS)
def test_a_new_network_of_the_same_layers_knows_its_classes(tiny_model, kind):
    found = NEW_NETWORKS[kind](tiny_model)
    assert found.zoo == tiny_model.zoo
    found.set_weights(tiny_model.get_weights())
    np.testing.assert_array_equal(found.predict_on_batch(FRAMES), tiny_model.predict_on_batch(FRAMES))


@pytest.mark.parametrize("output", ["logits", "embeddings"])
def test_so_do_networks_with_another_output(output):
    model = lz.load_model("cnn_attention", output=output)
    assert keras.models.clone_model(model).zoo == model.zoo
    assert copy.deepcopy(model).zoo == model.zoo


def test_a_clone_follows_the_classes_of_its_original(tiny_model):
    model = copy.deepcopy(tiny_model)
    model.zoo = lz.zoo.ModelConfig("cnn_attention", ("normal", "blast"), "flatten", tiny_model.zoo.preprocessing)
    assert keras.models.clone_model(model).zoo.class_names == ("normal", "blast")
    assert tiny_model.zoo.class_names == ("hem", "all")


def test_a_network_without_classes_has_none():
    model = lz.zoo.build_model("cnn_attention", input_size=32)
    assert model.zoo is None
    assert copy.deepcopy(model).zoo is None
    with pytest.raises(ArchitectureError, match="does not carry its classes"):
        lz.predict(model, FRAMES)


READERS = {
    "package first": "import leukaemia_zoo, keras; m = keras.saving.load_model(folder + '/m.keras')",
    "keras first": "import keras, leukaemia_zoo; m = keras.saving.load_model(folder + '/m.keras')",
    "h5": "import leukaemia_zoo, keras; m = keras.saving.load_model(folder + '/m.h5')",
    "json": "import leukaemia_zoo, keras; m = keras.models.model_from_json(open(folder + '/m.json').read())",
    "pickle, nothing imported": "import pickle; m = pickle.load(open(folder + '/m.pickle', 'rb'))",
}


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory):
    """Folder with `tiny_model` in each form."""
    folder = tmp_path_factory.mktemp("forms")
    tiny_model.save(folder / "m.keras")
    tiny_model.save(folder / "m.h5")
    (folder / "m.json").write_text(tiny_model.to_json())
    (folder / "m.pickle").write_bytes(pickle.dumps(tiny_model))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_a_new_process_reads_it_after_importing_the_package_alone(files, kind):
    code = f"folder = {str(files)!r}\n{READERS[kind]}\nprint(m.zoo.class_names)"
    others = {} if kind == "keras first" else light_environment()
    assert in_new_process(code, **others) == "('hem', 'all')"


@pytest.mark.slow
def test_a_pool_of_new_processes_answers(files, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        "import multiprocessing, pickle, sys\n"
        "def classes(model):\n"
        "    return model.zoo.class_names\n"
        "if __name__ == '__main__':\n"
        "    model = pickle.load(open(sys.argv[1], 'rb'))\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply_async(classes, (model,)).get(120))\n"
    )
    done = subprocess.run(
        [sys.executable, script, files / "m.pickle"],
        env=light_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout.split("\n")[-2] == "('hem', 'all')", done.stderr[-2000:]
