"""What the features of a weight are worth on another laboratory's cells: few cells a class, people apart.

    python tools/transfer_results.py --data DeepAPL --weights mobilenet.pbc mobilenet.cnmc --out results/transfer.json

`--data` is a folder with `cells.csv` (path, label, subject) such as DeepAPL, cells of patients with acute leukaemia
(github.com/sidhomj/DeepAPL, no licence stated: nothing that is shipped may be trained on it). In each of five draws
half of the people test; of the others so many cells a class are drawn, a logistic regression learns from their
embeddings (means over the views of the weight), standardised, and is judged by the macro-averaged F1 of the classes.
Nothing is chosen on the people who test: penalty (C = 0.01) and crop are the same for all weights. (The blocks of
`efficientnet_lite0.pbc` were chosen by these figures.)

With `--fine-tune` the same people and numbers go through `fine_tune` instead, as a user would call it: each draw learns
from that many cells a class of one half of the people, chooses on folds of them, and is judged on the other half.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leukaemia_zoo import embed, fine_tune
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.common.files import write_json
from leukaemia_zoo.engine.network import Network

CROP = 0.84
"""Share of the frame, as the trunk that was taught on photographs of single cells takes it."""


def main() -> None:
    """Measure every weight and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME", help="name in the zoo or folder")
    parser.add_argument("--without", nargs="*", default=["variant_lymphocyte"], metavar="CLASS", help="left out")
    parser.add_argument("--per-class", nargs="+", type=int, default=[10, 25, 100], metavar="N")
    parser.add_argument("--draws", type=int, default=5, metavar="N")
    parser.add_argument("--fine-tune", action="store_true", help="by fine_tune instead of a logistic regression")
    parser.add_argument("--unfreeze", default=None, metavar="LAYERS", help="of fine_tune: how many layers, or all")
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    with (options.data / "cells.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] not in options.without]
    paths = [options.data / row["path"] for row in rows]
    labels, subjects = (np.array([row[key] for row in rows]) for key in ("label", "subject"))
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out and options.out.is_file() else {}
    own = "fine_tuned" if options.fine_tune else "weights"
    found = known.get(own, {})
    for name in options.weights:
        features = None if options.fine_tune else embed(network(name), paths)
        found[name] = {}
        for number in options.per_class:
            scores = [
                score(features, labels, subjects, number, seed)
                if features is not None
                else tuned_score(name, table(paths, labels, subjects), number, seed, options.unfreeze)
                for seed in range(options.draws)
            ]
            mean, low, high = (float(statistic(scores)) for statistic in (np.mean, np.min, np.max))
            found[name][str(number)] = {"mean": mean, "low": low, "high": high}
            print(f"{name}, {number} cells a class: macro-F1 {mean:.3f} ({low:.3f} to {high:.3f})", flush=True)
    if options.out:
        about = {
            "data": options.data.name,
            "cells": len(rows),
            "people": len(set(subjects.tolist())),
            "classes": sorted(set(labels.tolist())),
            "draws": options.draws,
            "crop_fraction": CROP,
        }
        others = {key: known[key] for key in ("weights", "fine_tuned") if key in known}
        write_json(options.out, {**about, **others, own: dict(sorted(found.items()))})


def network(name: str) -> Network:
    """The weight with one crop for all."""
    loaded = Network.load(name)
    crop = dataclasses.replace(loaded.zoo.preprocessing, crop_fraction=CROP, reference_frame=None)
    loaded.zoo = dataclasses.replace(loaded.zoo, preprocessing=crop)
    return loaded


def score(features: np.ndarray, labels: np.ndarray, subjects: np.ndarray, number: int, seed: int) -> float:
    """Macro-averaged F1 on people who were not drawn from."""
    rng = np.random.default_rng(seed)
    people = rng.permutation(np.unique(subjects))
    test = np.isin(subjects, people[: len(people) // 2])
    own = [rng.permutation(np.flatnonzero((labels == label) & ~test))[:number] for label in np.unique(labels)]
    train = np.concatenate(own)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    classifier.fit(features[train], labels[train])
    return float(f1_score(labels[test], classifier.predict(features[test]), average="macro"))


def table(paths: list[Path], labels: np.ndarray, subjects: np.ndarray) -> Cells:
    """The cells as `fine_tune` takes them."""
    names = tuple(sorted(set(labels.tolist())))
    numbers = np.array([names.index(label) for label in labels])
    return Cells(tuple(paths), numbers, tuple(subjects.tolist()), names, ("",) * len(paths), "csv")


def tuned_score(name: str, cells: Cells, number: int, seed: int, unfreeze: str | None) -> float:
    """Macro-averaged F1 of the fine-tuned weight on the half of the people that it has not learnt from."""
    layers = {} if unfreeze is None else {"unfreeze": unfreeze if unfreeze == "all" else int(unfreeze)}
    settings = {"test_share": 0.5, "per_class": number, "seed": seed, "cost": False, "resamples": 100, "log": None}
    tuned = fine_tune(name, cells, **settings, **layers)
    (judged,) = (block for name, block in tuned.report.data["models"].items() if name.startswith("fine-tuned"))
    print(f"  draw {seed}: {judged['metrics']['macro_f1']['value']:.3f}, {tuned.record['chosen']}", flush=True)
    return float(judged["metrics"]["macro_f1"]["value"])


if __name__ == "__main__":
    main()
