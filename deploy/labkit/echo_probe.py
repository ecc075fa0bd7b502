"""What a client of the guest sees: sends numbered UDP packets to an echo server and notes every answer.

Run as a program in the client's namespace; prints one JSON object when its standard input is closed. `outage` is pure.
"""

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_NUMBER = struct.Struct("!Q")


@dataclass(frozen=True)
class Seen:
    """A probe's result. `outage_ms` is the longest time between two answers, less the usual interval."""

    sent: int
    answered: int
    outage_ms: float
    interval_ms: float
    first_gap_number: int


def outage(answers: Sequence[tuple[float, int]], *, sent: int, interval_s: float, until_s: float) -> Seen:
    """Find the longest silence among answers (time, packet number), the silence at the end included."""
    if not answers:
        return Seen(sent, 0, round((until_s - interval_s) * 1000, 1), interval_s * 1000, 0)
    longest, number = 0.0, 0
    for (before, last), (after, _) in zip(answers, [*answers[1:], (until_s, 0)], strict=True):
        if after - before > longest:
            longest, number = after - before, last + 1
    gap_ms = max(0.0, (longest - interval_s) * 1000)
    return Seen(sent, len({number for _, number in answers}), round(gap_ms, 1), interval_s * 1000, number)


def probe(address: str, port: int, interval_s: float) -> Seen:
    """Send and listen until standard input ends."""
    answers: list[tuple[float, int]] = []
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.connect((address, port))
        connection.setblocking(False)
        start = time.monotonic()
        while True:
            due = start + sent * interval_s
            now = time.monotonic()
            if now >= due:
                _try_send(connection, sent)
                sent += 1
                continue
            readable, _, _ = select.select([connection, sys.stdin], [], [], due - now)
            if sys.stdin in readable:
                return outage(answers, sent=sent, interval_s=interval_s, until_s=time.monotonic() - start)
            if connection in readable:
                _try_receive(connection, answers, start)


def _try_send(connection: socket.socket, number: int) -> None:
    try:
        connection.send(_NUMBER.pack(number))
    except (BlockingIOError, ConnectionError):
        return  # a packet that cannot be sent is a packet that is not answered


def _try_receive(connection: socket.socket, answers: list[tuple[float, int]], start: float) -> None:
    try:
        packet = connection.recv(64)
    except (BlockingIOError, ConnectionError):
        return
    answers.append((time.monotonic() - start, _NUMBER.unpack(packet)[0]))


def main(argv: Sequence[str]) -> int:
    """`echo_probe ADDRESS PORT INTERVAL_MS`."""
    address, port, interval_ms = argv
    print(json.dumps(asdict(probe(address, int(port), float(interval_ms) / 1000))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
