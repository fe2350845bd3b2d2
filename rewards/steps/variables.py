r"""Equalities with variables whose values the text has given: `x = 5`, later `2x + 1 = 11`.

Only plain statements assign (`x = 5`, not `if x = 5`), and only what follows them is judged. A
variable that gets a second value anywhere may verify an equality but never refutes one: texts
try values out, split cases and start new problems with the old letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.comparison import Judgement, judged
from cotree.rewards.steps.equalities import Equality, Side
from cotree.rewards.steps.evaluation import Reading, amount
from cotree.rewards.types import Verdict


@dataclass(slots=True)
class _Names:
    """What the text has said about its variables so far."""

    latest: dict[str, Fraction] = field(default_factory=dict[str, Fraction])
    unsure: frozenset[str] = frozenset()


def judged_in_order(pairs: Sequence[Equality]) -> list[Judgement]:
    """A judgement for each equality of a text, knowing the variables assigned before it."""
    names = _Names(unsure=_unsure(pairs))
    found: list[Judgement] = []
    for pair in pairs:
        found.append(_judged(pair, names))
        assigned = _assignment(pair)
        if assigned is not None:
            names.latest[assigned[0]] = assigned[1]
    return found


def _judged(pair: Equality, names: _Names) -> Judgement:
    used = _symbols(pair.left) | _symbols(pair.right)
    if not used or not used <= names.latest.keys() or _is_name(pair.left) or _is_name(pair.right):
        return judged(pair, {})
    judgement = judged(pair, names.latest)
    values = ", ".join(f"{name} = {names.latest[name]}" for name in sorted(used))
    if judgement.verdict is Verdict.REFUTED and not used.isdisjoint(names.unsure):
        return judgement._replace(
            verdict=Verdict.UNCHECKED, reason=f"false for {values}, which may not hold here"
        )
    return judgement._replace(reason=f"{judgement.reason} ({values})"[:300])


def _unsure(pairs: Sequence[Equality]) -> frozenset[str]:
    """Names that get two values, or one under a condition."""
    values: dict[str, set[Fraction]] = {}
    unsure: set[str] = set()
    for pair in pairs:
        if not _is_name(pair.left):
            continue
        name = pair.left.tokens[-1].text
        assigned = _assignment(pair)
        if assigned is None or pair.conditional or pair.doubtful or pair.approximate:
            # `x = 2y` or `x = 1, 2` says that x is not one number that we know.
            unsure.add(name)
        else:
            values.setdefault(name, set()).add(assigned[1])
    return frozenset(unsure | {name for name, found in values.items() if len(found) > 1})


def _assignment(pair: Equality) -> tuple[str, Fraction] | None:
    """The name and the value of `x = 5` or `x = 10/2`."""
    if pair.fault or not _is_name(pair.left):
        return None
    try:
        value = amount(pair.right.tokens, Reading(), {}).value
    except UnreadableError:
        return None  # an equation, or a value that no rule here reads
    return pair.left.tokens[-1].text, value


def _is_name(side: Side) -> bool:
    shown = [token for token in side.tokens if token.kind != "currency"]
    return len(shown) == 1 and shown[0].kind == "symbol"


def _symbols(side: Side) -> set[str]:
    return {token.text for token in side.tokens if token.kind == "symbol"}
