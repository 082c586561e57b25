"""Images of single cells, the table of them, its readers, and splits by subject."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.cells.arrays import as_image, as_images
    from leukaemia_zoo.cells.cnmc import (
        canonical_subject,
        official_duplicates,
        official_files,
        parse_cnmc_name,
        subject_from_name,
    )
    from leukaemia_zoo.cells.copies import NearCopy, duplicate_cells, near_copies, pixel_sha256
    from leukaemia_zoo.cells.images import find_images, read_image
    from leukaemia_zoo.cells.manifests import load_manifest, manifest_sha256, save_manifest
    from leukaemia_zoo.cells.preprocessing import Preprocessing, symmetric_views, turned_views
    from leukaemia_zoo.cells.readers import read_cnmc, read_csv, read_data, read_folders
    from leukaemia_zoo.cells.splits import Split, check_split, kfold_by_subject, split_by_subject
    from leukaemia_zoo.cells.table import Cells
    from leukaemia_zoo.cells.verification import VerifyReport, verify

__getattr__, __dir__, __all__ = lazily(__name__)
