"""Compare a C-NMC 2019 download with the official files, byte by byte."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leukaemia_zoo.cnmc import (
    CNMC_CLASSES,
    FINAL_FOLDER,
    IMAGE_SUFFIXES,
    PRELIMINARY_FOLDER,
    official_duplicates,
    official_files,
    official_row,
)
from leukaemia_zoo.datasets import existing_folder, files_under
from leukaemia_zoo.errors import DataError

_FOLDERS_OF_TEST_SETS = {PRELIMINARY_FOLDER: "preliminary", FINAL_FOLDER: "final"}


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. Official paths look like `training_data/fold_0/all/UID_11_10_1_all.bmp`.

    Attributes:
        root: The folder looked at.
        intact: Official paths of files with exactly the official bytes.
        changed: Files with an official name and format but other bytes, relative to `root`.
        converted: Files with an official name in another image format, relative to `root`; no hash can compare them.
        misplaced: Files with an official name in the folder of another fold or class, relative to `root`.
        unexpected: Images that are not official, or are there a second time, relative to `root`.
        missing: Official paths that are not there, by part (`fold_0`, `fold_1`, `fold_2`, `preliminary`, `final`), for
            the parts of which at least one image is there.
        duplicates: Pairs of official paths that are both there and hold the same cell; the official set is so, and
            `read_cnmc` keeps one of each.
    """

    root: Path
    intact: tuple[str, ...]
    changed: tuple[str, ...]
    converted: tuple[str, ...]
    misplaced: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]
    duplicates: tuple[tuple[str, ...], ...]

    @property
    def ok(self) -> bool:
        """Whether each part that is there is whole, and every file in it has its official bytes and place."""
        faults = (self.changed, self.converted, self.misplaced, self.unexpected, *self.missing.values())
        return not any(faults)

    def describe(self) -> str:
        """Return the report as a few lines of text, with the first names of each list."""
        lines = [f"{self.root}: {'as published' if self.ok else 'NOT as published'}"]
        lines.append(f"  {len(self.intact):,} files intact")
        lists = {
            "changed (other bytes than the official file)": self.changed,
            "converted (official name, another format: the bytes cannot be compared)": self.converted,
            "misplaced (in the folder of another fold or class)": self.misplaced,
            "unexpected (no official file, or a second copy)": self.unexpected,
            **{f"missing of {part}": paths for part, paths in self.missing.items()},
        }
        for title, names in lists.items():
            if names:
                more = ", ..." if len(names) > 3 else ""
                lines.append(f"  {len(names):,} {title}: {', '.join(names[:3])}{more}")
        if self.duplicates:
            lines.append(
                f"  {len(self.duplicates):,} cells there twice under two official names, such as "
                f"{' = '.join(self.duplicates[0])}; read_cnmc keeps one of each"
            )
        return "\n".join(lines)


def verify(root: str | Path, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Compare the C-NMC files under a folder with the official list of sizes and SHA-256 digests.

    Files are known by name, at any nesting: part of the download, such as one fold, is compared with that part.

    Args:
        root: Folder of the download or a part of it.
        progress: Called after each file with the number of files done and in all.

    Raises:
        DataError: If the folder is not there or holds no file with an official name.

    >>> report = verify("C-NMC_Leukemia")
    >>> report.ok, report.changed
    (False, ('training_data/fold_0/all/UID_11_10_1_all.bmp',))
    """
    root = existing_folder(Path(root))
    official = official_files()
    files = [path for path in files_under(root) if path.name[0] != "."]

    found: dict[int, str] = {}  # official row -> what became of it
    names: dict[str, list[str]] = defaultdict(list)  # outcome -> files, relative to root
    for done, path in enumerate(files, start=1):
        row = official_row(path.absolute())
        outcome = _compare(path, root, row, found)
        if row is not None and outcome != "unexpected":
            found[row] = outcome
        names[outcome].append(path.relative_to(root).as_posix())
        if progress is not None:
            progress(done, len(files))
    if not found:
        raise DataError(f"No C-NMC file is under {root}: give the folder that the download was unpacked into.")

    here = {official.paths[row] for row in found}
    return VerifyReport(
        root=root,
        intact=tuple(official.paths[row] for row in sorted(found) if found[row] == "intact"),
        changed=tuple(names["changed"]),
        converted=tuple(names["converted"]),
        misplaced=tuple(names["misplaced"]),
        unexpected=tuple(names["unexpected"]),
        missing=_missing(here),
        duplicates=tuple(group for group in official_duplicates() if here.issuperset(group)),
    )


def _compare(path: Path, root: Path, row: int | None, found: dict[int, str]) -> str:
    """Return what a file is: intact, changed, converted, misplaced, unexpected, or ignored (no image)."""
    if row is None:
        return "unexpected" if path.suffix.lower() in IMAGE_SUFFIXES else "ignored"
    if row in found:
        return "unexpected"
    official = official_files()
    if _contradicts(path.relative_to(root), official.paths[row]):
        return "misplaced"
    if path.suffix.lower() != Path(official.paths[row]).suffix:
        return "converted"
    if path.stat().st_size != official.sizes[row]:
        return "changed"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return "intact" if digest == official.digests[row].tobytes() else "changed"


def _contradicts(path: Path, official_path: str) -> bool:
    """Whether the nearest fold or class folder that the path names is another than the official one."""
    official_folders = official_path.split("/")[:-1]
    upwards = [part.lower() for part in reversed(path.parent.parts)]
    fold = next((part for part in upwards if part.startswith("fold_")), None)
    label = next((part for part in upwards if part in CNMC_CLASSES), None)
    return any(part is not None and part not in official_folders for part in (fold, label))


def _part(official_path: str) -> str:
    folder = official_path.split("/")[1]
    return _FOLDERS_OF_TEST_SETS.get(folder, folder)


def _missing(here: set[str]) -> dict[str, tuple[str, ...]]:
    by_part: dict[str, list[str]] = defaultdict(list)
    for path in official_files().paths:
        by_part["preliminary" if path.endswith(".csv") else _part(path)].append(path)
    return {
        part: tuple(path for path in paths if path not in here)
        for part, paths in sorted(by_part.items())
        if any(path in here and not path.endswith(".csv") for path in paths)
    }
