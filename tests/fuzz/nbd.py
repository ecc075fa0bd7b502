"""Target `nbd`: the scanners of both directions of an NBD connection, and the disk codec on top.

Promises: every byte is judged alike wherever the connection is cut; through encoder and decoder come exactly the bytes
that went in. What breaks NBD's rules raises NbdError, from the codec CodecError.
"""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Final

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.disk.decoder import DiskDecoder
from services.node_agent.page_codec.disk.encoder import DiskEncoder
from services.node_agent.page_codec.disk.format import MAX_OUT_BYTES
from services.node_agent.page_codec.disk.nbd_stream import NbdError, NbdFacts, ReplyScanner, RequestScanner, Span
from services.node_agent.page_codec.hello import Technique
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from tests.fuzz.qemu import CONTENTS, KEY, MANNERS, PAYLOAD_BYTES
from tests.fuzz.source import Source, damaged, pieces
from tests.services.node_agent.page_codec.disk.test_nbd_stream import (
    FLAGS,
    GREETING,
    chunk,
    option,
    option_reply,
    request,
    simple,
)

BLOCKS: Final = (*CONTENTS[1:4], bytes(4096))
Judged = tuple[list[Span], str]


def check(data: bytes) -> None:
    """One input; raises when a promise is broken."""
    source = Source(data)
    techniques, flush_every, cut = source.pick(MANNERS), source.below(4), source.take(1)
    if source.one_in(2):
        half = source.below(1 + source.left)
        requests, replies = source.take(half), source.rest()
    else:
        requests, replies = talk(source)
    parts = pieces(Source(cut), requests)
    facts, cut_facts = NbdFacts(), NbdFacts()
    assert _judged(RequestScanner(facts), [requests]) == _judged(RequestScanner(cut_facts), parts)
    assert facts == cut_facts
    assert _judged(ReplyScanner(facts), [replies]) == _judged(ReplyScanner(cut_facts), pieces(Source(cut), replies))
    _check_codec(parts, techniques=techniques, flush_every=flush_every)


def talk(source: Source) -> tuple[bytes, bytes]:
    """A handshake and requests with their replies, maybe damaged."""
    extended, structured = source.one_in(2), source.one_in(2)
    damage = source.below(4)
    requests, replies = bytearray(FLAGS), bytearray(GREETING)
    for _ in range(source.below(3)):
        kind = source.pick((8, 7, 3, 5, 1))
        requests += option(kind, source.take(source.below(20)))
        replies += option_reply(kind, source.pick((1, 3, 2**31 + 1)), source.take(source.below(20)))
    for cookie in range(32):
        if source.left < 2:
            break
        offset = source.pick((0, 4096, 1 << 20, 512, 2**64 - 4096, source.number(4)))
        match source.below(6):
            case 0 | 1:
                body = b"".join(source.pick(BLOCKS) for _ in range(source.pick((1, 0, 2, 5, 70))))
                body = source.pick((b"", b"x" * 512, source.take(5))) + body + source.pick((b"", b"y" * 100))
                requests += request(1, cookie, offset, len(body), extended=extended, flags=32 if extended else 0) + body
                replies += simple(cookie)
            case 2 | 3:
                body = source.take(source.below(100))
                requests += request(0, cookie, offset, len(body), extended=extended)
                if structured:
                    replies += chunk(1, cookie, struct.pack(">Q", offset) + body, extended=extended)
                else:
                    replies += simple(cookie, source.pick((0, 0, 28))) + body
            case 4:
                requests += request(source.below(10), cookie, offset, source.number(2), extended=extended)
                replies += chunk(source.pick((0, 2, 5, 1, 2**15 + 1)), cookie, source.take(9), extended=extended)
            case _:
                requests += request(source.pick((3, 2)), cookie, extended=extended)
                replies += simple(cookie)
    if damage == 3:
        return damaged(source, bytes(requests)), damaged(source, bytes(replies))
    return bytes(requests), bytes(replies)


def seeds() -> list[bytes]:
    """Inputs that reach the states that matter."""
    dice = random.Random(5)  # noqa: S311  # the same in every run
    writes = bytes(FLAGS + option(7, b"disk")) + b"".join(
        request(1, 1, at * 4096 + at, 4096) + BLOCKS[at % len(BLOCKS)] for at in range(4)
    )
    answers = GREETING + option_reply(7, 1) + simple(1) * 4
    raw = [
        bytes([0, manner, cut, 1]) + struct.pack(">I", len(writes)) + writes + answers
        for manner, cut in ((0, 0), (1, 1))
    ]
    return raw + [bytes([dice.randrange(256) for _ in range(3)]) + b"\0" + dice.randbytes(250) for _ in range(20)]


def _judged(scanner: RequestScanner | ReplyScanner, parts: list[bytes]) -> Judged:
    """All spans, neighbours joined; and the error, where there is one."""
    spans: list[Span] = []
    begin = 0
    for part in parts:
        try:
            found = scanner.scan(part)
        except NbdError as error:
            return [], str(error)  # of the part with the error nothing is known; where it stands is in the sentence
        at = 0
        for span in found:
            assert span.start == at < span.end
            at = span.end
            _join(spans, Span(begin + span.start, begin + span.end, span.offset))
        assert at == len(part)
        begin += len(part)
    return spans, ""


def _join(spans: list[Span], span: Span) -> None:
    if spans:
        last = spans[-1]
        follows = None if last.offset is None else last.offset + last.end - last.start
        if span.offset == follows:
            spans[-1] = Span(last.start, span.end, last.offset)
            return
    spans.append(span)


def _check_codec(parts: list[bytes], *, techniques: frozenset[Technique], flush_every: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="vmport-fuzz-"))
    out = bytearray()
    try:
        with FileStore(folder / "store", keep=1024) as store:
            encoder = DiskEncoder(PortEncoder(KEY, techniques=techniques), NbdFacts())
            decoder = DiskDecoder(PortDecoder(lambda _: store), NbdFacts())

            def carry(payloads: list[bytes]) -> None:
                for payload in payloads:
                    assert len(payload) <= PAYLOAD_BYTES, f"a payload of {len(payload)} bytes fits no DATA frame"
                    for given in decoder.decode(payload):
                        assert len(given) <= MAX_OUT_BYTES
                        out.extend(given)

            for number, part in enumerate(parts):
                for at in range(0, len(part), MAX_CHUNK_BYTES):
                    try:
                        payloads = encoder.encode(part[at : at + MAX_CHUNK_BYTES])
                    except CodecError:
                        assert b"".join(parts).startswith(out), "other bytes came out before the error"
                        return
                    carry(payloads)
                if flush_every and number % flush_every == 0:
                    carry(encoder.flush())
            carry(encoder.flush())
    finally:
        shutil.rmtree(folder)
    assert b"".join(parts) == out
