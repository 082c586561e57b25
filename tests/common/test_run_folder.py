"""`run_folder`: what an interrupted run keeps, and that nothing of the user's is touched."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from leukaemia_zoo.common.run_folder import MARKER, RUN, RunFolder, is_under_way, make_folder, refuse_to_replace
from leukaemia_zoo.errors import DataError

RECORDS = {"training.json": "recipe"}


def filled(folder, fingerprint="x"):
    run = RunFolder(folder, fingerprint)
    run.save_json("progress.json", {"epoch": 3})
    run.save_arrays("result.npz", {"a": np.arange(3)})
    run.inside("fold_0", "y").save_json("progress.json", {"epoch": 1})
    return run


def test_it_goes_on_and_is_gone_at_the_end(tmp_path):
    filled(tmp_path / RUN)
    again = RunFolder(tmp_path / RUN, "x")
    assert again.load_json("progress.json") == {"epoch": 3}
    assert again.load_arrays("result.npz")["a"].tolist() == [0, 1, 2]
    assert again.inside("fold_0", "y").load_json("progress.json") == {"epoch": 1}
    assert again.load_json("other.json") is again.load_arrays("other.npz") is None
    assert is_under_way(tmp_path / RUN)
    again.remove()
    assert list(tmp_path.iterdir()) == []
    assert not is_under_way(tmp_path / RUN)


@pytest.mark.parametrize("how", ["end", "restart"])
def test_only_files_that_it_wrote_are_removed(tmp_path, how):
    run = filled(tmp_path / RUN)
    (tmp_path / RUN / "notes.txt").write_text("mine")
    (tmp_path / RUN / "mine").mkdir()
    (tmp_path / RUN / "fold_0" / "notes.txt").write_text("mine")
    run.remove() if how == "end" else RunFolder(tmp_path / RUN, "z", restart=True)
    left = sorted(str(path.relative_to(tmp_path / RUN)) for path in (tmp_path / RUN).rglob("*"))
    assert left == ["fold_0", "fold_0/notes.txt", "mine", "notes.txt"]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("marker", [None, "", "{}", "[]", '{"files": ["../mine"], "folders": [], "ended": false}'])
def test_a_folder_that_is_not_ours_is_refused_and_left(tmp_path, marker, restart):
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "progress.json").write_text("mine")
    (tmp_path / "mine").write_text("mine")
    if marker is not None:
        (tmp_path / RUN / MARKER).write_text(marker)
    with pytest.raises(DataError, match="was not made by leukaemia-zoo"):
        RunFolder(tmp_path / RUN, None, restart)
    assert (tmp_path / RUN / "progress.json").read_text() == (tmp_path / "mine").read_text() == "mine"


def test_a_file_of_its_name_is_refused_and_left(tmp_path):
    (tmp_path / RUN).write_text("mine")
    with pytest.raises(DataError, match="was not made by leukaemia-zoo"):
        RunFolder(tmp_path / RUN, "x", restart=True)
    assert (tmp_path / RUN).read_text() == "mine"


def test_another_run_is_refused_unless_restarted(tmp_path):
    filled(tmp_path / RUN)
    with pytest.raises(DataError, match="--restart"):
        RunFolder(tmp_path / RUN, "other")
    assert RunFolder(tmp_path / RUN, "other", restart=True).load_json("progress.json") is None


@pytest.mark.parametrize("killed_at", range(5))
def test_a_removal_that_was_killed_is_brought_to_its_end(tmp_path, monkeypatch, killed_at):
    """Never may half of a state be taken for a whole one."""
    run = filled(tmp_path / RUN)
    done = []
    unlink = type(tmp_path).unlink

    def die(self, **arguments):
        if len(done) == killed_at:
            raise KeyboardInterrupt
        done.append(self)
        unlink(self, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            run.remove()
    assert not is_under_way(tmp_path / RUN)
    again = RunFolder(tmp_path / RUN, "another run")
    assert again.load_json("progress.json") is again.load_arrays("result.npz") is None
    assert not (tmp_path / RUN).exists()


def test_a_process_that_was_killed_before_its_first_file(tmp_path):
    (tmp_path / RUN).mkdir()
    filled(tmp_path / RUN).remove()
    assert list(tmp_path.iterdir()) == []


def test_files_of_the_user_are_not_replaced(tmp_path):
    refuse_to_replace(tmp_path, ["report.csv"], RECORDS)
    (tmp_path / "report.csv").write_text("mine")
    with pytest.raises(DataError, match=r"holds report\.csv, which the run would replace.*--restart"):
        refuse_to_replace(tmp_path, ["config.json", "report.csv"], RECORDS)
    refuse_to_replace(tmp_path, ["report.csv"], RECORDS, restart=True)
    (tmp_path / "training.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(DataError, match="which the run would replace"):
        refuse_to_replace(tmp_path, ["report.csv"], RECORDS)
    (tmp_path / "training.json").write_text(json.dumps({"recipe": {}}))
    refuse_to_replace(tmp_path, ["report.csv"], RECORDS)


def test_a_run_under_way_goes_on_among_its_own_files(tmp_path):
    filled(tmp_path / RUN)
    (tmp_path / "split.json").write_text("ours")
    refuse_to_replace(tmp_path, ["split.json"], RECORDS)


def test_an_input_in_the_folder_is_not_replaced_even_by_a_restart(tmp_path):
    (tmp_path / "report.csv").write_text("path,label\n")
    with pytest.raises(DataError, match=r"would overwrite what is to be read, the data"):
        refuse_to_replace(tmp_path, ["report.csv"], RECORDS, [("the data", tmp_path / "report.csv")], restart=True)


def test_a_folder_in_place_of_a_file_is_told_before_the_run(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(DataError, match=r"config\.json is a folder"):
        refuse_to_replace(tmp_path, ["config.json"], RECORDS, restart=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be made"):
        make_folder(tmp_path / "file" / "out")
    with pytest.raises(DataError, match=r"cannot be made"):
        make_folder(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write(tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(DataError, match="Permission denied"):
        make_folder(tmp_path / "out")


@pytest.mark.skipif(os.name != "posix", reason="Windows tells no two runs apart")
def test_two_processes_do_not_run_in_one_folder(tmp_path):
    """Parts of the one lay among those of the other, below a record that knew one of them alone."""
    place = tmp_path / RUN
    code = (
        "import sys; from pathlib import Path; from leukaemia_zoo.common.run_folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1]), 'same').begin(); print('begun', flush=True); sys.stdin.read()"
    )
    late = RunFolder(place, "same")  # as both see an empty folder
    with subprocess.Popen(
        [sys.executable, "-c", code, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "begun\n"
        for start in (late.begin, lambda: RunFolder(place, "same"), lambda: RunFolder(place, "other", restart=True)):
            with pytest.raises(DataError, match=r"Another process runs in .*: wait until it has ended"):
                start()
        assert (place / MARKER).is_file()
        other.kill()
    run = RunFolder(place, "same")  # which goes on, since the other was killed
    run.save_json("more.json", {})
    again = RunFolder(place, "same")  # as a notebook does, which keeps what it has interrupted
    assert again.load_json("more.json") == {}
    again.remove()
    assert not place.exists()
    RunFolder(place, "other").begin()
