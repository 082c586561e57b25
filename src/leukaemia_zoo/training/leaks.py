"""What a network has seen, whole or as a trunk, and whether cells that judge it are among that."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leukaemia_zoo.cells.cnmc import canonical_subject, official_row, subject_from_name
from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import package_folder, replacing, sha256_of
from leukaemia_zoo.common.reading import read_arrays, read_json
from leukaemia_zoo.common.text import reason, shortened
from leukaemia_zoo.errors import DataError, LeakError, WeightsError
from leukaemia_zoo.zoo.registry import WeightSpec, weights
from leukaemia_zoo.zoo.tensors import read_config

MANIFEST_FILE = "split.json"

Person = tuple[bool, str]
"""Whether it is one of C-NMC 2019, and the name: another laboratory's subject 21 is somebody else."""

_KINDS = (False, True)

TRAINED_FURTHER = "its weights are not those of the zoo that they began as, and what taught them since is not known"


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What is known of the training and validation cells of a network, and of the weights that it began with.

    Attributes:
        manifest_sha256: Of the split manifest of its own training.
        people: Whose cells they are.
        fingerprints: Sorted uint64 of the images, see `table.fingerprint`.
        files: sha256 of the image files, where the manifest lies beside the network.
        gaps: What is not known of it, half a sentence each.
    """

    manifest_sha256: str
    people: frozenset[Person]
    fingerprints: npt.NDArray[np.uint64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint64))
    files: frozenset[str] = frozenset()
    gaps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # What was written before two subjects were known to be one has names that nobody bears now.
        people = ((is_cnmc, canonical_subject(name) if is_cnmc else name) for is_cnmc, name in self.people)
        object.__setattr__(self, "people", frozenset(people))

    def with_gap(self, gap: str) -> TrainedOn:
        """The same, less sure."""
        return dataclasses.replace(self, gaps=tuple(dict.fromkeys([*self.gaps, gap])))

    def __or__(self, other: TrainedOn) -> TrainedOn:
        return TrainedOn(
            self.manifest_sha256 or other.manifest_sha256,
            self.people | other.people,
            np.union1d(self.fingerprints, other.fingerprints),
            self.files | other.files,
            tuple(dict.fromkeys([*self.gaps, *other.gaps])),
        )


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Cells that a network must not be judged on.

    Attributes:
        checked: Whether all cells and people could be compared with all that the network was trained on.
        rows: Indices of the cells, sorted: identical to training images, or of people of the training.
        subjects: The people among them.
        images: How many of the cells are identical to training images.
        told: One sentence.
    """

    checked: bool
    rows: npt.NDArray[np.int64]
    subjects: tuple[str, ...]
    images: int
    told: str


def person_of(path: str | Path, subject: str | None, source: str = "") -> Person | None:
    """Whose cell a file is: an official file name tells it whatever a table says, else the given subject.

    Example:
        >>> person_of("UID_21_1_2_all.png", "mine"), person_of("a.png", "21"), person_of("a.png", None)
        ((True, '1'), (False, '21'), None)
    """
    named = subject_from_name(path)
    if named is not None:
        return True, named
    if subject is None:
        return None
    is_cnmc = source == "c-nmc" or official_row(path) is not None
    return is_cnmc, canonical_subject(subject) if is_cnmc else subject


def people_of(cells: Cells) -> list[Person | None]:
    """Whose each cell of a table is, see `person_of`."""
    return [person_of(*row, cells.source) for row in zip(cells.paths, cells.subjects, strict=True)]


def training_of(spec: WeightSpec | None, folder: str | Path | None = None) -> TrainedOn | None:
    """All that is known to have taught a weight: its own training and those of the weights that it began with."""
    about = {} if spec is None else spec.training
    row = None if spec is None else weights().get(spec.config.weight or "")
    if not about and row is not None and spec is not row:
        # A copy of a weight of the zoo, whose own description says no more.
        known_of_row = training_of(row)
        return known_of_row if known_of_row is None else known_of_row.with_gap(TRAINED_FURTHER)
    own = [training_of_weight(about.get("manifest_sha256")), training_of_folder(folder) if folder else None]
    known = [*filter(None, own)]
    before = [*_beginnings(about.get("init"))]
    if before and not known:
        before.append(TrainedOn("", frozenset(), gaps=("its own training cells are not known",)))
    return functools.reduce(lambda one, other: one | other, [*known, *before]) if known or before else None


def _beginnings(init: Any) -> Iterator[TrainedOn]:
    """What taught the weights that a training began with, as its record tells."""
    if not isinstance(init, Mapping) or str(init.get("source", "")).startswith("ImageNet, "):
        return
    row = next((row for row in weights().values() if init.get("sha256") == row.sha256), None)
    row = row or weights().get(str(init.get("source")))
    found = training_of(row) or training_of_weight(init.get("manifest_sha256"))
    if found is None:
        gap = f"what '{init.get('source', 'unknown')}' was trained on, with which it began, is not known"
        found = TrainedOn("", frozenset(), gaps=(gap,))
    yield found
    yield from _beginnings(init.get("init"))


def training_of_weight(manifest_sha256: str | None) -> TrainedOn | None:
    """What the package knows of the training of a weight, by the hash of its manifest."""
    return _packaged().get(manifest_sha256 or "")


def training_of_folder(folder: str | Path) -> TrainedOn | None:
    """What the manifest beside a saved model tells of all parts but ``test``, which did not teach; None without one."""
    from leukaemia_zoo.cells.manifests import manifest_sha256

    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        return None
    digest = manifest_sha256(path)  # which also checks that it is a manifest
    parts = read_json(path)["parts"]
    files = [file for name, part in parts.items() if name != "test" for file in part["files"]]
    people = [person_of(file["path"], file.get("subject")) for file in files]
    prints = [file.get("fingerprint") for file in files]
    gaps = []
    if None in prints:
        gaps.append("images could not be compared, as its manifest is of an older release and has no fingerprints")
    if None in people:
        gaps.append("people could not be compared, as its training cells have no subjects")
    return TrainedOn(
        digest,
        frozenset(person for person in people if person is not None),
        np.unique(np.array([int(value, 16) for value in prints if value is not None], np.uint64)),
        frozenset(file["sha256"] for file in files),
        tuple(gaps),
    )


def find_overlap(cells: Cells, fingerprints: Sequence[int], trained: TrainedOn | None, name: str) -> Overlap:
    """Compare people and images.

    All cells of a person are found of whom one image is.

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
    people = people_of(cells)
    same = np.isin(np.array(fingerprints, np.uint64), trained.fingerprints)
    if trained.files:
        same |= [path.is_file() and sha256_of(path) in trained.files for path in cells.paths]
    found = np.flatnonzero(same | np.array([person in trained.people for person in people], bool))
    theirs, named = {people[row] for row in found} - {None}, {cells.subjects[row] for row in found} - {None}
    of_people = np.array(
        [person in theirs or subject in named for person, subject in zip(people, cells.subjects, strict=True)], bool
    )
    rows = np.flatnonzero(of_people | same)
    gaps = [*trained.gaps, *_not_comparable([people[row] for row in np.flatnonzero(~(of_people | same))], trained)]
    but = f"; {'; '.join(gaps)}" if gaps else ""
    if not len(rows):
        told = f"No cell and no person is among those that '{name}' was trained on, by pixels and by names."
        if gaps:
            told = f"Whether '{name}' was trained on these cells or people could not be fully checked{but}."
        return Overlap(not gaps, rows, (), 0, told)
    subjects = tuple(sorted({person[1] for row in np.flatnonzero(of_people) if (person := people[row])}))
    images = int(same.sum())
    whose = f"{of_people.sum():,} are of {len(subjects)} people that it was trained on ({shortened(subjects)}), "
    told = (
        f"{len(rows):,} of {len(cells):,} cells must not judge '{name}': {whose if subjects else ''}{images:,} are "
        f"identical to its training images{but}"
    )
    return Overlap(not gaps, rows, subjects, images, told)


def _not_comparable(rest: Sequence[Person | None], trained: TrainedOn) -> Iterator[str]:
    """Why cells that were not found may be of people of the training all the same."""
    if unknown := rest.count(None):
        yield f"people could not be compared for {unknown:,} cells without a subject"
    others = {kind: {canonical_subject(name) for is_cnmc, name in trained.people if is_cnmc != kind} for kind in _KINDS}
    alike = sorted({person[1] for person in rest if person and canonical_subject(person[1]) in others[person[0]]})
    if alike:
        yield (
            f"people could not be told apart: {len(alike)} have names like people of its training "
            f"({shortened(alike)}), and no official file name of C-NMC 2019 says whether they are the same"
        )


def refuse(overlap: Overlap) -> None:
    """Raise unless a network may be judged on all cells."""
    if len(overlap.rows):
        raise LeakError(
            f"{overlap.told}: leave them out with exclude_overlap (--exclude-overlap), take other cells, or judge its "
            "recipe on unseen people with refit_folds=5 (--cross-validate 5)."
        )


def pack(path: Path, known: Sequence[TrainedOn]) -> None:
    """Write what the package knows of trainings, beside first and then renamed."""
    arrays: dict[str, np.ndarray] = {}
    for trained in known:
        people = sorted(trained.people)
        arrays[f"{trained.manifest_sha256}/subjects"] = np.array([name for _, name in people])
        arrays[f"{trained.manifest_sha256}/is_cnmc"] = np.array([is_cnmc for is_cnmc, _ in people], bool)
        arrays[f"{trained.manifest_sha256}/fingerprints"] = np.sort(trained.fingerprints)
    with replacing(path) as beside:
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]


def unpack(path: Path) -> dict[str, TrainedOn]:
    """What `pack` wrote, by the hash of the manifest."""
    if not path.is_file():
        return {}
    found = {}
    try:
        arrays = read_arrays(path)
        for digest in {name.split("/", 1)[0] for name in arrays}:
            names = arrays[f"{digest}/subjects"]
            # One flag for all people is what was written at first.
            is_cnmc = np.broadcast_to(arrays[f"{digest}/is_cnmc"], names.shape)
            people = frozenset(zip(is_cnmc.tolist(), names.tolist(), strict=True))
            found[digest] = TrainedOn(digest, people, arrays[f"{digest}/fingerprints"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is damaged ({reason(error)}): install leukaemia-zoo again.") from error
    return found


@functools.cache
def _packaged() -> dict[str, TrainedOn]:
    return unpack(package_folder() / "data" / "trainings.npz")


def seen_images(paths: Sequence[Path]) -> TrainedOn:
    """What images without labels show; people are known by the file names of C-NMC alone."""
    return _seen(paths, [person_of(path, None) for path in paths])


def seen_cells(cells: Cells) -> TrainedOn:
    """What the cells of a table show."""
    return _seen(cells.paths, people_of(cells))


def _seen(paths: Sequence[Path], people: Sequence[Person | None]) -> TrainedOn:
    return TrainedOn("", frozenset(person for person in people if person is not None), _fingerprints(paths))


def _fingerprints(paths: Sequence[Path]) -> np.ndarray:
    with ThreadPoolExecutor() as pool:
        return np.unique(np.array(list(pool.map(file_fingerprint, paths)), np.uint64))


def as_header(seen: TrainedOn) -> dict[str, Any]:
    """Plain data for the header of a trunk."""
    return {
        "people": [list(person) for person in sorted(seen.people)],
        "fingerprints": [f"{value:016x}" for value in seen.fingerprints.tolist()],
        "files": sorted(seen.files),
    }


def seen_by_trunk(file: str | Path) -> TrainedOn | None:
    """What the header of a distilled trunk says that it has seen; None where it says nothing, as in older ones."""
    about = ((read_config(file) or {}).get("distillation") or {}).get("seen")
    if not isinstance(about, Mapping):
        return None
    try:
        return TrainedOn(
            "",
            frozenset((bool(is_cnmc), str(name)) for is_cnmc, name in about["people"]),
            np.array([int(value, 16) for value in about["fingerprints"]], np.uint64),
            frozenset(map(str, about["files"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise WeightsError(
            f"The header of {file} does not tell what it has seen in our form: distil it again."
        ) from None


def cells_among(seen: TrainedOn, cells: Cells) -> Overlap:
    """Which cells of a table were seen, by image and by person."""
    with ThreadPoolExecutor() as pool:
        prints = list(pool.map(file_fingerprint, cells.paths))
    return find_overlap(cells, prints, seen, "the distillation")
