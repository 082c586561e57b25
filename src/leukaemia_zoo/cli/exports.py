"""``leukaemia-zoo export``: a network as one file for other programs."""

from __future__ import annotations

import argparse


def export(options: argparse.Namespace) -> int:
    """Write the file and say how it compares."""
    from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS, printable
    from leukaemia_zoo.exporting.export import export as write

    exported = write(
        options.model,
        options.out,
        to=options.to,
        int8=options.int8,
        calibration=options.calibration,
        views=options.views,
    )
    kind = "cells that it was not calibrated on" if options.int8 else "golden cells"
    print(
        f"{printable(str(exported.file))}: {exported.size / 1e6:.1f} MB; on {exported.cells} {kind} it differs from "
        f"the network by at most {exported.difference:.1g} in probability and names another class for "
        f"{exported.changed}."
    )
    print(NOT_A_DIAGNOSIS)
    return 0
