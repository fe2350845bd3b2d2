"""Properties of rewards/equality/answers.py: another spelling is right, another answer not."""

from collections.abc import Callable
from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotree.rewards.equality.answers import Outcome, check_reference, compare

SETTINGS = settings(max_examples=150)
RATIONALS = st.fractions(max_denominator=60).filter(lambda f: abs(f) < 10**6)
MARKUP = r"\{}()[]^_$,;:.|&%!<>=+-*/0123456789xyzfrac "
RANDOM = st.randoms(use_true_random=False)


def equal(reference: str, answer: str) -> bool:
    return compare(reference, answer).outcome is Outcome.EQUAL


def spelled(value: Fraction, pick: Callable[[list[str]], str]) -> str:
    """One of the ways to write a rational number."""
    sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
    forms = [
        rf"{sign}\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{sign}{top}}}{{{bottom}}}",
        f"{sign}{top}/{bottom}",
        rf"{sign}\frac{{{3 * top}}}{{{3 * bottom}}}",
        rf"{sign}{top} \cdot {bottom}^{{-1}}",
    ]
    if bottom == 1:
        forms += [f"{sign}{top}", f"{sign}{top}.0", rf"{sign}{top}\text{{ cm}}"]
    elif top > bottom and top % bottom:
        forms.append(rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
    if 10**6 % bottom == 0:
        forms.append(f"{float(value):.6f}")
    return pick([rf"\left({form}\right)" if pick(["", "("]) else form for form in forms])


def wrapped(text: str, pick: Callable[[list[str]], str]) -> str:
    return pick([text, f"${text}$", rf"\({text}\)", f" {text} ", f"{text}.", f"x = {text}"])


@SETTINGS
@given(RATIONALS, RANDOM)
def test_a_number_in_any_spelling(value: Fraction, random):
    first, second = spelled(value, random.choice), spelled(value, random.choice)
    assert equal(first, wrapped(second, random.choice)), (first, second)


@SETTINGS
@given(RATIONALS, RATIONALS, RANDOM)
@example(Fraction(1), Fraction(100), None)
@example(Fraction(1, 2), Fraction(50), None)
def test_another_number_in_any_spelling(value: Fraction, other: Fraction, random):
    pick = random.choice if random else lambda forms: forms[0]
    if value == other:
        return
    first, second = spelled(value, pick), spelled(other, pick)
    if "." in first and abs(value - other) < Fraction(1, 10**6):
        return  # rounds to the digits shown
    assert not equal(first, wrapped(second, pick)), (first, second)


@SETTINGS
@given(st.lists(RATIONALS, min_size=2, max_size=4), RANDOM)
def test_points_have_positions_and_sets_have_none(values: list[Fraction], random):
    items = [spelled(value, random.choice) for value in values]
    again = [spelled(value, random.choice) for value in values]
    shuffled = random.sample(again, len(again))
    assert equal(f"({', '.join(items)})", f"({', '.join(again)})")
    assert equal(rf"\{{{', '.join(items)}\}}", rf"\{{{', '.join(shuffled)}\}}")
    assert equal("; ".join(items), r" \text{ and } ".join(shuffled))
    swapped = [*again[1:], again[0]]
    if values != [*values[1:], values[0]]:
        assert not equal(f"({', '.join(items)})", f"({', '.join(swapped)})")
    assert not equal(f"({', '.join(items)})", f"({', '.join([*again, again[0]])})")
    assert not equal(items[0], ", ".join(items))


@SETTINGS
@given(RATIONALS, RATIONALS, st.booleans(), st.booleans(), RANDOM)
def test_an_interval_is_its_inequality(a: Fraction, b: Fraction, x: bool, y: bool, random):
    low, high = sorted((a, b))
    if low == high:
        return
    left, right = spelled(low, random.choice), spelled(high, random.choice)
    interval = f"{'[' if x else '('}{left}, {right}{']' if y else ')'}"
    below, above = r"\le" if x else "<", r"\leq" if y else "<"
    chain = rf"{left} {below} t {above} {right}"
    backward = f"{right} {'>=' if y else '>'} t {'>=' if x else '>'} {left}"
    for one, other in ((interval, chain), (chain, backward), (backward, interval)):
        assert equal(one, other), (one, other)
    opposite = rf"{left} {'<' if x else '<='} t {above} {right}"
    assert not equal(interval, opposite)
    assert not equal(interval, rf"t {above} {right}")
    assert not equal(left, interval)


@SETTINGS
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_an_equation_may_be_scaled(a: int, b: int, c: int, factor: int):
    if factor == 0 or a == 0 or b == 0:
        return
    line = f"{a}x + {b}y = {c}".replace("+ -", "- ")
    scaled = f"{factor * a}x + ({factor * b})y - ({factor * c}) = 0"
    solved = f"y = {Fraction(c, b)} - ({Fraction(a, b)})x"
    assert equal(line, scaled)
    assert equal(line, solved)
    assert not equal(line, f"{factor * a}x + ({factor * b})y - ({factor * c + 1}) = 0")
    assert not equal(line, "0 = 0")


@SETTINGS
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(1, 9))
def test_a_polynomial_may_be_factored(roots: list[int], leading: int):
    coefficients = [leading]
    for root in roots:
        shifted = [0, *coefficients]
        coefficients = [*coefficients, 0]
        coefficients = [c - root * s for c, s in zip(coefficients, shifted, strict=True)]
    degree = len(roots)
    expanded = "+".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients))
    factored = str(leading) + "".join(f"(x-({root}))" for root in roots)
    assert equal(expanded, factored)
    assert not equal(expanded, factored + "+1")
    assert not equal(factored, "(x)" + factored)


@SETTINGS
@given(st.text(max_size=40), st.text(alphabet=MARKUP, max_size=40))
def test_any_two_texts_are_compared(one: str, other: str):
    for reference, answer in ((one, other), (other, one)):
        compare(reference, answer)
        compare("12", answer)


@SETTINGS
@given(st.text(alphabet=MARKUP, min_size=1, max_size=12))
def test_what_check_reference_lets_through_equals_itself(text: str):
    try:
        check_reference(text)
    except ValueError:
        return
    assert equal(text, text)
    assert equal(text, f" ${text}$ ") or "$" in text or "\\" in text
