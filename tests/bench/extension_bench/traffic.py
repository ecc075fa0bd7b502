"""One bulk TCP connection, and round trips of single bytes: run inside a namespace, it prints one line of JSON.

python traffic.py serve PORT · python traffic.py send|take|echo|packets HOST PORT SECONDS

`send` is from this program to the server, `take` the other way; who receives counts. `packets` sends as many of 1400
bytes by UDP as the way takes. It needs nothing of vmport.
"""

from __future__ import annotations

import json
import socket
import sys
import time

CHUNK = bytes(256 * 1024)
PACKET = bytes(1400)
WORDS = {"send": b"s", "take": b"t", "echo": b"e", "packets": b"p"}


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


def count_packets(connection: socket.socket) -> dict[str, float]:
    """Those that come to a port of this side, until none has come for a while."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sink:
        sink.bind(("::", 0))
        sink.settimeout(0.5)
        connection.sendall(int(sink.getsockname()[1]).to_bytes(2))
        came, began_s, latest_s = 0, 0.0, 0.0
        while True:
            try:
                sink.recv(2048)
            except TimeoutError:
                if came:
                    break
                continue
            latest_s = time.monotonic()
            began_s = began_s or latest_s
            came += 1
    return {"packets": came, "mbit": came * len(PACKET) * 8 / 1e6 / max(latest_s - began_s, 0.001)}


def send_packets(connection: socket.socket, host: str, seconds: float) -> dict[str, float]:
    """As fast as the kernel takes them; what the other side counted, and how many were sent."""
    port = int.from_bytes(connection.recv(2, socket.MSG_WAITALL))
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.connect((host, port))
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            source.send(PACKET)
            sent += 1
    return {"sent": sent, **json.loads(connection.makefile("rb").read())}


def serve_one(connection: socket.socket) -> None:
    """Do what the client's first bytes ask for: a letter, and seconds as four digits."""
    word, seconds = connection.recv(1), float(connection.recv(4, socket.MSG_WAITALL))
    if word == WORDS["send"]:
        connection.sendall(json.dumps(receive(connection)).encode())
    elif word == WORDS["take"]:
        send(connection, seconds)
    elif word == WORDS["packets"]:
        connection.sendall(json.dumps(count_packets(connection)).encode())
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
        if word == "packets":
            return send_packets(connection, host, seconds)
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
