"""Draw the pictures of the pages on maps and on fields, from the drawn cells and the drawn field of `examples/`.

python tools/draw_pages.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

import leukaemia_zoo as lz

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"

sys.path.insert(0, str(ROOT / "examples"))


def main() -> None:
    """Both pictures, in few colours."""
    from cells_from_fields import draw_field

    with tempfile.TemporaryDirectory() as place:
        maps = lz.explain("cnn_attention", ROOT / "examples" / "cells")
        sheet = lz.explanation.contact_sheet(
            maps, "cnn_attention, grad_cam: evidence for the class of each cell", columns=2
        )
        sheet.quantize(128).save(ASSETS / "explain.png", optimize=True)
        field = Path(place) / "field.png"
        Image.fromarray(draw_field()).save(field)
        lz.examine_fields(field, Path(place) / "out", micrometres_per_pixel=0.1)
        Image.open(Path(place) / "out" / "fields" / "field.png").quantize(64).save(
            ASSETS / "examined.png", optimize=True
        )


if __name__ == "__main__":
    main()
