"""From fields of a smear, and whole slides, to a verdict on each white cell, with pictures and tables of them."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.examination.field import ExaminedCell, ExaminedField, examine_field
    from leukaemia_zoo.examination.folder import ExaminedFields, examine_fields

__getattr__, __dir__, __all__ = lazily(__name__)
