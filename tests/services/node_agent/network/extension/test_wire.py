"""Frames in batches: what one end wrote the other reads, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.extension.wire import (
    MAX_PAYLOAD_BYTES,
    MAX_RECORD_BYTES,
    MIN_RECORD_BYTES,
    BatchError,
    BatchWriter,
    decode,
    encode,
)

records = st.lists(st.binary(min_size=MIN_RECORD_BYTES, max_size=200), max_size=8)


@given(records)
def test_records_come_back(some: list[bytes]) -> None:
    """In order, to the byte, as views of the payload."""
    payload = encode(some)
    assert [bytes(each) for each in decode(payload)] == some
    assert all(each.obj is payload for each in decode(payload))


@given(st.binary(max_size=400))
def test_strange_bytes_raise_one_error_only(data: bytes) -> None:
    """Whatever comes is read as whole records or refused by BatchError."""
    try:
        found = decode(data)
    except BatchError:
        return
    assert encode(found) == data


@given(records.filter(bool), st.data())
def test_a_cut_payload_is_refused(some: list[bytes], data: st.DataObject) -> None:
    """Cut anywhere but between two records, it is no payload."""
    payload = encode(some)
    borders = {len(encode(some[:count])) for count in range(len(some) + 1)}
    cut = data.draw(st.integers(0, len(payload)).filter(lambda at: at not in borders))
    with pytest.raises(BatchError):
        decode(payload[:cut])


@pytest.mark.parametrize("size", [0, MIN_RECORD_BYTES - 1, MAX_RECORD_BYTES + 1])
def test_sizes_that_no_record_has(size: int) -> None:
    """They are neither written nor read."""
    with pytest.raises(BatchError, match="impossible"):
        encode([bytes(size)])
    with pytest.raises(BatchError, match="impossible"):
        decode(size.to_bytes(4) + bytes(size))


@given(records)
def test_the_writer_makes_what_encode_makes(some: list[bytes]) -> None:
    """Records that are read in place, those that are not kept left out, are the same payload; twice over."""
    writer = BatchWriter()
    for _ in range(2):
        for record in some:
            writer.room()[: len(record)] = b"\xff" * len(record)  # read, and dropped by the filter
            writer.room()[: len(record)] = record
            writer.keep(len(record))
        assert writer.records == len(some)
        assert writer.take() == encode(some)
        assert writer.records == 0


def test_the_writer_holds_two_records_of_any_size() -> None:
    """A payload has room for two of the largest records, and says when it has none."""
    writer = BatchWriter()
    for full in (False, False):
        assert writer.is_full is full
        assert len(writer.room()) == MAX_RECORD_BYTES
        writer.keep(MAX_RECORD_BYTES)
    assert writer.is_full
    assert len(writer.take()) == MAX_PAYLOAD_BYTES
    assert not writer.is_full
    with pytest.raises(ValueError, match="hold no record"):
        BatchWriter(MAX_RECORD_BYTES)
