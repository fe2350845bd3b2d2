"""Checkpoints small enough for tests, written on the spot."""

from pathlib import Path

WORDS = [chr(code) for code in range(32, 127)]
"""The tiny model's vocabulary besides specials: printable ASCII, one token a character."""


def write_character_tokenizer(folder: Path) -> int:
    """Writes a character tokenizer with <pad> and <eos> to `folder`; returns its size."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "\n", *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return len(vocabulary)


def write_tiny_model(folder: Path, *, seed: int, vocab_size: int) -> None:
    """Writes a random Qwen3 (width 64, 2 layers, tied embeddings, float32) to `folder`.

    Weights are four times the usual size, so that its distribution is far from uniform and a
    test that mixes two of them up cannot pass.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder)
