"""Try damaged and lying files on every reader, for minutes, and keep what makes one fail.

    python tools/fuzz.py --minutes 10 --seed 1
    python tools/fuzz.py --target images --minutes 2
    python tools/fuzz.py --target images --only 1000017

A reader must raise one of our errors or give a correct answer, with at most 1 GB and 5 s of processor time a file; see
`fuzz_targets.py`. The inputs are read in child processes with a limit on their memory and a watch on their time, so
that a crash, a hang or a memory bomb is a finding like any other. Every finding stays as a folder, with the line that
brings it back. The exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HANG = 30.0
"""Seconds of wall time after which a child is ended: other work may slow it down."""

_SLACK = 512 << 20
"""Bytes of address space, beside what a file may take, for threads and what allocators keep."""

_KEPT = 5
"""Findings of one kind that are kept."""


class Child:
    """A process that answers a seed with the outcome of its input, and is begun anew when it ends.

    Args:
        command: Its command line.
        hang: Seconds to wait for an answer.
    """

    def __init__(self, command: Sequence[str], hang: float = HANG) -> None:
        self._command, self._hang = command, hang
        self._process: subprocess.Popen[str] | None = None
        self._noise = tempfile.TemporaryFile("w+")  # noqa: SIM115 - what it writes to stderr, until the end

    def ask(self, seed: int) -> dict[str, Any]:
        """The outcome of a seed: what the child says, or that it hung or died."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{seed}\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            answers = selector.select(self._hang)
        line = process.stdout.readline() if answers else ""
        if line:
            return dict(json.loads(line))
        if answers:  # its pipe is closed: it ends by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._hang)
        self.close()
        detail = f"the process ended with status {process.returncode}" if answers else f"no answer in {self._hang:g} s"
        return {"kind": "finding", "change": "", "detail": detail, "seconds": 0.0, "memory": 0}

    def noise(self) -> list[str]:
        """The lines on stderr so far."""
        self._noise.seek(0)
        return self._noise.read().splitlines()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._noise, text=True)
        return self._process


def answer(target: str, folder: Path) -> None:
    """What a child does: seeds from stdin, outcomes to stdout."""
    import resource

    import fuzz_targets

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    fuzz_targets.attempt(target, 0, folder)  # imports, and what is made once
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = held + fuzz_targets.MEMORY + _SLACK
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        print(json.dumps(vars(fuzz_targets.attempt(target, int(line), folder))), file=out, flush=True)


def kind_of(detail: str) -> str:
    """What findings of one kind have in common: the place in our code, or the words without the numbers."""
    place = re.search(r" at (\w+\.py:\d+)$", detail)
    return f"{detail.split(':')[0]} at {place[1]}" if place else re.sub(r"[\d.,]+", "N", detail)[:60]


def run(targets: Sequence[str], seeds: Iterator[int], seconds: float, keep: Path) -> int:
    """Try inputs of all targets in turn, each for as long as the others; print what came of them.

    Returns:
        The number of findings.
    """
    spent = dict.fromkeys(targets, 0.0)
    counts = {target: collections.Counter[str]() for target in targets}
    worst = {target: [0.0, 0] for target in targets}
    kinds: collections.Counter[tuple[str, str]] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-fuzz-") as place:
        here = [sys.executable, str(Path(__file__).resolve()), "--answer"]
        children = {target: Child([*here, target, str(Path(place) / target)]) for target in targets}
        try:
            for seed in seeds:
                target = min(spent, key=lambda name: spent[name])
                begin = time.monotonic()
                outcome = children[target].ask(seed)
                spent[target] += time.monotonic() - begin
                counts[target][outcome["kind"]] += 1
                worst[target] = [
                    max(pair) for pair in zip(worst[target], (outcome["seconds"], outcome["memory"]), strict=True)
                ]
                if outcome["kind"] == "finding":
                    kind = (target, kind_of(outcome["detail"]))
                    kinds[kind] += 1
                    if kinds[kind] <= _KEPT:
                        kept = keep / f"{target}-{seed}"
                        if (Path(place) / target).is_dir():
                            shutil.copytree(Path(place) / target, kept, dirs_exist_ok=True)
                        print(f"{target} {seed}: {outcome['change']}: {outcome['detail']}\n  {kept}", flush=True)
                        print(f"  again: python tools/fuzz.py --target {target} --only {seed}", flush=True)
                if sum(spent.values()) > seconds:
                    break
        finally:
            for child in children.values():
                child.close()
        noise = {target: len(child.noise()) for target, child in children.items()}
    print(_row("target", "inputs", "errors", "answers", "findings", "slowest", "memory", "stderr"))
    for target, found in counts.items():
        slowest, memory = worst[target]
        print(_row(target, *_numbers(found), f"{slowest:.1f} s", f"{memory / 2**20:,.0f} MB", noise[target]))
    total = sum(counts.values(), collections.Counter[str]())
    print(_row("all", *_numbers(total)))
    for (target, kind), number in kinds.most_common():
        print(f"{number:6,} x {target}: {kind}")
    return total["finding"]


def _numbers(found: collections.Counter[str]) -> list[str]:
    return [f"{number:,}" for number in (found.total(), found["error"], found["answer"], found["finding"])]


def _row(name: str, *cells: object) -> str:
    return f"{name:12}" + "".join(f"{cell!s:>10}" for cell in cells)


def main() -> None:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: %(default)s)")
    parser.add_argument("--target", action="append", help="only this kind of input; may be repeated")
    parser.add_argument("--only", type=int, metavar="SEED", help="only the input of this seed, of one target")
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="folder for findings (default: %(default)s)"
    )
    parser.add_argument("--answer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.answer[0], Path(options.answer[1]))
        return
    from fuzz_targets import TARGETS

    if unknown := [target for target in options.target or () if target not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}: choose from {', '.join(TARGETS)}")
    if options.only is not None and len(options.target or ()) != 1:
        parser.error("--only needs the one --target that the seed belongs to")
    begin = options.seed * 1_000_000
    seeds = iter([options.only]) if options.only is not None else iter(range(begin, begin + 1_000_000))
    sys.exit(1 if run(options.target or [*TARGETS], seeds, 60 * options.minutes, options.keep) else 0)


if __name__ == "__main__":
    main()
