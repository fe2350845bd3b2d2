"""The import rules (who may import whom), import diet, and the sizes the house style sets."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grpo", "rewards", "search", "kernels")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MAY_IMPORT = {
    "kernels": set[str](),
    "rewards": set[str](),
    "search": {"rewards"},
    "grpo": {"rewards", "search", "kernels"},
}
# What leaf packages may import from outside the standard library, so that they stay leaves.
FOREIGN = {
    "kernels": {"torch", "triton"},
    "rewards": {"math_verify", "mpmath", "sympy"},
    "search": set[str](),
}
CONFIG_PARTS = (
    *("", "_algorithm", "_distill", "_evaluation", "_generator"),
    *("_learner", "_model", "_search", "_traces"),
)
CONFIG = {f"cotree.grpo.config{part}" for part in CONFIG_PARTS}
TYPES = {"cotree.grpo.types", "cotree.rewards.types"}
MATHS = ("advantage", "tree_advantage", "loss", "kl", "divergence", "filter", "collate")
# The modules of grpo that may import ray: those that make, hold or talk to actors.
RAY = (
    {"cluster"}
    | {f"{role}{part}" for role in ("generator", "grader", "learner") for part in ("", "_group")}
    | {"generator_session"}
)
VLLM = {
    *("engine", "engine_experts", "engine_latent", "engine_routes"),
    *("engine_sampling", "engine_scoring", "engine_speculation", "engine_worker"),
}


def imported(path: Path, *, at_load: bool = False) -> set[str]:
    """Full names of the modules that `path` imports; types-only imports do not count.

    Args:
        path: a Python file.
        at_load: leave out what is imported inside functions.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(submodules(node))
        pending.extend(ast.iter_child_nodes(node))
    return found


def submodules(node: ast.ImportFrom) -> set[str]:
    """Names of the modules that a `from` import reads, be the imported thing one or not."""
    module = node.module or ""
    names = {f"{module}.{alias.name}" for alias in node.names}
    files = {
        name for name in names if (ROOT / Path(*name.split(".")[1:])).with_suffix(".py").exists()
    }
    return files or {module}


def test_the_reader_of_imports_sees_all_their_forms(tmp_path: Path):
    # The other tests of this file would pass on anything if this reader saw nothing.
    source = tmp_path / "m.py"
    source.write_text(
        "import ray.util\n"
        "from cotree.grpo import types\n"
        "from cotree.rewards.types import Reward\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from vllm import LLM\n"
    )
    at_load = {"ray.util", "cotree.grpo.types", "cotree.rewards.types", "typing"}
    assert imported(source, at_load=True) == at_load
    assert imported(source) == at_load | {"vllm"}


def test_every_package_has_sources():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package: str):
    allowed = {package} | MAY_IMPORT[package]
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("cotree.")}
        assert ours <= allowed, f"{path} imports {ours - allowed}; allowed: {sorted(allowed)}"


@pytest.mark.parametrize("package", FOREIGN)
def test_leaf_packages_import_little_from_outside(package: str):
    allowed = FOREIGN[package] | {"cotree"}
    for path in (ROOT / package).rglob("*.py"):
        foreign = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
        assert foreign <= allowed, f"{path} imports {foreign - allowed}; allowed: {sorted(allowed)}"


def test_relative_imports_are_not_used():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            assert not relative, f"{path}:{node.lineno} is relative; write the cotree name"


def test_contracts_of_grpo_import_only_contracts():
    # types and config are read by everything, from the command line's first line on.
    for name in ("types", *(f"config{part}" for part in CONFIG_PARTS)):
        names = imported(ROOT / "grpo" / f"{name}.py")
        ours = {module for module in names if module.startswith("cotree.")}
        assert ours <= CONFIG | {"cotree.rewards.types"}, f"grpo/{name}.py imports {ours}"
        assert not {"torch", "ray", "vllm"} & {module.split(".")[0] for module in names}


def test_the_maths_imports_only_contracts_and_torch():
    found = [path for name in MATHS if (path := ROOT / "grpo" / f"{name}.py").exists()]
    assert found, f"none of {MATHS} in grpo/; this test checks nothing"
    siblings = {f"cotree.grpo.{path.stem}" for path in found}
    for path in found:
        names = imported(path)
        ours = {module for module in names if module.startswith("cotree.")}
        assert ours <= CONFIG | TYPES | siblings, f"{path} imports {ours}"
        assert not {"ray", "vllm", "transformers"} & {module.split(".")[0] for module in names}


@pytest.mark.parametrize(("module", "allowed"), [("ray", RAY), ("vllm", VLLM)])
def test_only_actor_files_import(module: str, allowed: set[str]):
    for path in SOURCES:
        if module in {name.split(".")[0] for name in imported(path)}:
            where = path.relative_to(ROOT)
            assert where.parts[0] == "grpo", f"{where} imports {module}"
            assert path.stem in allowed, f"{where} imports {module}; only {sorted(allowed)} may"


def test_vllm_is_imported_inside_the_engine_process_only():
    for path in SOURCES:
        if not path.stem.startswith("engine_"):
            assert "vllm" not in {name.split(".")[0] for name in imported(path, at_load=True)}, path


def test_kernels_is_not_a_package_at_the_root():
    # With an __init__.py, `import kernels` from the repository root finds ours before the Hugging
    # Face package of that name, and `import transformers` fails (DECISIONS.md, 2).
    assert not (ROOT / "kernels" / "__init__.py").exists()


DIET = ("cotree.grpo.config", "cotree.grpo.run_folder", "cotree.rewards", "cotree.search")


@pytest.mark.parametrize("module", DIET)
def test_light_modules_load_no_heavy_ones(module: str):
    assert importlib.util.find_spec(module), f"{module} does not exist"
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'vllm', 'ray', 'transformers') "
        "if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_files_are_at_most_400_lines():
    sources = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").glob("*")]
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources if path.is_file()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_functions_are_at_most_60_lines():
    long: dict[str, int] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > 60:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_tests_mirror_the_sources():
    # A test file of tests/grpo that names no source is a test somebody cannot find.
    for package in PACKAGES:
        for path in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = ROOT / path.parent.relative_to(ROOT / "tests")
            sources = {source.stem for source in folder.glob("*.py")}
            name = path.stem.removeprefix("test_")
            assert any(name == s or name.startswith(f"{s}_") for s in sources), path


def test_test_files_have_names_of_their_own():
    # pytest imports them by name alone, and refuses a second one.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_every_folder_with_code_is_packaged():
    # A folder that pyproject.toml does not list works from a checkout and is missing in a wheel.
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(path.parent.relative_to(ROOT)) for path in SOURCES}
    assert folders <= set(setup["package-dir"].values())
    assert set(setup["packages"]) == set(setup["package-dir"])
