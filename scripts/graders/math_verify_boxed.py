r"""math-verify as its authors mean it to be used, for `scripts/bench_graders.py`."""

from math_verify import parse, verify

from cotree.rewards.types import Problem

WARM = verify(parse(r"\boxed{1}"), parse(r"\boxed{x+1}"))


def reference_in_box(completion: str, problem: Problem) -> float:
    r"""Its own extraction from the whole completion; the reference in `\boxed{}`."""
    gold = parse(rf"\boxed{{{problem.reference}}}")
    return float(verify(gold, parse(completion)))
