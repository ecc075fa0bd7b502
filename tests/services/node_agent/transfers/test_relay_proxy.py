"""The donor's driver connection: Finish waits for the guard, and libvirtd hears no answer before there is a verdict."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.libvirt_rpc.messages import (
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    Status,
    decode_error,
    encode_call,
    encode_error,
    encode_finish_reply,
)
from services.node_agent.libvirt_rpc.relay import DonorRelay
from services.node_agent.transfers.finish_guard import Outcome
from services.node_agent.transfers.relay_proxy import RelayProxy
from tests.support.driver_connection import DriverConnection, driver_connection

VM = UUID("11111111-2222-3333-4444-555555555501")
FEATURE = encode_call(FeatureCall(10), 1).to_bytes()
FINISH = encode_call(FinishCall((), b"", 0x43, cancelled=False), 9)
GOOD = encode_finish_reply(9, "web", VM.bytes).to_bytes()
BAD = encode_error(FINISH, "no").to_bytes()


class Guard:
    """A guard that decides as it is told and notes what it hears."""

    def __init__(self, *, runs_there: bool, refusal: str | None = None) -> None:
        self.runs_there = runs_there
        self.refusal = refusal
        self.heard: list[str] = []
        self.may_pass = asyncio.Event()
        self.may_pass.set()
        self.decided = asyncio.Event()

    async def before_finish(self) -> str | None:
        """The fence."""
        await self.may_pass.wait()
        self.heard.append("before finish")
        return self.refusal

    def finish_answered(self, error: str | None) -> None:
        """The recipient's answer."""
        self.heard.append(f"answered: {error}")
        self.decided.set()

    def lane_lost(self, reason: str) -> None:  # noqa: ARG002  # the guard's shape
        """The lane is lost."""
        self.heard.append("lane lost")
        self.decided.set()

    async def outcome(self) -> Outcome:
        """As it is told, when something was heard."""
        await self.decided.wait()
        self.heard.append("decided")
        return Outcome(self.runs_there, "the ledger says so")


def proxied(connection: DriverConnection, guard: Guard, prepared: asyncio.Event | None = None) -> asyncio.Task[None]:
    """The proxy, running."""

    async def ready() -> None:
        if prepared is not None:
            await prepared.wait()

    proxy = RelayProxy(
        connection.reader, connection.writer, connection.near, DonorRelay(VM, "web"), guard, before_it_moves=ready
    )
    return asyncio.get_running_loop().create_task(proxy.run())


async def reply(connection: DriverConnection) -> Frame:
    """The one frame that libvirtd hears."""
    (frame,) = FrameParser().receive_data(await connection.libvirtd[0].read(4096))
    return frame


async def test_calls_pass_and_a_hang_up_ends_the_lanes_stream() -> None:
    """As if libvirtd were connected with the recipient."""
    async with driver_connection() as connection:
        running = proxied(connection, Guard(runs_there=False))
        connection.libvirtd[1].write(FEATURE)
        assert await connection.far.read() == FEATURE
        connection.libvirtd[1].write_eof()
        assert await connection.far.read() == b""
        connection.far.write_eof()
        await running


async def test_finish_waits_for_the_guard() -> None:
    """The fence is up before it goes out."""
    async with driver_connection() as connection:
        guard = Guard(runs_there=True)
        guard.may_pass.clear()
        running = proxied(connection, guard)
        connection.libvirtd[1].write(FINISH.to_bytes())
        arriving = asyncio.ensure_future(connection.far.read())
        await asyncio.sleep(0.05)
        assert not arriving.done()
        guard.may_pass.set()
        assert await arriving == FINISH.to_bytes()
        assert guard.heard == ["before finish"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("answer", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("runs_there", [True, False], ids=["there", "here"])
async def test_libvirtd_hears_the_verdict(answer: bytes, *, runs_there: bool) -> None:
    """Whatever the recipient said; and only when the guard has decided."""
    async with driver_connection() as connection:
        guard = Guard(runs_there=runs_there)
        running = proxied(connection, guard)
        connection.libvirtd[1].write(FINISH.to_bytes())
        await connection.far.read()
        await connection.far.write(answer)
        assert (await reply(connection)).status == (Status.OK if runs_there else Status.ERROR)
        assert guard.heard[-1] == "decided"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_ledger_may_decide_before_the_recipient_answers() -> None:
    """libvirtd need not wait any longer."""
    async with driver_connection() as connection:
        guard = Guard(runs_there=False)
        guard.decided.set()
        running = proxied(connection, guard)
        connection.libvirtd[1].write(FINISH.to_bytes())
        await connection.far.read()
        assert decode_error(await reply(connection)).message == "the ledger says so"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_finish_that_may_not_go_out_is_refused() -> None:
    """libvirtd lets the guest run on; the recipient hears nothing of it."""
    async with driver_connection() as connection:
        running = proxied(connection, Guard(runs_there=False, refusal="the journal is full"))
        connection.libvirtd[1].write(FINISH.to_bytes())
        assert decode_error(await reply(connection)).message == "the journal is full"
        connection.libvirtd[1].write_eof()
        assert await connection.far.read() == b""
        connection.far.write_eof()
        await running


async def test_a_lane_lost_in_finish_is_settled_by_the_guard() -> None:
    """libvirtd's connection stays open until the guard knows."""
    async with driver_connection() as connection:
        guard = Guard(runs_there=True)
        running = proxied(connection, guard)
        connection.libvirtd[1].write(FINISH.to_bytes())
        await connection.far.read()
        connection.far.reset("gone")
        assert (await reply(connection)).status == Status.OK
        assert guard.heard == ["before finish", "lane lost", "decided"]
        connection.libvirtd[1].close()
        await running


async def test_a_recipient_lost_before_finish_is_an_error() -> None:
    """libvirtd's connection is closed, so it resumes the guest by itself."""
    async with driver_connection() as connection:
        running = proxied(connection, Guard(runs_there=False))
        connection.far.reset("gone")
        with pytest.raises(StreamError):
            await running
        assert await connection.libvirtd[0].read() == b""
