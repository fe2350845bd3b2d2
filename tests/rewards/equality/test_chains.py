"""Tests for rewards/equality/chains.py."""

import pytest

from cotree.rewards.equality.chains import commits, equal_names, exact_member, spread
from cotree.rewards.equality.nodes import Listing, Node, Relation, Symbol
from cotree.rewards.equality.parser import parse


def chain(text: str) -> Relation:
    node = parse(text)
    assert isinstance(node, Relation)
    return node


@pytest.mark.parametrize(
    "text",
    [
        "2+3=5",
        "4!=24",
        r"x=\frac{10}{4}=\frac{5}{2}=2.5",
        "1/3=0.333",  # a decimal stands for what rounds to it
        r"\sqrt2=1.414",
        r"100\pi\approx314",
        r"12345\approx12000",
        r"\frac14=25\%",
        r"180^\circ-40=140^\circ",  # a calculation often leaves signs out
        r"\frac{\pi}{3}=60^\circ",
        r"2^{10}\equiv4\pmod{10}",
        "13=1101_2",
        "x=2y=6",
    ],
)
def test_a_chain_of_one_number_commits_to_it(text: str):
    assert commits(chain(text))


@pytest.mark.parametrize(
    "text",
    [
        "4=3",
        "43=42",
        "x=5=6",
        "1=1",
        "17.8=18",  # an integer is no rounded form behind a plain sign
        r"17\approx18",
        "1/3=0.34",
        "1/3=0.4",
        r"\frac14=2.5\%",
        r"\pi=3",
        r"2^{10}\equiv5\pmod{10}",
    ],
)
def test_a_chain_that_contradicts_itself_commits_to_nothing(text: str):
    assert not commits(chain(text))


def test_a_decimal_gives_way_to_the_exact_member_before_it():
    third, shown = parse("1/3"), parse("0.333")
    assert exact_member([third, shown]) == third
    assert exact_member([parse("5/2"), parse("2.5")]) == parse("2.5")
    assert exact_member([shown]) == shown


def test_names_set_equal_are_spread():
    zero = parse("0")
    pairs = [Relation((Symbol(name), zero), ("=",)) for name in "xyz"]
    assert spread(parse("x=y=z=0")) == Listing(tuple(pairs))


@pytest.mark.parametrize("text", ["x=0", "x+y=0", "a=b=c", "x<y", "x=x=0", "5"])
def test_other_nodes_are_not_spread(text: str):
    assert spread(parse(text)) == parse(text)


@pytest.mark.parametrize(
    ("text", "names"), [("a=b=c", "abc"), ("x=y=2", "xy"), ("x=x", None), ("x+1=y", None)]
)
def test_the_names_of_a_chain(text: str, names: str | None):
    wanted: frozenset[Node] | None = (names and frozenset(Symbol(name) for name in names)) or None
    assert equal_names(parse(text)) == wanted


def test_a_long_chain_is_a_calculation_and_no_answer():
    assert commits(chain("=".join(["4", "2+2"] * 6)))
    assert not commits(chain("=".join(["4", "2+2"] * 7)))
