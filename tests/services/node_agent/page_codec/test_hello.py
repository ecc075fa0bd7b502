"""The hello: what it says comes through, and nothing else is taken for one; the streams of a port agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.hello import Hello
from services.node_agent.page_codec.port_codec import PortDecoder
from services.node_agent.page_codec.store import FileStore

KEY = bytes(range(32))


def test_roundtrip() -> None:
    """Key and bound."""
    assert Hello.decode(Hello(KEY, keep=77).encode()) == Hello(KEY, keep=77)


@pytest.mark.parametrize(
    "payload",
    [b"", Hello(KEY).encode()[:-1], b"\2\x09" + Hello(KEY).encode()[2:], Hello(KEY, keep=1 << 30).encode()],
    ids=["empty", "short", "another version", "too much to hold"],
)
def test_other_bytes_are_refused(payload: bytes) -> None:
    """With a sentence, not with a crash."""
    with pytest.raises(CodecError):
        Hello.decode(payload)


def test_streams_of_a_port_share_a_store_and_a_hello(tmp_path: Path) -> None:
    """The first hello makes the store; another key later is refused."""
    with FileStore(tmp_path / "store", keep=5) as store:
        port = PortDecoder(lambda _: store)
        assert port.greet(Hello(KEY).encode()) is store
        assert port.greet(Hello(KEY).encode()) is store
        with pytest.raises(CodecError, match="different hellos"):
            port.greet(Hello(KEY[::-1]).encode())
