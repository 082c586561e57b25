"""What the commands write where: no input, device or folder of the user's is lost, whatever they are started with."""

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from leukaemia_zoo import save_model
from leukaemia_zoo.adaptation.fine_tuning import fine_tune
from leukaemia_zoo.benchmarking.runner import benchmark
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.cli.output import progress
from leukaemia_zoo.common.run_folder import BENCHMARK, RUN, RunFolder
from leukaemia_zoo.errors import DataError, WeightsError
from leukaemia_zoo.zoo import save_pretrained

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
STATEMENT = "For research only"


@pytest.fixture
def cells(tmp_path, draw_cell):
    """Three cells of three subjects."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for number, level in enumerate((60, 190, 120)):
        Image.fromarray(draw_cell(number, 64, level=level)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(capsys, tiny_folder):
    def run(command, *arguments):
        model = ("--model", tiny_folder) if command == "predict" and "--model" not in arguments else ()
        capsys.readouterr()
        try:
            status = main([command, *map(str, (*arguments, *model))])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# --- verdicts ---


def test_the_verdict_stands_in_table_and_files(run, cells, tmp_path, limited_folder):
    subjects = tmp_path / "subjects.csv"
    subjects.write_text("path,subject\n0.png,P1\n1.png,P2\n2.png,P1\n")
    call = ("predict", cells, "--model", limited_folder, "--csv", tmp_path / "o.csv", "--json", tmp_path / "o.json")
    status, out, err = run(*call, "--subjects", subjects)
    assert (status, err) == (0, "")
    wanted = ["hem", "all", "uncertain"]
    assert [row["verdict"] for row in rows((tmp_path / "o.csv").read_text())] == wanted
    assert [row["verdict"] for row in json.loads((tmp_path / "o.json").read_text())] == wanted
    table, people, summary = out.split("\n\n")
    head, *lines = table.splitlines()
    assert head.split()[-1] == "verdict"
    assert [line[head.index("verdict") :] for line in lines] == wanted
    titles, *each = (line.split() for line in people.splitlines())
    place = titles.index("uncertain") - len(titles)
    assert [(line[0], line[place]) for line in each] == [("P1", "1"), ("P2", "0")]
    assert (
        "1 of 3 cells is uncertain, for a human to judge: two or more classes are not ruled out "
        "(miss rate: hem 0.1, all 0.05)."
    ) in summary.splitlines()


def test_the_command_takes_another_miss_rate(run, cells, tmp_path, limited_folder, tiny_folder):
    for rate, verdicts in ((0.05, ["hem", "uncertain", "uncertain"]), (0.2, ["hem", "all", "all"])):
        status, out, _ = run("predict", cells, "--model", limited_folder, "--miss-rate", rate, "--csv", "-")
        assert status == 0
        assert [row["verdict"] for row in rows(out)] == verdicts
    table = tmp_path / "o.csv"
    status, out, err = run("predict", cells, "--model", limited_folder, "--miss-rate", 0.3, "--csv", table)
    assert (status, out) == (2, "")
    assert err == ("leukaemia-zoo: error: There are no limits for a miss rate of 0.3: choose one of 0.05, 0.1, 0.2.\n")
    status, out, err = run("predict", cells, "--model", tiny_folder, "--miss-rate", 0.1, "--csv", table)
    assert (status, out) == (2, "")
    assert "has no limits of verdicts, so that there is no miss rate to choose" in err
    assert not table.exists()


def test_without_limits_there_is_no_word_of_verdicts_on_cells(run, cells, tmp_path):
    _, out, _ = run("predict", cells, "--csv", tmp_path / "o.csv")
    assert "uncertain" not in out
    assert out.splitlines()[0].split() == ["path", "subject", "label", "p_hem", "p_all"]
    assert [row["verdict"] for row in rows((tmp_path / "o.csv").read_text())] == ["", "", ""]


# --- an output that is an input ---


def test_no_output_replaces_an_input(run, cells, tmp_path, tiny_folder):
    images = sorted(cells.iterdir())
    subjects = tmp_path / "subjects.csv"
    subjects.write_text("path,subject\n" + "".join(f"{path.name},P{n}\n" for n, path in enumerate(images)))
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    (tmp_path / "link.csv").symlink_to(images[1])
    before = contents(tmp_path)
    cases = [
        (("--csv", *images), ("--csv", images[0], "no text")),  # --csv cells/*.png
        (("--json", *images), ("--json", images[0], "no text")),
        ((*images, "--csv", subjects, "--subjects", subjects), ("--csv", "--subjects", subjects)),
        ((*images, "--json", subjects, "--subjects", subjects), ("--json", "--subjects", subjects)),
        ((cells, "--csv", tmp_path / "link.csv"), ("--csv", "link.csv", "would overwrite", images[1])),
        ((cells, "--json", images[0]), ("--json", "would overwrite", "the image", images[0])),
        ((cells, "--csv", "x.csv", "--json", "./x.csv"), ("--csv", "--json", "x.csv")),
        ((cells, "--csv", "-", "--json", "-"), ("--csv", "--json")),
        ((cells, "--json", model / "config.json", "--model", model), ("--json", "--model", "config.json")),
        ((cells, "--csv", model / "model.safetensors", "--model", model), ("--csv", "--model", "model.safetensors")),
    ]
    for arguments, words in cases:
        status, out, err = run("predict", *arguments)
        assert (status, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1
        assert [word for word in map(str, words) if word not in err] == [], err
        assert contents(tmp_path) == before


def test_an_input_that_is_text_is_not_replaced_either(run, tmp_path):
    (tmp_path / "cell.txt").write_text("not an image, but named")
    status, _, err = run("predict", tmp_path / "cell.txt", "--csv", tmp_path / "cell.txt")
    assert status == 2
    assert "would overwrite what is to be read, the image" in err
    assert (tmp_path / "cell.txt").read_text() == "not an image, but named"


@pytest.mark.parametrize("command", ["benchmark", "finetune", "train"])
def test_no_run_replaces_its_own_data(run, cells, tmp_path, tiny_folder, command):
    name = {"benchmark": "report.csv", "finetune": "curves.csv", "train": "validation.csv"}[command]
    data = tmp_path / "proj" / name
    data.parent.mkdir()
    data.write_text("path,label,subject\n" + "".join(f"../cells/{n}.png,{c},P{n}\n" for n, c in enumerate("aba")))
    before = contents(tmp_path)
    model = "cnn" if command == "train" else tiny_folder
    status, out, err = run(command, model, "--data", data, "--out", data.parent, "--restart")
    assert (status, out) == (2, "")
    assert f"would overwrite what is to be read, {'--data' if command == 'train' else 'the data'} {data}" in err
    assert contents(tmp_path) == before


def test_a_model_is_not_fine_tuned_onto_itself(cells, tmp_path, tiny_folder):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    before = contents(model)
    with pytest.raises(DataError, match="would overwrite what is to be read, the model"):
        fine_tune(model, cells, model, restart=True)
    assert contents(model) == before


# --- what a run finds in its folder ---


@pytest.mark.parametrize(
    ("command", "name"),
    [("finetune", name) for name in ("README.md", "report.html", "config.json")]
    + [("train", "config.json"), ("benchmark", "report.html")],
)
def test_files_of_the_user_are_refused_before_the_work(run, cells, tmp_path, tiny_folder, command, name):
    out = tmp_path / "proj"
    out.mkdir()
    (out / name).write_text("mine")
    data = tmp_path / "cells.csv"
    data.write_text("path,label,subject\n" + "".join(f"cells/{n}.png,{c},P{n}\n" for n, c in enumerate("aba")))
    status, _, err = run(command, "cnn" if command == "train" else tiny_folder, "--data", data, "--out", out)
    assert status == 2
    assert name in err
    assert "reading" not in err  # told before an image is read
    assert contents(out) == {name: b"mine"}


def test_the_user_s_own_state_stays(tiny_folder, tmp_path, cells):
    """`state` and `unfinished` are names that people give, and a folder of our name is not ours without its marker."""
    table = tmp_path / "cells.csv"
    table.write_text(
        "path,label,subject\n" + "".join(f"cells/{n}.png,{c},P{n}\n" for n, c in enumerate(("hem", "all")))
    )
    for name in ("state", "unfinished"):
        (tmp_path / "proj" / name).mkdir(parents=True)
        (tmp_path / "proj" / name / "progress.json").write_text("mine")
    quick = {"cost": False, "resamples": 20, "baselines": False}
    for restart in (False, True):
        benchmark({"tiny": tiny_folder}, table, out=tmp_path / "proj", restart=restart, **quick)
        for name in ("state", "unfinished"):
            assert (tmp_path / "proj" / name / "progress.json").read_text() == "mine"
    (tmp_path / "proj" / BENCHMARK).mkdir()
    (tmp_path / "proj" / BENCHMARK / "tiny.npz").write_text("mine")
    with pytest.raises(DataError, match="not made by leukaemia-zoo"):
        benchmark({"tiny": tiny_folder}, table, out=tmp_path / "proj", restart=True, **quick)
    assert (tmp_path / "proj" / BENCHMARK / "tiny.npz").read_text() == "mine"


@pytest.mark.parametrize("restart", [(), ("--restart",)])
@pytest.mark.parametrize("command", [("finetune",), ("train",), ("train", "--cross-validate", 2)])
def test_a_folder_of_our_name_that_is_not_ours_stays(run, draw_cell, tmp_path, tiny_folder, command, restart):
    root = tmp_path / "own"
    for label, level in (("hem", 60), ("all", 190)):
        (root / label).mkdir(parents=True)
        for subject in range(6):
            frame = draw_cell(subject + 10 * level, 64, level=level)
            Image.fromarray(frame).save(root / label / f"UID_{'H' if label == 'hem' else ''}{subject}_1_1_{label}.png")
    mine = tmp_path / "proj" / RUN / "progress.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    more = ("--teacher", "none") if command[0] == "train" else ()
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"fine_tune_epochs": 1, "input_size": 40, "head": "flatten"} if more else {}))
    name = "cnn" if more else tiny_folder
    arguments = ("--data", root, "--out", tmp_path / "proj", "--recipe", recipe, *more, *restart)
    status, _, err = run(command[0], name, *arguments, *command[1:])
    assert status == 2
    assert "not made by leukaemia-zoo" in err
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (("--cross-validate", 2, "--split", "split.json"), "makes its own folds and calibration: leave out --split"),
        (
            ("--cross-validate", 2, "--calibration", "cv"),
            "makes its own folds and calibration: leave out --calibration",
        ),
        (("--keep-networks",), "--keep-networks is for --cross-validate"),
    ],
)
def test_options_that_a_training_would_pass_over_are_refused(run, cells, tmp_path, words, mistake):
    status, _, err = run("train", "cnn", "--data", cells, "--out", tmp_path / "out", "--teacher", "none", *words)
    assert status == 2
    assert mistake in err
    assert not (tmp_path / "out").exists()


def test_models_are_saved_where_it_can_be_told(tiny_model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for save in (save_model, save_pretrained):
        for folder in (tmp_path / "file", tmp_path / "file" / "model"):
            with pytest.raises(WeightsError, match="cannot be saved in"):
                save(tiny_model, folder)
    (tmp_path / "model" / "config.json").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"cannot be saved in|is a folder"):
        save_model(tiny_model, tmp_path / "model")
    assert (tmp_path / "file").read_text() == "mine"


# --- standard output, pipes, links ---


def test_data_on_the_standard_output_stand_alone(cells, capfdbinary, tiny_folder):
    assert main(["predict", str(cells), "--model", str(tiny_folder), "--csv", "-"]) == 0
    out, err = capfdbinary.readouterr()
    found = rows(out.decode())
    assert [Path(row["path"]).name for row in found] == ["0.png", "1.png", "2.png"]
    assert {row["label"] for row in found} <= {"hem", "all"}
    assert b"3 files by" in err
    assert STATEMENT.encode() in err
    assert not Path("-").exists()
    assert main(["predict", str(cells), "--model", str(tiny_folder), "--json", "-", "--quiet"]) == 0
    out, err = capfdbinary.readouterr()
    assert len(json.loads(out)) == 3
    assert err == b""


@pytest.mark.parametrize("command", ["train", "finetune", "benchmark"])
def test_a_folder_cannot_be_the_standard_output(run, cells, command):
    status, _, err = run(command, "cnn", "--data", cells, "--out", "-")
    assert status == 2
    assert "is the standard output and no folder" in err


@posix
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_pipe_and_a_link_get_the_rows(run, cells, tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert run("predict", cells, f"--{kind}", tmp_path / "pipe")[0] == 0
    reader.join(10)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "target").write_text("of yesterday")
    (tmp_path / "link").symlink_to("target")
    assert run("predict", cells, f"--{kind}", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == read[0]
    assert len(rows(read[0]) if kind == "csv" else json.loads(read[0])) == 3


@posix
@pytest.mark.slow
def test_a_process_without_standard_streams(cells, tmp_path, tiny_folder):
    """`2>&-` and `>&-` close the streams: the numbers must not pass to the files that are written."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = f"'{sys.executable}' -m leukaemia_zoo predict '{cells}/?.png' --model '{tiny_folder}' --csv"
    wanted = None
    for number, closed in enumerate(("", "2>&-", ">&- 2>&-", "<&- >&- 2>&-")):
        file = tmp_path / f"{number}.csv"
        subprocess.run(["/bin/sh", "-c", f"{command} {file} {closed}"], env=environment, check=True)
        wanted = wanted or file.read_text()
        assert file.read_text() == wanted
    assert len(rows(wanted)) == 3
    if shutil.which("bash"):
        piped = f"{command} >(cat > {tmp_path}/piped.csv); wait $!; sleep 0.2"
        subprocess.run(["bash", "-c", piped], env=environment, check=True, capture_output=True)
        assert (tmp_path / "piped.csv").read_text() == wanted


def test_pythonw_has_no_streams(cells, tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["predict", str(cells), "--model", str(tiny_folder), "--csv", str(tmp_path / "o.csv")]) == 0
    assert len(rows((tmp_path / "o.csv").read_text())) == 3
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list"]) == 0
    assert main(["info", "nothing"]) == 2
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert main(["predict", str(cells), "--model", str(tiny_folder), "--csv", "-"]) == 2
    assert "no standard output" in sys.stderr.getvalue()


def test_the_package_is_a_command():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "leukaemia_zoo", "--version"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("leukaemia-zoo ")
    failed = subprocess.run(
        [sys.executable, "-m", "leukaemia_zoo", "info", "x"], env=environment, capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("leukaemia-zoo: error: ")


# --- paths as people write them ---


def test_patterns_in_quotes_and_the_home_folder(run, cells, tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    def names(*arguments):
        status, _, err = run("predict", *arguments, "--csv", "~/o.csv")
        assert (status, err) == (0, "")
        return [Path(row["path"]).name for row in rows((tmp_path / "o.csv").read_text())]

    assert names("~/cells/[02].png") == ["0.png", "2.png"]
    assert names("~/cells") == ["0.png", "1.png", "2.png"]
    assert names(f"{tmp_path}/*/1.png", "~/cells/0.png") == ["1.png", "0.png"]
    shutil.copy(cells / "0.png", cells / "[02].png")  # a name, not a pattern
    assert names("~/cells/[02].png") == ["[02].png"]
    shutil.copytree(tiny_folder, tmp_path / "model")
    assert names("~/cells/1.png", "--model", "~/model") == ["1.png"]
    status, out, err = run("predict", "~/cells/x*.png")
    assert (status, out) == (2, "")
    assert "Nothing matches ~/cells/x*.png" in err


def test_other_commands_take_such_paths_too(run, cells, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "c-nmc").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "c-nmc" / "UID_1_1_1_all.bmp")
    assert run("verify", "~/c-n*")[0] == 1  # read, and not the official file
    (tmp_path / "c-nmc2").mkdir()
    status, _, err = run("verify", "~/c-n*")
    assert status == 2
    assert "stands for 2 files and folders" in err
    assert str(tmp_path / "gone") in run("verify", "~/gone")[2]
    assert run("benchmark", "~/run*", "--data", cells, "--out", tmp_path / "o")[2].endswith(
        "Nothing matches ~/run*: check the pattern.\n"
    )


def test_nothing_of_a_run_is_left_in_a_folder_of_ours(tmp_path):
    run = RunFolder(tmp_path / RUN, "x")
    run.begin()
    run.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_sees_how_far_a_folder_is(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for terminal, seen in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", terminal)
        bar = progress(range(3), 3, "images", quiet=False)
        assert (getattr(bar, "total", None) == 3) is seen
        assert list(bar) == [0, 1, 2]
    monkeypatch.setattr("sys.stderr", Terminal())
    assert progress(items := [1, 2], 2, "images", quiet=True) is items


@pytest.mark.parametrize(
    "words",
    [
        ("predict", ""),
        ("predict", "CELLS", "--csv", ""),
        ("predict", "CELLS", "--parquet", ""),
        ("cells", "CELLS", "--out", ""),
        ("explain", "", "--out", "new"),
        ("benchmark", "TINY", "--data", "", "--out", "new"),
        ("export", "TINY", "--out", ""),
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_folder_of_now(run, cells, tmp_path, tiny_folder, monkeypatch, words):
    """As `predict "$CELLS"` gives one where the variable is not set."""
    monkeypatch.chdir(cells)
    status, out, err = run(*({"CELLS": str(cells), "TINY": str(tiny_folder)}.get(word, word) for word in words))
    assert (status, out) == (2, "")
    assert "A path is empty" in err
    assert sorted(path.name for path in cells.iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_folder_that_is_not_there_yet_is_no_table(run, cells, tmp_path):
    status, _, err = run("predict", cells, "--csv", f"{tmp_path}/new/")
    assert status == 2
    assert "names a folder: give the name of a file to write. `leukaemia-zoo predict --help`" in err
    assert not (tmp_path / "new").exists()


def test_an_exported_file_may_be_called_like_a_pattern(run, tiny_folder, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed (the extra export)")
    (tmp_path / "cells1.onnx").write_text("mine")
    assert run("export", "cnn", "--out", tmp_path / "cells[1].onnx")[0] == 0
    assert (tmp_path / "cells1.onnx").read_text() == "mine"
    assert (tmp_path / "cells[1].onnx").stat().st_size > 1000


def command(*words, **settings):
    """What a new process prints and returns."""
    call = [sys.executable, "-m", "leukaemia_zoo", *map(str, words)]
    return subprocess.run(call, check=False, capture_output=True, text=True, encoding="utf-8", **settings)


def test_a_warning_is_one_line_without_our_code(cells, tiny_folder):
    pytest.importorskip("onnx", reason="onnx is not installed (the extra export)")
    (cells / "more").symlink_to("not there")
    told = command("predict", cells / "0.png", "--precision", "int8", "--calibration", cells).stderr.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"note: {cells / 'more'} is a link to 'not there', which is not there")
    assert "There are 3 images to calibrate int8 on" in told[1]


@posix
def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(cells, tmp_path, tiny_folder):
    import resource

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    for option, name in (("--csv", "cells.csv"), ("--json", "cells.json"), ("--parquet", "new")):
        if option == "--parquet":
            pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra parquet)")
        out = tmp_path / "out" / name
        run = command("predict", cells, option, out, "--model", tiny_folder, preexec_fn=small_files)
        assert run.returncode == 2
        last = run.stderr.splitlines()[-1]
        assert last.startswith(f"leukaemia-zoo: error: {out}")
        assert last.endswith("cannot be written (File too large): make room, or name another place.")
        assert not out.exists()


def test_a_place_that_cannot_be_written_to_is_told_by_the_name_that_was_given(run, cells, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = run("predict", cells, "--csv", tmp_path / "file" / "new" / "cells.csv")
    assert status == 2
    assert err.startswith(f"leukaemia-zoo: error: Not a directory: {tmp_path}/file/new/cells.csv; check the path")


def test_info_says_where_to_read_of_a_model_that_is_not_of_the_zoo(run, tiny_folder):
    status, _, err = run("info", tiny_folder)
    assert status == 2
    assert f"{tiny_folder} is no weight of the zoo" in err
    assert "README.md" in err
