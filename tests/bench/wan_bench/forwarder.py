"""Carries libvirt's calls between two hosts: connections to a listening address go on to another one, byte by byte.

An address is `unix:PATH` or `tcp:HOST:PORT`. Only the few calls that set a migration up come this way (an operator
would use libvirt's own transport); memory and disk go natively over TCP from QEMU to QEMU.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(ConnectionError, OSError):
        writer.write_eof()


async def _open(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(rest)
    host, _, port = rest.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def forward(listen: str, to: str) -> None:
    """Serve until cancelled; prints a line when it listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await _open(to)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, their_writer))
                group.create_task(_copy(their_reader, writer))
        finally:
            their_writer.close()
            writer.close()

    kind, _, rest = listen.partition(":")
    if kind == "unix":
        server = await asyncio.start_unix_server(serve, rest)
    else:
        host, _, port = rest.rpartition(":")
        server = await asyncio.start_server(serve, host, int(port))
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


def main(argv: Sequence[str]) -> int:
    """`forwarder LISTEN TO`."""
    listen, to = argv
    with suppress(KeyboardInterrupt):
        asyncio.run(forward(listen, to))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
