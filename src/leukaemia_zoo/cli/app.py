"""The command line: what can be said, and how mistakes are told."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from leukaemia_zoo._version import __version__
from leukaemia_zoo.cli import commands, exports, paths, predictions
from leukaemia_zoo.common.text import printable
from leukaemia_zoo.errors import LeukaemiaZooError

DEFAULT_MODEL = "cnn_attention"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``leukaemia-zoo`` and return its exit status: 0, 1 if some inputs failed, 2 for a mistake in the call."""
    _open_standard_streams()
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
        print(f"leukaemia-zoo: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output, such as head, has had enough; Python must not try to flush the rest.
        with contextlib.suppress(OSError):  # without a file of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        told = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        print(f"leukaemia-zoo: error: {printable(told)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("leukaemia-zoo: stopped.", file=sys.stderr)
        return 130


def _open_standard_streams() -> None:
    """Give a process that was started without standard streams, as by ``2>&-`` or pythonw, ones that lead nowhere.

    Otherwise the first file that it opens takes the number of a stream, and what libraries print ends up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = io.StringIO()  # without bytes below it, by which `--csv -` is told that there is no output
    if sys.stderr is None:
        sys.stderr = io.StringIO()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leukaemia-zoo",
        description="Pretrained networks that tell leukaemic (all) from normal (hem) white blood cells in single-cell "
        "images. For research only, not a diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"leukaemia-zoo {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")

    predict = subparsers.add_parser("predict", help="classify the cells in files and folders")
    predict.add_argument("paths", nargs="+", metavar="PATH", help="image file, folder of images, or pattern")
    predict.add_argument(
        "--model",
        type=paths.home,
        default=DEFAULT_MODEL,
        help="name in the zoo, folder of a saved model, or hf://org/name@revision (default: %(default)s)",
    )
    predict.add_argument(
        "--csv",
        type=paths.output,
        metavar="FILE",
        help="write one row a file: path, subject, label, p_<class>, verdict, ood_score, unfamiliar, error; '-' for "
        "the standard output",
    )
    predict.add_argument("--json", type=paths.output, metavar="FILE", help="write the same as a list of records")
    predict.add_argument(
        "--subjects",
        type=paths.path,
        metavar="FILE",
        help="CSV with the columns path and subject, for files not named as in C-NMC",
    )
    predict.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="images at once (default: %(default)s)"
    )
    predict.add_argument(
        "--miss-rate",
        type=float,
        metavar="P",
        help="of each class, the share of its cells that a verdict may miss; `info` has those to choose from (default: "
        "the weight's own)",
    )
    predict.add_argument("--quiet", action="store_true", help="print no table")
    predict.set_defaults(run=predictions.predict)

    export = subparsers.add_parser("export", help="write a network as one file for other programs")
    export.add_argument("model", help="name in the zoo, folder of a saved model, or hf://org/name@revision")
    export.add_argument(
        "--to",
        default="onnx",
        choices=("onnx", "openvino", "litert", "saved_model"),
        help="kind of the file (default: %(default)s)",
    )
    export.add_argument(
        "--out",
        type=paths.path,
        required=True,
        metavar="FILE",
        help=".onnx, .xml for OpenVINO, .tflite for LiteRT, or a new folder for a SavedModel",
    )
    export.add_argument(
        "--int8", action="store_true", help="convolutions in whole numbers: smaller, a little different"
    )
    export.add_argument(
        "--calibration", type=paths.path, metavar="DIR", help="for --int8: 20 images of cells or more, better 200"
    )
    export.add_argument(
        "--views",
        type=int,
        choices=(1, 2, 4, 8),
        help="views inside (default: those that the weight was calibrated for)",
    )
    export.set_defaults(run=exports.export)

    train = subparsers.add_parser("train", help="train a network on single-cell images, by subject")
    train.add_argument("name", help="architecture, such as cnn or cnn_attention")
    train.add_argument(
        "--data", type=paths.path, required=True, metavar="DIR", help="C-NMC as downloaded, class folders, or a CSV"
    )
    train.add_argument(
        "--out", type=paths.output_folder, required=True, metavar="DIR", help="folder for the model and its record"
    )
    train.add_argument(
        "--teacher",
        type=paths.home,
        metavar="FILE",
        default="imagenet",
        help="MobileNet weights to distil: a file, 'imagenet' to download Keras' own, or 'none' (default: %(default)s)",
    )
    train.add_argument(
        "--unlabelled",
        type=paths.path,
        metavar="DIR",
        help="cell images for the distillation, without labels (default: the training cells)",
    )
    train.add_argument(
        "--trunk",
        type=paths.path,
        metavar="FILE",
        help="distilled.safetensors of an earlier run with the same distillation",
    )
    train.add_argument(
        "--init",
        type=paths.home,
        metavar="FILE",
        default="none",
        help="weights to begin with: 'imagenet' to download Keras' own (vgg16, resnet50, inception_v3, xception), a "
        "weight of the same architecture as a file, folder or name in the zoo, or 'none' for random ones "
        "(default: %(default)s)",
    )
    train.add_argument(
        "--positive",
        metavar="CLASS",
        help="of two classes the one that AUROC speaks of (default: the one whose name says it, else the last)",
    )
    train.add_argument(
        "--recipe", type=paths.path, metavar="FILE", help="JSON with settings that replace the recipe's own"
    )
    train.add_argument(
        "--split", type=paths.path, metavar="FILE", help="split manifest with the parts train and validation"
    )
    train.add_argument(
        "--logits-teacher",
        type=paths.path,
        metavar="DIR",
        help="saved model, or with --cross-validate a cross-validation that kept its networks, whose probabilities "
        "teach too (for a recipe with soft_share)",
    )
    train.add_argument(
        "--keep-networks", action="store_true", help="with --cross-validate: leave the network of each fold"
    )
    train.add_argument(
        "--calibration",
        type=paths.path,
        metavar="DIR",
        help="finished cross-validation of the same recipe, for a recipe that lets all subjects teach",
    )
    train.add_argument("--cross-validate", type=_positive, metavar="K", help="K folds by subject instead of one model")
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the split and the training (default: %(default)s)"
    )
    train.add_argument(
        "--devices",
        type=_devices,
        default=1,
        metavar="N",
        help="devices that share the batches, or 'all'; JAX and TensorFlow (default: %(default)s)",
    )
    train.add_argument("--restart", action="store_true", help="begin anew where an interrupted run could be resumed")
    train.set_defaults(run=commands.train)

    commands.add_commands(subparsers, _positive)

    benchmark = subparsers.add_parser(
        "benchmark", help="judge models on the same labelled cells, with intervals over subjects, and write a report"
    )
    benchmark.add_argument(
        "models", nargs="+", metavar="MODEL", help="name in the zoo, folder of a saved model, or hf://org/name@revision"
    )
    benchmark.add_argument(
        "--data", type=paths.path, required=True, metavar="DIR", help="C-NMC as downloaded, class folders, or a CSV"
    )
    benchmark.add_argument(
        "--out",
        type=paths.output_folder,
        required=True,
        metavar="DIR",
        help="folder for report.json, .csv, .md and .html",
    )
    benchmark.add_argument(
        "--cross-validate",
        type=_positive,
        metavar="K",
        help="judge the recipe of each model in K folds by subject instead of its weight",
    )
    benchmark.add_argument(
        "--exclude-overlap", action="store_true", help="leave out cells and people that a model was trained on"
    )
    benchmark.add_argument(
        "--validation",
        type=paths.path,
        metavar="DIR",
        help="cells of other people to choose thresholds and temperatures on",
    )
    benchmark.add_argument(
        "--subgroup", action="append", metavar="COLUMN", help="column of the CSV to report by (may be repeated)"
    )
    benchmark.add_argument(
        "--prevalence", type=float, metavar="P", help="share of the last class, 0 to 1, for the predictive values"
    )
    benchmark.add_argument("--no-baselines", action="store_true", help="leave out majority class, area and background")
    benchmark.add_argument("--no-cost", action="store_true", help="do not measure times and memory")
    benchmark.add_argument(
        "--resamples", type=_positive, default=2000, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    benchmark.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of folds and resamples (default: %(default)s)"
    )
    benchmark.add_argument(
        "--restart", action="store_true", help="begin anew where an interrupted run could be resumed"
    )
    benchmark.set_defaults(run=commands.benchmark)

    download = subparsers.add_parser(
        "download", help="get weights ahead of time, for a machine without a network or before it is needed"
    )
    download.add_argument("names", nargs="*", metavar="NAME", help="name in the zoo, or hf://org/name@revision")
    download.add_argument("--all", action="store_true", help="every weight of the zoo")
    download.add_argument(
        "--to",
        type=paths.output_folder,
        metavar="DIR",
        help="write folders that load_model and --model take (default: fill the local cache)",
    )
    download.set_defaults(run=commands.download)

    publish = subparsers.add_parser("publish", help="put the zoo's weights on the Hugging Face Hub and pin them")
    publish.add_argument("namespace", metavar="ORG", help="user or organisation: each weight becomes ORG/weight")
    publish.add_argument("names", nargs="*", metavar="NAME", help="weights (default: all)")
    publish.add_argument(
        "--weights",
        type=paths.path,
        metavar="DIR",
        help="folder of the weights that are not in the package (default: weights)",
    )
    publish.add_argument(
        "--registry",
        type=paths.path,
        metavar="FILE",
        help="registry to read and to write back to (default: the package's)",
    )
    publish.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    publish.add_argument("--dry-run", action="store_true", help="show what would happen, without network or changes")
    publish.set_defaults(run=commands.publish)

    verify = subparsers.add_parser("verify", help="compare a C-NMC download with the official list of sha256 hashes")
    verify.add_argument("folder", type=paths.path, metavar="DIR")
    verify.add_argument(
        "--pixels", action="store_true", help="find cells that lie there twice under other bytes too (some minutes)"
    )
    verify.set_defaults(run=commands.verify)

    names = subparsers.add_parser("list", help="list the architectures and their pretrained weights")
    names.add_argument("pattern", nargs="?", default="*", help="shell-style pattern such as 'cnn*'")
    names.add_argument("--pretrained", action="store_true", help="only what has a pretrained weight")
    names.add_argument("--json", action="store_true", help="print JSON")
    names.set_defaults(run=commands.list_)

    info = subparsers.add_parser("info", help="tell what is known of a model: classes, data, figures, licence")
    info.add_argument("name")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=commands.info)
    return parser


def _devices(text: str) -> int | str:
    return text if text == "all" else _positive(text)


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


if __name__ == "__main__":
    sys.exit(main())
