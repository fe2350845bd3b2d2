"""An engine, a tokenizer, graders and problems that belong together: what sampling needs."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from cotree.grpo.config import Pipeline
from cotree.grpo.evaluate import Evaluation, evaluate
from cotree.grpo.evaluation.policy import PolicyBenchmarks
from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.grader import GraderGroup
from cotree.grpo.problems import load_problems, render_prompt
from cotree.grpo.reward_terms import refuse_unfit
from cotree.grpo.tokens import load_tokenizer, prompt_encoder


class Sampler:
    """Starts its actors on `with`, and ends them with it."""

    def __init__(
        self, pipeline: Pipeline, model: str, *, gpu_share: float, record_routes: bool
    ) -> None:
        """Reads the tokenizer and the problems; starts nothing.

        Args:
            pipeline: what to sample from, and how it is graded.
            model: local folder or hub name.
            gpu_share: of one engine.
            record_routes: completions say which experts their tokens went to.

        Raises:
            ConfigError: a benchmark or a row cannot be used.
        """
        self._pipeline = pipeline
        self._model = model
        self._gpu_share = gpu_share
        self._record_routes = record_routes
        self._actors = ExitStack()
        revision = pipeline.model.revision if pipeline.model.type == "pretrained" else None
        self._revision = revision if pipeline.sft is None else None
        tokenizer = load_tokenizer(model, revision=self._revision)
        self.encode = prompt_encoder(tokenizer, chat=pipeline.prompt.chat)
        self._benchmarks = (
            PolicyBenchmarks(pipeline.evaluate.benchmarks, pipeline.generator, tokenizer)
            if pipeline.evaluate.benchmarks
            else None
        )

        def render(question: str) -> str:
            return render_prompt(pipeline.prompt, question, tokenizer)

        self.test_problems = load_problems(pipeline, "test", render)
        self.train_problems = load_problems(pipeline, "train", render) if pipeline.train else []
        # Here, and not when the actors start: a wrong row must not cost the time of a GPU.
        refuse_unfit(pipeline, [*self.train_problems, *self.test_problems])

    def __enter__(self) -> Self:
        pipeline = self._pipeline
        with ExitStack() as starting:
            self.graders = GraderGroup.start(pipeline.rewards, pipeline.grading)
            starting.callback(self.graders.stop)
            self.generators = GeneratorGroup.start(
                self._model,
                generator=pipeline.generator,
                seed=pipeline.seed,
                num_gpus=self._gpu_share,
                revision=self._revision,
                record_routes=self._record_routes,
            )
            starting.callback(self.generators.stop)
            self._actors = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._actors.close()

    def evaluate(self, *, min_version: int) -> Evaluation:
        """Accuracy of the policy that the generators hold: held-back problems, then benchmarks."""
        evaluation = evaluate(
            self.test_problems,
            encode=self.encode,
            generators=self.generators,
            graders=self.graders,
            settings=self._pipeline.evaluate,
            seed=self._pipeline.seed,
            min_version=min_version,
        )
        if self._benchmarks is None:
            return evaluation
        summaries = self._benchmarks.measure(self.generators, min_version=min_version)
        return replace(evaluation, benchmarks=tuple(summaries))
