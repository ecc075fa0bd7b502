"""The return path of a disk stream: NBD's replies, checked as they pass, in the chunk codec's payloads. Pure.

Replies are few bytes (a mirrored disk is written, not read), so they are only checked: a server that breaks the
protocol ends the port at the host where that is seen.
"""

from __future__ import annotations

from services.node_agent.page_codec.codec import ChunkDecoder, ChunkEncoder, CodecError, CodecStats
from services.node_agent.page_codec.disk.nbd_stream import NbdError, ReplyScanner


class ReplyEncoder:
    """A `ChunkEncoder` around another one, which must hold nothing back."""

    def __init__(self, scanner: ReplyScanner, inner: ChunkEncoder) -> None:
        self._scanner = scanner
        self._inner = inner

    @property
    def holds_back(self) -> bool:
        """As the inner one: never."""
        return self._inner.holds_back

    def encode(self, chunk: bytes) -> list[bytes]:
        """The inner one's payloads. Raises CodecError for a damaged connection."""
        _scan(self._scanner, chunk)
        return self._inner.encode(chunk)

    def flush(self) -> list[bytes]:
        """As the inner one."""
        return self._inner.flush()

    def stats(self) -> CodecStats:
        """As the inner one."""
        return self._inner.stats()


class ReplyDecoder:
    """A `ChunkDecoder` around another one."""

    def __init__(self, scanner: ReplyScanner, inner: ChunkDecoder) -> None:
        self._scanner = scanner
        self._inner = inner

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """The inner one's bytes. Raises CodecError for a damaged connection, too."""
        chunks = self._inner.decode(payload)
        for chunk in chunks:
            _scan(self._scanner, chunk)
        return chunks

    def stats(self) -> CodecStats:
        """As the inner one."""
        return self._inner.stats()


def _scan(scanner: ReplyScanner, chunk: bytes | memoryview) -> None:
    try:
        scanner.scan(chunk)
    except NbdError as error:
        raise CodecError(finding=str(error)) from error
