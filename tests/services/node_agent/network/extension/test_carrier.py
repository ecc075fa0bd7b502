"""Both ends of an extension, from device to device: what crosses, when, and what survives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.network.extension import lane
from services.node_agent.network.extension.card_carrier import WAITING_BYTES
from services.node_agent.network.frames import parse_arp, reverse_arp
from services.node_agent.network.tap import TapError
from tests.support.card_frames import FAR_4, GUEST, GUEST_4, OTHER, OTHER_4, ROUTER, ROUTER_4, ipv4, who_has
from tests.support.extension_pair import DONOR, RECIPIENT, End, eventually, extension_pair
from tests.support.lane_credentials import Pair, make_pair


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents."""
    return make_pair(Path(tmp_path_factory.mktemp("lane")))


def to_guest(number: int, size: int = 100) -> bytes:
    """A packet for the guest."""
    return ipv4(GUEST, ROUTER, FAR_4, GUEST_4, number.to_bytes(4) + bytes(size))


def from_guest(number: int) -> bytes:
    """A packet of the guest."""
    return ipv4(ROUTER, GUEST, GUEST_4, FAR_4, number.to_bytes(4) + bytes(100))


async def both_speak(donor: End, recipient: End, number: int, *, within_s: float = 10.0) -> None:
    """Frames cross both ways; sent again until they do, as hosts do."""
    async with asyncio.timeout(within_s):
        while to_guest(number) not in recipient.heard() or from_guest(number) not in donor.heard():
            donor.say(to_guest(number))
            recipient.say(from_guest(number))
            await asyncio.sleep(0.05)


async def connected(*ends: End) -> None:
    """Return when they speak."""
    for end in ends:
        await asyncio.wait_for(end.extension.connected.wait(), 10)


async def test_frames_cross_both_ways_and_are_counted(credentials: Pair) -> None:
    """The guest's frames and those for it cross unchanged; another VM's do not; each is counted."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await connected(donor, recipient)
        recipient.say(from_guest(1))
        await eventually(lambda: from_guest(1) in donor.heard())
        donor.say(to_guest(2))
        donor.say(ipv4(OTHER, ROUTER, FAR_4, OTHER_4, b"secret"))
        donor.say(to_guest(3))
        await eventually(lambda: recipient.heard() == [to_guest(2), to_guest(3)])
        assert donor.heard() == [reverse_arp(GUEST), from_guest(1)]
        assert donor.dropped() == {"other_mac": 1}
        stats = recipient.extension.stats()
        assert (stats.cards[0].out_frames, stats.cards[0].into_frames) == (2, 2)
        assert stats.cards[0].into_bytes == 2 * (10 + len(to_guest(2)))
        assert stats.connected
        assert stats.idle_s < 5
        await donor.extension.close()
        await recipient.extension.close()
        assert (donor.task.done(), recipient.task.done()) == (True, True)


async def test_the_gate_opens_with_the_guests_first_frame(credentials: Pair) -> None:
    """Nothing goes into the recipient's device before; what waited comes then, in order; the donor learns the MAC."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await connected(donor, recipient)
        assert donor.extension.activated.is_set()
        for number in range(5):
            donor.say(to_guest(number))
        recipient.say(ipv4(GUEST, ROUTER, FAR_4, GUEST_4))  # the host's own, not the guest's
        await asyncio.sleep(0.3)
        assert (recipient.heard(), recipient.extension.activated.is_set()) == ([], False)
        recipient.say(
            who_has(GUEST, GUEST_4, ROUTER_4)
        )  # answered here: it does not pass, and opens the gate all the same
        await eventually(lambda: len(recipient.heard()) == 6)
        assert recipient.extension.activated.is_set()
        assert recipient.heard()[:5] == [to_guest(number) for number in range(5)]
        assert parse_arp(recipient.heard()[5]).sender_mac == ROUTER
        await eventually(lambda: donor.heard() == [reverse_arp(GUEST)])
        assert recipient.extension.stats().cards[0].answered_frames == 1


async def test_the_gate_opens_by_word_too(credentials: Pair) -> None:
    """A guest that is known to run and says nothing gets its frames all the same; the donor learns where it is."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await connected(donor, recipient)
        donor.say(to_guest(1))
        for _ in range(2):
            recipient.extension.activate()
        await eventually(lambda: recipient.heard() == [to_guest(1)])
        await eventually(lambda: donor.heard() == [reverse_arp(GUEST)])
        assert recipient.extension.activated.is_set()


async def test_nobody_speaks_for_the_guest_while_it_runs_at_the_donor(credentials: Pair) -> None:
    """What the recipient's end sends before the guest stands still does not come into the donor's network."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR, activated=False), pair.start(RECIPIENT)
        await connected(donor, recipient)
        recipient.say(from_guest(1))
        await eventually(lambda: donor.dropped() == {"early": 2})
        assert (donor.heard(), donor.extension.activated.is_set()) == ([], False)
        donor.extension.activate()
        recipient.say(from_guest(2))
        await eventually(lambda: donor.heard() == [reverse_arp(GUEST), from_guest(2)])


async def test_what_waits_for_the_guest_is_bounded(credentials: Pair) -> None:
    """The newest 1 MiB is kept; what is lost is counted."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await connected(donor, recipient)
        count = 900
        for number in range(count):
            donor.say(to_guest(number, 1400))
            if number % 20 == 0:
                await asyncio.sleep(0.002)
        await eventually(lambda: donor.extension.stats().cards[0].out_frames == count)
        await eventually(lambda: recipient.dropped().get("waiting", 0) > 0)
        await asyncio.sleep(0.3)
        recipient.say(reverse_arp(GUEST))
        kept = WAITING_BYTES // (len(to_guest(0, 1400)) + 14)
        lost = count - kept
        assert recipient.dropped() == {"waiting": lost}
        await eventually(lambda: bool(recipient.heard()))
        assert recipient.heard()[0] == to_guest(lost, 1400)


@pytest.mark.parametrize("who", [{DONOR}, {RECIPIENT}, {DONOR, RECIPIENT}], ids=["donor", "recipient", "both"])
async def test_it_comes_back_after_a_restart(credentials: Pair, who: set[object]) -> None:
    """When an agent dies and opens its end again, frames cross within seconds, whatever the relay still holds."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await both_speak(donor, recipient, 0)
        for number in range(1, 4):
            for role in who:
                end = donor if role is DONOR else recipient
                await pair.kill(end)
            survivor = donor if DONOR not in who else recipient
            if not survivor.task.done():
                survivor.say(to_guest(0) if DONOR not in who else from_guest(0))
            await asyncio.sleep(0.2)
            donor = pair.start(DONOR) if DONOR in who else donor
            recipient = pair.start(RECIPIENT, activated=True) if RECIPIENT in who else recipient
            await both_speak(donor, recipient, number, within_s=5.0)


async def test_old_greetings_in_the_relay_do_no_harm(credentials: Pair) -> None:
    """One end begins again and again while the other is not there; its queue is full of greetings of the past."""
    async with extension_pair(credentials) as pair:
        for _ in range(5):
            donor = pair.start(DONOR)
            await asyncio.sleep(0.2)
            assert donor.extension.stats().sessions > 0
            await pair.kill(donor)
        donor = pair.start(DONOR)
        await eventually(lambda: donor.extension.stats().sessions > 0)
        recipient = pair.start(RECIPIENT)
        await both_speak(donor, recipient, 1, within_s=5.0)
        assert recipient.extension.stats().sessions <= 2


@pytest.mark.parametrize("lose", [False, True])
async def test_it_goes_on_after_an_outage_of_the_link(credentials: Pair, lose: bool) -> None:  # noqa: FBT001  # of the test
    """The lane resumes with the same session; what finds no room meanwhile is dropped, oldest first, and counted."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await both_speak(donor, recipient, 0)
        sessions = donor.extension.stats().sessions
        pair.route.cut(lose_queued=lose)
        for number in range(8000):
            donor.say(to_guest(number, 1400))
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        await eventually(lambda: donor.dropped().get("queue", 0) > 0)
        recipient.heard()
        pair.route.mend()
        await both_speak(donor, recipient, 9000, within_s=5.0)
        assert donor.extension.stats().sessions == sessions


async def test_it_begins_again_after_a_long_outage(credentials: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a session bears silence: both ends give up and begin again, until the link is back."""
    monkeypatch.setattr(lane, "SILENCE_S", 1.5)
    monkeypatch.setattr(lane, "KEEPALIVE_S", 0.3)
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT)
        await both_speak(donor, recipient, 0)
        pair.route.cut(lose_queued=True)
        ends = (donor.extension, recipient.extension)
        await eventually(lambda: not any(end.connected.is_set() for end in ends), within_s=10)
        pair.route.mend()
        await both_speak(donor, recipient, 1, within_s=5.0)
        assert all(end.stats().sessions > 1 for end in ends)


async def test_cards_have_streams_of_their_own(credentials: Pair) -> None:
    """Frames of one card go to the same card at the other end; each has its own gate."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR, cards=(0, 3)), pair.start(RECIPIENT, cards=(0, 3))
        await connected(donor, recipient)
        recipient.say(reverse_arp(GUEST), card=3)
        await eventually(lambda: donor.heard(card=3) == [reverse_arp(GUEST)] * 2)
        donor.say(to_guest(1), card=0)
        donor.say(to_guest(2), card=3)
        await eventually(lambda: recipient.heard(card=3) == [to_guest(2)])
        cards = recipient.extension.stats().cards
        assert (cards[0].activated, cards[3].activated) == (False, True)
        assert recipient.taps[0].host_receive() == []


async def test_a_device_that_is_gone_ends_it(credentials: Pair) -> None:
    """The error is typed, and the rest is cleaned up."""
    async with extension_pair(credentials) as pair:
        recipient = pair.start(RECIPIENT)
        await asyncio.sleep(0)
        recipient.taps[0].remove()
        (error,) = await asyncio.gather(recipient.task, return_exceptions=True)
        assert isinstance(error, TapError)
        assert recipient.taps[0].fileno() == -1
        await recipient.extension.close()
        with pytest.raises(BaseExceptionGroup):
            await pair.tasks.close()


async def test_closing_without_running(credentials: Pair) -> None:
    """The devices are removed all the same."""
    async with extension_pair(credentials) as pair:
        end = pair.start(DONOR)
        end.task.cancel()
        await end.extension.close()
        await end.extension.close()
        assert end.taps[0].fileno() == -1
        assert pair.links == 0


async def test_a_frame_that_the_host_does_not_take_is_counted(credentials: Pair) -> None:
    """A device that is down or full drops, as a network does."""
    async with extension_pair(credentials) as pair:
        donor, recipient = pair.start(DONOR), pair.start(RECIPIENT, activated=True)
        await connected(donor, recipient)
        recipient.taps[0].takes = False
        donor.say(to_guest(1))
        await eventually(lambda: recipient.dropped() == {"device": 1})
