"""Tests for grpo/evaluation/prompting.py."""

from dataclasses import replace

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.prompting import STYLES, PromptStyle, plain_text, style_named, turns
from cotree.grpo.evaluation.records import Turn

SENTENCE = r"Please reason step by step, and put your final answer within \boxed{}."
EXAMPLES = (("1+1?", "It is 2.\n#### 2"), ("2+2?", "#### 4"))
FEW_SHOT = replace(STYLES["few-shot"], num_examples=2)


def test_boxed_puts_the_instruction_after_the_question():
    asked = f"2+3?\n{SENTENCE}"
    assert turns(style_named("boxed"), "2+3?", ()) == (Turn("user", asked),)
    assert plain_text(style_named("boxed"), "2+3?", ()) == asked


def test_boxed_system_puts_the_instruction_in_front():
    style = style_named("boxed-system")
    assert turns(style, "2+3?", ()) == (Turn("system", SENTENCE), Turn("user", "2+3?"))
    assert plain_text(style, "2+3?", ()) == f"{SENTENCE}\n\n2+3?"


def test_bare_is_the_form_that_the_quickstarts_model_was_trained_on():
    style = style_named("bare")
    assert plain_text(style, "2+3", ()) == "2+3\n"
    assert (style.chat, style.strict_rule) == (False, "boxed")


def test_few_shot_shows_worked_examples_as_plain_text():
    assert plain_text(FEW_SHOT, "2+3?", EXAMPLES) == (
        "Question: 1+1?\nAnswer: It is 2.\n#### 2\n\n"
        "Question: 2+2?\nAnswer: #### 4\n\n"
        "Question: 2+3?\nAnswer:"
    )
    style = style_named("few-shot")
    assert (style.num_examples, style.stop, style.chat) == (4, ("Question:",), False)
    assert style.strict_rule is None  # the benchmark's examples decide


def test_a_style_without_chat_is_one_user_turn_where_only_a_chat_will_do():
    (turn,) = turns(FEW_SHOT, "2+3?", EXAMPLES)
    assert turn == Turn("user", plain_text(FEW_SHOT, "2+3?", EXAMPLES))


def test_examples_of_a_chat_are_turns_of_both_sides():
    style = replace(STYLES["boxed-system"], num_examples=1)
    assert turns(style, "2+3?", EXAMPLES[:1]) == (
        Turn("system", SENTENCE),
        Turn("user", "1+1?"),
        Turn("assistant", "It is 2.\n#### 2"),
        Turn("user", "2+3?"),
    )
    assert plain_text(style, "2+3?", EXAMPLES[:1]) == (
        f"{SENTENCE}\n\n1+1?\nIt is 2.\n#### 2\n\n2+3?"
    )


@pytest.mark.parametrize("write", [turns, plain_text])
def test_the_number_of_examples_must_be_the_styles(write):
    with pytest.raises(ValueError, match="'few-shot' takes 2 worked examples, got 1"):
        write(FEW_SHOT, "2+3?", EXAMPLES[:1])
    with pytest.raises(ValueError, match="'boxed' takes 0 worked examples, got 2"):
        write(STYLES["boxed"], "2+3?", EXAMPLES)


@pytest.mark.parametrize(
    ("template", "rule"), [(r"{question} Box it: \boxed{}", "boxed"), ("Solve {question}", None)]
)
def test_any_text_with_the_question_in_it_is_a_style(template: str, rule: str | None):
    style = style_named(template)
    assert (style.name, style.chat, style.strict_rule) == ("custom", True, rule)
    assert turns(style, "2+3?", ()) == (Turn("user", template.replace("{question}", "2+3?")),)


def test_braces_in_templates_and_questions_are_kept():
    style = style_named(r"\frac{1}{2} {question} {x}")
    assert plain_text(style, "{question}?", ()) == r"\frac{1}{2} {question}? {x}"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("boxd", r"no prompt style is named 'boxd' \(did you mean 'boxed'\?\); choose boxed, "),
        ("Solve it.", "or write a template with {question} in it"),
    ],
)
def test_a_text_that_is_no_style_is_an_error_with_the_choices(name: str, says: str):
    with pytest.raises(ConfigError, match=says):
        style_named(name)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"template": "Solve it."}, "has no {question} in it"),
        ({"strict_rule": "box"}, "strict_rule = 'box' must be one of boxed, "),
        ({"num_examples": -1}, "num_examples = -1; give 0 or more"),
    ],
)
def test_a_style_that_cannot_work_is_refused(fields: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        PromptStyle(**{"name": "own", "template": "{question}", **fields})  # pyright: ignore
