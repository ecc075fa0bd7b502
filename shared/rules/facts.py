"""All that is known of a port when its rules are judged, and the hash of it. Pure.

The facts grow while the port goes on; each judgement is made of all of them, so the record of a port can be made again
from its facts and its rules.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from shared.messages.base import Code, Timestamp, Value
from shared.messages.rule_facts import DonorFacts
from shared.parties import Name

Region = Annotated[str, Field(pattern=r"^(?:default|[A-Z]{2}(?:-[A-Z0-9]{1,8})?)$")]
"""``default``, a country or union such as EU, or an area of one such as IN-JK."""
DEFAULT = "default"


class PortFacts(Value):
    """What is known of a port; what is null has not happened, or nobody has said it."""

    vm_uuid: UUID
    tenant: Name
    donor: Name
    recipient: Name | None = None
    tenant_region: Region = DEFAULT
    donor_region: Region = DEFAULT
    recipient_region: Region | None = None
    requested_at: Timestamp
    wanted_start: Timestamp | None = Field(default=None, description="The tenant's own window.")
    donor_facts: DonorFacts | None = None
    refused_on: tuple[Code, ...] = Field(default=(), description="Codes of the donor's first refusal.")
    refused_without_reason: bool = False
    refused_at: Timestamp | None = None
    approved_at: Timestamp | None = None
    refused_late_at: Timestamp | None = Field(default=None, description="The donor refused what it had approved.")
    fixed_at: Timestamp | None = None
    window_start: Timestamp | None = Field(default=None, description="As it was agreed.")
    deadline: Timestamp | None = Field(default=None, description="As it was agreed.")
    switched_at: Timestamp | None = Field(default=None, description="When the VM had arrived at the recipient.")
    withdrawn_at: Timestamp | None = None
    erased_at: Timestamp | None = None
    ported_at: Timestamp | None = Field(default=None, description="When a later port has moved the VM after all.")
    ended_at: Timestamp | None = Field(default=None, description="When the port ended without success.")

    def known(self, **facts: object) -> Self:
        """The same with more known."""
        return type(self).model_validate({**dict(self), **facts})

    @property
    def sha256(self) -> str:
        """Of the facts as JSON with sorted keys and without spaces; lower-case hexadecimal."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return sha256(text.encode()).hexdigest()
