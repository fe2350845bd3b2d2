"""Tests for rewards/equality/text.py: one spelling for what looks the same."""

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.equality.text import clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("12", "12"),
        ("  12.  ", "12"),
        ("a...", "a..."),
        ("$x$", "x"),
        (r"\(x\)", "x"),
        (r"\[ x \]", "x"),
        (r"\$5", r"\$5"),
        ("x²", "x^{2}"),
        ("x₁", "x_{1}"),
        ("1½", r"1\frac{1}{2}"),
        ("−5", "-5"),
        ("３×４", r"3\times 4"),
        ("𝑥", "x"),
        ("٤٢", "42"),
        ("4\u200b2", "4 2"),
        ("\ufeff42", "42"),
        ("1\u202f234", "1 234"),
        (r"\dfrac{1}{2}", r"\frac {1}{2}"),
        (r"\displaystyle x", "x"),
        (r"\left(x\right)", "(x)"),
        (r"\left.x\right|", r"x\rvert"),
        (r"\bigl\{x\bigr\}", r"\{x\}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\begin{pmatrix}1\\x\end{pmatrix}", r"\begin{pmatrix}1\\x\end{pmatrix}"),
        ("\frac{1}{2}", r"\frac{1}{2}"),  # an unescaping step read \f as a form feed
        ("\text{a}", r"\text{a}"),
        (r"1{,}234", "1234"),
        (r"10,\!080", "10080"),
        (r"1\,234", "1234"),
        (r"3{,}14", "3.14"),
        (r"a\,b", "a b"),
        (r"{\rm cm}", r"\text{cm}"),
        ("**12**", "12"),
        ("x~y", "x y"),
    ],
)
def test_typography_is_folded(text: str, cleaned: str):
    assert clean(text) == cleaned


@settings(max_examples=300)
@given(st.text(alphabet="0123456789xyz+-=(){}[]\\ $.,^_frac½²√×−\u200b\t", max_size=60))
def test_a_second_cleaning_of_what_has_no_escapes_changes_nothing(text: str):
    once = clean(text.replace("\\", "").replace("$", "").replace(".", "").replace("\t", ""))
    assert clean(once) == once


@pytest.mark.parametrize(
    "piece", ["\\", r"\left", "{,}", "½", "$", r"\\frac", "1,\\!", "\t", r"\hspace{", "`", "**"]
)
def test_time_grows_with_the_length_only(piece: str):
    text = piece * (100_000 // len(piece))
    assert cpu_seconds(lambda: clean(text)) < 1.0
