"""``leukaemia-zoo finetune`` and ``leukaemia-zoo probe``: somebody's own cells."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

from leukaemia_zoo import cli_paths
from leukaemia_zoo.registry import model_info
from leukaemia_zoo.report import FILES
from leukaemia_zoo.sources import is_elsewhere
from leukaemia_zoo.terminal import tell, without_notes_of_the_backend

_DATA = "folder with one folder a class, or a CSV with the columns path,label[,subject]"


def add_commands(commands: Any, positive: Callable[[str], int]) -> None:
    """Say what can be said to the two commands."""
    finetune = commands.add_parser(
        "finetune", help="fine-tune a network on labelled cells of your own and judge it on cells apart"
    )
    finetune.add_argument(
        "name", type=cli_paths.home, help="name in the zoo, folder of a saved model, or hf://org/name@revision"
    )
    finetune.add_argument(
        "--out", type=cli_paths.output_folder, required=True, metavar="DIR", help="folder for model, record and report"
    )
    _add_data(finetune)
    finetune.add_argument(
        "--per-class", type=positive, metavar="N", help="learn from at most N cells of each class (default: all)"
    )
    finetune.add_argument(
        "--test-share", type=float, default=0.2, metavar="P", help="share of the cells that test (default: %(default)s)"
    )
    finetune.add_argument(
        "--split", type=cli_paths.path, metavar="FILE", help="split manifest with the parts train, validation and test"
    )
    finetune.add_argument(
        "--positive",
        metavar="CLASS",
        help="of two classes the one that sensitivity and AUROC speak of (default: the one whose name says it, such as "
        "leukaemia or blast, else the last)",
    )
    finetune.add_argument(
        "--recipe", type=cli_paths.path, metavar="FILE", help="JSON with settings that replace the recipe's own"
    )
    finetune.add_argument(
        "--unfreeze",
        type=lambda text: text if text == "all" else positive(text),
        default=2,
        metavar="N",
        help="how many of the last layers learn in stage 2, or 'all' (default: %(default)s)",
    )
    finetune.add_argument(
        "--classifier-only", action="store_true", help="leave out stage 2: fit the last layer and nothing else"
    )
    finetune.add_argument(
        "--train-batch-norm", action="store_true", help="let BatchNorm follow the new cells (default: it stays)"
    )
    finetune.add_argument(
        "--time-budget", type=float, metavar="SECONDS", help="begin no further epoch after so many seconds"
    )
    finetune.add_argument("--cost", action="store_true", help="measure times and memory for the report")
    finetune.add_argument("--push-to", metavar="ORG/NAME", help="put the model into this repository on the Hub")
    finetune.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    finetune.add_argument("--restart", action="store_true", help="replace what the folder holds")
    finetune.set_defaults(run=finetune_command)

    probe = commands.add_parser(
        "probe", help="cross-validate a linear classifier on a network's features: a first answer within a minute"
    )
    probe.add_argument(
        "name", type=cli_paths.home, help="name in the zoo, folder of a saved model, or hf://org/name@revision"
    )
    _add_data(probe)
    probe.add_argument("--folds", type=positive, default=5, metavar="K", help="folds (default: %(default)s)")
    probe.add_argument("--no-cache", action="store_true", help="keep no embeddings on disk")
    probe.set_defaults(run=probe_command)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=cli_paths.path, required=True, metavar="DIR", help=_DATA)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all that is drawn (default: 0)")
    parser.add_argument(
        "--split-by",
        choices=("auto", "subject", "image"),
        default="auto",
        help="keep the cells of a subject together: where subjects are known, always, or not (default: auto)",
    )
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    parser.add_argument(
        "--crop-fraction",
        type=float,
        metavar="P",
        help="side of the centre crop as a share of the frame's shorter side (default: found from the frames)",
    )


def finetune_command(options: argparse.Namespace) -> int:
    """Fine-tune a network."""
    if not is_elsewhere(options.name):
        model_info(options.name)  # a mistyped name is told before the seconds of the backend
    with without_notes_of_the_backend():
        from leukaemia_zoo.finetuning import fine_tune
    from leukaemia_zoo.recipes import read_changes

    recipe = {**read_changes(options.recipe), **({"fine_tune_epochs": 0} if options.classifier_only else {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # each is also a line of progress
        found = fine_tune(
            options.name,
            options.data,
            options.out,
            per_class=options.per_class,
            split=options.split,
            split_by=options.split_by,
            test_share=options.test_share,
            skip_unreadable=options.skip_unreadable,
            positive=options.positive,
            crop_fraction=options.crop_fraction,
            recipe=recipe,
            unfreeze=options.unfreeze,
            keep_statistics=not options.train_batch_norm,
            time_budget=options.time_budget,
            cost=options.cost,
            push_to=options.push_to,
            private=options.private,
            seed=options.seed,
            restart=options.restart,
            report=tell,
        )
    print(found.report)
    print(f"written: {', '.join(str(options.out / name) for name in FILES)}")
    print(f"use it: leukaemia-zoo predict PATH --model {options.out.resolve()}")
    return 0


def probe_command(options: argparse.Namespace) -> int:
    """Judge the features of a network."""
    if not is_elsewhere(options.name):
        model_info(options.name)
    with without_notes_of_the_backend():
        from leukaemia_zoo.probing import linear_probe

    print(
        linear_probe(
            options.name,
            options.data,
            folds=options.folds,
            split_by=options.split_by,
            skip_unreadable=options.skip_unreadable,
            crop_fraction=options.crop_fraction,
            cache=not options.no_cache,
            seed=options.seed,
            report=tell,
        )
    )
    return 0
