"""What a network was trained on, and that no cell or person of it judges the network."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import Cells, Split, read_cnmc, read_image, save_manifest
from leukaemia_zoo.errors import LeakError
from leukaemia_zoo.overlap import (
    TrainedOn,
    find_overlap,
    fingerprint,
    pack,
    refuse,
    training_of_folder,
    training_of_weight,
    unpack,
)
from leukaemia_zoo.registry import weights


@pytest.fixture
def cells(tmp_path, draw_cell):
    """Six drawn cells of three people under C-NMC names: (table, fingerprints)."""
    paths = []
    for number in range(6):
        subject, label = ((1, "all"), (2, "all"), ("H3", "hem"))[number // 2]
        paths.append(tmp_path / f"UID_{subject}_{number}_1_{label}.png")
        Image.fromarray(draw_cell(seed=number)).save(paths[-1])
    labels = np.array([1, 1, 1, 1, 0, 0])
    table = Cells(tuple(paths), labels, ("1", "1", "2", "2", "H3", "H3"), ("hem", "all"), ("",) * 6, "c-nmc")
    return table, [fingerprint(read_image(path)) for path in paths]


def trained_on(*subjects, prints=(), is_cnmc=True):
    return TrainedOn("0" * 64, frozenset(subjects), is_cnmc, np.array(sorted(prints), np.uint64))


def test_a_fingerprint_is_of_the_pixels_and_not_of_the_file(tmp_path, draw_cell):
    frame = draw_cell()
    for suffix in ("png", "bmp", "webp"):
        Image.fromarray(frame).save(tmp_path / f"cell.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        assert fingerprint(read_image(tmp_path / f"cell.{suffix}")) == fingerprint(frame)
    changed = frame.copy()
    changed[128, 128, 0] ^= 1
    assert fingerprint(changed) != fingerprint(frame)


def test_nothing_in_common(cells):
    found = find_overlap(*cells, trained_on("7", "H9", prints=[1, 2, 3]), "cnn")
    assert (found.checked, len(found.rows), found.subjects, found.images) == (True, 0, (), 0)
    refuse(found)


def test_a_person_whom_the_network_was_trained_on_is_found(cells):
    found = find_overlap(*cells, trained_on("2", "8"), "cnn")
    assert found.rows.tolist() == [2, 3]
    assert (found.subjects, found.images) == (("2",), 0)
    with pytest.raises(
        LeakError, match=r"2 of 6 cells must not judge 'cnn': 2 are of 1 people .*\(2\).*exclude_overlap"
    ):
        refuse(found)


def test_an_identical_image_under_another_name_is_found(cells):
    table, prints = cells
    found = find_overlap(table, prints, trained_on("9", prints=[prints[4], 17]), "cnn")
    assert (found.rows.tolist(), found.subjects, found.images) == ([4], (), 1)
    with pytest.raises(LeakError, match="1 are identical to its training images"):
        refuse(found)


def test_the_same_number_in_another_laboratory_is_another_person(cells):
    table, prints = cells
    elsewhere = dataclasses.replace(table, paths=tuple(Path(f"cell{row}.png") for row in range(6)), source="csv")
    assert not len(find_overlap(elsewhere, prints, trained_on("1", "2", "H3"), "cnn").rows)
    assert len(find_overlap(elsewhere, prints, trained_on("1", is_cnmc=False), "cnn").rows) == 2


def test_a_network_of_which_nothing_is_known_is_not_refused_but_told(cells):
    found = find_overlap(*cells, None, "theirs")
    assert not found.checked
    assert "What 'theirs' was trained on is not known" in found.told
    refuse(found)


def test_the_manifest_beside_a_saved_model_tells(cells, tmp_path):
    table, prints = cells
    folder = tmp_path / "model"
    folder.mkdir()
    assert training_of_folder(folder) is None
    save_manifest(folder / "split.json", table, Split({"train": (0, 1), "validation": (4,)}, 0, "by hand"))
    trained = training_of_folder(folder)
    assert (trained.subjects, trained.is_cnmc) == ({"1", "H3"}, True)
    assert find_overlap(table, prints, trained, "mine").rows.tolist() == [0, 1, 4, 5]
    # A copy of a training file under the name of another laboratory.
    copy = tmp_path / "somebody.png"
    copy.write_bytes(table.paths[0].read_bytes())
    other = Cells((copy,), np.array([1]), (None,), ("hem", "all"), ("",), "folders")
    assert find_overlap(other, prints[:1], trained, "mine").images == 1


def test_what_is_packed_comes_back(tmp_path):
    known = [trained_on("1", "H2", prints=[5, 3]), dataclasses.replace(trained_on("9"), manifest_sha256="f" * 64)]
    pack(tmp_path / "trainings.npz", known)
    found = unpack(tmp_path / "trainings.npz")
    assert set(found) == {"0" * 64, "f" * 64}
    assert (found["0" * 64].subjects, found["0" * 64].fingerprints.tolist()) == ({"1", "H2"}, [3, 5])
    assert unpack(tmp_path / "none.npz") == {}


@pytest.mark.parametrize("name", sorted(weights()))
def test_the_training_of_every_shipped_weight_is_known(name):
    training = weights()[name].training
    known = training_of_weight(training["manifest_sha256"])
    assert len(known.fingerprints) == sum(counts["cells"] for counts in training["train"].values())
    assert len(known.subjects) == sum(counts["subjects"] for counts in training["train"].values())


def test_official_files_are_found_among_the_training_images(shared_data):
    cells = read_cnmc(shared_data / "cnmc_original")
    prints = [fingerprint(read_image(path)) for path in cells.paths]
    # As if the names told nothing: 450-pixel BMPs are known by their pixels, though training read 256-pixel copies.
    nameless = dataclasses.replace(cells, paths=tuple(Path(f"{row}.bmp") for row in range(len(cells))))
    known = training_of_weight(weights()["cnn.cnmc"].training["manifest_sha256"])
    assert find_overlap(nameless, prints, known, "cnn").images == len(cells)
