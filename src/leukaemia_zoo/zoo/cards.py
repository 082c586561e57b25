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
from typing import Any

from leukaemia_zoo.common import markdown
from leukaemia_zoo.errors import WeightsError
from leukaemia_zoo.zoo.registry import ARCHITECTURES, WeightSpec

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
"""The metrics of `evaluation`, in the order of the table; others follow under their own names."""

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
    def title(self) -> str:
        return _COLUMNS.get(self.key, markdown.text(self.key.replace("_", " ").capitalize()))

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
    front = _metadata(spec, measured).to_yaml()
    sections = [
        f"# {markdown.text(spec.name)}",
        "**For research only, not a diagnosis.**",
        *_about(spec),
        "## How to use",
        *_usage(spec, repo),
        "## Figures",
        *_figures(spec, measured),
        *_verdicts(spec),
        "## Intended use",
        *_intended_use(spec),
        "## Limits",
        *_limits(spec),
        "## Training data and split",
        *_training(spec),
        "## Licence",
        _licence(spec),
        "## Citation",
        "No citation was given." if spec.citation in ("", "not stated") else markdown.text(spec.citation),
    ]
    return f"---\n{front}\n---\n\n" + "\n\n".join(sections) + "\n"


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
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and abs(number) <= sys.float_info.max  # also of an integer that is too large to be a float
    )


# ---------------------------------------------------------------------------------------------------------------------
# What a person reads


def _about(spec: WeightSpec) -> Iterator[str]:
    config = spec.config
    height, width = config.preprocessing.input_size
    classes = ", ".join(
        markdown.code(name) + (f" ({_MEANINGS[name]})" if config.class_names == tuple(_MEANINGS) else "")
        for name in config.class_names
    )
    yield (
        f"A network of {LIBRARY}, a Keras 3 library of networks that tell leukaemic from normal white blood cells in "
        f"images of single cells. Its architecture is `{config.architecture}` "
        f"({ARCHITECTURES[config.architecture].title}), with the head `{config.head}`. From the image of one cell it "
        "gives a probability for each class."
    )
    published = ARCHITECTURES[config.architecture].input_size
    reduced = ""
    if (height, width) != published:
        reduced = f"; the architecture was published with {published[0]} x {published[1]}"
        if height * width < published[0] * published[1]:
            reduced += ", this weight has fewer so that it trains and predicts without a GPU"
    views = "" if config.views == 1 else f"; a prediction averages over {config.views} turned and mirrored views"
    yield "\n".join(
        [
            f"- Classes, in the order of the probabilities: {classes}",
            f"- Input: {height} x {width} pixels, RGB, 0 to 255{reduced}{views}",
            f"- Temperature of the calibration: {config.temperature:.3f}, already inside the last layer",
            f"- Parameters: {spec.parameters:,}",
            f"- File: {markdown.code(spec.file)}, {spec.size:,} bytes, sha256 {markdown.code(spec.sha256)}",
        ]
    )


def _usage(spec: WeightSpec, repo: str | None) -> Iterator[str]:
    revision = spec.revision if repo in (None, spec.repo) else None
    repo = repo or spec.repo
    name = (
        "path/to/this/folder" if repo is None else f"hf://{markdown.plain(repo)}" + (f"@{revision}" if revision else "")
    )
    yield f"```sh\npip install {LIBRARY}\n```"
    yield "\n".join(
        [
            "```python",
            "import leukaemia_zoo as lz",
            "",
            f"model = lz.load_model({json.dumps(name, ensure_ascii=False)})",
            'for cell in lz.predict(model, ["cell.png"]):  # files of whole frames: it crops and resizes them itself',
            "    print(cell.path, cell.label, cell.probabilities)",
            "```",
        ]
    )
    if repo is not None and revision is None:
        yield "To get the same weights again, write `@` and the commit that the Hub shows behind the name."


def _figures(spec: WeightSpec, measured: list[_Measurement]) -> Iterator[str]:
    keys = _in_order(key for measurement in measured for key in measurement.values)
    if not keys:
        yield "No figures were given: measure it on labelled cells of your own before you use it."
        return
    titles = [measurement.title for measurement in measured]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for key in keys:
        cells = (str(measurement.values.get(key, _NOT_KNOWN)) for measurement in measured)
        lines.append(f"| {TITLES.get(key, markdown.text(key))} | {' | '.join(cells)} |")
    yield "\n".join(lines)
    notes = []
    if any(figure.interval for measurement in measured for figure in measurement.values.values()):
        notes.append("In brackets: 95 % intervals.")
    if {"sensitivity", "specificity"} & set(keys) and len(spec.config.class_names) == 2:
        first, last = map(markdown.code, spec.config.class_names)
        notes.append(f"Sensitivity is the share of {last} called {last}, specificity that of {first} called {first}.")
    if lower := [TITLES[key] for key in _LOWER_IS_BETTER if key in keys]:
        notes.append(f"Lower is better: {', '.join(lower)}.")
    if notes:
        yield " ".join(notes)
    places: dict[str, list[str]] = {}
    for measurement in measured:
        places.setdefault(markdown.text(measurement.on).rstrip("."), []).append(measurement.title)
    yield "\n".join(f"- {' and '.join(names)}: {on}." for on, names in places.items())
    if any(measurement.key == "cross_validation" for measurement in measured):
        yield (
            "In cross-validation every cell is judged by a network that was trained, by the same recipe, without any "
            "cell of that person. The weights here were trained once more, and are not those of any fold."
        )


def _verdicts(spec: WeightSpec) -> Iterator[str]:
    limits = spec.config.verdict_limits
    if limits is None:
        return
    yield "## Uncertain verdicts"
    yield (
        "Besides the label, `predict` gives a verdict. A class is ruled out where its probability is below its limit; "
        "where two or more classes are left the verdict is `uncertain`, and a human must look at the cell."
    )
    lines = [
        f"| Class | Subjects | Default miss rate | {' | '.join(f'Limit at {rate:g}' for rate in limits.rates)} |",
        "|---" * (3 + len(limits.rates)) + "|",
    ]
    for name, people, rate, row in zip(limits.class_names, limits.people, limits.default, limits.limits, strict=True):
        values = " | ".join(f"{limit:.4f}" if limit else "never ruled out" for limit in row)
        lines.append(f"| {markdown.text(name)} | {people:,} | {rate:g} | {values} |")
    yield "\n".join(lines)
    yield (
        "The miss rate is the largest share of the cells of a class, on average over new people like those above, that "
        f"have it ruled out. At the default rates {limits.referred:.1%} of the cells of those people were "
        "uncertain, every person counting alike; `miss_rate=` of `predict` takes one rate for all classes. Cells of "
        "another laboratory, stain or scanner have no such promise."
    )


def _intended_use(spec: WeightSpec) -> Iterator[str]:
    if spec.intended_use:
        yield markdown.text(spec.intended_use)
    yield (
        "For research only, not a diagnosis. It is no medical device, was tested by no one as one, and is not for "
        "diagnosis, screening or any decision about a person."
    )


def _limits(spec: WeightSpec) -> Iterator[str]:
    classes = ", ".join(map(markdown.code, spec.config.class_names))
    frame = (
        "- An image shows one segmented white blood cell in the middle of the frame, on black, stained, "
        "colour-normalised and scaled as in the training data. Whole fields of view and cells cut out with their "
        "surroundings are something else."
    )
    if spec.config.preprocessing.reference_frame is None:
        frame = (
            "- An image shows one cell in the middle of a frame that is cut, stained and scaled as in the training "
            "data. Other microscopes, magnifications and whole fields of view are something else."
        )
    limit = spec.config.ood_limit
    warning = (
        "Nothing warns of images unlike the training cells: the weight has no limit for the OOD score."
        if limit is None
        else f"Of images unlike the training cells an OOD score above {limit:.2f} warns, which misses some."
    )
    lines = [
        f"- Any image gets one of the answers {classes}, whatever it shows. {warning}",
        frame,
        "- Figures hold for cells like those that they were measured on. Another stain, scanner, segmentation or "
        "hospital can change them in either direction: measure it on labelled subjects of your own first.",
        "- Cells of one person are not independent: new people differ more than new cells do, and a single person can "
        "lie far outside the intervals.",
        "- What a positive answer is worth depends on how rare the cells looked for are. Where classes are mixed "
        "otherwise than in the training data, the probabilities are too high or too low.",
        "- The mean over a subject's cells is a summary, not the probability that a person is ill.",
    ]
    yield "\n".join(lines)


def _training(spec: WeightSpec) -> Iterator[str]:
    if spec.data:
        yield "\n".join(
            f"- {markdown.text(source.get('name', '')) or 'not stated'}: "
            f"{markdown.text(source.get('source', '')) or 'not stated'}; "
            f"licence {markdown.text(source.get('licence', '')) or 'not stated'}"
            for source in spec.data
        )
    else:
        yield "No training data was given."
    parts = {part: _counts(spec.training.get(part)) for part in ("train", "validation")}
    if any(parts.values()):
        lines = [
            "| Class | Training cells | Training subjects | Validation cells | Validation subjects |",
            "|---|---|---|---|---|",
        ]
        for name in dict.fromkeys(name for part in parts.values() for name in part):
            # Data without subjects are recorded as of 0.
            counts = [
                f"{part[name][what]:,}" if name in part and (part[name][what] or what == "cells") else "not known"
                for part in parts.values()
                for what in ("cells", "subjects")
            ]
            lines.append(f"| {markdown.text(name)} | {' | '.join(counts)} |")
        yield "\n".join(lines)
    notes = []
    folds, seed, manifest = (spec.training.get(key) for key in ("validation_folds", "seed", "manifest_sha256"))
    if isinstance(folds, int) and folds > 1:
        notes.append(f"- Validation: in turn by {folds} folds, no subject in two of them")
    if isinstance(manifest, str):
        notes.append(f"- sha256 of the split manifest: {markdown.code(manifest)}")
    if _is_count(seed):
        notes.append(f"- Seed: {seed}")
    initial = spec.training.get("init")
    if isinstance(initial, Mapping):
        digest = f", sha256 {markdown.code(initial['sha256'])}" if initial.get("sha256") else ""
        notes.append(f"- Began with the weights: {markdown.text(initial.get('source', ''))}{digest}")
    elif initial == "random":
        notes.append("- Began with random weights" + (f" from seed {seed}" if _is_count(seed) else ""))
    if notes:
        yield "\n".join(notes)
    if not any(parts.values()) and not notes:
        yield "No split was given."


def _licence(spec: WeightSpec) -> str:
    if spec.licence in ("", "not stated"):
        return "No licence was stated for these weights: ask their owner before you use them."
    licence = markdown.text(spec.licence)
    return f"The weights are under {licence}. The data sets keep their own licences, which stand above."


def _counts(part: Any) -> dict[str, dict[str, int]]:
    """Cells and subjects of each class, where they are told as our training tells them."""
    if not isinstance(part, Mapping):
        return {}
    return {
        str(name): {what: counts[what] for what in ("cells", "subjects")}
        for name, counts in part.items()
        if isinstance(counts, Mapping) and all(_is_count(counts.get(what)) for what in ("cells", "subjects"))
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
