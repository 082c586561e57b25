"""The command line in a process of its own, with a registry of the test's: `hub_client.py ROWS.json ARGUMENT...`.

The client of the Hub reads its environment when it is imported, so that each test of it needs a new process. Nothing of
the client is replaced; but between attempts it pauses for as long as HUB_CLIENT_PAUSES_S says at most, where it would
take half a minute in all.
"""

import json
import os
import sys
import time
from pathlib import Path

from leukaemia_zoo.cli import app
from leukaemia_zoo.zoo import registry

pause = time.sleep


def short_pause(seconds):
    pause(min(seconds, float(os.environ["HUB_CLIENT_PAUSES_S"])))


if __name__ == "__main__":
    if "HUB_CLIENT_PAUSES_S" in os.environ:
        time.sleep = short_pause
    rows = [registry.WeightSpec.from_dict(row) for row in json.loads(Path(sys.argv[1]).read_text())]
    registry.weights = lambda: {row.name: row for row in rows}
    sys.exit(app.main(sys.argv[2:]))
