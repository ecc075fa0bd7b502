"""The parser of QEMU's stream: finds every page, passes every other byte, and stops where it does not understand."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from services.node_agent.page_codec.memory.qemu_format import PAGE_BYTES
from services.node_agent.page_codec.memory.qemu_stream import DamagedStreamError, QemuStream
from services.node_agent.page_codec.memory.scan import Block, Kind, Mark, Scan
from tests.support.migration_stream import BLOCKS, RAM_SECTION, StreamWriter

RAM = b"pc.ram"


def content(seed: int) -> bytes:
    """A page that is not zero."""
    return (seed + 1).to_bytes(4) * (PAGE_BYTES // 4)


@st.composite
def migrations(draw: st.DrawFn) -> bytes:
    """A whole pre-copy: rounds of pages of several blocks, then device state."""
    block = st.sampled_from(sorted(BLOCKS))
    writer = StreamWriter().header()
    for _ in range(draw(st.integers(1, 3))):
        pages = []
        for name in draw(st.lists(block, max_size=3)):
            numbers = draw(st.lists(st.integers(0, BLOCKS[name] - 1), max_size=20))
            seeds = draw(st.lists(st.integers(0, 3), min_size=len(numbers), max_size=len(numbers)))
            pages += [(name, page, content(seed) if seed else b"") for page, seed in zip(numbers, seeds, strict=True)]
        writer.part(pages)
    writer.part([], last=True).device_state(draw(st.binary(max_size=40)))
    return bytes(writer.data)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data in pieces."""
    borders = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(borders)]


def elements(scan: Scan) -> list[tuple[int, int, bytes]]:
    """Kind, page and all bytes of each element."""
    ends = [*scan.starts.tolist(), scan.end][1:]
    rows = zip(scan.kinds.tolist(), scan.pages.tolist(), scan.starts.tolist(), ends, strict=True)
    return [(kind, page, scan.buffer[start:end]) for kind, page, start, end in rows]


@given(stream=migrations(), places=st.lists(st.integers(0, 10**6), max_size=30))
@settings(deadline=None)
def test_pieces_give_the_same_elements_as_the_whole_and_lose_no_byte(stream: bytes, places: list[int]) -> None:
    """However the stream is cut, the same records are found, and all elements together are the stream."""
    whole = QemuStream()
    found = elements(whole.feed(stream))
    parser = QemuStream()
    pieces = [element for piece in cut(stream, places) for element in elements(parser.feed(piece))]
    assert [each for each in pieces if each[0] != Kind.OPAQUE] == [each for each in found if each[0] != Kind.OPAQUE]
    assert b"".join(data for _, _, data in pieces) == stream
    assert parser.held_bytes == 0
    assert parser.passthrough == whole.passthrough == "section type 4"


def test_one_byte_at_a_time_finds_every_page() -> None:
    """No element needs to come in one piece."""
    pages = [(RAM, 3, content(1)), (RAM, 4, b""), (RAM, 5, b""), (b"/rom@etc/acpi/tables", 1, content(2))]
    stream = bytes(StreamWriter().header().part(pages).part([], last=True).data)
    parser = QemuStream()
    scans = [parser.feed(stream[at : at + 1]) for at in range(len(stream))]
    records = [(kind, page) for scan in scans for kind, page, _ in elements(scan) if kind != Kind.OPAQUE]
    assert records == [(Kind.PAGE, 3), (Kind.ZERO, 4), (Kind.ZERO, 5), (Kind.PAGE, 64 + 8 + 1)]
    assert parser.passthrough is None


def marks(*scans: Scan) -> list[tuple[Mark, bytes]]:
    """Each mark, and the first bytes of the element behind it."""
    return [(mark, scan.buffer[scan.starts[row] :][:5]) for scan in scans for row, mark in scan.marks]


def test_the_places_for_more_records_are_told() -> None:
    """Before the end of each section's records, and where the last section and what is not understood begin."""
    section = RAM_SECTION.to_bytes(4)
    writer = StreamWriter().header().part([(RAM, page, b"") for page in range(40)] + [(RAM, 50, content(1))])
    stream = bytes(writer.part([(RAM, 2, b"")], last=True).device_state(b"state").data)
    found = [
        (Mark.RECORDS_END, bytes(5)),  # of the section that lists the blocks
        (Mark.RECORDS_END, bytes(5)),
        (Mark.LAST_SECTION, b"\3" + section),
        (Mark.RECORDS_END, bytes(5)),
        (Mark.PASSTHROUGH, b"\4\0\0\0\7"),
    ]
    assert marks(QemuStream().feed(stream)) == found
    parser = QemuStream()
    pieces = [parser.feed(stream[at : at + 5]) for at in range(0, len(stream), 5)]
    assert [mark for mark, _ in marks(*pieces)] == [mark for mark, _ in found]


def test_a_scan_can_be_cut_at_its_marks() -> None:
    """The parts are the whole."""
    scan = QemuStream().feed(bytes(StreamWriter().header().part([(RAM, 1, content(1))]).part([], last=True).data))
    borders = [0, *(row for row, _ in scan.marks), len(scan.kinds)]
    parts = [scan.part(begin, end) for begin, end in itertools.pairwise(borders)]
    assert [element for part in parts for element in elements(part)] == elements(scan)


@pytest.mark.parametrize("footer", [b"\x7e" + RAM_SECTION.to_bytes(4), b""], ids=["footers", "no footers"])
def test_a_section_can_be_added(footer: bytes) -> None:
    """It looks like those of the stream, and the parser takes it for one."""
    head = bytes(StreamWriter().header().data)[:-5] + footer
    parser = QemuStream()
    parser.feed(head)
    assert not parser.in_records
    before, after = parser.section()
    assert (before, after) == (b"\2" + RAM_SECTION.to_bytes(4), (0x10).to_bytes(8) + footer)
    parser.feed(before)
    assert parser.in_records
    parser.feed((0x02).to_bytes(8) + b"\6pc.ram\0")
    assert parser.block == Block(RAM, 0, BLOCKS[RAM])
    parser.feed(after + b"\3" + RAM_SECTION.to_bytes(4))
    assert (parser.passthrough, parser.held_bytes) == (None, 0)


def test_no_section_can_be_added_before_there_is_one() -> None:
    """Its number is not known."""
    with pytest.raises(ValueError, match="no section"):
        QemuStream().section()


def test_a_long_run_of_zero_pages_is_found_whole() -> None:
    """Windows of the scan join without a gap."""
    blocks = {RAM: 5000}
    stream = bytes(StreamWriter(blocks).header().part([(RAM, page, b"") for page in range(5000)]).data)
    scan = QemuStream().feed(stream)
    assert scan.pages[scan.kinds == Kind.ZERO].tolist() == list(range(5000))


@pytest.mark.parametrize("command", [4, 5, 6, 7, 8, 9, 10, 99])
def test_post_copy_passes_at_once(command: int) -> None:
    """From a command that is not of pre-copy on nothing is held back, not even an incomplete element."""
    parser = QemuStream()
    parser.feed(bytes(StreamWriter().header().part([(RAM, 1, content(1))]).data))
    tail = b"\x08" + command.to_bytes(2) + b"\0\4"
    assert elements(parser.feed(tail)) == [(Kind.OPAQUE, -1, tail)]
    assert parser.passthrough is not None
    assert elements(parser.feed(b"x")) == [(Kind.OPAQUE, -1, b"x")]
    assert parser.held_bytes == 0


@pytest.mark.parametrize(
    "head",
    [b"QEVM\0\0\0\2rest", b"NBDMAGIC", bytes(4096), b"QEVM\0\0\0\3\7\0\0\0\1x\5\x05other\0\0\0\1"],
    ids=["version 2", "no migration", "zeros", "unknown subsection"],
)
def test_what_is_not_known_passes_untouched(head: bytes) -> None:
    """Another version or another stream is not an error here."""
    parser = QemuStream()
    scan = parser.feed(head)
    assert scan.buffer[: scan.end] == head
    assert set(scan.kinds.tolist()) == {Kind.OPAQUE}
    assert parser.passthrough is not None


def test_a_command_longer_than_any_of_qemus_passes_at_once() -> None:
    """It is not waited for: what is held back must fit a batch."""
    parser = QemuStream()
    parser.feed(bytes(StreamWriter().header().data))
    parser.feed(b"\x08\0\2\xff\xff" + bytes(10))
    assert parser.passthrough == "command 2 of 65535 bytes"
    assert parser.held_bytes == 0


def test_a_list_of_capabilities_without_end_passes() -> None:
    """It is not waited for either."""
    parser = QemuStream()
    names = (b"\xff" + bytes(255)) * 20
    parser.feed(b"QEVM\0\0\0\3\5\x1aconfiguration/capabilities" + bytes(4) + (200).to_bytes(4) + names)
    assert parser.passthrough == "a list of capabilities that is too long"


def test_records_of_other_modes_pass() -> None:
    """XBZRLE of the source, RDMA hooks, multifd's flush: not ours to understand."""
    for flags in (0x60, 0x80, 0x200, 0x100):
        parser = QemuStream()
        parser.feed(bytes(StreamWriter().header().data) + b"\2\0\0\0\2")
        parser.feed((4096 | flags).to_bytes(8) + bytes(100))
        assert parser.passthrough == f"RAM records with flags {flags:#x}"


@pytest.mark.parametrize(
    ("record", "finding"),
    [
        ((64 << 12 | 0x08).to_bytes(8) + b"\6pc.ram" + bytes(4096), "page 64 of b'pc.ram'"),
        ((0x08).to_bytes(8) + b"\6pc.rom" + bytes(4096), "'pc.rom' was not listed"),
        ((0x28).to_bytes(8) + bytes(4096), "no block"),
        ((0x22).to_bytes(8) + b"\0", "no block"),
        ((0x02).to_bytes(8) + b"\6pc.ram\x01", "filled with 1"),
        ((4096 | 0x10).to_bytes(8), "an end of records"),
        ((0x10).to_bytes(8) + b"\x7e\0\0\0\x09", "the footer"),
    ],
)
def test_what_contradicts_itself_is_an_error(record: bytes, finding: str) -> None:
    """Damage is named, with its place, and never turned into pages."""
    parser = QemuStream()
    head = bytes(StreamWriter().header().data) + b"\2\0\0\0\2"
    parser.feed(head)
    with pytest.raises(DamagedStreamError, match=finding) as raised:
        parser.feed(record)
    assert raised.value.offset >= len(head)


@given(stream=migrations(), damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5))
@settings(deadline=None)
def test_damage_never_loses_a_byte_or_hangs(stream: bytes, damage: list[tuple[int, int]]) -> None:
    """A damaged stream is an error, or every byte of it belongs to an element or is held as an incomplete one."""
    broken = bytearray(stream)
    for place, value in damage:
        broken[place % len(broken)] = value
    parser = QemuStream()
    try:
        scans = [parser.feed(bytes(broken[at : at + 5000])) for at in range(0, len(broken), 5000)]
    except DamagedStreamError:
        return
    assert scans[-1].end + parser.held_bytes == len(scans[-1].buffer)
    assert (
        b"".join(data for scan in scans for _, _, data in elements(scan)) + scans[-1].buffer[scans[-1].end :] == broken
    )
