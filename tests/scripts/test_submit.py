"""scripts/submit.sh end to end: a real head with a token, real jobs, a stop that can be resumed."""

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from smoke_pipeline import CONFIG, cotree, finish, wait_for_step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


TEXTS = """
type = "logits"
num_steps = 2
sequences_per_step = 4
corpus = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
"""
LOOP = """
type = "on_policy"
[distill.train]
num_steps = 2
prompts_per_step = 2
rollout = { group_size = 2, max_tokens = 8 }
optimizer = { learning_rate = 1e-3 }
"""


class Head:
    """A head of its own for this module: other ports, another home, hence another token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dashboard = free_port()
        self._environment = os.environ | {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COTREE_VENV": str(Path(sys.executable).parents[1]),
            "COTREE_DASHBOARD_PORT": str(self.dashboard),
            "COTREE_RAY_PORT": str(free_port()),
        }
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            self._environment.pop(name, None)

    def submit(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "submit.sh"), *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("job")
    (folder / "smoke.toml").write_text(f'output_dir = "{folder}/run"\n' + CONFIG)
    head = Head(folder)
    yield head
    finish(head.submit("stop"), code=0)


def test_stages_run_as_jobs_and_a_stopped_one_can_be_resumed(head: Head):
    config, run = str(head.folder / "smoke.toml"), head.folder / "run"
    output = finish(head.submit("sft", config), code=0)
    assert "step 30/30" in output, "the job's log shows its progress"
    assert "cotree 0." in output, "a run says which code it runs"
    assert (run / "sft" / "model" / "config.json").exists()

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{head.dashboard}/api/jobs/", timeout=10)
    token = head.folder / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0, "only its owner may read the token"

    following = head.submit("train", config, "--set", "train.num_steps=500")
    assert following.stdout is not None
    job = next(found[1] for line in following.stdout if (found := re.search(r"Job (\S+)\.", line)))
    wait_for_step(run, 1, following)
    finish(head.submit("cancel", job), code=0)
    following.communicate(timeout=60)  # its exit code says nothing: Ray's is 0 for a stopped job

    done = max(int(folder.name[-6:]) for folder in (run / "checkpoints").glob("step_??????"))
    steps = f"train.num_steps={done + 1}"
    finish(cotree(head.folder, "train", "smoke.toml", "--resume", "--set", steps), code=0)
    assert (run / "model" / "config.json").exists()


def test_a_model_is_evaluated_as_a_job(head: Head, tiny_model: Path):
    output = head.folder / "evaluation"
    told = finish(
        head.submit(
            *("evaluate", str(tiny_model), "--benchmarks", "arithmetic", "--limit", "4"),
            *("--max-tokens", "8", "--output", str(output)),
        ),
        code=0,
    )
    assert "arithmetic: accuracy" in told
    assert (output / "results.json").exists()


def test_a_model_is_searched_with_as_a_job(head: Head, tiny_model: Path):
    output = head.folder / "search"
    told = finish(
        head.submit(
            *("search", str(tiny_model), "--task", "arithmetic", "--limit", "3"),
            *("--strategy", "majority", "--budget-tokens", "24", "--max-tokens", "8"),
            *("--output", str(output)),
        ),
        code=0,
    )
    assert "arithmetic: majority:" in told
    assert (output / "search.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TEXTS, LOOP], ids=["logits", "on_policy"])
def test_a_job_finds_a_teacher_and_a_student_by_relative_paths(
    head: Head, tiny_model: Path, kind: str
):
    # A job works in a copy of the root, from where these lead nowhere.
    model = f'path = "{os.path.relpath(tiny_model, ROOT)}"'
    folder = head.folder / ("loop" if kind == LOOP else "texts")
    config = head.folder / f"{folder.name}.toml"
    config.write_text(
        f'output_dir = "{folder}"\n'
        "evaluate = { num_problems = 4, max_tokens = 8 }\n"
        "generator = { max_model_len = 96, kv_cache_bytes = 33554432 }\n"
        'task = { type = "arithmetic", operands = [2, 3], num_train = 200, num_test = 20 }\n'
        f'[model]\ntype = "pretrained"\n{model}\n'
        f'[distill]{kind}[distill.teacher]\ntype = "resident"\n{model}\n'
    )
    told = finish(head.submit("distill", str(config)), code=0)
    assert "step 2/2" in told
    assert (folder / "distill" / "model" / "config.json").exists()
