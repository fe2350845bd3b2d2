"""Text to prompt tokens, the same way in every stage."""

from collections.abc import Callable

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cotree.grpo.models import cannot_load, encode_checked
from cotree.grpo.types import PromptTokens


def load_tokenizer(path: str, *, revision: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint. Remote code is never executed.

    Raises:
        FileNotFoundError: there is no such folder, and no such checkpoint on the hub.
    """
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise cannot_load(path, error) from error


def prompt_encoder(
    tokenizer: PreTrainedTokenizerFast, *, chat: bool
) -> Callable[[str], PromptTokens]:
    """Encodes rendered prompts.

    A chat template writes its own special tokens, so none are added to its text; a plain prompt
    gets what the tokenizer adds (a begin-of-sequence token, where the model was trained with one).

    Raises (when called):
        ValueError: the prompt is empty, has characters the tokenizer does not know, or ends in an
            end-of-sequence token, after which a model has nothing to say.
    """

    def encode(text: str) -> PromptTokens:
        encode_checked(tokenizer, text)
        ids = tuple(tokenizer.encode(text, add_special_tokens=not chat))
        if not ids:
            raise ValueError(f"the prompt {text!r} has no tokens; check the prompt's template.")
        if ids[-1] == tokenizer.eos_token_id:
            raise ValueError(
                f"the tokenizer ends the prompt {text!r} with its end-of-sequence token; "
                "use a tokenizer that does not append one, or write the prompt as a chat."
            )
        return ids

    return encode
