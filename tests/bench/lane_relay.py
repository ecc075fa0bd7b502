"""How fast frames cross a private RabbitMQ node through `shared.rabbit.lanes`: run it, it prints MB/s and CPU."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from shared.bus import LaneEnds  # noqa: E402  # a script finds the checkout first
from shared.metrics import Metrics  # noqa: E402  # as above
from shared.parties import BROKER, node  # noqa: E402  # as above
from shared.rabbit.lanes import RabbitLaneAdmin, RabbitLaneLink, RabbitLanes  # noqa: E402  # as above
from shared.topology import Lane  # noqa: E402  # as above
from tests.support.rabbitmq_node import RabbitNode  # noqa: E402  # as above

ALPHA, BETA = node("alpha", "alpha-1"), node("beta", "beta-1")
TOTAL_BYTES = 512 * 1024 * 1024
WINDOW_BYTES = 16 * 1024 * 1024


class Away(Exception):
    """The relay is away."""


async def move(ours: RabbitLaneLink[Away], theirs: RabbitLaneLink[Away], size: int) -> float:
    """MB/s of frames of one size, with a window as the lane protocol keeps it."""
    frames, window = TOTAL_BYTES // size, asyncio.Semaphore(WINDOW_BYTES // size)
    payload = bytes(size)

    async def receive() -> None:
        for _ in range(frames):
            await theirs.receive()
            window.release()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(receive())
        for _ in range(frames):
            await window.acquire()
            await ours.send(payload)
    return TOTAL_BYTES / 1e6 / (time.perf_counter() - began)


async def measure(rabbitmq: RabbitNode) -> None:
    """Print a line per frame size."""
    ends = LaneEnds(uuid4(), ALPHA, BETA)
    admin = RabbitLaneAdmin(rabbitmq.settings(BROKER), Metrics(service="b", version="0").bus)
    alpha, beta = (
        RabbitLanes(rabbitmq.settings(party), Metrics(service="b", version="0").bus, link_down=Away)
        for party in (ALPHA, BETA)
    )
    await admin.open_lanes(ends)
    ours, theirs = alpha.link(ends.port_id, Lane.MEMORY, BETA), beta.link(ends.port_id, Lane.MEMORY, ALPHA)
    await ours.wait_up()
    await theirs.wait_up()
    for size in (64 * 1024, 256 * 1024, 1024 * 1024):
        cpu = time.process_time()
        speed = await move(ours, theirs, size)
        cpu = time.process_time() - cpu
        memory_mb = rabbitmq.memory_bytes() / 1e6
        line = f"{size // 1024:5d} KiB frames: {speed:6.0f} MB/s, {cpu:5.2f} CPU s here, RabbitMQ {memory_mb:.0f} MB"
        sys.stdout.write(line + "\n")
    await admin.close_lanes(ends)
    for part in (alpha, beta, admin):
        await part.close()


def main() -> None:
    """Start a node, measure, end it."""
    with tempfile.TemporaryDirectory() as directory:
        rabbitmq = RabbitNode(Path(directory) / "node", (BROKER, ALPHA, BETA))
        try:
            rabbitmq.start()
            asyncio.run(measure(rabbitmq))
        finally:
            rabbitmq.close()


if __name__ == "__main__":
    main()
