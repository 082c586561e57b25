"""``leukaemia-zoo cells`` and ``explain``, which leave folders of pictures: fields to cells, cells to maps."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leukaemia_zoo.cli import options, paths
from leukaemia_zoo.cli.predictions import DEFAULT_MODEL
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
from leukaemia_zoo.errors import ImageError


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
            log=lambda line: tell(printable(line)),
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


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="CELL...", help="image file, folder of images, or pattern")
@options.out("folder for a picture of each cell, contact sheets and explanations.csv")
@click.option("--model", type=options.KNOWN_MODEL, metavar="MODEL", default=DEFAULT_MODEL, help=options.MODEL)
@click.option(
    "--method",
    metavar="METHOD",
    default="grad_cam",
    help="grad_cam, hires_cam, attention or occlusion; the last takes seconds a cell",
)
@click.option("--target", metavar="CLASS", help="class to explain (default: what each cell is called)")
@click.option(
    "--views", type=click.Choice(["1", "4", "8"]), help="turned and mirrored views (default: the weight's own)"
)
@options.restart("replace what the folder holds, whoever left it")
def explain(
    images: tuple[str, ...], out: Path, model: str, method: str, target: str | None, views: str | None, restart: bool
) -> int:
    """Show where in each cell a network finds the evidence for a class."""
    from leukaemia_zoo.cells.images import list_images
    from leukaemia_zoo.cli.output import progress_bar, tell, without_notes_of_the_backend
    from leukaemia_zoo.common.run_folder import refuse_among_images

    given = paths.expanded(images)
    refuse_among_images(out, given)
    listing = list_images(given)
    for note in (*listing.notes, *listing.faults):
        tell(f"note: {printable(note)}")
    if not listing.images:
        raise ImageError(f"There are no images in {', '.join(images)}.")
    with without_notes_of_the_backend():
        from leukaemia_zoo.explanation.folder import explain_files

    with progress_bar("cells") as step:
        found = explain_files(
            model,
            list(listing.images),
            out,
            method=method,
            target=target,
            views=None if views is None else int(views),
            restart=restart,
            progress=step,
        )
    for reason in found.failed:
        print(f"not read: {printable(reason)}", file=sys.stderr)
    count = f"{found.cells:,} cell{'s' * (found.cells != 1)}"
    print(f"{model}, {method}: {count} explained.")
    if found.share_inside is not None and found.cell_share is not None:
        print(
            f"Of the maps {found.share_inside:.0%} lies on the cell, which covers {found.cell_share:.0%} of the image."
        )
    if found.cells:
        print(
            f"written: {printable(str(out))}: {', '.join(sheet.name for sheet in found.sheets[:3])}, a picture a cell"
        )
    print(NOT_A_DIAGNOSIS)
    return 1 if found.failed or listing.faults else 0
