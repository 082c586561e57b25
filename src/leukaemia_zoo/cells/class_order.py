"""In which order classes stand: of two the last is the positive one, of which sensitivity and AUROC speak.

Names are sorted as a person would; but `leukemia` stands before `normal` in the alphabet, and a report would then give
the sensitivity for normal cells. So where the name of one of two classes says that it is the diseased or the healthy
one, that decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_POSITIVE = re.compile(
    r"all|aml|apl|cll|cml|leuka?emi(a|as|c)|(lympho|myelo|mono)?blasts?|malignan(t|cy)|cancer(ous)?|tumou?r|neoplastic|"
    r"pos(itive)?|abnormal|pathological|diseased?|sick|patients?|cases?|affected"
)
_NEGATIVE = re.compile(
    r"hem|normal|healthy|benign|neg(ative)?|controls?|no|not|non|without|unaffected|"
    r"non(leuka?emic|malignant|cancerous|diseased)"
)


def positive_last(names: Sequence[str]) -> tuple[str, ...]:
    """Class names with the positive of two at the end, where their names tell it; else as they are.

    Example:
        >>> positive_last(["leukemia", "normal"]), positive_last(["blast", "lymphocyte"]), positive_last(["a", "b"])
        (('normal', 'leukemia'), ('lymphocyte', 'blast'), ('a', 'b'))
    """
    return tuple(sorted(names, key=_rank)) if len(names) == 2 else tuple(names)


def _rank(name: str) -> int:
    """-1 for a name of what is healthy, 1 for one of what is not, 0 for others; "non-leukemic" is healthy."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    if any(map(_NEGATIVE.fullmatch, words)):
        return -1
    return int(any(map(_POSITIVE.fullmatch, words)))
