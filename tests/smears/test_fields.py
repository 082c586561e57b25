"""White cells out of whole fields, the scale by the red cells, and what is no single cell."""

import doctest
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_fields import SCALE, draw_field, overlap
from PIL import Image

import leukaemia_zoo as lz
from leukaemia_zoo.cells import read_image
from leukaemia_zoo.errors import CytologyMissingError, ImageError, UnknownNameError
from leukaemia_zoo.smears import estimate_scale, extract_cells, fields, reject
from leukaemia_zoo.smears.segmentation import CNMC_MICROMETRES_PER_PIXEL, FRAME

pytest.importorskip("skimage", reason="scikit-image is not installed (the extra cytology)")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "cells"
RED = [(60, 60), (180, 60), (420, 80), (560, 300), (60, 300), (200, 400), (420, 420)]


@pytest.fixture(scope="module")
def field():
    """A field with two white cells apart, seven red cells and two platelets; and the true masks."""
    return draw_field([(300, 220, 55, 42), (520, 160, 48, 38)], RED, [(120, 160), (330, 420)], seed=0)


def whole_mask(cell, shape):
    mask = np.zeros(shape[:2], bool)
    left, top, right, bottom = cell.box
    mask[top:bottom, left:right] = cell.mask
    return mask


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(fields)
    assert result.attempted
    assert not result.failed


# --- what is found ---


def test_white_cells_are_found_and_nothing_else(field):
    pixels, masks = field
    cells = extract_cells(pixels, micrometres_per_pixel=SCALE)
    assert len(cells) == 2
    for cell, mask in zip(cells, [masks[1], masks[0]], strict=True):  # from top to bottom
        assert overlap(whole_mask(cell, pixels.shape), mask) > 0.93
        assert not cell.touches_border
        assert cell.micrometres_per_pixel == SCALE
        assert cell.area == pytest.approx(mask.sum() * SCALE**2, rel=0.07)


def test_a_cell_is_a_frame_like_those_of_cnmc(field):
    for cell in extract_cells(field[0], micrometres_per_pixel=SCALE):
        assert (cell.image.shape, cell.image.dtype) == ((FRAME, FRAME, 3), np.uint8)
        assert cell.mask.shape == (cell.box[3] - cell.box[1], cell.box[2] - cell.box[0])
        assert reject(cell.image) is None
        area = cell.image.any(axis=-1).sum() * CNMC_MICROMETRES_PER_PIXEL**2
        assert area == pytest.approx(cell.area, rel=0.02)


@pytest.mark.parametrize("zoom", [0.5, 2])
def test_the_same_field_at_another_scale_gives_the_same_cells(field, zoom):
    image = Image.fromarray(field[0])
    other = np.asarray(image.resize((round(640 * zoom), round(480 * zoom)), Image.Resampling.BICUBIC))
    expected = extract_cells(field[0], micrometres_per_pixel=SCALE)
    found = extract_cells(other, micrometres_per_pixel=SCALE / zoom)
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.area == pytest.approx(two.area, rel=0.06)
        np.testing.assert_allclose(np.array(one.box) / zoom, two.box, atol=5)
        assert overlap(one.image.any(axis=-1), two.image.any(axis=-1)) > 0.9


def test_it_always_finds_the_same(field):
    one, two = (extract_cells(field[0], micrometres_per_pixel=SCALE) for _ in range(2))
    assert [cell.box for cell in one] == [cell.box for cell in two]
    np.testing.assert_array_equal(one[0].image, two[0].image)


def test_touching_cells_come_apart():
    pixels, masks = draw_field([(270, 240, 55, 42), (376, 240, 55, 42)], RED[:2], seed=1)
    cells = extract_cells(pixels, micrometres_per_pixel=SCALE)
    assert len(cells) == 2
    for cell, mask in zip(cells, masks, strict=True):
        assert overlap(whole_mask(cell, pixels.shape), mask) > 0.88
    shared = whole_mask(cells[0], pixels.shape) & whole_mask(cells[1], pixels.shape)
    assert not shared.any()


def test_red_cells_that_touch_are_cut_off():
    pixels, (mask,) = draw_field([(320, 240, 55, 42)], [(320, 330), (230, 240), (384, 176)], seed=2)
    (cell,) = extract_cells(pixels, micrometres_per_pixel=SCALE)
    assert overlap(whole_mask(cell, pixels.shape), mask) > 0.88


@pytest.mark.parametrize("place", [(20, 240), (620, 240), (320, 20), (320, 460)])
def test_cells_that_the_border_cuts_are_marked(place):
    pixels, _ = draw_field([(*place, 55, 42), (320, 240, 55, 42)], seed=3)
    cells = extract_cells(pixels, micrometres_per_pixel=SCALE)
    assert sorted(cell.touches_border for cell in cells) == [False, True]
    for cell in cells:
        left, top, right, bottom = cell.box
        assert 0 <= left < right <= 640
        assert 0 <= top < bottom <= 480


def test_a_cell_larger_than_the_frame_is_marked():
    pixels, _ = draw_field([(320, 240, 200, 150)], seed=3)
    (cell,) = extract_cells(pixels, micrometres_per_pixel=SCALE)
    assert cell.touches_border


def test_a_field_without_white_cells_gives_none():
    pixels, _ = draw_field([], RED, [(120, 160)], seed=4)
    assert extract_cells(pixels, micrometres_per_pixel=SCALE) == []
    assert extract_cells(pixels) == []


@pytest.mark.parametrize("level", [60, 128, 255])
def test_a_blank_field_gives_none_or_says_that_it_has_no_scale(level):
    blank = np.full((300, 400, 3), level, np.uint8)
    assert extract_cells(blank, micrometres_per_pixel=SCALE) == []
    with pytest.raises(ImageError, match="scale cannot be estimated: 0 whole round red cells"):
        extract_cells(blank)


def test_a_tiny_field():
    assert extract_cells(np.full((16, 16, 3), 230, np.uint8), micrometres_per_pixel=SCALE) == []


# --- the scale ---


def test_the_scale_by_red_cells(field):
    assert estimate_scale(field[0]) == pytest.approx(SCALE, rel=0.03)
    small = np.asarray(Image.fromarray(field[0]).resize((320, 240), Image.Resampling.BICUBIC))
    assert estimate_scale(small) == pytest.approx(2 * SCALE, rel=0.04)
    cells = extract_cells(field[0])
    assert len(cells) == 2
    assert cells[0].micrometres_per_pixel == estimate_scale(field[0])


def test_several_fields_tell_what_one_does_not():
    ones = [draw_field([], [place], seed=number)[0] for number, place in enumerate(RED[:4])]
    with pytest.raises(ImageError, match=r"1 whole round red cells are in sight and 3 are needed.*several fields"):
        estimate_scale(ones[0])
    assert estimate_scale(ones) == pytest.approx(SCALE, rel=0.06)


def test_cut_red_cells_and_white_cells_are_no_measure():
    pixels, _ = draw_field([(200, 200, 55, 42), (400, 200, 55, 42), (300, 380, 55, 42)], [(0, 0), (640, 0)])
    with pytest.raises(ImageError, match="scale cannot be estimated"):
        estimate_scale(pixels)


# --- bad input ---


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((64, 64), 200, np.uint8), "field has the shape .*a grey image"),
        (np.full((64, 64, 4), 200, np.uint8), "four channels"),
        (np.full((64, 64, 3), 60000, np.uint16), "values above 255"),
        (np.full((8, 8, 3), 200, np.uint8), "less than 16 pixels"),
        ("field.png", "is a path"),
    ],
)
def test_arrays_that_are_no_field_are_refused(image, said):
    with pytest.raises(ImageError, match=said):
        extract_cells(image)


def test_a_cell_on_black_is_no_field(draw_cell):
    with pytest.raises(ImageError, match="black around its edge"):
        extract_cells(draw_cell(), micrometres_per_pixel=SCALE)


@pytest.mark.parametrize("value", [0, -0.1, 14.2, float("nan"), "0.1", True])
def test_bad_scales_are_refused(field, value):
    with pytest.raises(ImageError, match="not pixels per micrometre"):
        extract_cells(field[0], micrometres_per_pixel=value)


def test_unknown_normalisations_are_refused(field):
    with pytest.raises(UnknownNameError, match="did you mean 'reinhard'"):
        extract_cells(field[0], micrometres_per_pixel=SCALE, stain="reinhart")


def test_without_scikit_image_the_error_says_how_to_get_it(field, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.filters", None)
    for call in (lambda: extract_cells(field[0], micrometres_per_pixel=SCALE), lambda: estimate_scale(field[0])):
        with pytest.raises(CytologyMissingError, match="cytology"):
            call()


# --- what is no single cell ---


def test_single_cells_on_black_pass(draw_cell, field):
    assert reject(draw_cell()) is None
    assert [reject(read_image(path)) for path in sorted(EXAMPLES.glob("*.png"))] == [None] * 6


def test_compressed_cells_pass(draw_cell, tmp_path):
    Image.fromarray(draw_cell()).save(tmp_path / "cell.jpg", quality=85)
    assert reject(read_image(tmp_path / "cell.jpg")) is None


def test_fields_and_the_rest_are_told(field, draw_cell):
    assert "extract_cells()" in reject(field[0])
    assert "extract_cells()" in reject(255 - draw_cell())
    black = np.zeros((256, 256, 3), np.uint8)
    assert "nothing the size of a cell" in reject(black)
    black[100:104, 100:104] = 200
    assert "nothing the size of a cell" in reject(black)
    cell = draw_cell(radius=0.15)
    assert "more than one piece" in reject(np.maximum(np.roll(cell, 60, 1), np.roll(cell, -60, 1)))


def test_reject_needs_no_further_package(draw_cell, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("skimage", "torchstain")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert reject(draw_cell()) is None


# --- real fields ---


def test_cells_of_real_fields(shared_data):
    paths = sorted((shared_data / "bccd").glob("*.jpg"))[::8]
    assert all(reject(read_image(path)) for path in paths)
    cells = [extract_cells(read_image(path), micrometres_per_pixel=0.077) for path in paths]
    assert all(cells)
    assert all(60 < cell.area < 450 for found in cells for cell in found if not cell.touches_border)


def test_the_scale_of_real_fields(shared_data):
    pixels = [read_image(path) for path in sorted((shared_data / "pbc" / "lymphocyte").iterdir())[::12]]
    assert estimate_scale(pixels) == pytest.approx(0.1, rel=0.08)


def test_real_cells_pass(shared_data):
    paths = lz.cells.find_images([shared_data / "cnmc" / "training_data"])[0][::150]
    assert [reject(read_image(path)) for path in paths] == [None] * len(paths)


# --- the example ---


@pytest.fixture(scope="module")
def example():
    file = ROOT / "examples" / "cells_from_fields.py"
    if not file.is_file():
        pytest.skip("the examples are not beside the tests")
    spec = importlib.util.spec_from_file_location("cells_from_fields", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_warns_of_its_drawn_cells(example, tmp_path, capsys):
    picture = tmp_path / "fields.png"
    example.main(None, None, None, picture)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "0.098 micrometres per pixel, by the red cells"
    assert told[1] == "drawn field: 4 white cells, 1 of them cut by the border and left out"
    assert len(told) == 6
    assert all(line.endswith("unfamiliar, no verdict") for line in told[2:5])
    assert picture.stat().st_size < 100_000


def test_the_example_takes_a_folder_and_a_scale(example, field, tmp_path, capsys):
    Image.fromarray(field[0]).save(tmp_path / "one.png")
    Image.fromarray(draw_field([], RED)[0]).save(tmp_path / "two.png")
    example.main(tmp_path, SCALE, "reinhard", None)
    told = capsys.readouterr().out
    assert told.startswith("0.100 micrometres per pixel, given\none.png: 2 white cells, 0 of them cut")
    assert "two.png: 0 white cells" in told


def test_the_shipped_picture_is_small():
    picture = ROOT / "docs" / "assets" / "fields.png"
    if not picture.parent.is_dir():
        pytest.skip("the documentation is not beside the tests")
    assert picture.is_file(), "run: python examples/cells_from_fields.py --picture docs/assets/fields.png"
    assert picture.stat().st_size < 100_000
