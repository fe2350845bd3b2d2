"""Tests for rewards/channel.py."""

import os
import socket
import threading
import time

import pytest

from cotree.rewards.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosedError


def test_messages_arrive_whole_and_in_order():
    ours, theirs = Channel.pair()
    sent = [("x" * 300_000, 1), None, [2.5]]  # the first takes several reads
    thread = threading.Thread(target=lambda: [ours.send(message) for message in sent])
    thread.start()
    assert [theirs.receive(timeout_seconds=10) for _ in sent] == sent
    thread.join()


def test_waiting_for_a_message_ends_at_the_limit():
    ours, theirs = Channel.pair()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        theirs.receive(timeout_seconds=0.05)
    assert time.monotonic() - started < 5
    ours.close()


def test_sending_to_an_end_that_does_not_read_ends_at_the_limit():
    ours, theirs = Channel.pair()
    with pytest.raises(TimeoutError):
        ours.send(b"x" * 50_000_000, timeout_seconds=0.05)
    theirs.close()


def test_a_closed_end_is_told():
    ours, theirs = Channel.pair()
    theirs.close()
    with pytest.raises(ChannelClosedError):
        ours.receive(timeout_seconds=1)
    with pytest.raises(ChannelClosedError):
        ours.send("x", timeout_seconds=1)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ((MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"), "bytes was announced"),
        (b"forged!!" * 4, "bytes was announced"),
        ((3).to_bytes(8, "big") + b"abc", "are no message"),
    ],
)
def test_what_is_no_message_is_refused(written: bytes, says: str):
    raw, end = socket.socketpair()
    os.write(raw.fileno(), written)
    with pytest.raises(ChannelClosedError, match=says):
        Channel(end).receive(timeout_seconds=1)
    raw.close()
