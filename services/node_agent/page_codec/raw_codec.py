"""The codec that changes nothing: payloads are the chunks.

For bytes that are small or encrypted already, and to measure the lane alone.
"""

from __future__ import annotations

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError, CodecStats


class RawEncoder:
    """Chunks as they are."""

    def __init__(self) -> None:
        self._bytes = 0

    @property
    def holds_back(self) -> bool:
        """Never."""
        return False

    def encode(self, chunk: bytes) -> list[bytes]:
        """The chunk itself."""
        self._bytes += len(chunk)
        return [chunk] if chunk else []

    def flush(self) -> list[bytes]:
        """Nothing."""
        return []

    def stats(self) -> CodecStats:
        """Both figures are the same."""
        return CodecStats(raw_bytes=self._bytes, wire_bytes=self._bytes)


class RawDecoder:
    """Payloads as they are."""

    def __init__(self) -> None:
        self._bytes = 0

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """The payload itself. Raises CodecError when it is longer than a chunk may be."""
        if len(payload) > MAX_CHUNK_BYTES:
            raise CodecError(finding=f"{len(payload)} bytes, a chunk has at most {MAX_CHUNK_BYTES}")
        self._bytes += len(payload)
        return [payload] if len(payload) else []

    def stats(self) -> CodecStats:
        """Both figures are the same."""
        return CodecStats(raw_bytes=self._bytes, wire_bytes=self._bytes)
