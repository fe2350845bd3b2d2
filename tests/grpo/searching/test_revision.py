"""Tests for grpo/searching/revision.py: the model sees the question, its draft and a request."""

from cotree.grpo.evaluation.records import Turn
from cotree.grpo.searching.revision import REQUEST, revision_prompt


def test_a_chat_goes_on_with_the_draft_and_the_request():
    prompt = (Turn("system", "Be brief."), Turn("user", "2+2?"))
    assert revision_prompt(prompt, "5") == (
        *prompt,
        Turn("assistant", "5"),
        Turn("user", REQUEST),
    )


def test_plain_text_is_continued():
    found = revision_prompt("2+2?\n", "5")
    assert isinstance(found, str)
    assert found.startswith("2+2?\n5\n\n")
    assert REQUEST in found
