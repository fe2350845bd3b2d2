r"""Prompt styles: how a question becomes what a model is asked, and what format is asked of it.

| style        | chat | what is sent                                      | strict rule          |
|--------------|------|---------------------------------------------------|----------------------|
| boxed        | yes  | the question, then to reason and box the answer   | boxed                |
| boxed-system | yes  | the same with the instruction as system turn      | boxed                |
| few-shot     | no   | worked examples `Question: …\nAnswer: …`, this one | that of the examples |
| bare         | no   | the question and a newline                        | boxed                |

Any text with `{question}` in it is a style as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.records import Turn
from cotree.rewards.extract import LENIENT
from cotree.rewards.signature import near

QUESTION = "{question}"

# The sentence that Qwen2.5-Math and DeepSeek-R1 were evaluated with.
BOX_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a question is asked."""

    name: str
    template: str
    """Has `{question}` in it; other braces are kept as they are."""
    system: str | None = None
    """System turn; in plain text it stands in front."""
    chat: bool = False
    """Ask in the model's own chat template."""
    strict_rule: str | None = None
    """The extraction rule of the format asked for. None: worked examples show one, that of the
    benchmark's `example_rule`; without examples, none is asked for."""
    num_examples: int = 0
    """Worked examples in front of the question."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion."""
    before_solution: str = "\n"
    """What joins an example's question and its solution in plain text."""

    def __post_init__(self) -> None:
        if QUESTION not in self.template:
            raise ConfigError(
                f"prompt style {self.name!r}: its template {self.template!r} has no {QUESTION} in "
                "it, so nothing would be asked; put it where the question belongs."
            )
        if self.strict_rule is not None and self.strict_rule not in LENIENT:
            raise ConfigError(
                f"prompt style {self.name!r}: strict_rule = {self.strict_rule!r} must be one of "
                f"{', '.join(LENIENT)}, or None."
            )
        if self.num_examples < 0:
            raise ConfigError(
                f"prompt style {self.name!r}: num_examples = {self.num_examples}; give 0 or more."
            )


STYLES = {
    style.name: style
    for style in (
        PromptStyle("boxed", f"{QUESTION}\n{BOX_INSTRUCTION}", chat=True, strict_rule="boxed"),
        PromptStyle(
            "boxed-system", QUESTION, system=BOX_INSTRUCTION, chat=True, strict_rule="boxed"
        ),
        PromptStyle(
            "few-shot",
            f"Question: {QUESTION}\nAnswer:",
            num_examples=4,
            stop=("Question:",),
            before_solution=" ",
        ),
        PromptStyle("bare", f"{QUESTION}\n", strict_rule="boxed"),
    )
}
"""The styles that have names."""


def style_named(name_or_template: str) -> PromptStyle:
    r"""The style of this name, or the text as a template of one's own.

    A template of one's own is one user turn of a chat, without examples. Its strict rule is
    `boxed` if it mentions `\boxed`, else it asks for no format.

    Raises:
        ConfigError: it is neither a name nor a text with `{question}` in it.
    """
    if name_or_template in STYLES:
        return STYLES[name_or_template]
    if QUESTION in name_or_template:
        rule = "boxed" if r"\boxed" in name_or_template else None
        return PromptStyle("custom", name_or_template, chat=True, strict_rule=rule)
    raise ConfigError(
        f"no prompt style is named {name_or_template!r}{near(name_or_template, STYLES)}; choose "
        f"{', '.join(STYLES)}, or write a template with {QUESTION} in it."
    )


def turns(
    style: PromptStyle, question: str, examples: Sequence[tuple[str, str]]
) -> tuple[Turn, ...]:
    """The question as a chat: system, examples as turns of both sides, then the question.

    A style that is no chat becomes one user turn with all of its plain text.

    Args:
        style: how questions are asked.
        question: as published.
        examples: question and worked solution each; `style.num_examples` of them.

    Raises:
        ValueError: there are more or fewer examples.
    """
    if not style.chat:
        return (Turn("user", plain_text(style, question, examples)),)
    _check_count(style, examples)
    found = [] if style.system is None else [Turn("system", style.system)]
    for asked, solution in examples:
        found += [Turn("user", _asked(style, asked)), Turn("assistant", solution)]
    return (*found, Turn("user", _asked(style, question)))


def plain_text(style: PromptStyle, question: str, examples: Sequence[tuple[str, str]]) -> str:
    """The question as text to continue: what the system turn says, examples, the question.

    Args:
        style: how questions are asked; a chat style gives its text for models without a template.
        question: as published.
        examples: question and worked solution each; `style.num_examples` of them.

    Raises:
        ValueError: there are more or fewer examples.
    """
    _check_count(style, examples)
    blocks = [] if style.system is None else [style.system]
    blocks += [_asked(style, asked) + style.before_solution + text for asked, text in examples]
    return "\n\n".join((*blocks, _asked(style, question)))


def _asked(style: PromptStyle, question: str) -> str:
    return style.template.replace(QUESTION, question)


def _check_count(style: PromptStyle, examples: Sequence[tuple[str, str]]) -> None:
    if len(examples) != style.num_examples:
        raise ValueError(
            f"prompt style {style.name!r} takes {style.num_examples} worked examples, got "
            f"{len(examples)}; load that many (`load_examples`), or replace its num_examples."
        )
