"""A connection to RabbitMQ where none answers: who learns why and when, and what its log lines carry."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
import structlog

from shared.bus import BusDown
from shared.config import BusSettings
from shared.logs import get_logger, port_bound
from shared.metrics import Metrics
from shared.rabbit.connection import LOST, RabbitConnection, raise_if_cancelled
from shared.rabbit.session import open_session
from tests.support.rabbitmq_node import free_port


def settings(port: int) -> BusSettings:
    return BusSettings.model_validate({"url": f"amqp://tenant.acme:x@127.0.0.1:{port}/v", "reconnect_min_s": 0.01})


async def test_refused_connection_is_said_at_once() -> None:
    """A command line does not wait for a server that is not there; host and user are named."""
    port = free_port()
    with pytest.raises(BusDown) as caught:
        async with asyncio.timeout(5.0):
            await open_session(settings(port), Metrics(service="t", version="0").bus)
    assert str(caught.value) == (
        f"RabbitMQ at amqp://tenant.acme@127.0.0.1:{port}/v cannot be used: "
        f"nothing listens at 127.0.0.1:{port}: connection refused; does RabbitMQ run there?"
    )


async def test_silent_server_is_waited_for() -> None:
    """Who takes the connection and says nothing may yet say something."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    connection = RabbitConnection(settings(server.sockets[0].getsockname()[1]), "t")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await connection.wait_answered()
    await connection.close()
    for writer in taken:
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_lines_of_a_connection_carry_no_port() -> None:
    """The port that needed it first ends long before the connection does."""
    connection = RabbitConnection(settings(free_port()), "t")
    with port_bound(uuid4()), structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.open_channel(confirms=False)
        get_logger("t").info("a line of the port")
    await connection.close()
    lost = [line for line in logged if line["event"] == "no connection to RabbitMQ"]
    assert lost
    assert all("port_id" not in line for line in lost)
    assert "port_id" in logged[-1]


async def test_cancellation_is_not_lost_in_another_error() -> None:
    """A library that answers a cancellation with an error of its own is overruled."""

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                raise ConnectionError("the channel was closed") from None
            except LOST:
                raise_if_cancelled()
                raise

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    raise_if_cancelled()


async def test_a_channel_whose_connection_dies_is_an_error_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiormq cancels what waits on it; nobody has asked the caller to end."""
    connection = RabbitConnection(settings(free_port()), "t")

    async def dies(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(connection, "_open", dies)
    monkeypatch.setattr(connection, "_connection", object())
    connection._started = True
    connection._up.set()
    with pytest.raises(LOST):
        await connection.open_channel(confirms=False)
