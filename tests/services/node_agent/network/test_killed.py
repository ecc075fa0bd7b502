"""A node agent is killed between any two of its deeds in a host's network, in each mode and at each moment of a port.

Real processes, real kernels in a network of the test's own, real SIGKILL. After the next process has restored there is
nothing that no record claims, and nothing missing; and when the VM has left or stayed, the network is as it was.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.network.keeper import NetworkKeeper
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from tests.services.node_agent.network.plans import BRIDGE, GATEWAY_MAC, GUEST_MAC, PORT, agreement, plan
from tests.services.node_agent.network.test_keeper import LATER, later
from tests.support.mortal_keeper import Moment, Mortal, Process, at_once, whole
from tests.support.network_shot import differences, names, network_shot
from tests.support.own_network import needs_root, own_network

pytestmark = [pytest.mark.servers, needs_root, pytest.mark.timeout(900)]

M = NetworkMode
TAP = "vnet3"
MODES: dict[str, NetworkPlan] = {
    "extend": plan(M.EXTEND),
    "translate": plan(M.TRANSLATE),
    "anchor": plan(M.ANCHOR),
    "extend-announce": plan(M.EXTEND, announce=True),
    "translate-announce": plan(M.TRANSLATE, announce=True),
}
DEATHS = 2
"""Of each story in a usual run, spread over its deeds."""


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    """A provider's host: its bridge with its gateway's addresses, and the guest's device."""
    with own_network():
        for words in (
            f"link add vmbr0 address {GATEWAY_MAC} type bridge forward_delay 0",
            "link set vmbr0 addrgenmode none",
            "addr add 10.81.1.1/24 dev vmbr0",
            "addr add fd00:81:1::1/64 dev vmbr0 nodad",
            "link set vmbr0 up",
            f"link add {TAP} type veth peer name guest",
            f"link set {TAP} master vmbr0 addrgenmode none up",
            "link set guest addrgenmode none up",
        ):
            subprocess.run(["ip", *words.split()], check=True, timeout=10)
        yield


def prepare(side: Side, network: NetworkPlan, *, of: ServiceChangeAgreement | None = None, tap: str = TAP) -> Moment:
    agreed = agreement(network) if of is None else of
    taps = {GUEST_MAC: tap} if side is Side.OUTBOUND else {}
    return whole(lambda keeper: keeper.prepare(side, agreed, taps))


def still(keeper: NetworkKeeper) -> None:
    keeper.guest_stands_still(PORT)


async def announced_and_closed(process: Process) -> None:
    """Packets come by the own uplink, and nobody uses the extension any more."""
    await process.settled()
    await process.watched(lambda: (record := process.journal.get(PORT, Side.INBOUND)) is None or record.announced)
    if process.wires.idle_s(PORT) is not None:
        await process.watched(lambda: process.wires.idle_s(PORT) is None)


CLOSED = whole(lambda keeper: keeper.close_extension(PORT))
HOME = {
    # By joined networks: the port back makes nothing itself.
    Side.INBOUND: at_once(lambda keeper: keeper.guest_is_away(later())),
    Side.OUTBOUND: at_once(lambda keeper: keeper.guest_has_arrived(later())),
}


def undone(side: Side) -> Moment:
    return whole(lambda keeper: keeper.undo(PORT, side))


def recipients(network: NetworkPlan) -> tuple[Moment, ...]:
    """The VM comes, stays, and goes home."""
    announcing = (announced_and_closed,) if network.terms.then_announce else ()
    arrived = at_once(lambda keeper: keeper.guest_has_arrived(agreement(None)))
    return (prepare(Side.INBOUND, network), arrived, *announcing, CLOSED, HOME[Side.INBOUND])


def donors(network: NetworkPlan) -> tuple[Moment, ...]:
    """The VM leaves and comes home; the donor's help has ended before. Its transfer is told as failed by an agent that
    was restarted, which ends no help.
    """
    away = at_once(lambda keeper: keeper.guest_is_away(agreement(None)))
    failed = undone(Side.OUTBOUND)
    return (prepare(Side.OUTBOUND, network), at_once(still), away, failed, CLOSED, HOME[Side.OUTBOUND])


def donors_still_helping(network: NetworkPlan) -> tuple[Moment, ...]:
    """The same, while the donor still helps."""
    first, paused, away, failed, _, home = donors(network)
    return first, paused, away, failed, home


def cancelled(side: Side, network: NetworkPlan) -> tuple[Moment, ...]:
    """The port is cancelled when all is prepared."""
    return (prepare(side, network), undone(side))


def cancelled_at_the_switchover(network: NetworkPlan) -> tuple[Moment, ...]:
    """The guest stood still, and runs on."""
    runs_on = at_once(lambda keeper: keeper.guest_runs_on(PORT))
    return (prepare(Side.OUTBOUND, network), at_once(still), runs_on, undone(Side.OUTBOUND))


def home_by_extension() -> tuple[Moment, ...]:
    """At the recipient of the first port: the VM's bridge stays while the extension of the port home begins at it."""
    from_here = plan(M.EXTEND)
    card = from_here.cards[0].model_copy(update={"donor_bridge": BRIDGE, "bridge": "vmp22345678900"})
    back = later(from_here.model_copy(update={"cards": (card,)}))
    return (
        *recipients(plan(M.EXTEND))[:2],
        prepare(Side.OUTBOUND, from_here, of=back),
        at_once(lambda keeper: keeper.guest_stands_still(LATER)),
        at_once(lambda keeper: keeper.guest_is_away(back)),
        whole(lambda keeper: keeper.close_extension(LATER)),
        CLOSED,
    )


STORIES: dict[str, tuple[Moment, ...]] = {
    **{f"{name}: comes and goes home": recipients(network) for name, network in MODES.items()},
    **{f"{name}: leaves": donors(network) for name, network in MODES.items()},
    **{f"{name}: leaves and comes home": donors_still_helping(network) for name, network in MODES.items()},
    **{f"{name}: {side} cancelled": cancelled(side, network) for name, network in MODES.items() for side in Side},
    **{f"{name}: cancelled at the switchover": cancelled_at_the_switchover(network) for name, network in MODES.items()},
    "extend: home by extension": home_by_extension(),
}


def lives_and_dies(story: tuple[Moment, ...], folder: Path, *, deaths: int | None) -> None:
    """Once in peace, then again for each death: at every deed, or at so many that are spread over them."""
    before = network_shot()
    deeds = lived(story, folder / "whole", before)
    step = 1 if deaths is None else max(1, deeds // deaths)
    for number in range(1, deeds + 1, step):
        lived(story, folder / str(number), before, dies_at=number)


def lived(story: tuple[Moment, ...], folder: Path, before: dict[str, object], *, dies_at: int | None = None) -> int:
    mortal = Mortal(folder, story)
    killed = dies_at is not None and mortal.live(dies_at=dies_at) is None
    deeds = mortal.live() if killed or dies_at is None else 0
    assert deeds is not None
    found = differences(before, network_shot())
    assert not found, f"killed at deed {dies_at}: {found}"
    assert [name for name in names(folder / "network") if name.endswith(".json")] == []
    return deeds


@pytest.mark.parametrize("name", list(STORIES))
def test_nothing_is_left_whenever_it_dies(name: str, tmp_path: Path) -> None:
    lives_and_dies(STORIES[name], tmp_path, deaths=DEATHS)


@pytest.mark.long
@pytest.mark.parametrize("name", list(STORIES))
def test_nothing_is_left_after_each_of_its_deeds(name: str, tmp_path: Path) -> None:
    """The same for every single deed."""
    lives_and_dies(STORIES[name], tmp_path, deaths=None)
