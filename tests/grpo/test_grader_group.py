"""Tests for grpo/grader_group.py and for graders whose rewards run in several places."""

import os
import threading
import time
from pathlib import Path

import pytest
import ray

from cotree.grpo.config import Grading, RewardTerm
from cotree.grpo.grader import GraderGroup
from cotree.grpo.grader_group import RewardActor, RewardProcess
from cotree.grpo.types import Completion, Group, Problem
from cotree.rewards.child import WorkerStartError
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.outcomes import Outcome
from cotree.rewards.plan import Call
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Reward, Ungraded

PLUGIN = """
import asyncio, ctypes, os, time

def act(text):
    if text == "sleep": ctypes.CDLL(None).sleep(1000)
    if text == "tower": return len(str(9 ** 9 ** 9))  # one C call that keeps the GIL
    if text == "exit": os._exit(3)
    if text == "odd": raise ValueError("odd")
    if text == "pid": return float(os.getpid())
    return float(text)

def one(completion): return act(completion)
def together(completions): return [act(text) for text in completions]
async def later(completion):
    if completion == "wait": await asyncio.sleep(1000)
    return act(completion)
def length(completion): return float(len(completion))
"""
PROBLEM = Problem("p", "1+1=", "2", "test", "1+1")

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "acts.py"
    path.write_text(PLUGIN)
    return str(path)


def values(outcomes: list[list[Outcome]]) -> list[float | str]:
    return [o.value if isinstance(o, Reward) else o.failure.value for (o,) in outcomes]


@pytest.mark.parametrize(
    ("function", "texts", "expected"),
    [
        ("one", ["1", "tower", "2", "exit", "odd", "3"], [1, "timeout", 2, "crash", "crash", 3]),
        ("together", ["1", "exit", "2"], [1, "crash", 2]),
    ],
)
def test_an_actor_is_replaced_when_a_call_does_not_come_back(
    file: str, function: str, texts: list[str], expected: list[float | str]
):
    actor = RewardActor(Term(f"{file}:{function}"), timeout_seconds=1.0)
    found = values(actor.outcomes([(text, PROBLEM) for text in texts]))
    actor.close()
    assert found == expected


def test_coroutines_that_never_end_are_given_up_without_the_others(file: str):
    actor = RewardActor(Term(f"{file}:later"), timeout_seconds=0.5)
    found = values(actor.outcomes([(text, PROBLEM) for text in ("1", "wait", "2")]))
    assert found == [1.0, "timeout", 2.0]
    assert values(actor.outcomes([("3", PROBLEM)])) == [3.0]
    actor.close()


def test_a_reward_that_cannot_start_says_why(file: str):
    with pytest.raises(WorkerStartError, match=r"no 'ones' \(did you mean 'one'"):
        RewardActor(Term(f"{file}:ones"), timeout_seconds=1.0)


def test_the_plain_class_makes_calls_without_ray(file: str):
    process = RewardProcess(Term(f"{file}:one"))
    with pytest.raises(RuntimeError, match="call start"):
        process.make(Call(0, (0,)), [("1", PROBLEM)], timeout_seconds=1.0)
    process.start()
    outcomes, is_clean = process.make(Call(0, (0,)), [("1", PROBLEM)], timeout_seconds=1.0)
    assert (outcomes, is_clean) == ([Reward(1.0, "1")], True)


def completion(text: str) -> Completion:
    return Completion((1,), (-0.5,), text, (len(text),), "stop", 0)


def breakdowns(groups: list[Group]) -> list[dict[str, float]]:
    rewards = [rollout.reward for group in groups for rollout in group.rollouts]
    assert all(isinstance(reward, Reward) for reward in rewards), rewards
    return [dict(reward.breakdown) for reward in rewards if isinstance(reward, Reward)]


def test_one_reward_may_run_in_several_places(file: str):
    terms = [
        RewardTerm(name=f"{file}:length", executor="inline"),
        RewardTerm(name="answer"),
        RewardTerm(name=f"{file}:one", executor="ray"),
        RewardTerm(name=f"{file}:together"),
    ]
    graders = GraderGroup.start(terms, Grading(workers=2))
    groups = graders.grade([(PROBLEM, (1,), [completion(text) for text in ("1", "22")])])
    graders.stop()
    expected = [[1.0, 0.0, 1.0, 1.0], [2.0, 0.0, 22.0, 22.0]]
    names = [term.name for term in terms]
    assert breakdowns(groups) == [dict(zip(names, row, strict=True)) for row in expected]


def test_executors_are_where_they_say(file: str):
    def pid_of(executor: str) -> int:
        term = RewardTerm.model_validate({"name": f"{file}:one", "executor": executor})
        graders = GraderGroup.start([term], Grading())
        first, again = breakdowns(graders.grade([(PROBLEM, (1,), [completion("pid")] * 2)]))
        graders.stop()
        assert first == again
        return int(first[term.name])

    assert len({pid_of(executor) for executor in ("process", "inline", "ray")} | {os.getpid()}) == 4


def test_a_file_is_found_by_actors_whose_working_directory_is_another(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "local.py").write_text("def f(completion): return 7.0")
    monkeypatch.chdir(tmp_path)  # the cluster was started elsewhere
    terms = [
        RewardTerm.model_validate({"name": f"{path}local.py:f", "executor": executor})
        for path, executor in (("", "process"), ("./", "ray"), (".//", "inline"))
    ]
    graders = GraderGroup.start(terms, Grading())
    Path("local.py").unlink()
    (found,) = breakdowns(graders.grade([(PROBLEM, (1,), [completion("x")])]))
    graders.stop()
    assert list(found.values()) == [7.0] * 3


@ray.remote(num_cpus=0)
class Grading_:  # noqa: N801 - `Grading` is the configuration's
    """An actor that grades in a thread of its own while its main thread keeps a heartbeat."""

    def grade(self, name: str, texts: list[str]) -> tuple[list[str], float, int]:
        found: list[Reward | Ungraded] = []

        def work() -> None:
            with IsolatedPool(
                [Term(name)], workers=2, timeout_seconds=0.5, memory_bytes=512 << 20
            ) as pool:
                found.extend(pool.grade_many([(text, PROBLEM) for text in texts]))

        thread = threading.Thread(target=work)
        before = time.monotonic()
        thread.start()
        longest, beats = 0.0, 0
        while thread.is_alive():
            time.sleep(0.01)
            now = time.monotonic()
            longest, before, beats = max(longest, now - before), now, beats + 1
        shown = [str(r.value) if isinstance(r, Reward) else r.failure.value for r in found]
        return shown, longest, beats


def test_hostile_text_leaves_the_heart_of_an_actor_beating(file: str):
    texts = ["1", "tower", "2", "sleep", "exit", "3", "tower", "odd", "4"]
    expected = ["1.0", "timeout", "2.0", "timeout", "crash", "3.0", "timeout", "crash", "4.0"]
    actor = Grading_.remote()
    shown, longest, beats = ray.get(actor.grade.remote(f"{file}:one", texts), timeout=60)
    assert shown == expected
    assert beats > 50
    assert longest < 5.0  # `tower` in this process would stop the heart for good
    ray.kill(actor)


def test_a_failure_is_blamed_on_its_own_term(file: str):
    terms = [
        RewardTerm(name=f"{file}:length"),
        RewardTerm(name=f"{file}:one", executor="ray", timeout_seconds=0.5),
    ]
    graders = GraderGroup.start(terms, Grading(max_failed_frac=1.0))
    (group,) = graders.grade([(PROBLEM, (1,), [completion("1"), completion("sleep")])])
    graders.stop()
    fine, late = (rollout.reward for rollout in group.rollouts)
    assert isinstance(fine, Reward)
    assert isinstance(late, Ungraded)
    assert (late.failure, late.term) == (Failure.TIMEOUT, terms[1].name)
