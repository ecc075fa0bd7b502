"""NBD scanned as it passes: random conversations, cut anywhere, against what they were made of."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.page_codec.disk.nbd_stream import (
    MAX_PAYLOAD_BYTES,
    MAX_READS,
    NbdError,
    NbdFacts,
    ReplyScanner,
    RequestScanner,
    Span,
)
from tests.support.nbd_end import check_end

FLAGS = struct.pack(">I", 3)
GREETING = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def option_reply(number: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, number, kind, len(data)) + data


def request(
    kind: int, cookie: int, offset: int = 0, length: int = 0, *, extended: bool = False, flags: int = 0
) -> bytes:
    if extended:
        return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, offset, length)
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length)


def simple(cookie: int, error: int = 0) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def chunk(kind: int, cookie: int, data: bytes, *, extended: bool = False, offset: int = 0) -> bytes:
    if extended:
        return struct.pack(">IHHQQQ", 0x6E8A278C, 1, kind, cookie, offset, len(data)) + data
    return struct.pack(">IHHQI", 0x668E33EF, 1, kind, cookie, len(data)) + data


@dataclass
class Talk:
    """Bytes of both directions, and where contents stand in them."""

    requests: bytearray = field(default_factory=lambda: bytearray(FLAGS + option(8) + option(7, b"disk")))
    replies: bytearray = field(
        default_factory=lambda: bytearray(GREETING + option_reply(8, 1) + option_reply(7, 3, b"i") + option_reply(7, 1))
    )
    written: dict[int, int] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def _mark(into: dict[int, int], start: int, length: int, offset: int) -> None:
        into.update({start + at: offset + at for at in range(length)})

    def write(self, offset: int, data: bytes, *, extended: bool) -> None:
        self.requests += request(1, 1, offset, len(data), extended=extended, flags=32 if extended else 0)
        self._mark(self.written, len(self.requests), len(data), offset)
        self.requests += data

    def reply_data(self, offset: int, data: bytes, *, extended: bool, structured: bool, cookie: int) -> None:
        if not structured:
            self.replies += simple(cookie)
            self._mark(self.read, len(self.replies), len(data), offset)
            self.replies += data
            return
        self.replies += chunk(1, cookie, struct.pack(">Q", offset) + data, extended=extended)
        self._mark(self.read, len(self.replies) - len(data), len(data), offset)


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """A handshake and some requests with their replies."""
    talk = Talk()
    extended = draw(st.booleans())
    structured = extended or draw(st.booleans())
    for cookie in range(draw(st.integers(0, 8))):
        offset, data = draw(st.integers(0, 2**40)), draw(st.binary(max_size=60))
        match draw(st.sampled_from(["write", "read", "zeroes", "status", "flush"])):
            case "write":
                talk.write(offset, data, extended=extended)
                talk.replies += chunk(0, cookie, b"", extended=extended) if structured else simple(cookie, 28)
            case "read":
                talk.requests += request(0, cookie, offset, len(data), extended=extended)
                talk.reply_data(offset, data, extended=extended, structured=structured, cookie=cookie)
            case "zeroes":
                talk.requests += request(6, cookie, offset, 2**31, extended=extended)
                talk.replies += simple(cookie)
            case "status":
                body = b"\0\0\0\1" * 2 if extended and draw(st.booleans()) else b""
                talk.requests += request(7, cookie, 0, len(body) or 999, extended=extended, flags=32 if body else 0)
                talk.requests += body
                talk.replies += chunk(6 if extended else 5, cookie, data, extended=extended)
            case _:
                talk.requests += request(3, cookie, extended=extended)
                talk.replies += simple(cookie)
    return talk


def scan(scanner: RequestScanner | ReplyScanner, data: bytes, cuts: Sequence[int]) -> dict[int, int]:
    """Feed in pieces; returns which bytes are contents, and of which offset. Spans must cover every piece."""
    found: dict[int, int] = {}
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(borders):
        at = 0
        for span in scanner.scan(data[start:end]):
            assert span.start == at < span.end
            at = span.end
            if span.offset is not None:
                found.update({start + span.start + k: span.offset + k for k in range(span.end - span.start)})
        assert at == end - start
    return found


@given(talks(), st.lists(st.integers(0, 10_000), max_size=30))
def test_contents_are_found_wherever_the_stream_is_cut(talk: Talk, cuts: list[int]) -> None:
    """Every byte of a WRITE's payload and of a READ's data is known by its offset, every other byte is plain."""
    facts = NbdFacts()
    requests, replies = RequestScanner(facts), ReplyScanner(facts)
    assert scan(requests, bytes(talk.requests), cuts) == talk.written
    assert scan(replies, bytes(talk.replies), cuts) == talk.read
    check_end(requests)
    check_end(replies)
    assert not requests.opaque
    assert not facts.reads


@given(talks())
def test_byte_by_byte(talk: Talk) -> None:
    """One byte at a time changes nothing."""
    facts = NbdFacts()
    assert scan(RequestScanner(facts), bytes(talk.requests), range(len(talk.requests))) == talk.written
    assert scan(ReplyScanner(facts), bytes(talk.replies), range(len(talk.replies))) == talk.read


@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans())
def test_noise_ends_in_an_error_or_passes(pieces: list[bytes], greeted: bool) -> None:  # noqa: FBT001  # drawn
    """No input makes a scanner hang, lose a byte or raise anything but NbdError."""
    facts = NbdFacts()
    for scanner, hello in ((RequestScanner(facts), FLAGS), (ReplyScanner(facts), GREETING)):
        with suppress(NbdError):
            for piece in [hello, *pieces] if greeted else pieces:
                assert sum(span.end - span.start for span in scanner.scan(piece)) == len(piece)
            check_end(scanner)


def test_what_is_no_nbd_passes() -> None:
    """Another protocol, and the oldstyle handshake, are plain bytes to the end."""
    for scanner in (RequestScanner(NbdFacts()), ReplyScanner(NbdFacts())):
        assert scanner.scan(b"GET / HTTP/1.0\r\n\r\n") == [Span(0, 18, None)]
        assert scanner.opaque
        check_end(scanner)
    old = ReplyScanner(NbdFacts())
    old.scan(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + bytes(136))
    assert old.opaque


@pytest.mark.parametrize("no_zeroes", [True, False])
def test_export_name_has_an_answer_of_its_own(no_zeroes: bool) -> None:  # noqa: FBT001
    """The old way to choose an export is answered without a magic; requests follow at once."""
    facts = NbdFacts()
    requests, replies = RequestScanner(facts), ReplyScanner(facts)
    sent = struct.pack(">I", 3 if no_zeroes else 1) + option(8) + option(1, b"disk") + request(1, 7, 4096, 3) + b"abc"
    assert scan(requests, sent, ()) == {len(sent) - 3 + at: 4096 + at for at in range(3)}
    answer = GREETING + option_reply(8, 1) + struct.pack(">QH", 2**31, 1) + bytes(0 if no_zeroes else 124) + simple(7)
    assert scan(replies, answer, range(0, len(answer), 3)) == {}
    check_end(replies)
    assert not replies.opaque


def test_tls_is_not_looked_into() -> None:
    """After STARTTLS was granted both directions pass."""
    facts = NbdFacts()
    requests, replies = RequestScanner(facts), ReplyScanner(facts)
    requests.scan(FLAGS + option(5))
    replies.scan(GREETING + option_reply(5, 1))
    requests.scan(b"\x16\x03\x01 hello")
    replies.scan(b"\x16\x03\x03 hello")
    assert requests.opaque
    assert replies.opaque


@pytest.mark.parametrize(
    ("sent", "finding"),
    [
        (FLAGS + option(7) + b"\0\0\0\0", "a request begins with 0x00000000"),
        (FLAGS + request(99, 1), "type 99 is unknown"),
        (FLAGS + request(1, 1, 0, MAX_PAYLOAD_BYTES + 1), "over the limit"),
        (FLAGS + request(0, 1, 0, MAX_PAYLOAD_BYTES + 1), "over the limit"),
        (FLAGS + request(2, 1) + b"x", "after DISC"),
        (FLAGS + b"IHAVELOST" + bytes(20), "an option begins with"),
        (FLAGS + b"".join(request(0, cookie, 0, 1) for cookie in range(MAX_READS + 1)), "not answered"),
    ],
)
def test_broken_requests_are_rejected(sent: bytes, finding: str) -> None:
    """The error says at which byte and why."""
    with pytest.raises(NbdError, match=finding) as caught:
        RequestScanner(NbdFacts()).scan(sent)
    assert caught.value.at_byte > 0


@pytest.mark.parametrize(
    ("sent", "finding"),
    [
        (GREETING + option_reply(7, 1) + b"\1\2\3\4", "a reply begins with 0x01020304"),
        (GREETING + b"\x00\x03\xe8\x89" + bytes(16), "an option reply begins with"),
        (GREETING + option_reply(5, 1), "without being asked"),
        (GREETING + chunk(1, 1, b"") + bytes(8), "no offset"),
    ],
)
def test_broken_replies_are_rejected(sent: bytes, finding: str) -> None:
    """A server that breaks the protocol is noticed, too."""
    with pytest.raises(NbdError, match=finding):
        ReplyScanner(NbdFacts()).scan(sent)


def test_an_early_end_is_noticed() -> None:
    """A connection that ends within a payload or a header did not end in order."""
    scanner = RequestScanner(NbdFacts())
    scanner.scan(FLAGS + request(1, 1, 0, 100) + bytes(99))
    with pytest.raises(NbdError, match="within a payload"):
        check_end(scanner)
    scanner = RequestScanner(NbdFacts())
    scanner.scan(FLAGS + b"IHAV")
    with pytest.raises(NbdError, match="within a header"):
        check_end(scanner)
