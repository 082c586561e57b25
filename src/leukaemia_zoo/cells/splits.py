"""Splits that keep every person on one side, the proof that they do, and manifests that bring them back.

C-NMC's own folds share 94 identical cells and five groups of subjects; results on them are not results on new patients.
Everything that trains here calls `check_split` first.
"""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.table import Cells, file_fingerprint, pixel_sha256
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import DataError, LeakError, UnknownNameError

MANIFEST_FORMAT = "leukaemia-zoo split"
MANIFEST_VERSION = 1

#: Random orders of the subjects tried for the best balance of cells. On 7,861 C-NMC cells of 60 subjects and ten seeds,
#: the worst part missed its share of a class's cells by 2.6 points with 200, 1.5 with 1,000, 0.4 with 5,000 (80 ms).
_TRIALS = 5000


@dataclass(frozen=True)
class Split:
    """Which cells of a table belong to which part.

    Attributes:
        parts: Indices into the `Cells` that the split was made for, by name of the part.
        seed: Seed it was made with; None for a split by hand.
        method: How it was made, such as `split_by_subject`.

    >>> Split({"train": (0, 1), "test": (2,)}, seed=None, method="by hand").parts["test"]
    (2,)
    """

    parts: dict[str, tuple[int, ...]]
    seed: int | None
    method: str

    def cells(self, name: str, table: str | os.PathLike[str] | Cells) -> Cells:
        """Return one part of the table that the split was made for.

        Raises:
            UnknownNameError: If the split has no such part.
        """
        if name not in self.parts:
            raise UnknownNameError(f"The split has no part {name!r}: choose one of {', '.join(self.parts)}.")
        return as_cells(table).subset(self.parts[name])


def split_by_subject(
    cells: str | os.PathLike[str] | Cells,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    *,
    allow_unknown_subjects: bool = False,
) -> Split:
    """Split a table so that no person is in two parts and every part has every class.

    Subjects are dealt out class by class in the wanted proportion of subjects; among random orders the one whose parts
    come nearest to the wanted proportion of cells is taken. The result depends on the seed, the subjects and their
    cells, not on the order of the table or where the files lie.

    Args:
        cells: Table to split, or a folder or CSV for `read_data`.
        fractions: Share of each part, adding up to 1; by default train 0.7, validation 0.15, test 0.15.
        seed: Seed of the random orders.
        allow_unknown_subjects: Treat each cell without a subject as a person of its own; copies of one image still stay
            together. The result then says nothing about new patients.

    Raises:
        DataError: If there are too few subjects, subjects are unknown, or the fractions make no split.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> split = split_by_subject(cells, {"train": 2 / 3, "test": 1 / 3}, seed=1)
    >>> [len(split.cells(part, cells)) for part in split.parts]
    [4, 2]
    """
    shares = dict(fractions) if fractions is not None else {"train": 0.7, "validation": 0.15, "test": 0.15}
    if len(shares) < 2 or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"The fractions {shares} make no split: give at least two parts above 0 that add up to 1.")
    cells = as_cells(cells)
    people = _people(cells, allow_unknown_subjects)
    names, person_of_cell = np.unique(people, return_inverse=True)
    counts = np.zeros((len(names), len(cells.class_names)), np.int64)  # cells of each person in each class
    np.add.at(counts, (person_of_cell, cells.labels), 1)

    part_of_person = _deal_people(counts, np.array(list(shares.values())), np.random.default_rng(seed))
    part_of_cell = part_of_person[person_of_cell]
    parts = {name: tuple(np.flatnonzero(part_of_cell == number).tolist()) for number, name in enumerate(shares)}
    _require_every_class(cells, parts, people)
    return Split(parts, seed, "split_by_cell" if None in cells.subjects else "split_by_subject")


def kfold_by_subject(
    cells: str | os.PathLike[str] | Cells, folds: int = 5, seed: int = 0, *, allow_unknown_subjects: bool = False
) -> tuple[Split, ...]:
    """Return `folds` splits into `train` and `test`; each person is tested exactly once.

    Subjects are dealt out as in `split_by_subject`, in equal shares, so that every fold is balanced in its subjects
    and, as far as their sizes allow, in its cells. (scikit-learn's `StratifiedGroupKFold` balances cells alone: on
    C-NMC one subject of 1,053 cells then is all the leukaemia of a fold.)

    Raises:
        DataError: If a class has fewer subjects than folds, or subjects are unknown and `allow_unknown_subjects` is
            off.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> [split.method for split in kfold_by_subject(cells, folds=2)]
    ['kfold_by_subject 1/2', 'kfold_by_subject 2/2']
    """
    cells = as_cells(cells)
    people = _people(cells, allow_unknown_subjects)
    subjects = _subjects_per_class(cells, people)
    if folds < 2 or min(subjects.values()) < folds:
        raise DataError(
            f"{folds} folds cannot be made from the subjects there are ({_listed(subjects)}): choose at least 2 "
            f"folds and at most as many as the smallest class has subjects."
        )
    dealt = split_by_subject(
        cells, {str(number): 1 / folds for number in range(folds)}, seed, allow_unknown_subjects=allow_unknown_subjects
    )
    everything = frozenset(range(len(cells)))
    return tuple(
        Split(
            {"train": tuple(sorted(everything.difference(test))), "test": test},
            seed,
            f"kfold_by_subject {number}/{folds}",
        )
        for number, test in enumerate(dealt.parts.values(), start=1)
    )


def check_split(cells: str | os.PathLike[str] | Cells, split: Split, images: bool = True) -> None:
    """Prove that the parts of a split share no cell, no subject and no identical image.

    Args:
        cells: The table the split was made for.
        split: The split.
        images: Decode every image and compare the pixels, so that copies under other names or in other formats are
            found (about 1 ms a cell, remembered while the files do not change).

    Raises:
        LeakError: If parts share something, naming it and the parts, or an index lies outside the table.
        DataError: If an image cannot be read.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> check_split(cells, split_by_subject(cells, {"train": 0.5, "test": 0.5}))
    """
    cells = as_cells(cells)
    used = [index for part in split.parts.values() for index in part]
    if outside := [index for index in used if not 0 <= index < len(cells)]:
        raise LeakError(
            f"The split names cell {outside[0]} of a table of {len(cells)} cells: it was made for another table, make "
            f"it again for this one."
        )
    names = _relative_paths(cells)
    if shared := _shared(split, range(len(cells))):
        examples = [f"{names[places[0][1]]} ({_parts_of(places)})" for places in shared.values()]
        raise LeakError(f"Cells are in more than one part: {_some(examples)}; put each into one part only.")
    if shared := _shared(split, cells.subjects):
        examples = [f"{subject} ({_parts_of(places)})" for subject, places in shared.items()]
        raise LeakError(f"Subjects are in more than one part: {_some(examples)}; split by subject.")
    if not images:
        return
    digests: list[str | None] = [None] * len(cells)
    for index in used:
        digests[index] = pixel_sha256(cells.paths[index])
    if shared := _shared(split, digests):
        examples = [" = ".join(f"{names[index]} ({part})" for part, index in places) for places in shared.values()]
        raise LeakError(
            f"Identical images are in more than one part: {_some(examples)}; keep one copy of each, or give all its "
            f"copies one subject and split by subject."
        )


def save_manifest(
    path: str | Path,
    cells: str | os.PathLike[str] | Cells,
    split: Split,
    fingerprints: Sequence[int] | None = None,
) -> str:
    """Write a split as JSON: how it was made, the subjects and cells of each part, and every file with its SHA-256.

    Paths are relative to the folder that all the table's files share, so the manifest holds wherever the data lies.
    Beside the SHA-256 of a file's bytes stands the fingerprint of its pixels, by which `benchmark` knows copies of a
    training cell in other formats.

    Args:
        path: The file to write.
        cells: The table the split was made for.
        split: The split.
        fingerprints: Of each cell of the table, see `cells.fingerprint`; None reads the images.

    Returns:
        The manifest's hash, `manifest_sha256(path)`.

    Raises:
        DataError: If an image cannot be read.

    >>> cells = read_data("C-NMC_Leukemia")
    >>> split = split_by_subject(cells, {"train": 0.5, "test": 0.5})
    >>> save_manifest("split.json", cells, split) == manifest_sha256("split.json")
    True
    >>> load_manifest("split.json", cells) == split
    True
    """
    cells = as_cells(cells)
    names = _relative_paths(cells)
    rows = sorted({index for part in split.parts.values() for index in part})
    if fingerprints is None:
        with ThreadPoolExecutor() as pool:
            prints = dict(zip(rows, pool.map(lambda row: file_fingerprint(cells.paths[row]), rows), strict=True))
    else:
        prints = {row: fingerprints[row] for row in rows}
    manifest = {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "seed": split.seed,
        "method": split.method,
        "class_names": list(cells.class_names),
        "parts": {part: _manifest_part(cells, names, indices, prints) for part, indices in split.parts.items()},
    }
    write_json(path, manifest)
    return manifest_sha256(path)


def load_manifest(path: str | Path, cells: str | os.PathLike[str] | Cells) -> Split:
    """Restore a saved split for a table of the same files, wherever they lie now.

    The table may hold further cells; they are in no part.

    Raises:
        DataError: If the file is no manifest, or cells of it are missing from the table or have other bytes, another
            label or another subject than when it was saved.
    """
    manifest, cells = _read_manifest(path), as_cells(cells)
    # Their order may differ: each file of the manifest names its class.
    if set(manifest["class_names"]) != set(cells.class_names):
        raise DataError(
            f"{path} was made for the classes {_quoted(manifest['class_names'])}, but the table has "
            f"{', '.join(cells.class_names)}: read the data as it was read then."
        )
    find = _finder(cells)
    parts: dict[str, tuple[int, ...]] = {}
    missing, changed = [], []
    for name, part in manifest["parts"].items():
        indices = []
        for file in part["files"]:
            index = find(file["path"])
            if index is None:
                missing.append(file["path"])
            elif _without_fingerprint(file) != _manifest_file(cells, file["path"], index):
                changed.append(file["path"])
            else:
                indices.append(index)
        parts[name] = tuple(sorted(indices))
    if missing or changed:
        found = (("missing", missing), ("changed in bytes, label or subject", changed))
        problems = [f"{len(names):,} {what} ({_quoted(names)})" for what, names in found if names]
        raise DataError(
            f"The data is not what {path} was made for, with {' and '.join(problems)}: restore the files or make a new "
            f"split."
        )
    return Split(parts, manifest.get("seed"), manifest["method"])


def manifest_sha256(path: str | Path) -> str:
    """Return a hash of a manifest's content that its layout as text and the place of the data do not change.

    Nor do fingerprints of the pixels, which older manifests lack: the hashes of the files settle them.

    Raises:
        DataError: If the file is no manifest.
    """
    manifest = _read_manifest(path)
    for part in manifest["parts"].values():
        part["files"] = [_without_fingerprint(file) for file in part["files"]]
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


# --- dealing out -----------------------------------------------------------------------------------------------------


def _people(cells: Cells, allow_unknown_subjects: bool) -> np.ndarray:
    """Return whom each cell belongs to; where unknown and allowed, each distinct image counts as a person."""
    unknown = sum(subject is None for subject in cells.subjects)
    if unknown and not allow_unknown_subjects:
        raise DataError(
            f"{unknown:,} of {len(cells):,} cells have no subject, so a split could put one patient on both sides: "
            f"give a CSV with a subject column, or pass allow_unknown_subjects=True and do not report the result as if "
            f"it held for new patients."
        )
    return np.array(
        [
            f"image {pixel_sha256(path)}" if subject is None else subject
            for path, subject in zip(cells.paths, cells.subjects, strict=True)
        ]
    )


def _deal_people(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a part for each person, given their cells in each class, counts of shape (people, classes)."""
    part_of_person = np.zeros(len(counts), np.int64)
    main_class = counts.argmax(axis=1)
    for label in range(counts.shape[1]):
        members = np.flatnonzero(main_class == label)
        places = np.repeat(np.arange(len(shares)), _part_sizes(len(members), shares))
        part_of_person[members] = _best_order(counts[members], places, shares, rng)
    return part_of_person


def _part_sizes(people: int, shares: np.ndarray) -> np.ndarray:
    """Round the shares of a number of people to whole people, with one at least in each part while they last."""
    wanted = shares * people
    sizes = np.floor(wanted).astype(np.int64)
    if people >= len(shares):
        sizes = np.maximum(sizes, 1)
    while sizes.sum() < people:
        sizes[np.argmax(wanted - sizes)] += 1
    while sizes.sum() > people:
        sizes[np.argmax(np.where(sizes > 1, sizes - wanted, -np.inf))] -= 1
    return sizes


def _best_order(counts: np.ndarray, places: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the places in the random order whose parts come nearest to their shares of the cells."""
    wanted = shares[:, None] * counts.sum(axis=0)
    best, least = places, np.inf
    for _ in range(_TRIALS):
        order = rng.permutation(places)
        dealt = np.zeros_like(wanted)
        np.add.at(dealt, order, counts)
        deviation = np.abs(dealt - wanted).sum()
        if deviation < least:
            best, least = order, deviation
        if least <= len(shares):  # one cell a part: nothing left to gain
            break
    return best


def _subjects_per_class(cells: Cells, people: np.ndarray) -> dict[str, int]:
    return {name: len(set(people[cells.labels == label])) for label, name in enumerate(cells.class_names)}


def _require_every_class(cells: Cells, parts: Mapping[str, Sequence[int]], people: np.ndarray) -> None:
    for part, indices in parts.items():
        for label, name in enumerate(cells.class_names):
            if not np.any(cells.labels[list(indices)] == label):
                raise DataError(
                    f"The part {part!r} would have no {name} cells, since there are too few subjects for {len(parts)} "
                    f"parts ({_listed(_subjects_per_class(cells, people))}): use fewer parts or add subjects."
                )


# --- checking --------------------------------------------------------------------------------------------------------


def _shared(split: Split, keys: Sequence[Hashable]) -> dict[Hashable, list[tuple[str, int]]]:
    """Return each key but None that cells of several parts have, with one cell (part, index) of each of those parts."""
    places: dict[Hashable, dict[str, int]] = defaultdict(dict)
    for part, indices in split.parts.items():
        for index in indices:
            if keys[index] is not None:
                places[keys[index]].setdefault(part, index)
    return {key: list(by_part.items()) for key, by_part in places.items() if len(by_part) > 1}


def _parts_of(places: list[tuple[str, int]]) -> str:
    return " and ".join(part for part, _ in places)


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(subjects: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in subjects.items())


# --- manifests -------------------------------------------------------------------------------------------------------


def _relative_paths(cells: Cells) -> list[str]:
    """Return the paths below the folder that all of them share, with forward slashes on every system."""
    paths = [path.absolute() for path in cells.paths]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [path.relative_to(root).as_posix() for path in paths]


def _manifest_part(cells: Cells, names: list[str], indices: Sequence[int], prints: Mapping[int, int]) -> dict[str, Any]:
    classes = {}
    for label, name in enumerate(cells.class_names):
        subjects = [cells.subjects[index] for index in indices if cells.labels[index] == label]
        known = Counter(subject for subject in subjects if subject is not None)
        classes[name] = {"cells": len(subjects), "subjects": dict(sorted(known.items()))}
    files = [_manifest_file(cells, names[index], index) | {"fingerprint": f"{prints[index]:016x}"} for index in indices]
    return {"classes": classes, "files": sorted(files, key=lambda file: file["path"])}


def _manifest_file(cells: Cells, name: str, index: int) -> dict[str, Any]:
    with cells.paths[index].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    label = cells.class_names[cells.labels[index]]
    return {"path": name, "sha256": digest, "subject": cells.subjects[index], "label": label}


def _quoted(names: Sequence[str]) -> str:
    """Some names out of a manifest, harmless for a terminal and short."""
    return shortened(reason(name, 100) for name in names)


def _without_fingerprint(file: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in file.items() if key != "fingerprint"}


def _finder(cells: Cells) -> Callable[[str], int | None]:
    """Return a search for a manifest's path in the table: the same relative path, else the only one that ends so."""
    exact = {name: index for index, name in enumerate(_relative_paths(cells))}
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(cells.paths):
        by_name[path.name].append(index)

    def find(name: str) -> int | None:
        if name in exact:
            return exact[name]
        ending = f"/{name}"
        candidates = by_name[name.rsplit("/", 1)[-1]]
        found = [index for index in candidates if cells.paths[index].absolute().as_posix().endswith(ending)]
        return found[0] if len(found) == 1 else None

    return find


def _read_manifest(path: str | Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a split manifest ({reason(error)}): save it again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise DataError(f"{path} is no split manifest: give a file written by save_manifest.")
    if manifest.get("version") != MANIFEST_VERSION:
        raise DataError(
            f"{path} is a split manifest of version {shown(manifest.get('version'))}, but this release reads version "
            f"{MANIFEST_VERSION}: save it again with this release."
        )
    if (fault := next(_faults(manifest), None)) is not None:
        raise DataError(f"{path} is not what save_manifest writes ({fault}): save it again, or restore it.")
    return manifest


def _faults(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What in a manifest is not of its kind."""
    seed, method, classes, parts = (manifest.get(key) for key in ("seed", "method", "class_names", "parts"))
    if isinstance(seed, bool) or not (seed is None or isinstance(seed, int)):
        yield f"the seed is {shown(seed)}"
    if not isinstance(method, str):
        yield f"the method is {shown(method)}"
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield f"the class_names are {shown(classes)}"
    if not isinstance(parts, dict):
        yield f"the parts are {shown(parts)}"
        return
    for name, part in parts.items():
        files = part.get("files") if isinstance(part, dict) else None
        if not isinstance(files, list):
            yield f"the part {shown(name)} lists no files"
            continue
        yield from (f"the part {shown(name)} lists {shown(file)}" for file in files if not _is_manifest_file(file))


def _is_manifest_file(file: Any) -> bool:
    return (
        isinstance(file, dict)
        and all(isinstance(file.get(key), str) for key in ("path", "sha256", "label"))
        and isinstance(file.get("subject"), str | None)
        and re.fullmatch(r"[0-9a-f]{16}", str(file.get("fingerprint", "0" * 16))) is not None
    )
