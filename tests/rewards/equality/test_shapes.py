"""Tests for rewards/equality/shapes.py."""

import pytest

from cotree.rewards.equality.nodes import Bracketed
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.shapes import as_matrix, brackets, coordinates, is_matrix

MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"


def test_a_matrix_in_brackets_and_with_a_factor_is_a_matrix():
    assert as_matrix(parse("[[1,2],[3,4]]")) == parse(MATRIX)
    assert is_matrix(parse(MATRIX))
    assert is_matrix(parse(f"-{MATRIX}"))
    assert is_matrix(parse(rf"\frac{{1}}{{2}}{MATRIX}"))


@pytest.mark.parametrize("text", [r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", rf"\det{MATRIX}", "12"])
def test_a_determinant_is_a_number_and_no_matrix(text: str):
    assert not is_matrix(parse(text))


@pytest.mark.parametrize("text", ["(1,2)", "1,2", r"\begin{pmatrix}1\\2\end{pmatrix}", "[1,2]"])
def test_positions_whatever_the_brackets(text: str):
    assert coordinates(parse(text)) == (parse("1"), parse("2"))


@pytest.mark.parametrize("text", [r"\{1,2\}", MATRIX, "12"])
def test_sets_matrices_and_numbers_have_no_positions(text: str):
    assert coordinates(parse(text)) is None


def test_two_items_in_square_brackets_are_an_interval_three_a_vector():
    for text, kind in (("(1,2)", "()"), ("[1,2]", "[]"), ("[1,2,3]", "()")):
        node = parse(text)
        assert isinstance(node, Bracketed)
        assert brackets(node) == kind
