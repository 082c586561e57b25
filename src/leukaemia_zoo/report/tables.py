"""The tables of a benchmark report, the same for terminal, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from leukaemia_zoo.report.contents import (
    MAIN_METRICS,
    TITLES,
    Contents,
    beyond,
    flat,
    in_order,
    interval,
    intervals,
    items,
    mapping,
    number,
    percent,
    quoted,
    text,
    throughput,
    title,
    worst_subject,
)
from leukaemia_zoo.report.table_cells import (
    NOT_MEASURED,
    Model,
    Number,
    Rows,
    Table,
    amount,
    any_cell,
    brief,
    count_cell,
    divided,
    metric_cell,
    padded,
    plain_metric,
    scaled,
    temperatures_text,
)


def tables(contents: Contents) -> dict[str, Table]:
    """All tables that have a row, by name and in order."""
    found = [
        _classes(contents),
        _metrics(contents, "main", "Main metrics", [name for name in contents.metrics if name in MAIN_METRICS]),
        _metrics(contents, "more", "Further metrics", [name for name in contents.metrics if name not in MAIN_METRICS]),
        _differences(contents),
        _operating_points(contents),
        _predictive_values(contents),
        _calibration(contents),
        _per_class(contents),
        _predictive_by_class(contents),
        _confusion(contents),
        _subject_verdicts(contents),
        _worst_subjects(contents),
        _subjects(contents),
        _subgroups(contents),
        _cost(contents),
        _models(contents),
        _pairs("settings", "Settings", contents.settings),
        _pairs("environment", "Environment", mapping(contents.data.get("environment"))),
        _pairs("timing", "Time taken, in seconds", mapping(contents.data.get("timing"))),
    ]
    return {table.name: table for table in found if table.rows and len(table.columns) > table.heads}


# --------------------------------------------------------------------------------------------------------------------
# One function a table


def _classes(contents: Contents) -> Table:
    found = mapping(contents.about.get("classes"))
    cells = {name: number(mapping(row).get("cells")) for name, row in found.items()}
    whole = math.fsum(cells.values())
    rows = [
        (
            text(name),
            count_cell(cells[name]),
            count_cell(mapping(row).get("subjects")),
            Number(percent(_share(name, cells, whole))),
        )
        for name, row in found.items()
    ]
    return Table("classes", "The cells", ("Class", "Cells", "Subjects", "Share of the cells"), tuple(rows))


def _share(name: str, cells: dict[str, float], whole: float) -> float:
    return cells[name] / whole if whole > 0 else math.nan


def _metrics(contents: Contents, name: str, heading: str, metrics: Sequence[str]) -> Table:
    rows: Rows = []
    for model in contents.models:
        rows.append((_model(contents, model), *(metric_cell(contents.measured(model, metric)) for metric in metrics)))
    note = "ECE and Brier score: lower is better."
    if name == "main":
        note = f"In brackets: {contents.level} intervals over {_units(contents)}. Log loss: lower is better."
        if len(contents.classes) == 2:
            first, last = map(quoted, contents.classes)
            note += f" Sensitivity is that of {last}, specificity that of {first}."
    return Table(name, heading, ("Model", *map(title, metrics)), tuple(rows), note)


def _differences(contents: Contents) -> Table:
    metrics = [name for name in MAIN_METRICS if any(name in values for _, _, values in contents.pairs)]
    rows: Rows = []
    for a, b, values in contents.pairs:
        found = [values.get(metric) for metric in metrics]
        cells = [metric_cell(one, signed=True, mark="*" if beyond(one) else "") for one in found]
        rows.append((f"{text(a)} - {text(b)}", *cells))
    note = (
        "The first model minus the second on the same resamples. * marks intervals that do not hold 0. They are not "
        f"widened for the number of comparisons, here {len(rows) * len(metrics)}: at {contents.level}, "
        f"{percent(1 - contents.share)} of differences that are none are marked all the same."
    )
    return Table("differences", "Paired differences", ("Models", *map(title, metrics)), tuple(rows), note)


def _operating_points(contents: Contents) -> Table:
    found = [
        (model, name, mapping(point))
        for model, row in contents.models.items()
        for name, point in mapping(row.get("operating_points")).items()
    ]
    metrics = _names(point.get("metrics") for _, _, point in found)
    rows: Rows = []
    for model, name, point in found:
        measured = intervals(point.get("metrics"))
        thresholds = Number(", ".join(f"{number(t):.3f}" for t in items(point.get("thresholds"))))
        start = (
            _model(contents, model),
            text(name),
            thresholds,
            any_cell(point.get("reached")),
        )
        rows.append((*start, *(metric_cell(measured.get(metric)) for metric in metrics)))
    columns = ("Model", "Operating point", "Thresholds", "Reached", *map(title, metrics))
    # Once for all rows: it is the same for every model of a benchmark.
    where = [*dict.fromkeys(text(point.get("chosen_on")) for _, name, point in found if name != "0.5")]
    told = " or on ".join(filter(None, where))
    note = f"Thresholds were chosen on {told}: on the cells they are judged on they would flatter." if told else ""
    if "" in where:
        note += (
            " Where a threshold was chosen is not said." if told else "Where the thresholds were chosen is not said."
        )
    return Table("operating", "Operating points", columns, tuple(rows), note, heads=2)


def _predictive_values(contents: Contents) -> Table:
    rows: Rows = []
    for model, found in ((name, mapping(row.get("predictive_values"))) for name, row in contents.models.items()):
        if found:
            prevalence, stated = Number(percent(number(found.get("prevalence")))), found.get("stated")
            where = ("stated" if stated else "that of these cells") if isinstance(stated, bool) else any_cell(stated)
            values = intervals(found)
            cells = (metric_cell(values.get(metric)) for metric in ("ppv", "npv"))
            rows.append((_model(contents, model), prevalence, where, *cells))
    columns = ("Model", "Prevalence", "Where it is from", "PPV", "NPV")
    last = quoted(contents.classes[-1]) if contents.classes else "the last class"
    note = f"PPV: share of the cells called {last} that are; NPV: of the others that are not. Both at this prevalence."
    return Table("predictive", "Predictive values", columns, tuple(rows), note)


def _calibration(contents: Contents) -> Table:
    found = []
    for model, row in contents.models.items():
        stages = mapping(row.get("calibration"))
        found += [(model, name, mapping(stages[name])) for name in ("before", "after") if mapping(stages.get(name))]
    metrics = ("ece", "brier", "log_loss", "slope", "intercept")
    rows: Rows = []
    for model, stage, values in found:
        measured = intervals(values)
        temperatures = Number(temperatures_text([number(t) for t in items(values.get("temperatures"))]))
        cells = (metric_cell(measured.get(metric)) for metric in metrics)
        rows.append((_model(contents, model), stage, *cells, temperatures))
    columns = ("Model", "Temperature scaling", *map(title, metrics), "Temperatures")
    note = (
        "Calibrated probabilities have a slope of 1 and an intercept of 0. The calibration error of a resample is "
        "larger than that of new cells, so that its interval lies high."
    )
    return Table("calibration", "Before and after temperature scaling", columns, tuple(rows), note, heads=2)


def _per_class(contents: Contents) -> Table:
    metrics = ("precision", "recall", "f1", "auroc", "auprc")
    rows: Rows = []
    for model, name, found in _by_class(contents):
        measured, counts = intervals(found), (count_cell(found.get("cells")), count_cell(found.get("subjects")))
        rows.append((_model(contents, model), name, *counts, *(plain_metric(measured.get(key)) for key in metrics)))
    columns = ("Model", "Class", "Cells", "Subjects", *map(title, metrics))
    return Table("per-class", "Class by class", columns, tuple(rows), "Each class against the rest.", heads=2)


def _predictive_by_class(contents: Contents) -> Table:
    metrics = ("sensitivity", "specificity", "ppv", "npv")
    rows: Rows = []
    for model, name, found in _by_class(contents):
        if "ppv" in found:
            measured, prevalence = intervals(found), Number(percent(number(found.get("prevalence"))))
            values = (plain_metric(measured.get(key)) for key in metrics)
            rows.append((_model(contents, model), name, prevalence, *values))
    columns = ("Model", "Class", "Prevalence", *map(title, metrics))
    note = (
        "Each class against the rest. PPV and NPV are at this prevalence, taken as known: the one that was stated for "
        "two classes, or the share of the class in these cells."
    )
    heading = "Sensitivity, specificity and predictive values of each class"
    return Table("class-predictive", heading, columns, tuple(rows), note, heads=2)


def _by_class(contents: Contents) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each model, name of a class, and what was measured of both."""
    for model, row in contents.models.items():
        for name, found in mapping(row.get("per_class")).items():
            yield model, text(name), mapping(found)


def _confusion(contents: Contents) -> Table:
    rows: Rows = []
    for model, row in contents.models.items():
        for name, called in zip(contents.classes, items(row.get("confusion")), strict=False):
            rows.append(
                (_model(contents, model), text(name), *padded(map(count_cell, items(called)), len(contents.classes)))
            )
    columns = ("Model", "True class", *(f"called {text(name)}" for name in contents.classes))
    return Table("confusion", "Cells by true and called class", columns, tuple(rows), heads=2)


def _subject_verdicts(contents: Contents) -> Table:
    found = {name: flat(mapping(row.get("subject_verdicts"))) for name, row in contents.models.items()}
    names = [name for name in _names(found.values()) if any(values.get(name) is not None for values in found.values())]
    rows = [
        (_model(contents, model), *(any_cell(values.get(name)) for name in names))
        for model, values in found.items()
        if values
    ]
    columns = ("Model", *(TITLES.get(name) or text(name).replace("_", " ").capitalize() for name in names))
    note = "The verdict on a subject is the class of the mean probability of its cells; each subject counts once."
    return Table("verdicts", "Verdicts on subjects", columns, tuple(rows), note)


def _worst_subjects(contents: Contents) -> Table:
    rows: Rows = []
    for model, row in ((name, worst_subject(row)) for name, row in contents.models.items()):
        if row:
            shares = (
                Number(percent(number(row.get("share_correct")))),
                plain_metric(interval(row.get("mean_probability"))),
            )
            cells = (text(row.get("subject")), text(row.get("label")), count_cell(row.get("cells")), *shares)
            rows.append((_model(contents, model), *cells, any_cell(row.get("verdict"))))
    probability = f"Mean probability of {quoted(contents.classes[-1])}" if contents.classes else "Mean probability"
    columns = ("Model", "Subject", "Class", "Cells", "Cells called right", probability, "Verdict")
    return Table("worst-subjects", "The worst subject of each model", columns, tuple(rows))


def _subjects(contents: Contents) -> Table:
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for model, found in contents.models.items():
        for row in map(mapping, items(found.get("per_subject"))):
            rows.setdefault(str(row.get("subject")), {})[model] = row
    models = [model for model in contents.models if any(model in found for found in rows.values())]

    def shares(found: dict[str, dict[str, Any]]) -> list[float]:
        return [number(found.get(model, {}).get("share_correct")) for model in models]

    def mean(found: dict[str, dict[str, Any]]) -> float:
        known = [share for share in shares(found) if not math.isnan(share)]
        return math.fsum(known) / len(known) if known else math.inf

    lines: Rows = []
    for subject, found in sorted(rows.items(), key=lambda item: mean(item[1])):
        one = next(iter(found.values()))
        cells = [Number(percent(share) if not math.isnan(share) else NOT_MEASURED) for share in shares(found)]
        lines.append((text(subject), text(one.get("label")), count_cell(one.get("cells")), *cells))
    columns = ("Subject", "Class", "Cells", *(str(_model(contents, model)) for model in models))
    return Table("subjects", "Cells called right, subject by subject", columns, tuple(lines), "Worst subjects first.")


def _subgroups(contents: Contents) -> Table:
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for model, row in contents.models.items():
        for column, values in mapping(row.get("subgroups")).items():
            for value, found in mapping(values).items():
                groups.setdefault((column, value), {})[model] = mapping(found)
    measured = _names(found.get("metrics") for of in groups.values() for found in of.values())
    metrics = [name for name in measured if name in MAIN_METRICS]
    rows: Rows = []
    for (column, value), of in groups.items():
        for model, found in of.items():
            values = intervals(found.get("metrics"))
            counts = (count_cell(found.get("cells")), count_cell(found.get("subjects")))
            cells = (metric_cell(values.get(metric)) for metric in metrics)
            rows.append((f"{text(column)} = {text(value)}", _model(contents, model), *counts, *cells))
    columns = ("Subgroup", "Model", "Cells", "Subjects", *map(title, metrics))
    note = "Small groups have wide intervals, and with many groups some differ by chance alone."
    return Table("subgroups", "Metrics by subgroup", columns, tuple(rows), note, heads=2)


def _cost(contents: Contents) -> Table:
    rows: Rows = []
    for model, cost in ((name, mapping(row.get("cost"))) for name, row in contents.models.items()):
        if cost:
            memory = amount(cost.get("peak_memory_mb"))
            own = number(cost.get("of_which_backend_mb"))
            cells = (
                count_cell(cost.get("parameters")),
                scaled(cost.get("flops")),
                amount(divided(cost.get("file_bytes"), 1e6)),
                amount(cost.get("load_s")),
                amount(cost.get("latency_ms")),
                amount(throughput(cost)),
                count_cell(cost.get("best_batch")),
                memory if math.isnan(own) else Number(memory.value, f"backend alone {own:,.0f}"),
                any_cell(cost.get("views")),
            )
            rows.append((_model(contents, model), *cells))
    columns = (
        "Model",
        "Parameters",
        "FLOPs a view",
        "File, MB",
        "Loading, s",
        "One cell, ms",
        "Cells a second",
        "Best batch",
        "Peak memory, MB",
        "Views",
    )
    note = (
        "Times: median (10th to 90th percentile of the repeats) of a whole prediction, over all views, on the machine "
        "below. They belong to it; parameters and FLOPs do not."
    )
    return Table("cost", "What the models cost", columns, tuple(rows), note)


def _models(contents: Contents) -> Table:
    about = {name: mapping(row.get("about")) for name, row in contents.models.items()}
    keys = list(dict.fromkeys(key for row in about.values() for key, value in row.items() if value is not None))
    rows: Rows = []
    for model, row in contents.models.items():
        overlap = mapping(row.get("overlap"))
        told = text(overlap.get("told")) or ("" if overlap.get("checked") else "not checked")
        values = (brief(about[model].get(key)) for key in keys)
        rows.append((_model(contents, model), text(row.get("kind")), told, *values))
    columns = (
        "Model",
        "Kind",
        "Overlap with its training",
        *(text(key).replace("_", " ").capitalize() for key in keys),
    )
    return Table("models", "The models", columns, tuple(rows))


def _pairs(name: str, heading: str, values: dict[str, Any]) -> Table:
    rows = [(text(key).replace("_", " "), str(any_cell(value))) for key, value in values.items() if value is not None]
    return Table(name, heading, ("What", "Value"), tuple(rows))


# --------------------------------------------------------------------------------------------------------------------
# Cells


def _model(contents: Contents, name: str) -> Model:
    return Model(name, name in contents.baselines)


def _units(contents: Contents) -> str:
    return "cells, not subjects" if contents.about.get("unit") == "cell" else "subjects"


def _names(blocks: Iterable[Any]) -> list[str]:
    """Keys of all dicts, metrics in their order."""
    return [name for name, _ in in_order({name: None for block in blocks for name in mapping(block)})]
