"""What is known of C-NMC 2019: names, folders, people under two numbers, and every official file by its hash.

`verify` compares a copy of the data set with the official files.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import numpy as np

from leukaemia_zoo.cells.images import IMAGE_SUFFIXES
from leukaemia_zoo.common.files import package_folder
from leukaemia_zoo.common.folders import walk
from leukaemia_zoo.common.tables import read_table
from leukaemia_zoo.errors import DataError

#: Class names in the order of the labels: `hem` (normal) is 0, `all` (leukaemic) is 1, so P(all) is the last column.
CNMC_CLASSES = ("hem", "all")

#: Folders of the two test sets, whose images have numbers for names, and the label file of the first.
PRELIMINARY_FOLDER = "C-NMC_test_prelim_phase_data"
PRELIMINARY_LABELS = "C-NMC_test_prelim_phase_data_labels.csv"
FINAL_FOLDER = "C-NMC_test_final_phase_data"

#: Subject numbers that stand for one person, each with the name kept: the lowest number of its group.
#:
#: Evidence: 106 pairs of official files are byte-identical (equal SHA-256 in the packaged list). Between subjects:
#: 20 = 21 (71 cells), 51 = 78 (11), 51 = 75 (10), H2 = H4 (3), H2 = H5 (2), H2 = H6 (1), H3 = H10 (1). One cell cannot
#: come from two people, and 94 of these pairs lie in two different official folds. 51 = 55 by `SAME_PIXELS`: 55 is a
#: subject of the preliminary test set alone. The others by `NEAR_COPIES`.
MERGED_SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("15", "16", "17", "18", "20", "21"), "1"),
        "44": "43",
        **dict.fromkeys(("55", "75", "78"), "51"),
        **dict.fromkeys(("H4", "H5", "H6", "H7"), "H2"),
        "H10": "H3",
        "H24": "H14",
    }
)

#: Cells that are there under two subjects, photographed or cut out once more: their pixels differ, their texture is the
#: same. Found by `near_copies` among 7,861 cells of the training set, with correlations from 0.77 to 1. Cells that are
#: not the same reach 0.66. The other 2,800 cells of it and those of the test sets could not be compared so far.
NEAR_COPIES: tuple[tuple[str, str], ...] = (
    ("UID_H7_7_1_hem", "UID_H2_25_1_hem"),
    ("UID_H7_3_2_hem", "UID_H2_10_3_hem"),
    ("UID_H7_3_1_hem", "UID_H2_10_1_hem"),
    ("UID_H7_2_2_hem", "UID_H2_6_3_hem"),
    ("UID_H7_1_1_hem", "UID_H2_2_1_hem"),
    ("UID_H7_8_1_hem", "UID_H2_29_1_hem"),
    ("UID_H7_10_2_hem", "UID_H2_33_2_hem"),
    ("UID_H7_12_1_hem", "UID_H2_39_1_hem"),
    ("UID_H7_5_1_hem", "UID_H2_17_1_hem"),
    ("UID_H7_10_1_hem", "UID_H2_33_1_hem"),
    ("UID_H7_9_1_hem", "UID_H2_31_1_hem"),
    ("UID_43_4_4_all", "UID_44_23_4_all"),
    ("UID_43_4_6_all", "UID_44_23_7_all"),
    ("UID_43_4_5_all", "UID_44_23_5_all"),
    ("UID_43_4_1_all", "UID_44_23_1_all"),
    ("UID_43_3_1_all", "UID_44_21_2_all"),
    ("UID_43_4_3_all", "UID_44_23_3_all"),
    ("UID_43_10_2_all", "UID_44_7_2_all"),
    ("UID_43_10_1_all", "UID_44_7_1_all"),
    ("UID_43_10_5_all", "UID_44_7_4_all"),
    ("UID_43_10_4_all", "UID_44_7_3_all"),
    ("UID_43_10_4_all", "UID_44_6_4_all"),
    ("UID_43_2_3_all", "UID_44_20_3_all"),
    ("UID_17_14_1_all", "UID_18_32_1_all"),
    ("UID_17_28_1_all", "UID_20_32_1_all"),
    ("UID_17_19_1_all", "UID_20_33_1_all"),
    ("UID_17_18_2_all", "UID_20_34_2_all"),
    ("UID_17_28_4_all", "UID_20_32_3_all"),
    ("UID_17_18_1_all", "UID_20_34_1_all"),
    ("UID_17_30_3_all", "UID_1_4_2_all"),
    ("UID_17_30_2_all", "UID_1_4_1_all"),
    ("UID_15_25_3_all", "UID_1_7_2_all"),
    ("UID_15_25_2_all", "UID_1_7_1_all"),
    ("UID_20_15_1_all", "UID_16_38_1_all"),
    ("UID_H24_29_4_hem", "UID_H14_22_8_hem"),
    ("UID_H24_26_1_hem", "UID_H14_21_5_hem"),
    ("UID_H24_31_6_hem", "UID_H14_23_7_hem"),
    ("UID_H24_30_5_hem", "UID_H14_23_7_hem"),
    ("UID_H24_30_12_hem", "UID_H14_23_13_hem"),
    ("UID_H24_29_3_hem", "UID_H14_22_5_hem"),
    ("UID_H24_31_13_hem", "UID_H14_23_11_hem"),
    ("UID_H24_30_9_hem", "UID_H14_23_11_hem"),
    ("UID_H24_30_4_hem", "UID_H14_23_8_hem"),
    ("UID_H24_31_5_hem", "UID_H14_23_8_hem"),
    ("UID_H24_31_1_hem", "UID_H14_23_2_hem"),
    ("UID_H24_28_11_hem", "UID_H14_22_10_hem"),
    ("UID_H24_30_1_hem", "UID_H14_23_3_hem"),
    ("UID_H24_28_9_hem", "UID_H14_22_5_hem"),
    ("UID_H24_31_2_hem", "UID_H14_23_4_hem"),
    ("UID_H24_28_2_hem", "UID_H14_22_3_hem"),
    ("UID_H24_31_7_hem", "UID_H14_23_6_hem"),
    ("UID_H24_29_5_hem", "UID_H14_22_9_hem"),
    ("UID_H24_30_6_hem", "UID_H14_23_6_hem"),
    ("UID_H24_29_8_hem", "UID_H14_22_10_hem"),
    ("UID_H24_28_6_hem", "UID_H14_22_4_hem"),
    ("UID_H24_30_13_hem", "UID_H14_23_12_hem"),
    ("UID_H24_28_10_hem", "UID_H14_22_7_hem"),
    ("UID_H24_29_2_hem", "UID_H14_22_6_hem"),
    ("UID_H24_29_6_hem", "UID_H14_22_7_hem"),
    ("UID_H24_29_7_hem", "UID_H14_22_11_hem"),
    ("UID_H24_31_9_hem", "UID_H14_23_9_hem"),
    ("UID_H24_31_4_hem", "UID_H14_23_5_hem"),
    ("UID_H24_30_3_hem", "UID_H14_23_5_hem"),
)

#: Official files that hold the same pixels under other bytes, which hashes of files miss; the first is kept.
#:
#: The preliminary image 59.bmp is UID_55_12_2_all by the label file. All its 450 x 450 pixels are those of the training
#: cell; the headers of the two BMP files differ (138 and 54 bytes), and with the header of the other its hash is the
#: official one. Only 117 of the 1,867 preliminary cells could be compared so far: `verify(root, pixels=True)` compares
#: a whole download.
SAME_PIXELS: tuple[tuple[str, str], ...] = (
    ("training_data/fold_1/all/UID_51_59_2_all.bmp", "validation_data/C-NMC_test_prelim_phase_data/59.bmp"),
)

_NAME = re.compile(r"UID_(H?\d+)_(\d+)_(\d+)_(all|hem)", re.IGNORECASE)


@dataclass(frozen=True)
class CnmcName:
    """The parts of a C-NMC file name `UID_<subject>_<image>_<cell>_<all|hem>`; the subject is not yet merged."""

    subject: str
    image: int
    cell: int
    label: str


def parse_cnmc_name(name: str | Path) -> CnmcName | None:
    """Read a C-NMC file name, in any case and any image format, or return None for every other name.

    36 official files write the H of a healthy subject in lower case; it comes back as a capital. `H1` is not `1`.

    >>> parse_cnmc_name("UID_h3_10_1_hem.bmp")
    CnmcName(subject='H3', image=10, cell=1, label='hem')
    """
    path = Path(name)
    match = _NAME.fullmatch(path.stem)
    if match is None or path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    subject, image, cell, label = match.groups()
    return CnmcName(subject.upper(), int(image), int(cell), label.lower())


def canonical_subject(subject: str) -> str:
    """Return the one name of a C-NMC subject that the data set lists under several (`MERGED_SUBJECTS`).

    >>> canonical_subject("h10"), canonical_subject("21"), canonical_subject("H1")
    ('H3', '1', 'H1')
    """
    name = subject.strip().upper()
    return MERGED_SUBJECTS.get(name, name)


def subject_from_name(path: str | Path) -> str | None:
    """Return the merged subject that a C-NMC file name gives, or None if it is no C-NMC name.

    >>> subject_from_name("cells/UID_78_17_1_all.webp")
    '51'
    """
    name = parse_cnmc_name(path)
    return None if name is None else canonical_subject(name.subject)


@dataclass(frozen=True)
class OfficialFiles:
    """Every file of the complete C-NMC 2019 download: 15,114 images and the label file of the preliminary set.

    Attributes:
        paths: Official paths such as `training_data/fold_0/all/UID_11_10_1_all.bmp`, sorted.
        digests: SHA-256 of each file, uint8 of shape (n, 32).
        sizes: Size of each file in bytes, uint32 of shape (n,).
    """

    paths: tuple[str, ...]
    digests: np.ndarray
    sizes: np.ndarray


@cache
def official_files() -> OfficialFiles:
    """Load the packaged list (made by `tools/pack_official_hashes.py`) once."""
    packed = (package_folder() / "data" / "cnmc_official.npz").read_bytes()
    with np.load(BytesIO(packed), allow_pickle=False) as arrays:
        return OfficialFiles(tuple(arrays["paths"].tobytes().decode().split("\n")), arrays["digests"], arrays["sizes"])


@cache
def official_duplicates() -> tuple[tuple[str, ...], ...]:
    """Return the groups of official paths whose files are byte-identical: 106 pairs, 104 of them for training."""
    listed = official_files()
    groups: dict[bytes, list[str]] = defaultdict(list)
    for path, digest in zip(listed.paths, listed.digests, strict=True):
        groups[digest.tobytes()].append(path)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def first_copy(official_path: str) -> str:
    """Return the first official path with the same cell: the path itself unless it is a second copy."""
    return _first_copies().get(official_path, official_path)


def official_row(path: str | Path) -> int | None:
    """Return the row of a file in `official_files()`, or None if its name is not an official one.

    Training cells are known by their names, which are unique; the numbered test images by name and folder. The file
    format, letter case and the folders above make no difference, so converted copies are found too.

    >>> official_files().paths[official_row("anywhere/UID_H3_10_1_hem.PNG")]
    'training_data/fold_2/hem/UID_h3_10_1_hem.bmp'
    """
    path = Path(path)
    is_listed_kind = path.suffix.lower() in IMAGE_SUFFIXES or path.name.lower() == PRELIMINARY_LABELS.lower()
    return _official_rows().get(_official_key(path)) if is_listed_kind else None


@cache
def _first_copies() -> dict[str, str]:
    return {path: group[0] for group in (*official_duplicates(), *SAME_PIXELS) for path in group[1:]}


@cache
def _official_rows() -> dict[str, int]:
    return {_official_key(Path(path)): row for row, path in enumerate(official_files().paths)}


def _official_key(path: Path) -> str:
    numbered = path.stem.isdecimal()
    return (f"{path.parent.name}/{path.stem}" if numbered else path.stem).lower()


def preliminary_labels(folder: Path, root: Path) -> Path | None:
    """Find the label file: beside the folder of images as in the download, within it, or anywhere under `root`."""
    beside = [folder.parent / PRELIMINARY_LABELS, folder / PRELIMINARY_LABELS]
    elsewhere = (path for path in walk(root).files if path.name == PRELIMINARY_LABELS)
    return next((path for path in itertools.chain(beside, elsewhere) if path.is_file()), None)


def preliminary_names(label_file: Path) -> dict[str, CnmcName]:
    """The original name of each numbered cell of the preliminary test set, by its number.

    `Patient_ID` is the cell's original name, `new_names` the file, and 1 in `labels` means ALL.
    """
    table = read_table(label_file, ("patient_id", "new_names", "labels"))
    names: dict[str, CnmcName] = {}
    for number, record in table.rows:
        name = parse_cnmc_name(record["patient_id"])
        if name is None or record["labels"] != str(CNMC_CLASSES.index(name.label)):
            raise DataError(
                f"Row {number} of {label_file} lacks a C-NMC name in Patient_ID or gives it another class in "
                f"labels (1 = all, 0 = hem): download the file again."
            )
        names[Path(record["new_names"]).stem] = name
    return names
