"""From fields to cells with verdicts: what is left, what others read of it, and runs that were interrupted."""

import csv
import dataclasses
import doctest
import json
import os
import sys
import uuid

import numpy as np
import pytest
from drawn_fields import SCALE, draw_field, overlap
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.cli.app import main
from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.common.run_folder import RUN
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import CytologyMissingError, DataError, ImageError, SlidesMissingError, UnknownNameError
from leukaemia_zoo.examination import field as field_module
from leukaemia_zoo.examination import folder, outlines, picture
from leukaemia_zoo.examination.field import CUT, UNFAMILIAR, colours_of, examine_field
from leukaemia_zoo.examination.folder import examine_fields
from leukaemia_zoo.examination.geojson import cell_rows, field_row
from leukaemia_zoo.smears.fields import ExtractedCell, extract_cells

pytest.importorskip("skimage", reason="scikit-image is not installed (the extra cytology)")

RED = [(60, 60), (180, 60), (420, 80), (560, 300), (60, 300), (200, 400)]
WHITE = [(300, 220, 55, 42), (520, 160, 48, 38), (400, 478, 55, 42)]


@pytest.fixture(scope="module")
def network(tiny_folder):
    from leukaemia_zoo.engine.network import resolve

    return resolve(tiny_folder)


@pytest.fixture(scope="module")
def pixels():
    """A field with two white cells, and a third that its lower edge cuts."""
    return draw_field(WHITE, RED, seed=0)[0]


@pytest.fixture
def fields(tmp_path):
    """A folder with three fields of two, none and one white cells."""
    place = tmp_path / "fields"
    place.mkdir()
    for number, white in enumerate((WHITE[:2], [], WHITE[:1])):
        Image.fromarray(draw_field(white, RED, seed=number)[0]).save(place / f"field {number}.png")
    return place


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_examples_in_the_docstrings_run():
    for module in (field_module, outlines):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


# --- one field ---


def test_a_field_gives_its_cells_with_what_predict_says_of_them(network, pixels):
    found = examine_field(pixels, network, micrometres_per_pixel=SCALE)
    assert (found.micrometres_per_pixel, found.scale_was_given) == (SCALE, True)
    cells = extract_cells(pixels, micrometres_per_pixel=SCALE)
    said = lz.predict(network, [cell.image for cell in cells])
    assert [one.number for one in found.cells] == [1, 2, 3]
    for one, cell, prediction in zip(found.cells, cells, said, strict=True):
        assert one.cell.box == cell.box
        assert one.prediction.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
    assert [one.answer for one in found.cells] == [said[0].label, said[1].label, CUT]
    estimated = examine_field(pixels, network)
    assert not estimated.scale_was_given
    assert estimated.micrometres_per_pixel == pytest.approx(SCALE, rel=0.03)


def test_the_answer_says_what_is_left_of_a_verdict(limited_folder, pixels):
    """By the limits of this model no class can be ruled out for cells around a grey level of 120."""
    found = examine_field(pixels, limited_folder, micrometres_per_pixel=SCALE)
    for one in found.cells[:2]:
        assert one.answer == one.prediction.verdict
    assert len({colours_of(("hem", "all"))[name] for name in ("hem", "all", "uncertain", UNFAMILIAR, CUT)}) == 5


def test_the_answer_is_the_class_that_is_left_where_the_likeliest_is_ruled_out(limited_folder, pixels):
    network = Network.load(limited_folder)
    limits = VerdictLimits(("hem", "all"), (0.1,), ((1.0,), (0.0,)), (26, 47), (0.1, 0.1), 0.0)
    network.zoo = dataclasses.replace(network.zoo, verdict_limits=limits)
    found = examine_field(pixels, network, micrometres_per_pixel=SCALE)
    assert [one.answer for one in found.cells] == ["all", "all", CUT]
    assert "hem" in [one.prediction.label for one in found.cells[:2]]


# --- outlines ---


def cell_of(mask, left=0, top=0):
    box = (left, top, left + mask.shape[1], top + mask.shape[0])
    return ExtractedCell(np.zeros((450, 450, 3), np.uint8), box, mask, 50.0, False, SCALE)


@pytest.mark.parametrize("seed", range(12))
def test_outlines_are_valid_polygons_that_cover_the_cell(seed):
    shapely = pytest.importorskip("shapely")
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :110]
    mask = np.hypot((x - 55) / 1.2, y - 45) < 30 + 9 * ndimage.gaussian_filter(rng.normal(0, 1, (90, 110)), 3) * 12
    labels, _ = ndimage.label(ndimage.binary_fill_holes(mask))
    mask = labels == np.bincount(labels[labels > 0]).argmax()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ring = outlines.outline(cell_of(mask, 40, 70))
    polygon = shapely.Polygon(ring)
    assert (ring[0] == ring[-1]).all()
    assert polygon.is_valid
    assert len(ring) < 200
    assert polygon.area == pytest.approx(mask.sum(), rel=0.05)
    down, across = np.nonzero(mask)
    points = shapely.points(across + 40.5, down + 70.5)
    assert shapely.contains(polygon, points).mean() > 0.95


def test_an_outline_that_would_cross_itself_keeps_all_its_points():
    spiral = np.zeros((60, 60), bool)
    spiral[2:58, 28:31] = True
    for row in range(4, 56, 4):
        spiral[row : row + 1, 2:58] = True
    assert not outlines.crosses_itself(outlines.outline(cell_of(spiral)))
    assert outlines.crosses_itself(np.array([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]))


# --- many fields ---


def test_a_folder_holds_cells_tables_pictures_and_geojson(network, fields, tmp_path):
    out = tmp_path / "out"
    steps = []
    found = examine_fields(fields, out, network, micrometres_per_pixel=SCALE, progress=lambda *step: steps.append(step))
    assert (found.fields, found.cells, found.failed, steps[-1]) == (3, 3, (), (3, 3))
    assert sum(found.answers.values()) == 3
    cells = rows_of(out / "cells.csv")
    assert [(row["field"].rsplit("/")[-1], row["cell"]) for row in cells] == [
        ("field 0.png", "1"),
        ("field 0.png", "2"),
        ("field 2.png", "1"),
    ]
    expected = examine_field(lz.cells.read_image(fields / "field 0.png"), network, micrometres_per_pixel=SCALE)
    for row, one in zip(cells, expected.cells, strict=False):
        assert (row["answer"], row["label"]) == (one.answer, one.prediction.label)
        assert float(row["p_all"]) == pytest.approx(one.prediction.probabilities[1], abs=1e-5)
        assert tuple(int(row[side]) for side in ("left", "top", "right", "bottom")) == one.cell.box
        assert (lz.cells.read_image(out / row["picture"]) == one.cell.image).all()
    of_fields = rows_of(out / "fields.csv")
    assert [row["cells"] for row in of_fields] == ["2", "0", "1"]
    assert {row["scale"] for row in of_fields} == {"given"}
    assert sorted(path.name for path in out.iterdir()) == [
        *("cells", "cells.csv", "examination.json", "fields", "fields.csv", "geojson")
    ]
    assert {path.stem for path in (out / "fields").iterdir()} == {"field_0", "field_1", "field_2"}
    assert json.loads((out / "examination.json").read_text(encoding="utf-8"))["cells"] == 3


def test_the_picture_shows_each_cell_in_the_colour_of_its_answer(network, pixels, tmp_path):
    colours = colours_of(network.zoo.class_names)
    sheet = picture.FieldPicture(pixels, pixels.shape[1], colours)
    found = examine_field(pixels, network, micrometres_per_pixel=SCALE).cells
    for one in found:
        sheet.draw(one)
    sheet.save(tmp_path / "picture.png")
    image = lz.cells.read_image(tmp_path / "picture.png").astype(int)
    assert image.shape[1] == 640
    for one in found:
        x, y = one.outline.round().astype(int).T
        inside = (y < 478) & (x < 638)
        off = np.abs(image[y[inside], x[inside]] - colours[one.answer]).sum(axis=-1)
        assert np.mean(off < 30) > 0.7
    untouched = (image[:480] == pixels).all(axis=-1).mean()
    assert untouched > 0.9


def test_a_large_field_is_drawn_smaller(network, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "LONGEST_SIDE", 320)
    sheet = picture.FieldPicture(pixels, pixels.shape[1], colours_of(network.zoo.class_names))
    sheet.draw(examine_field(pixels, network, micrometres_per_pixel=SCALE).cells[0])
    sheet.save(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").width == 320


def test_geojson_is_what_its_readers_expect(network, fields, tmp_path):
    geojson, shapely = pytest.importorskip("geojson"), pytest.importorskip("shapely.geometry")
    out = tmp_path / "out"
    examine_fields(fields, out, network, micrometres_per_pixel=SCALE)
    colours = colours_of(network.zoo.class_names)
    for name, count in (("field_0", 2), ("field_1", 0), ("field_2", 1)):
        path = out / "geojson" / f"{name}.geojson"
        collection = geojson.loads(path.read_text(encoding="utf-8"))
        assert isinstance(collection, geojson.FeatureCollection)
        assert collection.is_valid, collection.errors()
        assert len(collection["features"]) == count
        assert len(list(cell_rows(path))) == count == field_row(path)["cells"]
        for feature in collection["features"]:
            polygon = shapely.shape(feature["geometry"])
            assert polygon.is_valid
            assert polygon.exterior.is_ccw  # the right-hand rule
            # What QuPath looks at: PathObjectTypeAdapter of its source.
            said = feature["properties"]
            uuid.UUID(feature["id"])
            assert said["objectType"] == "detection"
            assert said["classification"]["color"] == list(colours[said["classification"]["name"]])
            measured = said["measurements"]
            assert all(isinstance(value, float) for value in measured.values())
            assert measured["Probability of hem"] + measured["Probability of all"] == pytest.approx(1, abs=1e-5)
            assert measured["Area um^2"] == pytest.approx(polygon.area * SCALE**2, rel=0.03)


def test_a_polygon_lies_on_its_cell(network, fields, tmp_path):
    shapely = pytest.importorskip("shapely.geometry")
    from PIL import ImageDraw

    out = tmp_path / "out"
    examine_fields([fields / "field 2.png"], out, network, micrometres_per_pixel=SCALE)
    (feature,) = json.loads((out / "geojson" / "field_2.geojson").read_text(encoding="utf-8"))["features"]
    image = Image.new("1", (640, 480))
    points = [tuple(point) for point in shapely.shape(feature["geometry"]).exterior.coords]
    ImageDraw.Draw(image).polygon(points, fill=1)
    truth = draw_field(WHITE[:1], RED, seed=2)[1][0]
    assert overlap(np.asarray(image), truth) > 0.93


# --- the scale of many, faults, runs that go on ---


def test_one_scale_is_estimated_for_all_fields_and_told(network, fields, tmp_path):
    found = examine_fields(fields, tmp_path / "out", network)
    assert "estimated from the red cells of 3 of 3 fields" in found.scale
    scales = {row["micrometres_per_pixel"] for row in rows_of(tmp_path / "out" / "fields.csv")}
    assert len(scales) == 1
    assert float(scales.pop()) == pytest.approx(SCALE, rel=0.03)


def test_fields_that_cannot_be_examined_are_told_and_the_others_done(network, fields, tmp_path):
    (fields / "a text.png").write_text("no image")
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(fields / "black.png")
    told = []
    found = examine_fields(fields, tmp_path / "out", network, micrometres_per_pixel=SCALE, log=told.append)
    assert (found.fields, found.cells, len(found.failed)) == (3, 3, 2)
    rows = {row["name"]: row["error"] for row in rows_of(tmp_path / "out" / "fields.csv")}
    assert "a text.png is text" in rows["a_text"]
    assert "black.png" in rows["black"]
    assert rows["field_0"] == ""
    assert sum(line.startswith("not examined: ") for line in told) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError, match="There are no fields"):
        examine_fields(empty, tmp_path / "out2", network)
    with pytest.raises(UnknownNameError, match="did you mean"):
        examine_fields(fields, tmp_path / "out2", network, stain="reinhart")
    with pytest.raises(DataError, match="miss rate"):
        examine_fields(fields, tmp_path / "out2", network, miss_rate=0.1)
    Image.fromarray(np.full((300, 300, 3), 240, np.uint8)).save(empty / "glass.png")
    with pytest.raises(ImageError, match="give micrometres_per_pixel"):
        examine_fields(empty, tmp_path / "out2", network)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("module", "error", "file"),
    [("skimage.measure", CytologyMissingError, "field 0.png"), ("tiffslide", SlidesMissingError, "slide.svs")],
)
def test_a_missing_package_is_told_first(network, fields, tmp_path, monkeypatch, module, error, file):
    (fields / "slide.svs").write_bytes(b"never opened")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match="pip install"):
        examine_fields([fields / file], tmp_path / "out", network, micrometres_per_pixel=SCALE)
    assert not (tmp_path / "out").exists()


def test_pictures_of_an_earlier_run_among_the_fields_are_no_fields(network, fields, tmp_path):
    examine_fields(fields, fields / "out", network)
    told = []
    again = examine_fields(fields, tmp_path / "again", network, log=told.append)
    assert again.fields == 3
    assert (tmp_path / "again" / "cells.csv").read_bytes() == (fields / "out" / "cells.csv").read_bytes()
    assert f"note: 1 folder of earlier results passed over: {fields / 'out'}." in told


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    network, limited_folder, fields, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    examine_fields(fields, whole, network)
    broken = tmp_path / "broken"
    extract = folder.extract_cells
    calls = []

    def stopping(pixels, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return extract(pixels, **settings)

    monkeypatch.setattr(folder, "extract_cells", stopping)
    with pytest.raises(KeyboardInterrupt):
        examine_fields(fields, broken, network)
    assert (broken / RUN).is_dir()
    assert not (broken / "cells.csv").exists()
    with pytest.raises(DataError, match="restart"):
        examine_fields(fields, broken, network, micrometres_per_pixel=0.2)
    other = Network.load(limited_folder)
    other.zoo = network.zoo  # trained again since, under the same name
    other.sha256 = "0" * 64
    with pytest.raises(DataError, match="restart"):
        examine_fields(fields, broken, other)
    first = next(fields.iterdir())
    before = first.stat().st_mtime_ns
    os.utime(first, ns=(before, before + 1))  # another picture of the same size
    with pytest.raises(DataError, match="restart"):
        examine_fields(fields, broken, network)
    os.utime(first, ns=(before, before))
    told = []
    examine_fields(fields, broken, network, log=told.append)
    assert len(calls) == 4, "fields that were done are not done again"
    assert any(line.startswith("2 of 3 fields are there already") for line in told)
    assert not (broken / RUN).exists()
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert sorted(path.relative_to(broken) for path in broken.rglob("*") if path.is_file()) == files
    for file in files:
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file


def test_memory_does_not_grow_with_the_number_of_fields(network, tmp_path):
    import tracemalloc

    small = draw_field([(110, 110, 50, 38)], size=(220, 220), seed=0)[0]
    peaks = []
    for count in (1, 2, 6):  # the first fills caches
        place = tmp_path / f"{count}"
        place.mkdir()
        for number in range(count):
            Image.fromarray(small).save(place / f"{number}.png")
        tracemalloc.start()
        examine_fields(place, tmp_path / f"out {count}", network, micrometres_per_pixel=SCALE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_another_run_leaves_no_cells_of_the_one_before(network, fields, tmp_path):
    out = tmp_path / "out"
    examine_fields(fields, out, network, micrometres_per_pixel=SCALE)
    (out / "cells" / "mine.png").write_bytes(b"mine")
    examine_fields([fields / "field 2.png"], out, network, micrometres_per_pixel=SCALE)
    assert sorted(path.name for path in (out / "cells").iterdir()) == ["field_2_0001.png", "mine.png"]
    assert [path.name for path in (out / "geojson").iterdir()] == ["field_2.geojson"]


def test_what_is_not_ours_is_not_replaced(network, fields, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cells.csv").write_text("mine\n")
    with pytest.raises(DataError, match="restart"):
        examine_fields(fields, out, network, micrometres_per_pixel=SCALE)
    assert (out / "cells.csv").read_text() == "mine\n"
    (fields / "field 0.png").rename(fields / "field_0.png")  # where its own picture would be written
    with pytest.raises(DataError, match="overwrite"):
        examine_fields(fields, fields.parent, network, micrometres_per_pixel=SCALE)


def test_a_field_where_cells_are_written_is_not_lost(network, fields, tmp_path):
    theirs = tmp_path / "cells"
    fields.rename(theirs)
    (theirs / "field 1.png").rename(theirs / "field_0_0001.png")  # as the first cell of the first field is called
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    with pytest.raises(DataError, match="would overwrite what is to be read"):
        examine_fields(theirs, tmp_path, network, micrometres_per_pixel=SCALE)
    (tmp_path / "field 0.png").write_bytes(before["field 0.png"])
    with pytest.raises(DataError, match=r"holds cells/field_0_0001\.png, which the run would replace"):
        examine_fields(tmp_path / "field 0.png", tmp_path, network, micrometres_per_pixel=SCALE)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    # Cells of an earlier run, which the run itself would remove before it reads them.
    out = tmp_path / "out"
    examine_fields(tmp_path / "field 0.png", out, network, micrometres_per_pixel=SCALE)
    there = sorted((out / "cells").iterdir())
    with pytest.raises(DataError, match="lies where the run leaves its own pictures"):
        examine_fields(out / "cells", out, network, micrometres_per_pixel=SCALE)
    assert sorted((out / "cells").iterdir()) == there


def test_the_folder_of_the_fields_is_not_written_to_as_its_pictures_would_be_fields(network, fields, tmp_path):
    before = sorted(fields.iterdir())
    (tmp_path / "link").symlink_to(fields)
    for out in (fields, tmp_path / "link"):
        with pytest.raises(DataError, match=r"is searched for images, .* such as .*results\.$"):
            examine_fields([fields], out, network, micrometres_per_pixel=SCALE)
    assert sorted(fields.iterdir()) == before
    # Single files of it may be named all the same.
    found = examine_fields(fields / "field 0.png", fields, network, micrometres_per_pixel=SCALE)
    assert found.fields == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a limit of a file's size")
def test_where_nothing_can_be_kept_nothing_is_left(network, fields, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # as a full disk
    try:
        with pytest.raises(OSError, match="too large") as told:
            examine_fields(fields, tmp_path / "new" / "out", network, micrometres_per_pixel=SCALE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "new" / "out") in str(told.value.filename)
    assert not (tmp_path / "new").exists()


def test_a_whole_slide_is_examined_like_a_field(network, pixels, tmp_path):
    pytest.importorskip("tiffslide", reason="tiffslide is not installed (the extra slides)")
    tifffile = pytest.importorskip("tifffile")
    about = {"tile": (256, 256), "photometric": "rgb"}
    with tifffile.TiffWriter(tmp_path / "slide.tif") as file:
        file.write(pixels, subifds=1, resolution=(1e4 / SCALE, 1e4 / SCALE), resolutionunit="CENTIMETER", **about)
        file.write(np.asarray(Image.fromarray(pixels).resize((320, 240))), subfiletype=1, **about)
    found = examine_fields([tmp_path / "slide.tif"], tmp_path / "out", network)
    assert found.cells == 3
    (row,) = rows_of(tmp_path / "out" / "fields.csv")
    assert (row["scale"], row["width"], row["height"]) == ("of the file", "640", "480")
    assert float(row["micrometres_per_pixel"]) == pytest.approx(SCALE)
    plain = examine_field(pixels, network, micrometres_per_pixel=SCALE)
    for line, one in zip(rows_of(tmp_path / "out" / "cells.csv"), plain.cells, strict=True):
        np.testing.assert_allclose([int(line[s]) for s in ("left", "top", "right", "bottom")], one.cell.box, atol=2)
        assert line["answer"] == one.answer


def test_the_command(tiny_folder, fields, tmp_path, capsys):
    call = ["cells", str(fields), "--model", str(tiny_folder), "--out", str(tmp_path / "out")]
    assert main([*call, "--micrometres-per-pixel", "0.1"]) == 0
    told = capsys.readouterr().out
    assert "white cells: 3 (" in told
    assert "Scale: 0.1 micrometres per pixel, as given." in told
    assert "not a diagnosis" in told
    (fields / "bad.png").write_text("no image")
    assert main([*call, "--micrometres-per-pixel", "0.1"]) == 1
    assert "Fields not examined: 1;" in capsys.readouterr().out
    assert main([*call, "--micrometres-per-pixel", "10"]) == 2
    assert "not pixels per micrometre" in capsys.readouterr().err
