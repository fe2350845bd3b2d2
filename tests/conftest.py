"""Fixtures shared by all tests. Everything runs offline and, on a CPU, with one thread."""

import os

# Before torch is imported anywhere: OpenMP reads the variable once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from deepseek_models import ALPHABET, TINY_MTP
from hypothesis import settings
from tiny_models import write_character_tokenizer, write_tiny_model

# A shell that starts the tests in the background has SIGINT ignored, and every process they start
# would inherit that: no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run, and no limit of 0.2 s an example, which a busy machine breaks.
# `--hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Keeps the collected tests out of garbage collections: one took half a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Triton's bindings would report what is still frozen at the end as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen3 with a character tokenizer; do not write to it."""
    folder = tmp_path_factory.mktemp("tiny_model")
    size = write_character_tokenizer(folder)
    write_tiny_model(folder, seed=0, vocab_size=-(-size // 32) * 32)
    return folder


@pytest.fixture(scope="session")
def mtp_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny DeepSeek-V3 with a module that predicts a token more; do not write to it."""
    from cotree.grpo.models import create_model

    folder = tmp_path_factory.mktemp("mtp_model")
    create_model(TINY_MTP, folder, alphabet=ALPHABET, seed=5)
    return folder


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was() -> Iterator[None]:
    """A learner sets threads and deterministic algorithms for the rest of the process."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray node of this module's own; its actors end with it."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=256 << 20)
    yield
    ray.shutdown()
