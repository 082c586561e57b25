"""What a distillation has seen, without labels: images by their pixels, people by their names.

The trunk that it leaves carries this in its header, so that a cross-validation can refuse a trunk that has seen what it
is to be tested on, whatever folder the images lie in now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from leukaemia_zoo.cells import Cells, file_fingerprint
from leukaemia_zoo.errors import WeightsError
from leukaemia_zoo.overlap import Overlap, Person, TrainedOn, find_overlap, people_of, person_of
from leukaemia_zoo.weights_io import read_config


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
