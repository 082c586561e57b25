"""What is told of a comparison or a training: plain data, tables, sentences, pictures, pages."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.report.curves import curve_rows
    from leukaemia_zoo.report.report import Comparison, Report

__getattr__, __dir__, __all__ = lazily(__name__)
