"""The prompt that shows a model its own draft and asks for a better completion."""

from __future__ import annotations

from cotree.grpo.evaluation.records import Prompt, Turn

REQUEST = (
    "Check the solution above step by step. If there is a mistake, say where. Then write the whole "
    "solution again, corrected, in the format that was asked for."
)


def revision_prompt(prompt: Prompt, draft: str) -> Prompt:
    """The question, the draft, and the request to revise it; a chat stays a chat.

    Args:
        prompt: that the draft was an answer to.
        draft: a completion, special tokens left out.

    Source: Zhang et al. 2024, arXiv:2406.07394, sec. 3 (self-refine), with one request instead of
        a critique and a rewriting.
    """
    if isinstance(prompt, str):
        return f"{prompt}{draft}\n\n{REQUEST}\n"
    return (*prompt, Turn("assistant", draft), Turn("user", REQUEST))
