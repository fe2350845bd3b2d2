"""Readers of texts with tokenizers trained on the spot: byte-level BPE, and characters."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotree.grpo.distilling.view import Reader
from cotree.grpo.models import character_tokenizer
from cotree.grpo.token_scores import ScoreRequest, TokenScores
from cotree.grpo.types import PromptTokens

ASCII = [*map(chr, range(32, 127)), "\n"]
SUMS = [f"{a}+{b}*{c}={a + b * c}\n12-{a}" for a in range(13) for b in range(9) for c in (1, 2)]


def byte_level_bpe(
    corpus: Sequence[str], *, vocab_size: int = 300, end: str | None = "<end>"
) -> PreTrainedTokenizerFast:
    """A BPE over bytes whose tokens end anywhere, within characters too."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[] if end is None else [end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)


BPE = byte_level_bpe(SUMS)
CHARACTERS = character_tokenizer(ASCII, max_positions=64)


def reader(
    tokenizer: PreTrainedTokenizerFast, *, mark: str = "", vocab_size: int | None = None
) -> Reader:
    """A model with this tokenizer that is given `mark` and the question."""
    return Reader(
        tokenizer,
        len(tokenizer) if vocab_size is None else vocab_size,
        lambda question: encoded(tokenizer, mark + question),
    )


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> PromptTokens:
    """The text's tokens, without special ones."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def ended(tokenizer: PreTrainedTokenizerFast, text: str) -> PromptTokens:
    """The text's tokens and the one that ends them."""
    assert isinstance(tokenizer.eos_token_id, int)
    return (*encoded(tokenizer, text), tokenizer.eos_token_id)


def random_scores(request: ScoreRequest, *, vocab_size: int, seed: int) -> TokenScores:
    """Of a teacher that says everything: all tokens by falling probability."""
    logits = np.random.default_rng(seed).normal(0.0, 2.0, (len(request.token_ids), vocab_size))
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1)
    rows = np.arange(len(logits))
    return TokenScores(
        logprobs[rows, list(request.token_ids)].astype(np.float32),
        order.astype(np.int32),
        np.take_along_axis(logprobs, order, -1).astype(np.float32),
    )
