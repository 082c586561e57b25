"""Compare a C-NMC 2019 download with the official files, byte by byte, and its images with each other."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from leukaemia_zoo._names import old_method
from leukaemia_zoo.cells.cnmc import (
    CNMC_CLASSES,
    FINAL_FOLDER,
    PRELIMINARY_FOLDER,
    canonical_subject,
    official_duplicates,
    official_files,
    official_row,
    parse_cnmc_name,
    preliminary_labels,
    preliminary_names,
)
from leukaemia_zoo.cells.copies import file_fingerprint, near_copies_among, texture_of
from leukaemia_zoo.cells.images import IMAGE_SUFFIXES
from leukaemia_zoo.common.files import existing_folder
from leukaemia_zoo.common.folders import walk
from leukaemia_zoo.errors import DataError, ImageError

_Seen = TypeVar("_Seen")

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
        unreadable: What could not be looked into: folders that cannot be listed, files that cannot be opened (broken
            links), and with `pixels` images that cannot be decoded, one sentence each.
        same_pixels: With `pixels`, the groups of images, relative to `root`, that show the same pixels though they are
            not copies that the official list tells; None where pixels were not compared.
        near_copies: With `textures`, the pairs of images, relative to `root`, that show one cell under two subjects, or
            whose subjects are not known, and are not byte-identical; None where textures were not compared.
        new_pairs: One sentence for each of these groups whose subjects `MERGED_SUBJECTS` does not count as one person.
    """

    root: Path
    intact: tuple[str, ...]
    changed: tuple[str, ...]
    converted: tuple[str, ...]
    misplaced: tuple[str, ...]
    unexpected: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]
    duplicates: tuple[tuple[str, ...], ...]
    unreadable: tuple[str, ...] = ()
    same_pixels: tuple[tuple[str, ...], ...] | None = None
    near_copies: tuple[tuple[str, ...], ...] | None = None
    new_pairs: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether each part that is there is whole, and every file in it has its official bytes and place."""
        faults = (self.changed, self.converted, self.misplaced, self.unexpected, self.unreadable)
        return not any((*faults, *self.missing.values()))

    def __str__(self) -> str:
        """Return the report as a few lines of text, with the first names of each list."""
        lines = [f"{self.root}: {'as published' if self.ok else 'NOT as published'}"]
        lines.append(f"  {len(self.intact):,} files intact")
        lists = {
            "changed (other bytes than the official file)": self.changed,
            "converted (official name, another format: the bytes cannot be compared)": self.converted,
            "misplaced (in the folder of another fold or class)": self.misplaced,
            "unexpected (no official file, or a second copy)": self.unexpected,
            "not looked into": self.unreadable,
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
        for groups, how in ((self.same_pixels, "by pixels, under other bytes"), (self.near_copies, "by texture")):
            if groups is not None:
                example = f", such as {' = '.join(groups[0])}" if groups else ""
                lines.append(f"  {len(groups):,} cells there twice {how}{example}")
        lines += [f"  NEW: {told}" for told in self.new_pairs]
        return "\n".join(lines)

    describe = old_method("VerifyReport", "describe", "__str__")


def verify(
    root: str | Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    pixels: bool = False,
    textures: bool = False,
) -> VerifyReport:
    """Compare the C-NMC files under a folder with the official list of sizes and SHA-256 digests.

    Files are known by name, at any nesting: part of the download, such as one fold, is compared with that part.

    Args:
        root: Folder of the download or a part of it.
        progress: Called after each file with the number of files done and in all.
        pixels: Compare the images with each other by their pixels too, which takes some minutes for all of them: a cell
            that lies in two parts under two headers tells that two subjects are one person.
        textures: Compare the images of different subjects by their texture, as `near_copies` does: so does a cell that
            was photographed once more. Some minutes for all of them.

    Raises:
        DataError: If the folder is not there or holds no file with an official name.

    >>> report = verify("C-NMC_Leukemia")
    >>> report.ok, report.changed
    (False, ('training_data/fold_0/all/UID_11_10_1_all.bmp',))
    """
    root = existing_folder(Path(root))
    official = official_files()
    try:
        walked = walk(root)
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror or error}): check your right to read it.") from error
    files = list(walked.files)
    unreadable = list(walked.faults)

    found: dict[int, str] = {}  # official row -> what became of it
    names: dict[str, list[str]] = defaultdict(list)  # outcome -> files, relative to root
    for done, path in enumerate(files, start=1):
        row = official_row(path.absolute())
        try:
            outcome = _compare(path, root, row, found)
        except OSError as error:
            outcome = "unreadable"
            what = "is a broken link" if path.is_symlink() else "cannot be opened"
            unreadable.append(f"{path.relative_to(root).as_posix()} {what} ({error.strerror or error})")
            row = None
        if row is not None and outcome != "unexpected":
            found[row] = outcome
        names[outcome].append(path.relative_to(root).as_posix())
        if progress is not None:
            progress(done, len(files))
    if not found:
        raise DataError(f"No C-NMC file is under {root}: give the folder that the download was unpacked into.")

    here = {official.paths[row] for row in found}
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    owners = _Owners(root)
    groups: list[tuple[Path, ...]] = []
    again: list[tuple[Path, ...]] = []
    faults: list[str] = []
    if pixels:
        groups, faults = _alike(images)
    if textures:
        again, further = _photographed_again(images, owners)
        faults += further
    unreadable += [fault for fault in dict.fromkeys(faults) if fault not in unreadable]
    return VerifyReport(
        root=root,
        intact=tuple(official.paths[row] for row in sorted(found) if found[row] == "intact"),
        changed=tuple(names["changed"]),
        converted=tuple(names["converted"]),
        misplaced=tuple(names["misplaced"]),
        unexpected=tuple(names["unexpected"]),
        missing=_missing(here),
        duplicates=tuple(group for group in official_duplicates() if here.issuperset(group)),
        unreadable=tuple(unreadable),
        same_pixels=tuple(tuple(_relative(path, root) for path in group) for group in groups) if pixels else None,
        near_copies=tuple(tuple(_relative(path, root) for path in pair) for pair in again) if textures else None,
        new_pairs=_new_pairs(dict.fromkeys([*groups, *again]), root, owners),
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _alike(images: Sequence[Path]) -> tuple[list[tuple[Path, ...]], list[str]]:
    """The groups of images with the same pixels that are no byte-identical official files, and what is not readable."""
    seen, faults = _looked_at(images, file_fingerprint)
    by_pixels: dict[int, list[Path]] = defaultdict(list)
    for path, pixels in seen.items():
        by_pixels[pixels].append(path)
    return [tuple(group) for group in by_pixels.values() if len(group) > 1 and not _are_listed(group)], faults


def _photographed_again(images: Sequence[Path], owners: "_Owners") -> tuple[list[tuple[Path, ...]], list[str]]:
    """The pairs of images of one cell under two subjects that are no byte-identical official files, and the faults."""
    seen, faults = _looked_at(images, texture_of)
    paths = [*seen]
    found = near_copies_among([*seen.values()], [owners[path] for path in paths]) if seen else ()
    pairs = [(paths[copy.first], paths[copy.second]) for copy in found]
    return [pair for pair in pairs if not _are_listed(pair)], faults


def _looked_at(images: Sequence[Path], look: Callable[[Path], _Seen]) -> tuple[dict[Path, _Seen], list[str]]:
    """What each image shows, and one sentence for each that cannot be read."""

    def tried(path: Path) -> _Seen | DataError | ImageError:
        try:
            return look(path)
        except (DataError, ImageError) as error:
            return error

    seen, faults = {}, []
    with ThreadPoolExecutor() as pool:
        for path, found in zip(images, pool.map(tried, images), strict=True):
            if isinstance(found, DataError | ImageError):
                faults.append(str(found))
            else:
                seen[path] = found
    return seen, faults


def _are_listed(images: Sequence[Path]) -> bool:
    names = set(map(_official, images))
    return any(names == set(group) for group in official_duplicates())


def _official(path: Path) -> str | None:
    row = official_row(path.absolute())
    return None if row is None else official_files().paths[row]


class _Owners:
    """Whose cell an image is, by its name or the label file of the preliminary set; not merged, None if not known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._numbers: dict[Path, dict[str, str]] = {}  # names of numbered cells, by their folder

    def __getitem__(self, path: Path) -> str | None:
        if path.stem.isdecimal() and path.parent not in self._numbers:
            preliminary = path.parent.name == PRELIMINARY_FOLDER
            file = preliminary_labels(path.parent, self._root) if preliminary else None
            table = {} if file is None else preliminary_names(file)
            self._numbers[path.parent] = {number: name.subject for number, name in table.items()}
        name = parse_cnmc_name(path)
        return self._numbers.get(path.parent, {}).get(path.stem) if name is None else name.subject


def _new_pairs(groups: Iterable[Sequence[Path]], root: Path, owners: _Owners) -> tuple[str, ...]:
    """What the groups tell of people that is not known yet."""
    told = []
    for group in groups:
        subjects: dict[str, str] = {}  # merged name -> as the file is called
        for path in group:
            if (subject := owners[path]) is not None:
                subjects.setdefault(canonical_subject(subject), subject)
        if len(subjects) > 1:
            told.append(
                f"{' and '.join(_relative(path, root) for path in group)} show one cell, so that the subjects "
                f"{' and '.join(subjects.values())} are one person, which this library does not know yet: please "
                "report it."
            )
    return tuple(told)


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
