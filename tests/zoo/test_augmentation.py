"""`augmentation` and `views`: what may happen to a cell, and what may not."""

import numpy as np
import pytest

from leukaemia_zoo.cells.preprocessing import Preprocessing, symmetric_views, turned_views
from leukaemia_zoo.training.runs import reseed
from leukaemia_zoo.zoo.augmentation import CellAugmentation


def _views(batch, **settings):
    return np.asarray(CellAugmentation(**settings)(batch, training=True))


@pytest.fixture
def batch(draw_cell):
    return np.stack([draw_cell(number, 64, 0.3) for number in range(6)]).astype("float32")


def test_nothing_changes_outside_training(batch):
    np.testing.assert_array_equal(np.asarray(CellAugmentation()(batch, training=False)), batch)


def test_the_background_stays_black_and_the_range_is_kept(batch):
    views = _views(batch, colour=1.0, seed=2)
    assert views.min() >= 0
    assert views.max() <= 255
    corners = views[:, :6, :6]
    assert not corners.any()
    assert not np.allclose(views, batch)


def test_quarter_turns_move_pixels_and_change_none(batch):
    views = _views(batch, colour=0.0, any_angle=False, seed=1)
    changed = 0
    for view, image in zip(views, batch, strict=True):
        symmetries = symmetric_views(image[None], 8)[:, 0]
        assert any(np.array_equal(view, other) for other in symmetries)
        changed += not np.array_equal(view, image)
    assert changed


def test_colour_alone_keeps_the_shape_of_the_cell(batch):
    views = _views(batch, colour=0.5, any_angle=False, zoom=0.0, shift=0.0, seed=3)
    # quarter turns keep the number of cell pixels; the darkest of them may become background
    counts = (views.max(-1) > 8).sum((1, 2)) / (batch.max(-1) > 8).sum((1, 2))
    assert np.all((counts > 0.97) & (counts <= 1.0))


def test_zoom_changes_the_size_by_no_more_than_it_says(batch):
    areas = (_views(batch, colour=0.0, zoom=0.1, shift=0.0, seed=4).max(-1) > 60).sum((1, 2))
    before = (batch.max(-1) > 60).sum((1, 2))
    ratio = areas / before
    assert np.all((ratio > np.exp(-0.2) * 0.95) & (ratio < np.exp(0.2) * 1.05))
    assert np.ptp(ratio) > 0.02


def test_a_blob_is_cut_out_of_whole_fields_only(batch):
    field = np.full((4, 64, 64, 3), 180.0, "float32")
    views = _views(field, zoom=0.0, shift=0.0, colour=0.0, cut_out=1.0, seed=5)
    covered = (views.max(-1) > 8).mean((1, 2))
    assert np.all((covered > 0.1) & (covered < 0.85))
    cells = _views(batch, zoom=0.0, shift=0.0, colour=0.0, cut_out=1.0, seed=5)
    before = (batch.max(-1) > 60).sum((1, 2))
    np.testing.assert_allclose((cells.max(-1) > 60).sum((1, 2)), before, rtol=0.06)


def test_seeds_decide(batch):
    np.testing.assert_array_equal(_views(batch, seed=7), _views(batch, seed=7))
    assert not np.array_equal(_views(batch, seed=7), _views(batch, seed=8))


def test_reseeding_repeats_an_epoch(batch):
    import keras

    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(CellAugmentation()(inputs)))
    outputs = []
    for epoch in (0, 0, 1):
        reseed(model, 3, epoch)
        outputs.append(np.asarray(model(batch, training=True)))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_configuration_round_trip():
    layer = CellAugmentation(zoom=0.2, shift=0.1, colour=0.7, any_angle=False, cut_out=0.4, seed=9)
    assert CellAugmentation.from_config(layer.get_config()).get_config() == layer.get_config()


def test_symmetric_views_are_the_eight_of_a_square():
    image = np.arange(48).reshape(1, 4, 4, 3)
    views = symmetric_views(image, 8)
    assert len({view.tobytes() for view in views}) == 8
    np.testing.assert_array_equal(symmetric_views(image, 1)[0], image)
    np.testing.assert_array_equal(symmetric_views(image, 4), views[:4])


def test_turned_views_begin_with_the_frame_as_it_is_and_keep_the_cell(draw_cell):
    frame = draw_cell(1, 450, 0.2)
    preprocessing = Preprocessing((96, 96))
    views = turned_views(frame, preprocessing, 5, seed=0)
    np.testing.assert_array_equal(views[0], preprocessing(frame))
    areas = (views.max(-1) > 60).sum((1, 2))
    assert np.all(np.abs(areas / areas[0] - 1) < 0.2)
    assert len({view.tobytes() for view in views}) == 5
    np.testing.assert_array_equal(views, turned_views(frame, preprocessing, 5, seed=0))
    # not blurred: neighbouring pixels differ as much as in the frame that was not turned
    inside = views[:, 34:62, 34:62].astype(float)
    roughness = np.abs(np.diff(inside, axis=1)).mean((1, 2, 3))
    assert np.all(roughness > 0.8 * roughness[0])
