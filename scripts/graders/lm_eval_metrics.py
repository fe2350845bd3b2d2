r"""The metrics of lm-evaluation-harness for GSM8K and MATH as rewards of ours.

The harness's own tasks decide: its YAML files are loaded by its own `TaskManager`, with their
filters, regular expressions and rules. Only the rows are ours, so that no data set is fetched: a
reference becomes `#### REFERENCE` for `gsm8k` and a solution of `\boxed{REFERENCE}` for MATH.
Stop texts belong to sampling and are not applied: a completion is judged as it was sampled.

A reason says what the metric took for the answer, in the metric's own spelling.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset, DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from cotree.rewards.types import Problem, Reward, Status

FOLDER = Path(lm_eval.tasks.__file__).parent
ROW = {"question": "?", "answer": "#### 1", "problem": "?", "solution": r"\boxed{1}"}


def harness_tasks(*names: str) -> list[ConfigurableTask]:
    """The tasks of these names, each with one row of no consequence instead of its data set."""

    def rows(**_: object) -> DatasetDict:
        return DatasetDict({split: Dataset.from_list([ROW]) for split in ("train", "test")})

    folders = [str(FOLDER / name) for name in ("gsm8k", "minerva_math", "hendrycks_math")]
    found = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folders)
    members = [{"task": name, "custom_dataset": rows} for name in names]
    tasks = found.load({"group": "side_by_side", "task": members})["tasks"]
    return [tasks[name] for name in names]


GSM8K, MINERVA, HENDRYCKS = harness_tasks("gsm8k", "minerva_math500", "hendrycks_math500")


# --- gsm8k -----------------------------------------------------------------------------------


def gsm8k_strict_match(completion: str, problem: Problem) -> Reward:
    """`exact_match` of what the filter `strict-match` finds."""
    return _gsm8k(completion, problem, "strict-match")


def gsm8k_flexible_extract(completion: str, problem: Problem) -> Reward:
    """`exact_match` of what the filter `flexible-extract` finds."""
    return _gsm8k(completion, problem, "flexible-extract")


def _gsm8k(completion: str, problem: Problem, name: str) -> Reward:
    doc = {"question": problem.question, "answer": f"#### {problem.reference}"}
    took = _filtered(completion, name)
    scores = GSM8K.process_results(doc, [took])
    return _reward(scores["exact_match"], took, nothing=_filtered("", name))


def _filtered(completion: str, name: str) -> str:
    """The answer that one of the task's filters leaves of a completion."""
    instance = Instance("generate_until", doc={}, arguments=(), idx=0, resps=[completion])
    (chain,) = (chain for chain in GSM8K._filters if chain.name == name)
    chain.apply([instance])
    return instance.filtered_resps[name]


# --- MATH ------------------------------------------------------------------------------------


class Rule:
    """The rule of a MATH task, which says besides its metrics what each took for the answer."""

    def __init__(self, task: ConfigurableTask) -> None:
        self._process_docs = task.config.process_docs
        self._process_results = task.config.process_results
        self._took: dict[str, str] = {}
        names = self._process_results.__globals__
        self._normalized = names.get("normalize_final_answer", str)
        self._is_equiv = watched(
            names, "is_equiv", lambda answer, _: self._took.update(exact_match=answer)
        )
        if "verify" in names:
            watched(
                names, "verify", lambda **both: self._took.update(math_verify=shown(both["target"]))
            )
        self._process_results(self._doc("1"), [""])
        self._nothing = dict(self._took)

    def graded(self, completion: str, problem: Problem, metric: str) -> Reward:
        """One of the metrics."""
        scores = self._process_results(self._doc(problem.reference), [completion])
        return _reward(scores[metric], self._took[metric], nothing=self._nothing[metric])

    def equal(self, answer: str, reference: str) -> float:
        """Whether a bare answer is equivalent to the reference, both prepared as the task does."""
        return float(self._is_equiv(self._normalized(answer), self._doc(reference)["answer"]))

    @lru_cache(maxsize=1024)  # noqa: B019 - two rules, for the life of the process
    def _doc(self, reference: str) -> dict[str, str]:
        """The row as the task prepares it: its gold answer is read from the solution."""
        row = ROW | {"solution": rf"\boxed{{{reference}}}"}
        return self._process_docs(Dataset.from_list([row]))[0]


def watched(names: dict[str, Any], name: str, keep: Callable[..., object]) -> Callable[..., bool]:
    """A function of a module as it was; from now on its arguments go to `keep` too."""
    inner = names[name]

    def outer(*args: object, **kwargs: object) -> bool:
        keep(*args, **kwargs)
        return inner(*args, **kwargs)

    names[name] = outer
    return inner


def shown(parsed: Sequence[object]) -> str:
    """The text that math-verify found; it parses an answer to its values and their text."""
    return next((part for part in parsed if isinstance(part, str)), str(parsed or ""))


MINERVA_RULE, HENDRYCKS_RULE = Rule(MINERVA), Rule(HENDRYCKS)


def minerva_exact_match(completion: str, problem: Problem) -> Reward:
    """`exact_match` of `minerva_math`: what follows "Final Answer: The final answer is"."""
    return MINERVA_RULE.graded(completion, problem, "exact_match")


def minerva_math_verify(completion: str, problem: Problem) -> Reward:
    """`math_verify` of `minerva_math`, on the whole completion."""
    return MINERVA_RULE.graded(completion, problem, "math_verify")


def minerva_is_equiv(completion: str, problem: Problem) -> float:
    """The equivalence of `minerva_math` alone; the completion is a bare answer."""
    return MINERVA_RULE.equal(completion, problem.reference)


def hendrycks_exact_match(completion: str, problem: Problem) -> Reward:
    """`exact_match` of `hendrycks_math`: what stands between the first and the last dollar sign."""
    return HENDRYCKS_RULE.graded(completion, problem, "exact_match")


def hendrycks_is_equiv(completion: str, problem: Problem) -> float:
    """The equivalence of `hendrycks_math` alone; the completion is a bare answer."""
    return HENDRYCKS_RULE.equal(completion, problem.reference)


def _reward(score: float, took: str, *, nothing: str) -> Reward:
    """A metric's score; `nothing` is what it takes from an empty completion."""
    if took == nothing:
        return Reward(float(score), "took no answer", status=Status.NO_ANSWER)
    return Reward(float(score), f"took {took}")
