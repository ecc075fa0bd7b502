"""The kernel's table of tracked connections: read those of some addresses, insert, remove. A shell over `wire`.

Calls block for milliseconds, so they run in a thread. A kernel without connection tracking, or a process without
CAP_NET_ADMIN, is a `TrackingError`.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

from services.node_agent.network.tracking import wire
from services.node_agent.network.tracking.values import (
    MAX_CONNECTIONS,
    ConnectionKey,
    TrackedConnection,
    TrackedFound,
)
from shared.errors import VmportError

ANSWER_WITHIN_S: Final = 2.0
_NETFILTER: Final = 12
_BATCH: Final = 64
_DATAGRAM: Final = 1 << 20
_BUFFER: Final = 4 << 20
_DUMPS: Final = ((False, True), (False, False), (True, True))
"""Reply direction or original, source or destination. The third finds what is sent to another address and rewritten to
the VM's; the fourth would find what the first has found."""

Item = TypeVar("Item")


class TrackingError(VmportError):
    """The kernel's connection tracking cannot be read or changed."""

    code = "connection_tracking"


class Inserted(NamedTuple):
    """What became of connections that were to be inserted."""

    new: tuple[ConnectionKey, ...] = ()
    there: int = 0
    refused: int = 0
    """By the kernel, such as for a full table."""


class ConnectionTable:
    """The table of the network namespace in which this process runs."""

    async def read(self, addresses: Iterable[str], *, most: int = MAX_CONNECTIONS) -> TrackedFound:
        """All connections of these addresses; those that have ended are left out. Raises `TrackingError`."""
        return await asyncio.to_thread(_read, tuple(addresses), most)

    async def insert(self, connections: Sequence[TrackedConnection]) -> Inserted:
        """Have these connections; one that is there is brought up to date. Raises `TrackingError`."""
        return await asyncio.to_thread(_insert, connections)

    async def delete(self, keys: Sequence[ConnectionKey]) -> None:
        """Remove these connections; one that is not there is gone already. Raises `TrackingError`."""
        await asyncio.to_thread(_delete, keys)


def _read(addresses: tuple[str, ...], most: int) -> TrackedFound:
    found: dict[ConnectionKey, TrackedConnection] = {}
    beyond = set[ConnectionKey]()
    translated = set[wire.TrackedEntry]()
    with _kernel() as kernel:
        for entry in _entries(kernel, addresses):
            connection = entry.connection
            if entry.translated:
                translated.add(entry)
            elif connection is None or connection.has_ended:
                continue
            elif len(found) < most or connection.key in found:
                found[connection.key] = connection
            else:
                beyond.add(connection.key)
    return TrackedFound(tuple(found.values()), len(translated), len(beyond))


def _entries(kernel: _Kernel, addresses: tuple[str, ...]) -> Iterator[wire.TrackedEntry]:
    for address in addresses:
        for reply, source in _DUMPS:
            for entry in kernel.dump(address, reply=reply, source=source):
                # An old kernel's filter takes no account of the reply direction.
                if address in {*entry.ends, *entry.reply_ends}:
                    yield entry


def _insert(connections: Sequence[TrackedConnection]) -> Inserted:
    with _kernel() as kernel:
        answers = kernel.all(connections, wire.insert_request)
        there = [each for each, error in zip(connections, answers, strict=True) if error == errno.EEXIST]
        refused = sum(error not in {0, errno.EEXIST} for error in answers)
        _refuse_together(answers)
        refused += sum(error not in {0, errno.ENOENT} for error in kernel.all(there, wire.update_request))
    new = tuple(each.key for each, error in zip(connections, answers, strict=True) if not error)
    return Inserted(new, len(there), refused)


def _refuse_together(answers: Sequence[int]) -> None:
    """What is refused to all is the kernel's, not an entry's."""
    for error in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
        if answers and all(answer == error for answer in answers):
            raise TrackingError(f"the kernel takes no connections: {os.strerror(error)}")


def _delete(keys: Sequence[ConnectionKey]) -> None:
    with _kernel() as kernel:
        for error in kernel.all(keys, wire.delete_request):
            if error not in {0, errno.ENOENT}:
                raise TrackingError(f"the kernel removes no connection: {os.strerror(error)}")


class _Kernel:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sequences = itertools.count(1)

    def dump(self, address: str, *, reply: bool, source: bool) -> Iterator[wire.TrackedEntry]:
        sequence = next(self._sequences)
        self._socket.send(wire.dump_request(sequence, address, reply=reply, source=source))
        while True:
            for message in wire.messages(self._socket.recv(_DATAGRAM)):
                if message.sequence != sequence:
                    continue
                if message.kind == wire.DONE:
                    return
                if message.kind == wire.ERROR:
                    raise TrackingError(f"connections cannot be read: {os.strerror(message.error)}")
                yield wire.parse_entry(message.body)

    def all(self, items: Sequence[Item], request: Callable[[int, Item], bytes]) -> list[int]:
        """Send a request for each, many at once; return the number of each one's error, 0 for none."""
        answers: list[int] = []
        for start in range(0, len(items), _BATCH):
            numbers = {next(self._sequences): item for item in items[start : start + _BATCH]}
            self._socket.send(b"".join(request(number, item) for number, item in numbers.items()))
            answered: dict[int, int] = {}
            while len(answered) < len(numbers):
                for message in wire.messages(self._socket.recv(_DATAGRAM)):
                    if message.kind == wire.ERROR and message.sequence in numbers:
                        answered[message.sequence] = message.error
            answers += [answered[number] for number in numbers]
        return answers


@contextmanager
def _kernel() -> Iterator[_Kernel]:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            connection.settimeout(ANSWER_WITHIN_S)
            connection.bind((0, 0))
            yield _Kernel(connection)
    except (OSError, wire.WireError) as error:
        raise TrackingError(f"connection tracking of this host is not available: {error}") from error
