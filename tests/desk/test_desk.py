"""The page on loopback, asked by Gradio's own client."""

import csv
import doctest
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_fields import SCALE, draw_field
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.errors import DataError, UnknownNameError

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"

pytest.importorskip("gradio", reason="Gradio has no release for this Python")
gradio_client = pytest.importorskip("gradio_client")


RED = [(60, 60), (180, 60), (420, 80), (560, 300), (60, 300), (200, 400)]
WHITE = [(300, 220, 55, 42), (520, 160, 48, 38), (400, 478, 55, 42)]
CLASSES = ("blast", "lymphocyte", "monocyte")


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    """A model of somebody's own, as `fine_tune` saves one: a folder, with other classes than those of the zoo."""
    from backend_outputs import set_fixed_weights

    from leukaemia_zoo.zoo import ModelConfig, build_model

    model = set_fixed_weights(build_model("cnn_attention", num_classes=len(CLASSES), input_size=32))
    model.zoo = ModelConfig("cnn_attention", CLASSES, "flatten", lz.Preprocessing((32, 32)))
    folder = tmp_path_factory.mktemp("models") / "mine"
    lz.save_model(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory, own_folder):
    """A page with two models of the zoo and one of somebody's own."""
    from leukaemia_zoo.desk.page import serve

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = serve(["cnn_attention", "mobilenet.pbc_cnmc", own_folder])
        yield page
        page.close()


@pytest.fixture(scope="module")
def client(served):
    return gradio_client.Client(served.local_url, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A file with two white cells, and a third that its lower edge cuts."""
    pytest.importorskip("skimage", reason="scikit-image is not installed (the extra cytology)")
    path = tmp_path_factory.mktemp("fields") / "field.png"
    Image.fromarray(draw_field(WHITE, RED, seed=0)[0]).save(path)
    return path


def ask(client, files, model="cnn_attention", maps="none"):
    handles = [gradio_client.handle_file(str(file)) for file in files]
    return client.predict(handles, model, maps, api_name="/judge")


def ask_of_field(client, file, model="cnn_attention", scale=None):
    """As the page asks: it sends the scale as it was written, and an empty text where nothing was."""
    written = "" if scale is None else str(scale)
    return client.predict(gradio_client.handle_file(str(file)), model, written, api_name="/examine")


def rows_of(shown):
    return [dict(zip(shown["headers"], row, strict=True)) for row in shown["data"]]


def test_the_examples_in_the_docstrings_run():
    from leukaemia_zoo.desk import judging

    found = doctest.testmod(judging)
    assert found.attempted
    assert not found.failed


def test_verdicts_subjects_and_csv_are_those_of_predict(client, tmp_path):
    files = sorted(EXAMPLES.glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:300])
    pictures, cells, subjects, file, told = ask(client, [*files, broken], "mobilenet.pbc_cnmc")
    expected = lz.predict("mobilenet.pbc_cnmc", [*files, broken])

    assert len(pictures) == len(files) + 1
    assert pictures[-1]["caption"] == "broken.png: not read"
    rows = rows_of(cells)
    assert [row["cell"] for row in rows] == [path.name for path in [*files, broken]]
    assert [row["verdict"] for row in rows[:-1]] == [each.verdict for each in expected[:-1]]
    assert "broken.png cannot be read" in rows[-1]["error"]
    assert [(row["subject"], row["label"], row["cells"]) for row in rows_of(subjects)] == [
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


def test_a_model_of_ones_own_is_offered_and_judges_by_its_own_classes(client, served, own_folder, field):
    """Of single cells, and of a field."""
    (models,) = (block for block in served.config["components"] if block["props"].get("label") == "Model")
    assert (own_folder, own_folder) in [tuple(choice) for choice in models["props"]["choices"]]

    files = sorted(EXAMPLES.glob("*.png"))
    _, cells, _, file, told = ask(client, files, own_folder)
    expected = lz.predict(own_folder, files)
    assert [row["label"] for row in rows_of(cells)] == [each.label for each in expected]
    with Path(file).open(newline="") as stream:
        written = [[float(row[f"p_{name}"]) for name in CLASSES] for row in csv.DictReader(stream)]
    np.testing.assert_allclose(written, expected.probabilities, rtol=0, atol=1e-5)
    labels = [each.label for each in expected]
    assert f"6 of 6 images judged: {', '.join(f'{labels.count(name)} {name}' for name in CLASSES)}." in told

    _, cells, _, _ = ask_of_field(client, field, own_folder, SCALE)
    first, second, cut = rows_of(cells)
    assert {first["answer"], second["answer"]} <= set(CLASSES)
    assert cut["answer"] == "cut"


@pytest.mark.parametrize("scale", [SCALE, None])
def test_a_field_gives_outlines_verdicts_table_and_csv(client, field, scale):
    picture, cells, file, told = ask_of_field(client, field, scale=scale)
    expected = lz.examination.examine_field(Image.open(field), micrometres_per_pixel=scale)

    rows = rows_of(cells)
    assert [(row["cell"], row["answer"]) for row in rows] == [(one.number, one.answer) for one in expected.cells]
    assert [(row["left"], row["top"]) for row in rows] == [one.cell.box[:2] for one in expected.cells]
    assert rows[-1]["answer"] == "cut"
    with Path(file).open(newline="") as stream:
        written = list(csv.DictReader(stream))
    np.testing.assert_allclose(
        [float(row["p_all"]) for row in written],
        [one.prediction.probabilities[1] for one in expected.cells],
        rtol=0,
        atol=1e-4,
    )
    # Each outline lies on the picture in the colour of its answer, where the field itself has no such pixel.
    drawn, plain = np.asarray(Image.open(picture).convert("RGB")), np.asarray(Image.open(field))
    assert drawn.shape[0] > plain.shape[0]  # a legend below the field
    colours = lz.examination.field.colours_of(("hem", "all"))
    for one in expected.cells:
        across, down = np.rint(one.outline[0]).astype(int)
        around = np.s_[max(0, down - 2) : down + 3, max(0, across - 2) : across + 3]
        assert (drawn[around] == colours[one.answer]).all(axis=-1).any()
        assert not (plain[around] == colours[one.answer]).all(axis=-1).any()
    assert "White cells found: 3" in told
    assert "Cut: by the border" in told
    assert ("0.1 micrometres per pixel, as given." if scale else "estimated from the red cells") in told
    assert NOT_A_DIAGNOSIS in told


def test_a_field_without_white_cells_leaves_an_empty_table(client, field, tmp_path):
    path = tmp_path / "red.png"
    Image.fromarray(draw_field((), RED, seed=0)[0]).save(path)
    _, cells, file, told = ask_of_field(client, path, scale=SCALE)
    assert rows_of(cells) == []
    assert "No white cell was found." in told
    (header,) = Path(file).read_text(encoding="utf-8").splitlines()
    assert header.startswith("cell,answer,label,p_hem,p_all,")


def test_mistakes_about_a_field_are_told_in_a_sentence(client, field, tmp_path, monkeypatch):
    def refused(match, *arguments):
        with pytest.raises(gradio_client.exceptions.AppError, match=match):
            ask_of_field(client, *arguments)

    refused("drop it among single cells", next(EXAMPLES.glob("*.png")))
    refused("from 0.01 to 1", field, "cnn_attention", 10)
    refused("'0,1', which is no number", field, "cnn_attention", "0,1")
    refused("not in the list of choices", field, "/etc", SCALE)
    bare = tmp_path / "bare.png"
    Image.fromarray(draw_field(WHITE[:1], ())[0]).save(bare)
    refused("scale cannot be estimated", bare)
    broken = tmp_path / "broken.png"
    broken.write_bytes(field.read_bytes()[:300])
    refused("broken.png cannot be read", broken)
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    refused(r"pip install 'leukaemia-zoo\[cytology\]'", field, "cnn_attention", SCALE)


def test_the_sentence_is_in_sight_and_nobody_else_is_asked(served):
    import urllib.request

    with urllib.request.urlopen(served.local_url) as answer:
        page = answer.read().decode()
    assert NOT_A_DIAGNOSIS in page
    assert '"analytics_enabled":false' in page.replace(" ", "")
    assert "fonts.googleapis.com" not in page
    assert served.share is False
    pictures = [each["props"] for each in served.config["components"] if each["type"] in ("gallery", "image")]
    assert len(pictures) == 2
    assert all(each["buttons"] == ["download", "fullscreen"] for each in pictures), "share uploads to Hugging Face"
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


@pytest.mark.parametrize(("model", "method"), [("cnn_attention", "attention"), ("own", "grad_cam")])
def test_maps_lie_on_the_cells(client, own_folder, tmp_path, model, method):
    """As `explain` makes them, also of a model of one's own; an image that cannot be read keeps its place."""
    model = own_folder if model == "own" else model
    cell = sorted(EXAMPLES.glob("*.png"))[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(cell.read_bytes()[:300])
    plain, *_ = ask(client, [broken, cell], model)
    mapped, *_ = ask(client, [broken, cell], model, method)
    assert [each["caption"] for each in mapped] == [each["caption"] for each in plain]
    grey, found = (np.asarray(Image.open(each["image"]).convert("RGB"), float) for each in mapped)
    expected = np.asarray(lz.explanation.overlay(lz.explain(model, cell, method=method)[0], 192), float)
    assert np.ptp(grey) == 0
    assert found.shape == (192, 192, 3)
    assert np.abs(found - expected).mean() < 3  # the page shows pictures as WebP
    without = np.asarray(Image.open(plain[1]["image"]).convert("RGB").resize((192, 192)), float)
    assert np.abs(found - without).mean() > 6


def test_a_map_that_a_network_cannot_give_is_told(client):
    (picture,), *_, told = ask(client, sorted(EXAMPLES.glob("*.png"))[:1], "mobilenet.pbc_cnmc", "attention")
    assert "no attention map" in told
    assert "1 of 1 images judged" in told
    assert picture["caption"]


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
    assert (space / "requirements.txt").read_text() == "leukaemia-zoo[app,cytology]\n"

    calls = []

    class Served:
        def block_thread(self):
            calls.append("waits")

    def serve(models, **about):
        calls.append((models, about["host"]))
        return Served()

    # This one first: looked up after the other, the replaced one would stay.
    monkeypatch.setattr("leukaemia_zoo.desk.serve", serve, raising=False)
    monkeypatch.setattr("leukaemia_zoo.desk.page.serve", serve)
    runpy.run_path(str(space / "app.py"), run_name="__main__")
    (models, host), waits = calls
    assert (host, waits) == (None, "waits")
    assert all(lz.model_info(name).weight for name in models)
