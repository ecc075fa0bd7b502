"""NBD as it passes by: which bytes of a connection are disk contents, and of which offset. Pure; changes no byte.

A scanner per direction takes the bytes as they come and says of every byte at once whether it is content; it holds
nothing back and keeps no more than one header. So bytes are never altered by being scanned, wherever they are cut.

Handshake: fixed newstyle, options told from requests by their magic. Transmission: compact and extended requests,
simple, structured and extended replies. Both directions share `NbdFacts`, since the length of a simple reply to READ
and of the reply to EXPORT_NAME stand only in the request; a reply must not be scanned before its request was.

What does not begin as NBD, and what follows STARTTLS, is `opaque`: it passes as plain bytes. A connection that began as
NBD and breaks its rules is an `NbdError`: a damaged stream must not reach a disk. Source: NBD's doc/proto.md.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from shared.errors import VmportError

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
"""Largest payload of one request or reply. QEMU's own limit is 32 MiB."""
MAX_OPTION_BYTES: Final = 1024 * 1024
MAX_READS: Final = 4096
"""READs without a reply, at once; only counted where simple replies need it."""

_NBD_MAGIC: Final = b"NBDMAGIC"
_OPTION_MAGIC: Final = b"IHAVEOPT"
_OPTION_REPLY_MAGIC: Final = 0x0003_E889_0455_65A9
_REQUEST_MAGIC: Final = 0x2560_9513
_EXTENDED_REQUEST_MAGIC: Final = 0x21E4_1C71
_SIMPLE_REPLY_MAGIC: Final = 0x6744_6698
_STRUCTURED_REPLY_MAGIC: Final = 0x668E_33EF
_EXTENDED_REPLY_MAGIC: Final = 0x6E8A_278C

_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_EXTENDED_REQUEST: Final = struct.Struct(">IHHQQQ")
_SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_STRUCTURED_REPLY: Final = struct.Struct(">IHHQI")
_EXTENDED_REPLY: Final = struct.Struct(">IHHQQQ")

_FLAG_FIXED_NEWSTYLE: Final = 1
_CLIENT_FLAGS: Final = 3
_FLAG_NO_ZEROES: Final = 2
_FLAG_PAYLOAD_LEN: Final = 1 << 5
_REPLY_FLAG_DONE: Final = 1  # the last chunk of its reply
_REPLY_OFFSET_DATA: Final = 1
_OPTION_EXPORT_NAME: Final = 1
_OPTION_STARTTLS: Final = 5
_REPLY_ACK: Final = 1
_EXPORT_BYTES: Final = 10
_EXPORT_ZEROES: Final = 124


class NbdError(VmportError):
    """An NBD connection broke the protocol; nothing more of it may reach a disk."""

    code = "bad_nbd"

    def __init__(self, *, side: str, at_byte: int, finding: str) -> None:
        self.side = side
        self.at_byte = at_byte
        self.finding = finding
        super().__init__(f"NBD {side}, byte {at_byte}: {finding}; the disk stream is damaged, start the port again")


class Command(IntEnum):
    """Types of requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class Span(NamedTuple):
    """A run of the scanned bytes: `data[start:end]`; content of the disk from `offset` on, or (None) plain bytes."""

    start: int
    end: int
    offset: int | None


@dataclass(slots=True)
class NbdFacts:
    """What one direction of a connection must know of the other. One per connection and host."""

    no_zeroes: bool = False
    export_name: bool = False
    starttls: bool = False
    tls: bool = False
    extended: bool = False
    reads: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Cookie to offset and length of each READ that was sent by a compact request and not answered yet."""


class _Scanner(ABC):
    """Cuts a direction into headers and payloads. Subclasses know the headers."""

    _SIDE: str

    def __init__(self, facts: NbdFacts) -> None:
        self._facts = facts
        self._head = bytearray()
        self._need = 0
        self._payload_left = 0
        self._offset: int | None = None
        self._at_byte = 0
        self.opaque = False
        """Whether the rest of this direction is not NBD, or not to be read."""

    @property
    def within_contents(self) -> bool:
        """Whether the next byte continues the content that the last one was of."""
        return bool(self._payload_left) and self._offset is not None and not self.opaque

    def scan(self, data: bytes | memoryview) -> list[Span]:
        """Spans that cover `data` without gaps; neighbours differ in kind or in offset. Raises NbdError."""
        spans: list[Span] = []
        at, size, plain_from = 0, len(data), 0
        while at < size:
            if self.opaque:
                break
            if self._payload_left:
                # In a payload: it goes on to its end, or to the end of these bytes.
                end = min(size, at + self._payload_left)
                if self._offset is not None:
                    if plain_from < at:
                        spans.append(Span(plain_from, at, None))
                    spans.append(Span(at, end, self._offset))
                    self._offset += end - at
                    plain_from = end
                self._payload_left -= end - at
            else:
                # In a header: it may be cut anywhere, so it is collected until it is complete.
                end = min(size, at + self._need - len(self._head))
                self._head += data[at:end]
                if len(self._head) == self._need:
                    self._at_byte += end - at
                    at = end
                    self._read_header()
                    continue
            self._at_byte += end - at
            at = end
        if plain_from < size:
            spans.append(Span(plain_from, size, None))
        return spans

    @abstractmethod
    def _read_header(self) -> None:
        """The header has `_need` bytes: ask for more, or take it."""

    def _more(self, need: int) -> None:
        self._need = need

    def _expect(
        self, need: int, *, payload: int = 0, offset: int | None = None, limit: int = MAX_PAYLOAD_BYTES
    ) -> None:
        """The header is complete: a payload follows, then a header that begins with `need` bytes."""
        if payload > limit:
            raise self._error(f"a payload of {payload} bytes is over the limit of {limit}")
        self._head.clear()
        self._need = need
        self._payload_left = payload
        self._offset = offset

    def _pass_through(self) -> None:
        self._head.clear()
        self.opaque = True

    def _error(self, finding: str) -> NbdError:
        return NbdError(side=self._SIDE, at_byte=self._at_byte, finding=finding)


class _Greeting:
    """What a server says first (doc/proto.md, "Newstyle negotiation"), by where each part ends, in bytes."""

    MAGIC_END: Final = 8
    STYLE_END: Final = 16
    FLAGS_END: Final = 18


class _Phase(Enum):
    GREETING = auto()
    OPTIONS = auto()
    TRANSMISSION = auto()
    ENDED = auto()


class RequestScanner(_Scanner):
    """Client to server; at a port, from the donor's QEMU. Contents are the payloads of WRITE."""

    _SIDE = "requests"

    def __init__(self, facts: NbdFacts) -> None:
        super().__init__(facts)
        self._need = 4
        self._phase = _Phase.GREETING

    @property
    def negotiates(self) -> bool:
        """Whether the client has made no request yet."""
        return self._phase in {_Phase.GREETING, _Phase.OPTIONS} and not self.opaque

    def _read_header(self) -> None:
        if self._facts.tls:
            self._pass_through()
            return
        match self._phase:
            case _Phase.GREETING:
                self._read_flags()
            case _Phase.OPTIONS:
                self._read_option()
            case _Phase.TRANSMISSION:
                self._read_request()
            case _Phase.ENDED:
                raise self._error("bytes after DISC")

    def _read_flags(self) -> None:
        flags = int.from_bytes(self._head)
        if flags & ~_CLIENT_FLAGS or not flags & _FLAG_FIXED_NEWSTYLE:
            self._pass_through()
            return
        self._facts.no_zeroes = bool(flags & _FLAG_NO_ZEROES)
        self._phase = _Phase.OPTIONS
        self._expect(4)

    def _read_option(self) -> None:
        # No message ends the options (after GO the next bytes are a request), so the magic decides.
        if not _OPTION_MAGIC.startswith(self._head[:4]):
            self._phase = _Phase.TRANSMISSION
            self._read_request()
            return
        if len(self._head) < _OPTION.size:
            self._more(_OPTION.size)
            return
        magic, option, length = _OPTION.unpack(self._head)
        if magic != _OPTION_MAGIC:
            raise self._error(f"an option begins with {magic.hex()}")
        if option == _OPTION_EXPORT_NAME:
            self._facts.export_name = True
            self._phase = _Phase.TRANSMISSION
        elif option == _OPTION_STARTTLS:
            self._facts.starttls = True
        self._expect(4, payload=length, limit=MAX_OPTION_BYTES)

    def _read_request(self) -> None:
        head = self._head
        magic = int.from_bytes(head[:4])
        if magic == _REQUEST_MAGIC:
            if len(head) < _REQUEST.size:
                self._more(_REQUEST.size)
                return
            _, flags, kind, cookie, offset, length = _REQUEST.unpack(head)
        elif magic == _EXTENDED_REQUEST_MAGIC:
            if len(head) < _EXTENDED_REQUEST.size:
                self._more(_EXTENDED_REQUEST.size)
                return
            _, flags, kind, cookie, offset, length = _EXTENDED_REQUEST.unpack(head)
            self._facts.extended = True
        else:
            raise self._error(f"a request begins with {magic:#010x}")
        self._apply_command(kind, flags, cookie, offset, length)

    def _apply_command(self, kind: int, flags: int, cookie: int, offset: int, length: int) -> None:
        try:
            command = Command(kind)
        except ValueError:
            raise self._error(f"request type {kind} is unknown") from None
        match command:
            case Command.WRITE:
                self._expect(4, payload=length, offset=offset)
            case Command.DISC:
                self._phase = _Phase.ENDED
                self._expect(1)  # any byte more is an error
            case Command.READ if not self._facts.extended:
                self._remember_read(cookie, offset, length)
                self._expect(4)
            case _ if self._facts.extended and flags & _FLAG_PAYLOAD_LEN:
                self._expect(4, payload=length)
            case _:
                self._expect(4)

    def _remember_read(self, cookie: int, offset: int, length: int) -> None:
        if length > MAX_PAYLOAD_BYTES:
            raise self._error(f"a READ of {length} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        if len(self._facts.reads) >= MAX_READS:
            raise self._error(f"{MAX_READS} READs are not answered")
        self._facts.reads[cookie] = (offset, length)


class ReplyScanner(_Scanner):
    """Server to client; at a port, from the recipient's QEMU. Contents are what READs return."""

    _SIDE = "replies"

    def __init__(self, facts: NbdFacts) -> None:
        super().__init__(facts)
        self._need = len(_NBD_MAGIC)
        self._phase = _Phase.GREETING

    def _read_header(self) -> None:
        match self._phase:
            case _Phase.GREETING:
                self._read_greeting()
            case _Phase.OPTIONS:
                self._read_option_reply()
            case _Phase.TRANSMISSION | _Phase.ENDED:
                self._read_reply()

    def _read_greeting(self) -> None:
        match len(self._head):
            case _Greeting.MAGIC_END if self._head == _NBD_MAGIC:
                self._more(_Greeting.STYLE_END)
            case _Greeting.STYLE_END if self._head[_Greeting.MAGIC_END :] == _OPTION_MAGIC:
                self._more(_Greeting.FLAGS_END)
            case _Greeting.FLAGS_END:
                self._phase = _Phase.OPTIONS
                self._expect(4)
            case _:
                self._pass_through()  # oldstyle, or no NBD at all

    def _read_option_reply(self) -> None:
        head = self._head
        if head[:4] != _OPTION_REPLY_MAGIC.to_bytes(8)[:4]:
            self._phase = _Phase.TRANSMISSION
            if not self._facts.export_name:
                self._read_reply()
                return
        if self._facts.export_name and self._phase is _Phase.TRANSMISSION:
            # The answer to EXPORT_NAME has no magic: 8 bytes of size, 2 of flags, then zeros if they are wanted.
            zeroes = 0 if self._facts.no_zeroes else _EXPORT_ZEROES
            self._expect(4, payload=_EXPORT_BYTES - len(head) + zeroes)
            return
        if len(head) < _OPTION_REPLY.size:
            self._more(_OPTION_REPLY.size)
            return
        magic, option, kind, length = _OPTION_REPLY.unpack(head)
        if magic != _OPTION_REPLY_MAGIC:
            raise self._error(f"an option reply begins with {magic:#018x}")
        self._expect(4, payload=length, limit=MAX_OPTION_BYTES)
        if option == _OPTION_STARTTLS and kind == _REPLY_ACK:
            if not self._facts.starttls:
                raise self._error("TLS begins without being asked for")
            self._facts.tls = True
            self._pass_through()

    def _read_reply(self) -> None:
        head = self._head
        magic = int.from_bytes(head[:4])
        if magic == _SIMPLE_REPLY_MAGIC:
            self._read_simple()
        elif magic == _STRUCTURED_REPLY_MAGIC:
            if len(head) < _STRUCTURED_REPLY.size + self._offset_bytes():
                self._more(_STRUCTURED_REPLY.size + self._offset_bytes())
                return
            _, flags, kind, cookie, length = _STRUCTURED_REPLY.unpack_from(head)
            self._read_chunk(kind, flags, cookie, length, _STRUCTURED_REPLY.size)
        elif magic == _EXTENDED_REPLY_MAGIC:
            if len(head) < _EXTENDED_REPLY.size + self._offset_bytes():
                self._more(_EXTENDED_REPLY.size + self._offset_bytes())
                return
            _, flags, kind, cookie, _, length = _EXTENDED_REPLY.unpack_from(head)
            self._read_chunk(kind, flags, cookie, length, _EXTENDED_REPLY.size)
        else:
            raise self._error(f"a reply begins with {magic:#010x}")

    def _offset_bytes(self) -> int:
        """Bytes that an OFFSET_DATA chunk has before its contents, once its type is there."""
        head = self._head
        return 8 if len(head) >= 8 and int.from_bytes(head[6:8]) == _REPLY_OFFSET_DATA else 0

    def _read_simple(self) -> None:
        if len(self._head) < _SIMPLE_REPLY.size:
            self._more(_SIMPLE_REPLY.size)
            return
        _, error, cookie = _SIMPLE_REPLY.unpack(self._head)
        # A simple reply does not tell its length: it is that of the READ, and nothing after an error.
        offset, length = self._facts.reads.pop(cookie, (None, 0))
        self._expect(4, payload=0 if error else length, offset=offset)

    def _read_chunk(self, kind: int, flags: int, cookie: int, length: int, header: int) -> None:
        if flags & _REPLY_FLAG_DONE:
            self._facts.reads.pop(cookie, None)
        if kind != _REPLY_OFFSET_DATA:
            self._expect(4, payload=length)
            return
        if length < 8:
            raise self._error(f"a data chunk of {length} bytes has no offset")
        self._expect(4, payload=length - 8, offset=int.from_bytes(self._head[header : header + 8]))
