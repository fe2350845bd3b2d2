"""One side's steps of distillation, in a process of its own; `bench_distill.py` compares them.

    python scripts/peers_distill.py FOLDER

FOLDER/order.json says what to run. FOLDER/result.json says what came of it, and beside it are the
weights after the last step (FOLDER/model) and the completions that were sampled, if any were.
TRL has to be on the import path for its own side only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from distill_orders import (
    LOSSES,
    SAMPLE,
    Laps,
    Loss,
    Order,
    Result,
    Text,
    read_texts,
    resident,
    write_texts,
)

_TOKENS = (
    *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"),
    *("input_ids", "attention_mask", "labels"),
)
"""What TRL's batches hold tokens in: the first four or the last three."""


# --- ours ------------------------------------------------------------------------------------


def our_steps(order: Order, steps: Sequence[Sequence[Text]], folder: Path) -> Result:
    """Trains on the texts of each step with a learner in this process."""
    from cotree.grpo import config
    from cotree.grpo.config_algorithm import Optimizer
    from cotree.grpo.config_distill import Divergence, ResidentTeacher
    from cotree.grpo.learner import Learner, LearnerSpec
    from cotree.grpo.objective import Taught
    from cotree.grpo.supervised import Example, sft_batch

    loss = LOSSES[order.loss]
    settings = {"kind": loss.kind} | ({"mix": loss.beta} if loss.kind == "jsd" else {})
    teacher = ResidentTeacher(type="resident", path=order.teacher)
    learner = Learner(
        LearnerSpec(
            model_path=order.model,
            learner=config.Learner(
                precision=config.Float32(),
                threads=order.threads,
                micro_batch_tokens=order.micro_batch_tokens,
            ),
            optimizer=Optimizer(learning_rate=order.learning_rate),
            total_updates=len(steps),
            objective="sft" if loss.kind is None else Taught(Divergence.model_validate(settings)),
            seed=order.seed,
            teacher=None if loss.kind is None else teacher,
        )
    )
    result = Result(f"cotree {version('cotree')}", bytes_at_start=resident("VmRSS"))
    laps = Laps(result)
    for texts in steps:
        batch = sft_batch([Example(text.prompt_ids, text.completion_ids) for text in texts])
        result.losses.append(learner.step(batch)["loss"])
        result.tokens.append(batch.num_tokens)
        laps.end()
    result.divisors = result.tokens
    learner.save_model(folder / "model")
    return result


def our_samples(order: Order, steps: Sequence[Sequence[Text]], folder: Path) -> Result:
    """Samples a completion of each prompt with vLLM; the weights stay those of the model."""
    from cotree.grpo import config
    from cotree.grpo.engine import Generator, Sampling
    from cotree.grpo.seeds import derive
    from cotree.grpo.types import Problem, SampleRequest

    longest = max(len(text.prompt_ids) for texts in steps for text in texts)
    generator = Generator(
        order.model,
        generator=config.Generator(
            dtype="float32", threads=order.threads, max_model_len=longest + order.max_tokens + 1
        ),
        seed=order.seed,
    )
    sampling = Sampling(max_tokens=order.max_tokens, temperature=1.0)
    result = Result(f"vllm {_vllm_version()}", bytes_at_start=resident("VmRSS"))
    sampled: list[list[Text]] = []
    laps = Laps(result)
    for number, texts in enumerate(steps):
        requests = [
            SampleRequest(
                Problem(str(row), prompt=text.prompt, reference="", task="bench"),
                text.prompt_ids,
                (derive(order.seed, "sample", number, row),),
            )
            for row, text in enumerate(texts)
        ]
        laps.start()
        with laps.sampling():
            groups = generator.sample(requests, sampling, min_version=0)
        laps.end()
        sampled.append(
            [
                Text(text.prompt, text.prompt_ids, group[0].token_ids)
                for text, group in zip(texts, groups, strict=True)
            ]
        )
        result.tokens.append(sum(len(text.completion_ids) for text in sampled[-1]))
    write_texts(folder / "samples.json", sampled)
    return result


def _vllm_version() -> str:
    import vllm

    return vllm.__version__


# --- TRL's -----------------------------------------------------------------------------------


def trl_steps(order: Order, steps: Sequence[Sequence[Text]], folder: Path) -> Result:
    """The same by TRL's trainer, subclassed only to write down what it does."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(order.threads)
    loss = LOSSES[order.loss]
    result = Result(f"trl {version('trl')}")
    laps = Laps(result)
    trainer_class, settings = _trainer(order, loss)
    recorded, seen = _recorded(trainer_class, result, laps)

    def network(path: str):
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    trainer = recorded(
        model=network(order.model),
        args=_arguments(order, settings, len(steps), len(steps[0]), folder),
        train_dataset=_data_set([text for texts in steps for text in texts]),
        processing_class=AutoTokenizer.from_pretrained(order.model),
        callbacks=[_watch(result, laps)],
        **({} if loss.kind is None else {"teacher_model": network(order.teacher)}),
    )
    trainer.train()
    trained = [_texts_of(tensors) for tensors in seen]
    result.tokens = [sum(len(text.completion_ids) for text in texts) for texts in trained]
    if loss.sampled:
        write_texts(folder / "samples.json", trained)
    trainer.model.save_pretrained(folder / "model")
    return result


def _recorded(trainer_class, result: Result, laps: Laps):
    """The class that writes down losses and times, and the list that it puts its batches in."""
    seen = []

    class Recorded(trainer_class):
        """Writes down the loss, what it was computed on, and what it was divided by."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            found = super().compute_loss(
                model, inputs, return_outputs, num_items_in_batch=num_items_in_batch
            )
            result.losses.append(float(found))
            # DistillationTrainer counts what it sampled, and puts that in the place of the number
            # that Trainer counted in the data set.
            result.divisors.append(int(inputs.get("num_items_in_batch", num_items_in_batch)))
            seen.append({name: inputs[name] for name in _TOKENS if name in inputs})
            return found

        def _generate_single_turn(self, *given, **named):
            with laps.sampling():
                return super()._generate_single_turn(*given, **named)

        @staticmethod
        def generate_on_policy_outputs(*given, **named):
            with laps.sampling():
                return trainer_class.generate_on_policy_outputs(*given, **named)

    return Recorded, seen


def _watch(result: Result, laps: Laps):
    """Tells the clock when steps end."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """The first step starts with the training, each other one where the one before ended."""

        def on_train_begin(self, *_: object, **__: object) -> None:
            result.bytes_at_start = resident("VmRSS")
            laps.start()

        def on_step_end(self, *_: object, **__: object) -> None:
            laps.end()

    return Watch()


def _trainer(order: Order, loss: Loss):
    """TRL's class, and the settings that only its configuration has."""
    import trl
    from trl.experimental import gkd

    whole = {"max_length": None, "packing": False, "completion_only_loss": True}
    if loss.trainer == "SFTTrainer":
        return trl.SFTTrainer, (trl.SFTConfig, whole)
    if loss.trainer == "DistillationTrainer":
        return trl.DistillationTrainer, (
            trl.DistillationConfig,
            {
                "beta": loss.beta,
                "max_completion_length": order.max_tokens,
                "shuffle_dataset": False,
            },
        )
    return gkd.GKDTrainer, (
        gkd.GKDConfig,
        whole
        | {
            "beta": loss.beta,
            "lmbda": 1.0 if loss.sampled else 0.0,
            "temperature": 1.0,  # of sampling: GKDTrainer compares distributions at 1 in any case
            "max_new_tokens": order.max_tokens,
        },
    )


def _arguments(order: Order, settings, num_steps: int, num_sequences: int, folder: Path):
    """Our optimizer, the whole batch at once, in order, without anything that is not training."""
    import torch

    from cotree.grpo.config_algorithm import Optimizer

    optimizer = Optimizer(learning_rate=order.learning_rate)
    config_class, own = settings
    return config_class(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=num_sequences,
        gradient_accumulation_steps=1,
        max_steps=num_steps,
        train_sampling_strategy="sequential",
        optim="adamw_torch_fused",
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=optimizer.weight_decay,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.eps,
        max_grad_norm=optimizer.max_grad_norm,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=order.seed,
        **own,
    )


def _data_set(texts: Sequence[Text]):
    """The texts as tokens that TRL takes as they are."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [text.prompt for text in texts],
            "input_ids": [text.prompt_ids + text.completion_ids for text in texts],
            "completion_mask": [
                [0] * len(text.prompt_ids) + [1] * len(text.completion_ids) for text in texts
            ],
        }
    )


def _texts_of(tensors) -> list[Text]:
    """What a trainer computed a loss on, whichever way it holds it."""
    texts: list[Text] = []
    if "completion_ids" in tensors:
        columns = (tensors[name] for name in _TOKENS if name in tensors)
        for ids, mask, done_ids, done_mask in zip(*columns, strict=True):
            prompt, completion = ids[mask.bool()], done_ids[done_mask.bool()]
            texts.append(Text("", tuple(prompt.tolist()), tuple(completion.tolist())))
        return texts
    for row, ids in enumerate(tensors["input_ids"]):
        trained = tensors["labels"][row] != -100
        prompt = ids[tensors["attention_mask"][row].bool() & ~trained]
        texts.append(Text("", tuple(prompt.tolist()), tuple(ids[trained].tolist())))
    return texts


def main() -> None:
    folder = Path(sys.argv[1])
    order = Order(**json.loads((folder / "order.json").read_text()))
    steps = read_texts(Path(order.texts))
    ours = our_samples if order.loss == SAMPLE else our_steps
    result = (trl_steps if order.side == "trl" else ours)(order, steps, folder)
    result.peak_bytes = resident("VmHWM")
    (folder / "result.json").write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
