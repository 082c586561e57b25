"""``leukaemia-zoo cells``: from fields of a smear to a verdict on each white cell."""

from __future__ import annotations

from pathlib import Path

import click

from leukaemia_zoo.cli import options, paths
from leukaemia_zoo.cli.predictions import DEFAULT_MODEL
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable


@click.command()
@click.argument(
    "fields", nargs=-1, required=True, metavar="FIELD...", help="image or whole-slide file, folder of these, or pattern"
)
@options.out("folder for cells.csv, fields.csv, the cells, the fields with outlines, and GeoJSON for QuPath")
@click.option("--model", type=options.KNOWN_MODEL, metavar="MODEL", default=DEFAULT_MODEL, help=options.MODEL)
@click.option(
    "--micrometres-per-pixel",
    type=float,
    metavar="X",
    help="scale of all fields (default: what a slide tells, else by the red cells)",
)
@click.option(
    "--stain", metavar="METHOD", help="reinhard or macenko: normalise the colours of each cell (default: not)"
)
@click.option(
    "--miss-rate", type=float, metavar="P", help="of each class, the share of its cells that a verdict may miss"
)
@options.restart()
def cells(
    fields: tuple[str, ...],
    out: Path,
    model: str,
    micrometres_per_pixel: float | None,
    stain: str | None,
    miss_rate: float | None,
    restart: bool,
) -> int:
    """Find the white cells in fields of a smear or in whole slides, cut them out and classify them."""
    from leukaemia_zoo.cli.output import progress_bar, tell, without_notes_of_the_backend
    from leukaemia_zoo.examination.folder import examine_fields

    with without_notes_of_the_backend(), progress_bar("fields") as step:
        found = examine_fields(
            paths.expanded(fields),
            out,
            model,
            micrometres_per_pixel=micrometres_per_pixel,
            stain=stain,
            miss_rate=miss_rate,
            restart=restart,
            report=lambda line: tell(printable(line)),
            progress=step,
        )
    answers = ", ".join(f"{count:,} {answer}" for answer, count in found.answers.items() if count)
    told = f" ({answers})" if answers else ""
    print(f"{model}: white cells: {found.cells:,}{told}; fields: {found.fields:,}.")
    print(f"Scale: {found.scale}")
    if found.failed:
        print(f"Fields not examined: {len(found.failed):,}; {printable(str(out / 'fields.csv'))} says why.")
    print(f"written: {printable(str(out))}: cells.csv, fields.csv, cells/, fields/, geojson/")
    print(NOT_A_DIAGNOSIS)
    return 1 if found.failed else 0
