"""Messages of connection tracking, as bytes. What the kernel makes of them is in `test_table`."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.tracking import wire
from services.node_agent.network.tracking.values import TrackedConnection

_ports = st.integers(0, 65_535)
_scales = st.none() | st.tuples(st.integers(0, 14), st.integers(0, 14))


@st.composite
def connections(draw: st.DrawFn) -> TrackedConnection:
    base = draw(st.sampled_from(["10.81.1.0", "fd00:81:1::"]))
    ends = [str(ipaddress.ip_address(base) + draw(st.integers(1, 200))) for _ in range(2)]
    protocol = draw(st.sampled_from(["tcp", "udp", "sctp"]))
    tags = (draw(st.integers(0, 2**32 - 1)), 0) if protocol == "sctp" else None
    told = {
        "protocol": protocol, "source": ends[0], "destination": ends[1], "source_port": draw(_ports),
        "destination_port": draw(_ports), "timeout_s": draw(st.integers(1, 432_000)), "seen_reply": draw(st.booleans()),
        "assured": draw(st.booleans()), "state": 0 if protocol == "udp" else draw(st.integers(0, 15)),
        "scales": draw(_scales) if protocol == "tcp" else None, "tags": tags,
    }  # fmt: skip
    return TrackedConnection.model_validate(told)


@given(connections(), st.integers(0, 2**32 - 1))
def test_a_request_reads_as_an_entry(connection: TrackedConnection, sequence: int) -> None:
    """The kernel's entries have the layout of what is inserted."""
    (message,) = wire.messages(wire.insert_request(sequence, connection))
    entry = wire.parse_entry(message.body)
    assert (message.kind, message.sequence) == (wire.NEW, sequence)
    assert (entry.connection, entry.translated) == (connection, False)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for read in (lambda: list(wire.messages(data)), lambda: wire.parse_entry(data)):
        try:
            read()
        except wire.WireError:
            continue


@given(connections(), st.data())
def test_a_damaged_entry_is_an_error_or_an_entry(connection: TrackedConnection, data: st.DataObject) -> None:
    body = bytearray(wire.insert_request(1, connection)[16:])
    body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.parse_entry(bytes(body))
    except wire.WireError:
        return


def test_several_in_one_datagram() -> None:
    one = struct.pack("=IHHIIi", 20, wire.ERROR, 0, 7, 0, -17)
    assert [(m.sequence, m.error) for m in wire.messages(one + one)] == [(7, 17), (7, 17)]
    with pytest.raises(wire.WireError, match="longer"):
        list(wire.messages(one[:-1] + one[:0]))
    with pytest.raises(wire.WireError, match="too short"):
        _ = wire.NetlinkMessage(wire.ERROR, 1, b"").error
