"""`files`: what is written is whole or not there, and what somebody else keeps stays."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from leukaemia_zoo.common.files import OWN, refuse_to_overwrite, replacing, sweep, write_json, writing
from leukaemia_zoo.errors import DataError

posix = pytest.mark.skipif(os.name != "posix", reason="needs pipes and links as POSIX has them")


def write(path, text="new\n"):
    with replacing(path) as beside:
        beside.write_text(text)


def write_lines(path, text="new\n"):
    with writing(path) as file:
        file.write(text)


both = pytest.mark.parametrize("how", [write, write_lines])


@both
@posix
def test_a_link_stays_and_its_target_gets_the_content(tmp_path, how):
    target = tmp_path / "there" / "table.csv"
    target.parent.mkdir()
    target.write_text("old\n")
    (tmp_path / "first").symlink_to("there/table.csv")
    (tmp_path / "second").symlink_to(tmp_path / "first")
    how(tmp_path / "second")
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "first").is_symlink()
    assert target.read_text() == "new\n"
    assert [path.name for path in target.parent.iterdir()] == ["table.csv"]


@both
@posix
def test_a_link_that_leads_nowhere_yet_makes_its_target(tmp_path, how):
    (tmp_path / "link").symlink_to(tmp_path / "later" / "table.csv")
    how(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "later" / "table.csv").read_text() == "new\n"


@both
@posix
def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path, how):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    how(tmp_path / "pipe")
    reader.join(10)
    assert read == ["new\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@both
@posix
def test_a_device_stays_a_device(tmp_path, how):
    # Through a link of ours: were it replaced, only the link would be lost.
    (tmp_path / "null").symlink_to("/dev/null")
    how(tmp_path / "null")
    assert (tmp_path / "null").is_symlink()
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@both
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_device_is_told(tmp_path, how):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as told:
        how(tmp_path / "full")
    assert told.value.filename == str(tmp_path / "full")


@both
@pytest.mark.skipif(os.name != "posix", reason="needs a limit of a file's size")
def test_a_file_that_there_is_no_room_for_is_named_and_the_one_before_stays(tmp_path, how):
    import resource

    (tmp_path / "file").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(OSError, match="too large") as told:
            how(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.filename == str(tmp_path / "file")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs open files as paths")
def test_an_open_file_goes_on_where_it_was(tmp_path):
    """As `--csv /dev/stdout >> log` does."""
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        write_lines(f"/dev/fd/{log.fileno()}")
        log.write("after\n")
    assert (tmp_path / "log").read_text() == "before\nnew\nafter\n"


@both
def test_the_rights_of_a_file_stay(tmp_path, how):
    file = tmp_path / "private.csv"
    file.write_text("old\n")
    file.chmod(0o600)
    how(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "new\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_write_protected_file_is_not_replaced(tmp_path):
    file = tmp_path / "kept.csv"
    file.write_text("old\n")
    file.chmod(0o444)
    with pytest.raises(PermissionError):
        write(file)
    assert file.read_text() == "old\n"


def test_a_folder_is_not_replaced(tmp_path):
    for how in (write, write_lines):
        with pytest.raises(IsADirectoryError):
            how(tmp_path)


@posix
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    code = (
        "import sys, time\nfrom leukaemia_zoo.common.files import replacing\n"
        "with replacing(sys.argv[1]) as beside:\n    beside.write_text('half')\n    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    target = tmp_path / "table.csv"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"written\n"
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(OWN)
        os.utime(left, (time.time() - 60,) * 2)
        sweep(target)
        assert left.is_file()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.is_file()
    assert not target.exists()
    write(tmp_path / "other.csv")
    assert left.is_file()  # of another file
    write(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "table.csv"]


def test_a_long_name_can_be_written(tmp_path):
    file = tmp_path / f"{'n' * 250}.csv"
    write_json(file, 1)
    assert file.read_text() == "1\n"


def test_outputs_that_are_inputs(tmp_path):
    image = tmp_path / "cell.png"
    image.write_bytes(b"pixels")
    refuse_to_overwrite(
        [("--csv", tmp_path / "new.csv"), ("--json", None)], [("the image", image), ("--subjects", None)]
    )
    with pytest.raises(DataError, match=r"--csv .*cell.png would overwrite what is to be read, the image .*cell.png"):
        refuse_to_overwrite([("--csv", tmp_path / "." / "cell.png")], [("the image", image)])
    with pytest.raises(DataError, match=r"--csv .*x.csv and --json .*x.csv are the same file"):
        refuse_to_overwrite([("--csv", tmp_path / "x.csv"), ("--json", tmp_path / "new" / ".." / "x.csv")], [])
    with pytest.raises(DataError, match="same file"):
        refuse_to_overwrite([("--csv", "-"), ("--json", "-")], [])


@posix
def test_outputs_are_compared_through_links(tmp_path):
    image = tmp_path / "cell.png"
    image.write_bytes(b"pixels")
    (tmp_path / "soft").symlink_to(image)
    os.link(image, tmp_path / "hard")
    for name in ("soft", "hard"):
        with pytest.raises(DataError, match=name):
            refuse_to_overwrite([("--csv", tmp_path / name)], [("the image", image)])
    (tmp_path / "later").symlink_to(tmp_path / "x.csv")
    with pytest.raises(DataError, match="same file"):
        refuse_to_overwrite([("--csv", tmp_path / "later"), ("--json", tmp_path / "x.csv")], [])
    refuse_to_overwrite([("--csv", "/dev/null"), ("--json", "/dev/null")], [])  # nothing is lost there


@both
def test_a_folder_that_cannot_be_written_to_is_told_by_the_file_that_was_meant(tmp_path, how, monkeypatch):
    def refused(*, dir, **others):  # as a system does, which root would not ask
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{dir}/.leukaemia-zoo-0123")

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    with pytest.raises(PermissionError) as told:
        how(tmp_path / "file")
    assert told.value.filename == str(tmp_path / "file")
