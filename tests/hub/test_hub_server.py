"""The Hub on the loopback interface, held against the real client, which reads its settings from the environment."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
import textwrap
import time
from urllib.parse import urlsplit

import pytest
from hub_server import Fault, HubServer

REPO = "org/name"
LARGE = bytes(range(256)) * 1000
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"

# Every script leaves its findings in `found`.
PRELUDE = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi, errors, hf_hub_download, snapshot_download
api, found = HfApi(), {}

def error_of(call, *args, **options):
    try:
        call(*args, **options)
    except Exception as error:
        return type(error).__name__
    return None
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def client(hub, tmp_path):
    """A function that runs a script with the real client in a process of its own, and returns what it found."""

    def run(script, *arguments, token=None):
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")
        }
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        if token is not None:
            environment["HF_TOKEN"] = token
        code = "\n".join([PRELUDE, textwrap.dedent(script), "print(json.dumps(found))"])
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


DOWNLOAD = """
    data = Path(hf_hub_download("org/name", sys.argv[1])).read_bytes()
    found["sha256"] = hashlib.sha256(data).hexdigest()
"""


def downloaded(data):
    return {"sha256": hashlib.sha256(data).hexdigest()}


def ask(url, path, method="GET", **headers):
    """Status, headers and body of one answer, without the client."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_uploaded_files_come_back_through_the_storage(hub, client, tmp_path):
    """A small file, one in the large file storage, and one that goes there in parts: from a path and from bytes."""
    hub.multipart_chunk = 100_000
    (tmp_path / "model.safetensors").write_bytes(LARGE)
    script = """
        url = api.create_repo("org/name")
        found["repo"] = url.repo_id
        found["again"] = api.create_repo("org/name", exist_ok=True).repo_id
        found["conflict"] = error_of(api.create_repo, "org/name")
        files = {"README.md": sys.argv[2].encode(), "small.safetensors": b"abc", "sub/model.safetensors": sys.argv[1]}

        def commit():
            operations = [CommitOperationAdd(path, data) for path, data in files.items()]
            return api.create_commit("org/name", operations, commit_message="Add").oid

        found["commits"] = [commit(), commit()]
        found["files"] = api.list_repo_files("org/name")
        found["info"] = [(file.path, file.size, file.lfs and file.lfs.sha256, file.blob_id)
                         for file in api.get_paths_info("org/name", list(files))]
        found["sha"] = api.model_info("org/name").sha
        found["folder"] = snapshot_download("org/name")
        found["who"] = api.whoami()["name"]
    """
    found = client(script, tmp_path / "model.safetensors", CARD.decode(), token=hub.token)
    assert found["repo"] == found["again"] == REPO
    assert found["conflict"] == "HfHubHTTPError"
    assert found["commits"][0] == found["commits"][1] == found["sha"]  # nothing had changed
    assert hub.count(method="POST", path="/commit/") == 1
    files = hub.files(REPO)
    assert files.pop(".gitattributes")
    assert files == {"README.md": CARD, "small.safetensors": b"abc", "sub/model.safetensors": LARGE}
    assert sorted(found["files"]) == [".gitattributes", *files]
    for path, data in files.items():
        assert (tmp_path / found["folder"] / path).read_bytes() == data
    assert {path: size for path, size, _, _ in found["info"]} == {path: len(data) for path, data in files.items()}
    assert [bool(sha256) for _, _, sha256, _ in found["info"]] == [False, True, True]
    assert found["who"]
    # One upload at once, and one in three parts.
    assert hub.count(host="storage", method="PUT") == 4
    assert hub.count(host="storage", method="PUT", path="partNumber=") == 3
    assert hub.count(host="storage", method="GET") == 2
    assert all(one.status == 200 for one in hub.requests if one.host == "storage")
    assert not any("authorization" in one.headers for one in hub.requests if one.host == "storage")


def test_what_is_refused_on_upload(hub, client):
    """Without a right to write, with a card that is not YAML, with an object that never came, after another commit."""
    first = hub.add_repo(REPO, {"README.md": CARD})
    hub.commit(REPO, {"README.md": CARD * 2})
    script = """
        def commit(data=b"x", path="a.txt", **options):
            operation = CommitOperationAdd(path, data)
            if options.pop("uploaded", False):
                operation._is_uploaded, operation._upload_mode = True, "lfs"
            return error_of(api.create_commit, "org/name", [operation], commit_message="Add", **options)

        found["anonymous"] = commit(token=False)
        found["reader"] = commit(token="hf_read")
        found["stranger"] = commit(token="hf_other")
        found["new"] = error_of(api.create_repo, "org/other", token="hf_read")
        found["yaml"] = commit(b"---\\na: [\\n---\\n", "README.md")
        found["object"] = commit(path="a.safetensors", uploaded=True)
        found["parent"] = commit(parent_commit=sys.argv[1])
        found["branch"] = commit(revision="other")
    """
    assert client(script, first, token=hub.token) == {
        "anonymous": "RepositoryNotFoundError",
        "reader": "HfHubHTTPError",
        "stranger": "HfHubHTTPError",
        "new": "HfHubHTTPError",
        "yaml": "ValueError",
        "object": "BadRequestError",
        "parent": "HfHubHTTPError",
        "branch": "RevisionNotFoundError",
    }
    assert {one.status for one in hub.requests if one.status >= 400} == {400, 401, 403, 404, 412}
    assert hub.files(REPO) == {"README.md": CARD * 2}


def test_what_is_refused_on_download(hub, client):
    """Each of the Hub's refusals becomes the error that the client has for it."""
    commit = hub.add_repo(REPO, {"config.json": b"{}"})
    hub.tag(REPO, "v1", commit)
    hub.add_repo("org/private", {"config.json": b"{}"}, private=True)
    hub.add_repo("org/gated", {"config.json": b"{}"}, gated=True)
    script = """
        def get(repo, file="config.json", **options):
            return error_of(hf_hub_download, repo, file, **options)

        found["main"] = get("org/name")
        found["tag"] = get("org/name", revision="v1")
        found["commit"] = get("org/name", revision=sys.argv[1], force_download=True)
        found["file"] = get("org/name", "other.json")
        found["revision"] = get("org/name", revision="v2")
        found["missing"] = get("org/missing")
        found["missing for a reader"] = get("org/missing", token="hf_read")
        found["private"] = get("org/private")
        found["private for a reader"] = get("org/private", token="hf_read")
        found["gated"] = get("org/gated")
        found["gated for a reader"] = get("org/gated", token="hf_read")
        found["gated for a writer"] = get("org/gated", token="hf_write")
        found["stranger"] = get("org/name", "new.json", token="hf_other")
    """
    assert client(script, commit) == {
        "main": None,
        "tag": None,
        "commit": None,
        "file": "RemoteEntryNotFoundError",
        "revision": "RevisionNotFoundError",
        "missing": "RepositoryNotFoundError",
        "missing for a reader": "RepositoryNotFoundError",
        "private": "RepositoryNotFoundError",
        "private for a reader": None,
        "gated": "GatedRepoError",
        "gated for a reader": "GatedRepoError",
        "gated for a writer": None,
        "stranger": "HfHubHTTPError",
    }
    statuses = [one.status for one in hub.requests if one.method == "HEAD"]
    assert statuses == [200, 200, 200, 404, 404, 401, 404, 401, 200, 401, 403, 200, 401]


def test_a_long_download_that_was_cut_is_resumed(hub, client):
    """The client writes pieces of 10 MiB, and asks for what comes after the last whole one."""
    data = LARGE * 50
    hub.add_repo(REPO, {"model.safetensors": data})
    fault = hub.fail(Fault("cut", host="storage", path="model.safetensors", times=1, after=11 * 2**20))
    assert client(DOWNLOAD, "model.safetensors", token=hub.read_token) == downloaded(data)
    assert fault.hits == 1
    gets = [one for one in hub.requests if one.method == "GET"]
    assert [(one.host, one.status, one.headers.get("range")) for one in gets] == [
        ("storage", 200, None),
        ("storage", 206, f"bytes={10 * 2**20}-"),
    ]


def test_a_short_download_that_was_cut_begins_anew(hub, client):
    hub.add_repo(REPO, {"notes.txt": b"text " * 50_000})
    hub.fail(Fault("cut", path="notes.txt", times=1))
    assert client(DOWNLOAD, "notes.txt") == downloaded(b"text " * 50_000)
    assert [(one.method, one.status, one.headers.get("range")) for one in hub.requests] == [
        ("HEAD", 200, None),
        ("GET", 200, None),
        ("GET", 200, None),
    ]


def test_parts_of_files(hub):
    """Ranges as HTTP has them, for small files and in the storage, which only knows addresses that the Hub has made."""
    hub.add_repo(REPO, {"model.safetensors": LARGE, "config.json": b"0123456789"})
    status, headers, _ = ask(hub.endpoint, f"/{REPO}/resolve/main/model.safetensors")
    assert (status, headers["X-Linked-Etag"]) == (302, f'"{hashlib.sha256(LARGE).hexdigest()}"')
    assert headers["Location"].startswith(hub.storage)
    location = headers["Location"].removeprefix(hub.storage)
    for url, path, data in (
        (hub.endpoint, f"/{REPO}/resolve/main/config.json", b"0123456789"),
        (hub.storage, location, LARGE),
    ):
        end = len(data) - 1
        for asked, start, last in (("2-4", 2, 4), ("7-", 7, end), ("-3", end - 2, end), ("0-9999999", 0, end)):
            status, headers, body = ask(url, path, Range=f"bytes={asked}")
            assert (status, body) == (206, data[start : last + 1])
            assert headers["Content-Range"] == f"bytes {start}-{last}/{len(data)}"
        status, headers, _ = ask(url, path, Range=f"bytes={len(data)}-")
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(data)}")
        status, headers, body = ask(url, path, "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")
    assert ask(hub.storage, location, Authorization=f"Bearer {hub.token}")[0] == 400
    assert ask(hub.storage, location[:-1])[0] == 403


def test_too_many_requests_are_waited_for(hub, client):
    hub.add_repo(REPO, {"model.safetensors": LARGE})
    hub.fail(Fault("status", host="storage", times=1, status=429, headers={"Retry-After": "0"}))
    before = time.monotonic()
    assert client(DOWNLOAD, "model.safetensors") == downloaded(LARGE)
    assert time.monotonic() - before > 1  # the client adds a second to what it is told
    assert [one.status for one in hub.requests] == [302, 429, 200]


def test_what_arrives_damaged(hub, client):
    """Too short is noticed by the client, other bytes are not, and an answer without a Hub's headers is no Hub's."""
    hub.add_repo(REPO, {"model.safetensors": LARGE})
    hub.add_repo("org/other", {"model.safetensors": LARGE})
    hub.fail(Fault("short", host="storage", times=1))
    hub.fail(Fault("wrong_bytes", host="storage"))
    hub.fail(Fault("missing_headers", path="org/other"))
    script = """
        found["short"] = error_of(hf_hub_download, "org/name", "model.safetensors")
        found["bytes"] = Path(hf_hub_download("org/name", "model.safetensors")).read_bytes().hex()
        found["headers"] = error_of(hf_hub_download, "org/other", "model.safetensors")
    """
    found = client(script)
    assert (found["short"], found["headers"]) == ("OSError", "LocalEntryNotFoundError")
    damaged = bytes.fromhex(found["bytes"])
    assert len(damaged) == len(LARGE)
    assert sum(a != b for a, b in zip(damaged, LARGE, strict=True)) == 1
    hub.heal()
    _, headers, _ = ask(hub.endpoint, "/org/other/resolve/main/model.safetensors")
    assert ask(hub.storage, headers["Location"].removeprefix(hub.storage))[2] == LARGE


def test_a_slow_answer_takes_its_time(hub):
    hub.add_repo(REPO, {"config.json": b"0123456789"})
    hub.fail(Fault("slow", method="GET", seconds=0.4))
    before = time.monotonic()
    assert ask(hub.endpoint, f"/{REPO}/resolve/main/config.json")[2] == b"0123456789"
    assert 0.3 < time.monotonic() - before < 2


def test_a_server_with_open_connections_is_closed_at_once():
    """Those on which a request hangs, and those that are kept alive."""
    with HubServer() as hub:
        hub.add_repo(REPO, {"config.json": b"{}"})
        idle = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc)
        idle.request("GET", f"/{REPO}/resolve/main/config.json")
        assert idle.getresponse().read() == b"{}"
        hub.fail(Fault("hang", method="HEAD", seconds=60))
        hanging = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc)
        hanging.request("HEAD", f"/{REPO}/resolve/main/config.json")
        while hub.count(method="HEAD") == 0:
            time.sleep(0.01)
        before = time.monotonic()
    assert time.monotonic() - before < 2
    assert [one.status for one in hub.requests] == [200, 0]
    assert not any(thread.is_alive() for server in hub.servers for thread in [server.loop, *server.connections])
    with pytest.raises(http.client.RemoteDisconnected):
        hanging.getresponse()
    idle.close()
