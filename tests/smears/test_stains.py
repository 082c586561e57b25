"""Stain normalisation of cells on black: masked, towards C-NMC 2019, off by default."""

import doctest
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_fields import SCALE, draw_field

from leukaemia_zoo.cells import read_image
from leukaemia_zoo.errors import CytologyMissingError, ImageError, UnknownNameError
from leukaemia_zoo.smears import extract_cells, normalise_stain, stains
from leukaemia_zoo.smears.stains import METHODS, REINHARD_REFERENCE

pytest.importorskip("torchstain", reason="torchstain is not installed (the extra cytology)")

EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"


@pytest.fixture(scope="module")
def cell():
    """A pale cell with two stains and some noise, on black."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128] - 64
    image = np.zeros((128, 128, 3))
    image[np.hypot(x, y) < 50] = (215, 180, 200)
    image[np.hypot(x, y) < 35] = (130, 90, 170)
    noisy = np.clip(image + rng.normal(0, 8, image.shape), 1, 255)
    return np.where(image.any(axis=-1, keepdims=True), noisy, 0).astype(np.uint8)


def lab(image):
    from skimage.color import rgb2lab

    return rgb2lab(image)[image.any(axis=-1)]


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(stains)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("method", METHODS)
def test_black_stays_black_and_the_cell_does_not_become_it(cell, method):
    before = cell.copy()
    found = normalise_stain(cell, method)
    assert (found.shape, found.dtype) == (cell.shape, np.uint8)
    np.testing.assert_array_equal(found.any(axis=-1), cell.any(axis=-1))
    np.testing.assert_array_equal(cell, before)
    assert np.abs(found.astype(int) - cell)[cell.any(axis=-1)].mean() > 10


@pytest.mark.parametrize("method", METHODS)
def test_the_frame_around_the_cell_plays_no_part(cell, method):
    wide = np.zeros((300, 200, 3), np.uint8)
    wide[50:178, 30:158] = cell
    np.testing.assert_array_equal(normalise_stain(wide, method)[50:178, 30:158], normalise_stain(cell, method))


def test_reinhard_brings_mean_and_spread_to_those_of_cnmc(cell):
    found = lab(normalise_stain(cell))
    np.testing.assert_allclose(found.mean(axis=0), REINHARD_REFERENCE[0], atol=1)
    np.testing.assert_allclose(found.std(axis=0), REINHARD_REFERENCE[1], atol=1)


def test_reinhard_leaves_a_cell_of_cnmc_nearly_as_it_is(shared_data):
    path = sorted((shared_data / "cnmc" / "training_data" / "fold_0" / "all").iterdir())[0]
    cell = read_image(path)
    other = np.abs(lab(normalise_stain(cell)).mean(axis=0) - lab(cell).mean(axis=0))
    assert other.max() < 10


@pytest.mark.parametrize("method", METHODS)
def test_two_stainings_of_a_cell_come_closer(cell, method):
    absorbed = -np.log(np.maximum(cell, 1) / 240)
    stronger = np.where(cell > 0, np.clip(240 * np.exp(-1.4 * absorbed), 1, 255), 0).astype(np.uint8)
    before = np.abs(lab(cell).mean(axis=0) - lab(stronger).mean(axis=0)).max()
    after = np.abs(
        lab(normalise_stain(cell, method)).mean(axis=0) - lab(normalise_stain(stronger, method)).mean(axis=0)
    ).max()
    assert after < before * (0.5 if method == "reinhard" else 0.8)


def test_it_is_off_by_default():
    field, _ = draw_field([(320, 240, 55, 42)], seed=0)
    (plain,), (same,), (other,) = (
        extract_cells(field, micrometres_per_pixel=SCALE, **options)
        for options in ({}, {"stain": None}, {"stain": "reinhard"})
    )
    np.testing.assert_array_equal(plain.image, same.image)
    np.testing.assert_array_equal(other.image, normalise_stain(plain.image))
    assert other.box == plain.box


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_stain_is_refused(method):
    flat = np.zeros((64, 64, 3), np.uint8)
    flat[16:48, 16:48] = (120, 80, 150)
    with pytest.raises(ImageError, match="of one colour"):
        normalise_stain(flat, method)
    with pytest.raises(ImageError, match="no black background"):
        normalise_stain(np.full((64, 64, 3), 200, np.uint8), method)
    with pytest.raises(ImageError, match="nothing but black"):
        normalise_stain(np.zeros((64, 64, 3), np.uint8), method)


def test_a_cell_paler_than_any_stain_is_refused_by_macenko():
    rng = np.random.default_rng(0)
    pale = np.zeros((64, 64, 3), np.uint8)
    pale[16:48, 16:48] = np.clip(rng.normal(245, 4, (32, 32, 3)), 1, 255)
    with pytest.raises(ImageError, match="stain"):
        normalise_stain(pale, "macenko")


@pytest.mark.parametrize("method", ["macenco", "vahadane", "", 3, ["reinhard"]])
def test_unknown_methods_are_refused(cell, method):
    with pytest.raises(UnknownNameError, match="There is no stain normalisation"):
        normalise_stain(cell, method)


def test_without_torchstain_the_error_says_how_to_get_it(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchstain", None)
    with pytest.raises(CytologyMissingError, match=r"needs torchstain: run `pip install 'leukaemia-zoo\[cytology\]'`"):
        normalise_stain(cell)


def test_it_brings_neither_torch_nor_tensorflow():
    import subprocess

    code = (
        "import sys, torchstain; torchstain.normalizers.MacenkoNormalizer(backend='numpy'); "
        "torchstain.normalizers.ReinhardNormalizer(backend='numpy'); "
        "sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
