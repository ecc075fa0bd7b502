"""What the streams of one port share at one end, and the making of their encoders and decoders. Pure.

`PortEncoder` is the donor's, `PortDecoder` the recipient's. Everything that goes the other way (return path, NBD
replies) uses the chunk codec and needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import ContentIndex, ContentStore, Pages
from services.node_agent.page_codec.copy_file import CopyFile
from services.node_agent.page_codec.hello import ALL, Hello, Technique

StoreFactory = Callable[[Hello], ContentStore]
"""Makes the port's store once the donor has said how much to hold."""


class PortEncoder:
    """The donor's side. `key` is random, 32 bytes, and new for each port."""

    def __init__(self, key: bytes, *, techniques: frozenset[Technique] = ALL) -> None:
        self.hello = Hello(key)
        self.techniques = techniques
        self.contents = ContentIndex(key, keep=self.hello.keep)
        self.open_copies: Callable[[], CopyFile] = _copies_in_memory
        """Makes the file for the copies that one stream's deltas are made against."""
        self.keeper: Callable[[Pages], None] | None = None
        """Receives every memory page that is sent in full, so that a return port can refer to it."""


def _copies_in_memory() -> CopyFile:
    def broken(error: OSError) -> None:
        raise error

    return CopyFile.in_memory(broken)


class PortDecoder:
    """The recipient's side."""

    def __init__(self, make_store: StoreFactory) -> None:
        self._make_store = make_store
        self._hello: Hello | None = None
        self._store: ContentStore | None = None

    def greet(self, payload: bytes | memoryview) -> ContentStore:
        """Take a stream's hello; the port's store. Raises CodecError when two streams of a port differ."""
        hello = Hello.decode(payload)
        if self._store is None:
            self._hello, self._store = hello, self._make_store(hello)
        if hello != self._hello:
            raise CodecError(finding="two streams of one port began with different hellos")
        return self._store
