"""The weight that a fine-tuning begins with, and what is known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from leukaemia_zoo.cells.copies import file_fingerprint
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import ArchitectureError
from leukaemia_zoo.training.leaks import TrainedOn, find_overlap, training_of
from leukaemia_zoo.zoo.loading import config_of, load_model, model_name, weights_digest
from leukaemia_zoo.zoo.registry import ModelConfig, WeightSpec, weights
from leukaemia_zoo.zoo.sources import find
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """The weight that a fine-tuning begins with."""

    model: keras.Model
    config: ModelConfig
    label: str
    digest: str
    spec: WeightSpec | None
    folder: Path | None

    @classmethod
    def of(cls, model: Any) -> Base:
        """From a loaded network, a name, a folder or an address on the Hub."""
        if isinstance(model, keras.Model):
            config = config_of(model)
            if not any(layer.name == LOGITS_LAYER for layer in model.layers):
                raise ArchitectureError(
                    f"The model '{model.name}' has no layer '{LOGITS_LAYER}': give the one with "
                    'output="probabilities".'
                )
            spec = weights().get(config.weight or "")
            return cls(model, config, config.weight or model.name, weights_digest(model), spec, None)
        name = model_name(model)
        found, model = find(name), load_model(name)
        of_path = found.place == "path"
        label = Path(name).resolve().name if of_path else found.spec.name
        return cls(model, model.zoo, label, weights_digest(model), found.spec, found.file.parent if of_path else None)

    def to_dict(self) -> dict[str, Any]:
        """What the record of a run says of it."""
        sha256 = self.spec.sha256 if self.spec is not None else None
        found: dict[str, Any] = {"source": self.label, "sha256": sha256 or self.digest}
        if (trained := self.trained()) is not None:
            found["manifest_sha256"] = trained.manifest_sha256
        if self.spec is not None and isinstance(before := self.spec.training.get("init"), Mapping):
            found["init"] = dict(before)
        return found

    def trained(self) -> TrainedOn | None:
        """What it was trained on; None where nobody knows."""
        return training_of(self.spec, self.folder)

    def has_seen(self, cells: Cells) -> str | None:
        """One sentence on the cells or people among these that taught it, if there are any."""
        known = self.trained()
        if known is None:
            return None
        overlap = find_overlap(cells, [file_fingerprint(path) for path in cells.paths], known, self.label)
        return overlap.told if len(overlap.rows) else None
