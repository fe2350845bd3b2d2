"""Whole messages over a socket pair, with a time limit on either end of each.

`multiprocessing.Connection` has none for sending: a child that no longer reads would block the
parent for good.
"""

import pickle
import socket
import struct
import time
from typing import Any

_HEADER = struct.Struct("!Q")
_READ_BYTES = 1 << 16
MAX_MESSAGE_BYTES = 1 << 30
"""Larger ones are refused: the length may be garbage that something else wrote."""


class ChannelClosedError(ConnectionError):
    """The other end is gone, or what came from it is no message."""


class GarbledError(ChannelClosedError):
    """What came is no message, so nothing that follows can be trusted to be one either."""


class Channel:
    """One end of the connection. Not safe for several threads at once."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        """Two connected ends."""
        first, second = socket.socketpair()
        return cls(first), cls(second)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message: object, *, timeout_seconds: float | None = None) -> None:
        """Sends a message.

        Raises:
            TimeoutError: the other end did not take all of it in time; close the channel then.
            ChannelClosedError: the other end is gone.
        """
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.sendall(_HEADER.pack(len(body)) + body)
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive(self, *, timeout_seconds: float | None = None) -> Any:  # noqa: ANN401 - the caller knows what the other end sends
        """The next message.

        Raises:
            TimeoutError: it is not there in time; close the channel then.
            ChannelClosedError: the other end is gone.
            GarbledError: it sent something that is no message; close the channel then.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._fill(_HEADER.size, deadline)
        (size,) = _HEADER.unpack_from(self._buffer)
        if size > MAX_MESSAGE_BYTES:
            raise GarbledError(f"a message of {size} bytes was announced")
        self._fill(_HEADER.size + size, deadline)
        body = bytes(self._buffer[_HEADER.size : _HEADER.size + size])
        del self._buffer[: _HEADER.size + size]
        try:
            return pickle.loads(body)
        except Exception as error:  # process boundary: garbage makes pickle raise anything
            raise GarbledError(
                f"{size} bytes that are no message: {type(error).__name__}: {error}"
            ) from error

    def _fill(self, size: int, deadline: float | None) -> None:
        """Reads until the buffer holds `size` bytes."""
        while len(self._buffer) < size:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                read = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not read:
                raise ChannelClosedError("the other end is closed")
            self._buffer += read
