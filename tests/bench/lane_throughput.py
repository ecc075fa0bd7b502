"""Throughput of a lane in memory: socket, pump, lane, pump, socket, both ends in one process on one core.

`python tests/bench/lane_throughput.py`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence

from services.node_agent.lanes.pump import READER_LIMIT_BYTES, StreamPump
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.settings import LaneSettings
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.page_codec.codec import ChunkDecoder, ChunkEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.page_stream.bodies import LaneRole, StreamKind

_MIB = 1024 * 1024
_CODECS: dict[str, tuple[Callable[[], ChunkEncoder], Callable[[], ChunkDecoder]]] = {
    "raw": (RawEncoder, RawDecoder),
    "zstd1": (ZstdEncoder, ZstdDecoder),
}


def memory_like(size_bytes: int) -> bytes:
    """A third zero pages, a third program code, a third random pages, mixed page by page."""
    with open(sys.executable, "rb") as program:
        code = program.read()
    chance = random.Random(1)  # noqa: S311 - the same bytes in every run
    pages = []
    for number in range(size_bytes // 4096):
        start = number * 4096 % (len(code) - 4096)
        pages.append((bytes(4096), code[start : start + 4096], os.urandom(4096))[chance.randrange(3)])
    return b"".join(pages)


async def measure(codec: str, data: bytes, *, window_bytes: int) -> float:
    """MB/s from one socket to the other."""
    make_encoder, make_decoder = _CODECS[codec]
    route = MemoryRoute()
    (near, source), (far, sink) = socket.socketpair(), socket.socketpair()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        donor, recipient = (
            LaneSession(link, LaneSettings(lane="bench", role=role, window_bytes=window_bytes))
            for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
        )
        group.create_task(donor.run())
        group.create_task(recipient.run())
        streams = donor.open_stream(StreamKind.MEMORY, "bench"), await recipient.accept()
        pumps = []
        for end, stream in zip((source, sink), streams, strict=True):
            reader, writer = await asyncio.open_unix_connection(sock=end, limit=READER_LIMIT_BYTES)
            pump = StreamPump(reader, writer, stream, encoder=make_encoder(), decoder=make_decoder())
            pumps.append(group.create_task(pump.run()))
        near.setblocking(False)
        far.setblocking(False)
        start_s = time.perf_counter()
        group.create_task(loop.sock_sendall(near, data))
        buffer = memoryview(bytearray(_MIB))
        left = len(data)
        while left:
            left -= await loop.sock_recv_into(far, buffer)
        elapsed_s = time.perf_counter() - start_s
        near.close()
        far.close()
        await asyncio.gather(*pumps)
        await asyncio.gather(donor.close(), recipient.close())
    return len(data) / 1e6 / elapsed_s


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per codec: median MB/s of the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="amount per run (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="runs per codec (default %(default)s)")
    parser.add_argument("--window-mib", type=int, default=8, help="lane window (default %(default)s)")
    options = parser.parse_args(argv)
    data = memory_like(options.mib * _MIB)
    for codec in _CODECS:
        rates = sorted(
            asyncio.run(measure(codec, data, window_bytes=options.window_mib * _MIB)) for _ in range(options.runs)
        )
        print(f"{codec:6} {rates[len(rates) // 2]:7.0f} MB/s  (runs: {', '.join(f'{rate:.0f}' for rate in rates)})")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
