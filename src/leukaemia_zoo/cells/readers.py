"""Readers: image files on disk become one table of cells with labels and subjects.

A subject is a person. Cells of one person look alike, so whoever splits, samples or reports must know which cells
belong together: every reader gives the subject of each cell, or None where nothing tells it.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leukaemia_zoo.cells.cnmc import (
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
    preliminary_labels,
    preliminary_names,
    subject_from_name,
)
from leukaemia_zoo.cells.images import IMAGE_SUFFIXES
from leukaemia_zoo.cells.table import Cells, class_names_of, refuse_other_layouts
from leukaemia_zoo.common.files import existing_folder
from leukaemia_zoo.common.folders import Walk, link_fault, system_note, walk
from leukaemia_zoo.common.tables import NOTHING, notes_on_subjects, read_table, subject_name
from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import DataError


class _Row(NamedTuple):
    path: Path
    label: str
    subject: str | None
    group: str


def read_data(path: str | Path, *, skip_unreadable: bool = False) -> Cells:
    """Read labelled cells with the reader that fits: a CSV file, the C-NMC layout, or one folder a class.

    A folder is read as C-NMC when a file in it has a C-NMC name and lies in a folder `hem` or `all` or in no class
    folder at all, or when it holds the preliminary test set with its label file.

    Args:
        path: The file or folder.
        skip_unreadable: Pass over folders that cannot be listed, with a note, instead of refusing.

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
    walked = _walk(path, skip_unreadable)
    images = _images(walked)
    if _looks_like_cnmc(path, images):
        return read_cnmc(path, skip_unreadable=skip_unreadable)
    if any(len(image.relative_to(path).parts) > 1 for image in images):
        return read_folders(path, skip_unreadable=skip_unreadable)
    raise DataError(
        f"No labelled cells under {path}: looked for C-NMC names (UID_<subject>_<image>_<cell>_<all|hem>.bmp) and "
        f"for one folder of images for each class; a CSV with the columns path,label[,subject] will do too."
    )


def as_cells(
    data: str | os.PathLike[str] | Cells, positive: str | None = None, *, skip_unreadable: bool = False
) -> Cells:
    """The table that is meant, or what `read_data` reads at a path; `positive` shall be its last class."""
    if isinstance(data, Cells):
        cells = data
    elif isinstance(data, str | os.PathLike):
        cells = read_data(Path(data), skip_unreadable=skip_unreadable)
    else:
        raise DataError(
            f"{shown(data)} is no data: give a folder with one folder a class, a CSV with the columns "
            "path,label[,subject], or a table of cells."
        )
    return cells if positive is None else cells.with_positive(positive)


def read_cnmc(root: str | Path, keep_duplicates: bool = False, *, skip_unreadable: bool = False) -> Cells:
    """Read C-NMC 2019 cells as downloaded, at any nesting and in any common image format.

    `root` may be the Kaggle or TCIA folder, `training_data`, one fold, or a folder with `hem` and `all`. The
    preliminary test set is read too where its folder and its label file both are there (group `preliminary`). The final
    test set has no labels and is left out with a note.

    Args:
        root: Folder to look in.
        keep_duplicates: Keep every copy of a cell. By default one copy of each is kept: the official set holds 104
            training cells twice under two names (`leukaemia_zoo.cells.cnmc.official_duplicates`).
        skip_unreadable: Pass over folders that cannot be listed, with a note, instead of refusing.

    Returns:
        Cells with the classes `("hem", "all")` and merged subjects, sorted by fold, class and file name.

    Raises:
        DataError: If there are no C-NMC cells, or a file's name and its folder or label file disagree.

    >>> cells = read_cnmc("C-NMC_Leukemia")
    >>> cells.subjects, cells.labels.tolist(), cells.groups
    (('1', 'H3'), [1, 0], ('fold_0', 'fold_2'))
    """
    root = Path(root)
    walked = _walk(root, skip_unreadable)
    images = _images(walked)
    _refuse_empty([folder for folder in walked.folders if folder.name.lower() in CNMC_CLASSES], walked)
    numbered = [path for path in images if _lies_in(path, root, PRELIMINARY_FOLDER)]
    unlabelled = [path for path in images if _lies_in(path, root, FINAL_FOLDER)]
    apart = {*numbered, *unlabelled}
    training = [path for path in images if path not in apart]

    rows = [_training_row(path, root, name) for path in training if (name := parse_cnmc_name(path))]
    notes = _notes(walked, root)
    if others := [path for path in training if parse_cnmc_name(path) is None]:
        notes.append(f"{len(others):,} images without a C-NMC name left out, such as {others[0].relative_to(root)}.")
    if unlabelled:
        notes.append(f"{len(unlabelled):,} images of the final test set left out: they have no published labels.")
    if numbered and (label_file := preliminary_labels(numbered[0].parent, root)):
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


def read_folders(root: str | Path, *, skip_unreadable: bool = False) -> Cells:
    """Read one folder a class: the folders in `root` are the classes, their images may be nested deeper.

    Classes are sorted as a person would (`stage2` before `stage10`, case ignored); `hem` and `all`, in any case, come
    as `("hem", "all")` where there are no others. Of two classes the last is the positive one: where a name says which
    that is, as in `leukemia` and `normal`, it comes last. Subjects are None except for C-NMC names, which tell them. A
    file that is there twice, through a link, is read once.

    Args:
        root: Folder with one folder a class.
        skip_unreadable: Pass over folders that cannot be listed, with a note, instead of refusing.

    Raises:
        DataError: If there are fewer than two class folders, one of them holds no image, folders are called after a
            part of a split or hold the same folders as another, so that they are no classes, one image lies in two of
            them through a link, or a folder cannot be listed.

    >>> read_folders("my_cells").class_names
    ('lymphocyte', 'blast')
    """
    root = Path(root)
    walked = _walk(root, skip_unreadable)
    images = _images(walked)
    in_folder = [path for path in images if len(path.relative_to(root).parts) > 1]
    folders = [folder for folder in walked.folders if folder.parent == root]
    class_names, spelt = class_names_of(folder.name for folder in folders)
    if len(class_names) < 2:
        raise DataError(
            f"{root} must hold one folder of images for each class, at least two, but {len(class_names)} was found: "
            f"sort the images into class folders or give a CSV with the columns path,label[,subject]."
        )
    refuse_other_layouts(root, folders, in_folder)
    _refuse_empty(folders, walked)
    notes = _notes(walked, root)
    if ignored := len(walked.hidden) + len(walked.files) - len(images):
        notes.append(f"{ignored:,} hidden files or files that are no images ignored.")
    if stray := len(images) - len(in_folder):
        notes.append(f"{stray:,} images outside the class folders left out.")

    first: dict[str, tuple[Path, str]] = {}
    rows = []
    for path in in_folder:
        label = spelt[path.relative_to(root).parts[0]]
        other, its_label = first.setdefault(os.path.realpath(path), (path, label))
        if its_label != label:
            raise DataError(
                f"{other} ({its_label!r}) and {path} ({label!r}) are one file through a link, with two labels: remove "
                "the wrong one."
            )
        if other == path:
            rows.append(_Row(path, label, subject_from_name(path), ""))
    if again := len(in_folder) - len(rows):
        notes.append(f"{again:,} files that are there twice, through a link, counted once.")
    return _to_cells(rows, class_names, "folders", notes)


def read_csv(path: str | Path, root: str | Path | None = None) -> Cells:
    """Read a CSV with the columns `path`, `label` and, if known, `subject`; other columns are kept in `Cells.columns`.

    Relative paths start from `root`, by default the folder of the CSV. Labels are class names or numbers; they are
    sorted as a person would, and `hem` and `all`, in any case, come as `("hem", "all")` where there are
    no others. Subjects stay as written; C-NMC subjects that are one person are merged where the file name shows that
    they are C-NMC's. Without a subject column, C-NMC names give the subject.

    Raises:
        DataError: For a missing column, file, label or subject, or a file listed twice, with its row in the CSV. Where
            a program has written NA or nan, there is none.

    >>> read_csv("my_cells.csv").subjects
    ('P1', 'P2')
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no CSV file {path}: check the path.")
    folder = Path(root) if root is not None else path.parent
    table = read_table(path, ("path", "label"))
    subjects = [subject_name(record.get("subject")) for _, record in table.rows]
    has_subjects = any(subjects)
    class_names, spelt = class_names_of(record["label"] for _, record in table.rows)

    rows: list[_Row] = []
    first_seen: dict[str, int] = {}
    for (number, record), subject in zip(table.rows, subjects, strict=True):
        image = folder / record["path"]
        if not record["path"] or not os.path.isfile(image):  # noqa: PTH113 - False for a null byte, too
            if record["path"] and image.is_symlink():
                raise DataError(f"Row {number} of {path}: {image} {link_fault(image)}")
            foreign = "\\" in record["path"].replace(os.sep, "/")
            told, mend = reason(image, 500), "write / for each \\ in it" if foreign else "mend its path"
            raise DataError(f"Row {number} of {path} names the image {told}, which does not exist: {mend}.")
        if record["label"] in NOTHING:
            raise DataError(
                f"Row {number} of {path} has no label{_as_written(record['label'])}: give a class name or leave the "
                "row out."
            )
        if has_subjects and subject is None:
            raise DataError(
                f"Row {number} of {path} has no subject{_as_written(record['subject'])} while others have: give every "
                "row its subject, or none."
            )
        before = first_seen.setdefault(os.path.realpath(image), number)
        if before != number:
            raise DataError(f"Row {number} of {path} lists {image} again after row {before}: remove one.")
        rows.append(_Row(image, spelt[record["label"]], _csv_subject(image, subject), ""))
    further = [name for name in table.columns if name and name not in ("path", "label", "subject")]
    columns = {name: tuple(record[name] for _, record in table.rows) for name in further}
    notes = notes_on_subjects(table.columns)
    return replace(_to_cells(rows, class_names, "csv", notes), columns=columns)


# --- files -----------------------------------------------------------------------------------------------------------


def _walk(root: Path, skip_unreadable: bool) -> Walk:
    """The walk below a folder of labelled cells, of which no part may be missing unless that was asked for."""
    try:
        walked = walk(existing_folder(root))
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror or error}): check your right to read it.") from error
    if walked.faults and not skip_unreadable:
        more = f" (and so it is with {len(walked.faults) - 1} more)" if len(walked.faults) > 1 else ""
        raise DataError(
            f"{walked.faults[0].rstrip('.')}{more}; labelled cells are read whole, unless "
            "skip_unreadable (--skip-unreadable) leaves such folders out."
        )
    return walked


def _notes(walked: Walk, root: Path) -> list[str]:
    return [*([system_note(walked.system, root)] if walked.system else []), *walked.faults]


def _images(walked: Walk) -> list[Path]:
    return sorted(path for path in walked.files if path.suffix.lower() in IMAGE_SUFFIXES)


def _refuse_empty(folders: Iterable[Path], walked: Walk) -> None:
    """Refuse class folders without an image, which would vanish from the classes without a word."""
    with_images = {folder for path in _images(walked) for folder in path.parents}
    for folder in folders:
        if folder not in with_images:
            others = [path for path in walked.files if folder in path.parents]
            kinds = shortened(sorted({path.suffix.lower() or "no suffix" for path in others}))
            what = f"{len(others):,} other files ({kinds}) and no image" if others else "no image"
            raise DataError(
                f"The class folder {folder} holds {what}: put images into it (BMP, PNG, JPEG, TIFF or WebP), or "
                "remove it."
            )


# --- C-NMC -----------------------------------------------------------------------------------------------------------


def _looks_like_cnmc(root: Path, images: list[Path]) -> bool:
    numbered = next((path for path in images if _lies_in(path, root, PRELIMINARY_FOLDER)), None)
    if numbered is not None and preliminary_labels(numbered.parent, root):
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


def _preliminary_rows(images: list[Path], label_file: Path) -> list[_Row]:
    table = preliminary_names(label_file)
    for path in images:
        if path.stem not in table:
            raise DataError(f"{path} has no row in {label_file}: remove the image or download the label file again.")
    names = [table[path.stem] for path in images]
    return [
        _Row(path, name.label, canonical_subject(name.subject), "preliminary")
        for path, name in zip(images, names, strict=True)
    ]


def _cell_identity(path: Path) -> str:
    """Return a name that all copies of one cell share: that of the first official file with the same bytes."""
    row = official_row(path)
    return path.stem.lower() if row is None else first_copy(official_files().paths[row])


def _merged_names(rows: Iterable[_Row]) -> str:
    names = {name.subject for row in rows if (name := parse_cnmc_name(row.path))}
    return ", ".join(f"{name} = {MERGED_SUBJECTS[name]}" for name in MERGED_SUBJECTS if name in names)


def _as_written(field: str) -> str:
    """How a program has written an empty field, for a sentence."""
    return f" ({field} is none)" if field else ""


def _csv_subject(image: Path, given: str | None) -> str | None:
    named = subject_from_name(image)
    # Another laboratory's subject 21 is not C-NMC's: merge only where the file name agrees.
    return named if not given or named == canonical_subject(given) else given


def _to_cells(rows: list[_Row], class_names: tuple[str, ...], source: str, notes: Sequence[str]) -> Cells:
    return Cells(
        paths=tuple(row.path for row in rows),
        labels=np.array([class_names.index(row.label) for row in rows], dtype=np.int64),
        subjects=tuple(row.subject for row in rows),
        class_names=class_names,
        groups=tuple(row.group for row in rows),
        source=source,
        notes=tuple(notes),
    )
