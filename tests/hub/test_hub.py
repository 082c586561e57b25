"""Downloads with the real client, over a real socket, from a Hub of ours: what goes right, and what a user sees of what
goes wrong."""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hub_server import Fault, HubServer

from leukaemia_zoo import Preprocessing, load_model
from leukaemia_zoo.zoo import ModelConfig
from leukaemia_zoo.zoo.registry import WeightSpec
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE
from leukaemia_zoo.zoo.tensors import read_tensors

CLIENT = Path(__file__).parents[1] / "hub_client.py"
NAME = "resnet50.test"
REPO = "lab/resnet50.test"
WEIGHTS = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@dataclasses.dataclass
class Place:
    """A Hub with one weight on it, a registry that pins it, and somebody's home folder."""

    hub: HubServer
    folder: Path
    commit: str = ""

    @property
    def home(self):
        return self.folder / "home"

    @property
    def cached(self):
        """Where the weight lies in the cache, or would lie."""
        folder = self.home / "hub" / f"models--{REPO.replace('/', '--')}"
        return folder / "snapshots" / self.commit / WEIGHTS_FILE

    def write_registry(self, **changes):
        config = ModelConfig("resnet50", ("hem", "all"), "pooled", Preprocessing((224, 224)), weight=NAME)
        row = {
            **{"name": NAME, "config": config, "file": f"{NAME}.safetensors", "sha256": SHA256, "size": len(WEIGHTS)},
            **{"parameters": 1, "licence": "Apache-2.0", "citation": "none", "repo": REPO, "revision": self.commit},
            **changes,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rows.json").write_text(json.dumps([WeightSpec(**row).to_dict()]))

    def environment(self, **changes):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return kept | {
            **{"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"},
            **{"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"},
            "HUB_CLIENT_PAUSES_S": "0.02",
            **changes,
        }

    def start(self, *arguments, command=None, env: Mapping[str, str] | None = None, **how):
        command = command or [sys.executable, CLIENT, self.folder / "rows.json", *(arguments or ("download", NAME))]
        return subprocess.Popen(
            command,
            env=self.environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )

    def run(self, *arguments, **how):
        with self.start(*arguments, **how) as process:
            out, err = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def bodies(self):
        """How often the bytes of the weight were asked for."""
        return self.hub.count(host="storage", method="GET")

    def nothing_half_written(self):
        """No file is there that a later run could take for the weight."""
        return not self.cached.exists() or hashlib.sha256(self.cached.read_bytes()).hexdigest() == SHA256


@pytest.fixture
def place(tmp_path):
    with HubServer() as hub:
        made = Place(hub, tmp_path)
        made.commit = hub.add_repo(REPO, {CONFIG_FILE: b"{}", WEIGHTS_FILE: WEIGHTS})
        made.write_registry()
        yield made


PAGE = Path(__file__).parents[2] / "docs" / "hub.md"


def assert_as_on_the_page(name, text):
    """What docs/hub.md quotes as seen in this case is in the text; its `…` and `org/name` are what differs."""
    if not PAGE.is_file():
        return  # in the source archive
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    quotes = re.findall("“(.*?)”", rows[name])
    assert quotes or rows[name].startswith("nothing"), rows[name]
    for quote in quotes:
        pattern = re.escape(quote).replace("…", ".*").replace("org/name", r"\S+")
        assert re.search(pattern, text), f"{quote}\n\n{text}"


def sentence(result):
    """What a user was told: the one line of the error, without a traceback."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("leukaemia-zoo: error: ")]
    assert "Traceback" not in result.stderr
    assert len(errors) == 1, result.stderr
    return errors[0].removeprefix("leukaemia-zoo: error: ")


# ---------------------------------------------------------------------------------------------------------------------
# Faults, each with what the user sees


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something goes wrong while a weight is downloaded into an empty cache.

    Attributes:
        faults: What goes wrong on the way.
        told: Regular expression of the sentence that the user sees; None if the download succeeds all the same.
        repo: Options of the repository.
        row: Changes of the registry's row.
        env: Changes of the environment.
        files: Files in the repository, if others than usual.
        noted: Regular expression of what a successful run says on the side.
    """

    faults: tuple[Fault, ...] = ()
    told: str | None = None
    repo: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    row: Mapping[str, object] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, bytes] | None = None
    noted: str = ""


# Bound but not listening, for as long as the tests run: nobody else can get the port, and whoever calls it is refused.
REFUSING = socket.socket()
REFUSING.bind(("127.0.0.1", 0))


def by_hand(told):
    """The tail of what can be mended by putting the file there by hand."""
    return (
        rf"{told}.*; or get model\.safetensors of {REPO} at \w{{12}} \(300,000 bytes, sha256 {SHA256}\) .* put it at .*"
    )


SHORT = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
SCENARIOS = {
    "401 without a token": Scenario(
        repo={"private": True}, told=r"does not show lab/.* to everybody \(401\).*HF_TOKEN"
    ),
    "401 with a wrong token": Scenario(
        env={"HF_TOKEN": "hf_nobody"}, told=r"does not know this token \(401\).*hf auth"
    ),
    "403 gated": Scenario(
        repo={"gated": True}, env={"HF_TOKEN": HubServer.read_token}, told=r"is gated \(403\): open .*accept its terms"
    ),
    "403 forbidden": Scenario((Fault("status", status=403),), r"does not let this token read lab/.* \(403\).*HF_TOKEN"),
    "404 repository": Scenario(
        row={"repo": "lab/none"},
        env={"HF_TOKEN": HubServer.token},
        told=r"no repository lab/none \(404\).*check the name",
    ),
    "404 revision": Scenario(row={"revision": "0" * 40}, told=r"has no revision 0{40} \(404\).*look at http"),
    "404 file": Scenario(files={"README.md": b"# empty"}, told=r"has no file model\.safetensors at .* \(404\)"),
    "429 with Retry-After, once": Scenario(
        (Fault("status", status=429, headers={"Retry-After": "1"}, times=2),), noted=r"Rate limited. Waiting 2"
    ),
    "429 with Retry-After, always": Scenario(
        (Fault("status", status=429, headers={"Retry-After": "0"}),),
        by_hand(r"too many requests .*\(429\): try again in 0 s, or"),
    ),
    "429 until a date": Scenario(
        (Fault("status", status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),),
        by_hand(r"too many requests .*\(429\): try again after Wed, 21 Oct 2015 07:28:00 GMT, or"),
    ),
    "451, or another refusal with a reason": Scenario(
        (Fault("status", status=451, headers={"X-Error-Message": "Taken down"}),),
        told=rf"refuses model\.safetensors of {REPO} \(451: Taken down\): mend that, or look at http\S+/{REPO}\.",
    ),
    "500 once, before": Scenario((Fault("status", status=500, times=1),)),
    "500 once, for the bytes": Scenario(
        (Fault("status", host="storage", method="GET", status=500, times=1),), noted="failed .500.*Trying once more"
    ),
    "500 always, before": Scenario(
        (Fault("status", status=500),), by_hand(r"The Hub failed \(500\) over model.*later")
    ),
    "500 always, for the bytes": Scenario((Fault("status", host="storage", status=500),), by_hand(r"failed \(500\)")),
    "refused connection": Scenario(
        env={"HF_ENDPOINT": f"http://127.0.0.1:{REFUSING.getsockname()[1]}"},
        told=by_hand("cannot be reached .*check the network"),
    ),
    "time-out, before": Scenario((Fault("hang", seconds=900),), by_hand("did not answer in time.*raise HF"), env=SHORT),
    "time-out, for the bytes": Scenario(
        (Fault("hang", host="storage", seconds=900),), by_hand("did not answer in time.*raise HF"), env=SHORT
    ),
    "cut at half, once": Scenario((Fault("cut", host="storage", times=1),), noted="Trying to resume download"),
    "cut at half, always": Scenario(
        (Fault("cut", host="storage"),), by_hand(r"broke off the transfer of model\.safetensors again and again \(peer")
    ),
    "cut before the first byte, always": Scenario(
        (Fault("cut", host="storage", after=0),), by_hand("broke off the transfer of")
    ),
    "short body with a good header, once": Scenario(
        (Fault("short", host="storage", times=1),), noted="Trying once more"
    ),
    "short body with a good header, always": Scenario(
        (Fault("short", host="storage"),), by_hand(r"was not transferred \(.*should be of size 300000 .*150000")
    ),
    "wrong bytes, once": Scenario(
        (Fault("wrong_bytes", host="storage", times=1),), noted=rf"not the promised {SHA256}; it is fetched anew"
    ),
    "wrong bytes, always": Scenario(
        (Fault("wrong_bytes", host="storage"),),
        rf"model\.safetensors is cut off, damaged .*sha256 \w{{64}}, not the promised {SHA256}; it was fetched anew",
    ),
    "another size than was pinned": Scenario(
        files={WEIGHTS_FILE: WEIGHTS[:-1]},
        told=rf"^{NAME}: The Hub offers 299,999 bytes .*, not the 300,000 bytes .* promised: nothing was fetched",
    ),
    "another sha256 than was pinned": Scenario(
        row={"sha256": "0" * 64},
        told=rf"offers 300,000 bytes with the sha256 {SHA256} .*, not .* sha256 0{{64}} .*: nothing was fetched",
    ),
    "something that is no Hub": Scenario((Fault("missing_headers"),), by_hand("is not a Hub, .*check HF_ENDPOINT")),
    "offline, cold cache": Scenario(
        env={"HF_HUB_OFFLINE": "1"},
        told=rf"model\.safetensors of {REPO} at \w{{12}} \(300,000 bytes, sha256 {SHA256}\) is not in the .*put it",
    ),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All scenarios side by side, since some wait: what the user saw, and the place."""
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(4) as pool:
        # Those that wait first, so that the others run meanwhile.
        order = sorted(SCENARIOS, key=lambda name: "always" not in name and "time-out" not in name)
        places, waiting = {}, {}
        for name in order:
            scenario = SCENARIOS[name]
            here = Place(stack.enter_context(HubServer()), tmp_path_factory.mktemp("scenario"))
            files = {CONFIG_FILE: b"{}", WEIGHTS_FILE: WEIGHTS} if scenario.files is None else scenario.files
            here.commit = here.hub.add_repo(REPO, files, **scenario.repo)
            here.write_registry(**scenario.row)
            for fault in scenario.faults:
                here.hub.fail(dataclasses.replace(fault))
            places[name] = here
            waiting[name] = pool.submit(here.run, env=scenario.env)
        yield {name: (waiting[name].result(), places[name]) for name in SCENARIOS}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fault_and_what_the_user_sees(name, outcomes):
    scenario, (result, here) = SCENARIOS[name], outcomes[name]
    assert here.nothing_half_written()
    if scenario.told is None:
        assert result.returncode == 0, result.stderr
        assert here.cached.read_bytes() == WEIGHTS
        assert re.search(scenario.noted, result.stderr), result.stderr
    else:
        assert result.returncode == 2
        assert re.search(scenario.told, sentence(result)), result.stderr
        assert not here.cached.exists()
        if "nothing was fetched" in scenario.told:
            assert here.bodies() == 0
            assert result.stderr.count("The Hub offers") == 1
    assert all("authorization" not in seen.headers for seen in here.hub.requests if seen.host == "storage")
    if name not in ("429 until a date", "another sha256 than was pinned", "cut before the first byte, always"):
        assert_as_on_the_page(name, result.stderr)


def test_a_transfer_that_breaks_off_goes_on_where_it_was(place):
    # The client writes pieces of 10 MiB, and goes on behind the last whole one.
    weights = WEIGHTS * 40
    place.commit = place.hub.commit(REPO, {WEIGHTS_FILE: weights})
    place.write_registry(revision=place.commit, size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
    place.hub.fail(Fault("cut", host="storage", after=11_000_000, times=1))
    assert place.run().returncode == 0
    ranges = [seen.headers.get("range") for seen in place.hub.requests if seen.host == "storage"]
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert place.cached.read_bytes() == weights


def test_killed_in_the_midst_of_a_download_and_started_again(place):
    slow = place.hub.fail(Fault("slow", host="storage", seconds=60))
    with place.start() as process:
        deadline = time.monotonic() + 60
        while not (slow.hits and list(place.home.rglob("*.incomplete"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not place.cached.exists()
    place.hub.heal()
    result = place.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert place.cached.read_bytes() == WEIGHTS
    assert_as_on_the_page("killed during the download and started again", result.stderr)


WITH_KERAS = """
import sys
from pathlib import Path
import numpy as np
import leukaemia_zoo as lz
from leukaemia_zoo.common import files
from leukaemia_zoo.zoo import registry

registry.weights.cache_clear()
files.resources.files = lambda package: Path(sys.argv[1])
image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 255
Path(sys.argv[3]).touch()
print(np.asarray(lz.load_model(sys.argv[2])(image)).tolist())
"""
WITHOUT_KERAS = """
import sys
from pathlib import Path
from leukaemia_zoo.common import files
from leukaemia_zoo.zoo import registry, sources, tensors

registry.weights.cache_clear()
files.resources.files = lambda package: Path(sys.argv[1])
Path(sys.argv[3]).touch()
found = sources.find(sys.argv[2])
print(found.spec.sha256, sum(float(values.sum()) for values in tensors.read_tensors(found.file).values()))
"""


@pytest.mark.slow
def test_eight_processes_at_once_load_a_cold_weight_that_is_fetched_once(place, tiny_folder):
    """One of them gives it to Keras, which takes seconds to start; what all do before that is what they contend for."""
    weights = (tiny_folder / WEIGHTS_FILE).read_bytes()
    commit = place.hub.commit(REPO, {WEIGHTS_FILE: weights})
    row = json.loads((tiny_folder / CONFIG_FILE).read_text()) | {"name": NAME, "repo": REPO, "revision": commit}
    (place.folder / "weights.json").write_text(json.dumps([row]))
    slow = place.hub.fail(Fault("slow", host="storage", seconds=200))  # until all are there
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    programs = [WITH_KERAS, *[WITHOUT_KERAS] * 7]
    with contextlib.ExitStack() as stack:
        marks = [place.folder / f"{number}.ready" for number in range(8)]
        commands = [
            [sys.executable, "-c", program, place.folder, NAME, mark]
            for program, mark in zip(programs, marks, strict=True)
        ]
        processes = [stack.enter_context(place.start(command=command, env=env)) for command in commands]
        deadline = time.monotonic() + 150
        while not (slow.hits and all(mark.exists() for mark in marks)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert slow.hits
        assert not list(place.home.rglob(WEIGHTS_FILE)), "nobody has it before all ask for it"
        time.sleep(0.5)  # from a process' mark to its question
        slow.seconds = 0.0
        results = [(*process.communicate(timeout=400), process.returncode) for process in processes]
    assert [status for _, _, status in results] == [0] * 8, results
    image = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 255
    assert results[0][0].strip() == str(np.asarray(load_model(tiny_folder)(image)).tolist())
    total = sum(float(values.sum()) for values in read_tensors(tiny_folder / WEIGHTS_FILE).values())
    assert {out.strip() for out, _, _ in results[1:]} == {f"{row['sha256']} {total}"}
    assert_as_on_the_page("eight processes at once", "")
    assert place.bodies() == 1


def test_a_proxy_is_used(place):
    """The server is the proxy of a Hub that can be reached in no other way."""
    proxy = {"HTTP_PROXY": place.hub.endpoint, "HF_ENDPOINT": "http://hub.invalid", "NO_PROXY": "localhost"}
    result = place.run(env=proxy)
    assert result.returncode == 0, result.stderr
    assert place.cached.read_bytes() == WEIGHTS
    wrong = place.run("download", "hf://lab/x", env=proxy | {"HTTP_PROXY": "http://proxy:port"})
    assert wrong.returncode == 2
    assert re.search(
        r"address of the Hub or of a proxy is none \(.*port.*check HF_ENDPOINT, HTTP_PROXY", sentence(wrong)
    )


@pytest.mark.parametrize(
    "env",
    [{"HF_ENDPOINT": "http://[bad"}, {"HF_ENDPOINT": "http://hub:port"}, {"HF_HUB_DOWNLOAD_TIMEOUT": "abc"}],
)
def test_an_environment_that_makes_no_sense(place, env):
    for arguments in (("download", NAME), ("download", "hf://lab/x"), ("publish", "org", "--dry-run")):
        result = place.run(*arguments, env=env)
        assert result.returncode == 2
        assert re.search(r"The client of the Hub does not start \(.*\): check HF_ENDPOINT and", sentence(result))


# ---------------------------------------------------------------------------------------------------------------------
# The disk


def with_small_files():
    """No file of this process may have more than 100 kB: writing fails as on a full disk, if with another number."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def as_anybody():
    """Permissions hold for this process even if it belongs to root."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: lost when the next program starts


def test_a_file_that_cannot_grow(place):
    result = place.run(preexec_fn=with_small_files)
    assert result.returncode == 2
    assert re.search(r"cannot be written to .*File too large.*: make room .*HF_HOME", sentence(result))
    assert_as_on_the_page("a full disk", sentence(result))
    assert not list(place.home.rglob("*.incomplete"))
    assert not place.cached.exists()


def test_a_full_disk(place):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk; test_a_file_that_cannot_grow runs instead")
    place.home.mkdir()
    mount = f"mount -t tmpfs -o size=200k tmpfs {place.home} || exit 77; "
    command = [sys.executable, str(CLIENT), str(place.folder / "rows.json"), "download", NAME]
    script = mount + " ".join(command) + f"; status=$?; find {place.home} -name '*.incomplete'; exit $status"
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env=place.environment(), capture_output=True, text=True, timeout=100
    )
    if result.returncode == 77:
        pytest.skip("this machine lets nobody mount a small disk; test_a_file_that_cannot_grow runs instead")
    assert result.returncode == 2
    assert re.search(r"cannot be written to .*No space left on device.*: make room .*HF_HOME", sentence(result))
    assert result.stdout == ""


def test_a_read_only_cache(place):
    place.home.mkdir()
    place.home.chmod(0o555)
    result = place.run(preexec_fn=as_anybody)
    assert result.returncode == 2
    assert re.search(r"cannot be written to .*home.*Permission denied.*HF_HOME", sentence(result))
    assert_as_on_the_page("a read-only cache", sentence(result))
    place.home.chmod(0o755)
    assert place.run().returncode == 0
    for path in (place.home, *place.home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = place.run(preexec_fn=as_anybody)  # what is in it can be used
    assert (result.returncode, result.stderr) == (0, "")
    assert "already in the cache" in result.stdout
    for path in (place.home, *(path for path in place.home.rglob("*") if path.is_dir())):
        path.chmod(0o755)


def test_a_cache_that_may_not_be_read(place):
    assert place.run().returncode == 0
    place.cached.resolve().chmod(0)
    result = place.run(preexec_fn=as_anybody)
    assert result.returncode == 2
    assert re.search(
        r"model\.safetensors cannot be read \(Permission denied\): give yourself the right", sentence(result)
    )
    place.home.chmod(0)
    result = place.run(preexec_fn=as_anybody)
    place.home.chmod(0o755)
    assert result.returncode == 2
    assert re.search(r"cannot be looked into .*\(Permission denied\): give yourself .*HF_HOME", sentence(result))


@pytest.mark.parametrize("kind", ["too small", "read-only", "a file"])
def test_a_folder_to_copy_to_that_cannot_be_written(place, tmp_path, kind):
    to = tmp_path / "usb"
    preexec = as_anybody
    if kind == "too small":
        assert place.run().returncode == 0
        preexec = with_small_files
    elif kind == "read-only":
        to.mkdir(mode=0o555)
    else:
        to.touch()
    result = place.run("download", NAME, "--to", to, preexec_fn=preexec)
    assert result.returncode == 2
    why = {"too small": "File too large", "read-only": "Permission denied", "a file": "Not a directory|File exists"}[
        kind
    ]
    assert re.search(rf"{to}/{NAME} cannot be written \(({why})\): make room .*--to", sentence(result))
    assert_as_on_the_page("a full disk under `--to`", sentence(result))
    assert to.exists() == (kind != "too small")
    assert list(tmp_path.rglob(NAME)) == []


# ---------------------------------------------------------------------------------------------------------------------
# The cache


def test_a_warm_cache_asks_nobody(place):
    assert "downloaded, 300,000 bytes, sha256 verified" in place.run().stdout
    asked = len(place.hub.requests)
    assert "already in the cache" in place.run().stdout
    assert len(place.hub.requests) == asked
    result = place.run(env={"HF_HUB_OFFLINE": "1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert_as_on_the_page("offline, warm cache", result.stderr)


def damage(path):
    real = path.resolve()
    data = bytearray(real.read_bytes())
    data[len(data) // 2] ^= 1
    real.write_bytes(data)


@pytest.mark.parametrize("kind", ["as the client left it", "put there by hand"])
def test_a_cached_file_that_was_damaged_later_is_noticed(place, kind):
    assert place.run().returncode == 0
    if kind == "put there by hand":
        place.cached.unlink()
        place.cached.write_bytes(WEIGHTS)
    damage(place.cached)
    found = hashlib.sha256(place.cached.read_bytes()).hexdigest()
    offline = place.run(env={"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 2
    assert re.search(
        rf"has the sha256 {found}, not the promised {SHA256}; the network is switched off", sentence(offline)
    )
    result = place.run()
    assert result.returncode == 0, result.stderr
    assert_as_on_the_page("a cached file that was damaged later", result.stderr)
    assert place.cached.read_bytes() == WEIGHTS


@pytest.mark.parametrize("healthy", [True, False])
def test_a_link_to_a_file_of_ones_own_is_replaced_and_the_file_is_kept(place, tmp_path, healthy):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"x" * len(WEIGHTS))
    place.cached.parent.mkdir(parents=True)
    place.cached.symlink_to(mine)
    if not healthy:
        place.hub.fail(Fault("wrong_bytes", host="storage"))
    result = place.run()
    assert mine.read_bytes() == b"x" * len(WEIGHTS)
    assert place.bodies() == 1
    if healthy:
        assert result.returncode == 0, result.stderr
        assert "mine" not in str(place.cached.resolve())
        assert place.cached.read_bytes() == WEIGHTS
    else:
        assert "it was fetched anew" in sentence(result)
        assert not os.path.lexists(place.cached)
        assert not list(place.home.rglob(SHA256))


def test_a_file_put_where_the_error_says_is_found(place):
    told = sentence(place.run(env={"HF_HUB_OFFLINE": "1"}))
    target = Path(re.search(r"put it at (\S+), or", told)[1])
    target.parent.mkdir(parents=True)
    target.write_bytes(WEIGHTS)
    result = place.run(env={"HF_HUB_OFFLINE": "1"})
    assert (result.returncode, result.stderr) == (0, "")


def test_a_copy_for_another_machine(place, tmp_path):
    result = place.run("download", NAME, "--to", tmp_path / "usb")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "usb" / NAME / WEIGHTS_FILE).read_bytes() == WEIGHTS
    row = WeightSpec.from_dict(json.loads((tmp_path / "usb" / NAME / CONFIG_FILE).read_text()))
    assert (row.file, row.sha256, row.config.origin) == (WEIGHTS_FILE, SHA256, f"hf://{REPO}@{place.commit}")


def test_one_that_cannot_be_had_does_not_keep_back_the_others(place):
    result = place.run("download", "vgg16", NAME)
    assert result.returncode == 2
    assert f"{NAME}: downloaded" in result.stdout
    assert "vgg16: There is no pretrained weight" in sentence(result)


NO_NAMES = {
    "cnn_atention": "did you mean cnn_attention",
    "": "There is no model ''",
    "./nothing": "'./nothing' is no name in the zoo.*write hf://org/name",
    "HF://org/name": "is no name in the zoo.*write hf://org/name",
    "https://huggingface.co/org/name": "is no name in the zoo.*write hf://org/name",
    "hf://lab": "'hf://lab' is no repository on the Hub: write hf://org/name",
    "hf://-org/name": "is no repository on the Hub",
    "hf://org/na--me": "is no repository on the Hub",
    "hf://örg/name": "is no repository on the Hub",
    "hf://org/name.git": "is no repository on the Hub",
    "hf://org/name@/etc/passwd": "is no repository on the Hub",
    f"hf://org/{'n' * 97}": "is no repository on the Hub",
    "hf://org/na\nme\x1b[31m": r"'hf://org/na\\nme\\x1b\[31m' is no repository on the Hub",
}


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_mistyped_name_is_told_before_anything_is_fetched(place, name):
    result = place.run("download", NAME, name)
    assert (result.returncode, result.stdout, place.hub.requests) == (2, "", [])
    assert re.search(NO_NAMES[name], sentence(result))
    assert result.stderr.strip().isprintable()


def test_a_folder_is_there_already(place):
    result = place.run("download", place.folder)
    assert result.returncode == 2
    assert "is there already: there is nothing to download" in sentence(result)
