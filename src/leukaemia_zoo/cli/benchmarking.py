"""``leukaemia-zoo benchmark``: models judged on the same cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options, paths


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", help=options.MODEL)
@options.data()
@options.out("folder for report.json, .csv, .md and .html")
@options.cross_validate("judge the recipe of each model in K folds by subject instead of its weight")
@click.option("--exclude-overlap", is_flag=True, help="leave out cells and people that a model was trained on")
@options.file("--validation", "cells of other people to choose thresholds and temperatures on", "DIR")
@click.option("--subgroup", multiple=True, metavar="COLUMN", help="column of the CSV to report by (may be repeated)")
@click.option(
    "--prevalence", type=float, metavar="P", help="share of the last class, 0 to 1, for the predictive values"
)
@click.option("--no-baselines", is_flag=True, help="leave out majority class, area and background")
@click.option("--no-cost", is_flag=True, help="do not measure times and memory")
@click.option("--resamples", type=options.POSITIVE, default=2000, metavar="N", help="of the bootstrap")
@options.seed("folds and resamples")
@options.restart()
def benchmark(
    models: tuple[str, ...],
    data: Path,
    out: Path,
    subgroup: tuple[str, ...],
    no_baselines: bool,
    no_cost: bool,
    cross_validate: int | None,
    **settings: Any,
) -> int:
    """Judge models on the same labelled cells, with intervals over subjects, and write a report."""
    from leukaemia_zoo.cli.output import progress_bar, tell, without_notes_of_the_backend

    names = [options.known_model(name) for name in paths.expanded(models)]
    with without_notes_of_the_backend():
        from leukaemia_zoo.benchmarking.runner import benchmark as judge

    with progress_bar("cells") as step:
        report = judge(
            names,
            data,
            out=out,
            refit_folds=cross_validate,
            subgroups=list(subgroup) or None,
            baselines=not no_baselines,
            cost=not no_cost,
            log=tell,
            progress=step,
            **settings,
        )
    print(report)
    print(f"written: {', '.join(str(out / f'report.{kind}') for kind in ('json', 'csv', 'md', 'html'))}")
    return 0
