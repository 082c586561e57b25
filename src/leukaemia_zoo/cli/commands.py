"""The commands behind the parser: each calls one function of the package and prints what comes back."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

from leukaemia_zoo.cli import output, paths
from leukaemia_zoo.cli.output import print_lines, progress_bar, tell, without_notes_of_the_backend
from leukaemia_zoo.common import text
from leukaemia_zoo.common.files import refuse_to_overwrite
from leukaemia_zoo.errors import LeukaemiaZooError, UnknownNameError
from leukaemia_zoo.report.report import FILES
from leukaemia_zoo.zoo.registry import BLOOD_TRUNK, model_info
from leukaemia_zoo.zoo.sources import is_elsewhere

_PLACES = {
    "package": "inside the package",
    "checkout": "in this checkout",
    "cache": "already in the cache",
    "hub": "downloaded",
}


def train(options: argparse.Namespace) -> int:
    """Train or cross-validate a network."""
    from leukaemia_zoo.cells.readers import as_cells
    from leukaemia_zoo.common.run_folder import files_of_training
    from leukaemia_zoo.training.recipes import recipe_for

    recipe = recipe_for(options.name, options.recipe)
    written = files_of_training(options.cross_validate, options.trunk is not None)
    refuse_to_overwrite(
        [("the run's", options.out / name) for name in written],
        [("--data", options.data), ("--recipe", options.recipe)],
    )
    cells = as_cells(options.data, options.positive)
    print(cells.describe())

    from leukaemia_zoo.training import cross_validation
    from leukaemia_zoo.training import trainer as training

    settings: dict[str, Any] = {
        "recipe": recipe,
        "teacher": None if options.teacher == "none" else options.teacher,
        "unlabelled": options.unlabelled,
        "trunk": options.trunk,
        "init": options.init,
        "logits_teacher": options.logits_teacher,
        "devices": options.devices,
        "seed": options.seed,
        "restart": options.restart,
        "log": print,
    }
    if options.cross_validate:
        cross_validation.cross_validate(
            options.name,
            cells,
            options.out,
            folds=options.cross_validate,
            keep_networks=options.keep_networks,
            **settings,
        )
    else:
        training.train(
            options.name, cells, options.out, split=options.split, calibration=options.calibration, **settings
        )
    return 0


def benchmark(options: argparse.Namespace) -> int:
    """Judge models and write a report."""
    from leukaemia_zoo.zoo import sources

    options.models = paths.expanded(options.models)
    for name in options.models:
        if not sources.is_elsewhere(name):
            model_info(name)  # a mistyped name is told before the seconds of the backend
    with without_notes_of_the_backend():
        from leukaemia_zoo.benchmarking.runner import benchmark as judge

    with progress_bar("cells") as step:
        found = judge(
            options.models,
            options.data,
            out=options.out,
            refit_folds=options.cross_validate,
            validation=options.validation,
            exclude_overlap=options.exclude_overlap,
            subgroups=options.subgroup,
            prevalence=options.prevalence,
            baselines=not options.no_baselines,
            cost=not options.no_cost,
            resamples=options.resamples,
            seed=options.seed,
            restart=options.restart,
            log=tell,
            progress=step,
        )
    print(found)
    print(f"written: {', '.join(str(options.out / f'report.{kind}') for kind in ('json', 'csv', 'md', 'html'))}")
    return 0


def download(options: argparse.Namespace) -> int:
    """Get weights ahead of time."""
    from leukaemia_zoo.zoo import sources
    from leukaemia_zoo.zoo.registry import list_models

    if bool(options.names) == options.all:
        raise UnknownNameError("Name the weights to download, or say --all; `leukaemia-zoo list` has the names.")
    for name in options.names:
        sources.check_download(name)  # a mistyped name is told before anything is fetched
    failed = 0
    for name in list_models(pretrained=True) if options.all else options.names:
        try:
            found = sources.download(name, options.to)
        except LeukaemiaZooError as error:
            # One that cannot be had must not keep back the others.
            failed += 1
            print(f"leukaemia-zoo: error: {text.printable(f'{name}: {error}')}", file=sys.stderr)
            continue
        print(f"{found.spec.name}: {_PLACES[found.place]}, {found.spec.size:,} bytes, sha256 verified: {found.file}")
    return 2 if failed else 0


def publish(options: argparse.Namespace) -> int:
    """Put the weights on the Hub."""
    from leukaemia_zoo.zoo import publishing

    publishing.publish(
        options.namespace,
        names=options.names or None,
        weights=options.weights,
        registry=options.registry,
        private=options.private,
        dry_run=options.dry_run,
    )
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare a download with the official hashes."""
    from leukaemia_zoo.cells import verification

    with progress_bar("files") as step:
        report = verification.verify(options.folder, progress=step, pixels=options.pixels)
    print(report.describe())
    return 0 if report.ok else 1


def list_(options: argparse.Namespace) -> int:
    """List what is in the zoo."""
    from leukaemia_zoo.zoo.registry import list_models

    # One row a weight that the pattern means by its own or its architecture's name, one an architecture without any.
    architectures = set(list_models(options.pattern))
    infos = [model_info(name) for name in list_models(pretrained=True)]
    trained = {info.architecture.name for info in infos}
    named = set(list_models(options.pattern, pretrained=True))
    infos = [info for info in infos if info.name in named or info.architecture.name in architectures]
    if not options.pretrained:
        infos = sorted([*infos, *map(model_info, architectures - trained)], key=lambda info: info.name)
    if not infos:
        what = "pretrained weight" if options.pretrained else "model"
        print(f"There is no {what} named '{options.pattern}'.", file=sys.stderr)
    if options.json:
        print(json.dumps([info.to_dict() for info in infos], indent=2))
    else:
        print_lines(output.models(infos))
    return 0


def info(options: argparse.Namespace) -> int:
    """Tell what is known of a model."""
    info = model_info(options.name)
    if options.json:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        print_lines(output.about(info))
    return 0


_DATA = "folder with one folder a class, or a CSV with the columns path,label[,subject]"


def add_commands(commands: Any, positive: Callable[[str], int]) -> None:
    """Say what can be said to the two commands."""
    finetune = commands.add_parser(
        "finetune", help="fine-tune a network on labelled cells of your own and judge it on cells apart"
    )
    finetune.add_argument(
        "name",
        type=paths.home,
        nargs="?",
        default=BLOOD_TRUNK,
        help="name in the zoo, folder of a saved model, or hf://org/name@revision (default: %(default)s)",
    )
    finetune.add_argument(
        "--out", type=paths.output_folder, required=True, metavar="DIR", help="folder for model, record and report"
    )
    _add_data(finetune)
    finetune.add_argument(
        "--per-class", type=positive, metavar="N", help="learn from at most N cells of each class (default: all)"
    )
    finetune.add_argument(
        "--test-share", type=float, default=0.2, metavar="P", help="share of the cells that test (default: %(default)s)"
    )
    finetune.add_argument(
        "--split", type=paths.path, metavar="FILE", help="split manifest with the parts train, validation and test"
    )
    finetune.add_argument(
        "--positive",
        metavar="CLASS",
        help="of two classes the one that sensitivity and AUROC speak of (default: the one whose name says it, such as "
        "leukaemia or blast, else the last)",
    )
    finetune.add_argument(
        "--recipe", type=paths.path, metavar="FILE", help="JSON with settings that replace the recipe's own"
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
        "name",
        type=paths.home,
        nargs="?",
        default=BLOOD_TRUNK,
        help="name in the zoo, folder of a saved model, or hf://org/name@revision (default: %(default)s)",
    )
    _add_data(probe)
    probe.add_argument("--folds", type=positive, default=5, metavar="K", help="folds (default: %(default)s)")
    probe.add_argument("--no-cache", action="store_true", help="keep no embeddings on disk")
    probe.set_defaults(run=probe_command)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=paths.path, required=True, metavar="DIR", help=_DATA)
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
        from leukaemia_zoo.adaptation.fine_tuning import fine_tune
    from leukaemia_zoo.training.recipes import read_changes

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
            time_budget_s=options.time_budget,
            cost=options.cost,
            push_to=options.push_to,
            private=options.private,
            seed=options.seed,
            restart=options.restart,
            log=tell,
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
        from leukaemia_zoo.adaptation.probing import linear_probe

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
            log=tell,
        )
    )
    return 0
