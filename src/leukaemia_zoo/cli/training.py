"""``leukaemia-zoo train``: a network from labelled cells, or its cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leukaemia_zoo.cli import options, paths
from leukaemia_zoo.errors import DataError


@click.command()
@click.argument("name", help="architecture, such as cnn or cnn_attention")
@options.data()
@options.out("folder for the model and its record")
@click.option(
    "--teacher",
    type=paths.home,
    metavar="FILE",
    default="imagenet",
    help="MobileNet weights to distil: 'imagenet' to download Keras' own, a weight such as mobilenet.pbc, a file, "
    "or 'none'",
)
@options.file("--unlabelled", "cell images for the distillation, without labels (default: the training cells)", "DIR")
@options.file("--trunk", "distilled.safetensors of a run with the same distillation, or a weight such as cnn.cnmc")
@click.option(
    "--init",
    type=paths.home,
    metavar="FILE",
    default="none",
    help="weights to begin with: 'imagenet' to download Keras' own (there are none for cnn, cnn_attention and "
    "efficientnet_lite0), an .npz file of ImageNet's, a weight of the same architecture as a file, folder or name in "
    "the zoo, or 'none' for random ones",
)
@options.positive("AUROC speaks", "")
@options.recipe()
@options.file("--split", "split manifest with the parts train and validation")
@options.file(
    "--logits-teacher",
    "saved model, or with --cross-validate a cross-validation that kept its networks, whose probabilities teach too "
    "(for a recipe with soft_share)",
    "DIR",
)
@click.option(
    "--linear-teacher",
    "linear_teachers",
    type=paths.home,
    multiple=True,
    metavar="NAME",
    help="weight whose trunk learnt without labels, such as mobilenet.cnmc; linear classifiers on its features, each "
    "of other subjects, teach too (for a recipe with soft_share; give it once a weight)",
)
@click.option("--keep-networks", is_flag=True, help="with --cross-validate: leave the network of each fold")
@options.file(
    "--calibration",
    "finished cross-validation of the same recipe, for a recipe that lets all subjects teach",
    "DIR",
)
@options.cross_validate("K folds by subject instead of one model")
@options.seed("the split and the training")
@click.option(
    "--devices",
    type=options.all_or_positive,
    default="1",
    metavar="N",
    help="devices that share the batches, or 'all'; JAX and TensorFlow",
)
@options.restart()
def train(
    name: str,
    data: Path,
    out: Path,
    positive: str | None,
    recipe: Path | None,
    split: Path | None,
    calibration: Path | None,
    cross_validate: int | None,
    keep_networks: bool,
    teacher: str,
    trunk: Path | None,
    **settings: Any,
) -> int:
    """Train a network on single-cell images, by subject, or cross-validate it."""
    from leukaemia_zoo.cells.readers import as_cells
    from leukaemia_zoo.common.files import refuse_to_overwrite
    from leukaemia_zoo.common.run_folder import files_of_training
    from leukaemia_zoo.training.recipes import recipe_for

    if cross_validate and (given := [name for name, file in (("split", split), ("calibration", calibration)) if file]):
        raise DataError(f"A cross-validation makes its own folds and calibration: leave out --{given[0]}.")
    if keep_networks and not cross_validate:
        raise DataError("--keep-networks is for --cross-validate K: a training leaves its network anyway.")
    settings |= {"recipe": recipe_for(name, recipe), "teacher": None if teacher == "none" else teacher, "trunk": trunk}
    written = files_of_training(cross_validate, trunk is not None)
    refuse_to_overwrite([("the run's", out / file) for file in written], [("--data", data), ("--recipe", recipe)])
    cells = as_cells(data, positive)
    print(cells)

    from leukaemia_zoo.training import cross_validation, trainer

    settings["log"] = print
    if cross_validate:
        cross_validation.cross_validate(name, cells, out, folds=cross_validate, keep_networks=keep_networks, **settings)
    else:
        trainer.train(name, cells, out, split=split, calibration=calibration, **settings)
    return 0
