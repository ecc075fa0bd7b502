"""An NBD negotiation that the server's time limit cuts off goes on, and the client does not see it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.node_agent.transfers.nbd_opening import LEAST_LIFE_S, NbdOpening

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
FLAGS = b"\x00\x00\x00\x03"
STRUCTURED = b"IHAVEOPT" + (8).to_bytes(4) + bytes(4)
GO = b"IHAVEOPT" + (7).to_bytes(4) + (6).to_bytes(4) + b"export"
STARTTLS = b"IHAVEOPT" + (5).to_bytes(4) + bytes(4)
ACK = b"an acknowledgement, 20"
FLUSH = bytes.fromhex("25609513 0000 0003") + bytes(8 + 8 + 4)


@dataclass
class Server:
    """QEMU's NBD server: each connection is a socket pair, of which the test has the far end."""

    now_s: float = 0.0
    ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    near: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As QEMU: the greeting comes at once."""
        inside, outside = socket.socketpair()
        self.ends.append(await asyncio.open_unix_connection(sock=outside))
        self.say(GREETING)
        reader, writer = await asyncio.open_unix_connection(sock=inside)
        self.near.append(writer)
        return reader, writer

    def say(self, data: bytes) -> None:
        self.ends[-1][1].write(data)

    async def hears(self, data: bytes) -> None:
        assert await self.ends[-1][0].readexactly(len(data)) == data

    def hang_up(self, *, after_s: float = 10.0) -> None:
        """Its time limit has passed."""
        self.now_s += after_s
        self.ends[-1][1].close()


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Server, NbdOpening]]:
    """A client that has heard the greeting and asked for structured replies; all is closed at the end."""
    server = Server()
    try:
        async with asyncio.timeout(10):
            opening = await NbdOpening.open(server.connect, clock=lambda: server.now_s)
            assert await opening.read(1000) == GREETING
            opening.write(FLAGS)
            opening.write(memoryview(STRUCTURED))
            await opening.drain()
            yield server, opening
            opening.close()
            await asyncio.gather(opening.wait_closed(), return_exceptions=True)
    finally:
        for writer in (*server.near, *(writer for _, writer in server.ends)):
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_negotiation_that_was_cut_off_goes_on() -> None:
    """What was said is said again, what was heard is not heard again, as often as it takes; then it is a pipe."""
    async with opened() as (server, opening):
        await server.hears(FLAGS + STRUCTURED)
        server.say(ACK[:5])
        assert await opening.read(1000) == ACK[:5]
        server.hang_up()
        reading = asyncio.get_running_loop().create_task(opening.read(1000))
        for _ in range(3):  # an outage of half a minute
            await asyncio.sleep(0.05)
            await server.hears(FLAGS + STRUCTURED)
            assert not reading.done(), "the client waits, as for a slow server"
            server.hang_up()
        await asyncio.sleep(0.05)
        await server.hears(FLAGS + STRUCTURED)
        server.say(ACK)
        assert await reading == ACK[5:]
        opening.write(GO)
        server.hang_up()
        reading = asyncio.get_running_loop().create_task(opening.read(1000))
        await asyncio.sleep(0.05)
        await server.hears(FLAGS + STRUCTURED + GO)
        server.say(ACK + ACK)
        assert await reading == ACK
        opening.write(FLUSH)
        await server.hears(FLUSH)
        server.say(b"reply")
        assert await opening.read(1000) == b"reply"
        server.hang_up()
        assert await opening.read(1000) == b""
        assert len(server.ends) == 6


async def test_what_is_written_while_nobody_listens_is_not_lost() -> None:
    """The connection has ended, and that was not read yet."""
    async with opened() as (server, opening):
        server.hang_up()
        for part in (GO[:7], GO[7:9], GO[9:]):
            await asyncio.sleep(0.02)
            opening.write(part)
            await opening.drain()
        reading = asyncio.get_running_loop().create_task(opening.read(1000))
        await asyncio.sleep(0.05)
        await server.hears(FLAGS + STRUCTURED + GO)
        server.say(ACK)
        assert await reading == ACK
        assert not opening.transport.is_closing()


@pytest.mark.parametrize("ends", ["soon", "in tls", "after eof", "in transmission"])
async def test_an_end_that_is_no_time_limit_is_an_end(ends: str) -> None:
    """A server that refuses at once, and a connection that cannot be begun again."""
    async with opened() as (server, opening):
        match ends:
            case "in tls":
                opening.write(STARTTLS)
            case "after eof":
                assert opening.can_write_eof()
                opening.write_eof()
            case "in transmission":
                opening.write(FLUSH)
        await server.hears(FLAGS + STRUCTURED + {"in tls": STARTTLS, "in transmission": FLUSH}.get(ends, b""))
        server.hang_up(after_s=LEAST_LIFE_S / 2 if ends == "soon" else 10.0)
        assert await opening.read(1000) == b""
        assert len(server.ends) == 1


async def test_to_write_to_a_server_that_has_refused_is_an_error() -> None:
    """Nobody will say it again."""
    async with opened() as (server, opening):
        await server.hears(FLAGS + STRUCTURED)
        server.hang_up(after_s=LEAST_LIFE_S / 2)
        assert await opening.read(1000) == b""
        with pytest.raises(ConnectionError):
            await write_often(opening, GO)


async def write_often(opening: NbdOpening, data: bytes) -> None:
    """With time for the kernel to refuse it."""
    for _ in range(10):
        opening.write(data)
        await opening.drain()
        await asyncio.sleep(0.02)


async def test_a_server_that_says_something_else_now_is_an_error() -> None:
    """The client must not be given a mixture of two answers."""
    async with opened() as (server, opening):
        server.say(ACK)
        assert await opening.read(1000) == ACK
        server.hang_up()
        reading = asyncio.get_running_loop().create_task(opening.read(1000))
        await asyncio.sleep(0.05)
        server.say(b"something else")
        with pytest.raises(ConnectionError, match="differently"):
            await reading
