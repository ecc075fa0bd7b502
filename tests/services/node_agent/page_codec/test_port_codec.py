"""What the streams of one port share: one store, made by the first hello."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import KEY_BYTES
from services.node_agent.page_codec.hello import Hello
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore

KEY = bytes(range(KEY_BYTES))


def test_all_streams_get_the_store_that_the_first_hello_made(tmp_path: Path) -> None:
    """It is made once, with what the donor says."""
    hellos: list[Hello] = []

    def make(hello: Hello) -> FileStore:
        hellos.append(hello)
        return FileStore(tmp_path / "store", keep=hello.keep)

    decoder, hello = PortDecoder(make), PortEncoder(KEY).hello
    store = decoder.greet(hello.encode())
    assert decoder.greet(hello.encode()) is store
    assert hellos == [hello]


def test_two_hellos_of_one_port_must_agree(tmp_path: Path) -> None:
    """Another key would give one content two ids."""
    decoder = PortDecoder(lambda hello: FileStore(tmp_path / "store", keep=hello.keep))
    decoder.greet(PortEncoder(KEY).hello.encode())
    with pytest.raises(CodecError, match="different hellos"):
        decoder.greet(PortEncoder(bytes(KEY_BYTES)).hello.encode())
