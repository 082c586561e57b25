"""``leukaemia-zoo finetune`` and ``probe``: networks on somebody else's cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options
from leukaemia_zoo.cli.output import tell, without_notes_of_the_backend
from leukaemia_zoo.zoo.registry import DEFAULT_TRUNK


def _model_and_cells(command: Callable[..., int]) -> Callable[..., int]:
    """The options of both commands: which network, which cells and how they are read."""
    for option in reversed(
        (
            click.argument(
                "name",
                type=options.KNOWN_MODEL,
                default=DEFAULT_TRUNK,
                help=f"{options.MODEL} (default: {DEFAULT_TRUNK})",
            ),
            options.data("folder with one folder a class, or a CSV with the columns path,label[,subject]"),
            options.seed("all that is drawn"),
            click.option(
                "--split-by",
                type=click.Choice(("auto", "subject", "image")),
                default="auto",
                help="keep the cells of a subject together: where subjects are known, always, or not",
            ),
            click.option("--skip-unreadable", is_flag=True, help="leave out images that cannot be read"),
            click.option(
                "--crop-fraction",
                type=float,
                metavar="P",
                help="side of the centre crop as a share of the frame's shorter side (default: found from the frames)",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@_model_and_cells
@options.out("folder for model, record and report")
@click.option(
    "--per-class", type=options.POSITIVE, metavar="N", help="learn from at most N cells of each class (default: all)"
)
@click.option("--test-share", type=float, default=0.2, metavar="P", help="share of the cells that test")
@options.file("--split", "split manifest with the parts train, validation and test")
@options.positive("sensitivity and AUROC speak", ", such as leukaemia or blast")
@options.recipe()
@click.option(
    "--unfreeze",
    type=options.all_or_positive,
    default="2",
    metavar="N",
    help="how many of the last layers learn in stage 2, or 'all'",
)
@click.option(
    "--rate-decay",
    type=float,
    default=1.0,
    metavar="P",
    help="each layer learns at this share of the rate of the one after it",
)
@click.option("--classifier-only", is_flag=True, help="leave out stage 2: fit the last layer and nothing else")
@click.option("--train-batch-norm", is_flag=True, help="let BatchNorm follow the new cells (default: it stays)")
@click.option("--time-budget", type=float, metavar="SECONDS", help="begin no further epoch after so many seconds")
@click.option("--cost", is_flag=True, help="measure times and memory for the report")
@click.option("--push-to", metavar="ORG/NAME", help="put the model into this repository on the Hub")
@options.private("make a new repository private")
@options.restart("replace what the folder holds")
def finetune(
    name: str,
    data: Path,
    out: Path,
    recipe: Path | None,
    classifier_only: bool,
    train_batch_norm: bool,
    time_budget: float | None,
    **settings: Any,
) -> int:
    """Fine-tune a network on labelled cells of your own and judge it on cells apart."""
    with without_notes_of_the_backend():
        from leukaemia_zoo.adaptation.fine_tuning import fine_tune
    from leukaemia_zoo.report.report import FILES
    from leukaemia_zoo.training.recipes import read_changes

    changes = {**read_changes(recipe), **({"fine_tune_epochs": 0} if classifier_only else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # each is also a line of progress
        tuned = fine_tune(
            name,
            data,
            out,
            recipe=changes,
            keep_statistics=not train_batch_norm,
            time_budget_s=time_budget,
            log=tell,
            **settings,
        )
    print(tuned.report)
    print(f"written: {', '.join(str(out / file) for file in FILES)}")
    print(f"use it: leukaemia-zoo predict PATH --model {out.resolve()}")
    return 0


@click.command()
@_model_and_cells
@click.option("--folds", type=options.POSITIVE, default=5, metavar="K", help="folds")
@click.option("--no-cache", is_flag=True, help="keep no embeddings on disk")
def probe(name: str, data: Path, no_cache: bool, **settings: Any) -> int:
    """Cross-validate a linear classifier on a network's features: a first answer within a minute."""
    with without_notes_of_the_backend():
        from leukaemia_zoo.adaptation.probing import linear_probe

    print(linear_probe(name, data, cache=not no_cache, log=tell, **settings))
    return 0
