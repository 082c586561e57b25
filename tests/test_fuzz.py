"""`tools/fuzz.py` and `tools/fuzz_targets.py`: some hundred damaged files, and the judge and the watch themselves."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from leukaemia_zoo.errors import DataError

TOOLS = Path(__file__).parents[1] / "tools"

pytestmark = pytest.mark.skipif(not (TOOLS / "fuzz.py").is_file(), reason="the tools are not beside the tests")


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def targets():
    return _tool("fuzz_targets")


@pytest.fixture(scope="module")
def fuzz():
    return _tool("fuzz")


# A seed, or a few, of what is slow: Keras starts, a page has plots, a large image has 50 megapixels.
INPUTS = {
    "images": range(120),
    "large": (84,),
    "tables": range(40),
    "subjects": range(40),
    "preliminary": range(20),
    "config": range(60),
    "weights": range(60),
    "trunks": range(60),
    "network": range(15),
    "manifests": range(60),
    "recipes": range(60),
    "reports": range(12),
    "pages": range(1),
    "trainings": range(30),
}


def test_every_target_is_tried(targets):
    assert list(INPUTS) == list(targets.TARGETS)


@pytest.mark.parametrize("name", INPUTS)
def test_damage_gives_a_typed_error_or_a_correct_answer(targets, name, tmp_path):
    loaded = {"keras", "tensorflow"} & set(sys.modules)
    outcomes = [targets.attempt(name, seed, tmp_path / "input") for seed in INPUTS[name]]
    found = [
        f"python tools/fuzz.py --target {name} --only {seed}: {outcome.change}: {outcome.detail}"
        for seed, outcome in zip(INPUTS[name], outcomes, strict=True)
        if outcome.kind == "finding"
    ]
    assert found == []
    if len(outcomes) > 2:  # neither refused throughout nor left as they were
        assert {outcome.kind for outcome in outcomes} == {"error", "answer"}
    if name not in targets.WITH_KERAS:
        assert {"keras", "tensorflow"} & set(sys.modules) == loaded


def test_a_seed_makes_the_same_files_whatever_was_made_before(targets):
    for name in targets.TARGETS:
        if name not in (*targets.WITH_KERAS, "large"):
            before = [targets.make(name, seed) for seed in range(8)]
            assert [targets.make(name, seed) for seed in reversed(range(8))] == before[::-1]
            assert len({str(case.files) for case in before}) > 1


# --- the judge ---


def _raise(error: Exception) -> None:
    raise error


def _out_of_memory() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise DataError("The file is damaged.") from error


@pytest.mark.parametrize(
    ("read", "must", "message"),
    [
        (lambda folder: _raise(KeyError("path")), "any", "KeyError: 'path'"),
        (lambda folder: _raise(DataError("no")), "the same", "refused, though its content is sound: DataError: no"),
        (lambda folder: _raise(DataError("x" * 3000)), "any", "an error of 3,000 characters"),
        (lambda folder: _out_of_memory(), "any", "ran out of memory"),
        (lambda folder: warnings.warn("overflow", RuntimeWarning, stacklevel=1), "any", "warned: RuntimeWarning: over"),
        (lambda folder: (folder / "file").read_bytes(), "the same", "another answer than the undamaged file's"),
        (lambda folder: (folder / "file").read_bytes(), "the same or an error", "another answer than the undamaged"),
        (lambda folder: -1, "any", "below 0"),
        (lambda folder: sum(range(3_000_000)), "any", "took 0."),
    ],
)
def test_what_is_a_finding(targets, tmp_path, monkeypatch, read, must, message):
    target = targets.Target(
        lambda: [{"file": b"sound"}],
        lambda rng, originals: targets.Input(0, {"file": b"damaged"}, "replaced", must),
        read,
        lambda answer: "below 0" if answer == -1 else None,
    )
    monkeypatch.setitem(targets.TARGETS, message, target)
    monkeypatch.setattr(targets, "SECONDS", 0.01)
    outcome = targets.attempt(message, 0, tmp_path)
    assert (outcome.kind, outcome.detail[: len(message)]) == ("finding", message)


def test_memory_that_a_reader_takes_is_seen(targets, tmp_path, monkeypatch):
    if not Path("/proc/self/clear_refs").is_file():
        pytest.skip("this system does not tell the peak of memory")
    target = targets.Target(
        lambda: [{}], lambda rng, originals: targets.Input(0, {}, "nothing"), lambda folder: len(b"\1" * 400_000_000)
    )
    monkeypatch.setitem(targets.TARGETS, "greedy", target)
    monkeypatch.setattr(targets, "MEMORY", 200_000_000)
    outcome = targets.attempt("greedy", 0, tmp_path)
    assert outcome.kind == "finding"
    # What other parts of the process give back meanwhile is small beside it.
    assert 250_000_000 < outcome.memory < 500_000_000


# --- the watch ---


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("import time; input(); time.sleep(60)", "no answer in 0.5 s"),
        ("import os; input(); os.abort()", "ended with status -6"),
    ],
)
def test_a_child_that_hangs_or_dies_is_a_finding_and_the_next_one_answers(fuzz, program, detail):
    child = fuzz.Child([sys.executable, "-c", program], hang=0.5 if "sleep" in program else 30)
    outcome = child.ask(1)
    assert outcome["kind"] == "finding"
    assert detail in outcome["detail"]
    child._command = [sys.executable, "-c", "import json; input(); print(json.dumps({'kind': 'answer'}))"]
    child._hang = 30
    assert child.ask(2) == {"kind": "answer"}
    child.close()


def test_a_run_prints_its_table_and_keeps_findings(fuzz, targets, tmp_path, capsys):
    assert fuzz.run(["trainings"], iter([3, 4]), 60, tmp_path / "kept") == 0
    assert "trainings            2" in capsys.readouterr().out
    assert fuzz.run(["unknown"], iter([7]), 60, tmp_path / "kept") == 1
    assert "again: python tools/fuzz.py --target unknown --only 7" in capsys.readouterr().out


def test_findings_of_one_place_are_of_one_kind(fuzz):
    kinds = {fuzz.kind_of(f"KeyError: '{name}' at splits.py:12") for name in ("path", "label")}
    assert kinds == {"KeyError at splits.py:12"}
    assert fuzz.kind_of("took 5.3 s; ") == fuzz.kind_of("took 7.1 s; ")
