"""A teacher and students small enough for tests, and their configurations."""

from pathlib import Path

from smoke_pipeline import cotree, finish
from tiny_models import write_tiny_model

STEPS = 40
ON_POLICY_STEPS = 3

_MODEL = """
[model]
type = "new"
layers = 2
width = 64
heads = 2
kv_heads = 1
mlp_width = 128
"""
_COMMON = """
[task]
type = "arithmetic"
operands = [2, 3]
largest = 12
num_train = 200
num_test = 8

[generator]
max_model_len = 96
kv_cache_bytes = 33554432

[evaluate]
num_problems = 8
max_tokens = 32
"""
_BENCHMARKS = """
[evaluate.benchmarks]
names = ["arithmetic"]
limit = 8
max_tokens = 32
"""
_TEACHER = """
[sft]
num_steps = 250
sequences_per_step = 32

[sft.traces]
type = "generated"

[sft.optimizer]
learning_rate = 3e-3
"""
_ENGINE = """
[distill.teacher]
type = "engine"
path = "runs/teacher/sft/model"
"""
_OFFLINE = f"""
num_steps = {STEPS}
sequences_per_step = 16
save_every = 5

[distill.optimizer]
learning_rate = 3e-3
"""
_SAMPLED = """
[distill.corpus]
type = "teacher"
samples = 4
max_tokens = 32
"""
_ROWS = """
[distill.corpus]
type = "rows"
path = "runs/traces/distill/corpus/traces.jsonl"
"""
_ON_POLICY = f"""
[distill]
type = "on_policy"

[distill.train]
num_steps = {ON_POLICY_STEPS}
prompts_per_step = 8
save_every = 1

[distill.train.rollout]
group_size = 2
max_tokens = 32

[distill.train.optimizer]
learning_rate = 1e-3
"""


def _pretrained(path: str) -> str:
    return f'\n[model]\ntype = "pretrained"\npath = "{path}"\n'


def _distill(kind: str, *parts: str) -> str:
    return f'\n[distill]\ntype = "{kind}"{_OFFLINE}{"".join(parts)}'


CONFIGS = {
    "teacher": _MODEL + _COMMON + _TEACHER,
    "traces": _MODEL + _COMMON + _distill("traces", _ENGINE, _SAMPLED),
    "logits": _MODEL + _COMMON + _distill("logits", _ENGINE, _ROWS),
    "stored": _MODEL
    + _COMMON
    + _distill("logits", _ROWS).replace(
        'type = "logits"', 'type = "logits"\nstore = "runs/logits/distill/logits"'
    ),
    "on_policy": _pretrained("runs/traces/distill/model") + _COMMON + _ON_POLICY + _ENGINE,
    "other": _pretrained("other")
    + _COMMON
    + _BENCHMARKS
    + _distill("logits", _ENGINE, _ROWS.replace("runs/traces/distill/corpus/", "")),
}
"""By name of the run. They follow one another: `teacher`, then `traces`, then the others."""


def write_folder(folder: Path) -> None:
    """Writes every configuration to `folder`, and trains the teacher there."""
    for name, text in CONFIGS.items():
        (folder / f"{name}.toml").write_text(f"trackers = []\n{text}")
    finish(cotree(folder, "sft", "teacher.toml"), code=0)


def write_other_student(folder: Path) -> None:
    """Writes a random model whose tokens are pairs and longer, trained on arithmetic texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [
        f"<think>\n{a}*{b}+{a}\n{a * b}+{a}\n</think>\n\\boxed{{{a * b + a}}}"
        for a in range(13)
        for b in range(9)
    ]
    backend.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>"
    ).save_pretrained(folder)
    write_tiny_model(folder, seed=1, vocab_size=320)
