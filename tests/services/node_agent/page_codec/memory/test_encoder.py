"""The memory stream through both ends: the guest's memory is the same, whatever went instead of its pages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.page_codec.hello import ALL, Technique
from services.node_agent.page_codec.memory.encoder import BATCH_BYTES, MemoryEncoder
from services.node_agent.page_codec.memory.qemu_stream import QemuStream
from services.node_agent.page_codec.memory.scan import Kind
from services.node_agent.page_codec.port_codec import PortEncoder
from shared.page_stream.bodies import LaneRole
from tests.support.memory_pages import KEY, PAGE, RAM, changed, memory, migrations, noise, pages, text
from tests.support.migration_stream import BLOCKS, RAM_SECTION, StreamWriter


@given(
    stream=migrations(),
    step=st.sampled_from([700, 5000, 40_000, 10**6]),
    flush_every=st.integers(0, 3),
    without=st.frozensets(st.sampled_from([Technique.DEDUP, Technique.DELTA, Technique.COMPRESS])),
    copies=st.sampled_from([0, 1, 3, 1000]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_guests_memory_is_the_same(
    move: Callable[..., tuple[bytes, MemoryEncoder]],
    stream: bytes,
    step: int,
    flush_every: int,
    without: frozenset[Technique],
    copies: int,
) -> None:
    """With any techniques, any cuts and any number of copies; and all that is no page comes out byte by byte."""
    out, _ = move(stream, step=step, flush_every=flush_every, techniques=ALL - without, copies=copies)
    assert memory(out) == memory(stream)


def test_a_first_round_comes_out_byte_by_byte(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """Where nothing is sent again, even the records are those of the source."""
    pages = [(RAM, number, (text(number), noise(number), b"", text(0))[number % 4]) for number in range(64)]
    pages += [(b"/rom@etc/acpi/tables", 0, text(5)), (RAM, 0, b"")][:1]
    stream = bytes(StreamWriter().header().part(pages).part([], last=True).device_state(b"state").data)
    out, encoder = move(stream)
    assert out == stream
    assert encoder.tally["reference"] > 0
    assert encoder.tally["incompressible"] == 16


def rounds(*pages: list[tuple[bytes, int, bytes]]) -> list[bytes]:
    """The header, and a section for each round; none of them has a last section."""
    pieces, writer = [], StreamWriter().header()
    for each in pages:
        pieces.append(bytes(writer.data))
        writer.data.clear()
        writer.part(each)
    return [*pieces, bytes(writer.data)]


def ending(pages: Iterable[tuple[bytes, int, bytes]] = ()) -> bytes:
    """The last section, whose first page names its block, and the device state."""
    return bytes(StreamWriter().part(pages, last=True).device_state(b"device").data)


def records(stream: bytes, page: int) -> int:
    """How often a page is written."""
    return int((QemuStream(deltas=True).feed(stream).pages == page).sum())


def opaque(stream: bytes) -> bytes:
    """All that is no record."""
    scan = QemuStream(deltas=True).feed(stream)
    ends = [*scan.starts.tolist(), scan.end][1:]
    rows = zip(scan.kinds.tolist(), scan.starts.tolist(), ends, strict=True)
    return b"".join(scan.buffer[start:end] for kind, start, end in rows if kind == Kind.OPAQUE)


@st.composite
def rewriting(draw: st.DrawFn) -> list[bytes]:
    """Rounds in which a few pages are rewritten, again and again: all sections but the last."""
    contents = [b"", *(make(seed) for make in (text, noise) for seed in (1, 2, 3))]
    contents += [changed(noise(1), 100 * n, bytes([n]) * 20) for n in range(1, 9)]
    page = st.tuples(
        st.sampled_from([(RAM, 3), (RAM, 4), (RAM, 9), (b"/rom@etc/acpi/tables", 1)]), st.sampled_from(contents)
    )
    sections = draw(st.lists(st.lists(page, max_size=5), min_size=1, max_size=12))
    return rounds(*([(name, number, content) for (name, number), content in section] for section in sections))


@given(
    pieces=rewriting(),
    last=st.lists(
        st.tuples(st.just(RAM), st.sampled_from([3, 4, 9]), st.sampled_from([b"", text(9), noise(9)])), max_size=4
    ),
    step=st.sampled_from([0, 700, 5000, 40_000, 10**6]),
    flush_every=st.integers(0, 3),
    without=st.frozensets(st.sampled_from([Technique.DEDUP, Technique.DELTA])),
    hold=st.sampled_from([0, 100, 5000, 10**6]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_version_of_a_hot_page_outlives_a_newer_one(
    move: Callable[..., tuple[bytes, MemoryEncoder]],
    pieces: list[bytes],
    last: list[tuple[bytes, int, bytes]],
    step: int,
    flush_every: int,
    without: frozenset[Technique],
    hold: int,
) -> None:
    """However the stream is cut, whatever may wait: before the device state the guest is the same."""
    stream = b"".join(pieces) + ending(last)
    sent = stream if step else [*pieces, ending(last)]
    options = {"flush_every": flush_every, "techniques": ALL - without, "hold": hold}
    out, encoder = move(sent, step=step or 1, **options)
    assert memory(out) == memory(stream)
    assert opaque(out) == opaque(stream)
    assert encoder.held_bytes == 0


@given(pieces=rewriting(), flush_every=st.integers(0, 2), cut=st.integers(0, 20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_waits_goes_before_post_copy(
    move: Callable[..., tuple[bytes, MemoryEncoder]], pieces: list[bytes], flush_every: int, cut: int
) -> None:
    """It goes in a section of its own, directly before the command; every other byte is QEMU's own."""
    tail = b"\x08" + (6).to_bytes(2) + (9).to_bytes(2) + bytes(9) + b"and all the rest"
    stream = b"".join(pieces) + tail
    out, encoder = move([*pieces, tail[:cut], tail[cut:]], flush_every=flush_every)
    assert pages(out) == pages(stream)
    added = b"\2" + RAM_SECTION.to_bytes(4) + (0x10).to_bytes(8) + b"\x7e" + RAM_SECTION.to_bytes(4)
    assert opaque(out) in {opaque(stream), opaque(b"".join(pieces)) + added + tail}
    assert encoder.held_bytes == 0


def test_a_page_that_is_rewritten_in_every_round_waits(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """It crosses the wire twice until it is hot, and once at the end; the saving is counted."""
    pages = [[(RAM, 7, noise(version)), (RAM, 8, text(version))] for version in range(5)]
    out, encoder = move([*rounds(*pages), ending()], flush_every=1)
    assert memory(out) == memory(b"".join([*rounds(*pages), ending()]))
    assert records(out, 7) == records(out, 8) == 3
    assert encoder.tally["held"] == 4
    assert encoder.stats().contents["held"] == 4 * PAGE


def test_a_page_that_has_cooled_goes_at_once(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """Before the end, once a whole round went by without it; and it counts as held only if it was replaced."""
    hot = [[(RAM, 7, noise(version)), (RAM, 60, noise(99))] for version in range(3)]
    cool = [[(RAM, 10 + number, noise(100 + number)), (RAM, 60, noise(99))] for number in range(3)]
    out, encoder = move(rounds(*hot, *cool), flush_every=1)
    assert records(out, 7) == 3
    assert encoder.held_bytes == 0
    assert encoder.tally["held"] == 0


def test_less_may_wait_when_the_link_is_slow(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """Nothing waits that is beyond the limit, and without the technique nothing does at all."""
    pages = [[(RAM, 7, noise(version))] for version in range(5)]
    for options in ({"hold": 4000}, {"techniques": ALL - {Technique.HOT}}):
        out, encoder = move(rounds(*pages), flush_every=1, **options)
        assert records(out, 7) == 5
        assert encoder.held_bytes == 0
    encoder = MemoryEncoder(PortEncoder(KEY, techniques=ALL - {Technique.HOT}))
    encoder.hold_at_most(10**6)
    for piece in rounds(*pages):
        encoder.encode(piece)
        encoder.flush()
    assert encoder.held_bytes == 0


def test_what_waits_is_told_and_goes_when_the_limit_falls() -> None:
    """The ladder sees a delta by its length and other pages by theirs."""
    encoder = MemoryEncoder(PortEncoder(KEY))
    pieces = rounds(
        *([(RAM, 7, noise(version)), (RAM, 8, changed(noise(0), 8, b"%d" % version))] for version in range(5))
    )
    for piece in pieces[:-1]:
        encoder.encode(piece)
        encoder.flush()
    assert PAGE < encoder.held_bytes < PAGE + 10
    assert not encoder.holds_back
    encoder.hold_at_most(0)
    encoder.encode(pieces[-1])
    encoder.flush()
    assert encoder.held_bytes == 0


def test_records_that_are_not_understood_follow_what_waits(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """They may be of the same block as the record before: the recipient is in QEMU's block then."""
    hot = [[(RAM, 5, noise(version)), (RAM, 7, noise(10 + version))] for version in range(4)]
    strange = b"\2" + RAM_SECTION.to_bytes(4) + (0xA0).to_bytes(8) + b"whatever"
    pieces = [*rounds(*hot), strange]
    out, _ = move(pieces, flush_every=1)
    assert opaque(out).endswith(strange)
    assert out.endswith(noise(13) + strange[5:])
    assert records(out, 5) == 3


@pytest.mark.parametrize("last", [noise(1), bytes(PAGE)])
@pytest.mark.parametrize("limit", [10**6, 0])
def test_what_waits_of_another_block_leads_nobody_astray(
    move: Callable[..., tuple[bytes, MemoryEncoder]], last: bytes, limit: int
) -> None:
    """It goes after QEMU's newest record, now or with an earlier section; then that record goes once more."""
    other = b"/rom@etc/acpi/tables"
    strange = b"\2" + RAM_SECTION.to_bytes(4) + (0xA0).to_bytes(8) + b"whatever"
    hot = [[(other, 0, noise(version)), (RAM, 7, last)] for version in range(4)]
    for cool in range(4):
        pieces = [*rounds(*hot, *[[(RAM, 7, last)]] * cool), strange]
        stream = b"".join(pieces)
        out, _ = move(pieces, flush_every=1, hold=limit)
        assert pages(out) == pages(stream)
        assert out.endswith(strange[5:])
        assert _last_block(out) == _last_block(stream) == RAM


def _last_block(stream: bytes) -> bytes:
    parser = QemuStream(deltas=True)
    parser.feed(stream)
    assert parser.block is not None
    return parser.block.name


def test_payloads_may_wait_for_most_of_the_first_round_only() -> None:
    """QEMU can want the switchover when the round is over: towards it less and less may stand before the lane.

    It is where QEMU is that counts, not how much went: a guest's free pages may be left out.
    """
    (first, pages), *_, (last, last_pages) = BLOCKS.items()
    count = sum(BLOCKS.values())
    encoder = MemoryEncoder(PortEncoder(KEY))
    seen = []
    numbers = range(0, pages, 2)
    end = [(last, last_pages - 1, noise(pages))]
    for piece in rounds(*([(first, number, noise(number))] for number in numbers), end):
        encoder.encode(piece)
        encoder.flush()
        seen.append(encoder.lead)
    assert MemoryEncoder(PortEncoder(KEY)).lead == 0
    assert all((lead == 1) == (number <= count * 3 // 4) for number, lead in zip(numbers, seen[1:-1], strict=True))
    assert seen[1:] == sorted(seen[1:], reverse=True)
    assert seen[-1] < 0.1


def test_post_copy_leaves_the_codec_at_once(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """Nothing waits for company after the command, and the bytes are QEMU's own."""
    head = bytes(StreamWriter().header().part([(RAM, 1, noise(1))]).command(6, b"\0" * 9).data)
    encoder = MemoryEncoder(PortEncoder(KEY))
    encoder.encode(head)
    encoder.flush()
    assert encoder.passthrough is not None
    assert len(encoder.encode(b"\x02page")) == 1
    assert not encoder.holds_back
    out, _ = move(head + bytes(300_000))
    assert out == head + bytes(300_000)


@pytest.mark.parametrize("last", [b"", noise(1)], ids=["zero", "page"])
@pytest.mark.parametrize("without", [frozenset(), {Technique.DEDUP}], ids=["dedup", "no dedup"])
def test_what_passes_may_continue_the_block_of_the_last_record(
    move: Callable[..., tuple[bytes, MemoryEncoder]], last: bytes, without: frozenset[Technique]
) -> None:
    """Though the record that named the block changed nothing, the recipient's QEMU knows where the stream stands."""
    vga = b"0000:00:02.0/vga.vram"
    first = bytes(StreamWriter().header().part([(vga, 1, last), (RAM, 1, text(1))]).data)
    again = StreamWriter()
    again.part([(vga, 1, last)])
    tail = b"\2\0\0\0\2" + (2 << 12 | 0x60).to_bytes(8) + b"\1\0\4" + b"\5\2ab"
    stream = first + bytes(again.data) + tail
    out, encoder = move(stream, step=len(first), flush_every=1, techniques=ALL - without)
    assert encoder.passthrough is not None
    assert memory(out) == memory(stream)


def test_every_payload_fits_a_frame_of_its_lane() -> None:
    """Also where a long element that began in the batch before ends in one of pages that do not compress."""
    limit = LaneSettings(lane="m", role=LaneRole.INITIATOR).max_payload_bytes
    writer = StreamWriter().header().part([(RAM, at, noise(at)) for at in range(40)])
    while (room := BATCH_BYTES - len(writer.data)) > 60_000:
        writer.command(2, random.Random(room).randbytes(1000))  # noqa: S311  # the same bytes in every run
    writer.command(2, random.Random(1).randbytes(65_000))  # noqa: S311  # the same bytes in every run
    writer.part([(RAM, at, noise(100 + at)) for at in range(64)])
    encoder = MemoryEncoder(PortEncoder(KEY))
    payloads = encoder.encode(bytes(writer.data)) + encoder.flush()
    assert max(map(len, payloads)) <= limit


def test_other_streams_pass(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """What is no migration stream is carried all the same."""
    stream = random.Random(3).randbytes(700_000)  # noqa: S311  # the same bytes in every run
    out, encoder = move(stream, step=100_000)
    assert out == stream
    assert encoder.passthrough == "another stream version"
