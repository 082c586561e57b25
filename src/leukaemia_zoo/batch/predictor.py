"""Cells as the rows of a table: what a data frame, a Parquet file or a worker of a cluster holds."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from leukaemia_zoo.common.text import shortened, shown
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.prediction.results import Prediction
from leukaemia_zoo.prediction.verdicts import iter_predictions
from leukaemia_zoo.prediction.writing import verdict_columns

_KINDS = {"label": str, "verdict": str, "error": str, "ood_score": float, "unfamiliar": bool}
"""Of the columns of a prediction that are no probability; any cell may lack any of them."""


class BatchPredictor:
    """Verdicts for one batch of cells after the other, by a weight that is loaded once: for Ray Data's ``map_batches``.

    Args:
        model: A weight as `load_model` takes it, or a `Network`. An inference engine runs it: neither Keras nor its
            backend is imported.
        image: The column of the images. It holds encoded files (bytes, or the structs of ``bytes`` and ``path`` that
            Hugging Face's data sets have), paths, or frames (height, width, 3).
        miss_rate: As `predict` takes it.
        threads: Images at once; None for as many as there are cores. A cluster starts a worker a core, so one is the
            default.
        views: As `predict` takes it.

    Raises:
        LeukaemiaZooError: As `load_model`; and DataError if the weight has no limits of verdicts for the miss rate, or
            there is no such number of views.

    Example:
        With Ray, `batch_format="pyarrow"` keeps the types of columns that hold nothing yet::

            cells = ray.data.read_parquet("s3://laboratory/cells")
            cells = cells.map_batches(
                lz.BatchPredictor, fn_constructor_kwargs={"model": "mobilenet"}, batch_format="pyarrow", concurrency=64
            )
            cells.write_parquet("s3://laboratory/verdicts")

        >>> import numpy as np, leukaemia_zoo as lz
        >>> predictor = lz.BatchPredictor("cnn_attention", image="frame")
        >>> rows = predictor({"cell": np.array([7]), "frame": np.full((1, 450, 450, 3), 90, "uint8")})
        >>> [*rows], rows["cell"].tolist()
        (['cell', 'subject', 'label', 'p_hem', 'p_all', 'verdict', 'ood_score', 'unfamiliar', 'error'], [7])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Network = "cnn_attention",
        *,
        image: str = "bytes",
        miss_rate: float | None = None,
        threads: int | None = 1,
        views: int | None = None,
    ) -> None:
        self.network = model if isinstance(model, Network) else Network.load(model)
        self.image = image
        self._settings: dict[str, Any] = {"miss_rate": miss_rate, "threads": threads, "views": views}
        iter_predictions(self.network, [], **self._settings)  # raises what is wrong with miss rate and views

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are added to those of a batch; ``subject`` may be there already and stays."""
        return verdict_columns(self.network.zoo.class_names)

    def __call__(self, batch: Any) -> Any:
        """Judge the cells of a batch.

        Args:
            batch: A table of PyArrow, or a mapping of names to columns of one length, such as arrays. A column ``path``
                names the cells in errors, and C-NMC names tell the subject; a column ``subject`` tells it itself.

        Returns:
            The same kind, with a row for each row, in order: all columns but that of encoded images or frames, then
            ``subject``, ``label``, ``p_<class>`` for each class, ``verdict``, ``ood_score``, ``unfamiliar`` and
            ``error``: of an image that cannot be read why, and of any other None.

        Raises:
            DataError: If the column of the images is missing, or another has the name of one that is added.
        """
        if hasattr(batch, "column_names"):
            return self._table(batch)
        if not isinstance(batch, Mapping):
            raise DataError(
                f"The batch is of type {type(batch).__name__}: give a table of PyArrow, or columns by name."
            )
        kept = {name: column for name, column in batch.items() if name != self.image}
        images = self._column(batch, list(batch))
        if self._are_paths(images):
            kept[self.image] = batch[self.image]
        predictions = list(self._predictions(images, kept.get("path"), kept.get("subject")))
        return kept | {name: _array(name, values) for name, values in _values(predictions, self.columns)}

    def _table(self, table: Any) -> Any:
        images = self._column(table, table.column_names).to_pylist()
        kept = table if self._are_paths(images) else table.drop_columns([self.image])
        known = {name: kept[name].to_pylist() for name in ("path", "subject") if name in kept.column_names}
        return with_verdicts(kept, list(self._predictions(images, **known)), self.network.zoo.class_names)

    def _column(self, batch: Any, names: Sequence[str]) -> Any:
        if self.image not in names:
            raise DataError(
                f"The batch has no column {shown(self.image)} of images, but {shortened(names)}: name it with image=."
            )
        if taken := [name for name in names if name in self.columns and name != "subject"]:
            raise DataError(f"The batch has a column {shown(taken[0])}, where the verdict is to stand: rename it.")
        return batch[self.image]

    @staticmethod
    def _are_paths(images: Any) -> bool:
        return any(isinstance(image, str) for image in images)

    def _predictions(self, images: Any, path: Any = None, subject: Any = None) -> Iterator[Prediction]:
        if path is None:
            path = images if self._are_paths(images) else [f"images[{number}]" for number in range(len(images))]
        names = [f"images[{number}]" if name is None else str(name) for number, name in enumerate(path)]
        return self.judge(images, names, subject)

    def judge(self, images: Iterable[Any], names: Sequence[str], subjects: Any = None) -> Iterator[Prediction]:
        """One prediction an image, as `iter_predictions` gives them; an image may also be its bytes, or None.

        Args:
            images: What the column of images holds.
            names: How to call each.
            subjects: Whose cell each is; None takes it from C-NMC names.
        """
        return iter_predictions(self.network, map(_item, images), names=names, subjects=subjects, **self._settings)


def with_verdicts(table: Any, predictions: Sequence[Prediction], class_names: Sequence[str]) -> Any:
    """A table of PyArrow with the columns of predictions, one a row, at its end."""
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    for name, values in _values(predictions, verdict_columns(class_names)):
        kind = float if name.startswith("p_") else _KINDS.get(name, str)
        if kind is str:
            values = [None if value is None else utf8(value) for value in values]
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values, types[kind]))
    return table


def utf8(name: str) -> str:
    """A file name, of which bytes that are no UTF-8 are written as ``\\udc..``."""
    return name.encode("utf-8", "backslashreplace").decode()


def _values(predictions: Sequence[Prediction], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """The fields of predictions by column."""
    records = [prediction.to_dict() for prediction in predictions]
    for name in names:
        yield name, [record[name] for record in records]


def _item(value: Any) -> Any:
    """What `predict` takes, from a field of a table; nothing is an empty file."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if value is None:
        value = b""
    return io.BytesIO(value) if isinstance(value, bytes) else value


def _array(name: str, values: list[Any]) -> np.ndarray:
    """Numbers as numbers, with NaN for none; all else as objects."""
    if name.startswith("p_") or _KINDS.get(name) is float:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    found = np.empty(len(values), object)
    found[:] = values
    return found
