"""The wire format of seeding: what the recipient lacks arrives, bounded, and damage is an error."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ID_BYTES, Pages
from services.node_agent.page_codec.digests import Digests
from services.node_agent.page_codec.digests import digests_of as join_digests
from services.node_agent.page_codec.exchange import known as ex
from services.node_agent.page_codec.exchange import seed as ss

KEY = bytes(range(32))


def pages_of(values: list[int]) -> Pages:
    """Pages that compress badly, one for each number."""
    noise = [np.random.default_rng(value).integers(0, 256, CONTENT_BYTES, dtype=np.uint8) for value in values]
    return np.array(noise, dtype=np.uint8).reshape(-1, CONTENT_BYTES)


def digests_of(pages: Pages) -> Digests:
    return join_digests(b"".join([blake3(page.tobytes()).digest(ID_BYTES) for page in pages]))


def ends(known: list[int], *, room: int = 1000) -> tuple[ss.SeedSender, ss.SeedReceiver]:
    """Both, after the greeting."""
    sender = ss.SeedSender(KEY)
    receiver = ss.SeedReceiver(sender.greet(), digests_of(pages_of(known)), room=room)
    assert sender.enter(receiver.welcome()) == room
    return sender, receiver


def send(sender: ss.SeedSender, receiver: ss.SeedReceiver, values: list[int]) -> list[Pages]:
    """One piece; what the recipient has to store of it."""
    pages = pages_of(values)
    digests = digests_of(pages)
    answer, nothing = receiver.receive(sender.offer(digests))
    assert not len(nothing)
    stored = []
    for payload in sender.fill(pages[sender.missing(digests, answer)]):
        reply, found = receiver.receive(payload)
        sender.stored(reply)
        stored.append(found)
    return stored


@given(st.lists(st.integers(0, 30)), st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), max_size=4))
def test_what_the_recipient_lacks_arrives_as_it_was(known: list[int], pieces: list[list[int]]) -> None:
    """In order, and nothing of what it has."""
    sender, receiver = ends(known)
    for piece in pieces:
        missing = [value for value in piece if value not in known]
        arrived = send(sender, receiver, piece)
        assert b"".join(part.tobytes() for part in arrived) == pages_of(missing).tobytes()
    assert receiver.stored == sender.sent == sum(value not in known for piece in pieces for value in piece)


def test_a_piece_goes_in_messages_that_fit_a_frame() -> None:
    """256 contents that do not compress are four messages of at most 256 KiB and a few bytes."""
    sender, _ = ends([])
    payloads = sender.fill(pages_of(list(range(ss.PIECE_CONTENTS))))
    assert [len(payload) for payload in payloads] == [1 + 1 + 256 * 1024] * 4


def test_a_collision_sends_all_of_the_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content with the same short id is never taken for the offered one."""
    monkeypatch.setattr(ex, "short_ids", lambda found, _: np.zeros(len(found), dtype=np.uint64))
    sender, receiver = ends([1])
    assert np.concatenate(send(sender, receiver, [2])).tobytes() == pages_of([2]).tobytes()


def test_the_sender_keeps_to_the_room() -> None:
    """It may offer what the recipient will still store, and offering more is refused before it goes."""
    sender, receiver = ends([], room=5)
    assert sender.takes == 5
    send(sender, receiver, [1, 2, 3])
    assert sender.takes == 2
    with pytest.raises(ValueError, match="a piece of 3 contents, 2 may be"):
        sender.offer(digests_of(pages_of([4, 5, 6])))


def test_the_receiver_keeps_to_the_room() -> None:
    """However much a donor sends, no more is stored."""
    sender, receiver = ends([], room=1)
    receiver.receive(sender._offered.offer(digests_of(pages_of([1, 2]))))
    with pytest.raises(CodecError, match="2 contents, 1 were allowed"):
        receiver.receive(sender.fill(pages_of([1, 2]))[0])


def test_what_was_not_offered_is_not_taken() -> None:
    """A content without an offer, or one more than were offered, is an error."""
    sender, receiver = ends([])
    with pytest.raises(CodecError, match="0 contents that were offered"):
        receiver.receive(sender.fill(pages_of([1]))[0])
    receiver.receive(sender.offer(digests_of(pages_of([1]))))
    with pytest.raises(CodecError, match="1 contents that were offered"):
        receiver.receive(sender.fill(pages_of([1, 2]))[0])


def test_an_offer_is_a_piece_at_most() -> None:
    """So little is between the ends when the window opens."""
    _, receiver = ends([])
    with pytest.raises(CodecError, match="257 contents in one piece"):
        receiver.receive(bytes([ex.OFFER]) + bytes(257 * ex.SHORT_BYTES))


@pytest.mark.parametrize("count", [0, 2, 1 << 31])
def test_a_recipient_cannot_have_stored_what_was_not_sent(count: int) -> None:
    """Its count says when something was lost."""
    sender, _ = ends([])
    sender.fill(pages_of([1]))
    with pytest.raises(CodecError, match="1 were sent"):
        sender.stored(bytes([ss.STORED]) + count.to_bytes(4, "little"))


@given(st.binary(max_size=60), st.integers(0, 20), st.binary(min_size=1, max_size=4))
def test_any_message_is_read_or_refused(payload: bytes, at: int, damage: bytes) -> None:
    """Noise, and a good message with noise in it, is a CodecError or something within the bounds."""
    sender, receiver = ends([1, 2])
    digests = digests_of(pages_of([1, 3]))
    receiver.receive(sender.offer(digests))
    good = sender.fill(pages_of([3]))[0]
    for each in (payload, good[:at] + damage + good[at + len(damage) :], good[:at]):
        try:
            _, pages = receiver.receive(each)
            assert len(pages) <= 2
        except CodecError:
            continue
    for read in (sender.enter, sender.stored):
        try:
            read(payload)
        except CodecError:
            continue
    try:
        assert len(sender.missing(digests, payload)) == 2
    except CodecError:
        return
