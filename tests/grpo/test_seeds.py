"""Tests for grpo/seeds.py."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.seeds import derive

PARTS = st.lists(st.one_of(st.integers(-(10**6), 10**6), st.text(max_size=5)), max_size=5)


def test_a_seed_is_the_same_on_every_machine():
    # SHA-256 of the length-prefixed part "int:7", first 8 bytes, top bit dropped.
    path = (5).to_bytes(8, "big") + b"int:7"
    assert derive(7) == int.from_bytes(hashlib.sha256(path).digest()[:8], "big") >> 1


@given(PARTS, PARTS)
def test_different_paths_have_different_seeds(left: list[int | str], right: list[int | str]):
    same = [(type(part), part) for part in left] == [(type(part), part) for part in right]
    assert (derive(*left) == derive(*right)) == same


@given(PARTS)
def test_a_seed_fits_what_samplers_accept(parts: list[int | str]):
    assert 0 <= derive(*parts) < 2**63
