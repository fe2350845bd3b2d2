r"""Equality of two trees, by what they are: numbers, points, sets, equations, words.

`same` is not symmetric: the reference tells what was asked for. A bare value may be answered by a
named one and by a value with a unit, and a point without its brackets; a hedge (`41 or 42`, an
interval around the number) is another kind of thing, and wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from cotree.rewards.equality.approximation import far_apart
from cotree.rewards.equality.chains import equal_names, spread
from cotree.rewards.equality.decimals import decimals_agree
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.listings import (
    hedges,
    is_set,
    is_several,
    members,
    same_as_sets,
    same_members,
)
from cotree.rewards.equality.nodes import (
    BaseNumeral,
    Bracketed,
    Constant,
    Degrees,
    Listing,
    Matrix,
    Negation,
    Node,
    Number,
    Percent,
    Piecewise,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.ranges import describes_a_range, real_set
from cotree.rewards.equality.readings import measured_as
from cotree.rewards.equality.realsets import same_sets
from cotree.rewards.equality.relations import (
    named,
    same_equation,
    same_inequality,
    same_named,
    value_of_equation,
)
from cotree.rewards.equality.scalar import Sameness, same_scalar
from cotree.rewards.equality.series import has_dots, written_out
from cotree.rewards.equality.shapes import as_matrix, brackets, coordinates, is_matrix
from cotree.rewards.equality.substitution import contains, rebuilt
from cotree.rewards.equality.units import units_agree
from cotree.rewards.equality.wording import same_words

MAX_SCALARS = 50
"""Symbolic comparisons spent on one answer; expressions that differ at one point cost none."""
MAX_LEVELS = 20
"""Points within sets within equations: deeper is no answer."""


class TooMuchWorkError(Exception):
    """The comparison was given up at its bound."""


class Comparison:
    """One comparison of a reference with an answer, with a bound on its work."""

    def __init__(self) -> None:
        self._scalars = 0
        self._level = 0

    def same(self, reference: Node, answer: Node) -> bool:
        """Whether the answer equals the reference.

        Raises:
            TooMuchWorkError: the bound on the work was reached.
        """
        if reference == answer:
            return True
        if self._level >= MAX_LEVELS:
            raise TooMuchWorkError(f"nested deeper than {MAX_LEVELS} levels")
        self._level += 1
        try:
            return self._same_by_kind(reference, answer)
        finally:
            self._level -= 1

    def _same_by_kind(self, reference: Node, answer: Node) -> bool:
        if isinstance(reference, Number) and isinstance(answer, Number):
            return decimals_agree(reference, answer) is True
        reference, answer = _sign_inside(reference), _sign_inside(answer)
        wanted, found = _measured(reference), _measured(answer)
        if wanted.unit and not found.unit:
            found = measured_as(answer, wanted.unit) or found
        elif found.unit and not wanted.unit:
            wanted = measured_as(reference, found.unit) or wanted
        if wanted.unit or found.unit:
            agree = not wanted.unit or not found.unit or units_agree(wanted.unit, found.unit)
            return agree and self.same(wanted.value, found.value)
        reference, answer = _spread_beside(reference, answer), _spread_beside(answer, reference)
        for kinds, compare in self._by_kind():
            if kinds(reference) or kinds(answer):
                return compare(reference, answer)
        return self._same_scalar(reference, answer)

    def _by_kind(self) -> tuple[tuple[Callable[[Node], bool], Callable[[Node, Node], bool]], ...]:
        """From the outermost structure inwards; the first kind that either side is decides."""
        return (
            (_is_range, self._same_range),
            (_is_equation, self._same_equation),
            (is_several, self._same_listing),
            (_is(Piecewise), self._same_pieces),
            (is_matrix, self._same_matrix),
            (_is(Bracketed), self._same_point),
            (_is(Words), same_words),
            (_is(Ratio), self._same_ratio),
            (_is(BaseNumeral), self._same_numeral),
            (_is(Percent), self._same_percent),
            (_is(Degrees), self._same_degrees),
        )

    def _same_range(self, reference: Node, answer: Node) -> bool:
        if isinstance(reference, Relation) != isinstance(answer, Relation):
            reference, answer = _without_membership(reference), _without_membership(answer)
            if reference == answer:
                return True
        left = real_set(reference, round_is_interval=True)
        right = real_set(answer, round_is_interval=True)
        if left is not None and right is not None and same_sets(left, right, self.same):
            return True
        if isinstance(reference, Relation) and isinstance(answer, Relation):
            self._spend()
            return same_inequality(reference, answer) or self._same_parts(reference, answer)
        return False

    def _same_parts(self, reference: Relation, answer: Relation) -> bool:
        """Chains and memberships that describe no set of reals: part by part."""
        return reference.comparisons == answer.comparisons and all(
            self.same(a, b) for a, b in zip(reference.operands, answer.operands, strict=True)
        )

    def _same_equation(self, reference: Node, answer: Node) -> bool:
        if self._same_chain(reference, answer):
            return True
        wanted, found = named(reference), named(answer)
        if wanted.name is not None and found.name is not None:
            if same_named(wanted, found, self.same):
                return True
        elif isinstance(wanted.value, Relation) and isinstance(found.value, Relation):
            if wanted.value != reference or found.value != answer:
                return self.same(wanted.value, found.value)
        elif not isinstance(wanted.value, Relation) and not isinstance(found.value, Relation):
            return self.same(wanted.value, found.value)
        elif not isinstance(reference, Relation):
            value = value_of_equation(found.value)
            return value is not None and self.same(reference, value)
        self._spend()
        return same_equation(reference, answer)

    def _same_chain(self, reference: Node, answer: Node) -> bool:
        """`a = b = c` and `c = b = a`, and `x = y = 2` and `y = x = 2`."""
        left, right = equal_names(reference), equal_names(answer)
        if left is None or left != right or len(left) < 2:
            return False
        assert isinstance(reference, Relation)
        assert isinstance(answer, Relation)
        values = [each.operands[-1] for each in (reference, answer)]
        named_only = [value in left for value in values]
        return all(named_only) or (not any(named_only) and self.same(*values))

    def _same_pieces(self, reference: Node, answer: Node) -> bool:
        """Row by row in any order: the same value under the same condition."""
        if not isinstance(reference, Piecewise) or not isinstance(answer, Piecewise):
            return False
        unmatched = list(answer.rows)
        for value, condition in reference.rows:
            for row in unmatched:
                if self.same(value, row[0]) and self.same(condition, row[1]):
                    unmatched.remove(row)
                    break
            else:
                return False
        return not unmatched

    def _same_listing(self, reference: Node, answer: Node) -> bool:
        if isinstance(reference, Bracketed) and reference.left != "{":
            return self._same_point(reference, answer)
        if isinstance(answer, Bracketed) and answer.left != "{" and isinstance(reference, Listing):
            return self._same_point(reference, answer)
        if hedges(reference, answer):
            return False
        compare = same_as_sets if is_set(reference) or is_set(answer) else same_members
        return compare(members(reference), members(answer), self.same)

    def _same_point(self, reference: Node, answer: Node) -> bool:
        """By position. Brackets count, unless one side leaves them out."""
        left, right = coordinates(reference), coordinates(answer)
        if left is None or right is None or len(left) != len(right) or len(left) < 2:
            return False
        kinds = {brackets(side) for side in (reference, answer) if isinstance(side, Bracketed)}
        if len(kinds) == 2:
            return False
        return all(self.same(a, b) for a, b in zip(left, right, strict=True))

    def _same_matrix(self, reference: Node, answer: Node) -> bool:
        """Entry by entry; a row or column may be written as a point."""
        reference, answer = as_matrix(reference), as_matrix(answer)
        if not isinstance(reference, Matrix) or not isinstance(answer, Matrix):
            return self._same_point(reference, answer)
        if [len(row) for row in reference.rows] != [len(row) for row in answer.rows]:
            return False
        return reference.determinant == answer.determinant and all(
            self.same(a, b)
            for left, right in zip(reference.rows, answer.rows, strict=True)
            for a, b in zip(left, right, strict=True)
        )

    def _same_ratio(self, reference: Node, answer: Node) -> bool:
        """By proportion, a ratio of two also with a fraction; times of day by their digits."""
        left, right = _ratio_parts(reference), _ratio_parts(answer)
        for clock, hour in ((reference, right), (answer, left)):
            if _is_clock(clock) and len(hour) == 1 and _is(Number)(hour[0]):
                return _ratio_parts(clock) == (*hour, Number(Fraction(0)))
        if _is_clock(reference) and _is_clock(answer):
            return left == right
        if len(left) == 2 and not isinstance(answer, Ratio):
            return self.same(Quotient(*left), answer)
        if len(right) == 2 and not isinstance(reference, Ratio):
            return self.same(reference, Quotient(*right))
        if len(left) != len(right):
            return False
        return all(
            self.same(Product((left[0], b)), Product((right[0], a)))
            for a, b in zip(left[1:], right[1:], strict=True)
        )

    def _same_numeral(self, reference: Node, answer: Node) -> bool:
        """Digits in a base: the answer may leave the base out, but not convert to another."""
        if isinstance(reference, BaseNumeral):
            digits = answer.digits if isinstance(answer, BaseNumeral) else _digits(answer)
            if isinstance(answer, BaseNumeral) and answer.base != reference.base:
                return False
            return digits is not None and digits.lstrip("0") == reference.digits.lstrip("0")
        value = rational(answer)
        return value is not None and value == rational(reference)

    def _same_percent(self, reference: Node, answer: Node) -> bool:
        r"""`28\%` is `0.28`, and also `28` where the other side leaves the sign out."""
        if isinstance(reference, Percent) and isinstance(answer, Percent):
            return self.same(reference.value, answer.value)
        if self._same_scalar(reference, answer):
            return True
        left = reference.value if isinstance(reference, Percent) else reference
        right = answer.value if isinstance(answer, Percent) else answer
        return self.same(left, right)

    def _same_degrees(self, reference: Node, answer: Node) -> bool:
        """Degrees against radians where pi is written, else the sign is a unit like others."""
        sides = [reference, answer]
        if any(contains(side, Constant) and not _is(Degrees)(side) for side in sides):
            sides = [_radians(side) for side in sides]
        values = [side.value if isinstance(side, Degrees) else side for side in sides]
        return self.same(*values)

    def _same_scalar(self, reference: Node, answer: Node) -> bool:
        decided = decimals_agree(reference, answer)
        if decided is not None:
            return decided
        if not has_dots(reference, answer) and far_apart(reference, answer):
            return False
        self._spend()
        if same_scalar(reference, answer) is Sameness.EQUAL:
            return True
        pairs = list(written_out(reference, answer))
        return bool(pairs) and all(same_scalar(*pair) is Sameness.EQUAL for pair in pairs)

    def _spend(self) -> None:
        self._scalars += 1
        if self._scalars > MAX_SCALARS:
            raise TooMuchWorkError(f"more than {MAX_SCALARS} symbolic comparisons")


def kind(node: Node) -> str:
    """What a reference is, in a word for the logs."""
    names = (
        (_is_range, "interval"),
        (_is_equation, "equation"),
        (is_several, "list"),
        (_is(Bracketed), "point"),
        (_is(Piecewise), "cases"),
        (is_matrix, "matrix"),
        (_is(Words), "words"),
        (_is(Ratio), "ratio"),
        (_is(BaseNumeral), "base"),
        (_is(Percent), "percent"),
        (_is(Degrees), "degrees"),
        (_is(Quantity), "unit"),
        (_is(Number), "number"),
    )
    return next((name for test, name in names if test(node)), "symbolic")


def _is(node_type: type) -> Callable[[Node], bool]:
    return lambda node: isinstance(node, node_type)


def _is_range(node: Node) -> bool:
    value = node
    if isinstance(node, Relation) and set(node.comparisons) == {"="}:
        value = named(node).value
    return describes_a_range(value)


def _is_equation(node: Node) -> bool:
    return isinstance(node, Relation) and set(node.comparisons) <= {"=", "approx"}


def _measured(node: Node) -> Quantity:
    """A value and its unit, which is blank where there is none.

    A unit on one side is dropped, and two different units of measure disagree; so `-5 cm` and
    `3 + 2 cm` need their unit outside.
    """
    if isinstance(node, Quantity):
        return node
    found: set[str] = set()

    def change(each: Node) -> Node | None:
        if isinstance(each, Quantity):
            found.add(each.unit)
            return each.value
        return None

    if isinstance(node, Negation | Sum | Product | Quotient):
        value = rebuilt(node, change)
        if len(found) == 1:
            return Quantity(value, found.pop())
    return Quantity(node, "")


def _sign_inside(node: Node) -> Node:
    r"""`-5\%` as the percentage -5, `-5^\circ` as the angle."""
    match node:
        case Negation(Percent(value)):
            return Percent(Negation(value))
        case Negation(Degrees(value)):
            return Degrees(Negation(value))
        case _:
            return node


def _spread_beside(node: Node, other: Node) -> Node:
    """`x = y = 0` as two values where the other side has several."""
    value = named(other).value
    return spread(node) if isinstance(value, Listing | Bracketed) else node


def _without_membership(node: Node) -> Node:
    r"""`x \in S` as S."""
    if isinstance(node, Relation) and node.comparisons == ("in",):
        return node.operands[1] if isinstance(node.operands[0], Symbol) else node
    return node


def _ratio_parts(node: Node) -> tuple[Node, ...]:
    return node.parts if isinstance(node, Ratio) else (node,)


def _is_clock(node: Node) -> bool:
    """`12:00` and `10:30` are times of day, `3:4` and `20:60` are not."""
    if not isinstance(node, Ratio) or not all(isinstance(part, Number) for part in node.parts):
        return False
    hours, *rest = [rational(part) for part in node.parts]
    if hours is None or hours > 24 or not 1 <= len(rest) <= 2:
        return False
    return all(part is not None and (part == 0 or 10 <= part < 60) for part in rest)


def _digits(node: Node) -> str | None:
    value = rational(node)
    if not isinstance(node, Number) or node.decimals is not None or value is None:
        return None
    return str(value) if value.denominator == 1 and abs(value) < 10**60 else None


def _radians(node: Node) -> Node:
    if not isinstance(node, Degrees):
        return node
    return Quotient(Product((node.value, Constant("pi"))), Number(Fraction(180)))
