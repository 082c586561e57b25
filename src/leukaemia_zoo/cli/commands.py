"""What each command of ``leukaemia-zoo`` but ``predict`` does: call the library, print."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from leukaemia_zoo import cli_paths, printing
from leukaemia_zoo.errors import LeukaemiaZooError, UnknownNameError
from leukaemia_zoo.files import refuse_to_overwrite
from leukaemia_zoo.registry import model_info
from leukaemia_zoo.terminal import print_lines, progress_bar, tell, without_notes_of_the_backend

_PLACES = {
    "package": "inside the package",
    "checkout": "in this checkout",
    "cache": "already in the cache",
    "hub": "downloaded",
}


def train(options: argparse.Namespace) -> int:
    """Train or cross-validate a network."""
    from leukaemia_zoo.datasets import as_cells
    from leukaemia_zoo.recipes import recipe_for
    from leukaemia_zoo.run_folder import files_of_training

    recipe = recipe_for(options.name, options.recipe)
    written = files_of_training(options.cross_validate, options.trunk is not None)
    refuse_to_overwrite(
        [("the run's", options.out / name) for name in written],
        [("--data", options.data), ("--recipe", options.recipe)],
    )
    cells = as_cells(options.data, options.positive)
    print(cells.describe())

    from leukaemia_zoo import cross_validation, training

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
        "report": print,
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
    from leukaemia_zoo import sources

    options.models = cli_paths.expanded(options.models)
    for name in options.models:
        if not sources.is_elsewhere(name):
            model_info(name)  # a mistyped name is told before the seconds of the backend
    with without_notes_of_the_backend():
        from leukaemia_zoo.benchmarking import benchmark as judge

    with progress_bar("cells") as step:
        found = judge(
            options.models,
            options.data,
            out=options.out,
            cross_validate=options.cross_validate,
            validation=options.validation,
            exclude_overlap=options.exclude_overlap,
            subgroups=options.subgroup,
            prevalence=options.prevalence,
            baselines=not options.no_baselines,
            cost=not options.no_cost,
            resamples=options.resamples,
            seed=options.seed,
            restart=options.restart,
            report=tell,
            progress=step,
        )
    print(found)
    print(f"written: {', '.join(str(options.out / f'report.{kind}') for kind in ('json', 'csv', 'md', 'html'))}")
    return 0


def download(options: argparse.Namespace) -> int:
    """Get weights ahead of time."""
    from leukaemia_zoo import sources
    from leukaemia_zoo.registry import list_models

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
            print(f"leukaemia-zoo: error: {printing.printable(f'{name}: {error}')}", file=sys.stderr)
            continue
        print(f"{found.spec.name}: {_PLACES[found.place]}, {found.spec.size:,} bytes, sha256 verified: {found.file}")
    return 2 if failed else 0


def publish(options: argparse.Namespace) -> int:
    """Put the weights on the Hub."""
    from leukaemia_zoo import publishing

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
    from leukaemia_zoo import verification

    with progress_bar("files") as step:
        report = verification.verify(options.folder, progress=step, pixels=options.pixels)
    print(report.describe())
    return 0 if report.ok else 1


def list_(options: argparse.Namespace) -> int:
    """List what is in the zoo."""
    from leukaemia_zoo.registry import list_models

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
        print_lines(printing.models(infos))
    return 0


def info(options: argparse.Namespace) -> int:
    """Tell what is known of a model."""
    info = model_info(options.name)
    if options.json:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        print_lines(printing.about(info))
    return 0
