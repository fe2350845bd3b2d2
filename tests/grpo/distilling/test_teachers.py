"""Tests for grpo/distilling/teachers.py: who a teacher is, and how it reads."""

import shutil
from pathlib import Path

import pytest

from cotree.grpo.config_distill import EngineTeacher, ResidentTeacher, ServerTeacher
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_model import Prompt
from cotree.grpo.distilling.teachers import (
    engine_settings,
    identity_of,
    longest_prompt,
    longest_text,
    reader_of,
    server_scorer,
    teacher_checkpoint,
    teacher_reader,
)

URL = "http://127.0.0.1:9"


@pytest.fixture
def teacher(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(tiny_model, tmp_path / "teacher"))


def test_a_reader_has_the_models_rows_and_not_the_tokenizers(tiny_model: Path):
    # 99 tokens, padded to a multiple of 32.
    found = reader_of(str(tiny_model), Prompt(), revision=None)
    assert (len(found.tokenizer), found.vocab_size) == (99, 128)
    assert longest_text(str(tiny_model), revision=None) == 512


def test_a_question_is_put_in_the_prompts_words(tiny_model: Path):
    found = reader_of(str(tiny_model), Prompt(template="Q: {question}="), revision=None)
    assert found.tokenizer.decode(found.prompt("1+2")) == "Q: 1+2="


@pytest.mark.parametrize("kind", [EngineTeacher, ResidentTeacher])
def test_a_teacher_without_a_prompt_is_asked_as_the_student_is(tiny_model: Path, kind: type):
    name = {EngineTeacher: "engine", ResidentTeacher: "resident"}[kind]
    plain = kind(type=name, path=str(tiny_model))
    own = kind(type=name, path=str(tiny_model), prompt=Prompt(template="<{question}>"))
    students = Prompt(template="{question}?")
    for teacher, asked in ((plain, "1?"), (own, "<1>")):
        found = teacher_reader(teacher, students)
        assert found.tokenizer.decode(found.prompt("1")) == asked


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"cannot load a model from '\./nobody'"):
        reader_of("./nobody", Prompt(), revision=None)
    with pytest.raises(FileNotFoundError, match=r"cannot load a model from '\./nobody'"):
        longest_text("./nobody", revision=None)


def test_a_servers_tokenizer_has_to_be_named_before_it_scores(tiny_model: Path):
    server = ServerTeacher(type="server", url=URL)
    with pytest.raises(ConfigError, match=r"distill\.teacher\.tokenizer is missing"):
        teacher_checkpoint(server)
    with pytest.raises(ConfigError, match=r"distill\.teacher\.tokenizer is missing"):
        teacher_reader(server, Prompt())
    told = ServerTeacher(type="server", url=URL, tokenizer=str(tiny_model))
    assert teacher_checkpoint(told) == (str(tiny_model), None)
    engine = EngineTeacher(type="engine", path="hub/name", revision="abc")
    assert teacher_checkpoint(engine) == ("hub/name", "abc")


def test_the_address_of_a_server_has_to_be_one():
    with pytest.raises(ConfigError, match="nowhere"):
        server_scorer(ServerTeacher(type="server", url="nowhere"))


def test_what_changes_answers_changes_the_identity(teacher: Path):
    def identity(put: str = "{question}", **settings: object) -> dict[str, object]:
        engine = EngineTeacher(type="engine", path=str(teacher), **settings)
        return identity_of(engine, Prompt(template=put))

    first = identity()
    assert identity() == first
    own = Prompt(template="{question}!")
    others = [identity("{question}?"), identity(prompt=own), identity(dtype="float32")]
    (teacher / "model.safetensors").write_bytes(b"trained further")
    others.append(identity())
    assert first not in others
    assert len({str(other) for other in others}) == 4


def test_what_does_not_change_answers_does_not_change_the_identity(teacher: Path):
    plain = EngineTeacher(type="engine", path=str(teacher))
    more = EngineTeacher(type="engine", path=str(teacher), replicas=2, threads=3, max_num_seqs=7)
    written = EngineTeacher(type="engine", path=str(teacher), prompt=Prompt())
    assert identity_of(plain, Prompt()) == identity_of(more, Prompt())
    assert identity_of(plain, Prompt()) == identity_of(written, Prompt(template="{question}?"))


def test_a_server_is_known_by_its_address_and_model():
    found = {
        str(identity_of(ServerTeacher(type="server", **settings), Prompt()))
        for settings in ({"url": URL}, {"url": URL, "model": "b"}, {"url": f"{URL}9"})
    }
    assert len(found) == 3
    busy = ServerTeacher(type="server", url=URL, concurrency=7, timeout_seconds=3.0)
    assert str(identity_of(busy, Prompt())) in found


def test_engines_hold_the_longest_prompt_and_completion(tiny_model: Path):
    settings = engine_settings(
        EngineTeacher(type="engine", path=str(tiny_model)), prompt_tokens=100, max_tokens=60
    )
    assert 160 <= settings.max_model_len <= 512
    with pytest.raises(ConfigError, match="512"):
        engine_settings(
            EngineTeacher(type="engine", path=str(tiny_model)), prompt_tokens=500, max_tokens=13
        )


def test_the_longest_prompt_is_that_of_the_most_tokens():
    assert longest_prompt(["1+2", "10+20+30", "5"], lambda question: range(len(question))) == 8
