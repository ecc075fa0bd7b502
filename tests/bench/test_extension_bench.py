"""What `tests/bench/extension` makes of what it measured."""

from __future__ import annotations

import socket
import threading

from tests.bench.extension_bench import traffic
from tests.bench.extension_bench.__main__ import mbit


def test_megabits_are_of_payload() -> None:
    """Bytes by the seconds that they took to come; nothing where the connection failed."""
    assert mbit({"bytes": 25_000_000, "seconds": 2.0}) == 100.0
    assert mbit({}) == 0.0


def test_who_receives_counts() -> None:
    """All bytes until the end of the connection."""
    near, far = socket.socketpair()

    def send() -> None:
        near.sendall(bytes(300_000))
        near.shutdown(socket.SHUT_WR)

    with near, far:
        sending = threading.Thread(target=send)
        sending.start()
        found = traffic.receive(far)
        sending.join()
    assert found["bytes"] == 300_000
    assert found["seconds"] >= 0
