"""The command line, as a user meets it: what it prints, writes and returns, and what it does not import."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import __version__, load_model, predict, save_model
from leukaemia_zoo.cli import output, predictions
from leukaemia_zoo.cli.app import COMMANDS, main
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.zoo import registry
from leukaemia_zoo.zoo.registry import ARCHITECTURES

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"
SHIPPED = sorted(registry.weights())
SMALL = [name for name in SHIPPED if registry.packaged_file(registry.weights()[name]).is_file()]
HEADER = "path,subject,label,p_hem,p_all,verdict,ood_score,unfamiliar,error"
STATEMENT = "For research only: these are the outputs of a statistical model, not a diagnosis."

needs_default = pytest.mark.skipif(
    "cnn_attention.cnmc" not in SHIPPED, reason="the weight of the default model is not shipped yet"
)


@pytest.fixture
def run(capsys):
    """Run a command in this process; returns exit status, output and errors."""

    def run(*arguments):
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def in_new_process(*command, **environment):
    """Run Python in a process of its own, with this package on its path and no variables of ours."""
    kept = {key: value for key, value in os.environ.items() if key not in ("TF_CPP_MIN_LOG_LEVEL", "TQDM_DISABLE")}
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, *map(str, command)], env=kept | environment, capture_output=True, text=True, check=False
    )


def read_rows(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def error_line(err):
    """The one line in which a mistake is told."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("leukaemia-zoo: error: ")
    return lines[0]


# --- list and info ---


def test_without_a_command_it_helps(run):
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out == run("--help")[1]
    for word in ("predict", "train", "verify", "list", "info", "not a diagnosis"):
        assert word in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert f"Usage: leukaemia-zoo {command}" in out
    assert out == run(command, "-h")[1]


def test_a_command_imports_no_other():
    code = "import sys; from leukaemia_zoo.cli.app import main; main(['--help']); main(['export', '--help'])"
    code += "; print([name for name in sys.modules if name.startswith('leukaemia_zoo.cli.')])"
    done = in_new_process("-c", code)
    wanted = ["app", "exports", "options", "paths"]
    assert sorted(eval(done.stdout.splitlines()[-1])) == [f"leukaemia_zoo.cli.{name}" for name in wanted]


def test_version(run):
    assert run("--version")[:2] == (0, f"leukaemia-zoo {__version__}\n")


def test_list(run):
    status, out, err = run("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["architecture", "pretrained", "classes", "input", "parameters", "what", "it", "is"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == set(ARCHITECTURES)
    trained = {weight.config.architecture for weight in registry.weights().values()}
    for name, row in rows.items():
        assert ("no weights" in row) == (name not in trained)
        if name not in trained:
            assert f"{ARCHITECTURES[name].parameters:,}" in row
    assert [name for name in SHIPPED if name not in out] == []
    assert "hem, all" in rows["mobilenet"]
    assert "8 classes" in rows["efficientnet_lite0"]  # it knows no leukaemia
    assert (
        len({row.index(ARCHITECTURES[name].title) for name, row in rows.items()}) == 1
    )  # in line, however long a name


def test_list_by_pattern(run):
    expected = ["cnn", "cnn_attention"]
    assert [line.split()[0] for line in run("list", "cnn*")[1].splitlines()[1:]] == expected
    found = json.loads(run("list", "cnn*", "--json")[1])
    assert [row["architecture"]["name"] for row in found] == expected
    pretrained = json.loads(run("list", "--pretrained", "--json")[1])
    assert [row["name"] for row in pretrained] == SHIPPED
    for name in SHIPPED:
        assert [row["name"] for row in json.loads(run("list", name, "--json")[1])] == [name]
    status, out, err = run("list", "nothing*")
    assert (status, out) == (0, "")
    assert "no model named 'nothing*'" in err


@pytest.mark.parametrize("name", [*ARCHITECTURES, *SHIPPED])
def test_info(run, name):
    status, out, err = run("info", name)
    assert (status, err) == (0, "")
    info = registry.model_info(name)
    assert out.startswith(f"{info.name}: {info.architecture.title}\n")
    assert info.architecture.source in out
    if info.weight is None:
        assert "none yet" in out
        assert f"{info.architecture.parameters:,} parameters" in out
    else:
        for fact in (info.weight.sha256, info.weight.licence, info.weight.citation, info.weight.intended_use):
            assert fact in out
        assert ", ".join(info.weight.config.class_names) in out
        assert "on other people, stains or microscopes expect lower figures" in out
        assert ("sensitivity" in out) == (len(info.weight.config.class_names) == 2)
        config, published = info.weight.config, info.architecture.input_size
        assert (f"published with {published[0]}x{published[1]}" in out) == (
            config.preprocessing.input_size != published
        )
        assert f"the average of {config.views} view" in out
        assert f"temperature {config.temperature:.3f}" in out
        assert f"an OOD score above {config.ood_limit:.2f}" in out
        initial = info.weight.training["init"]
        begun = "random weights from seed 0" if initial == "random" else initial["source"]
        assert f"  begun      {begun}" in out
        unknown = not all(count["subjects"] for count in info.weight.training["train"].values())
        assert ("cells of unknown subjects" in out, "cells of 0 subjects" in out) == (unknown, False)
        inside = registry.packaged_file(info.weight).is_file()
        assert ("not inside the package" in out, "  inside the package" in out) == (not inside, inside)
    assert json.loads(run("info", name, "--json")[1]) == json.loads(json.dumps(info.to_dict()))


def test_info_tells_the_limits_of_verdicts(run, monkeypatch):
    spec = registry.weights()["cnn.cnmc"]
    limits = VerdictLimits(("hem", "all"), (0.05, 0.1), ((0.1, 0.2), (0.0, 0.3)), (26, 12), (0.1, 0.05), 0.234)
    limited = dataclasses.replace(spec, config=dataclasses.replace(spec.config, verdict_limits=limits))
    monkeypatch.setattr(registry, "weights", lambda: {"cnn.cnmc": limited})
    _, out, _ = run("info", "cnn")
    assert (
        """
  verdicts   rule out hem below 0.2000: miss rate 0.1, found on 26 subjects
             never rule out all: miss rate 0.05, found on 12 subjects
             uncertain where two or more classes are left: 23.4% of the cells there
             miss rates to choose from: 0.05, 0.1
"""
        in out
    )
    assert json.loads(run("info", "cnn", "--json")[1])["weight"]["config"]["verdict_limits"] == limits.to_dict()
    nobody = {"train": {name: {"cells": 30, "subjects": 0} for name in ("hem", "all")}}
    monkeypatch.setattr(registry, "weights", lambda: {"cnn.cnmc": dataclasses.replace(limited, training=nobody)})
    assert "rule out hem below 0.2000: miss rate 0.1, found on 26 cells\n" in run("info", "cnn")[1]


@pytest.mark.parametrize("alike", [True, False])
def test_info_tells_how_the_classes_counted(run, monkeypatch, alike):
    spec = registry.weights()["cnn.cnmc"]
    training = {**spec.training, "recipe": {"balance_classes": alike}}
    monkeypatch.setattr(registry, "weights", lambda: {"cnn.cnmc": dataclasses.replace(spec, training=training)})
    out = run("info", "cnn")[1]
    told = ("for classes that are equally frequent" in out, "as frequent as in its training data" in out)
    assert told == (alike, not alike)


def test_info_of_an_unknown_model(run):
    status, out, err = run("info", "cnn_atention")
    assert (status, out) == (2, "")
    assert "did you mean cnn_attention" in error_line(err)


# --- predict ---


def test_predict_the_examples(run, tiny_folder, tmp_path):
    status, out, err = run("predict", EXAMPLES, "--model", tiny_folder, "--csv", tmp_path / "out.csv")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == STATEMENT
    names = sorted(path.name for path in EXAMPLES.glob("*.png"))
    for name in names:
        assert name in out
    summary = out.split("subject", 2)[2]
    assert [line.split()[0] for line in summary.splitlines()[1:5]] == ["901", "902", "H901", "H902"]
    assert "a summary, not the probability that a person is ill." in out
    assert "6 files by" in out
    assert "leukaemia-zoo info" not in out  # a model of one's own has no row
    assert "1 file without the suffix of an image" in out  # the README there
    rows = read_rows(tmp_path / "out.csv")
    assert sorted(Path(row["path"]).name for row in rows) == names


@needs_default
def test_predict_the_examples_with_the_default_model(run, tmp_path):
    status, out, err = run("predict", EXAMPLES, "--csv", tmp_path / "out.csv")
    assert (status, err) == (0, "")
    assert "6 files by cnn_attention.cnmc" in out
    assert "What is known of these numbers: leukaemia-zoo info cnn_attention.cnmc\n" in out
    rows = read_rows(tmp_path / "out.csv")
    expected = predict("cnn_attention", [row["path"] for row in rows])
    np.testing.assert_allclose(
        [[float(row["p_hem"]), float(row["p_all"])] for row in rows], expected.probabilities, atol=1e-6
    )


@pytest.mark.parametrize("name", SMALL)
def test_predict_with_every_shipped_weight(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a name in the zoo means the zoo's own
    status, out, _ = run("predict", EXAMPLES, "--model", name)
    assert status == 0
    assert f"6 files by {name}" in out


def test_predict_a_mixed_folder(run, tiny_folder, mixed_folder, tmp_path):
    status, out, err = run(
        *("predict", mixed_folder, "--model", tiny_folder),
        *("--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json"),
    )
    assert status == 1
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0] == HEADER
    rows = read_rows(tmp_path / "out.csv")
    order = (
        "bomb.png cut_off.png empty.bmp one_pixel.png text.png UID_7_1_1_all.bmp UID_H3_1_1_hem.png wrong_suffix.jpg"
    )
    assert [row["path"] for row in rows] == [str(mixed_folder / name) for name in order.split()]
    expected = predict(tiny_folder, [row["path"] for row in rows])
    for row, item in zip(rows, expected, strict=True):
        assert (row["subject"] or None, row["label"] or None, row["error"] or None) == (
            *(item.subject, item.label, item.error),
        )
        if item.error is None:
            assert float(row["p_hem"]) == pytest.approx(item.probabilities[0], abs=1e-6)
            assert float(row["p_all"]) == pytest.approx(item.probabilities[1], abs=1e-6)
        else:
            assert row["p_hem"] == row["p_all"] == ""
            assert f"not read: {item.error}" in err.splitlines()
    assert len(err.splitlines()) == 5
    records = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [list(record) for record in records] == [HEADER.split(",")] * 8
    for row, record in zip(rows, records, strict=True):
        assert {key: "" if value is None else str(value) for key, value in record.items()} == row
    assert "8 files by" in out
    assert "1 hem, 2 all, 5 not read." in out
    assert "2 files without the suffix of an image" in out
    table = out.split("\n\n")[0].splitlines()
    assert len(table) == 9
    assert len({line.rfind("not read") for line in table if "not read" in line}) == 1
    assert out.splitlines()[-1] == STATEMENT


def test_predict_named_files_takes_each(run, tiny_folder, mixed_folder):
    status, out, err = run(
        "predict", mixed_folder / "report.pdf", mixed_folder / "UID_7_1_1_all.bmp", "--model", tiny_folder
    )
    assert status == 1
    assert "is a PDF document" in err
    assert "2 files by" in out


def test_quiet_and_long_lists_print_no_table(run, tiny_folder, mixed_folder, monkeypatch, tmp_path):
    status, out, err = run("predict", mixed_folder, "--model", tiny_folder, "--quiet", "--csv", tmp_path / "o.csv")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 5
    assert len(read_rows(tmp_path / "o.csv")) == 8
    monkeypatch.setattr(predictions, "_TABLE_ROWS", 7)
    status, out, err = run("predict", mixed_folder, "--model", tiny_folder, "--batch-size", 3)
    assert "wrong_suffix.jpg" not in out
    assert "Above 7 files there is no table: --csv FILE" in out
    assert "1 hem, 2 all, 5 not read." in out
    assert len(err.splitlines()) == 5
    assert "--csv FILE" not in run("predict", mixed_folder, "--model", tiny_folder, "--csv", tmp_path / "o.csv")[1]


def test_the_model_of_a_folder_goes_by_the_name_of_the_folder(run, tiny_model, tmp_path, monkeypatch):
    """Trained further from a weight of the zoo, it is not that weight any more."""
    import dataclasses

    model = load_model("cnn_attention", weights=None)
    model.zoo = dataclasses.replace(tiny_model.zoo, preprocessing=model.zoo.preprocessing, weight="cnn_attention.cnmc")
    save_model(model, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert "6 files by mine: " in run("predict", EXAMPLES, "--model", "mine")[1]


def test_many_classes_stay_in_line(run, tmp_path):
    names = ("hem", "acute_lymphoblastic", "x")
    save_model(load_model("cnn_attention", weights=None, num_classes=3, class_names=names), tmp_path / "three")
    status, out, _ = run("predict", EXAMPLES, "--model", tmp_path / "three", "--csv", tmp_path / "out.csv")
    assert status == 0
    header = "path,subject,label,p_hem,p_acute_lymphoblastic,p_x,verdict,ood_score,unfamiliar,error"
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0] == header
    for part in out.split("\n\n")[:2]:
        lines = part.splitlines()
        for column in ("p_acute_lymphoblastic", "p_x"):
            ends = lines[0].index(column) + len(column)
            assert all(re.search(r"\d$", line[:ends]) for line in lines[1:])
            assert all(line[ends : ends + 1] in ("", " ") for line in lines)


def test_file_names_that_a_terminal_cannot_show(run, tiny_folder, mixed_folder, tmp_path):
    folder = tmp_path / "names"
    folder.mkdir()
    names = [b"new\nline.bmp", b"red\x1b[31m.bmp", b"latin1-\xe9.bmp"]
    for name in names:
        try:
            shutil.copy(mixed_folder / "UID_7_1_1_all.bmp", folder / os.fsdecode(name))
        except OSError:
            pytest.skip("this file system has no such names")
    (folder / "bad\x1b[31m.png").write_text("text")
    status, out, err = run(
        "predict", folder, "--model", tiny_folder, "--csv", tmp_path / "o.csv", "--json", tmp_path / "o.json"
    )
    assert status == 1
    assert "\x1b" not in out + err
    assert len(out.split("\n\n")[0].splitlines()) == 5
    assert len(read_rows(tmp_path / "o.csv")) == 4
    records = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert {os.fsencode(Path(record["path"]).name) for record in records} >= set(names)


# --- what is passed over, linked or locked ---


def test_what_is_met_beside_the_cells_is_told(run, two_wards, tiny_folder):
    """Thumbnails of a NAS are no cells; one file through a link counts once."""
    (two_wards / "a" / "@eaDir").mkdir()
    shutil.copy(two_wards / "a" / "1.bmp", two_wards / "a" / "@eaDir" / "thumb.bmp")
    folders = (two_wards / "a", two_wards / "b")
    options = ("--model", tiny_folder, "--csv", two_wards / "o.csv")
    status, _, err = run("predict", *folders, *options)
    assert (status, err) == (0, f"note: 1 folder of the system passed over: {two_wards / 'a' / '@eaDir'}.\n")
    status, _, err = run("predict", *folders, two_wards / "b" / "1.bmp", *options)
    assert status == 0
    assert "1 file was named twice or through a link and counted once" in err
    assert len(read_rows(two_wards / "o.csv")) == 3


def test_a_broken_link_has_a_row_and_a_status(run, two_wards, tiny_folder):
    try:
        (two_wards / "a" / "annexed.bmp").symlink_to(".git/annex/objects/SHA256E-s1--0.bmp")
        (two_wards / "b" / "patient 7").symlink_to(two_wards / "gone")
    except OSError:
        pytest.skip("this system makes no links")
    out = two_wards / "o.csv"
    for given in (two_wards / "a", two_wards / "a" / "annexed.bmp"):
        status, _, err = run("predict", given, "--model", tiny_folder, "--csv", out)
        assert status == 1
        assert "annexed.bmp is a link to '.git/annex/objects/SHA256E-s1--0.bmp', which is not there" in err
        assert [bool(row["error"]) for row in read_rows(out) if "annexed" in row["path"]] == [True]
    status, _, err = run("predict", two_wards / "b", "--model", tiny_folder, "--csv", out)
    assert status == 1
    assert "patient 7 is a link to" in err
    assert len(read_rows(out)) == 2


def test_a_locked_subfolder_is_told_and_the_rest_is_classified(run, two_wards, tiny_folder, monkeypatch):
    scandir, locked = os.scandir, two_wards / "b" / "locked"
    locked.mkdir()

    def refuse(path="."):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, _, err = run("predict", two_wards / "b", "--model", tiny_folder, "--csv", two_wards / "o.csv")
    assert status == 1
    assert err == f"note: {locked} cannot be listed (Permission denied): check your right to read the folder.\n"
    assert [Path(row["path"]).name for row in read_rows(two_wards / "o.csv")] == ["1.bmp", "2.png"]
    status, _, err = run("predict", locked, "--model", tiny_folder)
    assert status == 2
    assert err.count("cannot be listed") == 1


# --- subjects from a CSV ---


def write_subjects(path, *rows, header="path,subject"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def two_wards(tmp_path, mixed_folder):
    """The same file names in two folders."""
    for ward in ("a", "b"):
        (tmp_path / ward).mkdir()
        shutil.copy(mixed_folder / "UID_7_1_1_all.bmp", tmp_path / ward / "1.bmp")
    shutil.copy(mixed_folder / "UID_H3_1_1_hem.png", tmp_path / "b" / "2.png")
    return tmp_path


def subjects_of(run, folder, *options):
    status, _, err = run("predict", folder / "a", folder / "b", *options, "--csv", folder / "o.csv")
    assert (status, err) == (0, "")
    return {str(Path(row["path"]).relative_to(folder)): row["subject"] for row in read_rows(folder / "o.csv")}


def test_subjects_by_path_and_by_name(run, two_wards, tiny_folder):
    options = ("--model", tiny_folder, "--subjects", two_wards / "s.csv")
    rows = [(two_wards / "a" / "1.bmp", "Ada"), (two_wards / "b" / ".." / "b" / "1.bmp", "Bob"), ("2.png", "Bob")]
    write_subjects(two_wards / "s.csv", *rows)
    assert subjects_of(run, two_wards, *options) == {"a/1.bmp": "Ada", "b/1.bmp": "Bob", "b/2.png": "Bob"}
    out = run("predict", two_wards / "a", two_wards / "b", *options)[1]
    assert re.search(r"^Ada +1 .*\nBob +2 ", out, re.MULTILINE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_subjects_as_spreadsheets_write_them(run, two_wards, tiny_folder, encoding):
    content = f" Subject ;PATH\r\nAda ; {two_wards / 'a' / '1.bmp'}\r\nBob; 2.png \r\n;\r\n"
    (two_wards / "s.csv").write_bytes(content.encode(encoding))
    status, _, _ = run(
        *("predict", two_wards / "a", two_wards / "b", "--model", tiny_folder),
        *("--subjects", two_wards / "s.csv", "--csv", two_wards / "o.csv"),
    )
    assert status == 0
    assert [row["subject"] for row in read_rows(two_wards / "o.csv")] == ["Ada", "", "Bob"]


def test_a_name_that_two_files_share_tells_nothing_of_the_one_that_is_not_listed(run, two_wards, tiny_folder):
    """The cell of the other ward is somebody else's."""
    write_subjects(two_wards / "s.csv", (two_wards / "a" / "1.bmp", "Ada"))
    files = (two_wards / "a", two_wards / "b", "--model", tiny_folder, "--csv", two_wards / "o.csv")
    status, _, err = run("predict", *files, "--subjects", two_wards / "s.csv")
    assert status == 0
    assert [row["subject"] for row in read_rows(two_wards / "o.csv")] == ["Ada", "", ""]
    assert (
        f"note: 1 files have no subject, since others have their name too, such as {two_wards / 'b' / '1.bmp'}" in err
    )


def test_subjects_are_printed_without_what_a_terminal_obeys(run, two_wards, tiny_folder):
    write_subjects(two_wards / "s.csv", ("2.png", "\x1b[31mAda"))
    out = run("predict", two_wards / "b", "--model", tiny_folder, "--subjects", two_wards / "s.csv")[1]
    assert "\x1b" not in out
    assert len(re.findall(r"\\x1b\[31mAda", out)) == 2


def test_a_name_that_two_subjects_share_tells_nothing(run, two_wards, tiny_folder):
    write_subjects(two_wards / "s.csv", ("elsewhere/a/1.bmp", "Ada"), ("elsewhere/b/1.bmp", "Bob"), ("x/2.png", "Bob"))
    found = subjects_of(run, two_wards, "--model", tiny_folder, "--subjects", two_wards / "s.csv")
    assert found == {"a/1.bmp": "", "b/1.bmp": "", "b/2.png": "Bob"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "columns path and subject"),
        (b"path,subject\n", "one row a file"),
        (b"file,patient\n1.bmp,Ada\n", "columns path and subject"),
        (b"path,subject\n1.bmp\n", "lacks a path or a subject in row 2"),
        (b"path,subject\n1.bmp,Ada\n,Bob\n", "lacks a path or a subject in row 3"),
        (b"path,subject\n1.bmp,Ada\n1.bmp,Bob\n", "two subjects, Ada and Bob"),
        (b"path,subject\n1.bmp,Ada\n2.png,ADA\n", "differ in case, spaces or zeros alone"),
        (b"path,subject\n1.bmp,Zo\xeb\n", "no CSV in UTF-8"),
        (b"path,subject\nother.bmp,Ada\n", "a subject for none of the 3 files"),
    ],
)
def test_a_wrong_list_of_subjects(run, two_wards, tiny_folder, content, words):
    (two_wards / "s.csv").write_bytes(content)
    status, out, err = run(
        "predict", two_wards / "a", two_wards / "b", "--model", tiny_folder, "--subjects", two_wards / "s.csv"
    )
    assert (status, out) == (2, "")
    assert words in error_line(err)


# --- mistakes ---


def test_mistakes_are_told_in_one_line(run, tiny_folder, mixed_folder, tmp_path):
    cell, empty = mixed_folder / "UID_7_1_1_all.bmp", tmp_path / "empty"
    empty.mkdir()
    tiny = ("--model", tiny_folder)
    cases = [
        (("predict", tmp_path / "gone", *tiny), "does not exist"),
        (("predict", empty, *tiny), "no images in"),
        (("predict", cell, "--model", "cnn_atention"), "did you mean cnn_attention"),
        (("predict", cell, "--model", empty), "no config.json"),
        (("predict", cell, "--model", tmp_path / "gone"), "no folder"),
        (("predict", cell, *tiny, "--subjects", tmp_path / "gone.csv"), "No such file"),
        (("predict", cell, *tiny, "--csv", empty), "is a folder"),
        (("predict", cell, *tiny, "--json", cell / "o.json"), str(cell)),
        (("info", "nothing"), "no model 'nothing'"),
        (("verify", tmp_path / "gone"), "gone"),
    ]
    for arguments, words in cases:
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert words in error_line(err)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict",),
        ("unknown",),
        ("info",),
        ("list", "--nothing"),
        *(("predict", "x", "--batch-size", size) for size in ("0", "-1", "many", "2.5")),
        ("train", "cnn"),
        *(("train", "cnn", "--data", ".", "--out", "x", "--devices", number) for number in ("0", "some")),
        ("export", "cnn", "--out", "x", "--views", "3"),
        ("finetune", "--data", ".", "--out", "x", "--split-by", "cell"),
    ],
)
def test_a_wrong_call_shows_the_usage(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: leukaemia-zoo")
    assert error_line(err.splitlines()[-1])


def test_a_mistyped_command_or_option_is_answered_with_the_right_one(run):
    assert "Did you mean 'predict'?" in run("predit", "x")[2]
    assert "Did you mean '--exclude-overlap'?" in run("benchmark", "cnn", "--exclude")[2]


def test_an_architecture_without_weights(run, mixed_folder, monkeypatch):
    bare = dataclasses.replace(registry.ARCHITECTURES["vgg16"], default_weight=None)
    monkeypatch.setitem(registry.ARCHITECTURES, "vgg16", bare)
    status, out, err = run("predict", mixed_folder, "--model", "vgg16")
    assert (status, out) == (2, "")
    assert "no pretrained weight for 'vgg16'" in error_line(err)


def test_an_unknown_model_is_told_before_the_backend_loads(run, mixed_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "leukaemia_zoo.zoo.loading", None)  # importing it now fails
    status, _, err = run("predict", mixed_folder, "--model", "resnet5")
    assert status == 2
    assert "did you mean resnet50" in error_line(err)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "o.csv"), KeyboardInterrupt()])
def test_nothing_is_left_behind_when_it_fails_midway(run, tiny_folder, mixed_folder, tmp_path, monkeypatch, error):
    out = tmp_path / "out"
    out.mkdir()
    (out / "o.csv").write_text("the results of yesterday\n")
    rows, row = [], output.row

    def fail(*arguments):
        if len(rows) == 6:
            # By now both files are open, beside their names.
            assert len(list(out.iterdir())) == 3
            raise error
        rows.append(arguments)
        return row(*arguments)

    monkeypatch.setattr(output, "row", fail)
    status, _, err = run(
        "predict", mixed_folder, "--model", tiny_folder, "--csv", out / "o.csv", "--json", out / "o.json"
    )
    if isinstance(error, KeyboardInterrupt):
        assert (status, err) == (130, "leukaemia-zoo: stopped.\n")
    else:
        told = "o.csv cannot be written (No space left on device): make room, or name another place."
        assert (status, err) == (2, f"leukaemia-zoo: error: {told}\n")
    assert [path.name for path in out.iterdir()] == ["o.csv"]
    assert (out / "o.csv").read_text() == "the results of yesterday\n"


def test_results_replace_older_ones(run, tiny_folder, mixed_folder, tmp_path):
    (tmp_path / "o.csv").write_text("the results of yesterday\n" * 1000)
    cell = mixed_folder / "UID_7_1_1_all.bmp"
    assert run("predict", cell, "--model", tiny_folder, "--csv", tmp_path / "o.csv")[0] == 0
    assert len(read_rows(tmp_path / "o.csv")) == 1


def test_verify_tells_by_its_status(run, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "UID_1_1_1_all.bmp")
    status, out, _ = run("verify", tmp_path)
    assert status == 1
    assert out.strip()


# --- what is imported: each in a process of its own ---


HEAVY = ("keras", "tensorflow", "jax", "torch", "huggingface_hub")
REPORT = (
    f"import sys; print('IMPORTED', [name for name in {(*HEAVY, 'PIL', 'requests', 'httpx')!r} if name in sys.modules])"
)


def imported(code):
    done = in_new_process("-c", f"{code}\n{REPORT}")
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("IMPORTED ", 1)[1].strip()


def test_importing_the_package_imports_nothing_heavy():
    assert imported("import leukaemia_zoo; leukaemia_zoo.__version__; dir(leukaemia_zoo)") == "[]"


@pytest.mark.parametrize("arguments", [["list"], ["info", "cnn"], ["--help"], ["predict", "--help"], ["verify", "."]])
def test_light_commands_import_no_backend(arguments, tmp_path):
    code = f"""
import contextlib, os
from leukaemia_zoo.cli.app import main
os.chdir({str(tmp_path)!r})
with contextlib.suppress(SystemExit):
    main({arguments!r})
"""
    assert not [name for name in HEAVY if f"'{name}'" in imported(code)]


def test_public_names_resolve():
    import leukaemia_zoo

    for name in leukaemia_zoo.__all__:
        assert getattr(leukaemia_zoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = leukaemia_zoo.nothing


def test_a_first_run_in_a_shell(tiny_folder, tmp_path):
    """As a user sees it: nothing on the error stream, not even the start-up notes of the backend."""
    command = ("-m", "leukaemia_zoo", "predict", EXAMPLES, "--model", tiny_folder, "--csv", tmp_path / "o.csv")
    done = in_new_process(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert STATEMENT in done.stdout
    assert len(read_rows(tmp_path / "o.csv")) == 6


@pytest.mark.skipif(os.name == "nt", reason="a pipe of a POSIX shell")
def test_a_reader_that_stops_early():
    code = "import sys; from leukaemia_zoo.cli.app import main; sys.exit(main(['list']))"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_outside_a_utf_8_locale(mixed_folder, tiny_folder):
    done = in_new_process(
        *("-m", "leukaemia_zoo", "predict", mixed_folder / "no such ☃.png", "--model", tiny_folder),
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 2
    assert "\\u2603" in done.stderr
    assert "Traceback" not in done.stderr
