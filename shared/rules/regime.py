"""A regime as data: its rules, where and when they hold, and the reader of its text. Pure; `parse` does no I/O.

A regime is one TOML file. Bad input raises `RegimeError`, which names the file, the key and the reason.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.config_phrases import in_words
from shared.errors import VmportError
from shared.messages.base import MAX_TEXT, Code, Text
from shared.messages.rule_facts import MAX_RULES, RegimeName, Service
from shared.rules.deadlines import Duty
from shared.rules.facts import PortFacts, Region
from shared.rules.kinds import PREDICATES, AnyPredicate, kind_of
from shared.rules.spans import USUAL, Calendar, Part

Role = Literal["tenant", "donor", "recipient"]
Bound = Literal["tenant", "donor", "recipient", "broker"]
Sentence = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class RegimeError(VmportError):
    """A regime cannot be used. ``file`` and ``key`` say where."""

    code = "regime_invalid"

    def __init__(self, file: str, key: str, reason: str) -> None:
        self.file, self.key, self.reason = file, key, reason
        super().__init__(f"{file}: {key}: {reason}")


class Rule(Part):
    """One rule, by one clause."""

    id: Code
    clause: Sentence
    source: Text = Field(default="", description="Where the clause is found, when not in the regime's source.")
    valid_from: date | None = Field(default=None, description="The first day on which it holds.")
    valid_to: date | None = Field(default=None, description="The first day on which it no longer holds.")
    binds: Bound
    only_in: tuple[Region, ...] = Field(default=(), description="Areas of the donor in which it holds; empty: all.")
    not_in: tuple[Region, ...] = Field(default=(), description="Areas of the donor in which it does not hold.")
    across: bool | None = Field(
        default=None, description="Only where donor and recipient are in different areas (true) or in the same (false)."
    )
    not_for: tuple[Service, ...] = Field(default=(), description="Services to which it does not apply.")
    code: Code = Field(description="The refusal's code; of a duty its name.")
    says: Sentence
    when: AnyPredicate
    note: Text = ""

    @model_validator(mode="after")
    def _validity(self) -> Self:
        if self.valid_from is not None and self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("valid_to must be after valid_from")
        return self

    @property
    def enforced(self) -> bool:
        """Whether the broker does more than record it."""
        return not isinstance(self.when, Duty)

    def holds_on(self, day: date) -> bool:
        """Whether it is in force on this day."""
        return (self.valid_from is None or self.valid_from <= day) and (self.valid_to is None or day < self.valid_to)

    def overlaps(self, other: Rule) -> bool:
        """Whether both are in force on some day."""
        ours, theirs = self.valid_from or date.min, other.valid_from or date.min
        return ours < (other.valid_to or date.max) and theirs < (self.valid_to or date.max)


class Regime(Part):
    """The rules of one law, or of one contract."""

    name: RegimeName
    title: Sentence
    source: Sentence
    region: Region
    region_of: Annotated[tuple[Role, ...], Field(min_length=1)] = Field(
        description="The regime binds a port when one of these parties is in the region."
    )
    calendar: Calendar = USUAL
    rules: Annotated[tuple[Rule, ...], Field(min_length=1, max_length=MAX_RULES)]

    def binds(self, facts: PortFacts) -> bool:
        """Whether it binds a port of these parties. The recipient's region counts once it is known."""
        regions = (getattr(facts, f"{role}_region") for role in self.region_of)
        return any(region is not None and is_in(region, self.region) for region in regions)

    def in_force(self, facts: PortFacts, now: datetime) -> tuple[Rule, ...]:
        """The rules that hold now between these parties."""
        day = self.calendar.day(now)
        return tuple(rule for rule in self.rules if rule.holds_on(day) and _is_local(rule, facts))


def is_in(region: str, wider: str) -> bool:
    """Whether a region is another one, or an area of it."""
    return region == wider or region.startswith(f"{wider}-")


def _is_local(rule: Rule, facts: PortFacts) -> bool:
    donor, recipient = facts.donor_region, facts.recipient_region
    if facts.donor_facts is not None and facts.donor_facts.service in rule.not_for:
        return False
    if rule.only_in and not any(is_in(donor, each) for each in rule.only_in):
        return False
    if any(is_in(donor, each) for each in rule.not_in):
        return False
    return rule.across is None or (recipient is not None and (donor != recipient) is rule.across)


# Reading


def parse(text: str, file: str) -> Regime:
    """Read a regime from TOML; ``file`` is for the error. Raises `RegimeError`."""
    try:
        regime = Regime.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RegimeError(file, "regime", f"it is not TOML: {error}") from error
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        raise RegimeError(file, _key(item["loc"]), in_words(item, others=_PHRASES)) from error
    for first, second in combinations(regime.rules, 2):
        if first.id == second.id and first.overlaps(second):
            reason = "overlapping validity: two rules of this id are in force on the same day"
            raise RegimeError(file, f"rules.{first.id}", reason)
    return regime


_KINDS = ", ".join(kind_of(each) for each in PREDICATES)
_PHRASES = {
    "extra_forbidden": "is no key of a regime",
    "union_tag_invalid": f"is none of: {_KINDS}",
    "union_tag_not_found": f"a predicate needs kind, one of: {_KINDS}",
}
_TAGS = frozenset(kind_of(each) for each in PREDICATES)


def _key(location: Sequence[int | str]) -> str:
    """``rules.3.when.days``: pydantic's own step for the chosen predicate is left out."""
    parts = [str(part) for part in location if part not in _TAGS]
    return ".".join(parts) or "regime"


def check_together(regimes: Iterable[tuple[str, Regime]]) -> None:
    """Raise `RegimeError` where two files of one regime hold rules of one name on the same day."""
    known: dict[str, list[tuple[str, Regime]]] = {}
    for file, regime in regimes:
        for other_file, other in known.setdefault(regime.name, []):
            for rule in regime.rules:
                if any(rule.id == each.id and rule.overlaps(each) for each in other.rules):
                    reason = f"overlapping validity: {other_file} has a rule {rule.id!r} in force on the same day"
                    raise RegimeError(file, f"rules.{rule.id}", reason)
            _same_frame(file, regime, other)
        known[regime.name].append((file, regime))


def _same_frame(file: str, regime: Regime, other: Regime) -> None:
    for key in ("region", "region_of"):
        if getattr(regime, key) != getattr(other, key):
            raise RegimeError(file, key, f"it differs from the other file of {regime.name}")
