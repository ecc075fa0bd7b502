"""The exchange before a transfer: which contents the donor need not send, because the recipient has them. Pure.

The donor offers short keyed ids of its contents, in file order; the recipient answers a batch with a
bit per offer. Short ids may collide, so an answer also carries a digest over the full digests of all its hits: where
the donor's differs, the batch is dropped. So a hit is never a guess. The hits of all batches that
the donor commits get consecutive numbers of origin KNOWN at both ends.

Messages, one payload each, integers little-endian:

    GREET   u8 1 · 32 bytes, the port's key                      donor
    HAVE    u8 2 · u64 contents that the recipient could know    recipient; 0 ends the exchange
    OFFER   u8 3 · 5 bytes per content                           donor
    ANSWER  u8 4 · 16 bytes, digest of the hits · bitmap         recipient, one per OFFER, in order
    COMMIT  u8 5 · u8 per OFFER: 1 taken, 0 dropped              donor
    READY   u8 6 · u32 contents that have numbers now            recipient
    ASK     u8 7 · u32 per content: its number                   recipient, at any time after READY
    GIVE    u8 8 · the content, or nothing if it is gone         donor, one per content asked for, in order

A content's short id is SipHash-2-4 of its BLAKE3 digest (16 bytes), cut to 40 bits; its key comes from the port's key.
So an index of digests can be kept for all ports, and what is on the wire says nothing outside of this port.

Cost: 5 bytes and a bit per offer. A file's contents are offered only if a sample of them says that this is below 2 % of
what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES, ID_BYTES, KEY_BYTES
from services.node_agent.page_codec.digests import Digests, Hits
from services.node_agent.page_codec.exchange.siphash import siphash

GREET: Final = 1
HAVE: Final = 2
OFFER: Final = 3
ANSWER: Final = 4
COMMIT: Final = 5
READY: Final = 6
ASK: Final = 7
GIVE: Final = 8

OFFERS_AT_ONCE: Final = 8192
SAMPLE: Final = 512
ASK_AT_ONCE: Final = 256
MAX_OFFERS: Final = 1 << 22
"""Per port: 16 GiB of contents."""
SHORT_BYTES: Final = 5
OFFER_COST_BYTES: Final = SHORT_BYTES + 1 / 8
SAVED_BYTES: Final = 1800
"""What a block that need not be sent saves on average; measured: 4096 * 214 / 483."""
WORTH: Final = 0.02

Shorts = NDArray[np.uint64]

_SHORT_MASK: Final = np.uint64((1 << 8 * SHORT_BYTES) - 1)


def short_ids(digests: Digests, key: bytes) -> Shorts:
    """The ids under which contents are offered in the port with this key."""
    ids: Shorts = siphash(digests, blake3(b"vmport: short ids of offered contents", key=key).digest(16)) & _SHORT_MASK
    return ids


def worth_offering(sampled: int, hits: int) -> bool:
    """Whether offering everything costs less than 2 % of what it saves, if the sample is like the rest."""
    return sampled > 0 and OFFER_COST_BYTES * sampled <= WORTH * SAVED_BYTES * hits


def proof_of(digests: Digests, key: bytes) -> bytes:
    """What the recipient proves its hits with."""
    return blake3(np.ascontiguousarray(digests).astype("<u8").tobytes(), key=key).digest(ID_BYTES)


@dataclass(frozen=True, slots=True)
class Answer:
    """Which offers of a batch the recipient has, and the proof that it means the same contents."""

    hits: Hits
    proof: bytes

    def encode(self) -> bytes:
        """The payload."""
        return bytes([ANSWER]) + self.proof + np.packbits(self.hits, bitorder="little").tobytes()

    @classmethod
    def decode(cls, payload: bytes, offers: int) -> Answer:
        """Raises CodecError."""
        body = _body(payload, ANSWER, ID_BYTES + (offers + 7) // 8)
        bits = np.frombuffer(body[ID_BYTES:], dtype=np.uint8)
        return cls(np.unpackbits(bits, count=offers, bitorder="little").astype(np.bool_), body[:ID_BYTES])


class Offered:
    """The donor's side: what it offered, and what became of it."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.taken: list[bool] = []
        self.offers = 0

    def greet(self) -> bytes:
        """The first message."""
        return bytes([GREET]) + self._key

    def offer(self, digests: Digests) -> bytes:
        """One batch."""
        self.offers += len(digests)
        shorts = short_ids(digests, self._key).astype("<u8")
        return bytes([OFFER]) + shorts.view(np.uint8).reshape(-1, 8)[:, :SHORT_BYTES].tobytes()

    def receive_answer(self, digests: Digests, payload: bytes, *, keep: bool = True) -> Hits:
        """The answer to a batch: which of its contents have numbers from now on. Raises CodecError."""
        answer = Answer.decode(payload, len(digests))
        good = answer.proof == proof_of(digests[answer.hits], self._key)
        # A sample (`keep` false) counts as dropped: its contents are offered again with the rest of their file.
        self.taken.append(good and keep)
        return answer.hits if good else np.zeros(len(digests), dtype=np.bool_)

    def commit(self) -> bytes:
        """The last message."""
        return bytes([COMMIT]) + bytes(self.taken)


class KnownTable:
    """The recipient's side: everything that it could know, by short id."""

    def __init__(self, digests: Digests, key: bytes) -> None:
        """`digests` are those of all its contents; rows are what hits refer to."""
        self._digests = digests
        self._key = key
        shorts = short_ids(digests, key)
        # Sorted once: a batch of offers is then one binary search in numpy, without a Python object per content.
        # Of contents with the same short id the first is the answer. If the donor means another, the proofs differ.
        self._order = np.argsort(shorts, kind="stable")
        self._sorted = shorts[self._order]
        self._batches: list[NDArray[np.int64]] = []
        self._offers = 0

    def answer(self, payload: bytes) -> bytes:
        """The answer to an OFFER. Raises CodecError."""
        body = _body(payload, OFFER)
        count, odd = divmod(len(body), SHORT_BYTES)
        self._offers += count
        if odd or count > OFFERS_AT_ONCE or self._offers > MAX_OFFERS:
            raise CodecError(finding=f"an offer of {len(body)} bytes, {self._offers} contents so far")
        # Ids of five bytes, widened to eight so that numpy can read them as numbers.
        wide = np.zeros((count, 8), dtype=np.uint8)
        wide[:, :SHORT_BYTES] = np.frombuffer(body, dtype=np.uint8).reshape(-1, SHORT_BYTES)
        offered = wide.view("<u8").reshape(-1)
        if not len(self._sorted):
            at = hits = np.zeros(count, dtype=np.int64)
        else:
            # searchsorted gives the place where an id would be inserted; the id itself need not be there.
            at = np.minimum(np.searchsorted(self._sorted, offered), len(self._sorted) - 1)
            hits = self._sorted[at] == offered
        flags = hits.astype(np.bool_)
        rows = self._order[at[flags]] if len(self._sorted) else at[flags]
        self._batches.append(rows)
        return Answer(flags, proof_of(self._digests[rows], self._key)).encode()

    def commit(self, payload: bytes) -> NDArray[np.int64]:
        """The rows that have numbers now, in the order of their numbers. Raises CodecError."""
        taken = _body(payload, COMMIT, len(self._batches))
        rows = [batch for batch, keep in zip(self._batches, taken, strict=True) if keep]
        return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


def read_greet(payload: bytes) -> bytes:
    """The port's key. Raises CodecError."""
    return _body(payload, GREET, KEY_BYTES)


def have(count: int) -> bytes:
    """The answer to a GREET."""
    return bytes([HAVE]) + count.to_bytes(8, "little")


def read_have(payload: bytes) -> int:
    """How much the recipient could know. Raises CodecError."""
    return int.from_bytes(_body(payload, HAVE, 8), "little")


def ready(count: int) -> bytes:
    """The answer to a COMMIT."""
    return bytes([READY]) + count.to_bytes(4, "little")


def read_ready(payload: bytes) -> int:
    """How many contents have numbers. Raises CodecError."""
    return int.from_bytes(_body(payload, READY, 4), "little")


def ask(numbers: Sequence[int]) -> bytes:
    """Contents that were there when the donor offered them, and are not what they were."""
    return bytes([ASK]) + np.array(numbers, dtype="<u4").tobytes()


def read_ask(payload: bytes) -> list[int]:
    """Their numbers. Raises CodecError."""
    body = _body(payload, ASK)
    if len(body) % 4 or len(body) > 4 * ASK_AT_ONCE:
        raise CodecError(finding=f"{len(body)} bytes ask for contents")
    return [int(number) for number in np.frombuffer(body, dtype="<u4")]


def give(content: bytes) -> bytes:
    """One content; nothing if the donor has it no more."""
    return bytes([GIVE]) + content


def read_give(payload: bytes) -> bytes:
    """Raises CodecError."""
    body = _body(payload, GIVE)
    if len(body) not in (0, CONTENT_BYTES):
        raise CodecError(finding=f"a content of {len(body)} bytes")
    return body


def sample_of(digests: Digests, count: int = SAMPLE) -> NDArray[np.int64]:
    """Rows that stand for all: spread evenly."""
    return np.unique(np.linspace(0, len(digests) - 1, min(count, len(digests))).astype(np.int64))


def batches_of(digests: Digests) -> Sequence[slice]:
    """How offers are cut."""
    return [slice(at, at + OFFERS_AT_ONCE) for at in range(0, len(digests), OFFERS_AT_ONCE)]


def _body(payload: bytes, kind: int, size: int | None = None) -> bytes:
    if not payload or payload[0] != kind or (size is not None and len(payload) != 1 + size):
        shown = payload[:1].hex() or "nothing"
        raise CodecError(
            finding=f"message {kind} of the contents' exchange expected, got {shown}, {len(payload)} bytes"
        )
    return payload[1:]
