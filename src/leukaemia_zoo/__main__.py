"""``python -m leukaemia_zoo``: the command line."""

import sys

from leukaemia_zoo.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
