"""Work as a port does it: memory is compressed, checked and sent through a socket, at a rate. For calibration only."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import blake3
import zstandard

CHUNK_BYTES = 256 * 1024
LEVEL = 1


def move(
    seconds: float,
    bytes_per_s: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Work for so long, as fast as it goes or at this rate of bytes on the wire; returns those bytes."""
    chunk, packer = _sample(), zstandard.ZstdCompressor(level=LEVEL)
    sender, receiver = socket.socketpair()
    reader = threading.Thread(target=_read, args=(receiver,), daemon=True)
    reader.start()
    sent, started_at = 0, clock()
    try:
        while (passed := clock() - started_at) < seconds:
            if bytes_per_s is not None and sent > bytes_per_s * passed:
                sleep(min(seconds - passed, sent / bytes_per_s - passed))
                continue
            packed = packer.compress(chunk) + blake3.blake3(chunk).digest()
            sender.sendall(packed)
            sent += len(packed)
    finally:
        sender.close()
        reader.join()
        receiver.close()
    return sent


def _sample() -> bytes:
    """Half of it can be compressed away, as of most memory. The same each time."""
    half = CHUNK_BYTES // 2
    return random.Random(1).randbytes(half) + bytes(half)  # noqa: S311  # a sample, no secret


def _read(receiver: socket.socket) -> None:
    while receiver.recv(CHUNK_BYTES):
        pass
