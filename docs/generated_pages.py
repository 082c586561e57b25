"""MkDocs hook: pages that no file of `docs/` holds, a card for each weight and a page for each notebook.

Cards are what `model_card` says of a weight. Notebooks are run, and shown with what they print and draw; what came out
is kept in `build/notebooks` until the notebook or the package changes, because to run them takes a minute.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from leukaemia_zoo.zoo.cards import model_card
from leukaemia_zoo.zoo.registry import WeightSpec, weights

sys.path.append(str(Path(__file__).parents[1] / "tools"))

import notebooks


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages where the navigation names them."""
    pages = [{notebooks.title(path): f"notebooks/{path.stem}.md"} for path in notebooks.NOTEBOOKS]
    _fill(config.nav, "Notebooks", pages)
    _fill(config.nav, "Model cards", ["cards/index.md", *({name: f"cards/{name}.md"} for name in weights())])
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages, and the pictures of the notebooks."""
    made: dict[str, str | bytes] = {"cards/index.md": cards_page()}
    made |= {f"cards/{spec.name}.md": card(spec) for spec in weights().values()}
    for path in notebooks.NOTEBOOKS:
        text, pictures = notebooks.page(path)
        made[f"notebooks/{path.stem}.md"] = text
        made |= {f"notebooks/{name}": data for name, data in pictures.items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def cards_page() -> str:
    """The table of the cards."""
    lines = ["# Model cards", "", "What is known of each weight, made from its row in the registry.", ""]
    lines += ["| Weight | Classes | Parameters | Licence |", "|---|---|---|---|"]
    for spec in weights().values():
        classes = ", ".join(f"`{name}`" for name in spec.config.class_names)
        lines.append(f"| [`{spec.name}`]({spec.name}.md) | {classes} | {spec.parameters:,} | {spec.licence} |")
    lines += ["", "All figures in one table that can be sorted: [results](../results.md)."]
    return "\n".join(lines) + "\n"


def card(spec: WeightSpec) -> str:
    """The card of a weight as a page of the site: it is loaded by its name, and has no metadata of the Hub."""
    _, _, text = model_card(spec).removeprefix("---\n").partition("\n---\n")
    usage = (
        f"```sh\nleukaemia-zoo predict examples/cells --model {spec.name}\n```\n\n"
        f'```python\nimport leukaemia_zoo as lz\n\nprint(lz.predict("{spec.name}", "examples/cells")[0])\n```\n\n'
        "[Where the file comes from](../hub.md#where-a-weight-comes-from), [limits](../limits.md).\n\n"
    )
    return re.sub(r"(?<=^## How to use\n\n).*?(?=^## )", lambda _: usage, text, count=1, flags=re.MULTILINE | re.DOTALL)


def _fill(nav: list[Any], section: str, pages: list[Any]) -> None:
    """Replace what a section of the navigation holds, wherever in it the section stands."""
    for entry in nav:
        if isinstance(entry, dict):
            for name, below in entry.items():
                if name == section:
                    entry[name] = pages
                elif isinstance(below, list):
                    _fill(below, section, pages)
