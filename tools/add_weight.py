"""Put a trained network into the zoo: its row into `weights.json`, its file into the package, or beside it if large.

    python tools/add_weight.py runs/attention --name cnn_attention.cnmc --cross-validation runs/attention_cv \\
        --licence Apache-2.0 --citation "..." --data pbc.json

A weight of cells without subjects, such as those of PBC, has no cross-validation: leave `--cross-validation` out.
`--data` is a JSON list of further sources, such as the unlabelled images of the distillation, each with `name`,
`source` and `licence`. A weight of the same name is replaced. A file of more than 4 MB goes into `weights/` at the root
of the checkout, which is in no archive. Afterwards make the figures anew with `python tools/render_figures.py`, and the
outputs that the tests compare with by `python tools/golden_outputs.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from leukaemia_zoo.common.files import check_integrity, write_json
from leukaemia_zoo.zoo.loading import load_model
from leukaemia_zoo.zoo.registry import WeightSpec
from leukaemia_zoo.zoo.sources import read_saved

PACKAGE = Path(__file__).parents[1] / "src" / "leukaemia_zoo"
LARGEST_PACKAGED = 4_000_000  # bytes: the wheel stays below 10 MB with two of them


def add_weight(
    folder: Path, name: str, cross_validation: Path | None, about: dict[str, Any], package: Path = PACKAGE
) -> WeightSpec:
    """Copy the file and write the row; return the row."""
    spec, file = read_saved(folder)
    check_integrity(file, spec.sha256, spec.size)
    load_model(folder)  # a network that does not load has no place in the package
    architecture, _, data_set = name.partition(".")
    if architecture != spec.config.architecture or not data_set:
        raise SystemExit(f"A weight of {spec.config.architecture} is named {spec.config.architecture}.<data set>.")
    row = dataclasses.replace(
        spec,
        name=name,
        config=dataclasses.replace(spec.config, weight=name),
        file=f"{name}.safetensors",
        metrics={**(_cross_validation(cross_validation, architecture) if cross_validation else {}), **spec.metrics},
        data=(*spec.data, *about.pop("data")),
        **about,
    )
    place = (package if spec.size <= LARGEST_PACKAGED else package.parents[1]) / "weights"
    place.mkdir(exist_ok=True)
    shutil.copyfile(file, place / row.file)
    table = package / "weights.json"
    rows = {old["name"]: old for old in json.loads(table.read_text(encoding="utf-8"))} | {name: row.to_dict()}
    write_json(table, [rows[key] for key in sorted(rows)])
    return row


def _cross_validation(folder: Path, architecture: str) -> dict[str, Any]:
    """The figures of a weight from what `leukaemia-zoo train --cross-validate` left."""
    found = json.loads((folder / "cross_validation.json").read_text(encoding="utf-8"))
    if found["recipe"]["architecture"] != architecture:
        raise SystemExit(f"{folder} holds the cross-validation of {found['recipe']['architecture']}.")
    cells, drawn = found["cells"], found["metrics"]
    classes = ", ".join(f"{counts['subjects']} {name}" for name, counts in cells["classes"].items())
    where = (
        f"{cells['cells']:,} cells of {cells['subjects']} subjects ({classes}) in {len(found['folds'])} folds by "
        f"subject, pooled; intervals from {drawn['resamples']:,} resamples by {drawn['unit']}"
    )
    return {
        "cross_validation": {"on": where, "values": drawn["intervals"]},
        "cross_validation_area_baseline": {"on": where, "values": found["area_baseline"]["intervals"]},
    }


def main() -> None:
    """Parse, add, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `leukaemia-zoo train` left")
    parser.add_argument("--name", required=True, help="architecture.dataset")
    parser.add_argument("--cross-validation", type=Path, metavar="DIR", help="of the same recipe")
    parser.add_argument("--licence", required=True)
    parser.add_argument("--citation", required=True)
    parser.add_argument("--data", type=Path, metavar="FILE", help="further sources as JSON")
    options = parser.parse_args()
    about = {
        "licence": options.licence,
        "citation": options.citation,
        "data": json.loads(options.data.read_text(encoding="utf-8")) if options.data else [],
    }
    row = add_weight(options.folder, options.name, options.cross_validation, about)
    print(f"{row.name}: {row.size:,} bytes, sha256 {row.sha256}")


if __name__ == "__main__":
    main()
