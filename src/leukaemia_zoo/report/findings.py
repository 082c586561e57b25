"""What a benchmark report says, in plain sentences that are made from its data and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from leukaemia_zoo.evaluation.intervals import Interval
from leukaemia_zoo.report.contents import (
    LOWER_IS_BETTER,
    Contents,
    beyond,
    count,
    fixed,
    intervals,
    items,
    listed,
    mapping,
    number,
    percent,
    quoted,
    text,
    title,
    worst_subject,
)
from leukaemia_zoo.report.table_cells import metric_cell

RESEARCH_ONLY = "For research only, not a diagnosis."


@dataclass(frozen=True)
class Finding:
    """One statement, and what it is about."""

    topic: str
    sentence: str


def findings(contents: Contents) -> list[Finding]:
    """What a reader should know before any table, in the order of the questions that reviewers ask."""
    parts = (_data, _excluded, _unit, _guessing, _first, _baselines, _worst, _overlap, _calibration, _widths, _notes)
    return [Finding(topic, sentence) for part in parts for topic, sentence in part(contents)]


Found = Iterator[tuple[str, str]]


def _data(contents: Contents) -> Found:
    about = contents.about
    models = [count(len(contents.networks), "model")] if contents.networks else []
    models += [f"{count(len(contents.baselines), 'baseline')} without a network"] if contents.baselines else []
    by_class = [
        f"{number(mapping(row).get('subjects')):,.0f} {quoted(name)}"
        for name, row in mapping(about.get("classes")).items()
        if not math.isnan(number(mapping(row).get("subjects")))
    ]
    of = f" ({listed(by_class)})" if by_class else ""
    source = f" from {text(about['source'])}" if about.get("source") else ""
    subjects = count(about.get("subjects"), "subject")
    yield (
        "Data",
        f"{listed(models) or 'No model'} judged {count(about.get('cells'), 'cell')} of {subjects}{of}{source}.",
    )


def _excluded(contents: Contents) -> Found:
    left_out = mapping(contents.about.get("excluded"))
    if left_out:
        why = f": {text(left_out['why']).rstrip('.')}" if left_out.get("why") else ""
        found = f"{count(left_out.get('cells'), 'cell')} of {count(left_out.get('subjects'), 'subject')}"
        yield "Left out", f"{found} {'was' if found.startswith('1 cell ') else 'were'} not judged{why}."


def _unit(contents: Contents) -> Found:
    unit, resamples = contents.about.get("unit"), number(contents.settings.get("resamples"))
    drawn = "a bootstrap" if math.isnan(resamples) else f"a bootstrap of {resamples:,.0f} resamples"
    if unit == "subject":
        sentence = f"Values in brackets are {contents.level} intervals for new subjects, from {drawn} over subjects."
    elif unit == "cell":
        sentence = (
            f"No subject is known. Values in brackets are {contents.level} intervals from {drawn} over cells, which "
            "takes the cells of one person for independent: they are too narrow for statements about new patients."
        )
    else:
        sentence = "The report does not say what was resampled: do not read the intervals as those of new patients."
    counts = {
        name: number(mapping(row).get("subjects")) for name, row in mapping(contents.about.get("classes")).items()
    }
    known = {name: found for name, found in counts.items() if not math.isnan(found)}
    if unit == "subject" and known:
        fewest = min(known, key=lambda name: known[name])
        sentence += f" They rest on {count(known[fewest], 'subject')} of the rarest class, {quoted(fewest)}."
    yield "Intervals", sentence


def _guessing(contents: Contents) -> Found:
    counts = {name: number(mapping(row).get("cells")) for name, row in mapping(contents.about.get("classes")).items()}
    known = {name: found for name, found in counts.items() if found > 0}
    if len(known) > 1 and "accuracy" in contents.metrics:
        most = max(known, key=lambda name: known[name])
        share = percent(known[most] / math.fsum(known.values()))
        yield (
            "Guessing",
            f"Always answering {quoted(most)} is right on {share} of these cells: read accuracy beside that.",
        )


def _first(contents: Contents) -> Found:
    metric = next(iter(contents.ranking), None)
    known = [name for name in contents.networks if metric and contents.is_defined(name, metric)]
    if metric is None or len(known) < 2:
        return
    ranked = sorted(known, key=lambda name: -_value(contents, name, metric))
    first, second = ranked[:2]
    sentence = f"{text(first)} has the highest {title(metric)}, {metric_cell(contents.measured(first, metric))}. "
    difference = contents.difference(first, second, metric)
    gap = metric_cell(difference, signed=True)
    if difference is None:
        sentence += f"It was not compared in pairs with the next, {text(second)}."
    elif beyond(difference):
        sentence += f"Its lead over the next, {text(second)}, is beyond the interval: {gap}."
    else:
        sentence += f"That it is better than the next, {text(second)}, is not shown: {gap}."
    yield "Ranking", f"{sentence} Whichever comes first of {len(known)} on the same cells is flattered by being chosen."


def _value(contents: Contents, name: str, metric: str) -> float:
    found = contents.measured(name, metric)
    return math.nan if found is None else found.value


def _baselines(contents: Contents) -> Found:
    if not contents.networks:
        return
    if not contents.baselines:
        yield (
            "Baselines",
            "No baseline was measured: this report does not say whether the models know more than the size of a cell.",
        )
    for baseline in contents.baselines:
        parts = [_against(contents, baseline, metric) for metric in contents.ranking]
        yield f"Against {text(baseline)}", " ".join(parts)


def _against(contents: Contents, baseline: str, metric: str) -> str:
    """Who is better than a baseline by one metric, as far as a paired difference tells."""
    groups: dict[str, list[str]] = {"better": [], "open": [], "worse": [], "unknown": []}
    for name in contents.networks:
        found = contents.difference(name, baseline, metric)
        if found is None or math.isnan(found.value) or math.isnan(found.low) or math.isnan(found.high):
            groups["unknown"].append(text(name))
            continue
        better = -found.value if metric in LOWER_IS_BETTER else found.value
        group = "open" if not beyond(found) else "better" if better > 0 else "worse"
        groups[group].append(f"{text(name)} [{_signed(found)}]")
    told = {
        "better": "better beyond the interval: {}",
        "open": "not shown to be better: {}",
        "worse": "worse beyond the interval: {}",
        "unknown": "no paired interval: {}",
    }
    parts = [told[group].format(", ".join(names)) for group, names in groups.items() if names]
    return f"{title(metric)}: {'; '.join(parts)}."


def _signed(found: Interval) -> str:
    return f"{fixed(found.value, True)}, {fixed(found.low, True)} to {fixed(found.high, True)}"


def _worst(contents: Contents) -> Found:
    rows: dict[str, list[str]] = {}
    about: dict[str, str] = {}
    for name in contents.networks:
        row = worst_subject(contents.models[name])
        if row:
            subject = text(row.get("subject"))
            about[subject] = (
                f"{quoted(row['label']) if row.get('label') else 'class not known'}, {count(row.get('cells'), 'cell')}"
            )
            right = percent(number(row.get("share_correct")))
            rows.setdefault(subject, []).append(f"{text(name)} ({right} of its cells right)")
    for subject, of in rows.items():
        yield "Worst subject", f"Subject {subject} ({about[subject]}) is the one that fares worst with {listed(of)}."


def _overlap(contents: Contents) -> Found:
    unchecked: list[str] = []
    told: dict[str, list[str]] = {}
    for name in contents.networks:
        overlap = mapping(contents.models[name].get("overlap"))
        sentence = text(overlap.get("told")).rstrip(".")
        if not overlap.get("checked"):
            unchecked.append(text(name))
        if sentence and (overlap.get("checked") or overlap.get("known")):
            told.setdefault(sentence, []).append(text(name))
    if unchecked:
        yield (
            "Overlap not checked",
            f"Whether these cells or people were among the training data could not be checked for {listed(unchecked)}: "
            "their figures may be those of cells they have seen.",
        )
    for sentence, names in told.items():
        yield "Overlap", f"{listed(names)}: {sentence}."


def _calibration(contents: Contents) -> Found:
    sure: dict[str, list[str]] = {"too sure": [], "not sure enough": []}
    for name in contents.networks:
        slope = intervals(mapping(contents.models[name].get("calibration")).get("before")).get("slope")
        if slope is not None and (slope.high < 1 or slope.low > 1):
            sure["too sure" if slope.high < 1 else "not sure enough"].append(
                f"{text(name)} (slope {metric_cell(slope)})"
            )
    for verdict, names in sure.items():
        if names:
            yield "Calibration", f"Probabilities are {verdict} of {listed(names)}."


def _widths(contents: Contents) -> Found:
    perfect, without = [], []
    for name in contents.models:
        for metric in contents.metrics:
            found = contents.measured(name, metric)
            if found is None or math.isnan(found.value):
                continue
            if math.isnan(found.low) or math.isnan(found.high):
                without.append(title(metric))
            elif found.low == found.high and name in contents.networks:
                perfect.append(f"{title(metric)} of {text(name)}")
    if perfect:
        yield (
            "No width",
            f"An interval of no width ({listed(perfect)}) does not mean certainty: no resample of these cells varied.",
        )
    if without:
        names = listed(list(dict.fromkeys(without)))
        yield "No interval", f"{names} stand without an interval somewhere: there were too few units to resample."


def _notes(contents: Contents) -> Found:
    for note in items(contents.about.get("notes")):
        yield "Note on the data", text(note)
