"""Train the whole zoo, cross-validations included, by one command; give it again, and it goes on where it was.

    python tools/train_zoo.py --cnmc C-NMC_Leukemia --pbc PBC --imagenet MOBILENET.npz --lite LITE.npz --out runs
    KERAS_BACKEND=jax python tools/train_zoo.py ... -- --devices all       # on a machine with GPUs

Each weight is made by the commands of the documentation; `--print` shows them without running them. PBC holds one image
twice under two classes, EO_225902 and BNE_191112: take both out. Where another weight of the zoo teaches it or is its
beginning, that of this run is taken, or the one of the package if `--only` leaves it out. `tools/imagenet_arrays.py`
writes the file of `--lite`. What stands after `--` is added to every command. CONTRIBUTING.md tells what comes next.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

FOLDS = "5"
BLOOD = "mobilenet.pbc"
LITE = "efficientnet_lite0.pbc"
STUDENTS = {
    "cnn.cnmc": BLOOD,
    "cnn_attention.cnmc": BLOOD,
    "mobilenet.cnmc": None,
    "inception_v3.cnmc": None,
    "resnet50.cnmc": None,
    "xception.cnmc": None,
    "vgg16.cnmc": None,
}
"""Weights whose layers learn without labels, each with the weight that teaches it, None for MobileNet of ImageNet."""

TUNED = "mobilenet.pbc_cnmc"
LINEAR_TEACHERS = ("mobilenet.cnmc", "inception_v3.cnmc")
"""Weights on whose features linear classifiers teach it beside the labels."""

ALL = (LITE, BLOOD, *STUDENTS, TUNED)


def main() -> None:
    """Make what is not yet there, weight by weight."""
    own, further = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, further = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cnmc", type=Path, required=True, metavar="DIR", help="C-NMC 2019, the cells to judge")
    parser.add_argument("--pbc", type=Path, required=True, metavar="DIR", help="PBC, a folder for each class")
    parser.add_argument("--imagenet", default="imagenet", metavar="FILE", help="MobileNet's weights; default: of Keras")
    parser.add_argument("--lite", metavar="FILE", help=f"EfficientNet-lite0's weights, with which {LITE} begins")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs lie, a folder each")
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL, metavar="NAME", help="weights; default: all")
    parser.add_argument("--print", action="store_true", dest="shown", help="show the commands and run none")
    options = parser.parse_args(own)
    if LITE in options.only and not options.lite:
        parser.error(f"{LITE} begins with the file of --lite: give it, or name the other weights with --only.")
    for name in [name for name in ALL if name in options.only]:
        for arguments in commands(name, options):
            arguments += further
            folder = Path(arguments[arguments.index("--out") + 1])
            record = folder / ("cross_validation.json" if "--cross-validate" in arguments else "training.json")
            print(shlex.join(["leukaemia-zoo", *arguments]) + ("  # is there" if record.is_file() else ""), flush=True)
            if options.shown or record.is_file():
                continue
            done = subprocess.run([sys.executable, "-m", "leukaemia_zoo", *arguments], check=False)
            if done.returncode:
                sys.exit(f"{name} was not made: the command above ended with {done.returncode}.")


def commands(name: str, options: argparse.Namespace) -> list[list[str]]:
    """What `leukaemia-zoo` is to do, in this order, to make a weight."""
    run, folds = str(options.out / name), f"{options.out / name}_cv"
    blood = str(options.out / BLOOD) if BLOOD in options.only else BLOOD
    if name in (BLOOD, LITE):
        beginning = ["--teacher", "none", "--init", options.imagenet if name == BLOOD else options.lite]
        return [["train", name, "--data", str(options.pbc), *beginning, "--out", run]]
    if name == TUNED:
        start = ["train", name, "--data", str(options.cnmc), "--teacher", "none", "--init", blood]
        for teacher in LINEAR_TEACHERS:
            start += ["--linear-teacher", str(options.out / teacher) if teacher in options.only else teacher]
        judged = ["--cross-validate", FOLDS, "--keep-networks", "--out", folds]
        return [[*start, *judged], [*start, "--calibration", folds, "--out", run]]
    start = ["train", name.partition(".")[0], "--data", str(options.cnmc)]
    teacher = options.imagenet if STUDENTS[name] is None else blood
    judged = ["--cross-validate", FOLDS, "--out", folds]
    return [
        [*start, "--teacher", teacher, "--unlabelled", str(options.pbc), *judged],
        [*start, "--trunk", str(Path(folds) / "distilled.safetensors"), "--out", run],
    ]


if __name__ == "__main__":
    main()
