"""What README.md and the documentation say: figures that are generated, Python that runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from leukaemia_zoo.zoo.registry import WeightSpec, packaged_file, weights

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [README, *ROOT.glob("docs/*.md")])

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the documentation is not beside the tests")


def _import(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _row(name: str, area: float = 0.8) -> WeightSpec:
    """A row with figures, for a weight that need not exist."""
    values = {"auroc": {"value": 0.9, "low": 0.85, "high": 0.94}, "weighted_f1": {"value": 0.85}}
    values["specificity"] = {"value": 0.7, "low": None, "high": None}
    return WeightSpec.from_dict(
        {
            "name": name,
            "config": {
                "architecture": name.split(".")[0],
                "class_names": ["hem", "all"],
                "head": "texture",
                "preprocessing": {"input_size": [100, 100]},
                "views": 8,
            },
            "file": "model.safetensors",
            "sha256": "0" * 64,
            "size": 1_200_000,
            "parameters": 300_000,
            "licence": "Apache-2.0",
            "citation": "Someone 2026, doi 10.1000/one.",
            "data": [{"name": "C-NMC 2019", "source": "Gupta 2019, doi 10.7937/tcia", "licence": "CC BY 3.0"}],
            "training": {"train": {"hem": {"cells": 10, "subjects": 2}, "all": {"cells": 20, "subjects": 3}}},
            "metrics": {
                "cross_validation": {"on": "30 cells of 5 subjects", "values": values},
                "cross_validation_area_baseline": {"on": "30 cells", "values": {"auroc": {"value": area}}},
            },
        }
    )


@pytest.fixture(scope="module")
def render_figures() -> ModuleType:
    return _import("tools/render_figures.py")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return _import("docs/hooks.py")


def test_the_figures_in_the_readme_are_those_of_the_registry(render_figures):
    text = README.read_text(encoding="utf-8")
    assert text == render_figures.rendered(text), "run: python tools/render_figures.py"


def test_the_table_of_commands_has_what_can_be_called(render_figures):
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", render_figures.commands(), re.MULTILINE))
    text = " ".join(_help_of().split())  # as a terminal of some other width breaks it
    assert {"predict", "export", "finetune", "benchmark", "info"} <= set(rows)
    for name, what in rows.items():
        assert f" {name} {what}" in text


def test_figures_without_weights_say_so(render_figures):
    assert render_figures.figures([]) == render_figures.NOTHING_YET


def test_figures_stand_beside_one_baseline(render_figures):
    block = render_figures.figures([_row("cnn.cnmc"), _row("cnn_attention.cnmc")])
    assert "| | AUROC | Weighted F1 |" in block
    assert "| `cnn_attention.cnmc` | 0.900 (0.850 to 0.940) | 0.850 |" in block
    assert "| Cell area alone | 0.800 | not known |" in block
    assert "`cnn.cnmc` and `cnn_attention.cnmc`: 30 cells of 5 subjects." in block


def test_baselines_of_other_folds_stand_apart(render_figures):
    block = render_figures.figures([_row("cnn.cnmc", 0.8), _row("cnn_attention.cnmc", 0.7)])
    assert "| Cell area alone, folds of `cnn.cnmc` | 0.800 |" in block
    assert "| Cell area alone, folds of `cnn_attention.cnmc` | 0.700 |" in block
    block = render_figures.figures([_row("cnn.cnmc", 0.8), _row("vgg16.cnmc", 0.7), _row("mobilenet.cnmc", 0.8)])
    assert "| Cell area alone, folds of `cnn.cnmc` and `mobilenet.cnmc` | 0.800 |" in block


def test_the_table_of_trainings_has_a_row_for_each_weight_of_the_zoos_own_task(render_figures):
    lines = render_figures.training_table().splitlines()
    judged = [name for name, row in weights().items() if "cross_validation" in row.metrics]
    assert set(judged) >= {name for name in weights() if name.endswith(".cnmc")}
    assert [line.split("|")[1].strip() for line in lines[2:]] == [f"`{name}`" for name in judged]
    for line in lines[2:]:
        assert re.search(r"\| 0\.0\d\d \(-?0\.\d+ to 0\.\d+\) \| .* \| (about )?\d+ min \| 2 cores", line)
        assert re.search(r"\| 4\d of 52 \|", line)


def test_the_time_of_a_trunk_is_added_where_it_was_given_and_guesses_are_told(render_figures, tmp_path, monkeypatch):
    name = next(iter(weights()))
    folder = tmp_path / name
    shutil.copytree(render_figures.RESULTS.parent / name, folder)
    monkeypatch.setattr(render_figures, "RESULTS", tmp_path / "benchmark.json")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8")) | {"seconds": 600}
    for given, about, told in ((True, "", "| 15 min"), (False, "", "| 10 min"), (True, "about", "| about 15 min")):
        own = record["distillation"] | {"seconds": 300, "given": given}
        row = record | {"distillation": own, "seconds_are": about}
        (folder / "training.json").write_text(json.dumps(row), encoding="utf-8")
        assert told in render_figures.training_table()


def test_what_the_zoo_aims_for_is_said_with_its_figures(render_figures):
    text = render_figures.aims([_row("cnn.cnmc")])
    assert "Its best is 0.850, by `cnn.cnmc`" in text
    assert "at most 0.03 for none." in text
    rows = {name: row for name, row in weights().items() if "cross_validation" in row.metrics}
    best = max(row.metrics["cross_validation"]["values"]["weighted_f1"]["value"] for row in rows.values())
    assert f"Its best is {best:.3f} (" in render_figures.aims(rows.values())
    assert "includes 0. The temperature changes little" in render_figures.shortcomings()


def test_a_readme_without_marks_is_refused(render_figures):
    with pytest.raises(SystemExit, match="lacks the marks"):
        render_figures.with_block("# Title", "figures", "text")


def test_pages_about_weights_are_made_from_their_rows(hooks, monkeypatch):
    monkeypatch.setattr(hooks, "weights", lambda: {"cnn.cnmc": _row("cnn.cnmc")})
    page = hooks.on_page_markdown("<!-- zoo: weights -->\n\n<!-- zoo: figures -->\n")
    assert "| `cnn.cnmc` | `texture` | 100 x 100 | 8 | 300,000 | 1.2 MB | `hem`, `all` | Apache-2.0 |" in page
    assert "| `cnn.cnmc` | 0.900&nbsp;(0.850&nbsp;to&nbsp;0.940) | 0.850 |" in page
    assert "`cnn.cnmc`: 30 cells of 5 subjects." in page


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_is_described_for_those_who_cannot_see_it(hooks, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- zoo: picture .+ -->$", text, re.MULTILINE)
    for told, name in re.findall(r"!\[(.*?)\]\((assets/[^)]+)\)", text + hooks.on_page_markdown("\n".join(marks))):
        assert len(told) > 40, name


def test_a_card_on_the_site_links_each_doi_once():
    pytest.importorskip("mkdocs")
    page = _import("docs/generated_pages.py").card(_row("cnn.cnmc"))
    assert "[doi 10.1000/one](https://doi.org/10.1000/one)." in page
    assert page.count("https://doi.org/10.1000/one") == 1


def test_the_tables_of_unfamiliar_images(hooks, monkeypatch):
    own = {"what": "whole fields", "images": 40, "flagged": 0.95, "auroc": {"value": 0.991, "low": 0.98, "high": 1.0}}
    cells = {"what": "held-out cells", "cells": 1500, "of": 7861, "subjects": 60}
    cells["flagged"] = {"value": 0.011, "low": 0.004, "high": 0.02}
    row = {"limit": 1.75, "intervals": "95 %", "cells": cells, "sets": [{"name": "bccd", **own}]}
    more = {**row, "sets": [*row["sets"], {**own, "name": "pbc", "what": "cells", "flagged": 1.0}]}
    monkeypatch.setattr(hooks._figures, "ood_results", lambda: {"cnn.cnmc": row, "cnn_attention.cnmc": more})
    page = hooks.on_page_markdown("<!-- zoo: ood auroc -->\n\n<!-- zoo: ood flagged -->\n\n<!-- zoo: ood notes -->\n")
    assert "| Images | Number | `cnn.cnmc` | `cnn_attention.cnmc` |" in page
    interval = "0.991&nbsp;(0.980&nbsp;to&nbsp;1.000)"
    assert f"| whole fields | 40 | {interval} | {interval} |" in page
    assert "| cells | 40 | not known |" in page
    assert "| limit of the score |  | 1.75 | 1.75 |" in page
    assert "| held-out C-NMC cells | 1,500 | 1.1 % (0.4 to 2.0) | 1.1 % (0.4 to 2.0) |" in page
    assert "| whole fields | 40 | 95 % | 95 % |" in page
    assert "`cnn.cnmc` and `cnn_attention.cnmc`: 1,500 of 7,861 C-NMC cells of 60 subjects, held-out cells." in page
    monkeypatch.setattr(hooks._figures, "ood_results", dict)
    assert hooks.on_page_markdown("<!-- zoo: ood auroc -->") == hooks._figures.NOTHING_YET


def test_the_table_of_all_weights_has_what_was_measured(hooks):
    lines = hooks.on_page_markdown("<!-- zoo: results weights -->").splitlines()
    measured = {name: row for name, row in weights().items() if "cross_validation" in row.metrics}
    assert len(lines) >= len(measured) + 3  # headings, and cell area alone
    assert len({line.count("|") for line in lines}) == 1
    heads = [head.strip() for head in lines[0].split("|")]
    for name, row in measured.items():
        (line,) = [line for line in lines if f"(cards/{name}.md)" in line]
        value = row.metrics["cross_validation"]["values"]["log_loss"]["value"]
        assert line.split("|")[heads.index("Log loss")].strip().startswith(f"{value:.3f}")


def test_the_table_of_people_tells_who_is_called_wrongly(render_figures, tmp_path, monkeypatch):
    for name, means in zip(list(weights())[:2], ((0.9, 0.2), (0.6, 0.8)), strict=True):
        rows = [
            {"subject": subject, "label": label, "cells": 7, "mean_probability": mean}
            for subject, label, mean in zip(("1", "H1"), ("all", "hem"), means, strict=True)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "cross_validation.json").write_text(json.dumps({"per_subject": rows}))
    monkeypatch.setattr(render_figures, "RESULTS", tmp_path / "benchmark.json")
    lines = render_figures.results_table("people").splitlines()
    assert lines[2:] == ["| 1 | all | 7 | 0.900 | 0.600 | 2 of 2 |", "| H1 | hem | 7 | 0.200 | 0.800 | 1 of 2 |"]
    # Where one weight was judged when two numbers of a person still counted as two, its people are others.
    rows.append({**rows[0], "subject": "2"})
    (tmp_path / name / "cross_validation.json").write_text(json.dumps({"per_subject": rows}))
    *lines, empty, told = render_figures.results_table("people").splitlines()
    assert lines[2:] == ["| 1 | all | 7 | 0.900 | 1 of 1 |", "| H1 | hem | 7 | 0.200 | 1 of 1 |"]
    assert not empty
    assert f"`{name}`" in told


def test_every_measure_is_in_the_glossary():
    from leukaemia_zoo.zoo.cards import TITLES

    pages = (ROOT / "docs" / f"glossary-{name}.md" for name in ("medicine", "computing"))
    terms = re.findall(
        r"^(?!#|:)(.+)\n:   ", "\n".join(page.read_text(encoding="utf-8") for page in pages), re.MULTILINE
    )
    assert len(terms) > 60
    known = {word.strip().lower() for term in terms for word in term.split(",")}
    assert {title for title in TITLES.values() if title.lower() not in known} == set()
    for page in (ROOT / "docs" / "glossary-medicine.md", ROOT / "docs" / "glossary-computing.md"):
        for block in re.split(r"^## .+$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            own = [term.strip("`").lower() for term in re.findall(r"^(?!#|:)(.+)\n:   ", block, re.MULTILINE)]
            assert own == sorted(own), f"{page.name} is not in the order of the alphabet"


def test_the_pictures_of_the_front_page_are_there_and_small(render_figures):
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[(.*?)\]\((assets/[^)]+)\)", text)
    assert len(pictures) == 4
    for told, name in pictures:
        assert len(told) > 40, f"{name} is not described for those who cannot see it"
        file = ROOT / "docs" / name
        assert file.is_file(), "run: python tools/render_figures.py --pictures"
        assert file.stat().st_size < 100_000


def test_the_curve_of_the_front_page_is_that_of_the_results(render_figures):
    front_pictures = _import("tools/front_pictures.py")
    found = json.loads(render_figures.RESULTS.read_text(encoding="utf-8"))
    drawn = front_pictures.curve(found)
    assert drawn == front_pictures.curve(found)  # the same bytes for the same results
    found["models"]["cnn"]["curves"]["roc"]["tpr"] = [0.5 for _ in found["models"]["cnn"]["curves"]["roc"]["tpr"]]
    assert drawn != front_pictures.curve(found)


def test_every_option_of_training_is_told():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    options = re.findall(r"--[a-z-]+", _help_of("train"))
    assert {option for option in options if option != "--help" and option not in text} == set()


def test_every_file_has_its_place_in_the_guide():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "leukaemia_zoo"
    for wing in (path.parent for path in package.glob("*/__init__.py")):
        row = re.search(rf"^\| `{wing.name}` \|(.*)", text, re.MULTILINE)
        assert row is not None, f"the guide has no row for {wing.name}"
        assert set(re.findall(r"`(\w+\.py)`", row[1])) == {path.name for path in wing.glob("*.py")} - {"__init__.py"}
    # Where the guide sends people who add something, there is something.
    named = re.findall(r"`((?:[a-z]+/)+\w+\.(?:py|json))`", text)
    assert named
    assert {name for name in named if not any((at / name).is_file() for at in (ROOT, package))} == set()


def test_every_error_is_in_the_reference():
    from leukaemia_zoo import errors

    page = (ROOT / "docs" / "api" / "errors.md").read_text(encoding="utf-8")
    known = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(re.findall(r"^::: leukaemia_zoo\.errors\.(\w+)$", page, re.MULTILINE)) == known


@pytest.mark.parametrize("page", PAGES)
def test_every_mark_of_a_page_has_its_renderer(hooks, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- zoo: (\w+)", text, re.MULTILINE)
    assert set(marks) <= set(hooks.RENDERERS)
    assert len(marks) == len(hooks.MARK.findall(text))


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_lead_somewhere(page):
    file = ROOT / page
    # Pages that the build makes: docs/generated_pages.py.
    made = {f"cards/{name}.md" for name in ("index", *weights())}
    made |= {f"notebooks/{path.stem}.md" for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")}
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists() or target in made, target


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_pages_runs(page, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if not blocks:
        pytest.skip("there is no Python on this page")
    if any("load_model(" in block for block in blocks) and not _weights_are_here():
        pytest.skip("the pretrained weights are not in this package")
    shutil.copytree(ROOT / "examples" / "cells", tmp_path / "examples" / "cells")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__documentation__"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_the_learning_curves_are_told_with_their_cost(render_figures, tmp_path):
    file = tmp_path / "finetune.json"
    assert render_figures.finetuning_table("table", file) == render_figures.NOTHING_YET
    spread = {"mean": 0.8, "low": 0.75, "high": 0.85}
    row = {"way": "cnn.cnmc", "per_class": 10, "seeds": 2, "accuracy": spread, "macro_f1": spread, "peak_mb": 1500}
    row |= {"seconds": {"mean": 11.6, "low": 11, "high": 12}}
    runs = [{"way": "cnn.cnmc", "per_class": 10, "stage": stage} for stage in ("classifier", "fine-tuning")]
    runs.append({"way": "cnn.cnmc", "per_class": 25, "stage": "fine-tuning"})
    about = {"data": "D", "test": "T", "time_budget_s": 12.0, "crop": "C", "tuning": "Tuned on D."}
    about |= {"environment": {"cores": 2, "processor": "P", "backend": "jax"}}
    about |= {"transductive": {"weights": ["cnn.cnmc"], "told": "saw D"}}
    file.write_text(json.dumps({**about, "table": [row], "runs": runs}))
    table = render_figures.finetuning_table("table", file).splitlines()
    assert table[2] == ("| cnn.cnmc | 10 | 0.800 (0.750 to 0.850) | 0.800 (0.750 to 0.850) | 12 | 1.5 GB | 1 of 2 |")
    notes = render_figures.finetuning_table("notes", file)
    assert "after 12 seconds; each training had 2 cores (P), jax" in notes
    assert "`cnn.cnmc`: saw D" in notes


def test_speed_is_told_from_what_was_measured(render_figures, tmp_path):
    file = tmp_path / "speed.csv"
    assert render_figures.speed_table("weights", file) == render_figures.NOT_MEASURED
    rows = ["part,weight,what,value,unit,cores", "start,cnn,leukaemia-zoo predict,0.76,s,2"]
    rows += ["folder,cnn,share of the bare engine,0.934,of 1,2", "folder,cnn,faster than Keras,1.9,times,2"]
    for name in ("Keras, TensorFlow", "engine"):
        for what, value in (
            ("one cell", 12.3),
            ("many cells", 81.2),
            ("to the first verdict", 3.1),
            ("peak memory", 1234),
        ):
            rows.append(f'weights,cnn,"{name}, {what}",{value},x,2')
    rows.append('weights,cnn,"engine, difference from Keras",3.2e-06,probability,2')
    costs = {"1 views": 0.0138, "2 views": 0.0053, "4 views": 0.0015, "8 views": 0, "int8": 0.0011}
    rows += [f'accuracy,folds,"{what}, AUROC lost",{lost},AUROC,2' for what, lost in costs.items()]
    rows += [f'accuracy,folds,"{what}, other label",0.012,of 1,2' for what in costs]
    file.write_text("\n".join([*rows, "accuracy,folds,cells,3000,cells,2"]) + "\n", encoding="utf-8")
    summary = render_figures.speed_table("summary", file).splitlines()
    assert summary[2:5] == [
        "| leukaemia-zoo predict | `cnn` | 0.76 s |",
        "| share of the bare engine | `cnn` | 93 % |",
        "| faster than Keras | `cnn` | 1.9 times |",
    ]
    table = render_figures.speed_table("weights", file).splitlines()
    assert table[2] == "| `cnn` | Keras, TensorFlow | 12.3 | 81.2 | 3.1 | 1,234 |  |"
    assert table[3] == "| `cnn` | engine | 12.3 | 81.2 | 3.1 | 1,234 | 3e-06 |"
    assert render_figures.speed_table("engine", file).splitlines()[2:] == [
        "| `cnn` | 12.3 | 81.2 |  | 81.2 |  | 3.1 | 1,234 | 3e-06 |",
        "",
        "On 2 cores.",
    ]
    assert render_figures.speed_table("accuracy", file).splitlines()[2] == (
        "| folds | 3,000 | 0.0138 (1.2 %) | 0.0053 (1.2 %) | 0.0015 (1.2 %) | 0.0011 (1.2 %) |"
    )


def test_the_example_draws_its_picture(tmp_path, capsys):
    if not _weights_are_here():
        pytest.skip("the pretrained weights are not in this package")
    picture = tmp_path / "attention.png"
    _import("examples/predict_folder.py").main(ROOT / "examples" / "cells", picture)
    assert picture.stat().st_size < 100_000
    assert re.search(r"'subject': '901', .*'cells': 2", capsys.readouterr().out)


def test_the_shipped_picture_is_small():
    picture = ROOT / "docs" / "assets" / "attention.png"
    if weights():
        assert picture.is_file(), "run: python examples/predict_folder.py --picture docs/assets/attention.png"
        assert picture.stat().st_size < 100_000


def _help_of(*command: str) -> str:
    command = (sys.executable, "-m", "leukaemia_zoo", *command, "--help")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _weights_are_here() -> bool:
    spec = weights().get("cnn_attention.cnmc")
    return spec is not None and packaged_file(spec).is_file()
