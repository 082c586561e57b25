"""MkDocs hooks: what the pages say about models comes from the registry and from the commands themselves.

A line `<!-- zoo: NAME ARGUMENTS -->` in a page is replaced by what the function of that name in `RENDERERS` returns, so
that no figure, parameter count or output of a command is typed by hand.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leukaemia_zoo.training.recipes import recipe_for
from leukaemia_zoo.zoo.registry import ARCHITECTURES, weights

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))  # MkDocs takes it back when the hook is loaded

import page_parity as _parity  # noqa: E402
import render_figures as _figures  # noqa: E402

MARK = re.compile(r"^<!-- zoo: (\w+)(?: (.+?))? -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page."""
    markdown = MARK.sub(lambda found: RENDERERS[found[1]](found[2] or ""), markdown)
    return re.sub(r"(\d) \(([\d.-]+) to ([\d.-]+)\) \|", r"\1&nbsp;(\2&nbsp;to&nbsp;\3) |", markdown)


def architectures(_: str) -> str:
    """Table of the architectures, the networks of the original system first."""
    lines = ["| Name | Network | Input | Parameters | Heads | Source |", "|---|---|---|---|---|---|"]
    for spec in sorted(ARCHITECTURES.values(), key=lambda spec: spec.default_weight is None):
        height, width = spec.input_size
        heads = ", ".join(f"`{head}`" for head in spec.heads)
        lines.append(
            f"| `{spec.name}` | {spec.title} | {height}&nbsp;x&nbsp;{width} | {spec.parameters:,} | {heads} | "
            f"{_linked(spec.source)} |"
        )
    return "\n".join(lines)


def weight_table(_: str) -> str:
    """Table of the pretrained weights."""
    specs = weights().values()
    if not specs:
        return _figures.NOTHING_YET
    lines = ["| Weight | Head | Input | Views | Parameters | File | Classes | Licence |", "|---" * 8 + "|"]
    for spec in specs:
        config = spec.config
        height, width = config.preprocessing.input_size
        lines.append(
            f"| `{spec.name}` | `{config.head}` | {height} x {width} | {config.views} | {spec.parameters:,} | "
            f"{spec.size / 1e6:.1f} MB | {', '.join(f'`{name}`' for name in config.class_names)} | {spec.licence} |"
        )
    return "\n".join(lines)


def figures(_: str) -> str:
    """The block of README.md."""
    return _figures.figures(weights().values())


def aims(_: str) -> str:
    """How far the weights are from what the zoo aims for, and what their figures do not show."""
    return f"{_figures.aims(weights().values())}\n\n{_figures.shortcomings()}"


def original(_: str) -> str:
    """The original system's table beside ours."""
    return _figures.original_table()


def ood(kind: str) -> str:
    """One table about the OOD score, or what it was measured on."""
    return _figures.ood_table(kind)


def segmentation(kind: str) -> str:
    """One table about cutting cells out, or what its scale stands on."""
    return _figures.segmentation_table(kind)


def explanations(kind: str) -> str:
    """The table of maps on real cells, or what it was measured on."""
    if (found := _figures.measured(ROOT / "results" / "explanations.json")) is None:
        return _figures.NOTHING_YET
    if kind == "notes":
        return (
            f"{found['cells']} cells of {found['subjects']} people, half of each class; the two columns on the right: "
            f"Spearman's rank correlation with occlusion over the pixels of {found['asked']} of these cells. "
            f"Intervals: {found['intervals']}."
        )
    methods = {"grad_cam": "Grad-CAM", "hires_cam": "HiResCAM", "attention": "attention"}
    heads = ["Weight", "Cell covers", *methods.values(), "Grad-CAM like occlusion", "HiResCAM like occlusion"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in found["weights"].items():
        own = row["methods"]
        cells = [_figures.interval(own[method]["share_inside"]) if method in own else "" for method in methods]
        agree = [_figures.interval(own[method]["agrees_with_occlusion"]) for method in ("grad_cam", "hires_cam")]
        lines.append(f"| {' | '.join([f'`{name}`', _figures.interval(row['cell_share']), *cells, *agree])} |")
    return "\n".join(lines)


def fields(kind: str) -> str:
    """The table of the command `cells` on whole fields, or what it was measured on."""
    if (found := _figures.measured(ROOT / "results" / "fields.json")) is None:
        return _figures.NOTHING_YET
    if kind == "notes":
        told = ", ".join(f"{count} {answer}" for answer, count in found["answers"].items() if count)
        return (
            f"A cell is found if its box and that of a person overlap by half. The scale was {found['scale']} "
            f"`{found['model']}` answered: {told}; the stain of this laboratory is not that of the training. "
            f"Intervals: {found['intervals']}."
        )
    names = {
        "all": "all",
        "reported": "those on which no parameter was chosen",
        "not_looked_at": "of these, those never looked at before",
    }
    lines = ["| Fields | Number | Boxes of people | Cells | Recall | Precision |", "|---" * 6 + "|"]
    for key, title in names.items():
        own = found[key]
        shares = [_figures.interval(own[name]) for name in ("recall", "precision")]
        lines.append(f"| {title} | {own['fields']} | {own['boxes']} | {own['cells']} | {' | '.join(shares)} |")
    return "\n".join(lines)


def precision(_: str) -> str:
    """How lower precision changes verdicts."""
    return _figures.precision_table()


def benchmark_table(name: str) -> str:
    """One table of the zoo's own report."""
    from leukaemia_zoo.report.contents import Contents
    from leukaemia_zoo.report.tables import tables
    from leukaemia_zoo.report.text import markdown_table

    contents = Contents(json.loads(_figures.RESULTS.read_text(encoding="utf-8")))
    return "\n".join(markdown_table(tables(contents)[name]))


def recipe(names: str) -> str:
    """Table of the recipes of some architectures, side by side."""
    recipes = {name: recipe_for(name) for name in names.split()}
    lines = ["| Setting | " + " | ".join(f"`{name}`" for name in recipes) + " |", "|---|" + "---|" * len(recipes)]
    rows = {name: _settings(found) for name, found in recipes.items()}
    for setting in next(iter(rows.values())):
        lines.append(f"| `{setting}` | " + " | ".join(str(row.get(setting, "")) for row in rows.values()) + " |")
    return "\n".join(lines)


def _settings(found: Any) -> dict[str, str]:
    settings = {key: value for key, value in dataclasses.asdict(found).items() if key != "architecture"}
    inner = settings.pop("distillation") or {}
    settings |= {f"distillation.{key}": value for key, value in inner.items()}
    return {key: _plain(value) for key, value in settings.items()}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        pairs = all(isinstance(item, list | tuple) for item in value)
        return (
            "<br>".join(f"`{own}` like `{other}`" for own, other in value) if pairs else ", ".join(map(_plain, value))
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def run(arguments: str) -> str:
    """A command of ours and what it prints, run in the root of the repository."""
    if not weights() and shlex.split(arguments)[0] == "predict":
        return f"```console\n$ leukaemia-zoo {arguments}\n```\n\n{_figures.NOTHING_YET}"
    result = subprocess.run(
        [sys.executable, "-m", "leukaemia_zoo", *shlex.split(arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"leukaemia-zoo {arguments} failed: {result.stderr}")
    return f"```console\n$ leukaemia-zoo {arguments}\n{result.stdout}```"


def source(path: str) -> str:
    """A file of the repository as a block of code."""
    return f"```python\n{(ROOT / path).read_text(encoding='utf-8')}```"


def picture(arguments: str) -> str:
    """A picture of the documentation, where it exists, with what is said of it to those who cannot see it."""
    path, _, told = arguments.partition(" ")
    if (ROOT / "docs" / path).is_file():
        return f"![{told}]({path}){{ loading=lazy }}"
    return _figures.NOTHING_YET.replace("figures", "pictures")


def addresses(_: str) -> str:
    """Where the code and the app are on the web, once pyproject.toml says it."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    told = {"Space": "Try it in the browser, on a Hugging Face Space", "Repository": "The code, and where to ask"}
    return "\n".join(f"- [{words}]({urls[name]})" for name, words in told.items() if "/OWNER/" not in urls[name])


def _linked(text: str) -> str:
    """The text with every doi as a link."""
    return re.sub(r"doi (10\.\S+?)(?=[,;.]?(?:\s|$))", r"[doi \1](https://doi.org/\1)", text)


def page_parity(_: str) -> str:
    """How far the page in the browser is from Python."""
    return _parity.table(json.loads(_parity.RESULTS.read_text(encoding="utf-8")))


RENDERERS: dict[str, Callable[[str], str]] = {
    "architectures": architectures,
    "weights": weight_table,
    "figures": figures,
    "aims": aims,
    "original": original,
    "results": lambda kind: _figures.results_table(kind),
    "addresses": addresses,
    "ood": ood,
    "segmentation": segmentation,
    "precision": precision,
    "explanations": explanations,
    "fields": fields,
    "finetuning": lambda kind: _figures.finetuning_table(kind),
    "transfer": lambda _: _figures.transfer_table(),
    "speed": lambda kind: _figures.speed_table(kind),
    "trainings": lambda _: _figures.training_table(),
    "benchmark_table": benchmark_table,
    "recipe": recipe,
    "run": run,
    "page_parity": page_parity,
    "source": source,
    "picture": picture,
}
