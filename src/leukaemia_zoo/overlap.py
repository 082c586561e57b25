"""Whether the cells that a network is to be judged on are cells, or of people, that it was trained on.

What a weight of the zoo was trained on is known: the people by name, the images by a fingerprint of their pixels, so
that copies under other names and in other formats are found too. A folder that ``leukaemia-zoo train`` left has its
manifest beside it. Of other networks nothing is known, and a report says so.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells import Cells
from leukaemia_zoo.cnmc import parse_cnmc_name
from leukaemia_zoo.errors import LeakError
from leukaemia_zoo.files import replacing
from leukaemia_zoo.preprocessing import Preprocessing
from leukaemia_zoo.weights_io import sha256_of

MANIFEST_FILE = "split.json"
_REFERENCE = Preprocessing((1, 1))


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What is known of the training and validation cells of a network.

    Attributes:
        manifest_sha256: Of the split manifest.
        subjects: Names of the people.
        is_cnmc: Whether these are subjects of C-NMC 2019: another laboratory's subject 21 is somebody else.
        fingerprints: Sorted uint64 of the images, see `fingerprint`; None where only the files are known.
        files: sha256 of the image files, where the manifest lies beside the network.
    """

    manifest_sha256: str
    subjects: frozenset[str]
    is_cnmc: bool
    fingerprints: npt.NDArray[np.uint64] | None = None
    files: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Cells that a network must not be judged on.

    Attributes:
        checked: Whether anything is known of the network's training.
        rows: Indices of the cells, sorted.
        subjects: People among them whom the network was trained on.
        images: How many of the cells are identical to training images.
        told: One sentence.
    """

    checked: bool
    rows: npt.NDArray[np.int64]
    subjects: tuple[str, ...]
    images: int
    told: str


def fingerprint(frame: npt.ArrayLike) -> int:
    """64 bits of the sha256 of a frame, reduced to 256 pixels as before every network: the same for both sizes.

    Example:
        >>> fingerprint(np.zeros((450, 450, 3), np.uint8)) == fingerprint(np.zeros((256, 256, 3), np.uint8))
        True
    """
    pixels = _REFERENCE.reduced(frame)
    digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()
    return int.from_bytes(digest[:8], "little")


def training_of_weight(manifest_sha256: str | None) -> TrainedOn | None:
    """What the package knows of the training of a weight, by the hash of its manifest."""
    return _packaged().get(manifest_sha256 or "")


def training_of_folder(folder: str | Path) -> TrainedOn | None:
    """What the manifest beside a saved model tells of all parts but ``test``, which did not teach; None without one."""
    from leukaemia_zoo.splits import manifest_sha256

    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        return None
    digest = manifest_sha256(path)  # which also checks that it is a manifest
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    files = [file for name, part in parts.items() if name != "test" for file in part["files"]]
    return TrainedOn(
        digest,
        frozenset(file["subject"] for file in files if file.get("subject")),
        any(parse_cnmc_name(file["path"]) for file in files),
        files=frozenset(file["sha256"] for file in files),
    )


def find_overlap(cells: Cells, fingerprints: Sequence[int], trained: TrainedOn | None, name: str) -> Overlap:
    """Compare people and images.

    Args:
        cells: On which the network is to be judged.
        fingerprints: Of each cell's frame.
        trained: What is known of the network.
        name: Of the network, for the sentence.
    """
    if trained is None:
        told = (
            f"What '{name}' was trained on is not known: whether these cells or people were among it was not checked."
        )
        return Overlap(False, np.zeros(0, np.int64), (), 0, told)
    # The name of a file tells whether its subject is one of C-NMC's.
    own = [
        subject is not None and subject in trained.subjects and (parse_cnmc_name(path) is not None) == trained.is_cnmc
        for path, subject in zip(cells.paths, cells.subjects, strict=True)
    ]
    if trained.fingerprints is not None:
        same = np.isin(np.array(fingerprints, np.uint64), trained.fingerprints)
    else:
        same = np.array([path.is_file() and sha256_of(path) in trained.files for path in cells.paths], bool)
    rows = np.flatnonzero(np.array(own, bool) | same)
    subjects = tuple(sorted({str(cells.subjects[row]) for row in np.flatnonzero(own)}))
    images = int(same.sum())
    if not len(rows):
        return Overlap(True, rows, (), 0, f"No cell and no person is among those that '{name}' was trained on.")
    told = (
        f"{len(rows):,} of {len(cells):,} cells must not judge '{name}': {sum(own):,} are of {len(subjects)} people "
        f"that it was trained on ({_some(subjects)}), {images:,} are identical to its training images"
    )
    return Overlap(True, rows, subjects, images, told)


def refuse(overlap: Overlap) -> None:
    """Raise unless a network may be judged on all cells.

    Raises:
        LeakError: With the counts, and what to do.
    """
    if len(overlap.rows):
        raise LeakError(
            f"{overlap.told}: leave them out with exclude_overlap (--exclude-overlap), take other cells, or judge its "
            "recipe on unseen people with cross_validate (--cross-validate 5)."
        )


def pack(path: Path, known: Sequence[TrainedOn]) -> None:
    """Write what the package knows of trainings, beside first and then renamed."""
    arrays: dict[str, np.ndarray] = {}
    for trained in known:
        assert trained.fingerprints is not None
        arrays[f"{trained.manifest_sha256}/subjects"] = np.array(sorted(trained.subjects))
        arrays[f"{trained.manifest_sha256}/is_cnmc"] = np.array(trained.is_cnmc)
        arrays[f"{trained.manifest_sha256}/fingerprints"] = np.sort(trained.fingerprints)
    with replacing(path) as beside:
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]


def unpack(path: Path) -> dict[str, TrainedOn]:
    """What `pack` wrote, by the hash of the manifest."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {
            digest: TrainedOn(
                digest,
                frozenset(arrays[f"{digest}/subjects"].tolist()),
                bool(arrays[f"{digest}/is_cnmc"]),
                arrays[f"{digest}/fingerprints"],
            )
            for digest in {name.split("/", 1)[0] for name in arrays.files}
        }


@functools.cache
def _packaged() -> dict[str, TrainedOn]:
    return unpack(Path(str(resources.files("leukaemia_zoo"))) / "data" / "trainings.npz")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
