"""The newest progress of a port is kept and passed on to its tenant."""

from __future__ import annotations

from sqlalchemy import select

from services.broker.tables import port_events
from shared.messages.porting import (
    OutboundStarted,
    StartOutbound,
)
from shared.messages.service_change import (
    PortFailed,
    PortPhase,
    PortProgressed,
    TransferPhase,
)
from shared.parties import BROKER
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA_NODE,
    PORT,
    progress,
)
from tests.support.broker_world import World


class TestProgress:
    """The latest is kept and passed on, not every one."""

    async def test_throttled(self, world: World) -> None:
        """Within a second only a new percent is stored and forwarded; none of it is a line of the record."""
        world.mute(ALPHA, StartOutbound)
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        for percent in (1, 1, 1, 2, 2):
            await world.say(ALPHA_NODE, progress(percent))
        await world.until_told(ACME, PortProgressed, times=2)
        await world.broker.wait_idle()
        assert world.told(ACME).count("PortProgressed") == 2
        stored = await world.port()
        assert (stored.percent, stored.progress) == (2, progress(2))
        async with world.store.reading() as connection:
            types = {row.type for row in await connection.execute(select(port_events.c.type))}
        assert "PortProgressed" not in types

    async def test_the_transfer_starts_at_zero_after_the_seeding(self, world: World) -> None:
        """What is reported as sent ahead does not hide the transfer, and does not come back."""
        world.mute(ALPHA, StartOutbound)
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        ahead = progress(90).model_copy(update={"phase": TransferPhase.SEEDING})
        for told in (ahead, progress(3), ahead):
            await world.say(ALPHA_NODE, told)
        await world.until_told(ACME, PortProgressed, times=2)
        await world.broker.wait_idle()
        assert world.told(ACME).count("PortProgressed") == 2
        assert (await world.port()).progress == progress(3)

    async def test_only_the_donors_node(self, world: World) -> None:
        """Progress of anybody else is not believed; it lies in the dead letters."""
        world.mute(ALPHA, StartOutbound)
        await world.ask_for_port()
        await world.until_told(ALPHA, StartOutbound)
        await world.say(BETA_NODE, progress(50))
        await world.broker.wait_idle()
        assert [letter.code for letter in world.broker.dead[BROKER]] == ["not_a_party"]
        assert (await world.port()).percent == 0

    async def test_progress_keeps_the_transfer_alive(self, world: World) -> None:
        """The deadline of a transfer that reports progress moves on; without progress it aborts."""
        world.script(ALPHA, StartOutbound, (ALPHA, OutboundStarted(port_id=PORT)))
        await world.ask_for_port()
        await world.until_phase(PortPhase.TRANSFERRING)
        await world.clock.advance(170)
        await world.say(ALPHA_NODE, progress(5))
        await world.until_told(ACME, PortProgressed)
        await world.deadline()
        assert await world.phase() is PortPhase.TRANSFERRING
        await world.deadline()
        failed = (await world.until_told(ACME, PortFailed)).data
        assert isinstance(failed, PortFailed)
        assert failed.code == "donor_node_silent"
