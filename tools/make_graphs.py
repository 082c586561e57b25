"""Write the graphs on which the engine predicts without Keras, and what Keras says of golden cells.

    python tools/make_graphs.py            # writes src/leukaemia_zoo/engine/graphs
    python tools/make_graphs.py NAME...    # of these weights alone; the others stay as they are

Run it when a weight was added or replaced, or when `engine/tracing.py` changed. Each graph is compared with Keras
before it is written.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from leukaemia_zoo.common.files import replacing, write_json
from leukaemia_zoo.common.reading import read_json
from leukaemia_zoo.engine.golden import golden_cells
from leukaemia_zoo.engine.graphs import INDEX_FILE, graph_name
from leukaemia_zoo.engine.making import make_graph
from leukaemia_zoo.zoo.loading import load_model
from leukaemia_zoo.zoo.outputs import class_probabilities
from leukaemia_zoo.zoo.registry import weights
from leukaemia_zoo.zoo.sources import find

FOLDER = Path(__file__).parents[1] / "src" / "leukaemia_zoo" / "engine" / "graphs"


def main() -> None:
    """Write one graph a weight, and the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="weights; default: all")
    names = parser.parse_args().names
    if unknown := set(names) - set(weights()):
        parser.error(f"no weight of the zoo: {', '.join(sorted(unknown))}")
    index = read_json(FOLDER / INDEX_FILE) if names else {"graphs": {}, "golden": {}}
    wanted = {graph_name(row.config) for row in weights().values()}
    graphs = {name: digest for name, digest in index["graphs"].items() if name in wanted}
    golden = {name: row for name, row in index["golden"].items() if name in weights()}
    for name in names or sorted(weights()):
        row = weights()[name]
        graph = make_graph(row.config, find(name).file)
        graphs[graph_name(row.config)] = hashlib.sha256(graph).hexdigest()
        with replacing(FOLDER / f"{graph_name(row.config)}.onnx") as beside:
            beside.write_bytes(graph)
        cells = golden_cells(*row.config.preprocessing.input_size)
        expected = class_probabilities(load_model(name), row.config, cells)
        golden[name] = {
            "sha256": row.sha256,
            "probabilities": [[round(p, 7) for p in cell] for cell in expected.tolist()],
        }
        print(f"{graph_name(row.config)}: {len(graph):,} bytes")
    for old in FOLDER.glob("*.onnx"):
        if old.stem not in graphs:
            old.unlink()
    index = {"graphs": dict(sorted(graphs.items())), "golden": dict(sorted(golden.items()))}
    write_json(FOLDER / INDEX_FILE, index)


if __name__ == "__main__":
    main()
