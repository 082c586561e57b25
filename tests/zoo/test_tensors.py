"""Tensors in and out of safetensors files: stable names, and all or nothing."""

import hashlib
import json

import keras
import numpy as np
import pytest
from backend_outputs import cells, set_fixed_weights
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from leukaemia_zoo.common.files import check_integrity, sha256_of
from leukaemia_zoo.errors import IntegrityError, TensorMismatchError, WeightsError
from leukaemia_zoo.training.leaks import seen_by_trunk
from leukaemia_zoo.zoo import build_model
from leukaemia_zoo.zoo.registry import ARCHITECTURES
from leukaemia_zoo.zoo.tensors import head_tensors, load_tensors, named_variables, read_config, save_tensors

BLOCK = ("kernel", "bias")
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def build(name="cnn_attention", **options):
    return build_model(name, **{"input_size": 32, **options})


@pytest.fixture
def saved(tmp_path):
    """A small network with fixed weights and the file it was saved to."""
    model = set_fixed_weights(build())
    file = tmp_path / "model.safetensors"
    save_tensors(model, file, config={"architecture": "cnn_attention"})
    return model, file


def values(model):
    return [value.copy() for value in model.get_weights()]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# --- names ---


def expected_names(name):
    names = []
    for block in (1, 2, 3):
        names += [f"block{block}_conv/{kind}" for kind in BLOCK]
        if name == "cnn_attention":
            names += [f"block{block}_norm/{kind}" for kind in NORM]
    if name == "cnn_attention":
        names += ["attention/kernel", "attention/bias"]
    return [*names, "dense_0/kernel", "dense_0/bias", "logits/kernel", "logits/bias"]


@pytest.mark.parametrize("name", ["cnn", "cnn_attention"])
def test_names_of_the_small_networks(name):
    """Files in the world hold these names: a change here makes them unreadable."""
    assert sorted(named_variables(build(name))) == sorted(expected_names(name))


@pytest.mark.parametrize("name", ["cnn", "cnn_attention"])
def test_names_of_the_texture_head(name):
    names = [other for other in expected_names(name) if not other.startswith("dense_0")]
    names += [f"head{number}_{kind}" for number in (1, 2) for kind in ("conv/kernel", *(f"norm/{k}" for k in NORM))]
    names += [f"statistics_norm/{kind}" for kind in NORM]
    assert sorted(named_variables(build(name, head="texture"))) == sorted(names)


@pytest.mark.parametrize(
    ("name", "tensors", "digest"),
    [
        ("vgg16", 28, "18db76a91bef79bd"),
        ("resnet50", 320, "d10087c1100daec3"),
        ("inception_v3", 378, "f93375bc287c2838"),
        ("xception", 236, "31b0d6cc5af93fcd"),
    ],
)
def test_names_and_shapes_of_the_published_networks(name, tensors, digest):
    """The same in this process, whatever was built before, as when the digest was taken in another."""
    build_model(name, input_size=ARCHITECTURES[name].min_size)  # moves Keras' counters on
    variables = named_variables(build_model(name, input_size=ARCHITECTURES[name].min_size))
    lines = sorted(f"{key} {tuple(variable.shape)}" for key, variable in variables.items())
    assert len(lines) == len({line.split()[0] for line in lines}) == tensors
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


def test_names_are_the_same_in_a_second_build():
    # Xception has convolutions that nobody named.
    first, second = (build_model("xception", input_size=71) for _ in range(2))
    assert list(named_variables(first)) == list(named_variables(second))
    assert {layer.name for layer in first.layers} != {layer.name for layer in second.layers}


def test_every_weight_has_a_name():
    for name in ("cnn", "cnn_attention", "xception"):
        model = build_model(name, input_size=72)
        assert len(named_variables(model)) == len(model.weights)


def test_one_name_for_two_weights_is_refused():
    """Keras numbers the layers of each nested model anew, and their variables have the same last name."""
    inner = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)], name="inner")]
    model = keras.Sequential([keras.Input((4,)), *inner])
    with pytest.raises(WeightsError, match="'inner/kernel'"):
        named_variables(model)


# --- round trip ---


@pytest.mark.parametrize(("name", "head"), [("cnn", "flatten"), ("cnn_attention", "flatten"), ("cnn", "texture")])
def test_full_precision_comes_back_bit_for_bit(tmp_path, name, head):
    model = set_fixed_weights(build(name, head=head))
    save_tensors(model, tmp_path / "model.safetensors")
    copy = build(name, head=head)
    assert not same(values(copy), values(model))
    load_tensors(copy, tmp_path / "model.safetensors")
    assert same(values(copy), values(model))
    images = cells(2, 32)
    assert np.array_equal(copy.predict_on_batch(images), model.predict_on_batch(images))


def test_half_precision_rounds_kernels_only(tmp_path, saved):
    model, full = saved
    save_tensors(model, tmp_path / "half.safetensors", half=True)
    kinds = {name: tensor.dtype.name for name, tensor in load_file(tmp_path / "half.safetensors").items()}
    assert {name: kind for name, kind in kinds.items() if kind == "float32"}.keys() == {
        name for name, variable in named_variables(model).items() if len(variable.shape) == 1
    }
    assert set(kinds.values()) == {"float16", "float32"}
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * full.stat().st_size
    copy = build()
    load_tensors(copy, tmp_path / "half.safetensors")
    for loaded, original in zip(values(copy), values(model), strict=True):
        assert loaded.dtype == np.float32
        rounded = original.astype(np.float16).astype(np.float32) if original.ndim > 1 else original
        assert np.array_equal(loaded, rounded)
    # What was rounded once is rounded no further.
    save_tensors(copy, tmp_path / "again.safetensors", half=True)
    assert sha256_of(tmp_path / "again.safetensors") == sha256_of(tmp_path / "half.safetensors")


def test_the_same_weights_give_the_same_file(tmp_path, saved):
    model, file = saved
    save_tensors(model, tmp_path / "again.safetensors", config={"architecture": "cnn_attention"})
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_configuration_in_the_header(tmp_path, saved):
    model, file = saved
    assert read_config(file) == {"architecture": "cnn_attention"}
    save_tensors(model, tmp_path / "bare.safetensors")
    assert read_config(tmp_path / "bare.safetensors") is None
    for text in ("{", "[1]"):
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / "odd.safetensors", metadata={"leukaemia_zoo": text})
        with pytest.raises(WeightsError, match="not what this package writes"):
            read_config(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        {"distillation": 4},
        {"distillation": {"init": []}},
        {"init": "random"},
        {"init": {"data": None}},
        {"init": {"data": ["ImageNet"]}},
    ],
)
def test_a_header_that_tells_no_beginning_of_ours_is_refused(tmp_path, header):
    told = {"leukaemia_zoo": json.dumps(header)}
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "trunk.safetensors", metadata=told)
    with pytest.raises(WeightsError, match="not what this package writes of a training"):
        read_config(tmp_path / "trunk.safetensors")


@pytest.mark.parametrize(
    "seen", [{}, {"people": [["A"]]}, {"people": [], "fingerprints": ["x"], "files": []}, {"people": 1}]
)
def test_a_trunk_that_does_not_tell_what_it_has_seen_is_refused(tmp_path, seen):
    told = {"leukaemia_zoo": json.dumps({"distillation": {"seen": seen}})}
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "trunk.safetensors", metadata=told)
    with pytest.raises(WeightsError, match="does not tell what it has seen"):
        seen_by_trunk(tmp_path / "trunk.safetensors")


def test_the_head_can_be_left_out(saved):
    model, file = saved
    other = build(num_classes=5)
    head = [value.copy() for value in other.get_layer("logits").get_weights()]
    load_tensors(other, file, without_head=True)
    assert same(other.get_layer("logits").get_weights(), head)
    assert same(values(other)[:-2], values(model)[:-2])
    kernel, bias = head_tensors(file)
    assert same([kernel, bias], model.get_layer("logits").get_weights())


def test_a_file_without_head_is_refused(tmp_path):
    save_file({"dense_0/kernel": np.zeros((2, 2), np.float32)}, tmp_path / "body.safetensors")
    with pytest.raises(TensorMismatchError, match="no head 'logits'"):
        head_tensors(tmp_path / "body.safetensors")


# --- all or nothing ---


def rename(tensors):
    tensors["block1_conv/weight"] = tensors.pop("block1_conv/kernel")


FAULTS = {
    "missing": (lambda t: t.pop("attention/bias"), TensorMismatchError, ["'attention/bias' is missing"]),
    "extra": (
        lambda t: t.update({"other/kernel": np.zeros(1, np.float32)}),
        TensorMismatchError,
        ["'other/kernel' does not belong"],
    ),
    "renamed": (
        rename,
        TensorMismatchError,
        ["'block1_conv/kernel' is missing", "'block1_conv/weight' does not belong"],
    ),
    "shape": (
        lambda t: t.update({"dense_0/bias": np.zeros(33, np.float32)}),
        TensorMismatchError,
        ["'dense_0/bias' has the shape (33,), not (32,)"],
    ),
    "transposed": (
        lambda t: t.update({"attention/kernel": np.ascontiguousarray(t["attention/kernel"].T)}),
        TensorMismatchError,
        ["'attention/kernel' has the shape (1, 32), not (32, 1)"],
    ),
    "float64": (
        lambda t: t.update({"dense_0/bias": t["dense_0/bias"].astype(np.float64)}),
        TensorMismatchError,
        ["'dense_0/bias' has the dtype F64"],
    ),
    "integers": (
        lambda t: t.update({"dense_0/bias": t["dense_0/bias"].astype(np.int32)}),
        TensorMismatchError,
        ["'dense_0/bias' has the dtype I32"],
    ),
    "NaN": (
        lambda t: t["logits/bias"].__setitem__(0, np.nan),
        WeightsError,
        ["not finite", "logits/bias"],
    ),
    "infinite": (
        lambda t: t["block3_conv/kernel"].__setitem__((0, 0, 0, 0), np.inf),
        WeightsError,
        ["not finite", "block3_conv/kernel"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_tensor_changes_nothing(tmp_path, saved, fault):
    change, error, words = FAULTS[fault]
    tensors = {name: tensor.copy() for name, tensor in load_file(saved[1]).items()}
    change(tensors)
    file = tmp_path / f"{fault}.safetensors"
    save_file(tensors, file)
    model = build()
    before = values(model)
    with pytest.raises(error) as caught:
        load_tensors(model, file)
    assert str(file) in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(values(model), before)


def test_many_wrong_names_are_told_briefly(saved):
    model = build("cnn")
    with pytest.raises(TensorMismatchError, match=r"and \d+ more") as caught:
        load_tensors(model, saved[1])
    assert len(str(caught.value)) < 600
    assert "'cnn'" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 7, 100, 0.5, -1])
def test_a_file_cut_off_changes_nothing(tmp_path, saved, kept):
    data = saved[1].read_bytes()
    kept = int(kept * len(data)) if isinstance(kept, float) else kept
    file = tmp_path / "cut.safetensors"
    file.write_bytes(data[:kept])
    model = build()
    before = values(model)
    with pytest.raises(WeightsError, match=r"cut\.safetensors is no safetensors file, or it is cut off"):
        load_tensors(model, file)
    assert same(values(model), before)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04" + bytes(200),  # a .keras or .pth archive
        b"\x89HDF\r\n\x1a\n" + bytes(200),
        b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00cposix\nsystem\n" + bytes(200),  # a pickle that would run code
        b"<!DOCTYPE html><html>404: not found</html>" * 10,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
    ids=["zip", "hdf5", "pickle", "html", "lfs"],
)
def test_another_kind_of_file_is_refused(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="is no safetensors file"):
        load_tensors(build(), file)
    with pytest.raises(WeightsError, match="is no safetensors file"):
        read_config(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="There is no weight file"):
        load_tensors(build(), tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="There is no weight file"):
        check_integrity(tmp_path / "none.safetensors", "0" * 64)


# --- saving ---


def test_nothing_half_written_after_a_failure(tmp_path, saved, monkeypatch):
    model, file = saved
    before = file.read_bytes()

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_tensors(model, file)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("value", "half", "words"), [(np.nan, False, "is not finite"), (1e6, True, "does not fit float16")]
)
def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path, value, half, words):
    model = build()
    kernel, bias = model.get_layer("dense").get_weights()
    kernel[0, 0] = value
    model.get_layer("dense").set_weights([kernel, bias])
    with pytest.raises(WeightsError, match=f"'dense_0/kernel' .*{words}"):
        save_tensors(model, tmp_path / "model.safetensors", half=half)
    assert not list(tmp_path.iterdir())


# --- integrity ---


def test_integrity(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_of(file) == digest
    check_integrity(file, digest, 3)
    check_integrity(file, digest)
    with pytest.raises(IntegrityError, match="3 bytes, not the 4 promised"):
        check_integrity(file, digest, 4)
    file.write_bytes(b"abd")
    with pytest.raises(IntegrityError) as caught:
        check_integrity(file, digest, 3)
    assert digest in str(caught.value)
    assert sha256_of(file) in str(caught.value)


def test_a_saved_file_is_plain_safetensors(saved):
    with safe_open(saved[1], framework="numpy") as file:
        assert set(file.keys()) == set(named_variables(saved[0]))
        assert json.loads(file.metadata()["leukaemia_zoo"]) == {"architecture": "cnn_attention"}
