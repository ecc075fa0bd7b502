"""Throughput of a lane: socket, pump, lane, pump, socket, both ends in one process (pin it to one core with taskset).

`python tests/bench/lane_throughput.py` moves frames in memory; with `--relay` they go through a private RabbitMQ node.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.pump import READER_LIMIT_BYTES, StreamPump
from services.node_agent.lanes.routes.link import LaneLink, LinkDown
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.lanes.tls import LaneTls, TlsIdentity, TlsPeer
from services.node_agent.page_codec.codec import ChunkDecoder, ChunkEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder, RawEncoder
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.bus import LaneEnds
from shared.certificates import issue, make_authority
from shared.metrics import BusMetrics
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.parties import BROKER
from shared.parties import node as node_party
from shared.rabbit.lanes import RabbitLaneAdmin, RabbitLanes
from shared.topology import Lane
from tests.support.rabbitmq_node import RabbitNode

_MIB = 1024 * 1024
_NODES = node_party("alpha", "alpha-1"), node_party("beta", "beta-1")
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


def _tls_pair() -> list[LaneTls]:
    """TLS of both ends."""
    now = datetime.now(UTC)
    authority = make_authority("bench", now=now)
    with tempfile.TemporaryDirectory() as directory:
        pairs = [issue(str(me), authority, now=now) for me in _NODES]
        files = [TlsIdentity(Path(directory) / f"{me}.crt", Path(directory) / f"{me}.key") for me in _NODES]
        for pair, file in zip(pairs, files, strict=True):
            file.certificate_file.write_text(pair.certificate)
            file.key_file.write_text(pair.key)
        return [
            LaneTls(file, TlsPeer(other.certificate, authority.certificate), role)
            for file, other, role in zip(files, reversed(pairs), LaneRole, strict=True)
        ]


@asynccontextmanager
async def relayed(node: RabbitNode) -> AsyncIterator[tuple[LaneLink, LaneLink]]:
    """Both ends of a new memory lane on RabbitMQ."""
    ends = LaneEnds(uuid4(), *_NODES)
    admin = RabbitLaneAdmin(node.settings(BROKER), BusMetrics(CollectorRegistry()))
    lanes = [RabbitLanes(node.settings(me), BusMetrics(CollectorRegistry()), link_down=LinkDown) for me in _NODES]
    await admin.open_lanes(ends)
    try:
        yield lanes[0].link(ends.port_id, Lane.MEMORY, _NODES[1]), lanes[1].link(ends.port_id, Lane.MEMORY, _NODES[0])
    finally:
        await admin.close_lanes(ends)
        await admin.close()
        for near_end in lanes:
            await near_end.close()


async def measure(codec: str, data: bytes, *, window_bytes: int, node: RabbitNode | None) -> float:
    """MB/s from one socket to the other."""
    if node is not None:
        async with relayed(node) as links:
            return await transfer(codec, data, links, window_bytes=window_bytes)
    route = MemoryRoute()
    return await transfer(codec, data, (route.a, route.b), window_bytes=window_bytes)


async def transfer(codec: str, data: bytes, links: tuple[LaneLink, LaneLink], *, window_bytes: int) -> float:
    """MB/s over these links."""
    make_encoder, make_decoder = _CODECS[codec]
    (near, source), (far, sink) = socket.socketpair(), socket.socketpair()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        donor, recipient = (
            LaneSession(link, LaneSettings(lane="bench", role=role, window_bytes=window_bytes), seal=tls.seal())
            for link, role, tls in zip(links, LaneRole, _tls_pair(), strict=True)
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
    parser.add_argument("--relay", action="store_true", help="through a private RabbitMQ node")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    data = memory_like(options.mib * _MIB)
    with tempfile.TemporaryDirectory() as directory:
        node = RabbitNode(Path(directory) / "node", (BROKER, *_NODES)) if options.relay else None
        try:
            if node is not None:
                node.start()
            report(data, node, runs=options.runs, window_bytes=options.window_mib * _MIB)
        finally:
            if node is not None:
                node.close()
    return 0


def report(data: bytes, node: RabbitNode | None, *, runs: int, window_bytes: int) -> None:
    """Measure and print."""
    for codec in _CODECS:
        rates = sorted(asyncio.run(measure(codec, data, window_bytes=window_bytes, node=node)) for _ in range(runs))
        print(f"{codec:6} {rates[len(rates) // 2]:7.0f} MB/s  (runs: {', '.join(f'{rate:.0f}' for rate in rates)})")  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
