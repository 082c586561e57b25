"""Where in a cell a network finds what it says: maps, pictures of them, and how much of a map lies on the cell."""

from typing import TYPE_CHECKING

from leukaemia_zoo._names import lazily

if TYPE_CHECKING:
    from leukaemia_zoo.explanation.folder import ExplainedFiles, explain_files
    from leukaemia_zoo.explanation.maps import Explanation, explain, iter_explanations
    from leukaemia_zoo.explanation.pictures import contact_sheet, overlay

__getattr__, __dir__, __all__ = lazily(__name__)
