"""What an interrupted training leaves behind, so that the same call goes on where its last whole epoch ended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leukaemia_zoo.errors import DataError
from leukaemia_zoo.files import write_json
from leukaemia_zoo.weights_io import load_tensors, save_tensors

if TYPE_CHECKING:
    import keras


class RunState:
    """What an interrupted run leaves behind: weights, optimizer and place of the last whole epoch."""

    def __init__(self, folder: Path, fingerprint: str, restart: bool) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self._file = folder / "progress.json"
        if restart and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.progress: dict[str, Any] = {
            "fingerprint": fingerprint,
            "epoch": 0,
            "waited": 0,
            "best": float("inf"),
            "chosen": None,
            "curves": [],
        }
        if self._file.is_file():
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["fingerprint"] != fingerprint:
                raise DataError(
                    f"{folder.parent} holds an unfinished run with another recipe, seed, data, beginning or number of "
                    "devices: give another folder, or begin anew with restart (--restart)."
                )
            self.progress = {**found, "best": float("inf") if found["best"] is None else found["best"]}
        else:
            self._write()
        self._since = time.monotonic() - self.progress.get("seconds", 0.0)

    def seconds(self) -> float:
        """Wall time of the run so far, without what an interruption lost; every call keeps it."""
        self.progress["seconds"] = time.monotonic() - self._since
        if self.folder.is_dir():  # not after `remove`
            self._write()
        return float(self.progress["seconds"])

    def timed(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """The same, and with each line the wall time is kept."""

        def tell(line: str) -> None:
            self.seconds()
            report(line)

        return tell

    def _write(self) -> None:
        best = self.progress["best"]
        write_json(self._file, {**self.progress, "best": best if np.isfinite(best) else None})

    def save(self, trainer: keras.Model) -> None:
        """Keep weights and optimizer of a whole epoch."""
        beside = self.folder / "next.weights.h5"
        trainer.save_weights(beside)
        beside.replace(self.folder / "last.weights.h5")
        self._write()

    def restore(self, trainer: keras.Model) -> None:
        """Go back to the last whole epoch."""
        trainer.optimizer.build(trainer.trainable_variables)
        trainer.load_weights(self.folder / "last.weights.h5")

    def save_best(self, model: keras.Model) -> None:
        """Keep the best network so far."""
        save_tensors(model, self.folder / "best.safetensors")

    def restore_best(self, model: keras.Model) -> None:
        """Go back to the best network so far, if there is one."""
        if self.progress["chosen"] is not None:
            load_tensors(model, self.folder / "best.safetensors")

    def save_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep the result of a fold."""
        beside = self.folder / "next.npz"
        np.savez(beside, **arrays)  # type: ignore[arg-type]
        beside.replace(self.folder / "result.npz")

    def load_arrays(self) -> dict[str, np.ndarray] | None:
        """The result of a fold, or None."""
        file = self.folder / "result.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def remove(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.folder)
