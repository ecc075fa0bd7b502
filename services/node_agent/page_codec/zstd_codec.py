"""zstd per chunk, stored raw where that is shorter. Stateless between chunks. Pure.

Payload: u8 method, then the body. Method 0: the chunk as it is. Method 1: one zstd frame whose header names its
content size; the decoder checks that size against MAX_CHUNK_BYTES before anything is allocated for it.
"""

from __future__ import annotations

from typing import Final

import zstandard

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError, CodecStats


class Method:
    """A payload's first byte. A plain class: `match` compares with it once per payload."""

    RAW: Final = 0
    ZSTD: Final = 1


DEFAULT_LEVEL: Final = 1

_RAW: Final = bytes([Method.RAW])
_ZSTD: Final = bytes([Method.ZSTD])
_CONTENT_SIZE_UNKNOWN: Final = 2**64 - 1


class ZstdEncoder:
    """Each chunk becomes one payload."""

    def __init__(self, *, level: int = DEFAULT_LEVEL) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
        self._raw_bytes = 0
        self._wire_bytes = 0

    @property
    def holds_back(self) -> bool:
        """Never."""
        return False

    def encode(self, chunk: bytes) -> list[bytes]:
        """One payload, none for an empty chunk. Raises ValueError for a chunk over MAX_CHUNK_BYTES."""
        size = len(chunk)
        if size == 0:
            return []
        if size > MAX_CHUNK_BYTES:
            raise ValueError(f"chunk of {size} bytes is over {MAX_CHUNK_BYTES}")
        packed = self._zstd.compress(chunk)
        payload = b"".join((_ZSTD, packed) if len(packed) < size else (_RAW, chunk))
        self._raw_bytes += size
        self._wire_bytes += len(payload)
        return [payload]

    def flush(self) -> list[bytes]:
        """Nothing."""
        return []

    def stats(self) -> CodecStats:
        """Counters so far."""
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes)


class ZstdDecoder:
    """Each payload becomes one chunk."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=max(1024, MAX_CHUNK_BYTES))
        self._raw_bytes = 0
        self._wire_bytes = 0

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """One chunk. Raises CodecError for an unknown method, a chunk over MAX_CHUNK_BYTES, or damaged data."""
        if len(payload) < 2:
            raise CodecError(finding=f"{len(payload)} bytes are too few")
        body = memoryview(payload)[1:]
        match payload[0]:
            case Method.RAW:
                if len(body) > MAX_CHUNK_BYTES:
                    raise CodecError(finding=f"stored chunk of {len(body)} bytes is over {MAX_CHUNK_BYTES}")
                chunk: bytes | memoryview = body
            case Method.ZSTD:
                chunk = self._unpack(body)
            case method:
                raise CodecError(finding=f"method {method} is unknown; install the same release on both hosts")
        self._raw_bytes += len(chunk)
        self._wire_bytes += len(payload)
        return [chunk]

    def stats(self) -> CodecStats:
        """Counters so far."""
        return CodecStats(raw_bytes=self._raw_bytes, wire_bytes=self._wire_bytes)

    def _unpack(self, body: memoryview) -> bytes:
        try:
            # decompress() trusts the size in the header and ignores max_output_size if there is one: look first.
            size = zstandard.get_frame_parameters(body).content_size
            if not 0 < size <= MAX_CHUNK_BYTES:
                declared = "an unknown size" if size == _CONTENT_SIZE_UNKNOWN else f"{size} bytes"
                raise CodecError(finding=f"zstd frame declares {declared}, 1 to {MAX_CHUNK_BYTES} are allowed")
            chunk = self._zstd.decompress(body, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(finding=f"zstd: {error}") from error
        if len(chunk) != size:
            raise CodecError(finding=f"zstd frame declares {size} bytes and has {len(chunk)}")
        return chunk
