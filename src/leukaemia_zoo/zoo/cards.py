"""The model card: README.md of a repository on the Hugging Face Hub, made from the row of a weight and nothing else.

Everything in a row may have been written by somebody else. It goes into the YAML through huggingface_hub and into the
Markdown escaped and on one line, so that no name or citation can end a table, a block of code or the front matter.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leukaemia_zoo.common import markdown
from leukaemia_zoo.common.reading import is_number, is_whole
from leukaemia_zoo.common.templates import markdown_templates
from leukaemia_zoo.common.text import close_matches
from leukaemia_zoo.errors import UnknownNameError, WeightsError
from leukaemia_zoo.zoo.registry import ARCHITECTURES, WeightSpec
from leukaemia_zoo.zoo.sources import CONFIG_FILE, WEIGHTS_FILE

LIBRARY = "leukaemia-zoo"
"""How the Hub calls this package: `library_name`."""

TITLES = {
    "auroc": "AUROC",
    "weighted_f1": "Weighted F1",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "auprc": "AUPRC",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "mcc": "Matthews' correlation",
    "ece": "Expected calibration error",
    "brier": "Brier score",
    "log_loss": "Log loss",
}
"""The metrics of `evaluation.metrics`, in the order of the table; others follow under their own names."""

_LOWER_IS_BETTER = ("ece", "brier", "log_loss")

_COLUMNS = {
    "cross_validation": "Cross-validation",
    "cross_validation_area_baseline": "Cell area alone",
    "validation": "Validation subjects",
    "test": "Test part",
}

_MEANINGS = {"hem": "normal cell", "all": "cell of acute lymphoblastic leukaemia"}

_LICENCES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gpl-2.0 gpl-3.0 isc
    lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 osl-3.0 pddl postgresql unlicense wtfpl zlib
    """.split()  # noqa: SIM905 - as a list it would take a page
)
"""The general licences that the Hub knows: it refuses a card with any other (huggingface_hub, issue 4218)."""


@dataclasses.dataclass(frozen=True)
class _Figure:
    value: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]

    def __str__(self) -> str:
        if self.value is None:
            return "not known"
        return f"{self.value:.3f}" + (f" ({self.low:.3f} to {self.high:.3f})" if self.interval else "")


_NOT_KNOWN = _Figure(None, None, None)


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """Figures that belong together; a baseline is what something simpler than the network reaches on the same cells."""

    key: str
    on: str
    values: Mapping[str, _Figure]

    @property
    def is_baseline(self) -> bool:
        return self.key.endswith("_baseline")

    @property
    def title(self) -> markdown.Markdown:
        return markdown.Markdown(_COLUMNS.get(self.key, markdown.text(self.key.replace("_", " ").capitalize())))

    @property
    def resampled_by(self) -> str | None:
        found = re.search(r"\bresamples by (\w+)", self.on)
        return found[1] if found else None


def model_card(spec: WeightSpec, repo: str | None = None) -> str:
    """README.md for a weight: metadata that the Hub reads, and what a person should know before using it.

    Args:
        spec: The row of the weight. Its ``file`` is named as the file that the card stands beside.
        repo: Repository that the card is for, ``org/name``; None for the one that the row is pinned to, if it is.

    Returns:
        Markdown with YAML front matter. The figures of every measurement are in its ``model-index`` with their 95 %
        intervals; those of a baseline stand with the figures they are compared with, as they are not the network's.

    Raises:
        WeightsError: If ``metrics`` of the row are not figures as `WeightSpec` holds them.

    Example:
        >>> from leukaemia_zoo.zoo.registry import model_info
        >>> card = model_card(model_info("cnn").weight, "org/cnn.cnmc")
        >>> "For research only, not a diagnosis." in card, 'load_model("hf://org/cnn.cnmc")' in card
        (True, True)
    """
    measured = _measurements(spec)
    templates = markdown_templates(Path(__file__).parent / "templates")
    text = templates.get_template("card.md.j2").render(**_contents(spec, repo, measured))
    body = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"---\n{_metadata(spec, measured).to_yaml()}\n---\n\n{body}\n"


# ---------------------------------------------------------------------------------------------------------------------
# What the Hub reads


def _metadata(spec: WeightSpec, measured: list[_Measurement]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    # The labelled data comes first in a row; then what the network was distilled from.
    data = markdown.plain(spec.data[0].get("name", "")) if spec.data else ""
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=markdown.identifier(data),
            dataset_name=data or "not stated",
            dataset_split=markdown.identifier(measurement.key),
            dataset_args={"measured_on": markdown.plain(measurement.on)},
            metric_type=markdown.plain(key),
            metric_name=TITLES.get(key, markdown.plain(key)),
            metric_value=figure.value,
            metric_args=_arguments(key, figure, measurement, measured) or None,
        )
        for measurement in measured
        if not measurement.is_baseline
        for key, figure in measurement.values.items()
        if figure.value is not None
    ]
    known = re.sub(r"\s+", "-", markdown.plain(spec.licence).lower())
    is_known = known in _LICENCES
    architecture = spec.config.architecture
    return ModelCardData(
        license=known if is_known else "other",
        license_name=None if is_known else markdown.identifier(spec.licence),
        library_name=LIBRARY,
        pipeline_tag="image-classification",
        tags=["keras", "haematology", "leukaemia", "cytology", "white-blood-cells", "medical", architecture],
        model_name=markdown.plain(spec.name) if results else None,
        eval_results=results or None,
    )


def _arguments(
    key: str, figure: _Figure, measurement: _Measurement, measured: list[_Measurement]
) -> dict[str, float | list[float] | str]:
    """What belongs to a figure: its interval, and what a baseline reaches on the same cells."""
    found: dict[str, float | list[float] | str] = {}
    if figure.interval:
        found["interval_95"] = figure.interval
        if measurement.resampled_by:
            found["resampled_by"] = measurement.resampled_by
    for other in measured:
        if other.is_baseline and other.key.startswith(f"{measurement.key}_") and key in other.values:
            name, beside = markdown.plain(other.key.removeprefix(f"{measurement.key}_")), other.values[key]
            if beside.value is not None:
                found[name] = beside.value
                if beside.interval:
                    found[f"{name}_interval_95"] = beside.interval
    return found


def _measurements(spec: WeightSpec) -> list[_Measurement]:
    """The figures of a row, checked: a wrong form would otherwise leave out what somebody measured."""
    found = []
    for key, block in spec.metrics.items():
        values = block.get("values") if isinstance(block, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(block.get("on"), str):
            raise WeightsError(
                f"The figures '{key}' of '{spec.name}' are {markdown.short(block)}: give metrics as "
                '{"validation": {"on": "what they were measured on", "values": {"auroc": {"value": 0.9}}}}.'
            )
        figures = {str(name): _figure(spec, f"{key}: {name}", value) for name, value in values.items()}
        found.append(_Measurement(str(key), block["on"], {name: figures[name] for name in _in_order(figures)}))
    return found


def _in_order(metrics: Iterable[str]) -> list[str]:
    places = {name: place for place, name in enumerate(TITLES)}
    return sorted(dict.fromkeys(metrics), key=lambda name: places.get(name, len(places)))


def _figure(spec: WeightSpec, where: str, found: Any) -> _Figure:
    numbers = [found.get(part) for part in ("value", "low", "high")] if isinstance(found, Mapping) else []
    if not numbers or "value" not in found or not all(number is None or _is_finite(number) for number in numbers):
        raise WeightsError(
            f"The figure '{where}' of '{spec.name}' is {markdown.short(found)}: give a finite value, and low and high "
            'where an interval is known, as {"value": 0.9, "low": 0.8, "high": 0.95}.'
        )
    return _Figure(*(None if number is None else float(number) for number in numbers))


def _is_finite(number: Any) -> bool:
    return is_number(number) and abs(number) <= sys.float_info.max  # also of an integer too large to be a float


# ---------------------------------------------------------------------------------------------------------------------
# What a person reads: the words stand in templates/card.md.j2


def _contents(spec: WeightSpec, repo: str | None, measured: list[_Measurement]) -> dict[str, Any]:
    """What the template puts into the card."""
    revision = spec.revision if repo in (None, spec.repo) else None
    repo = repo or spec.repo
    address = "path/to/this/folder"
    if repo is not None:
        address = f"hf://{markdown.plain(repo)}" + (f"@{revision}" if revision else "")
    metrics = _in_order(key for measurement in measured for key in measurement.values)
    places: dict[str, list[str]] = {}
    for measurement in measured:
        places.setdefault(markdown.text(measurement.on).rstrip("."), []).append(measurement.title)
    return {
        "spec": spec,
        "config": spec.config,
        "architecture": ARCHITECTURES[spec.config.architecture],
        "library": LIBRARY,
        "meanings": _MEANINGS if spec.config.class_names == tuple(_MEANINGS) else None,
        "address": markdown.Markdown(json.dumps(address, ensure_ascii=False)),
        "pinned": repo is None or revision is not None,
        "measured": measured,
        "metrics": metrics,
        "titles": TITLES,
        "not_known": _NOT_KNOWN,
        "has_intervals": any(figure.interval for measurement in measured for figure in measurement.values.values()),
        "lower": [TITLES[key] for key in _LOWER_IS_BETTER if key in metrics],
        "places": places,
        "cross_validated": any(measurement.key == "cross_validation" for measurement in measured),
        "limits": spec.config.verdict_limits,
        "names_people": names_people(spec),
        "alike": classes_count_alike(spec),
        "counts": _counts_by_class(spec),
        "notes": list(_notes(spec)),
        "bars": lambda columns: markdown.Markdown("---|" * len(columns)),
        "stated": lambda source, key: markdown.Markdown(markdown.text(source.get(key, "")) or "not stated"),
    }


def _counts_by_class(spec: WeightSpec) -> dict[str, list[str]]:
    """Cells and subjects that taught and validated; data without subjects are recorded as of 0."""
    parts = [_counts(spec.training.get(part)) for part in ("train", "validation")]
    return {
        name: [
            f"{part[name][what]:,}" if name in part and (part[name][what] or what == "cells") else "not known"
            for part in parts
            for what in ("cells", "subjects")
        ]
        for name in dict.fromkeys(name for part in parts for name in part)
    }


def _notes(spec: WeightSpec) -> Iterator[str]:
    """How it was validated and what it began with, as Markdown."""
    keys = ("validation_folds", "seed", "manifest_sha256", "init")
    folds, seed, manifest, initial = (spec.training.get(key) for key in keys)
    if isinstance(folds, int) and folds > 1:
        yield f"Validation: in turn by {folds} folds, no subject in two of them"
    if isinstance(manifest, str):
        yield f"sha256 of the split manifest: {markdown.code(manifest)}"
    if is_whole(seed, 0):
        yield f"Seed: {seed}"
    if isinstance(initial, Mapping):
        digest = f", sha256 {markdown.code(initial['sha256'])}" if initial.get("sha256") else ""
        yield f"Began with the weights: {markdown.text(initial.get('source', ''))}{digest}"
    elif initial == "random":
        yield "Began with random weights" + (f" from seed {seed}" if is_whole(seed, 0) else "")
    for told in taught_beside(spec.training):
        yield markdown.text(told)


def taught_beside(training: Mapping[str, Any]) -> Iterator[str]:
    """Whose probabilities were a part of the labels, as the record of a training names them."""
    kinds = {"linear_teachers": "linear classifiers of other people on the features of", "logits_teachers": "networks:"}
    for key, told in kinds.items():
        rows = training.get(key)
        names = [row.get("weight") for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        if names and all(isinstance(name, str) for name in names):
            recipe = training.get("recipe")
            share = recipe.get("soft_share") if isinstance(recipe, Mapping) else None
            of = f", a share of {share:g}" if is_number(share) else ""
            yield f"Taught beside the labels{of}: {told} {', '.join(map(str, names))}"


def _counts(part: Any) -> dict[str, dict[str, int]]:
    """Cells and subjects of each class, where they are told as our training tells them."""
    if not isinstance(part, Mapping):
        return {}
    return {
        str(name): {what: counts[what] for what in ("cells", "subjects")}
        for name, counts in part.items()
        if isinstance(counts, Mapping) and all(is_whole(counts.get(what), 0) for what in ("cells", "subjects"))
    }


def names_people(spec: WeightSpec) -> bool:
    """Whether the data told whose cells taught: a record counts 0 subjects where they did not."""
    counts = _counts(spec.training.get("train"))
    return not counts or all(own["subjects"] for own in counts.values())


def classes_count_alike(spec: WeightSpec) -> bool | None:
    """Whether its probabilities are for classes that count alike, however many cells taught; None if not known."""
    recipe = spec.training.get("recipe")
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("balance_classes"), bool):
        return None
    return recipe["balance_classes"] and not recipe.get("cohort_frequencies")


CARD_FILE = "README.md"


_ABOUT = ("name", "licence", "citation", "data", "training", "metrics", "intended_use")
"""What can be told about a weight; the other fields of a row follow from the file."""


def checked_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """What is told about a model, as the plain data that config.json can hold."""
    for name in about:
        if name not in _ABOUT:
            raise UnknownNameError(
                f"There is nothing called '{name}' to tell about a weight; {close_matches(name, _ABOUT)}"
            )
    return as_written(about)


def as_written(told: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json will hold of what is told about a model, or a WeightsError where JSON cannot."""
    try:
        return dict(json.loads(json.dumps(told, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"What is told about the model cannot be written as JSON ({error}): give plain numbers, texts and lists."
        ) from None


def refuse_to_replace_card(folder: Path) -> None:
    """A card is made anew each time; a README.md that somebody wrote, or a folder, is not ours to replace."""
    for name in (CONFIG_FILE, CARD_FILE, WEIGHTS_FILE):
        if (folder / name).is_dir():
            raise WeightsError(f"{folder / name} is a folder: save the model into a folder of its own.")
    readme = folder / CARD_FILE
    try:
        text = readme.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if f"\nlibrary_name: {LIBRARY}\n" not in text:
        raise WeightsError(
            f"{readme} is no model card of {LIBRARY}, and was not replaced: save the model into a folder of its own."
        )
