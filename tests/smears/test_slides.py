"""Whole slides tile by tile: every cell once, whatever seam it lies on."""

import dataclasses
import itertools

import numpy as np
import pytest
from drawn_fields import SCALE, draw_field
from PIL import Image

from leukaemia_zoo.errors import ImageError, SlidesMissingError
from leukaemia_zoo.smears import slides
from leukaemia_zoo.smears.slides import Slide, is_slide

pytest.importorskip("skimage", reason="scikit-image is not installed (the extra cytology)")
tiffslide = pytest.importorskip("tiffslide", reason="tiffslide is not installed (the extra slides)")
tifffile = pytest.importorskip("tifffile")

WIDTH, HEIGHT = 1700, 1300
RED = [(x, y) for x, y in itertools.product(range(60, WIDTH, 190), range(50, HEIGHT, 180))]


def write_slide(path, pixels, scale=SCALE, smaller=2):
    """A tiled TIFF with levels, each half as large, as scanners write them."""
    told = {} if scale is None else {"resolution": (1e4 / scale, 1e4 / scale), "resolutionunit": "CENTIMETER"}
    about = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=smaller, **about, **told)
        for level in range(1, smaller + 1):
            half = Image.fromarray(pixels).resize((pixels.shape[1] >> level, pixels.shape[0] >> level))
            file.write(np.asarray(half), subfiletype=1, **about)
    return path


@pytest.fixture(scope="module")
def seams():
    """Where the cores of the tiles meet in a slide of this size, with tiles of 40 micrometres."""
    return tuple([end for _, end in slides._cores(length, 40.0 / SCALE)][:-1] for length in (WIDTH, HEIGHT))


@pytest.fixture(scope="module")
def drawn(seams):
    """A slide with white cells on seams, on a crossing of seams, and beside them; the middles of the cells."""
    (first, second, *_), (row, *_) = seams
    middles = [(first, 200), (second, row), (first - 120, row + 3), (second + 150, row - 150), (first + 2, row + 330)]
    white = [(x, y, 52, 40) for x, y in middles]
    red = [(x, y) for x, y in RED if all(np.hypot(x - a, y - b) > 110 for a, b in middles)]
    return draw_field(white, red, size=(WIDTH, HEIGHT), seed=0)[0], middles


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(slides, "CORE", 40.0)
    monkeypatch.setattr(slides, "MARGIN", 15.0)


def middle(cell):
    return ((cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2)


def test_a_cell_on_a_seam_is_found_once(tmp_path, drawn, small_tiles):
    pixels, middles = drawn
    with Slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        assert (slide.width, slide.height) == (WIDTH, HEIGHT)
        found = list(slide.cells(SCALE))
    assert len(found) == len(middles)
    for x, y in middles:
        (own,) = [cell for cell in found if np.hypot(middle(cell)[0] - x, middle(cell)[1] - y) < 8]
        assert own.area == pytest.approx(np.pi * 5.2**2, rel=0.08)
        assert not own.touches_border
        assert own.mask.shape == (own.box[3] - own.box[1], own.box[2] - own.box[0])


def test_tiles_that_differ_on_the_middle_neither_double_nor_lose_a_cell(tmp_path, drawn, small_tiles, monkeypatch):
    """Two tiles stretch their thresholds differently: one may see the middle of a cell left of the seam, one right."""
    extract = slides.extract_cells
    shifts = itertools.cycle((15, -15, 9, -9))

    def shifted(pixels, **settings):
        by = next(shifts)
        return [
            dataclasses.replace(cell, box=(cell.box[0] + by, cell.box[1], cell.box[2] + by, cell.box[3]))
            for cell in extract(pixels, **settings)
        ]

    monkeypatch.setattr(slides, "extract_cells", shifted)
    pixels, middles = drawn
    with Slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        found = list(slide.cells(SCALE))
    assert len(found) == len(middles)


def test_tiles_give_what_the_whole_field_gives(tmp_path, drawn, small_tiles):
    from leukaemia_zoo.smears import extract_cells

    pixels, _ = drawn
    whole = extract_cells(pixels, micrometres_per_pixel=SCALE)
    with Slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        tiled = sorted(slide.cells(SCALE), key=lambda cell: (cell.box[1], cell.box[0]))
    assert len(whole) == len(tiled)
    for one, other in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(one.box, other.box, atol=3)


def test_a_cell_at_the_edge_of_the_slide_is_told_to_be_cut(tmp_path, small_tiles):
    pixels, _ = draw_field([(2, 300, 55, 42), (500, 300, 55, 42)], RED[:3], size=(900, 600), seed=0)
    with Slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        assert sorted(cell.touches_border for cell in slide.cells(SCALE)) == [False, True]


def test_empty_glass_is_passed_over(tmp_path, small_tiles, monkeypatch):
    monkeypatch.setattr(slides, "_PLACES_FOR_SCALE", 5)
    pixels = np.full((1200, 1200, 3), (243, 232, 222), np.uint8)
    pixels[:, 900:] = 0  # what was not scanned
    with Slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        seen = []
        monkeypatch.setattr(slides, "extract_cells", lambda tile, **_: seen.append(tile) or [])
        assert list(slide.cells(SCALE)) == []
        assert len(seen) <= 6  # those where the glass ends
        with pytest.raises(ImageError, match="micrometres_per_pixel"):
            slide.estimate_scale()


def test_the_scale_is_that_of_the_file_or_of_the_red_cells(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(slides, "_TILES_FOR_SCALE", 3)
    pixels, _ = drawn
    with Slide(write_slide(tmp_path / "told.tif", pixels)) as slide:
        assert slide.micrometres_per_pixel == pytest.approx(SCALE)
    with Slide(write_slide(tmp_path / "untold.tif", pixels, scale=None)) as slide:
        assert slide.micrometres_per_pixel is None
        assert slide.estimate_scale() == pytest.approx(SCALE, rel=0.05)
    with Slide(write_slide(tmp_path / "wrong.tif", pixels, scale=25.0)) as slide:  # as of a program for printing
        assert slide.micrometres_per_pixel is None


def test_what_is_a_slide(tmp_path, drawn, monkeypatch):
    pixels, _ = drawn
    assert is_slide(write_slide(tmp_path / "levels.tif", pixels))
    assert is_slide(tmp_path / "anything.SVS")
    Image.fromarray(pixels).save(tmp_path / "plain.tif")
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    tifffile.imwrite(tmp_path / "tiles.tif", pixels, tile=(256, 256), photometric="rgb")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0 and nothing")
    assert not any(is_slide(tmp_path / f"{name}") for name in ("plain.tif", "plain.png", "tiles.tif", "damaged.tif"))
    monkeypatch.setattr(slides, "MAX_PIXELS", 1_000_000)
    assert is_slide(tmp_path / "tiles.tif")


def test_faults_of_files_are_told(tmp_path, monkeypatch):
    with pytest.raises(ImageError, match="does not exist"):
        Slide(tmp_path / "none.svs")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(ImageError, match=r"text\.svs cannot be read as a whole slide"):
        Slide(tmp_path / "text.svs")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(slides.importlib, "import_module", missing)
    with pytest.raises(SlidesMissingError, match="pip install"):
        Slide(tmp_path / "text.svs")
