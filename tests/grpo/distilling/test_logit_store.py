"""Tests for grpo/distilling/logit_store.py: what kills, full disks and flipped bytes leave."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cotree.grpo.distilling.logit_store import (
    LogitStore,
    LogitStoreError,
    LogitWriter,
    StoreSummary,
)
from cotree.grpo.token_scores import ScoreRequest, TokenScores

ABOUT = {"teacher": {"model": "t", "revision": "1"}, "corpus": "c0ffee", "keep": {"most": 2}}
VOCAB_SIZE = 100
NUM_SEQUENCES = 7
SHARD_TOKENS = 8


def sequence(index: int, num_tokens: int = 4) -> tuple[ScoreRequest, TokenScores]:
    """Tells its index by its prompt; its first position leaves 1/4 to the tail, the others 1/2."""
    top = np.full((num_tokens, 2), np.log(0.25), np.float32)
    top[0, 0] = np.log(0.5)
    ids = np.tile(np.array([3, 1], np.int32), (num_tokens, 1))
    own = np.full(num_tokens, -1.0, np.float32)
    return ScoreRequest((index % VOCAB_SIZE,), (2,) * num_tokens), TokenScores(own, ids, top)


def writer(folder: Path, **changes: object) -> LogitWriter:
    given = {"about": ABOUT, "vocab_size": VOCAB_SIZE, "shard_tokens": SHARD_TOKENS, **changes}
    return LogitWriter(folder, **given)  # pyright: ignore[reportArgumentType]


def write_rest(folder: Path) -> StoreSummary:
    with writer(folder) as open_writer:
        for index in range(open_writer.num_done, NUM_SEQUENCES):
            open_writer.add(*sequence(index))
        return open_writer.finish()


def order(store: LogitStore) -> list[int]:
    return [stored.request.prompt_ids[0] for stored in store]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Seven sequences of 4 tokens and shards of 8: two a shard, and the seventh by itself."""
    folder = tmp_path / "whole"
    write_rest(folder)
    return folder


def test_sequences_come_back_in_their_order_from_whichever_shard(whole: Path):
    store = LogitStore.open(whole)
    assert sorted(path.name for path in whole.glob("shard_*")) == [
        f"shard_0000{n}.safetensors" for n in range(4)
    ]
    assert len(store) == NUM_SEQUENCES
    assert order(store) == list(range(NUM_SEQUENCES))
    assert store[-1].request == store[6].request == sequence(6)[0]
    for outside in (NUM_SEQUENCES, -NUM_SEQUENCES - 1):
        with pytest.raises(IndexError, match="of a store with 7"):
            store[outside]
    request, scores, tail_logprobs = store[3]
    assert request == sequence(3)[0]
    np.testing.assert_array_equal(scores.top_ids, sequence(3)[1].top_ids)
    np.testing.assert_allclose(np.exp(tail_logprobs), [0.25, 0.5, 0.5, 0.5], rtol=1e-3)


def test_a_store_knows_what_it_is_and_its_totals(tmp_path: Path):
    summary = write_rest(tmp_path)
    store = LogitStore.open(tmp_path)
    assert store.about == ABOUT
    assert store.vocab_size == VOCAB_SIZE
    assert store.summary == summary
    shard_bytes = sum(path.stat().st_size for path in tmp_path.glob("shard_*"))
    assert (store.num_tokens, store.num_bytes) == (28, shard_bytes)
    # One position in four leaves 1/4, three leave 1/2: 0.0625 + 0.375.
    assert store.mean_tail_mass == pytest.approx(0.4375, rel=1e-6)
    assert summary.max_tail_mass == pytest.approx(0.5, rel=1e-6)
    assert summary.bytes_per_million_tokens == shard_bytes / 28 * 1e6


def test_opening_a_store_and_reading_a_sequence_leaves_the_rest_on_the_disk(tmp_path: Path):
    with writer(tmp_path, shard_tokens=100_000) as open_writer:
        for index in range(60):
            open_writer.add(*sequence(index, num_tokens=5_000))
        summary = open_writer.finish()
    # A token with 2 entries takes 7 + 2 * 4 = 15 bytes: 300 000 of them 4.5 MB.
    assert summary.num_bytes > 4_500_000
    tracemalloc.start()
    store = LogitStore.open(tmp_path)
    _, opened = tracemalloc.get_traced_memory()
    last = store[59]
    _, read = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last.request.prompt_ids == (59,)
    assert opened < 500_000  # digests are taken in pieces of 256 KiB
    assert read < 1_000_000  # 5000 tokens with their float64 intermediates


# --- kills -----------------------------------------------------------------------------------


def write_until_killed(folder: Path, steps: int) -> None:
    """Ends this process with SIGKILL at the given access to the folder's names, if it comes."""
    left = steps

    def count(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if event.startswith(("open", "os.")) and str(folder) in str(args[:1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_rest(folder)


def test_a_kill_at_any_step_leaves_a_store_that_is_continued_to_the_same_bytes(
    tmp_path: Path, whole: Path
):
    expected = files(whole)
    forking = multiprocessing.get_context("fork")
    left_behind: set[tuple[str, ...]] = set()
    done: set[int] = set()
    for steps in range(1, 200):
        folder = tmp_path / f"killed_{steps}"
        child = forking.Process(target=write_until_killed, args=(folder, steps))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        if folder.exists():
            left_behind.add(tuple(sorted(files(folder))))
            with writer(folder) as resumed:
                done.add(resumed.num_done)
        write_rest(folder)
        assert files(folder) == expected
        assert order(LogitStore.open(folder)) == list(range(NUM_SEQUENCES))
    else:
        pytest.fail("the writer never came to its end")
    # The kills fell everywhere: before and after every shard, and between a file and its rename.
    assert done == {0, 2, 4, 6, 7}
    first = "shard_00000.safetensors"
    assert {
        ("logits.json.tmp",),
        ("logits.json",),
        ("logits.json", f"{first}.tmp"),
        ("logits.json", first),
        ("logits.json", "logits.json.tmp", first),
    } <= left_behind


def test_what_a_kill_left_half_done_is_removed_by_the_next_writer(tmp_path: Path, whole: Path):
    folder = tmp_path / "half"
    with writer(folder) as open_writer:
        for index in range(2):
            open_writer.add(*sequence(index))
    before = files(folder)
    content = (whole / "shard_00001.safetensors").read_bytes()
    (folder / "shard_00001.safetensors").write_bytes(content)  # the manifest does not name it
    (folder / "shard_00002.safetensors.tmp").write_bytes(content[:100])
    (folder / "logits.json.tmp").write_bytes(b"{")
    with writer(folder) as resumed:
        assert resumed.num_done == 2
    assert files(folder) == before


def test_an_abandoned_writer_keeps_whole_shards(tmp_path: Path):
    abandoned = writer(tmp_path)
    for index in range(5):
        abandoned.add(*sequence(index))
    assert abandoned.num_done == 4
    del abandoned  # never left: as a kill, but the lock goes
    with writer(tmp_path) as resumed:
        assert resumed.num_done == 4


def test_leaving_without_finishing_keeps_every_sequence(tmp_path: Path):
    def interrupted() -> None:
        with writer(tmp_path) as open_writer:
            for index in range(5):
                open_writer.add(*sequence(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(LogitStoreError, match=r"not answered everything: 5 sequences so far"):
        LogitStore.open(tmp_path)
    with writer(tmp_path) as resumed:
        assert resumed.num_done == 5
    write_rest(tmp_path)
    assert order(LogitStore.open(tmp_path)) == list(range(NUM_SEQUENCES))


def test_scores_that_are_refused_cost_no_other_sequence(tmp_path: Path):
    request, scores = sequence(1)
    with writer(tmp_path) as open_writer:
        open_writer.add(*sequence(0))
        with pytest.raises(ValueError, match="below vocab_size = 100"):
            open_writer.add(ScoreRequest((100,), request.token_ids), scores)
    write_rest(tmp_path)
    assert order(LogitStore.open(tmp_path)) == list(range(NUM_SEQUENCES))


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Writes beyond this size fail with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("about", "limit", "named"),
    [
        (ABOUT, 200, r"shard_00001\.safetensors"),
        # The shard fits and the manifest does not: it is there, but not named yet.
        ({"teacher": "t" * 9000}, 8000, r"logits\.json"),
    ],
)
def test_a_full_disk_is_named_and_loses_nothing(
    tmp_path: Path, about: dict[str, object], limit: int, named: str
):
    with writer(tmp_path, about=about) as open_writer:
        for index in range(3):
            open_writer.add(*sequence(index))
        with (
            files_end_at(limit),
            pytest.raises(LogitStoreError, match=rf"could not write \S+{named} .* Free some space"),
        ):
            open_writer.add(*sequence(3))
        assert not list(tmp_path.glob("*.tmp"))
        assert open_writer.num_done == 2
        open_writer.finish()  # there is space again: the fourth was kept
    assert order(LogitStore.open(tmp_path)) == [0, 1, 2, 3]


def test_an_error_of_the_disk_that_ends_the_writer_keeps_the_shards_before(tmp_path: Path):
    def filled() -> None:
        with writer(tmp_path) as open_writer:
            for index in range(3):
                open_writer.add(*sequence(index))
            with files_end_at(200):
                open_writer.add(*sequence(3))
            open_writer.finish()

    with pytest.raises(LogitStoreError, match="could not write"):
        filled()
    assert not (tmp_path / "shard_00001.safetensors").exists()
    with writer(tmp_path) as resumed:
        assert resumed.num_done == 2


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shard_00001.safetensors", "logits.json"])
def test_any_flipped_byte_is_found_by_reader_and_writer(whole: Path, name: str):
    path = whole / name
    content = path.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(LogitStoreError, match=name):
            LogitStore.open(whole)
    with pytest.raises(LogitStoreError, match=name):
        writer(whole)
    path.write_bytes(content)
    LogitStore.open(whole)


@pytest.mark.parametrize("name", ["shard_00001.safetensors", "logits.json"])
def test_a_file_that_was_cut_short_is_found(whole: Path, name: str):
    content = (whole / name).read_bytes()
    for length in range(0, len(content), 7):
        (whole / name).write_bytes(content[:length])
        found = "is not JSON" if name == "logits.json" else f"has {length} bytes instead of"
        with pytest.raises(LogitStoreError, match=f"{name} {found} .* ask the teacher again"):
            LogitStore.open(whole)


def test_a_missing_shard_is_named(whole: Path):
    (whole / "shard_00002.safetensors").unlink()
    for opened in (LogitStore.open, writer):
        with pytest.raises(LogitStoreError, match=r"there is no \S+shard_00002\.safetensors"):
            opened(whole)


def test_shards_without_a_manifest_are_neither_read_nor_written_over(whole: Path):
    before = files(whole)
    (whole / "logits.json").unlink()
    with pytest.raises(LogitStoreError, match=r"there is no \S+logits\.json"):
        LogitStore.open(whole)
    with pytest.raises(LogitStoreError, match=r"shard_00000\.safetensors, .* but no logits\.json"):
        writer(whole)
    before.pop("logits.json")
    assert files(whole) == before


def test_a_store_of_a_newer_version_says_so(whole: Path):
    path = whole / "logits.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2}))
    with pytest.raises(LogitStoreError, match=r"logits\.json has format 2, .* reads 1"):
        LogitStore.open(whole)


def test_a_manifest_that_is_no_mapping_is_damaged(whole: Path):
    (whole / "logits.json").write_text("[1]")
    with pytest.raises(LogitStoreError, match=r"logits\.json was changed"):
        LogitStore.open(whole)


# --- who may write ---------------------------------------------------------------------------


def test_another_teacher_is_refused_with_all_that_differs(whole: Path):
    other = {**ABOUT, "teacher": {"model": "t", "revision": "2"}, "seed": 1}
    before = files(whole)
    with pytest.raises(LogitStoreError) as caught:
        writer(whole, about=other, vocab_size=50)
    assert "about.teacher.revision: '1' there, '2' now" in str(caught.value)
    assert "about.seed: None there, 1 now" in str(caught.value)
    assert "vocab_size: 100 there, 50 now" in str(caught.value)
    assert "model" not in str(caught.value)
    assert files(whole) == before


def test_a_tuple_is_the_list_that_it_is_read_back_as(tmp_path: Path):
    with writer(tmp_path, about={"stages": ("a", "b")}) as open_writer:
        open_writer.add(*sequence(0))
    with writer(tmp_path, about={"stages": ["a", "b"]}) as resumed:
        assert resumed.num_done == 1


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1, 2}])
def test_an_about_that_is_not_json_is_refused(tmp_path: Path, value: object):
    with pytest.raises(ValueError, match="is not JSON"):
        writer(tmp_path / "store", about={"key": value})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("vocab_size", [0, (1 << 24) + 1])
def test_a_vocabulary_whose_ids_have_no_code_is_refused(tmp_path: Path, vocab_size: int):
    with pytest.raises(ValueError, match=f"vocab_size = {vocab_size} must be from 1 to 16777216"):
        writer(tmp_path, vocab_size=vocab_size)


def test_two_writers_cannot_share_a_folder(tmp_path: Path):
    with writer(tmp_path), pytest.raises(LogitStoreError, match="another process writes to"):
        writer(tmp_path)
    with writer(tmp_path):  # free again
        pass


def test_a_finished_store_takes_no_more_and_finishing_again_changes_nothing(whole: Path):
    before = files(whole)
    with writer(whole) as again:
        assert again.num_done == NUM_SEQUENCES
        with pytest.raises(LogitStoreError, match="is finished, with 7 sequences"):
            again.add(*sequence(7))
        assert again.finish() == LogitStore.open(whole).summary
    assert files(whole) == before


def test_an_empty_store_is_not_finished(tmp_path: Path):
    with writer(tmp_path) as empty, pytest.raises(LogitStoreError, match="at least one sequence"):
        empty.finish()


def test_a_store_may_be_moved(whole: Path, tmp_path: Path):
    moved = shutil.copytree(whole, tmp_path / "elsewhere")
    shutil.rmtree(whole)
    assert order(LogitStore.open(moved)) == list(range(NUM_SEQUENCES))
