"""A page on one's own machine: cells dropped, verdicts seen."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.desk.page import build_page, serve

__getattr__, __dir__, __all__ = lazily(__name__)
