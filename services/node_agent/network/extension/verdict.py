"""What an extension's filter says of a frame: plain values. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final


class Towards(Enum):
    """Where a frame goes."""

    RECIPIENT = auto()
    DONOR = auto()


class Reason(StrEnum):
    """Why a frame was dropped."""

    MALFORMED = "malformed"
    OFFLOAD = "offload"
    """What is said of its checksums and segments does not fit it."""
    TYPE = "type"
    """Neither IP nor ARP; or with a VLAN tag."""
    OTHER_MAC = "other_mac"
    """Another host's."""
    OTHER_ADDRESS = "other_address"
    """Of the card's MAC with another address, or about another address."""
    OWN = "own"
    """The card's own frame, which came back."""
    BROADCAST = "broadcast"
    MULTICAST = "multicast"
    GATEWAY = "gateway"
    """It names another MAC for a gateway than was agreed, or the card pretends to be one."""
    CONFLICT = "conflict"
    """Somebody else claims the card's address."""
    ANSWERED = "answered"
    """The other end should have answered it."""
    EARLY = "early"
    """The recipient's end speaks for the guest before it could run there."""
    WAITING = "waiting"
    """Too much waited for the guest."""
    QUEUE = "queue"
    """Too much waited for the lane."""
    LANE = "lane"
    """The lane has begun again."""
    DEVICE = "device"
    """The TAP device did not take it."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The frame passes."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """It does not."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Answered:
    """It does not, and this frame goes back to where it came from."""

    frame: bytes


Verdict = Passed | Dropped | Answered
PASSED: Final = Passed()
DROPPED: Final = {reason: Dropped(reason) for reason in Reason}
