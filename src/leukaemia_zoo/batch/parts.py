"""Many cells cut into parts, each of which is a range of a Parquet file: of bytes, or of paths that were listed."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leukaemia_zoo.cells.images import list_images
from leukaemia_zoo.common.files import replacing, version_of
from leukaemia_zoo.common.folders import distinct
from leukaemia_zoo.common.text import reason, shortened, shown
from leukaemia_zoo.errors import BatchMissingError, DataError, ImageError

MOST_CELLS = 10_000
"""Cells of a part: what a worker that is killed has to do again, one to three minutes of it."""

_PARTS = 256
"""Of fewer cells the parts are smaller, so that the workers end at about the same time..."""

_FEWEST_CELLS = 50
"""...but not smaller than this, since starting a part takes some milliseconds."""

FILE_COLUMN = "file"
"""Where a list of image files has their paths, as the bytes that the system knows them by."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Cells that are judged together.

    Attributes:
        number: In the order of what was given.
        file: The Parquet file.
        groups: Its row groups.
        first: Number of the first cell in the file.
        cells: How many there are.
    """

    number: int
    file: str
    groups: tuple[int, ...]
    first: int
    cells: int

    @property
    def name(self) -> str:
        """Of the file with its verdicts."""
        return f"part-{self.number:05d}.parquet"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be judged.

    Attributes:
        parts: All cells, each once.
        image: The column of the images; None where the files list paths of images.
        keep: The columns that are kept beside the verdicts.
        sources: Parquet files that were given, with size and time of change.
        notes: What has to be told of the files that were met.
    """

    parts: tuple[Part, ...]
    image: str | None
    keep: tuple[str, ...]
    sources: tuple[tuple[str, int, int], ...]
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """How many there are."""
        return sum(part.cells for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """The plan that `to_dict` described."""
        parts = tuple(Part(**{**part, "groups": tuple(part["groups"])}) for part in data["parts"])
        sources = tuple((str(file), int(size), int(changed)) for file, size, changed in data["sources"])
        return cls(parts, data["image"], tuple(data["keep"]), sources, tuple(data["notes"]))

    def check_sources(self) -> None:
        """Raise if a Parquet file is not the one that the parts were cut from."""
        for file, size, changed in self.sources:
            if _version_of(file) != (size, changed):
                raise DataError(
                    f"{file} has changed since the run began, so that its cells would be lost or judged twice: begin "
                    "anew with restart (--restart), or put the file back."
                )

    def changes(self, paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
        """One sentence if the image files are not those that were listed, which are judged all the same."""
        if self.image is not None:
            return ()
        listing = Path(self.parts[0].file)
        names = require("pyarrow.parquet").read_table(listing)[FILE_COLUMN].to_pylist()
        listed, there = ({*map(os.fsdecode, names)}, {*map(str, _found(paths)[0])})
        since = listing.stat().st_mtime_ns
        found = {
            "added": sorted(there - listed),
            "removed": sorted(listed - there),
            "changed": sorted(file for file in there & listed if _changed_at(file) > since),
        }
        told = [f"{len(files):,} {what} ({shortened(files, 2)})" for what, files in found.items() if files]
        if not told:
            return ()
        return (
            f"Image files since the run began: {', '.join(told)}. It goes on with those that it has listed; restart "
            "(--restart) judges what is there now.",
        )


def require(name: str) -> Any:
    """A module of the extras ``parquet`` and ``ray``."""
    extra = "ray" if name.split(".")[0] == "ray" else "parquet"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BatchMissingError(
            f"This needs {name.split('.')[0]} ({reason(error)}): run `pip install 'leukaemia-zoo[{extra}]'`."
        ) from error


def plan(
    paths: Iterable[str | os.PathLike[str]],
    listing: Path,
    *,
    image: str | None = None,
    keep: Sequence[str] | None = None,
    taken: Sequence[str] = (),
    most_cells: int | None = None,
) -> Plan:
    """Cut what is given into parts; the image files, which parts are ranges of, are listed in the file `listing`."""
    images, tables, notes = _found(paths)
    if images and tables:
        raise DataError(
            f"There are both images ({images[0]}) and Parquet files ({tables[0]}): judge the ones, then the others."
        )
    if images:
        if image is not None or keep is not None:
            raise DataError("Files of images have no columns: leave out --image-column and --keep.")
        return _plan_of_images(images, listing, most_cells, notes)
    if not tables:
        raise ImageError(f"There are no images and no Parquet files in {', '.join(map(str, paths))}.")
    return _plan_of_tables(tables, image, keep, taken, most_cells, notes)


def _found(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    given = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - links stay as they were named
    tables = [path for path in given if path.suffix == ".parquet" and path.is_file()]
    listed = list_images(path for path in given if path not in tables)
    tables += [path for path in listed.skipped if path.suffix == ".parquet"]
    once, again = distinct(tables)
    notes = [*listed.notes, *listed.faults]
    if again:
        notes.append(f"{len(again):,} Parquet files were named twice and read once, such as {again[0]}.")
    return list(listed.images), once, tuple(notes)


def cells_of_part(cells: int, most: int | None = None) -> int:
    """How many cells a part has.

    Example:
        >>> cells_of_part(100), cells_of_part(100_000), cells_of_part(100_000_000)
        (50, 391, 10000)
    """
    return most or min(MOST_CELLS, max(_FEWEST_CELLS, math.ceil(cells / _PARTS)))


def _plan_of_images(images: list[Path], listing: Path, most: int | None, notes: tuple[str, ...]) -> Plan:
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    size = cells_of_part(len(images), most)
    files = pa.table({FILE_COLUMN: pa.array([os.fsencode(file) for file in images], pa.binary())})
    with replacing(listing) as beside:
        pq.write_table(files, beside, row_group_size=size, compression="zstd")
    starts = range(0, len(images), size)
    parts = (
        Part(number, str(listing), (number,), first, min(size, len(images) - first))
        for number, first in enumerate(starts)
    )
    return Plan(tuple(parts), None, (), (), notes)


def _plan_of_tables(
    tables: list[Path],
    image: str | None,
    keep: Sequence[str] | None,
    taken: Sequence[str],
    most: int | None,
    notes: tuple[str, ...],
) -> Plan:
    with ThreadPoolExecutor() as pool:
        opened = list(pool.map(_metadata, tables))
    _, first_schema = opened[0]
    image = _image_column(tables[0], first_schema, image)
    names = list(first_schema.names)
    kept = [name for name in names if name != image] if keep is None else list(keep)
    if unknown := [name for name in kept if name not in names]:
        raise DataError(f"{tables[0]} has no column {shown(unknown[0])} to keep, but {shortened(names, 20)}.")
    if clash := [name for name in kept if name in taken and name != "subject"]:
        raise DataError(
            f"{tables[0]} has a column {shown(clash[0])}, where the verdict is to stand: name the columns to keep "
            "without it (--keep), or rename it."
        )
    for table, (_, schema) in zip(tables, opened, strict=True):
        for name in (image, *kept):
            if name not in schema.names or schema.field(name).type != first_schema.field(name).type:
                raise DataError(
                    f"{table} has another column {shown(name)} than {tables[0]}, or none: judge them one after the "
                    "other, or keep fewer columns (--keep)."
                )
    size = cells_of_part(sum(sum(groups) for groups, _ in opened), most)
    parts: list[Part] = []
    for table, (groups, _) in zip(tables, opened, strict=True):
        first, cells = 0, 0
        together: list[int] = []
        for group, rows in enumerate(groups):
            if together and cells + rows > size:
                parts.append(Part(len(parts), str(table), tuple(together), first, cells))
                first, together, cells = first + cells, [], 0
            together.append(group)
            cells += rows
        if cells:
            parts.append(Part(len(parts), str(table), tuple(together), first, cells))
    if not parts:
        raise ImageError(f"There are no rows in {tables[0]}{' and the others' if len(tables) > 1 else ''}.")
    sources = tuple((str(table), *_version_of(table)) for table in tables)
    return Plan(tuple(parts), image, tuple(kept), sources, notes)


def _metadata(table: Path) -> tuple[list[int], Any]:
    """Rows of each row group, and the schema."""
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    try:
        with pq.ParquetFile(table) as file:
            known = file.metadata
            return [known.row_group(number).num_rows for number in range(known.num_row_groups)], file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table} cannot be read as Parquet ({reason(error)}): write or copy it again.") from error


def _image_column(table: Path, schema: Any, asked: str | None) -> str:
    names = [field.name for field in schema if _may_hold_images(field.type)]
    if asked is not None:
        if asked not in schema.names:
            raise DataError(f"{table} has no column {shown(asked)}, but {shortened(schema.names, 20)}.")
        return asked
    if len(names) == 1:
        return names[0]
    told = f"several columns that may hold images ({shortened(names)})" if names else "no column of bytes"
    raise DataError(f"{table} has {told}: name the one with the encoded images (--image-column).")


def _may_hold_images(kind: Any) -> bool:
    types = require("pyarrow").types
    if types.is_struct(kind):  # as Hugging Face's data sets have them
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _changed_at(file: str) -> int:
    with contextlib.suppress(OSError):  # judging it will say why
        return version_of(file)[1]
    return 0


def _version_of(file: str | Path) -> tuple[int, int]:
    try:
        return version_of(file)
    except OSError as error:
        raise DataError(f"{file} cannot be reached ({error.strerror or error}): put it back.") from error
