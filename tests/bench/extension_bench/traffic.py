"""One bulk TCP connection, and round trips of single bytes: run inside a namespace, it prints one line of JSON.

python traffic.py serve PORT · python traffic.py send|take|echo HOST PORT SECONDS

`send` is from this program to the server, `take` the other way; who receives counts. It needs nothing of vmport.
"""

from __future__ import annotations

import json
import socket
import sys
import time

CHUNK = bytes(256 * 1024)
WORDS = {"send": b"s", "take": b"t", "echo": b"e"}


def receive(connection: socket.socket) -> dict[str, float]:
    """Count what comes until its end, from its first byte."""
    buffer = bytearray(1 << 20)
    began_s = 0.0
    size = 0
    while got := connection.recv_into(buffer):
        began_s = began_s or time.monotonic()
        size += got
    return {"bytes": size, "seconds": time.monotonic() - began_s}


def send(connection: socket.socket, seconds: float) -> None:
    """Send for so long, as most guests do: with cubic."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        connection.sendall(CHUNK)
    connection.shutdown(socket.SHUT_WR)


def echo(connection: socket.socket, seconds: float) -> dict[str, float]:
    """Round trips, one after the other, with a pause between."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    until_s = time.monotonic() + seconds
    trips = []
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        connection.sendall(b"x")
        connection.recv(1)
        trips.append(1000 * (time.monotonic() - began_s))
        time.sleep(0.01)
    trips.sort()
    return {"trips": len(trips), "median_ms": trips[len(trips) // 2], "p99_ms": trips[len(trips) * 99 // 100]}


def serve_one(connection: socket.socket) -> None:
    """Do what the client's first bytes ask for: a letter, and seconds as four digits."""
    word, seconds = connection.recv(1), float(connection.recv(4, socket.MSG_WAITALL))
    if word == WORDS["send"]:
        connection.sendall(json.dumps(receive(connection)).encode())
    elif word == WORDS["take"]:
        send(connection, seconds)
    else:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while got := connection.recv(1):
            connection.sendall(got)


def serve(port: int) -> None:
    """One client after the other."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("ready", flush=True)  # noqa: T201  # its only way to say so
        while True:
            connection, _ = server.accept()
            with connection:
                serve_one(connection)


def ask(word: str, host: str, port: int, seconds: float) -> dict[str, float]:
    """The client's side."""
    with socket.create_connection((host, port), timeout=seconds + 30) as connection:
        connection.sendall(WORDS[word] + f"{seconds:04.1f}".encode())
        if word == "send":
            send(connection, seconds)
            return dict(json.loads(connection.makefile("rb").read()))
        if word == "take":
            return receive(connection)
        return echo(connection, seconds)


def main(arguments: list[str]) -> None:
    """As the module says."""
    if arguments[0] == "serve":
        serve(int(arguments[1]))
    else:
        found = ask(arguments[0], arguments[1], int(arguments[2]), float(arguments[3]))
        print(json.dumps(found))  # noqa: T201  # its result


if __name__ == "__main__":
    main(sys.argv[1:])
