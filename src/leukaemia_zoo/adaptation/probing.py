"""A first honest answer within a minute: how far do the features of a network, as they are, tell these cells apart?"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from leukaemia_zoo._names import renamed
from leukaemia_zoo.adaptation.inspection import DEFAULT_CROP, inspect_cells, usual_preprocessing
from leukaemia_zoo.adaptation.splits import folds_by_people
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import cache_folder
from leukaemia_zoo.common.reading import checked_seed
from leukaemia_zoo.common.text import Log, silent
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.evaluation.inputs import FloatArray, IntArray
from leukaemia_zoo.evaluation.intervals import Interval, Resampling
from leukaemia_zoo.evaluation.metrics import WeightedCells
from leukaemia_zoo.prediction.features import embed_files
from leukaemia_zoo.zoo.registry import BLOOD_TRUNKS, DEFAULT_TRUNK, ModelConfig

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """What `linear_probe` found.

    Attributes:
        accuracy: Share of the cells that are called right, with its interval.
        macro_f1: Mean over the classes of their F1, with its interval.
        recall: Share of each class that is called right.
        confusion: Counts, int64 (classes, classes): a row for each true class, a column for each called one.
        class_names: In the order of the labels.
        labels: Int64 (n,).
        probabilities: Float64 (n, classes), each by a classifier that had not seen the cell's person or image.
        folds: Int64 (n,), the fold that each cell was tested in.
        by: ``"subject"`` or ``"image"``: what no two folds share.
        preprocessing: From a frame to the input.
        notes: What the user should know of the data.
        seconds: How long it took.
    """

    accuracy: Interval
    macro_f1: Interval
    recall: dict[str, float]
    confusion: IntArray
    class_names: tuple[str, ...]
    labels: IntArray
    probabilities: FloatArray
    folds: IntArray
    by: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{len(self.labels):,} cells, {self.folds.max() + 1} folds by {self.by}, {self.seconds:.0f} s",
            f"accuracy  {self.accuracy}",
            f"macro F1  {self.macro_f1}",
        ]
        lines += [f"  {name}: {value:.3f} of its cells called right" for name, value in self.recall.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


@renamed(report="log")
def linear_probe(
    model: keras.Model | str | os.PathLike[str] = DEFAULT_TRUNK,
    data: str | os.PathLike[str] | Cells | None = None,
    *,
    folds: int = 5,
    split_by: str = "auto",
    skip_unreadable: bool = False,
    preprocessing: Preprocessing | None = None,
    crop_fraction: float | None = None,
    inverse_penalty: float = 0.1,
    cache: str | os.PathLike[str] | bool = True,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    log: Log | None = None,
) -> Probe:
    """Judge a logistic regression on the embeddings of a network by cross-validation; nothing of the network learns.

    `fine_tune` begins with the same classifier and chooses penalty and crop; here they are fixed, so that nothing is
    chosen on the cells that judge.

    Args:
        model: A network from `load_model`, a name of the zoo, a folder, or ``hf://org/name@revision``.
        data: A folder with one folder a class, a CSV with the columns path, label and, if known, subject, or a table.
        folds: By subject where subjects are known, else by image; fewer where a class has fewer of them.
        split_by: See `inspect_cells`.
        skip_unreadable: Leave out images that cannot be read instead of refusing.
        preprocessing: From a frame to the input; None for the weight's own for frames like C-NMC's, else a centre crop.
        crop_fraction: Side of that crop as a share of the frame's shorter side.
        inverse_penalty: C of the logistic regression; classes count alike.
        cache: Folder for the embeddings, by the weights, the preprocessing and the bytes of each image; True for
            ``leukaemia-zoo/embeddings`` in XDG_CACHE_HOME or ``~/.cache``, False for none.
        resamples: Of the bootstrap over subjects, or over cells where none is known.
        level: Nominal coverage of the intervals.
        seed: Of folds and resamples.
        log: Called with each line of progress, such as ``print``; None for none.

    Returns:
        A `Probe`; `print` shows it.

    Raises:
        DataError: If the data cannot be learnt from; the message says what.
        WeightsError: If the weight cannot be had.

    Example:
        >>> import leukaemia_zoo as lz
        >>> print(lz.adaptation.linear_probe("cnn_attention", "my_cells"))  # doctest: +SKIP
        1,000 cells, 5 folds by image, 21 s
        accuracy  0.921 (0.904 to 0.937)
        ...
    """
    begun = time.perf_counter()
    seed = checked_seed(seed)
    notes: list[str] = []
    inspected = inspect_cells(
        data,
        split_by=split_by,
        skip_unreadable=skip_unreadable,
        warn=notes.append,
    )
    cells = inspected.cells
    fold_of = folds_by_people(inspected, folds, seed)
    network = resolve(model)
    config = _config_of(network)
    if preprocessing is None:
        preprocessing, why = usual_preprocessing(inspected, config.preprocessing, config.weight in BLOOD_TRUNKS)
        if crop_fraction is not None or preprocessing is None:
            crop = DEFAULT_CROP if crop_fraction is None else crop_fraction
            preprocessing = dataclasses.replace(config.preprocessing, crop_fraction=crop, reference_frame=None)
            (log or silent)(f"preprocessing: {why}; centre crop of {crop:g}")
    network = _with_config(network, dataclasses.replace(config, preprocessing=preprocessing))
    (log or silent)(f"embeddings of {len(cells):,} cells")
    place = cache_folder("embeddings") if cache is True else cache
    features = embed_files(network, cells.paths, place or None).astype(np.float64)
    with threadpool_limits(1, "blas"):  # problems so small are solved sooner without threads
        probabilities = _out_of_fold(features, cells.labels, fold_of, inverse_penalty)
    weighted = WeightedCells(cells.labels, probabilities, 0.5)
    classes = len(cells.class_names)
    owners = [f"{person}" for person in inspected.people] if inspected.by == "subject" else None
    resampling = Resampling(cells.labels, owners, resamples, seed, level)
    names = ["accuracy", *(f"{metric}:{label}" for metric in ("f1", "recall") for label in range(classes))]

    def measure(counts: FloatArray, units: IntArray) -> dict[str, FloatArray]:
        found = weighted.resampled(counts, units, names)
        macro = np.mean([found[f"f1:{label}"] for label in range(classes)], axis=0)
        return {**found, "macro_f1": macro}

    whole = measure(np.ones((1, 1)), np.zeros(len(cells), np.int64))
    drawn = resampling.draw(measure)
    called = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (cells.labels, called), 1)
    accuracy, macro_f1 = (resampling.interval(float(whole[name][0]), drawn[name]) for name in ("accuracy", "macro_f1"))
    return Probe(
        accuracy=accuracy,
        macro_f1=macro_f1,
        recall={name: float(whole[f"recall:{label}"][0]) for label, name in enumerate(cells.class_names)},
        confusion=confusion,
        class_names=cells.class_names,
        labels=cells.labels,
        probabilities=probabilities,
        folds=fold_of,
        by=inspected.by,
        preprocessing=preprocessing,
        notes=tuple(dict.fromkeys([*cells.notes, *notes])),
        seconds=time.perf_counter() - begun,
    )


def _config_of(network: keras.Model | Network) -> ModelConfig:
    if isinstance(network, Network):
        return network.zoo
    from leukaemia_zoo.zoo.loading import config_of

    return config_of(network)


def _with_config(network: keras.Model | Network, config: ModelConfig) -> keras.Model | Network:
    """The same network, which is not changed, with another configuration."""
    if isinstance(network, Network):
        other: Any = copy.copy(network)
    else:
        import keras

        other = keras.Model(network.inputs[0], network.outputs, name=network.name)
    other.zoo = config
    return other


def _out_of_fold(features: np.ndarray, labels: IntArray, folds: IntArray, inverse_penalty: float) -> FloatArray:
    from sklearn.linear_model import LogisticRegression

    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in range(int(folds.max()) + 1):
        known, tested = folds != fold, folds == fold
        mean, deviation = features[known].mean(axis=0), features[known].std(axis=0) + 1e-6
        classifier: Any = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=1000)
        classifier.fit((features[known] - mean) / deviation, labels[known])
        probabilities[tested] = classifier.predict_proba((features[tested] - mean) / deviation)
    return probabilities
