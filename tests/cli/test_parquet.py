"""``predict --parquet`` and ``--ray``: what is called, what is printed, what is refused."""

from pathlib import Path

import pytest

from leukaemia_zoo.batch.run import Outcome
from leukaemia_zoo.cli.app import main

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"


def test_a_folder_becomes_parquet_and_is_told(tmp_path, capsys):
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "verdicts"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["predict", str(EXAMPLES), str(tmp_path / "broken.png"), "--parquet", str(out)]) == 1
    told = capsys.readouterr().out
    assert "7 cells by cnn_attention.cnmc: " in told
    assert "1 not read." in told
    assert f"{out}: 1 parts; " in told
    assert "For research only" in told
    assert pq.read_table(out).num_rows == 7
    assert main(["predict", str(EXAMPLES), "--parquet", str(out)]) == 2
    assert "verdicts of an earlier run" in capsys.readouterr().err
    assert main(["predict", str(EXAMPLES), "--parquet", str(out), "--restart", "--quiet"]) == 0
    assert pq.read_table(out).num_rows == 6
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "address", "variable"),
    [
        (["CELLS"], None, "head:1"),
        (["CELLS", "--ray"], "local", None),
        (["CELLS", "--ray"], "head:1", "head:1"),
        (["--ray", "CELLS"], "local", None),
        (["--ray", "auto", "CELLS"], "auto", None),
        (["--ray", "10.0.0.1:6379", "CELLS"], "10.0.0.1:6379", "head:1"),
        (["--ray=ray://head:10001", "CELLS"], "ray://head:10001", None),
    ],
)
def test_what_stands_after_ray_is_an_address_or_the_first_path(words, address, variable, tmp_path, monkeypatch):
    calls = []

    def predict_parquet(model, paths, out, **settings):
        calls.append((paths, settings["ray"], settings["keep"], settings["views"]))
        return Outcome(tmp_path, 1, 0, {"hem": 1, "all": 0}, 0, 0, 1, 0, 1.0)

    monkeypatch.setattr("leukaemia_zoo.batch.run.predict_parquet", predict_parquet)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    words = [str(EXAMPLES) if word == "CELLS" else word for word in words]
    assert main(["predict", *words, "--parquet", str(tmp_path / "out"), "--keep", "id", "--views", "2", "--quiet"]) == 0
    assert calls == [([str(EXAMPLES)], address, ["id"], 2)]


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["--parquet", "OUT", "--csv", "OUT.csv"], "--parquet writes Parquet alone: leave out --csv"),
        (["--parquet", "OUT", "--precision", "int8"], "--parquet judges in float32: leave out --precision"),
        (["--calibration", "OUT"], "--calibration is for --precision int8"),
        (["--ray", "auto"], "are for --parquet DIR"),
        (["--restart"], "are for --parquet DIR"),
    ],
)
def test_options_that_do_not_go_together(words, mistake, tmp_path, capsys):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    assert main(["predict", *words, str(EXAMPLES)]) == 2
    assert mistake in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_a_path_is_needed(capsys):
    assert main(["predict", "--parquet", "out"]) == 2
    assert "Missing argument 'PATH...'" in capsys.readouterr().err
