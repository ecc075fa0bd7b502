from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path

import pytest

from services.node_agent.lanes.core.errors import LaneAbortedError, LaneError, LaneSecurityError
from services.node_agent.lanes.core.seal import LaneSeal, SealError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import Fate, MemoryRoute, PlainSeal
from services.node_agent.lanes.tls import LaneTls, TlsPeer, TlsSeal
from shared.certificates import issue, make_authority
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.page_stream.frame import FrameType
from tests.support.lane_credentials import NOW, Pair, make_credentials

GUEST_PATTERN = b"this page belongs to the guest; " * 128
DATA = FrameType.DATA


def joined(credentials: Pair) -> tuple[TlsSeal, TlsSeal]:
    """Two seals after their handshake."""
    a, b = (credentials.tls(role).seal() for role in LaneRole)
    said = a.begin()
    for turn in (b, a, b):
        said = turn.receive_handshake(said)
    assert said == b""
    assert a.established
    assert b.established
    return a, b


def test_what_is_sealed_opens(credentials: Pair) -> None:
    """Bodies of every size come out as they went in, in both directions, and their sealed size is known before."""
    a, b = joined(credentials)
    for size in (0, 1, 16_378, 16_379, 16_380, 262_144, 1_048_576 + 4096):
        body = os.urandom(size)
        for sender, receiver in ((a, b), (b, a)):
            sealed = sender.seal(DATA, 7, body)
            assert len(sealed) == sender.sealed_bytes(size)
            assert receiver.open(DATA, 7, sealed) == body


@pytest.mark.parametrize(
    ("frame_type", "stream_id", "flip"), [(DATA, 8, False), (FrameType.EOF, 7, False), (DATA, 7, True)]
)
def test_what_was_changed_does_not_open(
    credentials: Pair, frame_type: FrameType, stream_id: int, *, flip: bool
) -> None:
    """A relay can change neither a byte, nor a frame's stream, nor its type."""
    a, b = joined(credentials)
    sealed = bytearray(a.seal(DATA, 7, b"pages"))
    sealed[-1] ^= flip
    with pytest.raises(SealError):
        b.open(frame_type, stream_id, bytes(sealed))


@pytest.mark.parametrize("change", ["repeated", "left out", "cut", "joined"])
def test_only_the_next_unit_opens(credentials: Pair, change: str) -> None:
    """A relay can neither repeat nor leave out a unit, nor move a border between two."""
    a, b = joined(credentials)
    first, second = a.seal(DATA, 1, b"one"), a.seal(DATA, 1, b"two" * 9000)
    if change in {"repeated", "cut"}:
        b.open(DATA, 1, first)
    wrong = {"repeated": first, "left out": second, "cut": second[:-100], "joined": first + second}[change]
    with pytest.raises(SealError):
        b.open(DATA, 1, wrong)


def test_worn_keys_seal_nothing(credentials: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane ends rather than to go beyond what its keys are good for."""
    monkeypatch.setattr("services.node_agent.lanes.tls.MAX_RECORDS", 2)
    a, _ = joined(credentials)
    a.seal(DATA, 1, bytes(20_000))
    with pytest.raises(SealError, match="keys"):
        a.seal(DATA, 1, b"x")


def test_handshake_is_bounded(credentials: Pair) -> None:
    """Bytes of whoever is at the other end are not taken without a limit."""
    seal = credentials.tls(LaneRole.ACCEPTOR).seal()
    hello = bytes([22, 3, 1, 0x40, 0]) + bytes([1, 0, 0xFF, 0]) + bytes(0x4000 - 4)

    def keep_talking() -> None:
        for _ in range(5):
            seal.receive_handshake(hello)

    with pytest.raises(SealError):
        keep_talking()


def test_no_certificate_of_use(credentials: Pair) -> None:
    """Pinned texts that are no certificates are refused before anything is sent."""
    with pytest.raises(SealError, match="cannot be used"):
        LaneTls(credentials.donor.identity, TlsPeer("nothing", "nothing"), LaneRole.INITIATOR)


def session(link: object, role: LaneRole, seal: LaneSeal) -> LaneSession:
    settings = LaneSettings(
        lane="p1.memory",
        role=role,
        max_payload_bytes=64 * 1024,
        window_bytes=512 * 1024,
        hello_retry_s=0.02,
        ack_delay_s=0.005,
        resend_after_s=0.05,
        probe_limit_s=0.2,
    )
    return LaneSession(link, settings, seal=seal)  # type: ignore[arg-type]  # a MemoryLink


async def test_a_tap_on_the_route_sees_no_guest(credentials: Pair) -> None:
    """All bytes arrive through drops, duplicates and cuts, and not one frame of all shows a piece of the plaintext."""
    tapped: list[bytes] = []
    chance = random.Random(4)  # noqa: S311  # the same faults in every run

    def judge(frame: bytes) -> Fate:
        tapped.append(frame)
        return chance.choices([Fate.DELIVER, Fate.DROP, Fate.DUPLICATE], [90, 5, 5])[0]

    route = MemoryRoute(judge=judge)
    a = session(route.a, LaneRole.INITIATOR, credentials.tls(LaneRole.INITIATOR).seal())
    b = session(route.b, LaneRole.ACCEPTOR, credentials.tls(LaneRole.ACCEPTOR).seal())
    digest = hashlib.sha256()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(a.run())
        group.create_task(b.run())
        out = a.open_stream(StreamKind.MEMORY, "guest-label")
        into = await b.accept()

        async def send() -> None:
            for number in range(400):
                await out.write(GUEST_PATTERN * 4)
                if number % 100 == 50:
                    route.cut(lose_queued=True)
                    route.mend()
            out.write_eof()

        group.create_task(send())
        while data := await into.read():
            digest.update(data)
        into.write_eof()
        assert await a.close()
        await b.close()
    assert into.label == "guest-label"
    assert digest.digest() == hashlib.sha256(GUEST_PATTERN * 1600).digest()
    assert a.stats().reconnects == 4
    assert a.stats().resent_bytes > 0
    seen = b"".join(tapped)
    assert len(seen) > len(GUEST_PATTERN) * 1600
    assert GUEST_PATTERN[:16] not in seen
    assert b"guest-label" not in seen


async def run_both(seal_a: LaneSeal, seal_b: LaneSeal) -> list[LaneError]:
    """How two ends that do not belong together end."""
    route = MemoryRoute()
    sessions = session(route.a, LaneRole.INITIATOR, seal_a), session(route.b, LaneRole.ACCEPTOR, seal_b)
    sessions[0].open_stream(StreamKind.MEMORY, "")
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*(each.run() for each in sessions), return_exceptions=True)
    assert all(isinstance(end, LaneError) for end in ends)
    assert not any(each.stats().data_sent_bytes for each in sessions)
    return [end for end in ends if isinstance(end, LaneError)]


@pytest.mark.parametrize("liar", list(LaneRole))
async def test_a_stranger_is_refused(credentials: Pair, tmp_path: Path, liar: LaneRole) -> None:
    """An end that shows another certificate than the pinned one gets no byte, whichever end it is."""
    stranger = make_credentials(tmp_path, "node.evil.evil-1")
    honest = Pair(credentials.donor, credentials.recipient)
    lying = Pair(stranger if liar is LaneRole.INITIATOR else honest.donor, honest.recipient)
    if liar is LaneRole.ACCEPTOR:
        lying = Pair(honest.donor, stranger)
    seals = [(lying if role is liar else honest).tls(role).seal() for role in LaneRole]
    ends = await run_both(*seals)
    assert any(isinstance(end, LaneSecurityError) for end in ends)


async def test_another_certificate_of_the_same_authority_is_refused(tmp_path: Path, credentials: Pair) -> None:
    """The agreement pins a node, not only its provider."""
    authority = make_authority("provider", now=NOW)
    agreed, other = (issue(name, authority, now=NOW) for name in ("node.beta.beta-1", "node.beta.beta-2"))
    credential = make_credentials(tmp_path, "node.beta.beta-2")
    credential.identity.certificate_file.write_text(other.certificate)
    credential.identity.key_file.write_text(other.key)
    donor = LaneTls(credentials.donor.identity, TlsPeer(agreed.certificate, authority.certificate), LaneRole.INITIATOR)
    recipient = LaneTls(credential.identity, credentials.donor.pinned, LaneRole.ACCEPTOR)
    ends = await run_both(donor.seal(), recipient.seal())
    assert isinstance(ends[0], LaneSecurityError)
    assert "pins" in str(ends[0])


async def test_no_plain_fallback(credentials: Pair) -> None:
    """An end that does not do TLS ends the lane; nothing is sent in the clear."""
    ends = await run_both(PlainSeal(), credentials.tls(LaneRole.ACCEPTOR).seal())
    assert any(not isinstance(end, LaneAbortedError) for end in ends)
