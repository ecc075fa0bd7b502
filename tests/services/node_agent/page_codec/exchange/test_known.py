"""The exchange about contents that the recipient has: exact against sets, cheap, and safe against collisions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.digests import Digests
from services.node_agent.page_codec.exchange import known as ex

KEY = bytes(range(32))


def digests(values: list[int] | range) -> Digests:
    return np.array([(value, ~value & 0xFFFF_FFFF) for value in values], dtype=np.uint64).reshape(-1, 2)


@given(st.lists(st.integers(0, 60), unique=True), st.lists(st.integers(0, 60)), st.integers(1, 20))
def test_hits_are_what_both_have(known: list[int], offered: list[int], at_once: int) -> None:
    """Both ends number the same contents, in the order of the offers."""
    donor, recipient = ex.Offered(KEY), ex.KnownTable(digests(known), KEY)
    learnt: list[int] = []
    for at in range(0, len(offered), at_once):
        batch = offered[at : at + at_once]
        hits = donor.receive_answer(digests(batch), recipient.answer(donor.offer(digests(batch))))
        assert [value in known for value in batch] == hits.tolist()
        learnt += [value for value, hit in zip(batch, hits.tolist(), strict=True) if hit]
    rows = recipient.commit(donor.commit())
    assert [known[row] for row in rows.tolist()] == learnt


def test_a_collision_drops_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another content with the same short id is never taken for the offered one."""
    monkeypatch.setattr(ex, "short_ids", lambda found, _: np.zeros(len(found), dtype=np.uint64))
    donor, recipient = ex.Offered(KEY), ex.KnownTable(digests([1]), KEY)
    assert not donor.receive_answer(digests([2]), recipient.answer(donor.offer(digests([2])))).any()
    assert donor.receive_answer(digests([1]), recipient.answer(donor.offer(digests([1])))).all()
    assert recipient.commit(donor.commit()).tolist() == [0]


def test_a_sample_gets_no_numbers() -> None:
    """What was only asked about is offered again, once."""
    donor, recipient = ex.Offered(KEY), ex.KnownTable(digests(range(100)), KEY)
    assert donor.receive_answer(digests([1]), recipient.answer(donor.offer(digests([1]))), keep=False).all()
    assert recipient.commit(donor.commit()).tolist() == []


def test_the_cost_is_bounded() -> None:
    """An offer costs about 5 bytes both ways, and is not made where it hardly saves anything."""
    donor, recipient = ex.Offered(KEY), ex.KnownTable(digests(range(8192)), KEY)
    offer = donor.offer(digests(range(8192)))
    answer = recipient.answer(offer)
    assert len(offer) + len(answer) <= 8192 * ex.OFFER_COST_BYTES + 20
    assert len(offer) + len(answer) <= ex.WORTH * 8192 * ex.SAVED_BYTES
    assert ex.worth_offering(512, 512)
    assert ex.worth_offering(512, 80)
    assert not ex.worth_offering(512, 60)
    assert not ex.worth_offering(0, 0)


def test_ids_of_ports_differ() -> None:
    """The same content has another id in another port."""
    assert ex.short_ids(digests([7]), KEY) != ex.short_ids(digests([7]), bytes(32))


def test_samples_are_spread() -> None:
    """First and last belong to it; a small set is its own sample."""
    rows = ex.sample_of(digests(range(10_000)))
    assert (rows[0], rows[-1], len(rows)) == (0, 9999, ex.SAMPLE)
    assert ex.sample_of(digests([5])).tolist() == [0]
    assert ex.sample_of(digests([])).tolist() == []


@given(st.binary(max_size=60))
def test_any_message_is_read_or_refused(payload: bytes) -> None:
    """Damage is a CodecError."""
    table = ex.KnownTable(digests([1]), KEY)
    for read in (ex.read_greet, ex.read_have, ex.read_ready, table.answer, table.commit):
        try:
            read(payload)
        except CodecError:
            continue


def test_messages_come_back() -> None:
    """Greeting and counts as they were."""
    assert ex.read_greet(ex.Offered(KEY).greet()) == KEY
    assert ex.read_have(ex.have(12)) == 12
    assert ex.read_ready(ex.ready(12)) == 12
