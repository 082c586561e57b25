"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from leukaemia_zoo import __version__, printing
from leukaemia_zoo.errors import DataError, ImageError, LeukaemiaZooError

DEFAULT_MODEL = "cnn_attention"
_TABLE_ROWS = 50
"""Cells printed in full; of more only the summaries are printed, since the files hold them all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``leukaemia-zoo`` and return its exit status: 0, 1 if some inputs failed, 2 for a mistake in the call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal cannot show, such as bytes that are no UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except LeukaemiaZooError as error:
        print(f"leukaemia-zoo: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output, such as head, has had enough; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"leukaemia-zoo: error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("leukaemia-zoo: stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leukaemia-zoo",
        description="Pretrained networks that tell leukaemic (all) from normal (hem) white blood cells in single-cell "
        "images. For research only, not a diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"leukaemia-zoo {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    predict = commands.add_parser("predict", help="classify the cells in files and folders")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="image file or folder of images")
    predict.add_argument(
        "--model", default=DEFAULT_MODEL, help="name in the zoo or folder of a saved model (default: %(default)s)"
    )
    predict.add_argument(
        "--csv", type=Path, metavar="FILE", help="write one row a file: path, subject, label, p_<class>, error"
    )
    predict.add_argument("--json", type=Path, metavar="FILE", help="write the same as a list of records")
    predict.add_argument(
        "--subjects",
        type=Path,
        metavar="FILE",
        help="CSV with the columns path and subject, for files not named as in C-NMC",
    )
    predict.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="images at once (default: %(default)s)"
    )
    predict.add_argument("--quiet", action="store_true", help="print no table")
    predict.set_defaults(run=_predict)

    train = commands.add_parser("train", help="train a network on single-cell images, by subject")
    train.add_argument("name", help="architecture, such as cnn or cnn_attention")
    train.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="C-NMC as downloaded, class folders, or a CSV"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model and its record")
    train.add_argument(
        "--teacher",
        metavar="FILE",
        default="imagenet",
        help="MobileNet weights to distil: a file, 'imagenet' to download Keras' own, or 'none' (default: %(default)s)",
    )
    train.add_argument(
        "--unlabelled",
        type=Path,
        metavar="DIR",
        help="cell images for the distillation, without labels (default: the training cells)",
    )
    train.add_argument(
        "--trunk", type=Path, metavar="FILE", help="distilled.safetensors of an earlier run with the same distillation"
    )
    train.add_argument("--recipe", type=Path, metavar="FILE", help="JSON with settings that replace the recipe's own")
    train.add_argument("--split", type=Path, metavar="FILE", help="split manifest with the parts train and validation")
    train.add_argument("--cross-validate", type=_positive, metavar="K", help="K folds by subject instead of one model")
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the split and the training (default: %(default)s)"
    )
    train.add_argument("--restart", action="store_true", help="begin anew where an interrupted run could be resumed")
    train.set_defaults(run=_train)

    verify = commands.add_parser("verify", help="compare a C-NMC download with the official list of sha256 hashes")
    verify.add_argument("folder", type=Path, metavar="DIR")
    verify.set_defaults(run=_verify)

    names = commands.add_parser("list", help="list the architectures and their pretrained weights")
    names.add_argument("pattern", nargs="?", default="*", help="shell-style pattern such as 'cnn*'")
    names.add_argument("--pretrained", action="store_true", help="only what has a pretrained weight")
    names.add_argument("--json", action="store_true", help="print JSON")
    names.set_defaults(run=_list)

    info = commands.add_parser("info", help="tell what is known of a model: classes, data, figures, licence")
    info.add_argument("name")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


# ---------------------------------------------------------------------------------------------------------------------
# predict


def _predict(options: argparse.Namespace) -> int:
    from leukaemia_zoo.images import find_images
    from leukaemia_zoo.registry import list_models, model_info

    for file in filter(None, (options.csv, options.json)):
        if file.is_dir():
            raise DataError(f"{file} is a folder: give the name of a file to write.")
    in_zoo = options.model in {*list_models(), *list_models(pretrained=True)}
    from_folder = not in_zoo and (Path(options.model).is_dir() or os.sep in options.model)
    if not from_folder:
        model_info(options.model)
    paths, skipped = find_images(options.paths)
    if not paths:
        raise ImageError(f"There are no images in {', '.join(options.paths)}.")
    subjects = _subject_of_path(options.subjects) if options.subjects else {}
    if options.subjects and not any(_look_up(subjects, path) for path in paths):
        raise DataError(f"{options.subjects} has a subject for none of the {len(paths)} files: compare their paths.")

    # From here on the backend is needed: mistakes in the call were told before its seconds.
    with _without_notes_of_the_backend():
        from leukaemia_zoo.loading import load_model
    from leukaemia_zoo.prediction import NOT_A_DIAGNOSIS, SubjectTally, iter_predictions

    model = load_model(options.model)
    owners = (_look_up(subjects, path) for path in paths) if subjects else None
    found = iter_predictions(model, paths, subjects=owners, batch_size=options.batch_size)
    tally, table = SubjectTally(), not options.quiet and len(paths) <= _TABLE_ROWS
    failed, reasons = 0, []
    counts = dict.fromkeys(model.zoo.class_names, 0)
    with contextlib.ExitStack() as stack:
        write_csv = stack.enter_context(_csv_writer(options.csv, model.zoo.class_names))
        write_json = stack.enter_context(_json_writer(options.json))
        if table:
            print(printing.heading(paths, model.zoo.class_names))
        for prediction in _progress(found, len(paths), "cells", quiet=table):
            write_csv(prediction.to_record())
            write_json(prediction.to_record())
            tally.add(prediction)
            if prediction.error is None:
                counts[prediction.label] += 1
            else:
                failed += 1
                # Below the table where there is one; of very many files at once, so that they need no memory.
                reasons.append(prediction.error) if table else _tell_not_read(prediction.error)
            if table:
                print(printing.row(prediction, printing.path_width(paths), model.zoo.class_names))
    sys.stdout.flush()
    for reason in reasons:
        _tell_not_read(reason)
    if not options.quiet:
        name = options.model if from_folder else model.zoo.weight or options.model
        _print(printing.summary(name, counts, failed, len(skipped), tally.summaries()))
        if not (table or options.csv or options.json):
            print(f"Above {_TABLE_ROWS} files there is no table: --csv FILE or --json FILE writes each one.")
        print(NOT_A_DIAGNOSIS)
    return 1 if failed else 0


def _subject_of_path(file: Path) -> dict[str, str]:
    """Subjects by the path, and by the bare file name, in a CSV."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is no CSV in UTF-8 ({error}): save it as one.") from None
    if not rows or not {"path", "subject"} <= set(rows[0]):
        raise DataError(f"{file} needs a header with the columns path and subject, and one row a file.")
    by_path: dict[str, str] = {}
    by_name: dict[str, set[str]] = {}
    for line, row in enumerate(rows, start=2):
        path, subject = (row["path"] or "").strip(), (row["subject"] or "").strip()
        if not path or not subject:
            raise DataError(f"{file} lacks a path or a subject in row {line}.")
        if by_path.setdefault(os.path.normpath(path), subject) != subject:
            raise DataError(f"{file} gives {path} two subjects, {by_path[os.path.normpath(path)]} and {subject}.")
        by_name.setdefault(Path(path).name, set()).add(subject)
    # The same name in the folders of two subjects tells nothing; the whole path must.
    return {name: owners.pop() for name, owners in by_name.items() if len(owners) == 1} | by_path


def _look_up(subjects: dict[str, str], path: Path) -> str | None:
    return subjects.get(os.path.normpath(path), subjects.get(path.name)) or None


@contextlib.contextmanager
def _csv_writer(path: Path | None, class_names: tuple[str, ...]) -> Iterator[Any]:
    if path is None:
        yield lambda record: None
        return
    from leukaemia_zoo.files import replacing

    columns = ["path", "subject", "label", *(f"p_{name}" for name in class_names), "error"]
    # File names may hold bytes that are no UTF-8; they are written as \udc.., so that the file stays readable.
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        yield lambda record: writer.writerow({key: _rounded(value, 6) for key, value in record.items()})


@contextlib.contextmanager
def _json_writer(path: Path | None) -> Iterator[Any]:
    """Write a JSON list record by record, so that it never stands in memory whole."""
    if path is None:
        yield lambda record: None
        return
    from leukaemia_zoo.files import replacing

    with replacing(path) as beside, beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        separator = "[\n"

        def write(record: dict[str, Any]) -> None:
            nonlocal separator
            file.write(
                separator + json.dumps({key: _rounded(value, 6) for key, value in record.items()}, ensure_ascii=False)
            )
            separator = ",\n"

        yield write
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def _rounded(value: Any, digits: int) -> Any:
    return round(value, digits) if isinstance(value, float) else value


def _tell_not_read(reason: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"not read: {printing.printable(reason)}", file=sys.stderr)  # above the progress bar, if there is one


# ---------------------------------------------------------------------------------------------------------------------
# train, verify


def _train(options: argparse.Namespace) -> int:
    from leukaemia_zoo.datasets import read_data
    from leukaemia_zoo.recipes import recipe_for

    recipe = recipe_for(options.name, options.recipe)
    cells = read_data(options.data)
    print(cells.describe())

    from leukaemia_zoo.training import cross_validate, train

    settings: dict[str, Any] = {
        "recipe": recipe,
        "teacher": None if options.teacher == "none" else options.teacher,
        "unlabelled": options.unlabelled,
        "trunk": options.trunk,
        "seed": options.seed,
        "restart": options.restart,
        "report": print,
    }
    if options.cross_validate:
        cross_validate(options.name, cells, options.out, folds=options.cross_validate, **settings)
    else:
        train(options.name, cells, options.out, split=options.split, **settings)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from leukaemia_zoo.verification import verify

    with _progress_bar("files") as step:
        report = verify(options.folder, progress=step)
    print(report.describe())
    return 0 if report.ok else 1


# ---------------------------------------------------------------------------------------------------------------------
# list, info


def _list(options: argparse.Namespace) -> int:
    from leukaemia_zoo.registry import list_models, model_info

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
        _print(printing.models(infos))
    return 0


def _info(options: argparse.Namespace) -> int:
    from leukaemia_zoo.registry import model_info

    info = model_info(options.name)
    if options.json:
        print(json.dumps(info.to_dict(), indent=2))
    else:
        _print(printing.about(info))
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# the terminal


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


@contextlib.contextmanager
def _without_notes_of_the_backend() -> Iterator[None]:
    """Keep the notes that TensorFlow prints on every start off the terminal, unless the import fails.

    Its C++ code writes them straight to file descriptor 2, of late whatever TF_CPP_MIN_LOG_LEVEL says. Whoever sets
    that variable sees all that it leaves.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as notes:
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _progress(items: Iterable[Any], total: int, unit: str, quiet: bool) -> Iterable[Any]:
    from tqdm import tqdm

    # A terminal sees the bar from half a second on; files and pipes never do.
    return tqdm(items, total=total, unit=f" {unit}", delay=0.5, disable=True if quiet else None, file=sys.stderr)


@contextlib.contextmanager
def _progress_bar(unit: str, file: TextIO | None = None) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", delay=0.5, disable=None, file=file or sys.stderr) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield step


if __name__ == "__main__":
    sys.exit(main())
