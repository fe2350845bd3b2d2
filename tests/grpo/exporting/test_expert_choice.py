"""Tests for grpo/exporting/expert_choice.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.exporting.expert_choice import added, grown, least_loaded, repeated, without
from cotree.grpo.exporting.expert_layout import ExpertLayout

LAYER, OTHER = "model.layers.1.mlp", "model.layers.2.mlp"


def layout(num_experts: int, groups: int = 1, layers: tuple[str, ...] = (LAYER,)) -> ExpertLayout:
    return ExpertLayout(num_experts, 2, groups, 1, layers, has_bias=True)


def test_all_are_repeated_as_a_whole():
    assert repeated(layout(3), 2) == {LAYER: (0, 1, 2, 0, 1, 2)}
    with pytest.raises(ValueError, match="1 changes nothing"):
        repeated(layout(3), 1)


def test_copies_are_made_of_the_busiest_first_and_of_equals_by_id():
    loads = {LAYER: [5, 9, 9, 1]}
    assert grown(layout(4), 6, loads) == {LAYER: (0, 1, 2, 3, 1, 2)}
    assert grown(layout(4), 9, loads) == {LAYER: (0, 1, 2, 3, 1, 2, 0, 3, 1)}


def test_without_loads_copies_are_made_by_id():
    assert grown(layout(4), 6, None) == {LAYER: (0, 1, 2, 3, 0, 1)}


def test_copies_stay_in_the_group_of_their_expert():
    # Groups {0, 1} and {2, 3}: the copy of 1 ends the first, that of 2 the second.
    assert grown(layout(4, groups=2), 6, {LAYER: [0, 1, 1, 0]}) == {LAYER: (0, 1, 1, 2, 3, 2)}
    with pytest.raises(ValueError, match="multiple of its 2 groups"):
        grown(layout(4, groups=2), 5, None)


def test_the_least_loaded_of_each_group_go():
    loads = {LAYER: [0, 0, 7, 5], OTHER: [3, 1, 1, 2]}
    both = (LAYER, OTHER)
    assert least_loaded(layout(4, layers=both), 2, loads) == {LAYER: [0, 1], OTHER: [1, 2]}
    assert least_loaded(layout(4, 2, both), 2, loads) == {LAYER: [0, 3], OTHER: [1, 2]}


def test_those_that_are_left_keep_their_order():
    assert without(layout(5), {LAYER: [3, 0]}) == {LAYER: (1, 2, 4)}


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({LAYER: [0], OTHER: [1, 2]}, "each must lose as many"),
        ({LAYER: [0]}, "each must lose as many"),
        ({LAYER: [4], OTHER: [0]}, "no expert 4"),
        ({}, "nothing to remove"),
        ({LAYER: [0, 1], OTHER: [0, 2]}, r"loses \[2, 0\]"),
        ({"model.layers.0.mlp": [0]}, "no layer model.layers.0.mlp has experts"),
    ],
)
def test_what_would_leave_no_model_is_refused(removed: dict[str, list[int]], message: str):
    with pytest.raises(ValueError, match=message):
        without(layout(4, 2, (LAYER, OTHER)), removed)


@given(
    groups=st.integers(1, 3),
    size=st.integers(2, 4),
    new=st.integers(1, 9),
    loads=st.lists(st.integers(0, 5), min_size=12, max_size=12),
)
def test_removing_the_copies_gives_back_the_experts(
    groups: int, size: int, new: int, loads: list[int]
):
    before = layout(groups * size, groups)
    total = groups * (size + new)
    (sources,) = grown(before, total, {LAYER: loads[: groups * size]}).values()
    left = without(layout(total, groups), {LAYER: added(sources)})[LAYER]
    assert tuple(sources[new_id] for new_id in left) == tuple(range(groups * size))
    # Groups are runs of consecutive ids, before and after.
    assert [new_id // (size + new) for new_id in left] == [i // size for i in range(groups * size)]
    assert all(old // size == new_id // (size + new) for new_id, old in enumerate(sources))
