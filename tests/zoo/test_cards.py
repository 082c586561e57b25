"""The model card: what the Hub reads of it, what a person reads, and that no text of others breaks it."""

import dataclasses
import doctest
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from leukaemia_zoo.common.limits import VerdictLimits
from leukaemia_zoo.errors import WeightsError
from leukaemia_zoo.zoo import cards
from leukaemia_zoo.zoo.cards import model_card
from leukaemia_zoo.zoo.registry import ARCHITECTURES, WeightSpec, weights

SHIPPED = sorted(weights())
CNMC = [name for name in SHIPPED if name.endswith("cnmc")]
DATA_SETS = {"cnmc": "c-nmc-2019", "pbc": "pbc-normal-peripheral-blood-cells", "pbc_cnmc": "c-nmc-2019"}
CITED = {"cnmc": "10.7937/tcia.2019.dc64i46r", "pbc": "10.17632/snkd93bnjr.1", "pbc_cnmc": "10.7937/tcia.2019.dc64i46r"}
REVISION = "0123456789abcdef" * 2 + "01234567"
HOSTILE = (
    "a | b\n---\n# c\n```\n| x |\r\n</td><script>alert(1)</script> `d` [e](f) *g* {{ h }} \0\x1b[31m \ud800 : - 'i' \""
    " \\"
)
SECTIONS = [
    "How to use",
    "Figures",
    "Intended use",
    "Limits",
    "Training data and split",
    "Licence",
    "Citation",
]


def bare(**changes):
    """A row with no more than a row must have."""
    config = {"architecture": "cnn", "class_names": ["hem", "all"], "head": "texture"}
    row = {
        "name": "cnn.custom",
        "config": {**config, "preprocessing": {"input_size": [128, 96]}},
        "file": "model.safetensors",
        "sha256": "0" * 64,
        "size": 1234,
        "parameters": 5678,
        "licence": "not stated",
        "citation": "not stated",
    }
    return WeightSpec.from_dict({**row, **changes})


def parsed(card):
    """Metadata and text, by the Hub's own rule; the client must agree."""
    match = re.match(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))", card)
    data = yaml.safe_load(match[2])
    assert ModelCard(card).data.to_dict() == data
    return data, card[match.end() :]


def section(text, title):
    return re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def cells_of(row):
    """The cells of a row of a table, as Markdown divides it."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


# --- limits of verdicts ---


def test_the_limits_of_verdicts_stand_in_a_table():
    spec = bare()
    limits = VerdictLimits(("hem", "all"), (0.05, 0.1), ((0.1, 0.2), (0.0, 0.3)), (26, 12), (0.1, 0.05), 0.234)
    _, text = parsed(
        model_card(dataclasses.replace(spec, config=dataclasses.replace(spec.config, verdict_limits=limits)))
    )
    told = section(text, "Uncertain verdicts")
    table = [cells_of(line) for line in told.splitlines() if line.startswith("|")]
    assert table[0] == ["Class", "Subjects", "Default miss rate", "Limit at 0.05", "Limit at 0.1"]
    assert table[2:] == [
        ["hem", "26", "0.1", "0.1000", "0.2000"],
        ["all", "12", "0.05", "never ruled out", "0.3000"],
    ]
    assert "23.4% of the cells of those people were uncertain" in told
    assert "Uncertain verdicts" not in model_card(spec)


def test_limits_that_were_found_on_cells_of_nobody_known_promise_nothing_of_new_people():
    spec = weights()["mobilenet.pbc"]
    told = section(parsed(model_card(spec))[1], "Uncertain verdicts")
    assert cells_of(next(line for line in told.splitlines() if line.startswith("|")))[1] == "Cells"
    assert "for other cells of the same people and not for new ones" in told
    assert "new people like those above" not in told


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"balance_classes": True}, "classes counted alike"),
        ({"balance_classes": True, "cohort_frequencies": True}, "than in the training data"),
        ({"balance_classes": False}, "than in the training data"),
    ],
)
def test_the_card_tells_what_share_of_cells_the_probabilities_are_for(recipe, told):
    spec = dataclasses.replace(bare(), training={"recipe": recipe})
    assert told in section(parsed(model_card(spec))[1], "Limits")


# --- the weights of the zoo ---


@pytest.mark.parametrize("name", SHIPPED)
def test_the_model_index_holds_every_figure_with_its_interval(name):
    spec = weights()[name]
    data, _ = parsed(model_card(spec, f"org/{name}"))
    (index,) = data["model-index"]
    assert index["name"] == name
    measured = {key: block for key, block in spec.metrics.items() if not key.endswith("_baseline")}
    assert [result["dataset"]["split"] for result in index["results"]] == list(measured)
    for result, block in zip(index["results"], measured.values(), strict=True):
        assert result["task"]["type"] == "image-classification"
        identifier = DATA_SETS[name.split(".")[1]]
        assert (result["dataset"]["type"], result["dataset"]["name"]) == (identifier, spec.data[0]["name"])
        assert result["dataset"]["args"] == {"measured_on": block["on"]}
        found = {metric["type"]: metric for metric in result["metrics"]}
        assert len(found) == len(result["metrics"])
        assert {key: metric["value"] for key, metric in found.items()} == {
            key: value["value"] for key, value in block["values"].items()
        }
        for key, value in block["values"].items():
            assert found[key]["args"]["interval_95"] == [value["low"], value["high"]]
            assert ("resampled_by" in found[key]["args"]) == ("resamples by subject" in block["on"])


@pytest.mark.parametrize("name", CNMC)
def test_a_baseline_stands_beside_and_not_as_a_figure_of_the_network(name):
    spec = weights()[name]
    data, text = parsed(model_card(spec))
    baseline = spec.metrics["cross_validation_area_baseline"]["values"]
    judged = data["model-index"][0]["results"][0]
    for metric in judged["metrics"]:
        value = baseline[metric["type"]]
        assert metric["args"]["area_baseline"] == value["value"]
        assert metric["args"]["area_baseline_interval_95"] == [value["low"], value["high"]]
    assert json.dumps(data).count(f"{baseline['auroc']['value']}") == 1
    validated = " Validation subjects |" if "validation" in spec.metrics else ""
    assert f"| | Cross-validation | Cell area alone |{validated}\n" in text
    values = [block["values"]["auroc"] for block in spec.metrics.values()]
    cells = [f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})" for value in values]
    assert f"| AUROC | {' | '.join(cells)} |" in text


@pytest.mark.parametrize("name", SHIPPED)
def test_what_the_card_of_a_weight_says(name):
    spec = weights()[name]
    data, text = parsed(model_card(spec, f"org/{name}"))
    assert data["license"] == spec.licence.lower()
    assert not {"license_name", "datasets", "language", "model_name"} & set(data)
    assert (data["library_name"], data["pipeline_tag"]) == ("leukaemia-zoo", "image-classification")
    tags = {"keras", "haematology", "leukaemia", "cytology", "white-blood-cells", "medical", spec.config.architecture}
    assert set(data["tags"]) == tags
    limited = [] if spec.config.verdict_limits is None else ["Uncertain verdicts"]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [*SECTIONS[:2], *limited, *SECTIONS[2:]]
    assert "For research only, not a diagnosis." in text
    if name in CNMC:
        assert "`hem` (normal cell), `all` (cell of acute lymphoblastic leukaemia)" in text
    else:
        assert "(normal cell)" not in text
    side, published = spec.config.preprocessing.input_size[0], ARCHITECTURES[spec.config.architecture].input_size
    assert (f"published with {published[0]} x {published[1]}" in text) == (side != published[0])
    assert f"an OOD score above {spec.config.ood_limit:.2f} warns" in section(text, "Limits")
    assert f"Temperature of the calibration: {spec.config.temperature:.3f}" in text
    begun = section(text, "Training data and split").replace("\\", "")
    if name == "mobilenet.cnmc":
        assert "- Began with the weights: ImageNet, MobileNet 1.0, the teacher of the distillation, sha256 `" in begun
    elif spec.training["init"] == "random":
        assert f"- Began with random weights from seed {spec.training['seed']}" in begun
    else:
        initial = spec.training["init"]
        assert f"- Began with the weights: {initial['source']}, sha256 `{initial['sha256']}`" in begun
    for words in (f"{side} x {side} pixels", f"{spec.parameters:,}", f"{spec.size:,} bytes", spec.sha256):
        assert words in text
    for source in spec.data:
        assert f"licence {source['licence']}" in section(text, "Training data and split")
    split = section(text, "Training data and split")
    for part in spec.training["train"].values():
        # Where no subject is known, 0 would be a wrong number.
        assert f"| {part['cells']:,} | {part['subjects'] or 'not known'} |" in split
    folds = spec.training["validation_folds"]
    assert (f"in turn by {folds} folds" in split) == (folds > 1)
    assert spec.training["manifest_sha256"] in split
    assert f"Seed: {spec.training['seed']}" in split
    doi = CITED[name.split(".")[1]]
    assert f"[doi {doi}](https://doi.org/{doi})" in section(text, "Citation")


def test_the_python_of_a_card_names_repository_and_commit():
    pinned = bare(repo="org/name", revision=REVISION)
    for spec, repo, name in (
        (pinned, None, f"hf://org/name@{REVISION}"),
        (pinned, "org/name", f"hf://org/name@{REVISION}"),
        (pinned, "other/name", "hf://other/name"),  # its commits are other ones
        (bare(), "org/name", "hf://org/name"),
        (bare(), None, "path/to/this/folder"),
    ):
        text = section(model_card(spec, repo), "How to use")
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        compile(code, "card", "exec")
        assert f'lz.load_model("{name}")' in code
        assert "pip install leukaemia-zoo" in text
        assert ("write `@`" in text) == (name in ("hf://other/name", "hf://org/name"))


# --- what is not known ---


def test_a_bare_row():
    data, text = parsed(model_card(bare()))
    assert (data["license"], data["license_name"]) == ("other", "not-stated")
    assert "model-index" not in data
    assert "model_name" not in data
    for title, words in (
        ("Figures", "No figures were given"),
        ("Training data and split", "No training data was given.\n\nNo split was given."),
        ("Licence", "No licence was stated"),
        ("Citation", "No citation was given."),
        ("Intended use", "For research only, not a diagnosis."),
    ):
        assert section(text, title).startswith(words)
    assert "128 x 96 pixels" in text


def test_figures_without_interval_or_value_or_known_name():
    values = {
        "my_metric": {"value": 1e-05},
        "ece": {"value": 0.1, "low": None, "high": None},
        "auroc": {"value": None, "low": None, "high": None},
    }
    metrics = {"external": {"on": "9 cells.", "values": values}, "other_baseline": {"on": "9 cells", "values": {}}}
    data, text = parsed(model_card(bare(metrics=metrics)))
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "not stated",
        "type": "not-stated",
        "split": "external",
        "args": {"measured_on": "9 cells."},
    }
    ece = {"type": "ece", "value": 0.1, "name": "Expected calibration error"}
    assert result["metrics"] == [ece, {"type": "my_metric", "value": 1e-05, "name": "my_metric"}]
    figures = section(text, "Figures")
    assert "| | External | Other baseline |" in figures
    assert "| AUROC | not known | not known |" in figures
    assert "| Expected calibration error | 0.100 | not known |" in figures
    assert r"| my\_metric | 0.000 | not known |" in figures
    assert "In brackets" not in figures
    assert "- External and Other baseline: 9 cells.\n" in figures


@pytest.mark.parametrize(
    ("licence", "known", "name"),
    [
        ("Apache-2.0", "apache-2.0", None),
        ("CC BY 4.0", "cc-by-4.0", None),
        ("MIT", "mit", None),
        ("GPL-3.0-or-later", "other", "gpl-3.0-or-later"),  # the Hub does not take it
        ("My own: ask me", "other", "my-own-ask-me"),
        ("\n", "other", "not-stated"),
    ],
)
def test_licences(licence, known, name):
    data, text = parsed(model_card(bare(licence=licence)))
    assert (data["license"], data.get("license_name")) == (known, name)
    assert " ".join(licence.split()) in section(text, "Licence")


@pytest.mark.parametrize(
    "metrics",
    [
        {"auroc": 0.9},
        {"validation": {"values": {"auroc": {"value": 0.9}}}},
        {"validation": {"on": "cells", "values": [0.9]}},
        {"validation": {"on": "cells", "values": {"auroc": 0.9}}},
        {"validation": {"on": "cells", "values": {"auroc": {"low": 0.9}}}},
        {"validation": {"on": "cells", "values": {"auroc": {"value": "0.9"}}}},
        {"validation": {"on": "cells", "values": {"auroc": {"value": True}}}},
        {"validation": {"on": "cells", "values": {"auroc": {"value": float("nan")}}}},
        {"validation": {"on": "cells", "values": {"auroc": {"value": 10**400}}}},
        {"validation": {"on": "cells", "values": {"auroc": {"value": 0.9, "low": [0.8]}}}},
    ],
)
def test_figures_of_another_form_are_refused_in_one_sentence(metrics):
    with pytest.raises(WeightsError, match=r"of 'cnn\.custom'.*: give ") as caught:
        model_card(bare(metrics=metrics))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


# --- text of others ---


def test_no_text_of_others_breaks_the_card():
    value = {"value": 0.9, "low": 0.8, "high": 0.95}
    counts = {"cells": 2, "subjects": 1}
    spec = bare(
        licence=HOSTILE,
        citation=HOSTILE,
        intended_use=HOSTILE,
        data=[{"name": HOSTILE, "source": HOSTILE, "licence": HOSTILE}],
        training={
            **{"train": {HOSTILE: counts}, "validation": {HOSTILE: counts, "x": HOSTILE}},
            **{"manifest_sha256": HOSTILE, "seed": HOSTILE, "validation_folds": HOSTILE},
        },
        metrics={
            HOSTILE: {"on": HOSTILE, "values": {HOSTILE: value}},
            f"{HOSTILE}_{HOSTILE}_baseline": {"on": HOSTILE, "values": {HOSTILE: value}},
        },
    )
    config = dataclasses.replace(spec.config, class_names=(HOSTILE, "all"))
    # No row with such a name or sha256 can be read, but a card does not rely on that.
    card = model_card(dataclasses.replace(spec, name=HOSTILE, sha256=HOSTILE, config=config), HOSTILE)
    data, text = parsed(card)
    one_line = " ".join("".join(char if char.isprintable() else " " for char in HOSTILE).split())
    (index,) = data["model-index"]
    (metric,) = index["results"][0]["metrics"]
    assert index["name"] == metric["type"] == one_line
    assert metric["value"] == 0.9
    assert metric["args"]["interval_95"] == [0.8, 0.95]
    assert index["results"][0]["dataset"]["args"]["measured_on"] == one_line
    assert re.fullmatch(r"[a-z0-9.-]+", data["license_name"])
    assert all(char.isprintable() or char == "\n" for char in card)
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == SECTIONS
    assert len(re.findall(r"^#", text, re.MULTILINE)) == len(SECTIONS) + 1
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 4
    code = re.search(r"```python\n(.*?)```\n", text, re.DOTALL)[1]
    compile(code, "card", "exec")
    assert "<script" not in text.replace(code, "").replace(r"\<script", "")
    for title, columns, rows in (("Figures", 3, 3), ("Training data and split", 5, 3)):
        table = [line for line in section(text, title).splitlines() if line.startswith("|")]
        assert [len(cells_of(line)) for line in table] == [columns] * rows


@pytest.mark.parametrize("text", ["# a", "- a", "1. a", "+ a", "---", "=== a", "> a", "    a", "```", "| a |", "12) a"])
def test_a_text_of_others_is_a_paragraph(text):
    citation = section(model_card(bare(citation=text, intended_use=text)), "Citation")
    assert re.match(r"(\d*\\|a)", citation)


def test_a_doi_becomes_a_link_only_where_it_is_whole():
    citation = "A 2019, doi 10.1/a_b.c; B, doi 10.1016/S0140-6736(05)7 and doi 10.2/x) or doi 10.3/y](javascript:1)"
    text = section(model_card(bare(citation=citation)), "Citation")
    assert re.findall(r"\]\((.*?)\)", text.replace(r"\]", "")) == [
        "https://doi.org/10.1/a_b.c",
        "https://doi.org/10.2/x",
    ]


def test_the_examples_run():
    result = doctest.testmod(cards)
    assert result.attempted
    assert not result.failed
