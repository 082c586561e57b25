"""Views drawn from a frame: turned, mirrored and sized in one resampling."""

import numpy as np
import pytest

from leukaemia_zoo.cells.preprocessing import Preprocessing, drawn_view, symmetric_views


def test_a_drawn_view_that_is_not_turned_is_the_preprocessed_frame():
    frame = _gradient_on_black()
    preprocessing = Preprocessing((64, 64))
    difference = np.abs(drawn_view(frame, preprocessing, 0.0, False).astype(int) - preprocessing(frame))
    assert difference.mean() < 1.5


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_drawn_view_turns_and_mirrors(turns, mirrored):
    frame, preprocessing = _gradient_on_black(), Preprocessing((64, 64))
    straight = drawn_view(frame, preprocessing, 0.0, False).astype(int)
    wanted = np.rot90(straight, turns)
    if mirrored:
        wanted = np.rot90(straight[:, ::-1], -turns)
    found = drawn_view(frame, preprocessing, turns * np.pi / 2, mirrored)
    assert np.abs(found - wanted).max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_symmetric_views_are_all_that_a_square_has(dtype):
    image = np.arange(2 * 5 * 5 * 3).reshape(2, 5, 5, 3).astype(dtype)
    views = symmetric_views(image, 8)
    assert views.dtype == dtype
    for number, view in enumerate(views):
        expected = np.rot90(image, -(number % 4), axes=(1, 2))
        np.testing.assert_array_equal(view, expected if number < 4 else expected[:, :, ::-1])
    assert len({view.tobytes() for view in views}) == 8
    for count in (1, 2, 4):
        np.testing.assert_array_equal(symmetric_views(image, count), views[:count])


def test_a_larger_factor_shows_a_smaller_cell():
    frame, preprocessing = _gradient_on_black(), Preprocessing((64, 64))
    areas = [
        (drawn_view(frame, preprocessing, 0.7, True, factor).max(axis=-1) > 8).sum() for factor in (0.8, 1.0, 1.25)
    ]
    assert areas[0] / areas[1] == pytest.approx(1.25**2, rel=0.05)
    assert areas[1] / areas[2] == pytest.approx(1.25**2, rel=0.05)


def test_a_turned_photograph_has_no_black_corners_and_a_cell_on_black_no_mirror_image():
    photograph = np.full((180, 200, 3), 200, np.uint8)
    preprocessing = Preprocessing((64, 64), crop_fraction=0.85, reference_frame=None)
    assert drawn_view(photograph, preprocessing, np.pi / 4, False, 1.25).min() == 200
    on_black = _gradient_on_black()
    assert drawn_view(on_black, preprocessing, np.pi / 4, False, 1.25)[:4].max() == 0


def _gradient_on_black():
    frame = np.zeros((256, 256, 3), np.uint8)
    rows, columns = np.mgrid[:256, :256]
    inside = (rows - 120) ** 2 + 1.5 * (columns - 135) ** 2 < 60**2
    frame[inside] = np.stack([rows, columns, 255 - rows], axis=-1)[inside]
    return frame
