"""Fine-tuning on somebody else's cells: from a few hundred labelled images to a model to keep and share.

First the trunk stays as it is and a linear classifier is fitted on its embeddings, in folds that choose the penalty in
turn. Then the last layers learn as well, at a small rate; that stays only if it is better on cells that neither has
learnt from. A test part, on which nothing is chosen, judges what is left.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from leukaemia_zoo._names import renamed, takes
from leukaemia_zoo._version import __version__
from leukaemia_zoo.adaptation.base import Base
from leukaemia_zoo.adaptation.inspection import Inspected, inspect_cells, usual_preprocessing
from leukaemia_zoo.adaptation.options import FineTuningOptions, fine_tuning_recipe
from leukaemia_zoo.adaptation.splits import TEST, check_given, split_for_fine_tuning
from leukaemia_zoo.adaptation.stages import Outcome, fit_stages
from leukaemia_zoo.benchmarking.contestants import as_candidates
from leukaemia_zoo.benchmarking.judged_cells import MANIFEST_FILE
from leukaemia_zoo.benchmarking.runner import benchmark
from leukaemia_zoo.cells.manifests import load_manifest
from leukaemia_zoo.cells.preprocessing import Preprocessing
from leukaemia_zoo.cells.splits import Split
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import plain, replacing, write_json
from leukaemia_zoo.common.run_folder import RECORDS, RUN, folder_or_temporary, is_under_way, refuse_to_replace
from leukaemia_zoo.errors import DataError
from leukaemia_zoo.report.curves import PICTURE, TABLE, write_curves
from leukaemia_zoo.report.report import FILES, Report
from leukaemia_zoo.training.classifier import calibrated, with_config
from leukaemia_zoo.training.drawing import folds_of
from leukaemia_zoo.training.recipes import Recipe
from leukaemia_zoo.training.records import class_counts, environment_record, manifest_of
from leukaemia_zoo.training.runs import RunState
from leukaemia_zoo.zoo.cards import CARD_FILE, refuse_to_replace_card
from leukaemia_zoo.zoo.loading import load_model
from leukaemia_zoo.zoo.publishing import push_to_hub, save_pretrained
from leukaemia_zoo.zoo.registry import BLOOD_TRUNKS, DEFAULT_TRUNK
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE, local_files

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


@renamed(report="log", time_budget="time_budget_s")
@takes(FineTuningOptions)
def fine_tune(
    model: keras.Model | str | os.PathLike[str] = DEFAULT_TRUNK,
    data: str | os.PathLike[str] | Cells | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    options: FineTuningOptions,
) -> FineTuned:
    """Fine-tune a network on labelled cells of your own, and judge it on cells that it has not learnt from.

    The last layer is replaced by one for your classes. Stage 1 leaves the trunk as it is and fits a logistic regression
    on its embeddings. Stage 2 lets the last layers learn at a small rate, from views turned all around the circle,
    mirrored and a little restained; it stays only where it beats stage 1 on validation cells by more than the standard
    error of the difference. Then the temperature is scaled and the test part judged.

    The folder then holds ``config.json``, ``model.safetensors`` and ``README.md`` (the model card), ``split.json`` (the
    manifest), ``training.json`` (the record), ``curves.csv`` and ``curves.svg``, and ``report.json``, ``.csv``,
    ``.md`` and ``.html``. An interrupted run goes on where its last whole epoch ended.

    Args:
        model: What it begins with: a network from `load_model`, a name of the zoo, a folder of a saved model, or
            ``hf://org/name@revision``. The default has learnt the classes of normal blood cells.
        data: A folder with one folder a class, a CSV with the columns path, label and, if known, subject, or a table.
        out: Folder to write; None keeps nothing on disk.
        options: Split, recipe, layers, seed and the like, see `FineTuningOptions`. Each may be given as a keyword
            instead, or besides: ``fine_tune("cnn", "cells", "runs/mine", per_class=50)``.

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
    started = time.perf_counter()
    seed, log = options.seed, options.tell
    if out is not None:
        _refuse_to_replace(Path(out), model, data, options)
    base = Base.of(model)
    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(text)
        log(f"warning: {text}")
        warnings.warn(text, stacklevel=5)  # whoever called this function, through its two decorators

    recipe = fine_tuning_recipe(base.config, options.recipe)
    inspected = inspect_cells(
        data,
        split_by=options.split_by,
        skip_unreadable=options.skip_unreadable,
        positive=options.positive,
        warn=warn,
    )
    cells = inspected.cells
    log(str(cells))
    if len(cells.class_names) == 2:
        log(f"positive class: {cells.class_names[-1]} (positive, or --positive, names another)")
    split = _split(inspected, recipe, options)
    seen = base.has_seen(cells.subset(split.parts[TEST]))
    if seen is not None:
        warn(f"{seen}: the figures below are too favourable")
    cells = dataclasses.replace(cells, notes=tuple(dict.fromkeys([*cells.notes, *notes])))
    given, why = _given_preprocessing(inspected, base, options)

    with folder_or_temporary(out) as folder:
        manifest, manifest_hash = manifest_of(cells, split)
        choices = options.choices(inspected.by, given)
        digest = _fingerprint(base, recipe, choices, manifest_hash, seed)
        if finished := _finished_run(folder, digest, options.restart):
            log(f"{folder} holds this run already")
            if options.cost and not any(row.get("cost") for row in finished.report.data["models"].values()):
                log("its report has no cost: measure it anew with restart (--restart)")
            _push(folder, options)
            return finished
        state = RunState(folder / RUN, digest, options.restart)
        with replacing(folder / "split.json") as beside:
            beside.write_bytes(manifest)
        log(
            f"head: the last layer of '{base.label}' ({len(base.config.class_names)} classes) is replaced by one for "
            f"{len(cells.class_names)}: {', '.join(cells.class_names)}"
        )
        rows = np.sort(np.concatenate([split.parts[name] for name in split.parts if name != TEST]))
        folds = [tuple(np.searchsorted(rows, part) for part in fold) for fold in folds_of(split)]
        learning = cells.subset(rows)
        until = None if options.time_budget_s is None else started + options.time_budget_s
        with threadpool_limits(1, "blas"):  # problems so small are solved sooner without threads
            outcome = fit_stages(base, recipe, learning, folds, given, why, until, state, options)
        seconds = time.perf_counter() - started
        network = with_config(outcome.fitted.model, recipe, learning, outcome.preprocessing)
        network = calibrated(network, outcome.temperature, outcome.fitted.ood_limit)
        about = _about(base, cells, split, manifest_hash, recipe, choices, outcome, seed)
        about |= {"name": f"{recipe.architecture}.finetuned", **(options.about or {})}
        save_pretrained(network, folder, **about)
        kept = folder if out is not None or options.push_to is not None else None  # unkept pictures are not drawn
        report, figures = _judged(base, cells.subset(split.parts[TEST]), folder, kept, seen, inspected.by, options)
        save_pretrained(network, folder, **about, metrics=figures)
        record = plain(
            {
                "fingerprint": digest,
                "package": __version__,
                "recipe": recipe.to_dict(),
                "seed": seed,
                "choices": choices,
                "init": base.to_dict(),
                "cells": cells.summary(),
                "notes": list(cells.notes),
                "manifest_sha256": manifest_hash,
                "preprocessing": outcome.preprocessing.to_dict(),
                "crops": outcome.crops,
                "curves": outcome.history,
                "chosen": outcome.fitted.chosen,
                "temperature": outcome.temperature,
                "ood_limit": outcome.fitted.ood_limit,
                "metrics": figures,
                "training_s": seconds,
                **environment_record(),
            }
        )
        if kept is not None:
            write_curves(kept, record, log)
        write_json(folder / RECORD_FILE, record)
        state.remove()
        log(f"{seconds:.0f} s of training" + (f"; saved in {folder}" if out is not None else ""))
        _push(folder, options)
        return FineTuned(network, outcome.history, report, None if out is None else folder, record)


def _judged(
    base: Base,
    tested: Cells,
    folder: Path,
    kept: Path | None,
    seen: str | None,
    split_by: str,
    options: FineTuningOptions,
) -> tuple[Report, dict[str, Any]]:
    """The report on the test part, and the figures of the model card."""
    name = f"fine-tuned {base.label}"
    # What the weight to begin with has seen of the test part is told already, and in the report.
    judged = dataclasses.replace(as_candidates({name: str(folder.absolute())})[0], leak_told=seen is not None)
    report = benchmark(
        {name: judged},
        tested,
        out=kept,
        cost=options.cost,
        resamples=options.resamples,
        seed=options.seed,
        log=options.tell,
    )
    values = report.data["models"][name]["metrics"]
    for metric in ("accuracy", "macro_f1", "weighted_f1", "auroc", "balanced_accuracy"):
        if (value := values.get(metric)) is not None:
            options.tell(f"test {metric}: {_interval(value)}")
    on = f"{len(tested):,} test cells that nothing was chosen on, split by {split_by}"
    return report, {"test": {"on": on, "values": values}}


def _split(inspected: Inspected, recipe: Recipe, options: FineTuningOptions) -> Split:
    """The split that is given, or one that is made."""
    split = options.split
    if split is None:
        return split_for_fine_tuning(
            inspected,
            test_share=options.test_share,
            folds=recipe.validation_folds,
            per_class=options.per_class,
            seed=options.seed,
        )
    if not isinstance(split, Split):
        split = load_manifest(split, inspected.cells)
    check_given(inspected.cells, split)
    return split


def _given_preprocessing(
    inspected: Inspected, base: Base, options: FineTuningOptions
) -> tuple[Preprocessing | None, str]:
    """The preprocessing that is given or usual, None where the crop has to be found, and why."""
    own, given = base.config.preprocessing, options.preprocessing
    if given is not None and given.input_size != own.input_size:
        raise DataError(
            f"The preprocessing gives {given.input_size[0]}x{given.input_size[1]} pixels, but the network takes "
            f"{own.input_size[0]}x{own.input_size[1]}: give it that input_size."
        )
    if options.crop_fraction is not None:
        given = dataclasses.replace(own, crop_fraction=options.crop_fraction, reference_frame=None)
    if given is not None:
        return given, "given"
    return usual_preprocessing(inspected, own, base.config.weight in BLOOD_TRUNKS)


def _refuse_to_replace(folder: Path, model: Any, data: Any, options: FineTuningOptions) -> None:
    """Raise if the folder holds what is to be read, or somebody's own files: before the training, not after it."""
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else ""
    inputs = [
        ("the data", data),
        ("the recipe", options.recipe),
        *(("the model", file) for file in local_files(str(name))),
    ]
    refuse_to_replace_card(folder)
    refuse_to_replace(folder, _FILES, RECORDS, inputs, options.restart)


def _fingerprint(base: Base, recipe: Recipe, choices: Mapping[str, Any], manifest: str, seed: int) -> str:
    """Hash of all that must be the same for an interrupted run to go on."""
    content = [base.digest, base.config.to_dict(), recipe.to_dict(), choices, manifest, seed]
    content += [keras.backend.backend(), __version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finished_run(folder: Path, digest: str, restart: bool) -> FineTuned | None:
    """The same run, if the folder holds it; a DataError if it holds something else."""
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


def _push(folder: Path, options: FineTuningOptions) -> None:
    """Put the model on the Hub, if that was asked for."""
    if options.push_to is not None:
        published = push_to_hub(folder, options.push_to, private=options.private)
        options.tell(f"published: {published.url}")


def _about(
    base: Base,
    cells: Cells,
    split: Split,
    manifest: str,
    recipe: Recipe,
    choices: Mapping[str, Any],
    outcome: Outcome,
    seed: int,
) -> dict[str, Any]:
    """What is told about the model beside its weights."""
    data = [{"name": cells.source, "source": "given", "licence": "not stated"}]
    data += [dict(row) for row in (base.spec.data if base.spec is not None else ())]
    single = "train" in split.parts
    taught = np.concatenate([split.parts[name] for name in split.parts if name not in (TEST, "validation")])
    validated = split.parts["validation"] if single else taught
    if outcome.fitted.chosen["stage"] == "fine-tuning" and not single:
        first = folds_of(split)[0]
        taught, validated = first
    return plain(
        {
            "data": data,
            "training": {
                "train": class_counts(cells, np.asarray(taught)),
                "validation": class_counts(cells, np.asarray(validated)),
                "validation_folds": 1
                if len(outcome.fitted.validation_rows) < len(taught) or single
                else len(split.parts) - 1,
                "test": class_counts(cells, np.asarray(split.parts[TEST])),
                "split_by": choices["split_by"],
                "manifest_sha256": manifest,
                "seed": seed,
                "recipe": recipe.to_dict(),
                "choices": dict(choices),
                "init": base.to_dict(),
            },
            "intended_use": "Research on single-cell images like those it was fine-tuned on; not a diagnosis.",
        }
    )


def _interval(value: Mapping[str, Any]) -> str:
    """A figure with its interval, in words."""
    if value.get("value") is None:
        return "not defined"
    if value.get("low") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
