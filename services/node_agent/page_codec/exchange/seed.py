"""The wire format of seeding: contents that are sent before a port's window. Both ends. Pure.

The donor takes the VM's contents piece by piece, offers those of a piece, and sends those that the recipient is
missing. What the recipient stores is found later by the exchange of the port itself (`known`), like what an earlier
port left. So no number given here is used later, and a seeding that is interrupted leaves nothing incomplete.

Messages, one payload each, integers little-endian; those of `known` are as described there:

    GREET   u8 1 · 32 bytes, the port's key                       donor
    ROOM    u8 9 · u32 contents that the recipient will store     recipient; 0 ends the seeding
    OFFER   u8 3 · 5 bytes per content, at most PIECE_CONTENTS    donor
    ANSWER  u8 4 · 16 bytes, digest of the hits · bitmap          recipient, one per OFFER
    FILL    u8 10 · `zstd_codec` chunk of whole contents          donor: those that are no hits, in order
    STORED  u8 11 · u32 contents stored so far                    recipient, one per FILL

The donor has one piece in flight at a time, so at most PIECE_CONTENTS contents are between the ends. Where the digest
of the hits is not the expected one, short ids collided, and all of the piece is sent.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES, CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, Pages
from services.node_agent.page_codec.digests import Digests, Hits
from services.node_agent.page_codec.exchange.known import (
    MAX_OFFERS,
    OFFER,
    SHORT_BYTES,
    KnownTable,
    Offered,
    read_greet,
)
from services.node_agent.page_codec.zstd_codec import ZstdDecoder, ZstdEncoder

ROOM: Final = 9
FILL: Final = 10
STORED: Final = 11

PIECE_CONTENTS: Final = 256
FILL_CONTENTS: Final = MAX_CHUNK_BYTES // CONTENT_BYTES
LEVEL: Final = 3
"""At the rates of a seeding the CPU has time for it."""


class SeedSender:
    """The donor's side: `greet`, `enter`; then per piece `offer`, `missing`, `fill`, and `stored` for each FILL."""

    def __init__(self, key: bytes) -> None:
        self._offered = Offered(key)
        self._zstd = ZstdEncoder(level=LEVEL)
        self._room = 0
        self.sent = 0
        """Contents that were sent."""
        self._stored = 0
        self._confirmed = 0

    @property
    def takes(self) -> int:
        """How many contents the next piece may have."""
        return min(PIECE_CONTENTS, self._room - self.sent, MAX_OFFERS - self._offered.offers)

    def greet(self) -> bytes:
        """The first message."""
        return self._offered.greet()

    def enter(self, payload: bytes) -> int:
        """The recipient's ROOM. Raises CodecError."""
        self._room = _number(payload, ROOM)
        return self._room

    def offer(self, digests: Digests) -> bytes:
        """One piece. Raises ValueError for one of more contents than `takes`."""
        if len(digests) > self.takes:
            raise ValueError(f"a piece of {len(digests)} contents, {self.takes} may be")
        return self._offered.offer(digests)

    def missing(self, digests: Digests, payload: bytes) -> Hits:
        """The answer to an offer: which contents (bool) the recipient is missing. Raises CodecError."""
        return ~self._offered.receive_answer(digests, payload, keep=False)

    def fill(self, pages: Pages) -> list[bytes]:
        """The messages that bring these."""
        self.sent += len(pages)
        parts = [pages[at : at + FILL_CONTENTS] for at in range(0, len(pages), FILL_CONTENTS)]
        self._stored += len(pages)
        return [bytes([FILL]) + chunk for part in parts for chunk in self._zstd.encode(part.tobytes())]

    def stored(self, payload: bytes) -> None:
        """The answer to a FILL. Raises CodecError if the recipient cannot have stored so many, or no more."""
        count = _number(payload, STORED)
        if not self._confirmed < count <= self._stored:
            raise CodecError(finding=f"the recipient stored {count} contents, {self._stored} were sent")
        self._confirmed = count


class SeedReceiver:
    """The recipient's side. `digests` are those of all that it has already; `room` is how many it will store."""

    def __init__(self, greeting: bytes, digests: Digests, *, room: int) -> None:
        """Raises CodecError for a damaged greeting."""
        self._table = KnownTable(digests, read_greet(greeting))
        self._zstd = ZstdDecoder()
        self._room = room
        self._due = 0
        self.stored = 0

    def welcome(self) -> bytes:
        """The answer to the greeting."""
        return bytes([ROOM]) + self._room.to_bytes(4, "little")

    def receive(self, payload: bytes) -> tuple[bytes, Pages]:
        """The answer to a message, to be sent when its contents are stored. Raises CodecError."""
        kind = payload[0] if payload else None
        if kind == OFFER:
            return self._answer(payload), _NOTHING
        if kind == FILL:
            return self._filled(payload)
        raise CodecError(finding=f"message {payload[:1].hex() or 'nothing'} is not one of a seeding's")

    def _answer(self, payload: bytes) -> bytes:
        # All offers count, hits too: where short ids collided, the donor sends the whole piece.
        self._due = (len(payload) - 1) // SHORT_BYTES
        if self._due > PIECE_CONTENTS:
            raise CodecError(finding=f"{self._due} contents in one piece")
        return self._table.answer(payload)

    def _filled(self, payload: bytes) -> tuple[bytes, Pages]:
        (chunk,) = self._zstd.decode(payload[1:])
        count, odd = divmod(len(chunk), CONTENT_BYTES)
        if odd or count > self._due:
            raise CodecError(finding=f"{len(chunk)} bytes for {self._due} contents that were offered")
        self._due -= count
        self.stored += count
        if self.stored > self._room:
            raise CodecError(finding=f"{self.stored} contents, {self._room} were allowed")
        pages = np.frombuffer(chunk, dtype=np.uint8).reshape(count, CONTENT_BYTES)
        return bytes([STORED]) + self.stored.to_bytes(4, "little"), pages


_NOTHING: Final[Pages] = np.empty((0, CONTENT_BYTES), dtype=np.uint8)


def _number(payload: bytes, kind: int) -> int:
    if len(payload) != 5 or payload[0] != kind:
        raise CodecError(finding=f"message {kind} of a seeding expected, got {payload[:5].hex() or 'nothing'}")
    return int.from_bytes(payload[1:], "little")
