"""Deliveries that cannot be decoded are made readable, and all others are left as they are."""

from __future__ import annotations

import asyncio
import struct

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from yarl import URL

from shared.rabbit import transport
from shared.rabbit.transport import HEAD_BYTES, TolerantReader, TolerantTransport, readable

END = b"\xce"


def frame(kind: int, payload: bytes) -> tuple[bytes, bytes]:
    return struct.pack(">BHI", kind, 1, len(payload)), payload + END


def content_header(flags: int, properties: bytes) -> tuple[bytes, bytes]:
    return frame(2, struct.pack(">HHQH", 60, 0, 5, flags) + properties)


def delivery(routing_key: bytes) -> tuple[bytes, bytes]:
    fields = b"\x04ctag" + struct.pack(">QB", 7, 0) + b"\x08exchange" + bytes([len(routing_key)]) + routing_key
    return frame(1, struct.pack(">HH", 60, 60) + fields)


def nested(depth: int) -> bytes:
    """A header table within a table within a table."""
    table = b""
    for _ in range(depth):
        inner = b"F" + struct.pack(">I", len(table)) + table
        table = b"\x01x" + inner
    return struct.pack(">I", len(table)) + table


@given(st.integers(0, 0xFFFF), st.binary(max_size=200))
def test_any_properties_are_readable(flags: int, properties: bytes) -> None:
    """Whatever a publisher wrote, the header decodes, with its body size."""
    head, payload = content_header(flags, properties)
    _, _, decoded = pamqp.frame.unmarshal(head + readable(head, payload))
    assert isinstance(decoded, ContentHeader)
    assert decoded.body_size == 5


@pytest.mark.parametrize(
    ("flags", "properties"),
    [
        pytest.param(1 << 6, struct.pack(">Q", 2**63 - 1), id="timestamp"),
        pytest.param(1 << 15, b"\x02\xff\xfe", id="content type that is no UTF-8"),
        pytest.param(1 << 13, nested(5000), id="deep table"),
        pytest.param(1 << 13, struct.pack(">I", 2**31), id="long table"),
        pytest.param(0xFFFF, b"", id="flags that go on"),
    ],
)
def test_what_cannot_be_read_is_taken_out(flags: int, properties: bytes) -> None:
    """The message stays, without properties; its length is the same."""
    head, payload = content_header(flags, properties)
    mended = readable(head, payload)
    assert len(mended) == len(payload)
    _, _, decoded = pamqp.frame.unmarshal(head + mended)
    assert isinstance(decoded, ContentHeader)
    assert decoded.properties == commands.Basic.Properties()


@given(st.binary(max_size=255))
def test_any_routing_key_is_readable(routing_key: bytes) -> None:
    """The rest of the delivery is as it was."""
    head, payload = delivery(routing_key)
    _, _, decoded = pamqp.frame.unmarshal(head + readable(head, payload))
    assert isinstance(decoded, commands.Basic.Deliver)
    assert (decoded.delivery_tag, decoded.consumer_tag, decoded.exchange) == (7, "ctag", "exchange")


def test_readable_frames_are_left_alone() -> None:
    """Properties, routing key and body arrive as sent."""
    properties = commands.Basic.Properties(user_id="tenant.acme", message_id="m", headers={"a": [1, {"b": "c"}]})
    for value in (
        ContentHeader(0, 5, properties),
        commands.Basic.Deliver("ctag", 1, False, "x", "k\u00e9y"),
        ContentBody(b"\xff\x00\xce"),
    ):
        whole = pamqp.frame.marshal(value, 1)
        assert readable(whole[:HEAD_BYTES], whole[HEAD_BYTES:]) == whole[HEAD_BYTES:]


async def test_stream_is_mended_between_good_frames() -> None:
    """Read as aiormq reads: one byte, six bytes, the rest."""
    good = pamqp.frame.marshal(ContentBody(b"hello"), 1)
    bad = b"".join(content_header(1 << 6, struct.pack(">Q", 2**63 - 1)))
    reader = TolerantReader(loop=asyncio.get_running_loop())
    reader.feed_data(good + bad + good)
    reader.feed_eof()
    read = []
    for _ in range(3):
        head = await reader.readexactly(1) + await reader.readexactly(6)
        read.append(head + await reader.readexactly(struct.unpack(">I", head[3:])[0] + 1))
    assert read[0] == read[2] == good
    _, _, mended = pamqp.frame.unmarshal(read[1])
    assert isinstance(mended, ContentHeader)
    assert mended.properties == commands.Basic.Properties()


async def test_a_host_that_does_not_answer_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would repeat its SYN later and later; an attempt ends before that."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(transport, "TCP_CONNECT_S", 0.05)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(TolerantTransport().create(URL("amqp://node:1"), ssl_context_provider=None), 5)
