"""A cell onto black: outlines, frames, scale, and what is refused."""

import doctest
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_fields import CYTOPLASM, NUCLEUS, SCALE, draw_field, overlap

from leukaemia_zoo import errors
from leukaemia_zoo.cells import find_images, read_image
from leukaemia_zoo.cells.arrays import lies_on_black
from leukaemia_zoo.errors import CytologyMissingError, ImageError
from leukaemia_zoo.smears import nuclei, reject, segment_cell, segmentation
from leukaemia_zoo.smears.nuclei import group_nuclei
from leukaemia_zoo.smears.segmentation import CNMC_MICROMETRES_PER_PIXEL, FRAME, cell_mask, checked_scale, on_black

pytest.importorskip("skimage", reason="scikit-image is not installed (the extra cytology)")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "cells"


@pytest.fixture(scope="module")
def photograph():
    """One white cell in the middle, a red one away from it and one that touches it; and the true mask."""
    field, (mask,) = draw_field([(120, 120, 50, 36)], [(40, 40), (120, 206)], size=(240, 240), seed=0)
    return field, mask


def test_the_examples_in_the_docstrings_run():
    for module in (segmentation, nuclei):
        result = doctest.testmod(module)
        assert result.attempted
        assert not result.failed


# --- outlines ---


def test_nucleus_and_cytoplasm_are_the_cell(photograph):
    image, truth = photograph
    mask = cell_mask(image)
    assert (mask.shape, mask.dtype) == (truth.shape, bool)
    assert overlap(mask, truth) > 0.94


def test_everything_else_becomes_exactly_black(photograph):
    image, _ = photograph
    mask, cell = cell_mask(image), segment_cell(image)
    assert (cell.shape, cell.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(cell[mask], image[mask])
    assert not cell[~mask].any()


def test_it_always_finds_the_same(photograph):
    image, _ = photograph
    before = image.copy()
    np.testing.assert_array_equal(segment_cell(image), segment_cell(image))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_cell_has_no_up(photograph, turns):
    image, _ = photograph
    assert overlap(np.rot90(cell_mask(image), turns), cell_mask(np.rot90(image, turns))) > 0.97


def test_lobes_are_one_nucleus():
    """Three lobes of a neutrophil, in pale cytoplasm."""
    image, (mask,) = draw_field([(120, 120, 56, 0)], size=(240, 240), seed=1)
    across, down = np.meshgrid(np.arange(240), np.arange(240))
    for x, y in ((98, 108), (138, 100), (126, 142)):
        image[np.hypot(across - x, down - y) < 15] = NUCLEUS
    assert overlap(cell_mask(image), mask) > 0.94


def test_of_several_cells_the_middle_one_is_taken():
    field, masks = draw_field([(160, 160, 50, 38), (60, 270, 50, 38), (270, 60, 50, 38)], size=(320, 320))
    assert overlap(cell_mask(field), masks[0]) > 0.94


def test_a_large_photograph_gives_the_same_outline(photograph):
    image, truth = photograph
    large, true = (np.repeat(np.repeat(values, 4, axis=0), 4, axis=1) for values in (image, truth))
    mask = cell_mask(large)
    assert mask.shape == (960, 960)
    assert overlap(mask, true) > 0.94


def test_a_cell_on_black_is_kept(draw_cell):
    cell = draw_cell()
    np.testing.assert_array_equal(segment_cell(cell), cell)
    for path in sorted(EXAMPLES.glob("*.png")):
        pixels = read_image(path)
        np.testing.assert_array_equal(segment_cell(pixels), pixels)


# --- frames at the scale of C-NMC ---


@pytest.mark.parametrize("micrometres_per_pixel", [0.03, 0.1, 0.2])
def test_equal_cells_come_out_equally_large(micrometres_per_pixel):
    """A cell 10 micrometres across, photographed at three scales."""
    radius = 5 / micrometres_per_pixel
    side = round(2.6 * radius)
    image, _ = draw_field([(side / 2, side / 2, radius, 0.7 * radius)], size=(side, side))
    frame = segment_cell(image, micrometres_per_pixel=micrometres_per_pixel)
    assert frame.shape == (FRAME, FRAME, 3)
    across = 2 * np.sqrt(frame.any(axis=-1).sum() / np.pi) * CNMC_MICROMETRES_PER_PIXEL
    assert across == pytest.approx(10, rel=0.05)
    rows, columns = np.nonzero(frame.any(axis=-1))
    np.testing.assert_allclose([rows.mean(), columns.mean()], (FRAME - 1) / 2, atol=4)
    assert reject(frame) is None


def test_a_frame_keeps_colours_and_has_no_holes(photograph):
    image, _ = photograph
    frame = segment_cell(image, micrometres_per_pixel=SCALE)
    np.testing.assert_allclose(frame[FRAME // 2, FRAME // 2], NUCLEUS, atol=20)
    row = frame[FRAME // 2].any(axis=-1)
    assert np.abs(np.diff(row.astype(int))).sum() == 2
    edge = np.flatnonzero(row)[8]
    np.testing.assert_allclose(frame[FRAME // 2, edge], CYTOPLASM, atol=25)


def test_a_cell_that_is_too_large_is_cut_off():
    frame = on_black(np.full((100, 100, 3), 90, np.uint8), np.ones((100, 100), bool), 1.0)
    assert frame.shape == (FRAME, FRAME, 3)
    assert frame.all()


def test_black_pixels_of_a_cell_do_not_become_background():
    frame = on_black(np.zeros((100, 100, 3), np.uint8), np.ones((100, 100), bool), CNMC_MICROMETRES_PER_PIXEL)
    assert (frame.any(axis=-1)).sum() == 100 * 100


# --- steps ---


def test_nuclei_that_touch_are_split_and_specks_left_out():
    across, down = np.meshgrid(np.arange(200), np.arange(120))
    discs = [(50, 60, 24), (94, 60, 24), (160, 60, 24), (130, 20, 4)]
    mask = np.any([np.hypot(across - x, down - y) < radius for x, y, radius in discs], axis=0)
    labels = group_nuclei(mask, 5.0)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert len({labels[60, 50], labels[60, 94], labels[60, 160]}) == 3
    assert labels[20, 130] == 0
    assert not group_nuclei(np.zeros((20, 20), bool), 5.0).any()


def test_black_around_the_edge():
    frame = np.zeros((64, 64, 3), np.uint8)
    assert lies_on_black(frame)
    frame[:, :10] = 200
    assert not lies_on_black(frame)


# --- bad input ---


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_refused(level):
    with pytest.raises(ImageError, match="give a photograph of a"):
        segment_cell(np.full((100, 100, 3), level, np.uint8))


def test_noise_alone_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ImageError, match="No nucleus stands out"):
        segment_cell(np.clip(rng.normal(230, 2, (100, 100, 3)), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((64, 64), 200, np.uint8), "a grey image"),
        (np.full((64, 64, 1), 200, np.uint8), "one grey channel"),
        (np.full((64, 64, 4), 200, np.uint8), "four channels"),
        (np.full((64, 64, 3), 60000, np.uint16), "values above 255.*dividing by 257"),
        (np.full((64, 64, 3), 0.5), "no value above 1"),
        (np.full((3, 64, 64), 200, np.uint8), "channels first"),
        (np.full((8, 8, 3), 200, np.uint8), "less than 16 pixels"),
        ("cell.png", "is a path"),
        (None, "None|dtype"),
    ],
)
def test_arrays_that_are_no_rgb_image_are_refused(image, said):
    for function in (segment_cell, cell_mask, reject):
        with pytest.raises(ImageError, match=said):
            function(image)


def test_a_tiny_photograph():
    image, (truth,) = draw_field([(12, 12, 8, 6)], size=(24, 24))
    assert overlap(cell_mask(image), truth) > 0.7
    image, _ = draw_field(size=(16, 16), seed=0)
    with pytest.raises(ImageError, match="No nucleus stands out"):
        cell_mask(image)


@pytest.mark.parametrize("value", [0, -1, 10, float("nan"), float("inf"), "0.1", True, [0.1, 0.2], object()])
def test_bad_scales_are_refused(photograph, value):
    with pytest.raises(ImageError, match=r"micrometres_per_pixel is .*0\.01 to 1"):
        segment_cell(photograph[0], micrometres_per_pixel=value)


def test_good_scales_become_floats():
    assert checked_scale(np.float32(0.5)) == 0.5


def test_without_scikit_image_the_error_says_how_to_get_it(photograph, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(
        CytologyMissingError, match=r"needs scikit-image: run `pip install 'leukaemia-zoo\[cytology\]'`"
    ):
        segment_cell(photograph[0])
    assert issubclass(CytologyMissingError, errors.LeukaemiaZooError)
    assert issubclass(CytologyMissingError, ImportError)


# --- real cells ---


def test_masks_of_real_cells(shared_data):
    from PIL import Image

    paths = sorted((shared_data / "wbc_masks").glob("*.bmp"))[::12]
    found = [
        overlap(cell_mask(read_image(path)), np.asarray(Image.open(path.with_suffix(".png"))) > 0) for path in paths
    ]
    assert np.mean(found) > 0.93
    assert min(found) > 0.6


def test_real_cells_on_black_are_kept(shared_data):
    paths = find_images([shared_data / "cnmc" / "training_data"])[0][::400]
    for path in paths:
        pixels = read_image(path)
        assert ((segment_cell(pixels) > 0) == (pixels > 0)).mean() > 0.9995


# --- the measurement ---


@pytest.fixture(scope="module")
def tool():
    file = ROOT / "tools" / "segmentation_results.py"
    if not file.is_file():
        pytest.skip("the tools are not beside the tests")
    spec = importlib.util.spec_from_file_location("segmentation_results", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_share_no_image_and_stay_the_same(tool):
    paths = [Path(f"{number}.bmp") for number in range(30)]
    tuning, reported = tool.parts(paths, 10)
    assert (len(tuning), len(reported)) == (10, 20)
    assert set(tuning) | set(reported) == set(paths)
    assert tool.parts(paths, 10) == (tuning, reported)
    first, others = tool.thirds(paths)
    assert sorted(first + others) == sorted(paths)


def test_overlap_by_hand(tool):
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], other[1:3] = True, True
    assert tool.overlap(one, other) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert tool.box_overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert tool.box_overlap((0, 0, 1, 1), (5, 5, 6, 6)) == 0


def test_otsu_is_the_plain_one(tool, photograph):
    image, truth = photograph
    assert 0.2 < overlap(tool.otsu(image), truth) < 0.9


def test_intervals_of_the_tool(tool):
    found = tool.share_interval(np.array([1, 1, 1, 0] * 10), np.ones(40, int))
    assert found["low"] < found["value"] == 0.75 < found["high"]
    sure = tool.share_interval(np.ones(20, int), np.ones(20, int))
    assert sure["value"] == 1
    assert 0.8 < sure["low"] < 0.9
    assert tool.mean_interval(np.array([0.5] * 9))["low"] == pytest.approx(0.5)


def test_the_constants_are_what_was_measured():
    from leukaemia_zoo.smears import stains

    file = ROOT / "results" / "segmentation.json"
    if not file.is_file():
        pytest.skip("the results are not beside the tests")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert pytest.approx(found["cnmc"]["scale"]["cnmc_micrometres_per_pixel"], rel=0.03) == CNMC_MICROMETRES_PER_PIXEL
    np.testing.assert_allclose(found["cnmc"]["colours"]["reinhard"], stains.REINHARD_REFERENCE, atol=0.05)
    np.testing.assert_allclose(np.ravel(found["cnmc"]["colours"]["macenko"][0]), np.ravel(stains.MACENKO_REFERENCE[0]))
    assert found["cnmc"]["colours"]["cells"] == stains.SAMPLE
    better, plain = (found["masks"]["methods"][name]["iou"] for name in ("segment_cell", "otsu"))
    assert better["low"] > plain["high"]
