"""Tests for grpo/footprint_distill.py: what a teacher adds, in parameters and in bytes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cotree.grpo.config import Pipeline
from cotree.grpo.footprint import ModelSize, model_size, run_bytes
from cotree.grpo.footprint_distill import checkpoint_size, distill_bytes, teacher_size
from cotree.grpo.run_folder import load_pipeline

HEAD = """
output_dir = "runs/x"
model = { type = "new" }
task = { type = "arithmetic" }
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[learner]
processes = 2
[distill]
"""
LOOP = """
type = "on_policy"
[distill.train]
num_steps = 9
optimizer = { learning_rate = 1e-4 }
[distill.teacher]
"""
TEXTS = """
type = "logits"
num_steps = 3
optimizer = { learning_rate = 1e-3 }
corpus = { type = "generated" }
[distill.teacher]
"""
ENGINE = 'type = "engine"\npath = "PATH"\nreplicas = 3\nkv_cache_bytes = 2097152\n'
RESIDENT = 'type = "resident"\npath = "PATH"\n'
GIB = 1 << 30


def pipeline_with(folder: Path, text: str) -> Pipeline:
    path = folder / "c.toml"
    path.write_text(HEAD + text.replace("PATH", str(folder)))
    return load_pipeline(path, [])


def test_a_teacher_is_as_large_as_its_tensors(tmp_path: Path):
    save_file({"a": np.zeros((3, 4)), "b": np.zeros(5)}, tmp_path / "model.safetensors")
    pipeline = pipeline_with(tmp_path, TEXTS + RESIDENT)
    assert teacher_size(pipeline) == ModelSize(17)
    assert checkpoint_size(pipeline, str(tmp_path / "none")) == ModelSize(None)
    server = pipeline_with(tmp_path, LOOP + 'type = "server"\nurl = "http://h"\ntokenizer = "PATH"')
    assert teacher_size(server) == ModelSize(None)


def added(pipeline: Pipeline, parameters: int | None) -> int | None:
    """Bytes beyond those of the student."""
    student = model_size(pipeline)
    found = distill_bytes(pipeline, student, ModelSize(parameters))
    alone = run_bytes(pipeline, student)
    assert alone is not None
    return None if found is None else found - alone


@pytest.mark.parametrize("kind", [LOOP, TEXTS])
def test_a_resident_teacher_is_in_each_process(tmp_path: Path, kind: str):
    # 2 processes x 1000 parameters x 4 bytes, or 2 bytes.
    assert added(pipeline_with(tmp_path, kind + RESIDENT), 1000) == 8000
    half = pipeline_with(tmp_path, kind + RESIDENT + 'dtype = "bfloat16"')
    assert added(half, 1000) == 4000


def test_the_engines_of_a_teacher_are_beside_the_student_in_a_loop(tmp_path: Path):
    # Each of 3 replicas: the process, 1000 parameters x 2 bytes, the cache.
    engines = 3 * (GIB + 2000 + 2097152)
    assert added(pipeline_with(tmp_path, LOOP + ENGINE), 1000) == engines


def test_before_texts_are_learned_they_have_the_memory_to_themselves(tmp_path: Path):
    pipeline = pipeline_with(tmp_path, TEXTS + ENGINE)
    alone = run_bytes(pipeline, model_size(pipeline))
    assert alone is not None
    # 3 small engines take 3.006 GiB, the student's learners and engine 3.8 GiB.
    assert added(pipeline, 1000) == 0
    # 10^10 parameters of 2 bytes in each of 3.
    assert added(pipeline, 10**10) == 3 * (GIB + 2 * 10**10 + 2097152) - alone


def test_an_unknown_teacher_leaves_the_sum_unknown_unless_it_is_elsewhere(tmp_path: Path):
    assert added(pipeline_with(tmp_path, LOOP + ENGINE), None) is None
    server = 'type = "server"\nurl = "http://h"\ntokenizer = "PATH"'
    assert added(pipeline_with(tmp_path, LOOP + server), None) == 0


def test_the_reference_of_a_loop_with_a_kl_term_counts(tmp_path: Path):
    server = 'type = "server"\nurl = "http://h"\ntokenizer = "PATH"'
    pipeline = pipeline_with(tmp_path, LOOP + server + "\n[distill.train.kl]\ncoef = 0.1\n")
    size = model_size(pipeline)
    assert size.parameters is not None
    # 4 bytes a parameter in each of 2 processes.
    assert added(pipeline, None) == 2 * 4 * size.parameters
