r"""Whether an answer only repeats the question.

"Simplify $(u+4)(u-1)-(u-3)(u+6)$" has the answer 14, and the question's own expression equals it. A
policy that copies it would be right by equality, whatever it can do.
"""

import re
from functools import lru_cache

from cotree.rewards.answer import number
from cotree.rewards.equality.text import clean
from cotree.rewards.types import Problem

LONGER_BY = 3
"""Characters by which an unfinished answer with a single operation is longer, at least."""

_OPERATION = re.compile(
    r"[+*/^!]|(?<=[\w)|\]])-"
    r"|\\(?:[dt]?frac|cdot|times|div|sqrt|[dt]?binom|sin|cos|tan|log|ln|exp|int|sum|prod|lim)"
)
_LOOSE = re.compile(r"\\left|\\right|\\[,;:! ]|[\s${}]")


def restates(answer: str, problem: Problem) -> bool:
    r"""Whether the answer is an expression of the question that is yet to be worked out.

    It is when it stands in the question as it is (spaces, braces and the size of brackets aside),
    is not the reference itself, and has two operations in it, or one and is longer than the
    reference. A number or a fraction of numbers is an answer, wherever it also stands.

    Args:
        answer: as extracted, and equal to the reference.
        problem: its question is looked at; one without a question is never restated.
    """
    text, reference = _bare(answer).rstrip("."), _bare(problem.reference)
    num_operations = len(_OPERATION.findall(text))
    if not num_operations or text in reference or reference in text.split("="):
        return False
    if num_operations < 2 and len(text) < len(reference) + LONGER_BY:
        return False
    return text in _bare(problem.question) and number(clean(answer).rstrip(".")) is None


@lru_cache(maxsize=4096)
def _bare(text: str) -> str:
    return _LOOSE.sub("", clean(text))
