import doctest
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukaemia_zoo.cells import splits
from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.manifests import load_manifest, manifest_sha256, save_manifest
from leukaemia_zoo.cells.readers import read_data
from leukaemia_zoo.cells.splits import Split, check_split, kfold_by_subject, split_by_subject
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError, LeakError, UnknownNameError

DATA = Path(__file__).parents[3] / "shared" / "data"
HAND = {"seed": None, "method": "by hand"}
HALVES = {"train": 0.5, "test": 0.5}


def paint(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[0, 0] = (value // 65536, value // 256 % 256, value % 256)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)
    return path


def table(subjects: dict[str, tuple[int, ...]], root: str = "cells") -> Cells:
    """A table without files: for each subject the number of cells in each class."""
    rows = [
        (Path(f"{root}/{subject}_{label}_{number}.png"), label, subject)
        for subject, counts in subjects.items()
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    return Cells(
        tuple(path for path, _, _ in rows),
        np.array([label for _, label, _ in rows]),
        tuple(subject for _, _, subject in rows),
        ("hem", "all"),
        ("",) * len(rows),
        "csv",
    )


def clinic(root: str = "cells") -> Cells:
    """30 subjects of very different size."""
    rng = np.random.default_rng(5)
    healthy = {f"H{number}": (int(rng.integers(5, 80)), 0) for number in range(12)}
    return table(healthy | {f"{number}": (0, int(rng.integers(5, 200))) for number in range(18)}, root)


def files(split: Split, cells: Cells) -> dict[str, set[str]]:
    return {name: {path.name for path in split.cells(name, cells).paths} for name in split.parts}


@pytest.fixture
def painted(tmp_path: Path) -> Cells:
    """Eight subjects with three different images each, on disk."""
    value = 0
    for subject in ("H901", "H902", "H903", "H904", "905", "906", "907", "908"):
        label = "hem" if subject.startswith("H") else "all"
        for number in range(3):
            value += 1
            paint(tmp_path / "data" / label / f"UID_{subject}_{number}_1_{label}.bmp", value)
    return read_data(tmp_path / "data")


# --- splitting ---


def test_split_is_disjoint_complete_and_balanced() -> None:
    cells = clinic()
    for seed in range(5):
        split = split_by_subject(cells, seed=seed)
        assert list(split.parts) == ["train", "validation", "test"]
        assert sorted(index for part in split.parts.values() for index in part) == list(range(len(cells)))
        check_split(cells, split, images=False)
        whole = cells.summary()["classes"]
        for name, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
            for class_name, counts in split.cells(name, cells).summary()["classes"].items():
                assert abs(counts["cells"] / whole[class_name]["cells"] - share) < 0.06
                assert abs(counts["subjects"] - share * whole[class_name]["subjects"]) < 1


def test_split_depends_on_the_seed_but_not_on_order_or_place() -> None:
    cells, elsewhere = clinic(), clinic("/another/place")
    order = np.random.default_rng(0).permutation(len(cells))
    shuffled = elsewhere.subset(order)
    assert files(split_by_subject(cells, seed=3), cells) == files(split_by_subject(shuffled, seed=3), shuffled)
    assert files(split_by_subject(cells, seed=3), cells) != files(split_by_subject(cells, seed=4), cells)
    for one, other in zip(kfold_by_subject(cells, 4), kfold_by_subject(shuffled, 4), strict=True):
        assert files(one, cells) == files(other, shuffled)


def test_split_stays_what_it_was() -> None:
    """A fixed seed gives the same subjects on every platform and release."""
    cells = table({f"H{n}": (n + 1, 0) for n in range(4)} | {f"{n}": (0, 2 * n + 1) for n in range(4)})
    split = split_by_subject(cells, HALVES, seed=1)
    assert {name: sorted(set(split.cells(name, cells).subjects)) for name in split.parts} == {
        "train": ["1", "2", "H1", "H3"],
        "test": ["0", "3", "H0", "H2"],
    }


def test_patients_with_cells_of_both_classes_stay_whole() -> None:
    cells = table({f"P{number}": (3 + number, 20 - number) for number in range(9)})
    split = split_by_subject(cells, {"train": 0.6, "test": 0.4})
    check_split(cells, split, images=False)
    assert all(set(split.cells(name, cells).labels.tolist()) == {0, 1} for name in split.parts)


def test_a_class_that_is_nobodys_main_class_lies_in_every_part() -> None:
    # Eight people have blasts alone, four of the others one smudge each beside many blasts.
    people = {f"P{number}": (20 + number, 0) for number in range(8)} | {f"S{number}": (30, 1) for number in range(4)}
    for seed in range(5):
        folds = kfold_by_subject(table(people), 4, seed)
        cells = table(people)
        assert [np.bincount(cells.labels[list(fold.parts["test"])]).tolist()[1] for fold in folds] == [1, 1, 1, 1]
        blasts = [np.bincount(cells.labels[list(fold.parts["test"])])[0] for fold in folds]
        assert max(blasts) - min(blasts) <= 20


def test_too_few_subjects_are_counted() -> None:
    cells = table({"H1": (5, 0), "H2": (5, 0), "1": (0, 5), "2": (0, 5), "3": (0, 5)})
    with pytest.raises(DataError, match=r"too few subjects for 3 parts \(2 hem, 3 all\)"):
        split_by_subject(cells)
    with pytest.raises(DataError, match=r"3 folds cannot be made .* \(2 hem, 3 all\)"):
        kfold_by_subject(cells, 3)


@pytest.mark.parametrize("fractions", [{"train": 1.0}, {"train": 0.7, "test": 0.2}, {"train": 1.2, "test": -0.2}])
def test_fractions_must_make_a_split(fractions: dict[str, float]) -> None:
    with pytest.raises(DataError, match="make no split"):
        split_by_subject(clinic(), fractions)


def test_kfold_tests_everybody_once() -> None:
    cells = clinic()
    folds = kfold_by_subject(cells, 5, seed=2)
    assert sorted(index for split in folds for index in split.parts["test"]) == list(range(len(cells)))
    for number, split in enumerate(folds, start=1):
        check_split(cells, split, images=False)
        assert split.method == f"kfold_by_subject {number}/5"
        assert split.seed == 2


def test_part_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownNameError, match="no part 'valid': choose one of train, test"):
        Split({"train": (0,), "test": (1,)}, **HAND).cells("valid", clinic())


def test_unknown_subjects_need_consent_and_copies_stay_together(tmp_path: Path) -> None:
    for label in ("blast", "other"):
        for number in range(6):
            for copy in ("a.png", "b.webp"):
                paint(tmp_path / label / f"{number}{copy}", number + 100 * (label == "other"))
    cells = read_data(tmp_path)
    with pytest.raises(DataError, match=r"24 of 24 cells have no subject.*allow_unknown_subjects=True"):
        split_by_subject(cells)
    with pytest.raises(DataError, match="have no subject"):
        kfold_by_subject(cells, 3)
    split = split_by_subject(cells, allow_unknown_subjects=True)
    assert split.method == "split_by_cell"
    check_split(cells, split)
    for fold in kfold_by_subject(cells, 3, allow_unknown_subjects=True):
        check_split(cells, fold)
    shuffled = cells.subset(np.random.default_rng(0).permutation(len(cells)))
    assert files(split, cells) == files(split_by_subject(shuffled, allow_unknown_subjects=True), shuffled)


# --- leaks ---


def test_shared_cell_is_refused() -> None:
    cells = table({"H1": (2, 0), "1": (0, 2)})
    with pytest.raises(LeakError, match=r"Cells .* more than one part: 1_1_0\.png \(train and test\)"):
        check_split(cells, Split({"train": (0, 1, 2), "test": (2, 3)}, **HAND), images=False)


def test_shared_subject_is_refused() -> None:
    cells = table({"H1": (2, 0), "1": (0, 2)})
    with pytest.raises(LeakError, match=r"Subjects .* more than one part: H1 \(train and test\), 1 \(train and test\)"):
        check_split(cells, Split({"train": (0, 2), "test": (1, 3)}, **HAND), images=False)


@pytest.mark.parametrize("index", [4, -1])
def test_index_outside_the_table_is_refused(index: int) -> None:
    cells = table({"H1": (2, 0), "1": (0, 2)})
    with pytest.raises(LeakError, match=f"names cell {index} of a table of 4"):
        check_split(cells, Split({"train": (0,), "test": (index,)}, **HAND), images=False)


def test_identical_image_under_another_name_and_format_is_refused(painted: Cells) -> None:
    split = split_by_subject(painted, HALVES)
    check_split(painted, split)
    original = painted.paths[split.parts["train"][0]]
    victim = painted.paths[split.parts["test"][0]]
    with Image.open(original) as image:
        image.save(victim.with_suffix(".webp"), lossless=True)
    victim.unlink()
    leaking = read_data(victim.parents[1])
    with pytest.raises(LeakError, match="Identical images are in more than one part") as caught:
        check_split(leaking, split)
    for text in (f"{original.name} (train)", f"{victim.with_suffix('.webp').name} (test)"):
        assert text in str(caught.value)
    check_split(leaking, split, images=False)


def test_copies_within_one_part_are_no_leak(painted: Cells) -> None:
    split = split_by_subject(painted, HALVES)
    first, second = split.parts["train"][:2]
    shutil.copyfile(painted.paths[first], painted.paths[second])
    check_split(painted, split)


def test_an_image_with_two_labels_is_refused_within_one_part_too(painted: Cells) -> None:
    split = split_by_subject(painted, HALVES)
    one, other = (next(row for row in split.parts["train"] if painted.labels[row] == label) for label in (0, 1))
    shutil.copyfile(painted.paths[one], painted.paths[other])
    with pytest.raises(DataError, match="are the same image with two labels"):
        check_split(painted, split)


# --- manifests ---


def test_manifest_brings_the_split_back_wherever_the_data_lies(painted: Cells, tmp_path: Path) -> None:
    split = split_by_subject(painted, HALVES, seed=7)
    digest = save_manifest(tmp_path / "split.json", painted, split)
    assert load_manifest(tmp_path / "split.json", painted) == split
    assert {path.name for path in tmp_path.iterdir()} == {"data", "split.json"}

    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "deeper")
    moved = read_data(tmp_path / "moved")
    assert load_manifest(tmp_path / "split.json", moved) == split
    assert save_manifest(tmp_path / "again.json", moved, split) == digest
    order = np.random.default_rng(0).permutation(len(moved))
    shuffled = moved.subset(order)
    assert files(load_manifest(tmp_path / "split.json", shuffled), shuffled) == files(split, painted)
    assert digest != save_manifest(
        tmp_path / "other.json", painted, split_by_subject(painted, seed=8, fractions=HALVES)
    )


def test_manifest_lists_subjects_and_files(painted: Cells, tmp_path: Path) -> None:
    split = split_by_subject(painted, HALVES, seed=7)
    save_manifest(tmp_path / "split.json", painted, split)
    manifest = json.loads((tmp_path / "split.json").read_text())
    assert manifest["format"] == "leukaemia-zoo split"
    assert (manifest["version"], manifest["seed"], manifest["method"]) == (1, 7, "split_by_subject")
    assert manifest["class_names"] == ["hem", "all"]
    for part in manifest["parts"].values():
        assert part["classes"]["hem"]["cells"] == 6
        assert list(part["classes"]["hem"]["subjects"].values()) == [3, 3]
        assert len(part["files"]) == 12
        assert set(part["files"][0]) == {"path", "sha256", "subject", "label", "fingerprint"}
    assert str(tmp_path) not in (tmp_path / "split.json").read_text()


def test_manifest_of_a_part_of_the_data_is_found_in_the_whole(painted: Cells, tmp_path: Path) -> None:
    only_all = painted.subset(np.flatnonzero(painted.labels == 1))
    split = Split({"train": (0, 1, 2), "test": (3, 4, 5)}, **HAND)
    save_manifest(tmp_path / "split.json", only_all, split)
    assert files(load_manifest(tmp_path / "split.json", painted), painted) == files(split, only_all)


def test_manifest_refuses_missing_and_changed_files(painted: Cells, tmp_path: Path) -> None:
    save_manifest(tmp_path / "split.json", painted, split_by_subject(painted, HALVES))
    gone, changed = painted.paths[0], painted.paths[-1]
    paint(changed, 999)
    gone.unlink()
    with pytest.raises(DataError) as caught:
        load_manifest(tmp_path / "split.json", read_data(tmp_path / "data"))
    for text in ("1 missing", gone.name, "1 changed", changed.name):
        assert text in str(caught.value)


def test_manifest_refuses_other_subjects_or_classes(painted: Cells, tmp_path: Path) -> None:
    save_manifest(tmp_path / "split.json", painted, split_by_subject(painted, HALVES))
    renamed = Cells(painted.paths, painted.labels, ("X",) * len(painted), painted.class_names, painted.groups, "csv")
    with pytest.raises(DataError, match="24 changed in bytes, label or subject"):
        load_manifest(tmp_path / "split.json", renamed)
    other = Cells(painted.paths, painted.labels, painted.subjects, ("a", "b"), painted.groups, "csv")
    with pytest.raises(DataError, match="was made for the classes hem, all"):
        load_manifest(tmp_path / "split.json", other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is no split manifest"),
        ('{"format": "leukaemia-zoo split", "version": 99}', "version 99"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_are_no_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=message):
        manifest_sha256(tmp_path / "split.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("parts"), "the parts are None"),
        (lambda manifest: manifest.update(class_names=3), "the class_names are 3"),
        (lambda manifest: manifest.update(seed=1.5), "the seed is 1.5"),
        (lambda manifest: manifest.update(method=None), "the method is None"),
        (lambda manifest: manifest["parts"]["train"].pop("files"), "the part 'train' lists no files"),
        (lambda manifest: manifest["parts"]["test"]["files"].append([]), r"the part 'test' lists \[\]"),
        (lambda manifest: manifest["parts"]["test"]["files"][0].update(subject=["P1"]), "the part 'test' lists {"),
        (lambda manifest: manifest["parts"]["test"]["files"][0].update(fingerprint=""), "the part 'test' lists {"),
    ],
)
def test_a_damaged_manifest_is_refused(painted: Cells, tmp_path: Path, change, message: str) -> None:
    file = tmp_path / "split.json"
    save_manifest(file, painted, split_by_subject(painted, HALVES))
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    for read in (lambda: load_manifest(file, painted), lambda: manifest_sha256(file)):
        with pytest.raises(DataError, match=message):
            read()


def test_manifest_hash_ignores_the_layout_of_the_text(painted: Cells, tmp_path: Path) -> None:
    digest = save_manifest(tmp_path / "split.json", painted, split_by_subject(painted, HALVES))
    content = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "dense.json").write_text(json.dumps(dict(reversed(content.items()))))
    assert manifest_sha256(tmp_path / "dense.json") == digest


def test_a_manifest_of_an_older_release_has_the_same_hash_and_is_read(painted: Cells, tmp_path: Path) -> None:
    split = split_by_subject(painted, HALVES)
    digest = save_manifest(tmp_path / "split.json", painted, split)
    content = json.loads((tmp_path / "split.json").read_text())
    for part in content["parts"].values():
        for file in part["files"]:
            assert int(file.pop("fingerprint"), 16) == file_fingerprint(tmp_path / "data" / file["path"])
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert manifest_sha256(tmp_path / "old.json") == digest
    assert load_manifest(tmp_path / "old.json", painted) == split
    given = [7] * len(painted)
    assert save_manifest(tmp_path / "given.json", painted, split, given) == digest
    assert f'"fingerprint": "{7:016x}"' in (tmp_path / "given.json").read_text()


# --- real data ---


@pytest.mark.skipif(not (DATA / "cnmc").exists(), reason="the real images of cnmc are not on this machine")
def test_real_cells_split_by_subject(real_cnmc: Cells) -> None:
    cells = real_cnmc
    split = split_by_subject(cells)
    whole = cells.summary()["classes"]
    for name, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        for class_name, counts in split.cells(name, cells).summary()["classes"].items():
            assert abs(counts["cells"] / whole[class_name]["cells"] - share) < 0.02
    few = np.concatenate(
        [np.flatnonzero(np.array(cells.subjects) == subject)[:3] for subject in sorted(set(cells.subjects))]
    )
    check_split(cells.subset(few), split_by_subject(cells.subset(few)))
    for fold in kfold_by_subject(cells):
        check_split(cells, fold, images=False)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "cnmc").exists(), reason="the real images of cnmc are not on this machine")
def test_real_cells_hold_no_identical_images(real_cnmc: Cells) -> None:
    cells = real_cnmc
    check_split(cells, split_by_subject(cells))


@pytest.mark.skipif(not (DATA / "cnmc").exists(), reason="the real images of cnmc are not on this machine")
def test_official_folds_are_refused(real_cnmc: Cells) -> None:
    """C-NMC's own folds put merged subjects on both sides."""
    cells = real_cnmc
    groups = np.array(cells.groups)
    folds = {name: tuple(np.flatnonzero(groups == name).tolist()) for name in sorted(set(cells.groups))}
    with pytest.raises(LeakError, match=r"51 \(fold_1 and fold_2\)"):
        check_split(cells, Split(folds, None, "official folds"), images=False)


def test_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value, subject in enumerate(("H901", "H902", "H903", "904", "905", "906")):
        label = "hem" if subject.startswith("H") else "all"
        paint(Path(f"C-NMC_Leukemia/training_data/fold_0/{label}/UID_{subject}_1_1_{label}.bmp"), value)
    result = doctest.testmod(splits, extraglobs={"read_data": read_data})
    assert result.attempted > 0
    assert result.failed == 0
