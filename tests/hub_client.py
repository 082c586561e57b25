"""The command line in a process of its own, with a registry of the test's: `hub_client.py ROWS.json ARGUMENT...`.

The client of the Hub reads its environment when it is imported, so that each test of it needs a new process. Nothing of
the client is replaced.
"""

import json
import sys
from pathlib import Path

from leukaemia_zoo.cli import app
from leukaemia_zoo.zoo import registry

if __name__ == "__main__":
    rows = [registry.WeightSpec.from_dict(row) for row in json.loads(Path(sys.argv[1]).read_text())]
    registry.weights = lambda: {row.name: row for row in rows}
    sys.exit(app.main(sys.argv[2:]))
