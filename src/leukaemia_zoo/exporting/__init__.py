"""Networks as one file for other programs, each run and compared before it is handed over."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.exporting.writing import Exported, export

__getattr__, __dir__, __all__ = lazily(__name__)
