"""Tests for rewards/equality/parser.py: readings of notation and round trips."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from random_expressions import expressions, spelled

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    BaseNumeral,
    BigOperator,
    Bracketed,
    Call,
    Constant,
    Degrees,
    Listing,
    Matrix,
    Negation,
    Node,
    Number,
    Percent,
    PlusMinus,
    Power,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    SetBuilder,
    SetOperation,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.parser import ParseError, parse
from cotree.rewards.equality.scalar import same_scalar


def n(value: int) -> Node:
    return Number(Fraction(value))


X, Y, PI, INF = Symbol("x"), Symbol("y"), Constant("pi"), Constant("inf")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("2x", Product((n(2), X))),
        ("xy", Product((X, Y))),
        (r"\frac34x", Product((Quotient(n(3), n(4)), X))),
        ("1/2x", Product((Quotient(n(1), n(2)), X))),
        ("x/2/y", Quotient(X, Product((n(2), Y)))),
        ("-x^2", Negation(Power(X, n(2)))),
        ("x^-1", Power(X, Negation(n(1)))),
        ("9**9**9", Power(n(9), Power(n(9), n(9)))),
        (r"2\sqrt2", Product((n(2), Call("sqrt", (n(2),))))),
        (r"\sqrt[3]{4}", Call("root", (n(4), n(3)))),
        (
            r"\sin^2x\cos2y",
            Product((Power(Call("sin", (X,)), n(2)), Call("cos", (Product((n(2), Y)),)))),
        ),
        (r"\sin^{-1}x", Call("arcsin", (X,))),
        ("xsiny", Product((X, Call("sin", (Y,))))),
        (r"\log_28", Call("log", (n(8), n(2)))),
        ("n!", Call("factorial", (Symbol("n"),))),
        (r"\binom nk", Call("binom", (Symbol("n"), Symbol("k")))),
        (r"{n \choose k}", Call("binom", (Symbol("n"), Symbol("k")))),
        ("|x|", Call("abs", (X,))),
        (r"2|x|y", Product((n(2), Call("abs", (X,)), Y))),
        (r"\lfloor x\rfloor", Call("floor", (X,))),
        ("f(x)", Call("f", (X,))),
        ("x(y)", Product((X, Y))),
        ("P(x)=x", Relation((Call("P", (X,)), X), ("=",))),
        (
            r"\frac{bh}{2}h(y)",
            Product((Quotient(Product((Symbol("b"), Symbol("h"))), n(2)), Symbol("h"), Y)),
        ),
        ("a_{n+1}", Symbol("a_n+1")),
        ("x1", Symbol("x_1")),
        ("1011_{2}", BaseNumeral("1011", 2)),
        (r"52\text{ (base 8)}", BaseNumeral("52", 8)),
        (r"1\pm x", PlusMinus(n(1), X)),
        (r"0\le x<1", Relation((n(0), X, n(1)), ("<=", "<"))),
        (r"x\in[0,1)", Relation((X, Bracketed("[", ")", (n(0), n(1)))), ("in",))),
        ("]0,1[", Bracketed("]", "[", (n(0), n(1)))),
        (
            r"(0,1)\cup(2,\infty)",
            SetOperation(
                "union", (Bracketed("(", ")", (n(0), n(1))), Bracketed("(", ")", (n(2), INF)))
            ),
        ),
        (r"\{x\mid x>0\}", SetBuilder(X, Relation((X, n(0)), (">",)))),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", Matrix(((n(1),), (n(2),)))),
        (
            r"\begin{cases}x=1\\y=2\end{cases}",
            Listing((Relation((X, n(1)), ("=",)), Relation((Y, n(2)), ("=",)))),
        ),
        ("3:4", Ratio((n(3), n(4)))),
        ("x=1 or x=2", Listing((Relation((X, n(1)), ("=",)), Relation((X, n(2)), ("=",))), "or")),
        ("1, 2, and 3", Listing((n(1), n(2), n(3)))),
        (r"\sum_{k=1}^ny", BigOperator("sum", "k", n(1), Symbol("n"), Y)),
        (r"\int_0^1x\,dx", BigOperator("int", "x", n(0), n(1), X)),
        (r"\lim_{x\to0}y", BigOperator("lim", "x", n(0), None, Y)),
        (r"x\equiv3\pmod7", Relation((Call("mod", (X, n(7))), Call("mod", (n(3), n(7)))), ("=",))),
        (r"\overline{AB}", Symbol("overline AB")),
        (r"\vec{x}", X),
        ("odd", Words("odd")),
        ("no real solutions", Words("no real solutions")),
        (r"\text{(C)}", Symbol("C")),
        (r"\mathrm{i}", Constant("i")),
        (r"x+\ldots+y", Sum((X, Symbol("..."), Y))),
        (r"\$5", Quantity(n(5), "$")),
        ("5 cm", Quantity(n(5), "cm")),
        (r"5\mbox{ cm}^2", Quantity(n(5), "cm^2")),
        (r"5\text{ km/h}", Quantity(n(5), "km/h")),
        ("12 apples", Quantity(n(12), "apples")),
        ("50 percent", Percent(n(50))),
        (r"30^{\circ}", Degrees(n(30))),
        ("30 degrees", Degrees(n(30))),
        (r"60^\circ42'", Degrees(Sum((n(60), Number(Fraction(7, 10)))))),
        (
            r"k\pi\ (k\in\mathbb{Z})",
            Listing(
                (Product((Symbol("k"), PI)), Relation((Symbol("k"), Constant("integers")), ("in",)))
            ),
        ),
    ],
)
def test_notation_is_read_as(text: str, tree: Node):
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (
            [
                "1,234",
                "1{,}234",
                r"1\,234",
                "1 234",
                r"1,\!234",
                "01234",
                "1234.",
                "+1234",
                "$1234$",
            ],
            1234,
        ),
        (["1234567", "1,234,567", "1 234 567", "1.234.567", "1'234'567"], 1234567),
        (
            [
                "1.5",
                "1.50",
                "3/2",
                r"1\frac12",
                r"1\tfrac{1}{2}",
                "1½",
                "1 1/2",
                "１.５",
                r"\\frac{3}{2}",
            ],
            Fraction(3, 2),
        ),
        (["1.2e3", r"1.2\times10^3", "1.2×10³", "1.2*10^3", r"1.2\cdot 10^{3}", "1200"], 1200),
        ([r"0.\overline{3}", r"\frac13", "0.(3)", r"\dfrac{1}{3}"], Fraction(1, 3)),
        (["-5", "−5", r"\left(-5\right)", "(-5)"], -5),
        (["٤٢", "۴۲", "42", r"\boxed{42}", r"\textbf{42}"], 42),
        ([r"\frac{4}{3}2", r"2\frac{4}{3}"], Fraction(8, 3)),  # not proper, so not mixed
    ],
)
def test_spellings_of_one_number(texts: list[str], value: Fraction):
    assert {text: rational(parse(text)) for text in texts} == dict.fromkeys(texts, value)


def test_a_comma_separates_inside_brackets_and_groups_outside():
    assert parse("1,234") == n(1234)
    assert parse("(1,234)") == Bracketed("(", ")", (n(1), n(234)))
    assert parse("(1{,}234)") == n(1234)


def test_shown_decimals_are_kept():
    assert [parse(t) for t in ("0.50", "5.0", "1.2e3")] == [
        Number(Fraction(1, 2), 2),
        Number(Fraction(5), 1),
        Number(Fraction(1200)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "2 3",
        "4\u200b2",
        r"\foo{2}",
        r"\begin{tikz}\end{tikz}",
        "(1",
        "1)",
        r"\frac{1}",
        "x^",
        "1+",
        "=",
        r"\begin{pmatrix}1&2\\3\end{pmatrix}",
        "x.__class__",
        'open("f")',
        "[c for c in ()]",
        "a @ b",
        "{}",
        "()",
        "x_",
        r"\text{a",
        r"\sqrt",
        "1..2",
        "f(",
        "><",
        "a b)c(",
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(text: str):
    with pytest.raises(ParseError, match=r"at character \d+") as caught:
        parse(text)
    assert 0 <= caught.value.position <= len(text)


def test_prose_is_its_words_and_nothing_more():
    assert parse("1 hour 30 minutes") == Words("1 hour 30 minutes")
    assert parse("The function $f(x+1)$ is odd.") == Words("The function f(x+1) is odd")


@settings(max_examples=250)
@given(expressions)
def test_every_spelling_of_an_expression_reads_back_to_its_value(node: Node):
    for dialect in ("latex", "loose", "plain"):
        again = parse(spelled(node, dialect))
        verdict = same_scalar(again, node)
        # Without a value (a zero denominator) nothing is equal, and nothing may be different.
        expected = same_scalar(node, node)
        assert verdict is expected, f"{spelled(node, dialect)!r} is {verdict}"


def _golds(*names: str) -> list[str]:
    folder = os.environ.get("COTREE_DATA")
    if not folder:
        pytest.skip("set COTREE_DATA to a folder that holds gsm8k/ and math500/ as .jsonl files")
    rows = [json.loads(line) for name in names for line in (Path(folder) / name).open()]
    return [row["answer"].split("####")[-1].strip() for row in rows]


def test_every_answer_of_gsm8k_and_math500_is_read():
    golds = _golds("gsm8k/train.jsonl", "gsm8k/test.jsonl", "math500/test.jsonl")
    assert len(golds) > 9_000
    unread: list[str] = []
    for gold in golds:
        try:
            parse(gold)
        except ParseError as error:
            unread.append(f"{gold}: {error}")
    assert unread == []
