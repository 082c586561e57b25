"""What several modules of this wing ask of the real cells."""

import pytest

from leukaemia_zoo.cells import read_data
from leukaemia_zoo.cells.table import Cells


@pytest.fixture(scope="session")
def real_cnmc(shared_data) -> Cells:
    """The cells of C-NMC's training set, read once; nobody may change them."""
    return read_data(shared_data / "cnmc")
