"""Other people's repositories: models in our format are loaded, whatever else lies there is refused in one sentence."""

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from hub_server import Fault, HubServer
from safetensors.numpy import load, save
from test_hub import Place, assert_as_on_the_page, sentence

from leukaemia_zoo import load_model
from leukaemia_zoo.common.files import sha256_of
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE

SCRIPT = """
import json, logging, sys
import numpy as np
import leukaemia_zoo as lz

logging.basicConfig(stream=sys.stderr, format="%(message)s")
image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 255
for uri in json.loads(sys.argv[1]):
    try:
        model = lz.load_model(uri)
        found = {"probabilities": np.asarray(model(image)).tolist(), "origin": model.zoo.origin}
    except lz.errors.LeukaemiaZooError as error:
        found = {"error": type(error).__name__, "told": str(error)}
    print(json.dumps(found), flush=True)
"""


def repository(folder, change=None, tensors=None, data=None):
    """The files of a saved model, with its description, its tensors or its bytes changed and the hash made right."""
    row = json.loads((folder / CONFIG_FILE).read_text())
    content = (folder / WEIGHTS_FILE).read_bytes()
    if tensors is not None:
        content = save(tensors(load(content)))
    content = data or content
    other = folder.parent / "other.safetensors"
    other.write_bytes(content)
    row |= {"size": len(content), "sha256": sha256_of(other)}
    row = change(row) if change else row
    return {CONFIG_FILE: json.dumps(row).encode(), WEIGHTS_FILE: content}


def without(tensors, name="logits/bias"):
    return {key: value for key, value in tensors.items() if key != name}


def with_config(**changes):
    return lambda row: {**row, "config": {**row["config"], **changes}}


CLAIM = b'{"a":{"dtype":"F32","shape":[9999999,99999],"data_offsets":[0,4]}}  '
HOSTILE = {
    "extra-tensors": (
        {"tensors": lambda found: {**found, "payload/kernel": np.zeros((2, 2), "float32")}},
        "TensorMismatchError: The tensors in .* are not those of the network .*'payload/kernel' does not belong",
    ),
    "missing-tensors": (
        {"tensors": lambda found: without(found, "block1_conv/bias")},
        "TensorMismatchError: The tensors .*'block1_conv/bias' is missing",
    ),
    "missing-head": ({"tensors": without}, "TensorMismatchError: .* holds no head 'logits'"),
    "wrong-shapes": (
        {"tensors": lambda found: {**found, "block1_conv/bias": np.zeros(5, "float32")}},
        r"TensorMismatchError: .*'block1_conv/bias' has the shape \(5,\), not \(32,\)",
    ),
    "wrong-dtype": (
        {"tensors": lambda found: {**found, "block1_conv/bias": np.zeros(32, "int64")}},
        "TensorMismatchError: .*'block1_conv/bias' has the dtype I64",
    ),
    "not-a-number": (
        {"tensors": lambda found: {**found, "block1_conv/bias": np.full(32, np.nan, "float32")}},
        "WeightsError: .* holds numbers that are not finite",
    ),
    "a-header-of-terabytes": (
        {"data": struct.pack("<Q", 4 * 10**12) + b"{}" + b" " * 100},
        "WeightsError: .* is no safetensors file, or it is cut off",
    ),
    "tensors-of-terabytes": (
        {"data": struct.pack("<Q", len(CLAIM)) + CLAIM + b"0000"},
        "WeightsError: .* is no safetensors file, or it is cut off",
    ),
    "a-pickle": ({"data": b"\x80\x04\x95cos\nsystem\n."}, "WeightsError: .* is no safetensors file"),
    "a-size-of-terabytes": (
        {"change": lambda row: {**row, "size": 4 * 10**12}},
        "WeightsError: The description in .* claims a weight of 4,000,000,000,000 bytes, more than any architecture",
    ),
    "a-class-path": (
        {"change": with_config(architecture="os.system")},
        "WeightsError: .*config.json: This package has no architecture 'os.system'",
    ),
    "a-class-path-on-the-side": (
        {"change": with_config(class_path="builtins.eval")},
        "WeightsError: .*config.json: A model configuration has .*, but this one also has 'class_path'",
    ),
    "a-keras-config": (
        {"change": lambda row: {"module": "keras", "class_name": "Functional", "config": {}}},
        "WeightsError: .*config.json: A row about a weight has missing or unknown keys .*class_name",
    ),
    "a-path-upwards": (
        {"change": lambda row: {**row, "file": "../../../x.safetensors"}},
        "WeightsError: .*config.json: A weight file is the name of a .safetensors file in the same folder, not '../",
    ),
    "an-absolute-path": (
        {"change": lambda row: {**row, "file": "/etc/passwd"}},
        "WeightsError: .*: A weight file is the name of a .safetensors file in the same folder, not '/etc/passwd'",
    ),
    "a-name-upwards": (
        {"change": lambda row: {**row, "name": "../../x"}},
        "WeightsError: .*: The name of a weight has letters, digits, '.', '-' and '_', at most 96, not '../../x'",
    ),
    "hdf5": (
        {"change": lambda row: {**row, "file": "model.h5"}},
        "WeightsError: .*: A weight file is the name of a .safetensors file in the same folder, not 'model.h5'",
    ),
    "a-keras-archive": (
        {"change": lambda row: {**row, "file": "m.keras"}},
        "WeightsError: .*: A weight file is the name of a .safetensors file in the same folder, not 'm.keras'",
    ),
    "another-hash": (
        {"change": lambda row: {**row, "sha256": "0" * 64}},
        "IntegrityError: The Hub offers .*, not the .* sha256 0{64} that are promised: nothing was fetched",
    ),
    "an-input-of-all-memory": (
        {
            "change": lambda row: {
                **row,
                "config": {
                    **row["config"],
                    "preprocessing": {**row["config"]["preprocessing"], "input_size": [10**6, 10**6]},
                },
            }
        },
        "WeightsError: .*config.json: 'cnn_attention' takes an input of at most 2048 pixels",
    ),
    "swapped-classes": (
        {"change": with_config(class_names=["all", "hem"])},
        r"WeightsError: The config.json of hf://evil/swapped-classes says class_names \['all', 'hem'\], but model",
    ),
    "a-tensor-that-writes-to-the-terminal": (
        {"tensors": lambda found: {**found, "a\nok\x1b[31m": np.zeros((2, 2), "float32")}},
        r"TensorMismatchError: .*: 'a\\nok\\x1b\[31m' does not belong",
    ),
    "a-tensor-with-a-name-without-end": (
        {"tensors": lambda found: {**found, "y" * 50_000: np.zeros((2, 2), "float32")}},
        r"TensorMismatchError: .*: 'y+\.\.\.y+' does not belong",
    ),
    "a-key-that-writes-to-the-terminal": (
        {"change": lambda row: {**row, "a\nleukaemia-zoo: ok\x1b[31m": 1}},
        r"WeightsError: .*: A row about a weight has missing or unknown keys \('a\\nleukaemia-zoo: ok\\x1b",
    ),
    "a-class-that-writes-to-the-terminal": (
        {"change": with_config(class_names=["he\x1b[31mm\n", "all"])},
        "WeightsError: .*: class_names must be a list of printable names",
    ),
}


ON_THE_PAGE = {
    *(
        "extra-tensors",
        "missing-tensors",
        "wrong-shapes",
        "a-header-of-terabytes",
        "a-size-of-terabytes",
        "a-class-path",
    ),
    *("a-path-upwards", "a-pickle", "hdf5", "a-keras-archive", "swapped-classes"),
}


@pytest.fixture(scope="module")
def outcomes(tiny_folder, tmp_path_factory):
    """One process loads everything: what came out by repository, what it said, and the Hub."""
    folder = tmp_path_factory.mktemp("foreign")
    model = folder / "model"
    model.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (model / name).write_bytes((tiny_folder / name).read_bytes())
    with HubServer() as hub:
        here = Place(hub, folder)
        good = repository(model)
        first = hub.add_repo("lab/good", {**good, "README.md": b"# ours"})
        hub.tag("lab/good", "v1", first)
        second = hub.commit("lab/good", {"README.md": b"# changed"})
        hub.add_repo("lab/big-config", {**good, CONFIG_FILE: b'{"name": "' + b"x" * 2_000_000 + b'"}'})
        hub.add_repo("lab/no-json", {**good, CONFIG_FILE: b"\x80\x04."})
        hub.add_repo("lab/keras-only", {"model.keras": b"PK", "README.md": b"# theirs"})
        for name, (how, _) in HOSTILE.items():
            hub.add_repo(f"evil/{name}", repository(model, **how))
        uris = [
            "hf://lab/good",
            "hf://lab/good@v1",
            f"hf://lab/good@{first}",
            "hf://lab/big-config",
            "hf://lab/no-json",
        ]
        uris += ["hf://lab/keras-only", "hf://lab", "hf://lab/../x", *(f"hf://evil/{name}" for name in HOSTILE)]
        command = [sys.executable, "-c", SCRIPT, json.dumps(uris)]
        env = here.environment(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        found = dict(zip(uris, map(json.loads, result.stdout.splitlines()), strict=True))
        yield found, result.stderr, (first, second)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_repository_is_refused_in_one_sentence(name, outcomes):
    found = outcomes[0][f"hf://evil/{name}"]
    assert re.match(HOSTILE[name][1], f"{found['error']}: {found['told']}")
    assert found["told"].isprintable()
    assert len(found["told"]) < 600
    if name in ON_THE_PAGE:
        assert_as_on_the_page(name.replace("-", " "), f"`{found['error']}`: {found['told']}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (
            "hf://lab/big-config",
            "WeightsError: config.json of lab/big-config has 2,000,012 bytes: that is no",
        ),
        ("hf://lab/no-json", r"WeightsError: .*config\.json cannot be read"),
        ("hf://lab/keras-only", r"HubNotFoundError: lab/keras-only has no file config\.json"),
        ("hf://lab", "UnknownNameError: 'hf://lab' is no repository on the Hub: write hf://org/name"),
        ("hf://lab/../x", "UnknownNameError: 'hf://lab/../x' is no repository on the Hub"),
    ],
)
def test_what_is_no_model_of_ours_is_refused_in_one_sentence(uri, told, outcomes):
    found = outcomes[0][uri]
    assert re.match(told, f"{found['error']}: {found['told']}")


@pytest.mark.slow
def test_a_model_in_our_format_is_loaded_and_its_commit_recorded(outcomes, tiny_folder):
    found, said, (first, second) = outcomes
    image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 255
    expected = np.asarray(load_model(tiny_folder)(image)).tolist()
    for uri, commit in (("hf://lab/good", second), ("hf://lab/good@v1", first), (f"hf://lab/good@{first}", first)):
        assert found[uri] == {"probabilities": expected, "origin": f"hf://lab/good@{commit}"}
    # Without a revision it says which one was taken, and how to get the same again.
    assert said.count(f"commit {second} was taken; write hf://lab/good@{second}") == 1
    assert first not in said


# --- what lies in the cache, and copies for another machine ---


@pytest.fixture
def place(tiny_folder, tmp_path):
    """A Hub with `hf://lab/a`, a model in our format, and somebody's home folder."""
    with HubServer() as hub:
        here = Place(hub, tmp_path)
        here.commit = hub.add_repo("lab/a", repository(tiny_folder))
        here.write_registry()
        yield here


def config_in_cache(place):
    return place.home / "hub" / "models--lab--a" / "snapshots" / place.commit / CONFIG_FILE


def swap_classes(data):
    return data.replace(b'"hem"', b'"xxx"').replace(b'"all"', b'"hem"').replace(b'"xxx"', b'"all"')


DAMAGES = {"swapped classes": swap_classes, "cut off": lambda data: data[:-20], "empty": lambda data: b""}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("links", [True, False])
def test_a_damaged_description_in_the_cache_is_noticed_and_fetched_anew(place, how, links):
    uri = f"hf://lab/a@{place.commit}"
    env = {} if links else {"HF_HUB_DISABLE_SYMLINKS": "1"}
    assert place.run("download", uri, env=env).returncode == 0
    config = config_in_cache(place)
    assert config.is_symlink() == links
    data = config.read_bytes()
    assert DAMAGES[how](data) != data
    config.resolve().write_bytes(DAMAGES[how](data))
    offline = place.run("download", uri, env=env | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 2
    if links:
        told = r"config\.json is cut off or damaged: it has the id \w{40}, not the promised \w{40}; the network is"
        assert re.search(told, sentence(offline))
    for name in (uri, "hf://lab/a"):
        config.resolve().write_bytes(DAMAGES[how](data))
        result = place.run("download", name, env=env)
        assert result.returncode == 0, result.stderr
        assert_as_on_the_page("a cached description that was damaged later", result.stderr)
        assert config.read_bytes() == data


def test_a_description_that_comes_damaged_does_not_stay_in_the_cache(place):
    uri = f"hf://lab/a@{place.commit}"
    place.hub.fail(Fault("wrong_bytes", method="GET", path=CONFIG_FILE, times=1))
    result = place.run("download", uri)
    assert result.returncode == 0, result.stderr
    assert "it is fetched anew" in result.stderr
    config_in_cache(place).resolve().write_bytes(b"{}")
    place.hub.fail(Fault("wrong_bytes", method="GET", path=CONFIG_FILE))
    result = place.run("download", uri)
    assert result.returncode == 2
    assert re.search(r"not the promised \w{40}; it was fetched anew, so what the Hub or a proxy", sentence(result))
    assert not config_in_cache(place).exists()
    place.hub.heal()
    assert place.run("download", uri).returncode == 0


def test_the_commit_in_the_cache_is_taken_while_the_hub_is_down(place):
    assert place.run("download", "hf://lab/a").returncode == 0
    place.hub.commit("lab/a", {"README.md": b"# changed"})
    place.hub.fail(Fault("status", status=500, path="/lab/a/"))
    result = place.run("download", "hf://lab/a")
    assert result.returncode == 0, result.stderr
    assert re.search(rf"The Hub failed \(500\) .*Taking lab/a@{place.commit[:12]} from the cache", result.stderr)
    assert f"commit {place.commit} was taken" in result.stderr


def test_copies_of_two_models_of_one_name_do_not_replace_each_other(place, tiny_folder, tmp_path):
    """Both call themselves as a weight of the zoo does."""
    name = "cnn_attention.cnmc"
    for repo in ("lab/a", "lab/b"):
        files = repository(tiny_folder, lambda row: with_config(weight=name)({**row, "name": name}))
        commit = place.hub.add_repo(repo, files)
    names = ("hf://lab/a", "hf://lab/b", f"hf://lab/b@{commit}")
    result = place.run("download", *names, "--to", tmp_path / "to")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["lab--a", "lab--b", f"lab--b@{commit}"]
    rows = [json.loads((path / CONFIG_FILE).read_text()) for path in sorted((tmp_path / "to").iterdir())]
    assert [row["config"]["origin"].split("@")[0] for row in rows] == ["hf://lab/a", "hf://lab/b", "hf://lab/b"]
    # What is known of the zoo's own weight is not known of these.
    assert [row["config"]["weight"] for row in rows] == [None] * 3
