"""Tests for grpo/config_generator.py: who may draft, and settings that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cotree.grpo.config_generator import (
    DraftModelSpeculation,
    Generator,
    MtpSpeculation,
    NgramSpeculation,
)


def generator(**speculation: object) -> Generator:
    return Generator.model_validate({"speculation": speculation})


def test_by_default_nobody_drafts():
    assert Generator().speculation is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"type": "ngram"}, NgramSpeculation(type="ngram", tokens=4, longest=4, shortest=2)),
        (
            {"type": "ngram", "tokens": 8, "longest": 3, "shortest": 3},
            NgramSpeculation(type="ngram", tokens=8, longest=3, shortest=3),
        ),
        (
            {"type": "draft_model", "path": "small"},
            DraftModelSpeculation(type="draft_model", path="small", tokens=4),
        ),
        ({"type": "mtp"}, MtpSpeculation(type="mtp", tokens=1)),
        ({"type": "mtp", "tokens": 2}, MtpSpeculation(type="mtp", tokens=2)),
    ],
    ids=str,
)
def test_the_type_says_who_drafts(settings: dict[str, object], expected: object):
    found = generator(**settings).speculation
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "speculation\n.*Unable to extract tag using discriminator 'type'"),
        ({"type": "eagle"}, "expected tags: 'ngram', 'draft_model', 'mtp'"),
        ({"type": "draft_model"}, r"speculation.draft_model.path\n.*Field required"),
        # What another drafter has must not be ignored.
        ({"type": "ngram", "path": "small"}, r"ngram.path\n.*Extra inputs are not permitted"),
        ({"type": "mtp", "path": "small"}, r"mtp.path\n.*Extra inputs are not permitted"),
        ({"type": "mtp", "longest": 4}, r"mtp.longest\n.*Extra inputs are not permitted"),
        (
            {"type": "draft_model", "path": "small", "shortest": 1},
            r"draft_model.shortest\n.*Extra inputs are not permitted",
        ),
        ({"type": "ngram", "tokens": 0}, r"ngram.tokens\n.*greater than or equal to 1"),
        ({"type": "mtp", "tokens": -1}, r"mtp.tokens\n.*greater than or equal to 1"),
        ({"type": "ngram", "shortest": 0}, r"ngram.shortest\n.*greater than or equal to 1"),
        ({"type": "ngram", "tokens": 1.5}, r"ngram.tokens\n.*valid integer"),
        ({"type": "ngram", "shortest": 5}, "shortest = 5 is more than longest = 4; lower it"),
        ({"type": "ngram", "longest": 1}, "shortest = 2 is more than longest = 1; lower it"),
    ],
    ids=str,
)
def test_what_a_drafter_cannot_be_is_refused(settings: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        generator(**settings)


@pytest.mark.parametrize("settings", [{"type": "ngram"}, {"type": "mtp"}], ids=str)
@given(tokens=st.integers(1, 40))
def test_two_drafts_must_fit_behind_the_longest_completion(
    settings: dict[str, object], tokens: int
):
    assert generator(**settings, tokens=tokens).spare_tokens == 2 * tokens
    assert Generator().spare_tokens == 0


@given(st.integers(1, 40), st.integers(1, 40))
def test_looked_up_tokens_are_at_least_as_many_as_the_fewest(shortest: int, longest: int):
    settings = {"type": "ngram", "shortest": shortest, "longest": longest}
    if shortest > longest:
        with pytest.raises(ValidationError, match=f"longest = {longest}; lower it"):
            generator(**settings)
    else:
        found = generator(**settings).speculation
        assert isinstance(found, NgramSpeculation)
        assert (found.shortest, found.longest) == (shortest, longest)


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "ngram", "tokens": 3},
        {"type": "draft_model", "path": "small", "tokens": 2},
        {"type": "mtp"},
    ],
    ids=str,
)
def test_a_written_configuration_is_read_back_as_it_was(settings: dict[str, object]):
    saved = generator(**settings)
    assert Generator.model_validate(saved.model_dump()) == saved


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("replicas", "max_model_len", "max_num_seqs", "kv_cache_bytes")),
        ("threads", 0),
        ("sync_tolerance_nats", 0.0),
        ("dtype", "float8"),
        ("speculations", {"type": "mtp"}),
    ],
)
def test_an_engine_that_cannot_be_is_refused(name: str, value: object):
    with pytest.raises(ValidationError, match=name):
        Generator.model_validate({name: value})
