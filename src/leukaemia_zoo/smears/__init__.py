"""From a field of a smear to single cells on black, and the same stain for all."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.smears.fields import ExtractedCell, estimate_scale, extract_cells, reject
    from leukaemia_zoo.smears.segmentation import cell_mask, segment_cell
    from leukaemia_zoo.smears.slides import Slide
    from leukaemia_zoo.smears.stains import normalise_stain

__getattr__, __dir__, __all__ = lazily(__name__)
