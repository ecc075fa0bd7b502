"""Target `decoders`: everything that reads payloads of the other host, fed with valid payloads that were damaged.

Promises: a CodecError (of the frame: a FrameError) or a result, never another exception, and no more bytes out than the
format allows. A damaged batch is damaged as a payload or, deeper, in one of its columns before it is packed again.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from blake3 import blake3

from services.node_agent.page_codec.batch import MAX_BATCH_BYTES, METHOD_BATCH, BatchPacker, BatchUnpacker, Column
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, ChunkDecoder, CodecError, CodecStats
from services.node_agent.page_codec.digests import digests_of
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.early_stream import EarlyDecoder, EarlyEncoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES as DISK_OUT_BYTES
from services.node_agent.page_codec.disk.nbd_stream import NbdFacts
from services.node_agent.page_codec.exchange import known as known_exchange
from services.node_agent.page_codec.exchange.known import KnownTable, Offered
from services.node_agent.page_codec.hello import Hello
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.memory.received_batch import MAX_OUT_BYTES
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.raw_codec import RawDecoder
from services.node_agent.page_codec.store import FileStore
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder
from shared.page_stream.bodies import Hello as LaneHello
from shared.page_stream.bodies import (
    LaneRole,
    Open,
    StreamKind,
    decode_hello,
    decode_open,
    decode_reason,
    encode_hello,
    encode_open,
    encode_reason,
)
from shared.page_stream.errors import FrameError
from shared.page_stream.frame import Frame, FrameType, decode_frame, encode_frame
from tests.fuzz.nbd import BLOCKS as DISK_BLOCKS
from tests.fuzz.qemu import BLOCKS, CONTENTS, KEY
from tests.fuzz.source import Source, damaged
from tests.services.node_agent.page_codec.disk.test_nbd_stream import FLAGS, request
from tests.support.migration_stream import StreamWriter

_DIGESTS: Final = digests_of(b"".join(blake3(bytes([at])).digest(16) for at in range(64)))


def check(data: bytes) -> None:
    """One input; raises when a promise is broken."""
    source = Source(data)
    match source.below(9):
        case 0 | 1:
            _check_stream(source, memory_payloads(), MemoryDecoder, limit=MAX_OUT_BYTES)
        case 2 | 3:
            _check_stream(source, disk_payloads(), lambda port: DiskDecoder(port, NbdFacts()), limit=DISK_OUT_BYTES)
        case 4:
            decoder: ChunkDecoder = RawDecoder() if source.one_in(2) else ZstdDecoder()
            _decode(decoder, _changed(source, source.pick(_chunks())), limit=MAX_CHUNK_BYTES)
        case 5:
            _check_batch(source)
        case 6:
            _check_exchange(source)
        case 7:
            _check_stream(source, early_payloads(), Taking, limit=0)
        case _:
            _check_frame(source)


def seeds() -> list[bytes]:
    """Each decoder with some random choices behind it."""
    dice = random.Random(11)  # noqa: S311  # the same in every run
    return [bytes([at % 9]) + dice.randbytes(80) for at in range(64)]


@cache
def memory_payloads() -> tuple[bytes, ...]:
    """A port's memory stream with all kinds of records, deltas and references, and what passes."""
    encoder = MemoryEncoder(PortEncoder(KEY))
    writer = StreamWriter(BLOCKS).header()
    for turn in range(4):
        pages = [
            (name, at, CONTENTS[(at + turn) % len(CONTENTS)]) for name in BLOCKS for at in range(0, BLOCKS[name], 5)
        ]
        writer.part(pages)
        made = bytes(writer.data)
        writer.data.clear()
        encoder_payloads = [*encoder.encode(made), *encoder.flush()]
        _memory.extend(encoder_payloads)
    writer.device_state(b"device" * 20)
    _memory.extend([*encoder.encode(bytes(writer.data)), *encoder.flush(), *encoder.encode(b"more"), *encoder.flush()])
    return tuple(_memory)


_memory: list[bytes] = []


@cache
def disk_payloads() -> tuple[bytes, ...]:
    """A disk's stream with full blocks, zeros and references."""
    encoder = DiskEncoder(PortEncoder(KEY), NbdFacts())
    payloads = encoder.encode(FLAGS)
    for at in range(6):
        body = DISK_BLOCKS[at % len(DISK_BLOCKS)] * 2 + DISK_BLOCKS[0]
        payloads += encoder.encode(request(1, at, at * 4096, len(body)) + body)
    return tuple(payloads)


@cache
def early_payloads() -> tuple[bytes, ...]:
    """What goes before the disks' streams."""
    encoder = EarlyEncoder(PortEncoder(KEY))
    payloads = (encoder.encode(b"".join(DISK_BLOCKS[at : at + 2])) for at in range(4))
    return (encoder.greet(), *filter(None, payloads))


class Taking:
    """What comes early, as a stream that gives nothing out."""

    def __init__(self, port: PortDecoder) -> None:
        self._early = EarlyDecoder(port)

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """Store it."""
        self._early.receive(payload)
        return []

    def stats(self) -> CodecStats:
        """Nothing."""
        return CodecStats()


@cache
def _chunks() -> tuple[bytes, ...]:
    encoder = ZstdEncoder()
    return tuple(
        payload for chunk in (CONTENTS[1], CONTENTS[3], b"x", bytes(10_000)) for payload in encoder.encode(chunk)
    )


def _changed(source: Source, data: bytes) -> bytes:
    for _ in range(source.below(4)):
        data = damaged(source, data)
    return data


def _decode(decoder: ChunkDecoder, payload: bytes, *, limit: int) -> bool:
    """Whether the stream goes on."""
    try:
        chunks = decoder.decode(payload)
    except CodecError:
        return False
    assert sum(map(len, chunks)) <= limit
    return True


def _check_stream(
    source: Source, payloads: tuple[bytes, ...], make: Callable[[PortDecoder], ChunkDecoder], *, limit: int
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="vmport-fuzz-"))
    packer, unpacker = BatchPacker(), BatchUnpacker()
    try:
        with FileStore(folder / "store", keep=1024) as store:
            decoder = make(PortDecoder(lambda _: store))
            for payload in payloads:
                carried = payload
                if payload[0] == METHOD_BATCH:
                    # Packed again, since the packing is one stream over all payloads.
                    columns = [bytes(column) for column in unpacker.unpack(payload)]
                    if source.one_in(3):
                        at = source.below(len(columns))
                        columns[at] = _changed(source, columns[at])
                    carried = packer.pack([Column(column) for column in columns])
                if source.one_in(6):
                    carried = _changed(source, carried)
                if not _decode(decoder, carried, limit=limit):
                    return
    finally:
        shutil.rmtree(folder)


def _check_batch(source: Source) -> None:
    packer, unpacker = BatchPacker(), BatchUnpacker()
    for _ in range(3):
        packer.level = source.pick((1, 0, 3))
        columns = [Column(source.take(source.below(40)) * 20, stored=source.one_in(3)) for _ in range(source.below(8))]
        payload = packer.pack(columns)
        carried = _changed(source, payload)
        try:
            found = unpacker.unpack(carried)
        except CodecError:
            assert carried != payload, "what was packed cannot be unpacked"
            return
        assert sum(map(len, found)) <= MAX_BATCH_BYTES
        if carried != payload:
            return
        assert [column.data for column in columns] == [bytes(column) for column in found]


def _check_exchange(source: Source) -> None:
    offered, table = Offered(KEY), KnownTable(_DIGESTS[: source.below(65)], KEY)
    batch = _DIGESTS[:: 1 + source.below(4)]
    try:
        known_exchange.read_greet(_changed(source, offered.greet()))
        known_exchange.read_have(_changed(source, known_exchange.have(source.number(4))))
        answer = table.answer(_changed(source, offered.offer(batch)))
        hits = offered.receive_answer(batch, _changed(source, answer))
        assert len(hits) == len(batch)
        numbers = table.commit(_changed(source, offered.commit()))
        assert len(numbers) <= len(_DIGESTS) * 4
        known_exchange.read_ready(_changed(source, known_exchange.ready(len(numbers))))
        known_exchange.read_ask(_changed(source, known_exchange.ask(np.arange(source.below(300)).tolist())))
        known_exchange.read_give(_changed(source, known_exchange.give(source.pick((b"", CONTENTS[1])))))
        Hello.decode(_changed(source, Hello(KEY).encode()))
    except CodecError:
        return


def _check_frame(source: Source) -> None:
    hello = encode_hello(LaneHello(1, 100_000, 1000, source.pick(list(LaneRole)), "port.memory"))
    opening = encode_open(Open(source.pick(list(StreamKind)), "disk"))
    bodies = (hello, opening, encode_reason("some reason"), source.take(20))
    kind = source.pick(list(FrameType))
    body = b"" if kind is FrameType.ACK else _changed(source, source.pick(bodies))
    frame = _changed(source, encode_frame(Frame(kind, 1, source.number(8), 0, 0, payload=body)))
    try:
        decoded = decode_frame(frame)
    except FrameError:
        return
    assert encode_frame(decoded) == frame
    for read in (decode_hello, decode_open, lambda data: decode_reason("RESET", data)):
        try:
            read(decoded.payload)
        except FrameError:
            continue
