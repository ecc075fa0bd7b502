"""How far other parties' clocks are from this host's, learned from their messages. Pure: time is an input.

A message says when it was sent, by its sender's clock. It cannot arrive before it was sent: one that does shows at
once that the sender's clock is ahead. One that seems old was sent by a clock that is behind, or has waited; so a clock
counts as behind only when several messages that came at different times all seem equally old. The answer to a question
of our own needs no such care: it was sent between question and arrival.

Deadlines in a message are its sender's times and are judged on the sender's clock (`their_now`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

NOTICED: Final = timedelta(seconds=5)
"""Less is the way of messages and of honest clocks."""
AGREE: Final = timedelta(seconds=2)
APART: Final = timedelta(seconds=1)
KEPT: Final = 3
"""Messages per party that are looked at: a clock that was put right is believed after so many."""
FORGOTTEN_AFTER: Final = timedelta(minutes=10)
PROMPT: Final = timedelta(seconds=5)
"""An answer that took longer says too little about the clock."""
MAX_PARTIES: Final = 10_000

_NONE: Final = timedelta(0)


@dataclass(slots=True)
class _Known:
    """Of one party: when its last messages came and how old they seemed; and what an answer has shown."""

    heard: deque[tuple[datetime, timedelta]] = field(default_factory=lambda: deque(maxlen=KEPT))
    answered: tuple[datetime, timedelta] | None = None

    def ahead(self, now: datetime) -> timedelta:
        if self.answered is not None and now - self.answered[0] <= FORGOTTEN_AFTER:
            return self.answered[1]
        recent = [(at, age) for at, age in self.heard if now - at <= FORGOTTEN_AFTER]
        if not recent:
            return _NONE
        at, age = min(recent, key=lambda each: each[1])
        if age < _NONE:
            return -age
        agreed = any(abs(other - at) >= APART and other_age - age <= AGREE for other, other_age in recent)
        return -age if agreed else _NONE


def is_late(said_at: datetime, *, last: datetime, set_aside: datetime | None) -> bool:
    """Whether a sender's message was sent before its last one, and came late or a second time.

    One that is older than the last by the sender's own clock is set aside; `set_aside` is when that one was sent, None
    where none was since the last that counted. If the next is newer than it, the messages come in order, and it is the
    clock that was set back: it is believed. So no step of a clock silences a sender for longer than one message.
    """
    return said_at < last and (set_aside is None or said_at <= set_aside)


class ClockOffsets:
    """What is known of all parties that were heard."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def heard(self, party: str, *, sent_at: datetime, now: datetime) -> None:
        """A message came that was sent at this time by its sender's clock."""
        self._of(party).heard.append((now, now - sent_at))

    def answered(self, party: str, *, asked_at: datetime, sent_at: datetime, now: datetime) -> None:
        """The answer came to a question that was asked at this time by our clock."""
        took = now - asked_at
        if _NONE <= took <= PROMPT:
            self._of(party).answered = (now, sent_at - (asked_at + took / 2))

    def ahead(self, party: str, now: datetime) -> timedelta:
        """By how much this party's clock is ahead of ours; negative: behind; zero: not noticeably, or unknown."""
        known = self._known.get(party)
        ahead = known.ahead(now) if known is not None else _NONE
        return ahead if abs(ahead) >= NOTICED else _NONE

    def their_now(self, party: str, now: datetime) -> datetime:
        """What this party's clock shows."""
        return now + self.ahead(party, now)

    def _of(self, party: str) -> _Known:
        known = self._known.pop(party, None) or _Known()
        if len(self._known) >= MAX_PARTIES:
            del self._known[next(iter(self._known))]
        self._known[party] = known
        return known
