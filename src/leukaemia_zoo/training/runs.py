"""A run that can be interrupted: its state on disk, its random generators, its optimiser, and the time that is left.

Every epoch begins with the generators at a known place, so that a resumed training goes on as it would have.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.common.run_folder import RUN, RunFolder, is_under_way
from leukaemia_zoo.common.text import Log
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.training.drawing import CellArrays, Views, preprocessing_for
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.zoo.tensors import load_tensors, save_tensors

_PROGRESS, _RESULT = "progress.json", "result.npz"


def refuse_to_replace_run(record: Path, fingerprint: str, restart: bool) -> None:
    """Raise if a run with other settings has ended in the folder of its record: what it made took hours."""
    if restart or not record.is_file() or is_under_way(record.parent / RUN):
        return
    try:
        found = read_json(record)["fingerprint"]
    except (OSError, ValueError, TypeError, KeyError):  # of a release whose records have none
        found = None
    if found != fingerprint:
        raise DataError(
            f"{record.parent} holds a finished run with other settings or data: give another folder, or replace it "
            "with restart (--restart)."
        )


class RunState(RunFolder):
    """What an interrupted run leaves behind: weights, optimizer and place of the last whole epoch."""

    def __init__(self, folder: Path, fingerprint: str, restart: bool = False) -> None:
        super().__init__(folder, fingerprint, restart)
        self.fingerprint = fingerprint
        self.progress: dict[str, Any] = {"epoch": 0, "waited": 0, "best": float("inf"), "chosen": None, "curves": []}
        found = self.load_json(_PROGRESS)
        if found is not None:
            self.progress = {**found, "best": float("inf") if found["best"] is None else found["best"]}
        else:
            self._write_progress()
        self._since = time.monotonic() - self.progress.get("seconds", 0.0)

    def inside(self, name: str, fingerprint: str | None = None) -> RunState:
        """The state of a part of the run, such as a fold."""
        return RunState(self.own_folder(name), str(fingerprint))

    def seconds(self) -> float:
        """Wall time of the run so far, without what an interruption lost; every call keeps it."""
        self.progress["seconds"] = time.monotonic() - self._since
        if not self.has_ended:
            self._write_progress()
        return float(self.progress["seconds"])

    def timed(self, log: Log) -> Log:
        """The same, and with each line the wall time is kept."""

        def tell(line: str) -> None:
            self.seconds()
            log(line)

        return tell

    def _write_progress(self) -> None:
        best = self.progress["best"]
        self.save_json(_PROGRESS, {**self.progress, "best": best if np.isfinite(best) else None})

    def save(self, trainer: keras.Model) -> None:
        """Keep weights and optimizer of a whole epoch."""
        # Each epoch has a file of its own, which the progress names once it is whole: weights of one epoch and the
        # progress of another would go on to a third result.
        before = [self.progress.get("last"), self.progress.get("best_before")]
        self.progress["last"] = f"epoch_{self.progress['epoch']}.weights.h5"
        self.save_weights(self.progress["last"], trainer)
        self.progress["best_before"] = None
        self._write_progress()
        for name in before:
            if name is not None and name != self.progress["last"]:
                self.discard(name)

    def restore(self, trainer: keras.Model) -> None:
        """Go back to the last whole epoch."""
        trainer.optimizer.build(trainer.trainable_variables)
        trainer.load_weights(self.folder / self.progress["last"])

    def save_first(self, model: keras.Model, chosen: dict[str, Any], curves: list[dict[str, Any]]) -> None:
        """Keep the classifier that the layers must beat, where no epoch is kept yet."""
        if self.progress["chosen"] is None:
            self.progress.update(best=chosen["log_loss"], chosen=chosen, curves=curves)
            self.save_best(model)

    def save_best(self, model: keras.Model) -> None:
        """Keep the best network so far; `save` makes it known."""
        self.progress["best_before"] = self.progress.get("best_file")
        self.progress["best_file"] = f"best_{self.progress['epoch']}.safetensors"
        save_tensors(model, self.file(self.progress["best_file"]))

    def restore_best(self, model: keras.Model) -> None:
        """Go back to the best network so far, if there is one."""
        if self.progress["chosen"] is not None:
            load_tensors(model, self.folder / self.progress["best_file"])

    def save_result(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep the result of a fold."""
        self.save_arrays(_RESULT, arrays)

    def load_result(self) -> dict[str, np.ndarray] | None:
        """The result of a fold, or None."""
        return self.load_arrays(_RESULT)


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """What the stages of one training share.

    Attributes:
        recipe: How.
        cells: The table.
        arrays: Its cells as arrays.
        state: Where an interrupted run goes on.
        seed: Of weights, order and views.
        log: Called with each line of progress.
        devices: Number of devices that share the batches; see `on_devices`.
        preprocessing: From a frame to the network's input; None for the recipe's.
    """

    recipe: Recipe
    cells: Cells
    arrays: CellArrays
    state: RunState
    seed: int
    log: Log
    devices: int = 1
    preprocessing: Preprocessing | None = None

    @property
    def views(self) -> Views:
        """Where the views that the network learns from come from."""
        preprocessing = self.preprocessing or preprocessing_for(self.recipe)
        return Views(self.arrays.pixels, self.arrays.frames, self.recipe, preprocessing)

    @property
    def views_as_predicted(self) -> Views:
        """The views that were read beforehand, as sharp as those of a prediction: what is drawn is smoother."""
        return dataclasses.replace(self.views, frames=None)


class DiscriminativeAdamW(keras.optimizers.AdamW):
    """AdamW in which each variable has a share of the common rate."""

    def __init__(self, shares: Sequence[float], *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.shares = tuple(shares)  # in the order of the variables that it is built for

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of a variable."""
        share = self.shares[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * share)


def optimiser(
    rate: float,
    epochs: int,
    steps: int,
    weight_decay: float,
    *,
    first: float,
    last: float,
    clipnorm: float | None = None,
    shares: Sequence[float] | None = None,
) -> keras.optimizers.Optimizer:
    """AdamW whose rate rises in at most 100 steps from a `first`-th of the highest and falls as a cosine to `last`."""
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / first, epochs * steps, warmup_target=rate, warmup_steps=min(100, steps), alpha=last
    )
    settings = {"weight_decay": weight_decay, "clipnorm": clipnorm}
    return (
        keras.optimizers.AdamW(schedule, **settings)
        if shares is None
        else DiscriminativeAdamW(shares, schedule, **settings)
    )


def reseed(model: Any, seed: int, epoch: int) -> None:
    """Set every random generator inside a Keras model (augmentation, dropout) by seed and epoch."""
    for number, layer in enumerate(_flat(model)):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            state = np.random.default_rng([seed, epoch, number]).integers(2**31, size=2)
            generator.state.assign(state.astype(generator.state.dtype))


def _flat(model: Any) -> list[Any]:
    found = []
    for layer in model.layers:
        found += _flat(layer) if hasattr(layer, "layers") else [layer]
    return found


class TimeLeft:
    """An estimate from the epochs that were done in this run, which a resumed one begins anew.

    Example:
        >>> TimeLeft(done=0).told(done=10, total=10)
        ''
    """

    def __init__(self, done: int) -> None:
        self._began = time.perf_counter()
        self._before = done

    def told(self, done: int, total: int) -> str:
        """``", about 12 min left"``, to stand at the end of a line; nothing where nothing is left."""
        if done >= total or done <= self._before:
            return ""
        seconds = (time.perf_counter() - self._began) / (done - self._before) * (total - done)
        if seconds < 90:
            return f", about {max(1, round(seconds))} s left"
        if seconds < 90 * 60:
            return f", about {round(seconds / 60)} min left"
        return f", about {seconds / 3600:.1f} h left"
