"""From files and arrays to verdicts, one a cell and one a subject."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from backend_outputs import set_fixed_weights
from PIL import Image

from leukaemia_zoo import Preprocessing, embed, load_model, predict
from leukaemia_zoo.cells import read_image
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import ArchitectureError, DataError, ImageError
from leukaemia_zoo.prediction import Prediction, Predictions, iter_predictions
from leukaemia_zoo.prediction.results import CellTally, SubjectTally
from leukaemia_zoo.zoo import registry

NAMES = ("hem", "all")
EXAMPLES = Path(__file__).parents[2] / "examples" / "cells"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden_outputs.json").read_text(encoding="utf-8"))
SMALL = [name for name, spec in sorted(registry.weights().items()) if registry.packaged_file(spec).is_file()]
LARGE = sorted(set(registry.weights()) - set(SMALL))
EVERY = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
FOR_CNMC = [
    name if name in SMALL else pytest.param(name, marks=pytest.mark.slow)
    for name, spec in sorted(registry.weights().items())
    if spec.config.preprocessing.reference_frame is not None
]


@pytest.fixture
def frames(draw_cell):
    """Twelve cells, dark and bright in turn."""
    return [draw_cell(seed, level=190 if seed % 2 else 60) for seed in range(12)]


@pytest.fixture
def files(frames, tmp_path):
    """The same as files, in an order that is not that of their names."""
    paths = [tmp_path / f"cell_{number * 7 % 12:02d}.png" for number in range(12)]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    return paths


def skip_outside_a_checkout(name):
    if name in LARGE and not registry.checkout_file(registry.weights()[name]).parent.is_dir():
        pytest.skip("the large weights are not in the source archive")


ROUNDING = 1e-5
"""Of probabilities: an image alone is computed in another order than in a batch."""


def by_hand(model, frames):
    """Preprocess and call the network, one frame after the other."""
    batch = [model.zoo.preprocessing(frame)[None].astype(np.float32) for frame in frames]
    return np.concatenate([model.predict_on_batch(one) for one in batch])


# --- what goes in ---


@pytest.mark.graphs
def test_files_and_arrays_give_what_the_network_gives(tiny_model, files, frames):
    expected = by_hand(tiny_model, frames)
    for images in (files, [str(path) for path in files], frames, np.stack(frames), np.array([str(p) for p in files])):
        found = predict(tiny_model, images)
        np.testing.assert_allclose(found.probabilities, expected, atol=ROUNDING)
        assert [item.label for item in found] == [NAMES[index] for index in expected.argmax(1)]
        assert not found.errors
    assert [item.label for item in found] == ["hem", "all"] * 6


@pytest.mark.parametrize("kind", [str, Path])
def test_one_file(tiny_model, files, kind):
    (found,) = predict(tiny_model, kind(files[1]))
    assert (found.path, found.label, found.error, found.class_names) == (str(files[1]), "all", None, NAMES)
    assert isinstance(found.probabilities, tuple)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-6)


def test_one_frame_and_float_frames(tiny_model, frames):
    (found,) = predict(tiny_model, frames[1])
    assert (found.path, found.label, found.subject) == ("images[0]", "all", None)
    assert predict(tiny_model, frames[1].astype(np.float64))[0] == found


def test_frames_of_many_sizes(tiny_model, draw_cell):
    sizes = (64, 256, 450, 301)
    found = predict(tiny_model, [draw_cell(1, size=size, level=190) for size in sizes])
    assert [item.label for item in found] == ["all"] * 4
    assert [item.path for item in found] == [f"images[{number}]" for number in range(4)]


@pytest.mark.parametrize("size", [64, 450])
@pytest.mark.parametrize("what", ["black", "dark", "beside the crop"])
def test_a_frame_in_which_the_network_sees_nothing_is_refused(tiny_model, tmp_path, frames, size, what):
    """As an array and as a file, and also where what is not black lies outside of what the network sees."""
    frame = np.full((size, size, 3), 8 if what == "dark" else 0, np.uint8)
    if what == "beside the crop":
        frame[:6, :6] = 200
    for look in (predict, embed):
        with pytest.raises(
            ImageError, match=rf"images\[1\] is black where .*\(highest value {frame[-1, -1, 0]} of 255"
        ):
            look(tiny_model, [frames[0], frame])
    Image.fromarray(frame).save(tmp_path / "night.png")
    Image.fromarray(frames[0]).save(tmp_path / "cell.png")
    cell, night = predict(tiny_model, tmp_path)
    assert cell.label is not None
    assert night.label is None
    assert night.error.startswith(f"{tmp_path / 'night.png'} is black where the cell should be")


def test_one_file_counts_once_in_its_subject(tiny_model, tmp_path, draw_cell):
    """Given twice, by another way and through a link; each row is there all the same."""
    Image.fromarray(draw_cell(1, level=190)).save(tmp_path / "UID_7_1_1_all.png")
    Image.fromarray(draw_cell(2, level=60)).save(tmp_path / "UID_7_1_2_all.png")
    bright, dark = tmp_path / "UID_7_1_1_all.png", tmp_path / "UID_7_1_2_all.png"
    (wanted,) = predict(tiny_model, [bright, dark]).by_subject()
    further = [tmp_path / ".." / tmp_path.name / dark.name, dark]
    with contextlib.suppress(OSError):
        (tmp_path / "UID_7_9_9_all.png").symlink_to(dark)
        further.append(tmp_path / "UID_7_9_9_all.png")
    found = predict(tiny_model, [bright, dark, *further])
    assert len(found) == 2 + len(further)
    (summary,) = found.by_subject()
    assert summary.cells == 2
    np.testing.assert_allclose(summary.mean_probabilities, wanted.mean_probabilities, atol=1e-6)


def test_nothing(tiny_model):
    for images in ([], np.zeros((0, 64, 64, 3), np.uint8)):
        found = predict(tiny_model, images)
        assert (len(found), found.probabilities.shape, found.by_subject(), found.to_records()) == (0, (0, 2), [], [])


def test_order_is_kept_and_batches_do_not_matter(tiny_model, files, frames):
    expected = by_hand(tiny_model, frames)
    for batch_size in (1, 5, 12, 100):
        found = predict(tiny_model, files, batch_size=batch_size)
        assert [item.path for item in found] == [str(path) for path in files]
        np.testing.assert_allclose(found.probabilities, expected, atol=ROUNDING)
    backwards = predict(tiny_model, files[::-1], batch_size=5)
    np.testing.assert_allclose(backwards.probabilities, expected[::-1], atol=ROUNDING)


def test_one_unit(tiny_folder, frames):
    two = predict(load_model(tiny_folder), frames)
    one = predict(load_model(tiny_folder, num_classes=1), frames)
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-6)
    assert [item.label for item in one] == [item.label for item in two]
    assert one.class_names == NAMES


def test_more_classes(frames):
    model = set_fixed_weights(
        load_model("cnn_attention", weights=None, num_classes=3, class_names=("hem", "all", "aml"))
    )
    found = predict(model, frames[:2])
    assert found.probabilities.shape == (2, 3)
    columns = ["path", "subject", "label", "p_hem", "p_all", "p_aml", "verdict", "ood_score", "unfamiliar", "error"]
    assert list(found[0].to_dict()) == columns


# --- bad images among good ones ---


def test_a_mixed_folder(tiny_model, mixed_folder):
    paths = sorted(mixed_folder.iterdir())
    found = predict(tiny_model, paths, batch_size=3)
    verdicts = {Path(item.path).name: item for item in found}
    assert [item.path for item in found] == [str(path) for path in paths]
    good = {"UID_7_1_1_all.bmp": "all", "UID_H3_1_1_hem.png": "hem", "wrong_suffix.jpg": "all"}
    words = {
        "cut_off.png": "cut off",
        "empty.bmp": "empty",
        "text.png": "text, not an image",
        "bomb.png": "10000 x 10000",
        "one_pixel.png": "1 x 1",
        "report.pdf": "PDF",
        "labels.csv": "text, not an image",
    }
    assert set(good) | set(words) == set(verdicts)
    for name, label in good.items():
        assert (verdicts[name].label, verdicts[name].error) == (label, None)
        alone = predict(tiny_model, mixed_folder / name)
        np.testing.assert_allclose(verdicts[name].probabilities, alone.probabilities[0], atol=1e-6)
    for name, word in words.items():
        item = verdicts[name]
        assert item.label is None
        assert item.probabilities is None
        assert str(mixed_folder / name) in item.error
        assert word in item.error
        assert "\n" not in item.error
    assert found.errors == [item for item in found if item.label is None]
    assert np.isnan(found.probabilities).any(1).tolist() == [item.label is None for item in found]
    record = verdicts["empty.bmp"].to_dict()
    assert (record["p_hem"], record["p_all"], record["label"]) == (None, None, None)


def test_only_bad_images(tiny_model, mixed_folder):
    found = predict(tiny_model, [mixed_folder / "empty.bmp", mixed_folder / "gone.png"])
    assert [item.label for item in found] == [None, None]
    assert "does not exist" in found[1].error
    assert found.probabilities.shape == (2, 2)


def test_errors_can_be_raised(tiny_model, mixed_folder):
    with pytest.raises(ImageError, match=r"empty\.bmp is empty"):
        predict(tiny_model, [mixed_folder / "UID_7_1_1_all.bmp", mixed_folder / "empty.bmp"], errors="raise")


def test_arrays_raise_unless_told_otherwise(tiny_model, frames):
    images = [frames[0], frames[1] / 255, frames[1]]
    with pytest.raises(ImageError, match=r"images\[1\] has no value above 1"):
        predict(tiny_model, images)
    found = predict(tiny_model, images, errors="report")
    assert [item.label for item in found] == ["hem", None, "all"]
    assert found[1].error.startswith("images[1] has no value above 1")
    with pytest.raises(ImageError, match="channels first"):
        predict(tiny_model, np.moveaxis(np.stack(frames), -1, 1))


# --- subjects ---


def test_subjects_from_names(tiny_model, frames, tmp_path):
    expected = {
        "UID_7_1_1_all.png": "7",
        "UID_h3_1_1_hem.png": "H3",
        "UID_21_1_1_all.png": "1",  # one person under two numbers
        "cell.png": None,
    }
    for name, frame in zip(expected, frames, strict=False):
        Image.fromarray(frame).save(tmp_path / name)
    found = predict(tiny_model, [tmp_path / name for name in expected])
    assert [item.subject for item in found] == list(expected.values())
    given = predict(tiny_model, [tmp_path / name for name in expected], subjects=["a", None, "b", None])
    assert [item.subject for item in given] == ["a", "H3", "b", None]


def test_by_subject_against_hand_computation(tiny_model, frames, mixed_folder):
    bad = mixed_folder / "empty.bmp"
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(mixed_folder / f"{number}.png")
    images = [mixed_folder / f"{number}.png" for number in range(12)]
    subjects = ["b", "a", "b", "b", "a", None, "c", "a", "a", "a", "b", "c"]
    found = predict(tiny_model, [*images, bad, bad], subjects=[*subjects, "a", "only errors"])
    expected = by_hand(tiny_model, frames)
    summaries = found.by_subject()
    assert [summary.subject for summary in summaries] == ["a", "b", "c"]
    for summary in summaries:
        rows = [index for index, subject in enumerate(subjects) if subject == summary.subject]
        assert summary.cells == len(rows)
        assert summary.counts == tuple(np.bincount(expected[rows].argmax(1), minlength=2).tolist())
        np.testing.assert_allclose(summary.mean_probabilities, expected[rows].mean(0), atol=1e-6)
    record = summaries[0].to_dict()
    columns = ["subject", "label", "cells", "n_hem", "n_all", "mean_p_hem", "mean_p_all", "uncertain", "unfamiliar"]
    assert list(record) == columns
    assert (record["cells"], record["n_hem"], record["n_all"]) == (5, 2, 3)


def test_a_tally_by_hand():
    tally = SubjectTally()
    for subject, p in (("x", 0.2), ("x", 0.9), ("x", 0.7), (None, 0.5)):
        tally.add(Prediction("f", subject, "all" if p > 0.5 else "hem", (1 - p, p), NAMES))
    tally.add(Prediction("f", "x", None, None, NAMES, "not an image"))
    (summary,) = tally.summaries()
    assert (summary.subject, summary.cells, summary.counts) == ("x", 3, (1, 2))
    assert summary.mean_probabilities == pytest.approx((0.4, 0.6))
    assert summary.label == "all"


def test_tallies_of_parts_add_up_to_that_of_the_whole():
    """Also when they travel as JSON, as those of the parts of a run do."""
    said = [("all", "all", False), ("all", "uncertain", True), ("hem", "hem", None), (None, None, None)]
    cells = [
        Prediction("f", None, label, label and (0.5, 0.5), NAMES, verdict=verdict, unfamiliar=unfamiliar)
        for label, verdict, unfamiliar in said * 3
    ]
    whole, parts = CellTally.of(NAMES), CellTally.of(NAMES)
    for cell in cells:
        whole.add(cell)
    for part in (cells[:5], cells[5:]):
        tally = CellTally.of(NAMES)
        for cell in part:
            tally.add(cell)
        parts.add_all(CellTally.from_dict(json.loads(json.dumps(tally.to_dict()))))
    assert parts == whole == CellTally({"hem": 3, "all": 6}, failed=3, uncertain=3, unfamiliar=3)
    assert (whole.cells, whole.judged) == (12, 9)


def test_the_verdict_on_a_subject_is_that_of_the_mean_and_not_of_most_cells():
    tally = SubjectTally()
    for p in (0.55, 0.6, 0.05):  # two of three cells are called all
        tally.add(Prediction("f", "x", "all" if p > 0.5 else "hem", (1 - p, p), NAMES))
    (summary,) = tally.summaries()
    assert (summary.counts, summary.label, summary.to_dict()["label"]) == ((1, 2), "hem", "hem")


@pytest.mark.parametrize("count", [0, 11, 13])
def test_subjects_must_be_as_many_as_images(tiny_model, frames, count):
    with pytest.raises(ImageError, match=f"{count} subjects for 12 images"):
        predict(tiny_model, frames, subjects=["a"] * count)
    with pytest.raises(ValueError, match="zip"):
        list(iter_predictions(tiny_model, frames, subjects=["a"] * count))


# --- classes that are ruled out ---


MISS_RATES = {
    None: ["hem", "uncertain", "all", "uncertain"],
    0.2: ["hem", "all", "all", "all"],
    0.05: ["hem", "uncertain", "uncertain", "uncertain"],
}


@pytest.fixture(scope="module")
def grey_levels(draw_cell):
    """Cells that are dark, between, bright, and between once more."""
    return [draw_cell(seed, 64, level=level) for seed, level in enumerate((60, 120, 190, 120))]


@pytest.mark.parametrize("miss_rate", MISS_RATES)
def test_a_cell_of_which_two_classes_are_not_ruled_out_is_uncertain(limited_folder, grey_levels, miss_rate):
    """To the engine and to Keras alike; the label stays that of the highest probability."""
    by_engine = predict(limited_folder, grey_levels, miss_rate=miss_rate)
    by_keras = predict(load_model(limited_folder), grey_levels, miss_rate=miss_rate)
    for found in (by_engine, by_keras):
        assert [item.verdict for item in found] == MISS_RATES[miss_rate]
        assert [item.label for item in found] == ["hem", "all", "all", "all"]
        assert [record["verdict"] for record in found.to_records()] == MISS_RATES[miss_rate]
    np.testing.assert_allclose(by_engine.probabilities, by_keras.probabilities, atol=1e-4)


def test_a_subject_counts_its_uncertain_cells(limited_folder, grey_levels):
    images = [*grey_levels, grey_levels[0] * 0]
    found = predict(limited_folder, images, subjects=["a", "a", "b", "a", "b"], errors="report")
    assert found[4].verdict is None
    assert found[4].to_dict()["verdict"] is None
    assert [(each.subject, each.cells, each.uncertain) for each in found.by_subject()] == [("a", 3, 2), ("b", 1, 0)]
    assert [each.to_dict()["uncertain"] for each in found.by_subject()] == [2, 0]


def test_a_weight_without_limits_gives_no_verdict(tiny_model, grey_levels):
    found = predict(tiny_model, grey_levels, subjects=["a"] * 4)
    assert [item.verdict for item in found] == [None] * 4
    assert found.by_subject()[0].uncertain is None
    with pytest.raises(DataError, match=r"'cnn_attention' has no limits of verdicts.*leave out miss_rate"):
        iter_predictions(tiny_model, grey_levels, miss_rate=0.1)


@pytest.mark.parametrize("miss_rate", [0.15, 0, 1, float("nan")])
def test_a_miss_rate_that_is_not_kept_is_refused_before_the_first_image(limited_folder, miss_rate):
    with pytest.raises(DataError, match=r"no limits for a miss rate of .*choose one of 0\.05, 0\.1, 0\.2"):
        iter_predictions(limited_folder, iter(()), miss_rate=miss_rate)


def test_new_classes_have_no_limits(limited_folder):
    with pytest.warns(UserWarning, match="train it before use"):
        model = load_model(limited_folder, num_classes=3, class_names=("hem", "all", "aml"))
    assert model.zoo.verdict_limits is None
    assert load_model(limited_folder, num_classes=1).zoo.verdict_limits is not None


# --- one after the other ---


@pytest.mark.parametrize("batch_size", [1, 4])
def test_reading_runs_two_batches_ahead_at_most(tiny_model, files, batch_size):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield files[taken % len(files)]

    found = iter_predictions(tiny_model, endless(), batch_size=batch_size)
    assert taken == 0, "read before anyone asked"
    for number in range(1, 31):
        next(found)
        assert number <= taken <= number + 2 * batch_size
    found.close()


def test_a_generator_of_frames_gives_all_of_them(tiny_model, frames):
    found = list(iter_predictions(tiny_model, (frame for frame in frames), batch_size=5))
    np.testing.assert_allclose([item.probabilities for item in found], by_hand(tiny_model, frames), atol=ROUNDING)
    assert isinstance(predict(tiny_model, (frame for frame in frames)), Predictions)


def test_an_error_in_the_source_is_not_swallowed(tiny_model, files):
    def failing():
        yield files[0]
        raise RuntimeError("the list ended badly")

    with pytest.raises(RuntimeError, match="ended badly"):
        list(iter_predictions(tiny_model, failing()))


# --- several views ---


@pytest.mark.parametrize("views", [4, 8])
def test_views_average_the_logits(tiny_model, tiny_folder, frames, views):
    model = load_model(tiny_folder)
    model.zoo = dataclasses.replace(model.zoo, views=views)
    batch = np.stack([model.zoo.preprocessing(frame) for frame in frames]).astype(np.float32)
    turned = [np.rot90(batch, turns, (1, 2)) for turns in range(4)]
    turned += [view[:, :, ::-1] for view in turned] if views == 8 else []
    odds = [np.log(p[:, 1] / p[:, 0]) for p in (model.predict_on_batch(view.copy()) for view in turned)]
    found = predict(model, frames)
    np.testing.assert_allclose(found.probabilities[:, 1], 1 / (1 + np.exp(-np.mean(odds, axis=0))), atol=1e-6)
    assert np.abs(found.probabilities - predict(tiny_model, frames).probabilities).max() > 1e-3


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_views_can_be_chosen_for_a_name_and_for_a_keras_model(views):
    network = Network.load("cnn")
    frame = read_image(sorted(EXAMPLES.glob("*.png"))[0])
    expected = network.probabilities(network.zoo.preprocessing(frame)[None], views=views)
    found = predict("cnn", frame, views=views)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    by_keras = predict(load_model("cnn"), frame, views=views)
    np.testing.assert_allclose(by_keras.probabilities, expected, atol=1e-4)
    assert (found.probabilities != predict("cnn", frame).probabilities).any() == (views != 4)


@pytest.mark.parametrize("views", [0, 3, 16, True, "4"])
def test_no_such_number_of_views(views, draw_cell):
    with pytest.raises(DataError, match="1, 2, 4 or 8 views, not"):
        predict("cnn_attention", draw_cell(), views=views)


def test_what_is_no_square_has_one_view(tiny_folder, draw_cell):
    model = load_model(tiny_folder)
    model.zoo = dataclasses.replace(model.zoo, views=1, preprocessing=Preprocessing((32, 40)))
    with pytest.raises(DataError, match="32x40 pixels is not square"):
        predict(model, draw_cell(), views=2)


@pytest.mark.parametrize(("views", "same"), [(1, False), (4, True), (8, True)])
def test_a_turned_cell_is_the_same_cell_to_a_model_of_all_turns(tiny_folder, draw_cell, views, same):
    model = load_model(tiny_folder)
    # Frames at the size of the input: resizing rounds to whole grey levels after each of its two directions.
    model.zoo = dataclasses.replace(model.zoo, views=views, preprocessing=Preprocessing((32, 32), crop_fraction=1.0))
    frames = [draw_cell(seed, size=32, level=100) for seed in range(6)]
    first, second = (predict(model, [np.rot90(frame, turns) for frame in frames]).probabilities for turns in (0, 1))
    assert (np.abs(first - second).max() < 1e-5) == same


# --- models that give no probabilities ---


@pytest.mark.parametrize("output", ["logits", "embeddings"])
@pytest.mark.parametrize("classes", [1, 2])
def test_other_outputs_are_refused(tiny_folder, frames, output, classes):
    model = load_model(tiny_folder, num_classes=classes, output=output)
    with pytest.raises(ArchitectureError, match="a probability for each of hem, all"):
        predict(model, frames)


def test_weights_that_are_not_finite_give_no_verdict(frames):
    model = load_model("cnn_attention", weights=None)
    model.get_layer("logits").set_weights([np.full((32, 2), np.nan), np.zeros(2)])
    with pytest.raises(ArchitectureError, match=r"a probability for each of hem, all.*not finite"):
        predict(model, frames[:1])


def test_a_model_of_someone_else(frames):
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ArchitectureError, match="does not carry its classes and preprocessing"):
        predict(model, frames)


def test_the_statement():
    assert "not a diagnosis" in NOT_A_DIAGNOSIS
    assert "research" in NOT_A_DIAGNOSIS


# --- shipped weights, as soon as there are any ---


@pytest.mark.parametrize("name", SMALL)
def test_shipped_weights_on_the_examples(name, tmp_path):
    paths = sorted(EXAMPLES.glob("*.png"))
    assert len(paths) == 6
    model = load_model(name)
    found = predict(model, paths)
    assert not found.errors
    assert {item.label for item in found} <= set(model.zoo.class_names)
    assert [item.subject for item in found] == ["901", "901", "902", "H901", "H901", "H902"]
    # The same pixels in another container are the same cell.
    for path in paths:
        Image.fromarray(read_image(path)).save(tmp_path / f"{path.stem}.bmp")
    copies = predict(model, [tmp_path / f"{path.stem}.bmp" for path in paths])
    assert np.array_equal(copies.probabilities, found.probabilities)


def test_golden_outputs_are_there_for_every_weight():
    assert sorted(GOLDEN) == sorted(registry.weights()), "run: python tools/golden_outputs.py"


@pytest.mark.graphs
@pytest.mark.parametrize("name", EVERY)
def test_shipped_weights_say_what_they_said(name):
    """A weight, its preprocessing and its views give what they gave when it was put into the zoo."""
    golden = GOLDEN[name]
    skip_outside_a_checkout(name)
    assert registry.weights()[name].sha256 == golden["sha256"], "run: python tools/golden_outputs.py"
    found = predict(load_model(name), EXAMPLES)
    probabilities = {Path(item.path).name: item.probabilities for item in found}
    assert sorted(probabilities) == sorted(golden["cells"])
    for cell, expected in golden["cells"].items():
        first, *_, last = probabilities[cell]
        assert last == pytest.approx(expected["probability"], abs=1e-4), cell
        assert np.log(last / first) == pytest.approx(expected["log_odds"], rel=1e-3, abs=1e-3), cell


@pytest.mark.parametrize("name", FOR_CNMC)
def test_shipped_weights_on_the_official_file_and_its_copy(name, shared_data):
    """The official 450 px BMP and its 256 px copy are one cell: probabilities within a thousandth."""
    skip_outside_a_checkout(name)
    official = sorted((shared_data / "cnmc_original").rglob("*.bmp"))
    copies = {path.stem.lower(): path for path in (shared_data / "cnmc").rglob("UID_*") if path.is_file()}
    pairs = [(path, copies[path.stem.lower()]) for path in official if path.stem.lower() in copies][:40]
    if not pairs:
        pytest.skip("no cell is there in both sizes")
    pairs = pairs if name in SMALL else pairs[:8]
    large, small = (predict(name, [pair[index] for pair in pairs]).probabilities for index in (0, 1))
    np.testing.assert_allclose(large, small, atol=1e-3)


def test_a_path_may_hold_anything(tiny_model, frames, tmp_path):
    names = ["with space.png", "ünïcödé 細胞.png", "new\nline.png", "-dash.png", "no_suffix", "x" * 200 + ".png"]
    Image.fromarray(frames[1]).save(tmp_path / "cell.png")
    for name in names:
        shutil.copy(tmp_path / "cell.png", tmp_path / name)
    found = predict(tiny_model, [tmp_path / name for name in names])
    assert [item.label for item in found] == ["all"] * len(names)
    assert [item.path for item in found] == [str(tmp_path / name) for name in names]


# ---------------------------------------------------------------------------------------------------------------------
# One image in other forms


@pytest.fixture
def cell_file(tmp_path, draw_cell):
    """A PNG of a bright cell."""
    Image.fromarray(draw_cell(3, level=190)).save(tmp_path / "cell.png")
    return tmp_path / "cell.png"


FORMS = {
    "image of Pillow": Image.open,
    "image with a palette": lambda path: Image.open(path).convert("RGB").quantize(256),
    "image with alpha": lambda path: Image.open(path).convert("RGBA"),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_image_in_another_form_gives_the_answer_of_its_file(tiny_model, cell_file, form):
    expected = predict(tiny_model, cell_file).probabilities
    for images in (FORMS[form](cell_file), [FORMS[form](cell_file)]):
        found = predict(tiny_model, images).probabilities
        np.testing.assert_allclose(found, expected, atol=0.02 if "palette" in form else 1e-7)


def test_a_grey_image_of_pillow_is_read_like_its_file(tiny_model, cell_file, tmp_path):
    grey = Image.open(cell_file).convert("L")
    grey.save(tmp_path / "grey.png")
    np.testing.assert_allclose(
        predict(tiny_model, grey).probabilities, predict(tiny_model, tmp_path / "grey.png").probabilities, atol=1e-7
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images is of type NoneType: give a path, an array"),
        (3, "images is of type int"),
        (b"\x89PNG", "images is of type bytes.*io.BytesIO"),
        ({"a": 1}, "images is of type dict"),
        (io.StringIO("text"), "images is of type StringIO"),
        ([None], r"images\[0\] is of type NoneType"),
        ([object()], r"images\[0\] is of type object"),
        (io.BytesIO(b""), r"images\[0\] is empty"),
        (io.BytesIO(b"no image"), r"images\[0\] is text"),
        (Image.new("RGB", (8, 8)), r"images\[0\] is 8 x 8 pixels"),
    ],
)
def test_what_is_no_image_is_told(tiny_model, images, message):
    with pytest.raises(ImageError, match=message):
        predict(tiny_model, images)
