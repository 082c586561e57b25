"""Readers: image files on disk become one table of cells with labels and subjects.

A subject is a person. Cells of one person look alike, so whoever splits, samples or reports must know which cells
belong together: every reader gives the subject of each cell, or None where nothing tells it.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leukaemia_zoo.cells import Cells
from leukaemia_zoo.class_order import positive_last
from leukaemia_zoo.cnmc import (
    CNMC_CLASSES,
    FINAL_FOLDER,
    MERGED_SUBJECTS,
    PRELIMINARY_FOLDER,
    PRELIMINARY_LABELS,
    CnmcName,
    canonical_subject,
    first_copy,
    official_files,
    official_row,
    parse_cnmc_name,
    subject_from_name,
)
from leukaemia_zoo.errors import DataError, shown
from leukaemia_zoo.images import IMAGE_SUFFIXES

__all__ = [
    "CNMC_CLASSES",
    "MERGED_SUBJECTS",
    "CnmcName",
    "as_cells",
    "canonical_subject",
    "parse_cnmc_name",
    "read_cnmc",
    "read_csv",
    "read_data",
    "read_folders",
    "subject_from_name",
]


class _Row(NamedTuple):
    path: Path
    label: str
    subject: str | None
    group: str


def read_data(path: str | Path) -> Cells:
    """Read labelled cells with the reader that fits: a CSV file, the C-NMC layout, or one folder a class.

    A folder is read as C-NMC when a file in it has a C-NMC name and lies in a folder `hem` or `all` or in no class
    folder at all, or when it holds the preliminary test set with its label file.

    Raises:
        DataError: If nothing readable is there; the message says what was looked for.

    >>> read_data("my_cells").source, read_data("my_cells.csv").source, read_data("C-NMC_Leukemia").source
    ('folders', 'csv', 'c-nmc')
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise DataError(
                f"{path} is a file but no CSV: give a CSV with the columns path,label[,subject] or a folder."
            )
        return read_csv(path)
    images, _ = _list_images(existing_folder(path))
    if _looks_like_cnmc(path, images):
        return read_cnmc(path)
    if any(len(image.relative_to(path).parts) > 1 for image in images):
        return read_folders(path)
    raise DataError(
        f"No labelled cells under {path}: looked for C-NMC names (UID_<subject>_<image>_<cell>_<all|hem>.bmp) and "
        f"for one folder of images for each class; a CSV with the columns path,label[,subject] will do too."
    )


def as_cells(data: str | os.PathLike[str] | Cells, positive: str | None = None) -> Cells:
    """The table that is meant: one as it is, or what `read_data` reads at a path.

    Args:
        data: A table, or a folder or CSV file.
        positive: The class that shall be the last, which of two is the positive one; None leaves the order.

    Raises:
        DataError: If it is neither, or cannot be read.
        UnknownNameError: If there is no class ``positive``.
    """
    if isinstance(data, Cells):
        cells = data
    elif isinstance(data, str | os.PathLike):
        cells = read_data(Path(data))
    else:
        raise DataError(
            f"{shown(data)} is no data: give a folder with one folder a class, a CSV with the columns "
            "path,label[,subject], or a table of cells."
        )
    return cells if positive is None else cells.with_positive(positive)


def read_cnmc(root: str | Path, keep_duplicates: bool = False) -> Cells:
    """Read C-NMC 2019 cells as downloaded, at any nesting and in any common image format.

    `root` may be the Kaggle or TCIA folder, `training_data`, one fold, or a folder with `hem` and `all`. The
    preliminary test set is read too where its folder and its label file both are there (group `preliminary`). The final
    test set has no labels and is left out with a note.

    Args:
        root: Folder to look in.
        keep_duplicates: Keep every copy of a cell. By default one copy of each is kept: the official set holds 104
            training cells twice under two names (`leukaemia_zoo.cnmc.official_duplicates`).

    Returns:
        Cells with the classes `("hem", "all")` and merged subjects, sorted by fold, class and file name.

    Raises:
        DataError: If there are no C-NMC cells, or a file's name and its folder or label file disagree.

    >>> cells = read_cnmc("C-NMC_Leukemia")
    >>> cells.subjects, cells.labels.tolist(), cells.groups
    (('20', 'H3'), [1, 0], ('fold_0', 'fold_2'))
    """
    root = existing_folder(Path(root))
    images, _ = _list_images(root)
    numbered = [path for path in images if _lies_in(path, root, PRELIMINARY_FOLDER)]
    unlabelled = [path for path in images if _lies_in(path, root, FINAL_FOLDER)]
    apart = {*numbered, *unlabelled}
    training = [path for path in images if path not in apart]

    rows = [_training_row(path, root, name) for path in training if (name := parse_cnmc_name(path))]
    notes = []
    if others := [path for path in training if parse_cnmc_name(path) is None]:
        notes.append(f"{len(others):,} images without a C-NMC name left out, such as {others[0].relative_to(root)}.")
    if unlabelled:
        notes.append(f"{len(unlabelled):,} images of the final test set left out: they have no published labels.")
    if numbered and (label_file := _preliminary_labels(numbered[0].parent, root)):
        rows += _preliminary_rows(numbered, label_file)
    elif numbered:
        notes.append(
            f"{len(numbered):,} preliminary images left out: their label file {PRELIMINARY_LABELS} is missing."
        )
    if not rows:
        raise DataError(
            f"No C-NMC cells under {root}: looked for images named UID_<subject>_<image>_<cell>_<all|hem> and for "
            f"{PRELIMINARY_FOLDER} with {PRELIMINARY_LABELS}; check the folder, or use read_folders or read_csv."
        )

    rows.sort(key=lambda row: (row.group, row.label, row.path.stem.lower(), row.path.as_posix()))
    if not keep_duplicates:
        unique = list({_cell_identity(row.path): row for row in reversed(rows)}.values())[::-1]
        if len(unique) < len(rows):
            notes.append(f"{len(rows) - len(unique):,} second copies of the same cell left out.")
        rows = unique
    if merged := _merged_names(rows):
        notes.append(f"Subjects that share identical cells counted as one person: {merged}.")
    return _to_cells(rows, CNMC_CLASSES, "c-nmc", notes)


def read_folders(root: str | Path) -> Cells:
    """Read one folder a class: the folders in `root` are the classes, their images may be nested deeper.

    Classes are sorted as a person would (`stage2` before `stage10`, case ignored); `hem` and `all`, in any case, always
    come as `("hem", "all")`. Of two classes the last is the positive one: where a name says which that is, as in
    `leukemia` and `normal`, it comes last. Subjects are None except for C-NMC names, which tell them.

    Raises:
        DataError: If there are fewer than two class folders with images.

    >>> read_folders("my_cells").class_names
    ('lymphocyte', 'blast')
    """
    root = existing_folder(Path(root))
    images, ignored = _list_images(root)
    in_folder = [path for path in images if len(path.relative_to(root).parts) > 1]
    class_names = order_classes({path.relative_to(root).parts[0] for path in in_folder})
    if len(class_names) < 2 and class_names != CNMC_CLASSES:
        raise DataError(
            f"{root} must hold one folder of images for each class, at least two, but {len(class_names)} was found: "
            f"sort the images into class folders or give a CSV with the columns path,label[,subject]."
        )
    notes = []
    if ignored:
        notes.append(f"{ignored:,} hidden files or files that are no images ignored.")
    if stray := len(images) - len(in_folder):
        notes.append(f"{stray:,} images outside the class folders left out.")
    rows = [
        _Row(path, cnmc_class_or(path.relative_to(root).parts[0]), subject_from_name(path), "") for path in in_folder
    ]
    return _to_cells(rows, class_names, "folders", notes)


def read_csv(path: str | Path, root: str | Path | None = None) -> Cells:
    """Read a CSV with the columns `path`, `label` and, if known, `subject`; other columns are kept in `Cells.columns`.

    Relative paths start from `root`, by default the folder of the CSV. Labels are class names or numbers; they are
    sorted as a person would, and `hem` and `all`, in any case, always come as `("hem", "all")`. Subjects stay as
    written; C-NMC subjects that are one person are merged where the file name shows that they are C-NMC's. Without a
    subject column, C-NMC names give the subject.

    Raises:
        DataError: For a missing column, file, label or subject, or a file listed twice, with its row in the CSV.

    >>> read_csv("my_cells.csv").subjects
    ('P1', 'P2')
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no CSV file {path}: check the path.")
    folder = Path(root) if root is not None else path.parent
    records, has_subjects = _csv_records(path)

    rows: list[_Row] = []
    first_seen: dict[Path, int] = {}
    for number, record in records:
        image = folder / record["path"]
        if not record["path"] or not image.is_file():
            raise DataError(f"Row {number} of {path} names the image {image}, which does not exist: mend its path.")
        if not record["label"]:
            raise DataError(f"Row {number} of {path} has no label: give a class name or leave the row out.")
        if has_subjects and not record["subject"]:
            raise DataError(
                f"Row {number} of {path} has no subject while others have: give every row its subject, or none."
            )
        if image in first_seen:
            raise DataError(f"Row {number} of {path} lists {image} again after row {first_seen[image]}: remove one.")
        first_seen[image] = number
        rows.append(_Row(image, cnmc_class_or(record["label"]), _csv_subject(image, record.get("subject")), ""))
    class_names = order_classes({row.label for row in rows})
    for one, other in pairwise(class_names):
        if one.casefold() == other.casefold():
            raise DataError(f"{path} writes one class both as {one!r} and as {other!r}: use one spelling.")
    further = [name for name in records[0][1] if name and name not in ("path", "label", "subject")]
    columns = {name: tuple(record[name] for _, record in records) for name in further}
    return replace(_to_cells(rows, class_names, "csv", []), columns=columns)


# --- files -----------------------------------------------------------------------------------------------------------


def existing_folder(root: Path) -> Path:
    """Return the folder, or raise a DataError if there is none."""
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: check the path.")
    return root


def _list_images(root: Path) -> tuple[list[Path], int]:
    """Return the images under `root`, sorted, and how many other files there are."""
    files = list(files_under(root))
    images = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    return images, len(files) - len(images)


def files_under(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """Yield the files under a folder, sorted; links are followed, but no folder twice, and hidden folders skipped."""
    seen = set() if seen is None else seen
    if (target := folder.resolve()) in seen:
        return
    seen.add(target)
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            yield entry
        elif entry.name[0] != ".":
            yield from files_under(entry, seen)


# --- C-NMC -----------------------------------------------------------------------------------------------------------


def _looks_like_cnmc(root: Path, images: list[Path]) -> bool:
    numbered = next((path for path in images if _lies_in(path, root, PRELIMINARY_FOLDER)), None)
    if numbered is not None and _preliminary_labels(numbered.parent, root):
        return True
    named = [path for path in images if parse_cnmc_name(path)]
    top_folders = {path.relative_to(root).parts[0] for path in images if path.parent != root}
    return any(_class_folder(path, root) for path in named) or (bool(named) and len(top_folders) < 2)


def _folders_upwards(path: Path, root: Path) -> list[str]:
    """Return the folder names between file and `root`, nearest first, in lower case."""
    return [part.lower() for part in reversed(path.parent.relative_to(root).parts)]


def _lies_in(path: Path, root: Path, folder: str) -> bool:
    return folder.lower() in (*_folders_upwards(path, root), root.absolute().name.lower())


def _class_folder(path: Path, root: Path) -> str | None:
    return next((part for part in _folders_upwards(path, root) if part in CNMC_CLASSES), None)


def _training_row(path: Path, root: Path, name: CnmcName) -> _Row:
    folder_label = _class_folder(path, root)
    if folder_label not in (None, name.label):
        raise DataError(
            f"{path} is named {name.label!r} but lies in the folder {folder_label!r}: put it where the official data "
            f"set has it, or rename it."
        )
    return _Row(path, name.label, canonical_subject(name.subject), _fold(path, root))


def _fold(path: Path, root: Path) -> str:
    above = root.absolute()  # A single fold, or one class of it, may be all there is.
    for part in (*_folders_upwards(path, root), above.name.lower(), above.parent.name.lower()):
        if re.fullmatch(r"fold_\d+", part):
            return part
    row = official_row(path)  # Files moved out of their fold folders are still known by name.
    return "" if row is None else official_files().paths[row].split("/")[1]


def _preliminary_labels(folder: Path, root: Path) -> Path | None:
    """Find the label file: beside the folder of images as in the download, within it, or anywhere under `root`."""
    candidates = [folder.parent / PRELIMINARY_LABELS, folder / PRELIMINARY_LABELS, *root.rglob(PRELIMINARY_LABELS)]
    return next((path for path in candidates if path.is_file()), None)


def _preliminary_rows(images: list[Path], label_file: Path) -> list[_Row]:
    """Read the preliminary test set: `Patient_ID` is the cell's original name, `new_names` the file, 1 means ALL."""
    table: dict[str, CnmcName] = {}
    with label_file.open(encoding="utf-8-sig", newline="") as file:
        for number, record in enumerate(csv.DictReader(file), start=2):
            name = parse_cnmc_name(record.get("Patient_ID") or "")
            if name is None or record.get("labels") != str(CNMC_CLASSES.index(name.label)):
                raise DataError(
                    f"Row {number} of {label_file} lacks a C-NMC name in Patient_ID or gives it another class in "
                    f"labels (1 = all, 0 = hem): download the file again."
                )
            table[Path(record.get("new_names") or "").stem] = name
    for path in images:
        if path.stem not in table:
            raise DataError(f"{path} has no row in {label_file}: remove the image or download the label file again.")
    return [
        _Row(path, table[path.stem].label, canonical_subject(table[path.stem].subject), "preliminary")
        for path in images
    ]


def _cell_identity(path: Path) -> str:
    """Return a name that all copies of one cell share: that of the first official file with the same bytes."""
    row = official_row(path)
    if row is None:
        return path.stem.lower()
    return first_copy(official_files().paths[row])


def _merged_names(rows: Iterable[_Row]) -> str:
    names = {name.subject for row in rows if (name := parse_cnmc_name(row.path))}
    return ", ".join(f"{name} = {MERGED_SUBJECTS[name]}" for name in MERGED_SUBJECTS if name in names)


# --- folders and CSV -------------------------------------------------------------------------------------------------


def cnmc_class_or(label: str) -> str:
    """The label as it is written, but C-NMC's two in lower case."""
    return label.lower() if label.lower() in CNMC_CLASSES else label


def order_classes(labels: set[str]) -> tuple[str, ...]:
    """The classes in the order of the labels, the same for folders, CSV and arrays."""
    if labels and {label.lower() for label in labels} <= set(CNMC_CLASSES):
        return CNMC_CLASSES
    return positive_last(sorted(labels, key=_natural))


def _natural(text: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sort key of people: numbers by value, case ignored."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], text


def _csv_records(path: Path) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    """Return the rows with their line numbers, columns in lower case, and whether any row gives a subject."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        # Spreadsheets set to a language with decimal commas write semicolons.
        delimiter = ";" if ";" in header and "," not in header else ","
        columns = [column.strip().lower() for column in next(csv.reader([header], delimiter=delimiter), [])]
        if {"patient_id", "new_names"} <= set(columns):
            raise DataError(f"{path} is C-NMC's own label file: give the folder that holds it and its images instead.")
        if missing := [column for column in ("path", "label") if column not in columns]:
            raise DataError(
                f"{path} lacks the column {' and '.join(missing)}: its first line must name path,label and, if known, "
                f"subject."
            )
        reader = csv.DictReader(file, fieldnames=columns, restval="", delimiter=delimiter)
        records = [
            (reader.line_num + 1, {column: (record[column] or "").strip() for column in columns}) for record in reader
        ]
    if not records:
        raise DataError(f"{path} has a header but no rows: list at least one image.")
    return records, any(record.get("subject") for _, record in records)


def _csv_subject(image: Path, given: str | None) -> str | None:
    named = subject_from_name(image)
    # Another laboratory's subject 21 is not C-NMC's: merge only where the file name agrees.
    return named if not given or named == canonical_subject(given) else given


def _to_cells(rows: list[_Row], class_names: tuple[str, ...], source: str, notes: list[str]) -> Cells:
    return Cells(
        paths=tuple(row.path for row in rows),
        labels=np.array([class_names.index(row.label) for row in rows], dtype=np.int64),
        subjects=tuple(row.subject for row in rows),
        class_names=class_names,
        groups=tuple(row.group for row in rows),
        source=source,
        notes=tuple(notes),
    )
