"""Fine-tuning on somebody else's cells: from a few hundred labelled images to a model to keep and share.

First the trunk stays as it is and a linear classifier is fitted on its embeddings, in folds that choose the penalty in
turn. Then the last layers learn as well, at a small rate; that stays only if it is better on cells that neither has
learnt from. A test part, on which nothing is chosen, judges what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from leukaemia_zoo._version import __version__
from leukaemia_zoo.adaptation.inspection import Inspected, inspect_cells, usual_preprocessing
from leukaemia_zoo.adaptation.splits import TEST, check_given, split_for_fine_tuning
from leukaemia_zoo.adaptation.stages import Base, Outcome, fit_stages
from leukaemia_zoo.benchmarking.contestants import as_candidates
from leukaemia_zoo.benchmarking.judged_cells import MANIFEST_FILE
from leukaemia_zoo.benchmarking.runner import benchmark
from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells, file_fingerprint
from leukaemia_zoo.common.files import plain, replacing, write_json
from leukaemia_zoo.common.hardware import resolved
from leukaemia_zoo.common.run_folder import RECORDS, RUN, is_under_way, make_folder, refuse_to_replace
from leukaemia_zoo.errors import ArchitectureError, DataError
from leukaemia_zoo.report.curves import PICTURE, TABLE, write_curves
from leukaemia_zoo.report.report import FILES, Report
from leukaemia_zoo.training.classifier import calibrated, with_config
from leukaemia_zoo.training.drawing import folds_of
from leukaemia_zoo.training.leaks import find_overlap
from leukaemia_zoo.training.recipes import Recipe, changed
from leukaemia_zoo.training.records import class_counts, environment_record, manifest_of
from leukaemia_zoo.training.runs import RunState, checked_seed
from leukaemia_zoo.zoo.cards import CARD_FILE, checked_about, refuse_to_replace_card
from leukaemia_zoo.zoo.loading import config_of, load_model, model_name, weights_digest
from leukaemia_zoo.zoo.publishing import checked_repo, push_to_hub, save_pretrained
from leukaemia_zoo.zoo.registry import BLOOD_TRUNK, ModelConfig, weights
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, find, local_files
from leukaemia_zoo.zoo.tensors import LOGITS_LAYER

RECORD_FILE = "training.json"
_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, "split.json", RECORD_FILE, TABLE, PICTURE, MANIFEST_FILE, *FILES)
"""What a fine-tuning leaves."""


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuned:
    """What `fine_tune` leaves.

    Attributes:
        model: The network, calibrated, with the classes of the data; `predict` and `save_model` take it.
        history: One dict for each penalty of the classifier and each epoch of the fine-tuning that was tried: its stage
            and its figures on validation cells.
        report: What `benchmark` says of the model on the test part.
        folder: Where all of it is saved, or None.
        record: What ``training.json`` holds: the choices, the data, the versions.
    """

    model: keras.Model
    history: list[dict[str, Any]]
    report: Report
    folder: Path | None
    record: dict[str, Any]


def fine_tune(
    model: keras.Model | str | os.PathLike[str] = BLOOD_TRUNK,
    data: str | os.PathLike[str] | Cells | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    per_class: int | None = None,
    split: str | os.PathLike[str] | Split | None = None,
    split_by: str = "auto",
    test_share: float = 0.2,
    skip_unreadable: bool = False,
    positive: str | None = None,
    preprocessing: Preprocessing | None = None,
    crop_fraction: float | None = None,
    recipe: str | Path | Mapping[str, Any] | None = None,
    unfreeze: int | Literal["all"] = 2,
    keep_statistics: bool = True,
    time_budget: float | None = None,
    cost: bool = False,
    resamples: int = 2000,
    about: Mapping[str, Any] | None = None,
    push_to: str | None = None,
    private: bool | None = None,
    seed: int = 0,
    restart: bool = False,
    report: Callable[[str], None] = print,
) -> FineTuned:
    """Fine-tune a network on labelled cells of your own, and judge it on cells that it has not learnt from.

    The last layer is replaced by one for your classes. Stage 1 leaves the trunk as it is and fits a logistic regression
    on its embeddings. Stage 2 lets the last layers learn at a small rate, from views turned all around the circle,
    mirrored and a little restained; it stays only where it beats stage 1 on validation cells by more than the standard
    error of the difference. Then the temperature is
    scaled and the test part judged.

    The folder then holds ``config.json``, ``model.safetensors`` and ``README.md`` (the model card), ``split.json`` (the
    manifest), ``training.json`` (the record), ``curves.csv`` and ``curves.svg``, and ``report.json``, ``.csv``,
    ``.md`` and ``.html``. An interrupted run goes on where its last whole epoch ended.

    Args:
        model: What it begins with: a network from `load_model`, a name of the zoo, a folder of a saved model, or
            ``hf://org/name@revision``. The default has learnt the classes of normal blood cells.
        data: A folder with one folder a class, a CSV with the columns path, label and, if known, subject, or a table.
        out: Folder to write; None keeps nothing on disk.
        per_class: The most cells of each class to learn from; None for all. The test part does not depend on it.
        split: Manifest or `Split` with the parts ``train``, ``validation`` and ``test``, or folds and ``test``; None
            makes one by `split_for_fine_tuning`.
        split_by: See `inspect_cells`: by subject where subjects are known, else by image, with a warning.
        test_share: Share of the cells in the test part.
        skip_unreadable: Leave out images that cannot be read instead of refusing.
        positive: The class of two that sensitivity and AUROC speak of, the last of ``class_names``; None takes the one
            whose name says it (leukaemia, blast, malignant...), else the last in the alphabet.
        preprocessing: From a frame to the input; None takes the weight's own for frames like C-NMC's, and for others
            the centre crop that suits the classifier best on the validation folds.
        crop_fraction: Side of the centre crop as a share of the frame's shorter side, instead of trying several.
        recipe: Settings that replace those of `fine_tuning_recipe`, as a dict or a JSON file.
        unfreeze: How many of the last layers with kernels learn in stage 2, or ``"all"``.
        keep_statistics: Leave the statistics and scales of every BatchNorm as they are.
        time_budget: Seconds after which no further epoch is begun, counted from the call; the classifier and the report
            are made whatever it is. None for no limit. After an interruption it counts anew.
        cost: Whether the report measures times and memory, which takes longer.
        resamples: Of the bootstrap for the intervals of the report.
        about: What to tell about the model, as in `save_pretrained`: name, licence, citation, intended_use, data.
        push_to: ``org/name`` on the Hugging Face Hub to put the model into; see `push_to_hub`.
        private: Whether a new repository there is private.
        seed: Of split, order and views.
        restart: Begin anew where the folder holds another run.
        report: Called with each line of progress.

    Returns:
        `FineTuned`: model, history, report.

    Raises:
        DataError: If the data cannot be learnt from, or the folder holds something else; the message says what.
        LeakError: If a given split shares a subject or an identical image between its parts.
        WeightsError: If the weight to begin with cannot be had.
        HubError: If the Hub cannot be reached or refuses.

    Example:
        >>> import leukaemia_zoo as lz
        >>> tuned = lz.fine_tune("cnn_attention", "my_cells", "runs/mine")  # doctest: +SKIP
        >>> lz.predict(tuned.model, "new_cells")[0].label  # doctest: +SKIP
        'eosinophil'
    """
    begun = time.perf_counter()
    if push_to is not None:
        checked_repo(push_to)
    checked_about(about or {})
    seed = checked_seed(seed)
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise DataError(f"resamples is {resamples!r}: give a number from 1 on.")
    if unfreeze != "all" and (isinstance(unfreeze, bool) or not isinstance(unfreeze, int) or unfreeze < 1):
        raise DataError(f"unfreeze is {unfreeze!r}: give a number of layers from 1 on, or 'all'.")
    if time_budget is not None and not time_budget > 0:
        raise DataError(f"time_budget is {time_budget!r}: give seconds above 0, or None for no limit.")
    if out is not None:
        _refuse_to_replace(Path(out), model, data, recipe, restart)
    base = _base(model)
    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(text)
        report(f"warning: {text}")
        warnings.warn(text, stacklevel=3)

    settings = fine_tuning_recipe(base.config, recipe)
    inspected = inspect_cells(data, split_by=split_by, skip_unreadable=skip_unreadable, positive=positive, warn=warn)
    cells = inspected.cells
    report(cells.describe())
    if len(cells.class_names) == 2:
        report(f"positive class: {cells.class_names[-1]} (positive, or --positive, names another)")
    split = _split(inspected, split, test_share, settings, per_class, seed)
    seen = _seen_by(base, cells.subset(split.parts[TEST]))
    if seen is not None:
        warn(f"{seen}: the figures below are too favourable")
    cells = dataclasses.replace(cells, notes=tuple(dict.fromkeys([*cells.notes, *notes])))
    given, why = _given_preprocessing(inspected, base, preprocessing, crop_fraction)

    with _folder(out) as folder:
        manifest_bytes, manifest = manifest_of(cells, split)
        choices = {
            "unfreeze": unfreeze,
            "keep_statistics": keep_statistics,
            "per_class": per_class,
            "split_by": inspected.by,
            "time_budget": time_budget,
            "preprocessing": None if given is None else given.to_dict(),
        }
        digest = _fingerprint(base, settings, choices, manifest, seed)
        if finished := _finished_run(folder, digest, restart):
            report(f"{folder} holds this run already")
            if cost and not any(row.get("cost") for row in finished.report.data["models"].values()):
                report("its report has no cost: measure it anew with restart (--restart)")
            if push_to is not None:
                _push(folder, push_to, private, report)
            return finished
        state = RunState(folder / RUN, digest, restart)
        with replacing(folder / "split.json") as beside:
            beside.write_bytes(manifest_bytes)

        report(
            f"head: the last layer of '{base.label}' ({len(base.config.class_names)} classes) is replaced by one for "
            f"{len(cells.class_names)}: {', '.join(cells.class_names)}"
        )
        rows = np.sort(np.concatenate([split.parts[name] for name in split.parts if name != TEST]))
        learning = cells.subset(rows)
        folds = [tuple(np.searchsorted(rows, part) for part in fold) for fold in folds_of(split)]
        until = None if time_budget is None else begun + time_budget
        with threadpool_limits(1, "blas"):  # problems so small are solved sooner without threads
            fitted = fit_stages(
                base, settings, learning, folds, given, why, unfreeze, keep_statistics, until, state, seed, report
            )
        seconds = time.perf_counter() - begun
        model = with_config(fitted.fitted.model, settings, learning, fitted.preprocessing)
        model = calibrated(model, fitted.temperature, fitted.fitted.ood_limit)
        told = _told(base, cells, split, manifest, settings, choices, fitted, inspected, seed)
        told |= {"name": f"{settings.architecture}.finetuned", **(about or {})}
        save_pretrained(model, folder, **told)
        name = f"fine-tuned {base.label}"
        tested = cells.subset(split.parts[TEST])
        # What the weight to begin with has seen of the test part is told above, and in the report.
        judged = dataclasses.replace(as_candidates({name: str(folder.absolute())})[0], leak_told=seen is not None)
        kept = folder if out is not None or push_to is not None else None  # pictures that nobody keeps are not drawn
        found = benchmark({name: judged}, tested, out=kept, cost=cost, resamples=resamples, seed=seed, report=report)
        found_on = f"{len(tested):,} test cells that nothing was chosen on, split by {inspected.by}"
        figures = {"test": {"on": found_on, "values": found.data["models"][name]["metrics"]}}
        save_pretrained(model, folder, **told, metrics=figures)
        record = plain(
            {
                "fingerprint": digest,
                "package": __version__,
                "recipe": settings.to_dict(),
                "seed": seed,
                "choices": choices,
                "init": base.record(),
                "cells": cells.summary(),
                "notes": list(cells.notes),
                "manifest_sha256": manifest,
                "preprocessing": fitted.preprocessing.to_dict(),
                "crops": fitted.crops,
                "curves": fitted.history,
                "chosen": fitted.fitted.chosen,
                "temperature": fitted.temperature,
                "ood_limit": fitted.fitted.ood_limit,
                "metrics": figures,
                "training_s": seconds,
                **environment_record(),
            }
        )
        if kept is not None:
            write_curves(kept, record, report)
        write_json(folder / RECORD_FILE, record)
        state.remove()
        for metric in ("accuracy", "macro_f1", "weighted_f1", "auroc", "balanced_accuracy"):
            if (value := figures["test"]["values"].get(metric)) is not None:
                report(f"test {metric}: {_interval(value)}")
        report(f"{seconds:.0f} s of training" + (f"; saved in {folder}" if out is not None else ""))
        if push_to is not None:
            _push(folder, push_to, private, report)
        return FineTuned(model, fitted.history, found, None if out is None else folder, record)


def fine_tuning_recipe(config: ModelConfig, changes: str | Path | Mapping[str, Any] | None = None) -> Recipe:
    """The settings of `fine_tune` for a network, with some replaced.

    Args:
        config: Of the network to begin with: its architecture, head, input size, dropout and views stay.
        changes: Settings that replace the others, as a dict or a JSON file.

    Returns:
        A `Recipe`: classes count alike, five folds choose among three penalties; then at most 20 epochs at a rate of up
        to 0.00002, ended after 5 without improvement.

    Raises:
        UnknownNameError: If there is no such setting.
        DataError: If a value is not of its kind, or the network takes no square input.

    Example:
        >>> import leukaemia_zoo as lz
        >>> fine_tuning_recipe(lz.load_model("cnn").zoo, {"fine_tune_epochs": 0}).balance_classes
        True
    """
    height, width = config.preprocessing.input_size
    if height != width:
        raise DataError(
            f"The network takes {height}x{width} pixels, but cells are turned all around: take one with a square input."
        )
    recipe = Recipe(
        architecture=config.architecture,
        input_size=height,
        head=config.head,
        dropout=config.dropout,
        distillation=None,
        prediction_views=config.views if config.views > 1 else 4,
        inverse_penalties=(0.1, 0.3, 1.0),
        balance_classes=True,
        # Measured on PBC, 50 cells a class: at 1e-4 and above the first epochs undo what the classifier has found.
        fine_tune_epochs=20,
        fine_tune_learning_rate=2e-5,
        patience=5,
        batch_size=32,
        label_smoothing=0.0,
        colour=0.1,
    )
    recipe = changed(recipe, changes)
    kept = {"architecture": config.architecture, "input_size": height, "head": config.head, "distillation": None}
    if wrong := [name for name, value in kept.items() if getattr(recipe, name) != value]:
        raise DataError(f"The setting '{wrong[0]}' belongs to the weight and cannot be changed in fine-tuning.")
    return dataclasses.replace(recipe, precision=resolved(recipe.precision))


# ---------------------------------------------------------------------------------------------------------------------
# What it begins with


def _base(model: Any) -> Base:
    if isinstance(model, keras.Model):
        config = config_of(model)
        if not any(layer.name == LOGITS_LAYER for layer in model.layers):
            raise ArchitectureError(
                f"The model '{model.name}' has no layer '{LOGITS_LAYER}': give the one with output=\"probabilities\"."
            )
        label = config.weight or model.name
        spec = weights().get(config.weight or "")
        return Base(model, config, label, weights_digest(model), spec, None)
    name = model_name(model)
    found = find(name)
    model = load_model(name)
    label = found.spec.name if found.place != "path" else Path(name).resolve().name
    folder = found.file.parent if found.place == "path" else None
    return Base(model, model.zoo, label, weights_digest(model), found.spec, folder)


def _seen_by(base: Base, cells: Cells) -> str | None:
    """What is known of test cells or people that taught the weight to begin with."""
    known = base.trained()
    if known is None:
        return None
    prints = [file_fingerprint(path) for path in cells.paths]
    overlap = find_overlap(cells, prints, known, base.label)
    return overlap.told if len(overlap.rows) else None


def _split(
    inspected: Inspected, split: Any, test_share: float, recipe: Recipe, per_class: int | None, seed: int
) -> Split:
    if split is None:
        return split_for_fine_tuning(
            inspected, test_share=test_share, folds=recipe.validation_folds, per_class=per_class, seed=seed
        )
    if per_class is not None:
        raise DataError("A given split says which cells are learnt from: leave out either split or per_class.")
    if not isinstance(split, Split):
        split = load_manifest(split, inspected.cells)
    check_given(inspected.cells, split)
    return split


def _given_preprocessing(
    inspected: Inspected, base: Base, given: Preprocessing | None, crop_fraction: float | None
) -> tuple[Preprocessing | None, str]:
    own = base.config.preprocessing
    if given is not None and crop_fraction is not None:
        raise DataError("The preprocessing says how to crop: leave out either preprocessing or crop_fraction.")
    if given is not None:
        if given.input_size != own.input_size:
            raise DataError(
                f"The preprocessing gives {given.input_size[0]}x{given.input_size[1]} pixels, but the network takes "
                f"{own.input_size[0]}x{own.input_size[1]}: give it that input_size."
            )
        return given, "given"
    if crop_fraction is not None:
        return dataclasses.replace(own, crop_fraction=crop_fraction, reference_frame=None), "given"
    return usual_preprocessing(inspected, own, base.config.weight == BLOOD_TRUNK)


# ---------------------------------------------------------------------------------------------------------------------
# Folders and interruptions


@contextlib.contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    if out is not None:
        make_folder(Path(out))
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="leukaemia-zoo-") as place:
        yield Path(place)


def _refuse_to_replace(folder: Path, model: Any, data: Any, recipe: Any, restart: bool) -> None:
    """Raise if the folder holds what is to be read, or somebody's own files: before the training, not after it."""
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
    inputs = [("the data", data), ("the recipe", recipe), *(("the model", file) for file in local_files(str(name)))]
    refuse_to_replace_card(folder)
    refuse_to_replace(folder, _FILES, RECORDS, inputs, restart)


def _fingerprint(base: Base, recipe: Recipe, choices: Mapping[str, Any], manifest: str, seed: int) -> str:
    """Hash of all that must be the same for an interrupted run to go on."""
    content = [base.digest, base.config.to_dict(), recipe.to_dict(), choices, manifest, seed]
    content += [keras.backend.backend(), __version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished_run(folder: Path, digest: str, restart: bool) -> FineTuned | None:
    """The same run, if the folder holds it.

    Raises:
        DataError: If it holds something else.
    """
    file = folder / RECORD_FILE
    if restart or is_under_way(folder / RUN) or not (file.is_file() or (folder / CONFIG_FILE).is_file()):
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    if not isinstance(record, dict) or record.get("fingerprint") != digest:
        raise DataError(
            f"{folder} holds a model with other settings or data: give another folder, or replace it with restart "
            "(--restart)."
        )
    if not (folder / FILES[0]).is_file():
        return None
    return FineTuned(load_model(str(folder.absolute())), record["curves"], Report.load(folder), folder, record)


def _push(folder: Path, repo: str, private: bool | None, report: Callable[[str], None]) -> None:
    published = push_to_hub(folder, repo, private=private)
    report(f"published: {published.url}")


def _told(
    base: Base,
    cells: Cells,
    split: Split,
    manifest: str,
    recipe: Recipe,
    choices: Mapping[str, Any],
    result: Outcome,
    inspected: Inspected,
    seed: int,
) -> dict[str, Any]:
    """What is told about the model beside its weights."""
    data = [{"name": cells.source, "source": "given", "licence": "not stated"}]
    data += [dict(row) for row in (base.spec.data if base.spec is not None else ())]
    single = "train" in split.parts
    taught = np.concatenate([split.parts[name] for name in split.parts if name not in (TEST, "validation")])
    validated = split.parts["validation"] if single else taught
    if result.fitted.chosen["stage"] == "fine-tuning" and not single:
        first = folds_of(split)[0]
        taught, validated = first
    return plain(
        {
            "data": data,
            "training": {
                "train": class_counts(cells, np.asarray(taught)),
                "validation": class_counts(cells, np.asarray(validated)),
                "validation_folds": 1
                if len(result.fitted.validation_rows) < len(taught) or single
                else len(split.parts) - 1,
                "test": class_counts(cells, np.asarray(split.parts[TEST])),
                "split_by": inspected.by,
                "manifest_sha256": manifest,
                "seed": seed,
                "recipe": recipe.to_dict(),
                "choices": dict(choices),
                "init": base.record(),
            },
            "intended_use": "Research on single-cell images like those it was fine-tuned on; not a diagnosis.",
        }
    )


def _interval(value: Mapping[str, Any]) -> str:
    if value.get("value") is None:
        return "not defined"
    if value.get("low") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
