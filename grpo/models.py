"""Models and tokenizers: made on the spot with random weights, or loaded from a checkpoint.

Remote code of a checkpoint is never executed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from cotree.grpo.config_model import NewDeepseekModel, NewModel
from cotree.grpo.mtp import init_projection, turn_last_layer_into_mtp, with_copies
from cotree.grpo.new_models import new_model_config
from cotree.grpo.seeds import derive

PAD, EOS = "<pad>", "<eos>"
_NUM_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
"""Names that architectures give to one number."""
VOCABULARY_MULTIPLE = 32
"""Embedding rows are padded to a multiple of this: matrix products like even shapes."""


def create_model(
    model: NewModel | NewDeepseekModel, folder: Path, *, alphabet: Sequence[str], seed: int
) -> None:
    """Writes a model with random weights and a tokenizer over `alphabet` to `folder`.

    Weights are float32 safetensors. The same arguments give the same bytes.

    Args:
        model: architecture and sizes.
        folder: created when missing; holds config, weights and tokenizer, as a hub checkpoint.
        alphabet: the tokens besides `<pad>` and `<eos>`: characters, and strings such as
            `<think>` that become one token.
        seed: of the weights.

    Raises:
        ValueError: the alphabet repeats a token, or has an empty or a special one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = character_tokenizer(alphabet, max_positions=model.max_positions)
    config = new_model_config(model, tokenizer)
    has_mtp = isinstance(model, NewDeepseekModel) and model.mtp_layers == 1
    config.num_hidden_layers += has_mtp
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config)).float()
    logging.disable_progress_bar()  # one shard of a tiny model
    state = None
    if has_mtp:
        module = turn_last_layer_into_mtp(network)
        init_projection(module, std=config.initializer_range, seed=derive(seed, "mtp"))
        state = with_copies(network.state_dict(), layers=model.layers)
    network.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def character_tokenizer(alphabet: Sequence[str], *, max_positions: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are exactly `alphabet`, longest match first, `<pad>` and `<eos>`.

    There is no unknown token: text outside the alphabet is an error (see `encode_checked`).
    The vocabulary is filled up with `<unused_0>`, … which no text encodes to, so that every
    row of the embedding has a name if an untrained policy samples it.
    """
    if len(set(alphabet)) != len(alphabet) or not all(alphabet) or {PAD, EOS} & set(alphabet):
        raise ValueError(
            f"alphabet must hold distinct, non-empty tokens other than {PAD!r} and {EOS!r}; "
            f"got {list(alphabet)}."
        )
    words = [PAD, EOS, *alphabet]
    filler = -len(words) % VOCABULARY_MULTIPLE
    words += [f"<unused_{index}>" for index in range(filler)]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}))
    longest_first = sorted(alphabet, key=len, reverse=True)
    pattern = "|".join([*(_escaped(word) for word in longest_first), r"[\s\S]"])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=max_positions,
    )


def _escaped(word: str) -> str:
    """`word` for the Oniguruma regex: letters and digits as they are, the rest by code point."""
    return "".join(c if re.match(r"[A-Za-z0-9]", c) else f"\\x{{{ord(c):X}}}" for c in word)


def encode_checked(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of `text`, without special tokens added; text it cannot express is an error.

    Raises:
        ValueError: the tokenizer has no token for part of the text, or writes "unknown" for it.
    """
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.model, models.WordLevel) and backend.pre_tokenizer is not None:
        vocabulary = backend.get_vocab()
        for piece, (start, _) in backend.pre_tokenizer.pre_tokenize_str(text):
            if piece not in vocabulary:
                raise ValueError(_unknown(piece, start, text))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = cast(list[int], encoded["input_ids"])
    offsets = cast(list[tuple[int, int]], encoded["offset_mapping"])
    for token_id, (start, end) in zip(ids, offsets, strict=True):
        is_unknown = tokenizer.unk_token_id is not None and token_id == tokenizer.unk_token_id
        if is_unknown and text[start:end] != tokenizer.unk_token:
            raise ValueError(_unknown(text[start:end], start, text))
    return ids


def _unknown(piece: str, start: int, text: str) -> str:
    return (
        f"the tokenizer has no token for {piece!r} (character {start} of {text[:80]!r}); "
        "use a model whose vocabulary covers the text, or change the text."
    )


def load_model(
    path: str, *, dtype: torch.dtype | str, revision: str | None = None
) -> PreTrainedModel:
    """The causal language model at `path`, a local folder or a hub name, weights in `dtype`.

    Raises:
        FileNotFoundError: there is no such folder, and no such checkpoint on the hub.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, revision=revision, trust_remote_code=False
        )
    except OSError as error:
        raise cannot_load(path, error) from error
    return cast(PreTrainedModel, model)


def load_config(path: str, *, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of the model at `path`, a local folder or a hub name; no weights are read.

    Raises:
        FileNotFoundError: there is no such folder, and no such checkpoint on the hub.
    """
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise cannot_load(path, error) from error


def refuse_quantized_experts(config: PreTrainedConfig) -> None:
    """Refuses to train a mixture of experts from a quantized checkpoint.

    transformers 5.19 dequantizes its experts and stacks them, but cannot undo both when it saves
    them. What it loaded no longer tells: ask the configuration as `load_config` gives it.

    Raises:
        ValueError: it is one.
    """
    quantization = getattr(config, "quantization_config", None)
    text = config.get_text_config()
    if quantization is None or not any(getattr(text, name, None) for name in _NUM_EXPERTS):
        return
    raise ValueError(
        f"{config.name_or_path!r} is a mixture of experts with quantized weights "
        "(quantization_config in its config.json); what is trained from it could not be saved. "
        "Start from its bfloat16 release, or write one first: dequantize the weights (for FP8 "
        "blocks, inference/fp8_cast_bf16.py of DeepSeek-V3 does) and drop quantization_config."
    )


def cannot_load(path: str, error: OSError) -> FileNotFoundError:
    """What to tell about a checkpoint, or its tokenizer, that transformers could not load."""
    return FileNotFoundError(
        f"cannot load a model from {path!r} (folder exists: {Path(path).is_dir()}): {error}. "
        "Correct the path or name, run the stage that makes it (`cotree sft`), or download it; "
        "with HF_HUB_OFFLINE=1 hub names work only when they are in the local cache."
    )


def copy_tokenizer(source: str, folder: Path, *, revision: str | None = None) -> None:
    """Writes the tokenizer and the generation settings of checkpoint `source` to `folder`."""
    from transformers import AutoTokenizer, GenerationConfig  # noqa: PLC0415 (slow to import)

    AutoTokenizer.from_pretrained(
        source, revision=revision, trust_remote_code=False
    ).save_pretrained(folder)
    if (Path(source) / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)
