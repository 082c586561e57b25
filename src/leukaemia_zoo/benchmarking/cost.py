"""What models cost: operations, size, loading, latency, throughput and memory.

Clocks of shared machines run unevenly. Models therefore take turns, in an order that changes from round to round, so
that a slow minute falls on all of them; every timing is repeated and told with its spread.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.benchmarking.memory import Peak, noise, peak_memory
from leukaemia_zoo.benchmarking.operations import flops
from leukaemia_zoo.common.reading import whole
from leukaemia_zoo.common.text import close_matches
from leukaemia_zoo.errors import ArchitectureError, DataError, LeukaemiaZooError, UnknownNameError
from leukaemia_zoo.zoo.loading import config_of, load_model
from leukaemia_zoo.zoo.outputs import class_probabilities
from leukaemia_zoo.zoo.sources import find

_FEWEST_REPEATS = 3
"""Below that a spread means nothing, so that these are made even if the time is up."""

_LEAST_SECONDS = 0.05
"""A timing is the mean of as many calls as fill this: one call of a few milliseconds mostly times the scheduler."""

_MEMORY_BATCH = 32
"""Images in the batch whose memory is measured: what `predict` computes at once unless it is told otherwise."""


@dataclass(frozen=True)
class Spread:
    """A measurement that was repeated.

    Attributes:
        median: Median of the repeats.
        low: Their 10th percentile.
        high: Their 90th percentile.
        repeats: How many there were.

    Example:
        >>> print(Spread.of([3.0, 1.0, 2.0]))
        2 (1.2 to 2.8)
    """

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value or more; percentiles lie between the values on straight lines."""
        low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
        return cls(median, low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Cost:
    """What one model costs on one machine; None where that is not known.

    Latency and throughput are of whole predictions, over all views, from preprocessed pixels to probabilities: what
    `predict` does once the images are read, cropped and resized.

    Attributes:
        parameters: Number of weights; None for a callable.
        flops: Operations of one image in one view; see `flops`. None for a callable or a network with other layers.
        file_bytes: Size of the file with the weights; None for what is in memory already.
        load_s: Seconds to find, check and load the model, in a process that has loaded it before; None for what is in
            memory already.
        latency_ms: Milliseconds of a prediction of one image alone.
        throughput: Images a second at the best batch.
        best_batch: The number of images at once whose median throughput was highest.
        peak_memory_mb: The most main memory (10**6 bytes) that a fresh process took which loaded the model and judged
            one batch of 32 images; None for what is in memory already, or where the system does not tell. The memory
            of a GPU is not in it.
        of_which_backend_mb: What a process takes that only imports this package and the backend. The model and its
            computation take the difference.
        views: Views that a prediction averages over: it costs so many passes. 1 for a callable, which is called once.
    """

    parameters: int | None
    flops: int | None
    file_bytes: int | None
    load_s: Spread | None
    latency_ms: Spread
    throughput: Spread
    best_batch: int
    peak_memory_mb: float | None
    of_which_backend_mb: float | None
    views: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def measure_costs(
    models: Mapping[str, Any],
    *,
    input_sizes: Mapping[str, int | tuple[int, int]] | None = None,
    frames: np.ndarray | None = None,
    repeats: int = 7,
    batches: Iterable[int] = (1, 8, 32, 128),
    seconds: float = 60,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[str, LeukaemiaZooError], None] | None = None,
) -> dict[str, Cost]:
    """Measure what models cost, side by side.

    After a warm-up the models take turns: in each repeat all load, then all predict one image, then all the next larger
    batch, and each repeat begins with another model. A timing is the mean of as many calls as fill a twentieth of a
    second, and includes that the probabilities arrive as a NumPy array. The images are noise, or the frames that are
    given, the same in each call. A batch that a function fails on is left out, if it manages a smaller one.

    Turns share out a slow minute; they do not undo it. Measure on a machine that does nothing else: on two busy
    cores PyTorch's two threads waited for each other until a pass took 240 ms, where one thread took 11.

    Args:
        models: What to measure, by the name under which it is reported: a network from `load_model`; what `load_model`
            takes (an architecture, a weight, a folder, a repository on the Hub), of which loading and memory are
            measured too; or a function from uint8 images (N, height, width, 3) to probabilities (N, classes), or (N,)
            for the last of two classes.
        input_sizes: Height and width of the images, or one number for both, by name. Functions need one; networks have
            their own.
        frames: Real images for the functions that have no input size, uint8 (N, height, width, 3), repeated to fill a
            batch: a function may expect cells and refuse noise.
        repeats: Timings of each model and batch.
        batches: Numbers of images at once to try for the best throughput.
        seconds: For all together. When they are over no further repeat begins once there are three, so that slow models
            can take longer. Batches that would take a model beyond its share are left out, except the smallest.
        progress: Called after each step with the number of steps done and in all.
        failed: Called with the name and the error of a model that cannot be measured, which is then left out; None
            raises the error.

    Returns:
        A `Cost` for each name, in the order of ``models``.

    Raises:
        DataError: If a number is out of its range, or a function has no input size.
        ArchitectureError: If a model fails or gives no probabilities; the message says which.
        UnknownNameError: If there is no such model in the zoo, or an input size is for none of the models.
        WeightsError: If a weight cannot be had.

    Example:
        >>> import numpy as np
        >>> costs = measure_costs({"coin": lambda images: np.full((len(images), 2), 0.5)}, input_sizes={"coin": 100})
        >>> costs["coin"].latency_ms.repeats, costs["coin"].parameters
        (7, None)
    """
    began = time.perf_counter()
    sizes = _checked_sizes(models, input_sizes, frames)
    tried = _checked_batches(batches)
    repeats = whole(repeats, "repeats")
    by_name = {name: os.fspath(model) for name, model in models.items() if isinstance(model, str | os.PathLike)}
    steps = _Steps(len(by_name) + len(models) + repeats, progress)
    lost: set[str] = set()

    @contextlib.contextmanager
    def measuring(name: str) -> Iterator[None]:
        try:
            yield
        except LeukaemiaZooError as error:
            if failed is None:
                raise
            if name not in lost:
                lost.add(name)
                failed(name, error)

    files: dict[str, int] = {}
    for name, path in by_name.items():
        with measuring(name):
            files[name] = find(path).file.stat().st_size
    memory: dict[str, Peak] = {}
    for name, path in by_name.items():
        if name not in lost:
            memory[name] = peak_memory(name, path, min(_MEMORY_BATCH, tried[-1]))
        steps.done()

    runners = []
    for name, model in models.items():
        if name not in lost:
            with measuring(name):
                runners.append(_Runner.of(name, model, sizes.get(name), tried[-1], frames))
    share = (seconds - (time.perf_counter() - began)) / max(1, len(runners))
    for runner in runners:
        with measuring(runner.name):
            runner.warm_up(tried, share)
        steps.done()

    slowest = 0.0
    for number in range(repeats):
        runners = [runner for runner in runners if runner.name not in lost]
        start = time.perf_counter()
        if not runners or (number >= _FEWEST_REPEATS and start - began + slowest > seconds):
            break
        turn = number % len(runners)
        _one_repeat(runners[turn:] + runners[:turn], tried, measuring)
        slowest = max(slowest, time.perf_counter() - start)
        steps.done()
    steps.finish()

    costs = {}
    for runner in (runner for runner in runners if runner.name not in lost):
        throughput = {batch: Spread.of([batch / took for took in runner.timings[batch]]) for batch in runner.calls}
        best = max((batch for batch in throughput if batch in tried), key=lambda batch: throughput[batch].median)
        peak, of_backend = memory.get(runner.name, (None, None))
        costs[runner.name] = Cost(
            parameters=runner.parameters,
            flops=runner.flops,
            file_bytes=files.get(runner.name),
            load_s=Spread.of(runner.loads) if runner.path is not None else None,
            latency_ms=Spread.of([1000 * took for took in runner.timings[1]]),
            throughput=throughput[best],
            best_batch=best,
            peak_memory_mb=peak,
            of_which_backend_mb=of_backend,
            views=runner.views,
        )
    return costs


class _Steps:
    """Tells how many of the steps are done."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total, self._progress, self._count = total, progress or (lambda done, total: None), 0

    def done(self) -> None:
        """Count one step."""
        self._count += 1
        self._progress(self._count, self._total)

    def finish(self) -> None:
        """Tell that it is over, also where it stopped early."""
        if self._count < self._total:
            self._progress(self._total, self._total)


@dataclass
class _Runner:
    """A model, its images, for each batch how many calls make a timing and the seconds a call, and seconds to load."""

    name: str
    predict: Callable[[np.ndarray], Any]
    images: np.ndarray
    parameters: int | None = None
    flops: int | None = None
    views: int = 1
    path: str | None = None
    calls: dict[int, int] = field(default_factory=dict)
    timings: dict[int, list[float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls, name: str, model: Any, size: tuple[int, int] | None, largest: int, frames: np.ndarray | None
    ) -> _Runner:
        """Make a model ready, loading it where it is a name."""
        path = os.fspath(model) if isinstance(model, str | os.PathLike) else None
        if path is not None:
            model = load_model(path)
        if not isinstance(model, keras.Model):
            given = frames if size is None else noise(largest, size)
            assert given is not None  # checked before anything was measured
            images = np.resize(given, (largest, *given.shape[1:]))  # which repeats them
            return cls(name, lambda images: keras.ops.convert_to_numpy(model(images)), images)
        config = config_of(model)
        own = config.preprocessing.input_size
        if size not in (None, own):
            raise DataError(f"The input size of '{name}' is {own[0]}x{own[1]} and cannot be chosen: leave it out.")
        try:
            count = flops(model)
        except ArchitectureError:
            count = None
        return cls(
            name,
            lambda images: class_probabilities(model, config, images),
            noise(largest, own),
            parameters=int(model.count_params()),
            flops=count,
            views=config.views,
            path=path,
        )

    def warm_up(self, batches: Sequence[int], share: float) -> None:
        """Compile what is to be compiled, and find out which batches the share of the time has room for, in seconds."""
        spent, each = 0.0, 0.0
        for batch in sorted({1, *batches}):
            # Two calls here and the fewest repeats later, each taking at least as long as a timing does.
            expected = (2 + _FEWEST_REPEATS) * max(_LEAST_SECONDS, each * batch)
            if any(smaller in batches for smaller in self.calls) and spent + expected > share:
                break
            spent += expected
            try:
                self._once(batch)  # the first call of a shape compiles
                took = self._once(batch)
            except ArchitectureError:
                if any(smaller in batches for smaller in self.calls):
                    break  # it takes no more images at once
                raise
            each = took / batch
            self.calls[batch] = max(1, math.ceil(_LEAST_SECONDS / max(took, 1e-6)))
            self.timings[batch] = []

    def time(self, batch: int) -> None:
        """Take one timing."""
        calls = self.calls[batch]
        self.timings[batch].append(sum(self._once(batch) for _ in range(calls)) / calls)

    def time_loading(self) -> None:
        """Take one timing of finding, checking and loading the model."""
        if self.path is None:
            return
        start = time.perf_counter()
        load_model(self.path)
        self.loads.append(time.perf_counter() - start)

    def _once(self, batch: int) -> float:
        images = self.images[:batch]
        start = time.perf_counter()
        try:
            found = self.predict(images)
        except Exception as error:
            reason = str(error).strip() or "no reason given"
            raise ArchitectureError(
                f"The model '{self.name}' failed on {batch} images of the shape {images.shape[1:]} "
                f"({type(error).__name__}: {reason}); give a model that takes them, or smaller batches."
            ) from error
        took = time.perf_counter() - start
        if found.ndim not in (1, 2) or len(found) != batch or not np.isfinite(found.astype(np.float64)).all():
            raise ArchitectureError(
                f"The model '{self.name}' gave values of the shape {found.shape} for {batch} images, or not all "
                f"finite: give a function that returns probabilities ({batch}, classes) or ({batch},)."
            )
        return took


def _one_repeat(order: Sequence[_Runner], batches: Sequence[int], measuring: Callable[[str], Any]) -> None:
    """Everything once, by turns: first what is alike, then the next."""
    for runner in order:
        with measuring(runner.name):
            runner.time_loading()
    gc.collect()  # of the loaded models, lest it happens in somebody's turn
    for batch in sorted({1, *batches}):
        for runner in order:
            if batch in runner.calls:
                with measuring(runner.name):
                    runner.time(batch)


def _checked_sizes(
    models: Mapping[str, Any], input_sizes: Mapping[str, int | tuple[int, int]] | None, frames: np.ndarray | None
) -> dict[str, tuple[int, int]]:
    found = {}
    for name, size in (input_sizes or {}).items():
        if name not in models:
            raise UnknownNameError(f"There is an input size for '{name}', but no model; {close_matches(name, models)}")
        sides: tuple[Any, ...] = tuple(size) if isinstance(size, Sequence) else (size, size)
        if len(sides) != 2:
            raise DataError(f"The input size of '{name}' is {size!r}: give height and width, such as (100, 100).")
        found[name] = whole(sides[0], f"the height for '{name}'"), whole(sides[1], f"the width for '{name}'")
    if frames is not None and (np.ndim(frames) != 4 or not np.size(frames)):
        raise DataError(f"frames has the shape {np.shape(frames)}: give images (N, height, width, 3).")
    for name, model in models.items():
        if isinstance(model, str | os.PathLike | keras.Model):
            continue
        if not callable(model):
            raise DataError(f"'{name}' is {model!r}: give a model, what load_model takes, or a function.")
        if name not in found and frames is None:
            raise DataError(f"'{name}' is a function: say which images it takes, input_sizes={{{name!r}: 100}}.")
    return found


def _checked_batches(batches: Iterable[int]) -> list[int]:
    found = sorted({whole(batch, "a batch") for batch in batches})
    if not found:
        raise DataError("There is no batch to measure: give one or more, such as batches=(1, 32).")
    return found
