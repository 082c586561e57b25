"""``leukaemia-zoo explain``: where in each cell a network finds what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from leukaemia_zoo.cli import options, paths
from leukaemia_zoo.cli.predictions import DEFAULT_MODEL
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
from leukaemia_zoo.errors import ImageError


@click.command()
@click.argument("cells", nargs=-1, required=True, metavar="CELL...", help="image file, folder of images, or pattern")
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
    cells: tuple[str, ...], out: Path, model: str, method: str, target: str | None, views: str | None, restart: bool
) -> int:
    """Show where in each cell a network finds the evidence for a class."""
    from leukaemia_zoo.cells.images import list_images
    from leukaemia_zoo.cli.output import progress_bar, tell, without_notes_of_the_backend

    listing = list_images(paths.expanded(cells))
    for note in (*listing.notes, *listing.faults):
        tell(f"note: {printable(note)}")
    if not listing.images:
        raise ImageError(f"There are no images in {', '.join(cells)}.")
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
