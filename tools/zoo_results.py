"""Judge the whole zoo and keep its results in `results/`, from which README and documentation render their tables.

    python tools/zoo_results.py --data C-NMC_Leukemia            # judges: some minutes a small network
    python tools/zoo_results.py --data C-NMC_Leukemia --models cnn cnn_attention mobilenet
    python tools/zoo_results.py --report runs/zoo                # keeps a report that `benchmark` wrote

The first form runs what `leukaemia-zoo benchmark NAME... --data DIR --cross-validate 5 --out runs/zoo` runs, for every
weight that is there; on two cores a large network takes a quarter of an hour. `benchmark.json` and `benchmark.csv` hold
its report without what may not be published or is of no use here: pictures of cells, and the list of files (its hash
stays).
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from leukaemia_zoo import Report, benchmark, list_models
from leukaemia_zoo.common.files import replacing, write_json
from leukaemia_zoo.report.contents import Contents
from leukaemia_zoo.report.text import as_csv

RESULTS = Path(__file__).parents[1] / "results"


def keep(report: Report, folder: Path = RESULTS) -> None:
    """Write the two files."""
    data = report.to_dict()
    data["data"].pop("manifest", None)
    for model in data["models"].values():
        for cell in model.get("worst_cells", ()):
            cell.pop("png", None)
    write_json(folder / "benchmark.json", data)
    rows = list(csv.reader(io.StringIO(as_csv(Contents(data)))))
    with replacing(folder / "benchmark.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    """Judge or read, keep, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="C-NMC 2019 as downloaded")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all that have weights")
    parser.add_argument("--report", type=Path, metavar="DIR", help="what `benchmark` wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), metavar="DIR", help="default: %(default)s")
    options = parser.parse_args()
    if (options.data is None) == (options.report is None):
        parser.error("give either --data or --report")
    if options.report is not None:
        report = Report.load(options.report)
    else:
        names = options.models or sorted({name.split(".")[0] for name in list_models(pretrained=True)})
        report = benchmark(names, options.data, out=options.out, refit_folds=5, log=print)
    keep(report)
    print(report)


if __name__ == "__main__":
    main()
