"""What every control message is: a frozen model that knows its version and who may say it to whom. Pure.

Commands are imperative (``OpenInbound``), events are past tense (``InboundOpened``). A class registers itself by its
name, which is its name on the wire; ``MESSAGE_TYPES`` is the whole vocabulary once ``shared.messages`` is imported.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from shared.parties import Role

MAX_TEXT = 4096
"""No free text in a message is longer, so that a message cannot be used to fill a ledger."""


EARLIEST_YEAR, LATEST_YEAR = 2000, 2199
"""Times outside are refused: whatever is added to one that is inside, within reason, is still a date."""

MAX_COUNT = 2**31 - 1
"""What the integer columns of all databases hold."""


def _clip(text: object, info: ValidationInfo) -> object:
    """Our own text is made to fit a message; a stranger's that does not fit stays an error (JSON mode)."""
    if not isinstance(text, str) or info.mode != "python":
        return text
    return text[:MAX_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL character, which PostgreSQL does not store")
    return text


def _in_reach(at: datetime) -> datetime:
    if not EARLIEST_YEAR <= at.year <= LATEST_YEAR:
        raise ValueError(f"the year must be between {EARLIEST_YEAR} and {LATEST_YEAR}")
    return at


Text = Annotated[str, BeforeValidator(_clip), Field(max_length=MAX_TEXT), AfterValidator(_storable)]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Stable, machine-readable code.")]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[int, Field(ge=0, le=10**10)]
Seconds = Annotated[float, Field(ge=0, le=10**9)]
Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
Timestamp = Annotated[AwareDatetime, AfterValidator(_in_reach)]
Epoch = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Value(BaseModel):
    """A frozen part of a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_timedelta="float")


MESSAGE_TYPES: dict[str, type[Message]] = {}


class Message(Value):
    """A control message's body. Subclasses name the roles that may send and receive it."""

    VERSION: ClassVar[int] = 1
    SENDERS: ClassVar[frozenset[Role]] = frozenset()
    RECEIVERS: ClassVar[frozenset[Role]] = frozenset()
    LIFETIME: ClassVar[timedelta | None] = None
    """After this long an undelivered message is worth nothing; None where it must be acted on however late."""
    URGENT: ClassVar[bool] = False
    """A guest may stand still until it is answered: it goes to the receiver's urgent inbox, where there is one."""
    GUEST_STANDS_STILL: ClassVar[bool] = False
    """A guest does stand still until it is answered: it goes before what else is urgent, such as questions."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.SENDERS:
            MESSAGE_TYPES[cls.__name__] = cls


class PortMessage(Message):
    """A message about one port."""

    port_id: UUID


class Refusal(Value):
    """One reason why something is refused: enough for the refused party to see which rule, and why it holds."""

    code: Code
    rule: Text = Field(description="The rule in words, with its limit.")
    evidence: Text = Field(description="What was found that breaks the rule.")
    clause: Text = Field(default="", description="The clause of a law or contract behind the rule; empty: none.")

    def __str__(self) -> str:
        by = f" [{self.clause}]" if self.clause else ""
        return f"{self.code}: {self.rule} ({self.evidence}){by}"
