"""From images to a verdict for each cell and each subject."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from leukaemia_zoo.cells.cnmc import subject_from_name
from leukaemia_zoo.cells.images import image_items
from leukaemia_zoo.cells.preprocessing import check_views, network_pixels
from leukaemia_zoo.common.limits import UNCERTAIN, UNCERTAIN_CODE, verdict_codes
from leukaemia_zoo.common.tables import subject_name
from leukaemia_zoo.common.text import close_matches
from leukaemia_zoo.engine.classifier import distance
from leukaemia_zoo.engine.network import Network, resolve
from leukaemia_zoo.engine.stream import embedding_stream
from leukaemia_zoo.errors import DataError, ImageError, UnknownNameError
from leukaemia_zoo.prediction.results import Prediction, Predictions
from leukaemia_zoo.zoo.outputs import averaged_views, views_of_batch
from leukaemia_zoo.zoo.registry import ModelConfig

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "int8"]


def predict(
    model: keras.Model | Network | str | os.PathLike[str],
    images: Any,
    *,
    subjects: Sequence[str | None] | None = None,
    batch_size: int = 32,
    errors: Literal["raise", "report"] | None = None,
    miss_rate: float | None = None,
    views: int | None = None,
    precision: Precision = "float32",
    calibration: Any = None,
) -> Predictions:
    """Predict the class of cells from files or arrays.

    Args:
        model: A weight as `load_model` takes it, which is judged by an engine that needs neither Keras nor its backend;
            or a network from `load_model`, with probabilities as output.
        images: One path or a sequence of paths, of which folders stand for the images in them; or one frame (height,
            width, 3), a batch (N, height, width, 3) or a sequence of frames of any sizes: RGB, 0 to 255, uint8 or
            float; or images of Pillow, or open binary files, such as a BytesIO. Frames are cropped and resized as the
            weight's own preprocessing says, so give whole frames, not the network's input size.
        subjects: Subject of each image; None, or NaN as in a data frame, takes it from C-NMC file names.
        batch_size: Images that Keras computes at once; an engine takes as many as there are cores.
        errors: What happens with an image that cannot be read: ``"raise"``, or ``"report"`` in the ``error`` of its
            prediction and go on. None reports for files and raises for arrays, where it is a mistake in the program.
        miss_rate: For the ``verdict`` of each cell: which of the rates of ``model.zoo.verdict_limits`` holds for all
            classes, 0 to 1. Of the cells of a class, of new people, at most this share has the class ruled out. None
            for the default rate of each class.
        views: Turned and mirrored views of each cell that its verdict averages over: 1, 2, 4 or 8. None for the number
            that the weight was judged with. The time is in proportion; fewer judge a little worse, and probabilities,
            limits and OOD score were calibrated for the default.
        precision: ``"float32"``; or ``"int8"``, whole numbers of 8 bits in most convolutions, which is faster on
            processors that have instructions for it, for folders of thousands of cells, and changes probabilities a
            little. It takes the package ``onnx`` and some seconds before the first cell.
        calibration: For int8: files, folders or frames of cells like those that are to be judged, 20 or more, better
            200, on which the ranges of the numbers inside are measured.

    Returns:
        `Predictions`, in the order of the images.

    Raises:
        ImageError: For a bad image, with ``errors="raise"``.
        ArchitectureError: If the model gives no probabilities of its classes.
        DataError: If the weight has no limits of verdicts for the miss rate, there is no such number of views,
            or int8 is wanted without calibration cells.
        UnknownNameError: If there is no such precision.
        ExportMissingError: If int8 is wanted and ``onnx`` is not installed.

    Example:
        >>> import numpy as np, leukaemia_zoo as lz
        >>> frame = np.zeros((450, 450, 3), "uint8")
        >>> frame[150:300, 150:300] = (90, 40, 110)
        >>> lz.predict("cnn_attention", frame)[0].label in ("hem", "all")
        True
    """
    model = resolve_in(precision, model, calibration)
    items, are_files = image_items(images)
    report = are_files if errors is None else errors == "report"
    if subjects is not None and len(subjects) != len(items):
        raise ImageError(f"There are {len(subjects)} subjects for {len(items)} images; give one each.")
    found = iter_predictions(
        model,
        items,
        subjects=subjects,
        batch_size=batch_size,
        raise_errors=not report,
        miss_rate=miss_rate,
        views=views,
    )
    return Predictions(found, _config(model).class_names)


def resolve_in(precision: str, model: keras.Model | Network | str | os.PathLike[str], calibration: Any = None) -> Any:
    """What judges in a precision: `resolve`, or a network in int8 that was calibrated on cells; see `predict`."""
    if precision not in get_args(Precision):
        raise UnknownNameError(f"There is no precision '{precision}'; {close_matches(precision, get_args(Precision))}")
    if precision == "float32":
        return resolve(model)
    from leukaemia_zoo.exporting.writing import int8_network

    return int8_network(model, calibration)


def iter_predictions(
    model: keras.Model | Network | str | os.PathLike[str],
    items: Iterable[Any],
    *,
    subjects: Iterable[str | None] | None = None,
    batch_size: int = 32,
    raise_errors: bool = False,
    miss_rate: float | None = None,
    names: Iterable[str] | None = None,
    threads: int | None = None,
    views: int | None = None,
) -> Iterator[Prediction]:
    """Predict one cell after the other, with the memory of two batches however many there are.

    Args:
        model: As `predict` takes it.
        items: Paths, frames as arrays, images of Pillow or open binary files.
        subjects: Subject of each, as many as items; None takes it from C-NMC file names.
        batch_size: Images that Keras computes at once.
        raise_errors: Raise at the first bad image instead of reporting it in its prediction.
        miss_rate: As `predict` takes it.
        names: The ``path`` of each prediction, as many as items; None for file names, and ``images[3]`` for others.
        threads: Images that an engine takes at once; None for as many as there are cores.
        views: As `predict` takes it.

    Returns:
        An iterator of one `Prediction` an item, in order.

    Raises:
        DataError: If the weight has no limits of verdicts for the miss rate, or there is no such number of views.
    """
    model = resolve(model)
    config = _config(model)
    if views is not None:
        check_views(views, config.preprocessing.input_size)
        config = dataclasses.replace(config, views=views)
    # Before the first image is asked for, so that a mistake comes before any output.
    limits = _limits(config, miss_rate)
    return _predictions(model, config, limits, items, subjects, names, batch_size, threads, raise_errors)


def _limits(config: ModelConfig, miss_rate: float | None) -> np.ndarray | None:
    if config.verdict_limits is not None:
        return config.verdict_limits.at(miss_rate)
    if miss_rate is None:
        return None
    raise DataError(
        f"'{config.weight or config.architecture}' has no limits of verdicts, so that there is no miss rate to choose: "
        "leave out miss_rate (--miss-rate)."
    )


def _predictions(
    model: Any,
    config: ModelConfig,
    limits: np.ndarray | None,
    items: Iterable[Any],
    subjects: Iterable[str | None] | None,
    names: Iterable[str] | None,
    batch_size: int,
    threads: int | None,
    raise_errors: bool,
) -> Iterator[Prediction]:
    if names is None:
        named = ((item, _name(item, number), _is_file(item)) for number, item in enumerate(items))
    else:
        named = ((item, name, True) for item, name in zip(items, names, strict=True))
    owners: Iterable[str | None] = itertools.repeat(None) if subjects is None else subjects
    # With fewer subjects than items, zip would drop cells without a word.
    rows = (
        (item, name, subject_from_name(Path(name)) if subject is None and has_name else subject)
        for (item, name, has_name), subject in zip(named, map(subject_name, owners), strict=subjects is not None)
    )
    if isinstance(model, Network):
        judged = _judged_by_engine(model, config, rows, threads, raise_errors)
    else:
        judged = _judged_by_keras(model, config, rows, batch_size, raise_errors)
    for name, subject, found in judged:
        if isinstance(found, ImageError):
            yield Prediction(name, subject, None, None, config.class_names, str(found))
            continue
        values, score = found
        label = config.class_names[int(np.argmax(values))]
        unfamiliar = None if score is None or config.ood_limit is None else score > config.ood_limit
        yield Prediction(
            name,
            subject,
            label,
            tuple(values.tolist()),
            config.class_names,
            ood_score=score,
            unfamiliar=unfamiliar,
            verdict=None if limits is None else _verdict(values, limits, config.class_names),
        )


def _verdict(values: np.ndarray, limits: np.ndarray, class_names: tuple[str, ...]) -> str:
    (code,) = verdict_codes(values[None], limits)
    return UNCERTAIN if code == UNCERTAIN_CODE else class_names[code]


_Row = tuple[Any, str, str | None]
_Judged = tuple[str, str | None, tuple[np.ndarray, float | None] | ImageError]


def _judged_by_engine(
    network: Network, config: ModelConfig, rows: Iterator[_Row], threads: int | None, raise_errors: bool
) -> Iterator[_Judged]:
    for (_, name, subject), found in embedding_stream(
        network, rows, views=config.views, threads=threads, raise_errors=raise_errors
    ):
        if isinstance(found, ImageError):
            yield name, subject, found
            continue
        scores = network.scores(found[None])
        yield (
            name,
            subject,
            (network.classifier.probabilities(found[None])[0], None if scores is None else float(scores[0])),
        )


def _judged_by_keras(
    model: keras.Model, config: ModelConfig, rows: Iterator[_Row], batch_size: int, raise_errors: bool
) -> Iterator[_Judged]:
    from leukaemia_zoo.zoo.outputs import with_statistics

    network = model if (scored := with_statistics(model)) is None else scored

    def prepare(row: _Row) -> tuple[str, str | None, np.ndarray | ImageError]:
        item, name, subject = row
        try:
            return name, subject, network_pixels(item, name, config.preprocessing)
        except ImageError as error:
            if raise_errors:
                raise
            return name, subject, error

    # Reading the next batch overlaps with computing this one.
    with ThreadPoolExecutor(max_workers=2) as pool:
        pending = _submit(pool, prepare, rows, batch_size)
        while pending:
            following = _submit(pool, prepare, rows, batch_size)
            batch = [future.result() for future in pending]
            good = [pixels for _, _, pixels in batch if isinstance(pixels, np.ndarray)]
            judged = zip(*_judged(network, config, np.stack(good)), strict=True) if good else iter(())
            for name, subject, pixels in batch:
                yield name, subject, pixels if isinstance(pixels, ImageError) else next(judged)
            pending = following


def _config(model: Any) -> ModelConfig:
    if isinstance(model, Network):
        return model.zoo
    from leukaemia_zoo.zoo.loading import config_of

    return config_of(model)


def _is_file(item: Any) -> bool:
    return isinstance(item, str | os.PathLike)


def _submit(pool: ThreadPoolExecutor, work: Callable[[Any], Any], rows: Iterator[Any], count: int) -> list[Any]:
    return [pool.submit(work, row) for row in itertools.islice(rows, count)]


def _judged(network: keras.Model, config: ModelConfig, batch: np.ndarray) -> tuple[np.ndarray, list[float | None]]:
    """Probabilities (N, classes) and scores of one batch in one pass; no scores by a network without statistics."""
    outputs = [network.predict_on_batch(view) for view in views_of_batch(config, batch)]
    if len(network.outputs) == 1:
        return averaged_views(network, config, outputs), [None] * len(batch)
    probabilities, standardised = zip(*outputs, strict=True)
    scores = distance(np.mean(np.asarray(standardised), axis=0, dtype=np.float64))
    return averaged_views(network, config, probabilities), scores.tolist()


def _name(item: Any, number: int) -> str:
    return os.fspath(item) if _is_file(item) else f"images[{number}]"
