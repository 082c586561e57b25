"""Kill commands at random moments, start them again, and see whether anything was lost or taken for what it is not.

    python tools/kill_runs.py --times 20

Each of `train`, `finetune`, `benchmark`, `predict` and `download` runs once undisturbed on drawn cells. Then it is
killed (SIGKILL) at a random moment of that time and started again, so many times, each in a folder of its own. After
the kill every file under its final name must be whole; after the second start there must be what the undisturbed run
leaves, with the same content, and nothing else. The exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leukaemia_zoo.common.files import OWN

TOLERANCE = 2e-3
"""Of probabilities, losses and weights: threads do not always add in the same order."""

TESTS = Path(__file__).parents[1] / "tests"
_VARYING = ("seconds", "training_s", "timing", "environment", "machine", "versions")
"""What records say of time and machine."""

_NEEDED = (
    *("leukaemia_zoo.training.trainer", "leukaemia_zoo.adaptation.fine_tuning", "leukaemia_zoo.benchmarking.runner"),
    *("leukaemia_zoo.cli.app", "leukaemia_zoo.report.page", "onnxruntime", "tqdm"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg", "scipy.optimize", "scipy.stats", "sklearn.linear_model"),
)
"""What the commands import as they go: imported before they part, it takes none of the time in which one is killed."""

_SMALL = {
    "input_size": 40,
    "turned_views": 2,
    "prediction_views": 4,
    "validation_share": 0.34,
    "precision": "float32",
    "inverse_penalties": [0.01, 0.1],
    "batch_size": 16,
    "fine_tune_epochs": 3,
    "patience": 5,
}
_PAIRS = [["block2_pool", "conv_pw_3_relu"], ["head2_relu", "conv_pw_5_relu"]]
_DISTILLED = {**_SMALL, "distillation": {"epochs": 3, "steps_per_epoch": 1, "batch_size": 4, "pairs": _PAIRS}}
_TUNED = {**{key: _SMALL[key] for key in ("turned_views", "precision", "batch_size", "fine_tune_epochs")}} | {
    "validation_folds": 2
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        name: Of the command.
        start: From the folder that it writes to its process.
        prepare: What lies in that folder before.
        check: Raises if what was left in the folder after a kill is not whole.
    """

    name: str
    start: Callable[[Path], Process]
    prepare: Callable[[Path], None] = lambda folder: None
    check: Callable[[Path], None] = lambda folder: None


class Process:
    """A running command, forked or started."""

    def __init__(self, number: int, log: Path) -> None:
        self.number = number
        self.log = log

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._status(os.WNOHANG) is not None:
                return True
            time.sleep(0.002)
        return False

    def kill(self) -> None:
        """End it at once, whatever it does."""
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)

    def end(self) -> int:
        """Wait for it; its exit status."""
        return int(self._status(0) or 0)

    def _status(self, how: int) -> int | None:
        if not hasattr(self, "found"):
            number, status = os.waitpid(self.number, how)
            if number == 0:
                return None
            self.found = os.waitstatus_to_exitcode(status)
        return self.found


def forked(work: Callable[[], int], log: Path) -> Process:
    """Run a function in a process of its own, which begins with the backend imported but not yet used."""
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        status = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = work()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return Process(number, log)


def command(*arguments: Any, eagerly: bool = False) -> Callable[[], int]:
    """A command of leukaemia-zoo, to be called in a process of its own."""

    def work() -> int:
        from leukaemia_zoo.cli.app import main

        if eagerly:
            import tensorflow as tf

            tf.config.run_functions_eagerly(True)
        return main([str(argument) for argument in arguments])

    return work


# ---------------------------------------------------------------------------------------------------------------------
# What the commands work on


def draw_cells(root: Path) -> Path:
    """Cells of twelve subjects in two classes, named as in C-NMC, and a table of them; returns the table."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] - 47.5
    rows = []
    for label, prefix, radius, level in (("all", "9", 0.30, 120), ("hem", "H9", 0.24, 100)):
        (root / label).mkdir(parents=True)
        for subject in range(6):
            own = rng.normal(0, 8)
            for cell in range(4):
                inside = np.hypot(x, y) < 96 * (radius + rng.normal(0, 0.03))
                frame = np.where(inside[..., None], level + own + rng.normal(0, 20, (96, 96, 3)), 0)
                name = f"{label}/UID_{prefix}{subject}_1_{cell}_{label}.png"
                Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8)).save(root / name)
                rows.append((name, label, f"{prefix}{subject}"))
    table = root / "cells.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "subject"), *rows])
    return table


def make_models(folder: Path) -> int:
    """A small network with random weights, saved, and a teacher for the distillation."""
    import keras

    from leukaemia_zoo import Preprocessing, save_model
    from leukaemia_zoo.engine.network import resolve
    from leukaemia_zoo.zoo import ModelConfig, build_model

    keras.utils.set_random_seed(0)
    model = build_model("cnn_attention", input_size=32)
    model.zoo = ModelConfig("cnn_attention", ("hem", "all"), "flatten", Preprocessing((32, 32)))
    save_model(model, folder / "tiny")
    # Its graph is made once on a machine: were it done by the undisturbed `predict`, the others would end too soon.
    resolve(folder / "tiny")
    teacher = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    arrays = {f"{layer.name}/{v.name}": np.asarray(v) for layer in teacher.layers for v in layer.weights}
    np.savez(folder / "teacher.npz", **arrays)  # type: ignore[arg-type]
    return 0


def cases(place: Path, hub: Any, eagerly: bool = False) -> Iterator[Case]:
    """The commands on what was made in `place`."""
    table = place / "cells" / "cells.csv"
    for name, changes in (("distilled", _DISTILLED), ("tuned", _TUNED)):
        (place / f"{name}.json").write_text(json.dumps(changes))
    log = place / "log.txt"

    def run(*arguments: Any) -> Process:
        return forked(command(*arguments, eagerly=eagerly), log)

    distilled = ("--teacher", place / "teacher.npz", "--recipe", place / "distilled.json")
    yield Case("train", lambda out: run("train", "cnn_attention", "--data", table, "--out", out, *distilled))
    tuned = ("--data", table, "--recipe", place / "tuned.json")
    yield Case("finetune", lambda out: run("finetune", place / "tiny", *tuned, "--out", out))
    judged = ("--data", table, "--resamples", 200, "--no-cost")
    yield Case("benchmark", lambda out: run("benchmark", place / "tiny", *judged, "--out", out))

    def yesterday(folder: Path) -> None:
        (folder / "o.csv").write_text("of yesterday\n")

    def old_or_new(folder: Path) -> None:
        text = (folder / "o.csv").read_text()
        if text != "of yesterday\n" and len(text.splitlines()) != 49:
            raise ValueError(f"o.csv is neither the old file nor a whole new one: {len(text.splitlines())} lines")

    given = ("predict", place / "cells", "--model", place / "tiny", "--quiet", "--batch-size", 4)
    yield Case("predict", lambda out: run(*given, "--csv", out / "o.csv"), yesterday, old_or_new)
    if hub is not None:
        yield Case("download", lambda out: _download(place, out, hub, log))


def _download(place: Path, out: Path, hub: Any, log: Path) -> Process:
    """Each folder has a cache of its own, beside it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": f"{out}.home", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    kept |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    client = map(str, (TESTS / "hub_client.py", place / "rows.json"))
    arguments = [sys.executable, *client, "download", "resnet50.test", "--to", str(out)]
    with log.open("a") as file:
        process = subprocess.Popen(arguments, env=kept, stdout=file, stderr=file)
    process.returncode = 0  # we wait for it ourselves
    return Process(process.pid, log)


def publish_weight(place: Path, hub: Any) -> None:
    """A weight on the Hub of the tests, whose body takes a second, and the registry that pins it."""
    from hub_server import Fault

    from leukaemia_zoo import Preprocessing
    from leukaemia_zoo.zoo import ModelConfig
    from leukaemia_zoo.zoo.registry import WeightSpec

    name, repo = "resnet50.test", "lab/resnet50.test"
    weights = np.random.default_rng(0).bytes(3_000_000)
    commit = hub.add_repo(repo, {"config.json": b"{}", "model.safetensors": weights})
    hub.fail(Fault("slow", host="storage", seconds=1.0))
    row = WeightSpec(
        name=name,
        config=ModelConfig("resnet50", ("hem", "all"), "pooled", Preprocessing((224, 224)), weight=name),
        file=f"{name}.safetensors",
        sha256=hashlib.sha256(weights).hexdigest(),
        size=len(weights),
        parameters=1,
        licence="Apache-2.0",
        citation="none",
        repo=repo,
        revision=commit,
    )
    (place / "rows.json").write_text(json.dumps([row.to_dict()]))


# ---------------------------------------------------------------------------------------------------------------------
# What is left


def check_whole(folder: Path) -> None:
    """Raise if a file under its final name cannot be read as what it is."""
    import h5py
    from safetensors.numpy import load_file

    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith(OWN):
            continue  # beside its place, where nobody looks
        match path.suffix:
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".safetensors" if path.parent.name != "resnet50.test":  # which has random bytes
                load_file(path)
            case ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    dict(arrays)
            case ".h5":
                with h5py.File(path) as file:
                    file.visititems(lambda _, item: item[()] if isinstance(item, h5py.Dataset) else None)
            case ".csv" | ".md" | ".html" | ".svg":
                text = path.read_text(encoding="utf-8")
                if not text.endswith("\n") or (path.suffix == ".html" and "</html>" not in text):
                    raise ValueError(f"{path.name} is cut off")


def difference(ours: Path, theirs: Path) -> float:
    """The largest difference between two folders; infinite where one is not of the same kind."""
    names = [sorted(str(path.relative_to(one)) for path in one.rglob("*")) for one in (ours, theirs)]
    if names[0] != names[1]:
        raise ValueError(f"left: {sorted(set(names[0]) ^ set(names[1]))}")
    found = 0.0
    for path in map(ours.joinpath, names[0]):
        other = theirs / path.relative_to(ours)
        match path.suffix:
            case ".json":
                found = max(found, _apart(json.loads(path.read_text()), json.loads(other.read_text()), path.name))
            case ".safetensors" if path.parent.name != "resnet50.test":
                found = max(found, _tensors_apart(path, other))
            case ".csv":
                first, second = (list(csv.reader(file.read_text().splitlines())) for file in (path, other))
                found = max(found, _apart(first, second, path.name))
            case ".safetensors":
                if path.read_bytes() != other.read_bytes():
                    raise ValueError(f"{path.name} has other bytes")
    return found


def _tensors_apart(path: Path, other: Path) -> float:
    from safetensors.numpy import load_file

    first, second = load_file(path), load_file(other)
    if first.keys() != second.keys():
        raise ValueError(f"{path.name} has other tensors")
    apart = [float(np.abs(first[name].astype(float) - second[name].astype(float)).max()) for name in first]
    return max(apart, default=0.0)


def _apart(first: Any, second: Any, where: str) -> float:
    """The largest difference of two numbers at one place of plain data; what else there is must be the same."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        # Hashes of weights differ with their last bits.
        passed = {*_VARYING, "sha256", "fingerprint"}
        return max((_apart(first[k], second[k], f"{where}/{k}") for k in first.keys() - passed), default=0.0)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return max(
            (_apart(a, b, f"{where}/{n}") for n, (a, b) in enumerate(zip(first, second, strict=True))), default=0
        )
    try:
        return abs(float(first) - float(second))
    except (TypeError, ValueError):
        if first != second:
            raise ValueError(f"{where}: {first!r}, not {second!r}") from None
        return 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Killing


def torture(case: Case, place: Path, times: int, draw: random.Random) -> dict[str, Any]:
    """Kill one command so many times and start it again; what came of it."""

    def begin(name: str) -> tuple[Path, Process]:
        out = place / case.name / name
        out.mkdir(parents=True)
        case.prepare(out)
        return out, case.start(out)

    whole, process = begin("undisturbed")
    started = time.monotonic()
    if process.end() != 0:
        raise SystemExit(f"{case.name} fails undisturbed:\n{process.log.read_text()[-2000:]}")
    lasts = time.monotonic() - started
    check_whole(whole)
    found: dict[str, Any] = {"seconds": lasts, "killed": 0, "ended": 0, "same": 0, "largest": 0.0, "wrong": []}
    for number in range(3 * times):
        if found["killed"] == times:
            break
        out, process = begin(f"{number}")
        moment = draw.uniform(0, lasts)
        if process.wait(moment):
            found["ended"] += 1  # there was nothing to kill any more
            continue
        process.kill()
        found["killed"] += 1
        try:
            check_whole(out)
            case.check(out)
            time.sleep(1.1)  # younger files beside their place are left alone
            again = case.start(out)
            if (status := again.end()) != 0:
                raise ValueError(f"started again it gave {status}: {again.log.read_text()[-600:]}")
            apart = difference(out, whole)
            if not apart <= TOLERANCE:
                raise ValueError(f"the result differs by {apart:g}")
            found["same"] += 1
            found["largest"] = max(found["largest"], apart)
        except Exception as error:
            found["wrong"].append(f"{case.name} {number}, killed after {moment:.2f} s of {lasts:.2f}: {error}")
    return found


def main() -> int:
    """Run the whole; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills of each command (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="some of the commands (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument(
        "--eagerly", action="store_true", help="TensorFlow runs its steps as they are written, which begins sooner"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    from hub_server import HubServer

    found = {}
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as name:
        place = Path(name)
        draw_cells(place / "cells")
        wanted = [case.name for case in cases(place, True) if options.only is None or case.name in options.only]
        if set(wanted) != {"download"}:
            # Imported once and not used here: a process that has begun to compute cannot be forked.
            for module in _NEEDED:
                importlib.import_module(module)
            if forked(lambda: make_models(place), place / "log.txt").end() != 0:
                raise SystemExit((place / "log.txt").read_text())
        for number, name in enumerate(wanted):
            # A server has threads, which a fork would lose.
            with HubServer() if name == "download" else contextlib.nullcontext() as hub:
                if hub is not None:
                    publish_weight(place, hub)
                (case,) = (case for case in cases(place, hub, options.eagerly) if case.name == name)
                found[name] = torture(case, place, options.times, random.Random(options.seed + number))
            print(told(name, found[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(row["wrong"] for row in found.values()))


def told(name: str, row: dict[str, Any]) -> str:
    """One line on a command, and one on each thing that was wrong."""
    apart = "none" if row["largest"] == 0 else f"{row['largest']:.1e}"
    line = (
        f"{name:<10} {row['seconds']:5.1f} s undisturbed; killed {row['killed']}, ended before {row['ended']}; started "
        f"again: {row['same']} as undisturbed, largest difference {apart}; wrong: {len(row['wrong'])}"
    )
    return "\n  ".join([line, *row["wrong"]])


if __name__ == "__main__":
    sys.exit(main())
