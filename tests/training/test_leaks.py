"""What a network was trained on, and that no cell or person of it judges the network."""

import dataclasses
import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo import Cells, Preprocessing
from leukaemia_zoo.cells import Split, canonical_subject, read_cnmc, read_image, save_manifest
from leukaemia_zoo.cells.copies import fingerprint
from leukaemia_zoo.common.files import package_folder
from leukaemia_zoo.errors import DataError, LeakError, WeightsError
from leukaemia_zoo.training.leaks import (
    TrainedOn,
    find_overlap,
    pack,
    person_of,
    refuse,
    training_of,
    training_of_folder,
    training_of_weight,
    unpack,
)
from leukaemia_zoo.zoo import ModelConfig
from leukaemia_zoo.zoo.registry import WeightSpec, weights


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
    people = frozenset((is_cnmc, subject) for subject in subjects)
    return TrainedOn("0" * 64, people, np.array(sorted(prints), np.uint64))


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
    # The person whose image it is was trained on, under whatever name: all their cells are known to the network.
    assert (found.rows.tolist(), found.subjects, found.images) == ([4, 5], ("H3",), 1)
    with pytest.raises(LeakError, match="1 are identical to its training images"):
        refuse(found)


def test_the_same_number_in_another_laboratory_may_be_another_person(cells):
    table, prints = cells
    elsewhere = dataclasses.replace(table, paths=tuple(Path(f"cell{row}.png") for row in range(6)), source="csv")
    found = find_overlap(elsewhere, prints, trained_on("1", "2", "H3"), "cnn")
    assert (len(found.rows), found.checked) == (0, False)
    assert "people could not be told apart: 3 have names like people of its training (1, 2, H3)" in found.told
    assert "no person" not in found.told
    assert len(find_overlap(elsewhere, prints, trained_on("1", is_cnmc=False), "cnn").rows) == 2
    assert find_overlap(elsewhere, prints, trained_on("7"), "cnn").checked


def test_an_official_file_name_tells_the_person_whatever_the_table_says(cells):
    table, _ = cells
    renamed = dataclasses.replace(table, subjects=tuple(f"UID_{name}" for name in table.subjects), source="csv")
    found = find_overlap(renamed, [0] * 6, trained_on("2"), "cnn")
    assert (found.rows.tolist(), found.subjects) == ([2, 3], ("2",))
    assert person_of("UID_h10_1_1_hem.webp", None) == (True, "H3")
    assert person_of("C-NMC_test_prelim_phase_data/7.bmp", "21") == (True, "1")
    assert person_of("7.bmp", "h4", "c-nmc") == (True, "H2")
    assert person_of("7.bmp", "h4", "csv") == (False, "h4")


def test_people_that_cannot_be_compared_are_told(cells):
    table, prints = cells
    nameless = dataclasses.replace(table, paths=tuple(Path(f"{row}.png") for row in range(6)), subjects=(None,) * 6)
    found = find_overlap(nameless, prints, trained_on("7"), "cnn")
    assert not found.checked
    assert "people could not be compared for 6 cells without a subject" in found.told
    assert "no person" not in found.told


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
    assert trained.people == {(True, "1"), (True, "H3")}
    assert trained.fingerprints.tolist() == sorted(prints[row] for row in (0, 1, 4))
    assert find_overlap(table, prints, trained, "mine").rows.tolist() == [0, 1, 4, 5]
    # The same pixels as arrays, and in a file of another format, under names of another laboratory.
    copy = tmp_path / "somebody.bmp"
    Image.fromarray(read_image(table.paths[0])).save(copy)
    for path in (copy, Path("images[0]")):
        other = Cells((path,), np.array([1]), ("Q",), ("hem", "all"), ("",), "csv")
        assert find_overlap(other, prints[:1], trained, "mine").images == 1


def test_an_old_manifest_without_fingerprints_knows_files_and_says_what_it_cannot_compare(cells, tmp_path):
    table, prints = cells
    digest = save_manifest(tmp_path / "split.json", table, Split({"train": (0, 1, 4)}, 0, "by hand"))
    manifest = json.loads((tmp_path / "split.json").read_text())
    for file in manifest["parts"]["train"]["files"]:
        del file["fingerprint"]
    (tmp_path / "split.json").write_text(json.dumps(manifest))
    trained = training_of_folder(tmp_path)
    assert trained.manifest_sha256 == digest
    copy = tmp_path / "somebody.png"
    copy.write_bytes(table.paths[0].read_bytes())
    same = Cells((copy,), np.array([1]), ("Q",), ("hem", "all"), ("",), "csv")
    assert find_overlap(same, prints[:1], trained, "mine").images == 1
    Image.fromarray(read_image(copy)).save(tmp_path / "somebody.bmp")
    resaved = dataclasses.replace(same, paths=(tmp_path / "somebody.bmp",))
    found = find_overlap(resaved, prints[:1], trained, "mine")
    assert (len(found.rows), found.checked) == (0, False)
    assert "images could not be compared" in found.told


def test_people_of_two_laboratories_in_one_training_are_all_found(cells, tmp_path):
    """One official file among one's own does not turn all one's people into C-NMC's."""
    table, _ = cells
    paths = [*table.paths[:1], *(tmp_path / f"own{row}.png" for row in range(1, 6))]
    for path, source in zip(paths[1:], table.paths[1:], strict=True):
        path.write_bytes(source.read_bytes())
    mixed = dataclasses.replace(table, paths=tuple(paths), subjects=("1", "P1", "P1", "P2", "P2", "P2"), source="csv")
    save_manifest(tmp_path / "split.json", mixed, Split({"train": (0, 1, 3)}, 0, "by hand"))
    trained = training_of_folder(tmp_path)
    assert trained.people == {(True, "1"), (False, "P1"), (False, "P2")}
    assert find_overlap(mixed.subset([2, 4, 5]), [0, 0, 0], trained, "mine").rows.tolist() == [0, 1, 2]


def described(**training):
    config = ModelConfig("cnn", ("hem", "all"), "texture", Preprocessing((64, 64)))
    return WeightSpec("mine", config, "model.safetensors", "0" * 64, 1, 1, "", "", training=training)


def test_what_taught_the_weight_that_a_training_began_with_is_not_forgotten(cells, tmp_path):
    table, _ = cells
    digest = save_manifest(tmp_path / "split.json", table, Split({"train": (0, 1)}, 0, "by hand"))
    base = weights()["cnn.cnmc"]
    theirs = training_of(base)
    for init in (
        {"source": "cnn.cnmc", "sha256": base.sha256},
        {"source": "renamed", "manifest_sha256": theirs.manifest_sha256},
        {"source": "x", "sha256": base.sha256, "init": "random"},
    ):
        found = training_of(described(manifest_sha256=digest, init=init), tmp_path)
        assert found.manifest_sha256 == digest
        assert found.people == theirs.people | {(True, "1")}
        assert len(found.fingerprints) == len(theirs.fingerprints) + 2
        assert not found.gaps
    # By way of another fine-tuning, of which the record tells.
    chain = {"source": "first", "sha256": "1" * 64, "init": {"source": "cnn.cnmc", "sha256": base.sha256}}
    found = training_of(described(manifest_sha256=digest, init=chain), tmp_path)
    assert found.people >= theirs.people
    assert "what 'first' was trained on" in found.gaps[0]
    assert not training_of(described(manifest_sha256=digest, init="random"), tmp_path).gaps
    assert not training_of(described(init={"source": "ImageNet, keras.applications VGG16"}), tmp_path).gaps
    assert "its own training cells are not known" in training_of(described(init=chain)).gaps[-1]
    assert training_of(described()) is None


def test_what_is_packed_comes_back(tmp_path):
    known = [trained_on("1", "H2", prints=[5, 3]), dataclasses.replace(trained_on("9"), manifest_sha256="f" * 64)]
    known[0] |= trained_on("1", is_cnmc=False)
    pack(tmp_path / "trainings.npz", known)
    found = unpack(tmp_path / "trainings.npz")
    assert set(found) == {"0" * 64, "f" * 64}
    assert found["0" * 64].people == {(True, "1"), (True, "H2"), (False, "1")}
    assert found["0" * 64].fingerprints.tolist() == [3, 5]
    assert unpack(tmp_path / "none.npz") == {}


def test_people_of_older_records_are_known_by_their_names_of_now():
    """Subject 20 was one of its own before it was known to be subject 1."""
    assert TrainedOn("", frozenset({(True, "20"), (False, "20")})).people == {(True, "1"), (False, "20")}


def test_examples_of_the_docstrings_run():
    from leukaemia_zoo.training import leaks as overlap

    result = doctest.testmod(overlap)
    assert result.attempted >= 1
    assert not result.failed


@pytest.mark.parametrize("name", sorted(weights()))
def test_the_training_of_every_shipped_weight_is_known(name):
    training = weights()[name].training
    known = training_of_weight(training["manifest_sha256"])
    # Validation cells of their own chose the epoch and the temperature: the weight has seen them too.
    seen = [training["train"], *([training["validation"]] if training["validation_folds"] == 1 else [])]
    assert len(known.fingerprints) == sum(counts["cells"] for part in seen for counts in part.values())
    with np.load(package_folder() / "data" / "trainings.npz") as packed:
        names = packed[f"{training['manifest_sha256']}/subjects"].tolist()
    assert len(names) == sum(counts["subjects"] for counts in training["train"].values())
    # Some of them turned out to be one person since.
    assert known.people == {(True, canonical_subject(name)) for name in names}


def test_official_files_are_found_among_the_training_images(shared_data):
    cells = read_cnmc(shared_data / "cnmc_original")
    prints = [fingerprint(read_image(path)) for path in cells.paths]
    # As if the names told nothing: 450-pixel BMPs are known by their pixels, though training read 256-pixel copies.
    nameless = dataclasses.replace(cells, paths=tuple(Path(f"{row}.bmp") for row in range(len(cells))))
    known = training_of_weight(weights()["cnn.cnmc"].training["manifest_sha256"])
    assert find_overlap(nameless, prints, known, "cnn").images == len(cells)


@pytest.mark.parametrize(
    "change", [lambda data: data[:100], lambda data: data[:60] + b"x" + data[61:], lambda data: b""]
)
def test_damage_of_what_is_packed_is_told(tmp_path, change):
    pack(tmp_path / "trainings.npz", [trained_on("1", prints=[5, 3])])
    (tmp_path / "trainings.npz").write_bytes(change((tmp_path / "trainings.npz").read_bytes()))
    with pytest.raises(DataError, match=r"trainings\.npz is damaged .*install leukaemia-zoo again"):
        unpack(tmp_path / "trainings.npz")


def _chain(length):
    return {"source": "somebody", **({"init": _chain(length - 1)} if length else {})}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"manifest_sha256": {}}, "manifest_sha256 of the training cannot be {}"),
        ({"init": ["cnn.cnmc"]}, r"init of the training cannot be \['cnn.cnmc'\]"),
        ({"init": {"manifest_sha256": []}}, r"manifest_sha256 of the training cannot be \[\]"),
        ({"recipe": "mine"}, "recipe of the training cannot be 'mine'"),
        ({"init": _chain(120)}, "more than 100 weights"),
    ],
)
def test_a_damaged_record_of_a_training_is_refused(training, message):
    row = weights()["cnn_attention.cnmc"].to_dict()
    with pytest.raises(WeightsError, match=message):
        WeightSpec.from_dict(row | {"training": training})
    assert WeightSpec.from_dict(row | {"training": {"init": _chain(5)}})
