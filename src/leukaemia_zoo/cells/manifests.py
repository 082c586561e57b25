"""Manifests: splits as JSON, with the SHA-256 of every file, and back."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.readers import as_cells
from leukaemia_zoo.cells.splits import Split, relative_paths
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import DataError

MANIFEST_FORMAT = "leukaemia-zoo split"


MANIFEST_VERSION = 1


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
        fingerprints: Of each cell of the table, see `table.fingerprint`; None reads the images.

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
    names = relative_paths(cells)
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
    exact = {name: index for index, name in enumerate(relative_paths(cells))}
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
