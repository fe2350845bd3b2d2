"""Tests for grpo/evaluation/lookup.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.benchmark import load_benchmark
from cotree.grpo.evaluation.lookup import benchmark_named, installed_benchmarks
from cotree.grpo.evaluation.prompting import STYLES

OWN = """
from cotree.grpo.evaluation.benchmark import Benchmark
from cotree.rewards.registry import Term

class Doubles(Benchmark):
    name = "doubles"

    def problem(self, row, place, index):
        return self.posed(index, f"{row['n']} twice?", str(2 * row["n"]), {"n": row["n"]})

    def term(self, strict_rule):
        return None if strict_rule else Term("own.py:doubled")

def doubled(completion, n):
    return float(completion == str(2 * n))

class Abstract(Benchmark):
    name = "abstract"

class Nameless(Doubles):
    name = "no/file"

VALUE = 3
"""


def test_every_installed_benchmark_is_usable_and_says_what_it_is():
    names = list(installed_benchmarks())
    assert {"gsm8k", "math500", "aime24", "aime25", "amc23", "minerva"} <= set(names)
    assert {"olympiadbench", "countdown", "arithmetic"} <= set(names)
    assert names == sorted(names)
    for name in names:
        benchmark = benchmark_named(name)
        assert benchmark.name == name
        assert benchmark.version >= 1
        assert benchmark.description
        assert benchmark.prompt in STYLES
        assert benchmark.term(None) is not None


def test_a_class_of_a_module_is_found():
    assert benchmark_named("cotree.grpo.evaluation.benchmarks:Gsm8k").name == "gsm8k"


def test_a_class_in_a_file_is_a_benchmark_graded_by_a_reward_of_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("doubles.jsonl").write_text('{"n": 2}\n{"n": 5}\n')
    benchmark = benchmark_named("own.py:Doubles")
    data = load_benchmark(benchmark, tmp_path, limit=None, subset_seed=0)
    assert [(p.id, p.question, p.reference) for p in data.problems] == [
        ("doubles/0", "2 twice?", "4"),
        ("doubles/1", "5 twice?", "10"),
    ]
    assert benchmark.term("boxed") is None
    assert benchmark_named("own.py:Doubles").__class__ is benchmark.__class__


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gsm8", r"no benchmark is named 'gsm8' \(did you mean 'gsm8k'\?\). Known: aime24, "),
        ("none.py:Doubles", "no benchmark file 'none.py' in the working directory"),
        ("own.py", "say which class as own.py:Class"),
        ("own.py:Double", r"has no 'Double' \(did you mean 'Doubles'\?\); its benchmarks: "),
        ("own.py:VALUE", "is 3, which is no subclass of Benchmark"),
        ("own.py:Abstract", "cannot be made like this: Can't instantiate abstract class"),
        ("own.py:Nameless", "its name is 'no/file'; set `name` to letters"),
        ("broken.py:Any", r"importing it raised SystemExit: no \(at .*broken.py:2\)"),
        ("cotree.nowhere:Any", "importing it raised ModuleNotFoundError"),
    ],
)
def test_a_name_that_leads_to_no_benchmark_is_an_error_that_says_why(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("broken.py").write_text("import sys\nsys.exit('no')\n")
    with pytest.raises(ConfigError, match=says):
        benchmark_named(name)


def test_benchmarks_load_without_torch_vllm_ray_and_transformers():
    code = (
        "import sys\n"
        "from cotree.grpo.evaluation import prompting\n"
        "from cotree.grpo.evaluation.benchmark import benchmark_named, installed_benchmarks\n"
        "[benchmark_named(name) for name in installed_benchmarks()]\n"
        "heavy = ('torch', 'vllm', 'ray', 'transformers', 'datasets')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
