"""The question for the donor's copy, before the broker takes a committed switchover back. Pure models.

The other messages of the switchover are in `shared.messages.porting`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import PortMessage
from shared.parties import Role


class QueryCopy(PortMessage):
    """After the commit the recipient says that no guest runs there: has the donor's node let it go?

    Repeated until answered. The VM is given back only where it has not.
    """

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.NODE})
    URGENT: ClassVar = True
    LIFETIME: ClassVar = timedelta(seconds=60)

    vm_uuid: UUID


class CopyState(PortMessage):
    """The donor's node answers `QueryCopy`; it says nothing while it does not know."""

    SENDERS: ClassVar = frozenset({Role.NODE})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})
    URGENT: ClassVar = True
    LIFETIME: ClassVar = timedelta(seconds=60)

    let_go: bool = Field(
        description="The copy was killed, for the guest ran at the recipient; or post-copy has begun. False is a "
        "promise: what is here is the newest, and only the broker's word ends it from now on."
    )
