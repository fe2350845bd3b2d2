"""Tests for rewards/equality/exact.py, against Python's own integers and fractions."""

import math
from fractions import Fraction

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.equality.exact import MAX_BITS, rational
from cotree.rewards.equality.nodes import Call, Number, Power, Quotient
from cotree.rewards.equality.parser import parse


def n(value: int | Fraction) -> Number:
    return Number(Fraction(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4-6/4", Fraction(25, 2)),
        (r"2\frac13", Fraction(7, 3)),
        ("2^{-3}", Fraction(1, 8)),
        ("(-2)^3", -8),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        (r"\sqrt[3]{-27}", -3),
        ("8^{2/3}", 4),
        ("5!", 120),
        ("7!!", 105),
        (r"\binom{10}{3}", 120),
        (r"|-3|+\lfloor-2.5\rfloor", 0),
        (r"\gcd(12,18)+\operatorname{lcm}(4,6)", 18),
        (r"\max(1,2)-\min(1,2)", 1),
        (r"17\bmod5", 2),
        (r"\log_2\frac18", -3),
        (r"12.5\%", Fraction(1, 8)),
        ("1011_2", 11),
        ("[2+3]4", 20),
    ],
)
def test_values(text: str, value: Fraction):
    assert rational(parse(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "x",
        r"\pi",
        r"\sqrt2",
        "0^0",
        r"\frac{0}{0}",
        "1/0",
        "0^{-1}",
        r"\sqrt{-4}",
        "12_2",
        r"\log_2 3",
        "f(1)",
        "(1,2)",
        "10!!!!!!!",
        "9^{9^{9}}",
        "(10^9)!",
        r"\binom{10^9}{5}",
        "10^{99999}",
        r"\sqrt[0]{2}",
        r"\log_1 1",
        "7 mod 0",
        "2.5!",
    ],
)
def test_what_has_no_rational_value_of_reasonable_size_has_none(text: str):
    assert rational(parse(text)) is None
    assert cpu_seconds(lambda: rational(parse(text))) < 0.05


@settings(max_examples=200)
@given(st.fractions(min_value=0, max_denominator=10**9), st.integers(2, 7))
def test_the_root_of_a_power_is_its_base(base: Fraction, degree: int):
    power = n(base**degree)
    assert rational(Call("root", (power, n(degree)))) == base
    assert rational(Power(power, Quotient(n(1), n(degree)))) == base


@settings(max_examples=200)
@given(st.integers(0, 10**30), st.integers(2, 5))
def test_a_root_is_exact_or_none(value: int, degree: int):
    found = rational(Call("root", (n(value), n(degree))))
    assert found is None or found**degree == value
    if degree == 2:
        assert (found is not None) == (math.isqrt(value) ** 2 == value)


def test_the_largest_values_stay_within_the_bound():
    assert rational(parse("2^{16000}")) == 2**16000
    assert rational(Power(n(2), n(MAX_BITS + 1))) is None
    assert rational(parse("2500!")) == math.factorial(2500)
