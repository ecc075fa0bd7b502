"""Target `qemu`: the parser of QEMU's stream, and the memory codec on top, from any bytes to the recipient's guest.

Promises: an input is understood alike wherever it is cut; every byte belongs to one element, or is held within the
limit; through encoder and decoder the guest's memory and all other bytes stay the same, and each payload fits a DATA
frame. What cannot be understood raises CodecError. Streams of more than MAX_PAGES are only parsed.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import KEY_BYTES
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.memory.decoder import MemoryDecoder
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from services.node_agent.page_codec.memory.qemu_format import PAGE_BYTES
from services.node_agent.page_codec.memory.qemu_stream import MAX_ELEMENT_BYTES, QemuStream
from services.node_agent.page_codec.memory.scan import Kind, Mark
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from shared.page_stream.bodies import LaneRole
from tests.fuzz.source import Source, damaged, pieces
from tests.support.migration_stream import GuestMemory, StreamWriter

MAX_PAGES: Final = 2048
KEY: Final = bytes(range(KEY_BYTES))
BLOCKS: Final = {b"pc.ram": 64, b"vga": 8, b"rom": 2}
PAYLOAD_BYTES: Final = LaneSettings(lane="m", role=LaneRole.INITIATOR).max_payload_bytes
_TEXT: Final = b"a line that compresses well\n" * 200
_NOISE: Final = random.Random(1).randbytes(PAGE_BYTES)  # noqa: S311  # the same in every run
CONTENTS: Final = (
    b"",
    _TEXT[:PAGE_BYTES],
    _TEXT[1:][:PAGE_BYTES],
    _NOISE,
    _NOISE[:100] + b"changed" + _NOISE[107:],
    _TEXT[:900] + b"other" + _TEXT[905:PAGE_BYTES],
)
MANNERS: Final = (
    ALL,
    frozenset[Technique](),
    ALL - {Technique.DEDUP},
    ALL - {Technique.DELTA},
    ALL - {Technique.COMPRESS},
)
Element = tuple[int, int, bytes]
_EMPTY_SECTION: Final = re.compile(rb"\x02(.{4})\x00{7}\x10(?:\x7e\1)?", re.DOTALL)


def check(data: bytes) -> None:
    """One input; raises when a promise is broken."""
    source = Source(data)
    techniques, flush_every = source.pick(MANNERS), source.below(4)
    cut, copies = source.number(1), source.pick((1000, 0, 1, 3))
    stream = source.rest() if source.one_in(2) else built(source)
    parts = pieces(Source(bytes([cut])), stream)
    pages = _check_parser(stream, parts, deltas=bool(cut & 64))
    if pages <= MAX_PAGES:
        _check_codec(stream, parts, techniques=techniques, flush_every=flush_every, copies=copies)


def built(source: Source) -> bytes:
    """A stream like QEMU's, of as many parts as the source says, and maybe damaged."""
    writer = StreamWriter(BLOCKS).header()
    names = sorted(BLOCKS)
    while source.left > 1:
        match source.below(8):
            case 0 | 1 | 2 | 3:
                pages = []
                for _ in range(1 + source.below(12)):
                    name = source.pick(names)
                    pages.append((name, source.below(BLOCKS[name]), source.pick(CONTENTS)))
                writer.part(pages)
            case 4:
                writer.command(source.pick((1, 2, 3, 11, 4)), _NOISE[: source.below(64)])
            case 5:
                size = source.number(2)
                writer.command(2, (_NOISE * 16)[:size])
            case 6:
                empty = bytes(StreamWriter(BLOCKS).part([]).data)
                writer.data += empty * source.pick((1, 2, 50, 15_000))
            case _:
                # Records that are not looked into, within a section of memory: from here on all passes.
                head = source.below(BLOCKS[b"rom"]) << 12 | source.pick((0x60, 0x60, 0x80, 0x40))
                writer.data += b"\2\0\0\0\2" + head.to_bytes(8) + b"\1\0\4" + b"\5\2ab"
    if source.one_in(2):
        writer.part([], last=True).device_state(_NOISE[:300])
    stream = bytes(writer.data)
    return damaged(Source(data_of(stream)), stream) if len(stream) % 5 == 0 else stream


def data_of(stream: bytes) -> bytes:
    """Numbers that follow from a stream, to damage it with."""
    return random.Random(len(stream)).randbytes(32)  # noqa: S311  # the same in every run


def seeds() -> list[bytes]:
    """Inputs that reach the states that matter: whole streams as they are, and streams that are built."""
    writer = StreamWriter(BLOCKS).header()
    everywhere = [(name, page, CONTENTS[page % len(CONTENTS)]) for name in BLOCKS for page in range(0, BLOCKS[name], 7)]
    again = [(name, page, CONTENTS[(page + 1) % len(CONTENTS)]) for name, page, _ in everywhere]
    writer.part(everywhere).part(again).part(everywhere[::-1])
    small = bytes(StreamWriter({b"a": 4}).header().part([(b"a", 1, b""), (b"a", 2, b""), (b"a", 3, b"")]).data)
    whole = bytes(writer.part([], last=True).device_state(b"device" * 9).data)
    hot = StreamWriter(BLOCKS).header()
    for number in range(6):
        hot.part([(b"pc.ram", 5, CONTENTS[3 + number % 2]), (b"vga", 1, CONTENTS[1 + number % 2])])
    waiting = bytes(hot.data)
    released = bytes(hot.part([], last=True).device_state(b"device" * 9).data)
    dice = random.Random(3)  # noqa: S311  # the same in every run
    streams = (small, whole, waiting, released, _continued(), _led_back(), _many_empty_sections())
    raw = [bytes([manner, 1, cut, 0, 1]) + stream for stream in streams for manner, cut in ((0, 0), (1, 6))]
    makings = [bytes([dice.randrange(256) for _ in range(4)]) + b"\0" + dice.randbytes(200) for _ in range(20)]
    return raw + makings


def _continued() -> bytes:
    """A record that names a block and changes nothing, and one that passes and continues this block."""
    page = (b"vga", 1, b"")
    writer = StreamWriter(BLOCKS).header().part([page, (b"pc.ram", 1, CONTENTS[1])] * 2)
    writer.data += StreamWriter(BLOCKS).part([page]).data
    return bytes(writer.data) + b"\2\0\0\0\2" + (2 << 12 | 0x60).to_bytes(8) + b"\1\0\4" + b"\5\2ab"


def _led_back() -> bytes:
    """Pages of another block are sent when they have cooled; then a record that passes continues QEMU's block."""
    writer = StreamWriter(BLOCKS).header()
    for number in range(7):
        hot = [(b"rom", 0, _NOISE[number:] + _NOISE[:number])] if number < 4 else []
        writer.part([*hot, (b"pc.ram", 9, CONTENTS[1])])
    return bytes(writer.data) + b"\2\0\0\0\2" + (2 << 12 | 0x60).to_bytes(8) + b"\1\0\4" + b"\5\2ab"


def _many_empty_sections() -> bytes:
    return bytes(StreamWriter(BLOCKS).header().data) + bytes(StreamWriter(BLOCKS).part([]).data) * 15_000


def _check_parser(stream: bytes, parts: list[bytes], *, deltas: bool) -> int:
    """Whole and cut; the number of pages."""
    whole, pages = _parsed([stream], deltas=deltas)
    cut, _ = _parsed(parts, deltas=deltas)
    assert whole == cut, "it depends on where the stream is cut"
    return pages


def _parsed(parts: list[bytes], *, deltas: bool) -> tuple[list[Element] | str, int]:
    """What a stream consists of, opaque neighbours as one; or the error."""
    parser = QemuStream(deltas=deltas)
    found: list[Element] = []
    fed = taken = 0
    try:
        for part in parts:
            fed += len(part)
            scan = parser.feed(part)
            taken += scan.end
            assert parser.held_bytes <= MAX_ELEMENT_BYTES
            assert fed == taken + parser.held_bytes
            starts = scan.starts.tolist()
            assert starts == sorted(set(starts))
            assert starts[:1] in ([], [0])
            for kind, begin, end, page in zip(
                scan.kinds.tolist(), starts, [*starts, scan.end][1:], scan.pages.tolist(), strict=True
            ):
                assert page < parser.page_count
                data = scan.buffer[begin:end]
                if kind == Kind.OPAQUE and found and found[-1][0] == Kind.OPAQUE:
                    data = found.pop()[2] + data if len(found[-1][2]) < PAGE_BYTES else data
                found.append((kind, page, data))
    except CodecError as error:
        return str(error), parser.page_count
    return _joined(found), parser.page_count


def _joined(found: list[Element]) -> list[Element]:
    joined: list[Element] = []
    opaque: list[bytes] = []
    for element in [*found, (Kind.ZERO, -1, b"")]:
        if element[0] == Kind.OPAQUE:
            opaque.append(element[2])
            continue
        if opaque:
            joined.append((Kind.OPAQUE, -1, b"".join(opaque)))
            opaque = []
        joined.append(element)
    return joined


def _check_codec(
    stream: bytes, parts: list[bytes], *, techniques: frozenset[Technique], flush_every: int, copies: int
) -> None:
    sent = _guest(stream)
    folder = Path(tempfile.mkdtemp(prefix="vmport-fuzz-"))
    try:
        with FileStore(folder / "store", keep=1 << 20) as store:
            out, waits = _moved(parts, store, techniques=techniques, flush_every=flush_every, copies=copies)
    except CodecError:
        return
    finally:
        shutil.rmtree(folder)
    if waits:
        # Hot pages go with the last section at the latest; a guest that never gets it never runs.
        assert not _has_last_section(stream), "hot pages wait after the last section"
    elif sent is not None:
        assert _guest(out) == sent, "the recipient's guest differs"


def _has_last_section(stream: bytes) -> bool:
    return any(mark is Mark.LAST_SECTION for _, mark in QemuStream().feed(stream).marks)


def _guest(stream: bytes) -> tuple[str, bytes] | None:
    """The guest's pages after a stream, and all that was no page; None if it has what QEMU would refuse.

    Empty sections say nothing, and hot pages may need one of their own: without them.
    """
    guest = GuestMemory()
    try:
        guest.feed(stream)
    except (CodecError, ValueError):  # ValueError: a delta
        return None
    scan = QemuStream(deltas=True).feed(stream)
    ends = [*scan.starts.tolist(), scan.end][1:]
    elements = zip(scan.kinds.tolist(), scan.starts.tolist(), ends, strict=True)
    others = b"".join(scan.buffer[start:end] for kind, start, end in elements if kind == Kind.OPAQUE)
    while (less := _EMPTY_SECTION.sub(b"", others)) != others:
        others = less
    return guest.pages_digest(), others


def _moved(
    parts: list[bytes], store: FileStore, *, techniques: frozenset[Technique], flush_every: int, copies: int
) -> tuple[bytes, bool]:
    """What comes out, and whether hot pages still wait at the end."""
    encoder = MemoryEncoder(PortEncoder(KEY, techniques=techniques), copies=copies)
    decoder = MemoryDecoder(PortDecoder(lambda _: store))
    out = bytearray()

    def carry(payloads: list[bytes]) -> None:
        for payload in payloads:
            assert len(payload) <= PAYLOAD_BYTES, f"a payload of {len(payload)} bytes fits no DATA frame"
            try:
                chunks = decoder.decode(payload)
            except CodecError as error:
                raise AssertionError("the decoder refuses what the encoder made") from error
            out.extend(b"".join(chunks))

    for number, part in enumerate(parts):
        for at in range(0, len(part), 256 * 1024):
            carry(encoder.encode(part[at : at + 256 * 1024]))
        if flush_every and number % flush_every == 0:
            carry(encoder.flush())
    carry(encoder.flush())
    return bytes(out), encoder.held_bytes > 0
