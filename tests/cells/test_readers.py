import csv
import doctest
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from painted_cells import paint

from leukaemia_zoo.benchmarking.judged_cells import read_judged_cells
from leukaemia_zoo.cells import cnmc, readers
from leukaemia_zoo.cells.cnmc import (
    MERGED_SUBJECTS,
    canonical_subject,
    official_duplicates,
    official_files,
    official_row,
    parse_cnmc_name,
    preliminary_names,
    subject_from_name,
)
from leukaemia_zoo.cells.copies import duplicate_cells
from leukaemia_zoo.cells.images import read_image
from leukaemia_zoo.cells.readers import read_cnmc, read_csv, read_data, read_folders
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"


NAMES_OF_SAME_PIXELS = (("UID_51_59_2_all.bmp", "UID_55_12_2_all.bmp"),)


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (DATA / folder).exists(), reason=f"the real images of {folder} are not on this machine"
    )


def write_csv(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def names(cells: Cells) -> list[str]:
    return [path.name for path in cells.paths]


# --- names and the official list ---


@pytest.mark.parametrize(
    ("name", "subject", "label"),
    [
        ("UID_11_10_1_all.bmp", "11", "all"),
        ("UID_h12_3_4_hem.bmp", "H12", "hem"),
        ("uid_H1_3_4_HEM.PNG", "H1", "hem"),
        ("some/where/UID_1_3_4_all.webp", "1", "all"),
    ],
)
def test_names_are_read_in_any_case_and_format(name: str, subject: str, label: str) -> None:
    parsed = parse_cnmc_name(name)
    assert parsed is not None
    assert (parsed.subject, parsed.label) == (subject, label)


@pytest.mark.parametrize(
    "name", ["1.bmp", "UID_1_2_3_all.txt", "UID_1_2_3_all", "UID_1_2_3_all_aug.bmp", "UID_X_2_3_all.bmp"]
)
def test_other_names_are_no_cnmc_names(name: str) -> None:
    assert parse_cnmc_name(name) is None
    assert subject_from_name(name) is None


def test_healthy_subject_is_not_the_patient_of_the_same_number() -> None:
    assert canonical_subject("h1") == "H1" != canonical_subject("1")
    assert canonical_subject("H20") == "H20"


def test_merged_subjects_are_exactly_those_that_shared_cells_prove() -> None:
    """Groups of subjects joined by cells with identical bytes, pixels or textures, each named by its lowest number."""
    group_of: dict[str, set[str]] = {}
    photographed_again = [tuple(f"{stem}.bmp" for stem in pair) for pair in cnmc.NEAR_COPIES]
    assert {name for pair in photographed_again for name in pair} <= {
        Path(path).name for path in official_files().paths
    }
    for pair in (*official_duplicates(), *NAMES_OF_SAME_PIXELS, *photographed_again):
        parsed = [parse_cnmc_name(path) for path in pair]
        joined: set[str] = set()
        for name in parsed:
            if name is not None:
                joined |= group_of.get(name.subject, {name.subject})
        for subject in joined:
            group_of[subject] = joined
    proven = {}
    for group in group_of.values():
        first, *others = sorted(group, key=lambda subject: int(subject.lstrip("H")))
        proven.update(dict.fromkeys(others, first))
    assert dict(MERGED_SUBJECTS) == proven


@needs("cnmc/C-NMC_test_prelim_phase_data_labels.csv")
def test_the_preliminary_cell_of_the_same_pixels_is_of_subject_55() -> None:
    """Its name stands in the official label file, and neither file is a copy of the other to the byte."""
    names = preliminary_names(DATA / "cnmc" / cnmc.PRELIMINARY_LABELS)
    for (one, other), (kept, named) in zip(cnmc.SAME_PIXELS, NAMES_OF_SAME_PIXELS, strict=True):
        assert Path(one).name == kept
        assert names[Path(other).stem] == parse_cnmc_name(named)
        assert {one, other} <= set(official_files().paths)
        assert not any({one, other} & set(pair) for pair in official_duplicates())
        assert cnmc.first_copy(other) == one


def test_official_list_is_complete() -> None:
    listed = official_files()
    assert len(listed.paths) == 15_115
    assert listed.digests.shape == (15_115, 32)
    assert listed.digests.dtype == np.uint8
    assert len(official_duplicates()) == 106
    in_training = [Path(path).name for path in listed.paths if path.startswith("training_data")]
    assert len(in_training) == 10_661
    assert sum(name.startswith("UID_h") for name in in_training) == 36
    folds: dict[str, set[str]] = defaultdict(set)
    for row, path in enumerate(listed.paths):
        assert official_row(path) == row
        if path.startswith("training_data"):
            folds[subject_from_name(path) or ""].add(path.split("/")[1])
    assert {subject for subject, where in folds.items() if len(where) > 1} == {"1", "43", "51", "H14", "H2", "H3"}


@needs("cnmc/official_sha256.csv")
def test_official_list_is_the_published_one() -> None:
    with (DATA / "cnmc" / "official_sha256.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    listed = official_files()
    packed = {
        path: (digest.tobytes().hex(), int(size))
        for path, digest, size in zip(listed.paths, listed.digests, listed.sizes, strict=True)
    }
    assert packed == {row["path"]: (row["sha256"], int(row["bytes"])) for row in rows}


# --- C-NMC ---


@pytest.mark.parametrize(
    ("layout", "group"),
    [
        ("C-NMC_Leukemia/training_data/fold_0", "fold_0"),
        ("training_data/fold_0", "fold_0"),
        ("Fold_2", "fold_2"),
        ("deep/er/still", ""),
        (".", ""),
    ],
)
def test_cnmc_is_found_at_any_nesting(tmp_path: Path, layout: str, group: str) -> None:
    paint(tmp_path / layout / "hem" / "UID_h901_1_1_hem.BMP")
    paint(tmp_path / layout / "all" / "UID_902_1_1_all.png")
    for cells in (read_cnmc(tmp_path), read_data(tmp_path)):
        assert cells.source == "c-nmc"
        assert cells.class_names == ("hem", "all")
        assert dict(zip(cells.subjects, cells.labels.tolist(), strict=True)) == {"H901": 0, "902": 1}
        assert set(cells.groups) == {group}


def test_one_fold_or_one_class_of_it_keeps_its_fold(tmp_path: Path) -> None:
    paint(tmp_path / "fold_1" / "all" / "UID_902_1_1_all.png")
    assert read_cnmc(tmp_path / "fold_1").groups == ("fold_1",)
    assert read_cnmc(tmp_path / "fold_1" / "all").groups == ("fold_1",)


def test_loose_cells_with_official_names_keep_their_fold(tmp_path: Path) -> None:
    paint(tmp_path / "UID_11_10_1_all.png")
    paint(tmp_path / "UID_h3_10_1_hem.png")
    cells = read_data(tmp_path)
    assert cells.groups == ("fold_0", "fold_2")
    assert cells.labels.tolist() == [1, 0]


def test_name_and_folder_must_agree(tmp_path: Path) -> None:
    paint(tmp_path / "fold_0" / "hem" / "UID_902_1_1_all.png")
    with pytest.raises(DataError, match=r"UID_902_1_1_all\.png is named 'all' but lies in the folder 'hem'"):
        read_cnmc(tmp_path)


def test_one_copy_of_each_official_duplicate_is_kept(tmp_path: Path) -> None:
    """UID_H10_23_1 is UID_h3_23_1, UID_20 = UID_21; known by name, so converted copies count, whatever their pixels."""
    first = paint(tmp_path / "fold_1" / "hem" / "UID_H10_23_1_hem.webp", 1)
    second = paint(tmp_path / "fold_2" / "hem" / "UID_h3_23_1_hem.webp", 2)
    kept = read_cnmc(tmp_path)
    assert kept.paths == (first,)
    assert kept.subjects == ("H3",)
    assert any("1 second copies" in note for note in kept.notes)
    assert any("H10 = H3" in note for note in kept.notes)
    assert read_cnmc(tmp_path, keep_duplicates=True).paths == (first, second)
    assert read_cnmc(tmp_path / "fold_2").paths == (second,), "the only copy there is stays"


def test_one_cell_in_two_formats_is_kept_once(tmp_path: Path) -> None:
    paint(tmp_path / "UID_902_1_1_all.bmp")
    paint(tmp_path / "UID_902_1_1_all.webp")
    assert names(read_cnmc(tmp_path)) == ["UID_902_1_1_all.bmp"]


def preliminary(root: Path, *rows: str) -> Path:
    folder = root / "validation_data" / cnmc.PRELIMINARY_FOLDER
    for number in (1, 2):
        paint(folder / f"{number}.bmp", number)
    write_csv(folder.parent / cnmc.PRELIMINARY_LABELS, "Patient_ID,new_names,labels", *rows)
    return root


GOOD_ROWS = ("UID_57_29_1_all.bmp,1.bmp,1", "UID_h25_22_2_hem.bmp,2.bmp,0")


def test_preliminary_set_comes_with_its_labels(tmp_path: Path) -> None:
    root = preliminary(tmp_path, *GOOD_ROWS)
    for start in (root, root / "validation_data", root / "validation_data" / cnmc.PRELIMINARY_FOLDER):
        cells = read_data(start)
        assert cells.groups == ("preliminary", "preliminary")
        found = dict(zip(names(cells), zip(cells.subjects, cells.labels.tolist(), strict=True), strict=True))
        assert found == {"1.bmp": ("57", 1), "2.bmp": ("H25", 0)}


def test_preliminary_set_is_left_out_without_labels_and_the_final_set_always(tmp_path: Path) -> None:
    root = preliminary(tmp_path, *GOOD_ROWS)
    (root / "validation_data" / cnmc.PRELIMINARY_LABELS).unlink()
    paint(root / "testing_data" / cnmc.FINAL_FOLDER / "7.bmp")
    with pytest.raises(DataError, match="No C-NMC cells"):
        read_cnmc(root)
    paint(root / "training_data" / "fold_0" / "all" / "UID_902_1_1_all.bmp")
    cells = read_cnmc(root)
    assert names(cells) == ["UID_902_1_1_all.bmp"]
    assert any("2 preliminary images left out" in note for note in cells.notes)
    assert any("1 images of the final test set" in note for note in cells.notes)


@pytest.mark.parametrize(
    "rows",
    [
        ("UID_57_29_1_all.bmp,1.bmp,0", "UID_h25_22_2_hem.bmp,2.bmp,0"),
        ("patient 57,1.bmp,1", "UID_h25_22_2_hem.bmp,2.bmp,0"),
    ],
)
def test_bad_preliminary_labels_name_their_row(tmp_path: Path, rows: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="Row 2 of"):
        read_cnmc(preliminary(tmp_path, *rows))


def test_preliminary_image_without_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2\.bmp has no row"):
        read_cnmc(preliminary(tmp_path, GOOD_ROWS[0]))


def test_the_whole_official_training_set(tmp_path: Path) -> None:
    """Every official name on disk: 10,661 files are 10,557 cells of 47 - 9 leukaemic and 26 - 6 healthy subjects."""
    for path in official_files().paths:
        if path.startswith("training_data"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    cells = read_cnmc(tmp_path)
    assert len(cells) == 10_661 - 104
    subjects = {name: counts["subjects"] for name, counts in cells.summary()["classes"].items()}
    assert subjects == {"hem": 20, "all": 38}
    assert len(read_cnmc(tmp_path, keep_duplicates=True)) == 10_661


@needs("cnmc")
def test_real_cnmc_cells(real_cnmc: Cells) -> None:
    cells = real_cnmc
    assert cells.summary() == {
        "source": "c-nmc",
        "cells": 7_861,
        "subjects": 52,
        "cells_without_subject": 0,
        "classes": {"hem": {"cells": 2_613, "subjects": 19}, "all": {"cells": 5_248, "subjects": 33}},
        "groups": {"fold_0": 3_527, "fold_1": 3_576, "fold_2": 758},
    }
    assert not any("second copies" in note for note in cells.notes)
    assert len(read_cnmc(DATA / "cnmc", keep_duplicates=True)) == 7_861
    assert not any(official_row(path) is None for path in cells.paths)


@needs("cnmc_original")
@needs("cnmc")
def test_real_original_files_are_read_like_their_converted_copies(real_cnmc: Cells) -> None:
    original, converted = read_data(DATA / "cnmc_original"), real_cnmc
    assert {path.suffix for path in original.paths} == {".bmp"}

    def facts(cells: Cells) -> dict[str, tuple[str | None, int, str]]:
        rows = zip(cells.paths, cells.subjects, cells.labels.tolist(), cells.groups, strict=True)
        return {path.stem: (subject, label, group) for path, subject, label, group in rows}

    assert facts(original).items() <= facts(converted).items()
    assert duplicate_cells(original) == []


# --- class folders ---


def test_class_folders_are_sorted_as_people_do(tmp_path: Path) -> None:
    for number, folder in enumerate(("stage10", "Stage2", "blast")):
        paint(tmp_path / folder / "patient 1" / f"{number}.jpg")
    (tmp_path / "stage10" / ".hidden.png").write_bytes(b"")
    (tmp_path / "stage10" / "Thumbs.db").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    paint(tmp_path / "loose.png")
    cells = read_data(tmp_path)
    assert cells.source == "folders"
    assert cells.class_names == ("blast", "Stage2", "stage10")
    assert sorted(zip(names(cells), cells.labels.tolist(), strict=True)) == [("0.jpg", 2), ("1.jpg", 1), ("2.jpg", 0)]
    assert set(cells.subjects) == {None}
    assert any("2 hidden files" in note for note in cells.notes)
    assert any("1 images outside" in note for note in cells.notes)


def test_hem_and_all_folders_keep_the_order_of_the_classes(tmp_path: Path) -> None:
    paint(tmp_path / "ALL" / "x.png")
    paint(tmp_path / "HEM" / "y.png")
    cells = read_data(tmp_path)
    assert cells.source == "folders"
    assert cells.class_names == ("hem", "all")
    assert dict(zip(names(cells), cells.labels.tolist(), strict=True)) == {"x.png": 1, "y.png": 0}


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("ALL", "Normal"), ("Normal", "ALL")),
        (("ALL", "AML", "CLL", "CML", "Normal"), ("ALL", "AML", "CLL", "CML", "Normal")),
        (("HEM", "blast"), ("HEM", "blast")),
        (("All", "Hem", "other"), ("All", "Hem", "other")),
        (("ALL", "HEM"), ("hem", "all")),
        (("normal", "all"), ("normal", "all")),
    ],
)
def test_classes_are_the_same_from_folders_a_table_and_arrays(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    """Of two the one whose name says leukaemia is the last, which is the positive one; more stay as sorted."""
    lines = ["path,label"]
    for number, folder in enumerate(folders):
        paint(tmp_path / "data" / folder / f"{number}.png", number)
        lines.append(f"data/{folder}/{number}.png,{folder}")
    cells = read_data(tmp_path / "data")
    table = read_data(write_csv(tmp_path / "t.csv", *lines))
    frames = [read_image(path) for path in table.paths]
    arrays = read_judged_cells((frames, list(folders)), None)
    assert cells.class_names == table.class_names == arrays.class_names == classes
    of_file = dict(zip(names(cells), cells.labels.tolist(), strict=True))
    assert of_file == dict(zip(names(table), table.labels.tolist(), strict=True))
    assert [of_file[path.name] for path in table.paths] == arrays.labels.tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [("Lymphocyte", "lymphocyte"), ("band neutrophil", "Band-Neutrophil"), ("ALL", "all"), ("1", "1.0")],
)
def test_one_class_in_two_spellings_is_refused_wherever_it_comes_from(tmp_path: Path, one: str, other: str) -> None:
    for number, folder in enumerate((one, other, "blast")):
        paint(tmp_path / "data" / folder / f"{number}.png", number)
    lines = [f"data/{folder}/{number}.png,{folder}" for number, folder in enumerate((one, other, "blast"))]
    frames = [np.full((16, 16, 3), 90, np.uint8)] * 3
    with pytest.raises(DataError, match="give them one spelling"):
        read_data(tmp_path / "data")
    with pytest.raises(DataError, match="give them one spelling"):
        read_data(write_csv(tmp_path / "t.csv", "path,label", *lines))
    with pytest.raises(DataError, match="give them one spelling"):
        read_judged_cells((frames, [one, other, "blast"]), None)


@pytest.mark.parametrize("name", ["uncertain", "Uncertain", "mixed"])
def test_a_class_called_as_something_else_in_results_is_refused(tmp_path: Path, name: str) -> None:
    for number, folder in enumerate((name, "blast")):
        paint(tmp_path / "data" / folder / f"{number}.png", number)
    lines = [f"data/{folder}/{number}.png,{folder}" for number, folder in enumerate((name, "blast"))]
    sources = [tmp_path / "data", write_csv(tmp_path / "t.csv", "path,label", *lines)]
    for source in sources:
        with pytest.raises(DataError, match=f"class is called '{name}'.*another name"):
            read_data(source)
    with pytest.raises(DataError, match="another name"):
        read_judged_cells(([np.full((16, 16, 3), 90, np.uint8)] * 2, [name, "blast"]), None)


@pytest.mark.parametrize("known", [("lymphocyte", "band_neutrophil"), ("Band Neutrophil", "LYMPHOCYTE")])
def test_classes_of_data_and_models_may_be_spelt_otherwise(tmp_path: Path, known: tuple[str, ...]) -> None:
    paint(tmp_path / "Lymphocyte" / "a.png", 90)
    paint(tmp_path / "band-neutrophil" / "b.png", 120)
    frames = [np.full((16, 16, 3), level, np.uint8) for level in (120, 90)]
    lymphocyte = [name[0].upper() for name in known].index("L")
    folders = read_judged_cells(tmp_path, known)
    of_file = dict(zip(names(folders.table), folders.labels.tolist(), strict=True))
    assert of_file == {"a.png": lymphocyte, "b.png": 1 - lymphocyte}
    arrays = read_judged_cells((frames, ["band-neutrophil", "Lymphocyte"]), known)
    assert arrays.labels.tolist() == [1 - lymphocyte, lymphocyte]
    assert folders.class_names == arrays.class_names == known
    with pytest.raises(DataError, match="cells of the class 'Lymphocyte'"):
        read_judged_cells(tmp_path, ("band-neutrophil", "monocyte"))


def layout(root: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        paint(root / folder / f"{number}.png", number)
    return root


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "test/a", "test/b"), "test is called after a part of a split"),
        (("Training_set/a", "valid/a"), "is called after a part of a split"),
        (("train", "test"), "is called after a part of a split"),
        (("fold_1/a", "fold_2/a"), "is called after a part of a split"),
        (("Original/a", "Original/b", "Segmented/a", "Segmented/b"), r"hold the same folders \(a, b\)"),
        (("images/a", "images/b", "masks/a", "masks/b"), r"hold the same folders \(a, b\)"),
        (("20x/A", "20x/B", "20x/c", "40x/a", "40x/b"), r"hold the same folders \(a, b\)"),
        (("images", "masks"), "called after versions of the same images"),
        (("images/a", "labels/b"), "called after versions of the same images"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_data(layout(tmp_path, *folders))
    assert "or a CSV with the columns" in str(caught.value) or "or give a CSV with the columns" in str(caught.value)


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_part_of_a_split_is_read_by_its_own(tmp_path: Path, part: str) -> None:
    layout(tmp_path, "train/a", "train/b", "test/a", "test/b")
    assert read_data(tmp_path / part).class_names == ("a", "b")


@pytest.mark.parametrize(
    "folders",
    [
        ("blast/patient 1", "lymphocyte/patient 1"),
        ("blast/P1", "blast/P2", "lymphocyte/P3", "lymphocyte/P4"),
        ("masked cell", "image of a smear"),
        ("attraining", "contest"),
        ("images", "monocyte"),
    ],
)
def test_classes_with_folders_of_people_are_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert len(read_data(layout(tmp_path, *folders)).class_names) == 2


def test_thumbnails_and_bins_are_neither_cells_nor_classes(tmp_path: Path) -> None:
    paint(tmp_path / "blast" / "1.png", 1)
    paint(tmp_path / "lymphocyte" / "2.png", 2)
    for folder in ("@eaDir/1.png", "blast/@eaDir/1.png", "#recycle", "$RECYCLE.BIN/S-1-5", "lost+found", "__MACOSX/x"):
        paint(tmp_path / folder / "SYNOPHOTO_THUMB_M.png", 9)
    (tmp_path / "System Volume Information").mkdir()
    cells = read_data(tmp_path)
    assert cells.class_names == ("lymphocyte", "blast")
    assert names(cells) == ["1.png", "2.png"]
    assert any(note.startswith("7 folders of the system passed over: ") for note in cells.notes)
    paint(tmp_path / "cnmc" / "all" / "@eaDir" / "UID_902_1_1_all.bmp")
    paint(tmp_path / "cnmc" / "all" / "UID_903_1_1_all.bmp")
    cells = read_data(tmp_path / "cnmc")
    assert cells.subjects == ("903",)
    assert any("1 folder of the system passed over" in note for note in cells.notes)


@pytest.mark.parametrize("files", [(), ("a.gif", "b.svs"), ("deep/a.gif", ".hidden.png"), ("@eaDir/thumb.png",)])
def test_a_class_without_images_is_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    layout(tmp_path / "mine", "blast", "lymphocyte")
    layout(tmp_path / "cnmc", "fold_0/all")
    paint(tmp_path / "cnmc" / "fold_0" / "all" / "UID_902_1_1_all.bmp")
    for empty in (tmp_path / "mine" / "monocyte", tmp_path / "cnmc" / "fold_0" / "hem"):
        empty.mkdir()
        for file in files:
            (empty / file).parent.mkdir(parents=True, exist_ok=True)
            (empty / file).write_bytes(b"GIF89a")
        with pytest.raises(DataError, match=rf"The class folder .*{empty.name} holds .*no image: put images into it"):
            read_data(empty.parent if empty.name == "monocyte" else empty.parent.parent)


def test_an_image_that_is_linked_counts_once_and_never_for_two_classes(tmp_path: Path) -> None:
    layout(tmp_path, "blast", "lymphocyte")
    try:
        (tmp_path / "blast" / "again.png").symlink_to(tmp_path / "blast" / "0.png")
    except OSError:
        pytest.skip("this system makes no links")
    cells = read_data(tmp_path)
    assert names(cells) == ["0.png", "1.png"]
    assert any("1 files that are there twice" in note for note in cells.notes)
    table = write_csv(tmp_path / "t.csv", "path,label", "blast/0.png,a", "lymphocyte/1.png,b", "blast/again.png,a")
    with pytest.raises(DataError, match=r"Row 4 .* again after row 2"):
        read_csv(table)
    (tmp_path / "lymphocyte" / "same.png").symlink_to(tmp_path / "blast" / "0.png")
    with pytest.raises(DataError, match="are one file through a link, with two labels"):
        read_data(tmp_path)


def test_what_is_not_there_behind_a_link_is_told(tmp_path: Path) -> None:
    layout(tmp_path, "blast", "lymphocyte")
    try:
        (tmp_path / "blast" / "annexed.png").symlink_to("../.git/annex/objects/x.png")
    except OSError:
        pytest.skip("this system makes no links")
    assert "annexed.png" in names(read_data(tmp_path)), "so that whoever reads its pixels stops"
    with pytest.raises(DataError, match=r"Row 2 .*annexed.png is a link to .*git annex get"):
        read_csv(write_csv(tmp_path / "t.csv", "path,label", "blast/annexed.png,a", "lymphocyte/1.png,b"))
    (tmp_path / "lymphocyte" / "patient 7").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"patient 7 is a link to .*labelled cells are read whole"):
        read_data(tmp_path)


@pytest.mark.parametrize("locked", ["blast", "lymphocyte/deep", "."])
def test_labelled_cells_are_not_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
    layout(tmp_path, "blast", "lymphocyte/deep")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == tmp_path / locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed .Permission denied.: check your right"):
        read_data(tmp_path)
    layout(tmp_path, "blast", "lymphocyte/deep", "monocyte", "monocyte/other")
    if locked == "lymphocyte/deep":
        layout(tmp_path, "lymphocyte")
        cells = read_data(tmp_path, skip_unreadable=True)
        assert cells.class_names == ("blast", "lymphocyte", "monocyte")
        assert any("deep cannot be listed" in note for note in cells.notes)


def test_cnmc_names_in_other_class_folders_tell_the_subject(tmp_path: Path) -> None:
    paint(tmp_path / "leukaemic" / "UID_21_1_1_all.png")
    paint(tmp_path / "normal" / "mine.png")
    cells = read_data(tmp_path)
    assert cells.source == "folders"
    assert dict(zip(names(cells), cells.subjects, strict=True)) == {"UID_21_1_1_all.png": "1", "mine.png": None}


def test_linked_folders_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    paint(tmp_path / "store" / "x.png")
    root = tmp_path / "root"
    paint(root / "a" / "y.png")
    try:
        (root / "b").symlink_to(tmp_path / "store", target_is_directory=True)
        (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    assert names(read_folders(root)) == ["y.png", "x.png"]


def test_what_cannot_be_read_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        read_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="looked for C-NMC names"):
        read_data(tmp_path)
    paint(tmp_path / "only" / "x.png")
    with pytest.raises(DataError, match="at least two, but 1 was found"):
        read_data(tmp_path)
    with pytest.raises(DataError, match="is a file but no CSV"):
        read_data(tmp_path / "only" / "x.png")


# --- CSV ---


def test_csv_with_subjects(tmp_path: Path) -> None:
    """Header in any case, a byte order mark, semicolons, spaces, absolute paths, and further columns."""
    paint(tmp_path / "images" / "a.png")
    absolute = paint(tmp_path / "b.png", 1)
    table = write_csv(
        tmp_path / "t.csv",
        "Label; PATH ;remark;Subject",
        "blast;images/a.png;;P1",
        f"10;{absolute};x; P2",
        encoding="utf-8-sig",
    )
    cells = read_data(table)
    assert cells.source == "csv"
    assert cells.class_names == ("10", "blast")
    assert cells.labels.tolist() == [1, 0]
    assert cells.subjects == ("P1", "P2")
    assert cells.paths == (tmp_path / "images" / "a.png", absolute)


def test_csv_paths_start_from_root(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "a.png")
    (tmp_path / "tables").mkdir()
    table = write_csv(tmp_path / "tables" / "t.csv", "path,label", "a.png,ALL")
    cells = read_csv(table, root=tmp_path / "images")
    assert cells.class_names == ("hem", "all")
    assert cells.labels.tolist() == [1]
    assert cells.subjects == (None,)


def test_csv_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    for name in "abc":
        paint(tmp_path / f"{name}.png")
    cells = read_csv(write_csv(tmp_path / "t.csv", "path,label", "a.png,10", "b.png,9", "c.png,9"))
    assert cells.class_names == ("9", "10")
    assert cells.labels.tolist() == [1, 0, 0]


def test_csv_merges_subjects_of_cnmc_only(tmp_path: Path) -> None:
    for name in ("UID_21_1_1_all.png", "mine.png"):
        paint(tmp_path / name)
    given = write_csv(tmp_path / "t.csv", "path,label,subject", "UID_21_1_1_all.png,all,21", "mine.png,all,21")
    assert read_csv(given).subjects == ("1", "21")
    without = write_csv(tmp_path / "u.csv", "path,label", "UID_21_1_1_all.png,all", "mine.png,all")
    assert read_csv(without).subjects == ("1", None)


@pytest.mark.parametrize(("one", "other"), [("P1", "p1"), ("P 1", "P1"), ("7", "7.0"), ("007", "7")])
def test_one_person_under_two_writings_is_refused(tmp_path: Path, one: str, other: str) -> None:
    for name in "ab":
        paint(tmp_path / f"{name}.png")
    given = write_csv(tmp_path / "t.csv", "path,label,subject", f"a.png,x,{one}", f"b.png,y,{other}")
    with pytest.raises(DataError, match=f"subjects '{one}' and '{other}' differ .* give them one spelling"):
        read_csv(given)
    frames = [np.full((16, 16, 3), 90, np.uint8)] * 2
    with pytest.raises(DataError, match="differ in case, spaces or zeros alone"):
        read_judged_cells((frames, ["hem", "all"], [one, other]), None)


def test_people_that_only_look_alike_stay(tmp_path: Path) -> None:
    subjects = ("1", "H1", "10", "1.5", "1-0", "P1", "P01", "0", "00.1")
    rows = [f"{number}.png,x,{subject}" for number, subject in enumerate(subjects)]
    for number in range(len(subjects)):
        paint(tmp_path / f"{number}.png")
    assert read_csv(write_csv(tmp_path / "t.csv", "path,label,subject", *rows)).subjects == subjects


@pytest.mark.parametrize(("column", "told"), [("Patient_ID", True), ("donor", True), ("microscope", False)])
def test_people_in_a_column_of_another_name_are_told(tmp_path: Path, column: str, told: bool) -> None:
    paint(tmp_path / "a.png")
    cells = read_csv(write_csv(tmp_path / "t.csv", f"path,label,{column}", "a.png,x,P1"))
    assert ("is not read as the subject: call it subject" in str(cells)) == told
    both = read_csv(write_csv(tmp_path / "t.csv", f"path,label,{column},subject", "a.png,x,P1,P1"))
    assert both.notes == ()


def test_empty_subjects_of_a_program_are_nobody_and_not_one_person(tmp_path: Path) -> None:
    for name in "ab":
        paint(tmp_path / f"{name}.png")
    given = write_csv(tmp_path / "t.csv", "path,label,subject", "a.png,x,nan", "b.png,y,nan")
    assert read_csv(given).subjects == (None, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,label", "a.png,x", "gone.png,y"), "Row 3 .* does not exist"),
        (("path,label", ",x"), "Row 2 .* does not exist"),
        pytest.param(
            ("path,label", "cells\\gone.png,x"),
            r"Row 2 .* does not exist: write / for each \\ in it",
            marks=pytest.mark.skipif(os.name != "posix", reason="the way paths are written here"),
        ),
        (("path,label", "a.png,x", "b.png,"), "Row 3 .* has no label"),
        (("path,label,subject", "a.png,x,P1", "b.png,y,"), "Row 3 .* has no subject"),
        (("path,label,subject", "a.png,x,", "b.png,y,P1"), "Row 2 .* has no subject"),
        (
            ("path,label,subject", "a.png,x,P1", "b.png,y,NA"),
            r"Row 3 .* has no subject \(NA is none\)",
        ),  # as R writes it
        (("path,label", "a.png,x", "b.png,nan"), r"Row 3 .* has no label \(nan is none\)"),
        (("path,label", "a.png,x", "a.png,y"), "Row 3 .* again after row 2"),
        (("path,label", "a.png,Blast", "b.png,blast"), "one spelling"),
        (("file,label", "a.png,x"), "lacks the column path"),
        (("path,label",), "no rows"),
        (("",), "lacks the column path and label"),
        (("Patient_ID,new_names,labels", "UID_1_1_1_all.bmp,1.bmp,1"), "C-NMC's own label file"),
    ],
)
def test_bad_csv_names_row_and_fault(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    for name in "ab":
        paint(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=message):
        read_csv(write_csv(tmp_path / "t.csv", *lines))


# --- habits ---


def test_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = Path("C-NMC_Leukemia/C-NMC_Leukemia/training_data")
    paint(training / "fold_0" / "all" / "UID_20_13_3_all.bmp")
    paint(training / "fold_2" / "hem" / "UID_h3_10_1_hem.bmp")
    paint(Path("my_cells/blast/1.png"), 1)
    paint(Path("my_cells/lymphocyte/2.png"), 2)
    write_csv(
        Path("my_cells.csv"), "path,label,subject", "my_cells/blast/1.png,blast,P1", "my_cells/lymphocyte/2.png,x,P2"
    )
    for module in (cnmc, readers):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_no_backend_is_imported() -> None:
    code = (
        "import sys, leukaemia_zoo.cells.readers, leukaemia_zoo.cells.splits, leukaemia_zoo.cells.verification;"
        "sys.exit(bool({'keras', 'tensorflow', 'torch', 'jax', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
