"""Saving with a card, pushing and publishing: against a Hub on the loopback interface, with the real client."""

import dataclasses
import doctest
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_outputs import cells
from hub_server import Fault, HubServer
from huggingface_hub import ModelCard

from leukaemia_zoo import load_model, save_model
from leukaemia_zoo.errors import ArchitectureError, IntegrityError, UnknownNameError, WeightsError
from leukaemia_zoo.hub import transfers
from leukaemia_zoo.zoo import publishing, registry
from leukaemia_zoo.zoo.cards import CARD_FILE
from leukaemia_zoo.zoo.publishing import publish, push_to_hub, save_pretrained
from leukaemia_zoo.zoo.registry import WeightSpec
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, read_saved

NAMES = ("cnn_attention.one", "cnn_attention.two")
THREE = [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]
FIGURES = {"validation": {"on": "9 cells", "values": {"auroc": {"value": 0.9, "low": 0.8, "high": 0.95}}}}


@pytest.fixture
def no_network(monkeypatch):
    """What asks the Hub for anything fails the test."""
    for name in ("upload", "listed"):
        monkeypatch.setattr(transfers, name, lambda *_, **__: pytest.fail("the network was used"))


@pytest.fixture
def zoo(tiny_folder, tmp_path):
    """A registry with two weights whose files are not in the package, between two others: (table, folder)."""
    folder = tmp_path / "large"
    folder.mkdir()
    row = json.loads((tiny_folder / CONFIG_FILE).read_text())
    data = (tiny_folder / WEIGHTS_FILE).read_bytes()
    rows = [{**row, "name": "cnn.elsewhere", "licence": "ä"}]
    for name, content in zip(NAMES, (data, data[:-1] + b"\0"), strict=True):
        (folder / f"{name}.safetensors").write_bytes(content)
        about = {"file": f"{name}.safetensors", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        rows.append({**row, "name": name, "metrics": FIGURES, **about, "config": {**row["config"], "weight": name}})
    for added in rows:  # as a registry of before there was a Hub in it
        for key in ("repo", "revision"):
            added.pop(key, None)
    table = tmp_path / "registry.json"
    table.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return table, folder


@pytest.fixture
def stored(zoo, monkeypatch):
    """A commit, as of a Hub that takes the first weight and tells of it what is true."""
    row = json.loads(zoo[0].read_text(encoding="utf-8"))[1]
    remote = {WEIGHTS_FILE: transfers.Remote(row["size"], row["sha256"])}
    monkeypatch.setattr(transfers, "upload", lambda *_, **__: "a" * 40)
    monkeypatch.setattr(transfers, "listed", lambda *_, **__: remote)
    return "a" * 40


def state(*paths):
    """Names, bytes and times of all files."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files if file.is_file()}


def one_sentence(text):
    assert "\n" not in text.strip()
    assert "Traceback" not in text
    assert len(text) < 600
    return text


# --- saving with a card ---


def test_a_saved_model_has_a_card_and_loads(tiny_model, tmp_path, no_network):
    folder = tmp_path / "new" / "model"
    for licence in ("MIT", "CC0-1.0"):  # the second time it replaces its own card
        spec = save_pretrained(tiny_model, folder, licence=licence, metrics=FIGURES, name="cnn_attention.mine")
    assert sorted(path.name for path in folder.iterdir()) == THREE
    assert read_saved(folder) == (spec, folder / WEIGHTS_FILE)
    images = cells(4, 32)
    assert np.array_equal(load_model(folder).predict_on_batch(images), tiny_model.predict_on_batch(images))
    card = ModelCard.load(folder / CARD_FILE)
    assert card.data.license == "cc0-1.0"
    assert card.data.eval_results[0].metric_value == 0.9
    assert "# cnn\\_attention.mine" in card.text
    assert spec.sha256 in card.text
    half = save_pretrained(tiny_model, folder, half=True)
    assert half.size < spec.size


@pytest.mark.parametrize(
    ("about", "error", "words"),
    [
        ({"license": "MIT"}, UnknownNameError, "nothing called 'license'.*licence"),
        ({"sha256": "0" * 64}, UnknownNameError, "nothing called 'sha256'"),
        ({"revision": "0" * 40}, UnknownNameError, "nothing called 'revision'"),
        ({"metrics": {"auroc": 0.9}}, WeightsError, "give metrics as"),
        ({"metrics": {"auroc": np.float32(0.9)}}, WeightsError, "as JSON"),
        ({"training": {"seed": float("nan")}}, WeightsError, "as JSON"),
        ({"name": 5}, WeightsError, "name cannot be 5"),
        ({"data": "C-NMC"}, WeightsError, "data cannot be 'C-NMC'"),
    ],
)
def test_what_cannot_be_told_leaves_nothing_behind(tiny_model, tiny_folder, tmp_path, no_network, about, error, words):
    with pytest.raises(error, match=words) as caught:
        save_pretrained(tiny_model, tmp_path / "model", **about)
    one_sentence(str(caught.value))
    assert list(tmp_path.iterdir()) == []
    for what in (tiny_model, tiny_folder):
        with pytest.raises(error, match=words):
            push_to_hub(what, "org/name", **about)


def test_a_readme_of_somebody_is_not_replaced(tiny_model, tmp_path):
    (tmp_path / CARD_FILE).write_text("# My project\n")
    with pytest.raises(WeightsError, match=r"README\.md is no model card") as caught:
        save_pretrained(tiny_model, tmp_path)
    one_sentence(str(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == [CARD_FILE]
    assert (tmp_path / CARD_FILE).read_text() == "# My project\n"


def test_a_folder_that_cannot_be_made(tiny_model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot be saved in .*file \(.*name another folder"):
        save_pretrained(tiny_model, tmp_path / "file")


@pytest.mark.parametrize("name", THREE)
def test_a_folder_in_the_place_of_a_file(tiny_model, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(WeightsError, match=rf"{re.escape(name)} is a folder: save the model into") as caught:
        save_pretrained(tiny_model, tmp_path)
    one_sentence(str(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_leaves_the_model_that_was_there(tiny_model, tmp_path, monkeypatch):
    save_pretrained(tiny_model, tmp_path)
    before, copy = state(tmp_path), shutil.copyfile

    def full(source, target):
        if Path(source).name == WEIGHTS_FILE:
            raise OSError(28, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(WeightsError, match=r"cannot be saved in .* \(No space left on device\)"):
        save_pretrained(tiny_model, tmp_path, licence="MIT")
    assert state(tmp_path) == before


# --- mistakes that are told before the network is used ---


NO_REPOSITORIES = """
name
/
org/
/name
a/b/c
org/na me
org/a--b
org/..
org/-a
org/a.git
org/zellen-ä
hf://org/name
https://huggingface.co/org/name
"""


@pytest.mark.parametrize(
    "repo", [*NO_REPOSITORIES.splitlines()[1:], "", "org/" + "a" * 97, "org/name\n", None, Path("org/a")]
)
def test_what_is_no_repository(tiny_folder, no_network, repo):
    with pytest.raises(UnknownNameError, match="no repository on the Hub: write org/name") as caught:
        push_to_hub(tiny_folder, repo)
    one_sentence(str(caught.value))


def test_what_cannot_be_pushed(tiny_model, tiny_folder, tmp_path, no_network):
    with pytest.raises(WeightsError, match="holds no saved model"):
        push_to_hub(tmp_path, "org/name")
    with pytest.raises(WeightsError, match="stored already: load it"):
        push_to_hub(str(tiny_folder), "org/name", half=True)
    with pytest.raises(ArchitectureError, match="no layer 'logits'"):
        push_to_hub(load_model(tiny_folder, output="embeddings"), "org/name")
    save_model(tiny_model, tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes((tmp_path / WEIGHTS_FILE).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="sha256"):
        push_to_hub(tmp_path, "org/name")


@pytest.mark.parametrize("namespace", ["", "org/x", "org/", "my org", "-org"])
def test_what_is_no_namespace(zoo, no_network, namespace):
    table, folder = zoo
    with pytest.raises(UnknownNameError, match="no user or organisation") as caught:
        publish(namespace, names=NAMES, weights=folder, registry=table)
    one_sentence(str(caught.value))


@pytest.mark.parametrize("dry_run", [True, False])
def test_all_files_are_checked_before_the_first_is_sent(zoo, no_network, dry_run, monkeypatch):
    table, folder = zoo
    options = {"registry": table, "dry_run": dry_run, "log": lambda line: pytest.fail(line)}
    second = folder / f"{NAMES[1]}.safetensors"
    data = second.read_bytes()
    before = table.read_bytes()
    for wrong in (data[:-1], b"\1" + data[1:]):
        second.write_bytes(wrong)
        with pytest.raises(IntegrityError, match=re.escape(str(second))) as caught:
            publish("org", names=NAMES, weights=folder, **options)
        one_sentence(str(caught.value))
    second.unlink()
    with pytest.raises(
        WeightsError, match=f"The file of '{NAMES[1]}' is not there .*{re.escape(str(second))}"
    ) as caught:
        publish("org", names=NAMES, weights=folder, **options)
    one_sentence(str(caught.value))
    second.write_bytes(data)
    with pytest.raises(WeightsError, match=r"'cnn\.elsewhere' is not there"):
        publish("org", weights=folder, **options)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(WeightsError, match=f"'{NAMES[0]}' is not there"):
        publish("org", names=NAMES, **options)  # there is no ./weights
    with pytest.raises(WeightsError, match="There is no folder nowhere"):
        publish("org", names=NAMES, weights="nowhere", **options)
    with pytest.raises(UnknownNameError, match=r"no weight 'cnn_attention\.on' .*did you mean"):
        publish("org", names=["cnn_attention.on"], weights=folder, **options)
    rows = json.loads(before)
    rows[2]["metrics"] = {"auroc": 0.9}  # of which no card can be made
    table.write_text(json.dumps(rows))
    with pytest.raises(WeightsError, match="give metrics as"):
        publish("org", names=NAMES, weights=folder, **options)


NO_REGISTRIES = {
    None: "cannot be read",
    "{": "cannot be read",
    "{}": "is no registry",
    "[1]": "is no registry",
    "[]": "no weight to publish",
    "[{}]": "missing or unknown keys",
}


@pytest.mark.parametrize(("content", "words"), NO_REGISTRIES.items())
def test_what_is_no_registry(tmp_path, no_network, content, words):
    if content is not None:
        (tmp_path / "registry.json").write_text(content)
    with pytest.raises(WeightsError, match=words) as caught:
        publish("org", registry=tmp_path / "registry.json")
    one_sentence(str(caught.value))


def test_a_dry_run_tells_and_touches_nothing(zoo, no_network, monkeypatch):
    table, folder = zoo
    folder = folder.rename(folder.parent / "weights")
    monkeypatch.chdir(folder.parent)  # where it is found without being named
    rows = json.loads(table.read_text())
    rows[2] |= {"repo": f"org/{NAMES[1]}", "revision": "0" * 40}
    table.write_text(json.dumps(rows))
    before, lines = state(folder.parent), []
    assert publish("org", names=NAMES, registry="registry.json", dry_run=True, log=lines.append) == []
    assert state(folder.parent) == before
    text = "\n".join(lines)
    for row in rows[1:]:
        assert f"{row['name']}.safetensors, {row['size']:,} bytes, sha256 {row['sha256']}" in text
        assert f"org/{row['name']}: config.json, model.safetensors, README.md" in text
    assert f"registry.json: not published, becomes org/{NAMES[0]} at the new commit" in text
    assert f"registry.json: stays org/{NAMES[1]} at {'0' * 40}" in text
    publish("lab", names=NAMES[1], registry=table, dry_run=True, log=lines.append)
    assert f"org/{NAMES[1]} at {'0' * 40}, becomes lab/{NAMES[1]} at the new commit" in lines[-2]


def test_a_registry_that_cannot_be_written(zoo, stored, monkeypatch):
    table, folder = zoo
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        patched.setattr(transfers, "upload", lambda *_, **__: pytest.fail("the network was used"))
        with pytest.raises(WeightsError, match="cannot be written to, so that nothing was published"):
            publish("org", names=NAMES, weights=folder, registry=table)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "write_json", full)
    with pytest.raises(WeightsError, match=f"org/{NAMES[0]} at {stored}, but .*No space left") as caught:
        publish("org", names=NAMES, weights=folder, registry=table)
    one_sentence(str(caught.value))


def test_the_registry_of_the_package_is_read_again(zoo, stored, monkeypatch):
    table, folder = zoo
    monkeypatch.setattr(publishing, "_packaged_table", lambda: table)
    registry.weights()
    (published,) = publish("org", names=[NAMES[0]], weights=folder)
    assert published.revision == json.loads(table.read_text(encoding="utf-8"))[1]["revision"] == stored
    assert registry.weights.cache_info().currsize == 0


def test_the_examples_run():
    result = doctest.testmod(publishing)
    assert result.attempted
    assert not result.failed


# --- with a Hub ---


@pytest.fixture
def server():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def client(server, tmp_path):
    """A function that runs Python in a process of its own, whose Hub is ours."""

    def run(*arguments, token=server.token):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")
        }
        environment |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": token}
        environment |= {f"HF_HUB_DISABLE_{what}": "1" for what in ("XET", "PROGRESS_BARS", "TELEMETRY")}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def publish_zoo(client, zoo):
    """A function that runs `leukaemia-zoo publish` for the two weights."""
    table, folder = zoo

    def run(*options, **settings):
        command = ("-m", "leukaemia_zoo", "publish", "org", *NAMES, "--registry", table, "--weights", folder)
        return client(*command, *options, **settings)

    return run


def rows_of(zoo):
    return json.loads(zoo[0].read_text(encoding="utf-8"))


PUSH = """
import dataclasses, json, sys
import numpy as np
import leukaemia_zoo as lz
from leukaemia_zoo.hub.transfers import listed
from leukaemia_zoo.zoo.tensors import named_variables

folder, figures = sys.argv[1], json.loads(sys.argv[2])
model = lz.load_model(folder)
pushed = [
    lz.zoo.push_to_hub(model, "org/model", private=True, metrics=figures, licence="MIT", message="First"),
    lz.zoo.push_to_hub(folder, "org/folder", name="cnn_attention.mine"),
    lz.zoo.push_to_hub(folder, "org/folder", name="cnn_attention.mine"),
]
expected = {name: np.asarray(variable) for name, variable in named_variables(model).items()}
same = []
for published in pushed:
    (remote,) = listed(published.repo, published.revision, ["model.safetensors"]).values()
    assert (remote.size, remote.sha256) == (published.size, published.sha256)
    loaded = lz.load_model(f"hf://{published.repo}@{published.revision}")
    found = {name: np.asarray(variable) for name, variable in named_variables(loaded).items()}
    assert list(found) == list(expected)
    same.append(all(found[name].tobytes() == value.tobytes() for name, value in expected.items()))
again = lz.zoo.push_to_hub(loaded, "org/again")  # what came from a repository does not say so in another one
print(json.dumps({"pushed": [dataclasses.asdict(row) for row in [*pushed, again]], "same": same}))
"""


def test_what_is_pushed_can_be_listed_and_loaded_bit_for_bit(client, server, tiny_folder, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    (folder / WEIGHTS_FILE).rename(folder / "mine.safetensors")
    row = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**row, "file": "mine.safetensors", "licence": "CC0-1.0"}))
    (folder / "validation.csv").write_text("file,subject\nUID_7_1_1_all.bmp,7\n")  # as training leaves it
    (folder / CARD_FILE).write_text("# What I noted\n")
    before = state(folder)

    done = client("-c", PUSH, folder, json.dumps(FIGURES))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"] == [True] * 3
    model, mine, twice, again = found["pushed"]
    assert mine == twice
    assert server.count(method="POST", path="/org/folder/commit/") == 1
    assert state(folder) == before
    data = (tiny_folder / WEIGHTS_FILE).read_bytes()
    names = ("cnn_attention.custom", "cnn_attention.mine", "cnn_attention.custom")
    for published, name in zip((model, mine, again), names, strict=True):
        files = server.files(published["repo"], published["revision"])
        files.pop(".gitattributes")
        assert sorted(files) == THREE
        spec = WeightSpec.from_dict(json.loads(files[CONFIG_FILE]))
        assert spec.file == WEIGHTS_FILE
        assert (spec.repo, spec.revision, spec.config.origin) == (None, None, None)
        assert spec.name == published["name"] == name
        content = files[WEIGHTS_FILE]
        assert (spec.size, spec.sha256) == (published["size"], published["sha256"])
        assert (len(content), hashlib.sha256(content).hexdigest()) == (spec.size, spec.sha256)
        assert published["url"] == f"{server.endpoint}/{published['repo']}/tree/{published['revision']}"
        assert f'load_model("hf://{published["repo"]}")' in files[CARD_FILE].decode()
    assert server.files("org/folder")[WEIGHTS_FILE] == data
    card = ModelCard(server.files("org/model")[CARD_FILE].decode())
    assert (card.data.license, card.data.eval_results[0].metric_value) == ("mit", 0.9)
    assert ModelCard(server.files("org/folder")[CARD_FILE].decode()).data.license == "cc0-1.0"
    assert server.repos["org/model"].private
    assert not server.repos["org/folder"].private


def test_publishing_pins_and_a_second_time_changes_nothing(publish_zoo, server, zoo):
    table, folder = zoo
    old, before = rows_of(zoo), state(folder)
    done = publish_zoo()
    assert done.returncode == 0, done.stderr
    rows = rows_of(zoo)
    assert rows[0] == old[0]
    for row, was, line in zip(rows[1:], old[1:], done.stdout.splitlines(), strict=True):
        assert row == {**was, "repo": f"org/{row['name']}", "revision": row["revision"]}
        assert list(row)[:-2] == list(was)
        WeightSpec.from_dict(row)
        files = server.files(row["repo"], row["revision"])
        assert files[WEIGHTS_FILE] == (folder / row["file"]).read_bytes()
        sent = WeightSpec.from_dict(json.loads(files[CONFIG_FILE]))
        assert sent == dataclasses.replace(WeightSpec.from_dict(was), file=WEIGHTS_FILE)
        assert sent.config.weight == row["name"]
        assert ModelCard(files[CARD_FILE].decode()).data.eval_results[0].metric_args == {"interval_95": [0.8, 0.95]}
        assert row["revision"] in line
        assert "sha256 verified" in line
    assert table.read_text(encoding="utf-8") == json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    assert state(folder) == before
    assert [path.name for path in table.parent.iterdir() if path.name.startswith(".")] == []

    before, commits = state(table), server.count(method="POST", path="/commit/")
    assert commits == 2
    again = publish_zoo()
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout.replace(", pinned in", ", as pinned in")
    assert server.count(method="POST", path="/commit/") == commits
    assert state(table) == before


def test_an_interrupted_publication_goes_on(publish_zoo, server, zoo):
    old = rows_of(zoo)
    server.fail(Fault("status", method="POST", path=f"{NAMES[1]}/commit/", status=500))
    done = publish_zoo()
    assert done.returncode == 2
    assert re.search(rf"\(500\).* org/{NAMES[1]}", one_sentence(done.stderr))
    half = rows_of(zoo)
    assert half[1]["revision"] == server.repos[f"org/{NAMES[0]}"].refs["main"]
    assert [half[0], half[2]] == [old[0], old[2]]
    server.heal()
    done = publish_zoo()
    assert done.returncode == 0, done.stderr
    rows = rows_of(zoo)
    assert rows[:2] == half[:2]
    assert rows[2]["revision"] == server.repos[rows[2]["repo"]].refs["main"]


def test_a_token_that_may_not_write(publish_zoo, server, zoo):
    before = state(zoo[0])
    for token in (server.read_token, "hf_other"):
        done = publish_zoo(token=token)
        assert done.returncode == 2
        assert re.search(r"\(40[13]\): .*HF_TOKEN", one_sentence(done.stderr))
        assert token not in done.stderr + done.stdout
    assert state(zoo[0]) == before
    assert server.repos == {}
    assert server.count(path="hf_") == 0


LISTED = {"type": "file", "path": WEIGHTS_FILE, "oid": "0" * 40, "size": 3}
LARGE = {"lfs": {"oid": "1" * 64, "size": 3, "pointerSize": 9}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("[]", "is missing on the Hub"),
        (json.dumps([LISTED | LARGE]), f"has 3 bytes and the sha256 {'1' * 64} on the Hub"),
        (None, "add the line `.*safetensors filter=lfs"),
    ],
)
def test_what_the_hub_has_not_is_not_pinned(publish_zoo, server, zoo, answer, words):
    if answer is None:  # of a file in the repository itself the Hub tells no sha256
        answer = json.dumps([LISTED | {"size": rows_of(zoo)[1]["size"]}])
    server.fail(Fault("status", path="/paths-info/", status=200, body=answer.encode()))
    before = state(zoo[0])
    done = publish_zoo()
    assert done.returncode == 2
    assert re.search(words, one_sentence(done.stderr))
    assert state(zoo[0]) == before
    assert server.count(method="POST", path="/commit/") == 1


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/repos/create", b"{}"),
        ("/api/repos/create", b"[]"),
        ("/api/repos/create", b"<html>"),
        ("/commit/", b"{}"),
        ("/paths-info/", b"[{}]"),
        ("/paths-info/", b"[5]"),
    ],
)
def test_what_answers_is_no_hub(publish_zoo, server, zoo, path, answer):
    server.fail(Fault("status", path=path, status=200, body=answer))
    before = state(zoo[0])
    done = publish_zoo()
    assert done.returncode == 2
    assert re.search(r"What answers at http\S+ is not a Hub.*check HF_ENDPOINT", one_sentence(done.stderr))
    assert state(zoo[0]) == before


def test_a_refusal_is_told_with_its_reason(publish_zoo, server, zoo):
    said = {"X-Error-Message": "Storage quota exceeded"}
    server.fail(Fault("status", path="/commit/", status=400, headers=said))
    done = publish_zoo()
    assert done.returncode == 2
    told = rf"The Hub refuses org/{NAMES[0]} \(400: Storage quota exceeded.*\): mend that, or look at "
    assert re.search(told, one_sentence(done.stderr))
