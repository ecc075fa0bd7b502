"""A client's open connections to a guest: 50 over TCP and two streams of UDP echo, half of each over IPv6.

Run as a program in the client's namespace: `connections IPV4 IPV6`. It prints `{"ready": true}` once every connection
was answered (or is lost), and a report as one JSON object after its standard input was closed. It never connects a
second time: a connection that ends, is reset or brings a wrong byte is lost. The guest's side is
deploy/guest/connection_server.c.
"""

import asyncio
import json
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import ClassVar, Self

from deploy.labkit.connection_report import FAMILIES, Connection, EchoReport, Report, echo_report, report

TCP_PORT = 7071
UDP_PORT = 7
KINDS = {"http": 30, "idle": 10, "download": 5, "upload": 5}
UDP_EVERY_S = 0.005
LAST_ANSWER_WITHIN_S = 120.0
"""TCP repeats ever later while nothing is answered: the next repeat may be up to two minutes away."""
_BODY_BYTES = 2048
_PIECE_BYTES = 16_384
_STREAM_BYTES_S = 131_072
_PIECES_EVERY_S = _PIECE_BYTES / _STREAM_BYTES_S
_NUMBER = struct.Struct("!Q")
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("@qq")


class Lost(Exception):
    """A connection ended, or brought what it should not."""


class Exchange(ABC):
    """One kind of use of a connection. `once` is one question and its answer; answers are numbered from 0."""

    every_s: ClassVar[float] = 0.0
    """The pause between an answer and the next question."""
    usual_s: ClassVar[float] = 0.0
    """How long an answer takes by design."""
    opening: ClassVar[bytes] = b""
    """The first line, where it is not a question itself."""

    def __init__(self, reader: asyncio.StreamReader, write: Callable[[bytes], None]) -> None:
        self._reader, self._write = reader, write

    @abstractmethod
    async def once(self, number: int) -> None:
        """Raises `Lost`, `OSError` or `asyncio.IncompleteReadError`."""

    def _expect(self, found: bytes, wanted: bytes) -> None:
        if found != wanted:
            raise Lost(f"{found[:40]!r} came instead of {wanted[:40]!r}")


class Http(Exchange):
    """HTTP with keep-alive: a page every so often."""

    every_s = 0.2

    async def once(self, number: int) -> None:
        """One request; its answer must have the number in it."""
        self._write(f"GET /{number} HTTP/1.1\r\nHost: guest\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._expect(head, f"HTTP/1.1 200 OK\r\nContent-Length: {_BODY_BYTES}\r\n\r\n".encode())
        body = await self._reader.readexactly(_BODY_BYTES)
        self._expect(body, f"{number}\n".encode().ljust(_BODY_BYTES, b"."))


class Idle(Exchange):
    """A line and its echo, with a long silence in between, as somebody's open shell."""

    every_s = 10.0
    opening = b"echo\n"

    async def once(self, number: int) -> None:
        """One line."""
        line = f"line {number}\n".encode()
        self._write(line)
        self._expect(await self._reader.readuntil(b"\n"), line)


class Download(Exchange):
    """A stream of numbers from the guest, at the guest's pace."""

    usual_s = _PIECES_EVERY_S
    opening = f"download {_STREAM_BYTES_S}\n".encode()

    async def once(self, number: int) -> None:
        """The next piece."""
        self._expect(await self._reader.readexactly(_PIECE_BYTES), piece(number))


class Upload(Exchange):
    """A stream of numbers to the guest, which confirms every piece."""

    every_s = _PIECES_EVERY_S
    opening = b"upload\n"

    async def once(self, number: int) -> None:
        """A piece and its confirmation."""
        self._write(piece(number))
        self._expect(await self._reader.readuntil(b"\n"), f"{(number + 1) * _PIECE_BYTES}\n".encode())


EXCHANGES: dict[str, type[Exchange]] = {"http": Http, "idle": Idle, "download": Download, "upload": Upload}


def piece(number: int) -> bytes:
    """The piece of a stream with this number: 64-bit numbers that go on from piece to piece."""
    first = number * (_PIECE_BYTES // _NUMBER.size)
    return struct.pack(f"!{_PIECE_BYTES // _NUMBER.size}Q", *range(first, first + _PIECE_BYTES // _NUMBER.size))


class Probe:
    """All connections to one guest: `run` opens them and keeps them busy until `stop`."""

    def __init__(self, ipv4: str, ipv6: str, *, tcp_port: int = TCP_PORT, udp_port: int = UDP_PORT) -> None:
        """Nothing is sent before `run`."""
        self._addresses = dict(zip(FAMILIES, (ipv4, ipv6), strict=True))
        self._tcp_port, self._udp_port = tcp_port, udp_port
        self._stopped = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()
        self._unanswered = sum(KINDS.values())
        self.ready = asyncio.Event()
        """Set once every connection was answered, or is lost."""

    def stop(self) -> None:
        """Have every connection answered once more, within a bound, and end."""
        self._stopped.set()
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time() + LAST_ANSWER_WITHIN_S)

    async def run(self) -> Report:
        """Until all is answered after `stop`, or lost."""
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        connections = [Connection(kind, FAMILIES[number % 2]) for number, kind in enumerate(kinds)]
        async with asyncio.TaskGroup() as group:
            for number, connection in enumerate(connections):
                group.create_task(self._watch(connection, after_s=0.01 * number))
            echoes = {family: group.create_task(self._echo(address)) for family, address in self._addresses.items()}
        return report(connections, {family: task.result() for family, task in echoes.items()})

    async def _watch(self, connection: Connection, *, after_s: float) -> None:
        """Use a connection to its end; what ends it early is noted."""
        await asyncio.sleep(after_s)  # so that they are not in step
        limit = asyncio.timeout(LAST_ANSWER_WITHIN_S)
        self._limits.add(limit)
        try:
            async with limit:
                await self._use(connection, limit)
            connection.kept = True
        except TimeoutError as error:  # ours, or the kernel's after its last repeat
            connection.error = str(error) or f"no answer within {LAST_ANSWER_WITHIN_S:g} s"
        except EOFError:
            connection.error = "the guest closed it"
        except (OSError, asyncio.LimitOverrunError, Lost) as error:
            connection.error = str(error)
        finally:
            self._limits.discard(limit)
            if connection.answers == 0:
                self._note_first_answer()

    async def _use(self, connection: Connection, limit: asyncio.Timeout) -> None:
        reader, writer = await asyncio.open_connection(self._addresses[connection.family], self._tcp_port)
        try:
            exchange = EXCHANGES[connection.kind](reader, writer.write)
            writer.write(exchange.opening)
            last = False
            while not last:
                last = self._stopped.is_set()
                began = time.monotonic()
                await exchange.once(connection.answers)
                connection.answered(time.monotonic() - began, exchange.usual_s)
                if connection.answers == 1:
                    self._note_first_answer()
                if not self._stopped.is_set():
                    limit.reschedule(None)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopped.wait(), exchange.every_s)
        finally:
            writer.transport.abort()

    def _note_first_answer(self) -> None:
        self._unanswered -= 1
        if self._unanswered == 0:
            self.ready.set()

    async def _echo(self, address: str) -> EchoReport:
        """Packets at a fixed pace until `stop`, each numbered, and their answers."""
        loop = asyncio.get_running_loop()
        sent = 0
        with Echoes(address, self._udp_port) as echoes:
            loop.add_reader(echoes.fileno(), echoes.receive)
            try:
                while not self._stopped.is_set():
                    echoes.send(sent)
                    sent += 1
                    await asyncio.sleep(max(0.0, echoes.started_at + sent * UDP_EVERY_S - time.time()))
            finally:
                loop.remove_reader(echoes.fileno())
        until_s = time.time() - echoes.started_at
        return echo_report(
            echoes.answers, sent=sent, interval_s=UDP_EVERY_S, until_s=until_s, started_at=echoes.started_at
        )


class Echoes:
    """Notes when which packet came back, by the kernel's clock: this process is busy with the other connections.

    What the kernel says of packets that found nobody is a missing answer.
    """

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.connect((address, port))
        self.started_at = time.time()
        self.answers: list[tuple[float, int]] = []
        """Seconds since `started_at`, and the packet's number."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def send(self, number: int) -> None:
        """A packet."""
        with suppress(OSError):
            self._socket.send(_NUMBER.pack(number))

    def receive(self) -> None:
        """Every answer that is there."""
        while True:
            try:
                data, control, _, _ = self._socket.recvmsg(64, 128)
            except BlockingIOError:
                return
            except OSError:
                continue
            if len(data) == _NUMBER.size:
                seconds, nanoseconds = _STAMP.unpack_from(control[0][2])
                self.answers.append((seconds + nanoseconds / 1e9 - self.started_at, _NUMBER.unpack(data)[0]))


async def _main(ipv4: str, ipv6: str) -> None:
    probe = Probe(ipv4, ipv6)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(probe.run())
        await probe.ready.wait()
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
        probe.stop()
    print(json.dumps(asdict(running.result())), flush=True)


def main(argv: Sequence[str]) -> int:
    """`connections IPV4 IPV6`."""
    asyncio.run(_main(*argv))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
