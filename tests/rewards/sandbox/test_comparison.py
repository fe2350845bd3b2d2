"""Tests for rewards/sandbox/comparison.py."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.sandbox.comparison import same_number, same_output, same_value

_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
) | st.text()
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(VALUES)
def test_a_value_equals_itself_through_json(value: object):
    assert same_value(json.dumps(value), value, tolerance=0.0)


@settings(max_examples=200)
@given(VALUES, VALUES)
def test_values_with_different_json_are_different(value: object, other: object):
    # But for numbers, where 2.0 is 2; `repr` of the parsed value without `.0` tells them apart.
    def text(thing: object) -> str:
        return json.dumps(thing, sort_keys=True)

    if same_value(json.dumps(value), other, tolerance=0.0):
        assert json.loads(text(value)) == json.loads(text(other))


@pytest.mark.parametrize(
    ("returned", "expected", "same"),
    [
        ("[1, 2]", (1, 2), True),
        ("[1, 2]", [1, 2, 3], False),
        ("2.0", 2, True),
        ("true", 1, False),
        ("1", True, False),
        ("0", False, False),
        ("0", None, False),
        ("null", None, True),
        ('"1"', 1, False),
        ('{"a": [1]}', {"a": [1]}, True),
        ('{"a": [1], "b": 0}', {"a": [1]}, False),
        ("NaN", 1.0, False),
        ("Infinity", 1e308, False),
        ("1e999", 1.0, False),
        ("", None, False),
        ("1 2", 1, False),
        ("[" * 100_000, [], False),
        ("9" * 100_000, 9, False),
        (str(10**400), 1.5, False),
        ('"\\ud800"', "x", False),
    ],
)
def test_same_value(returned: str, expected: object, same: bool):
    assert same_value(returned, expected, tolerance=0.0) is same
    assert same_value(returned, expected, tolerance=0.001) is same


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (0.3000000001, 0.3, True),
        (0.31, 0.3, False),
        (1000.0009, 1000.0, True),  # 1e-6 * 1000 = 0.001
        (1000.002, 1000.0, False),
        (3.0000001, 3, False),  # an integer is exact
        (10**400, 0.5, False),
    ],
)
def test_a_tolerance_is_relative_above_one_and_for_floats_only(
    value: float, expected: float, same: bool
):
    assert same_number(value, expected, tolerance=1e-6) is same


def test_without_a_tolerance_floats_are_exact():
    assert not same_number(0.1 + 0.2, 0.3, tolerance=0.0)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        (b"1 2\n3\n", "1 2\n3", True),
        (b"1 2  \r\n3\n\n\n", "1 2\n3\n", True),
        (b" 1", "1", False),
        (b"1  2", "1 2", False),
        (b"12", "1 2", False),
        (b"1\n\n2", "1\n2", False),
        (b"", "1", False),
        (b"\xff", "\ufffd", False),
        ("ß\n".encode(), "ß", True),
        (b"1\n2", "1", False),
    ],
)
def test_same_output(printed: bytes, expected: str, same: bool):
    assert same_output(printed, expected, tolerance=0.0) is same


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        (b"x 0.5 7", True),
        (b"x  0.5000001 7", True),
        (b"x 0.6 7", False),
        (b"x 0.5 7.0000001", False),  # 7 is written as an integer
        (b"x nan 7", False),
        (b"x 0.5", False),
        (b"y 0.5 7", False),
    ],
)
def test_words_with_a_decimal_point_may_differ_within_the_tolerance(printed: bytes, same: bool):
    assert same_output(printed, "x 0.5 7", tolerance=1e-6) is same
