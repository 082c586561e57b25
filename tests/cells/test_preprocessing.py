"""The crop and resize in front of every network."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo.cells import preprocessing
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.errors import DataError, ImageError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def rgb():
    """Random RGB pixels."""
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def grey_rgb(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def disc(side, radius, value=200):
    """A disc in the middle of a black frame."""
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return grey_rgb(np.where(np.hypot(x, y) <= radius, value, 0))


class TestPreprocessing:
    @pytest.mark.parametrize("size", [(100, 100), (224, 224), (64, 96), (96, 64)])
    def test_shape_and_dtype(self, rgb, size):
        pixels = Preprocessing(size)(rgb)
        assert pixels.shape == (*size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable

    def test_takes_what_as_image_takes(self, rgb):
        preprocessing = Preprocessing((32, 32))
        np.testing.assert_array_equal(preprocessing(rgb.astype(np.float32)), preprocessing(rgb))
        np.testing.assert_array_equal(preprocessing(rgb[::-1, ::-1]), preprocessing(rgb[::-1, ::-1].copy()))
        with pytest.raises(ImageError, match="multiply it by 255"):
            preprocessing(rgb / 255.0)

    def test_does_not_change_its_input(self):
        frame = disc(450, 100)
        before = frame.copy()
        Preprocessing((100, 100))(frame)
        np.testing.assert_array_equal(frame, before)

    @pytest.mark.parametrize("reference_frame", [None, 256, 200])
    @pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "box"])
    @pytest.mark.parametrize("size", [(450, 450), (256, 256), (363, 363), (61, 61), (300, 451), (360, 363)])
    def test_what_is_left_out_changes_no_pixel(self, size, interpolation, reference_frame):
        frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        frame[: size[0] // 5] = 0  # black is put back where a frame is reduced
        crop = Preprocessing((100, 100), 0.6, reference_frame, interpolation)
        whole = Image.fromarray(crop.reduced(frame))
        side = 0.6 * min(whole.size)
        left, top = (whole.width - side) / 2, (whole.height - side) / 2
        box = (left, top, left + side, top + side)
        expected = whole.resize((100, 100), preprocessing._INTERPOLATIONS[interpolation], box=box)
        np.testing.assert_array_equal(crop(frame), np.asarray(expected))

    @pytest.mark.parametrize("reference_frame", [None, 256])
    @pytest.mark.parametrize(("side", "input_size"), [(450, 100), (256, 100), (450, 224), (900, 128), (120, 100)])
    def test_crop_keeps_the_size_of_the_cell(self, side, input_size, reference_frame):
        radius = 100 / 450 * side
        pixels = Preprocessing((input_size, input_size), reference_frame=reference_frame)(disc(side, radius))
        area = pixels[..., 0].sum() / 200
        # 300 of 450 pixels become input_size pixels, whatever the resolution of the frame.
        expected = np.pi * (100 / 300 * input_size) ** 2
        assert area == pytest.approx(expected, rel=0.02)

    def test_larger_cell_stays_larger(self):
        areas = [(Preprocessing((100, 100))(disc(450, radius)) > 100).mean() for radius in (80, 92, 107, 120)]
        assert np.diff(areas).min() > 0.05

    def test_crop_is_centred(self):
        pixels = Preprocessing((99, 99))(disc(450, 100)).astype(int)
        assert np.abs(pixels - pixels[::-1, ::-1]).max() <= 1

    def test_crop_of_an_oblong_frame_is_its_middle(self):
        frame = np.zeros((90, 200, 3), np.uint8)
        frame[:, 70:130] = 200  # exactly the middle 60 x 60 in width
        assert (Preprocessing((60, 60), interpolation="box")(frame) == 200).all()

    def test_whole_frame_unchanged_at_its_own_size(self):
        frame = np.random.default_rng(7).integers(0, 256, (100, 100, 3), np.uint8)
        np.testing.assert_array_equal(Preprocessing((100, 100), crop_fraction=1.0)(frame), frame)

    @pytest.mark.parametrize("fraction", [1.0, 1e-6, 0.1 + 0.2])
    def test_any_crop_lies_inside_the_frame(self, fraction):
        for side in range(16, 80):
            frame = np.full((side, side + 3, 3), 9, np.uint8)
            for size in ((31, 33), (33, 31), (47, 47)):
                assert (Preprocessing(size, crop_fraction=fraction)(frame) == 9).all()

    def test_oblong_input_does_not_stretch(self):
        tall, square = Preprocessing((96, 48))(disc(256, 40)), Preprocessing((96, 96))(disc(256, 40))
        np.testing.assert_array_equal(tall, square[:, 24:72])

    @pytest.mark.parametrize("interpolation", ["box", "bilinear", "bicubic", "lanczos"])
    def test_antialiasing(self, interpolation):
        board = grey_rgb((np.indices((256, 256)).sum(axis=0) % 2) * 255)
        pixels = Preprocessing((64, 64), crop_fraction=1.0, interpolation=interpolation)(board)
        assert np.abs(pixels.astype(int) - 127.5).max() < 4

    def test_reference_frame_only_reduces(self):
        small = disc(200, 50)
        np.testing.assert_array_equal(
            Preprocessing((64, 64))(small), Preprocessing((64, 64), reference_frame=None)(small)
        )
        large = disc(450, 100)
        assert (Preprocessing((64, 64))(large) != Preprocessing((64, 64), reference_frame=None)(large)).any()

    def test_reference_frame_equals_the_reduced_frame(self):
        noise = np.random.default_rng(8).integers(1, 256, (450, 450, 3), np.uint8)
        reduced = np.array(Image.fromarray(noise).resize((256, 256), Image.Resampling.LANCZOS))
        network = Preprocessing((100, 100))
        np.testing.assert_array_equal(network(noise), network(reduced))

    def test_background_stays_exactly_black(self):
        frame = disc(450, 100, value=255)
        pixels = Preprocessing((256, 256), crop_fraction=1.0)(frame)
        y, x = np.mgrid[0:256, 0:256] - 127.5
        distance = np.hypot(x, y) / 256 * 450
        assert (pixels[distance > 101.5] == 0).all()
        assert (pixels[distance < 95] > 240).all()
        plain = np.asarray(Image.fromarray(frame).resize((256, 256), Image.Resampling.LANCZOS))
        assert (plain[distance > 101.5] > 0).any()  # the halo that is taken away

    def test_batch(self, rgb):
        preprocessing = Preprocessing((32, 32))
        frames = [rgb, disc(450, 100), disc(256, 60).astype(np.float32)]
        batch = preprocessing.batch(frames)
        assert batch.dtype == np.uint8
        np.testing.assert_array_equal(batch, [preprocessing(frame) for frame in frames])
        np.testing.assert_array_equal(preprocessing.batch(np.stack([rgb, rgb]))[1], batch[0])
        assert preprocessing.batch([]).shape == (0, 32, 32, 3)
        with pytest.raises(ImageError, match=r"^images\[1\]"):
            preprocessing.batch([rgb, rgb[..., :1]])

    @pytest.mark.parametrize(
        "settings",
        [
            Preprocessing((100, 100)),
            Preprocessing((96, 64), crop_fraction=1, reference_frame=None, interpolation="lanczos"),
            Preprocessing([np.int64(32), 32], crop_fraction=np.float32(0.5), reference_frame=np.int32(300)),  # type: ignore[arg-type]
        ],
    )
    def test_round_trip_through_json(self, settings):
        again = Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict())))
        assert again == settings
        assert hash(again) == hash(settings)
        assert isinstance(again.input_size, tuple)

    def test_defaults_of_from_dict(self):
        assert Preprocessing.from_dict({"input_size": [100, 100]}) == Preprocessing((100, 100), 2 / 3, 256, "bicubic")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"input_size": 100}, ["input_size is 100", "(100, 100)"]),
            ({"input_size": "ab"}, ["input_size is 'ab'"]),
            ({"input_size": [100, 100, 3]}, ["input_size"]),
            ({"input_size": [100, 0]}, ["input_size"]),
            ({"input_size": [100, 99.5]}, ["input_size"]),
            ({"input_size": [True, True]}, ["input_size"]),
            ({"input_size": None}, ["input_size"]),
            ({"crop_fraction": 0.5}, ["no 'input_size'"]),
            ({"input_size": [9, 9], "crop_fraction": 0}, ["crop_fraction is 0", "above 0 and up to 1"]),
            ({"input_size": [9, 9], "crop_fraction": 1.5}, ["crop_fraction is 1.5"]),
            ({"input_size": [9, 9], "crop_fraction": float("nan")}, ["crop_fraction is nan"]),
            ({"input_size": [9, 9], "crop_fraction": "1"}, ["crop_fraction is '1'"]),
            ({"input_size": [9, 9], "crop_fraction": True}, ["crop_fraction is True"]),
            ({"input_size": [9, 9], "reference_frame": 8}, ["reference_frame is 8", "at least 16"]),
            ({"input_size": [9, 9], "reference_frame": 256.0}, ["reference_frame is 256.0"]),
            ({"input_size": [9, 9], "interpolation": "nearest"}, ["interpolation is 'nearest'", "bicubic"]),
            ({"input_size": [9, 9], "interpolation": ["bicubic"]}, ["interpolation is ['bicubic']"]),
            ({"input_size": [9, 9], "crop_fracton": 1}, ["unknown key 'crop_fracton'", "'crop_fraction'"]),
            ({"input_size": [9, 9], "colour": 1}, ["unknown key 'colour'", "the keys are input_size"]),
            ([100, 100], ["of type list"]),
        ],
    )
    def test_bad_settings(self, settings, words):
        with pytest.raises(DataError) as caught:
            Preprocessing.from_dict(settings)
        for word in words:
            assert word in str(caught.value)

    def test_is_immutable(self):
        with pytest.raises(AttributeError):
            Preprocessing((100, 100)).crop_fraction = 1.0  # type: ignore[misc]


@pytest.mark.skipif(not (SHARED / "cnmc_original").is_dir(), reason="the C-NMC images are not on this machine")
class TestOfficialFiles:
    """The official 450-pixel BMP files and the 256-pixel copies that the weights were trained on are the same cells."""

    @staticmethod
    def pairs():
        pairs = []
        for original in sorted((SHARED / "cnmc_original").rglob("*.bmp")):
            copy = (SHARED / "cnmc" / original.relative_to(SHARED / "cnmc_original")).with_suffix(".webp")
            if copy.is_file():
                pairs.append((read_image(original), read_image(copy)))
        return pairs

    def test_original_and_copy_give_the_same_pixels(self):
        pairs = self.pairs()
        assert len(pairs) >= 50
        for side in (100, 128):
            network = Preprocessing((side, side))
            for original, copy in pairs:
                difference = np.abs(network(original).astype(int) - network(copy))
                # 0 as measured; the tolerance leaves room for another version of Pillow to round differently.
                assert difference.mean() < 0.001
                assert difference.max() <= 2

    def test_reference_frame_is_needed_for_that(self):
        network = Preprocessing((100, 100), reference_frame=None)
        assert max(np.abs(network(a).astype(int) - network(b)).mean() for a, b in self.pairs()[:10]) > 0.01


def test_examples_in_the_docstrings_run():
    result = doctest.testmod(preprocessing)
    assert result.attempted >= 3
    assert result.failed == 0
