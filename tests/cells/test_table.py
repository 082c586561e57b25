import doctest
from pathlib import Path

import numpy as np
import pytest

from leukaemia_zoo.cells import table as module
from leukaemia_zoo.cells.cnmc import CNMC_CLASSES
from leukaemia_zoo.cells.table import Cells
from leukaemia_zoo.errors import DataError

# --- the table ---


def test_cells_refuse_columns_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="one length"):
        Cells((Path("a"),), np.array([0, 1]), ("x",), CNMC_CLASSES, ("",), "csv")
    with pytest.raises(DataError, match="between 0 and 1"):
        Cells((Path("a"),), np.array([2]), ("x",), CNMC_CLASSES, ("",), "csv")
    with pytest.raises(DataError, match="whole numbers"):
        Cells((Path("a"),), np.array([0.5]), ("x",), CNMC_CLASSES, ("",), "csv")


def test_subset_summary_and_description() -> None:
    cells = Cells(
        tuple(Path(f"{name}.png") for name in "abc"),
        np.array([0, 1, 1], np.int8),
        ("H1", "7", None),
        CNMC_CLASSES,
        ("fold_0", "fold_0", "fold_1"),
        "c-nmc",
        ("A note.",),
    )
    assert cells.labels.dtype == np.int64
    part = cells.subset(np.array([2, 0]))
    assert [path.name for path in part.paths] == ["c.png", "a.png"]
    assert part.subjects == (None, "H1")
    assert part.labels.tolist() == [1, 0]
    assert len(cells.subset([])) == 0
    assert cells.summary() == {
        "source": "c-nmc",
        "cells": 3,
        "subjects": 2,
        "cells_without_subject": 1,
        "classes": {"hem": {"cells": 1, "subjects": 1}, "all": {"cells": 2, "subjects": 1}},
        "groups": {"fold_0": 2, "fold_1": 1},
    }
    for text in ("3 cells of 2 known subjects", "all: 2 cells of 1", "1 cells without a subject", "A note."):
        assert text in str(cells)


# --- habits ---


def test_examples_in_docstrings_run() -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
