"""Whose voice a record of the network has on which segment."""

from __future__ import annotations

from collections.abc import Iterable

from services.node_agent.network.announcer import Announcer
from services.node_agent.network.guest_router import GuestRouters
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.voices import SegmentVoices
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.support.extension_pair import eventually

AGREED = agreement(plan(announce=True))


async def test_the_donor_stands_in_once_the_extension_is_gone() -> None:
    sent: list[tuple[str, int]] = []

    def send(device: str, frames: Iterable[bytes]) -> None:
        sent.append((device, len(tuple(frames))))

    announcer = Announcer(send, delays_s=(0,), mac_of=lambda _: bytes(6))
    routers = GuestRouters(lambda *_: None)
    voices = SegmentVoices(announcer, routers)
    away = NetworkRecord(side=Side.OUTBOUND, agreement=AGREED, there=True, extension=True)
    voices.follow(away)
    for _ in range(2):
        voices.follow(away.model_copy(update={"extension": False, "closed": True}))
    await eventually(lambda: sent == [("vmbr0", 3)])
    voices.cease(away)
    voices.follow(away.model_copy(update={"extension": False, "closed": True}))
    await eventually(lambda: sent == [("vmbr0", 3)] * 2)
    await announcer.close()
    await routers.close()


async def test_the_recipient_is_the_guests_router() -> None:
    heard: list[str] = []

    class Routers(GuestRouters):
        def follow(self, record: NetworkRecord) -> None:
            heard.append(f"follow {record.plan.cards[0].bridge}")

        def cease(self, port_id: object) -> None:
            heard.append(f"cease {port_id}")

    voices = SegmentVoices(Announcer(), Routers())
    record = NetworkRecord(side=Side.INBOUND, agreement=AGREED, there=True)
    voices.follow(record)
    voices.cease(record)
    assert heard == [f"follow {BRIDGE}", f"cease {PORT}"]
