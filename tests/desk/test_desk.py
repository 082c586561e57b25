"""The page on loopback, asked by Gradio's own client."""

import csv
import socket
from pathlib import Path

import numpy as np
import pytest

import leukaemia_zoo as lz
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.errors import DataError, UnknownNameError

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"

pytest.importorskip("gradio", reason="Gradio has no release for this Python")
gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page with two models."""
    from leukaemia_zoo.desk.page import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = serve(["cnn_attention", "mobilenet.pbc_cnmc"])
        yield page
        page.close()


@pytest.fixture(scope="module")
def client(served):
    return gradio_client.Client(served.local_url, verbose=False, analytics_enabled=False)


def ask(client, files, model="cnn_attention", maps=False):
    handles = [gradio_client.handle_file(str(file)) for file in files]
    return client.predict(handles, model, maps, api_name="/judge")


def test_verdicts_subjects_and_csv_are_those_of_predict(client, tmp_path):
    files = sorted(EXAMPLES.glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:300])
    pictures, cells, subjects, file, told = ask(client, [*files, broken], "mobilenet.pbc_cnmc")
    expected = lz.predict("mobilenet.pbc_cnmc", [*files, broken])

    assert len(pictures) == len(files) + 1
    assert pictures[-1]["caption"] == "broken.png: not read"
    rows = [dict(zip(cells["headers"], row, strict=True)) for row in cells["data"]]
    assert [row["cell"] for row in rows] == [path.name for path in [*files, broken]]
    assert [row["verdict"] for row in rows[:-1]] == [each.verdict for each in expected[:-1]]
    assert "broken.png cannot be read" in rows[-1]["error"]
    found = [dict(zip(subjects["headers"], row, strict=True)) for row in subjects["data"]]
    assert [(row["subject"], row["label"], row["cells"]) for row in found] == [
        (each.subject, each.label, each.cells) for each in expected.by_subject()
    ]
    with Path(file).open(newline="") as stream:
        written = list(csv.DictReader(stream))
    np.testing.assert_allclose(
        [float(row["p_all"]) for row in written[:-1]], expected.probabilities[:-1, 1], rtol=0, atol=1e-4
    )
    assert "6 of 7 images judged" in told
    assert "for a human to judge" in told
    assert NOT_A_DIAGNOSIS in told


def test_the_sentence_is_in_sight_and_nobody_else_is_asked(served):
    import urllib.request

    with urllib.request.urlopen(served.local_url) as answer:
        page = answer.read().decode()
    assert NOT_A_DIAGNOSIS in page
    assert '"analytics_enabled":false' in page.replace(" ", "")
    assert "fonts.googleapis.com" not in page
    assert served.share is False
    assert served.local_url.startswith("http://127.0.0.1:")


def test_only_this_machine_is_listened_to(served):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, and tells from which address it would
        except OSError:
            pytest.skip("this machine has no other address")
        own = probe.getsockname()[0]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((own, served.server_port), 2).close()


def test_mistakes_are_told(client, served):
    from leukaemia_zoo.desk.page import serve

    with pytest.raises(gradio_client.exceptions.AppError):  # no model but those that are offered, such as a folder
        ask(client, [next(EXAMPLES.glob("*.png"))], "/etc")
    with pytest.raises(DataError, match=f":{served.server_port}: the port is taken"):
        serve(["cnn_attention"], port=served.server_port)
    with pytest.raises(UnknownNameError):
        serve(["no_such_model"])


@pytest.mark.slow
def test_maps_lie_on_the_cells(client):
    files = sorted(EXAMPLES.glob("*.png"))[:1]
    from PIL import Image

    (plain,), *_ = ask(client, files)
    (mapped,), *_ = ask(client, files, maps=True)
    plain, mapped = (np.asarray(Image.open(each["image"]).convert("RGB"), float) for each in (plain, mapped))
    assert mapped.shape == (192, 192, 3)
    # Yellow: more red and green than blue, which the cell alone is not.
    assert (mapped[..., :2].mean() - mapped[..., 2].mean()) > (plain[..., :2].mean() - plain[..., 2].mean()) + 5
    *_, told = ask(client, files, "mobilenet.pbc_cnmc", maps=True)
    assert "no attention map" in told


def test_the_space_is_what_hugging_face_takes(monkeypatch):
    """Its files name what exists: the command of the page, offered models, the fields of a Space."""
    import runpy
    from importlib.metadata import version

    space = EXAMPLES.parent / "space"
    head = (space / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    assert (fields["sdk"], fields["app_file"], fields["license"]) == ("gradio", "app.py", "apache-2.0")
    assert len(fields["short_description"]) <= 60  # what a Space may have
    assert fields["sdk_version"].split(".")[0] == version("gradio").split(".")[0]
    assert NOT_A_DIAGNOSIS in (space / "README.md").read_text(encoding="utf-8")
    assert (space / "requirements.txt").read_text() == "leukaemia-zoo[app]\n"

    calls = []

    class Served:
        def block_thread(self):
            calls.append("waits")

    def serve(models, **about):
        calls.append((models, about["host"]))
        return Served()

    monkeypatch.setattr("leukaemia_zoo.desk.page.serve", serve)
    monkeypatch.setattr("leukaemia_zoo.desk.serve", serve, raising=False)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    (models, host), waits = calls
    assert (host, waits) == (None, "waits")
    assert all(lz.model_info(name).weight for name in models)
