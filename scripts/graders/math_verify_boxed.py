r"""math-verify as its authors mean it to be used, for the benchmarks of graders."""

from math_verify import parse, verify

from cotree.rewards.types import Problem, Reward, Status

WARM = verify(parse(r"\boxed{1}"), parse(r"\boxed{x+1}"))


def reference_in_box(completion: str, problem: Problem) -> Reward:
    r"""Its own extraction from the whole completion; the reference in `\boxed{}`.

    The reason says what it took for the answer.
    """
    gold, found = parse(rf"\boxed{{{problem.reference}}}"), parse(completion)
    if not found:
        return Reward(0.0, "took no answer", status=Status.NO_ANSWER)
    texts = [part for part in found if isinstance(part, str)]
    return Reward(float(verify(gold, found)), f"took {texts[0]}" if texts else "")
