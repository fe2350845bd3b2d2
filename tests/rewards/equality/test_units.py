"""Tests for rewards/equality/units.py."""

import pytest

from cotree.rewards.equality.units import unit_name, units_agree


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cm", "cm"),
        (r"\text{ centimeters}", "cm"),
        (r"\mbox{ cm}^2", "cm^2"),
        ("square centimeters", "cm^2"),
        ("cubic feet", "ft^3"),
        ("sq. ft", "ft^2"),
        ("cm^2", "cm^2"),
        ("km/h", "h^-1 km"),
        ("kilometers per hour", "h^-1 km"),
        ("mph", "h^-1 mi"),
        ("miles per hour", "h^-1 mi"),
        ("m s^-1", "m s^-1"),
        ("m/s", "m s^-1"),
        ("meters squared", "m^2"),
        ("cc", "cm^3"),
        ("$", "$"),
        ("dollars", "$"),
        (r"\text{ a.m.}", "am"),
        ("PM", "pm"),
        ("apples", None),
        ("units", None),
        ("square units", None),
        ("", None),
    ],
)
def test_one_name_for_all_spellings(text: str, name: str | None):
    assert unit_name(text) == name


def test_only_two_known_units_disagree():
    assert units_agree("cm", "centimeters")
    assert units_agree("apples", "oranges")
    assert units_agree("cm", "apples")
    assert not units_agree("cm", "m")
    assert not units_agree("cm", "cm^2")
